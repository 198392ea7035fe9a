"""The whole of autoscaling on real containers: an alert, a build, a container seen running, and given back again.

Jenkins is the stand-in, which runs the jobs' real steps; what is known of the containers comes from the real
check_container_state, handed to a stand-in of Sensu's API as Sensu itself would have it.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live.containers import LXCPATH, Container, busybox, wait_until
from tests.standin.jenkins import Jenkins
from tests.standin.sensu import SensuCore

pytestmark = pytest.mark.usefixtures("requires_lxc")

ROOT = pathlib.Path(__file__).resolve().parents[2]
JOBS = ROOT / "checks" / "jenkins"
DECOMMISSION = ROOT / "plugins" / "decommission_container.py"


class Loop:
    """A group whose containers are made under a prefix of their own; close() removes whatever is left of them."""

    def __init__(self, folder: pathlib.Path, jenkins: Jenkins, sensu: SensuCore) -> None:
        self.prefix = f"p{os.getpid()}x{uuid.uuid4().hex[:6]}"
        self.jenkins, self.sensu, self.folder = jenkins, sensu, folder
        sensu.results = []
        token = folder / "token"
        token.write_text(jenkins.auth("builder")[1])
        token.chmod(0o600)
        self.scope: dict[str, Any] = {
            "url": jenkins.url, "job": "lxc_provision", "user": "builder", "api_token_file": str(token), "cooldown": 0,
            "ledger": str(folder / "ledger.sqlite"), "parameters": {"NAME_PREFIX": self.prefix}, "budget": 0,
            "api": {"url": sensu.url, "kind": "core"}, "decommission_job": "lxc_decommission", "quiet": "60s",
            "groups": {"web": {"match": {"check": "check_memory"}, "min": 1, "max": 3}}, "cooldown_in": "60s",
        }  # fmt: skip

    def script(self, name: str, *arguments: str, event: "dict[str, Any] | None" = None) -> "tuple[int, str]":
        config = self.folder / "settings.json"
        config.write_text(json.dumps({"lxc_autoscale": self.scope}))
        done = subprocess.run(
            [sys.executable, str(ROOT / "handlers" / name), "--config", str(config), *arguments],
            input=json.dumps(event) if event else "", capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.stderr == ""
        return done.returncode, done.stdout

    def reconcile(self, status: int = 0) -> str:
        """One run, with what Sensu has heard of the containers until then."""
        self.look()
        got, output = self.script("reconcile_autoscale.py")
        assert got == status, output
        return output

    def look(self) -> None:
        """The real check, once per container, as --per-container would hand it in."""
        for name in self.containers:
            done = subprocess.run(
                [sys.executable, str(ROOT / "plugins" / "check_container_state.py"), "-n", name],
                capture_output=True, text=True, timeout=30, check=False,
            )  # fmt: skip
            self.told(name, "check_container_state", done.returncode, done.stdout)

    def told(self, entity: str, check: str, status: int, output: str) -> None:
        self.sensu.results = [
            one for one in self.sensu.results if (one["client"], one["check"]["name"]) != (entity, check)
        ]
        details = {"name": check, "status": status, "executed": int(time.time()), "output": output}
        self.sensu.results.append({"client": entity, "check": details})

    def alert(self, number: int) -> str:
        check = {"name": "check_memory", "status": 2, "executed": int(time.time()) - number, "output": "CRITICAL"}
        event = {"id": str(number), "client": {"name": "web1"}, "check": check, "occurrences": 1, "action": "create"}
        self.told("web1", "check_memory", 2, "CRITICAL")
        return self.script("handler_jenkins.py", event=event)[1]

    def sleep(self, seconds: int) -> None:
        """Let time pass for the ledger."""
        from sensu_lxc_handlers.fleet import Moment
        from sensu_lxc_handlers.ledger import Ledger

        def older(moment: Any) -> Any:
            return moment and Moment(moment.wall - seconds, "an earlier boot", 1.0)

        def change(fleet: Any) -> Any:
            requests = tuple(one._replace(at=older(one.at), asked=older(one.asked)) for one in fleet.requests)
            return fleet._replace(requests=requests, quiet=older(fleet.quiet))

        with Ledger(self.scope["ledger"], 5) as ledger:
            ledger.change("web", ledger.moment(), change)

    @property
    def containers(self) -> "list[str]":
        return sorted(one for one in os.listdir(LXCPATH) if one.startswith(self.prefix))

    def close(self) -> None:
        for name in self.containers:
            with contextlib.suppress(Exception):
                Container(name, LXCPATH, ours=True).close()


class Host:
    """An lxcpath that stands for a host of its own, with an agent of Jenkins that works in it and nowhere else."""

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        self.name, self.folder, self.lxcpath = name, folder / name, folder / name / "lxc"
        self.lxcpath.mkdir(parents=True)
        os.chmod(self.folder, 0o755)
        self.free_bytes = 2 << 30
        self.drained = self.folder / "drained"
        config = self.folder / "config"
        config.write_text("lxc.net.0.type = empty\n")
        for script, more in (("provision_container.py", f"--config={config}"), ("decommission_container.py", "")):
            self.program(script, f'exec {sys.executable} {ROOT / "plugins" / script} "$@" -P {self.lxcpath} {more}')
        self.program("drain", f"echo $1 >> {self.drained}")

    def program(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    @property
    def environment(self) -> "dict[str, str]":
        binaries = self.folder / "bin"
        return {"PATH": f"{binaries}:{os.environ['PATH']}", "DRAIN": str(binaries / "drain")}

    @property
    def containers(self) -> "list[str]":
        return sorted(one for one in os.listdir(self.lxcpath) if not one.startswith((".", "golden")))

    def capacity(self) -> str:
        """What check_host_capacity says, "" where a container of somebody else's just came or went."""
        levels = ("--memory", "--memory-used", "--disk")
        # What others do on this machine is no reason to pass over the host.
        wide = [f"{one}-{level}=100T" for one in levels for level in ("warning", "critical")]
        status, output = self.check("check_host_capacity.py", *wide)
        return "" if status else output

    def check(self, script: str, *arguments: str) -> "tuple[int, str]":
        """One of the real checks, on a host of that much free memory: a mount of its own over /proc/meminfo."""
        memory = self.folder / "meminfo"
        with open("/proc/meminfo") as lines:
            memory.write_text("".join(
                f"MemAvailable: {self.free_bytes >> 10} kB\n" if line.startswith("MemAvailable:") else line
                for line in lines
            ))  # fmt: skip
        command = [sys.executable, str(ROOT / "plugins" / script), "-P", str(self.lxcpath), *arguments]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f'mount --bind {memory} /proc/meminfo && exec "$@"', "sh", *command],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.stderr == ""
        return done.returncode, done.stdout


class TwoHosts(Loop):
    """Two hosts, of which Sensu knows what their own checks say."""

    def __init__(self, folder: pathlib.Path, jenkins: Jenkins, sensu: SensuCore, hosts: "list[Host]") -> None:
        super().__init__(folder, jenkins, sensu)
        self.hosts = hosts
        self.scope["groups"]["web"]["match"] = {"check": "check_container_memory"}
        self.scope["placement"] = {"by": "free_memory", "need": "16M"}

    def look(self) -> None:
        for host in self.hosts:
            told = wait_until(host.capacity, 20, f"the capacity of {host.name}")
            self.told(host.name, "check_host_capacity", 0, told)
            for name in host.containers:
                self.told(name, "check_container_state", *host.check("check_container_state.py", "-n", name))

    def load(self, host: Host, name: str) -> "dict[str, Any]":
        """The real check of the memory of one, told to Sensu: the event that comes of it."""
        status, output = host.check("check_container_memory.py", "-n", name, "-c", "24M")
        self.told(name, "check_container_memory", status, output)
        check = {"name": "check_container_memory", "status": status, "executed": int(time.time()), "output": output}
        return {"id": "load", "client": {"name": name}, "check": check, "occurrences": 1, "action": "create"}

    def close(self) -> None:
        for host in self.hosts:
            for name in host.containers:
                with contextlib.suppress(Exception):
                    Container(name, str(host.lxcpath), ours=True).close()


@pytest.fixture
def two_hosts(tmp_path: pathlib.Path) -> Iterator[TwoHosts]:
    os.chmod(tmp_path, 0o755)
    hosts = [Host(tmp_path, "host1"), Host(tmp_path, "host2")]
    (tmp_path / "jenkins").mkdir()
    agents = {host.name: host.environment for host in hosts}
    with contextlib.ExitStack() as stack:
        jenkins = stack.enter_context(Jenkins(work=tmp_path / "jenkins", agents=agents))
        sensu = stack.enter_context(SensuCore())
        for host in hosts:
            stack.enter_context(busybox("golden", lxcpath=str(host.lxcpath), start=False))
        for job in ("lxc_provision", "lxc_decommission"):
            kind = "org.jvnet.jenkins.plugins.nodelabelparameter.LabelParameterDefinition"
            head, end, tail = (JOBS / f"{job}.xml").read_text().partition("</parameterDefinitions>")
            xml = f"{head}<{kind}><name>LXC_HOST</name></{kind}>{end}{tail}"
            jenkins.create_job(job, xml.replace("drain=''", 'drain="$DRAIN {name}"'))
        one = TwoHosts(tmp_path, jenkins, sensu, hosts)
        try:
            yield one
        finally:
            one.close()


@pytest.fixture
def loop(tmp_path: pathlib.Path) -> Iterator[Loop]:
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}:{ROOT / 'plugins'}"
    (tmp_path / "jenkins").mkdir()
    with Jenkins(work=tmp_path / "jenkins", env={"PATH": path}) as jenkins, SensuCore() as sensu:
        for job in ("lxc_provision", "lxc_decommission"):
            jenkins.create_job(job, (JOBS / f"{job}.xml").read_text())
        one = Loop(tmp_path, jenkins, sensu)
        try:
            yield one
        finally:
            one.close()


def test_min_is_kept_and_an_alert_adds_one(loop: Loop) -> None:
    assert "asked for lxc-" in loop.reconcile()
    loop.jenkins.wait_for_builds("lxc_provision", 1, timeout=60)
    assert len(loop.containers) == 1
    loop.reconcile()  # sees the build
    assert "1 of them seen running" in loop.reconcile()
    assert "ACT sent" in loop.alert(1)
    loop.jenkins.wait_for_builds("lxc_provision", 2, timeout=60)
    loop.reconcile()
    assert "2 of them seen running" in loop.reconcile()
    assert len(loop.containers) == 2


def test_two_hosts(two_hosts: TwoHosts) -> None:
    """The load rises, the better host gets another one; it falls, and that one is drained and gone; min stays."""
    one, two = two_hosts.hosts
    jenkins, scale = two_hosts.jenkins, two_hosts
    two.free_bytes = 3 << 30
    assert "asked for lxc-" in scale.reconcile()
    jenkins.wait_for_builds("lxc_provision", 1, timeout=60)
    assert (one.containers, len(two.containers)) == ([], 1)
    (first,) = two.containers
    scale.reconcile()
    assert "1 of them seen running" in scale.reconcile()
    # It is what fills up the host that was better until then.
    two.free_bytes = 1 << 30
    container = Container(first, str(two.lxcpath))
    assert scale.load(two, first)["check"]["status"] == 0
    container.fill(32 << 20)
    alert = scale.load(two, first)
    assert alert["check"]["status"] == 2
    scale.look()
    assert "ACT sent" in scale.script("handler_jenkins.py", event=alert)[1]
    jenkins.wait_for_builds("lxc_provision", 2, timeout=60)
    assert (len(one.containers), two.containers) == (1, [first])
    (second,) = one.containers
    scale.reconcile()
    assert "2 of them seen running" in scale.reconcile()
    # While the load lasts none is given back.
    scale.sleep(70)
    assert "is not well" in scale.reconcile()
    container.empty()
    for number in range(2):
        assert scale.load(two, first)["check"]["status"] == 0
        scale.reconcile()
        scale.sleep(70)
        said = scale.reconcile()
        if number == 0:
            assert "to take away lxc-" in said
            (build,) = jenkins.wait_for_builds("lxc_decommission", 1, timeout=90)
            assert (build.result, build.parameters["LXC_HOST"]) == ("SUCCESS", "host1"), build.log
    assert "min is 1" in said
    assert one.drained.read_text() == f"{second}\n" and not two.drained.exists()
    assert (one.containers, two.containers) == ([], [first])
    assert two.check("check_container_state.py", "-n", first)[0] == 0


def test_when_the_load_falls_it_is_drained_to_min(loop: Loop) -> None:
    if not DECOMMISSION.exists():
        pytest.skip("plugins/decommission_container.py is not here yet: it is on branch actions")
    loop.reconcile()
    loop.jenkins.wait_for_builds("lxc_provision", 1, timeout=60)
    loop.alert(1)
    for number in (1, 2):
        loop.reconcile()
        loop.reconcile()
        loop.alert(1 + number)
        loop.jenkins.wait_for_builds("lxc_provision", 1 + number, timeout=60)
    loop.reconcile()
    assert "3 of them seen running" in loop.reconcile()
    assert len(loop.containers) == 3
    loop.told("web1", "check_memory", 0, "OK")
    for left in (2, 1):
        loop.reconcile()
        loop.sleep(70)
        assert "to take away lxc-" in loop.reconcile()
        loop.jenkins.wait_for_builds("lxc_decommission", 3 - left, timeout=90)
        assert len(loop.containers) == left
    loop.reconcile()
    loop.sleep(70)
    assert "min is 1" in loop.reconcile()
    assert len(loop.containers) == 1
    report = loop.script("reconcile_autoscale.py", "--report")[1]
    assert report.count(" GONE") >= 4
