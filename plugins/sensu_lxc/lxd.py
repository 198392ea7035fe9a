"""What only LXD's or Incus' API knows: the settings of its instances. Loaded where a host has such containers."""

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
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_SECONDS)
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
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/1.0/instances?recursion=1&all-projects=true")
        found = json.loads(connection.getresponse().read())["metadata"]
        return [one for one in found if isinstance(one, dict)]
    except PermissionError:
        raise NotAllowed(f"cannot ask {path}: only root and LXD's group may; run as root") from None
    except FileNotFoundError:
        raise NotThere(f"cannot ask {path}: the daemon does not run") from None
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        raise CannotObserve(f"cannot ask {path} about its instances: {error or type(error).__name__}") from None
    finally:
        connection.close()


def _directory(instance: dict[str, object]) -> str:
    project, name = str(instance.get("project") or "default"), str(instance.get("name"))
    return name if project == "default" else f"{project}_{name}"


def _starts(instance: dict[str, object]) -> bool:
    config = instance.get("expanded_config") or instance.get("config")
    return isinstance(config, dict) and config.get("boot.autostart") in ("true", "1", "yes", "on")
