"""What a host has, what of it its containers may use, and what is in use: what it can still take."""

from __future__ import annotations

from collections import namedtuple

from sensu_lxc import accounting, disk, inventory
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.sources import cpu as cpu_files
from sensu_lxc.sources import meminfo
from sensu_lxc.sources import stat as stat_files

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sensu_lxc.cgroups import Cgroups, Memory
    from sensu_lxc.disk import Space
    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Container


class Capacity(
    namedtuple(
        "Capacity",
        "memory_bytes memory_available_bytes memory_promised_bytes memory_unlimited "
        "cores cores_promised cores_unlimited load running defined unseen",
    )
):
    """What a host has and what of it is taken.

    memory_bytes: all its RAM; memory_available_bytes: what can be had without swapping, as the kernel estimates it;
    memory_promised_bytes: the limits of running containers, and what those without one use (a limit that several share
    counts for each); memory_unlimited: how many have none; cores: CPUs online; cores_promised: what quotas and cpusets
    let running containers use, without those that may use every core, which are cores_unlimited; load: average of five
    minutes, of the whole host, None where not told; running: containers that run; defined: those and the stopped ones,
    None where not all can be seen; unseen: {label: why it is in no sum}.
    """

    __slots__ = ()

    @property
    def memory_used_bytes(self) -> int:
        """What can't be had without swapping."""
        used: int = self.memory_bytes - self.memory_available_bytes
        return used

    @property
    def memory_unpromised_bytes(self) -> int:
        """Below zero where more is promised than there is."""
        left: int = self.memory_bytes - self.memory_promised_bytes
        return left

    @property
    def cores_unpromised(self) -> float:
        """Likewise."""
        left: float = self.cores - self.cores_promised
        return left


def host_capacity(
    host: Host,
    tree: Cgroups,
    containers: Iterable[Container],
    all_defined: bool = True,
    limits: Callable[[Host, Cgroups, Container], tuple[Memory, float]] | None = None,
) -> Capacity:
    """Sum up a host.

    containers: all that are defined or run; all_defined: whether those are all, for all one sees; limits: the memory of
    a running container and the cores that it may use, for who has read them already.
    """
    path = "/proc/meminfo"
    raw = host.read(path)
    total, available = meminfo.host_memory(raw, path).total_bytes, meminfo.available(raw, path)
    path = "/sys/devices/system/cpu/online"
    cores = cpu_files.count_of_list(host.value(path), path)
    promised_bytes = memory_unlimited = cores_unlimited = running = defined = 0
    promised_cores = 0.0
    unseen: dict[str, str] = {}
    for container in containers:
        defined += 1
        if not container.has_monitor:
            continue
        try:
            memory, allowed = (limits or _limits)(host, tree, container)
        except CannotObserve as problem:
            if isinstance(problem, NotThere) and not inventory.has_monitor_now(host, container):
                continue
            unseen[container.label] = str(problem)
            running += 1
            continue
        running += 1
        if memory.limit_bytes is None:
            memory_unlimited += 1
            promised_bytes += memory.used_bytes
        else:
            promised_bytes += min(memory.limit_bytes, total)
        if allowed < cores:
            promised_cores += allowed
        else:
            cores_unlimited += 1
    path = "/proc/loadavg"
    try:
        load = stat_files.load(host.value(path), path)
    except NotThere:  # a recorded host
        load = None
    return Capacity(
        total, available, promised_bytes, memory_unlimited, cores, promised_cores, cores_unlimited, load,
        running, defined if all_defined else None, unseen,
    )  # fmt: skip


def _limits(host: Host, tree: Cgroups, container: Container) -> tuple[Memory, float]:
    """(memory, cores that it may use), looking again where its cgroup is being made anew, as at a reboot."""
    try:
        return tree.memory(container), accounting.cpu(host, tree, container).cores
    except NotThere:
        return tree.memory(container, surely=True), accounting.cpu(host, tree, container, surely=True).cores


def free_space(host: Host, lxcpath: str) -> Space:
    """The filesystem that new containers of an lxcpath come to. Raises CannotObserve where it does not answer."""
    return disk.filesystems(host).space_of(host.real(lxcpath))
