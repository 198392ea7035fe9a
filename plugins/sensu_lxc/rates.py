"""Checks that measure how fast counters move: from run to run, or by a second look where there was no run before."""

from __future__ import annotations

from time import monotonic, sleep

from sensu_lxc import measuring
from sensu_lxc.errors import CannotObserve
from sensu_lxc.findings import Finding, State
from sensu_lxc.history import History, Past, differences
from sensu_lxc.levels import duration
from sensu_lxc.options import Misuse

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Collection, Iterable, Iterator
    from typing import Any

    from sensu_lxc.inventory import Container

_SAMPLE_SECONDS = 0.5
# An average over longer than that hides what happens now, so that a second look is taken instead.
_OLDEST_SECONDS = 3600.0


def add_rate_options(parser: ArgumentParser) -> None:
    """--sample and --count, in the words that all checks of rates share."""
    add = parser.add_argument
    add(
        "--sample", metavar="TIME", type=duration,
        help="how long to look where there is no previous run to compare with (default: 500ms)",
    )  # fmt: skip
    add(
        "--count", metavar="N", type=_count, default=1,
        help="alert only when N runs in a row were over (default: 1)",
    )  # fmt: skip


def _count(text: str) -> int:
    from argparse import ArgumentTypeError

    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 1000 and len(text) < 5):
        raise ArgumentTypeError(f"{text[:40]!r} is not a number of runs; write for example --count 3")
    return int(text)


class RateCheck(measuring.MeasuringCheck):
    """Measures how fast counters move: since the previous run, or by a second look where there was none.

    There was none for a rate where it was of another life of the container, or more than an hour ago. One of less than
    --sample ago is compared with once it is that long ago, lest what happened since be in no run's rate. What else it
    knows (runs in a row that were over, interfaces) holds for as long as the life and the boot do.

    The facts that a subclass observes have life and counters (see history.Past).
    """

    # True where a run that knows of none before it may be OK for what is not.
    must_remember = False

    def rate(self, container: Container, before: Past, facts: Any, seconds: float) -> Iterable[Finding]:
        """What it means that the counters of before became those of facts within that many seconds."""
        raise NotImplementedError

    def setup(self) -> None:
        add_rate_options(self.parser)
        super().setup()

    def validate(self) -> None:
        super().validate()
        options = self.options
        if options.sample is None:
            options.sample = min(_SAMPLE_SECONDS, options.timeout / 2)
        if options.sample >= options.timeout:
            raise Misuse(f"--sample {options.sample:g} s does not fit into --timeout {options.timeout:g} s")

    def prepare(self) -> None:
        self.history = History(self.host, self.options.state_dir, arguments=self.arguments)
        self._first: list[tuple[Container, float, Any]] = []

    def look(self, container: Container) -> Iterable[Finding]:
        facts, now = self.observed(container), monotonic()
        past = self.history.before(container.directory)
        if past is None or past.life != facts.life or now - past.at > _OLDEST_SECONDS:
            self._first.append((container, now, facts))
            return ()
        if now - past.at < self.options.sample:
            self._first.append((container, past.at, past))
            return ()
        return self._told(container, past, facts, now)

    def finish(self) -> Iterator[Finding]:
        if self._first:
            sleep(max(0.0, max(at for _, at, _ in self._first) + self.options.sample - monotonic()))
            self.tree.forget()
            firsts = {container.directory: (at, facts) for container, at, facts in self._first}

            def look_again(container: Container) -> Iterable[Finding]:
                facts, now = self.observed(container), monotonic()
                at, earlier = firsts[container.directory]
                if earlier.life != facts.life:
                    raise CannotObserve("restarted while it was looked at; the next run tells")
                past = self.history.before(container.directory)
                over = past.over if past is not None and past.life == facts.life else (0, 0)
                return self._told(container, Past(earlier.life, at, earlier.counters, over), facts, now)

            yield from self.each([container for container, _, _ in self._first], look_again)

    def remember(self, untold: Collection[str] = ()) -> Iterator[Finding]:
        try:
            self.history.save(untold)
        except CannotObserve as problem:
            if self.options.count > 1:
                yield Finding(State.UNKNOWN, "", f"runs in a row can't be counted: {problem}")
            elif self.must_remember:
                yield Finding(State.UNKNOWN, "", f"what is gone at the next run can't be told then: {problem}")
            else:
                self.note(f"this run is not remembered: {problem}")

    def _told(self, container: Container, past: Past, facts: Any, now: float) -> Iterator[Finding]:
        try:
            found = list(self.rate(container, past, facts, now - past.at))
        except CannotObserve:  # kept all the same: the next run is to compare with this one, not again with that
            self.history.keep(container.directory, Past(facts.life, now, facts.counters, past.over))
            raise
        over = runs_over([finding.state for finding in found], past.over)
        self.history.keep(container.directory, Past(facts.life, now, facts.counters, over))
        for finding in found:
            yield not_yet(finding, over, self.options.count) if self.options.count > 1 else finding


def runs_over(states: Iterable[State], before: tuple[int, int]) -> tuple[int, int]:
    """(runs in a row over warning or critical, runs in a row over critical), this one among them.

    A run that could not tell neither counts nor ends a row.
    """
    seen = set(states)
    warning, critical = before
    if State.CRITICAL in seen:
        return warning + 1, critical + 1
    if State.WARNING in seen:
        return warning + 1, 0
    return before if State.UNKNOWN in seen else (0, 0)


def not_yet(finding: Finding, over: tuple[int, int], count: int) -> Finding:
    """The finding as --count has it: only the worst that held for that many runs in a row alerts."""
    if finding.state not in (State.WARNING, State.CRITICAL):
        return finding
    warning, critical = over
    runs = critical if finding.state is State.CRITICAL else warning
    if runs >= count:
        return finding
    state = State.WARNING if warning >= count else State.OK
    return finding._replace(
        state=state, text=lambda: f"{finding.words}, {finding.state.name.lower()} for {runs} of {count} runs"
    )


def moved(before: Past, facts: Any, item: str = "") -> tuple[int, ...]:
    """How far each counter of an item moved. Raises CannotObserve where they began anew."""
    found = differences(before.counters, facts.counters, item)
    if found is None:
        raise CannotObserve(f"the counters{' of ' + item if item else ''} began anew since the last look")
    return found


def span(seconds: float) -> str:
    """A time between two looks for a person: 0.5 s, 60 s."""
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
