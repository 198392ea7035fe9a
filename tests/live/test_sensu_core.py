"""Under a real Sensu Core 1.x: the loop, a result for each container, and remediation.

Real are server, API, client, containers, checks and handlers; Jenkins is the stand-in. The definitions are the shipped
ones, changed as an administrator would, and to see only the containers of the test.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sensu_lxc import agent

from tests.handlers.smtp import Sink
from tests.live.containers import busybox, wait_until
from tests.live.sensu_core import Lab, sensu_core, why_no_sensu_core
from tests.live.test_sensu_go_loop import JOB, PREFIX, jenkins, last_line, new_containers, state
from tests.standin.jenkins import Jenkins
from tests.test_definitions import CHECKS

pytestmark = pytest.mark.usefixtures("requires_lxc")
__all__ = ["jenkins"]

MIB = 1 << 20
PLUGINS = pathlib.Path(__file__).resolve().parents[2] / "plugins"
STATE = "check_container_state"


@pytest.fixture
def lab(tmp_path: pathlib.Path) -> Iterator[Lab]:
    """A Sensu Core with its folders filled and nothing started."""
    reason = why_no_sensu_core()
    if reason is not None:
        pytest.skip(reason)
    with sensu_core(tmp_path) as made:
        made.install("plugins", made.client_etc)
        made.install("handlers", made.server_etc)
        yield made


@pytest.fixture
def lxcpath() -> Iterator[str]:
    """One of our own, so that nobody else's containers are in it."""
    with tempfile.TemporaryDirectory(prefix="core-", dir="/var/lib") as folder:
        yield folder


def shipped(path: str) -> "dict[str, Any]":
    with open(os.path.join(CHECKS, path), encoding="utf-8") as file:
        content: dict[str, Any] = json.load(file)
    return content


def autoscale(lab: Lab, jenkins: Jenkins, **more: Any) -> "dict[str, Any]":  # noqa: F811
    """The shipped settings as an administrator would change them."""
    settings = shipped("handlers/jenkins.json")
    ours = settings["lxc_autoscale"]
    ours["user"], token = jenkins.auth("builder")
    path = lab.directory / "jenkins.token"
    path.write_text(token)
    path.chmod(0o600)
    ours.update(url=jenkins.url, job=JOB, api_token_file=str(path), parameters={"NAME_PREFIX": PREFIX}, **more)
    ours["ledger"] = str(lab.directory / "ledger" / "ledger.sqlite")
    return settings


def ask(lab: Lab, check: str, predicate: "Callable[[dict[str, Any]], bool]") -> "dict[str, Any]":
    """Have the subscribers run it, which is only run when asked for; the result, of which predicate holds.

    (The server begins to publish by itself at any time in its first minute; a run that coincides with another is none.)
    """
    asked = int(time.time())
    wait_until(lambda: time.time() >= asked + 1, 2, "the next second, by which Core tells two runs apart")
    assert lab.api("POST", "/request", {"check": check})[0] == 202
    return lab.wait_for_result(lab.client, check, lambda check: check["executed"] > asked and predicate(check))


def test_one_alert_makes_one_container(lab: Lab, jenkins: Jenkins) -> None:  # noqa: F811
    lab.configure(lab.server_etc, "jenkins", autoscale(lab, jenkins))
    with busybox("core-loop", limit_bytes=64 * MIB) as container, Sink() as sink:
        mail = shipped("handlers/mail.json")
        del mail["lxc_mail"]["user"], mail["lxc_mail"]["password_file"]
        mail["lxc_mail"].update(server="127.0.0.1", port=sink.port, state_file=str(lab.directory / "m" / "mail.sqlite"))
        lab.configure(lab.server_etc, "mail", mail)
        check = shipped("subscription/check_memory.json")
        check["checks"]["check_memory"]["command"] += f" -n {container.name}"
        check["checks"]["check_memory"]["publish"] = False
        check["checks"]["check_memory"]["handlers"] += ["mail"]
        lab.configure(lab.server_etc, "check_memory", check)
        lab.start()

        def run(status: int) -> "dict[str, Any]":
            return ask(lab, "check_memory", lambda check: check["status"] == status)

        assert run(0)["output"].startswith(f"CheckContainerMemory OK: {container.name}: ")
        container.fill(60 * MIB)
        run(2)
        event = lab.wait_for_event(lab.client, "check_memory")
        assert event["check"]["output"].startswith(f"CheckContainerMemory CRITICAL: {container.name}: ")
        assert (event["action"], event["occurrences"]) == ("create", 1)
        (build,) = jenkins.wait_for_builds(JOB, 1, timeout=30)
        assert build.result == "SUCCESS", build.log
        (made,) = new_containers()
        assert json.loads(last_line(build.log, "{"))["name"] == made
        assert state(made) == "RUNNING"
        for _ in range(3):
            run(2)
        container.empty()
        run(0)
        told = wait_until(lambda: len(runs := lab.handled("jenkins")) == 5 and runs, 20, "the resolve to be handled")
        wait_until(lambda: len(lab.handled("mail")) == 5, 20, "the resolve to be mailed")
        assert [mail["X-Sensu-Change"] for mail in sink.messages] == ["CRITICAL", "OK, was CRITICAL"]

    assert [line.split(":")[0] for line in told] == [
        "handler_jenkins ACT sent", *["handler_jenkins HOLD cooldown"] * 3, "handler_jenkins HOLD ok",
    ]  # fmt: skip
    assert [one.number for one in jenkins.builds(JOB)] == [1]
    assert new_containers() == {made}


def test_the_reconciler_sees_what_core_knows(lab: Lab, jenkins: Jenkins, tmp_path: pathlib.Path) -> None:  # noqa: F811
    """It runs as a check of the server's own client, finds its settings in what that loaded, and reads Core's API."""
    with open(os.path.join(CHECKS, "jenkins", "lxc_provision.xml"), encoding="utf-8") as file:
        xml = file.read()
    parameter = "<hudson.model.StringParameterDefinition><name>LXC_HOST</name></hudson.model.StringParameterDefinition>"
    jenkins.create_job(JOB, xml.replace("</parameterDefinitions>", parameter + "</parameterDefinitions>"))
    lab.install("handlers", lab.client_etc)
    lab.subscriptions = ["sensu_server"]
    more = {"min": 1, "placement": {"by": "free_memory", "need": "1M"}}
    settings = autoscale(lab, jenkins, api={"url": lab.api_url, "kind": "core"}, **more)
    del settings["handlers"]
    lab.configure(lab.client_etc, "jenkins", settings)
    reconcile = shipped("subscription/reconcile_autoscale.json")
    reconcile["checks"]["reconcile_autoscale"]["publish"] = False
    lab.configure(lab.server_etc, "reconcile", reconcile)
    capacity = shipped("standalone/check_host_capacity.json")
    # Only what is asked about here may be wrong with this host.
    capacity["checks"]["check_host_capacity"]["command"] += (
        " --memory-critical 1000T --memory-warning 900T --memory-used-warning 100% --memory-used-critical 100%"
        " --disk-warning 100% --disk-critical 100% --inodes-warning 100% --inodes-critical 100%"
    )
    capacity["checks"]["check_host_capacity"]["interval"] = 1
    lab.configure(lab.client_etc, "capacity", capacity)
    lab.start()
    lab.wait_for_result(lab.client, "check_host_capacity", lambda check: check["status"] == 0)

    def reconciled(words: str) -> None:
        ask(lab, "reconcile_autoscale", lambda check: words in check["output"])

    reconciled("asked for lxc-")
    (build,) = jenkins.wait_for_builds(JOB, 1, timeout=30)
    assert (build.result, build.parameters["LXC_HOST"]) == ("SUCCESS", lab.client), build.log
    reconciled("0 of them seen running, 1 on their way")
    argv = [sys.executable, str(PLUGINS / f"{STATE}.py"), "-n", f"{PREFIX}-*", "--per-container"]
    argv += ["--agent", lab.http_url, "--state-dir", str(tmp_path / "state")]
    subprocess.run(argv, capture_output=True, timeout=30, check=True)
    (made,) = new_containers()
    assert lab.wait_for_result(made, STATE)["origin"] == lab.client
    reconciled("1 of them seen running")


@pytest.mark.parametrize("scheme", ["tcp", "http"])
def test_each_container_is_a_client_until_it_is_gone(
    lab: Lab, lxcpath: str, tmp_path: pathlib.Path, scheme: str
) -> None:
    # The server has a definition of the same name, as where it reads the same conf.d as the client.
    definition = {"command": f"{STATE}.py --per-container", "standalone": True, "interval": 60, "ttl": 300}
    lab.configure(lab.server_etc, "state", {"checks": {STATE: definition}})
    lab.start()
    url = lab.socket_url if scheme == "tcp" else lab.http_url
    how = ["-P", lxcpath, "--per-container", "--agent", url, "--state-dir", str(tmp_path / "state"), "--handlers", "no"]

    def sweep() -> "tuple[int, str]":
        argv = [sys.executable, str(PLUGINS / f"{STATE}.py"), *how]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        return done.returncode, done.stdout.partition(" | ")[0]

    with busybox(lxcpath=lxcpath, name="web1") as stays, busybox(lxcpath=lxcpath, name="web2") as goes:
        assert sweep() == (0, f"CheckContainerState OK: 2 containers reported to {url} (2 OK)")
        result = lab.wait_for_result("web1", STATE)
        assert (result["status"], result["ttl"], result["interval"], result["handlers"]) == (0, 180, 60, ["no"])
        assert lab.api("GET", "/clients/web1")[1]["type"] == "proxy"
        stays.stop()
        goes.destroy()
        assert sweep()[1].endswith("1 container reported to " + url + " (1 CRITICAL), and 1 told for the last time")
        event = lab.wait_for_event("web1", STATE)
        assert (event["check"]["status"], event["check"]["origin"]) == (2, lab.client)
        last = lab.wait_for_result("web2", STATE, lambda check: "this is its last result" in check["output"])
        assert last["ttl"] is None, "the server's own definition would have it missed for ever"

        door = agent.connect(url, 5)
        for bad in ({"entity": "a b"}, {"check": "a:b"}, {"output": None}, {"ttl": -1}):
            wrong = agent.Result("web1", "c", 0, "o", 180, 60, (), time.time())._replace(**bad)
            with pytest.raises(agent.Refused, match="invalid|HTTP 500"):
                door.send(wrong, time.monotonic() + 5)
        if scheme == "http":  # the other socket says ok, and the result is lost
            lab.stop("redis", signal.SIGKILL)
            wait_until(lambda: sweep()[0] == 3, 10, "the client to have noticed")
            assert "has no connection to its transport and would drop what it is given" in sweep()[1]
            lab.start_redis()
            wait_until(lambda: sweep()[0] == 0, 20, "the client to be connected again")


def test_the_watch_outlives_the_client(lab: Lab, lxcpath: str, tmp_path: pathlib.Path) -> None:
    lab.start()
    argv = [sys.executable, str(PLUGINS / "watch_container_state.py"), "-P", lxcpath, "--agent", lab.http_url]
    with busybox(lxcpath=lxcpath, name="web1") as container, open(tmp_path / "log", "w") as log:
        watch = subprocess.Popen([*argv, "--state-dir", str(tmp_path / "state")], stdout=log, stderr=subprocess.STDOUT)
        try:
            assert lab.wait_for_result("web1", STATE)["status"] == 0
            lab.stop("client", signal.SIGKILL)
            container.stop()
            wait_until(lambda: "results wait: no agent" in (tmp_path / "log").read_text(), 10, "it to be missed")
            lab.start_client()
            assert lab.wait_for_event("web1", STATE)["check"]["output"].endswith("web1: STOPPED, expected RUNNING")
        finally:
            watch.terminate()
            assert watch.wait(10) == 0, (tmp_path / "log").read_text()


def test_the_host_of_a_stopped_container_starts_it(lab: Lab, lxcpath: str, tmp_path: pathlib.Path) -> None:
    settings = shipped("handlers/remediate.json")
    settings["lxc_remediate"].update(
        api={"url": lab.api_url, "kind": "core"}, ledger=str(lab.directory / "ledger" / "remediate.sqlite")
    )
    lab.configure(lab.server_etc, "remediate", settings)
    for name in ("start_container", "thaw_container"):
        action = shipped(f"subscription/{name}.json")
        action["checks"][name]["command"] += f" -P {lxcpath} --state-dir {tmp_path}/deeds"
        lab.configure(lab.server_etc, name, action)
    sweep = shipped(f"standalone/{STATE}.json")["checks"][STATE]
    sweep["command"] += f" -P {lxcpath} --per-container --agent {lab.http_url} --state-dir {tmp_path}/state"
    sweep.update(command=sweep["command"] + " --handlers remediate --interval 1s", interval=1)
    lab.configure(lab.client_etc, "sweep", {"checks": {"sweep": sweep}})
    with busybox(lxcpath=lxcpath, name="web1", config_lines=["lxc.start.auto = 1"]) as container:
        lab.start()
        assert lab.wait_for_result("web1", STATE)["status"] == 0
        container.stop()
        done = lab.wait_for_result(lab.client, "start_container")
        assert (done["status"], done["api_requested"]["creator"]) == (0, "sensu-lxc"), done
        told = wait_until(lambda: len(runs := lab.handled("remediate")) >= 3 and runs, 20, "the resolve to be handled")
        assert "web1: RUNNING" in lab.wait_for_result("web1", STATE)["output"]
    assert [" ".join(line.split()[1:3]) for line in told] == ["HOLD occurrences:", "ACT asked:", "HOLD ok:"], told
    assert f"web1/{STATE} CRITICAL: asked {lab.client} for start_container" in told[1]
