#!/usr/bin/env python3
"""Alert when a container reads or writes too much: bytes and operations per second of its block devices."""

from __future__ import annotations

from collections import namedtuple

from sensu_lxc import accounting, plugin, rates, render
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.findings import Finding, worst
from sensu_lxc.levels import BYTES, COUNTS, NOTHING, Levels
from sensu_lxc.options import Misuse
from sensu_lxc.rates import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sensu_lxc.accounting import Io
    from sensu_lxc.history import Past
    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Container


class CheckContainerIo(rates.RateCheck):
    """Alert when a container reads or writes too much: bytes and operations per second of its block devices.

    Measured since the previous run of the same command line; the first run looks twice (--sample). Without thresholds
    it only measures. What a logical volume or a loop device passes on to a disk is counted once. Where the kernel does
    not count (cgroup v1 until a limit is set) the check is UNKNOWN and says what to do; what the kernel writes back
    later for a container v1 never counts. Needs no root.
    """

    example = """\
  check_container_io.py -n web1 -w 50M -c 100M
  check_container_io.py -n 'db*' --operations-warning 500 --operations-critical 1000 --count 3
  check_container_io.py --device vda --device /dev/vg0/data -c 20MiB"""
    measured = "I/O"

    def setup(self) -> None:
        plugin.add_levels(self.parser, "read and written per second", BYTES)
        plugin.add_pair(self.parser, "operations", "at this many reads and writes per second", COUNTS)
        self.parser.add_argument(
            "--device", metavar="DEVICE", action="append", default=[],
            help="this one by itself: vda, /dev/vg0/data or 254:0; may be repeated; default: the sum of all",
        )  # fmt: skip
        super().setup()

    def validate(self) -> None:
        super().validate()
        options = self.options
        self.sizes = plugin.levels(options, NOTHING)
        self.operations = plugin.levels(options, NOTHING, "operations")
        for one in (*self.sizes, *self.operations):
            if one is not None and one.is_percent:
                raise Misuse(f"{one.text}: I/O has no limit that it could be a percentage of; write for example -w 50M")

    def prepare(self) -> None:
        super().prepare()
        self.devices = [number_of(self.host, name) for name in self.options.device]
        self._names: dict[str, str] = {}

    def observe(self, container: Container, surely: bool) -> Io:
        return accounting.io(self.host, self.tree, container, surely)

    def rate(self, container: Container, before: Past, facts: Io, seconds: float) -> Iterator[Finding]:
        for device in dict.fromkeys(self.devices):
            if device not in facts.counters and facts.lists_only_counted:
                raise accounting.NotCounted(f"the kernel counts none of its I/O on {self._name(device)}")
            rates = per_second([_moved(before, facts, device)], seconds)
            yield judge(container.label, rates, self.sizes, self.operations, self._name(device))
        if not self.devices:
            moves = {device: _moved(before, facts, device) for device in facts.devices}
            rates = per_second(moves.values(), seconds)
            yield judge(container.label, rates, self.sizes, self.operations, "", self._where(facts, moves))

    def _where(self, facts: Io, moves: dict[str, tuple[int, ...]]) -> str:
        """Which disks a sum is of where others are not counted, else the busiest of several."""
        if facts.lists_only_counted:
            return f" on {', '.join(map(self._name, moves))}"
        busiest = max(moves, key=lambda device: sum(moves[device][:2]), default="")
        return f", most on {self._name(busiest)}" if len(moves) > 1 and any(moves[busiest]) else ""

    def _name(self, device: str) -> str:
        if device not in self._names:
            self._names[device] = accounting.device_name(self.host, device)
        return self._names[device]


# All per second but seconds, which is over how long.
Rates = namedtuple("Rates", "read_bytes written_bytes reads writes seconds")


def _moved(before: Past, facts: Io, device: str) -> tuple[int, ...]:
    """How far a device's counters moved. One that was not listed before had its first I/O since."""
    if device in before.counters and device in facts.counters:
        return rates.moved(before, facts, device)
    return facts.counters.get(device, (0, 0, 0, 0))


def per_second(moves: Iterable[tuple[int, ...]], seconds: float) -> Rates:
    """The sum of the devices' differences, by time."""
    read_bytes, written_bytes, reads, writes = (sum(column) / seconds for column in zip((0, 0, 0, 0), *moves))
    return Rates(read_bytes, written_bytes, reads, writes, seconds)


def judge(label: str, rates: Rates, sizes: Levels, operations: Levels, device: str = "", where: str = "") -> Finding:
    """The worse of both: bytes read and written, and operations. device: the only one meant; where: words on others."""
    total, number = rates.read_bytes + rates.written_bytes, rates.reads + rates.writes
    of_sizes, size = sizes.judge(total)
    of_operations, operation = operations.judge(number)
    prefix = f"{device}_" if device else ""
    measures = (
        sizes.measure(f"{prefix}io", total, "B"),
        NOTHING.measure(f"{prefix}read", rates.read_bytes, "B"),
        NOTHING.measure(f"{prefix}written", rates.written_bytes, "B"),
        operations.measure(f"{prefix}operations", number),
        NOTHING.measure(f"{prefix}reads", rates.reads),
        NOTHING.measure(f"{prefix}writes", rates.writes),
    )

    def said() -> str:
        words = f"{device} " if device else ""
        words += f"read {render.size(rates.read_bytes)}/s and wrote {render.size(rates.written_bytes)}/s{where}"
        if size is not None:
            words += f" ({of_sizes.name.lower()} at {size.text})"
        words += f", {number:.0f} operations/s"
        if operation is not None:
            words += f" ({of_operations.name.lower()} at {operation.text})"
        return f"{words}, over {span(rates.seconds)}"

    state = worst((Finding(of_sizes, "", ""), Finding(of_operations, "", "")))
    return Finding(state, label, said, measures, total)


def number_of(host: Host, name: str) -> str:
    """ "8:0" for sda, /dev/sda or 8:0. Raises CannotObserve where there is no such disk."""
    known = host.real(name).rpartition("/")[2] if name.startswith("/") else name
    folder = "/sys/dev/block" if known.replace(":", "").isdigit() else "/sys/class/block"
    place = f"{folder}/{known.replace('/', '!')}"
    try:
        number = host.value(f"{place}/dev").decode("ascii", "replace").strip()
    except NotThere:
        raise CannotObserve(f"there is no block device {name!r} here; --device takes vda, /dev/vda or 254:0") from None
    if host.has(f"{place}/partition"):
        raise CannotObserve(f"{name} is a partition, and I/O is counted by disk; name its disk with --device")
    return number


def main() -> None:
    """The console script."""
    CheckContainerIo.main()


if __name__ == "__main__":
    main()
