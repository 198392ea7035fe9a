"""Acting on containers: what the scripts that make, remove, start and grow them share.

A signal ends none of them in the middle of a step, a program is run for no longer than the time that is left, and
nobody works on a container that another run is at work on.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from argparse import ArgumentTypeError
from time import monotonic, sleep

from sensu_lxc import bound, commands, inventory, monitor, owned, states
from sensu_lxc.errors import CannotObserve
from sensu_lxc.options import Misuse
from sensu_lxc.owned import CannotAct
from sensu_lxc.render import text
from sensu_lxc.sources import lxc_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Container

# Exit statuses of the scripts that answer in JSON.
DONE, FAILED, REFUSED = 0, 1, 3
# A container whose init ends at once was RUNNING for a moment.
PROOF_SECONDS = 0.2
STEP_SECONDS = 0.05
# States that another one follows by itself.
PASSING = ("STARTING", "STOPPING", "ABORTING", "FREEZING", "THAWED", states.UNRESPONSIVE)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", re.ASCII)
_MONITOR_SECONDS = 2.0
_LXC_CONFIG_SECONDS = 10.0
# What LXC's own bound is cut to; it takes whole seconds.
_LONGEST_STOP_SECONDS = 86400


class Refused(Exception):
    """Nothing was touched, and the message says why."""


class Stop:
    """Whether we were asked to end. A signal only sets it, so that no step is torn apart."""

    def __init__(self) -> None:
        self.number = 0

    def watch(self) -> None:
        """Take SIGTERM (Jenkins' abort), SIGINT and SIGHUP as a wish to end."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def __call__(self) -> bool:
        return self.number != 0

    def _note(self, number: int, frame: object) -> None:
        self.number = self.number or number

    @property
    def name(self) -> str:
        """What asked us to end."""
        return signal.Signals(self.number).name


def name_of(prefix: str, request_id: str) -> str:
    """The container's name: fit for LXC, a host name and a Sensu entity; at most 57 letters.

    80 bits of SHA-256 without a dash in them, so that no other prefix and id make the same name; that an id is the one
    it was made for is verified all the same.
    """
    from base64 import b32encode
    from hashlib import sha256

    return f"{prefix}-{b32encode(sha256(request_id.encode()).digest()[:10]).decode().lower()}"


def a_request_id(text: str) -> str:
    """For argparse: type=a_request_id."""
    if _REQUEST_ID.fullmatch(text) is None:
        raise ArgumentTypeError(f"{quoted(text)} is no request id: 1 to 128 letters, digits, _ . or -")
    return text


def a_prefix(text: str) -> str:
    """For argparse: type=a_prefix."""
    if _PREFIX.fullmatch(text) is None:
        raise ArgumentTypeError(f"{quoted(text)} is no prefix: 1 to 40 of a-z, 0-9 and - (not at its ends)")
    return text


def a_name(text: str) -> str:
    """For argparse: type=a_name."""
    if _NAME.fullmatch(text) is None:
        raise ArgumentTypeError(f"{quoted(text)} is no container's name: letters, digits, _ . and -")
    return text


def quoted(text: str) -> str:
    """What somebody wrote, short and printable."""
    return ascii(text if len(text) <= 40 else text[:40] + "...")


def trusted_file(path: str, option: str) -> str:
    """The real path of a file that nobody else can write: it runs, or names hooks that run, with our rights."""
    real = os.path.realpath(path)
    try:
        about = os.stat(real)
    except OSError as error:
        raise Misuse(f"{option} {text(path)} can't be read: {error.strerror}") from None
    if not os.path.isfile(real):
        raise Misuse(f"{option} {text(path)} is no file")
    if about.st_uid not in (0, os.geteuid()) or about.st_mode & 0o022:
        raise Misuse(f"{option} {text(path)} can be changed by others; chown it to root and chmod go-w it")
    return real


def absolute(lxcpath: str) -> str:
    """An --lxcpath without surplus slashes and dots. Raises Misuse."""
    if not lxcpath.startswith("/"):
        raise Misuse(f"--lxcpath {lxcpath!r} is not absolute; write for example -P /var/lib/lxc")
    return "/" + os.path.normpath(lxcpath).strip("/")


def lxcpath_of_host() -> str:
    """Where this user's LXC keeps containers. Raises Refused."""
    try:
        done = commands.run(["lxc-config", "lxc.lxcpath"], _LXC_CONFIG_SECONDS, capture=True)
    except commands.CannotRun as error:
        raise Refused(str(error)) from None
    path: str = done.output.decode("utf-8", "surrogateescape").strip().rstrip("/")
    if done.status or not path.startswith("/"):
        raise Refused("lxc-config does not tell where the containers are; name it with -P, for example -P /var/lib/lxc")
    return path


def check_permitted(lxcpath: str, verb: str, done_by_lxd: str) -> None:
    """Raise Refused where containers can't be made or removed (verb) in lxcpath. done_by_lxd: how LXD does it."""
    if lxcpath in inventory.LXD_PATHS:
        raise Refused(f"{lxcpath} is LXD's; containers in it are {done_by_lxd} or by its API")
    if os.path.isdir(lxcpath) and os.access(lxcpath, os.W_OK | os.X_OK):
        return
    if os.geteuid() == 0 or (not os.path.lexists(lxcpath) and os.access(os.path.dirname(lxcpath), os.R_OK)):
        raise Refused(f"{lxcpath} is no directory that can be written; name the lxcpath with -P")
    raise Refused(
        f"user {os.geteuid()} may not {verb} containers in {lxcpath}: run it as root (sudo -n), or name an lxcpath of "
        "that user's own with -P"
    )


class Work:
    """Work on one container: under its lock (owned.lock), until a deadline, or until somebody asks us to end.

    say: takes a sentence of what is done; output: the descriptor that the programs we run write to.
    """

    def __init__(
        self,
        host: Host,
        lxcpath: str,
        name: str,
        seconds: float,
        stop: Stop,
        say: Callable[[str], object],
        output: int = 2,
    ) -> None:
        self.host, self.lxcpath, self.name = host, lxcpath, name
        self.directory = f"{lxcpath}/{name}"
        self.seconds, self.deadline = seconds, monotonic() + seconds
        self.stop, self.say, self.output = stop, say, output
        self.lock = -1

    def container(self) -> Container:
        """The container, defined or not."""
        return owned.find(self.host, self.lxcpath, self.name)

    def state(self) -> states.State:
        """Its state now. Raises CannotObserve."""
        return owned.state(self.host, self.lxcpath, self.name, max(self.left(), 0.5))

    def _seen(self) -> str:
        """Its state now, "" where that can't be told, as for a moment where it starts or ends: one looks again."""
        try:
            name: str = self.state().name
        except CannotObserve:
            return ""
        return name

    def left(self) -> float:
        """How many seconds there are until the deadline."""
        return max(0.0, self.deadline - monotonic())

    def run(
        self, argv: Sequence[str], keep_open: Sequence[int] = (), seconds: float | None = None
    ) -> commands.Finished:
        """Run a program until the deadline; with seconds at most that long, after which the answer says why = time.

        Raises CannotAct where it can't be run, and when the deadline or a signal ended it.
        """
        if self.stop():
            raise CannotAct(f"interrupted by {self.stop.name}")
        bound = self.left() if seconds is None else min(seconds, self.left())
        try:
            done = commands.run(argv, bound, stop=self.stop, keep_open=keep_open, output_to=self.output)
        except commands.CannotRun as error:
            raise CannotAct(str(error)) from None
        if self.stop():
            raise CannotAct(f"interrupted by {self.stop.name}")
        if done.why and not self.left():
            raise CannotAct(f"{argv[0]} was not done after {self.seconds:g} s; give it longer with --timeout")
        return done

    def pause(self, seconds: float, too_late: str = "") -> None:
        """Wait a little. Raises CannotAct after a signal, and past the deadline where there are words for that."""
        if self.stop():
            raise CannotAct(f"interrupted by {self.stop.name}")
        if too_late and not self.left():
            raise CannotAct(too_late)
        sleep(seconds)

    def start(self, log: str) -> None:
        """lxc-start, whose errors go to a log. Raises CannotAct with their cause."""
        size = _size(log)
        done = self.run(["lxc-start", "-n", self.name, "-P", self.lxcpath, "-d", "-o", log, "-l", "ERROR"])
        if done.status or done.why:
            errors = _errors(log, size)
            for line in errors:
                self.say(line)
            # LXC writes the cause first, behind its own place: … ERROR utils - file:function:line - WORDS
            cause = errors[0].split(" - ", 2)[-1] if errors else self.heard()
            raise CannotAct(f"lxc-start {done}: {cause}")

    def heard(self) -> str:
        """The last thing that a program of ours said, where nobody but us has heard it."""
        if self.output == 2:
            return "its own lines on stderr say why"
        said = os.pread(self.output, 65536, max(0, os.fstat(self.output).st_size - 65536))
        return said.decode("utf-8", "replace").strip().rpartition("\n")[2] or "it does not say why"

    def proved(self, log: str) -> int:
        """The pid of its init, once that has lived for a while. Raises CannotAct; log: where to look then."""
        pid, since = 0, monotonic()
        while not pid or monotonic() - since < PROOF_SECONDS:
            self.pause(STEP_SECONDS, f"{self.name} is not up after {self.seconds:g} s")
            seen = self._seen()
            if seen in ("STOPPED", states.ORPHANED):
                raise CannotAct(
                    f"{self.name} stopped again right after its start; see {log}, and what lxc-start -F says"
                )
            now = self.init_pid() if seen == "RUNNING" else 0
            if now != pid:
                pid, since = now, monotonic()
        return pid

    def init_pid(self) -> int:
        """The pid of its init as its monitor says it, 0 where it does not."""
        reply = monitor.ask_one(self.container().address, lxc_command.GET_INIT_PID, _MONITOR_SECONDS)
        pid: int = reply.value
        return pid if not reply.problem and reply.status == 0 and 0 < pid < 2**31 else 0

    def halt(self, seconds: float) -> bool:
        """Stop it: ask it to, and end it after so many seconds. Returns whether it did as asked. Raises CannotAct."""
        whole = max(1, min(round(seconds), _LONGEST_STOP_SECONDS))
        argv = ["lxc-stop", "--nokill", "-t", str(whole), "-n", self.name, "-P", self.lxcpath]
        # Longer than its own bound: it is to end its question itself.
        self.run(argv, keep_open=self._lock, seconds=whole + 2)
        until = monotonic() + 1  # lxc-stop is back before the monitor is gone
        while monotonic() < until:
            seen = self._seen()
            if seen == "STOPPED":
                return True
            if seen == "RUNNING":
                break
            self.pause(STEP_SECONDS)
        self.say(f"{self.name} did not stop within {whole} s of being asked to; ending it")
        owned.kill(self.host, self.lxcpath, self.name, self._lock, self.output)
        return False

    @property
    def _lock(self) -> list[int]:
        # Whoever inherits it goes on to hold it when we are killed: the next run then waits for what we began.
        return [self.lock] if self.lock >= 0 else []


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _errors(path: str, start: int) -> list[str]:
    """What LXC wrote to its log as errors since it was `start` bytes long."""
    try:
        with open(path, errors="replace") as file:
            file.seek(start)
            return [line.strip() for line in file if " ERROR " in line]
    except OSError:
        return []


def say(program: str, sentence: str) -> None:
    """Tell whoever reads the build's console."""
    bound.say(bound.line(f"{program}: {text(sentence, 2000)}"), 2)


def answer_and_exit(program: str, act: Callable[[Sequence[str], Stop], tuple[int, dict[str, Any]]]) -> NoReturn:
    """A script that answers in one JSON line: act on the command line, print, and end with the status."""
    import json

    os.umask(0o022)  # a container's files are to be the same whoever asked for it
    stop = Stop()
    stop.watch()
    status, answer = act(sys.argv[1:], stop)
    if not bound.say(bound.line(json.dumps(answer)), 1):
        say(program, f"stdout takes nothing; the answer was: {json.dumps(answer)}")
        status = status or FAILED  # what could not be said did not happen to who waits for it
    sys.exit(status)
