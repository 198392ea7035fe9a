"""reconcile_autoscale run as Sensu runs a check, against a stand-in of Jenkins that builds and one of Sensu's API."""

import glob
import os
import re
import shutil
import stat
import subprocess
import sys
import time

import pytest
import requests
from sensu_lxc_handlers import fleet as fleets
from sensu_lxc_handlers import instances, policy
from sensu_lxc_handlers.event import Event
from sensu_lxc_handlers.fleet import Moment
from sensu_lxc_handlers.ledger import Ledger

from tests.standin.jenkins import Fault, Jenkins, Phase
from tests.standin.sensu import SensuCore, SensuGo

from .support import ROOT, Setup, core_event, job_xml

SCRIPT = os.path.join(ROOT, "handlers", "reconcile_autoscale.py")
JOB, DECOMMISSION = "A/lxc provision", "lxc_decommission"
GROUP = "web"
LAST = "CheckContainerState OK: {}; this is its last result"


class Checked:
    """One run: its exit status, its first line, and those below."""

    def __init__(self, process):
        output = process.communicate(timeout=60)[0].decode()
        self.status, (self.line, *self.below) = process.returncode, output.rstrip("\n").split("\n")
        self.output = output
        assert "Traceback" not in output
        assert output.endswith("\n") and all(c.isprintable() for c in output if c != "\n"), output

    def __repr__(self):
        return f"{self.status} {self.output}"


class World:
    """A group `web` whose member is the check check_memory of entity web1."""

    def __init__(self, folder, jenkins, sensu, **scope):
        self.jenkins, self.sensu, self.setup = jenkins, sensu, Setup(folder, url=jenkins.url, job=JOB, user="builder")
        self.setup.scope["api_token_file"] = self.setup.secret("api", jenkins.auth("builder")[1])
        self.setup.scope.update(
            groups={GROUP: {"match": {"entity": "web*", "check": "check_memory"}}}, cooldown="60s", warm_up="5m",
            **scope,
        )  # fmt: skip
        if sensu is not None:
            sensu.results = []
            self.setup.scope["api"] = {"url": sensu.url, "kind": "core"}
            self.told("web1", "check_memory")

    def alert(self, **more):
        return self.setup.run(core_event(**more))

    def reconcile(self, *arguments):
        command = [sys.executable, SCRIPT, "--config", self.setup.config, *arguments]
        return Checked(subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**self.setup.environ, "SENSU_LXC_JENKINS_TOKEN": "" },
        ))  # fmt: skip

    def told(self, entity, check="check_container_state", status=0, age=0, output="OK"):
        """A result in Sensu, instead of the one before."""
        self.sensu.results = [
            one for one in self.sensu.results if (one["client"], one["check"]["name"]) != (entity, check)
        ]
        details = {"name": check, "status": status, "executed": int(time.time() - age), "output": output}
        self.sensu.results.append({"client": entity, "check": details})

    @property
    def ledger(self):
        return Ledger(self.setup.ledger, 1)

    @property
    def fleet(self):
        with self.ledger as ledger:
            return ledger.fleets()[GROUP]

    @property
    def requests(self):
        return self.fleet.requests

    @property
    def states(self):
        return [one.state for one in self.requests]

    def age(self, seconds):
        """Let time pass for the ledger."""

        def older(moment):
            return moment and Moment(moment.wall - seconds, "an earlier boot", 1.0)

        def change(fleet):
            requests = tuple(
                one._replace(at=older(one.at), asked=older(one.asked), amiss=older(one.amiss)) for one in fleet.requests
            )
            return fleet._replace(requests=requests, quiet=older(fleet.quiet))

        with self.ledger as ledger:
            ledger.change(GROUP, ledger.moment(), change)

    def built(self, count=1):
        """The first request is BUILT; returns the names of its containers."""
        assert self.alert().code == "sent"
        self.jenkins.wait_for_builds(JOB, count)
        seen = self.reconcile()
        assert self.states[0] == fleets.BUILT, seen
        one = self.requests[0]
        return [instances.name_of("auto", request_id) for request_id in instances.request_ids(one)]


@pytest.fixture
def jenkins(tmp_path):
    (tmp_path / "jenkins").mkdir()
    with Jenkins(work=tmp_path / "jenkins") as standin:
        standin.create_job(JOB, job_xml(parameters=("REQUEST_ID", "COUNT", "NAME_PREFIX", "LXC_HOST")))
        standin.create_job(
            DECOMMISSION, job_xml(parameters=("REQUEST_ID", "TARGET_ID", "NAME_PREFIX", "COUNT", "LXC_HOST"))
        )
        yield standin


@pytest.fixture
def sensu():
    with SensuCore() as core:
        yield core


@pytest.fixture
def world(tmp_path, jenkins, sensu):
    return World(tmp_path, jenkins, sensu)


def post(jenkins, request_id):
    """Somebody else asks for a build."""
    url = f"{jenkins.url}/job/A/job/lxc%20provision/buildWithParameters"
    requests.post(url, data={"REQUEST_ID": request_id}, auth=jenkins.auth("admin"), timeout=5)


# Following


def test_nothing_to_do(world):
    seen = world.reconcile()
    assert (seen.status, seen.line) == (
        0, "reconcile_autoscale OK: web: 0 containers, 0 of them seen running, 0 on their way (min 0, max 10)"
        f" [the ledger {world.setup.ledger} is new: what was asked for before is not known]",
    )  # fmt: skip
    assert not world.jenkins.requests


def test_a_request_is_followed_until_its_container_runs_and_then_is_gone(world):
    (name,) = world.built()
    seen = world.reconcile()
    assert seen.status == 0 and "0 of them seen running, 1 on their way" in seen.line
    world.told(name)
    seen = world.reconcile()
    assert seen.status == 0 and "web: 1 containers, 1 of them seen running, 0 on their way" in seen.line
    assert world.requests[0].names == (name,) and world.requests[0].build == 1
    world.told(name, status=2, output="CheckContainerState CRITICAL: STOPPED")
    seen = world.reconcile()
    assert seen.status == 1 and f"{name} is told not to run" in seen.line and world.states == [fleets.VERIFIED]
    assert "1 containers, 0 of them seen running" in seen.output
    world.told(name, output=LAST.format(f"{name} is no longer watched"))
    assert world.reconcile().status == 0 and world.states == [fleets.VERIFIED], "it may run on"
    world.told(name, age=9e5, output=LAST.format(f"{name} is no longer on this host"))
    assert world.reconcile().status == 0 and world.states == [fleets.GONE]
    assert "nobody looks" not in world.alert(executed=int(time.time()) + 1).line


def test_one_that_never_comes_up_is_a_warning_and_then_an_open_circuit(world):
    world.setup.scope["breaker"] = 1
    (name,) = world.built()
    world.age(301)
    seen = world.reconcile()
    assert seen.status == 2 and "the circuit is open" in seen.line
    assert any(one.startswith("WARNING: web: lxc-") and f"{name} not seen running" in one for one in seen.below)
    world.setup.scope["breaker"] = 2
    assert world.reconcile().status == 1
    request_id = world.requests[0].request_id
    done = world.reconcile("--forget", request_id)
    assert done.status == 0 and "which was UNVERIFIED" in done.line
    assert world.reconcile().status == 0 and world.states == [fleets.GONE]
    assert world.reconcile("--forget", "lxc-other-1").status == 3


def test_a_build_that_fails_opens_the_circuit(world, jenkins):
    world.setup.scope["breaker"] = 1
    jenkins.create_job(JOB, job_xml(command="exit 1"))
    world.alert()
    jenkins.wait_for_builds(JOB, 1)
    seen = world.reconcile()
    assert seen.status == 2 and "build 1 ended as FAILURE" in seen.line and world.states == [fleets.FAILED]


def test_several_containers_of_one_request(world):
    world.setup.scope["step"] = 2
    names = world.built()
    assert len(names) == 2 and world.jenkins.builds(JOB)[0].parameters["COUNT"] == "2"
    world.told(names[0])
    world.reconcile()
    assert world.states == [fleets.BUILT]
    world.told(names[1])
    assert "2 containers, 2 of them seen running" in world.reconcile().line


def test_what_a_failed_build_made_is_counted(world, jenkins):
    """Of a request for three the build fails after two: both are there, and none but the third may be made."""
    world.setup.scope.update(step=3, max=3, cooldown="0s", breaker=0)
    jenkins.create_job(JOB, job_xml(parameters=("REQUEST_ID", "COUNT"), command="exit 1"))
    assert world.alert().code == "sent"
    jenkins.wait_for_builds(JOB, 1)
    one = world.requests[0]
    names = [instances.name_of("auto", request_id) for request_id in instances.request_ids(one)]
    seen = world.reconcile()
    assert seen.status == 1 and "build 1 ended as FAILURE" in seen.line and world.states == [fleets.FAILED]
    held = world.alert(incident="j")
    assert held.code == "max", "they have their warm-up to be heard of"
    for name in names[:2]:
        world.told(name)
    seen = world.reconcile()
    assert f"{names[0]}, {names[1]} is there all the same" in seen.line and seen.status == 1
    world.age(400)
    assert "2 containers, 2 of them seen running" in world.reconcile().output
    assert world.alert(incident="k").code == "sent" and world.requests[-1].containers == 1
    # Silent now, they are there still.
    world.sensu.results = []
    world.reconcile()
    assert world.requests[0].present == 2 and world.requests[0].running == 0


def test_one_that_a_failed_build_made_after_all_is_as_any_other(world, jenkins):
    jenkins.create_job(JOB, job_xml(parameters=("REQUEST_ID", "COUNT"), command="exit 1"))
    world.alert()
    jenkins.wait_for_builds(JOB, 1)
    world.told(instances.name_of("auto", world.requests[0].request_id))
    seen = world.reconcile()
    assert seen.status == 0 and world.states == [fleets.VERIFIED], seen
    assert "although build 1 ended as FAILURE" in world.requests[0].detail


def test_what_stopped_is_named_replaced_and_no_reason_to_take_another_away(world, jenkins):
    world.setup.scope["groups"][GROUP]["quiet"] = "1h"
    names = ready_to_give_back(world, 3)
    world.setup.scope["groups"][GROUP].update(quiet="60s", min=2)
    for name in names[:2]:
        world.told(name, status=2, output="CheckContainerState CRITICAL: STOPPED")
    seen = world.reconcile()
    assert seen.status == 1 and f"{names[0]} is told not to run" in seen.line, seen
    assert "3 containers, 1 of them seen running" in seen.output and "min is 2" in seen.output
    assert not jenkins.builds(DECOMMISSION) and len(jenkins.builds(JOB)) == 3
    world.age(301)
    seen = world.reconcile()
    assert seen.status == 1 and world.states[:3] == [fleets.MISSED, fleets.MISSED, fleets.VERIFIED]
    jenkins.wait_for_builds(JOB, 4)
    assert not jenkins.builds(DECOMMISSION)
    for name in names[:2]:
        world.told(name)
    world.reconcile()
    assert world.states[:3] == [fleets.VERIFIED] * 3


def test_what_is_no_longer_heard_of_counts_for_nothing_and_makes_none(world, jenkins):
    world.setup.scope["groups"][GROUP]["min"] = 1
    names = ready_to_give_back(world, 2)
    world.told(names[0], status=2, output="Last check execution was 90000 seconds ago")
    seen = world.reconcile()
    assert seen.status == 0 and "2 containers, 1 of them seen running" in seen.output and "min is 1" in seen.output
    world.age(301)
    seen = world.reconcile()
    assert seen.status == 1 and f"nothing is heard of {names[0]} for 5m01s" in seen.line
    assert world.states == [fleets.VERIFIED] * 2 and len(jenkins.builds(JOB)) == 2 and not jenkins.builds(DECOMMISSION)


def test_of_several_of_one_request_those_that_are_left_are_counted(world):
    world.setup.scope.update(step=3)
    names = world.built()
    for name in names:
        world.told(name)
    world.reconcile()
    for name in names[:2]:
        world.told(name, output=LAST.format(f"{name} is no longer on this host"))
    seen = world.reconcile()
    assert "1 containers, 1 of them seen running" in seen.output and world.states == [fleets.VERIFIED]
    world.sensu.results = [one for one in world.sensu.results if one["client"] == names[2]]
    assert "1 containers, 1 of them seen running" in world.reconcile().output, "gone is gone without its last result"


def test_what_waits_or_builds_for_too_long_is_named(world, jenkins):
    world.setup.scope["groups"][GROUP]["min"] = 1
    jenkins.executors = 0
    assert world.reconcile().status == 0
    assert world.reconcile().status == 0
    world.age(3 * 86400)
    seen = world.reconcile()
    assert seen.status == 1 and "it waits in Jenkins' queue for 3d" in seen.line and len(world.requests) == 1
    jenkins.create_job(JOB, job_xml(command="sleep 30"))
    jenkins.executors = 2
    for _ in range(50):
        if world.reconcile() and world.states == [fleets.BUILDING]:
            break
    assert world.reconcile().status == 0
    world.age(4000)
    seen = world.reconcile()
    assert seen.status == 1 and "its build runs for 1h06m" in seen.line


def test_a_failed_build_is_a_warning_until_one_comes_up(world, jenkins):
    world.setup.scope["cooldown"] = "0s"
    jenkins.create_job(JOB, job_xml(command="exit 1"))
    world.alert()
    jenkins.wait_for_builds(JOB, 1)
    for _ in range(2):
        seen = world.reconcile()
        assert seen.status == 1 and "build 1 ended as FAILURE" in seen.line
    jenkins.create_job(JOB, job_xml())
    assert world.alert(incident="j").code == "sent"
    jenkins.wait_for_builds(JOB, 2)
    world.told(instances.name_of("auto", world.requests[1].request_id))
    world.reconcile()
    assert world.reconcile().status == 0


def test_a_giving_back_that_fails_is_named_and_not_tried_again_at_once(world, jenkins):
    ready_to_give_back(world)
    jenkins.create_job(DECOMMISSION, job_xml(parameters=("REQUEST_ID", "TARGET_ID", "NAME_PREFIX"), command="exit 1"))
    assert world.reconcile().status == 0
    jenkins.wait_for_builds(DECOMMISSION, 1)
    for _ in range(2):
        seen = world.reconcile()
        request_id = world.requests[0].request_id
        assert seen.status == 1 and f"did not take {request_id} away: build 1 ended as FAILURE" in seen.line, seen
        assert len(world.requests) == 2
    world.age(70)
    seen = world.reconcile()
    assert seen.status == 1 and len(world.requests) == 3, "while it is tried again as well"


@pytest.mark.parametrize("why", ["no-host", "budget", "rejected"])
def test_fewer_than_min_is_a_warning_at_each_run(world, jenkins, why):
    world.setup.scope["groups"][GROUP]["min"] = 1
    if why == "no-host":
        world.setup.scope["placement"] = {"by": "free_memory"}
    elif why == "budget":
        world.setup.scope["budget"] = 1
        (name,) = world.built()
        world.told(name)
        world.reconcile()
        world.told(name, output=LAST.format(f"{name} is no longer on this host"))
    else:
        jenkins.create_job(JOB, job_xml(disabled=True))
        assert world.reconcile().status == 1
    for _ in range(2):
        seen = world.reconcile()
        assert seen.status == 1 and f"fewer than min (1) are there: {why}: " in seen.line, seen


def test_an_api_that_can_not_be_read_makes_nothing_unverified(world, sensu):
    world.built()
    world.age(3000)
    sensu.fault, sensu.fault_on = 500, "GET"
    seen = world.reconcile()
    assert seen.status == 3 and "answered 500" in seen.line and world.states == [fleets.BUILT]
    sensu.fault = None
    assert world.reconcile().status == 1


def test_without_anybody_who_tells_nothing_is_unverified(world):
    world.built()
    del world.setup.scope["api"]
    world.age(3000)
    assert world.reconcile().status == 0 and world.states == [fleets.BUILT]


def test_results_of_sensu_go(world):
    with SensuGo() as go:
        (name,) = world.built()
        key = world.setup.secret("key", go.key)
        world.setup.scope["api"] = {"url": go.url, "kind": "go", "api_key_file": key}
        check = {
            "metadata": {"name": "check_container_state"},
            "status": 0,
            "executed": int(time.time()),
            "output": "OK",
        }
        go.events.append({"entity": {"metadata": {"name": name}, "entity_class": "proxy"}, "check": check})
        seen = world.reconcile()
        assert seen.status == 0 and world.states == [fleets.VERIFIED]
        go.key = "another"
        seen = world.reconcile()
        assert seen.status == 3 and "api_key_file" not in seen.line and "API key is unknown" in seen.line
        assert open(key).read().strip() not in seen.output


@pytest.mark.parametrize(
    "status, state", [(0, fleets.VERIFIED), (1, fleets.BUILT), (2, fleets.BUILT), (44, fleets.GONE), (7, fleets.BUILT)]
)
def test_a_command_tells(world, tmp_path, status, state):
    (name,) = world.built()
    script = tmp_path / "verify me"
    script.write_text(f"#!/bin/sh\necho \"$#:$1:$2\" >> '{tmp_path}/log'\nenv > '{tmp_path}/env'\nexit {status}\n")
    script.chmod(0o755)
    world.setup.scope["verify_command"] = f"'{script}' {{name}} 'on {{host}}; $(touch {tmp_path}/mark)'"
    world.reconcile()
    assert world.states == [state]
    assert (tmp_path / "log").read_text() == f"2:{name}:on ; $(touch {tmp_path}/mark)\n"
    assert not (tmp_path / "mark").exists() and "SENSU_LXC" not in (tmp_path / "env").read_text()


def test_a_command_that_hangs_is_ended_with_all_that_it_started(world, tmp_path):
    world.built()
    script = tmp_path / "hang"
    script.write_text(f"#!/bin/sh\nsleep 77 & echo $! > {tmp_path}/pid\nwait\n")
    script.chmod(0o755)
    world.setup.scope["verify_command"] = f"{script} {{name}}"
    started = time.monotonic()
    assert world.reconcile("--timeout", "4s").status == 0
    assert time.monotonic() - started < 8 and world.states == [fleets.BUILT]
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid}") or "Z" in open(f"/proc/{pid}/stat").read().split(")")[1][:3]:
            return
        time.sleep(0.05)
    raise AssertionError("its child runs on")


@pytest.mark.parametrize("command", ["", "'", "{name}", "/bin/true", "/bin/true {nam}"])
def test_a_command_that_makes_no_sense(world, command):
    world.setup.scope["verify_command"] = command or 7
    seen = world.reconcile()
    assert seen.status == 3 and "verify_command" in seen.line


# Jenkins that forgets


def test_a_lost_queue_frees_the_request_and_the_next_alert_asks_again(world, jenkins):
    jenkins.executors = 0
    assert world.alert().code == "sent"
    assert world.reconcile().status == 0 and world.states == [fleets.SENT]
    jenkins.restart(kill=True)
    assert world.reconcile().status == 0 and world.states == [fleets.SENT], "it may be on its way to a build"
    world.age(61)
    world.reconcile()
    assert world.states == [fleets.UNSENT] and "Jenkins lost it" in world.requests[0].detail
    # The number that it had is somebody else's now.
    request_id = world.requests[0].request_id
    jenkins.executors = 2
    assert world.alert(executed=int(time.time()) + 1).code == "sent"
    (build,) = jenkins.wait_for_builds(JOB, 1)
    assert build.parameters["REQUEST_ID"] == request_id
    world.reconcile()
    assert world.states == [fleets.BUILT] and len(jenkins.builds(JOB)) == 1


def test_a_number_that_is_somebody_elses(world, jenkins):
    """After a restart Jenkins counts from 1 again: the cancelled item of our number is not ours."""
    jenkins.executors = 0
    world.alert()
    number = world.requests[0].queue_item
    jenkins.restart(kill=True)
    for other in range(number + 1):
        post(jenkins, f"other-{other}")
    assert number in [item.number for item in jenkins.queued()]
    jenkins.clear_queue()
    world.age(61)
    world.reconcile()
    assert world.states == [fleets.UNSENT]


def test_cancelled_by_hand(world, jenkins):
    jenkins.executors = 0
    world.alert()
    jenkins.clear_queue()
    world.reconcile()
    assert world.states == [fleets.FAILED] and "was cancelled" in world.requests[0].detail


def test_an_item_between_queue_and_build_is_not_lost(world, jenkins):
    jenkins.controller.executable_delay = 3600
    world.alert()
    jenkins.wait_for_builds(JOB, 1)
    world.age(61)
    world.reconcile()
    assert world.states == [fleets.BUILT], "a build is found whatever its item says"


@pytest.mark.parametrize("phase", [Phase.DOWN, Phase.FAILING, Phase.UNSECURED, Phase.LOADING])
def test_a_jenkins_that_starts_is_unreadable_and_nothing_is_lost(world, jenkins, phase):
    world.alert()
    jenkins.wait_for_builds(JOB, 1)
    world.age(3000)
    jenkins.phase = phase
    seen = world.reconcile("--timeout", "8s")
    assert seen.status == 3 and "Jenkins can't be read" in seen.line
    assert world.states == [fleets.SENT]
    jenkins.phase = Phase.UP
    world.reconcile()
    assert world.states == [fleets.BUILT]


@pytest.mark.parametrize("fault, becomes", [
    (Fault.CLOSE_BEFORE_READING, fleets.UNSENT), (Fault.CLOSE_AFTER_QUEUEING, fleets.BUILT),
    (Fault.CUT_IN_HEADER, fleets.BUILT),
])  # fmt: skip
def test_a_request_of_which_nobody_knows_is_found_or_freed(world, jenkins, fault, becomes):
    jenkins.fault, jenkins.fault_count = fault, 1
    world.alert()
    assert world.states == [fleets.UNKNOWN]
    jenkins.phase = Phase.LOADING
    world.age(120)
    seen = world.reconcile("--timeout", "8s")
    assert seen.status == 1 and "nobody knows for 2m what became of" in seen.line
    jenkins.phase = Phase.UP
    assert world.reconcile().status == 0
    assert world.states == [becomes]


def test_many_requests_are_two_gets(world, jenkins):
    with world.ledger as ledger:
        now = ledger.moment()
        for number in range(30):
            event = Event.from_sensu(core_event(incident=str(number)))
            act = policy.Act(number + 1, None, False)
            _, asked = ledger.decide(GROUP, event, JOB, now, lambda fleet, seen, act=act: act)
            ledger.settle(GROUP, asked, fleets.SENT, now, None, "")
    for one in world.requests:
        post(jenkins, one.request_id)
    jenkins.wait_for_builds(JOB, 30, timeout=60)
    del jenkins.requests[:]
    world.reconcile()
    assert set(world.states) == {fleets.BUILT} and len(jenkins.requests) == 2


# Keeping a least


def test_it_keeps_min(world, jenkins):
    world.setup.scope["groups"][GROUP]["min"] = 2
    dry = world.reconcile("--dry-run")
    assert dry.status == 0 and "would ask for a build" in dry.output and not jenkins.builds(JOB)
    seen = world.reconcile()
    assert seen.status == 0 and "asked for lxc-" in seen.output
    (build,) = jenkins.wait_for_builds(JOB, 1)
    assert build.parameters["REQUEST_ID"] == world.requests[0].request_id and world.requests[0].containers == 1
    seen = world.reconcile()
    assert "in-flight" in seen.output and len(jenkins.builds(JOB)) == 1
    name = instances.name_of("auto", world.requests[0].request_id)
    world.told(name)
    world.reconcile()  # which sees the first and asks for the second
    jenkins.wait_for_builds(JOB, 2)
    world.told(instances.name_of("auto", world.requests[1].request_id))
    world.reconcile()
    world.reconcile()
    seen = world.reconcile()
    assert world.states == [fleets.VERIFIED] * 2 and len(jenkins.builds(JOB)) == 2
    world.told(name, output=LAST.format(f"{name} is no longer on this host"))
    world.reconcile()
    jenkins.wait_for_builds(JOB, 3)
    assert world.states[0] == fleets.GONE and len(world.requests) == 3


def test_twenty_reconcilers_at_once_keep_min_with_one_build(world, jenkins):
    world.setup.scope["groups"][GROUP]["min"] = 1
    config = world.setup.config
    command = [sys.executable, SCRIPT, "--config", config]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=world.setup.environ)
        for _ in range(20)
    ]
    seen = [Checked(process) for process in processes]
    assert {one.status for one in seen} == {0}, seen
    jenkins.wait_for_builds(JOB, 1)
    assert len(jenkins.builds(JOB)) + len(jenkins.queued()) == 1


def test_a_disabled_or_paused_group_is_only_followed(world, jenkins):
    world.setup.scope["groups"][GROUP].update(min=1, enabled=False)
    assert world.reconcile().status == 0 and not jenkins.builds(JOB)
    world.setup.scope["groups"][GROUP]["enabled"] = True
    done = world.reconcile("--group", GROUP, "--pause", "moving\nhosts")
    assert done.status == 0 and "web is paused: moving hosts" in done.line
    seen = world.reconcile()
    assert seen.status == 0 and "paused: moving hosts" in seen.line and not jenkins.builds(JOB)
    held = world.alert()
    assert (held.code, "moving hosts" in held.line) == ("paused", True)
    assert world.reconcile("--resume").status == 0
    world.reconcile()
    assert jenkins.wait_for_builds(JOB, 1)


# Two scopes, one ledger


def other_scope(world, tmp_path, jenkins):
    """A scope of its own Jenkins, whose settings name the same ledger."""
    (tmp_path / "other").mkdir()
    setup = Setup(tmp_path / "other", **{**world.setup.scope, "url": jenkins.url, "ledger": world.setup.ledger})
    setup.scope_name = "lxc_db"
    setup.scope.pop("groups")
    setup.scope["api_token_file"] = setup.secret("api", jenkins.auth("builder")[1])
    return setup


def test_what_another_scope_asked_of_its_jenkins_is_its_own(world, jenkins, tmp_path):
    world.setup.scope["min"] = 1
    (tmp_path / "jenkins2").mkdir()
    with Jenkins(work=tmp_path / "jenkins2") as second:
        second.create_job(JOB, job_xml(parameters=("REQUEST_ID", "COUNT", "NAME_PREFIX", "LXC_HOST")))
        second.executors = 0
        assert other_scope(world, tmp_path, second).run(core_event("db1"), "-j", "lxc_db").code == "sent"
        with world.ledger as ledger:
            now = ledger.moment()
            later = Moment(now.wall - 120, "an earlier boot", 1.0)
            fleet = ledger.change("lxc_db", now, lambda fleet: fleet._replace(
                requests=tuple(one._replace(at=later, asked=later) for one in fleet.requests)
            ))  # fmt: skip
        world.reconcile()
        seen = world.reconcile()
        request_id = fleet.requests[0].request_id
        assert "lxc_db" not in seen.output and fleet.requests[0].scope == "lxc_db"
        assert [build.parameters["REQUEST_ID"] for build in jenkins.wait_for_builds(JOB, 1)] != [request_id]
        with world.ledger as ledger:
            assert ledger.fleets()["lxc_db"].requests[0].state == fleets.SENT
        assert len(second.queued()) == 1 and len(jenkins.builds(JOB)) == 1


def test_a_group_of_two_scopes_asks_nobody_for_the_others_request(world, jenkins, tmp_path):
    setup = other_scope(world, tmp_path, jenkins)
    setup.scope["group"] = GROUP
    jenkins.fault, jenkins.fault_count = Fault.CLOSE_BEFORE_READING, 1
    assert setup.run(core_event("db1"), "-j", "lxc_db").code == "unknown-outcome"
    world.age(120)
    held = world.alert()
    assert (held.status, held.code) == (0, "other-scope") and "by the scope lxc_db" in held.line
    world.setup.scope["groups"][GROUP]["min"] = 2
    seen = world.reconcile()
    assert seen.status == 1 and "other-scope" in seen.output and not jenkins.builds(JOB)
    assert world.states == [fleets.UNKNOWN]


def test_a_group_that_no_settings_name_any_more_is_not_kept(world, jenkins):
    (name,) = world.built()
    world.told(name)
    world.reconcile()
    world.setup.scope["groups"] = {"www": {"match": {"entity": "web*"}}}
    world.setup.scope["min"] = 1
    world.told("www1", "check_memory")
    seen = world.reconcile()
    jenkins.wait_for_builds(JOB, 2)
    assert seen.output.count("the settings do not name it any more") == 1 and "web: 1 containers" in seen.output
    world.told(name, output=LAST.format(f"{name} is no longer on this host"))
    seen = world.reconcile()
    assert "web" not in seen.output.replace("www", "") and world.states == [fleets.GONE]
    assert len(jenkins.builds(JOB)) == 2


# Giving back


def ready_to_give_back(world, count=1):
    """So many containers that run, and a group that was quiet for long enough."""
    world.setup.scope.update(quiet="60s", cooldown_in="0s", decommission_job=DECOMMISSION, max="9", budget=0)
    names = []
    for number in range(count):
        assert world.alert(executed=int(time.time()) - number, incident=str(number)).code == "sent"
        world.jenkins.wait_for_builds(JOB, number + 1)
        world.reconcile()
        names.append(instances.name_of("auto", world.requests[-1].request_id))
        world.told(names[-1])
        world.reconcile()
        world.age(70)
    assert world.states == [fleets.VERIFIED] * count
    world.age(70)
    return names


def test_the_youngest_is_given_back_and_min_is_left(world, jenkins):
    world.setup.scope["groups"][GROUP]["min"] = 1
    ready_to_give_back(world, 2)
    dry = world.reconcile("--dry-run")
    target = world.requests[1].request_id
    assert f"to take away {target}" in dry.output and not jenkins.builds(DECOMMISSION)
    seen = world.reconcile()
    assert seen.status == 0 and f"to take away {target}" in seen.output
    (build,) = jenkins.wait_for_builds(DECOMMISSION, 1)
    asked = world.requests[2]
    assert build.parameters == {
        "REQUEST_ID": asked.request_id, "TARGET_ID": target, "NAME_PREFIX": "auto", "COUNT": "", "LXC_HOST": "",
    }  # fmt: skip
    world.reconcile()
    assert world.states == [fleets.VERIFIED, fleets.GONE, fleets.GONE]
    world.age(70)
    seen = world.reconcile()
    assert "min is 1" in seen.output and len(jenkins.builds(DECOMMISSION)) == 1


def test_one_that_was_taken_away_on_the_wrong_host_is_noticed(world, jenkins):
    (name,) = ready_to_give_back(world)
    world.reconcile()
    jenkins.wait_for_builds(DECOMMISSION, 1)
    assert world.reconcile().status == 0 and world.states == [fleets.GONE] * 2
    world.age(400)
    world.told(name)
    seen = world.reconcile()
    assert seen.status == 1 and f"{name} still runs, although" in seen.line
    world.told(name, status=2)
    assert world.reconcile().status == 0


def test_with_placement_the_job_must_take_the_host(world, jenkins):
    ready_to_give_back(world)
    world.setup.scope["placement"] = {"by": "spread", "parameter": "WHERE"}
    seen = world.reconcile()
    assert "misfit" in seen.output and "lacks WHERE" in seen.output and not jenkins.builds(DECOMMISSION)


@pytest.mark.parametrize(
    "case", ["stale", "unwell", "nobody", "no job", "no api", "undeclared", "unreadable", "warning"]
)
def test_what_is_not_known_to_be_idle_is_not_given_back(world, jenkins, sensu, case):
    ready_to_give_back(world)
    if case == "stale":
        world.told("web1", "check_memory", age=8000)
    elif case in ("unwell", "warning"):
        world.told("web1", "check_memory", status=2 if case == "unwell" else 1)
    elif case == "nobody":
        sensu.results = [one for one in sensu.results if one["client"] != "web1"]
    elif case == "no job":
        del world.setup.scope["decommission_job"]
    elif case == "no api":
        del world.setup.scope["api"]
    elif case == "undeclared":
        jenkins.create_job(DECOMMISSION, job_xml(parameters=("REQUEST_ID", "NAME_PREFIX", "STOP_TIMEOUT")))
    elif case == "unreadable":
        sensu.fault, sensu.fault_on = 503, "GET"
    seen = world.reconcile()
    assert not jenkins.builds(DECOMMISSION) and world.states == [fleets.VERIFIED], seen
    words = {"stale": "nothing fresh", "unwell": "is not well", "nobody": "nothing fresh", "warning": "is not well",
             "undeclared": "lacks TARGET_ID", "unreadable": "answered 503"}.get(case, "OK")  # fmt: skip
    assert words in seen.output


def test_silence_that_began_before_the_first_look_counts(world, jenkins):
    world.told("web3", "check_memory", status=2, age=9000)
    world.told("web4", "check_memory", status=0, output="Last check execution was 90000 seconds ago")
    ready_to_give_back(world)
    seen = world.reconcile()
    assert "nothing fresh is heard of web3/check_memory and 1 more" in seen.output and not jenkins.builds(DECOMMISSION)
    assert "delete it in Sensu" in seen.output


def test_who_asked_is_a_member(world, jenkins):
    world.setup.scope.update(quiet="60s", cooldown_in="0s", decommission_job=DECOMMISSION)
    event = core_event("db1")
    event["client"]["lxc_autoscale"] = {"group": GROUP}
    assert world.setup.run(event).code == "sent"
    world.told("db1", "check_memory", status=2)
    jenkins.wait_for_builds(JOB, 1)
    world.reconcile()
    world.told(instances.name_of("auto", world.requests[0].request_id))
    world.reconcile()
    for _ in range(3):
        world.age(70)
        seen = world.reconcile()
    assert "db1/check_memory is not well" in seen.output and not jenkins.builds(DECOMMISSION)
    world.told("db1", "check_memory")
    for _ in range(2):
        world.reconcile()
        world.age(70)
    world.reconcile()
    assert jenkins.wait_for_builds(DECOMMISSION, 1)


def test_a_member_that_is_no_more_is_not_missed(world, jenkins):
    world.told("web2", "check_memory")
    ready_to_give_back(world)
    world.told("web2", "check_memory", output="OK; this is its last result", age=9000)
    world.reconcile()
    assert jenkins.wait_for_builds(DECOMMISSION, 1)


def test_a_member_is_forgotten_by_hand(world, jenkins, sensu):
    world.told("web2", "check_memory")
    ready_to_give_back(world)
    sensu.results = [one for one in sensu.results if one["client"] != "web2"]
    assert "nothing fresh is heard of web2/check_memory" in world.reconcile().output
    assert world.reconcile("--forget", "web2/check_memory").status == 0
    for _ in range(2):
        world.reconcile()
        world.age(70)
    world.reconcile()
    assert jenkins.wait_for_builds(DECOMMISSION, 1)


# Where


def host(world, name, megabytes, status=0, age=0, running=1):
    free = megabytes << 20
    data = f"host_memory_unpromised={free}B host_memory_available={free * 2}B;;;0 host_containers_running={running}"
    world.told(name, "check_host_capacity", status, age, f"CheckHostCapacity OK: fine | host_load5=0.1 {data}")


def test_the_host_is_chosen_by_handler_and_reconciler(world, jenkins, sensu):
    world.setup.scope.update(placement={"by": "free_memory", "need": "256M"}, cooldown="0s")
    held = world.alert()
    assert (held.status, held.code) == (0, "no-host") and "no host has a result of check_host_capacity" in held.line
    host(world, "big", 900)
    host(world, "small", 300)
    host(world, "busy", 9000, status=2)
    host(world, "old", 9000, age=3600)
    dry = world.setup.run(core_event(incident="dry"), "--dry-run")
    assert dry.code == "dry-run" and "on big" in dry.line
    assert world.alert(incident="j").code == "sent"
    (build,) = jenkins.wait_for_builds(JOB, 1)
    assert build.parameters["LXC_HOST"] == "big" and world.requests[0].host == "big"
    world.setup.scope["groups"][GROUP]["min"] = 2
    name = instances.name_of("auto", world.requests[0].request_id)
    world.told(name)
    world.reconcile()
    world.reconcile()
    jenkins.wait_for_builds(JOB, 2)
    assert [one.host for one in world.requests] == ["big", "big"]
    sensu.fault, sensu.fault_on = 500, "GET"
    world.age(400)
    held = world.alert(incident="k")
    assert (held.status, held.code) == (0, "placement") and "answered 500" in held.line


def test_why_no_host(world):
    world.setup.scope["placement"] = {"by": "free_memory", "need": "1G"}
    host(world, "big", 900)
    host(world, "busy", 9000, status=2)
    host(world, "old", 9000, age=3600)
    held = world.alert()
    assert held.code == "no-host"
    for words in ("big: 900 MiB free, 1 GiB needed", "busy: its result is CRITICAL", "old: its result is 1h old"):
        assert words in held.line


def test_a_hold_asks_no_api(world, sensu):
    world.setup.scope["placement"] = {"by": "spread"}
    host(world, "one", 900)
    assert world.alert().code == "sent"
    del sensu.requests[:]
    assert world.alert(incident="j").code in ("cooldown", "in-flight") and not sensu.requests


def test_asked_again_it_keeps_its_host_where_it_may_have_got_there(world, jenkins, sensu):
    world.setup.scope["placement"] = {"by": "free_memory"}
    host(world, "first", 900)
    jenkins.fault, jenkins.fault_count = Fault.CLOSE_BEFORE_READING, 1
    assert world.alert().code == "unknown-outcome"
    world.age(120)
    # Neither a better one nor that Sensu does not answer changes that.
    host(world, "second", 9000)
    sensu.fault, sensu.fault_on = 500, "GET"
    assert world.alert(incident="j").code == "sent"
    (build,) = jenkins.wait_for_builds(JOB, 1)
    assert build.parameters["LXC_HOST"] == "first"


def test_what_surely_did_not_get_there_is_placed_anew(world, jenkins, sensu):
    world.setup.scope["placement"] = {"by": "free_memory"}
    host(world, "first", 900)
    jenkins.phase = Phase.DOWN
    assert world.alert().status == 1 and world.requests[0].host == "first"
    request_id = world.requests[0].request_id
    sensu.results = [one for one in sensu.results if one["client"] != "first"]
    host(world, "second", 300)
    jenkins.phase = Phase.UP
    assert world.alert(incident="j").code == "sent"
    (build,) = jenkins.wait_for_builds(JOB, 1)
    assert (build.parameters["LXC_HOST"], build.parameters["REQUEST_ID"]) == ("second", request_id)
    assert world.requests[0].host == "second"


def test_an_api_that_does_not_answer_is_waited_for_half_of_the_time(world, sensu):
    world.setup.scope.update(placement={"by": "spread"}, timeout=4)
    sensu.fault, sensu.fault_on = "blackhole", "GET"
    held = world.alert()
    assert (held.status, held.code) == (0, "placement") and held.seconds < 4
    with world.ledger as ledger:
        assert ledger.fleets() == {} and [one.code for one in ledger.decisions(0)] == ["placement"]


# Trouble


def test_a_damaged_ledger_is_critical(world):
    os.makedirs(os.path.dirname(world.setup.ledger))
    with open(world.setup.ledger, "w") as file:
        file.write("no database " * 100)
    seen = world.reconcile()
    assert seen.status == 2 and "it is damaged; look in Jenkins" in seen.line


@pytest.mark.parametrize("arguments", [
    ["--group", "other"], ["--since", "x"], ["--pause", "  "], ["--timeout", "1s"], ["--misspelt"],
    ["--report", "--resume"], ["--html", "/nowhere/at/all.html"],
])  # fmt: skip
def test_wrong_options_are_unknown(world, arguments):
    seen = world.reconcile(*arguments)
    assert seen.status == 3 and not seen.below


def test_another_groups_job_that_can_not_be_read_leaves_this_one_alone(world, jenkins):
    world.setup.scope["groups"]["db"] = {"match": {"entity": "db*"}, "job": "gone"}
    jenkins.create_job("gone", job_xml())
    jenkins.fault, jenkins.fault_count = Fault.CLOSE_BEFORE_READING, 1
    assert world.alert(entity="db1").code == "unknown-outcome"
    jenkins.create_job("gone", job_xml(parameters=()))
    world.setup.scope["groups"][GROUP]["min"] = 1
    seen = world.reconcile()
    assert seen.status == 3 and "has no parameter REQUEST_ID" in seen.line
    assert jenkins.wait_for_builds(JOB, 1)


def test_nothing_new_is_asked_for_while_it_is_not_known_what_became_of_the_last(world, jenkins):
    jenkins.executors = 0
    world.alert()
    world.age(400)
    world.setup.scope["groups"][GROUP]["min"] = 2
    jenkins.create_job(JOB, job_xml(parameters=("OTHER",)))
    assert world.reconcile().status == 3 and len(world.requests) == 1


def test_a_request_whose_job_was_deleted_can_be_forgotten(world, jenkins):
    jenkins.fault, jenkins.fault_count = Fault.CLOSE_BEFORE_READING, 1
    assert world.alert().code == "unknown-outcome"
    request_id = world.requests[0].request_id
    world.age(120)
    with world.ledger as ledger:
        ledger.change(GROUP, ledger.moment(), lambda fleet: fleet.replaced(fleet.requests[0]._replace(job="deleted")))
    held = world.alert(incident="j")
    assert held.status == 1 and f"reconcile_autoscale.py --forget {request_id}" in held.line
    world.age(120)
    seen = world.reconcile()
    assert f"--forget {request_id}" in seen.line and "there is no such job any more" in seen.output
    assert world.reconcile("--forget", request_id).status == 0 and world.reconcile().status == 0
    assert world.alert(incident="k").code in ("sent", "cooldown")


def test_what_was_asked_for_is_said_where_it_can_not_be_recorded(world, jenkins):
    world.setup.scope["groups"][GROUP]["min"] = 1
    jenkins.create_job(JOB, job_xml(command="true"))
    spoil = (
        "import sys; sys.path.insert(0, sys.argv[1]); del sys.argv[1]\n"
        "from sensu_lxc_handlers import jenkins\n"
        "real = jenkins.Jenkins.trigger\n"
        "path = sys.argv.pop()\n"
        "def trigger(self, *more):\n"
        "    open(path, 'w').write('spoilt' * 1000)\n"
        "    return real(self, *more)\n"
        "jenkins.Jenkins.trigger = trigger\n"
        "import reconcile_autoscale\n"
        "reconcile_autoscale.main()\n"
    )
    seen = Checked(subprocess.Popen(
        [sys.executable, "-c", spoil, os.path.dirname(SCRIPT), "--config", world.setup.config, world.setup.ledger],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=world.setup.environ,
    ))  # fmt: skip
    assert seen.status == 2 and "asked for lxc-" in seen.line and "but that can't be recorded" in seen.line
    assert jenkins.wait_for_builds(JOB, 1)


def test_it_ends_in_time_whoever_does_not_answer(world, jenkins, sensu):
    world.built()
    jenkins.executors = 0
    world.age(400)
    world.alert(incident="j")
    jenkins.fault, jenkins.fault_everywhere = Fault.BLACKHOLE, True
    sensu.fault, sensu.fault_on = "blackhole", "GET"
    started = time.monotonic()
    seen = world.reconcile("--timeout", "6s")
    assert time.monotonic() - started < 9
    assert seen.status in (1, 3)


def test_no_secret_anywhere(world, jenkins):
    world.setup.scope["groups"][GROUP]["min"] = 1
    world.built()
    secret = jenkins.auth("builder")[1]
    shown = [world.reconcile(), world.reconcile("--report"), world.reconcile("--dry-run")]
    assert not any(secret in one.output for one in shown)
    for path in glob.glob(os.path.dirname(world.setup.ledger) + "/*"):
        assert secret.encode() not in open(path, "rb").read()


# The report


def test_why_was_it_made_and_why_not(world, tmp_path):
    world.setup.scope["cooldown"] = "10m"
    (name,) = world.built()
    world.told(name)
    world.reconcile()
    for number in range(3):
        assert world.alert(incident=str(number)).code == "cooldown"
    report = world.reconcile("--report")
    assert report.status == 0 and "decisions and" in report.line
    request_id = world.requests[0].request_id
    lines = [one for one in report.below if request_id in one]
    order = ["ACT request", "INTENT", "SENT", "BUILT", "VERIFIED"]
    assert [next(word for word in order if re.search(rf"\b{word}\b", line)) for line in lines[:5]] == order
    assert "web1/check_memory" in lines[0] and f"{name}: seen running" in lines[4]
    (held,) = [one for one in report.below if "HOLD cooldown" in one]
    assert "×3" in held
    (about,) = [one for one in report.below if one.startswith(request_id)]
    assert "build 1" in about and name in about


def test_a_report_of_no_ledger_says_so_and_makes_none(world, tmp_path):
    world.setup.scope["ledger"] = str(tmp_path / "mistyped" / "ledger.sqlite")
    for arguments in (["--report"], ["--html", str(tmp_path / "page.html")]):
        seen = world.reconcile(*arguments)
        assert seen.status == 3 and "there is no ledger" in seen.line and "name in `ledger`" in seen.line, seen
        assert not (tmp_path / "mistyped").exists() and not (tmp_path / "page.html").exists()


def test_what_the_first_line_says_is_said_once(world):
    world.built()
    seen = world.reconcile()
    assert seen.status == 0 and seen.output.count("of them seen running") == 1, seen


def test_the_page(world, tmp_path):
    hostile = "web<script>alert(1)</script>\"'&\u202e"
    world.setup.scope["groups"][GROUP]["match"] = {"entity": "web*"}
    world.alert(entity=hostile)
    world.jenkins.wait_for_builds(JOB, 1)
    world.reconcile()
    for number in range(4):
        world.alert(entity=f"web{number}")
    path = tmp_path / "page.html"
    path.write_text("old")
    seen = world.reconcile("--html", str(path))
    assert seen.status == 0 and f"wrote {path}" in seen.line
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644 and not glob.glob(str(tmp_path / "*.new"))
    page = path.read_text()
    assert "<script" not in page and "\u202e" not in page and "web&lt;script&gt;" in page
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://", page)
    with world.ledger as ledger:
        for one in ledger.decisions(0):
            assert page.count(f"{one.word} {one.code}") >= 2, "in the table and in the timeline"
            assert one.request_id is None or one.request_id in page
        for one in ledger.changes(0):
            assert f">{one.state}<" in page or f" {one.state} " in page
    check_markup(page)
    link = tmp_path / "link.html"
    link.symlink_to(path)
    assert world.reconcile("--html", str(link)).status == 0
    assert link.is_symlink()
    os.mkfifo(tmp_path / "fifo")
    for target in (str(tmp_path / "fifo"), "/dev/fd/1"):  # the pipe that the test reads
        seen = world.reconcile("--html", target)
        assert (seen.status, "it is no file" in seen.line) == (3, True)
    assert stat.S_ISFIFO(os.stat(tmp_path / "fifo").st_mode)


@pytest.fixture
def browser(tmp_path):
    """A function of a page's path: (the document as a real browser has it, what the browser complained of)."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")

    def show(path, width=1280):
        done = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},1000",
             f"--user-data-dir={tmp_path}/profile", "--enable-logging=stderr", "--virtual-time-budget=1000",
             f"--screenshot={tmp_path}/{width}.png", "--dump-dom", f"file://{path}"],
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Refused to" in line]
        assert done.returncode == 0, done.stderr
        return done.stdout, said

    return show


def test_the_page_in_a_real_browser(world, tmp_path, browser):
    hostile = "web<img src=x onerror=alert(1)>"
    world.setup.scope["groups"][GROUP]["match"] = {"entity": "web*"}
    (name,) = world.built()
    world.told(name)
    world.reconcile()
    world.alert(entity=hostile, incident="j")
    path = tmp_path / "page.html"
    assert world.reconcile("--html", str(path)).status == 0
    shown, complaints = browser(path)
    assert not complaints, complaints
    assert "<img" not in shown and "web&lt;img" in shown
    check_markup(shown)
    with world.ledger as ledger:
        decisions, changes = ledger.decisions(0), ledger.changes(0)
    rows = re.findall(r"<tr class=\"(\w+)\">", shown)
    assert rows.count("ACT") + rows.count("HOLD") == len(decisions)
    assert {one.state for one in changes} <= set(rows)
    assert shown.count("<circle") == 2 and shown.count("<rect") >= 3 and name in shown
    # It is drawn: more than one colour of the timeline is on the picture.
    picture = (tmp_path / "1280.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(colours(picture)) > 20


def colours(png):
    """Samples of a PNG's bytes: few are different where it is blank, many where it is drawn upon."""
    import zlib

    data, place = b"", 8
    while place < len(png):
        length, kind = int.from_bytes(png[place : place + 4], "big"), png[place + 4 : place + 8]
        data += png[place + 8 : place + 8 + length] if kind == b"IDAT" else b""
        place += 12 + length
    raw = zlib.decompress(data)
    return {raw[start : start + 3] for start in range(1, len(raw) - 3, 4001)}


def check_markup(page):
    """Every tag is closed in order, by Python's parser of HTML."""
    from html.parser import HTMLParser

    class Parser(HTMLParser):
        open_tags: "list[str]" = []

        def handle_starttag(self, tag, attrs):
            assert not any(name.startswith("on") for name, _ in attrs)
            if tag != "meta":
                self.open_tags.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert self.open_tags.pop() == tag

    parser = Parser()
    parser.feed(page)
    parser.close()
    assert parser.open_tags == []


def test_help(world):
    process = subprocess.run(
        [sys.executable, SCRIPT, "--help"], capture_output=True, text=True, env=world.setup.environ
    )
    assert process.returncode == 0 and "--report" in process.stdout and process.stderr == ""
