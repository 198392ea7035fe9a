#!/usr/bin/env python3
"""Alert when a container uses up the CPU time it may use, or is throttled."""

from __future__ import annotations

from collections import namedtuple

from sensu_lxc import accounting, plugin, rates
from sensu_lxc.findings import Finding, State
from sensu_lxc.levels import NOTHING, SHARES, Levels, Numbers, plain, threshold
from sensu_lxc.options import Misuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sensu_lxc.accounting import Cpu
    from sensu_lxc.history import Past
    from sensu_lxc.inventory import Container

SHARES_OR_CORES = Numbers("a percentage (80, 80%), or with --cores a number of cores (1.5)", "@10:20, 10:")


class CheckContainerCpu(rates.RateCheck):
    """Alert when a container uses up the CPU time it may use, or is throttled.

    100% is what it may use: its quota, its cpuset or the host's CPUs, whichever is least. The percentage is that of the
    time since the previous run of the same command line; the first run looks twice (--sample). Needs no root. Without
    -w and -c: -w 80% -c 90%.
    """

    example = """\
  check_container_cpu.py -n web1 -w 80% -c 90%
  check_container_cpu.py -n 'web*' --cores -w 1.5 -c 2
  check_container_cpu.py --throttled-warning 25% --throttled-critical 50% --count 3"""
    measured = "CPU time"

    def setup(self) -> None:
        plugin.add_levels(self.parser, "CPU time (default: -w 80%% -c 90%%)", SHARES_OR_CORES)
        self.parser.add_argument("--cores", action="store_true", help="a plain number in -w and -c is in cores: 1.5")
        plugin.add_pair(self.parser, "throttled", "where it had to wait in this much of its quota's periods", SHARES)
        super().setup()

    def validate(self) -> None:
        super().validate()
        options = self.options
        self.levels = plugin.levels(options, Levels(threshold("80%"), threshold("90%")))
        self.throttled = plugin.levels(options, NOTHING, "throttled")
        for one in (*self.throttled, *(() if options.cores else self.levels)):
            if one is not None and not one.is_percent and (one.high or one.low or 0) > 100:
                raise Misuse(f"{one.text} is more than 100%, which is never reached; --cores -w 1.5 is in cores")

    def observe(self, container: Container, surely: bool) -> Cpu:
        return accounting.cpu(self.host, self.tree, container, surely)

    def rate(self, container: Container, before: Past, facts: Cpu, seconds: float) -> Iterator[Finding]:
        used_ns, periods, throttled_periods, _ = rates.moved(before, facts)
        used = Used(used_ns / 1e9 / seconds, facts.cores, seconds)
        yield judge(container.label, used, self.levels, self.options.cores)
        if periods:
            yield judge_throttled(container.label, throttled_periods, periods, self.throttled)


# used_cores: CPU time per time, of cores that it may use; seconds: over how long.
Used = namedtuple("Used", "used_cores cores seconds")


def judge(label: str, used: Used, levels: Levels, in_cores: bool = False) -> Finding:
    """Percentages are of what the container may use; so are plain numbers, unless they are in cores."""
    percent = 100 * used.used_cores / used.cores
    value, whole, unit = (used.used_cores, used.cores, "") if in_cores else (percent, 100.0, "%")
    state, threshold = levels.judge(value, whole)
    measure = levels.measure("cpu_cores" if in_cores else "cpu", value, unit, whole)

    def said() -> str:
        words = f"{percent:.1f}% of {plain(round(used.cores, 2))} core{'' if used.cores == 1 else 's'}"
        if in_cores:
            words = f"{used.used_cores:.2f} cores, {words}"
        words += f" over {rates.span(used.seconds)}"
        return words if threshold is None else f"{words} ({state.name.lower()} at {threshold.text})"

    return Finding(state, label, said, (measure,), percent)


def judge_throttled(label: str, throttled_periods: int, periods: int, levels: Levels) -> Finding:
    """In how many of its quota's periods it had to wait for the next one. Without levels it is only measured."""
    percent = 100 * throttled_periods / periods
    state, threshold = levels.judge(percent, 100.0)
    measure = levels.measure("throttled", percent, "%", 100.0)
    words = f"throttled in {percent:.1f}% of {periods} periods of its quota"
    if threshold is not None:
        words += f" ({state.name.lower()} at {threshold.text})"
    return Finding(state, label, words, (measure,), percent if state is not State.OK else -1.0)


def main() -> None:
    """The console script."""
    CheckContainerCpu.main()


if __name__ == "__main__":
    main()
