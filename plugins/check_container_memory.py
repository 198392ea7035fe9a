#!/usr/bin/env python3
"""Alert when a container nears its memory limit, or uses more than it should."""

from __future__ import annotations

from time import sleep

from sensu_lxc import cgroups, inventory, plugin, render
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.findings import Finding, Measure, State
from sensu_lxc.levels import Levels, threshold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sensu_lxc.cgroups import Cgroups, Memory
    from sensu_lxc.inventory import Container
    from sensu_lxc.levels import Threshold
    from sensu_lxc.sources.meminfo import HostMemory

METRICS = {
    "used": "what the kernel can't take back without swap; at the limit the OOM killer comes (default)",
    "working-set": "usage less inactive file cache, as kubectl top shows it; active cache still counts",
    "usage": "all that is charged, page cache included; a busy container rests at its limit",
    "swap": "what was swapped out, of the swap the container may use",
}
WORDS = {"swap": "swapped out", "working-set": "in the working set", "usage": "charged"}
REBOOT_SECONDS = 0.1


class CheckContainerMemory(plugin.ContainerCheck):
    """Alert when a container nears its memory limit, or uses more than it should.

    Reads the memory cgroup of running containers (v1, hybrid and v2); needs no root. Without -w and -c: -w 80% -c 90%.
    """

    example = """\
  check_container_memory.py -n web1 -w 80% -c 90%
  check_container_memory.py -n 'web*' -n db1 -w 900M -c 1.5GiB
  check_container_memory.py --exclude build1 --metric working-set -c 95%

A threshold is N (alerts at N and above: 943718400, 900M, 1.5GiB, 80% of the limit) or a Nagios range (64M:, @10%:20%).
--metric:
""" + "\n".join(f"  {name:12} {what}" for name, what in METRICS.items())

    def setup(self) -> None:
        plugin.add_levels(self.parser, "memory (default: -w 80%% -c 90%%)")
        add = self.parser.add_argument
        add("--metric", choices=METRICS, default="used", help="what to count, see below")
        add(
            "--unlimited-as", choices=["host"], help="a container without a limit is measured against the host's memory"
        )
        super().setup()

    def validate(self) -> None:
        super().validate()
        self.levels = plugin.levels(self.options, Levels(threshold("80%"), threshold("90%")))

    def findings(self) -> Iterator[Finding]:
        found = self.inventory()
        for name in found.missing:
            yield Finding(State.UNKNOWN, name, "no such container here, or it is not running and hidden from this user")
        running = [container for container in found.containers if container.has_monitor]
        stopped = [container for container in found.containers if not container.has_monitor]
        tree = cgroups.Cgroups(self.host, found.running)
        host = tree.host_memory()
        options = self.options
        for container in running:
            try:
                memory = observe(tree, container, options.metric)
                yield judge(container.label, memory, host, self.levels, options.metric, options.unlimited_as == "host")
            except CannotObserve as problem:
                if isinstance(problem, NotThere) and not inventory.has_monitor_now(self.host, container):
                    stopped.append(container)
                else:
                    yield Finding(State.UNKNOWN, container.label, str(problem))
        if stopped:
            from sensu_lxc.states import payload_without_monitor
        for container in stopped:
            try:
                orphans = payload_without_monitor(self.host, tree, container, found.running)
            except CannotObserve as problem:
                yield Finding(State.UNKNOWN, container.label, str(problem))
                continue
            if orphans:
                yield Finding(State.UNKNOWN, container.label, f"runs on without its monitor, in {orphans}")
            elif options.name:
                yield Finding(State.UNKNOWN, container.label, "is not running, so it has no memory to measure")
        if stopped and not options.name:
            self.note(f"{len(stopped)} not running")
        for sentence in found.unseen:
            self.note(sentence)


def observe(tree: Cgroups, container: Container, metric: str) -> Memory:
    """The container's memory. Its cgroup is made anew at a reboot, hence the second look."""
    for surely in (False, True, True):
        try:
            memory = tree.memory(container, surely)
            return tree.swap(container, memory, surely) if metric == "swap" else memory
        except NotThere as problem:
            vanished = problem
        if surely:
            sleep(REBOOT_SECONDS)
    raise vanished


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
    measure = Measure(
        metric.replace("-", "_"), value, "B",
        levels.warning.as_range(whole) if levels.warning else "",
        levels.critical.as_range(whole) if levels.critical else "",
        0, whole,
    )  # fmt: skip

    def said() -> str:
        words = f"{render.size(value)} {WORDS.get(metric, metric)}"
        if whole:
            words += f", {value / whole:.1%} of {render.size(whole)}{'' if limit is not None else ' of the host'}"
        elif whole == 0:
            words += ", of a limit of 0"
        else:
            words += ", no limit set" + (", so no percentage of it" if levels.use_percent else "")
        return words if threshold is None else f"{words} ({state.name.lower()} at {spelt(threshold)})"

    return Finding(state, label, said, (measure,), value / whole if whole else value / 2**63)


def spelt(threshold: Threshold) -> str:
    """The threshold as it was given, with its unit where that went without saying: a forgotten % shows there."""
    text: str = threshold.text
    if not text.isdigit():
        return text
    return f"{text} bytes; {text}% would be of the limit" if int(text) <= 100 else f"{text} bytes"


def main() -> None:
    """The console script."""
    CheckContainerMemory.main()


if __name__ == "__main__":
    main()
