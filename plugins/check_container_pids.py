#!/usr/bin/env python3
"""Alert when a container nears its limit of tasks, at which nothing in it can start any more."""

from __future__ import annotations

from sensu_lxc import accounting, measuring, plugin
from sensu_lxc.errors import CannotObserve
from sensu_lxc.findings import Finding
from sensu_lxc.levels import COUNTS_OR_SHARES, Levels, plain, threshold
from sensu_lxc.sources import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sensu_lxc.accounting import Pids
    from sensu_lxc.inventory import Container

_HOST_LIMITS = ("/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max")


class CheckContainerPids(measuring.MeasuringCheck):
    """Alert when a container nears its limit of tasks, at which nothing in it can start any more.

    Tasks are processes and their threads, as the kernel counts them; the limit is the least of the container's own
    (pids.max), of those above it and of the host's. Needs no root. Without -w and -c: -w 80% -c 90%.
    """

    example = """\
  check_container_pids.py -n web1 -w 80% -c 90%
  check_container_pids.py -n 'web*' -w 500 -c 1000
  check_container_pids.py --unlimited-as host -c 50%"""
    measured = "tasks"

    def setup(self) -> None:
        plugin.add_levels(self.parser, "tasks (default: -w 80%% -c 90%%)", COUNTS_OR_SHARES)
        self.parser.add_argument(
            "--unlimited-as", choices=["host"], help="a container without a limit is measured against the host's limit"
        )
        super().setup()

    def validate(self) -> None:
        super().validate()
        self.levels = plugin.levels(self.options, Levels(threshold("80%"), threshold("90%")))

    def prepare(self) -> None:
        self.host_limit: int | None = None
        try:
            self.host_limit = min(cgroup.number(self.host.value(path), path) for path in _HOST_LIMITS)
        except CannotObserve:
            if self.options.unlimited_as:
                raise

    def observe(self, container: Container, surely: bool) -> Pids:
        return accounting.pids(self.host, self.tree, container, surely)

    def judge(self, container: Container, facts: Pids) -> Iterator[Finding]:
        yield judge(container.label, facts, self.levels, self.host_limit, self.options.unlimited_as == "host")


def judge(
    label: str, pids: Pids, levels: Levels, host_limit: int | None = None, unlimited_as_host: bool = False
) -> Finding:
    """A container can't run out of what has no limit, so a percentage then never alerts.

    host_limit: how many tasks the host takes in all, None where that is not known.
    """
    limits = [limit for limit in (pids.limit, host_limit) if limit is not None]
    whole = min(limits) if limits and (pids.limit is not None or unlimited_as_host) else None
    state, threshold = levels.judge(pids.tasks, whole)
    measure = levels.measure("tasks", pids.tasks, whole=whole)

    def said() -> str:
        words = f"{pids.tasks} task{'' if pids.tasks == 1 else 's'}"
        if whole is None:
            words += ", no limit set" + (", so no percentage of it" if levels.use_percent else "")
        else:
            share = f"{pids.tasks / whole:.1%} of " if whole else "of a limit of "
            words += f", {share}{plain(whole)}{'' if whole == pids.limit else ' of the host'}"
        return words if threshold is None else f"{words} ({state.name.lower()} at {threshold.spelt('tasks')})"

    return Finding(state, label, said, (measure,), pids.tasks / whole if whole else pids.tasks / 2**63)


def main() -> None:
    """The console script."""
    CheckContainerPids.main()


if __name__ == "__main__":
    main()
