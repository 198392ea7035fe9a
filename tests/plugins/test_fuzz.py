"""Every file that is read, damaged: never a traceback, and never OK by what could not be read.

For each damage the outcome is what it was before, or it is not OK; and where a container was full before, no damage
makes the whole check OK.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from check_container_memory import CheckContainerMemory
from check_container_state import CheckContainerState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sensu_lxc import measuring
from sensu_lxc.errors import CannotObserve
from sensu_lxc.findings import State, worst
from sensu_lxc.plugin import Misuse
from sensu_lxc.render import report

from tests.plugins.running import run
from tests.plugins.trees import MIB, Tree, files_of

CHECKS = {
    "memory": (CheckContainerMemory, []),
    "swap": (CheckContainerMemory, ["--metric", "swap"]),
    "state": (CheckContainerState, []),
}
Outcome = tuple[State, dict[str, tuple[State, Any]]]


def outcome(check: str, root: Path, arguments: list[str]) -> Outcome:
    """(the state, {container: its state and numbers}); anything but the two errors of ours is a bug."""
    kind, more = CHECKS[check]
    try:
        one = kind(["--root", str(root), *more, *arguments])
        findings = list(one.findings())
        text = report("Check", worst(findings), findings, one.notes, one.measures, True)
    except (CannotObserve, Misuse) as problem:
        assert str(problem)
        return State.UNKNOWN, {}
    assert text.count("|") <= 1
    return worst(findings), {one.subject: (one.state, one.measures) for one in findings}


def build(root: Path, layout: str) -> Tree:
    """A host with one of each kind."""
    tree = Tree(root, layout)
    tree.container("web", usage=40 * MIB, inactive_file=4 * MIB, slab=MIB, swap=MIB, swap_limit=64 * MIB)
    tree.container(
        "deep", family="dir", usage=40 * MIB, limit=None, parent_limit=64 * MIB, swap=MIB, nested_systemd=True
    )
    tree.stale("twin")
    tree.container("twin", suffix="-1", usage=40 * MIB, swap=MIB)
    return tree


# Not the kernel's files. What stands in them is a person's, and no one can know what it should be.
CONFIG = "/config"
NAMES = ["web", "deep", "twin"]


def relevant(tree: Tree) -> list[str]:
    """The files of the tree, without those that are only there for looks."""
    unread = ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/systemd")
    return [
        path
        for path in files_of(tree)
        if not path.startswith(unread) and not path.endswith(("/tasks", "/notify_on_release", "/uptime"))
    ]


def _folder() -> str:
    # In memory where that is there: thousands of small files are written.
    return tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


class Damaged:
    """A tree to be damaged and healed, once for each layout: making it is what costs."""

    def __init__(self, layout: str) -> None:
        self.folder = _folder()
        self.tree = build(Path(self.folder), layout)
        self.files = relevant(self.tree)
        self.before = {check: outcome(check, self.tree.root, ["-n", ",".join(NAMES)]) for check in CHECKS}

    def judge(self, check: str, path: str, content: bytes | None | str) -> None:
        """Replace one file (None: remove, "dir": make it a directory), look, and heal."""
        file = self.tree.at(path)
        whole = file.read_bytes()
        file.unlink()
        try:
            if content == "dir":
                file.mkdir()
            elif isinstance(content, bytes):
                file.write_bytes(content)
            after = outcome(check, self.tree.root, ["-n", ",".join(NAMES)])
        finally:
            if file.is_dir():
                file.rmdir()
            file.write_bytes(whole)
        self.compare(check, after, f"{check}: {path}: {whole[:80]!r} became {content!r:.200}")

    def compare(self, check: str, after: Outcome, what: str) -> None:
        """The outcome is as before, or not OK."""
        state, findings = after
        if state is not State.OK:
            return
        for name in NAMES:
            assert findings.get(name, (None, None))[0] is State.OK, what
            if check != "state":
                ours, theirs = self.before[check][1][name][1], findings[name][1]
                # A reading that errs upwards (a cache that is not told) alarms too early rather than too late.
                assert theirs == ours or theirs[0].value > ours[0].value, what


@pytest.fixture
def in_memory() -> Iterator[Path]:
    folder = _folder()
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=["v1", "hybrid", "v2"])
def damaged(request: pytest.FixtureRequest) -> Any:
    one = Damaged(request.param)
    yield one
    shutil.rmtree(one.folder)


def test_all_is_well_before(damaged: Damaged) -> None:
    for check, (state, findings) in damaged.before.items():
        assert state is State.OK, (check, findings)
        assert set(findings) >= set(NAMES)


@pytest.mark.parametrize("check", CHECKS)
def test_each_file_missing_or_a_directory_or_empty(damaged: Damaged, check: str) -> None:
    for path in damaged.files:
        for content in (None, "dir", b"", b"\xff\xfe\n"):
            if (
                content is None
                and path.rpartition("/")[2] in ("memory.max", "memory.swap.max")
                and "gold/memory" in path
            ):
                continue  # the kernel has it where the children do; without it there the controller is off
            damaged.judge(check, path, content)


@pytest.mark.parametrize("check", CHECKS)
def test_each_file_cut_off(damaged: Damaged, check: str) -> None:
    """Within a line: half a number is another number."""
    for path in damaged.files:
        whole = damaged.tree.at(path).read_bytes()
        ends = {len(whole) - 1, len(whole) - 2, len(whole) // 2, len(whole) // 3, 1}
        for end in sorted(end for end in ends if 0 < end < len(whole)):
            if whole[end - 1 : end] != b"\n" and CONFIG not in path:
                damaged.judge(check, path, whole[:end])


DAMAGE = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"max\n", b"-1\n", b"0x10\n", b" 5\n", b"5 \n", b"9" * 30 + b"\n", b"9" * 5000 + b"\n", b"nan\n"]),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("check", CHECKS)
def test_random_bytes_leave_no_traceback(damaged: Damaged, check: str, data: st.DataObject) -> None:
    """Any bytes: a valid number among them is a number, so only what is raised is looked at."""
    path = data.draw(st.sampled_from(damaged.files))
    file = damaged.tree.at(path)
    whole = file.read_bytes()
    kind = data.draw(st.sampled_from(["replace", "insert", "cut", "flip"]))
    at = data.draw(st.integers(0, len(whole)))
    noise = data.draw(DAMAGE)
    damage = {
        "replace": noise,
        "insert": whole[:at] + noise + whole[at:],
        "cut": whole[:at] + whole[at + len(noise) :],
        "flip": bytes(byte ^ (1 << at % 8) if index == at else byte for index, byte in enumerate(whole)),
    }[kind]
    try:
        file.write_bytes(damage)
        outcome(check, damaged.tree.root, data.draw(st.sampled_from([[], ["-n", "web"], ["-n", "*"], ["-v"]])))
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("check", CHECKS)
def test_directories_that_vanish(damaged: Damaged, check: str) -> None:
    """A whole cgroup, /proc entry or definition goes: what it stood for is never OK by it."""
    folders = sorted({path.rpartition("/")[0] for path in damaged.files})
    for folder in folders:
        away = Path(damaged.folder) / "away"
        damaged.tree.at(folder).rename(away)
        try:
            after = outcome(check, damaged.tree.root, ["-n", ",".join(NAMES)])
        finally:
            damaged.tree.at(folder).parent.mkdir(parents=True, exist_ok=True)
            away.rename(damaged.tree.at(folder))
        damaged.compare(check, after, f"{check}: {folder} vanished")


@pytest.mark.parametrize("layout", ["v1", "hybrid", "v2"])
@pytest.mark.parametrize("how", [{}, {"family": "dir"}, {"nested_systemd": True}, {"suffix": "-1"}])
def test_no_damage_makes_a_full_container_ok(in_memory: Path, layout: str, how: dict[str, Any]) -> None:
    """Nothing is asked for by name here: what is lost must be missed all the same."""
    tree = Tree(in_memory, layout)
    tree.stale("other")
    if "suffix" in how:
        tree.stale("web")
    tree.container("web", usage=64 * MIB, **how)
    assert outcome("memory", tree.root, [])[0] is State.CRITICAL
    for path in relevant(tree):
        file = tree.at(path)
        whole = file.read_bytes()
        for content in (None, b"", whole[:-1], whole[: len(whole) // 2], b"\0" + whole, b"0\n"):
            if path.endswith(("memory.current", "memory.usage_in_bytes")) and content == b"0\n":
                continue  # a number is a number
            file.unlink()
            if content is not None:
                file.write_bytes(content)
            state = outcome("memory", tree.root, [])[0]
            file.write_bytes(whole)
            assert state is not State.OK, f"{path}: {whole[:60]!r} became {content!r:.80}"


@settings(max_examples=150)
@given(
    st.lists(
        st.sampled_from(["-w", "-c", "-e", "-n", "--exclude", "-P", "--metric", "--timeout", "-v"])
        | st.text(max_size=12),
        max_size=6,
    )
)
def test_random_arguments(arguments: list[str]) -> None:
    if "-h" in arguments or any(word.startswith(("-h", "--h", "-vh", "--root")) for word in arguments):
        return
    for check in ("memory", "state"):
        outcome(check, _healthy().root, arguments)


_KEPT: list[Tree] = []


def _healthy() -> Tree:
    if not _KEPT:
        _KEPT.append(build(Path(_folder()), "v2"))
    return _KEPT[0]


@given(
    st.text(alphabet="0123456789.%kMGiB:@~", max_size=8),
    st.text(alphabet="0123456789.%kMGiB:@~", max_size=8),
)
def test_random_thresholds_judge_or_are_refused(warning: str, critical: str) -> None:
    outcome("memory", _healthy().root, ["-w", warning, "-c", critical])


@settings(max_examples=12)
@given(st.sampled_from(["/proc/1/net/unix", "/proc/1/mountinfo", "/proc/meminfo"]), DAMAGE)
def test_a_sample_as_a_process(path: str, damage: bytes) -> None:
    """The fence holds around all of it."""
    tree = _healthy()
    whole = tree.at(path).read_bytes()
    try:
        tree.at(path).write_bytes(damage)
        for script in ("check_container_memory.py", "check_container_state.py"):
            run(script, tree).well_formed()
    finally:
        tree.at(path).write_bytes(whole)


@pytest.fixture(scope="module", autouse=True)
def _clean() -> Any:
    # What is damaged here stays so: no need to wait for a reboot's end.
    waited, measuring.REBOOT_SECONDS = measuring.REBOOT_SECONDS, 0
    yield
    measuring.REBOOT_SECONDS = waited
    while _KEPT:
        shutil.rmtree(_KEPT.pop().root.parent)
