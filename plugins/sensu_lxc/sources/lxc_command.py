"""The wire format of LXC's command socket, as LXC 2 to 7 speak it (facts were read in its commands.h)."""

from __future__ import annotations

from collections import namedtuple
from struct import Struct

from sensu_lxc.errors import CannotObserve

GET_STATE = 3
GET_INIT_PID = 4
GET_NAME = 8
GET_LXCPATH = 9
GET_LIMIT_CGROUP = 19

STATES = ("STOPPED", "STARTING", "RUNNING", "STOPPING", "ABORTING", "FREEZING", "FROZEN", "THAWED")

# Request and response alike: an int, the length of what follows, and a pointer that small answers are put into.
_HEADER = Struct("@iiP")
HEADER_SIZE = _HEADER.size
_LONGEST = 16384

# status: 0 or a negative errno; value: the pointer as a number; length: bytes that follow the header.
Answer = namedtuple("Answer", "status value length")


def request(command: int, argument: str = "") -> bytes:
    """One request; an argument travels with its terminating NUL."""
    data = argument.encode() + b"\0" if argument else b""
    return _HEADER.pack(command, len(data), 0) + data


def answer(raw: bytes) -> Answer:
    """The header of an answer."""
    if len(raw) < HEADER_SIZE:
        raise CannotObserve(f"the monitor answered with {len(raw)} bytes, which is no answer")
    status, length, value = _HEADER.unpack_from(raw)
    if not 0 <= length <= _LONGEST:
        raise CannotObserve(f"the monitor's answer claims to be {length} bytes long")
    return Answer(status, value, length)
