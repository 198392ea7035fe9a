"""check_container_cpu.py: judged in-process, on a clock that the tests move, and seen from outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_container_cpu import CheckContainerCpu, Used, judge, judge_throttled
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc.findings import Finding, State, worst
from sensu_lxc.levels import Levels, threshold
from sensu_lxc.options import Misuse

from tests.plugins.clock import Clock, Runs, values
from tests.plugins.running import Output, run
from tests.plugins.trees import Container, Tree

OK, WARNING, CRITICAL, UNKNOWN = State
RECORDED = Path(__file__).resolve().parents[1] / "recordings" / "accounting" / "v2-swapping"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def used(container: Container, milliseconds: int, periods: int = 0, throttled: int = 0) -> None:
    """How much CPU time it has used since its start."""
    stat = f"nr_periods {periods}\nnr_throttled {throttled}\n"
    if container.tree.layout != "v2":
        container.write("cpuacct.usage", f"{milliseconds * 1_000_000}\n")
        container.write("cpu.stat", stat + "throttled_time 77\n")
    else:
        usec = milliseconds * 1000
        container.write("cpu.stat", f"usage_usec {usec}\nuser_usec {usec}\nsystem_usec 0\n{stat}throttled_usec 0\n")


def quota(container: Container, cores: float) -> None:
    _quota_in(container.directory("cpu"), container.tree, cores)


def _quota_in(directory: Path, tree: Tree, cores: float) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    quota_us = round(cores * 100000)
    if tree.layout == "v2":
        (directory / "cpu.max").write_text(f"{quota_us} 100000\n")
    else:
        (directory / "cpu.cfs_quota_us").write_text(f"{quota_us}\n")
        (directory / "cpu.cfs_period_us").write_text("100000\n")


def cpuset(container: Container, cpus: str) -> None:
    v2 = container.tree.layout == "v2"
    container.write("cpuset.cpus.effective" if v2 else "cpuset.effective_cpus", f"{cpus}\n")


def cpu(tree: Tree, *arguments: str) -> Output:
    folder = str(tree.root.parent / "state")
    return run("check_container_cpu.py", tree, "--state-dir", folder, "--sample", "10ms", *arguments).well_formed()


class TestJudge:
    LEVELS = Levels(threshold("80%"), threshold("90%"))

    @pytest.mark.parametrize(
        ("cores_used", "cores", "state", "words"),
        [
            (0.0, 2.0, "OK", "0.0% of 2 cores over 60 s"),
            (0.4, 0.5, "WARNING", "80.0% of 0.5 cores over 60 s (warning at 80%)"),
            (1.0, 1.0, "CRITICAL", "100.0% of 1 core over 60 s (critical at 90%)"),
            (1.05, 1.0, "CRITICAL", "105.0% of 1 core over 60 s (critical at 90%)"),
        ],
    )
    def test_the_sentence(self, cores_used: float, cores: float, state: str, words: str) -> None:
        finding = judge("web", Used(cores_used, cores, 60.0), self.LEVELS)
        assert (finding.state.name, str(finding)) == (state, f"web: {words}")

    @pytest.mark.parametrize(
        ("critical", "in_cores", "expected"),
        [
            ("75", False, CRITICAL), ("76", False, OK), ("75%", True, CRITICAL), ("76%", True, OK),
            ("1.5", True, CRITICAL), ("1.6", True, OK), ("@1:2", True, CRITICAL), ("2:", True, CRITICAL),
        ],
    )  # fmt: skip
    def test_units(self, critical: str, in_cores: bool, expected: State) -> None:
        finding = judge("web", Used(1.5, 2.0, 60.0), Levels(None, threshold(critical)), in_cores)
        assert finding.state is expected
        (measure,) = finding.measures
        told = (measure.label, measure.value, measure.maximum)
        assert told == (("cpu_cores", 1.5, 2.0) if in_cores else ("cpu", 75.0, 100.0))
        assert ("1.50 cores, 75.0% of 2 cores" in str(finding)) == in_cores

    @pytest.mark.parametrize(("throttled", "state"), [(24, "OK"), (25, "WARNING"), (50, "CRITICAL")])
    def test_throttled(self, throttled: int, state: str) -> None:
        finding = judge_throttled("web", throttled, 100, Levels(threshold("25%"), threshold("50%")))
        assert (finding.state.name, values(finding)) == (state, {"throttled": throttled})

    def test_throttled_without_levels_is_only_measured(self) -> None:
        finding = judge_throttled("web", 100, 100, Levels(None, None))
        assert (finding.state, finding.words) == (OK, "throttled in 100.0% of 100 periods of its quota")


class TestFromRunToRun:
    def run(self, tree: Tree, clock: Clock, web: Container, tmp_path: Path, *arguments: str) -> list[Finding]:
        """The findings of a minute in which it used 30 s of CPU time."""
        used(web, 5000)
        run = Runs(CheckContainerCpu, tree, tmp_path, *arguments)
        run()
        clock.now += 60
        used(web, 35000)
        return list(run())

    def test_the_hosts_cpus(self, any_tree: Tree, clock: Clock, tmp_path: Path) -> None:
        (finding,) = self.run(any_tree, clock, any_tree.container("web"), tmp_path)
        assert str(finding) == "web: 12.5% of 4 cores over 60 s"

    def test_its_quota(self, any_tree: Tree, clock: Clock, tmp_path: Path) -> None:
        web = any_tree.container("web")
        quota(web, 0.5)
        (finding,) = self.run(any_tree, clock, web, tmp_path)
        assert str(finding) == "web: 100.0% of 0.5 cores over 60 s (critical at 90%)"

    def test_the_quota_of_a_cgroup_above(self, any_tree: Tree, clock: Clock, tmp_path: Path) -> None:
        web = any_tree.container("web", family="dir")
        quota(web, 2)
        _quota_in(web.directory("cpu").parent, any_tree, 1)
        (finding,) = self.run(any_tree, clock, web, tmp_path)
        assert str(finding) == "web: 50.0% of 1 core over 60 s"

    def test_its_cpuset(self, any_tree: Tree, clock: Clock, tmp_path: Path) -> None:
        web = any_tree.container("web")
        cpuset(web, "1,3")
        (finding,) = self.run(any_tree, clock, web, tmp_path)
        assert str(finding) == "web: 25.0% of 2 cores over 60 s"

    def test_a_quota_larger_than_its_cpuset(self, any_tree: Tree, clock: Clock, tmp_path: Path) -> None:
        web = any_tree.container("web")
        quota(web, 8)
        cpuset(web, "2")
        (finding,) = self.run(any_tree, clock, web, tmp_path)
        assert str(finding) == "web: 50.0% of 1 core over 60 s"

    def test_cores(self, any_tree: Tree, clock: Clock, tmp_path: Path) -> None:
        (finding,) = self.run(any_tree, clock, any_tree.container("web"), tmp_path, "--cores", "-w", "0.5")
        assert str(finding) == "web: 0.50 cores, 12.5% of 4 cores over 60 s (warning at 0.5)"

    def test_throttled(self, any_tree: Tree, clock: Clock, tmp_path: Path) -> None:
        web = any_tree.container("web")
        used(web, 0, 100, 50)
        run = Runs(CheckContainerCpu, any_tree, tmp_path, "--throttled-warning", "25%")
        assert len(run()) == 1  # no period has begun since
        clock.now += 60
        used(web, 0, 700, 200)
        _, finding = run()
        assert str(finding) == "web: throttled in 25.0% of 600 periods of its quota (warning at 25%)"
        assert finding.state is WARNING

    def test_recorded(self, tree: Tree, clock: Clock, tmp_path: Path) -> None:
        web = tree.container("web")
        web.write("cpuset.cpus.effective", (RECORDED / "cpuset.cpus.effective").read_bytes())
        web.write("cpu.max", (RECORDED / "cpu.max").read_bytes())
        run = Runs(CheckContainerCpu, tree, tmp_path)
        used(web, 6346)
        run()
        clock.now += 60
        web.write("cpu.stat", (RECORDED / "cpu.stat").read_bytes())
        first, throttled = run()
        assert values(first)["cpu"] == pytest.approx(100 * 0.500456 / 60 / 0.3)
        assert values(throttled)["throttled"] == pytest.approx(100 * 225 / 238)


class TestOnAHost:
    def test_a_container(self, any_tree: Tree) -> None:
        any_tree.container("web")
        done = cpu(any_tree)
        assert (done.status, done.first) == (0, "CheckContainerCpu OK: web: 0.0% of 4 cores over 0.0 s"), done.out
        assert done.perfdata["web_cpu"] | {"unit": ""} == {
            "label": "web_cpu", "value": "0", "unit": "", "warning": "80", "critical": "90", "minimum": "0",
            "maximum": "100",
        }  # fmt: skip

    def test_a_controller_that_is_not_enabled(self, tree: Tree) -> None:
        """v2 counts CPU time all the same; quota and cpuset are then those above."""
        web = tree.container("web")
        for name in ("cpu.max", "cpuset.cpus.effective"):
            web.file(name).unlink()
        web.write("cpu.stat", "usage_usec 1000\nuser_usec 600\nsystem_usec 400\n")
        assert "of 4 cores" in cpu(tree).first

    def test_a_kernel_without_quotas(self, tmp_path: Path) -> None:
        """v1 without CONFIG_CFS_BANDWIDTH has none of these files."""
        tree = Tree(tmp_path, "v1")
        web = tree.container("web")
        for name in ("cpu.stat", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
            web.file(name).unlink()
        assert "of 4 cores" in cpu(tree).first

    def test_what_does_not_run(self, tree: Tree) -> None:
        tree.container("off", running=False)
        done = cpu(tree, "-n", "off")
        assert (done.status, "is not running, so it has no CPU time to measure" in done.first) == (3, True)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["-w", "150"], "--cores"),
            (["-c", "80M"], "--cores"),
            (["--throttled-warning", "150"], "more than 100%"),
            (["--throttled-warning", "50%", "--throttled-critical", "20%"], "lies above"),
            (["--cores", "-w", "2", "-c", "1"], "lies above"),
        ],
    )
    def test_misuse(self, arguments: list[str], words: str) -> None:
        with pytest.raises(Misuse, match=words):
            CheckContainerCpu(arguments)

    def test_cores_may_be_many(self) -> None:
        CheckContainerCpu(["--cores", "-w", "120"])


FILES = {
    "v1": ("cpuacct.usage", "cpu.stat", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpuset.effective_cpus"),
    "v2": ("cpu.stat", "cpu.max", "cpuset.cpus.effective"),
}


@pytest.mark.parametrize("layout", FILES)
def test_garbage_is_never_ok(tmp_path: Path, layout: str) -> None:
    """But for a number in the place of a number, which nobody can tell."""
    tree = Tree(tmp_path, layout)
    web = tree.container("web")
    if layout == "v1":
        web.write("cpu.cfs_quota_us", "50000\n")  # without one its period is nobody's business
    folder = str(tmp_path / "state")

    garbages = st.binary(max_size=40) | st.sampled_from([b"0\n", b"0 0\n", b"0 1\n", b"\n", b"nr_periods 1\n"])

    @given(name=st.sampled_from(FILES[layout]), garbage=garbages)
    def look(name: str, garbage: bytes) -> None:
        file = web.file(name)
        whole = file.read_bytes()
        file.write_bytes(garbage)
        try:
            check = CheckContainerCpu(["--root", str(tree.root), "--sample", "1ms", "--state-dir", folder])
            state = worst(check.findings())
        finally:
            file.write_bytes(whole)
        assert state is UNKNOWN or (garbage[-1:] == b"\n" and garbage[:-1].isdigit())

    look()
