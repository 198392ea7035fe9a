"""CPU files: the kernel's lists of CPUs (cpuset(7), "List format"), quotas, and the counters of v1 and v2."""

from __future__ import annotations

import re

from sensu_lxc.errors import CannotObserve, quoted

_PART = re.compile(rb"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)
_MAX = re.compile(rb"(max|[1-9]\d{0,17}) ([1-9]\d{0,17})\n", re.ASCII)
_QUOTA_V1 = re.compile(rb"(-1|[1-9]\d{0,17})\n", re.ASCII)


def count_of_list(raw: bytes, path: str) -> int:
    """How many CPUs a list such as 0-3,7 names; 0 for an empty one."""
    if raw[-1:] != b"\n":
        raise CannotObserve(f"{path} is cut off or empty: it ends in {quoted(raw[-40:])}")
    total = 0
    for part in raw[:-1].split(b",") if raw != b"\n" else ():
        match = _PART.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise CannotObserve(f"{path} holds {quoted(raw)} where a list of CPUs should be")
        total += last - first + 1
    return total


def quota_v2(raw: bytes, path: str) -> float | None:
    """cpu.max ("50000 100000", "max 100000") in cores; None for no quota."""
    match = _MAX.fullmatch(raw)
    if match is None:
        raise CannotObserve(f"{path} holds {quoted(raw)} where a quota and its period should be")
    return None if match[1] == b"max" else int(match[1]) / int(match[2])


def quota_v1(quota: bytes, period: bytes, path: str) -> float | None:
    """cpu.cfs_quota_us and cpu.cfs_period_us in cores; None for no quota (-1)."""
    match, length = _QUOTA_V1.fullmatch(quota), _QUOTA_V1.fullmatch(period)
    if match is None or length is None or length[1] == b"-1":
        raise CannotObserve(f"{path} and its period hold {quoted(quota)} and {quoted(period)}, which is no quota")
    return None if match[1] == b"-1" else int(match[1]) / int(length[1])
