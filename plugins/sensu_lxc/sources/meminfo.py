"""/proc/meminfo (proc_meminfo(5)): the host's memory."""

from __future__ import annotations

import re
from collections import namedtuple

from sensu_lxc.errors import CannotObserve

HostMemory = namedtuple("HostMemory", "total_bytes swap_total_bytes")


def host_memory(raw: bytes, path: str) -> HostMemory:
    """The host's RAM and swap in bytes."""
    found = []
    for key in (b"MemTotal", b"SwapTotal"):
        match = re.search(rb"^" + key + rb":\s+(\d{1,15}) kB$", raw, re.MULTILINE)
        if match is None:
            raise CannotObserve(f"{path} has no line {key.decode()} with a number of kB")
        found.append(int(match.group(1)) * 1024)
    return HostMemory(*found)


def size(raw: bytes, path: str, name: str) -> int:
    """The size of one line, in bytes."""
    match = re.search(rb"^" + re.escape(name.encode()) + rb":\s+(\d{1,15}) kB$", raw, re.MULTILINE)
    if match is None:
        raise CannotObserve(f"{path} has no line {name} with a number of kB")
    return int(match.group(1)) * 1024


def available(raw: bytes, path: str) -> int:
    """What could be had without swapping, as the kernel estimates it, in bytes."""
    match = re.search(rb"^MemAvailable:\s+(\d{1,15}) kB$", raw, re.MULTILINE)
    if match is None:
        raise CannotObserve(f"{path} has no line MemAvailable with a number of kB")
    return int(match.group(1)) * 1024
