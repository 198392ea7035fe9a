"""Made hosts for --root: real directories that hold what the kernel, LXC, LXD and Proxmox would show there.

    tree = Tree(tmp_path, "v2")
    web = tree.container("web1", usage=60 * MIB, limit=64 * MIB)
    web.write("memory.current", "67108864\\n")

What a real machine showed is copied from tests/recordings/cgroup (Tree.recorded); the rest is made to look like it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sensu_lxc.sources.net_unix import socket_name

RECORDINGS = Path(__file__).resolve().parents[1] / "recordings" / "cgroup"
MIB = 1024 * 1024
UNLIMITED_V1 = 9223372036854771712
LXC = "/var/lib/lxc"

# layout: {controller: (mount point, file system)}; "" is cgroup v2.
_SINGLE = ("cpuset", "memory", "freezer", "pids", "blkio")
_V1 = {name: f"/sys/fs/cgroup/{name}" for name in ("cpu", "cpuacct", *_SINGLE)}
_JOINED = {name: f"/sys/fs/cgroup/{name}" for name in ("cpu,cpuacct", *_SINGLE)}
LAYOUTS: dict[str, dict[str, str]] = {
    "v1": {**_V1, "name=systemd": "/sys/fs/cgroup/systemd"},
    "v1-joined": {**_JOINED, "name=systemd": "/sys/fs/cgroup/systemd"},
    "hybrid": {**_JOINED, "name=systemd": "/sys/fs/cgroup/systemd", "": "/sys/fs/cgroup/unified"},
    "v2": {"": "/sys/fs/cgroup"},
}
# How LXC named a container's cgroup over the years, as (limit directory, where its init sits).
FAMILIES = {
    "lxc.payload.": ("/lxc.payload.{name}", ""),
    "lxc.payload/": ("/lxc.payload/{name}", ""),
    "lxc/": ("/lxc/{name}", ""),
    "pattern": ("/tenants/{name}/payload", ""),
    "dir": ("/tenants/gold/lxc.payload.{name}", ""),
    "limit+inner": ("/tenants/{name}", "/inner"),
    "proxmox": ("/lxc/{name}", "/ns"),
    # cgfsng.c: the payload lies in the scope, beside the monitor, and the limits are the payload's.
    "scope": ("/user.slice/user-1000.slice/user@1000.service/app.slice/lxc-{name}-0.scope/lxc.payload.{name}", ""),
    "lxc@.service": ("/system.slice/system-lxc.slice/lxc@{name}.service/lxc.payload.{name}", ""),
}
# Where its monitor's cgroup is, in the same order; LXC before 3.0.4 made none.
MONITORS = {
    "lxc.payload.": "/lxc.monitor.{name}",
    "lxc.payload/": "/lxc.monitor/{name}",
    "lxc/": "",
    "pattern": "/tenants/{name}/monitor",
    "dir": "/tenants/gold/lxc.monitor.{name}",
    "limit+inner": "/tenants/monitor-{name}",
    "proxmox": "/lxc.monitor/{name}",
    "scope": FAMILIES["scope"][0].replace("payload", "monitor"),
    "lxc@.service": FAMILIES["lxc@.service"][0].replace("payload", "monitor"),
}
_HEADING = "Num       RefCount Protocol Flags    Type St Inode Path\n"
_OTHERS = (
    "00000000c673ee11: 00000002 00000000 00010000 0001 01 12226 /run/dbus/system_bus_socket\n"
    "000000002ab1cc0a: 00000002 00000000 00000000 0002 03 14827\n"
    "000000009cccdc31: 00000002 00000000 00010000 0001 01 14803 @lxc/ad055575fe28ddd5//var/lib/lxc\n"
)


class Cgroup:
    """One container's cgroup in all hierarchies; files go where their controller is."""

    def __init__(self, tree: Tree, path: str) -> None:
        self.tree, self.path = tree, path

    def directory(self, controller: str = "memory") -> Path:
        """Where a controller shows it, below the tree's root."""
        return self.tree.at(self.tree.point(controller) + self.path)

    def file(self, name: str) -> Path:
        """cgroup.events, io.* and *.pressure are v2's alone; memory.* is v1's where that is mounted."""
        if name.startswith("io.") or name.endswith(".pressure"):
            controller = ""
        elif name.startswith("cgroup."):
            controller = "" if "" in self.tree.mounts else "memory"
        else:
            controller = name.partition(".")[0]
        return self.directory(controller) / name

    def write(self, name: str, content: str | bytes) -> None:
        """Replace one file."""
        _write(self.file(name), content)

    @property
    def shown(self) -> str:
        """The memory directory as the host itself calls it."""
        return self.tree.point("memory") + self.path


class Container(Cgroup):
    """A container that was put into a tree: its cgroup, its definition, its processes."""

    def __init__(self, tree: Tree, name: str, lxcpath: str, path: str, monitor: int) -> None:
        super().__init__(tree, path)
        self.name, self.lxcpath, self.monitor, self.init = name, lxcpath, monitor, monitor + 1

    @property
    def definition(self) -> Path:
        """LXCPATH/NAME in the tree."""
        return self.tree.at(f"{self.lxcpath}/{self.name}")


class Tree:
    """A host below a directory."""

    def __init__(
        self, root: Path, layout: str = "v2", *, total: int = 2012132 * 1024, swap_total: int = 262140 * 1024
    ) -> None:
        self.root, self.layout, self.mounts = root / "host", layout, LAYOUTS[layout]
        self._sockets: list[str] = []
        self._next_pid = 2000
        self.write("/proc/meminfo", _meminfo(total, swap_total))
        self.write("/proc/1/mountinfo", _mountinfo(self.mounts))
        self.write("/proc/uptime", "1000.00 1900.00\n")
        self.write("/proc/sys/kernel/random/boot_id", "0c1f5a0e-1b2c-4d3e-8f90-123456789abc\n")
        self.write("/sys/devices/system/cpu/online", "0-3\n")
        self.write("/proc/1/status", "Name:\tsystemd\nPid:\t1\nPPid:\t0\nUid:\t0\t0\t0\t0\nNSpid:\t1\n")
        self._write_sockets()
        for point in self.mounts.values():
            self.at(point).mkdir(parents=True)
            self.write(f"{point}/cgroup.procs", "1\n")
        self.at(LXC).mkdir(parents=True)

    def at(self, path: str) -> Path:
        """A path of that host as one of ours."""
        return self.root / path.lstrip("/")

    def write(self, path: str, content: str | bytes) -> Path:
        """Write a file of that host."""
        return _write(self.at(path), content)

    def point(self, controller: str) -> str:
        """Where a controller's hierarchy is mounted."""
        for names, point in self.mounts.items():
            if controller in (names, *names.split(",")):
                return point
        return self.mounts[""]

    def container(
        self,
        name: str,
        lxcpath: str = LXC,
        *,
        running: bool = True,
        family: str = "lxc.payload.",
        suffix: str = "",
        usage: int = 32 * MIB,
        limit: int | None = 64 * MIB,
        active_file: int = 0,
        inactive_file: int = 0,
        slab: int = 0,
        swap: int | None = 0,
        swap_limit: int | None = None,
        parent_limit: int | None = None,
        frozen: bool = False,
        nested_systemd: bool = False,
        config: str | None = "",
        socket: bool = True,
        processes: bool = True,
    ) -> Container:
        """A container. Not `running`: a definition only; no `socket`: its monitor died, its payload runs on.

        config: added to its config file, None for no definition at all; processes: whether /proc shows them;
        swap: None where the kernel does not count it; parent_limit: of the directory above.
        """
        above, inner = FAMILIES[family]
        path = above.format(name=name) + suffix
        self._next_pid += 10
        made = Container(self, name, lxcpath, path, self._next_pid)
        if config is not None:
            self.define(name, lxcpath, config)
        if not running:
            return made
        procs = f"{made.init}\n"
        self.cgroup(
            path, usage=usage, limit=limit, active_file=active_file, inactive_file=inactive_file, slab=slab, swap=swap,
            swap_limit=swap_limit, parent_limit=parent_limit, frozen=frozen,
            procs="" if nested_systemd or inner else procs,
        )  # fmt: skip
        if MONITORS.get(family):
            self._monitor(MONITORS[family].format(name=name) + suffix, f"{made.monitor}\n" if socket else "")
        if inner:
            self.cgroup(
                path + inner, usage=usage, limit=None, active_file=active_file, inactive_file=inactive_file, slab=slab,
                swap=swap, parent_limit=limit, frozen=frozen, procs="" if nested_systemd else procs,
            )  # fmt: skip
        if nested_systemd:
            self.cgroup(f"{path}{inner}/init.scope", usage=MIB, limit=None, frozen=frozen, procs=procs)
            self.cgroup(f"{path}{inner}/.lxc", usage=0, limit=None, frozen=frozen, procs="", populated=False)
            inner += "/init.scope"
        if socket:
            self.listen(socket_name(f"{lxcpath}/{name}"))
        if processes:
            self._processes(made, path + inner, monitor=socket)
        return made

    def define(self, name: str, lxcpath: str = LXC, config: str = "") -> None:
        """A definition as lxc-create leaves it."""
        self.write(f"{lxcpath}/{name}/config", f"lxc.uts.name = {name}\nlxc.rootfs.path = dir:/rootfs\n{config}")

    def cgroup(
        self,
        path: str,
        *,
        usage: int,
        limit: int | None,
        active_file: int = 0,
        inactive_file: int = 0,
        slab: int = 0,
        swap: int | None = 0,
        swap_limit: int | None = None,
        parent_limit: int | None = None,
        frozen: bool = False,
        procs: str = "2001\n",
        populated: bool | None = None,
    ) -> Cgroup:
        """Make one cgroup in every hierarchy, with its parents, as LXC does."""
        made = Cgroup(self, path)
        v1_memory = "memory" in self.mounts
        parent = path.rpartition("/")[0]
        while parent:
            for controller, point in self.mounts.items():
                if not controller:
                    if not self.at(f"{point}{parent}/cgroup.events").exists():
                        self._v2_core(f"{point}{parent}", True, False, "")
                elif not self.at(f"{point}{parent}/cgroup.procs").exists():
                    self.write(f"{point}{parent}/cgroup.procs", "")
            if not v1_memory and not self.at(f"{self.mounts['']}{parent}/memory.max").exists():
                files = {"memory.current": f"{usage}\n", "memory.max": "max\n", "memory.swap.max": "max\n"}
                for file, content in (files | {"memory.stat": _stat_v2(usage, 0, 0, 0)}).items():
                    self.write(f"{self.mounts['']}{parent}/{file}", content)
            parent = parent.rpartition("/")[0]
        for controller, point in self.mounts.items():
            if controller:
                self.write(f"{point}{path}/cgroup.procs", procs)
                self.write(f"{point}{path}/tasks", procs)
                self.write(f"{point}{path}/notify_on_release", "0\n")
            else:
                # In a hybrid host v1's freezer is used, of which v2 does not know.
                self._v2_core(f"{point}{path}", populated is not False, frozen and not v1_memory, procs)
        if "freezer" in self.mounts:
            made.write("freezer.state", "FROZEN\n" if frozen else "THAWED\n")
        if v1_memory:
            effective = min(value for value in (limit, parent_limit, UNLIMITED_V1) if value is not None)
            memsw = None if swap is None else UNLIMITED_V1 if swap_limit is None else swap_limit
            made.write("memory.usage_in_bytes", f"{usage}\n")
            made.write("memory.limit_in_bytes", f"{UNLIMITED_V1 if limit is None else limit}\n")
            made.write("memory.stat", _stat_v1(usage, active_file, inactive_file, effective, swap or 0, memsw))
        else:
            made.write("memory.current", f"{usage}\n")
            made.write("memory.max", f"{'max' if limit is None else limit}\n")
            made.write("memory.stat", _stat_v2(usage, active_file, inactive_file, slab))
            if swap is not None:
                made.write("memory.swap.current", f"{swap}\n")
                made.write("memory.swap.max", f"{'max' if swap_limit is None else swap_limit}\n")
            made.write("memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n")
            if parent_limit is not None:
                _write(made.file("memory.max").parent.parent / "memory.max", f"{parent_limit}\n")
        self._accounts(made)
        return made

    def _monitor(self, path: str, procs: str) -> None:
        """The cgroup of a monitor, which stays behind, empty, when somebody kills it."""
        for controller, point in self.mounts.items():
            if controller:
                self.write(f"{point}{path}/cgroup.procs", procs)
            else:
                self._v2_core(f"{point}{path}", bool(procs), False, procs)

    def _accounts(self, made: Cgroup) -> None:
        """What is counted besides memory: a container of four CPUs without a quota that did a little."""
        made.write("pids.current", "5\n")
        made.write("pids.max", "max\n")
        if "cpuset" in self.mounts:
            made.write("cpuacct.usage", "1000000000\n")
            made.write("cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n")
            made.write("cpu.cfs_quota_us", "-1\n")
            made.write("cpu.cfs_period_us", "100000\n")
            made.write("cpuset.effective_cpus", "0-3\n")
            # What recent kernels show until a container has an I/O limit.
            for what in ("io_service_bytes", "io_serviced"):
                made.write(f"blkio.throttle.{what}_recursive", "Total 0\n")
            made.write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
        else:
            made.write(
                "cpu.stat",
                "usage_usec 1000000\nuser_usec 600000\nsystem_usec 400000\nnr_periods 0\nnr_throttled 0\n"
                "throttled_usec 0\n",
            )
            made.write("cpu.max", "max 100000\n")
            made.write("cpuset.cpus.effective", "0-3\n")
            made.write("io.stat", "8:0 rbytes=1048576 wbytes=524288 rios=16 wios=8 dbytes=0 dios=0\n")
        if "" in self.mounts:
            for resource in ("cpu", "io", "memory"):
                made.write(
                    f"{resource}.pressure",
                    "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\n"
                    "full avg10=0.00 avg60=0.00 avg300=0.00 total=500\n",
                )

    def stale(self, name: str, family: str = "lxc.payload.") -> Cgroup:
        """An empty directory that an earlier start left in every hierarchy."""
        path = FAMILIES[family][0].format(name=name)
        return self.cgroup(path, usage=0, limit=None, procs="", populated=False)

    def recorded(self, recording: str, name: str, lxcpath: str = LXC, *, proc: str = "") -> Container:
        """A container whose cgroup is a recorded one; v2 unless the recording is of v1."""
        source = RECORDINGS / recording
        made = Container(self, name, lxcpath, f"/lxc.payload.{name}", self._next_pid + 10)
        self._next_pid += 10
        for directory in sorted(source.glob(f"**/lxc.payload.{name}")):
            relative = directory.relative_to(source)
            point = self.point(str(relative.parent)) if len(relative.parts) > 1 else self.mounts[""]
            shutil.copytree(directory, self.at(f"{point}/lxc.payload.{name}"))
        self.define(name, lxcpath)
        self._monitor(f"/lxc.monitor.{name}", f"{made.monitor}\n")
        self.listen(socket_name(f"{lxcpath}/{name}"))
        if proc:
            made.monitor, made.init = 5033, 5038
            for file in ("cgroup", "status", "stat", "mountinfo"):
                self.write(f"/proc/5038/{file}", (RECORDINGS / "proc" / proc / file).read_bytes())
        self._processes(made, made.path, monitor=True)
        return made

    def lxd(self, name: str, base: str = "/var/lib/lxd", **how: object) -> Container:
        """An LXD or Incus instance: a link into a storage pool is the definition; PROJECT_NAME outside the default."""
        link = self.at(f"{base}/containers/{name}")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"{base}/storage-pools/default/containers/{name}")
        return self.container(name, f"{base}/containers", config=None, **how)  # type: ignore[arg-type]

    def listen(self, abstract: str) -> None:
        """Show a listening abstract socket."""
        self._sockets.append(abstract)
        self._write_sockets()

    def stop_listening(self, abstract: str) -> None:
        """As when a monitor ends."""
        self._sockets.remove(abstract)
        self._write_sockets()

    def _write_sockets(self) -> None:
        lines = "".join(
            f"{number:016x}: 00000002 00000000 00010000 0001 01 {20000 + number} @{name}\n"
            for number, name in enumerate(self._sockets)
        )
        text = _HEADING + _OTHERS + lines
        self.write("/proc/1/net/unix", text.encode("utf-8", "surrogateescape"))

    def process(
        self, pid: int, parent: int, title: str, cgroup: str, *, uid: int = 0, inside: int | None = None
    ) -> None:
        """A process in /proc; inside: its pid in its own pid namespace."""
        base = f"/proc/{pid}"
        nspid = f"{pid}" + ("" if inside is None else f"\t{inside}")
        self.write(f"{base}/cmdline", title.encode("utf-8", "surrogateescape") + b"\0")
        self.write(
            f"{base}/status",
            f"Name:\tx\nState:\tS (sleeping)\nTgid:\t{pid}\nPid:\t{pid}\nPPid:\t{parent}\n"
            f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nNStgid:\t{nspid}\nNSpid:\t{nspid}\n",
        )
        self.write(f"{base}/stat", f"{pid} (x (y) z) S {parent} {pid} {pid} 0 -1 4194560 2497 0 0 0 59 51\n")
        lines = []
        for number, controller in enumerate(self.mounts, 1):
            lines.append(f"{number if controller else 0}:{controller}:{cgroup}\n")
        self.write(f"{base}/cgroup", "".join(lines).encode("utf-8", "surrogateescape"))

    def _processes(self, made: Container, cgroup: str, monitor: bool) -> None:
        if monitor:
            title = f"[lxc monitor] {made.lxcpath} {made.name}"
            self.process(made.monitor, 1, title, f"/lxc.monitor.{made.name}")
            self.write(f"/proc/{made.monitor}/task/{made.monitor}/children", f"{made.init} ")
        if not self.at(f"/proc/{made.init}").exists():
            self.process(made.init, made.monitor if monitor else 1, "/sbin/init", cgroup, inside=1)

    def _v2_core(self, directory: str, populated: bool, frozen: bool, procs: str) -> None:
        self.write(f"{directory}/cgroup.events", f"populated {int(populated)}\nfrozen {int(frozen)}\n")
        if not self.at(f"{directory}/cgroup.procs").exists():
            self.write(f"{directory}/cgroup.procs", procs)


def files_of(tree: Tree) -> list[str]:
    """Every file of a tree, as the host itself calls it."""
    found = []
    for base, _, names in os.walk(tree.root):
        found += ["/" + os.path.relpath(os.path.join(base, name), tree.root) for name in names]
    return sorted(found)


def _write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
    return path


def _meminfo(total: int, swap_total: int) -> str:
    recorded = (RECORDINGS / "proc" / "meminfo").read_text()
    lines = []
    for line in recorded.splitlines():
        key = line.partition(":")[0]
        value = {"MemTotal": total, "SwapTotal": swap_total}.get(key)
        lines.append(line if value is None else f"{key + ':':<15}{value // 1024:>9} kB")
    return "\n".join(lines) + "\n"


def _mountinfo(mounts: dict[str, str]) -> str:
    lines = ["22 27 0:20 / /sys rw,nosuid - sysfs sysfs rw", "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"]
    if "" not in mounts or len(mounts) > 1:
        lines.append("31 22 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,size=4096k,mode=755")
    for number, (controller, point) in enumerate(mounts.items(), 40):
        kind = f"cgroup cgroup rw,{controller}" if controller else "cgroup2 cgroup2 rw,nsdelegate"
        lines.append(f"{number} 31 0:{number} / {point} rw,nosuid,relatime shared:{number} - {kind}")
    return "\n".join(lines) + "\n"


def _stat_v1(usage: int, active: int, inactive: int, limit: int, swap: int, memsw: int | None) -> str:
    anonymous = max(0, usage - active - inactive)
    values = {"cache": active + inactive, "rss": anonymous, "inactive_file": inactive, "active_file": active}
    lines = [f"{key} {value}" for key, value in values.items()]
    if memsw is not None:
        lines.append(f"swap {swap}")
    lines.append(f"hierarchical_memory_limit {limit}")
    if memsw is not None:
        lines.append(f"hierarchical_memsw_limit {memsw}")
        lines.append(f"total_swap {swap}")
    lines += [f"total_{key} {value}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _stat_v2(usage: int, active: int, inactive: int, slab: int) -> str:
    anonymous = max(0, usage - active - inactive - slab)
    return (
        f"anon {anonymous}\nfile {active + inactive}\nkernel 0\nshmem 0\ninactive_anon {anonymous}\nactive_anon 0\n"
        f"inactive_file {inactive}\nactive_file {active}\nunevictable 0\nslab_reclaimable {slab}\n"
        "slab_unreclaimable 0\nworkingset_refault_file 0\n"
    )
