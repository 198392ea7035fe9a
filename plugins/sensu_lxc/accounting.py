"""What the kernel counts of a container, from whichever cgroup hierarchy counts it."""

from __future__ import annotations

from collections import namedtuple

from sensu_lxc.errors import CannotObserve, NotAllowed, NotThere
from sensu_lxc.sources import cgroup
from sensu_lxc.sources import cpu as cpu_files
from sensu_lxc.sources import io as io_files
from sensu_lxc.sources import pressure as pressure_files

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sensu_lxc.cgroups import Cgroups, Hierarchy
    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Container

_NO_QUOTAS = b"nr_periods 0\nnr_throttled 0\n"  # what a kernel without CFS bandwidth control would say
_NO_QUOTA_V1 = b"-1\n"
RESOURCES = ("cpu", "memory", "io")
_THROTTLE = "blkio.throttle"
_NO_IO_V1 = (
    "the kernel counts no I/O of it: on cgroup v1 that begins with a limit, also one far above what the disk can do: "
    "lxc.cgroup.blkio.throttle.write_bps_device = MAJOR:MINOR 1000000000000, and the same of read"
)
_MD_MAJOR = "9"


class NotCounted(CannotObserve):
    """The kernel does not count it for this container: it is unavailable, which is not 0."""


class Cpu(namedtuple("Cpu", "life used_ns periods throttled_periods throttled_ns cores quota_cores")):
    """A container's CPU time.

    life: see Cgroups.life; used_ns: CPU time of all its processes, in ns; periods, throttled_periods: of its own quota,
    that began and that it used up, 0 without one; throttled_ns: time its processes waited for the next period;
    cores: how many it may use at once, the least of quota, cpuset and the host's CPUs; quota_cores: its quota, or
    that of a cgroup above it, None for none.
    """

    __slots__ = ()

    @property
    def counters(self) -> dict[str, tuple[int, ...]]:
        """What History keeps."""
        return {"": (self.used_ns, self.periods, self.throttled_periods, self.throttled_ns)}


class Pids(namedtuple("Pids", "tasks limit")):
    """A container's tasks, that is processes and their threads.

    tasks: how many there are; limit: the least of its own and those above it, None for none.
    """

    __slots__ = ()


class Io(namedtuple("Io", "life devices stacked lists_only_counted", defaults=({}, False))):
    """A container's block I/O since its start.

    life: see Cgroups.life; devices: {"8:0": (bytes read, bytes written, reads, writes)} of those whose sum is its I/O;
    stacked: likewise of those that pass the same I/O on or get it passed on, such as a logical volume of a disk;
    lists_only_counted: a device that is not listed is not counted (v1); else nothing was done on it (v2).
    """

    __slots__ = ()

    @property
    def counters(self) -> dict[str, tuple[int, ...]]:
        """What History keeps."""
        return {**self.devices, **self.stacked}


class Pressure(namedtuple("Pressure", "life some_us full_us")):
    """How long a container's tasks waited for a resource since its start, in µs.

    life: see Cgroups.life; some_us: time in which at least one waited; full_us: in which all that had something to do
    waited at once, None where the kernel does not tell (CPU before Linux 5.13).
    """

    __slots__ = ()

    @property
    def counters(self) -> dict[str, tuple[int, ...]]:
        """What History keeps."""
        return {"": (self.some_us,) if self.full_us is None else (self.some_us, self.full_us)}


class OomKills(namedtuple("OomKills", "life counters")):
    """How many of a container's processes the OOM killer took since its start.

    life: see Cgroups.life; counters: {cgroup: (kills,)}, by inode for each of those that v1 counts for themselves: one
    that is removed takes its count along.
    """

    __slots__ = ()

    @property
    def kills(self) -> int:
        """All of them."""
        return sum(kills for (kills,) in self.counters.values())

    def since(self, before: Mapping[str, tuple[int, ...]]) -> int:
        """How many there were since the counters were those. A cgroup that is new since then counts from 0."""
        return sum(max(0, kills - before.get(item, (0,))[0]) for item, (kills,) in self.counters.items())


def cpu(host: Host, tree: Cgroups, container: Container, surely: bool = False) -> Cpu:
    """What the container's CPU cgroups say. Raises CannotObserve naming the file that did not say it."""
    shares, accounts = _needed(tree, "cpu", "CPU time"), _needed(tree, "cpuacct", "CPU time")
    quotas = directory = tree.directory(container, shares, surely)
    if accounts.point != shares.point:
        directory = tree.directory(container, accounts, surely)

    def read() -> tuple[int, int, int, int]:
        return _cpu_counters(host, shares, quotas, accounts, directory)

    life, counters = tree.in_one_life(
        directory, read if directory == quotas else lambda: tree.in_one_life(quotas, read)[1]
    )
    quota = tree.least(quotas, shares, "cpu quota", lambda place: _quota(host, place, shares))
    cores = float(min(_cpuset(host, tree, container, surely), _online(host, tree)))
    allowed = cores if quota is None else min(quota, cores)
    return Cpu(life, *counters, allowed, quota)


def _cpu_counters(
    host: Host, shares: Hierarchy, quotas: str, accounts: Hierarchy, directory: str
) -> tuple[int, int, int, int]:
    """The first four numbers of Cpu, the periods in one directory and the time in another where v1 has them apart."""
    path = f"{quotas}/cpu.stat"
    try:
        stat = host.value(path)
    except NotThere:
        if shares.version == 2 or not host.has(quotas) or host.has(f"{quotas}/cpu.cfs_quota_us"):
            raise
        stat = _NO_QUOTAS
    keys = (b"nr_periods", b"nr_throttled", b"throttled_time" if shares.version == 1 else b"throttled_usec")
    periods, throttled, waited = cgroup.counts(stat, path, *keys)
    if shares.version == 1 and None in (periods, throttled):
        raise CannotObserve(f"{path} lacks nr_periods or nr_throttled")
    waited_ns = (waited or 0) * (1 if shares.version == 1 else 1000)
    if accounts.version == 1:
        path = f"{directory}/cpuacct.usage"
        used_ns = cgroup.number(host.value(path), path)
    else:
        path = f"{directory}/cpu.stat"
        (used_us,) = cgroup.counts(stat if directory == quotas else host.value(path), path, b"usage_usec")
        if used_us is None:
            raise CannotObserve(f"{path} lacks usage_usec")
        used_ns = used_us * 1000
    return used_ns, periods or 0, throttled or 0, waited_ns


def pids(host: Host, tree: Cgroups, container: Container, surely: bool = False) -> Pids:
    """What the container's pids cgroup says. Raises CannotObserve naming the file that did not say it."""
    hierarchy = _needed(tree, "pids", "tasks")
    directory = tree.directory(container, hierarchy, surely)
    tasks = cgroup.number(*_counted(host, directory, "pids.current", "the pids controller is not enabled there"))

    def limit(place: str) -> int | None:
        path = f"{place}/pids.max"
        return cgroup.limit(host.value(path), path)

    return Pids(tasks, tree.least(directory, hierarchy, "pids.max", limit))


def io(host: Host, tree: Cgroups, container: Container, surely: bool = False) -> Io:
    """What the container's block I/O cgroup says. Raises NotCounted where the kernel counts none of it.

    v1 counts what the container's own processes hand to a disk: reads, direct and synced writes; what the kernel writes
    back later it counts for nobody. v2 counts that as well.
    """
    hierarchy = _needed(tree, "blkio", "block I/O")
    directory = tree.directory(container, hierarchy, surely)

    def read() -> dict[str, tuple[int, int, int, int]]:
        if hierarchy.version == 1:
            return _io_v1(host, tree, directory, hierarchy)
        return io_files.stat(*_counted(host, directory, "io.stat", "the io controller is not enabled there"))

    life, found = tree.in_one_life(directory, read)
    stacked = _stacked(host, found) if len(found) > 1 else set()
    return Io(
        life,
        {device: counts for device, counts in found.items() if device not in stacked},
        {device: counts for device, counts in found.items() if device in stacked},
        hierarchy.version == 1,
    )


def pressure(host: Host, tree: Cgroups, container: Container, resource: str, surely: bool = False) -> Pressure:
    """How long the container waited for one of RESOURCES. Raises NotCounted where the kernel does not tell."""
    hierarchy = tree.hierarchy("")
    if hierarchy is None:
        raise NotCounted("the kernel tells pressure in cgroup v2 only, which is not mounted")
    directory = tree.directory(container, hierarchy, surely)
    if directory == hierarchy.point:
        raise NotCounted("it has no v2 cgroup of its own, where the kernel tells pressure")
    life, waited_us = tree.in_one_life(directory, lambda: _pressure(host, directory, resource))
    return Pressure(life, *waited_us)


def _pressure(host: Host, directory: str, resource: str) -> tuple[int, int | None]:
    advice = "the kernel tells no pressure there; boot with psi=1, and cgroup.pressure must be 1"
    try:
        raw, path = _counted(host, directory, f"{resource}.pressure", advice)
    except (NotCounted, NotThere, NotAllowed):
        raise
    except CannotObserve as problem:  # EOPNOTSUPP
        raise NotCounted(f"{problem}; {advice}") from None
    some_us, full_us = pressure_files.totals(raw, path)
    if full_us is None and resource != "cpu":
        raise CannotObserve(f"{path} is cut off: it lacks the line that begins with full")
    return some_us, full_us


def oom_kills(host: Host, tree: Cgroups, container: Container, surely: bool = False) -> OomKills:
    """How often the OOM killer struck. Raises NotCounted where the kernel does not tell."""
    hierarchy = _needed(tree, "memory", "OOM kills")
    directory = tree.directory(container, hierarchy, surely)
    return OomKills(*tree.in_one_life(directory, lambda: _oom_kills(host, tree, directory, hierarchy)))


def _oom_kills(host: Host, tree: Cgroups, directory: str, hierarchy: Hierarchy) -> dict[str, tuple[int]]:
    if hierarchy.version == 1:
        counters: dict[str, tuple[int]] = {}
        _oom_kills_v1(host, tree, directory, tree.life(directory), counters)
        return counters
    raw, path = _counted(host, directory, "memory.events", "the memory controller is not enabled there")
    return {"": (_oom_kill(raw, path),)}


def _oom_kills_v1(host: Host, tree: Cgroups, directory: str, inode: int, counters: dict[str, tuple[int]]) -> None:
    """v1 counts a kill where it happened only, so those of the cgroups inside are told as well."""
    raw, path = _counted(host, directory, "memory.oom_control", "the kernel has no OOM control there")
    counters[str(inode)] = (_oom_kill(raw, path),)
    for entry in tree.subgroups(directory):
        inside = f"{directory}/{entry}"
        try:
            _oom_kills_v1(host, tree, inside, host.inode(inside), counters)
        except NotThere:  # removed just now
            continue


def _oom_kill(raw: bytes, path: str) -> int:
    (kills,) = cgroup.counts(raw, path, b"oom_kill")
    if kills is None:
        raise NotCounted(f"{path} lacks oom_kill, which Linux has since 4.13")
    return kills


def _needed(tree: Cgroups, controller: str, what: str) -> Hierarchy:
    found = tree.hierarchy(controller)
    if found is None:
        raise NotCounted(f"the kernel counts no {what} of containers: no {controller} cgroup is mounted")
    return found


def _counted(host: Host, directory: str, name: str, why_not: str) -> tuple[bytes, str]:
    """(content, path) of a file that a cgroup has where the kernel counts that. Raises NotThere without the cgroup."""
    path = f"{directory}/{name}"
    try:
        return host.value(path), path
    except NotThere:
        if not host.has(directory):
            raise
        raise NotCounted(f"{host.root}{path} is not there: {why_not}") from None


def _io_v1(host: Host, tree: Cgroups, directory: str, hierarchy: Hierarchy) -> dict[str, tuple[int, int, int, int]]:
    lacks = "this kernel counts no I/O for cgroup v1"
    sizes = io_files.rwstat(*_counted(host, directory, f"{_THROTTLE}.io_service_bytes_recursive", lacks))
    if not sizes:  # a disk that the cgroup has a limit for is listed, be it with zeros
        raise NotCounted(_NO_IO_V1)
    numbers = io_files.rwstat(*_counted(host, directory, f"{_THROTTLE}.io_serviced_recursive", lacks))
    found = {device: sizes[device] + numbers[device] for device in sizes if device in numbers}
    if any(map(any, found.values())):
        return found
    # Zeros: it did nothing, or nobody counts. Since Linux 5.16 a cgroup with a limit of its own is counted, since 6.4
    # all cgroups are on a disk for which any of them ever had a limit. Of a disk that is not listed nothing is known.
    if _counted_without_limit(host, tree, hierarchy).isdisjoint(found) and not _has_io_limit(host, directory):
        raise NotCounted(_NO_IO_V1)
    return found


def _has_io_limit(host: Host, directory: str) -> bool:
    for what in ("read_bps", "write_bps", "read_iops", "write_iops"):
        try:
            if host.value(f"{directory}/{_THROTTLE}.{what}_device"):
                return True
        except NotThere:
            continue
    return False


def _counted_without_limit(host: Host, tree: Cgroups, hierarchy: Hierarchy) -> set[str]:
    """The disks of which the host's own I/O is counted without a limit: then so is that of all containers."""
    path = f"{hierarchy.point}/{_THROTTLE}.io_service_bytes"
    if path not in tree.once:
        try:
            counts = io_files.rwstat(host.value(path), path)
        except NotThere:
            counts = {}
        counted = {device for device in counts if any(counts[device])}
        tree.once[path] = set() if counted and _has_io_limit(host, hierarchy.point) else counted
    found: set[str] = tree.once[path]
    return found


def _stacked(host: Host, devices: Collection[str]) -> set[str]:
    """Those of the devices that would count the same I/O twice.

    What passes one on to another device that is listed is left out, as is a loop device beside a disk: it is a file.
    For an array (md) it is its members: they have it once for each mirror, and not at all where they hold parity.
    """
    loops = {device for device in devices if device.startswith("7:")}
    found = loops if len(loops) < len(devices) else set()
    for device in devices:
        beneath = _beneath(host, device) & set(devices)
        if device.partition(":")[0] == _MD_MAJOR:
            found |= beneath
        elif beneath:
            found.add(device)
    return found


def _beneath(host: Host, device: str) -> set[str]:
    """The disks that a device lies on, at whatever depth."""
    found: set[str] = set()
    todo = [f"/sys/dev/block/{device}"]
    while todo:
        place = todo.pop()
        try:
            names = host.list(f"{place}/slaves")
        except NotThere:
            continue
        for name in names:
            path = f"{place}/slaves/{name}"
            if host.has(f"{path}/partition"):
                path += "/.."  # I/O is counted by disk
            try:
                one = host.value(f"{path}/dev").decode("ascii", "replace").strip()
            except NotThere:
                continue
            if one not in found:
                found.add(one)
                todo.append(path)
    return found


def device_name(host: Host, device: str) -> str:
    """What people call a block device: sda for 8:0; the number itself where /sys does not tell."""
    try:
        for line in host.value(f"/sys/dev/block/{device}/uevent").decode("utf-8", "replace").splitlines():
            if line.startswith("DEVNAME="):
                return line[len("DEVNAME=") :] or device
    except CannotObserve:
        pass
    return device


def _quota(host: Host, directory: str, hierarchy: Hierarchy) -> float | None:
    if hierarchy.version == 2:
        path = f"{directory}/cpu.max"
        try:
            return cpu_files.quota_v2(host.value(path), path)
        except NotThere:  # the controller is not enabled there
            return None
    path = f"{directory}/cpu.cfs_quota_us"
    try:
        quota = host.value(path)
    except NotThere:  # a kernel without CFS bandwidth control
        return None
    if quota == _NO_QUOTA_V1:  # whatever its period
        return None
    return cpu_files.quota_v1(quota, host.value(f"{directory}/cpu.cfs_period_us"), path)


def _cpuset(host: Host, tree: Cgroups, container: Container, surely: bool) -> int:
    """How many CPUs its cpuset leaves it; the host's where no cpuset speaks of it."""
    hierarchy = tree.hierarchy("cpuset")
    if hierarchy is None:
        return _online(host, tree)
    directory = tree.directory(container, hierarchy, surely)
    name = "cpuset.cpus.effective" if hierarchy.version == 2 else "cpuset.effective_cpus"
    while len(directory) > len(hierarchy.point):
        path = f"{directory}/{name}"
        try:
            count = cpu_files.count_of_list(host.value(path), path)
        except NotThere:  # the controller is not enabled there; what the one above has holds
            directory = directory.rpartition("/")[0]
            continue
        if count:
            return count
        raise CannotObserve(f"{path} leaves it no CPU")
    return _online(host, tree)


def _online(host: Host, tree: Cgroups) -> int:
    """How many CPUs the host runs on."""
    path = "/sys/devices/system/cpu/online"
    if path not in tree.once:
        tree.once[path] = cpu_files.count_of_list(host.value(path), path)
    online: int = tree.once[path]
    return online
