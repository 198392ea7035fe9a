#!/usr/bin/env python3
"""Alert when an LXC host can't take more containers, and tell what it still can."""

from __future__ import annotations

from sensu_lxc import capacity, cgroups, disk, inventory, plugin, render
from sensu_lxc.errors import CannotObserve
from sensu_lxc.findings import Finding, Measure, State
from sensu_lxc.levels import COUNTS, COUNTS_OR_SHARES, SIZES_OR_SHARES, Levels, Numbers, plain, threshold
from sensu_lxc.options import Misuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sensu_lxc.capacity import Capacity
    from sensu_lxc.cgroups import Cgroups
    from sensu_lxc.disk import Space
    from sensu_lxc.inventory import Container, Inventory

# What thresholds are on: (warning, critical) where neither is given, and what --help says of it.
KINDS = {
    "memory": (
        "90%",
        "100%",
        "this much of the host's memory promised: the limits of running containers, or what they use",
    ),
    "memory-used": ("80%", "90%", "this much of the host's memory in use, whoever uses it"),
    "cpu": (None, None, "this many cores promised by quota or cpuset; 100%% is every core"),
    "disk": ("80%", "90%", "this much of the lxcpath's filesystem used"),
    "inodes": ("80%", "90%", "this many of its inodes used"),
    "containers": (None, None, "this many containers running"),
}


NUMBERS = {
    "memory": SIZES_OR_SHARES,
    "memory-used": SIZES_OR_SHARES,
    "cpu": Numbers("a number of cores (12, 1.5) or a percentage of all (80%)", "@10%:20%, 2:"),
    "disk": SIZES_OR_SHARES,
    "inodes": COUNTS_OR_SHARES,
    "containers": COUNTS,
}
_FIRST = 1e9


class CheckHostCapacity(plugin.Check):
    """Alert when an LXC host can't take more containers, and tell what it still can.

    Memory and CPU count as promised to the containers that run: their limits, and what those without a limit use. What
    is free stands in the perfdata. Thresholds are on what is taken, so that N alerts at N and above; a size or a number
    of cores may be more than the host has. Processes that run on without their monitor use what nobody was promised: a
    WARNING. Monitors are not asked: check_container_state tells of one that hangs. Needs no root.
    """

    example = """\
  check_host_capacity.py
  check_host_capacity.py --memory-warning 24G --memory-critical 32G --cpu-warning 100%
  check_host_capacity.py -P /srv/lxc --disk-critical 95% --containers-critical 50"""

    def setup(self) -> None:
        add = self.parser.add_argument
        for kind, (warning, critical, what) in KINDS.items():
            told = tuple(f" (default: {one}%)" if one else "" for one in (warning, critical))
            plugin.add_pair(self.parser, kind, f"at {what}", NUMBERS[kind], default=told)
        add(
            "-P", "--lxcpath", metavar="DIR", action="append", default=[],
            help="where new containers go; may be repeated; default: where LXC, LXD and Incus of this host keep them",
        )  # fmt: skip
        super().setup()

    def validate(self) -> None:
        super().validate()
        self.levels: dict[str, Levels] = {}
        for kind, (warning, critical, _) in KINDS.items():
            default = Levels(warning and threshold(warning), critical and threshold(critical))
            self.levels[kind] = plugin.levels(self.options, default, kind)
        if self.levels["containers"].use_percent:
            raise Misuse("--containers-warning and --containers-critical take a number of containers, not a percentage")
        for path in self.options.lxcpath:
            if not path.startswith("/"):
                raise Misuse(f"--lxcpath {path!r} is not absolute; write for example -P /var/lib/lxc")

    def findings(self) -> Iterator[Finding]:
        found = self.inventory()
        seen = {container.directory for container in found.containers}
        elsewhere = [inventory.running_container(directory) for directory in sorted(found.running - seen)]
        tree = cgroups.Cgroups(self.host, found.running)
        held = capacity.host_capacity(self.host, tree, [*found.containers, *elsewhere], not found.unseen)
        yield from judge(held, self.levels)
        for container in found.containers:
            yield from self.orphans(tree, container, found.running)
        yield from self.strays(tree, found)
        for sentence in found.unseen:
            if self.uncounted(found):
                yield Finding(State.UNKNOWN, "", f"not all containers can be counted: {sentence}")
            else:
                self.note(sentence)
        seconds = self.options.timeout
        self.host.filesystems = disk.Filesystems(self.host, seconds * 0.2, seconds * 0.5)
        for number, path in enumerate(self.options.lxcpath or inventory.default_lxcpaths(self.host, [])):
            try:
                space = capacity.free_space(self.host, path)
            except CannotObserve as problem:
                yield Finding(State.UNKNOWN, "", f"{path}: {problem}")
                continue
            yield judge_disk(path, space, self.levels["disk"], self.levels["inodes"], "" if number == 0 else f"_{path}")
        self.host.filesystems.close()

    def orphans(self, tree: Cgroups, container: Container, running: set[str]) -> Iterator[Finding]:
        """What runs on without its monitor is in no sum of promises."""
        if container.has_monitor and not tree.beside(container, tree.payload_hierarchy()):
            return
        from sensu_lxc import states

        try:
            place = states.orphan(self.host, tree, container, running)
        except CannotObserve as problem:
            yield Finding(State.UNKNOWN, container.label, f"may run on without its monitor: {problem}")
            return
        if place:
            yield _orphaned(container.label, place)

    def strays(self, tree: Cgroups, found: Inventory) -> Iterator[Finding]:
        """Likewise of those that no lxcpath here defines."""
        from sensu_lxc import states

        try:
            there = states.strays_beside(tree, found)
        except CannotObserve as problem:
            yield Finding(State.UNKNOWN, "", str(problem))
            return
        yield from (_orphaned(name, place) for name, place in there)

    def uncounted(self, found: Inventory) -> bool:
        """Whether what could not be seen leaves open what is to be told.

        Those that run tell by their sockets; but in a directory that was named the others are asked for as well, and
        where a socket does not tell the lxcpath its container is in no sum.
        """
        return bool(self.options.lxcpath or inventory.command_sockets(self.host)[1])

    def inventory(self) -> Inventory:
        """All containers. That there is none is no reason not to tell what the host can take."""
        advice = "run as root, or name another directory with -P" if self.options.lxcpath else "run as root"
        try:
            return inventory.take(self.host, (), (), self.options.lxcpath, advice)
        except inventory.NoContainer:
            running, hashed = inventory.command_sockets(self.host)
            if hashed:
                raise
            return inventory.Inventory([], [], [], running)


def _orphaned(label: str, place: str) -> Finding:
    words = f"processes run on without their monitor, in {place}: what they use is promised to nobody; end those"
    return Finding(State.WARNING, label, words)


def judge(held: Capacity, levels: dict[str, Levels]) -> Iterator[Finding]:
    """What is promised, what is in use, and how many there are. A container that can't be seen is in no sum."""
    for label, sentence in held.unseen.items():
        yield Finding(State.UNKNOWN, label, f"is not in the host's sums: {sentence}")
    least = "at least " if held.unseen else ""
    taken = held.memory_promised_bytes, held.memory_bytes
    words = f"{least}{render.size(taken[0])} of {render.size(taken[1])} memory promised"
    if held.memory_unlimited:
        words += f", {held.memory_unlimited} without a limit counted with what they use"
    free = Measure("host_memory_unpromised", held.memory_unpromised_bytes, "B")
    promised = _judged(words, "host_memory_promised", "B", *taken, levels["memory"], free)
    # Where all is well the first line tells of one: what most hosts run short of.
    yield promised._replace(urgency=_FIRST) if promised.state is State.OK else promised

    taken = held.memory_used_bytes, held.memory_bytes
    words = f"{render.size(taken[0])} of {render.size(taken[1])} memory in use"
    free = Measure("host_memory_available", held.memory_available_bytes, "B", minimum=0)
    yield _judged(words, "host_memory_used", "B", *taken, levels["memory-used"], free)

    words = f"{least}{plain(round(held.cores_promised, 2))} of {held.cores} cores promised"
    if held.cores_unlimited:
        words += f", {held.cores_unlimited} may use every core"
    free = Measure("host_cpu_unpromised", held.cores_unpromised)
    load = () if held.load is None else (Measure("host_load5", held.load, minimum=0),)
    yield _judged(words, "host_cpu_promised", "", held.cores_promised, held.cores, levels["cpu"], free, *load)

    defined = "" if held.defined is None else f" of {held.defined}"
    words = f"{held.running}{defined} container{'' if held.running == 1 and not defined else 's'} running"
    more = () if held.defined is None else (Measure("host_containers_defined", held.defined, minimum=0),)
    yield _judged(words, "host_containers_running", "", held.running, None, levels["containers"], *more)


def judge_disk(path: str, space: Space, levels: Levels, inodes: Levels, place: str = "") -> Finding:
    """The worse of bytes and inodes of an lxcpath. place: ends the labels of every lxcpath but the first."""
    used, whole = space.used_bytes, space.used_bytes + space.available_bytes
    words = f"{render.size(used)} of {render.size(whole)} of {path} used"
    free = Measure(f"host_disk_free{place}", space.available_bytes, "B", minimum=0)
    found = _judged(words, f"host_disk_used{place}", "B", used, whole, levels, free)
    if space.used_inodes is None:
        return found
    used, whole = space.used_inodes, space.used_inodes + space.available_inodes
    free = Measure(f"host_inodes_free{place}", space.available_inodes, minimum=0)
    other = _judged(f"{used} of {whole} inodes", f"host_inodes_used{place}", "", used, whole, inodes, free, of="inodes")
    return found._replace(
        state=max(found.state, other.state),
        text=f"{found.words}, {other.words}",
        measures=found.measures + other.measures,
        urgency=max(found.urgency, other.urgency),
    )


def _judged(
    words: str, label: str, unit: str, value: float, whole: float | None, levels: Levels, *more: Measure, of: str = ""
) -> Finding:
    """of: what is counted where a small number of it makes no sense, and a % was forgotten; bytes without saying."""
    state, threshold = levels.judge(value, whole)
    measure = levels.measure(label, value, unit, whole)
    if threshold is not None:
        counted = "bytes" if unit == "B" else of
        spelt = threshold.spelt(counted, "all") if counted else threshold.text
        words += f" ({state.name.lower()} at {spelt})"
    return Finding(state, "", words, (measure, *more), 100 * value / whole if whole else 0.0)


def main() -> None:
    """The console script."""
    CheckHostCapacity.main()


if __name__ == "__main__":
    main()
