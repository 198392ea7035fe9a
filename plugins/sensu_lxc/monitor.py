"""Ask LXC's monitors, many at once and never longer than a deadline.

lxc-info and lxc-ls hang for the whole host when one monitor does; here each question has the same deadline, so that a
thousand monitors of which fifty are stopped cost the same as one.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SCM_CREDENTIALS, SO_PEERCRED, SOCK_STREAM, SOL_SOCKET  # socket.py costs a check 3 ms

# The C type itself: the class in socket.py adds an enum and makefile() to it.
from _socket import socket as Socket
from _socket import timeout as TimeIsUp
from collections import namedtuple
from struct import pack, unpack
from time import monotonic

from sensu_lxc.errors import CannotObserve
from sensu_lxc.sources import lxc_command

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from collections.abc import Iterable

_SOCK_CLOEXEC, _SOCK_NONBLOCK = 0o2000000, 0o4000
_AT_ONCE = 256  # below the usual limit of 1024 open files
_PEER = "iII"

# What came back from a monitor. problem: "" or one of the words below; status and value: see lxc_command.Answer;
# data: what followed the header; uid: of the process that listens, None where it could not be told.
Reply = namedtuple("Reply", "problem status value data uid", defaults=("", 0, 0, b"", None))
ABSENT, UNRESPONSIVE, BROKEN = "absent", "unresponsive", "broken"


def ask(addresses: Iterable[str], command: int, seconds: float, argument: str = "") -> dict[str, Reply]:
    """{address: Reply} for each abstract address (without its NUL), within `seconds` for each 256 of them."""
    waiting = list(dict.fromkeys(addresses))
    replies: dict[str, Reply] = {}
    for start in range(0, len(waiting), _AT_ONCE):
        _ask_at_once(waiting[start : start + _AT_ONCE], lxc_command.request(command, argument), seconds, replies)
    return replies


def ask_one(address: str, command: int, seconds: float, argument: str = "") -> Reply:
    """The Reply of one monitor."""
    return ask([address], command, seconds, argument)[address]


def _ask_at_once(addresses: list[str], request: bytes, seconds: float, replies: dict[str, Reply]) -> None:
    # The monitor serves only whom the kernel vouches for.
    credentials = [(SOL_SOCKET, SCM_CREDENTIALS, pack(_PEER, os.getpid(), os.getuid(), os.getgid()))]
    asked: list[tuple[str, Socket, int]] = []
    deadline = monotonic() + seconds
    try:
        for address in addresses:
            sock = Socket(AF_UNIX, SOCK_STREAM | _SOCK_CLOEXEC | _SOCK_NONBLOCK)
            try:
                sock.connect(b"\0" + address.encode("utf-8", "surrogateescape"))
                uid = unpack(_PEER, sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))[1]
                sock.sendmsg([request], credentials)
            except ConnectionRefusedError:
                replies[address] = Reply(ABSENT)
            except BlockingIOError:  # its backlog is full of others that it never answered
                replies[address] = Reply(UNRESPONSIVE)
            except OSError as error:
                replies[address] = Reply(BROKEN, data=(error.strerror or "").encode())
            else:
                asked.append((address, sock, uid))
                continue
            sock.close()
        # They are all at work by now, so one after the other is waited for: what came meanwhile is there, and after
        # the deadline nothing is waited for any more.
        for address, sock, uid in asked:
            replies[address] = _receive(sock, uid, deadline)
    finally:
        for _, sock, _ in asked:
            sock.close()


def _receive(sock: Socket, uid: int, deadline: float) -> Reply:
    received = b""
    while True:
        try:
            chunk = sock.recv(4096)
            if not chunk:
                return Reply(BROKEN, data=b"it closed the connection", uid=uid)
            received += chunk
        except BlockingIOError:  # nothing is there yet
            pass
        except TimeIsUp:
            return Reply(UNRESPONSIVE, uid=uid)
        except OSError as error:
            return Reply(BROKEN, data=(error.strerror or "").encode(), uid=uid)
        if len(received) >= lxc_command.HEADER_SIZE:
            try:
                status, value, length = lxc_command.answer(received)
            except CannotObserve as error:
                return Reply(BROKEN, data=str(error).encode(), uid=uid)
            data = received[lxc_command.HEADER_SIZE : lxc_command.HEADER_SIZE + length]
            if len(data) == length:
                return Reply("", status, value, data, uid)
        left = deadline - monotonic()
        if left <= 0:
            return Reply(UNRESPONSIVE, uid=uid)
        sock.settimeout(left)
