"""/proc/PID/stat (proc_pid_stat(5)), /proc/uptime (proc_uptime(5)) and /proc/loadavg (proc_loadavg(5))."""

from __future__ import annotations

import re

from sensu_lxc.errors import CannotObserve, quoted

_UPTIME = re.compile(rb"(\d{1,12}\.\d\d) \d{1,15}\.\d\d\n", re.ASCII)
_LOAD = re.compile(rb"\d{1,9}\.\d\d (\d{1,9}\.\d\d) \d{1,9}\.\d\d \d+/\d+ \d+\n", re.ASCII)
_START_FIELD = 22 - 3  # counted from the first field behind the name


def start_ticks(raw: bytes, path: str) -> int:
    """When a process was started, in clock ticks since the host's boot. Its name before that may hold anything."""
    fields = raw.rpartition(b")")[2].split()
    if raw[-1:] != b"\n" or len(fields) <= _START_FIELD:
        raise CannotObserve(f"{path} is cut off or empty: it ends in {quoted(raw[-40:])}")
    ticks = fields[_START_FIELD]
    if not ticks.isdigit() or len(ticks) > 20:
        raise CannotObserve(f"{path} holds {quoted(ticks)} where a start time should be")
    return int(ticks)


def uptime_seconds(raw: bytes, path: str) -> float:
    """For how long the host has been up."""
    match = _UPTIME.fullmatch(raw)
    if match is None:
        raise CannotObserve(f"{path} holds {quoted(raw)} where the time since the boot should be")
    return float(match[1])


def load(raw: bytes, path: str) -> float:
    """How many processes ran or waited for a CPU or a disk, on average of five minutes."""
    match = _LOAD.fullmatch(raw)
    if match is None:
        raise CannotObserve(f"{path} holds {quoted(raw)} where load averages should be")
    return float(match[1])
