#!/usr/bin/env python3
"""Tell Sensu of each container's change of state as it happens."""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import threading
from collections import OrderedDict
from time import monotonic, sleep, time

from sensu_lxc import agent, cgroups, expected, inventory, plugin, states, sweep
from sensu_lxc.errors import CannotObserve
from sensu_lxc.findings import Finding, State
from sensu_lxc.following import Followers
from sensu_lxc.levels import duration
from sensu_lxc.options import Misuse
from sensu_lxc.render import report, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import NoReturn

    from sensu_lxc.agent import Result
    from sensu_lxc.inventory import Inventory

NAME = "CheckContainerState"  # in the output, so that it reads as the check's own
CHECK = "check_container_state"
LOOK_SECONDS = 10.0  # what no monitor tells: frozen from outside, hung, destroyed
MONITOR_SECONDS = 0.2  # how long one change may wait for another container's monitor
# A state on its way, a monitor busy with a hook, and what was only just created and not started yet, is told of where
# it lasts.
PASSING_SECONDS = 5.0
# A monitor calls it RUNNING before the kernel has thawed it: frozen from outside is what it still is after that.
THAWING_SECONDS = 0.3
PASSING = ("STARTING", "STOPPING", "ABORTING", "FREEZING", states.UNRESPONSIVE)
QUEUE_AT_MOST = 10_000
RETRY_SECONDS = 1.0
AGENT_SECONDS = 5.0
FAREWELL_SECONDS = 0.4  # for delivering the rest after SIGTERM


class WatchContainerState(plugin.ContainerCheck):
    """Tell Sensu of each container's change of state as it happens. Runs until SIGTERM; a line for each change.

    Each container is a proxy client or entity, and its result is that of check_container_state (the same name, the
    same judge): at the start, at each change, and every --interval, so that no sweep is needed beside it. A container
    that does not run when it is first seen has 5 s to be started. Follows the monitors themselves, of every lxcpath,
    LXD and Incus, and so needs root (or to be who started the containers).
    """

    example = """\
  watch_container_state.py
  watch_container_state.py --exclude 'test-*' --agent tcp://127.0.0.1:3030 --handlers mailer
  watch_container_state.py -n 'web*' --expect RUNNING --settle 2s"""
    per_container = True

    def setup(self) -> None:
        add = self.parser.add_argument
        add(
            "--expect", metavar="STATE", type=str.upper, choices=expected.EXPECTABLE, default="RUNNING",
            help="RUNNING (default), STOPPED, FROZEN",
        )  # fmt: skip
        add(
            "--settle", metavar="TIME", type=duration, default=0.0,
            help="tell what is wrong only where it lasts so long: LXD and Incus stop a container to reboot it, which "
            "takes a second (default: at once; LXC's own reboots are never told)",
        )  # fmt: skip
        super().setup()

    def validate(self) -> None:
        super().validate()
        if self.options.check_name is None:
            self.reporting = self.reporting._replace(check=CHECK)
        if self.options.root != "/":
            raise Misuse("--root: what happens can only be followed on the host itself")

    @classmethod
    def main(cls, arguments: Sequence[str] | None = None) -> NoReturn:
        """Watch until SIGTERM or SIGINT, then end with 0."""
        try:
            watch = Watch(cls(sys.argv[1:] if arguments is None else arguments))
        except (Misuse, CannotObserve) as problem:
            say(f"{cls.__name__} UNKNOWN: {text(str(problem), 600)}")
            os._exit(State.UNKNOWN)
        watch.run()
        os._exit(0)


class Watch:
    """One thread follows the monitors, one looks at everything now and then, one hands over what they find."""

    def __init__(self, options: WatchContainerState) -> None:
        self._check, self._how, self._host = options, options.reporting, options.host
        self._expect, self._settle = options.options.expect, options.options.settle
        self._outbox = Outbox(self._how.agent)
        self._memory = sweep.Memory(self._host, options.options.state_dir, self._how, options.arguments)
        self._known = dict(self._memory.before)
        self._parting: set[str] = set()
        self._lock = threading.Lock()  # of what follows
        self._told: dict[str, tuple[State, str]] = {}  # by entity
        # By directory: since when something is wrong, how long that is waited for, and since when it is of that kind.
        self._wrong_since: dict[str, tuple[float, float, float]] = {}
        self._due: dict[str, float] = {}
        self._changed: dict[str, float] = {}
        self._look_now, self._ending = threading.Event(), False
        self._said = ""

    def run(self) -> None:
        """Until a signal."""
        ear, mouth = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, self._end)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one connection for each container
        poll = select.poll()
        poll.register(ear, select.POLLIN)
        followers = Followers(self._host, poll)
        followers.scan(monotonic())  # before anybody else here asks the monitors, see Followers
        for work in (self._outbox.run, self._look_now_and_then):
            threading.Thread(target=guarded, args=(work,), daemon=True).start()
        try:
            self._listen(followers, poll, ear)
        finally:
            followers.close()
        left = self._outbox.close(FAREWELL_SECONDS)
        say(f"ended by a signal{f', {left} results not delivered' if left else ''}")

    def _listen(self, followers: Followers, poll: select.poll, ear: int) -> None:
        """Hear what the monitors tell, until a signal."""
        is_said = False
        while not self._ending:
            now = monotonic()
            followers.scan(now)
            if followers.problem and not is_said:
                is_said = True
                say(f"UNKNOWN {text(followers.problem)}; such ones are looked at every {LOOK_SECONDS:g} s")
            with self._lock:
                changed = {directory for directory, at in self._due.items() if at <= now}
                for directory in changed:
                    self._due.pop(directory, None)
            if changed:
                self._look(changed, MONITOR_SECONDS)
            for descriptor, _ in poll.poll(followers.pause * 1000):
                if descriptor == ear:
                    continue
                directory, is_steady = followers.hear(descriptor)
                with self._lock:
                    self._changed[directory] = monotonic()
                    if is_steady:
                        self._due[directory] = 0.0
                    else:
                        self._due.setdefault(directory, monotonic() + PASSING_SECONDS)

    def _end(self, *_: object) -> None:
        self._ending = True

    def _look_now_and_then(self) -> None:
        refresh_at = 0.0
        while True:
            is_due = monotonic() >= refresh_at
            if is_due:
                refresh_at = monotonic() + self._how.interval
            self._look(None, 2.0, is_due)
            self._look_now.wait(min(LOOK_SECONDS, max(0.05, refresh_at - monotonic())))
            self._look_now.clear()

    def _look(self, only: Collection[str] | None, seconds: float, refresh: bool = False) -> None:
        """Look at all containers, or at those in some directories, and tell of what is new."""
        began = monotonic()
        found: Inventory | None = None
        seen: dict[str, states.State | CannotObserve] = {}
        self._check.reported = sweep.meant(self._check.options, self._known)
        try:
            found = self._check.inventory()
            chosen = [one for one in found.containers if only is None or one.directory in only]
            tree = cgroups.Cgroups(self._host, found.running)
            seen = states.observe(self._host, tree, chosen, seconds, found.running)
            problem = "; ".join(found.unseen)
        except CannotObserve as error:
            found, problem = None, str(error)
        with self._lock:
            if problem != self._said:
                self._said = problem
                say(f"UNKNOWN {text(problem, 600)}" if problem else "OK everything can be seen again")
            for container in [] if found is None else chosen:
                if only is None and self._changed.get(container.directory, 0.0) >= began:
                    continue  # this look is older than what its monitor told since
                state = seen[container.directory]
                if isinstance(state, CannotObserve):
                    finding = Finding(State.UNKNOWN, container.label, str(state))
                else:
                    finding = expected.judge(container.label, state, self._expect, container.defined)
                is_new = agent.entity_name(container.label, self._how.prefix) not in self._told
                if self._holds(container.directory, finding, PASSING_SECONDS if is_new else patience(state)):
                    self._tell(container.label, finding, refresh)
            if only is not None:
                self._know(found, {one.label for one in chosen} if found else set())
                if found is None or {one.directory for one in chosen} != set(only):
                    self._look_now.set()  # one may be gone
                return
            if found is not None:
                for name in found.missing:
                    if not inventory.is_pattern(name):
                        self._tell(name, expected.absent(name), refresh)
            self._part(found)

    def _holds(self, directory: str, finding: Finding, patience: float) -> bool:
        """Whether it is to be told now. What is wrong for a moment is looked at again."""
        if finding.state is State.OK:
            self._wrong_since.pop(directory, None)
            return True
        now = monotonic()
        since, kind, kind_since = self._wrong_since.get(directory, (now, patience, now))
        if kind != patience:  # it was wrong before, but in a way that is not waited for
            kind_since = now
        self._wrong_since[directory] = since, patience, kind_since
        until = max(since + self._settle, kind_since + patience)
        if now < until:
            self._due[directory] = min(until, self._due.get(directory, until))
            return False
        return True

    def _tell(self, label: str, finding: Finding, refresh: bool) -> None:
        entity, words = agent.entity_name(label, self._how.prefix), finding.words
        is_new = self._told.get(entity) != (finding.state, words)
        if is_new or refresh:
            output = report(NAME, finding.state, [finding])
            self._outbox.put(sweep.made(self._how, entity, finding.state, output, time()))
        if is_new:
            self._told[entity] = finding.state, words
            say(f"{finding.state.name} {text(str(finding))}")

    def _know(self, found: Inventory | None, labels: set[str]) -> Collection[str]:
        """Remember these as reported; their entities."""
        now = sweep.places(self._host, found, self._how.prefix, labels)
        self._known.update(now)
        self._parting.difference_update(now)
        return now

    def _part(self, found: Inventory | None) -> None:
        """Tell of those that are gone, and remember who is there."""
        now = self._know(
            found, set() if found is None else {one.label for one in found.containers} | set(found.missing)
        )
        for entity, one in self._memory.inherit().items():
            self._known.setdefault(entity, one)
        for entity, words in sweep.gone(self._host, self._known, now, found, self._memory.elsewhere).items():
            if not words:
                del self._known[entity]
            elif entity not in self._parting:
                self._parting.add(entity)
                self._told.pop(entity, None)
                self._outbox.put(sweep.farewell(self._how, NAME, entity, words, time()))
                say(f"OK {text(words)}")
            elif not self._outbox.holds(entity):
                self._parting.discard(entity)
                del self._known[entity]
        try:
            self._memory.save(dict(self._known))
        except CannotObserve as problem:
            if str(problem) != self._said:
                self._said = str(problem)
                say(f"UNKNOWN who goes away while this does not run will not be told so: {text(str(problem), 600)}")


def patience(state: states.State | CannotObserve) -> float:
    """For how many seconds a state that is wrong is waited for to pass."""
    if isinstance(state, CannotObserve) or state.name in PASSING:
        return PASSING_SECONDS
    return THAWING_SECONDS if state.name == "FROZEN" and state.detail else 0.0


class Outbox:
    """What waits for the agent: the newest result of each container, the one that waits longest first."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._waiting: OrderedDict[str, Result] = OrderedDict()
        self._news = threading.Condition()
        self._ending = False
        self._dropped = 0

    def put(self, result: Result) -> None:
        """Queue it; where there is no room for it the oldest goes."""
        with self._news:
            self._waiting[result.entity] = result
            if len(self._waiting) > QUEUE_AT_MOST:
                self._waiting.popitem(last=False)
                self._dropped += 1
            self._news.notify_all()

    def holds(self, entity: str) -> bool:
        """Whether a result of it still waits."""
        with self._news:
            return entity in self._waiting

    def close(self, seconds: float) -> int:
        """Wait that long for what is left to be delivered; how many results were not."""
        with self._news:
            self._ending = True
            self._news.notify_all()
            self._news.wait_for(lambda: not self._waiting, seconds)
            return len(self._waiting)

    def run(self) -> NoReturn:
        """Deliver for ever. An agent that is away is asked again every second."""
        there: agent.Agent | None = None
        is_away = False
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting)
                entity, result = next(iter(self._waiting.items()))
            try:
                if there is None:
                    there = agent.connect(self._where, AGENT_SECONDS)
                there.send(result, monotonic() + AGENT_SECONDS)
            except agent.Refused as refusal:
                say(f"UNKNOWN {there} refused the result of {entity}: {text(str(refusal))}")
            except agent.Unreachable as problem:
                if not is_away:
                    say(f"UNKNOWN results wait: {text(str(problem), 600)}")
                there, is_away = None, True
                with self._news:
                    if not self._news.wait_for(lambda: self._ending, RETRY_SECONDS):
                        continue
                sleep(FAREWELL_SECONDS / 4)  # the end waits no longer than that
                continue
            with self._news:
                if self._waiting.get(entity) is result:  # no newer one came meanwhile
                    del self._waiting[entity]
                count, dropped, self._dropped = len(self._waiting), self._dropped, 0
                self._news.notify_all()
            if is_away:
                lost = f"; {dropped} were dropped, the oldest first" if dropped else ""
                say(f"OK {there} takes results again, {count} more wait{lost}")
                is_away = False


def guarded(work: object) -> None:
    """Run a thread's work. A fault of ours ends the process, for systemd to start it anew, rather than one thread."""
    try:
        work()  # type: ignore[operator]
    except BaseException as error:  # noqa: B036
        say(f"UNKNOWN internal error, please report it: {type(error).__name__}: {text(str(error))}")
        os._exit(State.UNKNOWN)


def say(line: str) -> None:
    """A line for the journal. One that nobody reads ends nothing."""
    try:
        os.write(1, line.encode("utf-8", "replace") + b"\n")
    except OSError:
        pass


def main() -> None:
    """The console script."""
    WatchContainerState.main()


if __name__ == "__main__":
    main()
