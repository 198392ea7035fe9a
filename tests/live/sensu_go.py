"""A real Sensu Go for the live tests: the agent on this host, the backend on a "server" of its own.

The server is a network namespace with one cable to the host and no way further (a backend reports home; and in life
the server isn't the LXC host either). Handlers run there: they reach the host only at lab.host_address.

    with sensu_go(tmp_path) as lab:
        lab.install("plugins", lab.agent_etc)      # what the agent sees as /etc/sensu/plugins
        lab.install("handlers", lab.backend_etc)   # what handlers see as /etc/sensu/handlers
        lab.handler_env["SOME_TOKEN"] = "…"        # before start(): a handler inherits the backend's environment
        lab.start()
        lab.create("checks/sensu-go/checks.yaml")
        event = lab.wait_for_event(lab.entity, "check_x", lambda event: event["check"]["status"] == 2, timeout=30)

The namespaces are nameless and every process dies with the one that started it, so that even a killed test run leaves
nothing behind but its temporary files.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable, Optional, Union

from tests.live.containers import wait_until

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOLS = ("sensu-backend", "sensu-agent", "sensuctl", "ip", "unshare", "nsenter", "setpriv")
LOCK = "/run/sensu-lxc-lab.lock"
Event = dict[str, Any]


def why_no_sensu_go() -> Optional[str]:
    """Why no Sensu Go can be started here, or None where it can."""
    if os.geteuid() != 0:
        return "needs root to make network namespaces"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"needs a Sensu Go 6 and iproute2 on PATH: no {', '.join(missing)}"
    if "--state-dir" not in _run("sensu-backend", "start", "--help"):
        return "needs a Sensu Go 6, which has its etcd within; the sensu-backend on PATH is another"
    return None


@contextlib.contextmanager
def sensu_go(directory: Union[str, "os.PathLike[str]"]) -> Iterator["Lab"]:
    """A lab whose network is there; nothing is started before lab.start()."""
    lab = Lab(os.fspath(directory))
    try:
        lab.connect()
        yield lab
    finally:
        lab.close()


class Lab:
    """One backend, one agent, and a sensuctl that is logged in."""

    def __init__(self, directory: str) -> None:
        self.directory = os.path.join(directory, "sensu-go")
        self.agent_etc = os.path.join(self.directory, "agent-etc-sensu")
        self.backend_etc = os.path.join(self.directory, "backend-etc-sensu")
        for path in (self.directory, self.agent_etc, self.backend_etc):
            os.makedirs(path, mode=0o755)
        self.entity = f"lxchost-{os.getpid()}"
        self.host_address = ""
        self.backend_address = ""
        # The scripts say `env python3`, so the interpreter that runs the tests, with its libraries, comes first.
        self.path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
        self.handler_env: dict[str, str] = {}
        self.agent_env: dict[str, str] = {}
        self._holder: Optional[subprocess.Popen[bytes]] = None
        self._started: list[subprocess.Popen[bytes]] = []
        self._relays: list[_Relay] = []
        self._netns = ""

    # The network

    def connect(self) -> None:
        """Make the server's namespace and the cable between it and the host."""
        # The namespace lives as long as this process, which ends when its standard input does: with us at the latest.
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        own = os.readlink("/proc/self/ns/net")
        link = f"/proc/{self._holder.pid}/ns/net"
        self._netns = wait_until(lambda: os.readlink(link) != own and os.readlink(link), 5, "a network namespace")
        here, there = f"slxc{os.getpid()}h", f"slxc{os.getpid()}s"
        with open(LOCK, "w") as lock:  # two runs must not choose the same addresses
            fcntl.flock(lock, fcntl.LOCK_EX)
            third = self._free_network()
            self.host_address, self.backend_address = f"10.77.{third}.1", f"10.77.{third}.2"
            _run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", str(self._holder.pid))
            _run("ip", "address", "add", f"{self.host_address}/30", "dev", here)
        _run("ip", "link", "set", here, "up")
        self._inside("ip", "link", "set", "lo", "up")
        self._inside("ip", "address", "add", f"{self.backend_address}/30", "dev", there)
        self._inside("ip", "link", "set", there, "up")

    @staticmethod
    def _free_network() -> int:
        used = json.loads(_run("ip", "-j", "-4", "address"))
        taken = {info["local"].rsplit(".", 1)[0] for link in used for info in link.get("addr_info", ())}
        return next(n for n in range(1, 255) if f"10.77.{n}" not in taken)

    def _inside(self, *argv: str) -> str:
        assert self._holder is not None
        return _run("nsenter", f"--net={self._net_path()}", *argv)

    def _net_path(self) -> str:
        assert self._holder is not None
        return f"/proc/{self._holder.pid}/ns/net"

    # The processes

    def install(self, what: str, etc: str) -> None:
        """Copy plugins/ or handlers/ to agent_etc or backend_etc, as README's drop-in installation does."""
        target = os.path.join(etc, what)
        os.makedirs(target, exist_ok=True)
        _run("cp", "-r", os.path.join(REPOSITORY, what) + "/.", target)

    def start(self) -> None:
        """Start backend and agent, and wait until the agent's entity is known."""
        self.start_backend()
        self.start_agent()

    def start_backend(self, timeout: float = 60) -> None:
        address = self.backend_address
        state = os.path.join(self.directory, "backend")
        argv = ["sensu-backend", "start", "--config-file", self._file("backend.yml"), "--state-dir", state]
        argv += ["--cache-dir", os.path.join(self.directory, "backend-cache"), "--log-level", "info"]
        argv += ["--agent-host", address, "--api-listen-address", f"{address}:8080", "--dashboard-host", "127.0.0.1"]
        argv += ["--api-url", f"http://{address}:8080", "--disable-platform-metrics", "--etcd-unsafe-no-fsync"]
        process = self._start(argv, self.backend_etc, self.handler_env, in_namespace=True)
        password = secrets.token_urlsafe(16)
        credentials = {
            "SENSU_BACKEND_CLUSTER_ADMIN_USERNAME": "admin",
            "SENSU_BACKEND_CLUSTER_ADMIN_PASSWORD": password,
        }
        deadline = time.monotonic() + timeout
        init = ["nsenter", f"--net={self._net_path()}", "sensu-backend", "init", "--config-file"]
        self._until(process, lambda: _succeeds([*init, self._file("backend.yml")], credentials), deadline, "init")
        login = ["configure", "-n", "--url", f"http://{address}:8080", "--username", "admin", "--password", password]
        self._until(process, lambda: _succeeds(self._sensuctl(*login), self._client_env()), deadline, "a login")

    def start_agent(
        self,
        name: Optional[str] = None,
        subscriptions: str = "lxc",
        timeout: float = 30,
        api_port: Optional[int] = None,
    ) -> None:
        """api_port: where on 127.0.0.1 its API takes events."""
        name = name or self.entity
        argv = ["sensu-agent", "start", "--config-file", self._file("agent.yml"), "--name", name]
        argv += ["--subscriptions", subscriptions, "--backend-url", f"ws://{self.backend_address}:8081"]
        argv += ["--cache-dir", os.path.join(self.directory, f"agent-{name}-cache"), "--log-level", "warn"]
        argv += ["--disable-sockets", "--statsd-disable"]  # their ports may be taken on this host
        api = ["--api-host", "127.0.0.1", "--api-port", str(api_port)]
        argv += ["--disable-api"] if api_port is None else api
        process = self._start(argv, self.agent_etc, self.agent_env, in_namespace=False)
        known = [*self._sensuctl("entity", "info", name)]
        deadline = time.monotonic() + timeout
        self._until(process, lambda: _succeeds(known, self._client_env()), deadline, f"the agent {name} to connect")

    def _start(
        self, argv: "list[str]", etc: str, environment: "dict[str, str]", in_namespace: bool
    ) -> "subprocess.Popen[bytes]":
        """Start a daemon that sees `etc` as /etc/sensu, whether or not this machine has one."""
        name = f"{argv[0]}-{len(self._started)}"
        upper, work = (os.path.join(self.directory, f"{name}-{kind}") for kind in ("upper", "work"))
        os.makedirs(os.path.join(upper, "sensu"))
        os.makedirs(work)
        os.chmod(upper, 0o755)
        # In a mount namespace of its own: an overlay makes the directory exist, a bind mount fills it.
        script = (
            'mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1,workdir=$2" /etc'
            ' && mount --bind "$3" /etc/sensu && shift 3 && exec "$@"'
        )
        wrapped = ["setpriv", "--pdeathsig", "KILL"]  # so that it dies with us, also when we are killed
        if in_namespace:
            wrapped += ["nsenter", f"--net={self._net_path()}"]
        wrapped += ["unshare", "--mount", "sh", "-c", script, "sh", upper, work, etc, *argv]
        with open(os.path.join(self.directory, f"{name}.log"), "wb") as log:
            process = subprocess.Popen(
                wrapped,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**_plain_environment(), "PATH": self.path, **environment},
                start_new_session=True,  # Ctrl-C is for the test run, which then ends them in order
            )
        self._started.append(process)
        return process

    def _until(
        self, process: "subprocess.Popen[bytes]", condition: Callable[[], bool], deadline: float, what: str
    ) -> None:
        """Wait for condition; if the daemon ends or time is up, say what its log says."""

        def reached() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"a daemon ended with status {process.returncode}")
            return condition()

        try:
            wait_until(reached, deadline - time.monotonic(), what, interval=0.05)
        except (RuntimeError, TimeoutError) as error:
            raise RuntimeError(f"{error}\n{self.log()}") from None

    # What a person does with it

    def create(self, *what: str) -> None:
        """`sensuctl create -f` of files (paths) or of YAML or JSON text (anything with a line break)."""
        for item in what:
            if "\n" in item:
                _run(*self._sensuctl("create"), env=self._client_env(), text=item)
            else:
                _run(*self._sensuctl("create", "-f", item), env=self._client_env())

    def sensuctl(self, *arguments: str) -> str:
        """What a sensuctl command prints."""
        return _run(*self._sensuctl(*arguments), env=self._client_env())

    def ctl(self, *arguments: str) -> Any:
        """The answer of a sensuctl command that knows --format json."""
        return json.loads(_run(*self._sensuctl(*arguments, "--format", "json"), env=self._client_env()) or "null")

    def execute(self, check: str) -> None:
        """Have a check run now, ahead of its interval."""
        _run(*self._sensuctl("check", "execute", check), env=self._client_env())

    def events(self) -> "list[Event]":
        return self.ctl("event", "list") or []

    def event(self, entity: str, check: str) -> Optional[Event]:
        """The event as it stands now, None where there is none."""
        for event in self.events():
            if event["entity"]["metadata"]["name"] == entity and _check_name(event) == check:
                return event
        return None

    def wait_for_event(
        self, entity: str, check: str, predicate: Callable[[Event], bool] = lambda event: True, timeout: float = 30
    ) -> Event:
        """The event of that check once predicate holds of it."""
        last: Optional[Event] = None

        def found() -> Optional[Event]:
            nonlocal last
            last = self.event(entity, check)
            return last if last is not None and predicate(last) else None

        try:
            event: Event = wait_until(found, timeout, f"{entity}/{check}", interval=0.2)
        except TimeoutError as error:
            seen = "there was none" if last is None else json.dumps(last["check"], indent=1)
            raise TimeoutError(f"{error}; last seen: {seen}\n{self.log()}") from None
        return event

    def handled(self, handler: str) -> list[dict[str, Any]]:
        """Each run of a handler so far, in order: check_name, entity_name, event_id, status, output …"""
        runs = []
        for name in os.listdir(self.directory):
            if name.startswith("sensu-backend") and name.endswith(".log"):
                with open(os.path.join(self.directory, name), errors="replace") as lines:
                    whole = (line for line in lines if line.endswith("\n"))
                    runs += [json.loads(line) for line in whole if '"event pipe handler executed"' in line]
        return [run for run in runs if run["handler"] == handler]

    def relay(self, port: int) -> int:
        """Let handlers reach what listens on this host's 127.0.0.1:port; the port to ask for at host_address."""
        relay = _Relay(self.host_address, port)
        self._relays.append(relay)
        return relay.server_address[1]

    def log(self) -> str:
        """The ends of the daemons' logs."""
        parts = []
        for name in sorted(os.listdir(self.directory)):
            if name.endswith(".log"):
                with open(os.path.join(self.directory, name), errors="replace") as file:
                    parts.append(f"--- {name}\n{''.join(file.readlines()[-15:])}")
        return "".join(parts)

    # The end

    def close(self) -> None:
        """End every process and with them the namespaces and the cable. May be called twice."""
        for process in reversed(self._started):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self._started):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
            kill_session(process.pid)
        self._started.clear()
        for relay in self._relays:
            relay.close()
        self._relays.clear()
        if self._holder is not None:
            # A handler may have outlived its backend: whatever still runs on the "server" ends too.
            for pid in _pids_in(self._netns) - {self._holder.pid}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert self._holder.stdin is not None
            self._holder.stdin.close()
            self._holder.kill()
            self._holder.wait()
            self._holder = None
            # The kernel removes the namespace, and with it the cable, a moment after its last process.
            cable = f"/sys/class/net/slxc{os.getpid()}h"
            wait_until(lambda: not os.path.exists(cable), 10, "the namespace to be gone")

    # How

    def _file(self, name: str) -> str:
        """An empty configuration file, so that none of this machine is read."""
        path = os.path.join(self.directory, name)
        with open(path, "a"):
            return path

    def _client_env(self) -> "dict[str, str]":
        return {**_plain_environment(), "HOME": self.directory, "XDG_CONFIG_HOME": os.path.join(self.directory, "ctl")}

    def _sensuctl(self, *arguments: str) -> "list[str]":
        config = ["--config-dir", os.path.join(self.directory, "ctl", "sensu", "sensuctl")]
        return ["sensuctl", *arguments, *config, "--cache-dir", os.path.join(self.directory, "ctl-cache")]


class _Relay(socketserver.ThreadingTCPServer):
    """Passes each connection to its address on to a port of 127.0.0.1."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str, port: int) -> None:
        self.port = port
        super().__init__((address, 0), _Passing)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Passing(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Relay)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.server.port), 10) as inner:
            back = threading.Thread(target=_pour, args=(inner, self.request), daemon=True)
            back.start()
            _pour(self.request, inner)
            back.join()


def _pour(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            data = source.recv(65536)
            if not data:
                break
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _plain_environment() -> "dict[str, str]":
    """Ours without what would change Sensu's defaults, and without proxies, which the namespace can't reach."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.upper().startswith(("SENSU", "XDG_")) and not key.lower().endswith("_proxy")
    }


def _run(*argv: str, env: "Optional[dict[str, str]]" = None, text: Optional[str] = None, timeout: float = 30) -> str:
    # An argument is at hand instead of a file only where a command reads its standard input.
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if text is None else {"input": text}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        argv, env=env, capture_output=True, text=True, timeout=timeout, **given
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv[:4])}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def _succeeds(argv: "list[str]", extra_env: "dict[str, str]") -> bool:
    with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
        _run(*argv, env={**_plain_environment(), **extra_env}, timeout=15)
        return True
    return False


def _check_name(event: Event) -> Optional[str]:
    check = event.get("check")
    return check["metadata"]["name"] if check else None


def _pids_in(netns: str) -> "set[int]":
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry}/ns/net") == netns:
                    found.add(int(entry))
    return found


def kill_session(session: int) -> None:
    """End what a daemon left running (a check or handler in progress): whatever is of its session."""
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{int(entry)}/stat") as stat:
            if int(stat.read().rpartition(")")[2].split()[3]) == session:
                os.kill(int(entry), signal.SIGKILL)
