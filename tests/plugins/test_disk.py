"""Filesystems: mountinfo, what is whose, and the process that asks."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc import disk
from sensu_lxc.cgroups import Cgroups
from sensu_lxc.errors import CannotObserve, NotAllowed, NotThere
from sensu_lxc.host import Host
from sensu_lxc.inventory import Container
from sensu_lxc.sources import mountinfo

from tests.plugins.trees import Container as Made
from tests.plugins.trees import Tree

ROOT = "90 43 254:0 /var/lib/lxc/web/rootfs / rw,relatime shared:24 - ext4 /dev/vda rw,discard\n"
LOOP = "90 43 7:0 / / rw,relatime shared:47 - ext4 /dev/loop0 rw\n"
OVERLAY = "95 43 0:47 / / rw,relatime shared:24 - overlay /base rw,lowerdir=/base,upperdir=/srv/web/delta,workdir=/w\n"
BTRFS = "92 43 0:46 /web/rootfs / rw - btrfs /dev/loop0 rw,space_cache=v2,subvolid=256,subvol=/web/rootfs\n"
HOST = "27 1 254:0 / / rw - ext4 /dev/vda rw\n31 27 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"


def mounted(tree: Tree, made: Made, lines: str) -> None:
    """Have a container's init show these mounts."""
    tree.write(f"/proc/{made.init}/mountinfo", lines)
    tree.at(f"/proc/{made.init}/root").mkdir(exist_ok=True)


def usage(tree: Tree, path: str = "/", name: str = "web") -> disk.Disk:
    host = Host(str(tree.root))
    container = Container(name, "/var/lib/lxc", True, True, name)
    try:
        return disk.usage(host, Cgroups(host, [container.directory]), container, False, path)
    finally:
        disk.filesystems(host).close()


@pytest.fixture
def web(tree: Tree) -> Made:
    made = tree.container("web")
    tree.write("/proc/1/mountinfo", HOST)
    mounted(tree, made, ROOT)
    return made


class TestMountinfo:
    def test_all_and_one(self) -> None:
        raw = (HOST + ROOT).encode()
        assert [one.point for one in mountinfo.filesystems(raw, "x")] == ["/", "/sys/fs/cgroup", "/"]
        (one,) = mountinfo.filesystems((LOOP + HOST[38:]).encode(), "x", "/")
        assert one == (90, 43, "7:0", "/", "/", "ext4", "/dev/loop0", "rw")

    def test_escapes(self) -> None:
        raw = b"90 43 0:5 /a\\040b /with\\011tab rw - fuse.x has\\040space rw\n"
        (one,) = mountinfo.filesystems(raw, "x", "/with\ttab")
        assert (one.root, one.source) == ("/a b", "has space")

    @pytest.mark.parametrize("swap", [False, True])
    def test_the_upper_of_two_at_one_point_counts(self, swap: bool) -> None:
        lines = ["90 43 7:0 / /a rw - ext4 /dev/loop0 rw\n", "91 90 7:1 / /a rw - ext4 /dev/loop1 rw\n"]
        found = mountinfo.filesystems("".join(reversed(lines) if swap else lines).encode(), "x", "/a")
        top = mountinfo.topmost(found)
        assert top is not None
        assert top.device == "7:1"
        assert mountinfo.topmost([]) is None

    @pytest.mark.parametrize(
        "raw", [b"", b"90 43", LOOP.encode()[:-1], b"90 43 7 / / rw - ext4 x rw\n", b"a b c d / f\n"]
    )
    def test_what_is_cut_off_is_told(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve, match="x "):
            mountinfo.filesystems(raw, "x", "/")

    @given(st.binary(max_size=200))
    def test_anything(self, raw: bytes) -> None:
        for whole in (raw, LOOP.encode()[:20] + raw + b"\n"):
            try:
                assert all(one.number >= 0 for one in mountinfo.filesystems(whole, "x"))
            except CannotObserve:
                pass


class TestWhatTheProcessSays:
    def test_as_df_counts(self) -> None:
        # 100 blocks, 40 free, of which 5 are root's
        assert disk._space(b"4096 100 40 35 1000 400 390", "/") == (60 * 4096, 35 * 4096, 600, 390)

    def test_no_fixed_number_of_inodes(self) -> None:
        space = disk._space(b"4096 100 40 35 0 0 0", "/")
        assert (space.used_inodes, space.available_inodes) == (None, None)

    @pytest.mark.parametrize("raw", [b"4096 100 101 0 1 1 1", b"4096 0 0 0 0 0 0", b"", b"1 2 3", b"0 10 5 5 0 0 0"])
    def test_nonsense(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve):
            disk._space(raw, "/")

    def test_errors(self) -> None:
        with pytest.raises(NotAllowed, match="root"):
            disk._space(b"errno 13", "/")
        with pytest.raises(NotThere):
            disk._space(b"errno 2", "/")
        with pytest.raises(CannotObserve, match="Transport endpoint"):
            disk._space(b"errno 107", "/")
        with pytest.raises(disk.Hidden):
            disk._space(b"hidden", "/")


class TestAsker:
    def test_it_says_what_the_kernel_says(self, tmp_path: Path) -> None:
        (tmp_path / "a/b").mkdir(parents=True)
        asker = disk.Asker(5, 5)
        space = asker.ask(str(tmp_path), "/a/b", None, "1:2")
        said = os.statvfs(tmp_path)
        assert abs(space.used_bytes - (said.f_blocks - said.f_bfree) * said.f_frsize) < 1 << 28
        for _ in range(100):
            asker.ask(str(tmp_path), "/a", None, "1:2")
        pid = asker._pid
        asker.close()
        asker.close()
        with pytest.raises(ChildProcessError):  # nobody is left to be waited for
            os.waitpid(pid, os.WNOHANG)

    def test_no_link_leads_out(self, tmp_path: Path) -> None:
        (tmp_path / "out").symlink_to("/")
        asker = disk.Asker(5, 5)
        for inside in ("/out/tmp", "/none"):
            with pytest.raises(disk.Hidden):
                asker.ask(str(tmp_path), inside, None, "1:2")
        asker.close()

    def test_the_mount_must_be_the_one_that_is_meant(self, tmp_path: Path) -> None:
        asker = disk.Asker(5, 5)
        with pytest.raises(disk.Hidden):
            asker.ask("/", "/proc", 999999999, "1:2")
        (proc,) = mountinfo.filesystems(Path("/proc/self/mountinfo").read_bytes(), "x", "/proc")
        with pytest.raises(CannotObserve, match="no size"):  # found, and it is as large as /proc is
            asker.ask("/", "/proc", proc.number, "1:2")
        asker.close()

    def test_what_does_not_answer_is_left_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        look = disk._look_now

        def hang(top: bytes, inside: bytes, number: bytes) -> str:
            if inside.startswith(b"/hung"):
                time.sleep(60)
            return look(top, inside, number)

        monkeypatch.setattr(disk, "_look_now", hang)
        asker = disk.Asker(0.2, 0.5)
        pids = []
        for number in range(2):
            assert asker.ask("/", "/", None, "1:3").used_bytes > 0
            pids.append(asker._pid)
            with pytest.raises(CannotObserve, match="does not answer"):
                asker.ask("/", f"/hung{number}", None, "1:2")
        assert pids[0] != pids[1]
        with pytest.raises(CannotObserve, match="does not answer"):
            asker.ask("/", "/hung", None, "1:2")
        with pytest.raises(CannotObserve, match="not asked"):
            asker.ask("/", "/", None, "1:3")
        asker.close()
        for pid in pids:
            with contextlib.suppress(ChildProcessError):  # waited for already
                assert os.waitpid(pid, 0)[1] == signal.SIGKILL

    def test_a_process_that_was_killed_is_told_and_replaced(self) -> None:
        asker = disk.Asker(5, 5)
        asker.ask("/", "/", None, "1:2")
        os.kill(asker._pid, 9)
        os.waitid(os.P_PID, asker._pid, os.WEXITED | os.WNOWAIT)
        for _ in range(2):
            try:
                asker.ask("/", "/", None, "1:2")
            except CannotObserve as problem:
                assert "asked" in str(problem) or "ended" in str(problem)
        assert asker.ask("/", "/", None, "1:2").used_bytes > 0
        asker.close()

    def test_nothing_that_is_open_here_stays_open_there(self, tmp_path: Path) -> None:
        reading, writing = os.pipe()
        asker = disk.Asker(5, 5)
        asker.ask("/", "/", None, "1:2")
        os.close(writing)
        assert os.read(reading, 1) == b""
        os.close(reading)
        asker.close()


class TestWhose:
    def test_the_hosts(self, tree: Tree, web: Made) -> None:
        seen = usage(tree)
        assert (seen.kind, seen.source, seen.device, seen.shared_with_host) == ("ext4", "/dev/vda", "254:0", True)
        assert seen.used_bytes > 0

    def test_its_own(self, tree: Tree, web: Made) -> None:
        mounted(tree, web, LOOP)
        assert not usage(tree).shared_with_host

    def test_its_own_though_the_host_shows_it(self, tree: Tree) -> None:
        made = tree.lxd("c1")
        mounted(tree, made, "90 43 0:60 /rootfs / rw - zfs pool/containers/c1 rw\n")
        tree.write(
            "/proc/1/mountinfo", HOST + "60 27 0:60 / /var/lib/lxd/storage-pools/default/containers/c1 rw - zfs x rw\n"
        )
        tree.at("/var/lib/lxd/storage-pools/default/containers/c1").mkdir(parents=True)
        host = Host(str(tree.root))
        container = Container("c1", "/var/lib/lxd/containers", True, True, "c1")
        seen = disk.usage(host, Cgroups(host, [container.directory]), container)
        disk.filesystems(host).close()
        assert (seen.kind, seen.shared_with_host) == ("zfs", False)

    def test_another_containers(self, tree: Tree, web: Made) -> None:
        mounted(tree, web, LOOP)
        tree.write("/proc/1/mountinfo", HOST + "60 27 7:0 / /var/lib/lxc/db/rootfs rw - ext4 /dev/loop0 rw\n")
        assert usage(tree).shared_with_host

    def test_overlays_upper(self, tree: Tree, web: Made) -> None:
        mounted(tree, web, OVERLAY)
        seen = usage(tree)
        assert (seen.kind, seen.device, seen.shared_with_host) == ("overlay", "254:0", True)
        tree.write("/proc/1/mountinfo", HOST + "60 27 7:9 / /srv rw - ext4 /dev/sdb rw\n")
        assert usage(tree).device == "7:9"

    def test_an_overlay_of_its_own_names_paths_of_its_own(self, tree: Tree, web: Made) -> None:
        mounted(tree, web, ROOT + OVERLAY.replace(" / / ", " / /data "))
        tree.at(f"/proc/{web.init}/root/data").mkdir()
        seen = usage(tree, "/data")
        assert (seen.device, seen.shared_with_host) == ("0:47", False)

    def test_the_root_is_inits_whatever_lies_over_it(self, tree: Tree, web: Made) -> None:
        """Mounted over / later, which who lives there does not see."""
        mounted(tree, web, LOOP + ROOT.replace("90 43", "91 90"))
        assert usage(tree).device == "7:0"

    def test_a_root_of_many_layers(self, tree: Tree, web: Made) -> None:
        lower = ":".join(f"/srv/layer{number}" for number in range(100))
        mounted(tree, web, OVERLAY.replace("lowerdir=/base", f"lowerdir={lower}") + LOOP.replace(" / / ", " / /data "))
        assert usage(tree).device == "254:0"

    def test_a_list_that_begins_elsewhere(self, tree: Tree, web: Made) -> None:
        mounted(tree, web, "91 90 0:5 / /dev rw - tmpfs none rw\n" + LOOP)
        assert usage(tree).device == "7:0"

    def test_nothing_there(self, tree: Tree, web: Made) -> None:
        with pytest.raises(CannotObserve, match="nothing is mounted"):
            usage(tree, "/data")


class TestBtrfs:
    def quota(self, tree: Tree, **files: int) -> None:
        base = "/sys/fs/btrfs/cb747481-9d63"
        tree.write(f"{base}/devices/loop0/size", "1\n")
        tree.write("/sys/fs/btrfs/features/x", "1\n")
        for name, value in files.items():
            tree.write(f"{base}/qgroups/0_256/{name}", f"{value}\n")

    def test_of_a_quota(self, tree: Tree, web: Made) -> None:
        mounted(tree, web, BTRFS)
        self.quota(tree, limit_flags=1, referenced=60 << 20, max_referenced=64 << 20, exclusive=1, max_exclusive=0)
        seen = usage(tree)
        assert (seen.quota_bytes, seen.used_bytes, seen.available_bytes) == (64 << 20, 60 << 20, 4 << 20)
        assert not seen.shared_with_host

    def test_the_tighter_of_two(self, tree: Tree, web: Made) -> None:
        mounted(tree, web, BTRFS)
        self.quota(tree, limit_flags=3, referenced=60, max_referenced=100, exclusive=50, max_exclusive=55)
        assert usage(tree)[5:8] == (55, 50, 5)

    def test_over_it(self, tree: Tree, web: Made) -> None:
        mounted(tree, web, BTRFS)
        self.quota(tree, limit_flags=1, referenced=110, max_referenced=100)
        assert usage(tree)[5:8] == (100, 110, 0)

    @pytest.mark.parametrize("files", [{}, {"limit_flags": 0, "referenced": 5, "max_referenced": 0}])
    def test_without_one(self, tree: Tree, web: Made, files: dict[str, int]) -> None:
        mounted(tree, web, BTRFS)
        self.quota(tree, **files)
        seen = usage(tree)
        assert seen.quota_bytes is None
        assert seen.used_bytes > 1000

    def test_a_limit_that_can_not_be_read_is_told(self, tree: Tree, web: Made) -> None:
        mounted(tree, web, BTRFS)
        self.quota(tree, limit_flags=1, referenced=5)
        tree.write("/sys/fs/btrfs/cb747481-9d63/qgroups/0_256/max_referenced", "nonsense\n")
        with pytest.raises(CannotObserve, match="nonsense"):
            usage(tree)


class TestAskedWhereTheHostHasIt:
    """Of this machine's own /, where that can be told from nothing else."""

    def known(self, monkeypatch: pytest.MonkeyPatch, options: str = "rw") -> tuple[list[Any], disk.Filesystems]:
        asked: list[Any] = []

        def ask(self: disk.Asker, top: str, inside: str, number: int | None, device: str) -> disk.Space:
            asked.append((top, inside, number))
            if top != "/":
                raise NotAllowed("root only")
            return disk.Space(1, 2, 3, 4)

        monkeypatch.setattr(disk.Asker, "ask", ask)
        known = disk.Filesystems(Host())
        host = mountinfo.Filesystem(27, 1, "254:0", "/", "/", "ext4", "/dev/vda", options)
        known._mounts = {"254:0": [host]}
        return asked, known

    def container(self) -> Container:
        return Container("web", "/var/lib/lxc", True, True, "web")

    def test_once_and_without_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked, known = self.known(monkeypatch)
        (mount,) = mountinfo.filesystems(ROOT.encode(), "x")
        for _ in range(3):
            assert known.disk(mount, "/proc/5/root", self.container()).used_bytes == 1
        assert asked == [("/", "/", 27)]

    @pytest.mark.parametrize(("change", "times"), [("", 1), ("fuse.glusterfs", 3), ("prjquota", 3)])
    def test_through_a_container_once_as_well(self, monkeypatch: pytest.MonkeyPatch, change: str, times: int) -> None:
        """Where the host does not have it; but for those that answer by directory."""
        asked: list[str] = []

        def ask(self: disk.Asker, top: str, inside: str, number: int | None, device: str) -> disk.Space:
            asked.append(top)
            return disk.Space(len(asked), 2, 3, 4)

        monkeypatch.setattr(disk.Asker, "ask", ask)
        known = disk.Filesystems(Host())
        known._mounts = {}
        line = (
            LOOP.replace("- ext4", f"- {change}") if "." in change else LOOP.replace("loop0 rw", f"loop0 rw,{change}")
        )
        (mount,) = mountinfo.filesystems(line.encode(), "x")
        for pid in range(3):
            known.disk(mount, f"/proc/{pid}/root", self.container())
        assert len(asked) == times

    def test_not_for_a_directory_with_a_quota(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked, known = self.known(monkeypatch)
        (mount,) = mountinfo.filesystems(ROOT.replace("rw,discard", "rw,prjquota").encode(), "x")
        with pytest.raises(NotAllowed):
            known.disk(mount, "/proc/5/root", self.container())
        assert asked == [("/proc/5/root", "/", 90)]

    def test_an_overlays_upper_where_the_overlay_may_not_be_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked, known = self.known(monkeypatch)
        (mount,) = mountinfo.filesystems(OVERLAY.encode(), "x")
        assert known.disk(mount, "/proc/5/root", self.container()).used_bytes == 1
        assert asked == [("/proc/5/root", "/", 95), ("/", "/", 27)]

    def test_nobody_is_told_that_root_can(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _, known = self.known(monkeypatch)
        (mount,) = mountinfo.filesystems(LOOP.encode(), "x")
        with pytest.raises(NotAllowed, match="root only"):
            known.disk(mount, "/proc/5/root", self.container())
