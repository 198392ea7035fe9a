"""The ledger on a real Redis: what only a server can do to it. What both do is in test_ledger.py."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from sensu_lxc_handlers import policy
from sensu_lxc_handlers.event import Event
from sensu_lxc_handlers.outcome import LedgerUnusable
from sensu_lxc_handlers.policy import Act

from tests.standin.jenkins import Fault, Jenkins

from .redis_server import RedisServer, needed
from .support import SCRIPT, Setup, core_event, finish, job_xml

RULES = policy.Rules(600, 60, 7200)
JOB = "lxc_provision"


@pytest.fixture
def server(tmp_path):
    needed()
    with RedisServer(tmp_path) as server:
        yield server


def event(executed, **more):
    return Event.from_sensu(core_event(executed=executed, **more))


def decide(ledger, executed, group="g", later=0, **more):
    now = ledger.moment()
    now = now._replace(wall=now.wall + later, uptime=now.uptime + later)
    return ledger.decide(group, event(executed, **more), "job", now, lambda *known: policy.decide(*known, now, RULES))


def unusable(server, password="", url=None, **options):
    from sensu_lxc_handlers.ledger_redis import RedisLedger

    with pytest.raises(LedgerUnusable) as error, RedisLedger(url or server.url, password, 1, **options) as ledger:
        decide(ledger, 1)
    assert str(error.value).isprintable()
    return str(error.value)


def redis_ledger(server, password=""):
    from sensu_lxc_handlers.ledger_redis import RedisLedger

    return RedisLedger(server.url, password, 2)


def test_nobody_there(server):
    server.kill()
    assert "is it up, and does `ledger` lead to it?" in unusable(server)


def test_by_a_socket_in_the_filesystem(tmp_path):
    needed()
    from sensu_lxc_handlers.ledger_redis import RedisLedger

    path = f"{tmp_path}/redis.sock"
    with RedisServer(tmp_path, "--unixsocket", path), RedisLedger(f"unix://{path}?db=1&prefix=p", "", 2) as ledger:
        assert decide(ledger, 1)[0] == Act(1, None, False)
        assert sorted(ledger.fleets()) == ["g"]


@pytest.mark.parametrize("query", ["db=x", "socket_timeout=soon", "protocol=x"])
def test_a_url_that_is_none(server, query):
    assert "is none: write redis://HOST" in unusable(server, url=f"{server.url}&{query}")


def test_two_prefixes_are_two_ledgers(server):
    from sensu_lxc_handlers.ledger_redis import RedisLedger

    for prefix in ("one", "two"):
        with RedisLedger(server.url.replace("test", prefix), "", 2) as ledger:
            assert ledger.is_new and decide(ledger, 1)[0] == Act(1, None, False)


def test_killed_it_knows_all_that_it_confirmed(server):
    with redis_ledger(server) as ledger:
        _, asked = decide(ledger, 1)
    server.kill()
    server.start()
    with redis_ledger(server) as ledger:
        assert not ledger.is_new
        assert decide(ledger, 1)[0].code == "duplicate"
        assert decide(ledger, 2)[0].code in ("in-flight", "cooldown")
        assert ledger.fleets()["g"].requests[0].request_id == asked.request_id


def test_one_that_lost_all_is_new_and_repeats_no_id(server):
    with redis_ledger(server) as ledger:
        _, before = decide(ledger, 1)
    server.lose()
    with redis_ledger(server) as ledger:
        assert ledger.is_new
        _, after = decide(ledger, 1)
    assert before.request_id != after.request_id


def test_a_group_whose_requests_are_lost(server):
    with redis_ledger(server) as ledger:
        decide(ledger, 1)
    server.ask("DEL", "test:fleet:g")
    assert "the requests of g are lost: look in Jenkins" in unusable(server)


def test_a_document_that_is_another(server):
    with redis_ledger(server) as ledger:
        decide(ledger, 1)
    for value in ("", "x", "00000000 {}", "12345678"):
        server.ask("SET", "test:fleet:g", value)
        assert "delete the keys that begin with test:" in unusable(server)


@pytest.mark.parametrize("what", ["decisions", "changes"])
@pytest.mark.parametrize("value", [
    "x", "7", "[]", '["g", 1, "e", "c", 1, 1e999, "ACT", "x", "y", null, "z"]',
    '["g", "n", "e", "c", 1, 1e999, "ACT", "x", "y", null, "z"]', '["g", "r", -1.5, "SENT", "d", "z"]',
    '["g", "r", "t", "SENT", "d", "z"]',
])  # fmt: skip
def test_what_happened_and_makes_no_sense(server, what, value):
    with redis_ledger(server) as ledger:
        decide(ledger, 1)
        assert ledger.decisions(0) and ledger.changes(0)
        server.ask("ZADD", f"test:{what}", "1800000001", value)
        with pytest.raises(LedgerUnusable, match=f"its {what} hold what is none"):
            getattr(ledger, what)(0)


def test_somebody_elses_data(server):
    server.ask("LPUSH", "test:fleet:g", "x")
    assert "take another ?prefix=" in unusable(server)


def test_read_only(server):
    server.ask("REPLICAOF", "127.0.0.1", "1")
    assert "it is a replica: name the primary" in unusable(server)


def test_out_of_memory(server):
    with redis_ledger(server) as ledger:
        decide(ledger, 1, group="before")
    server.ask("CONFIG", "SET", "maxmemory", "1")
    said = unusable(server)
    assert "raise its maxmemory" in said
    server.ask("CONFIG", "SET", "maxmemory", "0")
    with redis_ledger(server) as ledger:
        assert sorted(ledger.fleets()) == ["before"], "a step is whole, or nothing of it"


def test_password(tmp_path):
    needed()
    with RedisServer(tmp_path, "--requirepass", "sw0rdfish!") as server:
        for wrong in ("", "wr0ng"):
            said = unusable(server, wrong)
            assert "set ledger_password_file" in said and "wr0ng" not in said
        with redis_ledger(server, "sw0rdfish!") as ledger:
            assert decide(ledger, 1)[0] == Act(1, None, False)


def test_what_it_forgets_is_noted(tmp_path):
    needed()
    options = ("--appendonly", "no", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with RedisServer(tmp_path, *options) as server, redis_ledger(server) as ledger:
        assert ["appendonly yes" in ledger.notes[0], "noeviction" in ledger.notes[1]] == [True, True]


def test_a_stopped_one_is_waited_for_no_longer_than_that(server):
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        assert "is it up" in unusable(server)
        assert time.monotonic() - started < 6
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


# Whole handlers


@pytest.fixture
def jenkins(tmp_path):
    (tmp_path / "jenkins").mkdir()
    with Jenkins(work=tmp_path / "jenkins") as standin:
        standin.create_job(JOB, job_xml())
        yield standin


def sensu_server(folder, jenkins, server, **scope):
    """One of several Sensu servers: settings of its own, the same Redis."""
    folder.mkdir()
    setup = Setup(folder, url=jenkins.url, user="builder", timeout=30, **scope)
    setup.scope.update(ledger=server.url, api_token_file=setup.secret("api", jenkins.auth("builder")[1]))
    return setup


def asked(jenkins):
    return len(jenkins.queued()) + len(jenkins.builds(JOB))


def test_fifty_handlers_of_two_servers_are_one_build(tmp_path, jenkins, server):
    one, two = (sensu_server(tmp_path / name, jenkins, server) for name in ("one", "two"))
    processes = [setup.start() for setup in (one, two) * 25]
    got = [finish(process, core_event(incident=str(number)), 120) for number, process in enumerate(processes)]
    assert {result.status for result in got} == {0}, [one.line for one in got if one.status]
    assert [result.word for result in got].count("ACT") == 1
    jenkins.wait_for_builds(JOB, 1)
    assert asked(jenkins) == 1
    assert two.run(core_event(incident="later")).code == "cooldown"


VICTIM = """
import os, signal, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from sensu_lxc_handlers import jenkins
real = jenkins.Jenkins.trigger

def trigger(self, *arguments):
    if os.environ["WHEN"] == "after":
        real(self, *arguments)
    os.kill(int(os.environ["VICTIM"]), signal.SIGKILL)
    if os.environ["WHEN"] == "self":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *arguments) if os.environ["WHEN"] == "before" else jenkins.Answer("SENT", "sent", "item", 1)

jenkins.Jenkins.trigger = trigger
import handler_jenkins
sys.argv = [sys.argv[1], *sys.argv[2:]]
handler_jenkins.main()
"""


@pytest.mark.parametrize("when", ["before", "after", "self"])
def test_redis_is_killed_between_the_intent_and_the_answer(tmp_path, jenkins, server, when):
    """What it had confirmed it knows again, so that the next handler looks first instead of asking blindly."""
    setup = sensu_server(tmp_path / "one", jenkins, server)
    environ = {**setup.environ, "VICTIM": str(server.process.pid), "WHEN": when}
    process = subprocess.Popen(
        [sys.executable, "-c", VICTIM, SCRIPT, "--config", setup.config], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ,
    )  # fmt: skip
    if when == "self":
        process.communicate(json.dumps(core_event()).encode())
        assert process.returncode == -signal.SIGKILL
    else:
        got = finish(process, core_event())
        assert (got.status, got.code) == (3, "ledger") and "that can't be recorded" in got.line
    server.kill()
    server.start()
    assert setup.run(core_event(incident="j")).code == "in-flight"
    builds = 0 if when == "self" else 1
    assert asked(jenkins) == builds
    with redis_ledger(server) as ledger:  # the lease passes
        now = ledger.moment()
        older = now._replace(wall=now.wall - 3000, boot_id="earlier")
        ledger.change("lxc_autoscale", now, lambda fleet: fleet._replace(
            requests=tuple(one._replace(at=older, asked=older) for one in fleet.requests)))  # fmt: skip
    jenkins.wait_for_builds(JOB, builds)
    assert setup.run(core_event(incident="k")).code == ("adopted" if builds else "sent")
    jenkins.wait_for_builds(JOB, 1)
    assert asked(jenkins) == 1


def test_nothing_is_asked_where_redis_is_away(tmp_path, jenkins, server):
    setup = sensu_server(tmp_path / "one", jenkins, server)
    server.kill()
    got = setup.run(core_event())
    assert (got.status, got.code) == (3, "ledger") and "is it up" in got.line
    assert not jenkins.requests


def test_jenkins_that_answers_late_with_redis(tmp_path, jenkins, server):
    setup = sensu_server(tmp_path / "one", jenkins, server)
    setup.scope["timeout"] = 4
    jenkins.fault, jenkins.fault_count = Fault.BLACKHOLE_AFTER_QUEUEING, 1
    assert setup.run(core_event()).code == "unknown-outcome"
    assert setup.run(core_event(incident="j")).code == "unknown-outcome"
    jenkins.wait_for_builds(JOB, 1)
    assert asked(jenkins) == 1


def test_the_password_is_nowhere(tmp_path, jenkins):
    needed()
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis", "--requirepass", "sw0rdfish!") as server:
        setup = sensu_server(tmp_path / "one", jenkins, server)
        said = [setup.run(core_event())]
        setup.scope["ledger_password_file"] = setup.secret("redis", "sw0rdfish!")
        said += [setup.run(core_event()), setup.run(core_event(incident="j"))]
        assert [one.code for one in said] == ["ledger", "sent", "cooldown"]
        setup.scope["ledger"] = server.url.replace("//", "//:sw0rdfish!@")
        said.append(setup.run(core_event()))
        assert said[-1].code == "misconfigured" and "must not hold the password" in said[-1].line
        assert not any("sw0rdfish" in one.line for one in said)


def test_without_the_package(tmp_path, jenkins, server):
    setup = sensu_server(tmp_path / "one", jenkins, server)
    code = "import sys; sys.modules['redis'] = None; sys.path.insert(0, sys.argv[1]); del sys.argv[1]\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code + "import handler_jenkins; handler_jenkins.main()", os.path.dirname(SCRIPT),
         "--config", setup.config],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=setup.environ,
    )  # fmt: skip
    got = finish(process, core_event())
    assert (got.status, got.code) == (3, "ledger") and "-m pip install 'redis>=5'" in got.line
