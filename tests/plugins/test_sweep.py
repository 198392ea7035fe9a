"""--per-container: who is reported, what the sweep says of itself, and who is told to be gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from sensu_lxc.sources.net_unix import socket_name
from sensu_lxc.sweep import Reported, parsed

from tests.plugins.agents import CoreHttp, CoreSocket, Go
from tests.plugins.running import Output, run
from tests.plugins.trees import Container, Tree

MEMORY, STATE = "check_container_memory.py", "check_container_state.py"


@pytest.fixture
def go() -> Iterator[Go]:
    with Go() as there:
        yield there


class Sweep:
    """Runs of one command line."""

    def __init__(self, tree: Tree, url: str, folder: Path) -> None:
        self.tree, self.url, self.folder = tree, url, folder / "state"

    def __call__(self, *arguments: str, script: str = STATE, **how: Any) -> Output:
        where = ["--per-container", "--agent", self.url, "--state-dir", str(self.folder)]
        return run(script, self.tree, *where, *arguments, **how).well_formed()


@pytest.fixture
def sweep(tree: Tree, go: Go, tmp_path: Path) -> Sweep:
    return Sweep(tree, go.url, tmp_path)


def told(there: Any) -> dict[str, Any]:
    """{entity: its result}, each of them one; forgets them."""
    found = {one["entity"]: one for one in there.taken}
    assert len(found) == len(there.taken)
    there.taken.clear()
    return found


def test_each_container_is_reported_as_if_it_were_alone(sweep: Sweep, go: Go) -> None:
    for name in ("web1", "web2"):
        sweep.tree.container(name)
    out = sweep(script=MEMORY)
    assert (out.state, out.first) == ("OK", f"CheckContainerMemory OK: 2 containers reported to {go.url} (2 OK)")
    assert out.perfdata["reported"]["value"] == "2"
    results = told(go)
    for name in ("web1", "web2"):
        alone = run(MEMORY, sweep.tree, "-n", name)
        assert results[name]["output"] == alone.out.rstrip("\n")
        assert results[name]["status"] == alone.status
        assert (results[name]["ttl"], results[name]["interval"]) == (180, 60)
        assert results[name]["name"] == "check_container_memory"


def test_the_sweep_is_well_where_a_container_is_not(sweep: Sweep, go: Go) -> None:
    sweep.tree.container("web")
    sweep.tree.container("off", running=False)
    out = sweep()
    assert (out.state, out.first.partition(" reported")[2]) == ("OK", f" to {go.url} (1 OK, 1 CRITICAL)")
    results = told(go)
    assert (results["web"]["status"], results["off"]["status"]) == (0, 2)
    assert results["off"]["output"].startswith("CheckContainerState CRITICAL: off: STOPPED, expected RUNNING")


def test_one_that_does_not_run_is_not_gone(sweep: Sweep, go: Go) -> None:
    sweep.tree.container("off", running=False)
    sweep.tree.container("web")
    sweep(script=MEMORY)
    assert told(go)["off"]["output"] == (
        "CheckContainerMemory UNKNOWN: off: is not running, so there is nothing to measure"
    )
    sweep("-n", "off", script=MEMORY)
    assert told(go)["off"]["status"] == 3  # it was named, so it was to be measured


@pytest.mark.parametrize("kind", [Go, CoreHttp, CoreSocket])
def test_one_that_is_gone_is_told_so_once(kind: Any, tree: Tree, tmp_path: Path) -> None:
    tree.container("web")
    tree.container("old", running=False)
    with kind() as there:
        sweep = Sweep(tree, there.url, tmp_path)
        sweep()
        assert told(there)["old"]["ttl"] == 180
        shutil.rmtree(tree.root / "var/lib/lxc/old")
        out = sweep()
        assert out.first.endswith(f"1 container reported to {there.url} (1 OK), and 1 told for the last time")
        last = told(there)["old"]
        assert not last.get("ttl")
        words = "CheckContainerState OK: old is no longer on this host; this is its last result"
        assert (last["status"], last["output"]) == (0, words)
        sweep()
        assert set(told(there)) == {"web"}


def test_the_last_of_all_is_told_so_as_well(sweep: Sweep, go: Go) -> None:
    sweep.tree.container("old", running=False)
    sweep()
    told(go)
    shutil.rmtree(sweep.tree.root / "var/lib/lxc/old")
    out = sweep()
    assert (out.state, "no container here" in out.out) == ("UNKNOWN", True)
    assert "no longer on this host" in told(go)["old"]["output"]


def test_a_last_result_that_was_not_delivered_is_sent_again(tree: Tree, tmp_path: Path) -> None:
    tree.container("web")
    tree.container("old", running=False)
    with Go() as there:
        port = there.port
        sweep = Sweep(tree, there.url, tmp_path)
        sweep()
    shutil.rmtree(tree.root / "var/lib/lxc/old")
    out = sweep()
    assert out.state == "UNKNOWN"
    assert f"2 of 2 not reported: no agent at {there.url}: Connection refused" in out.first
    with Go(port) as again:
        sweep()
        assert set(told(again)) == {"web", "old"}


@pytest.mark.parametrize("how", ["unmounted", "away", "unreadable"])
def test_who_could_not_be_looked_for_is_not_gone(how: str, sweep: Sweep, go: Go) -> None:
    sweep.tree.container("web")
    sweep.tree.container("old", running=False)
    lxcpath = sweep.tree.root / "var/lib/lxc"
    sweep()
    told(go)
    lxcpath.rename(lxcpath.with_name("aside"))
    if how == "unmounted":
        lxcpath.mkdir()
    if how == "unreadable":
        (sweep.tree.root / "proc/1/net/unix").write_text("")
    sweep()
    assert "old" not in told(go)
    if lxcpath.exists():
        lxcpath.rmdir()
    lxcpath.with_name("aside").rename(lxcpath)
    shutil.rmtree(lxcpath / "old")
    if how != "unreadable":
        sweep()
        assert "no longer on this host" in told(go)["old"]["output"], "it was forgotten meanwhile"


class TestAnOrphanWhoseDefinitionIsGone:
    """Nobody lists it any more, and its processes run on."""

    def orphan(self, sweep: Sweep, made: Container) -> None:
        sweep.tree.stop_listening(socket_name(f"{made.lxcpath}/{made.name}"))
        shutil.rmtree(sweep.tree.at(f"/proc/{made.monitor}"))
        shutil.rmtree(made.definition)

    def end(self, sweep: Sweep, made: Container) -> None:
        for point in sweep.tree.mounts.values():
            shutil.rmtree(sweep.tree.at(point + made.path))

    @pytest.mark.parametrize(
        ("script", "status", "words"),
        [
            (STATE, 2, "CheckContainerState CRITICAL: old: runs on without its monitor, in "),
            (MEMORY, 3, "CheckContainerMemory UNKNOWN: old: runs on without its monitor, in "),
        ],
    )
    @pytest.mark.parametrize("arguments", [(), ("-n", "old,web")])
    def test_is_not_gone_before_they_end(
        self, sweep: Sweep, go: Go, script: str, status: int, words: str, arguments: tuple[str, ...]
    ) -> None:
        sweep.tree.container("web")
        old = sweep.tree.container("old")
        sweep(*arguments, script=script)
        told(go)
        self.orphan(sweep, old)
        for _ in range(2):
            out = sweep(*arguments, script=script)
            result = told(go)["old"]
            assert (result["status"], result["output"].startswith(words), result["ttl"]) == (status, True, 180), out.out
            assert "gone" not in out.first
        if not arguments:
            self.end(sweep, old)
            sweep(script=script)
            assert "no longer on this host; this is its last result" in told(go)["old"]["output"]

    def test_the_only_one(self, sweep: Sweep, go: Go) -> None:
        old = sweep.tree.container("old")
        sweep()
        told(go)
        self.orphan(sweep, old)
        out = sweep()
        assert (out.state, "no container here" in out.out) == ("UNKNOWN", True)
        assert told(go)["old"]["status"] == 2
        self.end(sweep, old)
        sweep()
        assert told(go)["old"]["status"] == 0

    def test_beside_a_namesake_elsewhere(self, sweep: Sweep, go: Go) -> None:
        old = sweep.tree.container("old")
        sweep()
        told(go)
        self.orphan(sweep, old)
        sweep.tree.container("old", "/srv/lxc", suffix="-1")
        sweep()
        results = told(go)
        assert set(results) == {"old", "_x2f_var_x2f_lib_x2f_lxc_x2f_old"}
        assert [one["status"] for one in results.values()] == [2, 2]  # both run on one root filesystem, perhaps

    def test_one_of_which_that_can_not_be_seen(self, sweep: Sweep, go: Go) -> None:
        old = sweep.tree.container("old")
        sweep.tree.container("web")
        sweep()
        told(go)
        self.orphan(sweep, old)
        old.write("cgroup.events", "nonsense\n")
        sweep()
        assert told(go)["old"]["status"] == 3


class TestOomKillsThatNobodyTook:
    def run(self, sweep: Sweep, *arguments: str) -> Output:
        return sweep("--oom-kills-critical", "1", *arguments, script=MEMORY)

    def test_are_told_again(self, tree: Tree, tmp_path: Path) -> None:
        web = tree.container("web")
        with Go() as there:
            port = there.port
            sweep = Sweep(tree, there.url, tmp_path)
            self.run(sweep)
        for kills in (2, 3):
            web.write("memory.events", f"oom_kill {kills}\n")
            assert self.run(sweep).state == "UNKNOWN"
        with Go(port) as again:
            for status, words in ((2, "3 OOM kills since the previous run"), (0, "0 OOM kills")):
                self.run(sweep, "-v")
                result = told(again)["web"]
                assert (result["status"], words in result["output"]) == (status, True), result

    def test_where_the_agent_is_away_at_the_first_run(self, tree: Tree, tmp_path: Path) -> None:
        """It had nothing to compare with, so that it is what the next one compares with."""
        web = tree.container("web")
        web.write("memory.events", "oom_kill 5\n")
        with Go() as there:
            port = there.port
            sweep = Sweep(tree, there.url, tmp_path)
        self.run(sweep)
        web.write("memory.events", "oom_kill 6\n")
        with Go(port) as again:
            self.run(sweep, "-v")
            assert "1 OOM kill since the previous run" in told(again)["web"]["output"]

    def test_only_those_of_whom_it_was_refused(self, tree: Tree, tmp_path: Path) -> None:
        class Strict(Go):
            refuses = False

            def post(self, path: str, body: bytes, kind: str) -> tuple[int, str]:
                return (400, "no") if self.refuses and b'"web1"' in body else super().post(path, body, kind)

        made = [tree.container(name) for name in ("web1", "web2")]
        with Strict() as there:
            sweep = Sweep(tree, there.url, tmp_path)
            self.run(sweep)
            for one in made:
                one.write("memory.events", "oom_kill 1\n")
            there.refuses = True
            self.run(sweep)
            there.taken.clear()
            there.refuses = False
            self.run(sweep)
            assert {name: one["status"] for name, one in told(there).items()} == {"web1": 2, "web2": 0}


def test_what_is_wrong_with_all_is_told_of_each(tmp_path: Path, go: Go) -> None:
    tree = Tree(tmp_path, "v1")
    for name in ("web", "db"):
        tree.container(name)
    Sweep(tree, go.url, tmp_path)(script="check_container_io.py")
    for name, result in told(go).items():
        assert result["output"].startswith(f"CheckContainerIo UNKNOWN: {name}: the kernel counts no I/O of it: on")


def test_many_go_by_several_connections(sweep: Sweep, go: Go) -> None:
    for number in range(100):
        sweep.tree.container(f"web{number}")
    out = sweep()
    assert (out.state, len(told(go))) == ("OK", 100)
    assert go.server.connections == 4


class TestAnotherCommandLine:
    """The one before it may have been changed, or runs beside it."""

    @pytest.fixture
    def pair(self, sweep: Sweep, go: Go) -> Sweep:
        for name in ("web", "db"):
            sweep.tree.container(name)
        sweep()
        assert set(told(go)) == {"web", "db"}
        return sweep

    def pass_by(self, sweep: Sweep, seconds: float, *memories: str) -> None:
        """As if the last runs of those (all, where none is named) had been so long ago."""
        for file in sweep.folder.iterdir():
            if not memories or any(word in file.read_text() for word in memories):
                lines = file.read_text().split("\n")
                heading = lines[0].split("\t")
                heading[-1] = str(float(heading[-1]) - seconds)
                at = file.stat().st_mtime - seconds
                file.write_text("\n".join(["\t".join(heading), *lines[1:]]))
                os.utime(file, (at, at))

    def test_takes_the_place_of_one_that_is_no_longer_run(self, pair: Sweep, go: Go) -> None:
        pair("--exclude", "db")
        assert set(told(go)) == {"web"}, "the other may run beside it"
        self.pass_by(pair, 61)
        pair("--exclude", "db")
        assert set(told(go)) == {"web"}
        self.pass_by(pair, 61)
        pair("--exclude", "db")
        results = told(go)
        assert set(results) == {"web", "db"}
        words = "CheckContainerState OK: db is no longer watched; this is its last result"
        assert (results["db"]["output"], "ttl" in results["db"]) == (words, False)
        pair("--exclude", "db")
        assert set(told(go)) == {"web"}
        assert len(list(pair.folder.iterdir())) == 1

    def test_tells_of_what_was_destroyed_meanwhile(self, pair: Sweep, go: Go) -> None:
        shutil.rmtree(pair.tree.root / "var/lib/lxc/db")
        pair.tree.stop_listening(socket_name("/var/lib/lxc/db"))
        for _ in range(3):
            told(go)
            pair("-n", "web")
            self.pass_by(pair, 61)
        assert "no longer on this host" in told(go)["db"]["output"]

    def test_lets_another_one_be(self, sweep: Sweep, go: Go) -> None:
        for name in ("web", "db"):
            sweep.tree.container(name)
        for _ in range(3):
            for one in ("web", "db"):
                sweep("-n", one)
                assert set(told(go)) == {one}
                self.pass_by(sweep, 30)

    def test_after_a_night_in_which_none_ran(self, sweep: Sweep, go: Go) -> None:
        for name in ("web", "db"):
            sweep.tree.container(name)
            sweep("-n", name)
        self.pass_by(sweep, 40000)
        told(go)
        sweep("-n", "web")
        assert set(told(go)) == {"web"}, "the other has had no chance yet"

    def test_says_nothing_of_whom_another_one_reports(self, pair: Sweep, go: Go) -> None:
        for _ in range(4):
            for one in ("web", "db"):
                pair("-n", one)
            self.pass_by(pair, 61)
        assert len(go.taken) == 8
        assert all("ttl" in one for one in go.taken)
        assert len(list(pair.folder.iterdir())) == 2, "what both replaced is still remembered"

    def test_for_other_results_is_none_of_its_business(self, pair: Sweep, go: Go) -> None:
        self.pass_by(pair, 1000)
        for other in (["--check-name", "other"], ["--entity-prefix", "h1-"]):
            for _ in range(2):
                pair("-n", "web", *other)
                self.pass_by(pair, 61)
        assert {one["entity"] for one in go.taken} == {"web", "h1-web"}


def test_a_pattern_that_means_nobody_is_the_sweeps_own_problem(sweep: Sweep, go: Go) -> None:
    sweep.tree.container("web")
    out = sweep("-n", "web", "-n", "nobody", "-n", "no*")
    assert out.state == "UNKNOWN"
    assert "no*: matches no container" in out.first
    assert told(go)["nobody"]["status"] == 2


def test_what_is_refused_is_said(tree: Tree, tmp_path: Path) -> None:
    class Strict(Go):
        def post(self, path: str, body: bytes, kind: str) -> tuple[int, str]:
            return (400, "no\nway | today\n") if b"web1" in body else super().post(path, body, kind)

    for name in ("web0", "web1", "web2"):
        tree.container(name)
    with Strict() as there:
        out = Sweep(tree, there.url, tmp_path)()
        assert out.state == "UNKNOWN"
        assert out.first.endswith(
            f"1 of 3 refused: HTTP 400 no way ? today (the first: web1); 2 containers reported to {there.url} (2 OK)"
        )
        assert set(told(there)) == {"web0", "web2"}


def test_time_is_up(tree: Tree, tmp_path: Path) -> None:
    class Slow(Go):
        def post(self, path: str, body: bytes, kind: str) -> tuple[int, str]:
            import time

            time.sleep(0.3)
            return super().post(path, body, kind)

    for number in range(60):
        tree.container(f"web{number}")
    tree.container("zoff", running=False)
    with Slow() as there:
        out = Sweep(tree, there.url, tmp_path)("--timeout", "3s")
        assert out.state == "UNKNOWN"
        assert "of 61 not reported: " in out.first
        assert "does not answer in time" in out.first
        assert "zoff" in [one["entity"] for one in there.taken[:4]], "what alarms goes first"


def test_hostile_names_are_reported_apart(sweep: Sweep, go: Go) -> None:
    for name in ("a b", "a_x20_b", "a|b"):
        sweep.tree.container(name)
    sweep()
    assert set(told(go)) == {"a_x20_b", "a_x5f_x20_b", "a_x7c_b"}


def test_settings_of_the_results(sweep: Sweep, go: Go) -> None:
    sweep.tree.container("web")
    sweep(
        "--ttl", "2m", "--interval", "30s", "--check-name", "lxc_state", "--entity-prefix", "r1-", "--handlers", "a,b"
    )
    result = told(go)["r1-web"]
    assert [result[key] for key in ("ttl", "interval", "name", "handlers")] == [120, 30, "lxc_state", ["a", "b"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--per-container", "--ttl", "4s", "--interval", "1s"], "--ttl 4 s is too short for Sensu"),
        (["--per-container", "--ttl", "60s"], "--ttl 60 s must be more than --interval 60 s"),
        (["--per-container", "--ttl", "90.5s"], "not in whole seconds"),
        (["--per-container", "--check-name", "a b"], "Sensu takes no 'a b' in a name"),
        (["--per-container", "--check-name", ""], "Sensu takes no '' in a name"),
        (["--per-container", "--handlers", "a,,b"], "Sensu takes no '' in a name"),
        (["--per-container", "--entity-prefix", "a:"], "Sensu takes no 'a:' in a name"),
        (["--per-container", "--agent", "https://x"], "is no place; write auto"),
        (["--per-container", "--state-dir", "x"], "is not absolute"),
        (["--handlers", "a"], "--handlers says how to report --per-container; give that as well"),
    ],
)
def test_misuse(arguments: list[str], words: str, tree: Tree) -> None:
    tree.container("web")
    assert words in run(STATE, tree, *arguments).misuse()


def test_a_state_dir_that_cannot_be_written_is_said(sweep: Sweep, go: Go) -> None:
    sweep.tree.container("web")
    sweep.folder.write_text("a file")
    out = sweep()
    assert (out.state, "those that go away will not be told so" in out.first) == ("UNKNOWN", True)
    assert set(told(go)) == {"web"}


@given(some.binary(max_size=80) | some.text(some.sampled_from("end\n\t'01x\\")).map(str.encode))
def test_garbage_is_nobody(garbage: bytes) -> None:
    assert parsed(garbage).reported == {}
    heading = b"sensu-lxc reported 2\t60\t180\t1.5\n"
    for found in parsed(heading + garbage + b"\nend\n").reported.values():
        assert isinstance(found, Reported)


def test_nobody_else_may_write_the_memory(sweep: Sweep, go: Go) -> None:
    sweep.tree.container("web")
    sweep()
    (file,) = sweep.folder.iterdir()
    assert (os.stat(sweep.folder).st_mode & 0o777, os.stat(file).st_mode & 0o777) == (0o700, 0o600)
