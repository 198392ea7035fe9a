"""top_containers.py: its rows in-process, its table on made hosts, and the live one in a real pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sensu_lxc import inventory, table
from sensu_lxc.accounting import Cpu, Io, Pids, Pressure
from sensu_lxc.cgroups import Memory
from sensu_lxc.network import Network
from sensu_lxc.sources.net_dev import Interface
from top_containers import HEADINGS, KEYS, SORTS, Look, lines, row

from tests.plugins.running import PLUGINS, Output, command, run
from tests.plugins.test_metrics_container import whole
from tests.plugins.trees import MIB, Tree

SCRIPT = "top_containers.py"
GIB = 1024 * MIB
QUIET = Interface(0, 0, 0, 0, 0, 0, 0, 0)


def top(tree: Tree, *arguments: str, **how: Any) -> Output:
    return run(SCRIPT, tree, "--interval", "10ms", *arguments, **how)


def seen(at: float, **facts: Any) -> Look:
    """A look at a container of four cores that did nothing."""
    given = {
        "state": "RUNNING",
        "cpu": Cpu(1, 0, 0, 0, 0, 4.0, None),
        "memory": Memory(32 * MIB, 0, 0, 0, 64 * MIB, 0, None),
        "tasks": Pids(5, None),
        "io": Io(1, {"8:0": (0, 0, 0, 0)}, {}),
        "network": Network(1, {"lo": QUIET, "eth0": QUIET}),
        "pressures": {resource: Pressure(1, 0, 0) for resource in ("cpu", "memory", "io")},
    }
    return Look(at, **{**given, **facts})


class TestRow:
    def test_rates_are_those_between_two_looks(self) -> None:
        before = seen(10.0, cpu=Cpu(1, 5_000_000_000, 0, 0, 0, 0.5, 0.5))
        now = seen(
            12.0,
            cpu=Cpu(1, 5_500_000_000, 0, 0, 0, 0.5, 0.5),
            io=Io(1, {"8:0": (2048, 4096, 1, 1), "8:16": (10**9, 10**9, 1, 1)}, {"252:0": (10**9, 0, 0, 0)}),
            network=Network(
                1, {"lo": Interface(9, 9, 9, 9, 9, 9, 9, 9), "eth0": Interface(200, 1, 0, 0, 400, 1, 0, 0)}
            ),
            pressures={"cpu": Pressure(1, 1_000_000, 0), "memory": Pressure(1, 0, 0), "io": None},
        )
        made = row("web", before, now, GIB)
        assert made.cpu_percent == 50.0  # a quarter of a core, of half a core
        assert (made.cpu_cores_used, made.cpu_cores) == (0.25, 0.5)
        assert (made.memory_used_bytes, made.memory_percent) == (32 * MIB, 50.0)
        # What came meanwhile has no rate yet; lo and what lies on another disk count for nothing.
        assert (made.read_bytes_per_second, made.written_bytes_per_second) == (1024, 2048)
        assert (made.received_bytes_per_second, made.sent_bytes_per_second) == (100, 200)
        assert (made.cpu_pressure_percent, made.memory_pressure_percent, made.io_pressure_percent) == (50.0, 0.0, None)

    @pytest.mark.parametrize("before", [None, seen(1.0, cpu=Cpu(2, 0, 0, 0, 0, 4.0, None), network=None)])
    def test_the_first_look_and_the_one_after_a_restart_have_no_rates(self, before: Look | None) -> None:
        made = row("web", before, seen(2.0, cpu=Cpu(1, 10**12, 0, 0, 0, 4.0, None)), GIB)
        assert (made.cpu_percent, made.cpu_cores_used, made.received_bytes_per_second) == (None, None, None)
        assert (made.tasks, made.memory_used_bytes) == (5, 32 * MIB)

    def test_what_is_not_known_is_none_and_not_0(self) -> None:
        blind = seen(2.0, cpu=None, memory=None, tasks=None, io=None, network=None, pressures={})
        made = row("web", blind._replace(at=1.0), blind, GIB)
        assert set(made[2:]) == {None}
        assert re.search(r"^web +RUNNING( +-)+$", lines([made], "cpu", 200, False)[1])

    def test_without_a_limit_memory_is_of_the_host(self) -> None:
        memory = Memory(256 * MIB, 0, 0, 0, None, None, None)
        assert row("web", None, seen(1.0, memory=memory), GIB).memory_percent == 25.0


class TestTable:
    def rows(self, *names: str) -> list[Any]:
        return [row(name, None, seen(1.0), GIB) for name in names]

    @pytest.mark.parametrize("columns", range(1, 140, 3))
    def test_fits_the_width(self, columns: int) -> None:
        made = lines(
            self.rows("web", "a-name-that-is-longer-than-most-terminals-are-wide" * 2, "日本語" * 9),
            "cpu",
            columns,
            False,
        )
        assert max(map(table.width, made)) <= columns

    def test_a_hostile_name_stays_in_its_cell(self) -> None:
        made = lines(self.rows("\x1b[31m\nfake 99.9\x9b\u202e|"), "cpu", 200, True)
        assert len(made) == 2
        assert "\x1b[31m" not in made[1] and "\x9b" not in made[1] and "\u202e" not in made[1]

    def test_colours_are_for_who_wants_them(self) -> None:
        hot = row("web", None, seen(1.0, memory=Memory(62 * MIB, 0, 0, 0, 64 * MIB, 0, None)), GIB)
        assert "\x1b[31m96.9\x1b[0m" in lines([hot], "cpu", 200, True)[1]
        assert "\x1b" not in "".join(lines([hot], "cpu", 200, False))

    def test_all_columns_where_there_is_room(self) -> None:
        assert lines(self.rows("web"), "cpu", 200, False)[0].split() == list(HEADINGS)


class TestOnce:
    def test_a_line_for_each_container(self, any_tree: Tree) -> None:
        whole(any_tree, "web", usage=40 * MIB, limit=64 * MIB)
        whole(any_tree, "ice", frozen=True)
        any_tree.container("off", running=False)
        done = top(any_tree, "--sort", "name")
        assert (done.status, done.err) == (0, "")
        heading, ice, off, web = done.out.splitlines()
        assert heading.split() == list(HEADINGS)
        assert re.fullmatch(r"ice +FROZEN +0\.0 .*", ice)
        assert re.fullmatch(r"off +STOPPED( +-){11}", off)
        assert re.match(r"web +RUNNING +0\.0 +4 +40\.0M +62\.5 +5 ", web)
        assert "\x1b" not in done.out

    def test_a_bad_container_costs_the_others_nothing(self, any_tree: Tree) -> None:
        made = whole(any_tree, "bad")
        for base, _, names in os.walk(any_tree.root):
            for name in names:
                if base.endswith(made.path) or f"/proc/{made.init}" in base:
                    Path(base, name).write_bytes(b"\xff\xfe")
        whole(any_tree, "web")
        done = top(any_tree)
        assert (done.status, done.err) == (0, "")
        assert re.search(r"^web +RUNNING +0\.0 ", done.out, re.MULTILINE)
        assert re.search(r"^bad ", done.out, re.MULTILINE)

    @pytest.mark.parametrize(("by", "first"), [("memory", "big"), ("tasks", "many"), ("name", "big"), ("swap", "many")])
    def test_sorted(self, tree: Tree, by: str, first: str) -> None:
        whole(tree, "big", usage=60 * MIB)
        whole(tree, "many", swap=MIB).write("pids.current", "99\n")
        tree.container("off", running=False)
        straight = top(tree, "--sort", by).out.splitlines()[1:]
        reverse = top(tree, "--sort", by, "--reverse").out.splitlines()[1:]
        assert straight[0].startswith(first)
        if by != "name":
            assert straight[-1].startswith("off") and reverse[-1].startswith("off")  # of which nothing is known
            assert straight[:2] == reverse[1::-1]
        else:
            assert straight == reverse[::-1]

    def test_json(self, tree: Tree) -> None:
        whole(tree, "web\x1b", usage=40 * MIB, limit=64 * MIB)
        content = json.loads(top(tree, "--json").out)
        (one,) = content["containers"]
        assert (content["cores"], content["memory_bytes"]) == (4, 2012132 * 1024)
        assert (one["name"], one["state"], one["memory_used_bytes"], one["tasks"]) == (
            "web\x1b",
            "RUNNING",
            40 * MIB,
            5,
        )
        assert one["cpu_percent"] == 0

    @pytest.mark.parametrize(
        "arguments", [("--sort", "size"), ("--interval", "0"), ("--once", "--interval", "30s"), ("-n", ""), ("extra",)]
    )
    def test_misuse(self, tree: Tree, arguments: tuple[str, ...]) -> None:
        whole(tree, "web")
        done = run(SCRIPT, tree, *arguments)
        assert (done.status, done.err, done.out.count("\n")) == (3, "", 1)

    @pytest.mark.parametrize("by", ["cpu", "memory", "name"])
    def test_trouble_comes_first(self, any_tree: Tree, by: str) -> None:
        whole(any_tree, "alive", usage=60 * MIB)
        whole(any_tree, "orphan", usage=40 * MIB, socket=False)
        any_tree.container("off", running=False)
        for more in ((), ("--reverse",)):
            done = top(any_tree, "--sort", by, *more)
            assert (done.status, done.err) == (0, "")
            # What runs on without its monitor uses memory as before, which nobody else shows.
            assert re.match(r"orphan +ORPHANED .* 40\.0M ", done.out.splitlines()[1])
            assert re.search(r"^alive +RUNNING ", done.out, re.MULTILINE)

    def test_an_earlier_life_beside_the_running_one(self, tree: Tree) -> None:
        whole(tree, "web", suffix="-1")
        tree.container("web", socket=False)
        assert re.match(r"web +RUNNING\+ORPHANED ", top(tree).out.splitlines()[1])

    def test_who_is_asked_for_and_not_there_is_said(self, site: Tree) -> None:
        said = f"TopContainers UNKNOWN: no-such: {inventory.absent('no-such')}\n"
        some = top(site, "-n", "web,no-such")
        assert (some.status, some.err) == (3, said)
        assert [line.split()[0] for line in some.out.splitlines()] == ["NAME", "web"]
        none = top(site, "-n", "no-such", "--json")
        assert (none.status, none.err, json.loads(none.out)["containers"]) == (3, said, [])
        pattern = top(site, "-n", "x\x1b*", "-n", "db")
        assert (pattern.status, pattern.err.count("\n"), "\x1b" in pattern.err) == (3, 1, False)

    def test_nothing_there_is_unknown(self, tree: Tree) -> None:
        done = top(tree)
        assert (done.status, done.out.startswith("TopContainers UNKNOWN: no container here")) == (3, True)


def test_each_sort_has_a_key_of_its_own() -> None:
    keys = [key for key, _ in SORTS.values()]
    assert len({*keys, "q", "r"}) == len(keys) + 2
    assert all(f"{key} {name}" in KEYS for name, (key, _) in SORTS.items())


class Screen:
    """A pseudo-terminal with the script in it."""

    def __init__(self, argv: list[str], size: tuple[int, int], environment: dict[str, str]) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests run in the background of a shell
            os.execve(argv[0], argv, {**os.environ, "TERM": "xterm", **environment})
        self.resize(*size)
        self.before = termios.tcgetattr(self.descriptor)
        self.out = ""
        self.status: int | None = None

    def resize(self, columns: int, height: int) -> None:
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, columns, 0, 0))

    def until(self, pattern: str, after: int = 0) -> re.Match[str]:
        """The first place behind `after` where the output has it."""
        deadline = time.monotonic() + 15
        while True:
            match = re.compile(pattern, re.DOTALL).search(self.out, after)
            if match:
                return match
            assert time.monotonic() < deadline, (pattern, self.out[after:])
            self._read(0.2)

    def _read(self, seconds: float) -> bool:
        if select.select([self.descriptor], [], [], seconds)[0]:
            try:
                self.out += os.read(self.descriptor, 65536).decode("utf-8", "replace")
                return True
            except OSError:  # the other end is closed
                pass
        return False

    def press(self, keys: str) -> int:
        """Where the output stands now."""
        stands = len(self.out)
        os.write(self.descriptor, keys.encode())
        return stands

    def end(self) -> int:
        """Wait for the end; the exit status."""
        deadline = time.monotonic() + 15
        while self.status is None:
            self._read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, self.out[-300:]
        while self._read(0.05):
            pass
        return self.status

    @property
    def last(self) -> list[str]:
        """The lines of the last screen that was drawn, without colours."""
        whole = self.out.rpartition("\x1b[H")[2]
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", whole).replace("\r", "").split("\n")


@contextlib.contextmanager
def screen(
    tree: Tree, *arguments: str, size: tuple[int, int] = (120, 12), before: Sequence[str] = (), **environment: str
) -> Iterator[Screen]:
    made = Screen([*before, *command(SCRIPT, tree, *arguments)], size, environment)
    try:
        yield made
    finally:
        if made.status is None:
            os.kill(made.pid, signal.SIGKILL)
            os.waitpid(made.pid, 0)
        os.close(made.descriptor)


@pytest.fixture
def site(tree: Tree) -> Tree:
    whole(tree, "web", usage=40 * MIB)
    whole(tree, "db", usage=60 * MIB).write("pids.current", "2\n")
    return tree


ENTERED, LEFT = "\x1b[?1049h", "\x1b[?1049l"


def assert_restored(shown: Screen) -> None:
    assert shown.out.count(ENTERED) == shown.out.count(LEFT) > 0
    assert "\x1b[?25h" in shown.out[shown.out.rindex("\x1b[?25l") :]
    assert termios.tcgetattr(shown.descriptor)[3] == shown.before[3]
    assert "Traceback" not in shown.out


class TestLive:
    def test_shows_sorts_and_ends_at_a_key(self, site: Tree) -> None:
        with screen(site, "--interval", "200ms") as shown:
            shown.until("web .*\x1b\\[J")
            assert re.match(
                r"\d\d:\d\d:\d\d  2 of 2 containers run, using 0\.00 of 4 cores, 100 MiB of ", shown.last[0]
            )
            stands = shown.press("m")
            shown.until("by memory.*\x1b\\[J", stands)
            assert [line.split()[0] for line in shown.last[2:4]] == ["db", "web"]
            stands = shown.press("r")
            shown.until("by memory reversed.*\x1b\\[J", stands)
            assert [line.split()[0] for line in shown.last[2:4]] == ["web", "db"]
            stands = shown.press("t")
            shown.until("by tasks;?.*\x1b\\[J", stands)
            assert [line.split()[0] for line in shown.last[2:4]] == ["web", "db"]
            shown.press("q")
            assert shown.end() == 0
            assert_restored(shown)

    def test_sees_what_changes(self, site: Tree) -> None:
        with screen(site, "--interval", "100ms") as shown:
            shown.until("web ")
            site.container("new")
            shown.until("new .*3 of 3|3 of 3.*new ")
            shown.press("q")
            assert shown.end() == 0

    def test_who_is_asked_for_and_not_there_is_said(self, site: Tree) -> None:
        with screen(site, "-n", "web", "-n", "no-such*") as shown:
            shown.until("web .*\x1b\\[J")
            assert shown.last[1].startswith("no-such*: matches no container")
            assert [line.split()[0] for line in shown.last[2:4]] == ["NAME", "web"]
        with screen(site, "-n", "no-such", "--interval", "100ms") as shown:
            shown.until("no-such: no such container here.*NAME.*\x1b\\[J")
            site.container("no-such")
            shown.until("no-such +RUNNING ")

    def test_trouble_is_said_above_the_table(self, site: Tree) -> None:
        whole(site, "lost", socket=False)
        with screen(site, size=(60, 12)) as shown:
            shown.until("see to lost \\(ORPHANED\\).*\x1b\\[J")
            assert "\x1b[31msee to lost (ORPHANED)\x1b[0m" in shown.out
            assert re.match("lost +ORPHANED ", shown.last[3])
            assert "\x1b[31mORPHANED\x1b[0m" in shown.out

    def test_follows_the_size(self, site: Tree) -> None:
        with screen(site, "--interval", "1h", size=(200, 12)) as shown:
            shown.until("PRESSURE")
            stands = len(shown.out)
            shown.resize(40, 4)
            shown.until("more", stands)
            assert len(shown.last) == 4 and max(map(len, shown.last)) <= 40
            assert "STATE" in shown.last[1] and "PRESSURE" not in shown.last[1]
            shown.press("q")
            assert shown.end() == 0

    @pytest.mark.parametrize(
        ("end", "status"), [("\x03", 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), ("\x04", 0)], ids=str
    )
    def test_leaves_the_terminal_as_it_was(self, site: Tree, end: str | int, status: int) -> None:
        with screen(site) as shown:
            shown.until("web ")
            if isinstance(end, str):
                shown.press(end)
            else:
                os.kill(shown.pid, end)
            assert shown.end() == status
            assert_restored(shown)

    def test_stops_and_goes_on(self, site: Tree) -> None:
        # Only what a shell has in the foreground stops at Ctrl-Z.
        shell = ["/bin/sh", "-c", 'set -m; "$@"; stty -a; echo "stopped, $?"; fg; exit $?', "sh"]
        with screen(site, "--interval", "1h", before=shell) as shown:
            shown.until("web ")
            stands = shown.press("\x1a")
            said = shown.until("stopped, [0-9]+\r\n", stands)
            assert LEFT in said[0] or LEFT in shown.out[stands:]
            assert re.search(r"[^-]icanon.* [^-]?echo ", shown.out[stands : said.end()])
            shown.until(f"{re.escape(ENTERED)}.*web ", said.end())
            shown.press("q")
            assert shown.end() == 0
            assert_restored(shown)

    def test_ends_when_the_terminal_does(self, site: Tree) -> None:
        with screen(site, "--interval", "100ms") as shown:
            shown.until("web ")
            os.close(shown.descriptor)
            shown.descriptor = os.open("/dev/null", os.O_RDWR)
            deadline = time.monotonic() + 10
            while not os.waitpid(shown.pid, os.WNOHANG)[0]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            shown.status = 0

    def test_colours(self, site: Tree) -> None:
        with screen(site) as shown:
            shown.until("\x1b\\[1;7mCPU%")
        with screen(site, NO_COLOR="1") as shown:
            shown.until("web ")
            assert not re.search(r"\x1b\[[0-9;]*m", shown.out)

    def test_the_last_container_may_go(self, site: Tree) -> None:
        with screen(site, "-n", "web", "--interval", "100ms") as shown:
            shown.until("web ")
            for path in ("/proc/1/net/unix", "/var/lib/lxc/web/config"):
                site.at(path).unlink()
            shown.until("cannot read|no container", len(shown.out))
            shown.press("q")
            assert shown.end() == 0

    def test_misuse_is_said_without_filling_the_screen(self, site: Tree) -> None:
        with screen(site, "--misspelt") as shown:
            assert shown.end() == 3
            assert "TopContainers UNKNOWN: " in shown.out and ENTERED not in shown.out


def test_help_shows_the_keys() -> None:
    done = run(SCRIPT, None, "--help")
    assert (done.status, KEYS in done.out) == (0, True)
    assert os.access(PLUGINS / SCRIPT, os.X_OK) and sys.executable
