#!/usr/bin/env python3
"""Remove one container that sensu-lxc made: drain it, stop it, destroy it, however often it is asked for."""

from __future__ import annotations

import os
import re
import shlex
from argparse import ArgumentTypeError
from time import monotonic

from sensu_lxc import acting, commands, owned, states
from sensu_lxc.acting import DONE, FAILED, REFUSED, Refused, Stop, a_name, a_prefix, a_request_id, name_of, quoted
from sensu_lxc.errors import CannotObserve
from sensu_lxc.host import Host
from sensu_lxc.levels import duration
from sensu_lxc.options import Misuse, StrictParser
from sensu_lxc.owned import CannotAct
from sensu_lxc.render import fault, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

    from sensu_lxc.sources.ownership import Record

PROGRAM = "decommission_container"
EXAMPLE = """\
  decommission_container.py --request-id web-17
  decommission_container.py --request-id web-17 --name-prefix web --drain '/usr/local/sbin/drain web {name}'
  decommission_container.py -n auto-zmmkxjqowvnkcnse --stop-timeout 2m --dry-run

Only a container that provision_container made is removed: its sensu-lxc.json says for which request, and its name is
the one of that request. Anything else, a copy of such a container too, is refused and untouched. A second run of the
same, also at the same time, finds it gone and prints "removed": false and that nothing was there: so does a run on
another host, or with another prefix. One whose root filesystem clones share (lxc-copy -s), or that has snapshots, is
refused and untouched as well: lxc-destroy those first.

--drain runs first, while the container runs, so that nobody is sent to it any more: a program and its arguments, found
on the usual PATH, no shell; {name} is the container's name. It may run again after a run that was killed. Where it
fails or takes longer than --drain-timeout nothing is stopped, unless --force-drain says to go on all the same.

stdout: one JSON line: name, request_id, lxcpath, state ("GONE"), removed, drained and stopped_cleanly (true, false, or
        null where there was nothing to drain or stop), note (where nothing was there), seconds; after a failure name,
        request_id, lxcpath, state, error, left (the directory of what is left of it), seconds
stderr: what is done, the output of the drain command and, after a failure, one sentence
status: 0 it is gone; 1 failed on the way, and "state" and "left" say how far it came: the next run goes on from there;
        3 refused, and nothing was touched: the options make no sense, LXC or the permission is missing, it is somebody
        else's, clones or snapshots depend on it, it is frozen, its monitor does not answer, or its processes run on
        without one"""

_PLACEHOLDER = re.compile(r"\{[A-Za-z_]*\}", re.ASCII)


def a_command(words: str) -> list[str]:
    """A drain command as its arguments. For argparse: type=a_command."""
    try:
        argv = shlex.split(words)
    except ValueError as error:
        raise ArgumentTypeError(f"{quoted(words)} can't be split into words: {error}") from None
    unknown = sorted({one for word in argv for one in _PLACEHOLDER.findall(word)} - {"{name}"})
    if unknown:
        raise ArgumentTypeError(f"{quoted(words)} has {unknown[0]} in it; {{name}}, the container's, is all there is")
    if not any("{name}" in word for word in argv[1:]):
        raise ArgumentTypeError(f"{quoted(words)} does not say what to drain: write {{name}} for the container's name")
    return argv


def parser() -> StrictParser:
    """The command line."""
    made = StrictParser(f"{__doc__}\n\nNeeds root, or an lxcpath of one's own.", EXAMPLE)
    made.prog = f"{PROGRAM}.py"
    made.usage = "%(prog)s (--request-id ID [--name-prefix PREFIX] | -n NAME) [options]"
    add = made.add_argument
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument("--request-id", metavar="ID", type=a_request_id, help="what the container was made for")
    which.add_argument("-n", "--name", metavar="NAME", type=a_name, help="the container itself")
    add("--name-prefix", metavar="PREFIX", type=a_prefix, help="what its name begins with, as when it was made (auto)")
    add("-P", "--lxcpath", metavar="DIR", help="where it is; default: what lxc-config lxc.lxcpath says")
    add("--drain", metavar="COMMAND", type=a_command, help="run this first; {name} is the container's name")
    add(
        "--drain-timeout", metavar="TIME", type=duration, default=60.0,
        help="how long that may take (default: 60s)",
    )  # fmt: skip
    add("--force-drain", action="store_true", help="remove it although the drain command failed")
    add(
        "--stop-timeout", metavar="TIME", type=duration, default=60.0,
        help="how long it has to shut down before it is killed (default: 60s)",
    )  # fmt: skip
    add(
        "--timeout",
        metavar="TIME",
        type=duration,
        default=300.0,
        help="begin nothing more after that long (default: 5m)",
    )
    add("--dry-run", action="store_true", help="say what would be done")
    return made


def validated(arguments: Sequence[str]) -> argparse.Namespace:
    """The options. Raises Misuse."""
    options: argparse.Namespace = parser().parse_args(list(arguments))
    if options.name is not None and options.name_prefix is not None:
        raise Misuse("--name-prefix belongs to --request-id; -n is the whole name")
    if options.lxcpath is not None:
        options.lxcpath = acting.absolute(options.lxcpath)
    if options.drain is None:
        if options.force_drain:
            raise Misuse("--force-drain is about the drain command; give that by --drain")
    else:
        options.drain[0] = _program(options.drain[0])
    return options


def _program(word: str) -> str:
    """The whole path of the drain command. Raises Misuse where it could be somebody else's, or is none."""
    import shutil

    found = shutil.which(word, path=commands.PATH)
    if found is None or not found.startswith("/"):
        raise Misuse(f"--drain: there is no program {quoted(word)}; give its whole path, and make it executable")
    acting.trusted_file(found, "--drain")
    return found


class Removal(acting.Work):
    """The way from a container to none."""

    def __init__(self, host: Host, lxcpath: str, name: str, options: argparse.Namespace, stop: Stop) -> None:
        super().__init__(host, lxcpath, name, options.timeout, stop, say)
        self.options = options
        self.touched = False
        drain = options.drain or []
        self.drain = [*drain[:1], *(word.replace("{name}", name) for word in drain[1:])]

    def remove(self) -> dict[str, Any]:
        """Have it gone. Raises Refused, CannotAct or CannotObserve; see `touched`."""
        drained = clean = None
        with owned.lock(self.lxcpath, self.name, self.options.timeout, self.stop) as self.lock:
            if self.ours() is None:
                owned.remove(self.host, self.lxcpath, self.name)  # what a killed run left beside it
                say(self.nothing_there())
                told = {"state": "GONE", "removed": False, "drained": None, "stopped_cleanly": None}
                return {**told, "note": self.nothing_there()}
            if self.settled() == "RUNNING":
                self.touched = True
                if self.drain:
                    drained = self._drained()
                    # That took its time, in which somebody may have looked after it.
                    if self.ours() is None or self.settled() not in ("RUNNING", "STOPPED"):
                        raise CannotAct(f"{self.name} was changed by somebody while it was drained")
                if self.state().name == "RUNNING":
                    say(f"stopping {self.name}")
                    clean = self.halt(self.options.stop_timeout)
            self.touched = True
            if self.stop():
                raise CannotAct(f"interrupted by {self.stop.name}")
            if not self.left():
                raise CannotAct(f"{self.name} is stopped, and {self.seconds:g} s are up; the next run removes it")
            say(f"removing {self.name}")
            # Not interrupted: half a container serves nobody.
            owned.remove(self.host, self.lxcpath, self.name, [self.lock], max(60.0, self.left()))
        return {"state": "GONE", "removed": True, "drained": drained, "stopped_cleanly": clean}

    def nothing_there(self) -> str:
        """What is said where there is no such container. It may be gone by an earlier run, so it is no failure."""
        known = "another prefix or" if self.options.name is None else "another name, or"
        return (
            f"nothing was there: there is no container {self.name} in {self.lxcpath}; it is gone already, or has "
            f"{known} another host"
        )

    def ours(self) -> Record | None:
        """Its record, None where there is no such container. Raises Refused where it is not one of ours."""
        there = os.path.lexists(self.directory)
        try:
            record = owned.record(self.host, self.directory) if there else None
        except CannotObserve as problem:
            raise Refused(f"{self.directory} can't be told to be of sensu-lxc: {problem}") from None
        if record is None:
            if there:
                raise Refused(f"{self.directory} was not made by sensu-lxc, so it is not touched")
            seen = self.state()
            if seen.name != "STOPPED":
                raise Refused(f"a container {self.name} without a directory is {seen.name}; it is not touched")
            return None
        wanted = self.options.request_id
        if wanted is not None and record.request_id != wanted:
            raise Refused(f"{self.directory} was made for the request {quoted(record.request_id)}; it is not touched")
        prefix = self.name.rpartition("-")[0]
        if self.name != name_of(prefix, record.request_id):
            raise Refused(
                f"{self.name} is not the name that a container of the request {quoted(record.request_id)} gets, so it "
                "is somebody's copy, and not touched"
            )
        reason = owned.why_not_removable(self.host, self.container())
        if reason is not None:
            raise Refused(f"{self.directory} is not touched: {reason}")
        return record

    def settled(self) -> str:
        """RUNNING or STOPPED. Raises Refused where it is in no state to be removed, or does not come to one."""
        while True:
            seen = self.state()
            if seen.name == states.ORPHANED or seen.beside:
                raise Refused(
                    f"processes of {self.name} run on without their monitor, in {seen.detail or seen.beside}, and may "
                    "write to its root filesystem: end those first"
                )
            if seen.name == states.UNRESPONSIVE:
                raise Refused(
                    f"the monitor of {self.name} does not answer ({seen.detail}), and lxc-stop would hang on it: "
                    "continue it (kill -CONT), or wait for its hook"
                )
            if seen.name in ("RUNNING", "STOPPED"):
                return str(seen.name)
            if seen.name not in acting.PASSING:
                raise Refused(
                    f"{self.name} is {seen.name}, perhaps for a backup; lxc-unfreeze -n {self.name} ends that"
                )
            if not self.left():
                raise Refused(f"{self.name} is still {seen.name} after {self.seconds:g} s")
            self.pause(acting.STEP_SECONDS)

    def _drained(self) -> bool:
        options = self.options
        say(f"draining {self.name}: {shlex.join(self.drain)}")
        done = self.run(self.drain, keep_open=[self.lock], seconds=options.drain_timeout)
        if not (done.status or done.why):
            return True
        why = f"took longer than {options.drain_timeout:g} s" if done.why else str(done)
        if not options.force_drain:
            raise CannotAct(
                f"the drain command {why}, so {self.name} runs on; its own lines on stderr say why (--force-drain "
                "removes it all the same)"
            )
        say(f"the drain command {why}; going on all the same")
        return False

    def left_behind(self) -> dict[str, Any]:
        """What a failure says of the container: the state, and the directories that are left."""
        try:
            state = self.state().name
        except CannotObserve:
            state = None
        there = os.path.lexists(self.directory)
        return {"state": state if there or state != "STOPPED" else "GONE", "left": [self.directory] if there else []}


def say(sentence: str) -> None:
    """Tell whoever reads the build's console."""
    acting.say(PROGRAM, sentence)


def decommission(arguments: Sequence[str], stop: Stop) -> tuple[int, dict[str, Any]]:
    """(exit status, what the JSON line says), whatever happens."""
    began = monotonic()
    answer: dict[str, Any] = {"name": None, "request_id": None, "lxcpath": None}
    work = None
    try:
        options = validated(arguments)
        lxcpath = options.lxcpath or acting.lxcpath_of_host()
        name = options.name or name_of(options.name_prefix or "auto", options.request_id)
        answer = {"name": name, "request_id": options.request_id, "lxcpath": lxcpath}
        acting.check_permitted(lxcpath, "remove", "removed with `lxc delete`")
        work = Removal(Host(), lxcpath, name, options, stop)
        if answer["request_id"] is None:
            answer["request_id"] = request_of(work)
        answer.update(dry_run(work) if options.dry_run else work.remove())
        status = DONE
    except Exception as problem:
        known = isinstance(problem, (Refused, CannotAct, CannotObserve, Misuse))
        error = text(str(problem), 1000) if known else text(fault(problem), 1000)
        status = FAILED if work is not None and work.touched else REFUSED
        left = work.left_behind() if work is not None and status == FAILED else {"left": []}
        answer.update({"error": error, **left})
        said = f"; left: {', '.join(left['left'])}, {left['state']}" if left["left"] else ""
        say(f"{error}{said}")
    answer["seconds"] = round(monotonic() - began, 3)
    return status, answer


def request_of(work: Removal) -> str | None:
    """The request that a container was made for, for the answer alone."""
    try:
        record = owned.record(work.host, work.directory)
    except CannotObserve:
        return None
    return str(record.request_id) if record is not None else None


def dry_run(work: Removal) -> dict[str, Any]:
    """What would be done now. Raises as Removal.remove does, but touches nothing."""
    would: list[str] = []
    if work.ours() is None:
        return {"dry_run": True, "state": "GONE", "would": would, "note": work.nothing_there()}
    state = work.settled()
    here = ["-n", work.name, "-P", work.lxcpath]
    if state == "RUNNING":
        if work.drain:
            would.append(shlex.join(work.drain))
        would.append(shlex.join(["lxc-stop", "-t", f"{work.options.stop_timeout:.0f}", *here]))
    return {"dry_run": True, "state": state, "would": [*would, shlex.join(["lxc-destroy", *here])]}


def main() -> None:
    """The console script."""
    acting.answer_and_exit(PROGRAM, decommission)


if __name__ == "__main__":
    main()
