#!/usr/bin/env python3
"""Alert when a container waits for CPU, memory or I/O rather than works (pressure stall information)."""

from __future__ import annotations

from collections import namedtuple

from sensu_lxc import accounting, plugin, rates
from sensu_lxc.accounting import RESOURCES
from sensu_lxc.errors import NotThere
from sensu_lxc.findings import Finding, State, worst
from sensu_lxc.levels import NOTHING, SHARES, Levels, threshold
from sensu_lxc.options import Misuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sensu_lxc.history import Past
    from sensu_lxc.inventory import Container

WORDS = {"cpu": "CPU", "memory": "memory", "io": "I/O"}


class CheckContainerPressure(rates.RateCheck):
    """Alert when a container waits for CPU, memory or I/O rather than works (pressure stall information).

    In how much of the time since the previous run of the same command line did some of its tasks wait for the resource
    (-w, -c), and in how much did all wait that had something to do (--full-warning, --full-critical)? The first run
    looks twice (--sample). Needs cgroup v2, which a hybrid host has beside v1; needs no root. Without any threshold:
    --full-warning 20% --full-critical 60%. Some wait wherever there is much to do; when all do, nothing gets done.
    """

    example = """\
  check_container_pressure.py -n web1
  check_container_pressure.py --resource memory --resource io -w 30% -c 60%
  check_container_pressure.py -n 'db*' --resource io --full-warning 10% --full-critical 40% --count 3"""
    measured = "pressure"

    def setup(self) -> None:
        plugin.add_levels(self.parser, "of the time in which some of it waited", SHARES)
        plugin.add_pair(self.parser, "full", "at this much of the time in which all of it waited", SHARES)
        self.parser.add_argument(
            "--resource", choices=RESOURCES, action="append",
            help="what it waits for; may be repeated; default: all three",
        )  # fmt: skip
        super().setup()

    def validate(self) -> None:
        super().validate()
        options = self.options
        self.resources = [one for one in RESOURCES if one in (options.resource or RESOURCES)]
        self.some = plugin.levels(options, NOTHING)
        self.full = plugin.levels(options, NOTHING, "full")
        for one in (*self.some, *self.full):
            if one is not None and not one.is_percent and (one.high or one.low or 0) > 100:
                raise Misuse(f"{one.text} is more than 100%, which is never reached; write for example 30%")
        self.by_default = self.some == self.full == NOTHING
        if self.by_default:
            # systemd-oomd ends what loses 60% of its time to memory.
            self.full = Levels(threshold("20%"), threshold("60%"))

    def observe(self, container: Container, surely: bool) -> Pressures:
        found = {one: accounting.pressure(self.host, self.tree, container, one, surely) for one in self.resources}
        (life, *others) = {facts.life for facts in found.values()}
        if others:
            raise NotThere("it was made anew while it was looked at")
        return Pressures(life, {resource: facts.counters[""] for resource, facts in found.items()})

    def rate(self, container: Container, before: Past, facts: Pressures, seconds: float) -> Iterator[Finding]:
        judged = []
        for resource in self.resources:
            shares = [min(100.0, waited_us / seconds / 1e4) for waited_us in rates.moved(before, facts, resource)]
            some, full = shares if len(shares) > 1 else (shares[0], None)
            levels = NOTHING if full is None and self.by_default else self.full
            waited = Waited(resource, some, full, seconds)
            judged.append((waited, judge(container.label, waited, self.some, levels)))
        good = [(waited, finding) for waited, finding in judged if finding.state is State.OK]
        yield from (finding for _, finding in judged if finding.state is not State.OK)
        yield from together(container.label, good)


# counters: {resource: (µs in which some waited, µs in which all did)}, without the latter where the kernel has it not.
Pressures = namedtuple("Pressures", "life counters")
# Shares of the last `seconds` in percent; full_percent: None where the kernel does not tell.
Waited = namedtuple("Waited", "resource some_percent full_percent seconds")


def judge(label: str, waited: Waited, some: Levels, full: Levels) -> Finding:
    """The worse of both. Levels of what the kernel does not tell make it UNKNOWN."""
    judged = [(waited.some_percent, "some", some, "some of it waited")]
    words = []
    measures = []
    states = []
    if waited.full_percent is not None:
        judged.append((waited.full_percent, "full", full, "all of it"))
    for percent, kind, levels, said in judged:
        state, threshold = levels.judge(percent, 100.0)
        states.append(Finding(state, "", ""))
        words.append(
            f"{said} {percent:.1f}%" + ("" if threshold is None else f" ({state.name.lower()} at {threshold.text})")
        )
        measures.append(levels.measure(f"{waited.resource}_{kind}", percent, "%", 100.0))
    if waited.full_percent is None and full != NOTHING:
        states.append(Finding(State.UNKNOWN, "", ""))
        words.append("whether all of it did is not told (for CPU since Linux 5.13)")
    text = f"for {WORDS[waited.resource]} {', '.join(words)} of the time over {rates.span(waited.seconds)}"
    return Finding(worst(states), label, text, tuple(measures), max(percent for percent, *_ in judged))


def together(label: str, judged: Sequence[tuple[Waited, Finding]]) -> Iterator[Finding]:
    """What is well in one sentence, rather than in one for each resource."""
    if len(judged) < 2:
        yield from (finding for _, finding in judged)
        return
    told = [
        f"{waited.some_percent:.1f}%"
        + ("" if waited.full_percent is None else f" ({waited.full_percent:.1f}%)")
        + f" for {WORDS[waited.resource]}"
        for waited, _ in judged
    ]
    words = f"some (all) of it waited {', '.join(told)} of the time over {rates.span(judged[0][0].seconds)}"
    findings = [finding for _, finding in judged]
    measures = tuple(measure for finding in findings for measure in finding.measures)
    yield Finding(State.OK, label, words, measures, max(finding.urgency for finding in findings))


def main() -> None:
    """The console script."""
    CheckContainerPressure.main()


if __name__ == "__main__":
    main()
