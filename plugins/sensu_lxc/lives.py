"""How long a container has been up, how often it was started again, and whether it has an address.

Nobody counts the starts of a container: its init's start time is all that the kernel tells. So each look remembers the
start that it saw, and two of them between two looks are one. What was started before the first look, as after the
host's own boot, is no restart.
"""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from collections import namedtuple
from time import monotonic

from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.findings import Finding, Measure, State
from sensu_lxc.history import History, Past
from sensu_lxc.levels import duration, plain
from sensu_lxc.options import Misuse
from sensu_lxc.sources import addresses, net_unix
from sensu_lxc.sources import stat as stat_files

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sensu_lxc.cgroups import Cgroups
    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Container

FAMILIES = {"ipv4": "IPv4", "ipv6": "IPv6"}
_STARTS = "starts"
_REMEMBERED = 1000
_HUNDREDTHS = 100

# count: restarts; seconds: the window; text: as it was written, 3/1h.
Often = namedtuple("Often", "count seconds text")


def often(text: str) -> Often:
    """Parse N/TIME. For argparse: type=often."""
    count, slash, window = text.strip().partition("/")
    if not (slash and count.isascii() and count.isdigit() and 0 < int(count[:9]) <= _REMEMBERED):
        raise ArgumentTypeError(
            f"{text[:40]!r} is not a number of restarts in a time; write for example 3/1h for three within an hour"
        )
    return Often(int(count), duration(window), text.strip())


def families(text: str) -> list[str]:
    """Parse ipv4, ipv6 or ipv4,ipv6. For argparse: type=families."""
    found = [one.strip().lower() for one in text.split(",")]
    if not set(found) <= set(FAMILIES) or len(set(found)) < len(found):
        raise ArgumentTypeError(f"{text[:40]!r} is no family of addresses; write ipv4, ipv6 or ipv4,ipv6")
    return found


def start_seconds(host: Host, tree: Cgroups, container: Container, surely: bool = False) -> float:
    """When the container was started, in seconds since the host's boot. A reboot of its own is a start as well."""
    if surely:
        tree.directory(container, tree.payload_hierarchy(), surely=True)
    path = f"/proc/{tree.init_pid(container)}/stat"
    return stat_files.start_ticks(host.value(path), path) / os.sysconf("SC_CLK_TCK")


def host_seconds(host: Host) -> float:
    """How long ago the host was booted."""
    path = "/proc/uptime"
    return stat_files.uptime_seconds(host.value(path), path)


def uptime(host: Host, tree: Cgroups, container: Container, surely: bool = False) -> float:
    """For how many seconds the container has been up. Raises CannotObserve where its init can't be told."""
    started = start_seconds(host, tree, container, surely)
    return max(0.0, host_seconds(host) - started)


def has_addresses(host: Host, tree: Cgroups, container: Container, family: str) -> list[str]:
    """The addresses that others reach it at: family is a key of FAMILIES. Raises CannotObserve for a borrowed network.

    With net.type = none it sees the host's network, with the host's addresses: its own command socket is there as well.
    """
    pid = tree.init_pid(container)
    path = f"/proc/{pid}/net/unix"
    running, hashed = net_unix.command_sockets(host.read(path), path)
    if container.directory in running or container.address[: -len("/command")] in hashed:
        raise CannotObserve("has the host's network (net.type none), so no address of its own")
    name, parse = ("fib_trie", addresses.ipv4) if family == "ipv4" else ("if_inet6", addresses.ipv6)
    path = f"/proc/{pid}/net/{name}"
    try:
        return parse(host.read(path), path)
    except NotThere:
        if family == "ipv6" and host.has(f"/proc/{pid}/net/fib_trie"):  # a kernel without IPv6
            return []
        raise


def with_start(known: tuple[int, ...], start: int, now: int, window: int) -> tuple[int, ...]:
    """The known starts and this one, in any one unit. Of those before the window one is kept: what came first is known.

    >>> with_start((100, 2000, 5000), 7000, 8000, 4000)
    (2000, 5000, 7000)
    """
    starts = sorted({*known, start})[-_REMEMBERED:]
    before = [one for one in starts if one < now - window]
    return (*before[-1:], *starts[len(before) :])


def restarts(starts: Sequence[int], now: int, window: int) -> int:
    """How many of the starts in the window were not the first that is known.

    >>> restarts((2000, 5000, 7000), 8000, 2000)
    1
    """
    return sum(1 for one in starts[1:] if one >= now - window)


def judge_uptime(label: str, seconds: float, warning: float | None, critical: float | None) -> Finding:
    """A container that has been up for less than that was started lately, perhaps by nobody's wish."""
    state, bound = State.OK, None
    for grade, least in ((State.WARNING, warning), (State.CRITICAL, critical)):
        if least is not None and seconds < least:
            state, bound = grade, least
    words = f"up for {span(seconds)}"
    if bound is not None:
        words += f" ({state.name.lower()} below {span(bound)})"
    ranges = ["" if least is None else f"{plain(least)}:" for least in (warning, critical)]
    return Finding(state, label, words, (Measure("uptime", round(seconds, 2), "s", ranges[0], ranges[1], 0),), -seconds)


def judge_restarts(
    label: str, starts: Sequence[int], now: int, warning: Often | None, critical: Often | None
) -> Finding:
    """Two restarts between two looks are one, so there may have been more. starts, now: in hundredths of a second."""
    state, alarm, found = State.OK, None, 0
    for grade, level in ((State.WARNING, warning), (State.CRITICAL, critical)):
        if level is not None:
            count = restarts(starts, now, round(level.seconds * _HUNDREDTHS))
            found = max(found, count)
            if count >= level.count:
                state, alarm = grade, level
    window = max(level.seconds for level in (warning, critical) if level is not None)
    words = f"{'at least ' if found else ''}{found} restart{'' if found == 1 else 's'} in {span(window)}"
    if alarm is not None:
        words += f" ({state.name.lower()} at {alarm.text})"
    levels = ["" if level is None else str(level.count) for level in (warning, critical)]
    return Finding(state, label, words, (Measure("restarts", found, "", levels[0], levels[1], 0),), found)


def judge_addresses(label: str, found: Sequence[str], family: str) -> Finding:
    """Without one nobody reaches it, however well it runs."""
    if not found:
        return Finding(State.CRITICAL, label, f"has no {FAMILIES[family]} address that others could reach it at")
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return Finding(State.OK, label, f"{FAMILIES[family]} {found[0]}{more}")


def span(seconds: float) -> str:
    """A time for a person: 45 s, 12 min, 3.5 h, 12 d."""
    for least, length, unit in ((172800, 86400, "d"), (7200, 3600, "h"), (120, 60, "min")):
        if seconds >= least:
            return f"{plain(round(seconds / length, 1))} {unit}"
    return f"{plain(round(seconds, 1))} s"


class Lives:
    """What check_container_state looks at besides the state, where its options ask for it.

    options: restarts_warning, restarts_critical (Often), uptime_warning, uptime_critical (seconds), addresses (a list
    of families), state_dir; each may be None.
    """

    def __init__(self, host: Host, options: Namespace, arguments: Iterable[str]) -> None:
        self._host, self._options = host, options
        self._now = round(host_seconds(host) * _HUNDREDTHS)
        windows = [level.seconds for level in (options.restarts_warning, options.restarts_critical) if level]
        self._window = round(max(windows, default=0.0) * _HUNDREDTHS)
        self._history: History | None = None
        if windows:
            self._history = History(host, options.state_dir, arguments=arguments)

    def findings(self, tree: Cgroups, container: Container, runs: bool) -> Iterator[Finding]:
        """About one container. What does not run is remembered, and else has no life to tell of."""
        options = self._options
        if not runs:
            if self._history is not None:
                past = self._history.before(container.directory)
                if past is not None:
                    self._history.keep(container.directory, past._replace(at=monotonic()))
            return
        looks: list[Callable[[bool], Finding]] = []
        if options.uptime_warning is not None or options.uptime_critical is not None:
            looks.append(lambda surely: self._uptime(tree, container, surely))
        if self._history is not None:
            looks.append(lambda surely: self._restarts(tree, container, surely))
        for family in options.addresses or ():
            looks.append(lambda surely, family=family: self._addresses(tree, container, family))  # type: ignore[misc]
        for look in looks:
            try:
                try:
                    yield look(False)
                except NotThere:  # it is being made anew, as at a reboot
                    yield look(True)
            except CannotObserve as problem:
                yield Finding(State.UNKNOWN, container.label, str(problem))

    def remember(self) -> Iterator[Finding]:
        """Leave what was seen for the next run. Where that can't be, no restart is ever seen."""
        if self._history is not None:
            try:
                self._history.save()
            except CannotObserve as problem:
                yield Finding(State.UNKNOWN, "", f"restarts can't be counted: {problem}")

    def _uptime(self, tree: Cgroups, container: Container, surely: bool) -> Finding:
        options = self._options
        seconds = uptime(self._host, tree, container, surely)
        return judge_uptime(container.label, seconds, options.uptime_warning, options.uptime_critical)

    def _restarts(self, tree: Cgroups, container: Container, surely: bool) -> Finding:
        assert self._history is not None
        start = round(start_seconds(self._host, tree, container, surely) * _HUNDREDTHS)
        past = self._history.before(container.directory)
        known = past.counters.get(_STARTS, ()) if past is not None else ()
        starts = with_start(known, start, self._now, self._window)
        self._history.keep(container.directory, Past(0, monotonic(), {_STARTS: starts}, (0, 0)))
        options = self._options
        if past is None:
            return Finding(State.OK, container.label, "restarts are counted from this run on")
        return judge_restarts(container.label, starts, self._now, options.restarts_warning, options.restarts_critical)

    def _addresses(self, tree: Cgroups, container: Container, family: str) -> Finding:
        return judge_addresses(container.label, has_addresses(self._host, tree, container, family), family)


def validate(options: Namespace) -> None:
    """Raise Misuse where the options contradict each other."""
    warning, critical = options.uptime_warning, options.uptime_critical
    if warning is not None and critical is not None and warning < critical:
        raise Misuse("--uptime-warning is shorter than --uptime-critical, so that it never warns; exchange them")
    low, high = options.restarts_warning, options.restarts_critical
    if low is not None and high is not None and low.count > high.count and low.seconds <= high.seconds:
        raise Misuse(f"--restarts-warning {low.text} never comes before --restarts-critical {high.text}; exchange them")
