"""Pressure stall information (kernel: Documentation/accounting/psi.rst)."""

from __future__ import annotations

import re

from sensu_lxc.errors import CannotObserve, quoted

_AVERAGES = rb"avg10=\d{1,3}\.\d\d avg60=\d{1,3}\.\d\d avg300=\d{1,3}\.\d\d total=(\d{1,20})\n"
_FILE = re.compile(rb"some " + _AVERAGES + rb"(?:full " + _AVERAGES + rb")?", re.ASCII)


def totals(raw: bytes, path: str) -> tuple[int, int | None]:
    """(some, full) in µs of waiting since the cgroup was made; full is None where the kernel has no such line."""
    match = _FILE.fullmatch(raw)
    if match is None:
        raise CannotObserve(f"{path} holds {quoted(raw)} where pressure should be")
    return int(match[1]), None if match[2] is None else int(match[2])
