"""decommission_container on real containers: gone once and for all, whatever is killed on the way; others untouched."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live.containers import LXCPATH, Container, busybox, wait_until
from tests.live.test_provision_container import ROOT, Request, end, is_running, kill_sessions_naming, snapshot
from tests.standin.jenkins import Jenkins

SCRIPT = ROOT / "plugins" / "decommission_container.py"
JOB = ROOT / "checks" / "jenkins" / "lxc_decommission.xml"

pytestmark = pytest.mark.usefixtures("requires_lxc")


class Made(Request):
    """A container made by provision_container for a request of its own, to be removed again."""

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__()
        # No network: nobody is to wait for its address when it shuts down.
        config = directory / "config"
        config.write_text("lxc.net.0.type = empty\n")
        self.answer = self.run(f"--config={config}")
        self.made = str(self.answer["name"])
        self.folder = pathlib.Path(LXCPATH, self.made)

    def begin_removal(self, *arguments: str, named: bool = False) -> "subprocess.Popen[str]":
        which = ["-n", self.made] if named else [f"--request-id={self.id}", f"--name-prefix={self.prefix}"]
        bound = [] if any(one.startswith("--stop-timeout") for one in arguments) else ["--stop-timeout=4s"]
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *which, "-P", self.lxcpath, *bound, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def remove(self, *arguments: str, status: int = 0, named: bool = False) -> "dict[str, Any]":
        return end(self.begin_removal(*arguments, named=named), status)

    def assert_gone(self) -> None:
        assert self.containers == []
        assert not is_running(self.made)


@pytest.fixture
def made(tmp_path: pathlib.Path) -> Iterator[Made]:
    one = Made(tmp_path)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def drain(tmp_path: pathlib.Path) -> Any:
    """Make a drain command of the body of a shell script, which is given the container's name."""

    def make(body: str) -> str:
        path = tmp_path / "drain"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return f"--drain={path} {{name}}"

    return make


class TestOwned:
    def test_is_gone_once(self, made: Made) -> None:
        answer = made.remove()
        assert {key: answer[key] for key in ("name", "request_id", "lxcpath", "state", "removed", "drained")} == {
            "name": made.made, "request_id": made.id, "lxcpath": LXCPATH, "state": "GONE", "removed": True,
            "drained": None,
        }  # fmt: skip
        assert answer["stopped_cleanly"] is True
        made.assert_gone()
        again = made.remove()
        assert (again["removed"], again["state"], again["stopped_cleanly"]) == (False, "GONE", None)
        made.assert_gone()

    def test_by_its_name(self, made: Made) -> None:
        assert (answer := made.remove(named=True))["removed"] is True
        assert answer["request_id"] == made.id
        made.assert_gone()

    def test_stopped_one_has_nothing_to_drain(self, made: Made, drain: Any, tmp_path: pathlib.Path) -> None:
        made.own().stop()
        answer = made.remove(drain(f"touch {tmp_path}/drained"))
        assert (answer["removed"], answer["drained"], answer["stopped_cleanly"]) == (True, None, None)
        assert not (tmp_path / "drained").exists()
        made.assert_gone()

    def test_one_that_does_not_shut_down_is_killed(self, made: Made) -> None:
        with open(made.folder / "config", "a") as config:  # a signal that its init does not care for
            config.write("lxc.signal.halt = SIGURG\n")
        made.own().stop()
        made.run()
        began = time.monotonic()
        answer = made.remove("--stop-timeout=1s")
        assert time.monotonic() - began < 20
        assert (answer["removed"], answer["stopped_cleanly"]) == (True, False)
        assert "did not stop within 1 s" in answer["stderr"]
        made.assert_gone()

    def test_four_at_once_remove_it_once(self, made: Made, drain: Any, tmp_path: pathlib.Path) -> None:
        command = drain(f"echo $1 >> {tmp_path}/drained")
        processes = [made.begin_removal(command) for _ in range(4)]
        answers = [end(process, 0) for process in processes]
        assert sorted(answer["removed"] for answer in answers) == [False] * 3 + [True]
        assert (tmp_path / "drained").read_text() == f"{made.made}\n"
        made.assert_gone()

    def test_while_it_is_made_waits(self, made: Made, drain: Any) -> None:
        """The same lock: what is provided meanwhile comes after."""
        process = made.begin_removal(drain("sleep 1"))
        wait_until(lambda: (pathlib.Path(LXCPATH) / f".sensu-lxc.{made.made}.lock").exists(), 5, "the lock")
        other = made.begin()
        assert end(process, 0)["removed"] is True
        assert end(other, 0)["created"] is True
        assert is_running(made.made)

    def test_half_made_one(self, made: Made) -> None:
        made.own().stop()
        record = made.folder / "sensu-lxc.json"
        record.write_text(record.read_text().replace('"ready"', '"creating"'))
        (made.folder / "config").unlink()
        assert made.remove()["removed"] is True
        made.assert_gone()

    def test_dry_run_touches_nothing(self, made: Made, drain: Any, tmp_path: pathlib.Path) -> None:
        before = snapshot(made.folder)
        answer = made.remove("--dry-run", drain(f"touch {tmp_path}/drained"))
        assert [line.split()[0].rpartition("/")[2] for line in answer["would"]] == ["drain", "lxc-stop", "lxc-destroy"]
        assert is_running(made.made)
        assert snapshot(made.folder) == before
        assert not (tmp_path / "drained").exists()


class TestDrain:
    def test_comes_first(self, made: Made, drain: Any, tmp_path: pathlib.Path) -> None:
        answer = made.remove(drain(f'echo "$#:$1:$(lxc-info -sH -n "$1")" > {tmp_path}/drained'))
        assert (answer["removed"], answer["drained"]) == (True, True)
        assert (tmp_path / "drained").read_text() == f"1:{made.made}:RUNNING\n"
        made.assert_gone()

    def test_failure_stops_everything(self, made: Made, drain: Any) -> None:
        answer = made.remove(drain("echo no such backend >&2; exit 4"), status=1)
        assert "the drain command failed with status 4" in answer["error"]
        assert (answer["state"], answer["left"]) == ("RUNNING", [str(made.folder)])
        assert "no such backend" in answer["stderr"]
        assert made.own().pid == made.answer["init_pid"]

    def test_failure_may_be_forced(self, made: Made, drain: Any) -> None:
        answer = made.remove(drain("exit 4"), "--force-drain")
        assert (answer["removed"], answer["drained"]) == (True, False)
        made.assert_gone()

    def test_that_hangs_is_ended(self, made: Made, drain: Any, tmp_path: pathlib.Path) -> None:
        began = time.monotonic()
        answer = made.remove(drain(f"echo $$ > {tmp_path}/pid; sleep 60"), "--drain-timeout=500ms", status=1)
        assert time.monotonic() - began < 10
        assert "took longer than 0.5 s" in answer["error"]
        assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}/exe")
        assert is_running(made.made)

    def test_terminated_meanwhile(self, made: Made, drain: Any, tmp_path: pathlib.Path) -> None:
        process = made.begin_removal(drain(f"touch {tmp_path}/begun; sleep 60"))
        wait_until((tmp_path / "begun").exists, 10, "the drain command to run")
        process.terminate()
        answer = end(process, 1)
        assert "interrupted by SIGTERM" in answer["error"]
        assert answer["state"] == "RUNNING"
        assert made.own().pid == made.answer["init_pid"]


class TestKilled:
    """kill -9 at each step: the next run finishes."""

    def finish(self, made: Made) -> None:
        answer = made.remove()
        assert answer["state"] == "GONE"
        made.assert_gone()
        assert made.remove()["removed"] is False

    def kill(self, process: "subprocess.Popen[str]", made: Made, children: bool) -> None:
        process.kill()
        process.wait()
        if children:
            kill_sessions_naming(made.made)

    @pytest.mark.parametrize("children", [False, True], ids=["alone", "with its children"])
    def test_while_it_drains(self, made: Made, drain: Any, tmp_path: pathlib.Path, children: bool) -> None:
        process = made.begin_removal(drain(f"touch {tmp_path}/begun; sleep 2; touch {tmp_path}/ended"))
        wait_until((tmp_path / "begun").exists, 10, "the drain command to run")
        self.kill(process, made, children)
        assert is_running(made.made)
        self.finish(made)
        # What outlived us held the lock, so the next run waited for it.
        assert (tmp_path / "ended").exists() is not children

    @pytest.mark.parametrize("children", [False, True], ids=["alone", "with its children"])
    def test_while_it_stops(self, made: Made, children: bool) -> None:
        with open(made.folder / "config", "a") as config:
            config.write("lxc.signal.halt = SIGURG\n")
        made.own().stop()
        made.run()
        process = made.begin_removal("--stop-timeout=3s")
        wait_until(lambda: runs("lxc-stop", made.made), 10, "lxc-stop")
        self.kill(process, made, children)
        assert made.remove("--stop-timeout=1s")["removed"] is True
        made.assert_gone()

    def test_when_it_was_stopped(self, made: Made) -> None:
        made.own().stop()
        self.finish(made)

    @pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.1])
    @pytest.mark.parametrize("children", [False, True], ids=["alone", "with its children"])
    def test_while_it_destroys(self, made: Made, delay: float, children: bool) -> None:
        made.own().stop()
        for number in range(3000):
            (made.folder / "rootfs" / "root" / f"f{number}").touch()
        process = made.begin_removal()
        wait_until(lambda: runs("lxc-destroy", made.made) or process.poll() is not None, 10, "lxc-destroy", 0.001)
        time.sleep(delay)
        self.kill(process, made, children)
        self.finish(made)

    @pytest.mark.parametrize("rest", [["config"], ["config", "rootfs/etc"], []], ids=str)
    def test_after_the_record_went(self, made: Made, rest: "list[str]") -> None:
        """lxc-destroy takes the files in no order: here it was ended after it had taken the record."""
        made.own().stop()
        body = f"#!/bin/sh\nrm {made.folder}/sensu-lxc.json; kill -9 $(cat {made.folder}/../{made.made}.pid)\n"
        # A destroy hook stands for the middle of lxc-destroy.
        hook = made.folder / "hook"
        hook.write_text(body + "kill -9 $PPID\n")
        hook.chmod(0o755)
        with open(made.folder / "config", "a") as config:
            config.write(f"lxc.hook.destroy = {hook}\n")
        pid = pathlib.Path(LXCPATH, f"{made.made}.pid")
        pid.touch()
        process = made.begin_removal()
        pid.write_text(str(process.pid))
        process.wait(20)
        pid.unlink()
        assert process.returncode == -signal.SIGKILL
        assert not (made.folder / "sensu-lxc.json").exists()
        assert (pathlib.Path(LXCPATH) / f".sensu-lxc.{made.made}.removing").exists()
        hook.unlink()
        for name in ("config", "rootfs"):
            if not any(one.startswith(name) for one in rest):
                path = made.folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if "config" in rest:
            config_path = made.folder / "config"
            config_path.write_text(config_path.read_text().replace(f"lxc.hook.destroy = {hook}\n", ""))
        self.finish(made)

    def test_and_the_container_may_be_made_anew_instead(self, made: Made) -> None:
        own = made.own()
        own.stop()
        inode = made.folder.stat().st_ino
        record = (made.folder / "sensu-lxc.json").read_text()
        notice = pathlib.Path(LXCPATH, f".sensu-lxc.{made.made}.removing")
        notice.write_text(f"{inode}\n" + record.replace('"ready"', '"creating"'))
        (made.folder / "sensu-lxc.json").unlink()
        (made.folder / "config").unlink()
        answer = made.run()
        assert answer["created"] is True
        assert made.containers == [made.made]

    def test_a_directory_that_somebody_made_since_is_not_meant(self, made: Made) -> None:
        made.own().stop()
        record = (made.folder / "sensu-lxc.json").read_text()
        notice = pathlib.Path(LXCPATH, f".sensu-lxc.{made.made}.removing")
        notice.write_text(f"{made.folder.stat().st_ino + 1}\n" + record)
        (made.folder / "sensu-lxc.json").unlink()
        before = snapshot(made.folder)
        assert "was not made by sensu-lxc" in made.remove(status=3)["error"]
        assert snapshot(made.folder) == before


class TestRefuses:
    def test_somebody_elses(self, made: Made) -> None:
        with busybox() as other:
            before = sorted(os.listdir(other.directory))
            done = subprocess.run(
                [sys.executable, str(SCRIPT), "-n", other.name], capture_output=True, text=True, timeout=30
            )
            answer = json.loads(done.stdout)
            assert done.returncode == 3
            assert "was not made by sensu-lxc, so it is not touched" in answer["error"]
            assert answer["left"] == []
            assert other._init_pid() == other.pid
            assert sorted(os.listdir(other.directory)) == before

    def test_one_of_another_request(self, made: Made) -> None:
        path = made.folder / "sensu-lxc.json"
        path.write_text(path.read_text().replace(made.id, "another"))
        assert "was made for the request 'another'" in made.remove(status=3)["error"]
        assert "somebody's copy" in made.remove(status=3, named=True)["error"]
        assert is_running(made.made)

    def test_a_copy_of_one(self, made: Made) -> None:
        made.own().stop()
        copy = Container(f"{made.prefix}-copy", ours=True)
        shutil.copytree(made.folder, copy.directory, symlinks=True)
        try:
            before = snapshot(pathlib.Path(copy.directory))
            done = subprocess.run(
                [sys.executable, str(SCRIPT), "-n", copy.name], capture_output=True, text=True, timeout=30
            )
            assert (done.returncode, "somebody's copy" in done.stdout) == (3, True)
            assert snapshot(pathlib.Path(copy.directory)) == before
        finally:
            copy.close()

    def test_record_that_says_nothing(self, made: Made) -> None:
        (made.folder / "sensu-lxc.json").write_text("{")
        assert "is no record of sensu-lxc" in made.remove(status=3)["error"]
        assert is_running(made.made)

    def test_payload_without_its_monitor(self, made: Made, drain: Any, tmp_path: pathlib.Path) -> None:
        with open(made.folder / "config", "a") as config:
            config.write("lxc.monitor.signal.pdeath = SIGCONT\n")
        made.own().stop()
        made.run()
        own = made.own()
        own.kill_monitor()
        try:
            answer = made.remove(drain(f"touch {tmp_path}/drained"), status=3)
            assert "run on without their monitor" in answer["error"]
            assert "end those first" in answer["error"]
            assert os.path.exists(f"/proc/{own.pid}/exe")
            assert not (tmp_path / "drained").exists()
        finally:
            own.close()

    def test_monitor_that_does_not_answer(self, made: Made) -> None:
        own = made.own()
        own.stop_monitor()
        try:
            began = time.monotonic()
            answer = made.remove(status=3)
            assert time.monotonic() - began < 10
            assert "kill -CONT" in answer["error"]
        finally:
            own.continue_monitor()
        assert made.own().pid == made.answer["init_pid"]

    def test_frozen(self, made: Made) -> None:
        own = made.own()
        own.freeze_outside()
        try:
            assert "lxc-unfreeze" in made.remove(status=3)["error"]
        finally:
            own.thaw_outside()
        assert made.own().pid == made.answer["init_pid"]

    @contextlib.contextmanager
    def derived(self, made: Made, *argv: str) -> "Iterator[None]":
        """Have something made of the stopped container, see that it is refused because of that, and then not."""
        made.own().stop()
        here = ["-n", made.made, "-P", made.lxcpath]
        subprocess.run([argv[0], *here, *argv[1:]], check=True, timeout=30)
        yield
        assert made.remove()["removed"] is True
        made.assert_gone()

    def assert_refused(self, made: Made, words: str) -> None:
        before = snapshot(made.folder)
        for option in (), ("--dry-run",):
            answer = made.remove(*option, status=3)
            assert words in answer["error"]
            assert answer["left"] == []
        assert snapshot(made.folder) == before
        assert not os.path.exists(f"{LXCPATH}/.sensu-lxc.{made.made}.removing")

    def test_a_clone_shares_its_root_filesystem(self, made: Made) -> None:
        clone = Container(f"{made.prefix}-clone", ours=True)
        with self.derived(made, "lxc-copy", "-p", LXCPATH, "-N", clone.name, "-s", "-B", "overlay"):
            try:
                self.assert_refused(made, f"clones share its root filesystem ({clone.directory}); lxc-destroy those")
                clone.start()
                self.assert_refused(made, "clones share its root filesystem")
                made.run()  # nor is one that runs stopped for nothing
                self.assert_refused(made, "clones share its root filesystem")
                assert is_running(made.made)
            finally:
                clone.close()

    def test_snapshots(self, made: Made) -> None:
        with self.derived(made, "lxc-snapshot"):
            self.assert_refused(made, f"its snapshots in {made.folder}/snaps would be lost")
            assert f"lxc-snapshot -n {made.made} -P {LXCPATH} -d ALL" in made.remove(status=3)["error"]
            argv = ["lxc-snapshot", "-n", made.made, "-P", LXCPATH, "-d", "ALL"]
            subprocess.run(argv, check=True, timeout=30)
            (made.folder / "snaps").mkdir()  # which is none

    def test_a_destroy_hook_forbids_it(self, made: Made) -> None:
        path = made.folder / "config"
        config = path.read_text()
        path.write_text(f"{config}lxc.hook.destroy = /bin/false\n")
        answer = made.remove(status=1)
        assert "lxc-destroy failed with status 1, and it has an lxc.hook.destroy" in answer["error"]
        assert (answer["state"], answer["left"]) == ("STOPPED", [str(made.folder)])
        assert (made.folder / "rootfs" / "bin").exists()
        assert made.containers == [made.made]
        path.write_text(config)
        assert made.remove()["removed"] is True
        made.assert_gone()

    def test_root_filesystem_that_lies_elsewhere(self, made: Made, tmp_path: pathlib.Path) -> None:
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "data").write_text("data")
        path = made.folder / "config"
        path.write_text(path.read_text() + f"lxc.rootfs.path = dir:{precious}\n")
        assert "lies elsewhere" in made.remove(status=3)["error"]
        assert is_running(made.made)
        assert (precious / "data").exists()


def test_failure_half_way_says_what_is_left(made: Made) -> None:
    """Something that can't be removed: a directory that something is mounted on meanwhile."""
    made.own().stop()
    stubborn = made.folder / "rootfs" / "mnt"
    stubborn.mkdir(exist_ok=True)
    hook = made.folder / "hook"
    hook.write_text(f"#!/bin/sh\nmount -t tmpfs none {stubborn}\n")
    hook.chmod(0o755)
    with open(made.folder / "config", "a") as config:
        config.write(f"lxc.hook.destroy = {hook}\n")
    try:
        answer = made.remove(status=1)
        assert (answer["state"], answer["left"]) == ("STOPPED", [str(made.folder)])
        assert f"is not removed: something is mounted at {stubborn}" in answer["error"]
        assert answer["stderr"].endswith(f"; left: {made.folder}, STOPPED\n")
        assert f"something is mounted at {stubborn}" in made.remove(status=3)["error"]
    finally:
        subprocess.run(["umount", str(stubborn)], check=True)
    (made.folder / "config").unlink(missing_ok=True)
    assert made.remove()["removed"] is True
    made.assert_gone()


class TestJob:
    """checks/jenkins/lxc_decommission.xml, its shell step run by the stand-in for Jenkins."""

    @pytest.fixture
    def jenkins(self, tmp_path: pathlib.Path) -> Iterator[Jenkins]:
        path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}:{ROOT / 'plugins'}"
        with Jenkins(work=tmp_path, env={"PATH": path}) as jenkins:
            jenkins.create_job("lxc_decommission", JOB.read_text())
            yield jenkins

    def build(self, jenkins: Jenkins, count: int = 1, **parameters: str) -> Any:
        import requests

        requests.post(
            f"{jenkins.url}/job/lxc_decommission/buildWithParameters",
            data=parameters,
            auth=jenkins.auth("admin"),
            timeout=10,
            allow_redirects=False,
        )
        return jenkins.wait_for_builds("lxc_decommission", count, timeout=60)[-1]

    def answer(self, build: Any) -> "dict[str, Any]":
        log = build.log.decode() if isinstance(build.log, bytes) else build.log
        (line,) = (line for line in log.splitlines() if line.startswith("{"))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def test_removes_the_container_of_the_request(self, jenkins: Jenkins, made: Made) -> None:
        build = self.build(jenkins, REQUEST_ID=made.id, NAME_PREFIX=made.prefix, STOP_TIMEOUT="5s")
        assert build.result == "SUCCESS", build.log
        assert self.answer(build)["removed"] is True
        made.assert_gone()
        again = self.build(jenkins, 2, REQUEST_ID=made.id, NAME_PREFIX=made.prefix)
        assert (again.result, self.answer(again)["removed"]) == ("SUCCESS", False)

    @pytest.mark.parametrize("name", ["REQUEST_ID", "NAME_PREFIX", "STOP_TIMEOUT"])
    @pytest.mark.parametrize(
        "value", ["$(touch MARK)", "'; touch MARK; '", '"; touch MARK; "', "x --drain=reboot", "--", "-P/", "a\nb"]
    )
    def test_takes_no_orders_from_a_parameter(
        self, jenkins: Jenkins, tmp_path: pathlib.Path, name: str, value: str
    ) -> None:
        mark = tmp_path / "mark"
        parameters = {"REQUEST_ID": "none", name: value.replace("MARK", str(mark))}
        build = self.build(jenkins, **parameters)
        assert build.result == "FAILURE"
        assert self.answer(build)["error"]
        assert not mark.exists()


def runs(tool: str, name: str) -> bool:
    """Whether a tool of LXC's is at work on a container."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
                if words[0].endswith(tool.encode()) and name.encode() in words:
                    return True
    return False
