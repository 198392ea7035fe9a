"""A clock for checks of rates: time passes only where a test or a check's sleep lets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sensu_lxc import history, rates
from sensu_lxc.findings import Finding

from tests.plugins.trees import Tree


class Clock:
    """What the checks of a test take for CLOCK_MONOTONIC and sleep()."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 5000.0
        self.slept = 0.0
        self.meanwhile: Callable[[], object] = lambda: None  # what happens while a check sleeps
        monkeypatch.setattr(rates, "monotonic", lambda: self.now)
        monkeypatch.setattr(history, "monotonic", lambda: self.now)
        monkeypatch.setattr(rates, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        """Let time pass, and the meanwhile happen."""
        self.now += seconds
        self.slept += seconds
        self.meanwhile()


class Runs:
    """One command line of a check, run again and again in-process."""

    def __init__(self, kind: Callable[[list[str]], Any], tree: Tree, folder: Path, *arguments: str) -> None:
        self._kind = kind
        self._arguments = ["--root", str(tree.root), "--state-dir", str(folder / "state"), *arguments]
        self.notes: list[str] = []

    def __call__(self) -> list[Finding]:
        """Run it once."""
        check = self._kind(self._arguments)
        found = list(check.outcome())
        self.notes = check.notes
        return found

    def one(self) -> Finding:
        """Run it once, where there is one finding."""
        (finding,) = self()
        return finding


def values(finding: Finding) -> dict[str, float]:
    """{label: number} of its measures."""
    return {measure.label: measure.value for measure in finding.measures}
