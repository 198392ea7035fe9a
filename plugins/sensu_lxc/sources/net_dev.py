"""/proc/PID/net/dev: what the interfaces of a network namespace have carried (proc(5), net/core/net-procfs.c)."""

from __future__ import annotations

import re
from collections import namedtuple

from sensu_lxc.errors import CannotObserve, quoted

_HEADING = (
    b"Inter-|   Receive                                                |  Transmit\n"
    b" face |bytes    packets errs drop fifo frame compressed multicast|"
    b"bytes    packets errs drop fifo colls carrier compressed\n"
)
_COLUMNS = 16
# The name ends at the last colon: an older kernel's may hold one, and no number does. 2^64 - 1 has 20 digits.
_LINE = re.compile(rb" *(\S+): *(\d{1,20})" + rb" +(\d{1,20})" * 11 + rb" +\d{1,20}" * 4 + rb" *", re.ASCII)


class Interface(
    namedtuple("Interface", "rx_bytes rx_packets rx_errors rx_drops tx_bytes tx_packets tx_errors tx_drops")
):
    """What an interface has received (rx) and sent (tx) since it was made, as its own namespace sees it.

    Drops are packets that were not taken for want of memory, of a listener or of an open link; received ones that were
    missed are among them, as the kernel adds them up there.
    """

    __slots__ = ()


def interfaces(raw: bytes, path: str) -> dict[str, Interface]:
    """{name: Interface}, lo among them: no namespace is without it."""
    if not raw.startswith(_HEADING) or raw[-1:] != b"\n":
        raise CannotObserve(f"{path} is not whole: it lacks its heading or the end of its last line")
    found = {}
    for line in raw[len(_HEADING) : -1].split(b"\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            raise CannotObserve(f"{path} holds {quoted(line)} where an interface and its {_COLUMNS} counters should be")
        counts = map(int, match.group(2, 3, 4, 5, 10, 11, 12, 13))
        found[match[1].decode("utf-8", "surrogateescape")] = Interface(*counts)
    return found
