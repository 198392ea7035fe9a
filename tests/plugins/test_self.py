"""--self: what a container sees of itself, and what must never be taken for it: its host, its host's memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc import inside
from sensu_lxc.errors import CannotObserve
from sensu_lxc.host import Host
from sensu_lxc.inventory import Container

from tests.plugins.running import PLUGINS, run
from tests.plugins.trees import MIB, Tree

LAYOUTS = ("v1", "hybrid", "v2")
MEASURING = ("memory", "cpu", "pids", "io", "pressure", "network", "disk")
PAYLOAD = "/lxc.payload.web1"
WEB1 = Container("web1", "", None, True, "web1")
UNTOLD = "the memory of this container can't be told from inside"
NET_DEV = (
    "Inter-|   Receive                                                |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier "
    "compressed\n"
    "    lo:      10       1    0    0    0     0          0         0       10       1    0    0    0     0 0 0\n"
    "  eth0:    1000       1    0    0    0     0          0         0     1000       1    0    0    0     0 0 0\n"
)


def host_of_web1(path: Path, layout: str, **how: object) -> Tree:
    """As the host sees it, before anybody looks from inside."""
    tree = Tree(path, layout)
    tree.container("web1", **{"usage": 60 * MIB, "inactive_file": 20 * MIB, "limit": 64 * MIB, **how})  # type: ignore[arg-type]
    for controller, point in tree.mounts.items():
        if controller:
            tree.write(f"{point}/release_agent", "\n")
    return tree


def enter(tree: Tree, seen: str = "namespace", init: str = "") -> Tree:
    """Turn the host into what web1 sees; init: its init's cgroup below the container's own.

    seen: "namespace": its own cgroup is the top; "all": the host's cgroups as well, without a namespace; "own": only
    its own, where the host has it; "nothing": no cgroup is mounted.
    """
    lines, mounts = [], ["27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"]
    for number, (controller, point) in enumerate(tree.mounts.items(), 40):
        top, root = point, "/"
        if seen == "namespace":
            own = tree.at(point + PAYLOAD)
            shutil.move(str(own), str(tree.root / "own"))
            shutil.rmtree(tree.at(point))
            shutil.move(str(tree.root / "own"), str(tree.at(point)))
        elif seen == "own":
            top, root = point + PAYLOAD, PAYLOAD
        kind = f"cgroup cgroup rw,{controller}" if controller else "cgroup2 cgroup2 rw"
        if seen != "nothing":
            mounts.append(f"{number} 27 0:{number} {root} {top} ro,nosuid - {kind}")
        path = ("/" if seen in ("namespace", "nothing") else PAYLOAD) + init
        lines.append(f"{number if controller else 0}:{controller}:{path.replace('//', '/')}")
    if seen == "nothing":
        shutil.rmtree(tree.at("/sys/fs/cgroup"))
    tree.write("/proc/1/cgroup", "\n".join(lines) + "\n")
    tree.write("/proc/1/mountinfo", "\n".join(mounts) + "\n")
    tree.write("/proc/1/stat", f"1 (init) S {' '.join(map(str, range(4, 53)))}\n")
    tree.write("/proc/1/net/dev", NET_DEV)
    tree.write("/proc/sys/kernel/hostname", "web1\n")
    tree.at("/proc/1/root").mkdir()
    shutil.rmtree(tree.at("/var/lib/lxc"))
    tree.write("/proc/1/net/unix", "Num       RefCount Protocol Flags    Type St Inode Path\n")
    return tree


def lxcfs(tree: Tree, total: int = 64 * MIB, used: int = 40 * MIB, cache: int = 20 * MIB, buffers: int = 0) -> None:
    """Have lxcfs show /proc/meminfo. buffers: of a host, whose file it hands on."""
    path = tree.at("/proc/1/mountinfo")
    path.write_text(path.read_text() + "90 27 0:55 /proc/meminfo /proc/meminfo rw - fuse.lxcfs lxcfs rw,user_id=0\n")
    sizes = {
        "MemTotal": total, "MemFree": total - used - cache, "MemAvailable": total, "Buffers": buffers,
        "Active(file)": cache // 4, "Inactive(file)": cache - cache // 4, "SReclaimable": 0, "SwapTotal": 0,
    }  # fmt: skip
    tree.write("/proc/meminfo", "".join(f"{key + ':':<15} {size // 1024:>8} kB\n" for key, size in sizes.items()))


@pytest.mark.parametrize("seen", ["namespace", "all", "own"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_is_what_the_host_sees(tmp_path: Path, layout: str, seen: str) -> None:
    outside = run(
        "check_container_memory.py", host_of_web1(tmp_path / "a", layout), "-n", "web1", "--swap-warning", "1M"
    )
    own = run(
        "check_container_memory.py", enter(host_of_web1(tmp_path / "b", layout), seen), "--self", "--swap-warning", "1M"
    )
    assert "web1: 40.0 MiB used, 62.5% of 64.0 MiB" in own.well_formed().first
    assert own.out == outside.out


@pytest.mark.parametrize("seen", ["namespace", "all", "own"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_metrics_are_those_the_host_prints(tmp_path: Path, layout: str, seen: str) -> None:
    def printed(tree: Tree, *arguments: str) -> dict[str, str]:
        done = run("metrics_container.py", tree, *arguments)
        assert (done.status, done.err) == (0, ""), done.out
        return {name: value for name, value, _ in (line.split() for line in done.out.splitlines())}

    outside = printed(host_of_web1(tmp_path / "a", layout), "-n", "web1")
    own = printed(enter(host_of_web1(tmp_path / "b", layout), seen), "--self")
    same = [name for name in own if "memory" in name or "cpu" in name or "tasks" in name]
    assert len(same) >= 8
    assert {name: own[name] for name in same} == {name: outside[name] for name in same}
    assert not [name for name in own if ".host." in name or name.endswith("uptime_seconds")]


@pytest.mark.parametrize("script", [one for one in MEASURING if one not in ("io", "pressure")])
@pytest.mark.parametrize("seen", ["namespace", "all", "own"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_check_measures_it(tmp_path: Path, layout: str, seen: str, script: str) -> None:
    tree = enter(host_of_web1(tmp_path, layout), seen)
    if script in ("cpu", "network"):
        arguments = ["--sample", "10ms", "--state-dir", str(tmp_path / "state")]
    else:
        arguments = ["-c", "100%"] if script == "disk" else []
    done = run(f"check_container_{script}.py", tree, "--self", *arguments).well_formed()
    assert (done.status, done.first.partition(": ")[2][:6]) == (0, "web1: "), done.out


@pytest.mark.parametrize("layout", ["hybrid", "v2"])
@pytest.mark.parametrize("seen", ["namespace", "all", "own"])
def test_pressure_is_told_by_its_own_v2_cgroup(tmp_path: Path, layout: str, seen: str) -> None:
    tree = enter(host_of_web1(tmp_path, layout), seen)
    done = run(
        "check_container_pressure.py", tree, "--self", "--sample", "10ms", "--state-dir", str(tmp_path / "state")
    )
    assert done.well_formed().status == 0, done.out
    tree.at("/sys/fs/cgroup/unified" if layout == "hybrid" else "/sys/fs/cgroup").rename(tmp_path / "away")
    done = run(
        "check_container_pressure.py", tree, "--self", "--sample", "10ms", "--state-dir", str(tmp_path / "state")
    )
    assert done.well_formed().status == 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_io_needs_a_kernel_that_counts(tmp_path: Path, layout: str) -> None:
    tree = enter(host_of_web1(tmp_path, layout))
    done = run(
        "check_container_io.py", tree, "--self", "--sample", "10ms", "--state-dir", str(tmp_path / "s")
    ).well_formed()
    assert ("the kernel counts no I/O of it" if layout != "v2" else "wrote 0 B/s") in done.first


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cpu_and_tasks_are_measured_against_its_own_limits(tmp_path: Path, layout: str) -> None:
    tree = host_of_web1(tmp_path, layout)
    if layout == "v2":
        (own_of(tree, "cpu") / "cpu.max").write_text("50000 100000\n")
    else:
        (own_of(tree, "cpu") / "cpu.cfs_quota_us").write_text("50000\n")
    (own_of(tree, "pids") / "pids.max").write_text("10\n")
    enter(tree)
    state = ["--sample", "10ms", "--state-dir", str(tmp_path / "state")]
    assert "of 0.5 cores" in run("check_container_cpu.py", tree, "--self", *state).well_formed().first
    assert "5 tasks, 50.0% of 10" in run("check_container_pids.py", tree, "--self").well_formed().first


def test_a_cpuset_is_its_own_as_well(tmp_path: Path) -> None:
    tree = host_of_web1(tmp_path, "v2")
    (own_of(tree, "cpuset") / "cpuset.cpus.effective").write_text("0\n")
    enter(tree)
    state = ["--sample", "10ms", "--state-dir", str(tmp_path / "state")]
    assert "of 1 core " in run("check_container_cpu.py", tree, "--self", *state).well_formed().first


def own_of(tree: Tree, controller: str) -> Path:
    """Where a controller shows web1 on the host."""
    return tree.at(tree.point(controller) + PAYLOAD)


@pytest.mark.parametrize("seen", ["namespace", "all", "own"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_systemd_inside_has_its_init_further_down(tmp_path: Path, layout: str, seen: str) -> None:
    tree = enter(host_of_web1(tmp_path, layout, nested_systemd=True), seen, "/init.scope")
    assert "40.0 MiB used, 62.5% of 64.0 MiB" in run("check_container_memory.py", tree, "--self").well_formed().first


def test_its_cgroup_may_have_any_name(tmp_path: Path) -> None:
    """As lxc.cgroup.dir.container gives it: without a namespace, what init's own lies in is the container's."""
    tree = enter(host_of_web1(tmp_path, "v2", nested_systemd=True), "all", "/init.scope")
    tree.at("/sys/fs/cgroup/tenants").mkdir()
    tree.at("/sys/fs/cgroup" + PAYLOAD).rename(tree.at("/sys/fs/cgroup/tenants/gold"))
    tree.write("/proc/1/cgroup", "0::/tenants/gold/init.scope\n")
    assert "40.0 MiB used, 62.5% of 64.0 MiB" in run("check_container_memory.py", tree, "--self").well_formed().first


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_serves_inside_may_have_moved_init_anywhere(tmp_path: Path, layout: str) -> None:
    """As docker-in-docker does: the top of the namespace counts."""
    tree = enter(host_of_web1(tmp_path, layout), "namespace", "/init")
    assert "40.0 MiB used" in run("check_container_memory.py", tree, "--self").well_formed().first


@pytest.mark.parametrize("layout", LAYOUTS)
def test_limits_above(tmp_path: Path, layout: str) -> None:
    """v1 tells them in memory.stat, v2 where no namespace hides them; lxcfs knows them in any case."""
    tree = enter(host_of_web1(tmp_path, layout, limit=None, parent_limit=None if layout == "v2" else 50 * MIB))
    hidden = run("check_container_memory.py", tree, "--self").well_formed()
    assert ("no limit set" if layout == "v2" else "80.0% of 50.0 MiB") in hidden.first
    lxcfs(tree, total=50 * MIB, cache=5 * MIB)
    assert "40.0 MiB used, 80.0% of 50.0 MiB" in run("check_container_memory.py", tree, "--self").well_formed().first


def test_the_least_limit_counts(tmp_path: Path) -> None:
    tree = enter(host_of_web1(tmp_path, "v2", limit=100 * MIB))
    lxcfs(tree, total=50 * MIB)
    assert "80.0% of 50.0 MiB" in run("check_container_memory.py", tree, "--self").well_formed().first


@pytest.mark.parametrize("layout", LAYOUTS)
class TestWithoutItsCgroup:
    def test_lxcfs_tells(self, tmp_path: Path, layout: str) -> None:
        tree = enter(host_of_web1(tmp_path, layout), "nothing")
        lxcfs(tree, used=58 * MIB, cache=4 * MIB)
        done = run("check_container_memory.py", tree, "--self").well_formed()
        assert done.status == 2
        assert "web1: 58.0 MiB used, 90.6% of 64.0 MiB (critical at 90%)" in done.first
        assert "told by lxcfs" in done.first

    def test_no_cache_is_taken_for_use_and_no_tmpfs_for_cache(self, tmp_path: Path, layout: str) -> None:
        """MemAvailable claims 64 MiB here, as lxcfs 5 does of a container that filled a tmpfs."""
        tree = enter(host_of_web1(tmp_path, layout), "nothing")
        lxcfs(tree, used=10 * MIB, cache=50 * MIB)
        assert "10.0 MiB used" in run("check_container_memory.py", tree, "--self").well_formed().first

    @pytest.mark.parametrize("shown", ["the host's", "handed on by lxcfs", "a mount of another kind"])
    def test_the_hosts_memory_is_never_its_own(self, tmp_path: Path, layout: str, shown: str) -> None:
        tree = enter(host_of_web1(tmp_path, layout), "nothing")
        if shown != "the host's":
            lxcfs(tree, buffers=MIB)
        if shown == "a mount of another kind":
            lxcfs(tree)
            path = tree.at("/proc/1/mountinfo")
            path.write_text(path.read_text().replace("fuse.lxcfs", "proc"))
        done = run("check_container_memory.py", tree, "--self").well_formed()
        assert (done.status, done.perfdata) == (3, {})
        assert UNTOLD in done.first

    @pytest.mark.parametrize("options", [["--metric", "swap"], ["--swap-warning", "1M"], ["--oom-kills-critical", "1"]])
    def test_what_lxcfs_does_not_tell_is_unknown(self, tmp_path: Path, layout: str, options: list[str]) -> None:
        tree = enter(host_of_web1(tmp_path, layout), "nothing")
        lxcfs(tree)
        done = run(
            "check_container_memory.py", tree, "--self", "--state-dir", str(tmp_path / "s"), *options
        ).well_formed()
        assert done.status == 3
        assert "memory cgroup of this container can't be seen from inside" in done.first

    @pytest.mark.parametrize("script", ["cpu", "pids", "io", "pressure"])
    def test_nothing_else_counts_it(self, tmp_path: Path, layout: str, script: str) -> None:
        tree = enter(host_of_web1(tmp_path, layout), "nothing")
        state = [] if script == "pids" else ["--sample", "10ms", "--state-dir", str(tmp_path / "state")]
        done = run(f"check_container_{script}.py", tree, "--self", *state).well_formed()
        assert done.status == 3
        assert ("can't be seen from inside" in done.first) == (layout in ("hybrid", "v2") or script != "pressure")

    def test_network_and_disk_need_none(self, tmp_path: Path, layout: str) -> None:
        tree = enter(host_of_web1(tmp_path, layout), "nothing")
        state = ["--sample", "10ms", "--state-dir", str(tmp_path / "state")]
        assert "web1: eth0 0 B/s in" in run("check_container_network.py", tree, "--self", *state).well_formed().first
        seen = run("check_container_disk.py", tree, "--self").well_formed().first
        assert "web1: " in seen
        assert seen.endswith("inodes, ext4")  # whose it is besides is not seen from inside


def test_of_a_hybrid_host_only_v2_is_mounted(tmp_path: Path) -> None:
    """There memory is v1's, and the container may well have files of v2 that tell nothing."""
    tree = enter(host_of_web1(tmp_path, "hybrid"))
    path = tree.at("/proc/1/mountinfo")
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines() if "- cgroup " not in line))
    assert UNTOLD in run("check_container_memory.py", tree, "--self").well_formed().first


@pytest.mark.parametrize("script", MEASURING)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_host_is_no_container(tmp_path: Path, layout: str, script: str) -> None:
    tree = host_of_web1(tmp_path, layout)
    mounted = tree.at("/proc/1/mountinfo").read_text()
    enter(tree, "all")
    tree.write("/proc/1/mountinfo", mounted)
    for init in ("/", "/init.scope"):
        lines = [f"{number}:{controller}:/" for number, controller in enumerate(tree.mounts) if controller]
        tree.write("/proc/1/cgroup", "\n".join([*lines, f"0::{init}"]) + "\n")
        done = run(f"check_container_{script}.py", tree, "--self").well_formed()
        assert (done.status, done.perfdata) == (3, {})
        assert "this is no container; leave --self out" in done.first


@pytest.mark.parametrize("script", MEASURING)
def test_this_machine_is_known_for_what_it_is(script: str) -> None:
    if Path("/proc/self/ns/pid").stat().st_ino != 0xEFFFFFFC:
        pytest.skip("these tests run in a container")
    assert "this is no container; leave --self out" in run(f"check_container_{script}.py", None, "--self").misuse()
    with pytest.raises(CannotObserve, match="this is no container"):
        inside.container(Host())  # wherever its init has been put


@pytest.mark.parametrize("layout", ["v1", "hybrid"])
def test_without_a_memory_cgroup_of_its_own_the_hosts_is_not_taken(tmp_path: Path, layout: str) -> None:
    tree = enter(host_of_web1(tmp_path, layout), "all")
    path = tree.at("/proc/1/cgroup")
    path.write_text(path.read_text().replace(f":memory:{PAYLOAD}", ":memory:/"))
    done = run("check_container_memory.py", tree, "--self").well_formed()
    assert (done.status, done.perfdata) == (3, {})
    assert "it has no memory cgroup of its own" in done.first


@pytest.mark.parametrize("path", ["/..", "/../..", "/../../lxc.payload.web1"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_service_with_a_namespace_of_its_own_is_not_the_container(tmp_path: Path, layout: str, path: str) -> None:
    tree = enter(host_of_web1(tmp_path, layout))
    file = tree.at("/proc/1/cgroup")
    file.write_text("".join(line.rpartition(":")[0] + f":{path}\n" for line in file.read_text().splitlines()))
    assert UNTOLD in run("check_container_memory.py", tree, "--self").well_formed().first


def test_a_container_in_a_container_is_the_inner_one(tmp_path: Path) -> None:
    tree = host_of_web1(tmp_path, "v2", limit=512 * MIB)
    tree.cgroup(f"{PAYLOAD}/lxc.payload.inner", usage=10 * MIB, limit=20 * MIB)
    enter(tree, "all", "/lxc.payload.inner")
    assert "10.0 MiB used, 50.0% of 20.0 MiB" in run("check_container_memory.py", tree, "--self").well_formed().first


def test_a_borrowed_network_is_the_hosts(tmp_path: Path) -> None:
    tree = enter(host_of_web1(tmp_path, "v2"))
    tree.listen("/var/lib/lxc/web1/command")
    done = run("check_container_network.py", tree, "--self", "--sample", "10ms", "--state-dir", str(tmp_path / "s"))
    assert done.well_formed().status == 3
    assert "the network is the host's" in done.first


def test_rates_span_two_runs_of_one_life(tmp_path: Path) -> None:
    tree = enter(host_of_web1(tmp_path, "v2"))
    arguments = ["--self", "--sample", "10ms", "--state-dir", str(tmp_path / "state")]
    run("check_container_cpu.py", tree, *arguments)
    tree.at("/sys/fs/cgroup/cpu.stat").write_text(
        "usage_usec 2000000\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n"
    )
    busy = run("check_container_cpu.py", tree, *arguments).well_formed()
    assert busy.status == 2
    # It was started again, and has done more since than the earlier one had.
    tree.write("/proc/1/stat", f"1 (init) S {' '.join(map(str, range(5, 54)))}\n")
    tree.at("/sys/fs/cgroup/cpu.stat").write_text(
        "usage_usec 9000000\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n"
    )
    assert run("check_container_cpu.py", tree, *arguments).well_formed().status == 0


@pytest.mark.parametrize("script", MEASURING)
@pytest.mark.parametrize(
    ("options", "word"), [(["-n", "a"], "--name"), (["--exclude", "a"], "--exclude"), (["-P", "/a"], "--lxcpath"),
                          (["--per-container"], "--per-container")],
)  # fmt: skip
def test_it_is_the_one_container(script: str, options: list[str], word: str) -> None:
    said = run(f"check_container_{script}.py", None, "--self", *options).misuse()
    assert f"leave {word} out" in said


@pytest.mark.parametrize("script", ["check_container_state.py", "check_host_capacity.py"])
def test_what_makes_no_sense_inside_is_not_there(script: str) -> None:
    assert "--self" in run(script, None, "--self").misuse()


def test_nobody_else_pays_for_it(tmp_path: Path) -> None:
    tree = host_of_web1(tmp_path, "v2")
    code = (
        f"import os, sys; sys.path.insert(0, {str(PLUGINS)!r}); sys.argv = ['c', '--root', {str(tree.root)!r}]\n"
        "stopped = os._exit\n"
        "def stop(status): os.write(2, ' '.join(sys.modules).encode()); stopped(status)\n"
        "os._exit = stop\n"
        "import check_container_memory; check_container_memory.main()\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode in (0, 1)
    assert "sensu_lxc.measuring" in done.stderr.split()
    assert "sensu_lxc.inside" not in done.stderr.split()


NAMES = ("MemTotal", "MemFree", "Active(file)", "Inactive(file)", "SReclaimable", "Buffers", "SwapTotal")
VALUE = st.one_of(
    *[st.integers(0, 4).map(lambda size: f"{size} kB\n")] * 4,
    st.integers(-5, 2**50).map(lambda size: f"{size} kB\n"),
    st.sampled_from(["", " kB\n", "0\n", "65536 B\n", "1e9 kB\n", "9" * 30 + " kB\n", "5 kB"]),
)  # fmt: skip
LINES = st.tuples(*[VALUE] * len(NAMES)).map(lambda values: "".join(map("{}: {}".format, NAMES, values)).encode())


@given(st.one_of(st.binary(max_size=300), LINES))
def test_whatever_lxcfs_says_is_understood_or_unknown(tmp_path: Path, raw: bytes) -> None:
    if not tmp_path.joinpath("host").exists():
        lxcfs(enter(host_of_web1(tmp_path, "v2"), "nothing"))
    meminfo = tmp_path / "host/proc/meminfo"
    meminfo.write_bytes(raw)
    try:
        memory = inside.Own(Host(str(tmp_path / "host"))).memory(WEB1)
    except CannotObserve as problem:
        assert str(problem)
        return
    assert b"MemTotal:" in raw and b"MemFree:" in raw
    assert 0 <= memory.usage_bytes <= memory.limit_bytes
    assert 0 <= memory.used_bytes <= memory.usage_bytes
