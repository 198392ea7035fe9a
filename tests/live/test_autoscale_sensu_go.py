"""The reconciler under a real Sensu Go: results of the real sweep verify real containers, and tell when one is gone.

Backend, agent, events, key, the host's capacity and the containers are real; Jenkins is the stand-in, which runs the
job's real step.
"""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live.containers import LXCPATH, Container, wait_until
from tests.live.sensu_go import Lab
from tests.live.test_per_container import free_port
from tests.standin.jenkins import Jenkins
from tests.test_definitions import CHECKS, REPOSITORY

pytestmark = pytest.mark.usefixtures("requires_lxc")

PREFIX = f"rec{os.getpid()}"
USER = "sensu-lxc"


def containers() -> "list[str]":
    return sorted(name for name in os.listdir(LXCPATH) if name.startswith(f"{PREFIX}-"))


@pytest.fixture
def jenkins(tmp_path: pathlib.Path) -> Iterator[Jenkins]:
    path = os.pathsep.join([os.path.dirname(sys.executable), os.path.join(REPOSITORY, "plugins"), os.environ["PATH"]])
    (tmp_path / "jenkins").mkdir()
    with open(os.path.join(CHECKS, "jenkins", "lxc_provision.xml"), encoding="utf-8") as file:
        xml = file.read()
    parameter = "<hudson.model.StringParameterDefinition><name>LXC_HOST</name></hudson.model.StringParameterDefinition>"
    with Jenkins(work=tmp_path / "jenkins", env={"PATH": path}) as jenkins:
        jenkins.create_job(
            "lxc_provision", xml.replace("</parameterDefinitions>", parameter + "</parameterDefinitions>")
        )
        try:
            yield jenkins
        finally:
            jenkins.close()
            for name in containers():
                Container(name, ours=True).close()


class Server:
    """Settings of the Sensu server, and its scripts run with them."""

    def __init__(self, lab: Lab, jenkins: Jenkins, folder: pathlib.Path) -> None:
        self.lab, self.folder, self.port = lab, folder, free_port()
        lab.start_backend()
        lab.start_agent(api_port=self.port)
        lab.create(os.path.join(CHECKS, "sensu-go", "remediate.yaml"))
        lab.sensuctl("user", "create", USER, "--password", "passw0rd1!")
        key = lab.sensuctl("api-key", "grant", USER).strip().rpartition("/")[2]
        for name, secret in (("key", key), ("token", jenkins.auth("builder")[1])):
            (folder / name).write_text(secret + "\n")
            (folder / name).chmod(0o600)
        self.scope: dict[str, Any] = {
            "url": jenkins.url, "job": "lxc_provision", "user": "builder", "api_token_file": str(folder / "token"),
            "ledger": str(folder / "ledger.sqlite"), "parameters": {"NAME_PREFIX": PREFIX},
            "api": {"url": f"http://{lab.backend_address}:8080/", "api_key_file": str(folder / "key")},
            "min": 1, "max": 3,
        }  # fmt: skip

    def script(self, name: str, *arguments: str, event: Any = None) -> str:
        config = self.folder / "settings.json"
        config.write_text(json.dumps({"lxc_autoscale": self.scope}))
        done = subprocess.run(
            [sys.executable, os.path.join(REPOSITORY, "handlers", name), "--config", str(config), *arguments],
            input=json.dumps(event) if event else "", capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def sweep(self, *what: str) -> None:
        """The real check hands in a result for each container."""
        argv = [sys.executable, os.path.join(REPOSITORY, "plugins", "check_container_state.py"), *what]
        how = ["--per-container", "--agent", f"http://127.0.0.1:{self.port}", "--state-dir", str(self.folder / "state")]
        done = subprocess.run([*argv, *how], capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""


@pytest.fixture
def server(sensu_go_lab: Lab, jenkins: Jenkins, tmp_path: pathlib.Path) -> Server:
    return Server(sensu_go_lab, jenkins, tmp_path)


def test_a_container_is_verified_and_its_end_is_noticed(server: Server, jenkins: Jenkins) -> None:
    assert "asked for lxc-" in server.script("reconcile_autoscale.py")
    jenkins.wait_for_builds("lxc_provision", 1, timeout=60)
    (name,) = containers()
    assert "0 of them seen running, 1 on their way" in server.script("reconcile_autoscale.py")
    server.sweep("-n", f"{PREFIX}-*")
    server.lab.wait_for_event(name, "check_container_state", lambda event: event["check"]["status"] == 0)
    assert "1 of them seen running" in server.script("reconcile_autoscale.py")

    Container(name, ours=True).close()
    server.sweep("-n", f"{PREFIX}-*")
    server.lab.wait_for_event(name, "check_container_state", lambda event: "last result" in event["check"]["output"])
    assert "asked for lxc-" in server.script("reconcile_autoscale.py")
    jenkins.wait_for_builds("lxc_provision", 2, timeout=60)
    assert len(containers()) == 1
    assert containers() != [name]
    report = server.script("reconcile_autoscale.py", "--report")
    assert f"{name}: no longer there" in report


def test_the_host_comes_from_the_real_checks_result(server: Server, jenkins: Jenkins) -> None:
    lab = server.lab
    lab.install("plugins", lab.agent_etc)
    server.scope.update(min=0, placement={"by": "free_memory", "need": "1M"}, cooldown=0)
    with open(os.path.join(CHECKS, "sensu-go", "check_host_capacity.yaml"), encoding="utf-8") as file:
        # Only what is asked about here may be wrong with this host.
        text = file.read().replace("check_host_capacity.py", "check_host_capacity.py --memory-critical 1000T"
                                   " --memory-warning 900T --memory-used-warning 100% --memory-used-critical 100%"
                                   " --disk-warning 100% --disk-critical 100% --inodes-warning 100% --inodes-critical"
                                   " 100%", 2)  # fmt: skip
        lab.create(text.replace("interval: 60", "interval: 1"))
    event = lab.wait_for_event(
        lab.entity, "check_host_capacity", lambda event: "host_memory" in event["check"]["output"]
    )
    critical = {**event, "check": {**event["check"], "status": 2, "state": "failing", "history": []}}
    critical["check"]["metadata"] = {"name": "check_memory", "namespace": "default"}
    said = server.script("handler_jenkins.py", event=critical)
    if event["check"]["status"] == 0:
        assert "ACT sent" in said
        (build,) = jenkins.wait_for_builds("lxc_provision", 1, timeout=60)
        assert build.parameters["LXC_HOST"] == lab.entity
    else:
        assert f"HOLD no-host: {lab.entity}/check_memory CRITICAL: {lab.entity}: its result is" in said


def test_annotations_of_check_and_entity_override(server: Server) -> None:
    lab = server.lab
    key = "sensu.io/plugins/handler_jenkins/config"
    script = f"echo 'CheckMemory CRITICAL: short'; exit 2; # {PREFIX}"
    for name, wishes in (
        ("plain", {}),
        ("never", {"enabled": "false"}),
        ("picky", {"breaches": "21"}),
        ("bad", {"url": "x"}),
    ):
        annotations = "".join(f'    {key}/{wish}: "{value}"\n' for wish, value in wishes.items())
        lab.create(
            f"type: CheckConfig\napi_version: core/v2\nmetadata:\n  name: {name}\n"
            + (f"  annotations:\n{annotations}" if wishes else "")
            + f'spec:\n  command: "{script}"\n  interval: 1\n  publish: true\n  timeout: 20\n  subscriptions: [lxc]\n'
            "  handlers: []\n"
        )  # fmt: skip
    events = {
        name: lab.wait_for_event(lab.entity, name, lambda event: event["check"]["status"] == 2)
        for name in ("plain", "never", "picky", "bad")
    }
    assert "ACT dry-run" in server.script("handler_jenkins.py", "--dry-run", event=events["plain"])
    assert "HOLD disabled" in server.script("handler_jenkins.py", "--dry-run", event=events["never"])
    assert "21 are needed" in server.script("handler_jenkins.py", "--dry-run", event=events["picky"])
    with pytest.raises(AssertionError, match="the check wishes url, and may only wish"):
        server.script("handler_jenkins.py", "--dry-run", event=events["bad"])
    entity = lab.ctl("entity", "info", lab.entity)
    entity["metadata"]["annotations"] = {f"{key}/enabled": "false"}
    spec = {name: value for name, value in entity.items() if name != "metadata"}
    resource = {"type": "Entity", "api_version": "core/v2", "metadata": entity["metadata"], "spec": spec}
    lab.create(json.dumps(resource, indent=1) + "\n")

    def annotated() -> "dict[str, Any] | None":
        event = lab.event(lab.entity, "plain")
        return event if event and event["entity"]["metadata"].get("annotations") else None

    told = wait_until(annotated, 15, "the entity's annotation in an event")
    assert "HOLD disabled" in server.script("handler_jenkins.py", "--dry-run", event=told)
