#!/usr/bin/env python3
"""Make one container for one request, however often and from how many places at once the request comes."""

from __future__ import annotations

import os
import re
import shlex
from argparse import ArgumentTypeError
from collections import namedtuple
from time import monotonic, time

from sensu_lxc import acting, inventory, owned, states
from sensu_lxc.acting import DONE, FAILED, REFUSED, Refused, Stop, a_name, a_prefix, a_request_id, name_of, quoted
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.host import Host
from sensu_lxc.levels import duration
from sensu_lxc.options import Misuse, StrictParser
from sensu_lxc.owned import CannotAct
from sensu_lxc.render import fault, text
from sensu_lxc.sources import addresses, ownership

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

    from sensu_lxc.sources.ownership import Record

START_LOG = "lxc-start.log"
EXAMPLE = """\
  provision_container.py --request-id web-17 --template busybox --wait-for-ip
  provision_container.py --request-id web-17 --clone golden-web --name-prefix web --wait-for-ip 1m
  provision_container.py --request-id db-3 --template download -- --dist debian --release bookworm --arch amd64

The container's name is PREFIX-HASH, with a hash of the request id: the same id with another --name-prefix is another
container. A second run of the same id and prefix, also at the same time, finds the container of the first, starts it
where it was stopped, and prints the same with "created": false. Which id a container was made for stands in its
sensu-lxc.json; a container without that is somebody else's and never touched.

stdout: one JSON line: name, request_id, lxcpath, state, created, init_pid, ips, seconds; after a failure name,
        request_id, lxcpath, error, left (the directories of what this request left behind), seconds
stderr: what is done, the output of lxc-create and, after a failure, one sentence
status: 0 the container runs; 1 failed on the way; 3 refused, and nothing was touched: the options make no sense,
        LXC or the permission is missing, or the name is somebody else's

A container that never came up is removed again, also after SIGTERM; what a kill -9 left is redone by the next run."""

_TEMPLATE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)
_NET_TYPE = re.compile(r"lxc\.net\.\d+\.type", re.ASCII)

# name: of the container; made_from: see ownership.Record; argv: what makes it.
Plan = namedtuple("Plan", "name lxcpath request_id made_from argv")


def _a_template(text: str) -> str:
    if text == "none":
        raise ArgumentTypeError("'none' makes a container without a root filesystem, which would run on the host's")
    if _TEMPLATE.fullmatch(text) is None:
        raise ArgumentTypeError(
            f"{quoted(text)} is no template's name: letters, digits, _ and -; a file is given by --template-path"
        )
    return text


def parser() -> StrictParser:
    """The command line, without the template's own arguments."""
    made = StrictParser(f"{__doc__}\n\nNeeds root, or an lxcpath of one's own.", EXAMPLE)
    made.prog = "provision_container.py"
    made.usage = "%(prog)s --request-id ID (--template NAME | --clone NAME) [options] [-- template arguments]"
    add = made.add_argument
    add(
        "--request-id",
        metavar="ID",
        type=a_request_id,
        required=True,
        help="what the container is made for, once",
    )
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--template", metavar="NAME", type=_a_template, help="make it with lxc-create -t NAME")
    source.add_argument("--template-path", metavar="FILE", help="likewise, with a template that LXC does not ship")
    source.add_argument("--clone", metavar="NAME", type=a_name, help="make it with lxc-copy of a stopped container")
    add("--name-prefix", metavar="PREFIX", type=a_prefix, default="auto", help="what its name begins with (auto)")
    add("--config", metavar="FILE", help="configuration to begin with, instead of /etc/lxc/default.conf")
    add("-P", "--lxcpath", metavar="DIR", help="where to make it; default: what lxc-config lxc.lxcpath says")
    add(
        "--wait-for-ip", metavar="TIME", type=duration, nargs="?", const=30.0,
        help="wait until it has an address, that long (default 30s)",
    )  # fmt: skip
    add(
        "--timeout", metavar="TIME", type=duration, default=300.0,
        help="give up making and starting it after that long (default: 5m); waiting for an address comes on top",
    )  # fmt: skip
    add("--keep", action="store_true", help="keep what never came up, to look at it; the next run goes on with it")
    add("--dry-run", action="store_true", help="say what would be done")
    return made


def validated(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """(options, the template's arguments). Raises Misuse."""
    given = list(arguments)
    cut = given.index("--") if "--" in given else len(given)
    options, template_arguments = parser().parse_args(given[:cut]), given[cut + 1 :]
    if options.clone is not None and (options.config is not None or template_arguments):
        raise Misuse("a clone has the config of its source: leave out --config and what stands after --")
    for name in ("template_path", "config"):
        path = getattr(options, name)
        if path is not None:
            setattr(options, name, acting.trusted_file(path, "--" + name.replace("_", "-")))
    if options.template_path is not None and not os.access(options.template_path, os.X_OK):
        raise Misuse(f"--template-path {options.template_path} is not executable; chmod +x it")
    if options.lxcpath is not None:
        options.lxcpath = acting.absolute(options.lxcpath)
    return options, template_arguments


def plan(options: argparse.Namespace, template_arguments: Sequence[str], lxcpath: str) -> Plan:
    """What is to be made, and by which command."""
    name = name_of(options.name_prefix, options.request_id)
    if options.clone is not None:
        made_from = {"clone": options.clone}
        argv = ["lxc-copy", "-n", options.clone, "-P", lxcpath, "-p", lxcpath, "-N", name]
    else:
        template = options.template or options.template_path
        made_from = {"template": template}
        argv = ["lxc-create", "-n", name, "-P", lxcpath, "-t", template]
        if options.config is not None:
            argv += ["-f", options.config]
        if template_arguments:
            argv += ["--", *template_arguments]
    return Plan(name, lxcpath, options.request_id, made_from, argv)


class Provisioning(acting.Work):
    """The way from a request to a container that runs."""

    def __init__(self, host: Host, plan: Plan, options: argparse.Namespace, stop: Stop) -> None:
        super().__init__(host, plan.lxcpath, plan.name, options.timeout, stop, say)
        self.plan = plan
        self.options = options
        self.tried = False
        self.touched = False

    def provide(self) -> dict[str, Any]:
        """Have the container run. Raises Refused, CannotAct or CannotObserve; see `tried` and `touched`."""
        with owned.lock(self.plan.lxcpath, self.plan.name, self.options.timeout, self.stop) as self.lock:
            record = self._ours()
            self.tried = True
            try:
                made = record is None
                if record is None:
                    record = self._make()
                elif record.state != ownership.READY:
                    self.touched = True  # it never came up, so it is ours to remove where it doesn't now
                self._bring_up()
                pid, ips = self._until_reachable()
                if record.state != ownership.READY:
                    self._remember(record._replace(state=ownership.READY))
            except BaseException as problem:
                raise self._undone(problem) from problem
        return {"state": "RUNNING", "created": made, "init_pid": pid, "ips": ips}

    def left_behind(self) -> list[str]:
        """The directory of what this request left behind, if it did."""
        try:
            record = owned.record(self.host, self.directory)
            return [self.directory] if record is not None and record.request_id == self.plan.request_id else []
        except CannotObserve:
            return [self.directory] if self.touched else []

    def _ours(self) -> Record | None:
        """The record of the container where it is there and whole; half of one is removed. Raises Refused."""
        plan = self.plan
        there = os.path.lexists(self.directory)
        try:
            record = owned.record(self.host, self.directory) if there else None
        except CannotObserve as problem:
            raise Refused(f"{self.directory} is there and can't be told to be of this request: {problem}") from None
        seen = self.state()
        if record is None:
            if there and not _is_empty(self.directory):
                raise Refused(f"{self.directory} is there and was not made by sensu-lxc, so it is not touched")
            if seen.name != "STOPPED":
                raise Refused(f"a container {plan.name} without a directory is {seen.name}; it is not touched")
            return None
        if record.request_id != plan.request_id:
            raise Refused(
                f"{self.directory} was made for the request {quoted(record.request_id)}, so it is not touched; give "
                "another --name-prefix"
            )
        if record.state == ownership.CREATING:
            say(f"an earlier run of this request was killed half-way; removing what it left of {plan.name}")
            self.touched = True
            owned.remove(self.host, plan.lxcpath, plan.name)
            return None
        if record.made_from != plan.made_from:
            was = " ".join(f"{key} {value}" for key, value in record.made_from.items())
            say(f"{plan.name} is there already, made from {text(was)}; a request is answered once")
        return record

    def _make(self) -> Record:
        plan = self.plan
        if "clone" in plan.made_from:
            self._check_source(plan.made_from["clone"])
        record = ownership.Record(plan.request_id, ownership.CREATING, plan.made_from, round(time(), 3))
        try:
            owned.claim(plan.lxcpath, plan.name, record)
        except OSError as error:
            raise CannotAct(f"cannot make {self.directory}: {error.strerror}") from None
        self.touched = True
        say(f"making {plan.name}: {shlex.join(plan.argv)}")
        done = self.run(plan.argv, keep_open=[self.lock])
        if done.status or done.why:
            raise CannotAct(f"{plan.argv[0]} {done}; its own lines on stderr say why")
        self._check_made()
        record = record._replace(state=ownership.CREATED)
        self._remember(record)
        return record

    def _check_source(self, source: str) -> None:
        """lxc-copy takes stopped containers only, and says so after it has begun."""
        if not owned.find(self.host, self.plan.lxcpath, source).defined:
            raise Refused(f"there is no container {source} in {self.plan.lxcpath} to clone")
        seen = owned.state(self.host, self.plan.lxcpath, source)
        if seen.name == states.ORPHANED:
            raise Refused(f"{source} runs on without its monitor, in {seen.detail}: end those processes first")
        if seen.name != "STOPPED":
            where = f"-n {source} -P {self.plan.lxcpath}"
            raise Refused(
                f"{source} is {seen.name}, and only a stopped container can be cloned: stop it, or keep a stopped copy "
                f"of it to clone from (lxc-stop {where}; lxc-copy {where} -N golden-{source})"
            )

    def _check_made(self) -> None:
        rootfs = owned.root_filesystem(inventory.config(self.host, self.container()))
        if rootfs is None:
            raise CannotAct(f"{self.plan.name} has no root filesystem of its own, so it would run on the host's")
        source = self.plan.made_from.get("clone")
        if source is not None:
            original = owned.find(self.host, self.plan.lxcpath, source)
            if rootfs == owned.root_filesystem(inventory.config(self.host, original)):
                raise CannotAct(f"the clone still has the root filesystem of {source}, {rootfs}")

    def _remember(self, record: Record) -> None:
        try:
            owned.write_record(self.directory, record)
        except OSError as error:
            raise CannotAct(f"cannot write {self.directory}/{ownership.FILE}: {error.strerror}") from None

    def _bring_up(self) -> None:
        plan = self.plan
        started = False
        while (seen := self.state()).name != "RUNNING":
            if seen.name == "STOPPED":
                if started:
                    raise CannotAct(f"{plan.name} stopped again right after its start")
                self._start()
                started = True
                self.pause(acting.PROOF_SECONDS)
            elif seen.name == states.ORPHANED:
                raise Refused(
                    f"{plan.name} runs on without its monitor, in {seen.detail}; starting it would start a second copy "
                    "on the same root filesystem: end those processes first"
                )
            elif seen.name in acting.PASSING:
                self.pause(acting.STEP_SECONDS, f"{plan.name} is still {seen.name} after {self.options.timeout:g} s")
            else:
                where = f"-n {plan.name} -P {plan.lxcpath}"
                raise Refused(f"{plan.name} is {seen.name}, which serves nobody; lxc-unfreeze {where} ends that")

    def _start(self) -> None:
        say(f"starting {self.name}")
        self.touched = True
        # In the container's directory, as the monitor goes on to write there and it is to go with the container.
        self.start(f"{self.directory}/{START_LOG}")

    def _until_reachable(self) -> tuple[int, list[str]]:
        """(pid of its init, its addresses), once it has one where that was asked for."""
        plan, seconds = self.plan, self.options.wait_for_ip
        if seconds is not None:
            say(f"waiting for an address of {plan.name}")
            self.deadline = monotonic() + seconds
        while True:
            pid = self.init_pid()
            ips = self._ips(pid) if pid else []
            if pid and (ips or seconds is None):
                break
            if self.state().name in ("STOPPED", states.ORPHANED):
                raise CannotAct(f"{plan.name} stopped again")
            if monotonic() >= self.deadline:
                waited = f"in {self.options.timeout if seconds is None else seconds:g} s"
                if not pid:
                    raise CannotAct(f"the monitor of {plan.name} did not tell its init {waited}")
                settings = inventory.config(self.host, self.container())
                raise CannotAct(f"{plan.name} got no address {waited}: {why_no_address(settings)}")
            self.pause(acting.STEP_SECONDS)
        return pid, ips

    def _ips(self, pid: int) -> list[str]:
        try:
            if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
                if self.options.wait_for_ip is None:
                    return []  # what is seen there is the host's
                raise CannotAct(f"{self.plan.name} shares the host's network, so it has no address of its own")
        except OSError:
            pass  # it has just ended, or is another user's
        return own_addresses(self.host, pid)

    def _undone(self, problem: BaseException) -> BaseException:
        """Remove a container that never came up; the problem, with what became of the container."""
        if not self.touched or self.options.keep:
            return problem
        try:
            record = owned.record(self.host, self.directory)
            if record is not None and record.request_id == self.plan.request_id and record.state != ownership.READY:
                say(f"removing {self.plan.name} again")
                owned.remove(self.host, self.plan.lxcpath, self.plan.name)
                if isinstance(problem, (CannotAct, CannotObserve)):
                    advice = "" if self.stop() else " (--keep leaves it to look at)"
                    return CannotAct(f"{problem}; {self.plan.name} was removed again{advice}")
        except (CannotAct, CannotObserve) as also:
            return CannotAct(f"{problem}; {also}")
        return problem


def why_no_address(settings: dict[str, str]) -> str:
    """Where to look, by a container's config, when it gets no address."""
    kinds = {value for key, value in settings.items() if _NET_TYPE.fullmatch(key)}
    if not kinds - {"empty"}:
        return "its config gives it no network; give it one (lxc.net.0.type = veth) or leave --wait-for-ip out"
    link = settings.get("lxc.net.0.link", "its link")
    if link == "lxcbr0":
        return "does lxc-net run (systemctl status lxc-net)? a slow one is waited for with --wait-for-ip 2m"
    return f"is there a DHCP server on {link}? a slow one is waited for with --wait-for-ip 2m"


def own_addresses(host: Host, pid: int) -> list[str]:
    """The addresses of a process's network namespace that others can reach it at, IPv4 first."""
    found = []
    for name, parse in (("fib_trie", addresses.ipv4), ("if_inet6", addresses.ipv6)):
        path = f"/proc/{pid}/net/{name}"
        try:
            found += parse(host.read(path), path)
        except NotThere:  # a kernel without that protocol, or a container that has just ended
            continue
    return found


def _is_empty(directory: str) -> bool:
    try:
        return not os.path.islink(directory) and not os.listdir(directory)
    except OSError:
        return False


def say(sentence: str) -> None:
    """Tell whoever reads the build's console."""
    acting.say("provision_container", sentence)


def provision(arguments: Sequence[str], stop: Stop) -> tuple[int, dict[str, Any]]:
    """(exit status, what the JSON line says), whatever happens."""
    began = monotonic()
    answer: dict[str, Any] = {"name": None, "request_id": None, "lxcpath": None}
    work = None
    try:
        options, template_arguments = validated(arguments)
        lxcpath = options.lxcpath or acting.lxcpath_of_host()
        todo = plan(options, template_arguments, lxcpath)
        answer = {"name": todo.name, "request_id": todo.request_id, "lxcpath": lxcpath}
        acting.check_permitted(lxcpath, "make", "made with `lxc launch`")
        work = Provisioning(Host(), todo, options, stop)
        answer.update(dry_run(work) if options.dry_run else work.provide())
        status = DONE
    except Exception as problem:
        known = isinstance(problem, (Refused, CannotAct, CannotObserve, Misuse))
        error = text(str(problem), 1000) if known else text(fault(problem), 1000)
        tried = work is not None and (work.touched or (work.tried and not isinstance(problem, Refused)))
        status = FAILED if tried else REFUSED
        left = work.left_behind() if work is not None else []
        answer.update(error=error, left=left)
        say(f"{error}; left: {', '.join(left)}" if left else error)
    answer["seconds"] = round(monotonic() - began, 3)
    return status, answer


def dry_run(work: Provisioning) -> dict[str, Any]:
    """What would be done now. Raises as Provisioning.provide does, but touches nothing."""
    plan, would = work.plan, []
    record = owned.record(work.host, work.directory)
    seen = owned.state(work.host, plan.lxcpath, plan.name)
    half_made = record is not None and record.request_id == plan.request_id and record.state == ownership.CREATING
    if half_made:
        would.append(f"remove the half-made {work.directory}")
    elif record is not None or os.path.lexists(work.directory):
        work._ours()  # raises where it is not
    if record is None or half_made:
        if "clone" in plan.made_from:
            work._check_source(plan.made_from["clone"])
        would.append(shlex.join(plan.argv))
    if seen.name != "RUNNING":
        would.append(shlex.join(["lxc-start", "-n", plan.name, "-P", plan.lxcpath, "-d"]))
    return {"dry_run": True, "state": seen.name, "would": would}


def main() -> None:
    """The console script."""
    acting.answer_and_exit("provision_container", provision)


if __name__ == "__main__":
    main()
