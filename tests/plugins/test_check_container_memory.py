"""check_container_memory.py: judged in-process, seen from outside on made hosts."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from check_container_memory import METRICS, CheckContainerMemory, judge
from sensu_lxc.cgroups import Memory
from sensu_lxc.errors import CannotObserve
from sensu_lxc.findings import State
from sensu_lxc.levels import Levels, threshold
from sensu_lxc.sources.meminfo import HostMemory

from tests.plugins.running import Output
from tests.plugins.trees import LXC, MIB, Tree

Run = Callable[..., Output]
HOST = HostMemory(2048 * MIB, 512 * MIB)
GIB = 1024 * MIB


def levels(warning: str | None, critical: str | None) -> Levels:
    return Levels(warning and threshold(warning), critical and threshold(critical))


def memory_of(**values: int | None) -> Memory:
    given: dict[str, int | None] = {
        "usage_bytes": 60 * MIB, "active_file_bytes": 0, "inactive_file_bytes": 0, "reclaimable_bytes": 0,
        "limit_bytes": 64 * MIB, "swap_bytes": 0, "swap_limit_bytes": None,
    }  # fmt: skip
    return Memory(**(given | values))


class TestJudge:
    @pytest.mark.parametrize(
        ("usage", "warning", "critical", "expected"),
        [
            (10, "80%", "90%", "OK"),
            (51.2, "80%", "90%", "WARNING"),
            (51.1, "80%", "90%", "OK"),
            (57.6, "80%", "90%", "CRITICAL"),
            (64, "80%", "90%", "CRITICAL"),
            (50, "50M", None, "WARNING"),
            (50, None, "50M", "CRITICAL"),
            (50, "51M", "52M", "OK"),
            (10, "20M:", None, "WARNING"),
            (30, "20M:", None, "OK"),
            (30, "@40%:50%", None, "WARNING"),
            (30, "80%", "30M", "CRITICAL"),
        ],
    )
    def test_levels(self, usage: float, warning: str | None, critical: str | None, expected: str) -> None:
        finding = judge("web", memory_of(usage_bytes=math.ceil(usage * MIB)), HOST, levels(warning, critical))
        assert finding.state.name == expected

    @pytest.mark.parametrize(
        ("metric", "value"), [("used", 30 * MIB), ("working-set", 50 * MIB), ("usage", 60 * MIB), ("swap", 7 * MIB)]
    )
    def test_metrics(self, metric: str, value: int) -> None:
        memory = memory_of(
            active_file_bytes=15 * MIB, inactive_file_bytes=10 * MIB, reclaimable_bytes=5 * MIB, swap_bytes=7 * MIB
        )
        finding = judge("web", memory, HOST, levels("99%", None), metric)
        assert finding.measures[0].value == value
        assert finding.measures[0].label == metric.replace("-", "_")
        assert metric in METRICS

    def test_a_percentage_of_no_limit_never_alerts_and_says_so(self) -> None:
        finding = judge("web", memory_of(usage_bytes=2047 * MIB, limit_bytes=None), HOST, levels("1%", "2%"))
        assert finding.state is State.OK
        assert "no limit set, so no percentage" in str(finding)

    def test_bytes_alert_without_a_limit(self) -> None:
        finding = judge("web", memory_of(limit_bytes=None), HOST, levels(None, "50M"))
        assert finding.state is State.CRITICAL

    def test_unlimited_as_host(self) -> None:
        finding = judge(
            "web", memory_of(usage_bytes=1900 * MIB, limit_bytes=None), HOST, levels("80%", "90%"), "used", True
        )
        assert finding.state is State.CRITICAL
        assert "of 2.0 GiB of the host" in str(finding)

    def test_a_limit_above_the_hosts_memory_is_the_hosts(self) -> None:
        finding = judge("web", memory_of(usage_bytes=1900 * MIB, limit_bytes=100 * GIB), HOST, levels("80%", "90%"))
        assert finding.state is State.CRITICAL
        assert finding.measures[0].maximum == 2 * GIB

    @pytest.mark.parametrize(
        ("swap", "limit", "host_swap", "expected"),
        [
            (0, 0, 512 * MIB, "OK"),  # it may not swap at all
            (0, None, 0, "OK"),  # the host has none
            (0, 64 * MIB, 512 * MIB, "OK"),
            (64 * MIB, 64 * MIB, 512 * MIB, "CRITICAL"),
            (500 * MIB, GIB, 512 * MIB, "CRITICAL"),  # more than there is
            (500 * MIB, None, 512 * MIB, "OK"),
        ],
    )
    def test_swap(self, swap: int, limit: int | None, host_swap: int, expected: str) -> None:
        memory = memory_of(swap_bytes=swap, swap_limit_bytes=limit)
        finding = judge("web", memory, HostMemory(2 * GIB, host_swap), levels("80%", "90%"), "swap")
        assert finding.state.name == expected, str(finding)

    @pytest.mark.parametrize("metric", ["used", "swap"])
    def test_a_forgotten_percent_sign_shows(self, metric: str) -> None:
        memory = memory_of(swap_bytes=MIB, swap_limit_bytes=MIB)
        finding = judge("web", memory, HOST, levels("80", None), metric)
        assert str(finding).endswith("(warning at 80 bytes; 80% would be of the limit)")

    def test_swap_that_is_not_counted(self) -> None:
        with pytest.raises(CannotObserve, match="swapaccount=1"):
            judge("web", memory_of(swap_bytes=None), HOST, levels("80%", None), "swap")

    def test_a_limit_of_nothing(self) -> None:
        finding = judge("web", memory_of(usage_bytes=4096, limit_bytes=0), HOST, levels("80%", "90%"))
        assert finding.state is State.CRITICAL

    def test_the_sentence(self) -> None:
        finding = judge("web1", memory_of(usage_bytes=63897600), HOST, levels("80%", "90%"))
        assert str(finding) == "web1: 60.9 MiB used, 95.2% of 64.0 MiB (critical at 90%)"

    def test_the_fullest_is_the_most_urgent(self) -> None:
        full = judge("a", memory_of(usage_bytes=63 * MIB), HOST, levels(None, "1M"))
        large = judge("b", memory_of(usage_bytes=900 * MIB, limit_bytes=GIB), HOST, levels(None, "1M"))
        unlimited = judge("c", memory_of(usage_bytes=900 * MIB, limit_bytes=None), HOST, levels(None, "1M"))
        assert full.urgency > large.urgency > unlimited.urgency


class TestOnAHost:
    @pytest.mark.parametrize(("usage", "status"), [(10, 0), (52, 1), (60, 2)])
    def test_a_container(self, any_tree: Tree, memory: Run, usage: int, status: int) -> None:
        any_tree.container("web", usage=usage * MIB)
        done = memory(any_tree, "-n", "web").well_formed()
        assert done.status == status
        assert done.perfdata["web_used"]["value"] == str(usage * MIB)
        assert done.perfdata["web_used"]["maximum"] == str(64 * MIB)

    def test_cache_is_not_counted_as_used(self, any_tree: Tree, memory: Run) -> None:
        any_tree.container("web", usage=63 * MIB, active_file=30 * MIB, inactive_file=20 * MIB)
        assert memory(any_tree).well_formed().status == 0
        assert memory(any_tree, "--metric", "usage").well_formed().status == 2
        assert memory(any_tree, "--metric", "working-set", "-c", "43M").well_formed().status == 2

    def test_swap(self, any_tree: Tree, memory: Run) -> None:
        any_tree.container("web", swap=100 * MIB, swap_limit=200 * MIB)
        done = memory(any_tree, "--metric", "swap", "-c", "100M").well_formed()
        assert (done.status, done.perfdata["web_swap"]["value"]) == (2, str(100 * MIB))

    def test_swap_that_is_not_counted(self, any_tree: Tree, memory: Run) -> None:
        any_tree.container("web", swap=None)
        assert memory(any_tree, "--metric", "swap").well_formed().status == 3

    def test_recorded_full_swap(self, tree: Tree, memory: Run) -> None:
        tree.recorded("v2-swap", "a")
        done = memory(tree, "--metric", "swap").well_formed()
        assert (done.status, "100.0% of 64.0 MiB" in done.first) == (2, True)

    def test_recorded_nested_systemd(self, tree: Tree, memory: Run) -> None:
        tree.recorded("v2-nested-systemd", "sysd", proc="systemd-init")
        done = memory(tree).well_formed()
        assert done.out == (
            "CheckContainerMemory OK: sysd: 22.6 MiB used, 4.4% of 512 MiB | "
            "sysd_used=23663944B;429496730;483183821;0;536870912\n"
        )

    def test_the_original_flag(self, tree: Tree, memory: Run) -> None:
        tree.container("web", usage=60 * MIB)
        assert memory(tree, "-n", "web", "-w", "1", "-e", "943718400").well_formed().status == 1
        assert memory(tree, "-n", "web", "--error", "10000000").well_formed().status == 2

    def test_a_hundred(self, tree: Tree, memory: Run) -> None:
        for number in range(100):
            tree.container(f"c{number:02}", usage=(64 if number < 5 else 10) * MIB, processes=False)
        done = memory(tree).well_formed()
        assert done.status == 2
        assert done.first.endswith("and 2 more CRITICAL, 95 more OK")
        assert len(done.lines) == 6
        assert len(done.perfdata) == 100
        assert len(memory(tree, "-v").well_formed().lines) == 101

    def test_worst_first(self, tree: Tree, memory: Run) -> None:
        for name, usage in {"a": 52, "b": 60, "c": 63, "d": 10}.items():
            tree.container(name, usage=usage * MIB)
        lines = memory(tree, "-v").well_formed().lines
        assert [re.split(r"[ :]", line)[1] for line in lines[1:]] == ["c", "b", "a", "d"]

    def test_selection(self, tree: Tree, memory: Run) -> None:
        for name in ("web1", "web2", "db1"):
            tree.container(name, usage=10 * MIB)
        assert set(memory(tree, "-n", "web1,db1").perfdata) == {"web1_used", "db1_used"}
        assert set(memory(tree, "-n", "web*").perfdata) == {"web1_used", "web2_used"}
        assert set(memory(tree, "-n", "web1", "-n", "db1").perfdata) == {"web1_used", "db1_used"}
        assert set(memory(tree, "--exclude", "web*").perfdata) == {"db1_used"}

    def test_everything_excluded_is_not_ok(self, tree: Tree, memory: Run) -> None:
        tree.container("web")
        assert (
            memory(tree, "--exclude", "*").misuse().endswith(": --exclude leaves out the one container that is meant")
        )

    def test_no_container_is_not_ok(self, tree: Tree, memory: Run) -> None:
        assert "no container here" in memory(tree).misuse()


class TestWhatDoesNotRun:
    def test_named(self, any_tree: Tree, memory: Run) -> None:
        any_tree.container("web")
        any_tree.container("off", running=False)
        done = memory(any_tree, "-n", "off").well_formed()
        assert (done.status, "is not running" in done.first) == (3, True)
        done = memory(any_tree, "-n", "none").well_formed()
        assert (done.status, "no such container" in done.first) == (3, True)
        done = memory(any_tree, "-n", "none*").well_formed()
        assert done.status == 3

    def test_unnamed_is_noted(self, any_tree: Tree, memory: Run) -> None:
        any_tree.container("web", usage=MIB)
        any_tree.container("off", running=False)
        done = memory(any_tree).well_formed()
        assert (done.status, done.first.endswith("(1 not running)")) == (0, True)

    def test_nothing_runs(self, any_tree: Tree, memory: Run) -> None:
        any_tree.container("off", running=False)
        assert memory(any_tree).well_formed().status == 3

    def test_a_dead_monitor_is_said(self, any_tree: Tree, memory: Run) -> None:
        any_tree.container("web", usage=MIB)
        any_tree.container("orphan", socket=False)
        done = memory(any_tree).well_formed()
        assert (done.status, "runs on without its monitor" in done.first) == (3, True)

    def test_beside_a_running_one_of_a_similar_name(self, any_tree: Tree, memory: Run) -> None:
        any_tree.container("web", running=False)
        any_tree.container("web-1")
        done = memory(any_tree, "-n", "web").well_formed()
        assert "is not running" in done.first

    @pytest.mark.parametrize("what", ["cgroup.events", "cgroup.procs"])
    def test_an_odd_stopped_one_hides_no_problem(self, tree: Tree, memory: Run, what: str) -> None:
        tree.container("full", usage=64 * MIB)
        tree.container("odd", running=False)
        tree.stale("odd").write(what, "nonsense")
        assert memory(tree).well_formed().status == 2

    def test_a_hashed_one_without_a_cgroup_is_not_passed_over(self, any_tree: Tree, memory: Run) -> None:
        path = "/srv/" + "d" * 120
        any_tree.container("web", usage=MIB)
        lost = any_tree.container("lost", path)
        for point in any_tree.mounts.values():
            shutil.rmtree(any_tree.at(point + lost.path))
        done = memory(any_tree, "-P", path, "-P", LXC).well_formed()
        assert done.status == 3


class TestAnotherContainersMemory:
    def test_the_same_name_in_an_lxcpath_that_is_not_asked_for(self, any_tree: Tree, memory: Run) -> None:
        any_tree.container("plain", usage=60 * MIB)
        any_tree.container("plain", "/srv/lxc", family="dir", usage=10 * MIB)
        done = memory(any_tree, "-P", "/srv/lxc", "-n", "plain").well_formed()
        assert done.perfdata["plain_used"]["value"] == str(10 * MIB)

    def test_both_of_a_name_have_labels_of_their_own(self, any_tree: Tree, memory: Run) -> None:
        any_tree.container("plain", usage=60 * MIB)
        any_tree.container("plain", "/srv/lxc", suffix="-1", usage=10 * MIB)
        done = memory(any_tree, "-n", "plain").well_formed()
        assert {label: part["value"] for label, part in done.perfdata.items()} == {
            "/var/lib/lxc/plain_used": str(60 * MIB),
            "/srv/lxc/plain_used": str(10 * MIB),
        }


HOSTILE = [
    "a b", "a'b\"c", "a\nb", "\x1b[31mred\x1b[0m", "a|b;c=d", "w\udcff", "\u202eevil", "a\u2028b", "a\x85b",
    "$(reboot)", "%s%n", "-rf", "~", "a,b", "x" * 200,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(tree: Tree, memory: Run, state: Run, name: str) -> None:
    tree.container(name, usage=10 * MIB)
    tree.container("web", usage=10 * MIB)
    for run in (memory, state):
        done = run(tree, "-v").well_formed()
        if "\n" not in name:  # the kernel's list of sockets has no way to show that one
            assert done.status == 0, done.out
            assert len(done.lines) == 3


def test_hostile_names_keep_their_graphs_apart(tree: Tree, memory: Run) -> None:
    for name in ("a b", "a_b", "a'b"):
        tree.container(name, usage=10 * MIB)
    assert len(memory(tree).well_formed().perfdata) == 3


def test_in_process(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "v2")
    tree.container("web", usage=60 * MIB)
    check = CheckContainerMemory(["--root", str(tree.root), "-c", "90%"])
    assert [(one.state, one.subject) for one in check.findings()] == [(State.CRITICAL, "web")]


class TestOomKills:
    def run(self, memory: Run, tree: Tree, state_dir: Path, *arguments: str) -> Output:
        return memory(tree, "-n", "web", "--oom-kills-critical", "1", "--state-dir", str(state_dir), *arguments)

    def test_each_is_told_once(self, memory: Run, tree: Tree, tmp_path: Path) -> None:
        web = tree.container("web")
        web.write("memory.events", "oom_kill 3\n")
        first = self.run(memory, tree, tmp_path / "state").well_formed()
        assert (first.status, "web_oom_kills" in first.perfdata) == (0, False)
        web.write("memory.events", "oom_kill 5\n")
        told = [self.run(memory, tree, tmp_path / "state", *more).well_formed() for more in (["-v"], [])]
        assert [(one.status, one.perfdata["web_oom_kills"]["value"]) for one in told] == [(2, "2"), (0, "0")]

    def told(self, memory: Run, tree: Tree, state_dir: Path) -> str | None:
        """How many kills a run tells of."""
        arguments = ("--oom-kills-critical", "1", "--state-dir", str(state_dir))
        found = memory(tree, *arguments).well_formed().perfdata.get("web_oom_kills")
        return found and found["value"]

    def test_one_that_was_started_between_two_runs_counts_from_its_start(
        self, memory: Run, any_tree: Tree, tmp_path: Path
    ) -> None:
        any_tree.container("db")
        assert self.told(memory, any_tree, tmp_path / "state") is None
        file = "memory.oom_control" if "memory" in any_tree.mounts else "memory.events"
        any_tree.container("web").write(file, "oom_kill 3\n")
        assert self.told(memory, any_tree, tmp_path / "state") == "3"
        assert self.told(memory, any_tree, tmp_path / "state") == "0"

    def test_all_were_started_since_the_boot(self, memory: Run, tree: Tree, tmp_path: Path) -> None:
        tree.container("web").write("memory.events", "oom_kill 3\n")
        assert self.told(memory, tree, tmp_path / "state") is None
        tree.write("/proc/sys/kernel/random/boot_id", "ffffffff-1b2c-4d3e-8f90-123456789abc\n")
        assert self.told(memory, tree, tmp_path / "state") == "3"

    def test_one_that_could_not_be_looked_at_is_not_new(self, memory: Run, tree: Tree, tmp_path: Path) -> None:
        web = tree.container("web")
        web.write("memory.events", "nonsense\n")
        assert self.told(memory, tree, tmp_path / "state") is None
        for kills, told in ((3, None), (4, "1")):
            web.write("memory.events", f"oom_kill {kills}\n")
            assert self.told(memory, tree, tmp_path / "state") == told

    def test_what_cannot_be_remembered_is_unknown(self, memory: Run, tree: Tree, tmp_path: Path) -> None:
        tree.container("web")
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o777)
        done = self.run(memory, tree, tmp_path / "open").well_formed()
        assert (done.status, "OOM kills can't be told from run to run" in done.out) == (3, True)

    def test_misuse(self, memory: Run, tree: Tree) -> None:
        tree.container("web")
        assert "count processes" in memory(tree, "--oom-kills-critical", "5%").misuse()
        assert "is not absolute" in memory(tree, "--oom-kills-critical", "1", "--state-dir", "here").misuse()
