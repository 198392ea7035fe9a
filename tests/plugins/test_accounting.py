"""accounting.py and its parsers: what the kernel counts of a container, and what it does not."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc import accounting, inventory
from sensu_lxc.accounting import NotCounted, Pids
from sensu_lxc.cgroups import Cgroups
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.host import Host
from sensu_lxc.sources import io, pressure

from tests.plugins.test_network import new_life
from tests.plugins.trees import Container, Tree

RECORDED = Path(__file__).resolve().parents[1] / "recordings" / "accounting"


def ask(function: Callable[..., Any], tree: Tree, *more: Any, name: str = "web") -> Any:
    """What accounting says of a container of a tree."""
    host = Host(str(tree.root))
    found = inventory.take(host, [name])
    return function(host, Cgroups(host, found.running), *found.containers, *more)


def sysfs(tree: Tree, **disks: str | None) -> None:
    """Disks in /sys: vda="254:0"; lies_on(tree, upper, lower) stacks them."""
    for name, number in disks.items():
        tree.write(f"/sys/class/block/{name}/dev", f"{number}\n")
        tree.write(f"/sys/class/block/{name}/uevent", f"MAJOR=1\nDEVNAME={name}\nDEVTYPE=disk\n")
        tree.at(f"/sys/class/block/{name}/slaves").mkdir()
        tree.at("/sys/dev/block").mkdir(parents=True, exist_ok=True)
        tree.at(f"/sys/dev/block/{number}").symlink_to(f"../../class/block/{name}")


def lies_on(tree: Tree, upper: str, lower: str, partition: str = "") -> None:
    """Stack one disk on another, or on a partition of it."""
    link = tree.at(f"/sys/class/block/{upper}/slaves/{partition or lower}")
    if partition:
        tree.write(f"/sys/class/block/{lower}/{partition}/partition", "1\n")
        tree.write(f"/sys/class/block/{lower}/{partition}/dev", "8:99\n")
        link.symlink_to(f"../../{lower}/{partition}")
    else:
        link.symlink_to(f"../../{lower}")


V1 = pytest.mark.parametrize("layout", ["v1", "v1-joined", "hybrid"])


@pytest.fixture
def v1(tmp_path: Path, layout: str) -> Tree:
    return Tree(tmp_path, layout)


class TestPids:
    @pytest.mark.parametrize(("said", "limit"), [("max\n", None), ("100\n", 100), ("0\n", 0)])
    def test_everywhere(self, any_tree: Tree, said: str, limit: int | None) -> None:
        web = any_tree.container("web")
        web.write("pids.max", said)
        assert ask(accounting.pids, any_tree) == Pids(5, limit)

    @pytest.mark.parametrize(("own", "above", "limit"), [("max", "50", 50), ("100", "50", 50), ("20", "50", 20)])
    def test_the_least_of_those_above(self, any_tree: Tree, own: str, above: str, limit: int) -> None:
        web = any_tree.container("web", family="dir")
        web.write("pids.max", f"{own}\n")
        (web.directory("pids").parent / "pids.max").write_text(f"{above}\n")
        assert ask(accounting.pids, any_tree).limit == limit

    def test_recorded(self, tree: Tree) -> None:
        web = tree.container("web")
        for name in ("pids.current", "pids.max"):
            web.write(name, (RECORDED / "v2-swapping" / name).read_bytes())
        assert ask(accounting.pids, tree) == (7, 12)

    def test_a_controller_that_is_not_enabled(self, tree: Tree) -> None:
        tree.container("web").file("pids.current").unlink()
        with pytest.raises(NotCounted, match="pids controller is not enabled"):
            ask(accounting.pids, tree)

    def test_no_controller_at_all(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path, "v1")
        tree.container("web")
        mounts = tree.at("/proc/1/mountinfo")
        mounts.write_text("".join(line for line in mounts.read_text().splitlines(True) if "pids" not in line))
        with pytest.raises(NotCounted, match="no pids cgroup is mounted"):
            ask(accounting.pids, tree)


class TestIoV2:
    def test_recorded(self, tree: Tree) -> None:
        tree.container("web").write("io.stat", (RECORDED / "v2-swapping/io.stat").read_bytes())
        found = ask(accounting.io, tree)
        assert found.devices == {"254:0": (0, 22036480, 0, 4360)}
        assert (found.stacked, found.lists_only_counted) == ({}, False)

    def test_nothing_yet(self, tree: Tree) -> None:
        tree.container("web").write("io.stat", "")
        assert ask(accounting.io, tree).devices == {}

    def test_a_controller_that_is_not_enabled(self, tree: Tree) -> None:
        tree.container("web").file("io.stat").unlink()
        with pytest.raises(NotCounted, match="io controller is not enabled"):
            ask(accounting.io, tree)

    def test_one_that_is_gone_is_not_uncounted(self, tree: Tree) -> None:
        host = Host(str(tree.root))
        with pytest.raises(NotThere) as raised:
            accounting._counted(host, "/sys/fs/cgroup/lxc.payload.gone", "io.stat", "why")
        assert not isinstance(raised.value, NotCounted)


class TestStacked:
    """The same I/O is not counted twice."""

    def counted(self, tree: Tree, *devices: str) -> set[str]:
        lines = (f"{device} rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n" for device in devices)
        tree.container("web").write("io.stat", "".join(lines))
        found = ask(accounting.io, tree)
        assert set(found.devices) | set(found.stacked) == set(devices) == set(found.counters)
        assert not set(found.devices) & set(found.stacked)
        return set(found.devices)

    def test_a_volume_on_a_disk(self, tree: Tree) -> None:
        sysfs(tree, sda="8:0", root="253:0")
        lies_on(tree, "root", "sda")
        assert self.counted(tree, "8:0", "253:0") == {"8:0"}

    def test_a_volume_on_a_partition(self, tree: Tree) -> None:
        sysfs(tree, sda="8:0", root="253:0")
        lies_on(tree, "root", "sda", "sda3")
        assert self.counted(tree, "8:0", "253:0") == {"8:0"}

    def test_a_volume_in_a_volume(self, tree: Tree) -> None:
        sysfs(tree, sda="8:0", crypt="253:0", data="253:1")
        lies_on(tree, "crypt", "sda", "sda3")
        lies_on(tree, "data", "crypt")
        assert self.counted(tree, "8:0", "253:0", "253:1") == {"8:0"}
        # What lies between is not listed.
        assert self.counted(tree, "8:0", "253:1") == {"8:0"}

    def test_a_disk_by_several_paths(self, tree: Tree) -> None:
        """dm-multipath passes requests on, which its paths do not count."""
        sysfs(tree, sda="8:0", sdb="8:16", mpath="253:0", data="253:1")
        lies_on(tree, "mpath", "sda")
        lies_on(tree, "mpath", "sdb")
        lies_on(tree, "data", "mpath")
        assert self.counted(tree, "253:0", "253:1") == {"253:0"}

    def test_an_array(self, tree: Tree) -> None:
        sysfs(tree, sda="8:0", sdb="8:16", md0="9:0", data="253:1", sdc="8:32")
        lies_on(tree, "md0", "sda", "sda1")
        lies_on(tree, "md0", "sdb", "sdb1")
        lies_on(tree, "data", "md0")
        assert self.counted(tree, "8:0", "8:16", "9:0", "253:1", "8:32") == {"9:0", "8:32"}

    def test_a_loop_device(self, tree: Tree) -> None:
        sysfs(tree, vda="254:0", loop3="7:3")
        assert self.counted(tree, "254:0", "7:3") == {"254:0"}
        assert self.counted(tree, "7:3") == {"7:3"}
        assert self.counted(tree, "7:3", "7:4") == {"7:3", "7:4"}

    def test_disks_side_by_side(self, tree: Tree) -> None:
        sysfs(tree, sda="8:0", sdb="8:16")
        assert self.counted(tree, "8:0", "8:16") == {"8:0", "8:16"}

    def test_what_sys_does_not_know(self, tree: Tree) -> None:
        assert self.counted(tree, "8:0", "8:16") == {"8:0", "8:16"}

    def test_a_loop_of_links(self, tree: Tree) -> None:
        sysfs(tree, a="253:0", b="253:1")
        lies_on(tree, "a", "b")
        lies_on(tree, "b", "a")
        assert self.counted(tree, "253:0", "253:1") == set()


@V1
class TestIoV1:
    BYTES = "blkio.throttle.io_service_bytes_recursive"
    SERVICED = "blkio.throttle.io_serviced_recursive"
    NOTHING = (
        "".join(f"8:0 {what} 0\n" for what in ("Read", "Write", "Sync", "Async", "Discard", "Total")) + "Total 0\n"
    )

    def test_recorded(self, v1: Tree) -> None:
        web = v1.container("web")
        for name in (self.BYTES, self.SERVICED):
            web.write(name, (RECORDED / "v1-limited" / name).read_bytes())
        found = ask(accounting.io, v1)
        assert (found.devices, found.lists_only_counted) == ({"7:1": (8388608, 0, 16, 0)}, True)

    def test_what_was_discarded_is_not_written(self, v1: Tree) -> None:
        web = v1.container("web")
        web.write(self.BYTES, "8:0 Read 1\n8:0 Write 2\n8:0 Discard 4\n8:0 Total 7\nTotal 7\n")
        web.write(self.SERVICED, "8:0 Read 1\n8:0 Write 2\n8:0 Discard 4\n8:0 Total 7\nTotal 7\n")
        assert ask(accounting.io, v1).devices == {"8:0": (1, 2, 1, 2)}

    def test_recorded_without_a_limit(self, v1: Tree) -> None:
        """What reads `Total 0` is unavailable, not 0."""
        v1.container("web").write(self.BYTES, (RECORDED / "v1-uncounted").read_bytes())
        with pytest.raises(NotCounted, match="begins with a limit.*write_bps_device"):
            ask(accounting.io, v1)

    def test_zeros_without_a_limit(self, v1: Tree) -> None:
        """Linux 5.16 to 6.3: the device is listed, what is done on it is not counted."""
        web = v1.container("web")
        web.write(self.BYTES, self.NOTHING)
        web.write(self.SERVICED, self.NOTHING)
        with pytest.raises(NotCounted, match="begins with a limit"):
            ask(accounting.io, v1)

    @pytest.mark.parametrize("what", ["read_bps", "write_bps", "read_iops", "write_iops"])
    def test_zeros_with_a_limit_are_zeros(self, v1: Tree, what: str) -> None:
        web = v1.container("web")
        web.write(self.BYTES, self.NOTHING)
        web.write(self.SERVICED, self.NOTHING)
        for one in ("read_bps", "write_bps", "read_iops", "write_iops"):
            web.write(f"blkio.throttle.{one}_device", "8:0 1000000\n" if one == what else "")
        assert ask(accounting.io, v1).devices == {"8:0": (0, 0, 0, 0)}

    def test_zeros_where_the_host_without_a_limit_is_counted(self, v1: Tree) -> None:
        web = v1.container("web")
        web.write(self.BYTES, self.NOTHING)
        web.write(self.SERVICED, self.NOTHING)
        path = f"{v1.point('blkio')}/blkio.throttle.io_service_bytes"
        v1.write(path, "8:0 Read 5\n8:0 Write 0\n8:0 Total 5\nTotal 5\n")
        assert ask(accounting.io, v1).devices == {"8:0": (0, 0, 0, 0)}
        v1.write(path, "8:16 Read 5\n8:16 Write 0\n8:16 Total 5\nTotal 5\n")  # of another disk
        with pytest.raises(NotCounted):
            ask(accounting.io, v1)
        v1.write(path, "8:0 Read 5\n8:0 Write 0\n8:0 Total 5\nTotal 5\n")
        v1.write(f"{v1.point('blkio')}/blkio.throttle.read_bps_device", "8:0 1000000\n")  # that is why it is counted
        with pytest.raises(NotCounted):
            ask(accounting.io, v1)

    def test_no_disk_listed_while_another_is_counted(self, v1: Tree) -> None:
        """Seen on a real host: a limit for one disk, and a container that writes to another, which nobody counts."""
        v1.container("web")
        path = f"{v1.point('blkio')}/blkio.throttle.io_service_bytes"
        v1.write(path, "7:1 Read 5\n7:1 Write 0\n7:1 Total 5\nTotal 5\n")
        with pytest.raises(NotCounted):
            ask(accounting.io, v1)

    @pytest.mark.parametrize("name", [BYTES, SERVICED])
    def test_a_kernel_without_these_files(self, v1: Tree, name: str) -> None:
        web = v1.container("web")
        web.write(self.BYTES, self.NOTHING)
        web.file(name).unlink()
        with pytest.raises(NotCounted, match="counts no I/O for cgroup v1"):
            ask(accounting.io, v1)


class TestPressure:
    @pytest.mark.parametrize("layout", ["hybrid", "v2"])
    @pytest.mark.parametrize(
        ("resource", "expected"),
        [("cpu", (18746075, 18656608)), ("memory", (8684950, 8611968)), ("io", (1957165, 4174))],
    )
    def test_recorded(self, tmp_path: Path, layout: str, resource: str, expected: tuple[int, int]) -> None:
        tree = Tree(tmp_path, layout)
        web = tree.container("web")
        name = f"{resource}.pressure"
        web.write(name, (RECORDED / "v2-swapping" / name).read_bytes())
        found = ask(accounting.pressure, tree, resource)
        assert found[1:] == expected
        assert found.life == web.file(name).parent.stat().st_ino

    def test_no_full_line(self, tree: Tree) -> None:
        tree.container("web").write("cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n")
        found = ask(accounting.pressure, tree, "cpu")
        assert (found[1:], found.counters) == ((7, None), {"": (7,)})

    @pytest.mark.parametrize("resource", ["memory", "io"])
    def test_only_cpu_may_lack_it(self, tree: Tree, resource: str) -> None:
        tree.container("web").write(f"{resource}.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n")
        with pytest.raises(CannotObserve, match="cut off"):
            ask(accounting.pressure, tree, resource)

    def test_v1_has_none(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path, "v1")
        tree.container("web")
        with pytest.raises(NotCounted, match="cgroup v2 only, which is not mounted"):
            ask(accounting.pressure, tree, "cpu")

    def test_files_that_are_missing(self, tree: Tree) -> None:
        tree.container("web").file("io.pressure").unlink()
        with pytest.raises(NotCounted, match="psi=1"):
            ask(accounting.pressure, tree, "io")

    def test_psi_switched_off(self, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
        tree.container("web")
        value = Host.value

        def refuse(host: Host, path: str) -> bytes:
            if path.endswith(".pressure"):
                raise host._sentence(path, OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)))
            return value(host, path)

        monkeypatch.setattr(Host, "value", refuse)
        with pytest.raises(NotCounted, match="not supported; .*psi=1"):
            ask(accounting.pressure, tree, "io")


class TestOomKills:
    def test_recorded(self, tree: Tree) -> None:
        web = tree.container("web")
        web.write("memory.events", (RECORDED / "v2-swapping/memory.events").read_bytes())
        assert ask(accounting.oom_kills, tree).kills == 1

    def test_v2_counts_those_of_cgroups_inside_itself(self, tree: Tree) -> None:
        web = tree.container("web", nested_systemd=True)
        web.write("memory.events", "oom 3\noom_kill 3\n")
        (web.directory() / "init.scope/memory.events").write_text("oom 2\noom_kill 2\n")
        assert ask(accounting.oom_kills, tree).kills == 3

    def nested(self, web: Container, path: str, kills: int) -> None:
        folder = web.directory() / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.procs").write_text("")
        (folder / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")

    @V1
    def test_v1_counts_them_where_they_were(self, v1: Tree) -> None:
        web = v1.container("web")
        web.write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
        self.nested(web, "system.slice", 2)
        self.nested(web, "system.slice/app.service", 4)
        self.nested(web, "memory.heavy", 8)
        self.nested(web, ".lxc", 0)
        assert ask(accounting.oom_kills, v1).kills == 15

    @V1
    def test_v1_loses_none_when_a_cgroup_is_removed(self, v1: Tree) -> None:
        """As when a service in it is started anew."""
        web = v1.container("web")
        self.nested(web, "a.service", 2)
        before = ask(accounting.oom_kills, v1)
        assert before.since(before.counters) == 0
        # Made before the other goes, lest a filesystem gives it that one's inode; the kernel never does.
        self.nested(web, "b.service", 1)
        shutil.rmtree(web.directory() / "a.service")
        after = ask(accounting.oom_kills, v1)
        assert (after.kills, after.since(before.counters)) == (1, 1)

    @V1
    def test_a_kernel_that_does_not_tell(self, v1: Tree) -> None:
        v1.container("web").write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n")
        with pytest.raises(NotCounted, match="since 4.13"):
            ask(accounting.oom_kills, v1)

    def test_a_controller_that_is_not_enabled(self, tree: Tree) -> None:
        tree.container("web").file("memory.events").unlink()
        with pytest.raises(NotCounted, match="memory controller is not enabled"):
            ask(accounting.oom_kills, tree)


class TestNames:
    def test_a_disk(self, tree: Tree) -> None:
        sysfs(tree, vda="254:0")
        assert accounting.device_name(Host(str(tree.root)), "254:0") == "vda"

    @pytest.mark.parametrize("uevent", [None, b"", b"MAJOR=1\n", b"DEVNAME=\n"])
    def test_one_that_is_not_told(self, tree: Tree, uevent: bytes | None) -> None:
        if uevent is not None:
            tree.write("/sys/dev/block/254:0/uevent", uevent)
        assert accounting.device_name(Host(str(tree.root)), "254:0") == "254:0"


class TestStat:
    """io.stat."""

    @pytest.mark.parametrize(
        ("raw", "expected"),
        [
            (b"", {}),
            (b"7:7 \n7:6 \n", {}),
            (b"254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n", {"254:0": (1, 2, 3, 4)}),
            (b"8:0 rbytes=1 wbytes=2 rios=3 wios=4\n", {"8:0": (1, 2, 3, 4)}),  # before 4.20
            (b"7:1 7:0 8:0 rbytes=1 wbytes=2 rios=3 wios=4\n", {"8:0": (1, 2, 3, 4)}),
            (b"(unknown) rbytes=1 wbytes=2 rios=3 wios=4\n", {}),
            (b"8:0 cost.usage=77\n", {}),
            (b"8:0 rbytes=1 wbytes=2 rios=3 wios=4 use_delay=0 cost.vrate=100.00\n", {"8:0": (1, 2, 3, 4)}),
        ],
    )  # fmt: skip
    def test_as_kernels_write_it(self, raw: bytes, expected: dict[str, tuple[int, ...]]) -> None:
        assert io.stat(raw, "/io.stat") == expected

    def test_recorded_root(self) -> None:
        found = io.stat((RECORDED / "v2-root-io.stat").read_bytes(), "/io.stat")
        assert found == {"254:0": (70411264, 17760256, 1520, 477)}

    @pytest.mark.parametrize(
        "raw",
        [
            b"\0", b"8:0", b"8:0 rbytes=1 wbytes=2 rios=3 wios=4", b"8:0 rbytes=1\n", b"rbytes=1 wbytes=2 wios=4\n",
            b"8:0 rbytes=-1 wbytes=2 rios=3 wios=4\n", b"8:0 rbytes=x wbytes=2 rios=3 wios=4\n", b"8 rbytes=1\n",
            b"8:0 rbytes=1 9:0 wbytes=2 rios=3 wios=4\n", b"8:0 rbytes=1 wbytes=2 rios=3 wios=\n", b"nonsense\n",
        ],
    )  # fmt: skip
    def test_garbage(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve, match=r"^/io\.stat "):
            io.stat(raw, "/io.stat")

    def test_cut_off_anywhere(self) -> None:
        whole = (RECORDED / "v2-swapping/io.stat").read_bytes()
        for length in range(1, len(whole)):
            with pytest.raises(CannotObserve):
                io.stat(whole[:length], "/io.stat")


class TestRwstat:
    """blkio.throttle.io_service*."""

    def test_recorded(self) -> None:
        raw = (RECORDED / "v1-limited/blkio.throttle.io_service_bytes_recursive").read_bytes()
        assert io.rwstat(raw, "/x") == {"7:1": (8388608, 0)}
        assert io.rwstat((RECORDED / "v1-uncounted").read_bytes(), "/x") == {}

    def test_cut_off_anywhere(self) -> None:
        whole = (RECORDED / "v1-limited/blkio.throttle.io_service_bytes_recursive").read_bytes()
        for length in range(len(whole)):
            with pytest.raises(CannotObserve):
                io.rwstat(whole[:length], "/x")

    @pytest.mark.parametrize(
        "raw",
        [
            b"\n", b"Total\n", b"Total -1\n", b"8:0 Read 1\nTotal 1\n", b"8:0 Read\nTotal 0\n", b"8 Read 1\nTotal 1\n",
            b"8:0 Rread 1\nTotal 1\n", b"\nTotal 0\n", b"8:0 Read 1\n8:0 Write -2\nTotal 1\n",
        ],
    )  # fmt: skip
    def test_garbage(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve, match="^/x "):
            io.rwstat(raw, "/x")


class TestTotals:
    """*.pressure."""

    def test_cut_off_anywhere(self) -> None:
        whole = (RECORDED / "v2-swapping/cpu.pressure").read_bytes()
        first = whole.index(b"\n") + 1  # which is all that older kernels have
        for length in range(len(whole)):
            if length == first:
                assert pressure.totals(whole[:length], "/x") == (18746075, None)
                continue
            with pytest.raises(CannotObserve, match="^/x holds"):
                pressure.totals(whole[:length], "/x")


@pytest.mark.parametrize("parse", [io.stat, io.rwstat, pressure.totals])
class TestAnything:
    @given(raw=st.binary(max_size=100))
    def test_bytes(self, parse: Callable[[bytes, str], Any], raw: bytes) -> None:
        try:
            parse(raw, "/x")
        except CannotObserve as problem:
            assert str(problem).startswith("/x ")

    @given(data=st.data())
    def test_a_real_one_with_a_hole(self, parse: Callable[[bytes, str], Any], data: st.DataObject) -> None:
        name = {io.stat: "v2-swapping/io.stat", pressure.totals: "v2-swapping/io.pressure"}.get(parse, "")
        whole = (RECORDED / (name or "v1-limited/blkio.throttle.io_serviced_recursive")).read_bytes()
        start = data.draw(st.integers(0, len(whole)))
        end = data.draw(st.integers(start, len(whole)))
        try:
            parse(whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:], "/x")
        except CannotObserve as problem:
            assert str(problem).startswith("/x ")


COUNTERS = {
    "cpu": ("cpu.stat", "cpuacct.usage"),
    "io": ("io.stat", "blkio.throttle.io_service_bytes_recursive"),
    "pressure": ("memory.pressure",),
    "oom_kills": ("memory.events", "memory.oom_control"),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", COUNTERS)
def test_a_reboot_between_two_reads_mixes_no_lives(any_tree: Tree, what: str, when: str) -> None:
    """What was read may be the last life's or the next one's: neither is taken for the other."""
    web = any_tree.container("web")
    made_anew: list[str] = []

    class Rebooting(Host):
        def value(self, path: str) -> bytes:
            is_counter = path.rpartition("/")[2] in COUNTERS[what] and web.path in path
            if is_counter and when == "before":
                self.reboot(path)
            raw = super().value(path)
            if is_counter and when == "after":
                self.reboot(path)
            return raw

        def reboot(self, path: str) -> None:
            made_anew.append(path)
            new_life(web)

    host = Rebooting(str(any_tree.root))
    found = inventory.take(host, ["web"])
    more = ["memory"] if what == "pressure" else []
    try:
        getattr(accounting, what)(host, Cgroups(host, found.running), *found.containers, *more)
    except NotThere as problem:
        assert "restarts" in str(problem)
        assert made_anew
    except NotCounted:
        assert not made_anew, "pressure is v2's alone"
    else:
        pytest.fail("a life was told")
