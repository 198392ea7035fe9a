#!/usr/bin/env python3
"""Start, restart or thaw the containers that need it."""

from __future__ import annotations

import os
from time import monotonic

from sensu_lxc import acting, action, inventory, lives, states
from sensu_lxc.acting import Refused
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.findings import Finding, State
from sensu_lxc.levels import duration
from sensu_lxc.options import Misuse
from sensu_lxc.owned import CannotAct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sensu_lxc.cgroups import Cgroups
    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Container

ACTIONS = ("start", "restart", "thaw")
DONE = {"start": "started", "restart": "restarted", "thaw": "thawed"}
_PROXMOX = "/etc/pve/lxc"
_LXC_LOGS = "/var/log/lxc"
# What a start, and the look whether it lasts, may take of the time after a stop.
_START_SECONDS = 10.0
_THAW_SECONDS = 5.0


class OperateContainer(action.Action):
    """Start, restart or thaw the containers that need it.

    start starts those that are STOPPED, thaw thaws those that are FROZEN (also from outside LXC), restart stops those
    that run, cleanly where they do so in time, and starts them. What is in that state already is left alone. Needs
    root.
    """

    example = """\
  operate_container.py start --autostart-only --exclude 'test-*'
  operate_container.py thaw -n 'web*'
  operate_container.py restart -n web1 --stop-timeout 30s --at-most 2/1h

A container is OK when it is RUNNING, and its init has lived for a moment. One whose processes run on without their
monitor is refused, as starting it would start a second copy on the same root filesystem; one whose monitor does not
answer as well. After --at-most actions in that time, whoever asked for them, it is given up, lest a crash loop is fed;
by hand a higher one goes on. status: 0 done, or nothing to do; 2 failed, or given up; 3 can't be seen, or refused."""

    def setup(self) -> None:
        add = self.parser.add_argument
        add("action", nargs="?", choices=ACTIONS, help="start, restart or thaw")
        add("--autostart-only", action="store_true", help="only those that start with the host (lxc.start.auto = 1)")
        add(
            "--at-most", metavar="N/TIME", type=lives.often, default=lives.often("3/1h"),
            help="no more than N actions on one container in that time (3/1h)",
        )  # fmt: skip
        add(
            "--stop-timeout", metavar="TIME", type=duration, default=30.0,
            help="restart: how long it has to shut down before it is killed (30s)",
        )  # fmt: skip
        super().setup()

    def validate(self) -> None:
        super().validate()
        options = self.options
        if options.action is None:  # said here, as argparse says it before it names a misspelt option
            raise Misuse("say what to do: start, restart or thaw, for example: start --autostart-only")
        if not options.name and not options.autostart_only:
            raise Misuse(
                f"{options.action} without -n would {options.action} every container, golden images as well: name them "
                "with -n ('*' for all), or give --autostart-only"
            )
        least = options.stop_timeout + 2 * _START_SECONDS
        if options.action == "restart" and options.timeout < least:
            raise Misuse(
                f"--timeout {options.timeout:g}s leaves no time to start again after --stop-timeout "
                f"{options.stop_timeout:g}s; give at least {least:g}s"
            )

    def select(self, containers: Sequence[Container]) -> Iterator[Container | Finding]:
        wanted, unsure = [], False
        for container in containers:
            try:
                if not self.options.autostart_only or inventory.starts_with_host(self.host, container):
                    wanted.append(container)
            except CannotObserve as problem:
                unsure = True
                yield Finding(State.UNKNOWN, container.label, f"may start with the host: {problem}")
        if containers and not wanted and not unsure:
            of = f"of {len(containers)} container{'' if len(containers) == 1 else 's'} none starts with the host"
            yield Finding(State.OK, "", f"none is to {self.options.action}: {of} (lxc.start.auto)")
        running = self.found.running if self.found is not None else ()
        self.seen = states.observe(self.host, self.tree, wanted, min(2.0, self.options.timeout / 5), running)
        yield from wanted

    def act(self, container: Container) -> Finding:
        options, seen = self.options, self.seen[container.directory]
        if isinstance(seen, CannotObserve):
            raise seen
        passing = seen.name in acting.PASSING and seen.name != states.UNRESPONSIVE
        todo = "wait" if passing else what(options.action, seen)
        if not todo:
            return Finding(State.OK, container.label, f"is {seen.name}: nothing to {options.action}")
        work = self.work(container)
        if options.dry_run:
            return Finding(State.OK, container.label, f"is {seen.name}, would be {DONE.get(todo, 'waited for')}")
        with self.alone(container, work):
            seen = settled(work)
            todo = what(options.action, seen)
            if not todo:
                return Finding(State.OK, container.label, f"is {seen.name} by now: nothing to {options.action}")
            given_up = self._given_up(container, seen, work)
            if given_up is not None:
                return given_up
            log = log_of(container)
            if todo == "restart":
                check_survives(self.host, container)
                if work.left() < options.stop_timeout + _START_SECONDS:
                    raise Refused(f"not come to within {options.timeout:g} s; see --timeout")
                # From here on to its start nothing stops us: it would stay stopped.
                work.stop = acting.Stop()
            self.deeds.note(container.directory)
            words = f"was {seen.name}{' (' + seen.detail + ')' if seen.detail else ''}"
            if todo == "thaw":
                thaw(self.host, self.tree, container, work)
                return Finding(State.OK, container.label, f"{words}; thawed, is RUNNING")
            if todo == "start":
                start(container, work, log)
            elif not restart(container, work, log, options.stop_timeout):
                words += f", did not stop within {options.stop_timeout:g} s and was killed"
            pid = work.proved(log)
        return Finding(State.OK, container.label, f"{words}; {DONE[todo]}, is RUNNING (pid {pid})")

    def _given_up(self, container: Container, seen: states.State, work: acting.Work) -> Finding | None:
        most = self.options.at_most
        ago = self.deeds.since(container.directory, most.seconds)
        if len(ago) < most.count:
            return None
        again = max(0.0, most.seconds - ago[most.count - 1])
        return Finding(
            State.CRITICAL,
            container.label,
            f"given up: is {seen.name} after {len(ago)} actions in {lives.span(most.seconds)} (--at-most {most.text}); "
            f"look why in {log_of(container)} and its console; tried again in {lives.span(again)}, or, where you wish "
            "it, at once with a higher --at-most",
        )


def what(wish: str, seen: states.State) -> str:
    """What to do with a container in that state: a word of ACTIONS, or "" for nothing. Raises Refused."""
    if seen.name == states.ORPHANED or seen.beside:
        raise Refused(
            f"processes of it run on without their monitor, in {seen.beside or seen.detail}; starting it would start a "
            "second copy on the same root filesystem: end those first"
        )
    if seen.name == states.UNRESPONSIVE:
        raise Refused(
            f"its monitor does not answer ({seen.detail}), and LXC's tools hang on it: continue it (kill -CONT), or "
            "wait for its hook"
        )
    if wish == "thaw":
        return "thaw" if seen.name == "FROZEN" else ""
    if seen.name == "FROZEN":
        raise Refused(f"is FROZEN, perhaps for a backup, which {wish} does not end: operate_container.py thaw does")
    if seen.name == "STOPPED":
        return "start"
    return "restart" if wish == "restart" else ""


def settled(work: acting.Work) -> states.State:
    """Its state, once that is none that another one follows by itself. Raises CannotAct."""
    while True:
        seen = work.state()
        if seen.name == states.UNRESPONSIVE or seen.name not in acting.PASSING:
            return seen
        work.pause(acting.STEP_SECONDS, f"is still {seen.name} after {work.seconds:g} s")


def check_survives(host: Host, container: Container) -> None:
    """Raise Refused where a container that is stopped could not be started again."""
    if container.is_lxd:
        from sensu_lxc import lxd

        ephemeral = lxd.is_ephemeral(host, action.lxd_socket(container), container.name)
    else:
        try:
            ephemeral = inventory.config(host, container).get("lxc.ephemeral") == "1"
        except NotThere:
            raise Refused(f"there is no {container.directory}/config, so it could not be started again") from None
    if ephemeral:
        raise Refused("is ephemeral, so that a stop removes it; restart what runs in it")


def log_of(container: Container) -> str:
    """Where LXC logs what happens to it, as it would without being told."""
    if container.is_lxd:
        return f"/var/log/{'incus' if 'incus' in container.lxcpath else 'lxd'}/{container.name}/lxc.log"
    if container.lxcpath == "/var/lib/lxc" and os.path.isdir(_LXC_LOGS):
        return f"{_LXC_LOGS}/{container.name}.log"
    return f"{container.directory}/{container.name}.log"


def is_proxmox(container: Container) -> bool:
    """Whether Proxmox manages it, and writes LXC's config anew whenever it starts it."""
    return container.lxcpath == "/var/lib/lxc" and os.path.exists(f"{_PROXMOX}/{container.name}.conf")


def start(container: Container, work: acting.Work, log: str) -> None:
    """Have it started by whoever manages it. Raises CannotAct."""
    if container.is_lxd:
        _by_lxd(container, work, "start", work.left())
    elif is_proxmox(container):
        _by_proxmox(work, ["pct", "start", container.name])
    else:
        work.start(log)


def restart(container: Container, work: acting.Work, log: str, seconds: float) -> bool:
    """Have it stopped and started by whoever manages it; whether it stopped in time, without being killed.

    Raises CannotAct.
    """
    if container.is_lxd:
        return _restarted_by_lxd(container, work, seconds)
    cleanly = True
    if is_proxmox(container):
        try:
            _by_proxmox(work, ["pct", "shutdown", container.name, "--timeout", f"{max(1, round(seconds))}"])
        except CannotAct:
            cleanly = False
            _by_proxmox(work, ["pct", "stop", container.name])
    else:
        cleanly = work.halt(seconds)
    start(container, work, log)
    return cleanly


def _restarted_by_lxd(container: Container, work: acting.Work, seconds: float) -> bool:
    try:
        _by_lxd(container, work, "restart", seconds)
        return True
    except CannotAct:
        until = monotonic() + _START_SECONDS
    while True:
        try:
            if work.state().name == "STOPPED":
                _by_lxd(container, work, "start", _START_SECONDS)
            else:
                _by_lxd(container, work, "restart", _START_SECONDS, force=True)
            return False
        except CannotAct:
            if monotonic() > until:
                raise
        work.pause(acting.STEP_SECONDS)  # the daemon is at its stop still, or has just come to the end of it


def _by_lxd(container: Container, work: acting.Work, wish: str, seconds: float, force: bool = False) -> None:
    from sensu_lxc import lxd

    try:
        lxd.set_state(work.host, action.lxd_socket(container), container.name, wish, seconds, force)
    except CannotObserve as problem:
        raise CannotAct(str(problem)) from None


def _by_proxmox(work: acting.Work, argv: list[str]) -> None:
    done = work.run(argv)
    if done.status or done.why:
        raise CannotAct(f"{' '.join(argv[:2])} {done}: {work.heard()}")


def thaw(host: Host, tree: Cgroups, container: Container, work: acting.Work) -> None:
    """Have it thawed, whoever froze it. Raises CannotAct where a cgroup above keeps it frozen."""
    if work.state().detail == "":  # by LXC's own doing, which is to know of it
        if container.is_lxd:
            _by_lxd(container, work, "unfreeze", _THAW_SECONDS)
        else:
            work.run(["lxc-unfreeze", "-n", container.name, "-P", container.lxcpath], seconds=_THAW_SECONDS)
    until = monotonic() + _THAW_SECONDS
    while work.state().name == "FROZEN":
        frozen_above: list[str] = []
        for hierarchy in tree.payload_hierarchies():
            try:
                directory = tree.directory(container, hierarchy, surely=True)
            except CannotObserve as problem:
                if monotonic() > until:
                    raise CannotAct(f"is FROZEN still: {problem}") from None
                continue  # in a hybrid host the other one may be enough
            name, word = ("freezer.state", "THAWED") if hierarchy.version == 1 else ("cgroup.freeze", "0")
            _write(host, f"{directory}/{name}", word)
            frozen_above += above(host, directory, hierarchy.point, name)
        if monotonic() > until:
            by = f" by {frozen_above[0]} above it, so thaw that" if frozen_above else ""
            raise CannotAct(f"is FROZEN still{by}")
        work.pause(acting.STEP_SECONDS)


def above(host: Host, directory: str, point: str, name: str) -> Iterable[str]:
    """The cgroups above one that are frozen themselves; name: freezer.state or cgroup.freeze."""
    parent = directory.rpartition("/")[0]
    while len(parent) > len(point):
        path = f"{parent}/freezer.self_freezing" if name == "freezer.state" else f"{parent}/{name}"
        try:
            if host.value(path) == b"1\n":
                yield parent
        except NotThere:
            pass
        parent = parent.rpartition("/")[0]


def _write(host: Host, path: str, word: str) -> None:
    try:
        descriptor = os.open(host.root + path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, word.encode())
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        pass  # a kernel without a freezer of v2
    except OSError as error:
        raise CannotAct(f"cannot write {path}: {error.strerror}") from None


def main() -> None:
    """The console script."""
    OperateContainer.main()


if __name__ == "__main__":
    main()
