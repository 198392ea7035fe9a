"""history.py: what is believed of a previous run, and from whom."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc import history
from sensu_lxc.errors import CannotObserve
from sensu_lxc.history import History, Past, differences
from sensu_lxc.host import Host
from sensu_lxc.state_dir import own_folder

from tests.plugins.running import run
from tests.plugins.trees import Tree

PAST = Past(77, 0.0, {"": (1, 2)}, (3, 1))
BOOT = "/proc/sys/kernel/random/boot_id"


class Clock:
    now = 10000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Clock]]:
    Clock.now = 10000.0
    monkeypatch.setattr(history, "monotonic", lambda: Clock.now)
    yield Clock


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def of(tree: Tree, folder: str, *arguments: str, script: str = "check.py") -> History:
    return History(Host(str(tree.root)), folder, script, arguments)


def remember(tree: Tree, folder: str, *arguments: str, past: Past = PAST, name: str = "/c/web") -> Path:
    """Save what was seen now; returns the file."""
    one = of(tree, folder, *arguments)
    one.keep(name, past._replace(at=Clock.now))
    one.save()
    (file,) = [entry for entry in Path(folder).iterdir() if entry.name.startswith("check.py-")]
    return file


def test_what_was_kept_is_there_in_the_next_run(tree: Tree, folder: str) -> None:
    assert of(tree, folder).before("/c/web") is None
    remember(tree, folder)
    Clock.now += 60
    assert of(tree, folder).before("/c/web") == PAST._replace(at=10000.0)
    assert of(tree, folder).before("/c/other") is None


def test_one_that_is_not_seen_is_forgotten_after_a_week(tree: Tree, folder: str) -> None:
    remember(tree, folder)
    for seconds, is_known in ((60, True), (86400, True), (6 * 86400, False)):
        Clock.now += seconds
        one = of(tree, folder)
        one.keep("/c/db", PAST._replace(at=Clock.now))
        one.save()
        found = of(tree, folder).before("/c/web")
        assert found == (PAST._replace(at=10000.0) if is_known else None)


def test_one_that_is_seen_is_known_however_rarely_anybody_looks(tree: Tree, folder: str) -> None:
    remember(tree, folder)
    Clock.now += 30 * 86400
    assert of(tree, folder).before("/c/web") == PAST._replace(at=10000.0)


def test_whether_there_was_a_run_before(tree: Tree, folder: str) -> None:
    one = of(tree, folder)
    assert one.is_first
    one.save()
    assert not of(tree, folder).is_first
    tree.write(BOOT, "ffffffff-1b2c-4d3e-8f90-123456789abc\n")
    assert not of(tree, folder).is_first, "what it saw is of no use, but all that lives now began since"
    (file,) = Path(folder).iterdir()
    file.write_text("nonsense")
    assert of(tree, folder).is_first


def test_one_that_could_not_be_looked_at(tree: Tree, folder: str) -> None:
    remember(tree, folder)
    one = of(tree, folder)
    for name in ("/c/web", "/c/db"):
        one.miss(name)
    one.save()
    found = [of(tree, folder).before(name) for name in ("/c/web", "/c/db")]
    assert [one and one.was_seen for one in found] == [True, False]


def test_a_run_of_the_future_is_ignored(tree: Tree, folder: str) -> None:
    remember(tree, folder)
    Clock.now -= 1
    assert of(tree, folder).before("/c/web") is None


def test_another_boot(tree: Tree, folder: str) -> None:
    remember(tree, folder)
    tree.write(BOOT, "ffffffff-1b2c-4d3e-8f90-123456789abc\n")
    assert of(tree, folder).before("/c/web") is None


def test_a_host_without_a_boot_id(tree: Tree, folder: str) -> None:
    tree.at(BOOT).unlink()
    remember(tree, folder)
    assert of(tree, folder).before("/c/web") is not None


def test_command_lines_and_scripts_are_apart(tree: Tree, folder: str) -> None:
    remember(tree, folder, "-w", "80%")
    assert of(tree, folder, "-w", "80%").before("/c/web") is not None
    for other in (("-w", "81%"), ("-w80%",), (), ("-w", "80%", "-v")):
        assert of(tree, folder, *other).before("/c/web") is None
    assert of(tree, folder, "-w", "80%", script="other.py").before("/c/web") is None


HOSTILE = [
    "a\tb", "a\nb", "a'b", 'a"b', "a'\"b", "a\\b", "a\\", "\\'", "a=b", "=", "a,b", "", "end", "ü", "\udcff",
    "\u2028", "\x00", "x" * 300, "\\x41", "\U0001f4a9",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(tree: Tree, folder: str, name: str) -> None:
    past = Past(77, 10000.0, {name: (1, 2), "eth0": (3, 4)}, (0, 0))
    file = remember(tree, folder, past=past, name=f"/c/{name}")
    assert of(tree, folder).before(f"/c/{name}") == past
    assert file.read_text().count("\n") == 3


@given(
    names=st.lists(st.text(st.characters(codec=None), max_size=20), max_size=4, unique=True),
    counts=st.tuples(st.integers(0, 2**64), st.integers(0, 2**64)),
    life=st.integers(0, 2**64),
)
def test_whatever_is_kept_comes_back(
    tree: Tree, folder: str, names: list[str], counts: tuple[int, int], life: int
) -> None:
    past = Past(life, 10000.0, dict.fromkeys(names, counts), (7, 0))
    remember(tree, folder, past=past)
    assert of(tree, folder).before("/c/web") == past


class TestDamage:
    def test_cut_off_anywhere(self, tree: Tree, folder: str) -> None:
        file = remember(tree, folder, past=PAST._replace(counters={"eth0": (10, 20), "a'\n": (1,)}))
        whole = file.read_bytes()
        for length in range(len(whole)):
            file.write_bytes(whole[:length])
            assert of(tree, folder).before("/c/web") is None, whole[:length]

    @given(garbage=st.binary(max_size=200))
    def test_garbage(self, tree: Tree, folder: str, garbage: bytes) -> None:
        file = remember(tree, folder)
        file.write_bytes(garbage)
        assert of(tree, folder).before("/c/web") is None

    @given(place=st.integers(0, 400), byte=st.binary(min_size=1, max_size=8))
    def test_one_place_is_garbage(self, tree: Tree, folder: str, place: int, byte: bytes) -> None:
        """Never an error; and the next run puts it right."""
        file = remember(tree, folder, past=PAST._replace(counters={"'\n\\": (10, 20)}))
        whole = file.read_bytes()
        place %= len(whole)
        file.write_bytes(whole[:place] + byte + whole[place + 1 :])
        one = of(tree, folder)
        one.before("/c/web")
        one.keep("/c/web", PAST._replace(at=Clock.now))
        one.save()
        assert of(tree, folder).before("/c/web") == PAST._replace(at=Clock.now)

    @pytest.mark.parametrize(
        "line",
        [
            "'/c/web'", "'/c/web'\t1\t2\t3", "'/c/web'\tx\t2\t0,0", "'/c/web'\t1\tnan\t0,0", "'/c/web'\t1\tinf\t0,0",
            "'/c/web'\t1\t9999\t0", "'/c/web'\t1\t9999\t0,0\t''=", "'/c/web'\t1\t9999\t0,0\t''=1,x",
            "'/c/web'\t1\t9999\t0,0\t'\\x'=1", "'/c/web'\t1\t9999\t0,0\t" + "(" * 5000 + "\\=1",
            "'/c/web'\t1\t9999\t0,0\t''=" + "9" * 5000, "",
        ],
    )  # fmt: skip
    def test_lines_of_nobody(self, tree: Tree, folder: str, line: str) -> None:
        file = remember(tree, folder)
        heading = file.read_text().split("\n")[0]
        file.write_text(f"{heading}\n{line}\nend\n")
        assert of(tree, folder).before("/c/web") is None

    def test_it_is_a_directory(self, tree: Tree, folder: str) -> None:
        file = remember(tree, folder)
        file.unlink()
        file.mkdir()
        one = of(tree, folder)
        assert one.before("/c/web") is None
        with pytest.raises(CannotObserve, match="--state-dir"):
            one.save()
        assert [entry.name for entry in Path(folder).iterdir()] == [file.name], "the temporary file is left over"

    def test_it_is_a_fifo(self, tree: Tree, folder: str) -> None:
        file = remember(tree, folder)
        file.unlink()
        os.mkfifo(file)
        assert of(tree, folder).before("/c/web") is None

    def test_it_is_a_link(self, tree: Tree, folder: str, tmp_path: Path) -> None:
        file = remember(tree, folder)
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
        assert of(tree, folder).before("/c/web") is None
        before = (tmp_path / "elsewhere").read_bytes()
        remember(tree, folder)
        assert not file.is_symlink()
        assert (tmp_path / "elsewhere").read_bytes() == before


class TestFolder:
    def test_it_is_made_for_its_user_alone(self, tree: Tree, folder: str) -> None:
        file = remember(tree, folder)
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    @pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o722])
    def test_one_that_others_can_write_to(self, tree: Tree, folder: str, mode: int) -> None:
        remember(tree, folder)
        os.chmod(folder, mode)
        one = of(tree, folder)
        assert one.before("/c/web") is None
        with pytest.raises(CannotObserve, match="only user .* can write to; --state-dir"):
            one.save()

    def test_a_link(self, tree: Tree, folder: str, tmp_path: Path) -> None:
        remember(tree, folder)
        os.rename(folder, tmp_path / "real")
        os.symlink(tmp_path / "real", folder)
        one = of(tree, folder)
        assert one.before("/c/web") is None
        with pytest.raises(CannotObserve, match="--state-dir"):
            one.save()

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
    def test_somebody_elses(self, tree: Tree, folder: str) -> None:
        file = remember(tree, folder)
        os.chown(folder, 65534, 65534)
        one = of(tree, folder)
        assert one.before("/c/web") is None
        before = file.read_bytes()
        with pytest.raises(CannotObserve, match="--state-dir"):
            one.save()
        assert file.read_bytes() == before

    def test_a_file(self, tree: Tree, folder: str) -> None:
        Path(folder).write_text("")
        one = of(tree, folder)
        with pytest.raises(CannotObserve, match="--state-dir"):
            one.save()

    def test_one_that_can_not_be_made(self, tree: Tree) -> None:
        with pytest.raises(CannotObserve, match="cannot write /proc/sensu-lxc/.*--state-dir"):
            of(tree, "/proc/sensu-lxc").save()

    def test_own_folder_takes_what_is_there(self, folder: str) -> None:
        own_folder(folder)
        own_folder(folder)


def test_runs_at_once_leave_a_whole_file(tree: Tree, folder: str) -> None:
    """Each replaces the file as a whole, whoever is last; a temporary one has its process's number, hence fork."""
    remember(tree, folder)
    ended = threading.Event()
    children = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for _ in range(200):
                    one = of(tree, folder)
                    one.keep("/c/web", Past(number, Clock.now, {"": (number,) * 50}, (0, 0)))
                    one.save()
                status = 0
            finally:
                os._exit(status)
        children.append(pid)

    def wait() -> None:
        statuses.extend(os.waitpid(pid, 0)[1] for pid in children)
        ended.set()

    statuses: list[int] = []
    threading.Thread(target=wait).start()
    while not ended.is_set():
        past = of(tree, folder).before("/c/web")
        assert past is not None
        assert past == PAST._replace(at=10000.0) or past.counters == {"": (past.life,) * 50}
    assert statuses == [0, 0, 0, 0]
    assert len(os.listdir(folder)) == 1


class TestDifferences:
    @pytest.mark.parametrize(
        ("before", "now", "expected"),
        [
            ({"": (1, 2)}, {"": (5, 2)}, (4, 0)),
            ({"": (1, 2)}, {"": (5, 1)}, None),
            ({"": (1, 2)}, {"": (5,)}, None),
            ({}, {"": (5,)}, None),
            ({"": (1,)}, {}, None),
        ],
    )
    def test_of_the_container(
        self, before: dict[str, tuple[int, ...]], now: dict[str, tuple[int, ...]], expected: tuple[int, ...] | None
    ) -> None:
        assert differences(before, now) == expected

    def test_of_an_item(self) -> None:
        assert differences({"eth0": (1,), "": (9,)}, {"eth0": (3,), "": (9,)}, "eth0") == (2,)


class TestPeek:
    """--peek, in every check that remembers anything."""

    LINES = [
        ("check_container_cpu.py", "--count", "2"),
        ("check_container_io.py",),
        ("check_container_network.py",),
        ("check_container_pressure.py",),
        ("check_container_memory.py", "--oom-kills-critical", "1"),
        ("check_container_state.py", "--restarts-critical", "1/1h"),
    ]  # fmt: skip

    @pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
    def test_it_leaves_nothing_behind(self, tree: Tree, tmp_path: Path, line: tuple[str, ...]) -> None:
        web = tree.container("web")
        tree.write(f"/proc/{web.init}/net/dev", "Inter-|\n face |bytes\n  eth0: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n")
        tree.write(f"/proc/{web.init}/stat", f"{web.init} (init) S {'1 ' * 18}500 0 0\n")
        folder = tmp_path / "state"
        arguments = (*line, "--state-dir", str(folder))
        run(arguments[0], tree, *arguments[1:], "--peek").well_formed()
        assert not folder.exists()
        run(arguments[0], tree, *arguments[1:])
        (file,) = folder.iterdir()
        before = file.read_bytes()
        for more in ((), ("--per-container", "--agent", "http://127.0.0.1:1")):
            done = run(arguments[0], tree, *arguments[1:], "--peek", *more).well_formed()
            assert done.first.partition(": ")[2].startswith("web: "), done.first
            assert [one.read_bytes() for one in folder.iterdir()] == [before]

    def test_it_compares_with_the_previous_run(self, tree: Tree, tmp_path: Path) -> None:
        web = tree.container("web")
        arguments = ("--oom-kills-critical", "1", "--state-dir", str(tmp_path / "state"))
        run("check_container_memory.py", tree, *arguments)
        web.write("memory.events", "oom_kill 2\n")
        for more, kills in ((["--peek"], 2), (["--peek", "-v"], 2), ([], 2), (["--peek"], 0)):
            done = run("check_container_memory.py", tree, *arguments, *more).well_formed()
            assert done.perfdata["web_oom_kills"]["value"] == str(kills)
            assert done.status == (2 if kills else 0)
