"""The actions under a real Sensu Go: nothing runs by itself, and what is executed acts on the agent's host."""

import os
import pathlib
import re
import time

import pytest

from tests.live.containers import busybox
from tests.live.sensu_go import Lab
from tests.test_definitions import CHECKS, go_files

pytestmark = pytest.mark.usefixtures("requires_lxc")

MIB = 1 << 20


def elsewhere(name: str, lxcpath: str) -> str:
    """A definition as it is, but for the lxcpath of the test, as others run containers here too."""
    with open(os.path.join(CHECKS, "sensu-go", f"{name}.yaml"), encoding="utf-8") as file:
        text, changed = re.subn(r"^(  command: .*)$", rf"\1 -P {lxcpath}", file.read(), flags=re.MULTILINE)
    assert changed == 1
    return text


def test_a_stopped_container_is_started_and_a_short_one_grown_when_asked(
    sensu_go_lab: Lab, tmp_path: pathlib.Path
) -> None:
    lab = sensu_go_lab
    lxcpath = str(tmp_path / "lxc")
    lab.install("plugins", lab.agent_etc)
    lab.start_backend()
    lab.create(*go_files())  # all of them are what Sensu takes
    with busybox("asked", lxcpath=lxcpath, limit_bytes=64 * MIB, config_lines=["lxc.start.auto = 1"]) as container:
        for name in ("start_container", "grow_container_memory"):
            lab.create(elsewhere(name, lxcpath))
        container.stop()
        lab.start_agent()
        lab.wait_for_event(lab.entity, "keepalive")
        time.sleep(3)
        assert not container._init_pid()
        assert {"start_container", "grow_container_memory"}.isdisjoint(
            event["check"]["metadata"]["name"] for event in lab.events()
        )

        lab.execute("start_container")
        event = lab.wait_for_event(lab.entity, "start_container")
        assert event["check"]["output"].startswith(
            f"OperateContainer OK: {container.name}: was STOPPED; started, is RUNNING (pid "
        )
        assert event["check"]["status"] == 0
        container._learn(container._init_pid())

        container.fill(60 * MIB)
        lab.execute("grow_container_memory")
        event = lab.wait_for_event(lab.entity, "grow_container_memory")
        assert "; grown to 80.0 MiB" in event["check"]["output"]
        container.fill(12 * MIB)
