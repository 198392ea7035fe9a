"""check_container_io.py: judged in-process, on a clock that the tests move, and seen from outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_container_io import NOTHING, CheckContainerIo, Rates, judge, number_of, per_second
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc.errors import CannotObserve
from sensu_lxc.findings import State, worst
from sensu_lxc.host import Host
from sensu_lxc.levels import Levels, threshold
from sensu_lxc.options import Misuse

from tests.plugins.clock import Clock, Runs, values
from tests.plugins.running import Output, run
from tests.plugins.test_accounting import lies_on, sysfs
from tests.plugins.trees import MIB, Container, Tree

OK, WARNING, CRITICAL, UNKNOWN = State


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def did(container: Container, **devices: tuple[int, int, int, int]) -> None:
    """Have it read and write: sda=(bytes read, bytes written, reads, writes), sda being 8:0 and root 253:0."""
    numbers = {"sda": "8:0", "sdb": "8:16", "root": "253:0"}
    if "blkio" not in container.tree.mounts:
        lines = [
            f"{numbers[name]} rbytes={rbytes} wbytes={wbytes} rios={rios} wios={wios} dbytes=0 dios=0\n"
            for name, (rbytes, wbytes, rios, wios) in devices.items()
        ]
        container.write("io.stat", "".join(lines))
        return
    for file, column in (("io_service_bytes", 0), ("io_serviced", 2)):
        lines = [
            f"{numbers[name]} Read {counts[column]}\n{numbers[name]} Write {counts[column + 1]}\n"
            f"{numbers[name]} Discard 99\n{numbers[name]} Total {sum(counts[column : column + 2]) + 99}\n"
            for name, counts in devices.items()
        ]
        container.write(f"blkio.throttle.{file}_recursive", "".join(lines) + "Total 0\n")


def io(tree: Tree, *arguments: str) -> Output:
    folder = str(tree.root.parent / "state")
    return run("check_container_io.py", tree, "--state-dir", folder, "--sample", "10ms", *arguments).well_formed()


class TestJudge:
    RATES = Rates(30 * MIB, 20 * MIB, 100.0, 50.0, 60.0)

    @pytest.mark.parametrize(
        ("sizes", "operations", "expected"),
        [
            ((None, None), (None, None), OK),
            (("50M", "51M"), (None, None), WARNING),
            (("51M", None), ("150", "151"), WARNING),
            (("50M", None), (None, "150"), CRITICAL),
            (("10M", "50M"), ("150", None), CRITICAL),
            (("60M:", None), (None, None), WARNING),  # a database that writes nothing any more
        ],
    )
    def test_levels(
        self, sizes: tuple[str | None, str | None], operations: tuple[str | None, str | None], expected: State
    ) -> None:
        pairs = (Levels(*(one and threshold(one) for one in pair)) for pair in (sizes, operations))
        assert judge("web", self.RATES, *pairs).state is expected

    def test_the_sentence(self) -> None:
        finding = judge("web", self.RATES, Levels(None, threshold("50M")), Levels(threshold("100"), None), "sda")
        assert str(finding) == (
            "web: sda read 30.0 MiB/s and wrote 20.0 MiB/s (critical at 50M), "
            "150 operations/s (warning at 100), over 60 s"
        )
        assert values(finding) == {
            "sda_io": 50 * MIB, "sda_read": 30 * MIB, "sda_written": 20 * MIB,
            "sda_operations": 150, "sda_reads": 100, "sda_writes": 50,
        }  # fmt: skip
        assert [one.warning + one.critical for one in finding.measures] == [str(50 * MIB), "", "", "100", "", ""]

    def test_nothing_at_all(self) -> None:
        finding = judge("web", per_second([], 60.0), NOTHING, NOTHING)
        assert str(finding) == "web: read 0 B/s and wrote 0 B/s, 0 operations/s, over 60 s"


class TestFromRunToRun:
    def test_everywhere(self, any_tree: Tree, clock: Clock, tmp_path: Path) -> None:
        web = any_tree.container("web")
        did(web, sda=(1, 1, 1, 1))
        run = Runs(CheckContainerIo, any_tree, tmp_path, "-w", "50M", "-c", "60M")
        run()
        clock.now += 60
        did(web, sda=(1 + 60 * 30 * MIB, 1 + 60 * 20 * MIB, 1 + 6000, 1 + 3000))
        finding = run.one()
        assert finding.state is WARNING
        assert values(finding) == {
            "io": 50 * MIB, "read": 30 * MIB, "written": 20 * MIB, "operations": 150, "reads": 100, "writes": 50
        }  # fmt: skip

    def test_several_disks(self, any_tree: Tree, clock: Clock, tmp_path: Path) -> None:
        sysfs(any_tree, sda="8:0", sdb="8:16", root="253:0")
        lies_on(any_tree, "root", "sda")
        web = any_tree.container("web")
        did(web, sda=(1, 1, 1, 1), sdb=(1, 1, 1, 1), root=(1, 1, 1, 1))
        run = Runs(CheckContainerIo, any_tree, tmp_path)
        run()
        clock.now += 10
        did(web, sda=(101, 1, 11, 1), sdb=(1, 301, 1, 31), root=(101, 1, 11, 1))
        finding = run.one()
        assert values(finding) == {"io": 40, "read": 10, "written": 30, "operations": 4, "reads": 1, "writes": 3}
        assert ("most on sdb" if any_tree.layout == "v2" else "/s on sda, sdb, 4 operations") in str(finding)

    def test_one_disk_by_itself(self, any_tree: Tree, clock: Clock, tmp_path: Path) -> None:
        """Also one whose I/O is counted in that of the disk beneath it."""
        sysfs(any_tree, sda="8:0", root="253:0")
        lies_on(any_tree, "root", "sda")
        web = any_tree.container("web")
        did(web, sda=(1, 1, 1, 1), root=(1, 1, 1, 1))
        clock.meanwhile = lambda: did(web, sda=(501, 1, 6, 1), root=(301, 1, 4, 1))
        run = Runs(CheckContainerIo, any_tree, tmp_path, "--device", "root", "--device", "8:0", "--device", "/dev/sda")
        root, sda = (list(values(one).items()) for one in run())
        assert root[:4] == [("root_io", 600), ("root_read", 600), ("root_written", 0), ("root_operations", 6)]
        assert sda[:4] == [("sda_io", 1000), ("sda_read", 1000), ("sda_written", 0), ("sda_operations", 10)]

    def test_a_disk_on_which_it_did_nothing(self, any_tree: Tree, clock: Clock, tmp_path: Path) -> None:
        sysfs(any_tree, sda="8:0", sdb="8:16")
        did(any_tree.container("web"), sda=(1, 1, 1, 1))
        finding = Runs(CheckContainerIo, any_tree, tmp_path, "--device", "sdb").one()
        if any_tree.layout == "v2":
            assert (finding.state, values(finding)["sdb_io"]) == (OK, 0)
        else:
            assert (finding.state, "counts none of its I/O on sdb" in str(finding)) == (UNKNOWN, True)

    def test_its_first_on_a_disk(self, any_tree: Tree, clock: Clock, tmp_path: Path) -> None:
        web = any_tree.container("web")
        did(web, sda=(1, 1, 1, 1))
        clock.meanwhile = lambda: did(web, sda=(1, 1, 1, 1), sdb=(0, 500, 0, 5))
        finding = Runs(CheckContainerIo, any_tree, tmp_path).one()
        assert values(finding)["written"] == 1000

    def test_a_disk_that_was_exchanged(self, any_tree: Tree, clock: Clock, tmp_path: Path) -> None:
        web = any_tree.container("web")
        did(web, sda=(1000, 1, 1, 1))
        run = Runs(CheckContainerIo, any_tree, tmp_path)
        run()
        clock.now += 60
        did(web, sda=(10, 1, 1, 1))
        finding = run.one()
        assert (finding.state, "of 8:0 began anew" in str(finding)) == (UNKNOWN, True)
        clock.now += 60
        assert run.one().state is OK


class TestUnavailable:
    @pytest.mark.parametrize("layout", ["v1", "v1-joined", "hybrid"])
    def test_v1_without_a_limit(self, tmp_path: Path, layout: str) -> None:
        tree = Tree(tmp_path, layout)
        tree.container("web")
        for arguments in ([], ["-n", "web"], ["-c", "1"], ["--count", "3"]):
            done = io(tree, *arguments)
            assert (done.status, "counts no I/O of it" in done.first, done.perfdata) == (3, True, {}), done.out

    def test_the_same_of_many_is_said_once(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path, "v1")
        for number in range(5):
            tree.container(f"c{number}")
        did(tree.container("db"), sda=(1, 1, 1, 1))
        done = io(tree)
        assert done.status == 3
        assert ": each of 5 containers (c0, c1, c2 and 2 more): the kernel counts no I/O of it: on cgroup" in done.first
        assert done.first.endswith("and the same of read, and 1 more OK")
        assert done.out.count("the kernel counts no I/O") == 2  # in the first line, and below
        assert io(tree, "-v").out.count("UNKNOWN c") == 5

    def test_v2_without_the_controller(self, tree: Tree) -> None:
        tree.container("web").file("io.stat").unlink()
        done = io(tree)
        assert (done.status, "io controller is not enabled" in done.first, done.perfdata) == (3, True, {}), done.out

    def test_it_costs_the_others_nothing(self, tree: Tree) -> None:
        tree.container("web").file("io.stat").unlink()
        tree.container("db")
        labels = ("io", "read", "written", "operations", "reads", "writes")
        assert set(io(tree).perfdata) == {f"db_{label}" for label in labels}

    def test_what_does_not_run(self, tree: Tree) -> None:
        tree.container("off", running=False)
        done = io(tree, "-n", "off")
        assert (done.status, "is not running, so it has no I/O to measure" in done.first) == (3, True)


class TestOptions:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["-w", "80%"], "no limit that it could be a percentage of"),
            (["--operations-critical", "80%"], "no limit that it could be a percentage of"),
            (["-w", "2M", "-c", "1M"], "lies above"),
            (["--operations-warning", "2", "--operations-critical", "1"], "lies above"),
        ],
    )
    def test_misuse(self, arguments: list[str], words: str) -> None:
        with pytest.raises(Misuse, match=words):
            CheckContainerIo(arguments)

    @pytest.mark.parametrize("name", ["sda", "8:0", "/dev/sda", "/dev/vg0/data", "/dev/disk/by-id/x"])
    def test_names_of_one_disk(self, tree: Tree, name: str) -> None:
        sysfs(tree, sda="8:0")
        for link in ("/dev/vg0/data", "/dev/disk/by-id/x"):
            tree.at(link).parent.mkdir(parents=True)
            tree.at(link).symlink_to("/dev/sda")
        assert number_of(Host(str(tree.root)), name) == "8:0"

    @pytest.mark.parametrize("name", ["sdb", "9:9", "/dev/sdb", "..", "", "/", "a/b", "1", "\0"])
    def test_no_such_disk(self, tree: Tree, name: str) -> None:
        sysfs(tree, sda="8:0")
        tree.container("web")
        with pytest.raises(CannotObserve):
            number_of(Host(str(tree.root)), name)
        if "\0" not in name:
            assert io(tree, "--device", name).status == 3

    def test_a_partition(self, tree: Tree) -> None:
        sysfs(tree, sda="8:0", sda1="8:1")
        tree.write("/sys/class/block/sda1/partition", "1\n")
        with pytest.raises(CannotObserve, match="sda1 is a partition"):
            number_of(Host(str(tree.root)), "sda1")


FILES = {
    "v1": ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
    "v2": ("io.stat",),
}


@pytest.mark.parametrize("layout", FILES)
def test_garbage_is_never_ok(tmp_path: Path, layout: str) -> None:
    tree = Tree(tmp_path, layout)
    web = tree.container("web")

    @given(name=st.sampled_from(FILES[layout]), garbage=st.binary(max_size=60).filter(lambda raw: raw.strip()))
    def look(name: str, garbage: bytes) -> None:
        did(web, sda=(1, 1, 1, 1))
        web.write(name, garbage)
        arguments = ["--root", str(tree.root), "--sample", "1ms", "--state-dir", str(tmp_path / "state")]
        assert worst(CheckContainerIo(arguments).findings()) is UNKNOWN

    look()
