"""How long a container is up, how often it was started, what addresses it has."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc import lives
from sensu_lxc.cgroups import Cgroups
from sensu_lxc.errors import CannotObserve
from sensu_lxc.findings import Finding, State
from sensu_lxc.host import Host
from sensu_lxc.inventory import Container
from sensu_lxc.options import Misuse
from sensu_lxc.sources import stat

from tests.plugins.running import run
from tests.plugins.trees import Container as Made
from tests.plugins.trees import Tree

STAT = "29355 ({name}) S 29353 29355 29355 0 -1 4194560 123 231 0 0 0 0 0 0 20 0 1 0 {start} 2322432 332 184467440\n"
TRIE = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- {}\n        /32 host LOCAL\nLocal:\n"
NOTHING: dict[str, object] = {
    "restarts_warning": None, "restarts_critical": None, "uptime_warning": None, "uptime_critical": None,
    "addresses": None, "state_dir": None,
}  # fmt: skip
WEB = Container("web", "/var/lib/lxc", True, True, "web")


def options(**given: object) -> Namespace:
    return Namespace(**{**NOTHING, **given})


@pytest.fixture
def web(tree: Tree) -> Made:
    made = tree.container("web")
    started(tree, made, 90000)
    return made


def started(tree: Tree, made: Made, ticks: int, name: str = "init") -> None:
    """/proc/uptime of a tree says 1000 s."""
    tree.write(f"/proc/{made.init}/stat", STAT.format(name=name, start=ticks))


def look(tree: Tree, runs: bool = True, **given: object) -> list[Finding]:
    """One run of the check, as far as lives are concerned."""
    host = Host(str(tree.root))
    found = lives.Lives(host, options(**given), ["--root", str(tree.root)])
    return [*found.findings(Cgroups(host, [WEB.directory]), WEB, runs), *found.remember()]


class TestParsers:
    @pytest.mark.parametrize("name", ["init", ") S 1 2 3 4 5 6 7 8 9", "a b) (c", "\n", ""])
    def test_the_start_whatever_the_name(self, name: str) -> None:
        assert stat.start_ticks(STAT.format(name=name, start=166484).encode(), "x") == 166484

    @pytest.mark.parametrize("raw", [b"", b"1 (x) S 1 2\n", STAT.format(name="x", start=5).encode()[:-1]])
    def test_a_start_that_is_cut_off(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve, match="x is cut off"):
            stat.start_ticks(raw, "x")

    def test_uptime_and_load(self) -> None:
        assert stat.uptime_seconds(b"1562.90 2612.52\n", "x") == 1562.9
        assert stat.load(b"0.52 0.58 0.59 2/613 12345\n", "x") == 0.58

    @given(st.binary(max_size=60))
    def test_anything(self, raw: bytes) -> None:
        for parse in (stat.start_ticks, stat.uptime_seconds, stat.load):
            for whole in (raw, raw + b"\n", b"1 (x) " + raw + b"\n"):
                try:
                    assert parse(whole, "x") >= 0
                except CannotObserve:
                    pass


class TestOften:
    def test_it_is_read(self) -> None:
        assert lives.often("3/1h") == (3, 3600.0, "3/1h")

    @pytest.mark.parametrize(
        "text", ["", "3", "/1h", "3/", "0/1h", "-1/1h", "3/0", "x/1h", "3/1x", "3/10%", "1001/1h", "٣/1h"]
    )
    def test_or_refused(self, text: str) -> None:
        with pytest.raises(ArgumentTypeError):
            lives.often(text)


class TestRestarts:
    def test_the_first_start_is_none(self) -> None:
        assert lives.restarts((500,), 1000, 900) == 0
        assert lives.restarts((500, 600), 1000, 900) == 1

    def test_only_those_in_the_window_count(self) -> None:
        assert lives.restarts((100, 200, 700, 800), 1000, 300) == 2
        assert lives.restarts((100, 200, 700, 800), 1000, 299) == 1

    def test_the_same_start_is_seen_once(self) -> None:
        assert lives.with_start((100, 200), 200, 1000, 5000) == (100, 200)

    def test_of_the_old_ones_one_is_kept(self) -> None:
        assert lives.with_start((100, 200, 300), 900, 1000, 200) == (300, 900)

    @given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30), st.integers(1, 10**6))
    def test_forgetting_changes_no_count(self, gaps: list[int], window: int) -> None:
        known: tuple[int, ...] = ()
        every: list[int] = []
        now = 0
        for gap in gaps:
            now += gap
            every = sorted({*every, now})
            known = lives.with_start(known, now, now, window)
            assert lives.restarts(known, now, window) == lives.restarts(every, now, window)


class TestJudge:
    @pytest.mark.parametrize(
        ("seconds", "warning", "critical", "expected"),
        [
            (700, 600, 60, "OK"), (600, 600, 60, "OK"), (599, 600, 60, "WARNING"), (59, 600, 60, "CRITICAL"),
            (1, None, 60, "CRITICAL"), (1, 5, None, "WARNING"),
        ],
    )  # fmt: skip
    def test_uptime(self, seconds: float, warning: float | None, critical: float | None, expected: str) -> None:
        finding = lives.judge_uptime("web", seconds, warning, critical)
        assert finding.state.name == expected
        assert finding.measures[0].value == seconds

    def test_the_words(self) -> None:
        finding = lives.judge_uptime("web", 300, 600.0, None)
        assert str(finding) == "web: up for 5 min (warning below 10 min)"
        assert finding.measures[0][:5] == ("uptime", 300, "s", "600:", "")

    @pytest.mark.parametrize(
        ("starts", "expected"),
        [((1,), "OK"), ((1, 2, 3), "OK"), ((1, 2, 3, 4), "WARNING"), ((1, 2, 3, 4, 5, 6), "CRITICAL")],
    )
    def test_restarts(self, starts: tuple[int, ...], expected: str) -> None:
        finding = lives.judge_restarts("web", starts, 10, lives.often("3/1h"), lives.often("5/1h"))
        assert finding.state.name == expected

    def test_they_are_at_least(self) -> None:
        finding = lives.judge_restarts("web", (1, 2, 3, 4), 10, None, lives.often("3/1h"))
        assert str(finding) == "web: at least 3 restarts in 60 min (critical at 3/1h)"

    def test_addresses(self) -> None:
        assert lives.judge_addresses("web", [], "ipv6").state is State.CRITICAL
        assert str(lives.judge_addresses("web", ["10.0.0.2", "10.0.0.3"], "ipv4")) == "web: IPv4 10.0.0.2 and 1 more"

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"uptime_warning": 5.0, "uptime_critical": 6.0}, "exchange"),
            ({"restarts_warning": lives.often("5/1h"), "restarts_critical": lives.often("3/1h")}, "exchange"),
        ],
    )
    def test_contradictions(self, given: dict[str, object], words: str) -> None:
        with pytest.raises(Misuse, match=words):
            lives.validate(options(**given))
        lives.validate(options())


class TestOnAHost:
    def test_uptime(self, tree: Tree, web: Made) -> None:
        host = Host(str(tree.root))
        assert lives.uptime(host, Cgroups(host, [WEB.directory]), WEB) == 100.0
        (finding,) = look(tree, uptime_warning=101.0)
        assert finding.state is State.WARNING

    def test_restarts_over_several_looks(self, tree: Tree, web: Made, tmp_path: Path) -> None:
        given = {"restarts_critical": lives.often("2/500s"), "state_dir": str(tmp_path / "state")}
        started(tree, web, 90000)
        (finding,) = look(tree, **given)  # nothing is known yet of the time before
        assert (str(finding), finding.measures) == ("web: restarts are counted from this run on", ())
        for ticks, count, state in ((90000, 0, 0), (95000, 1, 0), (95000, 1, 0), (99000, 2, 2)):
            started(tree, web, ticks)
            (finding,) = look(tree, **given)
            assert (finding.measures[0].value, finding.state) == (count, state)
        assert look(tree, runs=False, **given) == []
        tree.write("/proc/uptime", "1460.00 1.00\n")  # 460 s later, the last but one is out of the window
        (finding,) = look(tree, **given)
        assert (finding.measures[0].value, finding.state) == (1, 0)

    def test_the_hosts_boot_is_no_restart(self, tree: Tree, web: Made, tmp_path: Path) -> None:
        given = {"restarts_critical": lives.often("1/1h"), "state_dir": str(tmp_path / "state")}
        assert look(tree, **given)[0].state is State.OK
        tree.write("/proc/sys/kernel/random/boot_id", "11111111-1b2c-4d3e-8f90-123456789abc\n")
        started(tree, web, 500)
        assert look(tree, **given)[0].state is State.OK
        started(tree, web, 600)
        assert look(tree, **given)[0].state is State.CRITICAL

    def test_what_can_not_be_remembered_is_told(self, tree: Tree, web: Made, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        found = look(tree, restarts_critical=lives.often("1/1h"), state_dir=str(tmp_path / "file"))
        assert [one.state for one in found] == [State.OK, State.UNKNOWN]

    def test_addresses(self, tree: Tree, web: Made) -> None:
        tree.write(f"/proc/{web.init}/net/unix", "Num       RefCount Protocol Flags    Type St Inode Path\n")
        tree.write(f"/proc/{web.init}/net/fib_trie", TRIE.format("10.0.3.7"))
        found = look(tree, addresses=["ipv4", "ipv6"])
        assert [(one.state, one.words) for one in found] == [
            (State.OK, "IPv4 10.0.3.7"),
            (State.CRITICAL, "has no IPv6 address that others could reach it at"),
        ]
        tree.write(f"/proc/{web.init}/net/if_inet6", "fd420000000000000000000000000002 0b 40 00 80 eth0\n")
        tree.write(f"/proc/{web.init}/net/fib_trie", TRIE.format("127.0.0.1"))
        assert [one.state for one in look(tree, addresses=["ipv4", "ipv6"])] == [State.CRITICAL, State.OK]

    def test_the_hosts_network_has_no_address_of_the_container(self, tree: Tree, web: Made) -> None:
        tree.write(f"/proc/{web.init}/net/unix", tree.at("/proc/1/net/unix").read_bytes())
        tree.write(f"/proc/{web.init}/net/fib_trie", TRIE.format("10.0.3.7"))
        (finding,) = look(tree, addresses=["ipv4"])
        assert (finding.state, "net.type none" in finding.words) == (State.UNKNOWN, True)

    @pytest.mark.parametrize("file", ["stat", "net/unix", "net/fib_trie"])
    def test_garbage_is_never_ok(self, tree: Tree, web: Made, file: str) -> None:
        tree.write(f"/proc/{web.init}/net/unix", "Num       RefCount Protocol Flags    Type St Inode Path\n")
        tree.write(f"/proc/{web.init}/net/fib_trie", TRIE.format("10.0.3.7"))
        tree.write(f"/proc/{web.init}/{file}", "nonsense\n")
        found = look(tree, addresses=["ipv4"], uptime_warning=1.0)
        assert State.UNKNOWN in [one.state for one in found]


class TestTheScript:
    """check_container_state.py, which tells lives where it is asked for."""

    def test_together(self, tree: Tree, web: Made, tmp_path: Path) -> None:
        started(tree, web, 90000)
        state_dir = str(tmp_path / "state")
        arguments = ("--restarts-critical", "2/1h", "--uptime-warning", "10m", "--state-dir", state_dir, "-v")
        done = run("check_container_state.py", tree, *arguments).well_formed()
        assert done.status == 1
        assert "WARNING web: up for 100 s (warning below 10 min)" in done.out
        assert "OK web: restarts are counted from this run on" in done.out
        assert {"web_uptime", "running"} <= set(done.perfdata)
        for ticks in (91000, 92000):
            started(tree, web, ticks)
            done = run("check_container_state.py", tree, *arguments).well_formed()
            assert "web_restarts" in done.perfdata
        assert (done.status, "web: at least 2 restarts in 60 min (critical at 2/1h)" in done.first) == (2, True)

    def test_what_is_stopped_has_no_life(self, tree: Tree, web: Made) -> None:
        tree.container("off", running=False)
        done = run("check_container_state.py", tree, "--uptime-critical", "1s", "--expect", "stopped").well_formed()
        assert "off_uptime" not in done.perfdata
        assert "web_uptime" in done.perfdata

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--restarts-warning", "often"], "3/1h"),
            (["--uptime-warning", "1m", "--uptime-critical", "2m"], "exchange them"),
            (["--addresses", "ipv5"], "ipv4, ipv6"),
            (["--addresses", "ipv4", "--state-dir", "x"], "not absolute"),
        ],
    )
    def test_misuse(self, tree: Tree, web: Made, arguments: list[str], words: str) -> None:
        assert words in run("check_container_state.py", tree, *arguments).misuse()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "5 s"), (0.5, "0.5 s"), (119, "119 s"), (120, "2 min"), (3600, "60 min"), (9000, "2.5 h"), (864000, "10 d")],
)
def test_span(seconds: float, words: str) -> None:
    assert lives.span(seconds) == words
