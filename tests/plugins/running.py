"""Run a script as Sensu's agent would, and read its output as Sensu's agent would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.plugins.trees import Tree

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
# What each check calls itself, as Sensu's users know it.
NAMES = {
    path.name: "".join(part.title() for part in path.stem.split("_")) for path in sorted(PLUGINS.glob("check_*.py"))
}
STATES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")

# What Sensu Go, Nagios and Icinga all take: no quote, no space, no exponent.
_PERFDATUM = re.compile(
    r"(?P<label>[A-Za-z0-9_.:@/~-]+)=(?P<value>-?\d+(\.\d+)?)(?P<unit>[A-Za-z%]*)"
    r"(;(?P<warning>@?(~|-?[\d.]+)?:?(-?[\d.]+)?)?)?(;(?P<critical>@?(~|-?[\d.]+)?:?(-?[\d.]+)?)?)?"
    r"(;(?P<minimum>\d*))?(;(?P<maximum>\d*))?"
)


class Output(NamedTuple):
    """What a run left behind."""

    script: str
    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The output's lines, perfdata taken off."""
        return [line.partition(" | ")[0] for line in self.out.split("\n")[:-1]]

    @property
    def first(self) -> str:
        """The line a person gets on the phone."""
        return self.lines[0]

    @property
    def state(self) -> str:
        """The exit status as a word."""
        return STATES[self.status]

    @property
    def perfdata(self) -> dict[str, dict[str, str]]:
        """{label: its parts}; fails where a parser would."""
        assert self.out.count("|") <= 1, self.out
        behind = self.out.partition(" | ")[2].rstrip("\n")
        found = {}
        for word in behind.split(" ") if behind else []:
            match = _PERFDATUM.fullmatch(word)
            assert match, f"{word!r} is no perfdata"
            assert match["label"] not in found, f"{match['label']} twice"
            found[match["label"]] = match.groupdict(default="")
        return found

    def well_formed(self) -> Output:
        """Assert what holds for every output of every check; returns itself."""
        name = NAMES[self.script]
        assert self.err == "", self.err
        assert self.status in (0, 1, 2, 3)
        assert self.out.startswith(f"{name} {STATES[self.status]}: "), self.out
        assert self.out.endswith("\n")
        assert self.out.isprintable() or all(letter == "\n" or letter.isprintable() for letter in self.out)
        assert "internal error" not in self.out
        assert self.perfdata is not None
        return self

    def misuse(self) -> str:
        """Assert that it is one UNKNOWN line; returns what it says."""
        self.well_formed()
        assert self.status == 3, self.out
        assert self.out.count("\n") == 1, self.out
        return self.first


def command(script: str, tree: Tree | None, *arguments: str) -> list[str]:
    """The command line."""
    root = [] if tree is None else ["--root", str(tree.root)]
    return [sys.executable, str(PLUGINS / script), *root, *arguments]


def run(script: str, tree: Tree | None, *arguments: str, **how: Any) -> Output:
    """Run a script on a tree to its end."""
    done = subprocess.run(command(script, tree, *arguments), capture_output=True, timeout=30, **how)
    return Output(script, done.returncode, done.stdout.decode(), done.stderr.decode("utf-8", "replace"))
