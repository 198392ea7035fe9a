"""check_container_pressure.py: judged in-process, on a clock that the tests move, and seen from outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_container_pressure import NOTHING, CheckContainerPressure, Waited, judge
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc.findings import State, worst
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


@pytest.fixture(params=["hybrid", "v2"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    return Tree(tmp_path, request.param)


def waited(container: Container, resource: str, some_us: int, full_us: int | None) -> None:
    averages = "avg10=0.00 avg60=0.00 avg300=0.00"
    lines = f"some {averages} total={some_us}\n"
    if full_us is not None:
        lines += f"full {averages} total={full_us}\n"
    container.write(f"{resource}.pressure", lines)


def pressure(tree: Tree, *arguments: str) -> Output:
    folder = str(tree.root.parent / "state")
    return run("check_container_pressure.py", tree, "--state-dir", folder, "--sample", "10ms", *arguments).well_formed()


def levels(warning: str | None, critical: str | None) -> Levels:
    return Levels(warning and threshold(warning), critical and threshold(critical))


class TestJudge:
    @pytest.mark.parametrize(
        ("some", "full", "of_some", "of_full", "expected"),
        [
            (50, 10, (None, None), (None, None), OK),
            (50, 10, ("50%", "60%"), (None, None), WARNING),
            (50, 10, ("40%", "50%"), (None, None), CRITICAL),
            (50, 10, ("40%", None), (None, "10%"), CRITICAL),
            (50, 10, (None, "50%"), ("10%", None), CRITICAL),
            (50, 10, ("60", None), ("10", None), WARNING),
            (50, None, (None, None), (None, None), OK),
            (50, None, (None, None), ("10%", None), UNKNOWN),
            (50, None, ("50%", None), ("10%", None), UNKNOWN),
            (50, None, (None, "50%"), ("10%", None), CRITICAL),
        ],
    )
    def test_levels(
        self,
        some: float,
        full: float | None,
        of_some: tuple[str | None, str | None],
        of_full: tuple[str | None, str | None],
        expected: State,
    ) -> None:
        finding = judge("web", Waited("cpu", some, full, 60.0), levels(*of_some), levels(*of_full))
        assert finding.state is expected, str(finding)
        assert values(finding) == {"cpu_some": some, **({} if full is None else {"cpu_full": full})}

    def test_the_sentence(self) -> None:
        finding = judge("web", Waited("io", 34.56, 12.3, 60.0), levels("30%", None), levels("5%", "10%"))
        assert str(finding) == (
            "web: for I/O some of it waited 34.6% (warning at 30%), "
            "all of it 12.3% (critical at 10%) of the time over 60 s"
        )
        finding = judge("web", Waited("cpu", 34.56, None, 60.0), NOTHING, NOTHING)
        assert str(finding) == "web: for CPU some of it waited 34.6% of the time over 60 s"


class TestFromRunToRun:
    def test_all_three(self, tree: Tree, clock: Clock, tmp_path: Path) -> None:
        web = tree.container("web")
        run = Runs(CheckContainerPressure, tree, tmp_path)
        run()
        clock.now += 100
        waited(web, "cpu", 1000 + 50_000_000, 500 + 10_000_000)
        waited(web, "memory", 1000 + 90_000_000, 500 + 25_000_000)
        waited(web, "io", 1000 + 99_000_000, 500 + 70_000_000)
        found = run()
        assert [one.state for one in found] == [WARNING, CRITICAL, OK]
        assert [values(one) for one in found] == [
            {"memory_some": 90.0, "memory_full": 25.0},
            {"io_some": 99.0, "io_full": 70.0},
            {"cpu_some": 50.0, "cpu_full": 10.0},
        ]

    def test_what_is_well_is_said_in_one_sentence(self, tree: Tree, clock: Clock, tmp_path: Path) -> None:
        web = tree.container("web")
        run = Runs(CheckContainerPressure, tree, tmp_path)
        run()
        clock.now += 100
        waited(web, "cpu", 1000 + 50_000_000, 500 + 10_000_000)
        words = (
            "web: some (all) of it waited 50.0% (10.0%) for CPU, 0.0% (0.0%) for memory, 0.0% (0.0%) for I/O of the "
        )
        assert str(run.one()) == words + "time over 100 s"

    def test_some_resources_in_an_order_of_ours(self, tree: Tree, clock: Clock, tmp_path: Path) -> None:
        tree.container("web").file("cpu.pressure").unlink()
        run = Runs(CheckContainerPressure, tree, tmp_path, "--resource", "io", "--resource", "memory", "-w", "50%")
        assert list(values(run.one())) == ["memory_some", "memory_full", "io_some", "io_full"]

    def test_thresholds_that_are_given_are_the_only_ones(self, tree: Tree, clock: Clock, tmp_path: Path) -> None:
        web = tree.container("web")
        clock.meanwhile = lambda: waited(web, "io", 450_000, 450_000)
        (finding,) = Runs(CheckContainerPressure, tree, tmp_path, "--resource", "io", "-w", "95%")()
        assert finding.state is OK
        (finding,) = Runs(CheckContainerPressure, tree, tmp_path, "--resource", "io")()
        assert finding.state is OK  # nothing moved
        web.write("io.pressure", (RECORDED / "io.pressure").read_bytes())
        clock.now += 4000  # too long ago to compare with
        clock.meanwhile = lambda: waited(web, "io", 1957165 + 450_000, 4174 + 400_000)
        finding = Runs(CheckContainerPressure, tree, tmp_path, "--resource", "io", "-v").one()
        assert (finding.state, "80.1%" in str(finding) or "80.0%" in str(finding)) == (CRITICAL, True)

    def test_a_clock_that_lags_is_no_more_than_all_of_it(self, tree: Tree, clock: Clock, tmp_path: Path) -> None:
        web = tree.container("web")
        clock.meanwhile = lambda: waited(web, "cpu", 520_000, 510_000)
        finding = Runs(CheckContainerPressure, tree, tmp_path, "--resource", "cpu").one()
        assert values(finding) == {"cpu_some": 100.0, "cpu_full": 100.0}

    def test_a_kernel_that_tells_no_full_of_cpu(self, tree: Tree, clock: Clock, tmp_path: Path) -> None:
        waited(tree.container("web"), "cpu", 1000, None)
        well = Runs(CheckContainerPressure, tree, tmp_path).one()
        assert (well.state, "waited 0.0% for CPU, 0.0% (0.0%) for memory" in str(well)) == (OK, True)
        (cpu, others) = Runs(CheckContainerPressure, tree, tmp_path, "--full-warning", "50%")()
        assert (cpu.state, "is not told" in str(cpu)) == (UNKNOWN, True)
        assert (others.state, len(values(others))) == (OK, 4)

    def test_cgroups_of_two_lives(
        self, tree: Tree, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sensu_lxc.cgroups import Cgroups

        tree.container("web")
        lives = iter([1] * 4 + [2] * 14)  # each resource asks before and after
        monkeypatch.setattr(Cgroups, "life", lambda tree, directory: next(lives))
        assert Runs(CheckContainerPressure, tree, tmp_path).one().state is OK


class TestOnAHost:
    def test_a_container(self, tree: Tree) -> None:
        tree.container("web")
        done = pressure(tree)
        assert done.status == 0, done.out
        labels = {f"web_{resource}_{kind}" for resource in ("cpu", "memory", "io") for kind in ("some", "full")}
        assert set(done.perfdata) == labels
        assert done.perfdata["web_io_full"]["critical"] == "60"
        assert done.perfdata["web_io_some"]["critical"] == ""

    def test_v1_has_none(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path / "other", "v1")
        tree.container("web")
        done = pressure(tree)
        assert (done.status, "cgroup v2 only" in done.first) == (3, True), done.out

    def test_psi_is_off(self, tree: Tree) -> None:
        web = tree.container("web")
        for resource in ("cpu", "memory", "io"):
            web.file(f"{resource}.pressure").unlink()
        done = pressure(tree)
        assert (done.status, "boot with psi=1" in done.first) == (3, True), done.out

    def test_what_does_not_run(self, tree: Tree) -> None:
        tree.container("off", running=False)
        done = pressure(tree, "-n", "off")
        assert (done.status, "is not running, so it has no pressure to measure" in done.first) == (3, True)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["-w", "101"], "more than 100%"),
            (["--full-critical", "5G"], "more than 100%"),
            (["--full-warning", "50%", "--full-critical", "40%"], "lies above"),
            (["-w", "50%", "-c", "40%"], "lies above"),
            (["--resource", "disk"], "invalid choice"),
        ],
    )
    def test_misuse(self, arguments: list[str], words: str) -> None:
        with pytest.raises(Misuse, match=words):
            CheckContainerPressure(arguments)

    @given(resource=st.sampled_from(["cpu", "memory", "io"]), garbage=st.binary(max_size=60))
    def test_garbage_is_never_ok(self, tree: Tree, resource: str, garbage: bytes) -> None:
        web = tree.at(f"{tree.mounts['']}/lxc.payload.web/{resource}.pressure")
        if not web.exists():
            tree.container("web")
        web.write_bytes(garbage)
        folder = str(tree.root.parent / "state")
        arguments = ["--root", str(tree.root), "--resource", resource, "--sample", "1ms", "--state-dir", folder]
        assert worst(CheckContainerPressure(arguments).findings()) is UNKNOWN
