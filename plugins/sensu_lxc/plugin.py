"""The fence around every check: strict options, a time bound that holds, and the only place that prints and exits.

sensu_plugin gives the names that users know. Its constructor is left out on purpose: it replaces sys.exit, registers an
atexit hook that ends the process with status 1 or 2, and passes misspelt options over (each a wrong state at night).
"""

from __future__ import annotations

import gc
import os
import sys

from sensu_lxc.bound import end_with_stdout, go_apart, line, say, speak
from sensu_lxc.errors import CannotObserve
from sensu_lxc.findings import Finding, Measure, State, worst
from sensu_lxc.host import Host
from sensu_lxc.levels import SIZES_OR_SHARES, Levels, duration, thresholds
from sensu_lxc.options import Misuse, StrictParser
from sensu_lxc.render import fault, report, text

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from typing import Any, NoReturn

    from sensu_lxc.inventory import Inventory
    from sensu_lxc.levels import Numbers
    from sensu_lxc.sweep import Reported


def _sensu_plugin_check() -> Any:
    """sensu_plugin.check.SensuPluginCheck at a fifth of its price.

    The package's __init__ imports requests (60 ms), so the package is entered without it. Its plugin module imports
    traceback (3 ms) for the hook that is left out here.
    """
    spare: dict[str, Any] = {}
    if "sensu_plugin" not in sys.modules:
        specs = (finder.find_spec("sensu_plugin", None) for finder in sys.meta_path)
        spec = next((found for found in specs if found is not None), None)
        if spec is not None and spec.submodule_search_locations is not None:
            spare["sensu_plugin"] = type(sys)("sensu_plugin")
            spare["sensu_plugin"].__path__ = list(spec.submodule_search_locations)
    if "traceback" not in sys.modules:
        spare["traceback"] = type(sys)("traceback")
    sys.modules.update(spare)
    try:
        from sensu_plugin.check import SensuPluginCheck
    except ImportError:
        words = (
            f"{os.path.basename(sys.argv[0])} UNKNOWN: {sys.executable} has no sensu_plugin; install it with: "
            f"{sys.executable} -m pip install sensu-plugin==0.8.0 requests (Debian 12 and later refuse that without "
            "--break-system-packages; a virtual environment needs none, see README)"
        )
        speak(State.UNKNOWN, line(words))
    finally:
        for name in spare:  # whoever imports these later gets the real ones
            del sys.modules[name]
    return SensuPluginCheck


class Check(_sensu_plugin_check()):  # type: ignore[misc]
    """One check. A subclass sets `example`, adds its options and yields findings.

    The docstring of the subclass is what --help says first.
    """

    example = ""
    verbosely = "show what is OK as well"
    # False for what changes the host that it runs on: a mounted one has nothing to be changed.
    may_be_elsewhere = True
    bound_seconds = 10.0

    def __init__(self, arguments: Sequence[str], is_bounded: bool = False) -> None:
        self.plugin_info = {"check_name": None, "message": None, "status": None}
        self.notes: list[str] = []
        self.measures: list[Measure] = []
        self.parser = StrictParser(description=_paragraphs(type(self).__doc__), example=self.example)
        self.setup()
        self.arguments = told_apart(arguments)
        self.options = self.parser.parse_args(arguments)
        if is_bounded:  # as early as that, since --root may be on a dead filesystem
            go_apart(type(self).__name__, self.arguments, self.options.timeout)
        else:  # it may run for months
            gc.enable()
        self.validate()
        self.host = Host(self.options.root)

    def setup(self) -> None:
        """Add the options; a subclass calls this one as well."""
        add = self.parser.add_argument
        self.parser.set_defaults(root="/")
        if self.may_be_elsewhere:
            add("--root", metavar="DIR", help="read /sys, /proc and /var/lib/lxc below DIR: a mounted host")
        bound = self.bound_seconds
        add(
            "--timeout",
            metavar="TIME",
            type=duration,
            default=bound,
            help=f"UNKNOWN after that long (default: {bound:g}s)",
        )
        add("-v", "--verbose", action="store_true", help=self.verbosely)

    def validate(self) -> None:
        """Raise Misuse where options contradict each other; a subclass calls this one as well."""
        if not os.path.isdir(self.options.root):
            raise Misuse(f"--root {self.options.root!r} is no directory; name the one that a host's / is mounted at")

    def findings(self) -> Iterable[Finding]:
        """What was observed and judged. CannotObserve makes the whole check UNKNOWN."""
        raise NotImplementedError

    def outcome(self) -> Iterable[Finding]:
        """The findings that the output and the exit status are made of."""
        return self.findings()

    def output(self, status: State, findings: Sequence[Finding]) -> str:
        """What is printed; nothing at all where it is empty."""
        options = self.options
        return report(type(self).__name__, status, findings, self.notes, self.measures, options.verbose)

    def note(self, sentence: str) -> None:
        """Add a remark to the first line that changes no state."""
        self.notes.append(sentence)

    def aside(self, words: str) -> None:
        """Say something on stderr, where it is asked for: Sensu would mix it into the output."""
        say(line(words), 2)

    @classmethod
    def main(cls, arguments: Sequence[str] | None = None) -> NoReturn:
        """Run the check: print its output and end the process with its status, whatever happens."""
        name = cls.__name__
        status, output = State.UNKNOWN, f"{name} UNKNOWN"
        try:
            check = cls(sys.argv[1:] if arguments is None else arguments, True)
            findings = list(check.outcome())
            status = worst(findings)
            if not findings:
                raise CannotObserve(f"nothing to look at{': ' + '; '.join(check.notes) if check.notes else ''}")
            output = check.output(status, findings)
        except SystemExit as end:  # --help
            end_with_stdout(0 if end.code in (0, None) else State.UNKNOWN)
        except (CannotObserve, Misuse) as problem:
            status, output = State.UNKNOWN, f"{name} UNKNOWN: {text(str(problem), 600)}"
        except KeyboardInterrupt:
            status, output = State.UNKNOWN, f"{name} UNKNOWN: interrupted"
        except BaseException as error:  # noqa: B036  a traceback and status 1 would be read as a warning
            status, output = State.UNKNOWN, f"{name} UNKNOWN: {text(fault(error), 600)}"
        speak(status, line(output))


def _paragraphs(docstring: str | None) -> str:
    return "\n".join(line.strip() for line in (docstring or "").strip().splitlines())


class ContainerCheck(Check):
    """A check of containers: which ones, and one finding or more for each."""

    # True where there is no other way, so that no option asks for it.
    per_container = False
    # False where there is nothing to say of one container alone.
    may_be_per_container = True

    def setup(self) -> None:
        """Add the options that say which containers."""
        add = self.parser.add_argument
        add(
            "-n",
            "--name",
            metavar="NAME",
            action="append",
            default=[],
            help="container, comma list or shell pattern ('web*'), with or without its lxcpath (/srv/lxc/web1); may be "
            "repeated; default: every container",
        )
        add("--exclude", metavar="NAME", action="append", default=[], help="leave these out; likewise")
        add(
            "-P",
            "--lxcpath",
            metavar="DIR",
            action="append",
            default=[],
            help="where the containers are; may be repeated; default: where LXC, LXD and Incus of this host keep them",
        )
        if self.may_be_per_container:
            if not self.per_container:
                add(
                    "--peek", action="store_true",
                    help="for a look by hand: compare with the previous run, but leave nothing for the next one, and "
                    "hand nothing to Sensu",
                )  # fmt: skip
            add(
                "--state-dir", metavar="DIR",
                help="where to remember this run for the next (default: /run/sensu-lxc for root, else "
                "/tmp/sensu-lxc-UID)",
            )  # fmt: skip
            add_agent_options(self.parser, self.per_container)
        else:
            self.parser.set_defaults(per_container=False, peek=False)
        super().setup()

    def validate(self) -> None:
        """Split the lists; an empty name would otherwise mean every container."""
        super().validate()
        for option in ("name", "exclude"):
            names = [name.strip() for value in getattr(self.options, option) for name in value.split(",")]
            if "" in names:
                raise Misuse(f"--{option} has an empty name in it; write for example --{option} web1,web2 or 'web*'")
            setattr(self.options, option, names)
        for path in self.options.lxcpath:
            if not path.startswith("/"):
                raise Misuse(f"--lxcpath {path!r} is not absolute; write for example -P /var/lib/lxc")
        self.found: Inventory | None = None
        self.reported: Mapping[str, Reported] = {}
        if not self.may_be_per_container:
            return
        folder = self.options.state_dir
        if folder is not None and not folder.startswith("/"):
            raise Misuse(f"--state-dir {folder!r} is not absolute; write /var/lib/sensu-lxc or such")
        if self.per_container or self.options.per_container:
            from sensu_lxc import sweep

            self.reporting = sweep.reporting(self.options)
            return
        for option in ("agent", "ttl", "interval", "check_name", "entity_prefix", "handlers"):
            if getattr(self.options, option) is not None:
                raise Misuse(f"--{option.replace('_', '-')} says how to report --per-container; give that as well")

    def inventory(self) -> Inventory:
        """The containers that the options mean."""
        from sensu_lxc import inventory

        options = self.options

        def take() -> Inventory:
            return inventory.take(self.host, options.name, options.exclude, options.lxcpath)

        if self.reported:
            from sensu_lxc import sweep

            self.found = sweep.with_orphans(self.host, take, self.reported, self.reporting.prefix)
        else:
            self.found = take()
        return self.found

    def remember(self, untold: Collection[str] = ()) -> Iterable[Finding]:
        """Leave for the next run what it is to know, once all was looked at: a run that is cut short tells nothing.

        untold: LXCPATH/NAME of those whose results nobody took.
        """
        return ()

    def outcome(self) -> Iterable[Finding]:
        """With --per-container what became of the sweep; each container's findings are a result of its own.

        With --peek there is no sweep: it shows what would be told, and this is the only place that leaves anything.
        """
        if self.options.peek:
            yield from self.findings()
        elif self.options.per_container:
            from sensu_lxc import sweep

            yield from sweep.sweep(self)
        else:
            yield from self.findings()
            yield from self.remember()


def told_apart(arguments: Sequence[str]) -> list[str]:
    """What makes another command line of it, for which another previous run counts: all but -v, --peek and --timeout.

    Who repeats an alerting line with -v is to see the alert.
    """
    kept, words = [], iter(arguments)
    for word in words:
        if word == "--timeout":
            next(words, None)
        elif word not in ("-v", "--verbose", "--peek") and not word.startswith("--timeout="):
            kept.append(word)
    return kept


def add_agent_options(parser: ArgumentParser, always: bool = False) -> None:
    """--per-container, and how its results are handed to Sensu's agent."""
    add = parser.add_argument_group("one result for each container").add_argument
    if not always:
        add(
            "--per-container", action="store_true",
            help="hand the agent a result for each container, as a proxy client or entity of its name; the output and "
            "status of this run are those of the sweep",
        )  # fmt: skip
    add(
        "--agent", metavar="WHERE",
        help="http://HOST:PORT (Sensu Go's agent API, Core's HTTP socket), tcp://HOST:PORT (Core's client socket), or "
        "auto: whichever answers on this host (default)",
    )  # fmt: skip
    add("--ttl", metavar="TIME", type=duration, help="Sensu alerts where nothing is heard of one for so long (180s)")
    add("--interval", metavar="TIME", type=duration, help="how often this runs; less than --ttl (60s)")
    own = "check_container_state" if always else "this script's, without .py"
    add("--check-name", metavar="NAME", help=f"of the results (default: {own})")
    add("--entity-prefix", metavar="WORD", help="before each container's name: web1 may be on two hosts")
    add("--handlers", metavar="NAMES", help="handlers of the results, a comma list")


def add_levels(parser: StrictParser, what: str, numbers: Numbers = SIZES_OR_SHARES) -> None:
    """Add -w and -c, with -e as the name the original script had for -c. numbers: what they may be."""
    add, parsed = parser.add_argument, thresholds(numbers)
    add("-w", "--warning", metavar="RANGE", type=parsed, help=f"WARNING at this much {what}")
    add("-c", "--critical", "-e", "--error", metavar="RANGE", type=parsed, help=f"CRITICAL at this much {what}")
    parser.explain("-w, -c", numbers.words)


def add_pair(
    parser: StrictParser,
    name: str,
    words: str,
    numbers: Numbers,
    metavar: str = "RANGE",
    default: Sequence[str] = ("", ""),
) -> None:
    """Add --NAME-warning and --NAME-critical. words: when they alert; default: what --help says of each."""
    for grade, told in zip(("warning", "critical"), default):
        parser.add_argument(
            f"--{name}-{grade}", metavar=metavar, type=thresholds(numbers), help=f"{grade.upper()} {words}{told}",
        )  # fmt: skip
    if metavar == "RANGE":
        parser.explain(f"--{name}-*", numbers.words)


def levels(options: Namespace, default: Levels, name: str = "") -> Levels:
    """The levels that the options give (those of add_pair by their name); the default holds where neither is given."""
    prefix = f"{name.replace('-', '_')}_" if name else ""
    given = Levels(getattr(options, f"{prefix}warning"), getattr(options, f"{prefix}critical"))
    if given == (None, None):
        return default
    contradiction = given.contradiction()
    if contradiction:
        raise Misuse(f"--{name}: {contradiction}" if name else contradiction)
    return given
