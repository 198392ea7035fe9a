"""Hear of each container's changes of state from its own monitor, as they happen.

lxc-monitor's way is not taken: lxc-monitord has to be started for each lxcpath and ends by itself, what it does not
hear is lost, it never tells that a monitor was killed, and it says STOPPED in the middle of a reboot. The monitors
themselves (which lxc-wait asks) tell nothing but changes to what one does not know yet, so that none is missed between
two questions; their socket goes away with the container, and stays through a reboot.
"""

from __future__ import annotations

import os
import select
from _socket import AF_UNIX, SCM_CREDENTIALS, SO_PEERCRED, SOCK_STREAM, SOL_SOCKET
from _socket import socket as Socket
from struct import pack, unpack
from time import monotonic

from sensu_lxc import cgroups, inventory
from sensu_lxc.errors import CannotObserve
from sensu_lxc.sources import lxc_monitor

TYPE_CHECKING = False  # importing typing for it would cost 3 ms
if TYPE_CHECKING:
    from sensu_lxc.host import Host

_SOCK_CLOEXEC, _SOCK_NONBLOCK = 0o2000000, 0o4000
_PEER = "iII"
_SCAN_SECONDS = 0.05
_SCAN_SHARE = 0.02  # of one CPU, at most, for looking for new monitors on a host with thousands of sockets
_AGAIN_SECONDS = 10.0
_STEADY = (2, 6)  # RUNNING, FROZEN


class _Follower:
    __slots__ = ("directory", "known", "received", "sock")

    def __init__(self, directory: str, known: int | None, sock: Socket) -> None:
        self.directory, self.known, self.sock = directory, known, sock
        self.received = b""


class Followers:
    """A connection to the monitor of each container, in a poll object."""

    def __init__(self, host: Host, poll: select.poll) -> None:
        self._host, self._poll = host, poll
        self._by_descriptor: dict[int, _Follower] = {}
        self._followed: set[str] = set()
        self._not_before: dict[str, float] = {}
        self._scan_at = 0.0
        # Why a monitor can't be followed, "" where all can: such a container is only looked at now and then.
        self.problem = ""

    @property
    def pause(self) -> float:
        """Seconds until scan() has something to do."""
        return max(0.0, self._scan_at - monotonic())

    def scan(self, now: float) -> None:
        """Follow the monitors that came since the last scan; each tells of its state by itself."""
        if now < self._scan_at:
            return
        try:
            running, _ = inventory.command_sockets(self._host)
        except CannotObserve:
            running = set()
        came = [one for one in running - self._followed if self._not_before.get(one, 0.0) <= now]
        if came:
            tree = cgroups.Cgroups(self._host, running)
            for directory in came:
                self._follow(directory, None, tree)
        self._scan_at = now + max(_SCAN_SECONDS, (monotonic() - now) / _SCAN_SHARE)
        self._not_before = {one: at for one, at in self._not_before.items() if at > now}

    def hear(self, descriptor: int) -> tuple[str, bool]:
        """(directory, whether its state is one to look at now rather than one that passes) of what poll() tells."""
        follower = self._by_descriptor[descriptor]
        try:
            chunk = follower.sock.recv(4096)
            follower.received += chunk
            state = lxc_monitor.state(follower.received)
        except BlockingIOError:
            return follower.directory, False
        except (OSError, CannotObserve) as problem:
            chunk, state = b"", None
            if isinstance(problem, CannotObserve):  # asking again at once would be answered alike
                self._put_off(follower.directory, problem)
        if state is None and chunk:
            return follower.directory, False
        self._leave(descriptor)
        if state is None:
            return follower.directory, True  # it closed: the container stopped, or its monitor was killed
        is_followed = self._follow(follower.directory, state, None)
        return follower.directory, state in _STEADY or not is_followed

    def close(self) -> None:
        """Leave all monitors, each without a trace."""
        for descriptor in list(self._by_descriptor):
            self._leave(descriptor)

    def _follow(self, directory: str, known: int | None, tree: cgroups.Cgroups | None) -> bool:
        try:
            if tree is not None:
                # A watch that was killed could not say farewell. What the monitor keeps of it goes by the number of a
                # descriptor, which is the lowest free one and so ours now, unless somebody else asks at this moment.
                stranger = _connected(directory, tree)
                _say(stranger, lxc_monitor.farewell())
                stranger.close()
            sock = _connected(directory, tree)
            try:
                _say(sock, lxc_monitor.request(known))
            except OSError:
                sock.close()
                raise
        except (OSError, CannotObserve) as problem:
            if not isinstance(problem, ConnectionError):
                self._put_off(directory, problem)
            return False
        self._by_descriptor[sock.fileno()] = _Follower(directory, known, sock)
        self._followed.add(directory)
        self._poll.register(sock.fileno(), select.POLLIN)
        return True

    def _put_off(self, directory: str, problem: Exception) -> None:
        self._not_before[directory] = monotonic() + _AGAIN_SECONDS
        self.problem = f"{directory} can't be followed: {problem}"

    def _leave(self, descriptor: int) -> None:
        follower = self._by_descriptor.pop(descriptor)
        self._poll.unregister(descriptor)
        self._followed.discard(follower.directory)
        try:
            _say(follower.sock, lxc_monitor.farewell())
        except OSError:  # it hung up itself, or takes nothing more
            pass
        follower.sock.close()


def _connected(directory: str, tree: cgroups.Cgroups | None) -> Socket:
    """A connection to the monitor of a container; with a tree only where it may be its monitor."""
    sock = Socket(AF_UNIX, SOCK_STREAM | _SOCK_CLOEXEC | _SOCK_NONBLOCK)
    try:
        address = inventory.running_container(directory).address
        sock.connect(b"\0" + address.encode("utf-8", "surrogateescape"))
        uid = unpack(_PEER, sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))[1]
        if tree is not None and not tree.may_monitor(uid, directory.rpartition("/")[0]):
            raise CannotObserve(f"its socket is held by uid {uid}, who owns no container there")
    except (OSError, CannotObserve):
        sock.close()
        raise
    return sock


def _say(sock: Socket, request: bytes) -> None:
    # The monitor serves only whom the kernel vouches for.
    sock.sendmsg([request], [(SOL_SOCKET, SCM_CREDENTIALS, pack(_PEER, os.getpid(), os.getuid(), os.getgid()))])
