#!/usr/bin/env python3
"""Show what the containers of this host use, busiest first, as top shows processes."""

from __future__ import annotations

import os
import sys
from collections import namedtuple
from time import monotonic, sleep, strftime

from sensu_lxc import accounting, cgroups, inventory, network, plugin, render, states, table
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.findings import Finding, State
from sensu_lxc.history import differences
from sensu_lxc.levels import duration
from sensu_lxc.options import Misuse
from sensu_lxc.sources import cpu as cpu_files
from sensu_lxc.table import Cell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import NoReturn

    from sensu_lxc.cgroups import Cgroups
    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Container

LIVE_SECONDS, ONCE_SECONDS = 2.0, 0.5
MONITORS_SECONDS = 0.2  # how long a hung monitor may hold up a refresh, however many hang
# What somebody has to see to, whatever the containers use: it comes first, and is counted above the table.
ORPHAN_BESIDE = "+ORPHANED"
TROUBLE = (states.ORPHANED, states.UNRESPONSIVE, ORPHAN_BESIDE)
STOPPED = ("STOPPED", "STOPPED?")
COLOURS = dict.fromkeys(STOPPED, table.DIM) | {"FROZEN": table.CYAN}

# What was read of a container; state: a word of states.py, with ORPHAN_BESIDE where an earlier life runs on beside it,
# with a ? where it may run all the same, "" where it can't be told; the others are None where they could not be read.
Look = namedtuple("Look", "at state cpu memory tasks io network pressures")


class Row(
    namedtuple(
        "Row",
        "name state cpu_percent cpu_cores_used cpu_cores memory_used_bytes memory_limit_bytes memory_percent "
        "swap_used_bytes read_bytes_per_second written_bytes_per_second received_bytes_per_second "
        "sent_bytes_per_second tasks tasks_limit cpu_pressure_percent memory_pressure_percent io_pressure_percent",
    )
):
    """A container in the table; None for what is not known of it, "" for a state that is not.

    cpu_percent: of cpu_cores, which is what it may use; memory_percent: of its limit, or of the host's RAM;
    …_pressure_percent: of the time, in which some of its tasks waited for that.
    """

    __slots__ = ()


def _sum(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _pressure(row: Row) -> float | None:
    every = (row.cpu_pressure_percent, row.memory_pressure_percent, row.io_pressure_percent)
    return max((one for one in every if one is not None), default=None)


# {what to sort by: (the key that sorts by it, its value)}
SORTS: dict[str, tuple[str, Callable[[Row], float | str | None]]] = {
    "cpu": ("c", lambda row: row.cpu_percent),
    "memory": ("m", lambda row: row.memory_used_bytes),
    "swap": ("w", lambda row: row.swap_used_bytes),
    "io": ("i", lambda row: _sum(row.read_bytes_per_second, row.written_bytes_per_second)),
    "network": ("n", lambda row: _sum(row.received_bytes_per_second, row.sent_bytes_per_second)),
    "tasks": ("t", lambda row: row.tasks),
    "pressure": ("p", _pressure),
    "name": ("a", lambda row: row.name),
}
KEYS = "q quit, r reverse, " + ", ".join(f"{key} {name}" for name, (key, _) in SORTS.items())


class TopContainers(plugin.ContainerCheck):
    """Show what the containers of this host use, busiest first.

    CPU is in percent of what a container may use (quota, cpuset, CPUs), memory is what the kernel can't take back, in
    percent of its limit or else of the host's; network as the container sees it; PRESSURE is for how much of the time
    some task waited for CPU/memory/I/O. A dash stands where the kernel does not count, or hides it from this user.
    First come those in trouble: ORPHANED runs without its monitor, +ORPHANED is beside processes of an earlier life,
    the monitor of one that is UNRESPONSIVE hangs; check_container_state.py says more of each.
    """

    example = (
        """\
  top_containers.py
  top_containers.py --sort memory -n 'web*'
  top_containers.py --once --sort io
  top_containers.py --json | jq '.containers[] | select(.cpu_percent > 90).name'

Keys: """
        + KEYS
    )
    may_be_per_container = False
    verbosely = "has no meaning here"

    def setup(self) -> None:
        # While stdout is still the terminal: who looks and prints once does that in a process apart.
        self.columns = (os.get_terminal_size(1).columns if os.isatty(1) else 0) or 1000
        self.has_colours = table.wants_colours(1)
        add = self.parser.add_argument
        add("--sort", choices=SORTS, default="cpu", help="what to sort by (default: cpu)")
        add("--reverse", action="store_true", help="the least first")
        add(
            "--interval", metavar="TIME", type=duration,
            help="how often to look (default: 2s); with --once and --json for how long (default: 500ms)",
        )  # fmt: skip
        add("--once", action="store_true", help="print the table once; also where this is no terminal")
        add("--json", action="store_true", help="print the numbers once, as JSON")
        super().setup()

    def validate(self) -> None:
        super().validate()
        options = self.options
        self.by, self.is_reversed = options.sort, options.reverse
        if options.interval is None:
            options.interval = ONCE_SECONDS if self._is_once(self.arguments) else LIVE_SECONDS
        if self._is_once(self.arguments) and options.interval >= options.timeout:
            raise Misuse(f"--interval {options.interval:g} s does not fit into --timeout {options.timeout:g} s")

    @staticmethod
    def _is_once(arguments: Sequence[str]) -> bool:
        return bool({"--once", "--json"}.intersection(arguments)) or not (os.isatty(0) and os.isatty(1))

    @classmethod
    def main(cls, arguments: Sequence[str] | None = None) -> NoReturn:
        """Fill the terminal until told to end; where there is none, and with --once, print and end as a check does."""
        arguments = sys.argv[1:] if arguments is None else arguments
        if cls._is_once(arguments):
            super().main(arguments)
        try:
            top = cls(arguments)
        except (Exception, SystemExit):
            super().main(arguments)  # says it
        status = 0
        try:
            top.live()
        except KeyboardInterrupt:
            status = 130
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        except CannotObserve as problem:
            top.aside(f"{cls.__name__} UNKNOWN: {render.text(str(problem), 600)}")
            status = State.UNKNOWN
        except OSError:  # the terminal is gone
            status = State.UNKNOWN
        os._exit(status)

    # Once

    def findings(self) -> Iterator[Finding]:
        before = self.looks()
        sleep(self.options.interval)
        self.rows = self.compared(before, self.looks())
        yield Finding(State.OK, "", f"{len(self.rows)} containers")
        for name in self.missing:
            yield Finding(State.UNKNOWN, name, inventory.absent(name))

    def output(self, status: State, findings: Sequence[Finding]) -> str:
        rows = self.sorted(self.rows)
        for finding in findings:
            if finding.state is State.UNKNOWN:
                self.aside(f"{type(self).__name__} UNKNOWN: {render.text(str(finding))}")
        for sentence in self.unseen:
            self.aside(f"{type(self).__name__}: {render.text(sentence)}")
        if self.options.json:
            from json import dumps

            about = {"cores": self.cores, "memory_bytes": self.memory_bytes}
            return dumps({**about, "containers": [row._asdict() for row in rows]}, indent=1)
        return "\n".join(lines(rows, self.by, self.columns, self.has_colours))

    # Live

    def live(self) -> None:
        """Look and show until a key, a signal or the terminal's end. Raises CannotObserve where there is nothing."""
        before = self.looks()
        after, rows, problem = before, self.compared({}, before), ""
        seconds = min(ONCE_SECONDS, self.options.interval)  # the first rates come soon
        due = monotonic() + seconds
        with table.Terminal() as terminal:
            while True:
                columns, height = terminal.size
                colours = table.wants_colours(1)
                shown = [table.cut(problem or self.summary(rows), columns)]
                for sentence, colour in () if problem else self.warnings(rows):
                    words = table.cut(sentence, columns)
                    shown.append(table.paint(words, colour) if colours else words)
                shown += lines(self.sorted(rows), self.by, columns, colours)
                hidden = len(shown) - (height - 1)
                if hidden > 0:
                    shown = [*shown[: height - 2], f"… and {hidden + 1} more"]
                terminal.show([*shown, *[""] * (height - 1 - len(shown)), table.cut(KEYS, columns)])
                for key in terminal.wait(due - monotonic()):
                    if key in "qQ\x04":
                        return
                    self.pressed(key)
                if monotonic() >= due:
                    due = monotonic() + self.options.interval
                    try:
                        before, after, problem = after, self.looks(), ""
                    except CannotObserve as error:  # the last container went; others may come
                        after, problem = {}, str(error)
                    rows = self.compared(before, after)

    def pressed(self, key: str) -> None:
        """Do what a key is for."""
        if key == "r":
            self.is_reversed = not self.is_reversed
        for name, (its_key, _) in SORTS.items():
            if key == its_key:
                self.by, self.is_reversed = name, False

    def summary(self, rows: Sequence[Row]) -> str:
        """The line above the table."""
        running = [row for row in rows if row.state not in ("", *STOPPED)]
        cores, used = (_sum(*(getattr(row, one) for row in rows)) for one in ("cpu_cores_used", "memory_used_bytes"))
        return (
            f"{strftime('%H:%M:%S')}  {len(running)} of {len(rows)} containers run, using "
            f"{cores or 0:.2f} of {self.cores} cores, {render.size(used or 0)} of {render.size(self.memory_bytes)}; "
            f"by {self.by}{' reversed' if self.is_reversed else ''}"
        )

    def warnings(self, rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
        """The lines between those two, each with its colour: what the numbers do not tell."""
        troubled = [row for row in self.sorted(rows) if in_trouble(row)]
        if troubled:
            yield "see to " + ", ".join(f"{row.name} ({row.state})" for row in troubled), table.RED
        if self.missing:
            yield "; ".join(f"{name}: {inventory.absent(name)}" for name in self.missing), table.YELLOW
        for sentence in self.unseen:
            yield sentence, table.DIM

    # Both

    def sorted(self, rows: Sequence[Row]) -> list[Row]:
        """The rows in order; trouble comes first, what is not known last, and what is equal by name."""
        value = SORTS[self.by][1]
        rows = sorted(rows, key=lambda row: row.name)
        known = [row for row in rows if value(row) is not None]
        rest = [row for row in rows if value(row) is None]
        ordered = sorted(known, key=value, reverse=(self.by == "name") == self.is_reversed)  # type: ignore[arg-type]
        return sorted([*ordered, *rest], key=lambda row: not in_trouble(row))

    def looks(self) -> dict[str, Look]:
        """{label: Look} of all containers."""
        found = self.inventory()
        self.missing = found.missing
        self.unseen = [f"stopped containers may be missing here: {sentence}" for sentence in found.unseen]
        tree = cgroups.Cgroups(self.host, found.running)
        seen = states.observe(self.host, tree, found.containers, MONITORS_SECONDS, found.running)
        for container in found.containers:
            state = seen[container.directory]
            if not isinstance(state, CannotObserve) and state.name == states.ORPHANED:
                tree.orphan_is_in(container, state.detail)
        self.memory_bytes = tree.host_memory().total_bytes
        path = "/sys/devices/system/cpu/online"
        self.cores = cpu_files.count_of_list(self.host.value(path), path)
        return {one.label: look(self.host, tree, one, word(seen[one.directory])) for one in found.containers}

    def compared(self, before: dict[str, Look], after: dict[str, Look]) -> list[Row]:
        """A row for each container that is there now."""
        return [row(label, before.get(label), now, self.memory_bytes) for label, now in after.items()]


def word(state: states.State | CannotObserve) -> str:
    """What the table says of a state."""
    if isinstance(state, CannotObserve):
        return ""
    if state.beside:
        return f"{state.name}{ORPHAN_BESIDE}"
    # Without its config read nobody knows for sure; that is every stopped one to an ordinary user, and said elsewhere.
    return f"{state.name}{'' if state.doubt in ('', states.HIDDEN) else '?'}"


def in_trouble(row: Row) -> bool:
    """Whether somebody has to see to it."""
    return bool(row.state.endswith(TROUBLE))


def look(host: Host, tree: Cgroups, container: Container, state: str) -> Look:
    """Read all of a container; what can't be read costs nothing else."""

    def read(from_: Callable[..., object], *more: object) -> object:
        try:
            return from_(host, tree, container, *more)
        except CannotObserve:
            return None

    now = monotonic()
    if state in STOPPED:
        return Look(now, state, None, None, None, None, None, {})
    return Look(
        now,
        state,
        read(accounting.cpu),
        read(_memory),
        read(accounting.pids),
        read(accounting.io),
        read(network.interfaces),
        {resource: read(accounting.pressure, resource) for resource in accounting.RESOURCES},
    )


def _memory(host: Host, tree: Cgroups, container: Container) -> object:
    memory = tree.memory(container)
    try:
        return tree.swap(container, memory)
    except NotThere:  # the kernel does not count it
        return memory


def row(label: str, before: Look | None, now: Look, host_memory_bytes: int) -> Row:
    """What a container used between two looks; its rates are None at the first, and after a restart."""
    seconds = now.at - before.at if before is not None else 0.0

    def rates(kind: str, fact: object, earlier: object, width: int, but: str | None = None) -> list[float | None]:
        """How much each counter moved in a second, summed over devices or interfaces."""
        if fact is None or earlier is None or seconds <= 0 or fact.life != earlier.life:  # type: ignore[attr-defined]
            return [None] * width
        counters = getattr(fact, kind)
        moved = [differences(getattr(earlier, kind), counters, item) for item in counters if item != but]
        return [sum(one[number] for one in moved if one) / seconds for number in range(width)]

    cpu, memory, tasks = now.cpu, now.memory, now.tasks
    was = before or now._replace(cpu=None, io=None, network=None, pressures={})
    (used_ns,) = rates("counters", cpu, was.cpu, 1)
    read, written = rates("devices", now.io, was.io, 2)
    received, _, _, _, sent = rates("interfaces", now.network, was.network, 5, "lo")
    pressures = [
        rates("counters", now.pressures.get(resource), was.pressures.get(resource), 1)[0]
        for resource in accounting.RESOURCES
    ]
    cores = None if used_ns is None else used_ns / 1e9
    ceiling = host_memory_bytes if memory is None else min(memory.limit_bytes or host_memory_bytes, host_memory_bytes)
    return Row(
        label,
        now.state,
        None if cores is None else 100 * cores / cpu.cores,
        cores,
        None if cpu is None else cpu.cores,
        None if memory is None else memory.used_bytes,
        None if memory is None else memory.limit_bytes,
        None if memory is None or not ceiling else 100 * memory.used_bytes / ceiling,
        None if memory is None else memory.swap_bytes,
        read,
        written,
        received,
        sent,
        None if tasks is None else tasks.tasks,
        None if tasks is None else tasks.limit,
        *(None if one is None else min(100.0, one / 1e4) for one in pressures),
    )


# The last ones are left out where there is no room.
HEADINGS = (
    "NAME", "STATE", "CPU%", "CORES", "MEMORY", "MEM%", "TASKS", "READ/s", "WRITE/s", "RECV/s", "SENT/s", "SWAP",
    "PRESSURE",
)  # fmt: skip
# Which column is what a sort goes by.
SORTED_COLUMNS = {
    "cpu": {"CPU%"}, "memory": {"MEMORY"}, "swap": {"SWAP"}, "io": {"READ/s", "WRITE/s"},
    "network": {"RECV/s", "SENT/s"}, "tasks": {"TASKS"}, "pressure": {"PRESSURE"}, "name": {"NAME"},
}  # fmt: skip


def lines(rows: Sequence[Row], by: str, columns: int, colours: bool) -> list[str]:
    """The table."""
    heading = [
        Cell(
            name,
            f"{table.BOLD};{table.REVERSED}" if name in SORTED_COLUMNS[by] else table.BOLD,
            name in ("NAME", "STATE"),
        )
        for name in HEADINGS
    ]
    return table.table(heading, map(_cells, rows), columns, colours)


def _cells(row: Row) -> list[Cell]:
    colour = table.RED if in_trouble(row) else COLOURS.get(row.state, "")
    pressures = (row.cpu_pressure_percent, row.memory_pressure_percent, row.io_pressure_percent)
    waits = "/".join("-" if one is None else f"{one:.0f}" for one in pressures)
    return [
        Cell(row.name, colour, True),
        Cell(row.state or "?", colour, True),
        Cell(_percent(row.cpu_percent), _alarming(row.cpu_percent)),
        Cell("-" if row.cpu_cores is None else f"{row.cpu_cores:.4g}"),
        Cell(_size(row.memory_used_bytes)),
        Cell(_percent(row.memory_percent), _alarming(row.memory_percent)),
        Cell("-" if row.tasks is None else str(row.tasks)),
        Cell(_size(row.read_bytes_per_second)),
        Cell(_size(row.written_bytes_per_second)),
        Cell(_size(row.received_bytes_per_second)),
        Cell(_size(row.sent_bytes_per_second)),
        Cell(_size(row.swap_used_bytes)),
        Cell("-" if waits == "-/-/-" else waits, _alarming(max(one or 0 for one in pressures) * 2)),
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _size(value: float | None) -> str:
    return "-" if value is None else render.size(value).replace(" ", "").replace("iB", "")


def _alarming(percent: float | None) -> str:
    if percent is None or percent < 80:
        return ""
    return table.RED if percent >= 90 else table.YELLOW


def main() -> None:
    """The console script."""
    TopContainers.main()


if __name__ == "__main__":
    main()
