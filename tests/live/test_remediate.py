"""Remediation under a real Sensu Go: the host that ran the check mends it, and no other host is asked for anything.

Backend, agents, pipeline, role, key and handler are real; what is broken is a file that is not there, which stands for
a container that is not running.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sensu_lxc_handlers import event as events
from sensu_lxc_handlers import sensu_api
from sensu_lxc_handlers.api_settings import ApiCredentials, ApiSettings
from sensu_lxc_handlers.sensu_api import Agent, ApiTrouble, Sensu, Silence

from tests.live.containers import busybox, wait_until
from tests.live.sensu_go import Lab
from tests.test_definitions import CHECKS, REPOSITORY

USER, PASSWORD = "sensu-lxc", "passw0rd1!"
CONTAINER = "web1"


class Remediated:
    """A lab with two agents, the definitions as they are shipped, and settings as an administrator writes them."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.folder = lab, lab.directory
        self.host, self.other = lab.entity, f"{lab.entity}-other"
        self.running, self.ran = os.path.join(self.folder, "running"), os.path.join(self.folder, "ran")
        self.ledger = os.path.join(self.folder, "ledger", "remediate.sqlite")
        self.key_file = os.path.join(self.folder, "key")
        lab.install("handlers", lab.backend_etc)
        with open(os.path.join(CHECKS, "handlers", "remediate.json"), encoding="utf-8") as file:
            self.settings: dict[str, Any] = json.load(file)
        self.scope: dict[str, Any] = self.settings["lxc_remediate"]
        self.scope["actions"] = {"start_container": self.scope["actions"]["start"]}
        self.action["when"] = {"check": "state", "occurrences": [1, 50]}
        self.scope["ledger"] = self.ledger
        self.scope["api"] = {"url": f"http://{lab.backend_address}:8080/", "api_key_file": self.key_file}
        self.write()
        # So that an agent that is killed is missed within seconds.
        with open(os.path.join(self.folder, "agent.yml"), "w", encoding="utf-8") as file:
            file.write("keepalive-interval: 1\nkeepalive-warning-timeout: 5\nkeepalive-critical-timeout: 6\n")
        lab.start_backend()
        lab.sensuctl("user", "create", USER, "--password", PASSWORD)
        lab.create(os.path.join(CHECKS, "sensu-go", "remediate.yaml"))
        self.key = lab.sensuctl("api-key", "grant", USER).strip().rpartition("/")[2]
        with open(self.key_file, "w", encoding="utf-8") as file:
            file.write(self.key + "\n")
        os.chmod(self.key_file, 0o600)
        lab.start_agent(self.host, "lxc,first")
        lab.start_agent(self.other, "lxc")
        # Its definition names everybody; who is asked for it by the handler is another matter.
        lab.create(check("start_container", f"echo {{{{ .name }}}} >> {self.ran} && touch {self.running}", ["lxc"]))

    @property
    def action(self) -> "dict[str, Any]":
        action: dict[str, Any] = self.scope["actions"]["start_container"]
        return action

    def write(self) -> str:
        folder = os.path.join(self.lab.backend_etc, "conf.d")
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "remediate.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.settings, file)
        return path

    def hosts_that_ran(self) -> "list[str]":
        if not os.path.exists(self.ran):
            return []
        with open(self.ran, encoding="utf-8") as file:
            return file.read().split()

    def last_line(self) -> str:
        """What the handler said last."""
        runs = self.lab.handled("remediate")
        return str(runs[-1]["output"]) if runs else ""

    def handle(self, event: "dict[str, Any]") -> "tuple[int, str]":
        """(status, line) of the handler, run by hand on this event."""
        done = subprocess.run(
            [sys.executable, os.path.join(REPOSITORY, "handlers", "handler_remediate.py"), "--config", self.write()],
            input=json.dumps(event), capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert self.key not in done.stdout + done.stderr
        return done.returncode, done.stdout

    def client(self, key: str = "", login: "tuple[str, str] | None" = None, namespace: str = "default") -> Sensu:
        wanted = ApiSettings("go", self.scope["api"]["url"], namespace, login[0] if login else "", "", "", "")
        return sensu_api.connect(wanted, ApiCredentials(key, login, []), time.monotonic() + 10)


@pytest.fixture
def remediated(sensu_go_lab: Lab) -> Iterator[Remediated]:
    yield Remediated(sensu_go_lab)


def check(name: str, command: str, subscriptions: "list[str]", interval: int = 3600, more: str = "") -> str:
    """A check as YAML; scheduled where it has an interval of its own."""
    return f"""\
type: CheckConfig
api_version: core/v2
metadata:
  name: {name}
spec:
  command: {json.dumps(command)}
  subscriptions: {json.dumps(subscriptions)}
  interval: {interval}
  publish: {str(interval < 3600).lower()}
  timeout: 10
{more}"""


PIPELINE = "  pipelines:\n  - {type: Pipeline, api_version: core/v2, name: remediate}\n"


def test_a_proxys_host_mends_it_and_the_incident_ends(remediated: Remediated) -> None:
    lab = remediated.lab
    watch = f"test -e {remediated.running} || {{ echo stopped; exit 2; }}"
    lab.create(check("state", watch, ["first"], 1, PIPELINE + f"  proxy_entity_name: {CONTAINER}\n"))
    good = lab.wait_for_event(CONTAINER, "state", lambda event: event["check"]["status"] == 0)
    assert good["check"]["processed_by"] == remediated.host
    assert [one["status"] for one in good["check"]["history"]].count(2) >= 1  # it was bad before
    wait_until(lambda: "nothing is wrong any more" in remediated.last_line(), 20, "the resolve")
    told = [run["output"] for run in lab.handled("remediate")]
    assert f"{CONTAINER}/state CRITICAL: asked {remediated.host} for start_container, try 1 of 3 in 1h" in told[0]
    assert sum("ACT asked" in line for line in told) == 1, told
    assert {run["status"] for run in lab.handled("remediate")} == {0}
    assert remediated.hosts_that_ran() == [remediated.host]
    assert lab.event(remediated.other, "start_container") is None
    ran = lab.wait_for_event(remediated.host, "start_container")
    assert ran["check"]["processed_by"] == remediated.host
    # It stops again within the cooldown: it is not started again at once, and that is said.
    os.unlink(remediated.running)
    wait_until(lambda: "HOLD cooldown" in remediated.last_line(), 20, "the cooldown")
    assert "after which it was well" in remediated.last_line()
    time.sleep(2)
    assert remediated.hosts_that_ran() == [remediated.host]
    # By hand, on the real event: what the entity wants counts.
    bad = lab.wait_for_event(CONTAINER, "state", lambda event: event["check"]["status"] == 2)
    annotations = bad["entity"]["metadata"].setdefault("annotations", {}) or {}
    bad["entity"]["metadata"]["annotations"] = annotations
    annotations["sensu.io/plugins/handler_remediate/config/actions"] = "off"
    assert remediated.handle(bad)[1].startswith("handler_remediate HOLD off")


def test_a_stopped_container_is_started_again(remediated: Remediated, requires_lxc: None) -> None:
    """The shipped check every second, with the shipped pattern of its output; what it asks for is lxc-start itself."""
    lab = remediated.lab
    lab.install("plugins", lab.agent_etc)
    with open(os.path.join(CHECKS, "handlers", "remediate.json"), encoding="utf-8") as file:
        remediated.action["when"] = json.load(file)["lxc_remediate"]["actions"]["start"]["when"]
    remediated.write()
    with busybox("remediated") as container:
        start = ["lxc-start", "-n", container.name]
        lab.create(check("start_container", f"echo {{{{ .name }}}} >> {remediated.ran} && {' '.join(start)}", ["lxc"]))
        watch = f"/etc/sensu/plugins/check_container_state.py -n {container.name}"
        lab.create(check("check_container_state", watch, ["first"], 1, PIPELINE))
        lab.wait_for_event(remediated.host, "check_container_state", lambda event: event["check"]["status"] == 0)
        container.stop()
        lab.wait_for_event(remediated.host, "check_container_state", lambda event: event["check"]["status"] == 2)
        good = lab.wait_for_event(
            remediated.host, "check_container_state", lambda event: event["check"]["status"] == 0, 60
        )
        assert f"{container.name}: RUNNING" in good["check"]["output"]
        wait_until(lambda: "nothing is wrong any more" in remediated.last_line(), 20, "the resolve")
    told = [" ".join(run["output"].split()[1:3]) for run in lab.handled("remediate")]
    assert told[0] == "HOLD occurrences:" and told.count("ACT asked:") == 1 and told[-1] == "HOLD ok:", told
    assert remediated.hosts_that_ran() == [remediated.host]


def test_who_is_not_there_and_what_nobody_defined(remediated: Remediated) -> None:
    lab = remediated.lab
    lab.create(check("state", "echo stopped; exit 2", ["first"], 1))
    bad = lab.wait_for_event(remediated.host, "state")
    # Sensu itself takes it for nobody as readily as for a host:
    assert remediated.client(remediated.key).request("start_container", "nosuch", "r") is None
    status, line = remediated.handle({**bad, "check": {**bad["check"], "processed_by": "nosuch"}})
    assert (status, "ERROR nobody" in line, "knows no nosuch" in line) == (1, True, True), line
    # A check that the key may not ask for, and one that is not there. (Each with a memory of its own.)
    remediated.action["check"] = "reboot"
    remediated.scope["ledger"] += "1"
    lab.create(check("reboot", "true", ["lxc"]))
    status, line = remediated.handle(lab.event(remediated.host, "state") or {})
    assert (status, "ERROR rejected" in line, "his role needs" in line) == (1, True, True), line
    lab.sensuctl("check", "delete", "start_container", "--skip-confirm")
    remediated.action["check"] = "start_container"
    remediated.scope["ledger"] += "2"
    status, line = remediated.handle(lab.wait_for_event(remediated.host, "state"))
    assert status == 1 and "there is no check start_container in namespace default" in line, line
    time.sleep(1)
    assert remediated.hosts_that_ran() == []


def test_what_is_real_and_asks_for_nothing(remediated: Remediated) -> None:
    """A silenced event, a TTL that expired and a missed keepalive, as the real backend has them."""
    lab = remediated.lab
    remediated.action["when"] = {"check": "*", "severities": ["warning", "critical"]}
    hangs = f"test ! -e {remediated.running} || sleep 9"
    lab.create(check("silent", "exit 2", ["first"], 1), check("lost", hangs, ["first"], 1, "  ttl: 5\n"))
    lab.sensuctl(
        "silenced", "create", "--subscription", f"entity:{remediated.host}", "--check", "silent", "--reason", "mended"
    )
    silent = lab.wait_for_event(remediated.host, "silent", lambda event: event["check"].get("is_silenced"))
    assert remediated.handle(silent)[1].startswith("handler_remediate HOLD silenced")
    silences = remediated.client(remediated.key).silenced()
    assert silences == [Silence(f"entity:{remediated.host}", "silent", "mended")]
    assert silences[0].covers(remediated.host, "silent") and not silences[0].covers(remediated.host, "lost")
    lab.wait_for_event(remediated.host, "lost")
    with open(remediated.running, "w", encoding="utf-8"):
        pass  # from now on it takes longer than its ttl
    expired = lab.wait_for_event(remediated.host, "lost", lambda event: event["check"]["status"] != 0, 60)
    assert remediated.handle(expired)[1].startswith("handler_remediate HOLD ttl")
    results = {one.check: one for one in remediated.client(remediated.key).latest_results(entity=remediated.host)}
    assert set(results) == {"silent", "lost", "keepalive"}
    assert (results["silent"].kind, results["keepalive"].kind) == (events.CHECK, events.KEEPALIVE)
    for agent in lab._started[1:]:
        agent.kill()
    missed = lab.wait_for_event(remediated.host, "keepalive", lambda event: event["check"]["status"] == 2, 60)
    assert remediated.handle(missed)[1].startswith("handler_remediate HOLD keepalive")
    assert remediated.hosts_that_ran() == [] and not os.path.exists(remediated.ledger)


def test_the_client_of_the_api(remediated: Remediated, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = remediated.lab
    lab.create(check("check_host_capacity", "echo OK: fine '| free=1'", ["lxc"], 1))
    for host in (remediated.host, remediated.other):
        lab.wait_for_event(host, "check_host_capacity")
    for api in (remediated.client(remediated.key), remediated.client(login=(USER, PASSWORD))):
        for page in (1, 250):
            monkeypatch.setattr(sensu_api, "_PAGE", page)
            results = sorted(api.latest_results("check_host_capacity"))
            assert [one.entity for one in results] == [remediated.host, remediated.other]
            assert [one.runner for one in results] == [remediated.host, remediated.other]
            assert {(one.status, one.output, one.namespace) for one in results} == {
                (0, "OK: fine | free=1\n", "default")
            }
            assert abs((results[0].executed or 0) - time.time()) < 60
        assert api.agent(remediated.host) == Agent(remediated.host, False)
        assert api.agent("nosuch") is api.result(remediated.host, "nosuch") is None
        one = api.result(remediated.other, "check_host_capacity")
        assert one is not None and one.runner == remediated.other
    for api, says in (
        (remediated.client("wrong"), "API key is unknown"),
        (remediated.client(login=(USER, "wrong")), "password_file is wrong"),
        (remediated.client(remediated.key, namespace="nosuch"), "which must exist"),
    ):
        with pytest.raises(ApiTrouble, match=says):
            api.latest_results()
