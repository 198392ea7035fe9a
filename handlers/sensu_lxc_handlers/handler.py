"""The fence around a handler, or a check of the server: strict options, settings, a bound on time, one exit status.

The only place that knows sensu_plugin. Its SensuHandler gives the names that people know (event, settings, options,
handle()); what it does with them is replaced, because it loses events, takes misspelt options and ends in tracebacks.
"""

import argparse
import importlib
import os
import re
import select
import signal
import sys
import threading
import time

from . import settings
from .event import Event, parse
from .outcome import ERROR, MISCONFIGURED, REFUSED, BadEvent, Misconfigured, Misused, Outcome, Problem, clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_EVENT_BYTES = 8 << 20
_DEFAULT_TIMEOUT_SECONDS = 10.0
_TURN_SECONDS = 0.05
_SAY_SECONDS = 0.3  # for whoever reads the line slowly


def _sensu_plugin() -> "tuple[Any, Any]":
    """SensuHandler and config_files() without requests, which would cost more than the whole handler.

    The package's __init__ imports all of it, and its handler module imports requests for a method that isn't used
    here. So the module is imported from beside its package's __init__, with a requests that is loaded at the first
    use of one of its names.
    """
    from importlib.machinery import PathFinder

    module_type = type(sys)
    spec = PathFinder.find_spec("sensu_plugin")
    if spec is None:
        # The class below can't even be defined; a traceback would say that in twenty lines.
        name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
        install = f"install it with: {sys.executable} -m pip install sensu-plugin==0.8.0"
        print(f"{name} ERROR misconfigured: {sys.executable} has no sensu_plugin; {install}")
        raise SystemExit(MISCONFIGURED)
    lent = {}
    if "sensu_plugin" not in sys.modules:
        package = lent["sensu_plugin"] = module_type("sensu_plugin")
        vars(package)["__path__"] = spec.submodule_search_locations
    if "requests" not in sys.modules:
        requests = lent["requests"] = module_type("requests")
        vars(requests)["__getattr__"] = lambda name: getattr(importlib.import_module("requests"), name)
    sys.modules.update(lent)
    try:
        handler = importlib.import_module("sensu_plugin.handler")
        return handler.SensuHandler, importlib.import_module("sensu_plugin.utils").config_files
    finally:
        for name in lent:
            del sys.modules[name]


if TYPE_CHECKING:
    from sensu_plugin.handler import SensuHandler
    from sensu_plugin.utils import config_files
else:
    SensuHandler, config_files = _sensu_plugin()


class _Format(argparse.RawDescriptionHelpFormatter):
    """As the examples are written. Asking the terminal for its width costs 3 ms, and argparse does it at every run."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100)


class Parser(argparse.ArgumentParser):
    """argparse that takes no abbreviation and raises Misused instead of exiting with 2 lines."""

    def __init__(self, **options: "Any") -> None:
        try:
            super().__init__(allow_abbrev=False, formatter_class=_Format, **options)
        except TypeError:  # that of PyPI, of Python 2.7, which sensu-plugin brings along
            raise Misused(
                f"{argparse.__file__} hides Python's own argparse, and is an old one; put a virtual environment's bin/ "
                "first on PATH rather than its site-packages on PYTHONPATH"
            ) from None

    def error(self, message: str) -> "NoReturn":
        raise Misused(f"{clean(message)}; see --help")


class Fenced(SensuHandler):  # type: ignore[misc]
    """A script with settings and an end. A subclass says its name, description and scope, and what to do in work().

    self.options   the command line
    self.settings  all of Sensu's settings, or of --config
    self.notes     sentences to append to the line, whatever it says
    self.secrets   texts that must not show up anywhere; work() adds what it learns
    """

    name = ""
    scope = ""
    description = ""
    examples = ""
    unforeseen = REFUSED  # the exit status of what nobody thought of, and of time that is up

    def __init__(self) -> None:
        super().__init__(autorun=False)
        self.started = time.monotonic()
        self.timeout_seconds = _DEFAULT_TIMEOUT_SECONDS
        self.doing = "reading the settings"
        self.notes: list[str] = []
        self.secrets: list[str] = []
        self.streams = [1, 2]
        self._saying = threading.Lock()
        self._configured = threading.Event()
        self.settings: dict[str, object] = {}

    def configure(self) -> None:
        """Read this handler's scope out of self.settings, and set self.timeout_seconds from it."""
        raise NotImplementedError

    def work(self, trouble: "Problem | None") -> Outcome:
        """All of it; trouble is what was wrong with the settings, to be raised."""
        raise NotImplementedError

    def add_options(self, parser: "Parser") -> None:
        """What the command line knows besides the options that all have."""

    def troubled(self, problem: Problem) -> Outcome:
        """How a problem is told."""
        return problem.outcome()

    def rendered(self, outcome: Outcome, notes: str) -> str:
        """The outcome as it is printed; notes are to be appended to its line."""
        return clean(f"{self.name} {outcome.word} {outcome.code}: {outcome.text}", 1000) + notes

    @property
    def end(self) -> float:
        """When the process must be gone, by time.monotonic(): a second before Sensu would kill it."""
        return float(self.started + self.timeout_seconds - min(1.0, self.timeout_seconds / 4))

    def run(self, argv: "list[str] | None" = None) -> Outcome:
        """The whole of it but for saying the outcome. Raises Problem, and SystemExit after --help."""
        self.parser = self._parser()
        self.options = self.parser.parse_args(argv)
        self._watch()
        trouble: Problem | None = None
        try:
            self.settings, self.where = self._read_settings()
            self.configure()
        except Problem as problem:
            trouble = problem
        self._configured.set()
        self._give_way_at_the_end()
        return self.work(trouble)

    def main(self) -> "NoReturn":
        """Run, say the outcome in one line on stdout, and leave."""
        self.streams = _open_streams()
        try:
            outcome = self.run()
        except Problem as problem:
            outcome = self.troubled(problem)
        except SystemExit as leave:
            # --help; also into a pipe that nobody reads.
            _leave(leave.code if isinstance(leave.code, int) else REFUSED)
        except BaseException as error:  # noqa: BLE001 -- the last fence: one line, and no text that could hold a secret
            what = f"{type(error).__name__} at {_where(error)} while {self.doing}"
            outcome = Outcome(ERROR, "internal", what, self.unforeseen)
        self._say(outcome)
        _leave(outcome.status)

    def _parser(self) -> Parser:
        parser = Parser(prog=f"{self.name}.py", description=self.description, epilog=self.examples)
        parser.add_argument(
            "-j", "--json-config", metavar="NAME", default=self.scope, help="key of the settings to use (%(default)s)"
        )
        parser.add_argument(
            "--config", metavar="FILE", help="read the settings from this JSON file instead of Sensu's /etc/sensu"
        )
        parser.add_argument("--dry-run", action="store_true", help="decide the same, but ask nobody and record nothing")
        self.add_options(parser)
        return parser

    def _read_settings(self) -> "tuple[dict[str, object], str]":
        if self.options.config is not None:
            return settings.read_file(self.options.config), self.options.config
        chosen = os.environ.get("SENSU_LOADED_TEMPFILE") or os.environ.get("SENSU_CONFIG_FILES")
        try:
            paths = config_files()
        except (OSError, ValueError):
            raise Misconfigured("the list of settings files in SENSU_LOADED_TEMPFILE can't be read") from None
        merged, notes = settings.merge_files(paths if chosen else settings.with_subfolders(paths))
        self.notes += notes
        return merged, "the files that Sensu loaded" if chosen else "/etc/sensu/config.json and conf.d"

    def _watch(self) -> None:
        """End the process in time, whatever the rest of it waits for: a disk, a lock, a name server."""

        def watch() -> None:
            self._configured.wait(max(0.0, self.end - time.monotonic()))
            time.sleep(max(0.0, self.end - time.monotonic()))
            self._say(Outcome(ERROR, "timeout", f"time was up while {self.doing}", self.unforeseen))
            _leave(self.unforeseen)

        threading.Thread(target=watch, daemon=True).start()
        self._give_way_at_the_end()

    def _give_way_at_the_end(self) -> None:
        """Let the watch have its turn also where Python computes: a regular expression keeps all other threads out.

        But it looks at signals now and then, and what sleeps for one lets the others run.
        """
        signal.signal(signal.SIGALRM, lambda number, frame: time.sleep(_TURN_SECONDS))
        # And who computes on without looking at signals is killed by the kernel once that used up all of the time.
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM, signal.SIGPROF))
        left = max(0.01, self.end - time.monotonic())
        signal.setitimer(signal.ITIMER_REAL, left, 2 * _TURN_SECONDS)
        signal.setitimer(signal.ITIMER_PROF, left + 2 * _SAY_SECONDS)

    def without_secrets(self, text: str) -> str:
        """text without what a server may have echoed; our own messages are made without secrets.

        However short one is: a line with holes can be read, a secret in a log can't be taken back.
        """
        # The longest first, as one may be part of another, and at once, as one may be found in the stars.
        forms = "|".join(re.escape(secret) for secret in sorted(set(self.secrets), key=len, reverse=True) if secret)
        return re.sub(forms, "***", text) if forms else text

    def _say(self, outcome: Outcome) -> None:
        if not self._saying.acquire(blocking=False):
            time.sleep(1)  # the other thread says how it ended, unless nobody reads it
            return
        # Before anything is cut off, and not in the words by which logs are searched.
        notes = clean("".join(f" [{self.without_secrets(note)}]" for note in self.notes), 1000)
        outcome = outcome._replace(text=self.without_secrets(outcome.text))
        data = (self.rendered(outcome, notes) + "\n").encode()
        until = max(self.end, time.monotonic()) + _SAY_SECONDS
        for stream in self.streams:
            if _written(stream, data, until):
                return


def _written(stream: int, data: bytes, until: float) -> bool:
    """Whether all of it went there by that time. What select() promises room for does not block in so small pieces."""
    try:
        while data:
            if not select.select([], [stream], [], max(0.0, until - time.monotonic()))[1]:
                return False
            data = data[os.write(stream, data[: select.PIPE_BUF]) :]
    except (OSError, ValueError):
        return False
    return True


class Handler(Fenced):
    """One handler: handle() decides on self.event and acts."""

    def __init__(self) -> None:
        super().__init__()
        self.event: Event

    def handle(self) -> Outcome:
        """Decide on self.event and act."""
        raise NotImplementedError

    def work(self, trouble: "Problem | None") -> Outcome:
        # Before the trouble is told: whoever writes the event must be able to, and the line shall tell which event
        # was not handled.
        self.doing = "reading the event from STDIN"
        self.event = parse(_read_stdin(self.end))
        try:
            if trouble:
                raise trouble
            return self.handle()
        except Problem as problem:
            problem.args = (f"{self.event} not handled: {problem}",)
            raise

    def add_options(self, parser: Parser) -> None:
        parser.add_argument(
            "--map-v2-event-into-v1", action="store_true", help="does nothing: both shapes of event are understood"
        )


def _open_streams() -> "list[int]":
    """Those of stdout and stderr that are open.

    What whoever started this closed is given to /dev/null, or the ledger or a socket would get that number, and what is
    printed there with it.
    """
    there = []
    for number in (1, 2):
        try:
            os.fstat(number)
            there.append(number)
        except OSError:
            pass
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass
    return there


def _leave(status: int) -> "NoReturn":
    """Exit at once: threads that wait for the network must not keep the process, and the usual end costs 2 ms."""
    try:
        if sys.stdout:  # None where it was closed
            sys.stdout.flush()
    except (OSError, ValueError):
        pass
    os._exit(status)


def _read_stdin(end: float) -> bytes:
    """All of STDIN, by the time end and up to 8 MiB."""
    read = bytearray()
    try:
        # Sensu Core on Ruby 3 hands over a pipe that does not block, and reading it would fail before Sensu has
        # written.
        os.set_blocking(0, True)
        while True:
            # A little earlier than end, so that it is this that is said.
            if not select.select([0], [], [], max(0.0, end - 0.2 - time.monotonic()))[0]:
                raise BadEvent(f"STDIN was not closed in time: {len(read)} bytes, beginning with '{_start(read)}'")
            piece = os.read(0, 1 << 16)
            if not piece:
                return bytes(read)
            read += piece
            if len(read) > _EVENT_BYTES:
                raise BadEvent(f"more than {_EVENT_BYTES >> 20} MiB on STDIN, beginning with '{_start(read)}'")
    except OSError as error:
        raise BadEvent(f"STDIN can't be read: {error.strerror}") from None


def _start(read: bytearray) -> str:
    return clean(read[:120].decode("utf-8", "replace"), 80)


def _where(error: BaseException) -> str:
    """file:line where an unforeseen exception was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else "an unknown place"
