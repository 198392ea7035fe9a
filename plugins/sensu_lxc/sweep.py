"""--per-container: each container gets a result of its own, and the run's own output tells what became of the sweep.

Who was reported is remembered, so that a container that is gone, or that a changed command line no longer means, gets a
last result without a ttl: Sensu would otherwise alert for ever after that nothing is heard of it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import namedtuple
from time import monotonic, time

from sensu_lxc import agent, inventory, state_dir
from sensu_lxc.agent import Agent, Refused, Result, Unreachable, entity_name
from sensu_lxc.bound import default_folder
from sensu_lxc.errors import CannotObserve
from sensu_lxc.findings import Finding, Measure, State, worst
from sensu_lxc.options import Misuse
from sensu_lxc.render import report, text

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

    from sensu_lxc.cgroups import Cgroups
    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Inventory
    from sensu_lxc.plugin import ContainerCheck

_TTL, _INTERVAL = 180, 60
_LEAST_TTL = 5  # Sensu Go refuses less
# An agent takes the results of several connections faster than those of one, as it waits for its disk at each.
_CONNECTIONS, _WORTH_A_CONNECTION = 3, 20  # besides the first; results
_OWN_SECONDS, _OWN_SHARE = 0.5, 0.2  # of --timeout, whichever is less: kept for saying what could not be done
_HEADING, _ENDING = "sensu-lxc reported 2", "-reported"

# How results are made and where they go. agent: as --agent has it; ttl, interval: whole seconds; check: name of the
# results; prefix: of the entities; handlers: tuple of names.
Reporting = namedtuple("Reporting", "agent ttl interval check prefix handlers")


def reporting(options: Namespace) -> Reporting:
    """What the options say. Raises Misuse where they contradict each other or Sensu."""
    interval = _whole_seconds("--interval", options.interval, _INTERVAL)
    ttl = _whole_seconds("--ttl", options.ttl, max(_TTL, 3 * interval))
    if ttl < _LEAST_TTL:
        raise Misuse(f"--ttl {ttl} s is too short for Sensu; give it {_LEAST_TTL} s or more")
    if ttl <= interval:
        raise Misuse(f"--ttl {ttl} s must be more than --interval {interval} s, lest each result come too late")
    script = os.path.basename(sys.argv[0])
    check = options.check_name
    if check is None:
        check = script[: -len(".py")] if script.endswith(".py") else script
    handlers = tuple(one.strip() for one in (options.handlers or "").split(",")) if options.handlers is not None else ()
    for option, words in (
        ("--check-name", [check]),
        ("--handlers", handlers),
        ("--entity-prefix", [options.entity_prefix or "-"]),
    ):
        for word in words:
            if not word or not agent.is_name(word):
                raise Misuse(f"{option}: Sensu takes no {word[:80]!r} in a name; write letters, digits, _ . and - only")
    agent.place(options.agent or "auto")
    return Reporting(options.agent or "auto", ttl, interval, check, options.entity_prefix or "", handlers)


def _whole_seconds(option: str, seconds: float | None, default: int) -> int:
    if seconds is None:
        return default
    if seconds != int(seconds):
        raise Misuse(f"{option} {seconds:g} s is not in whole seconds, which is all that Sensu knows")
    return int(seconds)


def sweep(check: ContainerCheck) -> Iterator[Finding]:
    """Run the check, hand over what it finds of each container, and yield what is to be said of the sweep itself."""
    # The fence ends us at --timeout; what could not be done by then is to be said before.
    timeout = check.options.timeout
    deadline = monotonic() + timeout - min(_OWN_SECONDS, timeout * _OWN_SHARE)
    how, name = check.reporting, type(check).__name__
    memory = Memory(check.host, check.options.state_dir, how, check.arguments)
    check.reported = meant(check.options, memory.before)
    problem, findings = None, []
    try:
        findings = list(check.findings())
    except CannotObserve as error:
        problem = error
    found = check.found if problem is None else None
    by_label = {} if found is None else _meant(check, found, findings)
    results, seen = [], time()
    for label, told in by_label.items():
        output = report(name, worst(told), told, (), (), check.options.verbose)
        results.append(made(how, entity_name(label, how.prefix), worst(told), output, seen))
    # What is bad does not wait behind a thousand that are well, should time run out.
    results.sort(key=lambda result: -result.status)
    now = places(check.host, found, how.prefix, by_label)
    lost = gone(check.host, memory.before, now, found, memory.elsewhere)
    results += [farewell(how, name, entity, words, seen) for entity, words in lost.items() if words]
    courier = Courier(how.agent, deadline)
    try:
        memory.save({**memory.before, **now})  # whoever is killed while he sends has not forgotten whom he told
        courier.deliver(results)
        memory.save(
            {
                entity: one
                for entity, one in {**memory.before, **now}.items()
                if (entity in memory.before or entity in courier.delivered)
                and not (entity in lost and (entity in courier.delivered or not lost[entity]))
            }
        )
    except CannotObserve as error:
        yield Finding(State.UNKNOWN, "", f"those that go away will not be told so: {error}")
        courier.deliver(results)
    if found is not None:  # and not before: who is killed while he sends leaves the next run to tell it again
        entities = {one.directory: entity_name(one.label, how.prefix) for one in found.containers}
        findings += check.remember([one for one, entity in entities.items() if entity not in courier.delivered])
    sent = len(courier.delivered)
    check.measures = [Measure("reported", sent), Measure("not_reported", len(results) - sent), *check.measures]
    if problem is not None:
        yield Finding(State.UNKNOWN, "", str(problem), urgency=1.0)
    if results:
        yield courier.finding(results)
    yield from (finding for finding in findings if finding.subject not in by_label)


def made(how: Reporting, entity: str, state: State, output: str, at: float) -> Result:
    """A result that is followed by others."""
    return Result(entity, how.check, int(state), output, how.ttl, how.interval, how.handlers, at)


def farewell(how: Reporting, name: str, entity: str, words: str, at: float) -> Result:
    """The last result of a container, without a ttl: OK, since it was destroyed, or left out, on purpose."""
    output = f"{name} OK: {text(words)}; this is its last result"
    return made(how, entity, State.OK, output, at)._replace(ttl=0)


def _meant(check: ContainerCheck, found: Inventory, findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """{label: its findings} of every container that the options mean, and of each that is named and missing."""
    meant: dict[str, list[Finding]] = {container.label: [] for container in found.containers}
    meant.update((name, []) for name in found.missing if not inventory.is_pattern(name))
    for finding in findings:
        if finding.subject in meant:
            meant[finding.subject].append(finding)
    if getattr(check.options, "autostart_only", False):  # the others were not looked at
        return {label: told for label, told in meant.items() if told}
    running = {container.label for container in found.containers if container.has_monitor}
    for label, told in meant.items():
        if not told:  # where no --name is given, one that does not run is only counted
            words = "was not measured" if label in running else "is not running, so there is nothing to measure"
            told.append(Finding(State.UNKNOWN, label, words))
    return meant


# Who was reported

# name, lxcpath: as LXC knows it, lxcpath "" for one that was named and never there; place: the lxcpath's inode.
Reported = namedtuple("Reported", "name lxcpath place")


def meant(options: Namespace, reported: Mapping[str, Reported]) -> dict[str, Reported]:
    """Those whose names the options mean: an earlier command line may have meant others."""
    means = inventory.chooser(options.name, options.exclude)
    # As a list, since a thread adds to them.
    return {entity: one for entity, one in list(reported.items()) if means(f"{one.lxcpath}/{one.name}", one.name)}


def with_orphans(host: Host, take: Callable[[], Inventory], before: Mapping[str, Reported], prefix: str) -> Inventory:
    """What take() finds, and whoever was reported and has lost his definition while his processes run on.

    No inventory lists these, so that they would count as gone, and be told to be well. Raises as take does.
    """
    from sensu_lxc import cgroups

    problem = None
    try:
        found = take()
    except CannotObserve as error:
        problem = error
        found = inventory.Inventory([], [], [str(error)], inventory.command_sockets(host)[0])
    there = found.running | {one.directory for one in found.containers}
    labels = {one.label for one in found.containers}
    orphans, tree = [], None
    for entity, one in before.items():
        directory = f"{one.lxcpath}/{one.name}"
        if one.lxcpath and directory not in there:
            is_name = entity == entity_name(one.name, prefix) and one.name not in labels
            orphan = inventory.Container(one.name, one.lxcpath, False, False, one.name if is_name else directory)
            tree = tree or cgroups.Cgroups(host, found.running)
            if _may_run_on(host, tree, orphan, found.running):
                orphans.append(orphan)
    if problem is not None and not orphans:
        raise problem
    missing = [name for name in found.missing if name not in {one.name for one in orphans}]
    return found._replace(containers=[*found.containers, *orphans], missing=missing)


def _may_run_on(host: Host, tree: Cgroups, container: inventory.Container, running: set[str]) -> bool:
    """Whether processes of a container without a monitor run on; True where the check will have to say what it is."""
    from sensu_lxc import states

    try:
        return states.payload_without_monitor(host, tree, container, running) is not None
    except CannotObserve:
        return True


def places(host: Host, found: Inventory | None, prefix: str, labels: Container[str]) -> dict[str, Reported]:
    """{entity: Reported} of those with one of these labels."""
    if found is None:
        return {}
    inodes = {lxcpath: _inode(host, lxcpath) for lxcpath in {container.lxcpath for container in found.containers}}
    now = {entity_name(name, prefix): Reported(name, "", 0) for name in found.missing if name in labels}
    for one in found.containers:
        if one.label in labels:
            now[entity_name(one.label, prefix)] = Reported(one.name, one.lxcpath, inodes[one.lxcpath])
    return now


def gone(
    host: Host,
    before: Mapping[str, Reported],
    now: Container[str],
    found: Inventory | None,
    elsewhere: Container[str] = (),
) -> dict[str, str]:
    """{entity: what became of it} of those that were reported before and will not be any more.

    elsewhere: who is reported by another command line; what is still there then needs no word, which is then "". An
    lxcpath that is not mounted looks as if all in it were destroyed; but then it is not the directory that it was.
    """
    lost = {}
    for entity, one in before.items():
        if entity not in now:
            words, is_there = _fate(host, one, found)
            if words:
                lost[entity] = "" if is_there and entity in elsewhere else words
    return lost


def _fate(host: Host, one: Reported, found: Inventory | None) -> tuple[str, bool]:
    """(why nothing more will be reported of it, whether it is there); no word where that can't be told."""
    directory = f"{one.lxcpath}/{one.name}"
    if _inode(host, one.lxcpath) != one.place:
        return "", False
    if found is not None and any(container.directory == directory for container in found.containers):
        return f"{one.name} is no longer looked at under this name", True
    is_there = _is_there(host, one, found)
    if is_there is False:
        return f"{one.name} is no longer on this host", False
    if is_there and found is not None:
        return f"{one.name} is no longer watched", True
    return "", False


def _is_there(host: Host, one: Reported, found: Inventory | None) -> bool | None:
    """Whether it runs or is defined; None where that can't be told."""
    directory = f"{one.lxcpath}/{one.name}"
    if found is not None and directory in found.running:
        return True
    if found is not None and not found.unseen:
        return bool(one.lxcpath) and inventory.is_defined(host, one.lxcpath, one.name)
    # The inventory did not see everything, or nothing: this one has to be looked for.
    try:
        running, hashed = inventory.command_sockets(host)
        is_absent = (
            directory not in running
            and not hashed
            and one.name not in host.list(host.real(one.lxcpath))
            and not host.has(f"/etc/pve/lxc/{one.name}.conf")
        )
    except CannotObserve:
        return None
    return False if is_absent else True if directory in running else None


def _inode(host: Host, path: str) -> int:
    try:
        return host.inode(path)
    except CannotObserve:
        return 0


class Memory:
    """The file that tells who was reported by the earlier runs of a command line.

    Command lines whose results Sensu takes for the same (agent, entity prefix, name of the check) look into each
    other's. One that is no longer run, as it was changed, leaves whom it reported to the others; side by side each has
    its own, and says nothing of whom another one reports. It is a file for each, as two may run at once.

    before: who is to be given a last result where this run does not report him; elsewhere: entities that another
    command line reports.
    """

    def __init__(self, host: Host, folder: str | None, how: Reporting, arguments: Iterable[str]) -> None:
        self._folder, self._how = folder or default_folder(), how
        self._kin = f"{state_dir.name_of([host.root, how.agent, how.prefix], how.check)}-"
        self._name = f"{self._kin}{state_dir.name_of(arguments)}{_ENDING}"
        own, silent = self._read(self._name)
        self._since = own.since if silent <= _patience(own) else time()
        self._stored: dict[str, Reported] | None = own.reported if self._since == own.since else None
        state_dir.touch(self._folder, self._name)  # at once, lest one that is killed seem to be no longer run
        self.elsewhere: set[str] = set()
        self._left: list[str] = []
        self.before: dict[str, Reported] = {**self.inherit(), **own.reported}

    def inherit(self) -> dict[str, Reported]:
        """Who was reported by command lines that are no longer run; looks anew who is by others."""
        inherited: dict[str, Reported] = {}
        self.elsewhere, self._left = set(), []
        for name in state_dir.names(self._folder, self._kin, _ENDING):
            if name != self._name:
                other, silent = self._read(name)
                # Where nothing ran (the host was off, the agent away) it had to be silent: it gets its turn.
                if silent > _patience(other) and time() - self._since >= other.interval:
                    inherited.update(other.reported)
                    self._left.append(name)
                else:
                    self.elsewhere.update(other.reported)
        return inherited

    def save(self, reported: dict[str, Reported]) -> None:
        """Remember these for the next run. Raises CannotObserve where that can't be."""
        if reported == self._stored:
            state_dir.touch(self._folder, self._name)
        else:
            lines = [f"{_HEADING}\t{self._how.interval}\t{self._how.ttl}\t{self._since}"]
            lines += ["\t".join((entity, *map(ascii, one))) for entity, one in reported.items()]
            state_dir.replace(self._folder, self._name, ("\n".join(lines) + "\nend\n").encode("ascii"))
            self._stored = reported
        while self._left:  # whom they reported stands among ours now
            state_dir.remove(self._folder, self._left.pop())

    def _read(self, name: str) -> tuple[Remembered, float]:
        """(what a file says, for how many seconds nothing has been heard of its command line)."""
        return parsed(state_dir.read(self._folder, name)), time() - state_dir.touched_at(self._folder, name)


def _patience(other: Remembered) -> float:
    """After so many seconds a command line is no longer run: it missed a turn, and Sensu does not miss it yet."""
    patience: float = (other.interval + other.ttl) / 2
    return patience


# interval, ttl: of the command line, in seconds; since: when it began to be run again and again (as time() has it);
# reported: {entity: Reported}.
Remembered = namedtuple("Remembered", "interval ttl since reported")


def parsed(raw: bytes) -> Remembered:
    """What a Memory's file says; nobody where it is not whole."""
    from ast import literal_eval

    lines = raw.decode("ascii", "replace").split("\n")
    heading, *how = lines[0].split("\t")
    try:
        if heading != _HEADING or lines[-2:] != ["end", ""]:
            raise ValueError
        interval, ttl, since = int(how[0]), int(how[1]), float(how[2])
        found = {}
        for line in lines[1:-2]:
            entity, name, lxcpath, place = line.split("\t")
            found[entity] = Reported(str(literal_eval(name)), str(literal_eval(lxcpath)), int(place))
    except (ValueError, IndexError, SyntaxError):
        return Remembered(0, 0, 0.0, {})
    return Remembered(interval, ttl, since, found)


# The way to the agent


class Courier:
    """Hands results to the agent before a deadline, and keeps account of each."""

    def __init__(self, where: str, deadline: float) -> None:
        self._where, self._deadline = where, deadline
        self.delivered: set[str] = set()
        self._refused: list[tuple[str, str]] = []
        self._problem, self._began = "", False

    def deliver(self, results: Sequence[Result]) -> None:
        """Send them, the first time that it is asked for. What becomes of them is told by finding()."""
        if self._began or not results:
            return
        self._began = True
        try:
            there = agent.connect(self._where, self._deadline - monotonic())
        except Unreachable as problem:
            self._problem = str(problem)
            return
        self._where = str(there)
        rest = iter(results)  # of which each thread takes the next
        threads = [
            threading.Thread(target=self._send, args=(there.another(), rest), daemon=True)
            for _ in range(min(_CONNECTIONS, len(results) // _WORTH_A_CONNECTION))
        ]
        for thread in threads:
            thread.start()
        self._send(there, rest)
        for thread in threads:
            thread.join()

    def _send(self, there: Agent, rest: Iterator[Result]) -> None:
        for result in rest:
            try:
                there.send(result, self._deadline)
                self.delivered.add(result.entity)
            except Refused as refusal:
                self._refused.append((result.entity, str(refusal)))
            except Unreachable as problem:
                self._problem = str(problem)
            if self._problem:
                return

    def finding(self, results: Sequence[Result]) -> Finding:
        """How many were delivered, refused, and not sent."""
        told = [result for result in results if result.entity in self.delivered]
        counts: dict[State, int] = {}
        for result in told:
            if result.ttl:
                counts[State(result.status)] = counts.get(State(result.status), 0) + 1
        last, said = len(told) - sum(counts.values()), []
        if self._problem:
            missed = len(results) - len(told) - len(self._refused)
            said.append(f"{missed} of {len(results)} not reported: {self._problem}")
        if self._refused:
            entity, reason = self._refused[0]
            said.append(f"{len(self._refused)} of {len(results)} refused: {reason} (the first: {entity})")
        if told:
            words = f"{_containers(sum(counts.values()))} reported to {self._where}"
            if counts:
                words += f" ({', '.join(f'{counts[state]} {state.name}' for state in State if state in counts)})"
            said.append(words + (f", and {last} told for the last time" if last else ""))
        state = State.UNKNOWN if self._problem or self._refused else State.OK
        return Finding(state, "", "; ".join(said), urgency=2.0)


def _containers(count: int) -> str:
    return f"{count} container{'' if count == 1 else 's'}"
