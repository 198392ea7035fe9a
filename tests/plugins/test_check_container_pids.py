"""check_container_pids.py: judged in-process, seen from outside on made hosts."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_container_pids import CheckContainerPids, judge
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc.accounting import Pids
from sensu_lxc.findings import State, worst
from sensu_lxc.levels import Levels, threshold

from tests.plugins.running import Output, run
from tests.plugins.trees import Tree

DEFAULT = Levels(threshold("80%"), threshold("90%"))


def pids(tree: Tree, *arguments: str) -> Output:
    return run("check_container_pids.py", tree, *arguments).well_formed()


def host_takes(tree: Tree, pid_max: str = "32768\n", threads_max: str = "15000\n") -> None:
    tree.write("/proc/sys/kernel/pid_max", pid_max)
    tree.write("/proc/sys/kernel/threads-max", threads_max)


class TestJudge:
    @pytest.mark.parametrize(
        ("tasks", "limit", "state", "words"),
        [
            (79, 100, "OK", "79 tasks, 79.0% of 100"),
            (80, 100, "WARNING", "80 tasks, 80.0% of 100 (warning at 80%)"),
            (90, 100, "CRITICAL", "90 tasks, 90.0% of 100 (critical at 90%)"),
            (120, 100, "CRITICAL", "120 tasks, 120.0% of 100 (critical at 90%)"),  # what was there before the limit
            (5, 0, "CRITICAL", "5 tasks, of a limit of 0 (critical at 90%)"),
            (1, None, "OK", "1 task, no limit set, so no percentage of it"),
            (30000, None, "OK", "30000 tasks, no limit set, so no percentage of it"),
        ],
    )
    def test_the_sentence(self, tasks: int, limit: int | None, state: str, words: str) -> None:
        finding = judge("web", Pids(tasks, limit), DEFAULT)
        assert (finding.state.name, str(finding)) == (state, f"web: {words}")

    @pytest.mark.parametrize(
        ("limit", "host", "as_host", "state", "words"),
        [
            (None, 1000, False, "OK", "no limit set"),
            (None, 1000, True, "CRITICAL", "90.0% of 1000 of the host"),
            (50000, 1000, False, "CRITICAL", "90.0% of 1000 of the host"),  # it can't have more than there are
            (1000, 50000, True, "CRITICAL", "90.0% of 1000 (critical"),
            (None, None, False, "OK", "no limit set"),
        ],
    )
    def test_the_hosts_limit(self, limit: int | None, host: int | None, as_host: bool, state: str, words: str) -> None:
        finding = judge("web", Pids(900, limit), DEFAULT, host, as_host)
        assert (finding.state.name, words in str(finding)) == (state, True), str(finding)

    def test_a_forgotten_percent_sign_shows(self) -> None:
        finding = judge("web", Pids(90, None), Levels(threshold("80"), None))
        assert str(finding).endswith("90 tasks, no limit set (warning at 80 tasks; 80% would be of the limit)")
        finding = judge("web", Pids(900, None), Levels(threshold("500"), threshold("@2:9")))
        assert str(finding).endswith("(warning at 500 tasks)")

    def test_the_fullest_is_the_most_urgent(self) -> None:
        full, large, unlimited = (judge("a", Pids(*one), DEFAULT) for one in ((9, 10), (800, 1000), (9000, None)))
        assert full.urgency > large.urgency > unlimited.urgency


class TestOnAHost:
    @pytest.mark.parametrize(("limit", "status"), [("100", 0), ("6", 1), ("5", 2), ("max", 0)])
    def test_a_container(self, any_tree: Tree, limit: str, status: int) -> None:
        any_tree.container("web").write("pids.max", f"{limit}\n")
        done = pids(any_tree)
        assert (done.status, done.perfdata["web_tasks"]["value"]) == (status, "5"), done.out
        assert done.perfdata["web_tasks"]["maximum"] == limit.replace("max", "")

    def test_unlimited_as_host(self, any_tree: Tree) -> None:
        any_tree.container("web").write("pids.current", "14000\n")
        assert pids(any_tree).status == 0
        done = pids(any_tree, "--unlimited-as", "host")
        assert (done.status, "no such file" in done.first.lower()) == (3, True), done.out
        host_takes(any_tree)
        assert pids(any_tree).status == 0
        done = pids(any_tree, "--unlimited-as", "host")
        assert (done.status, done.perfdata["web_tasks"]["maximum"]) == (2, "15000"), done.out

    def test_what_does_not_run(self, any_tree: Tree) -> None:
        any_tree.container("web")
        any_tree.container("off", running=False)
        assert pids(any_tree).first.endswith("(1 not running)")
        done = pids(any_tree, "-n", "off")
        assert (done.status, "is not running, so it has no tasks to measure" in done.first) == (3, True)

    def test_what_is_not_counted(self, tree: Tree) -> None:
        tree.container("web").file("pids.current").unlink()
        done = pids(tree)
        assert (done.status, "pids controller is not enabled" in done.first) == (3, True)

    @pytest.mark.parametrize("arguments", [["-w", "101%"], ["-w", "90%", "-c", "80%"], ["--unlimited-as", "me"]])
    def test_misuse(self, tree: Tree, arguments: list[str]) -> None:
        assert pids(tree, *arguments).misuse()

    @given(name=st.sampled_from(["pids.current", "pids.max"]), garbage=st.binary(max_size=30))
    def test_garbage_is_never_ok(self, tree: Tree, name: str, garbage: bytes) -> None:
        web = tree.at("/sys/fs/cgroup/lxc.payload.web")
        made = tree.container("web") if not web.exists() else None
        assert made is None or made.name == "web"
        (web / "pids.current").write_text("5\n")
        (web / "pids.max").write_text("max\n")
        (web / name).write_bytes(garbage)
        found = list(CheckContainerPids(["--root", str(tree.root)]).findings())
        is_whole = garbage == b"max\n" and name == "pids.max" or (garbage[-1:] == b"\n" and garbage[:-1].isdigit())
        assert worst(found) is State.UNKNOWN or is_whole


def test_in_process(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "v2")
    tree.container("web").write("pids.max", "5\n")
    found = list(CheckContainerPids(["--root", str(tree.root), "-w", "1", "-c", "100%"]).findings())
    assert [(one.state, one.subject) for one in found] == [(State.CRITICAL, "web")]
