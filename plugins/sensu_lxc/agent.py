"""Hand results to the Sensu agent of this host: Go's agent API, Core's HTTP socket, or Core's client socket.

Go and Core both listen on port 3031, so who is there is asked once. What an agent refuses is one result's misfortune
(Refused); an agent that is not there, or not any more, is everybody's (Unreachable).
"""

from __future__ import annotations

import json
import re
from collections import namedtuple
from time import monotonic

from sensu_lxc.errors import CannotObserve
from sensu_lxc.options import Misuse

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from http.client import HTTPConnection
    from typing import Any

HTTP_PORT, SOCKET_PORT = 3031, 3030
# What both Sensus take in the name of a client or entity; Go alone would take a colon as well.
_NOT_NAME = re.compile(r"[^A-Za-z0-9_.-]|_(?=x)")
_NAME = re.compile(r"[A-Za-z0-9_.-]*")
_PLACE = re.compile(r"(?:(http|tcp)://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::([0-9]{1,5}))?/?")
_ANSWER_AT_MOST = 65536
_ASK_SECONDS = 2.0
_CONNECTED_SECONDS = 1.0  # for which a client is believed to keep its connection to the server

# entity: the proxy client (Core) or proxy entity (Go); check: its name; status: int; output: str that is not empty;
# ttl: whole seconds, or 0 where no further result is to be waited for; interval: whole seconds; handlers: tuple of
# names; at: seconds since 1970 at which it was seen.
Result = namedtuple("Result", "entity check status output ttl interval handlers at")


class Refused(Exception):
    """The agent takes this result not; the message says why."""


class Unreachable(CannotObserve):
    """No agent answers there, or not any more."""


def entity_name(label: str, prefix: str = "") -> str:
    """A name that Sensu takes, another one for each label: what it refuses becomes _xHEX_."""
    # A label's own _x becomes _x5f_x, so that no name reads as another one escaped.
    return prefix + _NOT_NAME.sub(lambda found: f"_x{ord(found.group()):x}_", label)


def is_name(word: str) -> bool:
    """Whether both Sensus take it in a name as it is."""
    return _NAME.fullmatch(word) is not None


def place(text: str) -> tuple[str, str, int]:
    """(scheme, host, port) of --agent: "auto", "http" or "tcp". Raises Misuse."""
    if text == "auto":
        return "auto", "127.0.0.1", HTTP_PORT
    match = _PLACE.fullmatch(text)
    scheme = match[1] or "http" if match else ""
    port = int(match[3] or (HTTP_PORT if scheme == "http" else SOCKET_PORT)) if match else 0
    if match is None or not 0 < port < 65536:
        raise Misuse(
            f"--agent {text[:80]!r} is no place; write auto, http://127.0.0.1:{HTTP_PORT} (Sensu Go's agent API, "
            f"Core's HTTP socket) or tcp://127.0.0.1:{SOCKET_PORT} (Core's client socket)"
        )
    return scheme, match[2].strip("[]"), port


def connect(where: str, seconds: float) -> Agent:
    """The agent at --agent. Raises Unreachable where none answers within seconds, Misuse where it is no place."""
    scheme, host, port = place(where)
    deadline = monotonic() + min(seconds, _ASK_SECONDS)
    if scheme == "tcp":
        return CoreSocket(host, port)
    door = _Http(host, port)
    try:
        return _asked(door, deadline)
    except Unreachable as problem:
        if scheme == "auto":
            core = CoreSocket(host, SOCKET_PORT)
            if core.is_there(deadline):
                return core
            raise Unreachable(
                f"no Sensu agent answers here, neither at {door.url} nor at {core}; is it started? --agent says where "
                f"({problem})"
            ) from None
        raise


def _asked(door: _Http, deadline: float) -> Agent:
    """Whose HTTP it is. Go knows no /info, and Core no /version, which it would write into its log at every run."""
    status, body = door.ask("GET", "/info", b"", deadline)
    if status == 200 and b'"sensu"' in body:
        return CoreHttp(door)
    if status == 401:  # what is true of /info is of /results, too
        raise Unreachable(
            f"{door.url} wants a password, as protect_all_endpoints of Sensu Core's client has it; the client's other "
            f"socket wants none: --agent tcp://127.0.0.1:{SOCKET_PORT}"
        )
    status, body = door.ask("GET", "/version", b"", deadline)
    if status == 200 and b'"version"' in body:
        return GoApi(door)
    raise Unreachable(f"what answers at {door.url} is neither Sensu Go's agent nor Sensu Core's client")


class Agent:
    """Takes results; str() is where it is."""

    def send(self, result: Result, deadline: float) -> None:
        """Hand it one. Raises Refused, or Unreachable where it does not answer before deadline (monotonic)."""
        raise NotImplementedError

    def another(self) -> Agent:
        """The same by a connection of its own."""
        raise NotImplementedError


class GoApi(Agent):
    """The agent API of Sensu Go."""

    def __init__(self, door: _Http) -> None:
        self._door = door

    def __str__(self) -> str:
        return self._door.url

    def another(self) -> Agent:
        return GoApi(self._door.another())

    def send(self, result: Result, deadline: float) -> None:
        check = {
            "metadata": {"name": result.check},
            "proxy_entity_name": result.entity,
            "status": result.status,
            "output": result.output,
            "interval": result.interval,
            "handlers": list(result.handlers),
            "issued": int(result.at),
            "executed": int(result.at),
        }
        # Go forgets about an earlier result's ttl where the next one has none.
        if result.ttl:
            check["ttl"] = result.ttl
        self._door.post("/events", {"check": check, "timestamp": int(result.at)}, deadline)


def _core(result: Result) -> bytes:
    check = {
        "name": result.check,
        "source": result.entity,
        "status": result.status,
        "output": result.output,
        "interval": result.interval,
        "issued": int(result.at),
        "executed": int(result.at),
        # What a result does not say Core's server takes from its own definition of a check of that name, where it has
        # one; so that there is no ttl has to be said.
        "ttl": result.ttl or None,
    }
    if result.handlers:  # else those of that definition, or the handler named default
        check["handlers"] = list(result.handlers)
    return json.dumps(check).encode("ascii")


class CoreHttp(Agent):
    """The HTTP socket of Sensu Core's client.

    It says 202 and drops the result where it is not connected to its transport, which only /info tells.
    """

    def __init__(self, door: _Http) -> None:
        self._door = door
        self._connected_at = 0.0

    def __str__(self) -> str:
        return self._door.url

    def another(self) -> Agent:
        return CoreHttp(self._door.another())

    def send(self, result: Result, deadline: float) -> None:
        if monotonic() - self._connected_at > _CONNECTED_SECONDS:
            status, body = self._door.ask("GET", "/info", b"", deadline)
            if status == 200 and b'"connected":false' in body:
                raise Unreachable(
                    f"Sensu Core's client at {self} has no connection to its transport and would drop what it is "
                    "given; its log says why"
                )
            self._connected_at = monotonic()
        self._door.post("/results", _core(result), deadline)


class CoreSocket(Agent):
    """The TCP socket of Sensu Core's client: one result and one answer for each connection.

    Its "ok" is no promise: where the client is not connected to its transport it drops the result, and nothing tells
    so. It takes an array as well, but of one with a bad result in it nobody could say what was taken.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    def __str__(self) -> str:
        return _url("tcp", self._host, self._port)

    def another(self) -> Agent:
        return self  # each result has a connection of its own

    def is_there(self, deadline: float) -> bool:
        """Whether a client answers there."""
        try:
            return self._exchange(b"ping", deadline) == b"pong"
        except Unreachable:
            return False

    def send(self, result: Result, deadline: float) -> None:
        answer = self._exchange(_core(result), deadline)
        if answer == b"ok":
            return
        if not answer:
            raise Unreachable(f"{self} closed the connection without a word; is it Sensu Core's client?")
        raise Refused(f"it answered {ascii(answer.decode('ascii', 'replace'))}; its log says why")

    def _exchange(self, data: bytes, deadline: float) -> bytes:
        import socket

        answer = b""
        try:
            with socket.create_connection((self._host, self._port), _left(deadline)) as connection:
                connection.sendall(data)
                # Not half-closed: Core takes that for the end of the connection, and answers no more.
                while answer not in (b"ok", b"pong", b"invalid") and len(answer) < 80:
                    connection.settimeout(_left(deadline))
                    more = connection.recv(80)
                    if not more:
                        break
                    answer += more
        except OSError as error:
            raise _unreachable(str(self), error) from None
        return answer


class _Http:
    """One kept-alive connection."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.url = _url("http", host, port)
        self._connection: HTTPConnection | None = None

    def another(self) -> _Http:
        return _Http(self._host, self._port)

    def post(self, path: str, content: Any, deadline: float) -> None:
        """Raises Refused or Unreachable where the answer is not 2xx."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode("ascii")
        status, answer = self.ask("POST", path, body, deadline)
        if not 200 <= status < 300:
            raise Refused(f"HTTP {status} {' '.join(answer.decode('utf-8', 'replace').split())[:200]}".rstrip())

    def ask(self, method: str, path: str, body: bytes, deadline: float) -> tuple[int, bytes]:
        """(status, body of the answer). A connection that the agent closed meanwhile is made anew, once."""
        from http.client import HTTPException

        while True:
            is_used = self._connection is not None
            try:
                return self._exchange(method, path, body, deadline)
            except (OSError, HTTPException, ValueError) as error:
                self.close()
                # RemoteDisconnected is a ConnectionError. A timeout is none: who hangs once hangs again.
                if not (is_used and isinstance(error, ConnectionError)):
                    raise _unreachable(self.url, error) from None

    def _exchange(self, method: str, path: str, body: bytes, deadline: float) -> tuple[int, bytes]:
        from http.client import HTTPConnection

        connection = self._connection
        if connection is None:
            connection = self._connection = HTTPConnection(self._host, self._port, timeout=_left(deadline))
            connection.connect()
        connection.sock.settimeout(_left(deadline))
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        answer = response.read(_ANSWER_AT_MOST)
        if not response.isclosed():
            self.close()
        elif connection.sock is None:
            self._connection = None
        return response.status, answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _left(deadline: float) -> float:
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _unreachable(where: str, error: Exception) -> Unreachable:
    if isinstance(error, TimeoutError):
        return Unreachable(f"{where} does not answer in time")
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Unreachable(f"no agent at {where}: {words}")


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
