"""operate_container on real containers: started, restarted, thawed; never a second copy, and no crash loop fed."""

import contextlib
import glob
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.live import lxd_lab
from tests.live.containers import Container, busybox, wait_until
from tests.live.test_decommission_container import runs

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "plugins" / "operate_container.py"
OK, WARNING, CRITICAL, UNKNOWN = range(4)

pytestmark = pytest.mark.usefixtures("requires_lxc")


class Operator:
    """The script, on an lxcpath with a memory of its own of what was done."""

    def __init__(self, folder: pathlib.Path) -> None:
        os.chmod(folder, 0o755)
        self.lxcpath = str(folder / "lxc")
        self.state_dir = folder / "state"
        self.state_dir.mkdir(mode=0o700)

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        named = [] if any(one.startswith(("-n", "--autostart")) for one in arguments) else ["-n", "*"]
        path = [] if "-P" in arguments else ["-P", self.lxcpath]
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments, *named, *path, f"--state-dir={self.state_dir}"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/", start_new_session=True,
        )  # fmt: skip

    def run(self, status: int, words: str, *arguments: str) -> str:
        process = self.begin(*arguments)
        return self.end(process, status, words)

    def end(self, process: "subprocess.Popen[str]", status: int, words: str) -> str:
        output = process.communicate(timeout=90)[0]
        assert process.returncode == status, output
        # The first line is ours: nothing that LXC's tools say is mixed into it.
        assert re.match(rf"OperateContainer {('OK', 'WARNING', 'CRITICAL', 'UNKNOWN')[status]}: ", output), output
        assert "Traceback" not in output and "internal error" not in output
        assert words in output, output
        return output


@pytest.fixture
def operate(tmp_path: pathlib.Path) -> Iterator[Operator]:
    yield Operator(tmp_path)


def crashing(container: Container) -> None:
    """Have its init end at once."""
    init = pathlib.Path(container.rootfs, "sbin", "init")
    init.unlink()
    init.write_text("#!/bin/sh\nexit 3\n")
    init.chmod(0o755)


class TestStart:
    def test_what_is_stopped(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath, start=False) as stopped, busybox(lxcpath=operate.lxcpath) as running:
            output = operate.run(OK, f"{stopped.name}: was STOPPED; started, is RUNNING (pid ", "start")
            assert f"{running.name}: is RUNNING: nothing to start" in output
            assert stopped._init_pid() == int(output.partition("(pid ")[2].partition(")")[0])
            assert running._init_pid() == running.pid
            operate.run(OK, "is RUNNING: nothing to start", "start", "-n", stopped.name)

    def test_only_what_starts_with_the_host(self, operate: Operator) -> None:
        lines = ["lxc.start.auto = 1"]
        with (
            busybox(lxcpath=operate.lxcpath, start=False) as golden,
            busybox(lxcpath=operate.lxcpath, start=False, config_lines=lines) as wanted,
            busybox("test", lxcpath=operate.lxcpath, start=False, config_lines=lines) as excluded,
        ):
            operate.run(OK, f"{wanted.name}: was STOPPED", "start", "--autostart-only", "--exclude", "test-*")
            assert wanted._init_pid()
            only = ["--autostart-only", "-n", golden.name]
            operate.run(OK, "none is to start: of 1 container none starts with the host", "start", *only)
            assert not golden._init_pid() and not excluded._init_pid()

    def test_dry_run_starts_nothing(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath, start=False) as stopped:
            operate.run(OK, "is STOPPED, would be started", "start", "--dry-run")
            assert not stopped._init_pid()
            assert os.listdir(operate.state_dir) == []

    def test_the_reason_for_a_failure(self, operate: Operator) -> None:
        lines = ["lxc.mount.entry = /nowhere/at/all mnt none bind 0 0"]
        with busybox(lxcpath=operate.lxcpath, start=False, config_lines=lines):
            output = operate.run(CRITICAL, 'No such file or directory - Failed to mount "/nowhere', "start")
            assert output.count("\n") == 1

    def test_a_crash_loop_is_given_up(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath, start=False) as container:
            crashing(container)
            for _ in range(2):
                operate.run(CRITICAL, "stopped again right after its start; see ", "start", "--at-most=2/1h")
            output = operate.run(CRITICAL, "given up: is STOPPED after 2 actions in 60 min", "start", "--at-most=2/1h")
            assert "tried again in" in output
            assert not container._init_pid()
            # Whatever the command line; and when the time is up it is tried again.
            operate.run(CRITICAL, "given up", "start", "-n", container.name, "--at-most=1/1h")
            time.sleep(1)
            operate.run(CRITICAL, "stopped again", "start", "--at-most=2/1s")

    def test_five_at_once_start_it_once(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath, start=False) as container:
            processes = [operate.begin("start") for _ in range(5)]
            outputs = [operate.end(process, OK, container.name) for process in processes]
            assert sum("was STOPPED; started" in output for output in outputs) == 1
            assert sum("nothing to start" in output for output in outputs) == 4

    def test_one_that_provision_is_at_work_on(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath, start=False) as container:
            record = pathlib.Path(container.directory, "sensu-lxc.json")
            record.write_text('{"request_id": "x", "state": "creating", "made_from": {}, "created_at": 1}')
            operate.run(UNKNOWN, "half made or half removed", "start")
            assert not container._init_pid()

    def test_missing_ones(self, operate: Operator) -> None:
        os.makedirs(operate.lxcpath)
        operate.run(UNKNOWN, "no-such: does not exist", "start", "-n", "no-such")
        operate.run(UNKNOWN, "no-such*: no container matches that pattern in ", "start", "-n", "no-such*")
        # Nor can it be said that none is to start where none could be seen.
        operate.run(UNKNOWN, "no container here", "start", "--autostart-only")

    def test_a_lxcpath_of_somebody_else(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath, start=False) as container:
            os.chown(operate.lxcpath, 1234, -1)
            operate.run(UNKNOWN, "belongs to user 1234", "start")
            assert not container._init_pid()


class TestRefuses:
    @pytest.mark.parametrize("action", ["start", "restart", "thaw"])
    def test_a_payload_without_its_monitor(self, operate: Operator, action: str) -> None:
        lines = ["lxc.monitor.signal.pdeath = SIGCONT"]
        with busybox(lxcpath=operate.lxcpath, config_lines=lines) as container:
            container.kill_monitor()
            operate.run(UNKNOWN, "run on without their monitor", action)
            assert os.path.exists(f"/proc/{container.pid}/exe")
            assert not container._init_pid()

    @pytest.mark.parametrize("action", ["start", "restart", "thaw"])
    def test_a_monitor_that_does_not_answer(self, operate: Operator, action: str) -> None:
        with busybox(lxcpath=operate.lxcpath) as container:
            container.stop_monitor()
            began = time.monotonic()
            operate.run(UNKNOWN, "its monitor does not answer", action)
            assert time.monotonic() - began < 10
            container.continue_monitor()
            assert container._init_pid() == container.pid

    @pytest.mark.parametrize("action", ["start", "restart"])
    def test_what_is_frozen(self, operate: Operator, action: str) -> None:
        with busybox(lxcpath=operate.lxcpath) as container:
            container.freeze_outside()
            operate.run(UNKNOWN, "operate_container.py thaw", action)
            container.thaw_outside()
            assert container._init_pid() == container.pid


class TestThaw:
    def test_what_was_frozen_from_outside(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath) as container, busybox(lxcpath=operate.lxcpath) as other:
            container.freeze_outside()
            output = operate.run(OK, "was FROZEN (frozen from outside LXC); thawed, is RUNNING", "thaw")
            assert f"{other.name}: is RUNNING: nothing to thaw" in output
            assert container.run("echo", "alive", timeout=10).stdout == "alive\n"

    def test_what_lxc_froze(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath) as container:
            container._tool("lxc-freeze")
            operate.run(OK, "was FROZEN; thawed, is RUNNING", "thaw")
            assert container._tool("lxc-info", "-sH").stdout.strip() == "RUNNING"
            assert container.run("echo", "alive", timeout=10).stdout == "alive\n"

    def test_by_a_cgroup_above(self, operate: Operator) -> None:
        """Which is not ours to thaw, but to name."""
        folder = f"sensu-lxc-test-{os.getpid()}"
        # Its monitor elsewhere, or that would be frozen as well.
        lines = [f"lxc.cgroup.dir.container = {folder}/payload", f"lxc.cgroup.dir.monitor = {folder}-monitor"]
        with remove_cgroups(folder), busybox(lxcpath=operate.lxcpath, config_lines=lines) as container:
            above = pathlib.Path(container.cgroup("freezer")).parent
            assert above.name == folder
            knob, on, off = above / "freezer.state", "FROZEN", "THAWED"
            if not knob.exists():
                knob, on, off = above / "cgroup.freeze", "1", "0"
            knob.write_text(on)
            try:
                wait_until(lambda: frozen(container), 10, "it to be frozen")
                operate.run(CRITICAL, f"is FROZEN still by {above} above it, so thaw that", "thaw")
            finally:
                knob.write_text(off)
            operate.run(OK, "is RUNNING: nothing to thaw", "thaw")

    def test_a_stopped_one_is_left(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath, start=False) as container:
            operate.run(OK, "is STOPPED: nothing to thaw", "thaw")
            assert not container._init_pid()


@contextlib.contextmanager
def remove_cgroups(name: str) -> Iterator[None]:
    """Remove what LXC leaves of a directory that a config names."""
    try:
        yield
    finally:
        for path in [*glob.glob(f"/sys/fs/cgroup/*/{name}*"), *glob.glob(f"/sys/fs/cgroup/{name}*")]:
            for top, _, _ in os.walk(path, topdown=False):
                os.rmdir(top)


def frozen(container: Container) -> bool:
    folder = pathlib.Path(container.cgroup("freezer"))
    v1 = folder / "freezer.state"
    return v1.read_text() == "FROZEN\n" if v1.exists() else "frozen 1" in (folder / "cgroup.events").read_text()


class TestRestart:
    def test_stops_cleanly_and_starts(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath) as container:
            output = operate.run(OK, "was RUNNING; restarted, is RUNNING (pid ", "restart")
            pid = container._init_pid(other_than=container.pid)
            assert f"(pid {pid})" in output
            assert not os.path.exists(f"/proc/{container.pid}/exe")

    def test_what_does_not_stop_is_killed(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath, config_lines=["lxc.signal.halt = SIGURG"]) as container:
            operate.run(OK, "did not stop within 1 s and was killed; restarted", "restart", "--stop-timeout=1s")
            assert container._init_pid(other_than=container.pid)

    def test_a_stopped_one_is_started(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath, start=False) as container:
            operate.run(OK, "was STOPPED; started", "restart")
            assert container._init_pid()

    def test_terminated_meanwhile_it_is_started_all_the_same(self, operate: Operator) -> None:
        with (
            busybox("a", lxcpath=operate.lxcpath, config_lines=["lxc.signal.halt = SIGURG"]) as container,
            busybox("b", lxcpath=operate.lxcpath) as next_one,
        ):
            process = operate.begin("restart", "--stop-timeout=2s")
            wait_until(lambda: runs("lxc-stop", container.name), 10, "lxc-stop")
            process.send_signal(signal.SIGTERM)
            output = operate.end(process, UNKNOWN, f"{next_one.name}: left as it is: interrupted by SIGTERM")
            assert f"{container.name}: was RUNNING, did not stop within 2 s and was killed; restarted" in output
            assert container._init_pid(other_than=container.pid)
            assert next_one._init_pid() == next_one.pid

    def test_killed_meanwhile_the_next_start_finishes(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath) as container:
            process = operate.begin("restart")
            wait_until(lambda: runs("lxc-stop", container.name), 10, "lxc-stop")
            os.killpg(process.pid, signal.SIGKILL)  # as Sensu does it
            process.wait()
            wait_until(lambda: not runs("lxc-stop", container.name), 40, "lxc-stop to end")
            operate.run(OK, "was STOPPED; started", "start")

    def test_who_waits_is_killed_and_who_acts_goes_on_to_the_end(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath) as container:
            process = operate.begin("restart", "--stop-timeout=1s")
            wait_until(lambda: runs("lxc-stop", container.name), 10, "lxc-stop")
            process.kill()
            process.communicate()
            wait_until(lambda: container._init_pid(other_than=container.pid), 20, "it to be started again")
            operate.run(OK, "is RUNNING", "start")

    def test_what_a_stop_would_remove(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath, config_lines=["lxc.ephemeral = 1"]) as container:
            operate.run(UNKNOWN, "is ephemeral, so that a stop removes it", "restart")
            assert container._init_pid() == container.pid
            config = pathlib.Path(container.directory, "config")
            config.rename(f"{config}.aside")
            operate.run(UNKNOWN, "/config, so it could not be started again", "restart")
            assert container._init_pid() == container.pid
            pathlib.Path(f"{config}.aside").rename(config)

    def test_too_often(self, operate: Operator) -> None:
        with busybox(lxcpath=operate.lxcpath) as container:
            operate.run(OK, "restarted", "restart", "--at-most=1/1h", "--stop-timeout=5s")
            pid = container._init_pid()
            output = operate.run(CRITICAL, "given up: is RUNNING after 1 actions", "restart", "--at-most=1/1h")
            assert "or, where you wish it, at once with a higher --at-most" in output
            assert container._init_pid() == pid
            operate.run(OK, "restarted", "restart", "--at-most=2/1h", "--stop-timeout=5s")


@pytest.mark.skipif(not shutil.which("lxd") or not shutil.which("lxc"), reason="needs LXD (apt install lxd lxd-client)")
def test_lxd(operate: Operator) -> None:
    with lxd_lab.lxd_lab(), lxd_lab.running("operated") as name:
        where = ["-n", name, "-P", "/var/lib/lxd/containers"]

        def state() -> str:
            return lxd_lab.lxc("list", name, "-f", "csv", "-c", "s").strip()

        operate.run(OK, "is RUNNING: nothing to start", "start", *where)
        lxd_lab.lxc("pause", name)
        operate.run(OK, "was FROZEN; thawed, is RUNNING", "thaw", *where)
        assert state() == "RUNNING"
        lxd_lab.lxc("stop", "-f", name)
        operate.run(OK, "was STOPPED; started, is RUNNING (pid ", "start", *where)
        assert state() == "RUNNING"
        operate.run(OK, "restarted, is RUNNING (pid ", "restart", "--stop-timeout=2s", *where)
        assert state() == "RUNNING"
        lxd_lab.lxc("launch", "bb", "passing", "--ephemeral")
        operate.run(UNKNOWN, "is ephemeral", "restart", "-n", "passing", *where[2:])
        lxd_lab.lxc("delete", "-f", "passing")
        lxd_lab.lxc("stop", "-f", name)
        source = pathlib.Path(operate.lxcpath)
        source.mkdir()
        lxd_lab.lxc("config", "device", "add", name, "no", "disk", f"source={source}", "path=/no")
        source.rmdir()
        operate.run(CRITICAL, f"{source}", "start", "--at-most=9/1h", *where)
