"""rates.py: checks of rates from run to run, on a clock that the tests move."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sensu_lxc import rates
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.findings import Finding, State
from sensu_lxc.history import Past
from sensu_lxc.inventory import Container
from sensu_lxc.levels import Levels, threshold
from sensu_lxc.options import Misuse
from sensu_lxc.sources import cgroup
from sensu_lxc.sources.net_unix import socket_name

from tests.plugins.clock import Clock, Runs
from tests.plugins.trees import Tree

OK, WARNING, CRITICAL, UNKNOWN = State
Counted = namedtuple("Counted", "life counters")
LEVELS = Levels(threshold("10"), threshold("20"))


class Rate(rates.RateCheck):
    """How fast pids.current grows, in tasks per second: a counter as any other here."""

    measured = "growth"

    def observe(self, container: Container, surely: bool) -> Counted:
        hierarchy = self.tree.hierarchy("pids")
        assert hierarchy is not None
        directory = self.tree.directory(container, hierarchy, surely)
        path = f"{directory}/pids.current"
        return Counted(self.tree.life(directory), {"": (cgroup.number(self.host.value(path), path),)})

    def rate(self, container: Container, before: Past, facts: Any, seconds: float) -> Iterator[Finding]:
        (grown,) = rates.moved(before, facts)
        speed = grown / seconds
        yield Finding(LEVELS.judge(speed)[0], container.label, f"grew by {speed:g}/s over {rates.span(seconds)}")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class World:
    """A container whose counter can be set."""

    def __init__(self, tree: Tree, name: str = "web") -> None:
        self.container = tree.container(name)
        self.count = 0
        self.set(1000)

    def set(self, count: int) -> None:
        self.count = count
        self.container.write("pids.current", f"{count}\n")

    def add(self, count: int) -> None:
        self.set(self.count + count)

    def reboot(self) -> None:
        """Its cgroup is made anew; its counter happens to stand where the old one did."""
        directory = self.container.directory("pids")
        shutil.copytree(directory, f"{directory}.new")
        shutil.rmtree(directory)
        os.rename(f"{directory}.new", directory)


@pytest.fixture
def world(tree: Tree) -> World:
    return World(tree)


class TestFromRunToRun:
    def test_the_first_run_looks_twice(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        clock.meanwhile = lambda: world.add(3)
        found = Runs(Rate, tree, tmp_path).one()
        assert (found.state, str(found), clock.slept) == (OK, "web: grew by 6/s over 0.5 s", 0.5)

    def test_the_next_compares_with_it(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        run = Runs(Rate, tree, tmp_path)
        run()
        clock.slept = 0.0
        clock.now += 60
        world.add(900)
        found = run.one()
        assert (found.state, str(found), clock.slept) == (WARNING, "web: grew by 15/s over 60 s", 0.0)
        clock.now += 60
        assert str(run.one()) == "web: grew by 0/s over 60 s"

    def test_the_sample_is_as_long_as_asked_for(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        clock.meanwhile = lambda: world.add(6)
        assert str(Runs(Rate, tree, tmp_path, "--sample", "2s").one()) == "web: grew by 3/s over 2.0 s"

    def test_all_are_sampled_in_one_go(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        for number in range(20):
            World(tree, f"c{number}")
        assert len(Runs(Rate, tree, tmp_path)()) == 21
        assert clock.slept == 0.5

    def test_a_newcomer_among_known_ones(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        run = Runs(Rate, tree, tmp_path)
        run()
        clock.now += 60
        World(tree, "db")
        assert {str(one) for one in run()} == {"web: grew by 0/s over 60 s", "db: grew by 0/s over 0.5 s"}

    def test_two_command_lines(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        Runs(Rate, tree, tmp_path)()
        clock.now += 60
        assert str(Runs(Rate, tree, tmp_path, "-n", "web").one()).endswith("over 0.5 s")

    def test_a_run_right_after_another_waits_for_its_turn(
        self, tree: Tree, world: World, clock: Clock, tmp_path: Path
    ) -> None:
        run = Runs(Rate, tree, tmp_path)
        run()
        clock.slept = 0.0
        clock.now += 0.1
        world.add(50)
        assert str(run.one()) == "web: grew by 100/s over 0.5 s", "what was between the two is lost"
        assert clock.slept == pytest.approx(0.4)
        clock.now += 60
        world.add(600)
        assert str(run.one()) == "web: grew by 10/s over 60 s"

    def test_a_run_of_long_ago_makes_no_rate(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        run = Runs(Rate, tree, tmp_path)
        run()
        clock.meanwhile = lambda: world.add(1)
        for seconds, words in ((3599, "over 3599 s"), (3601, "grew by 2/s over 0.5 s")):
            clock.now += seconds
            assert str(run.one()).endswith(words)

    def test_another_life(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        """Whose counter stands higher than the old one did."""
        run = Runs(Rate, tree, tmp_path)
        run()
        clock.now += 60
        world.reboot()
        world.add(60000)
        assert str(run.one()) == "web: grew by 0/s over 0.5 s"

    def test_another_boot(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        run = Runs(Rate, tree, tmp_path)
        run()
        clock.now += 60
        tree.write("/proc/sys/kernel/random/boot_id", "another\n")
        assert str(run.one()).endswith("over 0.5 s")

    def test_counters_that_began_anew_are_told_once(
        self, tree: Tree, world: World, clock: Clock, tmp_path: Path
    ) -> None:
        run = Runs(Rate, tree, tmp_path)
        run()
        clock.now += 60
        world.set(5)
        found = run.one()
        assert (found.state, "began anew" in str(found)) == (UNKNOWN, True)
        clock.now += 60
        assert str(run.one()) == "web: grew by 0/s over 60 s"


class TestWhatHappensMeanwhile:
    def test_it_stops(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        def stop() -> None:
            clock.meanwhile = lambda: None
            tree.stop_listening(socket_name("/var/lib/lxc/web"))
            for point in tree.mounts.values():
                shutil.rmtree(tree.at(point + world.container.path))

        clock.meanwhile = stop
        World(tree, "db")
        run = Runs(Rate, tree, tmp_path)
        assert [str(one) for one in run()] == ["db: grew by 0/s over 0.5 s"]
        assert run.notes == ["1 not running"]

    def test_it_reboots(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        clock.meanwhile = world.reboot
        found = Runs(Rate, tree, tmp_path).one()
        assert (found.state, "restarted while it was looked at" in str(found)) == (UNKNOWN, True)
        clock.now += 60
        clock.meanwhile = lambda: None
        assert Runs(Rate, tree, tmp_path).one().state is OK

    def test_its_cgroup_is_late(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        """As in a reboot: the old one is gone, the new one not yet there."""
        calls = []

        class Late(Rate):
            def observe(self, container: Container, surely: bool) -> Counted:
                calls.append(surely)
                if len(calls) < 3:
                    raise NotThere("gone")
                return super().observe(container, surely)

        assert Runs(Late, tree, tmp_path).one().state is OK
        assert calls == [False, True, True, False]

    def test_one_that_can_not_be_seen_costs_the_others_nothing(
        self, tree: Tree, world: World, clock: Clock, tmp_path: Path
    ) -> None:
        World(tree, "bad").container.write("pids.current", "nonsense\n")
        found = {one.subject: one.state for one in Runs(Rate, tree, tmp_path)()}
        assert found == {"web": OK, "bad": UNKNOWN}


class TestCount:
    def runs(self, run: Runs, world: World, clock: Clock, *speeds: int) -> list[State]:
        """The states of runs a minute apart between which the counter grows so fast."""
        states = []
        for speed in speeds:
            clock.now += 60
            world.add(60 * speed)
            states.append(run.one().state)
        return states

    @pytest.mark.parametrize(
        ("count", "speeds", "expected"),
        [
            (1, [25, 0], [CRITICAL, OK]),
            (3, [25, 25, 25, 25, 0], [OK, OK, CRITICAL, CRITICAL, OK]),
            (3, [15, 15, 15, 0, 15], [OK, OK, WARNING, OK, OK]),
            (3, [15, 15, 25, 25, 25], [OK, OK, WARNING, WARNING, CRITICAL]),
            (3, [25, 25, 15, 15], [OK, OK, WARNING, WARNING]),
            (3, [25, 25, 15, 25, 25, 25], [OK, OK, WARNING, WARNING, WARNING, CRITICAL]),
            (2, [25, 0, 25, 0, 25], [OK] * 5),
        ],
    )
    def test_several_runs(
        self,
        tree: Tree,
        world: World,
        clock: Clock,
        tmp_path: Path,
        count: int,
        speeds: list[int],
        expected: list[State],
    ) -> None:
        run = Runs(Rate, tree, tmp_path, "--count", str(count))
        assert run.one().state is OK
        assert self.runs(run, world, clock, *speeds) == expected

    def test_the_first_run_counts(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        clock.meanwhile = lambda: world.add(100)
        run = Runs(Rate, tree, tmp_path, "--count", "2")
        found = run.one()
        assert str(found) == "web: grew by 200/s over 0.5 s, critical for 1 of 2 runs"
        assert self.runs(run, world, clock, 25) == [CRITICAL]

    def test_runs_a_day_apart_are_a_row(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        run = Runs(Rate, tree, tmp_path, "--count", "3")
        clock.meanwhile = lambda: world.add(100)
        states = []
        for _ in range(3):
            states.append(run.one().state)
            clock.now += 86400
        assert states == [OK, OK, CRITICAL]

    def test_one_that_could_not_tell_neither_counts_nor_ends_a_row(
        self, tree: Tree, world: World, clock: Clock, tmp_path: Path
    ) -> None:
        run = Runs(Rate, tree, tmp_path, "--count", "2")
        run()
        assert self.runs(run, world, clock, 25) == [OK]
        world.container.write("pids.current", "nonsense\n")
        clock.now += 60
        assert run.one().state is UNKNOWN
        assert self.runs(run, world, clock, 60) == [CRITICAL]  # half of that over two minutes

    def test_counters_that_began_anew_end_no_row(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        run = Runs(Rate, tree, tmp_path, "--count", "2")
        run()
        assert self.runs(run, world, clock, 25) == [OK]
        clock.now += 60
        world.set(0)
        assert run.one().state is UNKNOWN
        assert self.runs(run, world, clock, 25) == [CRITICAL]

    def test_another_life_begins_anew(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        run = Runs(Rate, tree, tmp_path, "--count", "2")
        run()
        assert self.runs(run, world, clock, 25) == [OK]
        world.reboot()
        clock.now += 60
        clock.meanwhile = lambda: world.add(100)
        assert str(run.one()).endswith("critical for 1 of 2 runs")

    @pytest.mark.parametrize(
        ("states", "before", "after"),
        [
            ([], (2, 1), (0, 0)),
            ([OK], (2, 1), (0, 0)),
            ([OK, WARNING], (2, 1), (3, 0)),
            ([WARNING, CRITICAL], (2, 1), (3, 2)),
            ([OK, UNKNOWN], (2, 1), (2, 1)),
            ([UNKNOWN, CRITICAL], (2, 1), (3, 2)),
        ],
    )
    def test_runs_over(self, states: list[State], before: tuple[int, int], after: tuple[int, int]) -> None:
        assert rates.runs_over(states, before) == after

    @pytest.mark.parametrize("state", [OK, UNKNOWN])
    def test_not_yet_leaves_others_alone(self, state: State) -> None:
        finding = Finding(state, "web", "words")
        assert rates.not_yet(finding, (0, 0), 3) is finding


class TestAFolderThatTakesNothing:
    def test_it_is_noted(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        (tmp_path / "state").write_text("a file")
        run = Runs(Rate, tree, tmp_path)
        assert run.one().state is OK
        assert "this run is not remembered" in run.notes[0]
        assert "--state-dir" in run.notes[0]

    def test_runs_in_a_row_can_not_be_counted(self, tree: Tree, world: World, clock: Clock, tmp_path: Path) -> None:
        (tmp_path / "state").write_text("a file")
        states = {one.subject: one for one in Runs(Rate, tree, tmp_path, "--count", "2")()}
        assert states["web"].state is OK
        assert (states[""].state, "can't be counted" in str(states[""])) == (UNKNOWN, True)


class TestOptions:
    def test_a_short_time_bound_shortens_the_sample(self) -> None:
        assert Rate(["--timeout", "300ms"]).options.sample == 0.15
        assert Rate([]).options.sample == 0.5

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--sample", "10s"], "does not fit into --timeout"),
            (["--sample", "0"], "not a duration above zero"),
            (["--state-dir", "state"], "is not absolute"),
            (["--count", "0"], "is not a number of runs"),
            (["--count", "-1"], "is not a number of runs"),
            (["--count", "1001"], "is not a number of runs"),
            (["--count", "\u0663"], "is not a number of runs"),
            (["--count", "9" * 5000], "is not a number of runs"),
        ],
    )
    def test_misuse(self, arguments: list[str], words: str) -> None:
        with pytest.raises(Misuse, match=words):
            Rate(arguments)


@pytest.mark.parametrize(("seconds", "words"), [(0.5, "0.5 s"), (9.96, "10.0 s"), (60.4, "60 s"), (3600, "3600 s")])
def test_span(seconds: float, words: str) -> None:
    assert rates.span(seconds) == words


def test_moved_names_the_item() -> None:
    with pytest.raises(CannotObserve, match="the counters of eth0 began anew"):
        rates.moved(Past(1, 0.0, {"eth0": (5,)}, (0, 0)), Counted(1, {"eth0": (4,)}), "eth0")
