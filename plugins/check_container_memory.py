#!/usr/bin/env python3
"""Alert when a container nears its memory limit, or uses more than it should."""

from __future__ import annotations

from collections import namedtuple

from sensu_lxc import measuring, plugin, render
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.findings import Finding, State
from sensu_lxc.levels import COUNTS, NOTHING, SIZES_OR_SHARES, Levels, threshold
from sensu_lxc.options import Misuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sensu_lxc.accounting import OomKills
    from sensu_lxc.cgroups import Memory
    from sensu_lxc.history import Past
    from sensu_lxc.inventory import Container
    from sensu_lxc.sources.meminfo import HostMemory

METRICS = {
    "used": "what the kernel can't take back without swap; at the limit the OOM killer comes (default)",
    "working-set": "usage less inactive file cache, as kubectl top shows it; active cache still counts",
    "usage": "all that is charged, page cache included; a busy container rests at its limit",
    "swap": "what was swapped out, of the swap the container may use",
}
WORDS = {"swap": "swapped out", "working-set": "in the working set", "usage": "charged"}
# memory: Memory; kills: OomKills, or None where nobody asks for them.
Facts = namedtuple("Facts", "memory kills")


class CheckContainerMemory(measuring.MeasuringCheck):
    """Alert when a container nears its memory limit, or uses more than it should.

    Reads the memory cgroup of running containers (v1, hybrid and v2); needs no root. Without -w and -c: -w 80% -c 90%.
    OOM kills are those since the previous run of the same command line; on v1 but for those in a cgroup inside the
    container that was removed since, which the kernel's log alone tells.
    """

    example = """\
  check_container_memory.py -n web1 -w 80% -c 90%
  check_container_memory.py -n 'web*' -n db1 -w 900M -c 1.5GiB
  check_container_memory.py --exclude build1 --metric working-set -c 95%
  check_container_memory.py --oom-kills-critical 1 --swap-warning 50%

--metric:
""" + "\n".join(f"  {name:12} {what}" for name, what in METRICS.items())
    measured = "memory"

    def setup(self) -> None:
        plugin.add_levels(self.parser, "memory (default: -w 80%% -c 90%%)")
        add = self.parser.add_argument
        add("--metric", choices=METRICS, default="used", help="what to count, see below")
        add(
            "--unlimited-as", choices=["host"], help="a container without a limit is measured against the host's memory"
        )
        plugin.add_pair(self.parser, "swap", "at this much swapped out, besides --metric", SIZES_OR_SHARES)
        plugin.add_pair(
            self.parser, "oom-kills", "at so many processes killed for want of memory since the previous run", COUNTS,
            metavar="N",
        )  # fmt: skip
        super().setup()

    def validate(self) -> None:
        super().validate()
        options = self.options
        self.levels = plugin.levels(options, Levels(threshold("80%"), threshold("90%")))
        self.swap_levels = plugin.levels(options, NOTHING, "swap")
        self.kill_levels = plugin.levels(options, NOTHING, "oom-kills")
        if self.kill_levels.use_percent:
            raise Misuse("--oom-kills-warning and -critical count processes; write for example --oom-kills-critical 1")
        if options.metric == "swap" and self.swap_levels != NOTHING:
            raise Misuse("--metric swap takes its levels by -w and -c; leave --swap-warning and --swap-critical out")
        self.looks_at_swap = options.metric == "swap" or self.swap_levels != NOTHING
        self.counts_kills = self.kill_levels != NOTHING

    def prepare(self) -> None:
        self.host_memory = self.tree.host_memory()
        if self.counts_kills:
            from sensu_lxc.history import History

            self.history = History(self.host, self.options.state_dir, arguments=self.arguments)

    def observe(self, container: Container, surely: bool) -> Facts:
        memory = self.tree.memory(container, surely)
        if self.looks_at_swap:
            memory = self.tree.swap(container, memory, surely)
        if not self.counts_kills:
            return Facts(memory, None)
        from sensu_lxc.accounting import oom_kills

        return Facts(memory, oom_kills(self.host, self.tree, container, surely))

    def judge(self, container: Container, facts: Facts) -> Iterator[Finding]:
        options, label = self.options, container.label
        by_host = options.unlimited_as == "host"
        yield judge(label, facts.memory, self.host_memory, self.levels, options.metric, by_host)
        if self.swap_levels != NOTHING:
            yield judge(label, facts.memory, self.host_memory, self.swap_levels, "swap", by_host)
        if facts.kills is not None:
            yield judge_kills(label, self._kills_since(container, facts.kills), self.kill_levels)

    def look(self, container: Container) -> Iterator[Finding]:
        try:
            yield from super().look(container)
        except CannotObserve as problem:
            if self.counts_kills and not isinstance(problem, NotThere):  # else it ended, and what follows is new
                self.history.miss(container.directory)
            raise

    def _kills_since(self, container: Container, kills: OomKills) -> int | None:
        """Since the previous run; None where there was none, or it could not tell."""
        from sensu_lxc.history import Past

        before: Past | None = self.history.before(container.directory)
        self.history.keep(container.directory, Past.now(kills))
        if before is None:
            return None if self.history.is_first else kills.kills
        if not before.was_seen:
            return None
        # One that was started since then counts from its start.
        return kills.kills if before.life != kills.life else kills.since(before.counters)

    def remember(self, untold: Collection[str] = ()) -> Iterator[Finding]:
        if self.counts_kills:
            try:
                self.history.save(untold)
            except CannotObserve as problem:
                yield Finding(State.UNKNOWN, "", f"OOM kills can't be told from run to run: {problem}")


def judge(
    label: str, memory: Memory, host: HostMemory, levels: Levels, metric: str = "used", unlimited_as_host: bool = False
) -> Finding:
    """A container can't run out of what has no limit, so a percentage then never alerts."""
    ceiling, limit = host.total_bytes, memory.limit_bytes
    if metric == "swap":
        ceiling, limit = host.swap_total_bytes, memory.swap_limit_bytes
        value = memory.swap_bytes
        if value is None:
            raise CannotObserve("the kernel does not count its swap; boot with swapaccount=1")
    elif metric == "usage":
        value = memory.usage_bytes
    else:
        value = memory.used_bytes if metric == "used" else memory.working_set_bytes
    if metric == "swap" and (limit == 0 or ceiling == 0):
        return Finding(State.OK, label, "may not swap" if limit == 0 else "the host has no swap")
    whole = min(limit, ceiling) if limit is not None else ceiling if unlimited_as_host and ceiling else None
    state, threshold = levels.judge(value, whole)
    measure = levels.measure(metric.replace("-", "_"), value, "B", whole)

    def said() -> str:
        words = f"{render.size(value)} {WORDS.get(metric, metric)}"
        if whole:
            words += f", {value / whole:.1%} of {render.size(whole)}{'' if limit is not None else ' of the host'}"
        elif whole == 0:
            words += ", of a limit of 0"
        else:
            words += ", no limit set" + (", so no percentage of it" if levels.use_percent else "")
        return words if threshold is None else f"{words} ({state.name.lower()} at {threshold.spelt('bytes')})"

    return Finding(state, label, said, (measure,), value / whole if whole else value / 2**63)


def judge_kills(label: str, kills: int | None, levels: Levels) -> Finding:
    """What the OOM killer took since the previous run. A process that it took is seen in no amount of memory."""
    if kills is None:
        return Finding(State.OK, label, "OOM kills are counted from this run on")
    state, threshold = levels.judge(kills)
    words = f"{kills} OOM kill{'' if kills == 1 else 's'} since the previous run"
    if threshold is not None:
        words += f" ({state.name.lower()} at {threshold.text})"
    return Finding(state, label, words, (levels.measure("oom_kills", kills),), kills or -1.0)


def main() -> None:
    """The console script."""
    CheckContainerMemory.main()


if __name__ == "__main__":
    main()
