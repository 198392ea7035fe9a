"""What only LXD's or Incus' API knows, the settings of its instances, and what is done through it.

Loaded where a host has such containers.
"""

from __future__ import annotations

import json
import socket
from functools import cache
from http.client import HTTPConnection, HTTPException

from sensu_lxc.errors import CannotObserve, NotAllowed, NotThere

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sensu_lxc.host import Host

_SECONDS = 5.0


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str, seconds: float = _SECONDS) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def autostart(host: Host, unix_socket: str) -> dict[str, bool]:
    """{name as in the containers directory: whether boot.autostart is true}, over all projects.

    Raises NotAllowed where this user is neither root nor in LXD's group, CannotObserve where no daemon answers.
    """
    return _autostart(host.root + unix_socket)


@cache  # a check asks it for every container
def _autostart(path: str) -> dict[str, bool]:
    return {_directory(one): _starts(one) for one in _instances(path)}


def _instances(path: str) -> list[dict[str, object]]:
    found = _call(path, "GET", "/1.0/instances?recursion=1&all-projects=true").get("metadata")
    if not isinstance(found, list):
        raise CannotObserve(f"cannot ask {path} about its instances: it lists none")
    return [one for one in found if isinstance(one, dict)]


def set_memory_limit(host: Host, unix_socket: str, name: str, limit_bytes: int) -> None:
    """Set an instance's limits.memory, which the daemon applies at once and keeps. name: as in autostart.

    Raises CannotObserve with what the daemon said.
    """
    path = host.root + unix_socket
    _done(path, "PATCH", _url(path, name), {"config": {"limits.memory": f"{limit_bytes}B"}}, _SECONDS)


def set_state(host: Host, unix_socket: str, name: str, action: str, seconds: float, force: bool = False) -> None:
    """Have an instance start, stop, restart, freeze or unfreeze, and wait for it. Raises as set_memory_limit does."""
    path = host.root + unix_socket
    wish = {"action": action, "timeout": max(1, round(seconds)), "force": force}
    _done(path, "PUT", _url(path, name, "/state"), wish, seconds + 1)


def is_ephemeral(host: Host, unix_socket: str, name: str) -> bool:
    """Whether a stop removes the instance. Raises as autostart does."""
    return any(one.get("ephemeral") is True for one in _instances(host.root + unix_socket) if _directory(one) == name)


def _url(path: str, name: str, below: str = "") -> str:
    from urllib.parse import quote

    for one in _instances(path):
        if _directory(one) == name:
            project = quote(str(one.get("project") or "default"), safe="")
            return f"/1.0/instances/{quote(str(one.get('name')), safe='')}{below}?project={project}"
    raise NotThere(f"{path} knows no instance {name}")


def _done(path: str, method: str, url: str, body: dict[str, object], seconds: float) -> None:
    answer = _call(path, method, url, body)
    operation = answer.get("operation")
    if answer.get("type") == "async" and isinstance(operation, str):
        # Its own bound comes first, so that it is the daemon that says how far it came.
        answer = _call(path, "GET", f"{operation}/wait?timeout={max(1, round(seconds))}", seconds=seconds + _SECONDS)
        about = answer.get("metadata")
        if isinstance(about, dict) and about.get("status_code") != 200:
            raise CannotObserve(f"{path} says: {about.get('err') or about.get('status') or 'nothing'}")


def _call(
    path: str, method: str, url: str, body: dict[str, object] | None = None, seconds: float = _SECONDS
) -> dict[str, object]:
    connection = _UnixConnection(path, seconds)
    try:
        connection.request(method, url, None if body is None else json.dumps(body))
        answer: dict[str, object] = json.loads(connection.getresponse().read())
        if answer["type"] == "error":
            raise CannotObserve(f"{path} says: {answer.get('error')}")
        return answer
    except PermissionError:
        raise NotAllowed(f"cannot ask {path}: only root and LXD's group may; run as root") from None
    except FileNotFoundError:
        raise NotThere(f"cannot ask {path}: the daemon does not run") from None
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        raise CannotObserve(f"cannot ask {path}: {error or type(error).__name__}") from None
    finally:
        connection.close()


def _directory(instance: dict[str, object]) -> str:
    project, name = str(instance.get("project") or "default"), str(instance.get("name"))
    return name if project == "default" else f"{project}_{name}"


def _starts(instance: dict[str, object]) -> bool:
    config = instance.get("expanded_config") or instance.get("config")
    return isinstance(config, dict) and config.get("boot.autostart") in ("true", "1", "yes", "on")
