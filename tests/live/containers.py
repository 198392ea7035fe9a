"""Real busybox containers for the live tests: made in half a second, brought into any state, always removed.

    with busybox(limit_bytes=64 << 20) as container:
        container.fill(60 << 20)
        ...

Nothing here uses the code under test: what a test compares with must come from elsewhere.
"""

import contextlib
import functools
import itertools
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from typing import Any, Callable, Optional

LXCPATH = "/var/lib/lxc"
TOOLS = ("lxc-create", "lxc-start", "lxc-stop", "lxc-destroy", "lxc-info", "lxc-attach", "busybox")
OWNER = "sensu-lxc-test"  # in a container's directory: which process made it
TEMPLATE = "/usr/share/lxc/templates/lxc-busybox"

_numbers = itertools.count(1)


def why_no_lxc() -> Optional[str]:
    """Why real containers can't be started here, or None where they can."""
    if os.geteuid() != 0:
        return "needs root to start containers"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not os.path.exists(TEMPLATE):
        missing.append(TEMPLATE)
    if missing:
        return f"needs LXC and busybox (apt install lxc lxc-templates busybox-static): no {', '.join(missing)}"
    return None


def wait_until(condition: Callable[[], Any], timeout: float, what: str, interval: float = 0.02) -> Any:
    """Poll until condition() is true and return its value; TimeoutError names what was waited for."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(interval)


@contextlib.contextmanager
def busybox(
    name_prefix: str = "t",
    lxcpath: Optional[str] = None,
    limit_bytes: Optional[int] = None,
    config_lines: Iterable[str] = (),
    start: bool = True,
    name: Optional[str] = None,
) -> Iterator["Container"]:
    """A container of its own name (PREFIX-PID-N, or exactly `name`), created, started, and removed at the end.

    It has no network but its loopback, as each address would be kept from others for an hour; config_lines with
    lxc.net.* give it one.
    """
    container = Container(name or f"{name_prefix}-{os.getpid()}-{next(_numbers)}", lxcpath or LXCPATH)
    lines = list(config_lines)
    if any(re.match(r"\s*lxc\.net\.\d+\.type\s*=\s*none\b", line) for line in lines):
        raise ValueError("net type none gives the host's network to the container's DHCP client, which strips it")
    if not any(re.match(r"\s*lxc\.net\b", line) for line in lines):
        lines.append("lxc.net.0.type = empty")
    lines.insert(0, "lxc.net =")
    if limit_bytes is not None:
        # Each LXC and kernel takes the one that it knows and ignores the other.
        lines.append(f"lxc.cgroup.memory.limit_in_bytes = {limit_bytes}")
        lines.append(f"lxc.cgroup2.memory.max = {limit_bytes}")
    try:
        container.create(lines)
        if start:
            container.start()
        yield container
    finally:
        container.close()


def remove_abandoned() -> None:
    """Remove the containers of test runs that were killed: one with a stopped monitor would hang every lxc-ls here."""
    for entry in os.scandir(LXCPATH):
        pid, _, born = _read(os.path.join(entry.path, OWNER)).partition(" ")
        if pid and _start_time(int(pid)) != born:
            Container(entry.name, ours=True).close()


class Container:
    """One real container. Its methods that change it return when the change is there."""

    def __init__(self, name: str, lxcpath: str = LXCPATH, ours: bool = False) -> None:
        self.name = name
        self.lxcpath = lxcpath
        self.directory = os.path.join(lxcpath, name)
        self.rootfs = os.path.join(self.directory, "rootfs")
        self.pid = 0  # of its init, as the host sees it; remembered, as asking a stopped monitor hangs
        self.monitor_pid = 0
        self._cgroups: dict[str, str] = {}
        self._fills = itertools.count(1)
        self._ours = ours

    # Life

    def create(self, config_lines: Iterable[str] = ()) -> None:
        if os.path.exists(self.directory):
            raise FileExistsError(f"{self.directory} is somebody else's")
        os.makedirs(self.lxcpath, exist_ok=True)
        self._ours = True  # from here on what has this name is ours to remove, also half made
        self._tool("lxc-create", "-t", "busybox", timeout=60)
        with open(os.path.join(self.directory, OWNER), "w") as owner:
            owner.write(f"{os.getpid()} {_start_time(os.getpid())}")
        with open(os.path.join(self.directory, "config"), "a") as config:
            config.writelines(line + "\n" for line in config_lines)

    def start(self) -> None:
        log = os.path.join(self.directory, "start.log")
        try:
            self._tool("lxc-start", "-o", log, "-l", "INFO", timeout=60)
        except subprocess.CalledProcessError as error:
            with contextlib.suppress(OSError), open(log, errors="replace") as lines:
                error.stderr += "".join(line for line in lines if " ERROR " in line)
            raise
        self._learn(wait_until(self._init_pid, 10, f"the init of {self.name}"))

    def stop(self) -> None:
        """Stop it at once, as a power cut would."""
        self._tool("lxc-stop", "-k")
        self.pid = self.monitor_pid = 0

    def destroy(self) -> None:
        """Stop and remove it by LXC's own tool, as an administrator would."""
        self._tool("lxc-destroy", "-f")
        self.pid = self.monitor_pid = 0

    def reboot_inside(self) -> None:
        """Reboot it from within: the same monitor, a new init, a new cgroup of the same name."""
        before = self.pid
        # -f, as busybox's init looks at a signal only after its start script, which waits for an address.
        self.run("reboot", "-f", check=False)
        self._learn(wait_until(lambda: self._init_pid(other_than=before), 20, f"the reboot of {self.name}"))

    # Load

    def run(self, *argv: str, check: bool = True, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a command inside it."""
        return self._tool("lxc-attach", "--", *argv, check=check, timeout=timeout)

    def fill(self, size: int) -> None:
        """Use `size` bytes more that can't be taken back: a file in a tmpfs, which stays until empty() or a stop."""
        self.run("fallocate", "-l", str(size), f"/dev/shm/fill{next(self._fills)}")

    def fill_cache(self, size: int) -> None:
        """Have `size` bytes more of page cache, which the kernel can take back: a file on its root filesystem."""
        path = f"/root/cache{next(self._fills)}"
        self.run("sh", "-c", 'head -c "$1" /dev/zero > "$2" && sync', "sh", str(size), path)

    def empty(self) -> None:
        """Give back what fill() and fill_cache() took."""
        self.run("sh", "-c", "rm -f /dev/shm/fill* /root/cache*")

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Hold `size` bytes of anonymous memory by a process inside. MemoryError where it was killed for it."""
        # dd reads one block of that size into its memory, then waits for us to read it from the pipe, which we don't;
        # closing the pipe ends it.
        argv = self._argv("lxc-attach", "--", "dd", "if=/dev/zero", f"bs={size}", "count=1")
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], 30)
            if not ready:
                raise TimeoutError(f"no {size} bytes were taken in {self.name} within 30 s")
            if not os.read(process.stdout.fileno(), 1):
                raise MemoryError(f"the process holding {size} bytes in {self.name} was killed")
            yield
        finally:
            process.stdout.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:  # the container is frozen: its process ends with it
                process.kill()
                process.wait()

    # What stands beside it on the host

    def cgroup(self, controller: str) -> str:
        """The directory of its limits: "memory" wherever that is, "unified" for the v2 hierarchy of a hybrid host."""
        return self._cgroups[controller] if controller in self._cgroups else self._cgroups["unified"]

    def freeze_outside(self) -> None:
        """Freeze it without LXC's knowledge; lxc-info goes on to say RUNNING."""
        self._freeze(True)

    def thaw_outside(self) -> None:
        self._freeze(False)

    def stop_monitor(self) -> None:
        """Stop its monitor, which then answers nobody."""
        os.kill(self.monitor_pid, signal.SIGSTOP)
        wait_until(lambda: _process_state(self.monitor_pid) == "T", 5, "the monitor to be stopped")

    def continue_monitor(self) -> None:
        os.kill(self.monitor_pid, signal.SIGCONT)
        wait_until(lambda: _process_state(self.monitor_pid) != "T", 5, "the monitor to go on")

    def kill_monitor(self) -> None:
        """Kill its monitor; the payload runs on."""
        pid = self.monitor_pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: _process_state(pid) in ("", "Z"), 5, "the monitor to be gone")

    def kill_payload(self) -> None:
        """Kill its init, and with it all of its processes."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait_for_payload_to_end()

    def wait_for_payload_to_end(self) -> None:
        """Wait until its init ran to its end, whether or not somebody asked for its status."""
        wait_until(lambda: _process_state(self.pid) in ("", "Z"), 5, "its init to be gone")

    # The end

    def close(self) -> None:
        """Remove every trace, in whatever state it is. May be called twice."""
        if not self._ours:
            return
        left_over = list(self._left_over_cgroups())
        for directory in left_over:
            _thaw(directory)  # a frozen process dies only when thawed
        for pid in self._monitors():
            os.kill(pid, signal.SIGCONT)
        with contextlib.suppress(subprocess.SubprocessError):
            self._tool("lxc-stop", "-k", check=False, timeout=15)
        wait_until(lambda: not _kill_all(left_over), 15, f"the processes of {self.name} to end")
        for pid in self._monitors():
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.SubprocessError):
            self._tool("lxc-destroy", "-f", check=False, timeout=30)
        shutil.rmtree(self.directory, ignore_errors=True)
        for directory in left_over:
            wait_until(functools.partial(_remove_cgroup, directory), 15, f"{directory} to be removable")
        self._ours = False

    # How

    def _argv(self, tool: str, *arguments: str) -> list[str]:
        return [tool, "-n", self.name, "-P", self.lxcpath, *arguments]

    def _tool(
        self, tool: str, *arguments: str, check: bool = True, timeout: float = 30
    ) -> "subprocess.CompletedProcess[str]":
        argv = self._argv(tool, *arguments)
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            raise ToolFailed(done.returncode, argv, done.stdout, done.stderr)
        return done

    def _init_pid(self, other_than: int = 0) -> int:
        answer = self._tool("lxc-info", "-pH", check=False, timeout=5).stdout.strip()
        pid = int(answer) if answer.isdigit() else 0
        return pid if pid not in (0, other_than) else 0

    def _learn(self, pid: int) -> None:
        self.pid = pid
        with open(f"/proc/{pid}/status") as status:
            self.monitor_pid = next(int(line.split()[1]) for line in status if line.startswith("PPid:"))
        mounts = _cgroup_mounts()
        self._cgroups = {}
        with open(f"/proc/{pid}/cgroup") as lines:
            for line in lines:
                _, controllers, path = line.rstrip("\n").split(":", 2)
                for controller in controllers.split(",") if controllers else ["unified"]:
                    if controller in mounts:
                        self._cgroups[controller] = mounts[controller] + path

    def _freeze(self, frozen: bool) -> None:
        if "freezer" in self._cgroups:
            path, word = os.path.join(self._cgroups["freezer"], "freezer.state"), "FROZEN" if frozen else "THAWED"
            wanted = word
        else:
            path, word = os.path.join(self._cgroups["unified"], "cgroup.freeze"), str(int(frozen))
            wanted = f"frozen {word}"
        shown = path if "freezer" in self._cgroups else os.path.join(os.path.dirname(path), "cgroup.events")

        def is_done() -> bool:
            with open(path, "w") as knob:  # again, as v1 stays FREEZING for good where a process forked just then
                knob.write(word)
            return wanted in _read(shown)

        wait_until(is_done, 10, f"{self.name} to be {'frozen' if frozen else 'thawed'}")

    def _monitors(self) -> list[int]:
        """The monitors of this name (a number that was one may by now be another process's)."""
        title = f"[lxc monitor] {self.lxcpath} {self.name}"
        return [pid for pid in _pids() if _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip() == title]

    def _left_over_cgroups(self) -> Iterator[str]:
        ours = re.compile(rf"lxc\.(payload|monitor)\.{re.escape(self.name)}(-\d+)?")
        # Where it has no cgroup of its own it sits in its starter's or in the root: not ours to kill.
        found = {directory for directory in self._cgroups.values() if self.name in os.path.basename(directory)}
        for mount in set(_cgroup_mounts().values()):
            found.update(entry.path for entry in os.scandir(mount) if ours.fullmatch(entry.name))
        return (directory for directory in sorted(found) if os.path.isdir(directory))


class ToolFailed(subprocess.CalledProcessError):
    """A CalledProcessError that shows what the tool said."""

    def __str__(self) -> str:
        return f"{' '.join(self.cmd)}: exit {self.returncode}: {self.stdout}{self.stderr}"


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _process_state(pid: int) -> str:
    """The letter that ps shows, "" when there is no such process."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].strip()[:1]


def _start_time(pid: int) -> str:
    """When the process was started, "" when there is none: with the pid it names a process for good."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if fields else ""


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _thaw(directory: str) -> None:
    for knob, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        path = os.path.join(directory, knob)
        if os.path.exists(path):
            with contextlib.suppress(OSError), open(path, "w") as file:
                file.write(word)


def _cgroup_mounts() -> dict[str, str]:
    """Controller (or "unified", or a named hierarchy's name=…) to where its hierarchy is mounted."""
    mounts = {}
    with open("/proc/self/mountinfo") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split()[:3]
            mountpoint = before.split()[4]
            if kind == "cgroup2":
                mounts["unified"] = mountpoint
            elif kind == "cgroup":
                for option in options.split(","):
                    mounts[option] = mountpoint  # also rw and the like, which no line of /proc/PID/cgroup asks for
    return mounts


def _kill_all(directories: Iterable[str]) -> bool:
    """Kill whatever runs in these cgroups; whether there was anything."""
    alive = False
    for top in directories:
        for directory, _, _ in os.walk(top):
            for pid in _read(os.path.join(directory, "cgroup.procs")).split():
                alive = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
    return alive


def _remove_cgroup(top: str) -> bool:
    """Remove a cgroup and those in it; whether it is gone (the kernel needs a moment after the last process)."""
    for directory, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(directory)
    return not os.path.isdir(top)
