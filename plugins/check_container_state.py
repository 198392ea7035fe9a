#!/usr/bin/env python3
"""Alert when a container is not in the state it should be in."""

from __future__ import annotations

from sensu_lxc import cgroups, inventory, plugin, states
from sensu_lxc.errors import CannotObserve
from sensu_lxc.findings import Finding, Measure, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

EXPECTABLE = ("RUNNING", "STOPPED", "FROZEN")
# A state on its way to the one that is expected: (expected, seen).
PASSING = {("RUNNING", "STARTING"), ("STOPPED", "STOPPING"), ("FROZEN", "FREEZING")}


class CheckContainerState(plugin.ContainerCheck):
    """Alert when a container is not in the state it should be in.

    Asks LXC's monitors and the kernel's freezer, starts no process and needs root only to list containers that are
    hidden from others. A hung monitor, or processes that run on without one, is CRITICAL whatever is expected.
    """

    example = """\
  check_container_state.py
  check_container_state.py --autostart-only --exclude 'test-*'
  check_container_state.py -n golden-image -P /srv/lxc --expect STOPPED"""

    def setup(self) -> None:
        add = self.parser.add_argument
        add(
            "--expect",
            metavar="STATE",
            choices=EXPECTABLE,
            default="RUNNING",
            help="RUNNING (default), STOPPED, FROZEN",
        )
        add("--autostart-only", action="store_true", help="only those that start with the host (lxc.start.auto = 1)")
        super().setup()

    def findings(self) -> Iterator[Finding]:
        found = self.inventory()
        for name in found.missing:
            if inventory.is_pattern(name):
                yield Finding(State.UNKNOWN, name, "matches no container that can be seen here")
            else:
                yield Finding(State.CRITICAL, name, "does not exist: no lxcpath defines it and no monitor runs for it")
        for sentence in found.unseen:
            yield Finding(State.UNKNOWN, "", f"stopped containers may be missing here: {sentence}")
        containers = found.containers
        if self.options.autostart_only:
            containers, untold = [], 0
            for container in found.containers:
                try:
                    if inventory.starts_with_host(self.host, container):
                        containers.append(container)
                except CannotObserve as problem:
                    untold += 1
                    yield Finding(State.UNKNOWN, container.label, f"may start with the host: {problem}")
            if found.containers and not containers and not untold:
                raise CannotObserve(f"none of {len(found.containers)} containers is to start with the host")
        tree = cgroups.Cgroups(self.host, found.running)
        seconds = min(2.0, self.options.timeout * 0.3)
        seen = states.observe(self.host, tree, containers, seconds, found.running)
        counts = dict.fromkeys(EXPECTABLE, 0)
        for container in containers:
            state = seen[container.directory]
            if isinstance(state, CannotObserve):
                yield Finding(State.UNKNOWN, container.label, str(state))
            else:
                counts[state.name] = counts.get(state.name, 0) + 1
                yield judge(container.label, state, self.options.expect, container.defined)
        self.measures = [Measure(name.lower(), count, minimum=0) for name, count in counts.items()]


def judge(label: str, state: states.State, expected: str, defined: bool | None = True) -> Finding:
    """What a state means where another one may be expected.

    A container that does not run and that this user may not see the definition of might not exist at all: said, as
    both is bad where it should run.
    """
    detail = f" ({state.detail})" if state.detail else ""
    if state.name == states.UNRESPONSIVE:
        return Finding(State.CRITICAL, label, f"monitor unresponsive{detail}; lxc-info and lxc-stop will hang on it")
    if state.name == states.ORPHANED:
        return Finding(
            State.CRITICAL,
            label,
            f"runs on without its monitor, in {state.detail}; LXC calls it STOPPED, and starting it would start a "
            "second copy: end those processes first",
        )
    unsure = ""
    if state.name == "STOPPED" and defined is None:
        unsure = ", if it exists: its definition can't be read by this user"
        if expected != "RUNNING":
            return Finding(State.UNKNOWN, label, f"STOPPED{unsure}")
    if state.name == expected:
        return Finding(State.OK, label, f"{state.name}{detail}")
    grade = State.WARNING if (expected, state.name) in PASSING else State.CRITICAL
    return Finding(grade, label, f"{state.name}{detail}, expected {expected}{unsure}")


def main() -> None:
    """The console script."""
    CheckContainerState.main()


if __name__ == "__main__":
    main()
