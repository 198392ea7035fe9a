"""Two Sensu servers, one Redis, a Jenkins that misbehaves, and kill -9 for everybody: what must hold all the same.

tests/live/test_storm.py does it with 10,000 events.
"""

import collections
import contextlib
import json
import random
import subprocess
import sys
import time

import pytest
from sensu_lxc_handlers import fleet as fleets
from sensu_lxc_handlers import instances

from tests.standin.jenkins import Fault, Jenkins
from tests.standin.sensu import SensuCore

from .redis_server import RedisServer, needed
from .support import core_event, job_xml
from .test_reconcile_autoscale import DECOMMISSION, GROUP, JOB, SCRIPT, Checked, World

MOST = 4
EVENTS = 150
FAULTS = [Fault.CLOSE_BEFORE_READING, Fault.CLOSE_AFTER_QUEUEING, Fault.CUT_IN_HEADER, Fault.RESET, Fault.STARTING]


class Storm(World):
    """A World whose ledger is a Redis that it shares with others."""

    def __init__(self, folder, jenkins, sensu, server, **scope):
        folder.mkdir()
        super().__init__(folder, jenkins, sensu, max=MOST, budget=0, breaker=0, **scope)
        self.setup.scope.update(ledger=server.url, cooldown="1s", warm_up="1m", timeout=8)
        self.server = server

    @property
    def ledger(self):
        from sensu_lxc_handlers.ledger_redis import RedisLedger

        return RedisLedger(self.server.url, "", 5)

    @property
    def fleets(self):
        with self.ledger as ledger:
            return ledger.fleets()

    def reconciling(self):
        return subprocess.Popen(
            [sys.executable, SCRIPT, "--config", self.setup.config], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, env=self.setup.environ,
        )  # fmt: skip


def hand_over(process, event):
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(event).encode())
        process.stdin.close()
    process.stdin = None


def containers(jenkins, fleet):
    """{name: is it there} of what the builds that were made have made."""
    built = {build.parameters["REQUEST_ID"] for build in jenkins.builds(JOB) if build.result == "SUCCESS"}
    return {
        instances.name_of("auto", request_id)
        for one in fleet.requests
        if one.request_id in built
        for request_id in instances.request_ids(one)
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm(tmp_path, seed):
    needed()
    chance = random.Random(seed)
    (tmp_path / "jenkins").mkdir()
    (tmp_path / "redis").mkdir()
    with contextlib.ExitStack() as stack:
        jenkins = stack.enter_context(Jenkins(work=tmp_path / "jenkins"))
        sensu = stack.enter_context(SensuCore())
        server = stack.enter_context(RedisServer(tmp_path / "redis"))
        jenkins.create_job(JOB, job_xml(parameters=("REQUEST_ID", "COUNT", "NAME_PREFIX")))
        jenkins.create_job(DECOMMISSION, job_xml(parameters=("REQUEST_ID", "TARGET_ID", "NAME_PREFIX", "COUNT")))
        servers = [Storm(tmp_path / name, jenkins, sensu, server) for name in ("one", "two")]
        running, words = [], collections.Counter()

        def reap(process):
            output = process.communicate(timeout=60)[0].decode()
            assert "Traceback" not in output and "internal" not in output, output
            words[" ".join(output.split(" ")[1:3]) if process.returncode != -9 else "killed"] += 1

        for number in range(EVENTS):
            # Time passes for the ledger only while nobody is at work, who would seem to be dead.
            is_pause = number % 15 == 14
            while len(running) > (0 if is_pause else 7):
                reap(running.pop(0))
            if is_pause and GROUP in servers[0].fleets:
                servers[0].age(70)
            here = chance.choice(servers)
            if number % 10 == 5:
                running.append(here.reconciling())
            else:
                event = core_event(f"web{chance.randrange(3)}", incident=str(chance.randrange(40)))
                running.append(here.setup.start())
                hand_over(running[-1], event)
            if chance.random() < 0.15:
                time.sleep(chance.random() * 0.2)
                running[chance.randrange(len(running))].kill()
            if chance.random() < 0.15:
                jenkins.fault, jenkins.fault_count = chance.choice(FAULTS), 1
            if number == EVENTS // 2:
                server.kill()
                server.start()
        for process in running:
            reap(process)
        jenkins.fault = None
        asked = [build.parameters["REQUEST_ID"] for build in jenkins.builds(JOB)]
        asked += [item.parameters["REQUEST_ID"] for item in jenkins.queued()]
        assert len(asked) == len(set(asked)) <= MOST, "one build for each decision, and no more than max"
        assert words["killed"] > 3 and asked, words
        converge(servers, jenkins)


def converge(servers, jenkins):
    """Under an alert that lasts, exactly max containers run in the end, each of one build."""
    one, two = servers
    for number in range(40):
        for name in containers(jenkins, one.fleet):
            one.told(name)
        seen = Checked((one, two)[number % 2].reconciling())
        assert seen.status in (0, 1), seen
        states = one.states
        if states.count(fleets.VERIFIED) == MOST:
            break
        one.age(70)
        two.alert(incident=f"late-{number}")
        jenkins.wait_for_builds(JOB, len(jenkins.builds(JOB)))
    built = [build.parameters["REQUEST_ID"] for build in jenkins.builds(JOB)]
    assert len(built) == len(set(built)) == MOST, (states, built)
    assert states.count(fleets.VERIFIED) == MOST
    assert one.alert(incident="last").code in ("max", "cooldown")
    assert GROUP in one.reconcile("--report").output
