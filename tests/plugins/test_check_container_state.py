"""check_container_state.py: judged in-process, seen from outside on made hosts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from check_container_state import judge
from sensu_lxc.findings import State
from sensu_lxc.states import ORPHANED, UNRESPONSIVE
from sensu_lxc.states import State as Seen

from tests.plugins.running import Output, run
from tests.plugins.trees import LXC, Tree

SCRIPT = "check_container_state.py"

Run = Callable[..., Output]


@pytest.mark.parametrize(
    ("seen", "expected", "graded"),
    [
        ("RUNNING", "RUNNING", "OK"),
        ("RUNNING", "STOPPED", "CRITICAL"),
        ("RUNNING", "FROZEN", "CRITICAL"),
        ("STOPPED", "RUNNING", "CRITICAL"),
        ("STOPPED", "STOPPED", "OK"),
        ("FROZEN", "RUNNING", "CRITICAL"),
        ("FROZEN", "FROZEN", "OK"),
        ("STARTING", "RUNNING", "WARNING"),
        ("STOPPING", "STOPPED", "WARNING"),
        ("FREEZING", "FROZEN", "WARNING"),
        ("STOPPING", "RUNNING", "CRITICAL"),
        ("ABORTING", "RUNNING", "CRITICAL"),
        (UNRESPONSIVE, "RUNNING", "CRITICAL"),
        (UNRESPONSIVE, "STOPPED", "CRITICAL"),
        (ORPHANED, "STOPPED", "CRITICAL"),
        (ORPHANED, "RUNNING", "CRITICAL"),
    ],
)
def test_judge(seen: str, expected: str, graded: str) -> None:
    finding = judge("web", Seen(seen), expected)
    assert finding.state.name == graded
    assert finding.subject == "web"


def test_judge_says_what_is_not_known() -> None:
    """A stopped container whose definition can't be seen may not exist: neither is OK."""
    assert judge("web", Seen("STOPPED"), "RUNNING", None).state is State.CRITICAL
    for expected in ("STOPPED", "FROZEN"):
        assert judge("web", Seen("STOPPED"), expected, None).state is not State.OK
    assert "can't be read by this user" in str(judge("web", Seen("STOPPED"), "RUNNING", None))


def test_all_is_well(any_tree: Tree, state: Run) -> None:
    any_tree.container("web")
    any_tree.container("db", nested_systemd=True)
    done = state(any_tree).well_formed()
    assert done.out == "CheckContainerState OK: db: RUNNING, and 1 more OK | running=2;;;0 stopped=0;;;0 frozen=0;;;0\n"


@pytest.mark.parametrize("any_tree", ["hybrid", "v2"], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["-n", "run"], 0, "run: RUNNING"),
        (["-n", "off"], 2, "off: STOPPED, expected RUNNING"),
        (["-n", "ice"], 2, "ice: FROZEN, expected RUNNING"),
        (["-n", "ice", "--expect", "FROZEN"], 0, "ice: FROZEN"),
        (["-n", "off", "--expect", "STOPPED"], 0, "off: STOPPED"),
        (["-n", "run", "--expect", "STOPPED"], 2, "run: RUNNING, expected STOPPED"),
        (["-n", "none"], 2, "none: does not exist"),
        (["-n", "none", "--expect", "STOPPED"], 2, "none: does not exist"),
        (["-n", "none*"], 3, "none*: matches no container"),
        (["-n", "run,none"], 2, "none: does not exist"),
        (["-n", "dead"], 2, "dead: runs on without its monitor"),
        (["-n", "dead", "--expect", "STOPPED"], 2, "dead: runs on without its monitor"),
        ([], 2, "and "),
        (["--exclude", "*"], 3, "--exclude leaves none of 4 containers"),
        (["-n", "run,none", "--exclude", "r*,n*"], 3, "--exclude leaves none of 2 containers"),
        (["-n", "none", "--exclude", "none"], 3, "--exclude leaves out the one container that is meant"),
        (["-n", "run", "--expect", "running"], 0, "run: RUNNING"),
        (["-n", "run", "--expect", "Stopped"], 2, "run: RUNNING, expected STOPPED"),
        (["--exclude", "off,ice,dead"], 0, "run: RUNNING"),
        (["-P", LXC], 2, "STOPPED, expected RUNNING"),
    ],
)
def test_what_is_expected(any_tree: Tree, state: Run, arguments: list[str], status: int, says: str) -> None:
    any_tree.container("run")
    any_tree.container("off", running=False)
    any_tree.container("ice", frozen=True)
    any_tree.container("dead", socket=False)
    done = state(any_tree, *arguments).well_formed()
    assert done.status == status, done.out
    assert says in done.out


@pytest.mark.parametrize("name", ["web", "web-1"])
def test_one_is_not_taken_for_the_other(any_tree: Tree, state: Run, name: str) -> None:
    """web is looked at alone while web-1 runs, and the reverse."""
    any_tree.container(name, running=False)
    any_tree.container("web-1" if name == "web" else "web")
    done = state(any_tree, "-n", name, "--expect", "STOPPED").well_formed()
    assert (done.status, done.first) == (0, f"CheckContainerState OK: {name}: STOPPED")


def test_the_namesake_in_another_lxcpath(any_tree: Tree, state: Run) -> None:
    any_tree.container("web")
    any_tree.container("web", "/srv/lxc", running=False)
    done = state(any_tree, "-P", "/srv/lxc", "-n", "web", "--expect", "STOPPED").well_formed()
    assert done.status == 0, done.out


def test_no_container_is_not_ok(tree: Tree, state: Run) -> None:
    assert "no container here" in state(tree).misuse()


def test_a_monitor_of_a_deleted_definition_runs(tree: Tree, state: Run) -> None:
    tree.container("ghost", config=None)
    done = state(tree).well_formed()
    assert (done.status, "ghost" in done.first) == (0, True)


def test_frozen_from_outside_in_a_hybrid_host(any_tree: Tree, state: Run) -> None:
    any_tree.container("web", frozen=True)
    done = state(any_tree).well_formed()
    assert (done.status, "FROZEN" in done.first) == (2, True)


@pytest.mark.parametrize("content", ["", "nonsense\n", "FROZEN"])
def test_a_freezer_that_cannot_be_read_is_not_ok(any_tree: Tree, state: Run, content: str) -> None:
    any_tree.container("web").write("freezer.state" if "freezer" in any_tree.mounts else "cgroup.events", content)
    assert state(any_tree).well_formed().status == 3


class TestAutostart:
    def test_only_those(self, tree: Tree, state: Run) -> None:
        tree.container("yes", config="lxc.start.auto = 1\n")
        tree.container("no", running=False)
        done = state(tree, "--autostart-only").well_formed()
        assert done.first == "CheckContainerState OK: yes: RUNNING"
        assert done.perfdata["running"]["value"] == "1"

    def test_one_that_is_down(self, tree: Tree, state: Run) -> None:
        tree.container("yes", config="lxc.start.auto = 1\n", running=False)
        assert state(tree, "--autostart-only").well_formed().status == 2

    def test_none_is_not_ok(self, tree: Tree, state: Run) -> None:
        tree.container("no")
        assert state(tree, "--autostart-only").misuse()

    def test_what_cannot_be_told_is_not_passed_over(self, tree: Tree, state: Run) -> None:
        tree.container("yes", config="lxc.start.auto = 1\n")
        tree.container("odd", config="lxc.include = /none.conf\n")
        done = state(tree, "--autostart-only").well_formed()
        assert (done.status, "odd" in done.first) == (3, True)

    def test_a_config_with_a_nul(self, tree: Tree, state: Run) -> None:
        tree.container("odd", config="lxc.include = /a\0b\n")
        assert state(tree, "--autostart-only").well_formed().status == 3

    def test_lxd_without_its_daemon(self, tree: Tree, state: Run) -> None:
        tree.lxd("web")
        assert state(tree, "--autostart-only").well_formed().status == 3


# What nothing defines any more, and what can't be read


def test_what_runs_on_without_monitor_and_definition(any_tree: Tree) -> None:
    any_tree.container("web")
    any_tree.container("gone", socket=False, config=None)
    done = run(SCRIPT, any_tree).well_formed()
    assert (done.status, "gone: no lxcpath here defines it and no monitor runs for it" in done.first) == (2, True)
    assert run(SCRIPT, any_tree, "--exclude", "gone").status == 0
    for name in ("gone", "go*"):
        named = run(SCRIPT, any_tree, "-n", name).well_formed()
        assert (named.status, "its processes run on in" in named.first) == (2, True)
    assert run(SCRIPT, any_tree, "-n", "go*", "--exclude", "gone").status == 3
    assert run(SCRIPT, any_tree, "-n", "web").status == 0


@pytest.mark.parametrize("config", ["", "\0\1garbage", "rootfs\n", "lxc.include = /gone.conf\n"])
def test_a_config_that_is_none_hides_no_orphan(any_tree: Tree, config: str) -> None:
    web = any_tree.container("web", family="limit+inner", socket=False)
    (web.definition / "config").write_text(config)
    done = run(SCRIPT, any_tree, "--expect", "STOPPED").well_formed()
    assert done.status == 3, done.out
    any_tree.container("db")
    assert run(SCRIPT, any_tree, "--autostart-only").status == 3


@pytest.mark.parametrize("value, starts", [("1", True), ("01", True), ("+1", True), ("0x1", True), ("0", False)])
def test_autostart_as_lxc_reads_numbers(tree: Tree, value: str, starts: bool) -> None:
    tree.container("web", config="lxc.start.auto = 1\n")
    tree.container("off", running=False, config=f"lxc.start.auto = {value}\n")
    assert run(SCRIPT, tree, "--autostart-only").status == (2 if starts else 0)


def test_a_missing_name_is_said_beside_what_does_not_start_with_the_host(tree: Tree) -> None:
    tree.container("web")
    done = run(SCRIPT, tree, "-n", "web,gone", "--autostart-only").well_formed()
    assert (done.status, "gone: does not exist" in done.first) == (2, True), done.out


def test_an_lxcpath_that_is_not_mounted(tree: Tree) -> None:
    tree.write("/etc/lxc/lxc.conf", "lxc.lxcpath = /srv/lxc\n")
    tree.lxd("one")
    done = run(SCRIPT, tree).well_formed()
    assert (done.status, "/srv/lxc is not there" in done.first) == (3, True), done.out


def test_a_file_among_lxds_containers_is_none(tree: Tree) -> None:
    tree.lxd("one")
    tree.write("/var/lib/lxd/containers/lxc-monitord.log", "x")
    assert run(SCRIPT, tree).status == 0
