"""check_host_capacity.py: judged in-process, seen from outside on made hosts."""

from __future__ import annotations

import pytest
from check_host_capacity import KINDS, judge, judge_disk
from sensu_lxc import capacity
from sensu_lxc.capacity import Capacity
from sensu_lxc.cgroups import Cgroups
from sensu_lxc.disk import Space
from sensu_lxc.findings import Finding, State, worst
from sensu_lxc.host import Host
from sensu_lxc.inventory import take
from sensu_lxc.levels import Levels, threshold
from sensu_lxc.sources import meminfo

from tests.plugins import running
from tests.plugins.running import Output
from tests.plugins.trees import MIB, Tree

SCRIPT = "check_host_capacity.py"
GIB = 1 << 30


def run(tree: Tree | None, *arguments: str) -> Output:
    return running.run(SCRIPT, tree, *arguments).well_formed()


def levels(**given: tuple[str | None, str | None]) -> dict[str, Levels]:
    pairs = {kind: pair[:2] for kind, pair in KINDS.items()} | given
    return {
        kind: Levels(warning and threshold(warning), critical and threshold(critical))
        for kind, (warning, critical) in pairs.items()
    }


def held(**values: object) -> Capacity:
    given = {
        "memory_bytes": 32 * GIB, "memory_available_bytes": 20 * GIB, "memory_promised_bytes": 16 * GIB,
        "memory_unlimited": 0, "cores": 8, "cores_promised": 3.5, "cores_unlimited": 1, "load": 0.5, "running": 4,
        "defined": 6, "unseen": {},
    }  # fmt: skip
    return Capacity(**{**given, **values})


def measures(findings: list[Finding]) -> dict[str, float]:
    return {measure.label: measure.value for finding in findings for measure in finding.measures}


class TestJudge:
    def test_what_is_told(self) -> None:
        found = list(judge(held(), levels()))
        assert worst(found) is State.OK
        assert [str(one) for one in found] == [
            "16.0 GiB of 32.0 GiB memory promised",
            "12.0 GiB of 32.0 GiB memory in use",
            "3.5 of 8 cores promised, 1 may use every core",
            "4 of 6 containers running",
        ]
        assert measures(found) == {
            "host_memory_promised": 16 * GIB, "host_memory_unpromised": 16 * GIB, "host_memory_used": 12 * GIB,
            "host_memory_available": 20 * GIB, "host_cpu_promised": 3.5, "host_cpu_unpromised": 4.5, "host_load5": 0.5,
            "host_containers_running": 4, "host_containers_defined": 6,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("promised", "expected"),
        [(28, "OK"), (28.81, "WARNING"), (31.9, "WARNING"), (32, "CRITICAL"), (64, "CRITICAL")],
    )
    def test_memory_promised(self, promised: float, expected: str) -> None:
        found = list(judge(held(memory_promised_bytes=round(promised * GIB)), levels()))
        assert worst(found).name == expected
        assert measures(found)["host_memory_unpromised"] == 32 * GIB - round(promised * GIB)

    def test_a_host_that_promises_more_than_it_has_on_purpose(self) -> None:
        found = judge(held(memory_promised_bytes=40 * GIB), levels(memory=("48G", "64G")))
        assert worst(found) is State.OK

    @pytest.mark.parametrize(("available", "expected"), [(7, "OK"), (6.39, "WARNING"), (3.19, "CRITICAL")])
    def test_memory_in_use(self, available: float, expected: str) -> None:
        assert worst(judge(held(memory_available_bytes=round(available * GIB)), levels())).name == expected

    def test_cores(self) -> None:
        assert worst(judge(held(cores_promised=20.0), levels())) is State.OK
        assert worst(judge(held(cores_promised=8.0), levels(cpu=("100%", "16")))) is State.WARNING
        assert worst(judge(held(cores_promised=16.0), levels(cpu=("100%", "16")))) is State.CRITICAL

    def test_containers(self) -> None:
        assert worst(judge(held(running=49), levels(containers=(None, "50")))) is State.OK
        assert worst(judge(held(running=50), levels(containers=(None, "50")))) is State.CRITICAL

    def test_one_that_can_not_be_seen_is_unknown_but_hides_no_alarm(self) -> None:
        found = list(judge(held(unseen={"odd": "no file"}), levels()))
        assert worst(found) is State.UNKNOWN
        assert any("at least 16.0 GiB" in str(one) for one in found)
        full = judge(held(unseen={"odd": "no file"}, memory_promised_bytes=33 * GIB), levels())
        assert worst(full) is State.CRITICAL

    @pytest.mark.parametrize(
        ("space", "expected"),
        [
            (Space(79, 21, 1, 99), "OK"),
            (Space(80, 20, 1, 99), "WARNING"),
            (Space(90, 10, 1, 99), "CRITICAL"),
            (Space(1, 99, 85, 15), "WARNING"),
            (Space(1, 99, 95, 5), "CRITICAL"),
            (Space(1, 99, None, None), "OK"),
        ],
    )
    def test_disk(self, space: Space, expected: str) -> None:
        of_two = Levels(threshold("80%"), threshold("90%"))
        found = judge_disk("/srv", space, of_two, of_two)
        assert found.state.name == expected
        assert measures([found])["host_disk_free"] == space.available_bytes

    def test_a_forgotten_percent_sign_shows(self) -> None:
        """But not of cores or containers, of which there may be few."""
        said = "; ".join(map(str, judge(held(), levels(memory=("80", None), cpu=("1", None), containers=("1", None)))))
        assert "(warning at 80 bytes; 80% would be of all)" in said
        assert said.count("(warning at 1)") == 2
        of_two = Levels(threshold("80"), None)
        said = str(judge_disk("/srv", Space(90, 10, 90, 10), of_two, of_two))
        assert "(warning at 80 bytes; 80% would be of all)" in said
        assert "(warning at 80 inodes; 80% would be of all)" in said


def test_whether_there_is_an_orphan_can_be_unknown(tree: Tree) -> None:
    tree.container("a")
    tree.container("web", socket=False).write("cgroup.events", "nonsense\n")
    done = run(tree)
    assert (done.status, "may run on without its monitor: " in done.out) == (3, True)


class TestOnAHost:
    @pytest.fixture(autouse=True)
    def _loadavg(self, any_tree: Tree) -> None:
        any_tree.write("/proc/loadavg", "0.52 1.25 0.59 2/613 12345\n")

    def test_an_orphan_is_promised_nothing_but_uses_it(self, any_tree: Tree) -> None:
        any_tree.container("a", usage=10 * MIB, limit=64 * MIB)
        assert run(any_tree).status == 0
        any_tree.container("ghost", usage=30 * MIB, limit=64 * MIB, socket=False)
        done = run(any_tree)
        assert done.status == 1
        assert "ghost: processes run on without their monitor, in /sys/fs/cgroup" in done.out
        assert f"host_memory_promised={64 * MIB}B" in done.out, "of the one that runs alone"

    def test_an_orphan_that_nothing_defines(self, any_tree: Tree) -> None:
        any_tree.container("a", usage=10 * MIB, limit=64 * MIB)
        any_tree.cgroup("/lxc.payload.ghost", usage=MIB, limit=None, procs="77\n")
        done = run(any_tree)
        assert done.status == 1
        assert "ghost: processes run on without their monitor, in /sys/fs/cgroup" in done.out

    def test_an_orphan_beside_the_next_life(self, any_tree: Tree) -> None:
        any_tree.container("web", usage=10 * MIB, limit=64 * MIB, suffix="-1")
        any_tree.cgroup("/lxc.payload.web", usage=MIB, limit=None, procs="77\n")
        done = run(any_tree)
        assert (done.status, "run on without their monitor" in done.out) == (1, True)

    def test_sums(self, any_tree: Tree) -> None:
        any_tree.container("a", usage=10 * MIB, limit=64 * MIB)
        any_tree.container("b", usage=30 * MIB, limit=None)
        any_tree.container("c", running=False)
        any_tree.container("elsewhere", "/srv/lxc", limit=100 * MIB)
        for name, quota in {"a": 50000, "b": 150000}.items():
            if any_tree.layout == "v2":
                any_tree.write(f"/sys/fs/cgroup/lxc.payload.{name}/cpu.max", f"{quota} 100000\n")
            else:
                any_tree.write(f"{any_tree.point('cpu')}/lxc.payload.{name}/cpu.cfs_quota_us", f"{quota}\n")
        done = run(any_tree, "-v", "--disk-critical", "1P")
        values = {label: float(part["value"]) for label, part in done.perfdata.items()}
        assert values["host_memory_promised"] == (64 + 30 + 100) * MIB
        assert values["host_memory_unpromised"] == 2012132 * 1024 - (64 + 30 + 100) * MIB
        assert (values["host_cpu_promised"], values["host_cpu_unpromised"]) == (2, 2)
        assert (values["host_containers_running"], values["host_containers_defined"]) == (3, 4)
        assert values["host_load5"] == 1.25
        assert values["host_disk_free"] > 0
        assert "1 without a limit counted with what they use" in done.out
        assert done.status == 0

    def test_a_limit_above_the_hosts_memory_promises_no_more_than_that(self, any_tree: Tree) -> None:
        any_tree.container("a", limit=1 << 40)
        done = run(any_tree)
        assert done.perfdata["host_memory_unpromised"]["value"] == "0"
        assert done.status == 2

    def test_an_empty_host_can_take_all(self, any_tree: Tree) -> None:
        done = run(any_tree, "--disk-critical", "1P", "-v")
        assert done.status == 0, done.out
        assert done.perfdata["host_memory_promised"]["value"] == "0"
        assert "0 of 0 containers running" in done.out
        assert done.first.startswith("CheckHostCapacity OK: 0 B of 1.9 GiB memory promised"), "what most run short of"

    def test_an_empty_directory_beside_what_runs_elsewhere(self, any_tree: Tree) -> None:
        any_tree.container("a", limit=64 * MIB)
        any_tree.at("/srv/lxc").mkdir(parents=True)
        done = run(any_tree, "-P", "/srv/lxc", "--disk-critical", "1P", "-v")
        assert done.status == 0, done.out
        assert done.perfdata["host_containers_running"]["value"] == "1"

    def test_alarms(self, any_tree: Tree) -> None:
        any_tree.container("a", limit=64 * MIB)
        assert run(any_tree, "--memory-warning", "64M").status == 1
        assert run(any_tree, "--memory-critical", "64M").status == 2
        assert run(any_tree, "--containers-critical", "1").status == 2
        assert run(any_tree, "--disk-critical", "1").status == 2

    def test_one_that_can_not_be_read(self, any_tree: Tree) -> None:
        any_tree.container("a")
        odd = any_tree.container("odd")
        odd.write("memory.current" if any_tree.layout == "v2" else "memory.usage_in_bytes", "nonsense\n")
        done = run(any_tree)
        assert (done.status, "odd: is not in the host's sums" in done.out) == (3, True)

    def test_several_lxcpaths(self, any_tree: Tree) -> None:
        any_tree.container("a")
        any_tree.container("b", "/srv/lxc")
        done = run(any_tree, "-P", "/srv/lxc", "-P", "/var/lib/lxc")
        assert {"host_disk_free", "host_disk_free_/var/lib/lxc"} <= set(done.perfdata)
        assert done.perfdata["host_containers_running"]["value"] == "2"
        assert run(any_tree, "-P", "/none").status == 3
        # One lxcpath's disk, but memory is promised to whatever runs.
        assert run(any_tree, "-P", "/srv/lxc").perfdata["host_containers_running"]["value"] == "2"

    def test_host_memory_that_can_not_be_read(self, any_tree: Tree) -> None:
        any_tree.write("/proc/meminfo", "MemTotal:   100 kB\nSwapTotal: 0 kB\n")
        assert "MemAvailable" in run(any_tree).misuse()

    def test_for_another_script(self, any_tree: Tree) -> None:
        any_tree.container("a", limit=64 * MIB)
        host = Host(str(any_tree.root))
        found = take(host)
        seen = capacity.host_capacity(host, Cgroups(host, found.running), found.containers)
        assert (seen.memory_promised_bytes, seen.running, seen.defined, seen.unseen) == (64 * MIB, 1, 1, {})


def test_recorded_meminfo(tree: Tree) -> None:
    raw = tree.at("/proc/meminfo").read_bytes()
    assert 0 < meminfo.available(raw, "x") < meminfo.host_memory(raw, "x").total_bytes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--memory-warning", "90%", "--memory-critical", "80%"], "exchange them"),
        (["--containers-critical", "80%"], "a number of containers"),
        (["-P", "srv"], "not absolute"),
        (["--cpu-warning", "180%"], "never reached"),
        (["-n", "web"], "unrecognized"),
    ],
)
def test_misuse(tree: Tree, arguments: list[str], words: str) -> None:
    assert words in run(tree, *arguments).misuse()
