"""check_container_disk.py: judged in-process, seen from outside on made hosts, whose filesystems are this machine's."""

from __future__ import annotations

import pytest
from check_container_disk import judge
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc.disk import Disk
from sensu_lxc.findings import State
from sensu_lxc.levels import Levels, threshold

from tests.plugins import running
from tests.plugins.running import Output
from tests.plugins.test_disk import LOOP, ROOT, mounted
from tests.plugins.trees import Tree

GIB = 1 << 30
SCRIPT = "check_container_disk.py"
DEFAULT = Levels(threshold("80%"), threshold("90%"))


def run(tree: Tree | None, *arguments: str) -> Output:
    return running.run(SCRIPT, tree, *arguments).well_formed()


def disk(used: float = 1, available: float = 9, **values: object) -> Disk:
    given = {
        "path": "/", "kind": "ext4", "source": "/dev/vda", "device": "254:0", "shared_with_host": False,
        "quota_bytes": None, "used_bytes": round(used * GIB), "available_bytes": round(available * GIB),
        "used_inodes": 100, "available_inodes": 900,
    }  # fmt: skip
    return Disk(**{**given, **values})


class TestJudge:
    @pytest.mark.parametrize(
        ("used", "expected"),
        [(1, "OK"), (7.99, "OK"), (8, "WARNING"), (8.99, "WARNING"), (9, "CRITICAL"), (10, "CRITICAL")],
    )
    def test_bytes(self, used: float, expected: str) -> None:
        assert judge("web", disk(used, 10 - used), DEFAULT, DEFAULT).state.name == expected

    @pytest.mark.parametrize(("used", "expected"), [(799, "OK"), (800, "WARNING"), (900, "CRITICAL")])
    def test_inodes(self, used: int, expected: str) -> None:
        finding = judge("web", disk(used_inodes=used, available_inodes=1000 - used), DEFAULT, DEFAULT)
        assert finding.state.name == expected

    def test_sizes(self) -> None:
        levels = Levels(threshold("1G"), threshold("2G"))
        assert judge("web", disk(1.5), levels, DEFAULT).state is State.WARNING
        assert judge("web", disk(2), levels, DEFAULT).state is State.CRITICAL

    def test_a_forgotten_percent_sign_shows(self) -> None:
        levels = Levels(threshold("80"), threshold("90"))
        said = str(judge("web", disk(8.5, 1.5, used_inodes=950, available_inodes=50), levels, levels))
        assert "(critical at 90 bytes; 90% would be of the disk)" in said
        assert "(critical at 90 inodes; 90% would be of all)" in said

    def test_the_worse_counts_and_both_are_told(self) -> None:
        finding = judge("web", disk(8.5, 1.5, used_inodes=950, available_inodes=50), DEFAULT, DEFAULT)
        assert str(finding) == (
            "web: 8.5 GiB used, 85.0% of 10.0 GiB (warning at 80%), 95.0% of 1000 inodes (critical at 90%), ext4"
        )
        assert (finding.state, finding.urgency) == (State.CRITICAL, 95)

    def test_what_root_alone_may_write_counts_as_in_df(self) -> None:
        # 5% of 100 GiB are reserved: with nothing left for users it is full.
        assert judge("web", disk(95, 0), DEFAULT, DEFAULT).urgency == 100

    def test_no_inodes_to_tell_of(self) -> None:
        finding = judge("web", disk(kind="btrfs", used_inodes=None, available_inodes=None), DEFAULT, DEFAULT)
        assert str(finding) == "web: 1.0 GiB used, 10.0% of 10.0 GiB, btrfs"
        assert [measure.label for measure in finding.measures] == ["disk"]

    @pytest.mark.parametrize(
        ("shared", "others", "words"),
        [
            (False, 0, ", ext4"),
            (True, 0, ", ext4 shared with the host"),
            (True, 1, ", ext4 shared with the host and 1 other container"),
            (False, 2, ", ext4 shared with 2 other containers"),
        ],
    )
    def test_whose_it_is(self, shared: bool, others: int, words: str) -> None:
        assert str(judge("web", disk(shared_with_host=shared), DEFAULT, DEFAULT, others)).endswith(words)

    def test_a_quota(self) -> None:
        finding = judge("web", disk(quota_bytes=10 * GIB), DEFAULT, DEFAULT, 7)
        assert str(finding).endswith("ext4 with a quota of 10.0 GiB")

    def test_another_place_has_labels_of_its_own(self) -> None:
        finding = judge("web", disk(path="/srv/a b"), DEFAULT, DEFAULT)
        assert str(finding).startswith("web: /srv/a b: 1.0 GiB used")
        assert [measure.label for measure in finding.measures] == ["disk_/srv/a b", "inodes_/srv/a b"]

    @given(*[st.integers(0, 2**70)] * 4)
    def test_any_number(self, used: int, available: int, inodes: int, left: int) -> None:
        finding = judge(
            "web",
            disk(used_bytes=used, available_bytes=available, used_inodes=inodes, available_inodes=left),
            DEFAULT,
            DEFAULT,
        )
        assert finding.words
        assert (finding.state is State.CRITICAL) >= (available == 0 < used or left == 0 < inodes)


class TestOnAHost:
    def test_a_container(self, any_tree: Tree) -> None:
        mounted(any_tree, any_tree.container("web"), ROOT)
        done = run(any_tree, "-w", "1", "-c", "1P")
        assert done.status == 1
        assert "ext4 shared with the host" in done.first
        assert int(done.perfdata["web_disk"]["value"]) > 0
        assert set(done.perfdata) <= {"web_disk", "web_inodes"}

    def test_several_share_one(self, tree: Tree) -> None:
        for name, lines in {"a": ROOT, "b": ROOT, "c": LOOP}.items():
            mounted(tree, tree.container(name), lines)
        lines = run(tree, "-v", "-c", "1P").lines[1:]
        shares = {line.split(":")[0].split()[1]: line.partition("ext4")[2] for line in lines}
        both = " shared with the host and 1 other container"
        assert shares == {"a": both, "b": both, "c": ""}

    def test_a_place_in_it(self, tree: Tree) -> None:
        made = tree.container("web")
        mounted(tree, made, ROOT + "91 90 0:9 / /srv/data rw - tmpfs none rw\n")
        tree.at(f"/proc/{made.init}/root/srv/data").mkdir(parents=True)
        done = run(tree, "--path", "/srv/data/", "--path", "/none", "-c", "1P", "-v")
        assert done.status == 3
        assert "web: /none: nothing is mounted there" in done.out
        assert "web: /srv/data: " in done.out
        assert "web_disk_/srv/data" in done.perfdata

    def test_a_link_in_its_place(self, tree: Tree) -> None:
        made = tree.container("web")
        mounted(tree, made, ROOT + "91 90 0:9 / /data rw - tmpfs none rw\n")
        tree.at(f"/proc/{made.init}/root/data").symlink_to("/tmp")
        done = run(tree, "--path", "/data")
        assert (done.status, "hidden by another mount" in done.first) == (3, True)

    def test_one_that_can_not_be_told_costs_the_others_nothing(self, tree: Tree) -> None:
        mounted(tree, tree.container("web"), LOOP)
        mounted(tree, tree.container("odd"), "nonsense\n")
        done = run(tree, "-w", "1", "-c", "1P")
        assert done.status == 3
        assert "UNKNOWN odd: " in done.out
        assert "WARNING web: " in done.out

    def test_what_does_not_run(self, tree: Tree) -> None:
        mounted(tree, tree.container("web"), LOOP)
        tree.container("off", running=False)
        assert run(tree, "-c", "1P").first.endswith("(1 not running)")
        assert "is not running, so it has no disk to measure" in run(tree, "-n", "off").first

    def test_a_recorded_link_to_root_is_not_taken_for_the_containers(self, tree: Tree) -> None:
        made = tree.container("web")
        mounted(tree, made, LOOP)
        tree.at(f"/proc/{made.init}/root").rmdir()
        tree.at(f"/proc/{made.init}/root").symlink_to("/")
        assert run(tree, "-c", "1P").status == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--path", "data"], "no mount point"),
        (["--path", "/a/../b"], "no mount point"),
        (["--path", "/a", "--path", "/a/"], "given twice"),
        (["--inodes-warning", "90%", "--inodes-critical", "80%"], "exchange them"),
        (["-w", "90%", "-c", "80%"], "exchange them"),
        (["-w", "180%"], "never reached"),
    ],
)
def test_misuse(tree: Tree, arguments: list[str], words: str) -> None:
    assert words in run(tree, *arguments).misuse()
