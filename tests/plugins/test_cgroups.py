"""Where a container's cgroup is, and what stands in it: every naming era, and every trap."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sensu_lxc import inventory
from sensu_lxc.cgroups import Cgroups, Memory
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.host import Host

from tests.plugins.trees import FAMILIES, LXC, MIB, Tree


class Looked:
    """A tree as the checks look at it."""

    def __init__(self, tree: Tree) -> None:
        self.host = Host(str(tree.root))
        found = inventory.take(self.host)
        self.containers = {one.label: one for one in found.containers}
        self.cgroups = Cgroups(self.host, found.running)

    def memory(self, label: str) -> Memory:
        return self.cgroups.memory(self.containers[label])

    def directory(self, label: str) -> str:
        hierarchy = self.cgroups.hierarchy("memory")
        assert hierarchy is not None
        return self.cgroups.directory(self.containers[label], hierarchy)

    def is_frozen(self, label: str) -> bool:
        return self.cgroups.is_frozen(self.containers[label])


ON_V2_ONLY = {"scope"}


class TestEveryEra:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("nested", [False, True])
    def test_found_with_its_own_limit(self, any_tree: Tree, family: str, nested: bool) -> None:
        if family in ON_V2_ONLY and any_tree.layout != "v2":
            pytest.skip("LXC makes a scope on pure v2 only")
        any_tree.container("101", family=family, usage=60 * MIB, limit=64 * MIB, nested_systemd=nested)
        memory = Looked(any_tree).memory("101")
        assert (memory.usage_bytes, memory.limit_bytes) == (60 * MIB, 64 * MIB)

    @pytest.mark.parametrize("family", ["lxc.payload.", "lxc.payload/", "proxmox"])
    def test_found_by_its_name_alone_where_proc_is_hidden(self, any_tree: Tree, family: str) -> None:
        any_tree.container("web.site-1", family=family, usage=60 * MIB, processes=False)
        assert Looked(any_tree).memory("web.site-1").usage_bytes == 60 * MIB

    @pytest.mark.parametrize("family", ["lxc/", "pattern", "dir", "limit+inner", "lxc@.service"])
    def test_not_guessed_where_proc_is_hidden(self, any_tree: Tree, family: str) -> None:
        any_tree.container("web", family=family, processes=False)
        with pytest.raises(CannotObserve, match="which cgroup is its own can't be told: none of its name"):
            Looked(any_tree).memory("web")

    def test_lxd_project(self, any_tree: Tree) -> None:
        any_tree.lxd("test_web", usage=9 * MIB)
        any_tree.lxd("web", usage=8 * MIB)
        looked = Looked(any_tree)
        assert looked.memory("test_web").usage_bytes == 9 * MIB
        assert looked.memory("web").usage_bytes == 8 * MIB


class TestSuffix:
    """An empty left-over directory makes LXC use NAME-1."""

    @pytest.mark.parametrize("processes", [True, False])
    def test_stale_beside_live(self, any_tree: Tree, processes: bool) -> None:
        any_tree.stale("web")
        any_tree.container("web", suffix="-1", usage=60 * MIB, processes=processes)
        looked = Looked(any_tree)
        assert looked.directory("web").endswith("/lxc.payload.web-1")
        assert looked.memory("web").usage_bytes == 60 * MIB

    def test_stale_with_a_real_one_of_that_name(self, any_tree: Tree) -> None:
        any_tree.stale("web")
        any_tree.container("web", suffix="-1", usage=60 * MIB)
        any_tree.container("web-1", suffix="-1", usage=10 * MIB)
        looked = Looked(any_tree)
        assert looked.memory("web").usage_bytes == 60 * MIB
        assert looked.memory("web-1").usage_bytes == 10 * MIB

    def test_a_real_one_of_that_name_alone(self, any_tree: Tree) -> None:
        any_tree.container("web", usage=60 * MIB)
        any_tree.container("web-1", usage=10 * MIB)
        looked = Looked(any_tree)
        assert looked.memory("web").usage_bytes == 60 * MIB
        assert looked.memory("web-1").usage_bytes == 10 * MIB

    def test_two_that_can_be_meant_are_not_guessed(self, any_tree: Tree) -> None:
        any_tree.stale("web")
        any_tree.container("web", suffix="-1", processes=False)
        any_tree.container("web-1", suffix="-1", processes=False)
        looked = Looked(any_tree)
        for label in ("web", "web-1"):
            try:
                memory = looked.memory(label)
            except CannotObserve:
                continue
            assert memory.usage_bytes > 0

    def test_another_ones_directory_is_no_answer(self, any_tree: Tree) -> None:
        """web lives elsewhere and /proc is hidden: web-1's directory is not web's."""
        any_tree.container("web", family="lxc@.service", usage=60 * MIB, processes=False)
        any_tree.container("web-1", usage=10 * MIB, processes=False)
        looked = Looked(any_tree)
        with pytest.raises(CannotObserve):
            looked.memory("web")

    def test_a_numbered_name_whose_directory_is_the_others(self, any_tree: Tree) -> None:
        """web sits in lxc.payload.web-1 since a start with a left-over, gone by now; the real web-1 sits elsewhere."""
        any_tree.container("web", suffix="-1", usage=60 * MIB)
        any_tree.container("web-1", family="dir", usage=10 * MIB)
        looked = Looked(any_tree)
        assert looked.memory("web").usage_bytes == 60 * MIB
        assert looked.memory("web-1").usage_bytes == 10 * MIB

    def test_two_lxcpaths(self, any_tree: Tree) -> None:
        any_tree.container("plain", usage=60 * MIB)
        any_tree.container("plain", "/srv/lxc", suffix="-1", usage=10 * MIB)
        looked = Looked(any_tree)
        assert looked.memory(f"{LXC}/plain").usage_bytes == 60 * MIB
        assert looked.memory("/srv/lxc/plain").usage_bytes == 10 * MIB

    def test_two_lxcpaths_where_proc_is_hidden(self, any_tree: Tree) -> None:
        any_tree.container("plain", processes=False)
        any_tree.container("plain", "/srv/lxc", suffix="-1", processes=False)
        looked = Looked(any_tree)
        for label in (f"{LXC}/plain", "/srv/lxc/plain"):
            with pytest.raises(CannotObserve, match="2 of that name"):
                looked.memory(label)

    def test_an_empty_directory_alone_is_not_a_container_at_zero(self, any_tree: Tree) -> None:
        any_tree.stale("web")
        any_tree.container("web", family="dir", usage=60 * MIB, processes=False)
        with pytest.raises(CannotObserve):
            Looked(any_tree).memory("web")


class TestImpostors:
    def test_a_process_in_a_container_with_a_monitors_title(self, tree: Tree) -> None:
        tree.stale("web")
        tree.container("web", suffix="-1", usage=60 * MIB)
        tree.container("evil", usage=1 * MIB)
        tree.process(5000, 2021, f"[lxc monitor] {LXC} web", "/lxc.payload.evil", inside=7)
        tree.process(5001, 5000, "init", "/lxc.payload.evil", inside=1)
        tree.write("/proc/5000/task/5000/children", "5001 ")
        assert Looked(tree).memory("web").usage_bytes == 60 * MIB

    def test_a_title_of_another_user(self, tree: Tree) -> None:
        tree.stale("web")
        tree.container("web", suffix="-1", usage=60 * MIB)
        tree.container("evil", usage=1 * MIB)
        tree.process(5000, 1, f"[lxc monitor] {LXC} web", "/lxc.payload.evil", uid=1234)
        assert Looked(tree).memory("web").usage_bytes == 60 * MIB

    @pytest.mark.parametrize("uid", ["abc", "", "-1", "9" * 5000])
    def test_a_status_that_makes_no_sense(self, tree: Tree, uid: str) -> None:
        tree.stale("web")
        web = tree.container("web", suffix="-1")
        tree.write(f"/proc/{web.monitor}/status", f"Uid:\t{uid}\nNSpid:\t1\n")
        try:
            Looked(tree).memory("web")
        except CannotObserve:
            pass


class TestNoneOfItsOwn:
    """lxc.cgroup.use without memory: the container has no memory cgroup, and init stays in that of its starter."""

    @staticmethod
    def without_memory(tree: Tree, place: str, starters: str | None) -> None:
        web = tree.container("web", "/srv/lxc")
        shutil.rmtree(web.directory("memory"))
        for pid, cgroup in ((web.init, place), (web.monitor, starters)):
            path = tree.at(f"/proc/{pid}/cgroup")
            lines = [line for line in path.read_text().splitlines(True) if ":memory:" not in line]
            path.write_text("".join(lines) + (f"99:memory:{cgroup}\n" if cgroup else ""))

    @pytest.mark.parametrize("layout", ["v1", "v1-joined", "hybrid"])
    @pytest.mark.parametrize(
        ("place", "starters"),
        [("/", "/"), ("/ssh", "/ssh"), ("/ssh", "/ssh/1"), ("/", "/lxc.monitor.web"), ("/", None)],
    )
    def test_that_of_who_started_it_is_not_measured_for_it(
        self, tmp_path: Path, layout: str, place: str, starters: str | None
    ) -> None:
        tree = Tree(tmp_path, layout)
        tree.cgroup("/ssh", usage=60 * MIB, limit=64 * MIB)
        self.without_memory(tree, place, starters)
        with pytest.raises(CannotObserve, match=f"^it has no memory cgroup of its own, but shares {place}$"):
            Looked(tree).memory("web")
        assert not Looked(tree).is_frozen("web"), "its freezer is its own"

    def test_a_place_that_was_named_freely_is_its_own(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path, "v1")
        tree.cgroup("/tenants/gold", usage=60 * MIB, limit=64 * MIB)
        self.without_memory(tree, "/tenants/gold", "/tenants/goldmine")
        assert Looked(tree).memory("web").usage_bytes == 60 * MIB


class TestMemory:
    def test_recorded_nested_systemd(self, tree: Tree) -> None:
        tree.recorded("v2-nested-systemd", "sysd", proc="systemd-init")
        memory = Looked(tree).memory("sysd")
        assert memory == Memory(31531008, 8192, 6762496, 1096376, 536870912, None, None)
        assert memory.used_bytes == 31531008 - 8192 - 6762496 - 1096376
        assert memory.working_set_bytes == 31531008 - 6762496

    def test_recorded_unlimited_and_idle(self, tree: Tree) -> None:
        tree.recorded("v2-unlimited", "plain")
        memory = Looked(tree).memory("plain")
        assert (memory.usage_bytes, memory.limit_bytes) == (741376, None)

    def test_recorded_v1(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path, "v1-joined")
        tree.recorded("v1-idle", "m")
        looked = Looked(tree)
        assert looked.memory("m") == Memory(786432, 0, 49152, 0, 67108864, 0, None)
        assert not looked.is_frozen("m")

    def test_recorded_swap_that_is_full(self, tree: Tree) -> None:
        tree.recorded("v2-swap", "a")
        looked = Looked(tree)
        memory = looked.cgroups.swap(looked.containers["a"], looked.memory("a"))
        assert (memory.swap_bytes, memory.swap_limit_bytes) == (67108864, 67108864)

    def test_tmpfs_counts_as_used(self, tree: Tree) -> None:
        tree.recorded("v2-tmpfs", "mem")
        assert Looked(tree).memory("mem").used_bytes > 30 * MIB

    @pytest.mark.parametrize(
        ("own", "parent", "effective"),
        [
            (None, None, None),
            (64 * MIB, None, 64 * MIB),
            (None, 32 * MIB, 32 * MIB),
            (64 * MIB, 32 * MIB, 32 * MIB),
            (16 * MIB, 32 * MIB, 16 * MIB),
        ],
    )
    def test_the_least_of_own_and_ancestors_limits(
        self, any_tree: Tree, own: int | None, parent: int | None, effective: int | None
    ) -> None:
        any_tree.container("web", family="dir", limit=own, parent_limit=parent)
        any_tree.container("second", family="dir", limit=own, parent_limit=parent)
        looked = Looked(any_tree)
        assert looked.memory("web").limit_bytes == effective
        assert looked.memory("second").limit_bytes == effective

    def test_caches_larger_than_usage_are_not_negative(self, any_tree: Tree) -> None:
        any_tree.container("web", usage=MIB, inactive_file=2 * MIB)
        assert Looked(any_tree).memory("web").used_bytes == 0
        assert Looked(any_tree).memory("web").working_set_bytes == 0

    @pytest.mark.parametrize("layout", ["v1", "v1-joined", "hybrid"])
    @pytest.mark.parametrize(
        ("limit", "memsw", "swap_limit"),
        [
            (64 * MIB, 96 * MIB, 32 * MIB),
            (64 * MIB, 64 * MIB, 0),
            (64 * MIB, None, None),
            (None, None, None),
            (96 * MIB, 64 * MIB, 0),
        ],
    )
    def test_memsw_of_v1_is_memory_and_swap_together(
        self, tmp_path: Path, layout: str, limit: int | None, memsw: int | None, swap_limit: int | None
    ) -> None:
        tree = Tree(tmp_path, layout)
        tree.container("web", limit=limit, swap=30 * MIB, swap_limit=memsw)
        looked = Looked(tree)
        memory = looked.cgroups.swap(looked.containers["web"], looked.memory("web"))
        assert (memory.swap_bytes, memory.swap_limit_bytes) == (30 * MIB, swap_limit)

    def test_no_swap_files(self, any_tree: Tree) -> None:
        any_tree.container("web", swap=None)
        looked = Looked(any_tree)
        memory = looked.memory("web")
        try:
            memory = looked.cgroups.swap(looked.containers["web"], memory)
        except CannotObserve:
            return
        assert memory.swap_bytes is None

    def test_no_memory_controller_on_v2(self, tree: Tree) -> None:
        web = tree.container("web")
        for file in web.directory().glob("memory.*"):
            file.unlink()
        with pytest.raises(CannotObserve, match="memory controller is not enabled"):
            Looked(tree).memory("web")

    def test_no_memory_cgroup_at_all(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path, "v1")
        tree.container("web")
        path = tree.at("/proc/1/mountinfo")
        path.write_text("".join(line for line in path.read_text().splitlines(True) if "memory" not in line))
        with pytest.raises(CannotObserve, match="no memory cgroup is mounted"):
            Looked(tree).memory("web")

    def test_gone_meanwhile(self, any_tree: Tree) -> None:
        web = any_tree.container("web")
        looked = Looked(any_tree)
        for point in any_tree.mounts.values():
            shutil.rmtree(any_tree.at(point + web.path))
        with pytest.raises(NotThere):
            looked.memory("web")

    @pytest.mark.parametrize("key", ["hierarchical_memory_limit", "total_active_file", "total_inactive_file"])
    def test_keys_of_v1_are_demanded(self, tmp_path: Path, key: str) -> None:
        _without(Tree(tmp_path, "v1"), key)

    @pytest.mark.parametrize("key", ["active_file", "inactive_file"])
    def test_keys_of_v2_are_demanded(self, tree: Tree, key: str) -> None:
        _without(tree, key)

    def test_without_slab_reclaimable_more_counts_as_used(self, tree: Tree) -> None:
        web = tree.container("web", usage=60 * MIB, slab=10 * MIB)
        assert Looked(tree).memory("web").used_bytes == 50 * MIB
        stat = web.file("memory.stat")
        stat.write_text(stat.read_text().replace("slab_reclaimable", "slab_renamed"))
        assert Looked(tree).memory("web").used_bytes == 60 * MIB


def _without(tree: Tree, key: str) -> None:
    web = tree.container("web")
    stat = web.file("memory.stat")
    lines = [line for line in stat.read_text().splitlines(True) if not line.startswith(key + " ")]
    stat.write_text("".join(lines))
    with pytest.raises(CannotObserve, match="memory.stat lacks "):
        Looked(tree).memory("web")


class TestFrozen:
    @pytest.mark.parametrize("frozen", [True, False])
    @pytest.mark.parametrize("nested", [True, False])
    def test_told(self, any_tree: Tree, frozen: bool, nested: bool) -> None:
        any_tree.container("web", frozen=frozen, nested_systemd=nested)
        assert Looked(any_tree).is_frozen("web") is frozen

    def test_recorded(self, tree: Tree) -> None:
        tree.recorded("v2-frozen", "cpu")
        tree.recorded("v2-nested-systemd", "sysd", proc="systemd-init")
        assert Looked(tree).is_frozen("cpu")
        assert not Looked(tree).is_frozen("sysd")

    @pytest.mark.parametrize("family", ["dir", "lxc@.service"])
    def test_a_left_over_directory_is_not_asked(self, any_tree: Tree, family: str) -> None:
        any_tree.stale("web")
        any_tree.container("web", family=family, frozen=True)
        assert Looked(any_tree).is_frozen("web")

    def test_hybrid_v1_is_frozen_while_v2_says_not(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path, "hybrid")
        web = tree.container("web", frozen=True)
        assert web.file("cgroup.events").read_text() == "populated 1\nfrozen 0\n"
        assert Looked(tree).is_frozen("web")

    def test_hybrid_v2_is_frozen_while_v1_says_not(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path, "hybrid")
        tree.container("web").write("cgroup.events", "populated 1\nfrozen 1\n")
        assert Looked(tree).is_frozen("web")

    def test_hybrid_without_a_directory_in_v2(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path, "hybrid")
        web = tree.container("web")
        shutil.rmtree(web.directory(""))
        assert not Looked(tree).is_frozen("web")

    @pytest.mark.parametrize("content", ["", "THAWED", "FROZ\n", "\n", "frozen\n"])
    def test_a_broken_freezer_state(self, tmp_path: Path, content: str) -> None:
        tree = Tree(tmp_path, "v1")
        tree.container("web").write("freezer.state", content)
        with pytest.raises(CannotObserve):
            Looked(tree).is_frozen("web")

    def test_a_kernel_that_does_not_tell(self, tree: Tree) -> None:
        tree.container("web").write("cgroup.events", "populated 1\n")
        with pytest.raises(CannotObserve, match="5.2"):
            Looked(tree).is_frozen("web")


def test_no_cgroups_in_mountinfo_is_said(tree: Tree) -> None:
    tree.write("/proc/1/mountinfo", "22 27 0:20 / /sys rw - sysfs sysfs rw\n")
    with pytest.raises(CannotObserve, match="shows no cgroup filesystem"):
        Cgroups(Host(str(tree.root)))
    tree.at("/proc/1/mountinfo").unlink()
    with pytest.raises(CannotObserve, match="which tells where the cgroups are"):
        Cgroups(Host(str(tree.root)))


def test_an_error_is_not_forgotten_the_second_time(tmp_path: Path) -> None:
    """A directory that can't be listed is as unknown for the second container as for the first."""
    tree = Tree(tmp_path, "v2")
    tree.container("a", family="lxc/")
    tree.container("b", family="lxc/")
    looked = Looked(tree)
    looked.host.list = _refusing(looked.host.list, "/sys/fs/cgroup/lxc")  # type: ignore[method-assign]
    hierarchy = looked.cgroups.hierarchy("memory")
    assert hierarchy is not None
    for name in ("a", "b"):
        with pytest.raises(CannotObserve, match="refused"):
            looked.cgroups.live_places(name, hierarchy)


def _refusing(real: object, refused: str) -> object:
    def listing(path: str) -> list[str]:
        if path == refused:
            raise CannotObserve("refused")
        return real(path)  # type: ignore[operator, no-any-return]

    return listing


def test_a_cgroup_that_is_removed_meanwhile_hides_no_other(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are tried once, but what was there and is gone is not known to be a file."""
    for name in ("one/busy", "other/busy"):
        tree.write(f"/sys/fs/cgroup/{name}/cgroup.procs", "")
    host = Host(str(tree.root))
    cgroups = Cgroups(host)
    whole = Host.has
    monkeypatch.setattr(Host, "has", lambda self, path: "/one/busy" not in path and whole(self, path))
    monkeypatch.setattr(
        Host, "is_file", lambda self, path: "/one/busy" not in path and Path(host.root + path).is_file()
    )
    assert cgroups.subgroups("/sys/fs/cgroup/one") == []
    assert cgroups.subgroups("/sys/fs/cgroup/other") == ["busy"]


class TestWhoseChild:
    """Whoever claims to be the monitor of an orphan's init is not its parent, which is whoever adopts orphans."""

    @pytest.mark.parametrize(
        ("parent", "name", "uid", "is_child"),
        [
            (2000, "lxc-start", 0, True),
            (2000, "lxc-start", 1000, False),
            (1, "systemd", 0, False),
            (1, "lxc-start", 0, True),  # lxc-start -F as the first process of a container or a pid namespace
            (1, "lxc-start", 1000, False),
        ],
    )
    def test_of_a_process(self, tree: Tree, parent: int, name: str, uid: int, is_child: bool) -> None:
        for pid, above, called in ((parent, 0, name), (3000, parent, "init")):
            status = f"Name:\t{called}\nPid:\t{pid}\nPPid:\t{above}\nUid:\t0\t0\t0\t0\n"
            tree.write(f"/proc/{pid}/status", status)
        assert Cgroups(Host(str(tree.root)))._is_child_of(3000, uid) is is_child
