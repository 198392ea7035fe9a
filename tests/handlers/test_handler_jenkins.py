"""handler_jenkins run as Sensu runs it, against a stand-in that really queues and builds."""

import contextlib
import glob
import http.server
import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sensu_lxc_handlers.fleet import Moment
from sensu_lxc_handlers.ledger import Ledger

from tests.standin import certificates
from tests.standin.jenkins import Fault, Jenkins, Phase

from .support import ROOT, SCRIPT, Setup, core_event, finish, job_xml, recorded, result

JOB = "A/lxc provision"


@pytest.fixture
def jenkins(tmp_path):
    (tmp_path / "jenkins").mkdir()
    with Jenkins(work=tmp_path / "jenkins") as standin:
        standin.create_job(JOB, job_xml())
        yield standin


def configured(folder, jenkins, user="builder", **scope):
    """Settings with the user's API token in a file."""
    setup = Setup(folder, url=jenkins.url, job=JOB, user=user)
    setup.scope["api_token_file"] = setup.secret("api", jenkins.auth(user)[1])
    setup.scope.update(scope)
    return setup


@pytest.fixture
def setup(tmp_path, jenkins):
    return configured(tmp_path, jenkins)


def asked(jenkins):
    """What became of all requests: queued or built."""
    return len(jenkins.queued()) + len(jenkins.builds(JOB))


def run(command, setup, **options):
    """A process with the handler's environment, which a shell may have prepared."""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
    return subprocess.Popen(command, env=setup.environ, **options)


def shell(text, setup, **options):
    return run(["sh", "-c", text], setup, **options)


def age(setup, seconds, since_created=0):
    """Let time pass for the ledger."""

    def older(moment):
        return Moment(moment.wall - seconds, "an earlier boot", 1.0)  # this one may not have lasted for so long

    def change(fleet):
        requests = (
            one._replace(at=older(one.at), asked=older(one.asked), created_wall=one.created_wall - since_created)
            for one in fleet.requests
        )
        return fleet._replace(requests=tuple(requests))

    with Ledger(setup.ledger, 1) as ledger:
        for group in ledger.fleets():
            ledger.change(group, ledger.moment(), change)


# What is asked for


def test_one_critical_is_one_build_and_its_repeats_are_none(setup, jenkins):
    first = setup.run(core_event(executed=None))
    assert (first.word, first.code) == ("ACT", "sent")
    request_id = re.search(r"lxc-[0-9a-f]{10}-1", first.line).group()
    (build,) = jenkins.wait_for_builds(JOB, 1)
    assert build.parameters["REQUEST_ID"] == request_id and re.fullmatch(r"[A-Za-z0-9_-]{1,40}", request_id)
    again = setup.run(core_event(executed=int(time.time()) + 1))
    assert (again.status, again.word, again.code) == (0, "HOLD", "cooldown") and request_id in again.line
    age(setup, 600)
    later = setup.run(core_event(executed=int(time.time()) + 2))
    assert later.code == "sent" and f"{request_id[:-1]}2" in later.line
    assert len(jenkins.wait_for_builds(JOB, 2)) == 2


def test_the_same_event_again_is_the_same_decision(setup, jenkins):
    event = core_event()
    assert setup.run(event).code == "sent"
    age(setup, 3600)
    assert setup.run(event).code == "duplicate"
    assert asked(jenkins) == 1


def test_parameters_and_hostile_names(setup, jenkins):
    jenkins.create_job(JOB, job_xml(parameters=("REQUEST_ID", "TEMPLATE", "WHO", "ALERT_CHECK", "ALERT_ENTITY")))
    setup.scope["parameters"] = {"TEMPLATE": "busy box", "WHO": "{check} on {entity} in {group}: {request_id}"}
    assert setup.run(core_event(entity="web1;$(reboot)\n&token=x", check="c\u202eh\ud800eck")).code == "sent"
    (build,) = jenkins.wait_for_builds(JOB, 1)
    assert build.parameters["TEMPLATE"] == "busy box"
    entity, check = "web1___reboot___token_x", "c_h_eck"
    assert (build.parameters["ALERT_ENTITY"], build.parameters["ALERT_CHECK"]) == (entity, check)
    request_id = build.parameters["REQUEST_ID"]
    assert build.parameters["WHO"] == f"{check} on {entity} in lxc_autoscale: {request_id}"


def test_groups_have_cooldowns_of_their_own(setup, jenkins):
    setup.scope["group"] = "{entity}"
    assert [setup.run(core_event(entity=name)).code for name in ("a", "b")] == ["sent", "sent"]
    assert setup.run(core_event(entity="a", check="other")).code == "cooldown"


def test_the_shapes_of_both_sensus(setup, jenkins):
    setup.scope["groups"] = {"other": {"match": {"check": "-"}, "job": "LXC Provision"}}  # which Core's check wishes
    for kind, name in (("sensu-core", "ubuntu__check_memory_no_agent__create__s2__o1"), ("sensu-go", "proxy-critical")):
        event = json.loads(recorded(kind)[name])
        assert setup.run(event, "--dry-run").code == "stale"
        event["check"]["executed"] = int(time.time())
        assert setup.run(event, "--dry-run").code == "dry-run"
        event["check"]["status"] = 0
        assert setup.run(event).code == "ok"
    assert asked(jenkins) == 0 and not jenkins.requests


def test_what_is_wished_in_vain_is_said(setup):
    event = core_event()
    event["check"]["lxc_autoscale"] = {"min": 2, "breaches": "1/1"}
    event["client"]["lxc_autoscale"] = {"quiet": "1h"}
    got = setup.run(event, "--dry-run")
    assert (
        got.code == "dry-run"
        and "[wished in vain: min, quiet; the reconciler takes them from lxc_autoscale" in got.line
    )
    assert "in vain" not in setup.run(core_event(), "--dry-run").line


def test_no_wish_undoes_the_emergency_stop(setup, jenkins):
    setup.scope["enabled"] = False
    event = core_event()
    event["client"]["lxc_autoscale"] = {"enabled": True}
    got = setup.run(event)
    assert (got.status, got.code) == (0, "disabled") and "[cut to what lxc_autoscale in " in got.line
    assert "allows: enabled]" in got.line
    assert asked(jenkins) == 0
    setup.scope.update(enabled=True)
    assert "cut" not in setup.run(event).line and asked(jenkins) == 1


@pytest.mark.parametrize("key", ["group", "budget", "breaker", "cooldown", "enabled", "job", "breaches"])
@pytest.mark.parametrize("value", [["x"], {"x": 1}, None, 1.5, [[[[]]]], "\ud800"])
def test_a_wish_of_a_wrong_type_is_named_with_its_event(setup, key, value):
    if value == 1.5 and key == "cooldown":
        return
    setup.scope["groups"] = {"web": {"match": {"entity": "web*"}}}
    event = core_event()
    event["check"]["lxc_autoscale"] = {key: value}
    got = setup.run(event, "--dry-run")
    assert (got.status, got.code) == (2, "misconfigured")
    assert f"web1/check_memory CRITICAL not handled: the check wishes {'a ' * (key == 'group')}{key}" in got.line


def test_dry_run_decides_the_same_and_leaves_no_trace(setup, jenkins):
    dry = setup.run(core_event(), "--dry-run")
    assert (dry.status, dry.word, dry.code) == (0, "ACT", "dry-run")
    assert not jenkins.requests and not os.path.exists(os.path.dirname(setup.ledger))
    assert setup.run(core_event()).code == "sent"
    before = open(setup.ledger, "rb").read()
    assert setup.run(core_event(incident="j"), "--dry-run").code == "cooldown"
    assert open(setup.ledger, "rb").read() == before


# Who asks


def test_job_token_goes_in_the_body_and_nowhere_else(setup, jenkins):
    jenkins.create_job(JOB, job_xml(token="j0bt0ken"))
    setup.scope["token"] = "wr0ngt0ken"
    wrong = setup.run(core_event())
    assert (wrong.status, wrong.code) == (1, "rejected") and "another `token`" in wrong.line
    age(setup, 60)
    setup.scope.update(token="", token_file=setup.secret("job", "j0bt0ken"))
    right = setup.run(core_event(incident="j"))
    assert right.code == "sent"
    (build,) = jenkins.wait_for_builds(JOB, 1)
    api_token = jenkins.auth("builder")[1]
    kept = open(setup.ledger, "rb").read().decode("latin-1")
    for secret in ("wr0ngt0ken", "j0bt0ken", api_token):
        assert secret not in wrong.line + right.line + kept
        assert not any(secret in request.path for request in jenkins.requests)


def test_secrets_from_the_environment(setup, jenkins):
    jenkins.create_job(JOB, job_xml(token="j0bt0ken"))
    del setup.scope["api_token_file"]
    setup.environ["SENSU_LXC_JENKINS_API_TOKEN"] = jenkins.auth("builder")[1]
    setup.environ["SENSU_LXC_JENKINS_TOKEN"] = "j0bt0ken"
    assert setup.run(core_event()).code == "sent"


def test_password_with_crumb(setup, jenkins):
    setup.scope["password_file"] = setup.secret("password", jenkins.users["builder"].password)
    del setup.scope["api_token_file"]
    assert setup.run(core_event()).code == "sent"
    assert [request.path.rsplit("/", 2)[-1] for request in jenkins.requests] == ["json", "buildWithParameters"]


def test_as_little_as_the_original_had(tmp_path, jenkins):
    """url, job, token; on a controller where everybody may look, so that there is a crumb."""
    jenkins.anonymous_read = True
    jenkins.create_job(JOB, job_xml(token="j0bt0ken"))
    assert Setup(tmp_path, url=jenkins.url, job=JOB, token="j0bt0ken").run(core_event()).code == "sent"


@pytest.mark.parametrize(
    "user, says", [("limited", "Item.Build"), ("discover", "Item.Build|Item.Read|may not"), ("blind", "no such job")]
)
def test_users_who_may_not(tmp_path, jenkins, user, says):
    got = configured(tmp_path, jenkins, user).run(core_event())
    assert (got.status, got.word, got.code) == (1, "ERROR", "rejected")
    assert re.search(says, got.line), got.line


def test_wrong_credentials_and_the_pause_after_them(setup, jenkins):
    setup.secret("api", "mistaken")
    assert "user, or his token or password, is wrong" in setup.run(core_event()).line
    held = setup.run(core_event(incident="j"))
    assert (held.status, held.code) == (0, "rejected") and "is wrong" in held.line
    setup.secret("api", jenkins.auth("builder")[1])
    age(setup, 60)
    assert setup.run(core_event(incident="k")).code == "sent"


def test_nobody_without_read_is_told_what_to_set(tmp_path, jenkins):
    got = Setup(tmp_path, url=jenkins.url, job=JOB).run(core_event())
    assert (got.code, "set user and api_token_file" in got.line) == ("rejected", True)


# What Jenkins answers


@pytest.mark.parametrize("profile", ["2.462", "2.568", "pre-2.308"])
def test_below_a_context_path_and_beside_a_proxy(tmp_path, profile):
    with Jenkins(profile=profile, prefix="/jenkins") as jenkins:
        jenkins.create_job(JOB, job_xml())
        for job, code in ((JOB, "sent"), ("A/nosuch", "rejected")):
            assert configured(tmp_path, jenkins, job=job, group=job).run(core_event()).code == code


@pytest.mark.parametrize("profile", ["2.568", "pre-2.308"])
def test_a_job_without_the_parameter_merges_requests_and_that_is_said(tmp_path, profile):
    with Jenkins(profile=profile) as jenkins:
        jenkins.create_job(JOB, job_xml(parameters=("TEMPLATE",), quiet=30))
        setup = configured(tmp_path, jenkins, group="{entity}")
        assert [setup.run(core_event(entity=name)).code for name in ("a", "b")] == ["sent", "coalesced"]


def test_disabled_vetoed_and_plain_jobs(setup, jenkins):
    jenkins.create_job("off", job_xml(disabled=True))
    jenkins.create_job("plain", job_xml(parameters=()))
    jenkins.create_job("veto", job_xml())
    jenkins.vetoed.add("veto")
    for job, says in (("off", "disabled"), ("plain", "REQUEST_ID"), ("veto", "vetoes builds"), ("A", "job")):
        setup.scope.update(job=job, group=job)
        got = setup.run(core_event())
        assert (got.status, got.code) == (1, "rejected") and says in got.line, got.line


class Other:
    """A server that is no Jenkins and answers the same to everything."""

    def __init__(self, status, *headers):
        class Request(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                for header in (*headers, ("Content-Length", "0")):
                    self.send_header(*header)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Request)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize("status", [200, 201, 204, 302, 401, 403, 404, 429, 500, 502, 503])
def test_what_is_no_jenkins_is_an_error_each_time(tmp_path, status):
    with Other(status, ("Location", "https://portal.example/")) as other:
        setup = Setup(tmp_path, url=other.url, job=JOB, user="builder", timeout=3)
        setup.scope["api_token_file"] = setup.secret("api", "t0ken")
        for incident in "ij":
            got = setup.run(core_event(incident=incident))
            assert (got.status, got.word) == (1, "ERROR"), got.line
            assert got.code in ("rejected", "unreachable", "unknown-outcome") and "starting" not in got.line
            age(setup, 60)


def test_a_start_that_takes_too_long_is_an_error(setup, jenkins):
    setup.scope["timeout"] = 2
    jenkins.phase = Phase.LOADING
    assert setup.run(core_event()).code == "starting"
    age(setup, 0, since_created=960)
    got = setup.run(core_event(incident="j"))
    assert (got.status, got.word, got.code) == (1, "ERROR", "not-up") and "first asked for 16m" in got.line
    jenkins.phase = Phase.UP
    assert setup.run(core_event(incident="k")).code == "sent"


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in (Phase.UP, Phase.DOWN)])
def test_a_jenkins_that_starts_is_no_refusal(setup, jenkins, phase):
    setup.scope["timeout"] = 3
    jenkins.phase = phase
    got = setup.run(core_event())
    assert (got.status, got.word, got.code) == (0, "HOLD", "starting")
    jenkins.phase = Phase.UP
    again = setup.run(core_event(incident="j"))
    assert again.code == "sent" and again.line.split("lxc-")[1][:12] == got.line.split("lxc-")[1][:12]
    assert asked(jenkins) == 1


def test_a_short_restart_is_bridged(setup, jenkins):
    jenkins.restart(startup=0.6)
    assert setup.run(core_event()).code == "sent"


def test_a_jenkins_that_is_gone(setup, jenkins):
    jenkins.phase = Phase.DOWN
    got = setup.run(core_event())
    assert (got.status, got.word, got.code) == (1, "ERROR", "unreachable") and "Connection refused" in got.line
    jenkins.phase = Phase.UP
    assert setup.run(core_event(incident="j")).code == "sent"


@pytest.mark.skipif(not certificates.available(), reason="openssl is not there to make certificates")
def test_tls_is_verified(tmp_path):
    good, other = (certificates.make(str(tmp_path / name), name) for name in ("good", "other"))
    with Jenkins(tls=(good.chain, good.key)) as jenkins:
        jenkins.create_job(JOB, job_xml())
        setup = configured(tmp_path, jenkins)
        for ca_file in ("", other.ca):
            setup.scope.update(ca_file=ca_file, group="g" + ca_file)
            got = setup.run(core_event())
            assert (got.status, got.code) == (1, "tls") and "does ca_file hold" in got.line
        assert not jenkins.requests
        setup.scope.update(ca_file=good.ca, group="good")
        assert setup.run(core_event()).code == "sent"


# Time


@pytest.mark.parametrize("fault", [Fault.BLACKHOLE, Fault.BLACKHOLE_AFTER_QUEUEING, Fault.DRIP_HEADER, Fault.RESET,
                                   Fault.CLOSE_BEFORE_READING, Fault.CLOSE_AFTER_QUEUEING])  # fmt: skip
def test_an_unknown_outcome_is_never_asked_twice(setup, jenkins, fault):
    setup.scope["timeout"] = 2
    jenkins.create_job(JOB, job_xml(quiet=60))
    jenkins.drip_interval = 0.3
    jenkins.fault = fault
    got = setup.run(core_event())
    assert (got.status, got.word, got.code) == (1, "ERROR", "unknown-outcome")
    assert got.seconds < 2
    jenkins.fault = None
    posts = len(jenkins.requests)
    assert setup.run(core_event(incident="j")).code == "unknown-outcome"
    assert len(jenkins.requests) == posts
    effect = asked(jenkins)
    age(setup, 60)
    later = setup.run(core_event(incident="k"))
    assert later.code == ("adopted" if effect else "sent")
    assert asked(jenkins) == 1
    assert setup.run(core_event(incident="l")).code == "cooldown"


def test_who_may_not_look_does_not_ask_again(tmp_path, jenkins):
    """With the job's token alone a build can be asked for, but not looked for."""
    jenkins.create_job(JOB, job_xml(token="j0bt0ken"))
    setup = configured(tmp_path, jenkins, "blind", token="j0bt0ken", timeout=2)
    jenkins.fault = Fault.CLOSE_AFTER_QUEUEING
    setup.run(core_event())
    jenkins.fault = None
    age(setup, 60)
    posts = [request for request in jenkins.requests if request.method == "POST"]
    got = setup.run(core_event(incident="j"))
    assert (got.status, got.code) == (1, "unknown-outcome") and "Job/Read" in got.line
    assert [request for request in jenkins.requests if request.method == "POST"] == posts


def test_the_whole_ends_in_time_whatever_hangs(setup, jenkins):
    """Also where no answer comes to the questions before and after the POST."""
    setup.scope["timeout"] = 2
    del setup.scope["api_token_file"]
    setup.scope["password_file"] = setup.secret("password", jenkins.users["builder"].password)
    jenkins.fault, jenkins.fault_everywhere = Fault.BLACKHOLE, True
    got = setup.run(core_event())
    assert (got.status, got.code) == (1, "unreachable") and got.seconds < 2


def test_stdin_that_is_never_closed(setup):
    setup.scope["timeout"] = 2
    process = setup.start()
    started = time.monotonic()
    process.stdin.write(b'{"client": \x1b]0;')
    process.stdin.flush()
    output = process.stdout.read()
    got = result(process.wait(), output)
    process.stdin.close()
    assert (got.status, got.code) == (4, "bad-event") and """'{"client": ?]0;'""" in got.line
    assert time.monotonic() - started < 2


def test_stdin_that_does_not_block(setup):
    """As a Sensu Core under Ruby 3 hands it over, and later than the handler would like it."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    process = run([sys.executable, SCRIPT, "--config", setup.config], setup, stdin=reading)
    os.close(reading)
    time.sleep(0.2)
    text = json.dumps(core_event(status=0, padding="x" * 300_000)).encode()
    while text:
        text = text[os.write(writing, text) :]
    os.close(writing)
    assert result(0, process.communicate(timeout=10)[0]).code == "ok"


def test_a_file_that_hangs(setup):
    setup.scope.update(timeout=2, api_token_file=os.path.join(setup.folder, "fifo"))
    os.mkfifo(setup.scope["api_token_file"])
    got = setup.run(core_event())
    assert (got.status, got.word, got.code) == (1, "ERROR", "timeout") and "reading the secrets" in got.line
    assert got.seconds < 2


# Many at once, and killed


def test_fifty_at_once_make_one_build(setup, jenkins):
    setup.scope["timeout"] = 30  # two cores for fifty interpreters
    processes = [setup.start() for _ in range(50)]
    for number, process in enumerate(processes):
        process.stdin.write(json.dumps(core_event(entity=f"web{number}")).encode())
        process.stdin.close()
    codes = [result(process.wait(), process.stdout.read()).code for process in processes]
    for process in processes:
        process.stdout.close()
    assert codes.count("sent") == 1 and set(codes) <= {"sent", "in-flight", "cooldown"}
    assert len(jenkins.wait_for_builds(JOB, 1)) == 1 and len(jenkins.requests) == 1


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()


def hand_over(process, event):
    process.stdin.write(json.dumps(event).encode())
    process.stdin.close()


def test_killed_before_the_intent(setup, jenkins):
    with Ledger(setup.ledger, 1):
        pass
    lock = sqlite3.connect(setup.ledger, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    process = setup.start()
    hand_over(process, core_event())
    wait_for(lambda: glob.glob(f"/proc/{process.pid}/fd/*") and opened(process.pid, setup.ledger))
    kill(process)
    lock.close()
    assert setup.run(core_event()).code == "sent"
    assert len(jenkins.wait_for_builds(JOB, 1)) == 1


def opened(pid, path):
    """Whether a process has a file open; a descriptor may be closed while we look."""
    for link in glob.glob(f"/proc/{pid}/fd/*"):
        with contextlib.suppress(OSError):
            if os.path.realpath(link) == path:
                return True
    return False


def test_killed_between_intent_and_post(setup, jenkins):
    del setup.scope["api_token_file"]
    setup.scope["password_file"] = setup.secret("password", jenkins.users["builder"].password)
    jenkins.fault, jenkins.fault_everywhere = Fault.BLACKHOLE, True
    process = setup.start()
    hand_over(process, core_event())
    wait_for(lambda: jenkins.requests)
    kill(process)
    jenkins.fault = None
    assert setup.run(core_event(incident="j")).code == "in-flight"
    age(setup, 60)
    assert setup.run(core_event(incident="k")).code == "sent"
    assert setup.run(core_event(incident="l")).code == "cooldown"
    assert len(jenkins.wait_for_builds(JOB, 1)) == 1


@pytest.mark.parametrize("fault", [Fault.BLACKHOLE, Fault.BLACKHOLE_AFTER_QUEUEING])
def test_killed_after_the_post(setup, jenkins, fault):
    jenkins.fault = fault
    process = setup.start()
    hand_over(process, core_event())
    wait_for(lambda: asked(jenkins) if fault is Fault.BLACKHOLE_AFTER_QUEUEING else jenkins.requests)
    kill(process)
    jenkins.fault = None
    assert setup.run(core_event(incident="j")).code == "in-flight"
    age(setup, 60)
    assert setup.run(core_event(incident="k")).code == ("sent" if fault is Fault.BLACKHOLE else "adopted")
    assert len(jenkins.wait_for_builds(JOB, 1)) == 1 and asked(jenkins) == 1


def test_a_jenkins_that_lost_its_queue_is_asked_again_under_the_same_id(setup, jenkins):
    jenkins.create_job(JOB, job_xml(quiet=60))
    jenkins.fault = Fault.CLOSE_AFTER_QUEUEING
    lost = setup.run(core_event())
    jenkins.fault = None
    jenkins.restart(kill=True)
    age(setup, 60)
    again = setup.run(core_event(incident="j"))
    assert again.code == "sent" and "queue item 1" in again.line
    (item,) = jenkins.queued()
    assert ("REQUEST_ID", re.search(r"lxc-\w+-1", lost.line).group()) in [value[-2:] for value in item.parameters]


# Trouble with the ledger


def test_ledgers_that_can_not_be_used(setup, jenkins):
    os.makedirs(os.path.dirname(setup.ledger))
    with open(setup.ledger, "w", encoding="utf-8") as file:
        file.write("no database" * 1000)
    got = setup.run(core_event())
    assert (got.status, got.word, got.code) == (3, "ERROR", "ledger") and "damaged" in got.line
    assert "web1/check_memory CRITICAL" in got.line
    setup.scope["ledger"] = "/proc/sensu-lxc/ledger.sqlite"
    assert setup.run(core_event()).status == 3
    assert not jenkins.requests


@pytest.mark.parametrize("size", [0, 50, 99, 100, 4096])
def test_a_ledger_that_was_cut_off_is_not_begun_anew(setup, jenkins, size):
    assert setup.run(core_event()).code == "sent"
    os.truncate(setup.ledger, size)
    for arguments in ((), ("--dry-run",)):
        got = setup.run(core_event(incident="j"), *arguments)
        assert (got.status, got.word, got.code) == (3, "ERROR", "ledger"), got.line
        assert "web1/check_memory CRITICAL" in got.line and "look in Jenkins what was asked for lately" in got.line
    assert len(jenkins.requests) == 1 and os.stat(setup.ledger).st_size == size


def test_a_ledger_whose_values_make_no_sense(setup, jenkins):
    assert setup.run(core_event()).code == "sent"
    with sqlite3.connect(setup.ledger) as ledger:
        ledger.execute("UPDATE fleets SET document = replace(document, 'SENT', 'SEND')")
    ledger.close()
    got = setup.run(core_event(incident="j"))
    assert (got.status, got.code) == (3, "ledger") and "damaged" in got.line
    assert len(jenkins.requests) == 1


def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def test_a_full_disk(setup, jenkins):
    got = setup.run(core_event(), preexec_fn=limit_files)
    assert (got.status, got.code) == (3, "ledger") and setup.ledger in got.line
    assert not jenkins.requests
    assert setup.run(core_event()).code == "sent"


# Without its capabilities, root is asked for permission like everybody else.
UNPRIVILEGED = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"] if os.geteuid() == 0 else []


@pytest.mark.skipif(bool(UNPRIVILEGED) and not shutil.which("setpriv"), reason="root needs setpriv for this")
@pytest.mark.parametrize("file_mode, folder_mode", [(0o400, 0o700), (0o600, 0o500), (0o000, 0o700)])
def test_a_ledger_that_may_not_be_written(setup, jenkins, file_mode, folder_mode):
    setup.run(core_event())
    jenkins.requests.clear()
    age(setup, 3600)
    os.chmod(setup.ledger, file_mode)
    os.chmod(os.path.dirname(setup.ledger), folder_mode)
    process = run([*UNPRIVILEGED, sys.executable, SCRIPT, "--config", setup.config], setup)
    got = finish(process, core_event(incident="j"))
    os.chmod(os.path.dirname(setup.ledger), 0o700)
    assert (got.status, got.code) == (3, "ledger") and "must be able to write it" in got.line
    assert not jenkins.requests


@pytest.mark.skipif(bool(UNPRIVILEGED) and not shutil.which("setpriv"), reason="root needs setpriv for this")
def test_a_dry_run_fails_where_the_ledger_can_not_be_written(setup, tmp_path):
    (tmp_path / "readable").mkdir(mode=0o500)
    setup.scope["ledger"] = str(tmp_path / "readable" / "ledger.sqlite")
    process = run([*UNPRIVILEGED, sys.executable, SCRIPT, "--config", setup.config, "--dry-run"], setup)
    got = finish(process, core_event())
    assert (got.status, got.code) == (3, "ledger") and "must be able to write it and its folder" in got.line


# How it is called


@pytest.mark.parametrize(
    "arguments, status, code",
    [(["--dry"], 2, "usage"), (["--confg", "x"], 2, "usage"), (["extra"], 2, "usage"), (["-j"], 2, "usage"),
     (["--config", "/nonexistent"], 2, "misconfigured"), (["-j", "other"], 2, "misconfigured")],
)  # fmt: skip
def test_wrong_options(setup, arguments, status, code):
    got = setup.run(core_event(), *arguments)
    assert (got.status, got.word, got.code) == (status, "ERROR", code)


def test_a_wrong_setting_is_named_with_the_event_that_was_not_handled(setup):
    setup.scope["cooldwon"] = "1h"
    got = setup.run(core_event())
    assert (got.status, got.code) == (2, "misconfigured")
    assert "web1/check_memory CRITICAL not handled: lxc_autoscale.cooldwon" in got.line


def test_another_scope(setup):
    with open(setup.config, encoding="utf-8") as file:
        tree = {"lxc_autoscale": {}, "web": json.load(file)["lxc_autoscale"]}
    path = os.path.join(setup.folder, "scopes.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(tree, file)
    assert setup.run(core_event(), "--config", path, "-j", "web").code == "sent"


def test_settings_that_sensu_names(setup):
    bad = os.path.join(setup.folder, "bad.json")
    with open(bad, "w", encoding="utf-8") as file:
        file.write('{"half": ')
    setup.environ["SENSU_CONFIG_FILES"] = f"{bad}:{setup.config}"
    got = finish(run([sys.executable, SCRIPT, "--dry-run"], setup), core_event())
    assert got.code == "dry-run" and f"[skipped {bad}: not JSON, " in got.line


def test_a_secret_that_everybody_can_read_is_noted(setup):
    os.chmod(setup.scope["api_token_file"], 0o644)
    assert "[everybody on this host can read the secret in " in setup.run(core_event()).line


@pytest.mark.parametrize("event", [b"", b"null", b"[" * 100_000, b'{"a": NaN}', b"\xff\x00", b"x" * (9 << 20)])
def test_no_event(setup, event):
    process = setup.start()
    try:
        got = finish(process, event)
    except BrokenPipeError:  # it need not listen to the end of what is too long
        got = result(process.wait(), process.stdout.read())
    assert (got.status, got.code) == (4, "bad-event")


def test_stdin_closed(setup):
    process = shell(f"exec {sys.executable} {SCRIPT} --config {setup.config} <&-", setup)
    assert finish(process, b"").code == "bad-event"


@pytest.mark.parametrize("where", [">&-", "> /dev/full"])
def test_stdout_that_takes_nothing(setup, where):
    process = shell(f"exec {sys.executable} {SCRIPT} --config {setup.config} 3>&1 2>&3 {where}", setup)
    assert finish(process, core_event()).code == "sent"


@pytest.mark.parametrize("stdin_is_closed", [True, False])
def test_stdout_that_nobody_reads(setup, stdin_is_closed):
    """The bound holds, whoever reads or does not."""
    setup.scope["timeout"] = 2
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"a" * size)
    os.set_blocking(writer, True)
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--config", setup.config], stdin=subprocess.PIPE, stdout=writer,
        stderr=subprocess.PIPE, env=setup.environ,
    )  # fmt: skip
    try:
        process.stdin.write(json.dumps(core_event()).encode())
        process.stdin.flush()
        if stdin_is_closed:
            process.stdin.close()
        process.wait(10)
        assert b"handler_jenkins" in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        for end in (reader, writer):
            os.close(end)


def test_an_old_argparse_in_the_place_of_pythons_own(setup, tmp_path):
    (tmp_path / "argparse.py").write_text(
        "class RawDescriptionHelpFormatter: pass\nclass ArgumentParser:\n    def __init__(self, prog=None): pass\n"
    )
    setup.environ["PYTHONPATH"] = str(tmp_path)
    got = setup.run(core_event())
    assert (got.status, got.code) == (2, "usage") and "hides Python's own argparse" in got.line


def test_nothing_is_open(setup, jenkins):
    """The line must not land in the ledger or in Jenkins' socket, which would get the free numbers."""
    process = shell(f"exec {sys.executable} {SCRIPT} --config {setup.config} >&- 2>&-", setup)
    process.communicate(json.dumps(core_event()).encode())
    assert process.returncode == 0 and len(jenkins.wait_for_builds(JOB, 1)) == 1
    assert setup.run(core_event(incident="j")).code == "cooldown"


def test_help_needs_no_event_and_its_example_works(setup, tmp_path):
    process = subprocess.run([sys.executable, SCRIPT, "--help"], stdin=subprocess.DEVNULL, capture_output=True,
                             env=setup.environ, text=True)  # fmt: skip
    assert process.returncode == 0 and process.stderr == ""
    for word in ("--dry-run", "api_token_file", "SENSU_LXC_JENKINS_TOKEN", "exit status"):
        assert word in process.stdout
    example = process.stdout.partition("records nothing):\n")[2].replace("/tmp/", f"{tmp_path}/")
    example = example.replace("handler_jenkins.py", f"{shlex.quote(sys.executable)} {shlex.quote(SCRIPT)}")
    assert finish(shell(example, setup), b"").code == "dry-run"


def test_works_where_it_was_copied_to(setup, tmp_path):
    subprocess.run(["cp", "-r", os.path.join(ROOT, "handlers", "."), tmp_path / "copied"], check=True)
    copied = tmp_path / "copied" / "handler_jenkins.py"
    assert finish(run([sys.executable, copied, "--config", setup.config], setup, cwd="/"), core_event()).code == "sent"


def loaded(setup, event):
    """The modules that the handler has loaded when it leaves."""
    code = "import os, sys; leave = os._exit; "
    code += "os._exit = lambda status: (print(*sys.modules, file=sys.stderr, flush=True), leave(status))"
    code += f"; sys.argv[1:] = ['--config', {setup.config!r}]; sys.path.insert(0, {os.path.dirname(SCRIPT)!r})"
    process = subprocess.run([sys.executable, "-c", code + "; import handler_jenkins; handler_jenkins.main()"],
                             input=json.dumps(event).encode(), capture_output=True, env=setup.environ)  # fmt: skip
    # An editable installation loads a finder, and by it pathlib and typing, into every interpreter.
    bare = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, check=True)
    return set(process.stderr.decode().split()) - set(bare.stdout.decode().split())


def test_what_it_loads(setup):
    heavy = {"requests", "urllib3", "typing", "subprocess", "pathlib", "dataclasses", "shutil", "tempfile", "hashlib"}
    assert not loaded(setup, core_event()) & (heavy - {"hashlib"} | {"ssl"})
    assert not loaded(setup, core_event(status=0)) & (heavy | {"http.client", "email", "ssl", "socket"})


def test_without_sensu_plugin(setup):
    got = finish(run([sys.executable, "-S", SCRIPT, "--config", setup.config], setup), b"{}")
    assert (got.status, got.code) == (2, "misconfigured")
    assert f"{sys.executable} -m pip install sensu-plugin==0.8.0" in got.line


def test_a_port_that_speaks_something_else(setup):
    with socket.create_server(("127.0.0.1", 0)) as server:
        setup.scope.update(url=f"https://127.0.0.1:{server.getsockname()[1]}/", timeout=2)
        process = setup.start()
        hand_over(process, core_event())
        connection, _ = server.accept()
        connection.sendall(b"220 mail.example ESMTP\r\n")
        got = result(process.wait(), process.stdout.read())
        connection.close()
        process.stdout.close()
    assert (got.status, got.code) == (1, "tls")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100), st.integers(0, 800))
def test_anything_on_stdin_is_one_line(setup, garbage, cut):
    text = recorded("sensu-go")["ttl-expired"]
    setup.run(text[:cut] + garbage + text[cut + len(garbage) :])
