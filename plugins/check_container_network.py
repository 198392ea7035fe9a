#!/usr/bin/env python3
"""Alert when a container's network carries too much or too little, fails, drops packets, or has lost a link."""

from __future__ import annotations

from collections import namedtuple

from sensu_lxc import inventory, network, plugin, rates, render
from sensu_lxc.findings import Finding, State, worst
from sensu_lxc.history import differences
from sensu_lxc.levels import BYTES, COUNTS, NOTHING, Levels
from sensu_lxc.options import Misuse
from sensu_lxc.rates import span
from sensu_lxc.sources.net_dev import Interface

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sensu_lxc.history import Past
    from sensu_lxc.inventory import Container

KINDS = ("bytes", "packets", "errors", "drops")
FIELDS = tuple((field, *field.split("_")) for field in Interface._fields)
WAYS = {"rx": "in", "tx": "out"}
# How engines and hypervisors that run inside a container name the ends of what they run: those come and go with it.
PASSING = ("veth", "vnet", "tap", "cali")
# What is kept of an interface that is gone: nothing that a later one of its name could be compared with.
GONE = (0,)


class CheckContainerNetwork(rates.RateCheck):
    """Alert when a container's network carries too much or too little, fails, drops packets, or has lost a link.

    Rates are per second, since the previous run of the same command line; the first run looks twice (--sample). In and
    out are the container's own. Needs no root. Without thresholds only a link that is gone alerts.
    """

    example = """\
  check_container_network.py -n web1 --interface eth0 -w 50M -c 100M
  check_container_network.py -n 'web*' --errors-warning 1 --drops-warning 10 --drops-critical 100 --count 3
  check_container_network.py -n db1 --interface eth0,eth1 -c 1k:

Each way is judged by itself.
A link is gone (CRITICAL) when an interface that --interface names is not there, or one that an earlier run saw in this
life of the container; but veth*, vnet*, tap* and cali* come and go with what runs inside, and are only missed when
named. It stays CRITICAL until the link is back or the container restarts. Where
it is gone for good, name the others with --interface, or remove the check's file in --state-dir.
"""
    measured = "traffic"
    must_remember = True

    def setup(self) -> None:
        plugin.add_levels(self.parser, "traffic: bytes per second through an interface, in or out", BYTES)
        for kind in KINDS[1:]:
            plugin.add_pair(self.parser, kind, f"at this many {kind} per second, in or out", COUNTS)
        self.parser.add_argument(
            "--interface", metavar="NAME", action="append", default=[],
            help="interface, comma list or shell pattern ('eth*'), that must be there; may be repeated; default: every "
            "interface but lo",
        )  # fmt: skip
        super().setup()

    def validate(self) -> None:
        super().validate()
        options = self.options
        self.levels = {kind: plugin.levels(options, NOTHING, "" if kind == "bytes" else kind) for kind in KINDS}
        for kind, pair in self.levels.items():
            for one in pair:
                if one is None:
                    continue
                if one.is_percent:
                    raise Misuse(f"{one.text} of what? how fast a link is can't be seen; write a rate such as 10M")
                if kind != "bytes" and any(letter.isalpha() for letter in one.text):
                    raise Misuse(f"{one.text} is a size, but {kind} are counted; write a plain number")
                if one.at_and_above and one.high == 0:
                    raise Misuse(f"{one.text} alerts always, as it is 0 and above; ~:0 is more than nothing")
        names = [name.strip() for value in options.interface for name in value.split(",")]
        if "" in names:
            raise Misuse("--interface has an empty name in it; write for example --interface eth0,eth1 or 'eth*'")
        self.wanted: dict[str, Callable[[str], object]] = {name: inventory.matcher(name) for name in names}

    def prepare(self) -> None:
        super().prepare()
        self._seen: dict[str, Seen] = {}
        self._sharing: list[str] = []

    def look(self, container: Container) -> Iterable[Finding]:
        try:
            return super().look(container)
        except network.SharesHostNetwork:
            if self.options.name:
                raise
            self._sharing.append(container.label)
            return ()

    def observe(self, container: Container, surely: bool) -> Seen:
        life, interfaces = network.interfaces(self.host, self.tree, container, surely)
        # This run's first look knows what was gone before it.
        past = self._seen.get(container.directory) or self.history.before(container.directory)
        earlier = past.counters if past is not None and past.life == life else ()
        gone = [name for name in earlier if name not in interfaces and self._must_stay(name)]
        self._seen[container.directory] = seen = Seen(life, interfaces, gone)
        return seen

    def rate(self, container: Container, before: Past, facts: Seen, seconds: float) -> Iterator[Finding]:
        label, there = container.label, facts.interfaces
        names = [name for name in there if self._is_meant(name)]
        for name in names:
            earlier = before.counters.get(name, GONE)
            moved = differences(before.counters, there, name)
            if moved is not None:
                yield judge(label, name, Interface(*(count / seconds for count in moved)), self.levels, seconds)
            elif len(earlier) == len(GONE):
                yield Finding(State.OK, label, f"{name} is there since the last look; its rates come with the next")
            else:
                yield Finding(State.UNKNOWN, label, f"the counters of {name} began anew since the last look")
        for name in facts.gone:
            yield Finding(
                State.CRITICAL, label, f"{name} is gone; where that is meant, name the others with --interface",
                urgency=2.0**64,
            )  # fmt: skip
        for pattern, means in self.wanted.items():
            if not any(map(means, (*names, *facts.gone))):
                yield Finding(State.CRITICAL, label, f"has no interface {pattern}", urgency=2.0**64)
        if not (names or facts.gone or self.wanted):
            # Nothing goes through what is not there, which a lower bound is to tell.
            state = worst(Finding(pair.judge(0)[0], label, "") for pair in self.levels.values())
            yield Finding(state, label, "has no interface but lo")

    def finish(self) -> Iterator[Finding]:
        yield from super().finish()
        if self._sharing:
            self.note(f"not measured, as the network is the host's: {', '.join(sorted(self._sharing))}")

    def _is_meant(self, name: str) -> bool:
        return any(means(name) for means in self.wanted.values()) if self.wanted else name != "lo"

    def _must_stay(self, name: str) -> bool:
        return name in self.wanted or (self._is_meant(name) and not name.startswith(PASSING))


class Seen(namedtuple("Seen", "life interfaces gone")):
    """What a run saw of a container.

    life: see Cgroups.life; interfaces: {name: Interface}; gone: names of those that this life of the container had.
    """

    __slots__ = ()

    @property
    def counters(self) -> dict[str, tuple[int, ...]]:
        """What History keeps."""
        return {**self.interfaces, **dict.fromkeys(self.gone, GONE)}


def judge(label: str, name: str, rates: Interface, levels: dict[str, Levels], seconds: float) -> Finding:
    """rates: an Interface of numbers per second; levels: {kind: Levels} of each kind of number."""
    worst = State.OK
    measures, words = [], []
    for (field, way, kind), value in zip(FIELDS, rates):
        pair = levels[kind]
        state, threshold = pair.judge(value)
        worst = max(worst, state)
        measures.append(pair.measure(f"{name}_{field}_per_second", value, "B" if kind == "bytes" else ""))
        if kind == "bytes" or threshold is not None or (value and kind in ("errors", "drops")):
            words.append((way, kind, value, state, threshold))

    def said() -> str:
        parts = []
        for way, kind, value, state, threshold in words:
            amount = f"{render.size(value)}/s" if kind == "bytes" else f"{_number(value)} {kind}/s"
            parts.append(f"{amount} {WAYS[way]}")
            if threshold is not None:
                parts[-1] += f" ({state.name.lower()} at {threshold.text})"
        return f"{name} {', '.join(parts)} over {span(seconds)}"

    return Finding(worst, label, said, tuple(measures), max(rates.rx_bytes, rates.tx_bytes))


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.2g}"


def main() -> None:
    """The console script."""
    CheckContainerNetwork.main()


if __name__ == "__main__":
    main()
