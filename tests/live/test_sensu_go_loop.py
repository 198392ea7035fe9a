"""The whole loop under a real Sensu Go: a container runs short, and one more container runs.

Real are the containers, the check, agent, backend and pipeline, the handler and the job's shell step; Jenkins is the
stand-in. Agent, Jenkins and containers are on this host, backend and handler on a server of their own.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live.containers import LXCPATH, Container, busybox, wait_until
from tests.live.sensu_go import Event, Lab
from tests.standin.jenkins import Jenkins
from tests.test_definitions import CHECKS, go_files

pytestmark = pytest.mark.usefixtures("requires_lxc")

MIB = 1 << 20
JOB = "lxc_provision"
PREFIX = f"loop-{os.getpid()}"
CHECK = "check_memory"


@pytest.fixture
def jenkins(tmp_path: pathlib.Path) -> Iterator[Jenkins]:
    # The job runs the script by its name, as on a Jenkins agent that has the plugins on PATH.
    plugins = os.path.join(os.path.dirname(CHECKS), "plugins")
    path = os.pathsep.join([os.path.dirname(sys.executable), plugins, os.environ.get("PATH", os.defpath)])
    with open(os.path.join(CHECKS, "jenkins", "lxc_provision.xml"), encoding="utf-8") as file:
        xml = file.read()
    with Jenkins(work=tmp_path / "jenkins", env={"PATH": path}) as jenkins:
        jenkins.create_job(JOB, xml)
        try:
            yield jenkins
        finally:
            jenkins.close()  # so that no build makes another while they are removed
            for name in new_containers():
                Container(name, ours=True).close()


def test_one_alert_makes_one_container(sensu_go_lab: Lab, jenkins: Jenkins) -> None:
    lab = sensu_go_lab
    lab.install("plugins", lab.agent_etc)
    lab.install("handlers", lab.backend_etc)
    configure(lab, jenkins)
    lab.start_backend()
    lab.create(*go_files())  # as README has it, and as they are
    with busybox("loop-short", limit_bytes=64 * MIB) as container:
        lab.create(hurried(container))
        lab.start_agent()

        good = lab.wait_for_event(lab.entity, CHECK)
        assert status_and_output(good) == (0, f"CheckContainerMemory OK: {container.name}: ")

        container.fill(60 * MIB)
        bad = lab.wait_for_event(lab.entity, CHECK, lambda event: event["check"]["status"] == 2)
        assert status_and_output(bad) == (2, f"CheckContainerMemory CRITICAL: {container.name}: ")
        (build,) = jenkins.wait_for_builds(JOB, 1, timeout=60)
        assert build.result == "SUCCESS", build.log
        (made,) = new_containers()
        assert json.loads(last_line(build.log, "{"))["name"] == made
        assert state(made) == "RUNNING"

        lab.wait_for_event(lab.entity, CHECK, lambda event: event["check"]["occurrences"] > 10, timeout=60)
        wait_until(lambda: len(lab.handled("jenkins")) > 10, 10, "the handler to have seen the repeats")
        container.empty()
        resolved = lab.wait_for_event(lab.entity, CHECK, lambda event: event["check"]["status"] == 0)
        assert resolved["check"]["state"] == "passing"
        wait_until(lambda: "HOLD ok" in lab.handled("jenkins")[-1]["output"], 10, "the resolve to be handled")

    told = [run["output"].strip() for run in lab.handled("jenkins")]
    codes = [" ".join(line.split(":")[0].split()[1:]) for line in told]
    assert codes.count("ACT sent") == 1, told
    assert codes.count("HOLD ok") == 1, told
    assert codes.count("HOLD cooldown") >= 9, told
    # On a slow machine the first repeat may come before the answer to the first, and one look while it still fills up.
    assert set(codes) <= {"ACT sent", "HOLD ok", "HOLD cooldown", "HOLD in-flight", "HOLD warning"}, told
    assert len(codes) >= 12, told  # the first critical, ten more, the resolve
    assert {run["status"] for run in lab.handled("jenkins")} == {0}
    assert [one.number for one in jenkins.builds(JOB)] == [1]
    assert not jenkins.queued()
    assert new_containers() == {made}
    assert state(made) == "RUNNING"


def configure(lab: Lab, jenkins: Jenkins) -> None:
    """Put handler_jenkins' settings where checks/handlers/jenkins.json goes, changed as an administrator would."""
    with open(os.path.join(CHECKS, "handlers", "jenkins.json"), encoding="utf-8") as file:
        settings = json.load(file)
    user, api_token = jenkins.auth("builder")
    ours: dict[str, Any] = settings["lxc_autoscale"]
    for key in ("token_file", "api_token_file", "ca_file"):
        ours.pop(key, None)
    ours["url"] = f"http://{lab.host_address}:{lab.relay(jenkins.port)}"
    ours["job"] = JOB
    ours["user"] = user
    ours["ledger"] = os.path.join(lab.directory, "ledger", "ledger.sqlite")
    ours["parameters"] = {**ours.get("parameters", {}), "NAME_PREFIX": PREFIX}
    lab.handler_env["SENSU_LXC_JENKINS_API_TOKEN"] = api_token
    folder = os.path.join(lab.backend_etc, "conf.d")
    os.makedirs(folder)
    with open(os.path.join(folder, "jenkins.json"), "w", encoding="utf-8") as file:
        json.dump(settings, file)


def hurried(container: Container) -> str:
    """check_memory as it is defined, but every second and of this container only: others may be short, too."""
    with open(os.path.join(CHECKS, "sensu-go", "check_memory.yaml"), encoding="utf-8") as file:
        text = file.read()
    text, changed = re.subn(r"^(  command: .*)$", rf"\1 -n {container.name}", text, flags=re.MULTILINE)
    text, changed_too = re.subn(r"^  interval: \d+$", "  interval: 1", text, flags=re.MULTILINE)
    assert (changed, changed_too) == (1, 1)
    return text


def status_and_output(event: Event) -> "tuple[int, str]":
    """The status, and the beginning of the output up to the container's name."""
    match = re.match(r"\w+ \w+: [^:]+: ", event["check"]["output"])
    return event["check"]["status"], match[0] if match else event["check"]["output"]


def last_line(log: str, start: str) -> str:
    return [line for line in log.splitlines() if line.startswith(start)][-1]


def new_containers() -> "set[str]":
    """The containers that the job made, whoever else makes some at the same time."""
    with contextlib.suppress(FileNotFoundError):
        return {name for name in os.listdir(LXCPATH) if name.startswith(f"{PREFIX}-")}
    return set()


def state(name: str) -> str:
    argv = ["lxc-info", "-n", name, "-sH"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
