"""10,000 events on two Sensu servers with one Redis, while processes, Redis and Jenkins fail: what must hold after it.

tests/handlers/test_storm.py does the same with processes as Sensu starts them, and 150 events. Here each event has a
process of its own as well, forked from an interpreter that has loaded the handler (tests/handlers/forking.py): that is
a minute and a half on two idle cores, where starting Python each time would take five.
"""

import collections
import contextlib
import json
import pathlib
import random
import subprocess
import sys
import threading
import time
from typing import Any

from sensu_lxc_handlers import fleet as fleets
from sensu_lxc_handlers import instances
from sensu_lxc_handlers.fleet import Moment
from sensu_lxc_handlers.ledger_redis import RedisLedger

from tests.handlers import forking
from tests.handlers.redis_server import RedisServer, needed
from tests.handlers.support import Setup, core_event, job_xml
from tests.standin.jenkins import Fault, Jenkins
from tests.standin.sensu import SensuCore

EVENTS, ROUNDS = 10_000, 20
# Half of the groups are bounded by how many there may be, half by how many may be made in an hour.
GROUPS, MOST, BUDGET = 20, 9, 6
JOB = "lxc_provision"
FAULTS = [Fault.CLOSE_BEFORE_READING, Fault.CLOSE_AFTER_QUEUEING, Fault.CUT_IN_HEADER, Fault.RESET, Fault.STARTING]
# How an event may end in all of this. Whatever else comes is a fault of ours.
ENDS = {
    "ACT sent", "HOLD adopted", "HOLD starting", "HOLD cooldown", "HOLD in-flight", "HOLD unknown-outcome", "HOLD max",
    "HOLD budget", "HOLD duplicate", "ERROR unknown-outcome", "ERROR unreachable", "ERROR ledger",
}  # fmt: skip


class Server:
    """A Sensu server: its settings, and the interpreter that forks for its events."""

    def __init__(self, folder: pathlib.Path, scope: "dict[str, Any]", jenkins: Jenkins) -> None:
        folder.mkdir()
        self.setup = Setup(folder, **scope)
        self.setup.scope["api_token_file"] = self.setup.secret("api", jenkins.auth("builder")[1])
        self.config = self.setup.config
        self.process = subprocess.Popen(
            [sys.executable, forking.__file__, "4"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=self.setup.environ,
        )  # fmt: skip

    def send(self, event: "dict[str, Any] | None", kill_after: "float | None" = None) -> None:
        script = "handler_jenkins" if event else "reconcile_autoscale"
        self.write({"script": script, "argv": ["--config", self.config], "event": json.dumps(event) if event else "",
                    "kill_after": kill_after})  # fmt: skip

    def write(self, run: "dict[str, Any]") -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(run) + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Storm:
    def __init__(self, folder: pathlib.Path, jenkins: Jenkins, sensu: SensuCore, redis: RedisServer) -> None:
        self.jenkins, self.sensu, self.redis = jenkins, sensu, redis
        half = GROUPS // 2
        groups = {
            f"web{n}": {"match": {"entity": f"web{n}"}, "max": MOST if n < half else 0,
                        "budget": 0 if n < half else f"{BUDGET}/1h"}
            for n in range(GROUPS)
        }  # fmt: skip
        scope = {
            "url": jenkins.url, "job": JOB, "user": "builder", "ledger": redis.url, "groups": groups, "breaker": 0,
            "cooldown": "60s", "warm_up": "5m", "timeout": 8, "api": {"url": sensu.url, "kind": "core"},
        }  # fmt: skip
        self.chance = random.Random(1)
        self.servers = [Server(folder / name, scope, jenkins) for name in ("one", "two")]
        self.ends: collections.Counter[str] = collections.Counter()
        # By their incidents: the events that were handed over, and those on which a handler said that it decided.
        self.sent: set[str] = set()
        self.decided: set[str] = set()
        self.faulty: list[str] = []
        self.redis_dies_at = EVENTS // 2
        self.lock = threading.Lock()

    def round(self, events: "list[dict[str, Any]]") -> None:
        """Hand them over and await all their ends; while they run, things go wrong."""
        readers = [threading.Thread(target=self.read, args=(server,)) for server in self.servers]
        for reader in readers:
            reader.start()
        for number, event in enumerate(events):
            self.sent.add(event["id"])
            here = self.chance.choice(self.servers)
            here.send(event, self.chance.random() * 0.03 if self.chance.random() < 0.05 else None)
            if self.chance.random() < 0.1:  # the same one again, wherever
                self.chance.choice(self.servers).send(event)
            if number == len(events) // 2:
                self.chance.choice(self.servers).send(None)
        for server in self.servers:
            server.write({"flush": True})
        for reader in readers:
            reader.join()

    def read(self, server: Server) -> None:
        assert server.process.stdout
        for line in server.process.stdout:
            told = json.loads(line)
            if "flushed" in told:
                return
            with self.lock:
                self.ended(told)

    def ended(self, told: "dict[str, Any]") -> None:
        run, status, output = told["run"], told["status"], told["output"]
        if run["script"] == "reconcile_autoscale":
            if status not in (0, 1, 2, 3) or "internal" in output or "Traceback" in output:
                self.faulty.append(output)
            self.ends["reconciled"] += 1
            return
        end = "killed" if status == -9 and not output else " ".join(output.split(" ")[1:3]).rstrip(":")
        self.ends[end] += 1
        if end not in ENDS and end != "killed" or output.count("\n") > 1:
            self.faulty.append(output)
        if end.startswith(("ACT", "HOLD")):
            self.decided.add(json.loads(run["event"])["id"])
        count = self.ends.total()
        if count % 30 == 0:
            self.jenkins.fault, self.jenkins.fault_count = self.chance.choice(FAULTS), 1
        if count == self.redis_dies_at:
            self.redis.kill()
            time.sleep(0.1)
            self.redis.start()

    @property
    def ledger(self) -> RedisLedger:
        return RedisLedger(self.redis.url, "", 5)

    def later(self) -> None:
        """A minute passes, and what was built is seen running."""

        def older(moment: "Moment | None") -> "Moment | None":
            return moment and Moment(moment.wall - 70, "an earlier boot", 1.0)

        def change(fleet: fleets.Fleet) -> fleets.Fleet:
            requests = tuple(one._replace(at=older(one.at), asked=older(one.asked)) for one in fleet.requests)
            return fleet._replace(requests=requests, quiet=older(fleet.quiet))

        with self.ledger as ledger:
            for group in ledger.fleets():
                ledger.change(group, ledger.moment(), change)
        now = int(time.time())
        names = [instances.name_of("auto", one) for one in self.built()]
        check = {"name": "check_container_state", "status": 0, "executed": now, "output": "OK"}
        self.sensu.results = [{"client": name, "check": check} for name in names]

    def built(self) -> "list[str]":
        return [build.parameters["REQUEST_ID"] for build in self.jenkins.builds(JOB)]

    def close(self) -> None:
        for server in self.servers:
            server.close()


def test_ten_thousand_events(tmp_path: pathlib.Path) -> None:
    needed()
    for name in ("jenkins", "redis"):
        (tmp_path / name).mkdir()
    with contextlib.ExitStack() as stack:
        jenkins = stack.enter_context(Jenkins(work=tmp_path / "jenkins"))
        sensu = stack.enter_context(SensuCore())
        redis = stack.enter_context(RedisServer(tmp_path / "redis"))
        jenkins.create_job(JOB, job_xml(parameters=("REQUEST_ID", "COUNT", "NAME_PREFIX")))
        storm = Storm(tmp_path, jenkins, sensu, redis)
        stack.callback(storm.close)
        for number in range(ROUNDS):
            share = EVENTS // ROUNDS
            storm.round([
                core_event(f"web{storm.chance.randrange(GROUPS)}", incident=f"{number}-{one}") for one in range(share)
            ])  # fmt: skip
            storm.later()
        assert not storm.faulty, storm.faulty[:5]
        check(storm)
        # Under alerts that last all groups come to what they may have, and no further: none of the requests is lost.
        jenkins.fault = None
        for number in range(4 * MOST):
            storm.round([core_event(f"web{one}", incident=f"late-{number}") for one in range(GROUPS)])
            storm.later()
            with storm.ledger as ledger:
                states = [one.state for fleet in ledger.fleets().values() for one in fleet.requests]
            if states.count(fleets.VERIFIED) == GROUPS // 2 * (MOST + BUDGET):
                break
        check(storm)
        assert collections.Counter(states) == {fleets.VERIFIED: GROUPS // 2 * (MOST + BUDGET)}
        assert not storm.faulty, storm.faulty[:5]


def check(storm: Storm) -> None:
    built = storm.built()
    queued = [item.parameters["REQUEST_ID"] for item in storm.jenkins.queued()]
    assert len(built + queued) == len(set(built + queued)), "one build for each decision"
    with storm.ledger as ledger:
        known = ledger.fleets()
        decisions = ledger.decisions(0)
    group_of = {one.request_id: group for group, fleet in known.items() for one in fleet.requests}
    made = collections.Counter(group_of[request_id] for request_id in built)  # each of them is in the ledger
    for number in range(GROUPS):
        assert made[f"web{number}"] <= (MOST if number < GROUPS // 2 else BUDGET)
    # What was decided on an event stands in the ledger, once, however often it came. Whoever was killed may have got as
    # far as that without saying so.
    events = [one for one in decisions if one.check]
    assert len(storm.decided) <= len(events) <= len(storm.sent)
    assert {*built, *queued} <= {one.request_id for one in events if one.word == "ACT"}
    assert storm.ends["killed"] > EVENTS / 100 and storm.ends["ERROR ledger"] > 0, storm.ends
