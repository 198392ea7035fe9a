#!/usr/bin/env python3
"""Alert when a container is not in the state it should be in."""

from __future__ import annotations

from sensu_lxc import cgroups, inventory, plugin, states
from sensu_lxc.errors import CannotObserve, NotAllowed
from sensu_lxc.expected import EXPECTABLE, absent, judge, stray
from sensu_lxc.findings import Finding, Measure, State
from sensu_lxc.levels import duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from sensu_lxc.lives import Often

# The options about a container's life. Nothing is loaded or read for them unless one is given.
LIVES = ("restarts_warning", "restarts_critical", "uptime_warning", "uptime_critical", "addresses")
HAVE_NO_LIFE = ("STOPPED", "STARTING", "STOPPING", "ABORTING", states.ORPHANED)


class CheckContainerState(plugin.ContainerCheck):
    """Alert when a container is not in the state it should be in.

    Asks LXC's monitors and the kernel's freezer, starts no process and needs root only to list containers that are
    hidden from others. A hung monitor, or processes that run on without one, is CRITICAL whatever is expected. Restarts
    are counted from run to run of the same command line: what was restarted twice between two runs counts once.
    """

    example = """\
  check_container_state.py
  check_container_state.py --autostart-only --exclude 'test-*'
  check_container_state.py -n 'web*' --restarts-critical 3/1h --uptime-warning 10m --addresses ipv4,ipv6
  check_container_state.py -n golden-image -P /srv/lxc --expect STOPPED"""

    def setup(self) -> None:
        add = self.parser.add_argument
        add(
            "--expect",
            metavar="STATE",
            type=str.upper,
            choices=EXPECTABLE,
            default="RUNNING",
            help="RUNNING (default), STOPPED, FROZEN",
        )
        add("--autostart-only", action="store_true", help="only those that start with the host (lxc.start.auto = 1)")
        for grade in ("warning", "critical"):
            add(
                f"--restarts-{grade}", metavar="N/TIME", type=_often,
                help=f"{grade.upper()} at N restarts within that time: 3/1h",
            )  # fmt: skip
            add(
                f"--uptime-{grade}", metavar="TIME", type=duration,
                help=f"{grade.upper()} while it has been up for less than that",
            )  # fmt: skip
        add(
            "--addresses", metavar="FAMILY", type=_families,
            help="ipv4, ipv6 or ipv4,ipv6: CRITICAL where it has none that others could reach it at",
        )  # fmt: skip
        super().setup()

    def validate(self) -> None:
        super().validate()
        self.tells_lives = any(getattr(self.options, name) is not None for name in LIVES)
        if self.tells_lives:
            from sensu_lxc import lives

            lives.validate(self.options)

    def findings(self) -> Iterator[Finding]:
        found = self.inventory()
        tree = cgroups.Cgroups(self.host, found.running)
        if found.missing:
            yield from self._missing(tree, found)
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
                    advice = "; run as root" if isinstance(problem, NotAllowed) else ""
                    yield Finding(State.UNKNOWN, container.label, f"may start with the host: {problem}{advice}")
            if found.containers and not containers and not untold:
                count = len(found.containers)
                words = f"none of {count} containers is" if count > 1 else "the only container is not"
                words += " to start with the host"
                yield Finding(State.UNKNOWN, "", words)
        seconds = min(2.0, self.options.timeout * 0.3)
        seen = states.observe(self.host, tree, containers, seconds, found.running)
        counts = dict.fromkeys(EXPECTABLE, 0)
        told = None
        if self.tells_lives:
            from sensu_lxc.lives import Lives

            self.lives = told = Lives(self.host, self.options, self.arguments)
        for container in containers:
            state = seen[container.directory]
            if isinstance(state, CannotObserve):
                yield Finding(State.UNKNOWN, container.label, str(state))
            else:
                counts[state.name] = counts.get(state.name, 0) + 1
                yield judge(container.label, state, self.options.expect, container.defined)
            if told is not None:
                lives_on = not isinstance(state, CannotObserve) and state.name not in HAVE_NO_LIFE
                yield from told.findings(tree, container, lives_on)
        if not (self.options.name or self.options.lxcpath):
            yield from self._strays(tree, found)
        self.measures = [Measure(name.lower(), count, minimum=0) for name, count in counts.items()]

    def _missing(self, tree: cgroups.Cgroups, found: inventory.Inventory) -> Iterator[Finding]:
        """A container that was named and is not there may run on all the same, where only its definition is gone."""
        try:
            names = {directory.rpartition("/")[2] for directory in found.running}
            strays = dict(states.strays(tree, names, found.running))
        except CannotObserve:
            strays = {}
        for name in found.missing:
            means = inventory.matcher(name)
            there = [one for one in sorted(strays) if means(one)]
            if there:
                yield from (stray(one, strays[one]) for one in there if not self._is_excluded(one))
            elif inventory.is_pattern(name):
                yield Finding(State.UNKNOWN, name, inventory.absent(name))
            else:
                yield absent(name, self.options.lxcpath)

    def _is_excluded(self, name: str) -> bool:
        return any(inventory.matcher(one)(name) for one in self.options.exclude)

    def _strays(self, tree: cgroups.Cgroups, found: inventory.Inventory) -> Iterator[Finding]:
        try:
            there = states.strays_beside(tree, found)
        except CannotObserve as problem:
            yield Finding(State.UNKNOWN, "", str(problem))
            return
        yield from (stray(name, place) for name, place in there if not self._is_excluded(name))

    def remember(self, untold: Collection[str] = ()) -> Iterable[Finding]:
        """A restart that nobody took is told again anyway, for as long as it lies in the window."""
        return self.lives.remember() if self.tells_lives else ()


def _often(text: str) -> Often:
    from sensu_lxc.lives import often

    return often(text)


def _families(text: str) -> list[str]:
    from sensu_lxc.lives import families

    return families(text)


def main() -> None:
    """The console script."""
    CheckContainerState.main()


if __name__ == "__main__":
    main()
