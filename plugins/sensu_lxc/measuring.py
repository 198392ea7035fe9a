"""Checks that measure what runs; rates.py has those that measure how fast counters move."""

from __future__ import annotations

from time import sleep

from sensu_lxc import cgroups, inventory, plugin
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.findings import Finding, State
from sensu_lxc.options import Misuse

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from sensu_lxc.inventory import Container

REBOOT_SECONDS = 0.1
_NAMED = 3


class MeasuringCheck(plugin.ContainerCheck):
    """Measures each container that runs. A subclass says how in observe() and judge()."""

    # What a stopped container has none of: "is not running, so it has no memory to measure".
    measured = ""

    def setup(self) -> None:
        """Add --self: what can be measured of a container can be measured in it."""
        self.parser.add_argument(
            "--self", dest="inside", action="store_true",
            help="only the container that this runs in, seen from inside: its own cgroup, or lxcfs for its memory; "
            "limits that the host sets above it are not seen there",
        )  # fmt: skip
        super().setup()

    def validate(self) -> None:
        super().validate()
        if self.options.inside:
            for option in ("name", "exclude", "lxcpath", "per_container"):
                if getattr(self.options, option):
                    raise Misuse(
                        f"--self is the one container that this runs in; leave --{option.replace('_', '-')} out"
                    )

    def observe(self, container: Container, surely: bool) -> Any:
        """The facts about a container; with surely its cgroup is looked up anew. Raises CannotObserve."""
        raise NotImplementedError

    def judge(self, container: Container, facts: Any) -> Iterable[Finding]:
        """What the facts mean."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Observe what is the host's, before the containers; self.tree is there."""

    def findings(self) -> Iterator[Finding]:
        if self.options.inside:
            yield from self._inside()
            return
        found = self.inventory()
        for name in found.missing:
            yield Finding(State.UNKNOWN, name, inventory.absent(name))
        self.tree = cgroups.Cgroups(self.host, found.running)
        self.prepare()
        self.stopped = [container for container in found.containers if not container.has_monitor]
        running = [container for container in found.containers if container.has_monitor]
        yield from self.each(running, self.look)
        yield from self.finish()
        if self.stopped:
            yield from self._not_running(found.running)
        for sentence in found.unseen:
            self.note(sentence)

    def _inside(self) -> Iterator[Finding]:
        from sensu_lxc import inside

        container = inside.container(self.host)
        self.tree = tree = inside.Own(self.host)
        self.prepare()
        yield from self.each([container], self.look)
        yield from self.finish()
        for sentence in tree.notes:
            self.note(sentence)

    def look(self, container: Container) -> Iterable[Finding]:
        """Observe and judge one container."""
        return self.judge(container, self.observed(container))

    def finish(self) -> Iterable[Finding]:
        """What is left to find once all containers were looked at."""
        return ()

    def each(
        self, containers: Iterable[Container], look: Callable[[Container], Iterable[Finding]]
    ) -> Iterator[Finding]:
        """look at each. One that can't be observed costs the others nothing; one that stopped meanwhile is told so."""
        unseen: dict[str, list[str]] = {}
        for container in containers:
            try:
                yield from look(container)
            except CannotObserve as problem:
                missed = isinstance(problem, NotThere) and not container.is_own
                if missed and not inventory.has_monitor_now(self.host, container):
                    self.stopped.append(container)
                else:
                    unseen.setdefault(str(problem), []).append(container.label)
        for sentence, labels in unseen.items():
            yield from self._told_once(sentence, labels)

    def _told_once(self, sentence: str, labels: list[str]) -> Iterator[Finding]:
        """What is wrong with the kernel is wrong with each container of the host, and is read once."""
        if len(labels) == 1 or self.options.verbose or self.options.per_container:
            yield from (Finding(State.UNKNOWN, label, sentence) for label in labels)
            return
        labels.sort()
        names = ", ".join(labels[:_NAMED]) + (f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else "")
        yield Finding(State.UNKNOWN, "", f"each of {len(labels)} containers ({names}): {sentence}", urgency=1.0)

    def observed(self, container: Container) -> Any:
        """observe(), looking again where the cgroup is being made anew, as at a reboot."""
        for surely in (False, True, True):
            try:
                return self.observe(container, surely)
            except NotThere as problem:
                vanished = problem
            if surely:
                sleep(REBOOT_SECONDS)
        raise vanished

    def _not_running(self, running: set[str]) -> Iterator[Finding]:
        from sensu_lxc.states import payload_without_monitor

        counted = 0
        for container in self.stopped:
            try:
                orphans = payload_without_monitor(self.host, self.tree, container, running)
            except CannotObserve as problem:
                yield Finding(State.UNKNOWN, container.label, str(problem))
                continue
            if orphans:
                yield Finding(State.UNKNOWN, container.label, f"runs on without its monitor, in {orphans}")
            elif container.name in self.options.name:  # a pattern means those that there are to measure
                yield Finding(
                    State.UNKNOWN, container.label, f"is not running, so it has no {self.measured} to measure"
                )
            else:
                counted += 1
        if counted:
            self.note(f"{counted} not running")
