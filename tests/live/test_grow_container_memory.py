"""grow_container_memory on real containers that run short: grown, kept over a restart, and within its bounds."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.live import lxd_lab
from tests.live.containers import Container, busybox

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "plugins" / "grow_container_memory.py"
MIB = 1 << 20
OK, WARNING, CRITICAL, UNKNOWN = range(4)

pytestmark = pytest.mark.usefixtures("requires_lxc")


class Growing:
    """One container with a limit of 64 MiB and a memory of its own of what was done."""

    def __init__(self, container: Container, state_dir: pathlib.Path) -> None:
        self.container, self.state_dir = container, state_dir

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        maximum = [] if any(one.startswith("--max") for one in arguments) else ["--max=1G"]
        named = ["-n", self.container.name, "-P", self.container.lxcpath]
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), *named, *maximum, f"--state-dir={self.state_dir}", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/",
        )  # fmt: skip

    def run(self, status: int, words: str, *arguments: str) -> str:
        process = self.begin(*arguments)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == status, output
        assert re.match(rf"GrowContainerMemory {('OK', 'WARNING', 'CRITICAL', 'UNKNOWN')[status]}: ", output), output
        assert "Traceback" not in output and "internal error" not in output
        assert words in output, output
        return output

    @property
    def limit(self) -> int:
        folder = self.container.cgroup("memory")
        paths = [f"{folder}/{name}" for name in ("memory.limit_in_bytes", "memory.max")]
        value = pathlib.Path(next(filter(os.path.exists, paths))).read_text().strip()
        return int(value) if value != "max" else 0

    @property
    def config(self) -> pathlib.Path:
        return pathlib.Path(self.container.directory, "config")

    @property
    def kills(self) -> int:
        """OOM kills as the kernel tells them, of all that ever lived in it."""
        folder = pathlib.Path(self.container.cgroup("memory"))
        path = folder / "memory.oom_control"
        text = (path if path.exists() else folder / "memory.events").read_text()
        found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
        assert found
        return int(found.group(1))

    def forget(self) -> None:
        for path in self.state_dir.iterdir():
            path.unlink()


@pytest.fixture
def lxcpath(tmp_path: pathlib.Path) -> Iterator[str]:
    os.chmod(tmp_path, 0o755)
    yield str(tmp_path / "lxc")


@pytest.fixture
def grow(lxcpath: str, tmp_path: pathlib.Path) -> Iterator[Growing]:
    with busybox(lxcpath=lxcpath, limit_bytes=64 * MIB) as container:
        state = tmp_path / "state"
        state.mkdir(mode=0o700)
        yield Growing(container, state)


def test_what_runs_short_gets_more_and_keeps_it(grow: Growing) -> None:
    grow.run(OK, "nothing to grow below 90%")
    assert grow.limit == 64 * MIB
    grow.container.fill(60 * MIB)
    mode = grow.config.stat().st_mode
    grow.run(OK, "grown to 80.0 MiB")
    assert grow.limit == 80 * MIB
    # What it could not have had before, it can have now, and nobody is killed for it.
    grow.container.fill(12 * MIB)
    assert grow.kills == 0
    assert grow.config.stat().st_mode == mode
    text = grow.config.read_text()
    assert f"lxc.cgroup.memory.limit_in_bytes = {80 * MIB}\n" in text
    assert f"lxc.cgroup2.memory.max = {80 * MIB}\n" in text
    assert str(64 * MIB) not in text
    grow.container.stop()
    grow.container.start()
    assert grow.limit == 80 * MIB
    assert not pathlib.Path(f"{grow.config}.sensu-lxc.new").exists()


def test_without_growing_it_would_have_been_killed(grow: Growing) -> None:
    """So that the test above shows something."""
    grow.container.fill(60 * MIB)
    grow.container.run("fallocate", "-l", str(12 * MIB), "/dev/shm/more", check=False)
    # Where its init was among what was killed, it is gone, and what counted with it.
    assert not os.path.exists(grow.container.cgroup("memory")) or grow.kills > 0


def test_once_in_a_while_and_up_to_its_maximum(grow: Growing) -> None:
    grow.container.fill(60 * MIB)
    grow.run(OK, "grown to 66.0 MiB, its maximum", "--max=66M")
    grow.run(WARNING, "at its maximum of 66.0 MiB", "--max=66M")
    grow.run(OK, "and once in 10 min is enough (--cooldown)", "--max=70M")
    assert grow.limit == 66 * MIB
    grow.run(OK, "would be grown to 70.0 MiB", "--max=70M", "--cooldown=1ms", "--dry-run")
    assert grow.limit == 66 * MIB
    grow.run(OK, "grown to 70.0 MiB", "--max=70M", "--cooldown=1ms")
    assert grow.limit == 70 * MIB


def test_killed_between_the_config_and_the_kernel(grow: Growing) -> None:
    """The config comes first: still short, it is grown by the next run, and the config says what it said."""
    grow.container.fill(60 * MIB)
    text = grow.config.read_text().replace(f"= {64 * MIB}\n", f"= {80 * MIB}\n")
    grow.config.write_text(text)
    pathlib.Path(f"{grow.config}.sensu-lxc.new").write_text("half of a config of a run that was killed earlier")
    grow.run(OK, "grown to 80.0 MiB")
    assert grow.limit == 80 * MIB
    assert grow.config.read_text() == text
    assert not pathlib.Path(f"{grow.config}.sensu-lxc.new").exists()


def test_whatever_is_named_where_that_is_asked_for(grow: Growing) -> None:
    grow.run(OK, "grown to 96.0 MiB", "--at=0", "--step=32M")
    assert grow.limit == 96 * MIB


def test_at_the_same_time_it_grows_once(grow: Growing) -> None:
    grow.container.fill(60 * MIB)
    processes = [grow.begin("--step=1M") for _ in range(5)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [OK] * 5, outputs
    assert grow.limit == 65 * MIB


def test_page_cache_is_no_reason(grow: Growing) -> None:
    grow.container.fill_cache(80 * MIB)
    grow.run(OK, "nothing to grow below 90%")


def test_an_odd_size_is_cut_to_pages(grow: Growing) -> None:
    grow.run(OK, "grown to", "--at=0", "--step=5000001")
    assert grow.limit == (64 * MIB + 5000001) // 4096 * 4096


def test_the_host_keeps_its_reserve(grow: Growing) -> None:
    grow.container.fill(60 * MIB)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    grow.run(UNKNOWN, "must remain (--reserve)", f"--reserve={total}")
    assert grow.limit == 64 * MIB
    # It was not grown, so it need not wait.
    grow.run(OK, "grown to 80.0 MiB")


def test_without_a_limit_there_is_nothing_to_grow(lxcpath: str, tmp_path: pathlib.Path) -> None:
    with busybox(lxcpath=lxcpath) as container:
        grow = Growing(container, tmp_path)
        before = grow.config.read_bytes()
        grow.run(OK, "no limit set: nothing to grow", "--at=0")
        assert grow.config.read_bytes() == before


def test_a_limit_that_was_set_by_hand_is_kept_too(lxcpath: str, tmp_path: pathlib.Path) -> None:
    with busybox(lxcpath=lxcpath) as container:
        grow = Growing(container, tmp_path)
        folder = pathlib.Path(container.cgroup("memory"))
        name = "memory.limit_in_bytes" if (folder / "memory.limit_in_bytes").exists() else "memory.max"
        (folder / name).write_text(str(64 * MIB))
        grow.run(OK, "grown to 80.0 MiB", "--at=0")
        container.stop()
        container.start()
        assert grow.limit == 80 * MIB


def test_swap_stays_what_it_was(lxcpath: str, tmp_path: pathlib.Path) -> None:
    lines = ["lxc.cgroup.memory.memsw.limit_in_bytes = 100M"]
    with busybox(lxcpath=lxcpath, limit_bytes=64 * MIB, config_lines=lines) as container:
        grow = Growing(container, tmp_path)
        path = pathlib.Path(container.cgroup("memory"), "memory.memsw.limit_in_bytes")
        if not path.exists():
            pytest.skip("cgroup v2, or no swap accounting")
        assert int(path.read_text()) == 100 * MIB
        grow.run(OK, "grown to 192 MiB", "--at=0", "--step=128M")
        assert (int(path.read_text()), grow.limit) == (228 * MIB, 192 * MIB)
        container.stop()
        container.start()
        assert (int(path.read_text()), grow.limit) == (228 * MIB, 192 * MIB)


def test_an_include_further_down_is_overridden(lxcpath: str, tmp_path: pathlib.Path) -> None:
    more = tmp_path / "more.conf"
    more.write_text("lxc.cgroup.memory.limit_in_bytes = 64M\nlxc.cgroup2.memory.max = 64M\n")
    own = ["lxc.cgroup.memory.limit_in_bytes = 32M", "lxc.cgroup2.memory.max = 32M", f"lxc.include = {more}"]
    with busybox(lxcpath=lxcpath, config_lines=own) as container:
        grow = Growing(container, tmp_path)
        assert grow.limit == 64 * MIB
        grow.run(OK, "grown to 80.0 MiB", "--at=0")
        container.stop()
        container.start()
        assert grow.limit == 80 * MIB
        assert "64M" in more.read_text()


def test_stopped_and_missing_ones(grow: Growing) -> None:
    grow.container.stop()
    grow.run(UNKNOWN, "is not running")
    grow.run(UNKNOWN, "does not exist", "-n", "no-such-container")


def test_a_lxcpath_of_somebody_else_is_left_to_them(grow: Growing) -> None:
    os.chown(grow.container.lxcpath, 1234, -1)
    grow.run(UNKNOWN, "belongs to user 1234", "--at=0")
    os.chown(grow.container.lxcpath, 0, -1)
    assert grow.limit == 64 * MIB


def test_what_can_not_be_kept_is_not_grown(grow: Growing) -> None:
    subprocess.run(["mount", "--bind", str(grow.config), str(grow.config)], check=True)
    try:
        grow.run(CRITICAL, "not grown to 80.0 MiB: ", "--at=0")
    finally:
        subprocess.run(["umount", str(grow.config)], check=True)
    assert grow.limit == 64 * MIB
    grow.run(OK, "grown to 80.0 MiB", "--at=0")


def test_a_config_that_others_may_share_is_not_changed(grow: Growing, tmp_path: pathlib.Path) -> None:
    shared = tmp_path / "shared"
    shared.write_text(grow.config.read_text())
    grow.config.unlink()
    grow.config.symlink_to(shared)
    for dry in [], ["--dry-run"]:
        grow.run(UNKNOWN, f"is a link to {shared}", "--at=0", *dry)
    assert grow.limit == 64 * MIB
    assert f"{80 * MIB}" not in shared.read_text()


def test_names_that_want_to_be_something_else(grow: Growing) -> None:
    for name in ("../../etc", "a\nb", "$(reboot)", "-x", "\x1b[31m"):
        output = grow.run(UNKNOWN, "", f"--name={name}", "--at=0")
        assert all(letter.isprintable() or letter == "\n" for letter in output)


@pytest.mark.skipif(not shutil.which("lxd") or not shutil.which("lxc"), reason="needs LXD (apt install lxd lxd-client)")
def test_lxd(tmp_path: pathlib.Path) -> None:
    with lxd_lab.lxd_lab(), lxd_lab.running("short") as name:
        lxd_lab.lxc("config", "set", name, "limits.memory", "64MiB")
        container = Container(name, "/var/lib/lxd/containers")
        grow = Growing(container, tmp_path)
        container._learn(container._init_pid())
        grow.run(OK, "grown to 80.0 MiB", "--at=0")
        assert grow.limit == 80 * MIB
        assert lxd_lab.lxc("config", "get", name, "limits.memory").strip() == f"{80 * MIB}B"
        lxd_lab.lxc("restart", "-f", name)
        container._learn(container._init_pid())
        assert grow.limit == 80 * MIB
