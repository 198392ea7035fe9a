"""handler_remediate run as Sensu runs it, against stand-ins of both APIs that answer as the recorded ones."""

import glob
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from tests.standin.sensu import SensuCore, SensuGo

from .support import ROOT, Setup, core_event, finish, recorded

KEY = "0516e34a-0e4b-4daa-9f9c-0d626e295895"
START = {"check": "unpublished_fix", "when": {"check": "check_container_state", "occurrences": [1, 5]}}


class Remediation(Setup):
    script, scope_name = os.path.join(ROOT, "handlers", "handler_remediate.py"), "lxc_remediate"

    def __init__(self, folder, api, **scope):
        super().__init__(folder)
        self.scope = {"api": api, "actions": {"start_container": dict(START)}, "ledger": self.ledger, **scope}

    @property
    def action(self):
        return self.scope["actions"]["start_container"]

    def age(self, seconds):
        """Let time pass for what was asked."""
        with sqlite3.connect(self.ledger) as ledger:
            ledger.execute("UPDATE tries SET wall = wall - ?, uptime = uptime - ?", (seconds, seconds))
        ledger.close()

    def states(self):
        with sqlite3.connect(self.ledger) as ledger:
            found = [state for (state,) in ledger.execute("SELECT state FROM tries ORDER BY number")]
        ledger.close()
        return found


@pytest.fixture
def core():
    with SensuCore() as standin:
        yield standin


@pytest.fixture
def go():
    with SensuGo(KEY) as standin:
        standin.checks.append("unpublished_fix")
        yield standin


@pytest.fixture
def setup(tmp_path, core):
    return Remediation(tmp_path, {"url": core.url, "kind": "core"})


@pytest.fixture
def go_setup(tmp_path, go):
    setup = Remediation(tmp_path, {"url": go.url, "kind": "go"})
    setup.scope["api"]["api_key_file"] = setup.secret("key", KEY)
    return setup


_tick = iter(range(1, 1000))


def event(entity="monitor_lxc", status=2, occurrences=1, origin="ubuntu", check="check_container_state", **more):
    """Of a container with a client of its own, whose host `ubuntu` ran the check; each one second later."""
    executed = int(time.time()) - 500 + next(_tick)
    document = core_event(entity, check, status, executed, occurrences=occurrences, **more)
    if origin:
        document["client"]["type"], document["check"]["origin"] = "proxy", origin
    return document


def go_event(status=2, **more):
    document = json.loads(recorded("sensu-go")["proxy-critical"])
    executed = int(time.time()) - 500 + next(_tick)
    document["check"].update(executed=executed, issued=executed, status=status, occurrences=1, **more)
    document["check"]["metadata"]["name"] = "check_container_state"
    return document


# What is asked for, of whom


def test_the_host_that_ran_the_check_is_asked_once(setup, core):
    first = setup.run(event())
    assert (first.status, first.word, first.code) == (0, "ACT", "asked")
    assert (
        "monitor_lxc/check_container_state CRITICAL: asked ubuntu for unpublished_fix, try 1 of 3 in 1h" in first.line
    )
    assert first.line.endswith("the next result decides")
    assert [(one["check"], one["subscribers"]) for one in core.asked] == [("unpublished_fix", ["client:ubuntu"])]
    again = setup.run(event(occurrences=2))
    assert (again.word, again.code) == ("HOLD", "cooldown")
    assert len(core.asked) == 1


def test_a_host_that_is_its_own_entity(setup, core):
    assert setup.run(event(entity="ubuntu", origin="")).code == "asked"
    assert core.asked[0]["subscribers"] == ["client:ubuntu"]


def test_a_later_result_tells_whether_it_helped(setup, core):
    setup.run(event())
    setup.age(700)
    assert setup.states() == ["ASKED"]
    second = setup.run(event(occurrences=2))
    assert second.code == "asked" and "try 2 of 3 in 1h" in second.line and setup.states() == ["FAILED", "ASKED"]
    setup.age(700)
    well = setup.run(event(status=0))
    assert (well.word, well.code) == ("HOLD", "ok")
    assert "nothing is wrong any more; start_container was asked for 11m40s ago" in well.line
    assert setup.states() == ["FAILED", "WELL"]
    assert "any more" not in setup.run(event(status=0)).line


def test_in_the_end_it_is_given_up(setup, core):
    setup.action.update(cooldown="1m", budget="2/1h")
    for _ in range(2):
        assert setup.run(event()).code == "asked"
        setup.age(60)
    got = setup.run(event())
    assert (got.status, got.word, got.code) == (0, "HOLD", "given-up")
    assert "start_container was asked for 2 times in 1h" in got.line and "somebody has to look" in got.line
    got = setup.run(event(occurrences=6))
    assert got.code == "given-up" and "6th time" in got.line
    setup.age(3600)
    assert setup.run(event()).code == "asked"
    assert len(core.asked) == 3


def test_names_of_an_event_are_only_words(setup, core):
    setup.action["check"] = "start_{entity}"
    core.checks.append({"name": "start_we_b1___reboot_"})
    assert setup.run(event(entity="we b1;$(reboot)")).code == "asked"
    assert core.asked[0]["check"] == "start_we_b1___reboot_"
    assert core.asked[0]["reason"] == "we_b1___reboot_/check_container_state"


def test_go_asks_who_processed_it(go_setup, go):
    got = go_setup.run(go_event())
    assert got.code == "asked", got.line
    assert [(one["check"], one["subscriptions"]) for one in go.asked] == [("unpublished_fix", ["entity:lxchost1"])]
    assert go_setup.run(go_event()).code == "cooldown"
    assert all(KEY not in request.path for request in go.requests)
    go_setup.age(600)
    document = go_event(status=0, state="passing")
    assert "start_container was asked for" in go_setup.run(document).line


def test_go_in_the_namespace_of_the_event(go_setup, go):
    document = go_event()
    document["check"]["metadata"]["namespace"] = go.namespace = "lab"
    assert go_setup.run(document).code == "asked"
    assert {request.path.split("/")[5] for request in go.requests} == {"lab"}


def test_a_password_for_go(go_setup, go):
    del go_setup.scope["api"]["api_key_file"]
    go_setup.scope["api"].update(user=go.login[0])
    go_setup.environ["SENSU_LXC_API_PASSWORD"] = go.login[1]
    assert go_setup.run(go_event()).code == "asked"


def test_secrets_are_nowhere(setup, core):
    core.user = ("sensu", "s3cretpassword")
    setup.scope["api"].update(user="sensu", password_file=setup.secret("password", "s3cretpassword", 0o604))
    good = setup.run(event())
    assert good.code == "asked" and "chmod o=" in good.line
    core.user = ("sensu", "other")
    bad = setup.run(event(entity="web1"))
    assert (bad.status, bad.code) == (1, "rejected") and "user or password_file is wrong" in bad.line
    kept = open(setup.ledger, "rb").read().decode("latin-1")
    assert "s3cretpassword" not in good.line + bad.line + kept


def test_dry_run_decides_the_same_and_leaves_no_trace(setup, core):
    dry = setup.run(event(), "--dry-run")
    assert (dry.status, dry.word, dry.code) == (0, "ACT", "dry-run")
    assert "would ask ubuntu for unpublished_fix" in dry.line
    assert not core.requests and not os.path.exists(os.path.dirname(setup.ledger))
    assert setup.run(event()).code == "asked"
    before, asked = open(setup.ledger, "rb").read(), len(core.requests)
    assert setup.run(event(), "--dry-run").code == "cooldown"
    assert setup.run(event(status=0), "--dry-run").code == "ok"
    assert open(setup.ledger, "rb").read() == before and len(core.requests) == asked


def test_the_example_of_the_help_works(setup, tmp_path):
    shown = subprocess.run([sys.executable, setup.script, "--help"], capture_output=True, text=True, check=True)
    with open(os.path.join(ROOT, "checks", "handlers", "remediate.json"), encoding="utf-8") as file:
        scope = json.load(file)["lxc_remediate"]
    setup.scope = {**scope, "ledger": setup.ledger}
    example = shown.stdout.rpartition("own definition:\n")[2].replace("checks/handlers/remediate.json", setup.config)
    example = example.replace("handler_remediate.py", f"{sys.executable} {setup.script}")
    shell = subprocess.Popen(["sh", "-c", example], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=setup.environ)
    got = finish(shell, b"")
    assert got.code == "dry-run" and "would ask host1 for start_container" in got.line


def test_a_dry_run_fails_where_the_ledger_can_not_be_written(setup, core):
    os.makedirs(setup.ledger)
    for arguments in (("--dry-run",), ()):
        for one in (event(), event(status=0)):
            got = setup.run(one, *arguments)
            assert (got.status, got.code) == (3, "ledger"), got.line
    assert not core.requests


# Of whom not, and when not


def test_a_proxy_is_never_asked(setup, core):
    assert setup.run(event(origin="", client={"name": "web1", "type": "proxy"})).code == "no-runner"
    own = setup.run(event(entity="web1", origin="web1"))
    assert (own.word, own.code) == ("HOLD", "no-runner")
    assert not core.requests
    # Its event does not tell, but the API does.
    other = setup.run(event(entity="x", origin="web1"))
    assert (other.status, other.word, other.code) == (0, "HOLD", "proxy") and "web1 is a proxy" in other.line
    assert not core.asked and {request.method for request in core.requests} == {"GET"}


def test_nobody_of_that_name(setup, core, go_setup, go):
    for one, sent in ((setup, event(origin="gone")), (go_setup, go_event(processed_by="gone"))):
        got = one.run(sent)
        assert (got.status, got.word, got.code) == (1, "ERROR", "nobody"), got.line
        assert "knows no gone" in got.line
    assert not core.asked and not go.asked


@pytest.mark.parametrize(
    "changed, code",
    [
        ({"status": 0}, "ok"),
        ({"status": 1}, "no-action"),
        ({"status": 3}, "unknown"),
        ({"silenced": True}, "silenced"),
        ({"action": "flapping"}, "flapping"),
        ({"check": "keepalive"}, "keepalive"),
        ({"check": "check_memory"}, "no-action"),
        ({"check": "unpublished_fix"}, "own"),
    ],
)
def test_events_that_ask_for_nothing(setup, core, changed, code):
    got = setup.run(event(**changed))
    assert (got.status, got.word, got.code) == (0, "HOLD", code)
    assert not core.requests and not os.path.exists(setup.ledger)


@pytest.mark.parametrize(
    "kind, code",
    [
        ("keepalive-critical", "keepalive"),
        ("ttl-expired", "ttl"),
        ("check-critical-silenced", "silenced"),
        ("command-not-found", "unknown"),
    ],
)
def test_events_of_go_that_ask_for_nothing(go_setup, go, kind, code):
    document = json.loads(recorded("sensu-go")[kind])
    document["check"]["executed"] = int(time.time())
    go_setup.action["when"]["check"] = "*"
    assert go_setup.run(document).code == code
    assert not go.requests


def test_an_old_event(setup, core):
    document = event()
    document["check"]["executed"] = int(time.time()) - 700
    assert setup.run(document).code == "stale"
    setup.scope["max_age"] = "1h"
    assert setup.run(document).code == "asked"
    setup.age(3000)
    assert setup.run(document).code == "duplicate"


def test_two_scopes_of_one_ledger_each_act(setup, core):
    """On the same event, and with wishes of their own."""
    with open(setup.config, encoding="utf-8") as file:
        tree = json.load(file)
    tree["grow"] = {**tree["lxc_remediate"], "actions": {"grow": {"check": "grow", "when": {"check": "*"}}}}
    path = os.path.join(setup.folder, "both.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(tree, file)
    wanted = event()
    wanted["check"]["lxc_remediate"] = {"actions": ["start_container"]}
    core.checks.append({"name": "grow"})
    assert [setup.run(wanted, "--config", path, "-j", scope).code for scope in ("lxc_remediate", "grow", "grow")] == [
        "asked", "asked", "duplicate"]  # fmt: skip
    assert [one["check"] for one in core.asked] == ["unpublished_fix", "grow"]


@pytest.mark.parametrize("pattern", [r"(\s*\w+)*:\s*STOPPED", "(a+)+b", "(?:a|aa)+$", "(a*)*b", "(?=(a+)+b)"])
def test_a_pattern_that_takes_for_ever_ends_in_time(setup, core, pattern):
    """re keeps the thread that watches the time from running."""
    setup.scope["timeout"] = 2
    setup.action["when"] = {"check": "*", "output": pattern}
    slow = event()
    slow["check"]["output"] = "a" * 60 + "!"
    got = setup.run(slow)
    assert (got.status, got.word, got.code) == (1, "ERROR", "timeout") and got.seconds < 6
    assert (
        "monitor_lxc/check_container_state CRITICAL with the `output` of start_container: write a simpler" in got.line
    )
    assert not core.asked and not os.path.exists(setup.ledger)


def test_what_keeps_python_from_all_signals_is_killed(tmp_path):
    """By the kernel, once it has used up the time."""
    script = tmp_path / "handler_x.py"
    script.write_text(
        "from sensu_lxc_handlers import handler\n"
        "class X(handler.Fenced):\n"
        "    name, scope, timeout = 'handler_x', 'x', 1\n"
        "    def configure(self): self.timeout_seconds = 1\n"
        "    def work(self, trouble): return sum(range(10 ** 11))\n"
        "X().main()\n"
    )
    config = tmp_path / "x.json"
    config.write_text("{}")
    started = time.monotonic()
    environ = {**os.environ, "PYTHONPATH": os.path.join(ROOT, "handlers")}
    ran = subprocess.run([sys.executable, str(script), "--config", str(config)], env=environ, capture_output=True,
                         timeout=20)  # fmt: skip
    assert ran.returncode == -signal.SIGPROF, ran
    assert time.monotonic() - started < 10 and ran.stderr == b""


@pytest.mark.parametrize("key", ["actions", "occurrences", "severities", "cooldown", "x" * 99])
@pytest.mark.parametrize("value", [[["x"]], {"x": 1}, None, -1.5, "\ud800"])
def test_a_wish_of_a_wrong_type_is_named_with_its_event(setup, core, key, value):
    wanted = event()
    wanted["check"]["lxc_remediate"] = {key: value}
    got = setup.run(wanted)
    assert (got.status, got.code) == (2, "misconfigured") and not core.asked
    assert "monitor_lxc/check_container_state CRITICAL not handled: its check" in got.line and key[:50] in got.line


def test_wishes_of_a_check_and_its_client(setup, core):
    document = event()
    document["client"]["lxc_remediate"] = {"actions": "off"}
    assert setup.run(document).code == "off"
    document["check"]["lxc_remediate"] = {"actions": ["start_container"], "occurrences": [2, 3]}
    assert setup.run(document).code == "off"
    del document["client"]["lxc_remediate"]
    assert setup.run(document).code == "occurrences"
    document["check"]["lxc_remediate"] = {"api": {"url": "http://evil.example/"}}
    got = setup.run(document)
    assert (got.status, got.code) == (2, "misconfigured") and "its check wants api of remediation" in got.line
    assert not core.requests


def test_annotations_of_go(go_setup, go):
    document = go_event(status=1)
    prefix = "sensu.io/plugins/handler_remediate/config/"
    document["check"]["metadata"]["annotations"] = {
        prefix + "severities": "warning,critical",
        prefix + "cooldown": "0s",
    }
    assert go_setup.run(document).code == "asked"
    document["entity"]["metadata"]["annotations"] = {prefix + "actions": "off"}
    assert go_setup.run(document).code == "off"
    assert len(go.asked) == 1


# What Sensu answers


def test_a_check_that_the_server_does_not_know(setup, core):
    setup.action["check"] = "nosuch"
    got = setup.run(event())
    assert (got.status, got.word, got.code) == (1, "ERROR", "rejected")
    assert "there is no check nosuch in the settings of Core's server" in got.line
    held = setup.run(event())
    assert (held.status, held.code) == (0, "rejected") and "no check nosuch" in held.line
    setup.age(60)
    setup.action["check"] = "unpublished_fix"
    assert setup.run(event()).code == "asked"


@pytest.mark.parametrize(
    "fault, late", [("close", False), ("close", True), ("blackhole", True), (500, False), (504, True)]
)
def test_an_unknown_outcome_is_never_asked_again_at_once(setup, core, fault, late):
    setup.scope["timeout"] = 4
    core.fault, core.late_fault = fault, late
    started = time.monotonic()
    got = setup.run(event())
    assert (got.status, got.word, got.code) == (1, "ERROR", "unknown-outcome"), got.line
    assert "ubuntu may have been asked" in got.line and time.monotonic() - started < 6
    core.fault = None
    held = setup.run(event())
    assert (held.code, "perhaps, as no answer came" in held.line or "not well yet" in held.line) == ("cooldown", True)
    assert len(core.asked) == late
    setup.age(600)
    assert setup.run(event()).code == "asked"


def test_a_server_that_is_gone(setup, core):
    setup.scope["api"]["url"] = "http://127.0.0.1:1"
    got = setup.run(event())
    assert (got.status, got.code) == (1, "unreachable") and "Connection refused" in got.line
    setup.scope["api"]["url"] = core.url
    assert setup.run(event()).code == "asked"  # nothing was asked before, so nothing holds it
    assert setup.states() == ["UNSENT", "ASKED"]


def test_time_is_bounded(setup, core):
    core.fault, core.fault_on = "blackhole", "GET"
    setup.scope["timeout"] = 4
    started = time.monotonic()
    got = setup.run(event())
    assert (got.status, got.code) == (1, "unreachable") and time.monotonic() - started < 6
    assert not core.asked


# Settings and ledger


@pytest.mark.parametrize(
    "changed, says",
    [
        ({"api": {"url": "http://sensu/"}}, "api.kind must be"),
        ({"api": {"url": "https://sensu:8080/"}}, "Sensu Core sent the event, and lxc_remediate.api is Sensu Go's"),
        ({"api": {"url": "http://u:p@sensu:4567/"}}, "url must not hold user:password@"),
        ({"actions": {}}, "actions is missing"),
        ({"api": {"url": "http://sensu:4567/", "user": "u"}}, "set api.password_file"),
    ],
)
def test_settings_that_are_wrong(setup, changed, says):
    setup.scope.update(changed)
    got = setup.run(event())
    assert (got.status, got.code) == (2, "misconfigured") and says in got.line
    assert "monitor_lxc/check_container_state CRITICAL not handled" in got.line
    assert not os.path.exists(setup.ledger)


def test_a_damaged_ledger(setup, core):
    os.makedirs(os.path.dirname(setup.ledger))
    with open(setup.ledger, "w", encoding="utf-8") as file:
        file.write("no database" * 1000)
    for status in (2, 0):
        got = setup.run(event(status=status))
        assert (got.status, got.word, got.code) == (3, "ERROR", "ledger") and "damaged" in got.line
    assert not core.requests


# Many at once, and killed


def test_fifty_handlers_ask_once(setup, core):
    processes = [setup.start() for _ in range(50)]
    for number, process in enumerate(processes):
        process.stdin.write(json.dumps(event(incident=str(number))).encode())
    codes = [finish_quietly(process) for process in processes]
    assert codes.count("asked") == 1 and set(codes) <= {"asked", "in-flight", "cooldown"}, codes
    assert len(core.asked) == 1


def finish_quietly(process):
    output, _ = process.communicate(timeout=60)
    return output.decode().split(" ", 3)[2].rstrip(":")


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_it_asks(setup, core, when):
    """Whether or not Sensu had taken it: nobody asks again before the cooldown ends."""
    core.fault, core.late_fault = "blackhole", when == "after"
    core.fault_on = "POST" if when == "after" else "GET"
    process = setup.start()
    process.stdin.write(json.dumps(event()).encode())
    process.stdin.close()
    deadline = time.monotonic() + 10
    while not (core.asked if when == "after" else core.requests) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.stdin = None
    kill(process)
    core.fault = None
    assert setup.states() == ["INTENT"]
    assert setup.run(event()).code == "in-flight"
    setup.age(61)
    assert setup.run(event()).code == "cooldown"
    setup.age(600)
    assert setup.run(event()).code == "asked"
    assert len(core.asked) == (2 if when == "after" else 1)


def test_killed_at_any_point(setup, core):
    """Whenever it dies, at most one request per cooldown, and a ledger that the next one can use."""
    setup.run(event(entity="ubuntu", origin="", check="check_container_state"))
    core.asked.clear()
    for number in range(12):
        document = event(entity=f"web{number}")
        process = setup.start()
        process.stdin.write(json.dumps(document).encode())
        process.stdin.close()
        process.stdin = None
        time.sleep(0.012 * number)
        kill(process)
        got = setup.run(event(entity=f"web{number}"))
        assert got.code in ("asked", "in-flight", "cooldown"), got.line
        reasons = [one["reason"] for one in core.asked]
        assert reasons.count(f"web{number}/check_container_state") <= 1


def test_what_the_handler_loads_for_a_hold(setup):
    """An event that asks for nothing costs no network code."""
    code = f"import sys; sys.argv = ['x', '--config', {setup.config!r}]\n"
    code += f"sys.path.insert(0, {os.path.dirname(setup.script)!r})\n"
    code += "import handler_remediate as h; outcome = h.HandlerRemediate().run()\n"
    code += "print(outcome.code, *sorted({'http.client', 'socket', 'ssl', 'requests'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(event(status=0)), capture_output=True, text=True, timeout=30
    )
    assert done.stdout.split() == ["ok"], done.stdout + done.stderr


def test_no_file_is_left_behind(setup, core):
    setup.run(event())
    left = glob.glob(os.path.join(os.path.dirname(setup.ledger), "*"))
    assert left == [setup.ledger]
    process = setup.start()
    assert finish(process, b"").code == "bad-event"
