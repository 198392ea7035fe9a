"""How a container's monitor tells of the next change of its state, as LXC 3 to 7 speak it on the command socket.

A client says which states it wants to hear of. Where the container is in one of them the answer names it at once;
else the connection stays open, and a message comes with the first of them (read in LXC's commands.c and start.c).
"""

from __future__ import annotations

from struct import Struct

from sensu_lxc.errors import CannotObserve

_ADD_STATE_CLIENT = 10
_STATES = 8
_RUNNING, _THAWED = 2, 7
_HEADER = Struct("@iiP")
_MASK = Struct(f"@{_STATES}i")
# struct lxc_msg: its type (0: a state), the container's name, the state.
_MESSAGE = Struct("@i256si")


def request(known: int | None) -> bytes:
    """Ask to be told once the state is another one than known (a number of lxc_command.STATES; None: at once)."""
    wanted = [int(state != known and not (known == _RUNNING and state == _THAWED)) for state in range(_STATES)]
    return _HEADER.pack(_ADD_STATE_CLIENT, _MASK.size, 0) + _MASK.pack(*wanted)


def farewell() -> bytes:
    """Ask to be told nothing more: a request without states, at which the monitor hangs up.

    At a connection that merely ends it looks for the client only where its stack happens to hold this command still
    (lxc_cmd_handler reads no request then, and goes by one that it never set). Who is not struck off stays on the list
    by the number of his descriptor, and what he was to be told goes to the next one to get that number: lxc-stop.
    """
    return _HEADER.pack(_ADD_STATE_CLIENT, 0, 0)


def state(raw: bytes) -> int | None:
    """The state that the bytes received so far tell of, None where more are to come."""
    if len(raw) < _HEADER.size:
        return None
    status, length, value = _HEADER.unpack_from(raw)
    if status in (-1, -13):  # EPERM, EACCES
        raise CannotObserve("its monitor does not serve this user; run as root")
    if status < 0 or length != 0 or value > _STATES:
        raise CannotObserve(f"the monitor does not tell of changes: status {status}, {length} bytes, state {value}")
    if value == _STATES:
        message = raw[_HEADER.size :]
        if len(message) < _MESSAGE.size:
            return None
        kind, _, value = _MESSAGE.unpack_from(message)
        if kind != 0 or not 0 <= value < _STATES:
            raise CannotObserve(f"the monitor tells of a change of kind {kind} to state {value}")
    return _RUNNING if value == _THAWED else int(value)
