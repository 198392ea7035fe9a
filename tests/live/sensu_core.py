"""A real Sensu Core 1.x for the live tests: server, API and client on 127.0.0.1, and a Redis of their own between them.

    with sensu_core(tmp_path) as lab:
        lab.install("plugins", lab.client_etc)     # what is /etc/sensu/plugins on an LXC host
        lab.install("handlers", lab.server_etc)    # what is /etc/sensu/handlers on the server
        lab.configure(lab.client_etc, "check_x", {"checks": {"check_x": {…}}})     # a file in its conf.d
        lab.server_env["SOME_TOKEN"] = "…"         # before start(): a handler inherits the server's environment
        lab.start()
        event = lab.wait_for_event(lab.client, "check_x", lambda event: event["check"]["status"] == 2)

No file of this machine's /etc/sensu is read, no port but free ones is taken, and every process dies with the one that
started it. A server takes up its tasks one each 30 s: those that publish checks to subscribers, or miss a client or a
ttl, may begin a minute after its start.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, Callable, Optional, Union

from tests.live.containers import wait_until
from tests.live.sensu_go import kill_session

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ("sensu-server", "sensu-client", "sensu-api", "redis-server", "setpriv")
Event = dict[str, Any]


def why_no_sensu_core() -> Optional[str]:
    """Why no Sensu Core can be started here, or None where it can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"needs a Sensu Core 1.x and a Redis on PATH: no {', '.join(missing)}" if missing else None


@contextlib.contextmanager
def sensu_core(directory: Union[str, "os.PathLike[str]"]) -> Iterator["Lab"]:
    """A lab with its folders; nothing is started before lab.start()."""
    lab = Lab(pathlib.Path(directory) / "sensu-core")
    try:
        yield lab
    finally:
        lab.close()


class Lab:
    """One server with its API, one client, and a Redis."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.server_etc, self.client_etc = directory / "server-etc-sensu", directory / "client-etc-sensu"
        for etc in (self.server_etc, self.client_etc):
            (etc / "conf.d").mkdir(parents=True, mode=0o755)
        self.client = f"lxchost-{os.getpid()}"
        self.subscriptions = ["lxc"]
        self.client_keys: dict[str, Any] = {}
        self.server_env: dict[str, str] = {}
        self.client_env: dict[str, str] = {}
        self.redis_port, self.api_port, self.socket_port, self.http_port = free_ports(4)
        self.api_url = f"http://127.0.0.1:{self.api_port}"
        self.socket_url, self.http_url = f"tcp://127.0.0.1:{self.socket_port}", f"http://127.0.0.1:{self.http_port}"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._starts = 0

    # Before the start

    def install(self, what: str, etc: pathlib.Path) -> None:
        """Copy plugins/ or handlers/ there, as README's drop-in installation does."""
        shutil.copytree(REPOSITORY / what, etc / what, ignore=shutil.ignore_patterns("__pycache__"))

    def configure(self, etc: pathlib.Path, name: str, settings: Any) -> pathlib.Path:
        """A file in conf.d."""
        path = etc / "conf.d" / f"{name}.json"
        path.write_text(json.dumps(settings, indent=2))
        return path

    # The processes

    def start(self) -> None:
        """Start all of it, and wait until the API knows the client."""
        self.start_redis()
        self.start_server()
        self.start_client()

    def start_redis(self) -> None:
        argv = ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1", "--save", ""]
        self._start("redis", [*argv, "--dir", str(self.directory)], {})
        self._until("redis", lambda: _listens(self.redis_port))

    def start_server(self) -> None:
        here = {
            "transport": {"name": "redis"}, "redis": {"host": "127.0.0.1", "port": self.redis_port},
            "api": {"host": "127.0.0.1", "bind": "127.0.0.1", "port": self.api_port},
        }  # fmt: skip
        self.configure(self.server_etc, "lab", here)
        for service in ("server", "api"):
            self._start(service, self._sensu(service, self.server_etc), self.server_env)
        self._until("api", lambda: _listens(self.api_port))

    def start_client(self) -> None:
        known = {
            "name": self.client, "address": "127.0.0.1", "subscriptions": self.subscriptions,
            "socket": {"bind": "127.0.0.1", "port": self.socket_port},
            "http_socket": {"bind": "127.0.0.1", "port": self.http_port}, **self.client_keys,
        }  # fmt: skip
        redis = {"host": "127.0.0.1", "port": self.redis_port}
        self.configure(self.client_etc, "lab", {"client": known, "transport": {"name": "redis"}, "redis": redis})
        self._start("client", self._sensu("client", self.client_etc), self.client_env)
        self._until("client", lambda: _listens(self.http_port) and _listens(self.socket_port))
        self._until("client", lambda: self.api("GET", f"/clients/{self.client}")[0] == 200)

    def stop(self, what: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End one of them: "redis", "server", "api" or "client"."""
        process = self._running.pop(what)
        process.send_signal(how)
        try:
            process.wait(15)
        finally:
            process.kill()
            process.wait()

    def _sensu(self, service: str, etc: pathlib.Path) -> "list[str]":
        # Named, or it would read this machine's own.
        empty = self.directory / "config.json"
        empty.write_text("{}")
        return [f"sensu-{service}", "-c", str(empty), "-d", str(etc / "conf.d"), "-L", "info"]

    def _start(self, name: str, argv: "list[str]", environment: "dict[str, str]") -> None:
        # As Core's packages have it; the scripts say `env python3`, so the one that runs the tests comes first.
        etc = self.client_etc if name == "client" else self.server_etc
        path = [os.path.dirname(sys.executable), os.environ["PATH"], f"{etc}/plugins", f"{etc}/handlers"]
        loaded = self.directory / f"{name}-loaded"
        loaded.mkdir(exist_ok=True)
        plain = {key: value for key, value in os.environ.items() if not key.startswith("SENSU")}
        self._starts += 1
        with open(self.directory / f"{name}-{self._starts}.log", "wb") as log:
            self._running[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *argv],  # so that it dies with us, also when we are killed
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                # The list of loaded files has one name in a shared folder else, for all servers of a machine.
                env={**plain, "PATH": os.pathsep.join(path), "SENSU_LOADED_TEMPFILE_DIR": str(loaded), **environment},
            )  # fmt: skip

    def _until(self, name: str, condition: "Callable[[], bool]") -> None:
        """Wait for condition; if the process ends or time is up, say what its log says."""

        def reached() -> bool:
            if self._running[name].poll() is not None:
                raise RuntimeError(f"{name} ended with status {self._running[name].returncode}")
            return condition()

        try:
            wait_until(reached, 30, f"{name} to be ready", interval=0.05)
        except (RuntimeError, TimeoutError) as error:
            raise RuntimeError(f"{error}\n{self.log()}") from None

    # What a person does with it

    def api(self, method: str, path: str, body: Any = None) -> "tuple[int, Any]":
        """(status, JSON or None) of the API."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api_url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, None

    def event(self, client: str, check: str) -> Optional[Event]:
        """The event as it stands now, None where all is well."""
        status, event = self.api("GET", f"/events/{client}/{check}")
        return event if status == 200 else None

    def result(self, client: str, check: str) -> "Optional[dict[str, Any]]":
        """The latest result, None where there is none."""
        status, found = self.api("GET", f"/results/{client}/{check}")
        return found["check"] if status == 200 else None

    def wait_for_event(
        self, client: str, check: str, predicate: "Callable[[Event], bool]" = lambda event: True, timeout: float = 30
    ) -> Event:
        """The event of that check once predicate holds of it."""
        return self._wait(lambda: self.event(client, check), predicate, timeout, f"an event of {client}/{check}")

    def wait_for_result(
        self, client: str, check: str, predicate: "Callable[[Event], bool]" = lambda check: True, timeout: float = 30
    ) -> "dict[str, Any]":
        """The latest result of that check once predicate holds of it."""
        return self._wait(lambda: self.result(client, check), predicate, timeout, f"a result of {client}/{check}")

    def _wait(
        self, ask: "Callable[[], Optional[Event]]", predicate: "Callable[[Event], bool]", timeout: float, what: str
    ) -> Event:
        last: Optional[Event] = None

        def found() -> Optional[Event]:
            nonlocal last
            last = ask()
            return last if last is not None and predicate(last) else None

        try:
            event: Event = wait_until(found, timeout, what, interval=0.1)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; last seen: {json.dumps(last)}\n{self.log()}") from None
        return event

    def handled(self, handler: str) -> "list[str]":
        """What each run of a handler printed so far, in order."""
        runs = [one for one in self.logged("server") if one.get("message") == "handler output"]
        return ["\n".join(run["output"]).strip() for run in runs if run["handler"]["name"] == handler]

    def logged(self, name: str) -> "list[dict[str, Any]]":
        """The lines of a process's log, whole ones only."""
        found = []
        for path in sorted(self.directory.glob(f"{name}-*.log")):
            lines = path.read_text(errors="replace").splitlines(keepends=True)
            found += [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}\n")]
        return found

    def log(self) -> str:
        """The ends of the logs."""
        return "".join(
            f"--- {path.name}\n" + "".join(path.read_text(errors="replace").splitlines(keepends=True)[-15:])
            for path in sorted(self.directory.glob("*.log"))
        )

    # The end

    def close(self) -> None:
        """End every process, at once, as nothing of it is kept. May be called twice."""
        for process in self._running.values():
            process.kill()
            process.wait()
            kill_session(process.pid)
        self._running.clear()


def free_ports(count: int) -> "list[int]":
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
