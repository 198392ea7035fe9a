"""provision_container on real containers: one request, one container, whatever is killed on the way."""

import contextlib
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import provision_container
import pytest

from tests.live.containers import LXCPATH, OWNER, TEMPLATE, Container, busybox, wait_until
from tests.standin.jenkins import Jenkins

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "plugins" / "provision_container.py"
JOB = ROOT / "checks" / "jenkins" / "lxc_provision.xml"

pytestmark = pytest.mark.usefixtures("requires_lxc")


class Request:
    """One request id with a name prefix of its own; whatever it made is removed by close()."""

    def __init__(self, lxcpath: str = LXCPATH) -> None:
        self.id = f"test.{uuid.uuid4()}"
        self.prefix = f"p{os.getpid()}x{uuid.uuid4().hex[:6]}"
        self.lxcpath = lxcpath
        self.processes: list[subprocess.Popen[str]] = []

    def argv(self, *arguments: str) -> "list[str]":
        named = any(one.startswith(("--template", "--clone")) for one in arguments)
        source = [] if named else ["--template=busybox"]
        given = [f"--request-id={self.id}", f"--name-prefix={self.prefix}", "-P", self.lxcpath]
        return [sys.executable, str(SCRIPT), *given, *source, *arguments]

    def begin(self, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            self.argv(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )
        self.processes.append(process)
        return process

    def run(self, *arguments: str, status: int = 0) -> "dict[str, Any]":
        """The JSON line of a run that ends with that status."""
        return end(self.begin(*arguments), status)

    @property
    def containers(self) -> "list[str]":
        """Names of what is there under this prefix, files and hidden ones among them."""
        return sorted(entry for entry in os.listdir(self.lxcpath) if self.prefix in entry)

    @property
    def name(self) -> str:
        (name,) = self.containers
        return name

    @property
    def directory(self) -> pathlib.Path:
        return pathlib.Path(self.lxcpath, self.name)

    def own(self) -> Container:
        """The container, to be handled by the tests' own tools."""
        container = Container(self.name, self.lxcpath, ours=True)
        container._learn(container._init_pid())
        return container

    def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        kill_sessions_naming(self.prefix)
        for name in self.containers:
            if name.startswith(self.prefix):
                Container(name, self.lxcpath, ours=True).close()
            else:
                path = os.path.join(self.lxcpath, name)
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        log = pathlib.Path("/var/log/lxc")
        for path in log.glob(f"{self.prefix}*"):
            path.unlink()


def end(process: "subprocess.Popen[str]", status: int) -> "dict[str, Any]":
    output, errors = process.communicate(timeout=120)
    assert process.returncode == status, output + errors
    assert "Traceback" not in errors
    assert output.count("\n") == 1
    answer: dict[str, Any] = json.loads(output)
    answer["stderr"] = errors
    return answer


@pytest.fixture
def request_() -> Iterator[Request]:
    one = Request()
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def template(tmp_path: pathlib.Path) -> Any:
    """Make a template of the body of a shell script that knows $rootfs, $path and $name."""

    def make(body: str) -> str:
        path = tmp_path / "lxc-template"
        path.write_text(
            '#!/bin/sh\nfor word in "$@"; do case $word in --rootfs=*) rootfs=${word#*=};; --path=*) path=${word#*=};; '
            f"--name=*) name=${{word#*=}};; esac; done\n{body}\n"
        )
        path.chmod(0o755)
        return f"--template-path={path}"

    return make


def is_running(name: str, lxcpath: str = LXCPATH) -> bool:
    done = subprocess.run(
        ["lxc-info", "-n", name, "-P", lxcpath, "-sH"], capture_output=True, text=True, timeout=10, check=False
    )
    return done.stdout.strip() == "RUNNING"


def snapshot(directory: pathlib.Path) -> "dict[str, tuple[int, int, float]]":
    """What would tell that anything below was touched."""
    found = {}
    for top, directories, files in os.walk(directory):
        for name in [*directories, *files]:
            about = os.lstat(os.path.join(top, name))
            found[os.path.join(top, name)] = (about.st_ino, about.st_size, about.st_mtime)
    return found


class TestOneRequest:
    def test_makes_one_container(self, request_: Request) -> None:
        answer = request_.run("--wait-for-ip")
        name = request_.name
        assert {key: answer[key] for key in ("name", "request_id", "lxcpath", "state", "created")} == {
            "name": name, "request_id": request_.id, "lxcpath": LXCPATH, "state": "RUNNING", "created": True,
        }  # fmt: skip
        own = request_.own()
        assert answer["init_pid"] == own.pid
        (address,) = answer["ips"]
        assert f"inet {address}/" in own.run("ip", "addr").stdout
        assert answer["seconds"] < 60
        # The same once more finds it.
        again = request_.run("--wait-for-ip")
        assert again["created"] is False
        assert {key: again[key] for key in ("name", "init_pid", "ips")} == {
            key: answer[key] for key in ("name", "init_pid", "ips")
        }
        # And starts it where it was stopped.
        own.stop()
        assert request_.run()["created"] is False
        assert is_running(name)
        assert request_.containers == [name]

    def test_eight_at_once_make_one(self, request_: Request) -> None:
        processes = [request_.begin() for _ in range(8)]
        answers = [end(process, 0) for process in processes]
        assert sorted(answer["created"] for answer in answers) == [False] * 7 + [True]
        assert len({(answer["name"], answer["init_pid"]) for answer in answers}) == 1
        assert request_.containers == [answers[0]["name"]]

    def test_dry_run_touches_nothing(self, request_: Request) -> None:
        answer = request_.run("--dry-run")
        assert [line.split()[0] for line in answer["would"]] == ["lxc-create", "lxc-start"]
        assert request_.containers == []

    def test_in_another_lxcpath(self, tmp_path: pathlib.Path) -> None:
        os.chmod(tmp_path, 0o755)
        one = Request(str(tmp_path))
        try:
            answer = one.run()
            assert is_running(answer["name"], str(tmp_path))
        finally:
            one.close()


class TestFailure:
    def test_of_the_template_leaves_nothing(self, request_: Request, template: Any) -> None:
        answer = request_.run(template('mkdir -p "$rootfs/etc"; echo no mirror answers; exit 3'), status=1)
        assert answer["left"] == request_.containers == []
        assert "lxc-create failed with status 1" in answer["error"]
        assert "no mirror answers" in answer["stderr"]

    def test_of_an_unknown_template_leaves_nothing(self, request_: Request) -> None:
        answer = request_.run("--template=nosuchtemplate", status=1)
        assert answer["left"] == request_.containers == []

    def test_lxc_create_killed_half_way_leaves_nothing(self, request_: Request, template: Any) -> None:
        answer = request_.run(template('mkdir -p "$rootfs/etc"; kill -9 $PPID'), status=1)
        assert answer["left"] == request_.containers == []
        assert "killed by signal 9" in answer["error"]

    def test_of_the_start_leaves_nothing(self, request_: Request, tmp_path: pathlib.Path) -> None:
        config = tmp_path / "config"
        config.write_text("lxc.net.0.type = empty\nlxc.mount.entry = /nowhere/at/all mnt none bind 0 0\n")
        answer = request_.run(f"--config={config}", status=1)
        assert answer["left"] == request_.containers == []
        assert (
            'lxc-start failed with status 1: No such file or directory - Failed to mount "/nowhere' in answer["error"]
        )
        assert "was removed again (--keep leaves it to look at)" in answer["error"]

    def test_of_an_init_that_ends_at_once_leaves_nothing(self, request_: Request, template: Any) -> None:
        init = 'cd "$rootfs/sbin"; rm init; printf "#!/bin/sh\\nexit 0\\n" > init; chmod +x init'
        answer = request_.run(template(f'{TEMPLATE} "$@" && {init}'), status=1)
        assert answer["left"] == request_.containers == []

    def test_without_an_address_leaves_nothing(self, request_: Request, tmp_path: pathlib.Path) -> None:
        config = tmp_path / "config"
        config.write_text("lxc.net.0.type = empty\n")
        answer = request_.run(f"--config={config}", "--wait-for-ip=500ms", status=1)
        assert re.fullmatch(
            r"(\S+) got no address in 0\.5 s: its config gives it no network; give it one "
            r"\(lxc\.net\.0\.type = veth\) or leave --wait-for-ip out; "
            r"\1 was removed again \(--keep leaves it to look at\)",
            answer["error"],
        ), answer["error"]
        assert answer["stderr"].endswith(f"provision_container: {answer['error']}\n")
        assert answer["left"] == request_.containers == []

    def test_without_a_dhcp_server_asks_whether_there_is_one(self, request_: Request, tmp_path: pathlib.Path) -> None:
        bridge = f"br{uuid.uuid4().hex[:8]}"
        subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
        try:
            subprocess.run(["ip", "link", "set", bridge, "up"], check=True)
            config = tmp_path / "config"
            config.write_text(f"lxc.net.0.type = veth\nlxc.net.0.link = {bridge}\n")
            answer = request_.run(f"--config={config}", "--wait-for-ip=300ms", status=1)
            assert f"got no address in 0.3 s: is there a DHCP server on {bridge}?" in answer["error"]
        finally:
            request_.close()
            subprocess.run(["ip", "link", "del", bridge], check=True)

    def test_may_be_kept_and_then_says_so(self, request_: Request, tmp_path: pathlib.Path) -> None:
        config = tmp_path / "config"
        config.write_text("lxc.net.0.type = empty\n")
        answer = request_.run(f"--config={config}", "--wait-for-ip=300ms", "--keep", status=1)
        assert "removed" not in answer["stderr"]
        assert answer["stderr"].endswith(f"; left: {request_.directory}\n")
        assert answer["left"] == [str(request_.directory)]
        assert is_running(request_.name)
        # The next run goes on with it; as it never came up, a second failure removes it.
        assert request_.run("--wait-for-ip=300ms", status=1)["left"] == request_.containers == []

    def test_of_what_once_worked_removes_nothing(self, request_: Request) -> None:
        request_.run()
        request_.own().stop()
        with open(request_.directory / "config", "a") as config:
            config.write("lxc.mount.entry = /nowhere/at/all mnt none bind 0 0\n")
        answer = request_.run(status=1)
        assert answer["left"] == [str(request_.directory)]
        assert (request_.directory / "rootfs" / "bin").is_dir()

    def test_time_is_up(self, request_: Request, template: Any) -> None:
        began = time.monotonic()
        answer = request_.run(template("sleep 60"), "--timeout=500ms", status=1)
        assert time.monotonic() - began < 10
        assert "--timeout" in answer["error"]
        assert answer["left"] == request_.containers == []

    def test_what_can_not_be_removed_is_said(self, request_: Request, template: Any, tmp_path: pathlib.Path) -> None:
        # What an interrupted clone was like in older LXC: its config names the original's root filesystem (lxc#694).
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "data").write_text("data")
        edit = f"s,^lxc.rootfs.path.*,lxc.rootfs.path = dir:{precious},"
        body = template(f'{TEMPLATE} "$@"; sed -i "{edit}" "$path/config"; kill -9 $PPID')
        answer = request_.run(body, status=1)
        assert answer["left"] == [str(request_.directory)]
        assert "lies elsewhere" in answer["error"]
        assert (precious / "data").read_text() == "data"

    def test_a_container_without_its_own_root_filesystem_is_not_started(self, request_: Request, template: Any) -> None:
        answer = request_.run(template('sed -i "/rootfs.path/d" "$path/config"'), status=1)
        assert "would run on the host's" in answer["error"]
        assert answer["left"] == request_.containers == []


class TestInterrupted:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_while_it_is_made(self, request_: Request, template: Any, number: int) -> None:
        process = request_.begin(template('mkdir -p "$rootfs/etc"; sleep 60'))
        wait_until(lambda: any(self.rootfs(request_)), 20, "the template to run")
        began = time.monotonic()
        process.send_signal(number)
        answer = end(process, 1)
        assert time.monotonic() - began < 5
        assert f"interrupted by {signal.Signals(number).name}" in answer["error"]
        assert answer["left"] == request_.containers == []

    def test_while_it_waits_for_an_address(self, request_: Request, tmp_path: pathlib.Path) -> None:
        config = tmp_path / "config"
        config.write_text("lxc.net.0.type = empty\n")
        process = request_.begin(f"--config={config}", "--wait-for-ip=1m")
        wait_until(lambda: request_.containers and is_running(request_.containers[-1]), 30, "the container to run")
        process.terminate()
        answer = end(process, 1)
        assert answer["left"] == request_.containers == []

    def test_killed_and_lxc_create_with_it(self, request_: Request, template: Any) -> None:
        process = request_.begin(template('mkdir -p "$rootfs/etc"; sleep 60'))
        wait_until(lambda: any(self.rootfs(request_)), 20, "the template to run")
        process.kill()
        process.wait()
        kill_sessions_naming(request_.prefix)
        assert (pathlib.Path(LXCPATH) / self.container(request_) / "partial").exists()
        assert request_.run()["created"] is True
        assert not (request_.directory / "partial").exists()
        assert is_running(request_.name)

    def test_killed_while_lxc_create_goes_on(self, request_: Request, template: Any) -> None:
        # The lock outlives us with the template: the next run waits for it, then makes the container anew.
        process = request_.begin(template(f'{TEMPLATE} "$@"; sleep 2; touch "$rootfs/first"'))
        wait_until(lambda: any(self.rootfs(request_)), 20, "the template to run")
        process.kill()
        process.wait()
        answer = request_.run("--timeout=500ms", status=3)
        assert "another run" in answer["error"]
        assert request_.run("--timeout=1m")["created"] is True
        assert is_running(request_.name)
        assert not (request_.directory / "rootfs" / "first").exists()

    def test_killed_before_the_start(self, request_: Request, tmp_path: pathlib.Path) -> None:
        request_.run("--wait-for-ip")
        request_.own().stop()
        record = request_.directory / "sensu-lxc.json"
        record.write_text(record.read_text().replace('"ready"', '"created"'))
        assert request_.run()["created"] is False
        assert json.loads(record.read_text())["state"] == "ready"

    def rootfs(self, one: Request) -> Iterator[pathlib.Path]:
        return pathlib.Path(one.lxcpath).glob(f"{one.prefix}*/rootfs/etc")

    def container(self, one: Request) -> str:
        (name,) = (name for name in one.containers if name.startswith(one.prefix))
        return name


def kill_sessions_naming(word: str) -> None:
    """kill -9 whatever is of the session of a process that has word in its arguments: lxc-create and its template."""
    sessions = set()
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read()
            if word.encode() in line and not line.startswith(b"[lxc monitor]"):
                sessions.add(os.getsid(pid))
    assert os.getsid(0) not in sessions
    doomed = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if os.getsid(pid) in sessions:
                doomed.append(pid)
                os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in doomed), 5, "them to be gone")


class TestClone:
    def test_of_a_stopped_container(self, request_: Request) -> None:
        with busybox(start=False) as source:
            pathlib.Path(source.rootfs, "golden").write_text("yes")
            before = snapshot(pathlib.Path(source.directory))
            answer = request_.run(f"--clone={source.name}")
            assert answer["created"] is True
            assert is_running(request_.name)
            assert (request_.directory / "rootfs" / "golden").read_text() == "yes"
            assert not (request_.directory / OWNER).exists()
            assert request_.run(f"--clone={source.name}")["created"] is False
            assert snapshot(pathlib.Path(source.directory)) == before

    def test_of_one_that_is_ours_is_another(self, request_: Request) -> None:
        request_.run()
        request_.own().stop()
        first, other = request_.name, Request()
        try:
            assert other.run(f"--clone={first}")["created"] is True
            record = json.loads((other.directory / "sensu-lxc.json").read_text())
            assert (record["request_id"], record["made_from"]) == (other.id, {"clone": first})
        finally:
            other.close()

    def test_of_a_running_one_is_refused(self, request_: Request) -> None:
        with busybox() as source:
            pid = source.pid
            answer = request_.run(f"--clone={source.name}", status=3)
            assert f"{source.name} is RUNNING, and only a stopped container can be cloned" in answer["error"]
            assert answer["left"] == request_.containers == []
            assert source._init_pid() == pid

    def test_of_none_is_refused(self, request_: Request) -> None:
        assert "there is no container" in request_.run("--clone=no-such-container", status=3)["error"]
        assert request_.containers == []

    def test_interrupted_leaves_the_source(self, request_: Request) -> None:
        with busybox(start=False) as source:
            with open(os.path.join(source.rootfs, "large"), "wb") as file:
                file.write(os.urandom(1 << 20) * 300)
            before = snapshot(pathlib.Path(source.directory))
            process = request_.begin(f"--clone={source.name}")
            wait_until(
                lambda: any(pathlib.Path(LXCPATH).glob(f"{request_.prefix}*/rootfs/*")), 30, "the copy", interval=0.002
            )
            process.send_signal(signal.SIGTERM)
            answer = end(process, 1)
            assert "interrupted" in answer["error"]
            assert answer["left"] == request_.containers == []
            assert snapshot(pathlib.Path(source.directory)) == before

    def test_killed_is_redone_and_leaves_the_source(self, request_: Request) -> None:
        with busybox(start=False) as source:
            with open(os.path.join(source.rootfs, "large"), "wb") as file:
                file.write(os.urandom(1 << 20) * 300)
            before = snapshot(pathlib.Path(source.directory))
            process = request_.begin(f"--clone={source.name}")
            wait_until(
                lambda: any(pathlib.Path(LXCPATH).glob(f"{request_.prefix}*/rootfs/*")), 30, "the copy", interval=0.002
            )
            process.kill()
            process.wait()
            kill_sessions_naming(request_.prefix)
            answer = request_.run(f"--clone={source.name}")
            assert answer["created"] is True
            size = os.stat(request_.directory / "rootfs" / "large").st_size
            assert size == 300 << 20
            assert snapshot(pathlib.Path(source.directory)) == before


class TestSomebodyElses:
    @pytest.fixture
    def name(self, request_: Request) -> str:
        return str(request_.run("--dry-run")["name"])

    def test_container_of_that_name(self, request_: Request, name: str) -> None:
        with busybox(name=name, start=False) as other:
            before = snapshot(pathlib.Path(other.directory))
            answer = request_.run(status=3)
            assert "was not made by sensu-lxc, so it is not touched" in answer["error"]
            assert answer["left"] == []
            assert snapshot(pathlib.Path(other.directory)) == before

    def test_running_container_of_that_name(self, request_: Request, name: str) -> None:
        with busybox(name=name) as other:
            assert "not touched" in request_.run(status=3)["error"]
            assert other._init_pid() == other.pid

    def test_container_of_another_request(self, request_: Request, name: str) -> None:
        request_.run()
        path = request_.directory / "sensu-lxc.json"
        path.write_text(path.read_text().replace(request_.id, "another"))
        before = snapshot(request_.directory)
        answer = request_.run(status=3)
        assert "was made for the request 'another'" in answer["error"]
        assert answer["left"] == []
        assert snapshot(request_.directory) == before
        assert is_running(name)

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"request_id": 1}'])
    def test_record_that_says_nothing(self, request_: Request, name: str, content: str) -> None:
        directory = pathlib.Path(LXCPATH, name)
        directory.mkdir()
        (directory / "sensu-lxc.json").write_text(content)
        answer = request_.run(status=3)
        assert "is no record of sensu-lxc" in answer["error"]
        assert (directory / "sensu-lxc.json").read_text() == content

    def test_file_of_that_name(self, request_: Request, name: str) -> None:
        path = pathlib.Path(LXCPATH, name)
        path.write_text("a file")
        assert request_.run(status=3)["left"] == []
        assert path.read_text() == "a file"
        path.unlink()

    def test_payload_without_its_monitor(self, request_: Request, tmp_path: pathlib.Path) -> None:
        # LXC has the kernel end init with its monitor, which not every kernel and security module lets happen.
        config = tmp_path / "config"
        config.write_text("lxc.net.0.type = empty\nlxc.monitor.signal.pdeath = SIGCONT\n")
        request_.run(f"--config={config}")
        own = request_.own()
        own.kill_monitor()
        try:
            answer = request_.run(status=3)
            assert "runs on without its monitor" in answer["error"]
            assert answer["left"] == [own.directory]
            assert os.path.exists(f"/proc/{own.pid}/exe")
        finally:
            own.close()

    def test_frozen(self, request_: Request) -> None:
        request_.run()
        own = request_.own()
        own.freeze_outside()
        try:
            assert "lxc-unfreeze" in request_.run(status=3)["error"]
            assert own._init_pid() == own.pid
        finally:
            own.thaw_outside()

    def test_monitor_that_does_not_answer(self, request_: Request) -> None:
        request_.run()
        own = request_.own()
        own.stop_monitor()
        try:
            began = time.monotonic()
            assert "still UNRESPONSIVE" in request_.run("--timeout=1s", status=1)["error"]
            assert time.monotonic() - began < 10
        finally:
            own.continue_monitor()
        assert request_.run()["init_pid"] == own.pid


def test_without_permission(request_: Request) -> None:
    nobody = pwd.getpwnam("nobody")
    # The checkout need not be readable by others: the script is handed over as it would be installed.
    with_copy = f"/tmp/provision-{uuid.uuid4().hex}"
    shutil.copytree(ROOT / "plugins", with_copy, ignore=shutil.ignore_patterns("__pycache__"))
    try:
        os.chmod(with_copy, 0o755)
        argv = request_.argv()
        argv[1] = f"{with_copy}/provision_container.py"
        done = subprocess.run(
            ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", *argv],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            cwd="/",
        )
    finally:
        shutil.rmtree(with_copy)
    if "sensu_plugin" in done.stdout or "Permission denied" in done.stderr:
        pytest.skip("the virtual environment can't be read by nobody")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "run it as root" in json.loads(done.stdout)["error"]
    assert done.stderr.count("\n") == 1


class TestJob:
    """checks/jenkins/lxc_provision.xml, its shell step run by the stand-in for Jenkins."""

    @pytest.fixture
    def jenkins(self, tmp_path: pathlib.Path) -> Iterator[Jenkins]:
        path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}:{ROOT / 'plugins'}"
        with Jenkins(work=tmp_path, env={"PATH": path}) as jenkins:
            jenkins.create_job("lxc_provision", JOB.read_text())
            yield jenkins

    def build(self, jenkins: Jenkins, count: int = 1, **parameters: str) -> Any:
        import requests

        requests.post(
            f"{jenkins.url}/job/lxc_provision/buildWithParameters",
            data=parameters,
            auth=jenkins.auth("admin"),
            timeout=10,
            allow_redirects=False,
        )
        return jenkins.wait_for_builds("lxc_provision", count, timeout=60)[-1]

    def answer(self, build: Any) -> "dict[str, Any]":
        log = build.log.decode() if isinstance(build.log, bytes) else build.log
        (line,) = (line for line in log.splitlines() if line.startswith("{"))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def test_makes_a_container_that_outlives_the_build(self, jenkins: Jenkins, request_: Request) -> None:
        build = self.build(jenkins, REQUEST_ID=request_.id, NAME_PREFIX=request_.prefix, WAIT_FOR_IP="30s")
        assert build.result == "SUCCESS", build.log
        assert self.answer(build)["created"] is True
        again = self.build(jenkins, 2, REQUEST_ID=request_.id, NAME_PREFIX=request_.prefix)
        assert self.answer(again)["created"] is False
        assert self.answer(again)["init_pid"] == self.answer(build)["init_pid"]
        assert is_running(request_.name)

    @pytest.mark.parametrize("name", ["REQUEST_ID", "TEMPLATE", "NAME_PREFIX", "CLONE", "WAIT_FOR_IP"])
    @pytest.mark.parametrize(
        "value",
        ["$(touch MARK)", "`touch MARK`", "'; touch MARK; '", '"; touch MARK; "', "x --keep", "--", "-P/", "a\nb"],
    )
    def test_takes_no_orders_from_a_parameter(
        self, jenkins: Jenkins, request_: Request, tmp_path: pathlib.Path, name: str, value: str
    ) -> None:
        mark = tmp_path / "mark"
        parameters = {"REQUEST_ID": request_.id, "NAME_PREFIX": request_.prefix, name: value.replace("MARK", str(mark))}
        build = self.build(jenkins, **parameters)
        assert build.result == "FAILURE"
        assert re.search(r"provision_container: \S", str(build.log))
        assert not mark.exists()
        assert request_.containers == []

    def test_makes_as_many_as_it_is_told(self, jenkins: Jenkins, request_: Request) -> None:
        wanted = {provision_container.name_of(request_.prefix, request_.id + end) for end in ("", ".2", ".3")}
        build = self.build(jenkins, REQUEST_ID=request_.id, NAME_PREFIX=request_.prefix, COUNT="2")
        assert build.result == "SUCCESS", build.log
        assert set(request_.containers) < wanted
        assert all(map(is_running, request_.containers))
        build = self.build(jenkins, 2, REQUEST_ID=request_.id, NAME_PREFIX=request_.prefix, COUNT="3")
        assert build.log.count(b'"created": false' if isinstance(build.log, bytes) else '"created": false') == 2
        assert set(request_.containers) == wanted
        assert "lxc_provision: 3 of 3 containers of the request run\n" in build.log

    @pytest.mark.parametrize("count", ["", "0", "-1", "21", "1 ", "$(id)", "1; id", "1\n2", "x"])
    def test_takes_no_count_that_is_none(self, jenkins: Jenkins, request_: Request, count: str) -> None:
        build = self.build(jenkins, REQUEST_ID=request_.id, NAME_PREFIX=request_.prefix, COUNT=count)
        trimmed = count.strip()
        assert build.result == ("SUCCESS" if trimmed == "1" else "FAILURE")
        assert trimmed == "1" or "COUNT is no number from 1 to 20" in str(build.log)
        assert len(request_.containers) == (trimmed == "1")

    def test_one_that_fails_does_not_keep_the_others(self, jenkins: Jenkins, request_: Request) -> None:
        stranger = pathlib.Path(LXCPATH, provision_container.name_of(request_.prefix, request_.id))
        stranger.mkdir()
        (stranger / "config").write_text("# somebody else's\n")
        build = self.build(jenkins, REQUEST_ID=request_.id, NAME_PREFIX=request_.prefix, COUNT="2")
        assert build.result == "FAILURE"
        assert is_running(provision_container.name_of(request_.prefix, request_.id + ".2"))
        assert "lxc_provision: 1 of 2 containers of the request run\n" in build.log

    def test_needs_a_request_id(self, jenkins: Jenkins, request_: Request) -> None:
        build = self.build(jenkins, NAME_PREFIX=request_.prefix)
        assert build.result == "FAILURE"
        assert "is no request id" in self.answer(build)["error"]
