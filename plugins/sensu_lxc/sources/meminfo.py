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
