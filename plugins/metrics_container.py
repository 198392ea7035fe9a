#!/usr/bin/env python3
"""Print what each container uses, for Graphite, InfluxDB, OpenTSDB and Prometheus, as JSON or as Nagios perfdata."""

from __future__ import annotations

import os
from time import monotonic, time

from sensu_lxc import accounting, capacity, cgroups, disk, inventory, lives, metrics, network, plugin, render
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.findings import Finding, State
from sensu_lxc.metrics import COUNTER, GAUGE, Metric
from sensu_lxc.options import Misuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from sensu_lxc.cgroups import Cgroups, Hierarchy, Memory
    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Container, Inventory
    from sensu_lxc.metrics import Sample
    from sensu_lxc.sources.mountinfo import Filesystem

    # (container, whether it runs, what it uses, {group of metrics: why it is not among them})
    Looked = tuple[Container, bool, list[Sample], dict[str, CannotObserve]]

CATALOGUE: list[Metric] = []


def _metrics(subject: str, kind: str, label: str = "", **helps: str) -> list[Metric]:
    made = [Metric(subject, name, kind, help, label) for name, help in helps.items()]
    CATALOGUE.extend(made)
    return made


UP, FROZEN, ORPHANED = _metrics(
    "container",
    GAUGE,
    up="1 where its monitor lives; 0 where it is stopped, or only orphaned processes of it run on",
    frozen="1 where it is frozen, by LXC or from outside",
    orphaned="1 where processes of it run on without their monitor, also beside those of its next life",
)
CPU_CORES, MEMORY_USED, WORKING_SET, MEMORY_USAGE, CACHE, MEMORY_LIMIT, SWAP_USED, SWAP_LIMIT, TASKS, TASKS_LIMIT = (
    _metrics(
        "container",
        GAUGE,
        cpu_cores="Cores it may use at once: the least of its quota, its cpuset and the host's CPUs",
        memory_used_bytes="Memory that the kernel can't take back without swap",
        memory_working_set_bytes="Memory without inactive page cache, as kubectl top shows it",
        memory_usage_bytes="All memory charged to it, page cache included",
        memory_cache_bytes="Page cache",
        memory_limit_bytes="Memory it may use, where it is limited",
        swap_used_bytes="Memory swapped out",
        swap_limit_bytes="Swap it may use, where it is limited",
        tasks="Processes and their threads",
        tasks_limit="Tasks it may have, where they are limited",
    )
)
CPU_USED, PERIODS, THROTTLED_PERIODS, THROTTLED, OOM_KILLS = _metrics(
    "container",
    COUNTER,
    cpu_usage_seconds_total="CPU time used",
    cpu_periods_total="Periods of its CPU quota, where it has one",
    cpu_throttled_periods_total="Periods in which it used up its CPU quota",
    cpu_throttled_seconds_total="Time its processes waited for the next period of its CPU quota",
    memory_oom_kills_total="Processes that the OOM killer took",
)
PRESSURE = {
    resource: _metrics(
        "container",
        COUNTER,
        **{
            f"pressure_{resource}_waiting_seconds_total": f"Time in which some of its tasks waited for {words}",
            f"pressure_{resource}_stalled_seconds_total": f"Time in which all of its tasks waited for {words}",
        },
    )
    for resource, words in (("cpu", "a CPU"), ("memory", "memory"), ("io", "I/O"))
}
IO = _metrics(
    "container",
    COUNTER,
    "device",
    io_read_bytes_total="Bytes read from a block device",
    io_write_bytes_total="Bytes written to a block device",
    io_reads_total="Reads from a block device",
    io_writes_total="Writes to a block device",
)
NETWORK = _metrics(
    "container",
    COUNTER,
    "interface",
    network_receive_bytes_total="Bytes received by the container",
    network_receive_packets_total="Packets received by the container",
    network_receive_errors_total="Packets received in error",
    network_receive_drops_total="Packets received and dropped",
    network_transmit_bytes_total="Bytes sent by the container",
    network_transmit_packets_total="Packets sent by the container",
    network_transmit_errors_total="Packets that failed to be sent",
    network_transmit_drops_total="Packets dropped instead of sent",
)
UPTIME, DISK_USED, DISK_AVAILABLE, INODES_USED, INODES_AVAILABLE, DISK_SHARED = _metrics(
    "container",
    GAUGE,
    uptime_seconds="Time since it was started or rebooted",
    disk_used_bytes="Written to the filesystem of its root",
    disk_available_bytes="What may still be written to the filesystem of its root",
    disk_used_inodes="Inodes used of the filesystem of its root",
    disk_available_inodes="Inodes left of the filesystem of its root",
    disk_shared="1 where the host has things of its own on the filesystem of its root",
)
HOST = _metrics(
    "host",
    GAUGE,
    memory_total_bytes="RAM",
    memory_available_bytes="RAM that can be had without swapping",
    memory_promised_bytes="Limits of running containers, and what those without one use",
    memory_unlimited_containers="Running containers without a memory limit",
    cpu_cores="CPUs online",
    cpu_promised_cores="Cores that quotas and cpusets let running containers use, without those that may use all",
    cpu_unlimited_containers="Running containers that may use all cores",
    load5="Load average of five minutes",
    defined_containers="Containers that are defined, where all can be seen",
)
HOST_DISK = _metrics(
    "host",
    GAUGE,
    "lxcpath",
    disk_used_bytes="Written to the filesystem on which new containers of an lxcpath come to lie",
    disk_available_bytes="What may still be written to it",
    disk_used_inodes="Inodes used of it",
    disk_available_inodes="Inodes left of it",
)
SUCCESS, SEEN, RUNNING, FAILED, DURATION = _metrics(
    "scrape",
    GAUGE,
    success="1; in a file also 0, with nothing else, where nothing could be measured",
    containers="Containers that were meant",
    running_containers="Those among them that run",
    failed_containers="Running ones of which nothing could be read, and names for which there is no container",
    duration_seconds="How long this run took to look",
)
(UNAVAILABLE,) = _metrics(
    "scrape",
    GAUGE,
    "group",
    unavailable_containers="Those of which this group of metrics could not be read",
)


class MetricsContainer(plugin.ContainerCheck):
    """Print what each container uses, in the words of a monitoring system.

    What a container has not (a limit), the kernel does not count or this user may not see is left out, never 0;
    scrape_unavailable_containers counts it, and -v says why on stderr. Ends with 0 and prints nothing but metrics, or
    with 3 and one line where nothing could be measured; --output FILE then holds scrape_success 0 alone. A host without
    containers has 0 of them. Monitors are not asked, so a hung one looks as if it were well: check_container_state
    tells.
    """

    example = """\
  metrics_container.py
  metrics_container.py --scheme "$(hostname -s).lxc" --exclude 'test-*'
  metrics_container.py --format influxdb -n 'web*'
  metrics_container.py --output /var/lib/prometheus/node-exporter/lxc.prom

Metrics, as --format prometheus, influxdb (measurement_field) and json name them; graphite and nagios write
lxc.container.NAME.METRIC[.ITEM], opentsdb lxc.container.METRIC with tags:
""" + "\n".join(f"  {f'lxc_{one.subject}_{one.name}':54} {one.kind:8} {one.label}" for one in CATALOGUE)
    may_be_per_container = False
    verbosely = "say on stderr what was left out, and why"

    def setup(self) -> None:
        add = self.parser.add_argument
        add("--format", choices=metrics.FORMATS, help="default: graphite, or prometheus with --output")
        add("--scheme", metavar="PREFIX", default="lxc", help="what every name begins with (default: lxc)")
        add("--output", metavar="FILE", help="replace FILE as a whole, as node_exporter's textfile collector needs it")
        add("--self", dest="inside", action="store_true", help="only the container that this runs in, seen from inside")
        super().setup()

    def validate(self) -> None:
        super().validate()
        options = self.options
        for option in ("name", "exclude", "lxcpath") if options.inside else ():
            if getattr(options, option):
                raise Misuse(f"--self is the one container that this runs in; leave --{option} out")
        self.format = options.format or ("graphite" if options.output is None else "prometheus")
        if not metrics.fits(options.scheme, self.format):
            raise Misuse(
                f"--scheme {options.scheme[:80]!r} does not fit {self.format}: write letters, digits and _"
                + (", and dots between them" if self.format in metrics.DOTTED else ", no digit first")
            )
        if options.output == "":
            raise Misuse("--output has no file; write for example --output /var/lib/node_exporter/lxc.prom")

    def findings(self) -> Iterator[Finding]:
        self.seconds = time()
        try:
            yield from self._measured()
        except CannotObserve as problem:
            if self.options.output is not None:  # what it still says of containers is not known to be true
                self._write([(SUCCESS, "", "", 0)], f"{type(self).__name__} UNKNOWN: {problem}")
            raise

    def _measured(self) -> Iterator[Finding]:
        began = monotonic()
        if self.options.inside:
            from sensu_lxc import inside

            found = inventory.Inventory([inside.container(self.host)], [], [], set())
            look = Look(self.host, inside.Own(self.host))
        else:
            try:
                found = self.inventory()
            except inventory.NoContainer:
                found = inventory.Inventory([], [], [], set())
            look = Look(self.host, _Tree(self.host, found.running))
        self.left_out = [f"{name}: no such container here" for name in found.missing]
        self.samples: list[Sample] = []
        unavailable = dict.fromkeys((*GROUPS, "orphaned"), 0)
        running = failed = 0
        looked = [(container, *look.at(container)) for container in found.containers]
        look.ask_filesystems(looked)
        for container, up, samples, problems in looked:
            about = [(UP, container.label, "", int(up))]
            if not container.is_own:  # from inside nobody sees them
                try:
                    about.append((ORPHANED, container.label, "", int(look.is_orphaned(container, up, found.running))))
                except CannotObserve as problem:
                    problems["orphaned"] = problem
            self.left_out += [f"{container.label}: no {group}: {problem}" for group, problem in problems.items()]
            if up:
                running += 1
                failed += not samples
            for group in problems:
                unavailable[group] += 1
            self.samples += about
            self.samples += samples
        # None at all, where all can be seen and none is missed, is a number of containers like any other.
        missed = failed or found.unseen or not all(map(inventory.is_pattern, found.missing))
        if missed and failed == len(found.containers):
            look.close()
            raise CannotObserve(f"nothing could be measured: {'; '.join([*self.left_out, *found.unseen])}")
        if not (self.options.inside or self.options.name or self.options.exclude or self.options.lxcpath):
            try:
                self.samples += look.host_as_a_whole(found)
            except CannotObserve as problem:
                self.left_out.append(f"nothing of the host: {problem}")
            for lxcpath in inventory.default_lxcpaths(self.host, []):
                try:
                    self.samples += look.lxcpath(lxcpath)
                except CannotObserve as problem:
                    self.left_out.append(f"nothing of the disk of {lxcpath}: {problem}")
            self.samples += self._strays(look, found)
        look.close()
        self.samples += [(UNAVAILABLE, "", group, count) for group, count in unavailable.items()]
        for metric, value in (
            (SUCCESS, 1),
            (SEEN, len(found.containers)),
            (RUNNING, running),
            (FAILED, failed + len(found.missing)),
            (DURATION, round(monotonic() - began, 6)),
        ):
            self.samples.append((metric, "", "", value))
        yield Finding(State.OK, "", f"{running} of {len(found.containers)} containers run")

    def _strays(self, look: Look, found: Inventory) -> list[Sample]:
        """What runs on with neither a monitor nor a definition."""
        from sensu_lxc import states

        try:
            return [(ORPHANED, name, "", 1) for name, _ in states.strays_beside(look.tree, found)]
        except CannotObserve as problem:
            self.left_out.append(str(problem))
            return []

    def output(self, status: State, findings: Sequence[Finding]) -> str:
        """The metrics; nothing where they went into a file."""
        if self.options.verbose and self.left_out:
            self.aside("\n".join(render.text(sentence) for sentence in self.left_out))
        words = f"{type(self).__name__} {status.name}: {findings[0]}"
        return self._write(self.samples, words)

    def _write(self, samples: Sequence[Sample], words: str) -> str:
        run = metrics.Run(self.options.scheme, self._name_of_host(), self.seconds, words)
        written = metrics.FORMATS[self.format](samples, run)
        if self.options.output is None:
            return written
        replace(self.options.output, written + "\n")
        return ""

    def _name_of_host(self) -> str:
        if self.host.is_this_one:
            return os.uname().nodename
        try:
            name = self.host.read("/etc/hostname")
        except CannotObserve:
            name = b""
        return name.decode("utf-8", "surrogateescape").strip() or "localhost"


class _Tree(cgroups.Cgroups):
    """Looks at one container after the other, at each for a moment, so that every file is read once.

    Nothing here is compared with an earlier run, so nobody asks whose life it was.
    """

    def __init__(self, host: Host, running: Iterable[str]) -> None:
        super().__init__(host, running)
        self._look_at(None)

    def _look_at(self, container: Container | None) -> None:
        self._container = container
        self._places: dict[str, str] = {}
        self._pids: dict[str, bytes] = {}
        self._init: int | CannotObserve | None = None
        self._path: str | None = None

    def life(self, directory: str) -> int:
        return 0

    def directory(self, container: Container, hierarchy: Hierarchy, surely: bool = False) -> str:
        if container is not self._container or surely:
            self._look_at(container)
        point: str = hierarchy.point
        if point not in self._places:
            payloads = self.payload_hierarchy()
            if self._path is None and point != payloads.point:
                self._path = self._path_of_init(container, payloads)
            if self._path and hierarchy.root == "/":
                self._places[point] = point + self._path
            else:
                self._places[point] = super().directory(container, hierarchy, surely)
        return self._places[point]

    def _path_of_init(self, container: Container, hierarchy: Hierarchy) -> str:
        """The container's path where it is the same in all hierarchies, as its init tells; else ""."""
        path = self.directory(container, hierarchy)[len(hierarchy.point) :]
        try:
            raw = self._host.value(f"/proc/{self.init_pid(container)}/cgroup")
        except CannotObserve:
            return ""
        own = path.encode("utf-8", "surrogateescape")
        where = {line.split(b":", 2)[-1] for line in raw[:-1].split(b"\n")}
        return path if all(one == own or one.startswith(own + b"/") for one in where) else ""

    def _processes_in(self, directory: str) -> bytes:
        if directory not in self._pids:
            self._pids[directory] = super()._processes_in(directory)
        return self._pids[directory]

    def init_pid(self, container: Container) -> int:
        if self._init is None or container is not self._container:
            self.directory(container, self.payload_hierarchy())
            try:
                self._init = super().init_pid(container)
            except CannotObserve as problem:
                self._init = problem
        if isinstance(self._init, CannotObserve):
            raise self._init
        return self._init


class Look:
    """Reads what containers of one host use: a method for each group of metrics."""

    def __init__(self, host: Host, tree: Cgroups) -> None:
        self.host, self.tree = host, tree
        self._devices: dict[str, str] = {}
        self._memories: dict[str, Memory] = {}
        self._cores: dict[str, float] = {}
        self._host_seconds: float | None = None
        self._roots: dict[str, tuple[Filesystem, str]] = {}

    def close(self) -> None:
        """End the process that asked filesystems how full they are."""
        disk.filesystems(self.host).close()

    def host_as_a_whole(self, found: Inventory) -> list[Sample]:
        """What the host has, and what of it its containers may use."""
        held = capacity.host_capacity(self.host, self.tree, found.containers, not found.unseen, self._limits_of)
        values = (
            held.memory_bytes,
            held.memory_available_bytes,
            held.memory_promised_bytes,
            held.memory_unlimited,
            held.cores,
            held.cores_promised,
            held.cores_unlimited,
            held.load,
            held.defined,
        )
        return [(metric, "", "", value) for metric, value in zip(HOST, values) if value is not None]

    def lxcpath(self, path: str) -> list[Sample]:
        """What may still be written where new containers come to lie."""
        space = capacity.free_space(self.host, path)
        return [(metric, "", path, value) for metric, value in zip(HOST_DISK, space) if value is not None]

    def is_orphaned(self, container: Container, up: bool, running: Collection[str]) -> bool:
        """Whether processes of it run on without their monitor. up: whether it runs itself."""
        if up and not self.tree.beside(container, self.tree.payload_hierarchy()):
            return False
        from sensu_lxc import states

        return bool(states.orphan(self.host, self.tree, container._replace(has_monitor=up), running))

    def _limits_of(self, host: Host, tree: Cgroups, container: Container) -> tuple[Memory, float]:
        """What was read of the container itself already."""
        try:
            return self._memories[container.label], self._cores[container.label]
        except KeyError:
            raise CannotObserve("its memory or its CPU time could not be read") from None

    def at(self, container: Container) -> tuple[bool, list[Sample], dict[str, CannotObserve]]:
        """(whether it runs, what it uses, {group of metrics: why it is not among them})."""
        samples: list[Sample] = []
        problems: dict[str, CannotObserve] = {}
        if not container.has_monitor:
            return False, samples, problems
        for group, look in GROUPS.items():
            if group == "uptime" and container.is_own:  # lxcfs has a /proc/uptime of its own
                continue
            try:
                samples += look(self, container)
            except CannotObserve as problem:
                problems[group] = problem
        if isinstance(problems.get("state"), NotThere) and not (
            container.is_own or inventory.has_monitor_now(self.host, container)
        ):
            return False, [], {}
        return True, samples, problems

    def state(self, container: Container) -> list[Sample]:
        """Comes first, as it finds a cgroup that was made anew at a reboot."""
        try:
            frozen = self.tree.is_frozen(container)
        except NotThere:
            frozen = self.tree.is_frozen(container, surely=True)
        return [(FROZEN, container.label, "", int(frozen))]

    def cpu(self, container: Container) -> list[Sample]:
        cpu, label = accounting.cpu(self.host, self.tree, container), container.label
        self._cores[label] = cpu.cores
        found: list[Sample] = [(CPU_USED, label, "", cpu.used_ns / 1e9), (CPU_CORES, label, "", cpu.cores)]
        if cpu.periods or cpu.quota_cores is not None:
            found += [
                (PERIODS, label, "", cpu.periods),
                (THROTTLED_PERIODS, label, "", cpu.throttled_periods),
                (THROTTLED, label, "", cpu.throttled_ns / 1e9),
            ]
        return found

    def memory(self, container: Container) -> list[Sample]:
        memory, label = self.tree.memory(container), container.label
        self._memories[label] = memory
        found: list[Sample] = [
            (MEMORY_USED, label, "", memory.used_bytes),
            (WORKING_SET, label, "", memory.working_set_bytes),
            (MEMORY_USAGE, label, "", memory.usage_bytes),
            (CACHE, label, "", memory.active_file_bytes + memory.inactive_file_bytes),
        ]
        if memory.limit_bytes is not None:
            found.append((MEMORY_LIMIT, label, "", memory.limit_bytes))
        try:
            memory = self.tree.swap(container, memory)
        except NotThere:  # the kernel does not count it
            return found
        if memory.swap_bytes is not None:
            found.append((SWAP_USED, label, "", memory.swap_bytes))
        if memory.swap_limit_bytes is not None:
            found.append((SWAP_LIMIT, label, "", memory.swap_limit_bytes))
        return found

    def oom(self, container: Container) -> list[Sample]:
        return [(OOM_KILLS, container.label, "", accounting.oom_kills(self.host, self.tree, container).kills)]

    def tasks(self, container: Container) -> list[Sample]:
        pids = accounting.pids(self.host, self.tree, container)
        found: list[Sample] = [(TASKS, container.label, "", pids.tasks)]
        if pids.limit is not None:
            found.append((TASKS_LIMIT, container.label, "", pids.limit))
        return found

    def io(self, container: Container) -> list[Sample]:
        label, found = container.label, []
        for device, counts in accounting.io(self.host, self.tree, container).devices.items():
            if device not in self._devices:
                self._devices[device] = accounting.device_name(self.host, device)
            found += [(metric, label, self._devices[device], count) for metric, count in zip(IO, counts)]
        return found

    def pressure(self, container: Container) -> list[Sample]:
        label = container.label
        found: list[Sample] = []
        for resource, (waiting, stalled) in PRESSURE.items():
            pressure = accounting.pressure(self.host, self.tree, container, resource)
            found.append((waiting, label, "", pressure.some_us / 1e6))
            if pressure.full_us is not None:
                found.append((stalled, label, "", pressure.full_us / 1e6))
        return found

    def network(self, container: Container) -> list[Sample]:
        label = container.label
        return [
            (metric, label, name, count)
            for name, counts in network.interfaces(self.host, self.tree, container).interfaces.items()
            if name != "lo"
            for metric, count in zip(NETWORK, counts)
        ]

    def uptime(self, container: Container) -> list[Sample]:
        if self._host_seconds is None:
            self._host_seconds = lives.host_seconds(self.host)
        started = lives.start_seconds(self.host, self.tree, container)
        return [(UPTIME, container.label, "", round(max(0.0, self._host_seconds - started), 2))]

    def disk(self, container: Container) -> list[Sample]:
        """Nothing yet but where it is: see ask_filesystems."""
        self._roots[container.label] = disk.mounted(self.host, self.tree, container)
        return []

    def ask_filesystems(self, looked: Iterable[Looked]) -> None:
        """Add how full they are to what was found of containers.

        Last, since who asks is a copy of this process: after that, each page that is written to costs a fault.
        """
        for container, up, samples, problems in looked:
            if up and container.label in self._roots:
                try:
                    samples += self._disk(container, *self._roots[container.label])
                except CannotObserve as problem:
                    problems["disk"] = problem

    def _disk(self, container: Container, mount: Filesystem, root: str) -> list[Sample]:
        used, label = disk.filesystems(self.host).disk(mount, root, container), container.label
        found: list[Sample] = [
            (DISK_USED, label, "", used.used_bytes),
            (DISK_AVAILABLE, label, "", used.available_bytes),
        ]
        if not container.is_own:  # from inside nobody sees whose it is besides
            found.append((DISK_SHARED, label, "", int(used.shared_with_host)))
        if used.used_inodes is not None:
            found.append((INODES_USED, label, "", used.used_inodes))
            found.append((INODES_AVAILABLE, label, "", used.available_inodes))
        return found


# Each is read on its own: where one of them is not to be had, the others are.
GROUPS: dict[str, Callable[[Look, Container], list[Sample]]] = {
    "state": Look.state,
    "cpu": Look.cpu,
    "memory": Look.memory,
    "oom": Look.oom,
    "tasks": Look.tasks,
    "io": Look.io,
    "pressure": Look.pressure,
    "network": Look.network,
    "uptime": Look.uptime,
    "disk": Look.disk,
}


def replace(path: str, content: str) -> None:
    """Put content into a file that everybody may read, all of it at once. Raises CannotObserve."""
    real = os.path.realpath(path)  # a link stays one
    if os.path.exists(path) and not os.path.isfile(real):  # a device; /dev/stdout, which leads to no path at all
        raise CannotObserve(f"{path} is no file, which --output would replace; without it the metrics go to stdout")
    path = real
    temporary = f"{path}.{os.getpid()}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(descriptor, 0o644)
            data = content.encode("utf-8", "replace")
            while data:
                data = data[os.write(descriptor, data) :]
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CannotObserve(f"cannot write {path}: {error.strerror}") from None


def main() -> None:
    """The console script."""
    MetricsContainer.main()


if __name__ == "__main__":
    main()
