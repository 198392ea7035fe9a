"""handler_mail run as Sensu runs it, against a real mail server, odd ones, and a sendmail."""

import glob
import json
import os
import re
import resource
import shlex
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sensu_lxc_handlers import handler

from tests.standin import certificates

from .smtp import Odd, Sink, parsed, text
from .support import ROOT, Setup, core_event, encode, finish, recorded, result

SCRIPT = os.path.join(ROOT, "handlers", "handler_mail.py")
PASSWORD = "s3cret-password"


class Mailer(Setup):
    script, scope_name = SCRIPT, "lxc_mail"

    def __init__(self, folder, **scope):
        super().__init__(folder)
        self.state = os.path.join(self.folder, "state", "mail.sqlite")
        self.scope = {"to": "ops@example.com", "from": "Sensu <sensu@example.com>", "state_file": self.state, **scope}
        self.environ["TZ"] = "Europe/Berlin"

    def at(self, server, **scope):
        self.scope.update(server="127.0.0.1", port=server.port, **scope)
        return self

    def sendmail(self, status=0, says=""):
        """A program in place of the host's own, that notes how it was called."""
        path = os.path.join(self.folder, "sendmail")
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {path}.argv\nenv > {path}.env\ncat > {path}.stdin\n"
                       f"echo '{says}'\nexit {status}\n")  # fmt: skip
        os.chmod(path, 0o755)
        self.scope["sendmail"] = path
        return path


@pytest.fixture
def sink():
    with Sink() as sink:
        yield sink


@pytest.fixture
def setup(tmp_path, sink):
    return Mailer(tmp_path).at(sink)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory):
    if not certificates.available():
        pytest.skip("openssl is not there to make certificates")
    folder = tmp_path_factory.mktemp("certificates")
    return [certificates.make(str(folder / name), name) for name in ("good", "other")]


def go_event(name="proxy-critical", **check):
    event = json.loads(recorded("sensu-go")[name])
    event["check"].update(check)
    return event


def age(setup, seconds):
    """Let time pass for what was mailed."""
    with sqlite3.connect(setup.state) as db:
        db.execute("UPDATE mailed SET wall = wall - ?, uptime = uptime - ?, began = began - ?", (seconds,) * 3)
    db.close()


def codes(setup, *events, arguments=()):
    return [setup.run(event, *arguments).code for event in events]


# What is mailed


def test_one_mail_for_each_change_and_none_for_repetitions(setup, sink):
    at = int(time.time())

    def event(status, executed, **more):
        return core_event(status=status, executed=at + executed, **more)

    story = [
        (event(1, 0), "sent", "WARNING: web1/check_memory"),
        (event(1, 1, occurrences=2), "no-change", None),
        (event(2, 2), "sent", "CRITICAL, was WARNING: web1/check_memory"),
        (event(2, 3), "no-change", None),
        (event(3, 4), "sent", "UNKNOWN, was CRITICAL: web1/check_memory"),
        (event(2, 5, action="flapping"), "sent", "FLAPPING, was UNKNOWN: web1/check_memory"),
        (event(0, 6, action="flapping"), "no-change", None),
        (event(2, 7), "sent", "CRITICAL, was FLAPPING: web1/check_memory"),
        (event(0, 8, action="resolve"), "sent", "OK, was CRITICAL: web1/check_memory"),
        (event(0, 8, action="resolve"), "ok", None),
        (event(2, 9, incident="another"), "sent", "CRITICAL: web1/check_memory"),
    ]
    assert codes(setup, *(event for event, _, _ in story)) == [code for _, code, _ in story]
    assert [message["Subject"] for message in sink.messages] == [subject for _, _, subject in story if subject]
    first, *answers, another = sink.messages
    assert "In-Reply-To" not in first and "References" not in first and "References" not in another
    for before, message in zip([first, *answers], answers):
        assert message["In-Reply-To"] == before["Message-ID"]
        assert message["References"].split()[0] == first["Message-ID"]
    assert len({message["Message-ID"] for message in sink.messages}) == len(sink.messages)


def test_what_a_mail_looks_like(setup, sink):
    setup.scope.update(to=["Ops Räume <ops@example.com>", "root@example.com"], **{"from": "Sensu <sensu@example.com>"})
    event = go_event("check-critical-to-warning", executed=1795415386)
    event["check"]["output"] = "94 % used\r\non web1: Grüße\n.\nthe end\n"
    got = setup.run(event)
    assert (got.status, got.code) == (
        0,
        "sent",
    ) and "mailed to ops@example.com, root@example.com by 127.0.0.1" in got.line
    ((sender, recipients, content),) = sink.mails
    assert (sender, recipients) == ("sensu@example.com", ["ops@example.com", "root@example.com"])
    assert content.isascii() and max(map(len, content.splitlines())) < 100
    message = parsed(content)
    assert message["From"] == "Sensu <sensu@example.com>"
    assert message["To"] == "Ops Räume <ops@example.com>, root@example.com"
    assert message["Subject"] == "WARNING: lxchost1/check_container_state"
    assert message["Auto-Submitted"] == "auto-generated"
    assert re.fullmatch(r"<lxc-[0-9a-f]{32}@example\.com>", message["Message-ID"])
    assert abs(message["Date"].datetime.timestamp() - time.time()) < 60
    told = {key[8:]: value for key, value in message.items() if key.startswith("X-Sensu-")}
    assert told == {"Entity": "lxchost1", "Check": "check_container_state", "Namespace": "default", "Status": "1",
                    "Occurrences": "1", "Change": "WARNING", "Runner": "lxchost1"}  # fmt: skip
    assert message.get_content_type() == "text/plain" and message.get_content_charset() == "utf-8"
    assert text(message).splitlines() == [
        "lxchost1/check_container_state: WARNING", "", "94 % used", "on web1: Grüße", ".", "the end", "",
        "executed     2026-11-23 07:29:46 +0100", "occurrences  1", "history      0 0 0 0 2 2 2 1",
        "run by       lxchost1", "namespace    default",
    ]  # fmt: skip


def test_templates(setup, sink):
    setup.scope.update(
        subject="[{namespace}] {status} {entity} {check} {output}",
        body="{change}|{command}|{lasted}|{occurrences}|{history}|{runner}\n\tnot a {Placeholder} {}\n",
    )
    event = core_event(output="x")
    event["check"].update(command="check -x", output="a\nb {entity}", history=["0", "2"])
    setup.run(event)
    age(setup, 7200)
    setup.scope["remind"] = "1h"
    setup.run(event)
    first, second = sink.messages
    assert first["Subject"] == "[-] CRITICAL web1 check_memory a b {entity}"
    assert text(first) == "CRITICAL|check -x|-|1|0 2|web1\n\tnot a {Placeholder} {}\n"
    assert text(second).startswith("still CRITICAL after 2h|check -x|2h|1|")


def test_reminders_while_it_lasts(setup, sink):
    setup.scope["remind"] = "1h"
    event = core_event()
    assert codes(setup, event, event) == ["sent", "no-change"]
    age(setup, 3000)
    assert re.search("CRITICAL was mailed 50m.* ago, reminder in 9m", setup.run(event).line)
    age(setup, 600)
    assert codes(setup, event, event) == ["reminder", "no-change"]
    assert sink.messages[-1]["Subject"] == "still CRITICAL after 1h: web1/check_memory"
    age(setup, 3600)
    assert codes(setup, event, core_event(status=0)) == ["reminder", "sent"]
    assert sink.messages[-2]["Subject"] == "still CRITICAL after 2h: web1/check_memory"
    assert sink.messages[-1]["Subject"] == "OK, was CRITICAL: web1/check_memory"


def test_a_recovery_that_came_by_no_handler_hides_no_new_incident(setup, sink):
    """Silenced, filtered, or while the server was down: Core's id and Go's last_ok tell."""
    assert codes(setup, core_event(), core_event(incident="j")) == ["sent", "sent"]
    events = [go_event(last_ok=ok, executed=ok + 5) for ok in (100, 100, 200)]
    assert codes(setup, *events) == ["sent", "no-change", "sent"]
    assert sink.messages[-1]["Subject"] == "CRITICAL: web1/check_proxy" and "References" not in sink.messages[-1]


def test_flapping_in_go_is_one_mail_though_it_is_ok_in_between(setup, sink):
    at = 1795415489
    flapping = [go_event("check-flapping", status=status, last_ok=at - status, executed=at + number)
                for number, status in enumerate((2, 0, 2, 0, 2))]  # fmt: skip
    after = [go_event("check-flapping", status=2, state="failing", last_ok=at + 9, executed=at + 10),
             go_event("check-flapping", status=0, state="passing", last_ok=at + 20, executed=at + 20)]  # fmt: skip
    assert codes(setup, *flapping, *after) == ["sent", *["no-change"] * 4, "sent", "sent"]
    assert [message["X-Sensu-Change"] for message in sink.messages] == [
        "FLAPPING", "CRITICAL, was FLAPPING", "OK, was CRITICAL"]  # fmt: skip


def test_severities_and_resolve(setup, sink):
    setup.scope.update(severities=["critical"], resolve=False)
    story = [core_event(status=1), core_event(status=3), core_event(), core_event(status=1), core_event(),
             core_event(status=0), core_event(status=0), core_event()]  # fmt: skip
    assert codes(setup, *story) == [
        "severity", "severity", "sent", "severity", "no-change", "resolve", "ok", "sent"]  # fmt: skip
    assert len(sink.mails) == 2


def test_flapping_only_where_a_severity_is_wanted(setup, sink):
    setup.scope["severities"] = "critical"
    event = core_event(status=0, action="flapping")
    event["check"]["history"] = ["0", "1", "0", "1", "0"]
    assert setup.run(event).code == "severity"
    event["check"]["history"] = ["0", "2", "0", "1", "0"]
    assert setup.run(event).code == "sent"


def test_a_host_or_check_that_is_not_heard_of_is_mailed(setup, sink):
    assert codes(setup, *(recorded("sensu-go")[name] for name in ("keepalive-warning", "keepalive-critical"))) == [
        "sent", "sent"]  # fmt: skip
    assert sink.messages[-1]["Subject"] == "CRITICAL, was WARNING: lxchost1/keepalive"
    # A warning that is followed by silence is news, though the severity is the same.
    warned = go_event("ttl-expired", output="90% used", executed=1795415527)
    assert codes(setup, warned, recorded("sensu-go")["ttl-expired"], recorded("sensu-go")["ttl-expired"]) == [
        "sent", "sent", "no-change"]  # fmt: skip
    assert sink.messages[-1]["Subject"] == "WARNING, not heard of, was WARNING: web9/sweep_state"
    assert setup.run(recorded("sensu-core")["ubuntu__keepalive__create__s2__o1"]).code == "sent"
    assert "No keepalive sent from client for 30 seconds" in text(sink.messages[-1])


FIRST = {
    "sensu-core": {
        "ubuntu__check_memory_no_agent__resolve__s0__o15": "ok", "ubuntu__memory_check__create__silenced": "silenced",
        "ubuntu__metrics__create__s0__o1": "ok", "lxchost1__registration__create__s1__o2": "registration",
        "lxchost1__deregistration__create__s1__o1": "deregistration", "lxchost1__keepalive__resolve__s0__o1": "ok",
        "web2__check_container_state__resolve__s0__o2": "ok",
    },
    "sensu-go": {
        "check-critical-silenced": "silenced", "check-critical-third": "silenced", "check-first-ok": "ok",
        "keepalive-ok": "ok", "metrics-graphite": "ok", "metrics-influx": "ok", "metrics-prom": "ok",
        "pipeline-resolve": "ok", "posted-proxy-metrics": "ok", "proxy-resolve": "ok",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ["sensu-core", "sensu-go"])
def test_every_recorded_event(setup, sink, kind):
    """As the first that is heard of its check; then as the second, which is news to nobody."""
    for name, event in recorded(kind).items():
        wanted = FIRST[kind].get(name, "sent")
        before = len(sink.mails)
        got = [setup.run(event).code for _ in range(2)]
        assert got == ["sent", "no-change"] if wanted == "sent" else [wanted, wanted], name
        assert len(sink.mails) - before == (wanted == "sent"), name
        if wanted == "sent":
            message = sink.messages[-1]
            document = json.loads(event)
            output = document["check"]["output"].strip().splitlines()[0]
            assert output in text(message)
        for path in glob.glob(setup.state):
            os.remove(path)


def test_registrations_are_no_incidents(setup, sink):
    assert codes(setup, core_event(check="registration", status=1), core_event(check="deregistration", status=1)) == [
        "registration", "deregistration"]  # fmt: skip
    assert setup.run({"entity": {"metadata": {"name": "a"}}, "metrics": {"points": []}}).code == "metrics"


def test_two_scopes_remember_apart(setup, sink):
    with open(setup.config, encoding="utf-8") as file:
        scope = json.load(file)["lxc_mail"]
    path = os.path.join(setup.folder, "scopes.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"a": scope, "b": {**scope, "to": "other@example.com"}}, file)
    for name in ("a", "b", "a", "b"):
        setup.run(core_event(), "--config", path, "-j", name)
    assert [recipients for _, recipients, _ in sink.mails] == [["ops@example.com"], ["other@example.com"]]


def test_an_older_event_that_is_handled_late_does_not_take_back_the_recovery(setup, sink):
    assert codes(setup, core_event(executed=100), core_event(status=0, executed=110), core_event(executed=105),
                 core_event(status=0, executed=104)) == ["sent", "sent", "late", "ok"]  # fmt: skip
    age(setup, 61)  # a clock that was set back silences nobody
    assert setup.run(core_event(executed=106, incident="j")).code == "sent"


def test_dry_run_says_what_would_go_and_leaves_no_trace(setup, sink):
    got = setup.run(core_event(), "--dry-run")
    assert (got.status, got.word, got.code) == (0, "ACT", "dry-run")
    assert "would mail 'CRITICAL: web1/check_memory' to ops@example.com by 127.0.0.1:" in got.line
    assert not sink.mails and not os.path.exists(os.path.dirname(setup.state))
    setup.run(core_event())
    before = open(setup.state, "rb").read()
    assert codes(setup, core_event(), core_event(status=0), arguments=["--dry-run"]) == ["no-change", "dry-run"]
    assert open(setup.state, "rb").read() == before and len(sink.mails) == 1


def no_password(setup):
    setup.scope.update(user="sensu", password_file=os.path.join(setup.folder, "missing"))


def no_program(setup):
    del setup.scope["server"], setup.scope["port"]
    setup.scope["sendmail"] = "/nonexistent/sendmail"


def no_folder(setup):
    os.rmdir(os.path.dirname(setup.state))
    open(os.path.dirname(setup.state), "w").close()


def no_state_file(setup):
    os.mkdir(setup.state)


@pytest.mark.parametrize("spoil", [no_password, no_program, no_folder, no_state_file])
def test_a_dry_run_fails_where_the_real_one_does(setup, sink, spoil):
    os.mkdir(os.path.dirname(setup.state))
    spoil(setup)
    dry = setup.run(core_event(), "--dry-run")
    assert not sink.mails
    real = setup.run(core_event())
    assert dry.word == "ERROR" and (dry.status, dry.code) == (real.status, real.code), (dry, real)


# What a check and its entity may wish


def test_wishes_of_core(setup, sink):
    event = core_event(status=1)
    event["check"]["lxc_mail"] = {"to": "db@example.com, x@example.com", "subject": "DB {status}"}
    event["client"]["lxc_mail"] = {"to": "never@example.com", "severities": ["warning"], "remind": "1m"}
    assert codes(setup, event) == ["sent"]
    age(setup, 60)
    assert codes(setup, event, core_event(entity="other", status=2)) == ["reminder", "sent"]
    assert [recipients for _, recipients, _ in sink.mails] == [["db@example.com", "x@example.com"]] * 2 + [
        ["ops@example.com"]]  # fmt: skip
    assert sink.messages[0]["Subject"] == "DB WARNING"


def test_wishes_of_go(setup, sink):
    event = go_event()
    prefix = "sensu.io/plugins/handler_mail/config/"
    event["check"]["metadata"]["annotations"] = {
        f"{prefix}to": "Db <db@example.com>",
        f"{prefix}severities": "critical",
    }
    event["entity"]["metadata"]["annotations"] = {f"{prefix}severities": "warning", f"{prefix}subject": "{entity}!"}
    assert setup.run(event).code == "sent"
    assert sink.messages[0]["To"] == "Db <db@example.com>" and sink.messages[0]["Subject"] == "web1!"


@pytest.mark.parametrize(
    "key, value",
    [("server", "evil.example"), ("sendmail", "/tmp/x"), ("password_file", "/etc/shadow"), ("user", "x"),
     ("from", "x@example.com"), ("body", "x"), ("state_file", "/tmp/x"), ("resolve", False), ("nonsense", 1),
     ("to", "x@example.com\nBcc: y@example.com"), ("to", "-oQ/tmp"), ("to", []), ("to", ["a@b"] * 51), ("to", {}),
     ("subject", "a\nBcc: x@y"), ("subject", "{password}"), ("subject", ""), ("remind", "1"), ("remind", "x"),
     ("remind", True), ("severities", "ok"), ("severities", [1]), ("severities", [["critical"]])],
)  # fmt: skip
def test_wishes_that_are_not_granted_are_noted_and_the_mail_goes(setup, sink, key, value):
    event = core_event()
    event["check"]["lxc_mail"] = {key: value}
    got = setup.run(event)
    assert got.code == "sent" and f"[ignored {key} of the check: " in got.line
    ((sender, recipients, _),) = sink.mails
    assert (sender, recipients) == ("sensu@example.com", ["ops@example.com"])


# Hostile events

HOSTILE = [
    "web1\r\nBcc: evil@example.com", "a\n\nbody", "\ud800x\udfff", "=?utf-8?q?a=0d=0aBcc:_evil@example.com?=",
    "=?=?utf-8?b?Cg==?=?=", "x" * 5000, "ä" * 3000, "\u202eteser\u202c", "\x1b]0;owned\x07\x1b[31m", "日本 語" * 200,
    '"<evil@example.com>"', "a, b@c; d:", "\0\x01\x7f\x85\u2028\u2029", "😀" * 100, " lead", "tab\tbed", "\ufeff",
    "Bcc: evil@example.com", "=?utf-8?q?=3D=3Futf-8?=",
]  # fmt: skip


def assert_whole(content, entity_count=1):
    """Nothing of the event has left its place: the headers are ours, each once, and the lines are short ASCII."""
    head, _, _ = content.partition(b"\r\n\r\n")
    assert head.isascii() and all(len(line) <= 998 for line in content.split(b"\r\n"))
    assert b"\r" not in content.replace(b"\r\n", b"") and b"\n" not in content.replace(b"\r\n", b"")
    names = [line.split(b":")[0].decode() for line in head.split(b"\r\n") if line[:1] not in b" \t"]
    assert len(names) == len(set(names))
    assert {name for name in names if not name.startswith("X-")} <= {
        "From", "To", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted", "Content-Type",
        "Content-Transfer-Encoding", "MIME-Version",
    }  # fmt: skip
    message = parsed(content)
    assert [address.addr_spec for address in message["To"].addresses] == ["ops@example.com"]
    assert [address.addr_spec for address in message["From"].addresses] == ["sensu@example.com"]
    for name in names:
        # Decoded, too, each is one line that shows no more than it says.
        assert str(message[name]).isprintable(), (name, str(message[name]))
        assert "=?" not in str(message[name])
    assert not any(ord(c) < 32 and c not in "\n\t" for c in text(message))
    assert not any(c in text(message) for c in "\x1b\u202e\x85\u2028\0")
    return message


def test_hostile_names_and_output(setup, sink):
    for hostile in HOSTILE:
        event = core_event(entity=hostile, check=hostile)
        event["check"].update(output=hostile, command=hostile, history=[hostile])
        setup.scope["subject"] = "{change} {entity} {check} {output}"
        assert setup.run(event).code == "sent", hostile
        message = assert_whole(sink.mails[-1][2])
        assert message["Subject"].startswith("CRITICAL ") and len(message["Subject"]) <= 220
        (_, recipients, _) = sink.mails[-1]
        assert recipients == ["ops@example.com"]


def test_output_without_end_is_cut(setup, sink):
    event = core_event()
    event["check"]["output"] = "line ä\n" * 500_000
    setup.scope["body"] = "{output}" * 20
    assert setup.run(event).code == "sent"
    content = sink.mails[0][2]
    assert len(content) < 300_000
    assert "characters more" in text(parsed(content))
    assert len(text(parsed(content))) < 66_000


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100), st.integers(0, 800))
def test_anything_on_stdin_is_one_line(setup, garbage, cut):
    text = recorded("sensu-go")["ttl-expired"]
    setup.run(text[:cut] + garbage + text[cut + len(garbage) :])


# Who sends


def secured(tmp_path, sink, ca, **scope):
    setup = Mailer(tmp_path).at(sink, tls="starttls", ca_file=ca, **scope)
    if "user" in scope:
        setup.scope["password_file"] = setup.secret("password", PASSWORD)
    return setup


def test_starttls_and_login(tmp_path, authorities):
    good, other = authorities
    with Sink(tls=(good.chain, good.key), login=("sensu", PASSWORD)) as sink:
        setup = secured(tmp_path, sink, good.ca, user="sensu")
        got = setup.run(core_event())
        assert got.code == "sent" and sink.logins == [("sensu", PASSWORD)] and len(sink.mails) == 1
        kept = open(setup.state, "rb").read() + open(setup.state + ".lock", "rb").read()
        assert PASSWORD not in got.line and PASSWORD.encode() not in kept
        # Another authority, and that of the system.
        for ca in (other.ca, ""):
            setup.scope["ca_file"] = ca
            wrong = setup.run(core_event(incident="j"))
            assert (wrong.status, wrong.code) == (1, "tls") and "does `ca_file` hold the authority" in wrong.line
        assert len(sink.logins) == 1


def test_a_wrong_password(tmp_path, authorities):
    good, _ = authorities
    with Sink(tls=(good.chain, good.key), login=("sensu", PASSWORD)) as sink:
        setup = secured(tmp_path, sink, good.ca, user="sensu")
        setup.secret("password", "wr0ng-password")
        got = setup.run(core_event())
        assert (got.status, got.code) == (1, "rejected") and "the password in `password_file`" in got.line
        assert "535" in got.line and "wr0ng" not in got.line
        setup.environ["SENSU_LXC_MAIL_PASSWORD"] = PASSWORD
        assert setup.run(core_event()).code == "sent"
        # Without user there is no login, and the server wants one.
        del setup.scope["user"], setup.scope["password_file"]
        got = setup.run(core_event(incident="j"))
        assert (got.status, got.code) == (1, "rejected") and "530" in got.line and "log in with `user`" in got.line


def test_a_server_that_echoes_the_password(tmp_path):
    def echo(connection):
        connection.sendall(b"250-odd\r\n250 AUTH PLAIN\r\n")
        line = connection.recv(1000)
        long = b"x" * 110  # what is left of a secret in a line that was cut off would not be found there
        connection.sendall(b"535 no: " + line.split()[-1] + b" is " + long + PASSWORD.encode() + b"\r\n")
        connection.recv(1000)

    with Odd("EHLO", echo) as server:
        setup = Mailer(tmp_path).at(server, user="sensu")
        setup.scope["password_file"] = setup.secret("password", PASSWORD)
        got = setup.run(core_event())
    assert (got.status, got.code) == (1, "rejected")
    assert f"535 no: *** is {'x' * 110}***" in got.line and PASSWORD[:8] not in got.line


@pytest.mark.parametrize("password", ["hunter2", "x", "*", "mail", "REJ", "a.b", "no"])
def test_a_short_password_is_not_printed_either(tmp_path, password):
    def echo(connection):
        connection.sendall(b"250-odd\r\n250 AUTH PLAIN\r\n")
        line = connection.recv(1000)
        connection.sendall(f"535 5.7.8 {password} of {line.split()[-1].decode()} is bad\r\n".encode())
        connection.recv(1000)

    with Odd("EHLO", echo) as server:
        setup = Mailer(tmp_path).at(server, user="sensu")
        setup.scope["password_file"] = setup.secret("password", password)
        got = setup.run(core_event())
    assert (got.status, got.word, got.code) == (1, "ERROR", "rejected"), "the words to search for stay"
    said = got.line.partition(": ")[2]
    assert password == "*" or password not in said
    assert re.search(r"535 5\.7\.8 \*+ of \*+ is bad", said) or password in "no x"


def test_an_empty_secret_is_none():
    fence = handler.Fenced()
    fence.secrets = ["", "ab", "", "abc", "*"]
    assert fence.without_secrets("abc ab * a") == "*** *** *** a"
    fence.secrets = [""]
    assert fence.without_secrets("abc") == "abc"


def test_tls_from_the_first_byte(tmp_path, authorities):
    good, other = authorities
    with Sink(tls=(good.chain, good.key), implicit=True, login=("sensu", PASSWORD)) as sink:
        setup = secured(tmp_path, sink, good.ca, user="sensu")
        setup.scope["tls"] = "tls"
        assert setup.run(core_event()).code == "sent" and len(sink.mails) == 1
        setup.scope["ca_file"] = other.ca
        assert setup.run(core_event(incident="j")).code == "tls"


def test_no_step_down_from_tls(setup, sink):
    setup.scope["tls"] = "starttls"
    got = setup.run(core_event())
    assert (got.status, got.code) == (1, "tls") and "offers no STARTTLS" in got.line
    setup.scope["tls"] = "tls"
    got = setup.run(core_event())
    assert (got.status, got.code) == (1, "tls") and "do `port` and `tls` fit each other" in got.line
    assert not sink.mails


def test_secrets_that_can_not_be_read(setup, sink):
    setup.scope.update(user="sensu")
    assert "user is set, so password_file (or SENSU_LXC_MAIL_PASSWORD" in setup.run(core_event()).line
    setup.scope["password_file"] = os.path.join(setup.folder, "missing")
    got = setup.run(core_event())
    assert (got.status, got.code) == (2, "misconfigured") and "No such file" in got.line
    setup.scope["password_file"] = setup.secret("password", "pässword")
    assert "must be ASCII" in setup.run(core_event()).line
    assert not sink.mails


# What servers answer


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
def test_not_now_is_tried_again_at_the_next_event(setup, sink, command):
    sink.replies[command] = ["451 4.7.1 try again later"]
    got = setup.run(core_event())
    assert (got.status, got.word, got.code) == (1, "ERROR", "deferred")
    assert "451 4.7.1 try again later: the next event tries again" in got.line and not sink.mails
    assert codes(setup, core_event(), core_event()) == ["sent", "no-change"]
    assert len(sink.mails) == 1 and "In-Reply-To" not in sink.messages[0]


@pytest.mark.parametrize(
    "command, remedy", [("MAIL", "correct `from`"), ("RCPT", "correct `to`"), ("DATA", "see in its log")]
)
def test_no_for_good_says_what_to_do(setup, sink, command, remedy):
    sink.replies[command] = ["550 5.7.1 we don't want\x1b that"] * 2
    got = setup.run(core_event())
    assert (got.status, got.word, got.code) == (1, "ERROR", "rejected")
    assert "550 5.7.1" in got.line and remedy in got.line and "not mailed to ops@example.com" in got.line


def test_one_recipient_of_two_is_refused_for_now(setup, sink):
    """Greylisting: he gets it later, the other one not again."""
    setup.scope["to"] = ["ops@example.com", "Grey <grey@example.com>"]
    sink.replies["RCPT"] = lambda address: "450 try later" if address.startswith("grey") else None
    at = int(time.time())
    first = setup.run(core_event(executed=at))
    assert (first.status, first.word, first.code) == (1, "ERROR", "deferred")
    assert "mailed to ops@example.com by " in first.line and "grey@example.com: 450 try later" in first.line
    assert [recipients for _, recipients, _ in sink.mails] == [["ops@example.com"]]
    still = setup.run(core_event(executed=at + 1))
    assert (still.status, still.code) == (1, "deferred") and len(sink.mails) == 1
    assert "not mailed to grey@example.com: " in still.line
    sink.replies.clear()
    assert setup.run(core_event(executed=at + 2), "--dry-run").code == "dry-run"
    assert codes(setup, *(core_event(executed=at + 2 + more) for more in (0, 1))) == ["sent", "no-change"]
    assert [recipients for _, recipients, _ in sink.mails] == [["ops@example.com"], ["grey@example.com"]]
    one, two = sink.messages
    assert one["Message-ID"] == two["Message-ID"] and two["To"] == "Grey <grey@example.com>" and not two["References"]


def test_a_recovery_that_one_of_two_did_not_get(setup, sink):
    setup.scope["to"] = "ops@example.com, grey@example.com"
    at = int(time.time())
    assert setup.run(core_event(executed=at)).code == "sent"
    sink.replies["RCPT"] = lambda address: "452 mailbox full" if address.startswith("grey") else None
    well = [core_event(status=0, executed=at + more, action="resolve") for more in (1, 2, 3)]
    assert codes(setup, well[0], well[0]) == ["deferred", "deferred"] and len(sink.mails) == 2
    setup.scope["to"] = "ops@example.com"  # who is not to be told any more is not waited for
    assert codes(setup, well[1]) == ["no-change"]
    setup.scope["to"] = "ops@example.com, grey@example.com"
    sink.replies.clear()
    assert codes(setup, *well[1:]) == ["sent", "ok"]
    assert sink.mails[-1][1] == ["grey@example.com"] and sink.messages[-1]["Subject"] == "OK: web1/check_memory"
    assert sink.messages[-1]["Message-ID"] == sink.messages[-2]["Message-ID"]


def test_who_is_refused_for_now_gets_it_by_the_fallback(setup, sink):
    path = setup.sendmail()
    setup.scope.update(to=["ops@example.com", "grey@example.com"], fallback=True)
    sink.replies["RCPT"] = lambda address: "450 try later" if address.startswith("grey") else None
    got = setup.run(core_event())
    assert got.code == "sent" and "[by sendmail to grey@example.com, as 127.0.0.1:" in got.line
    argv = open(path + ".argv", encoding="utf-8").read().split()
    assert argv == ["-i", "-f", "sensu@example.com", "grey@example.com"]
    assert codes(setup, core_event()) == ["no-change"]
    setup.sendmail(status=1, says="no")
    got = setup.run(core_event(check="other"))
    assert got.code == "deferred" and "ended with 1: no" in got.line


def test_who_is_refused_for_now_where_nothing_can_be_remembered(setup, sink):
    setup.scope.update(to=["ops@example.com", "grey@example.com"], state_file="/proc/sensu-lxc/mail.sqlite")
    sink.replies["RCPT"] = lambda address: "450 try later" if address.startswith("grey") else None
    got = setup.run(core_event())
    assert (got.status, got.word) == (3, "ERROR") and "450 try later" in got.line and "/proc/sensu-lxc" in got.line


def test_one_recipient_of_two_is_refused(setup, sink):
    setup.scope["to"] = ["gone@example.com", "ops@example.com"]
    sink.replies["RCPT"] = lambda address: "550 no such user" if address.startswith("gone") else None
    got = setup.run(core_event())
    assert got.code == "sent" and "[gone@example.com was refused: 550 no such user]" in got.line
    assert [recipients for _, recipients, _ in sink.mails] == [["ops@example.com"]]
    assert setup.run(core_event()).code == "no-change"


def test_nobody_is_there(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    setup = Mailer(tmp_path, server="127.0.0.1", port=port)
    got = setup.run(core_event())
    assert (got.status, got.code) == (1, "unreachable") and "Connection refused while connecting" in got.line
    setup.scope.update(server="nosuchhost.invalid", timeout=5)
    got = setup.run(core_event())
    assert (got.status, got.code) == (1, "unreachable") and "nosuchhost.invalid:" in got.line


def drip(connection):
    for byte in b"250 a very long answer that never comes to its end" * 10:
        connection.sendall(bytes([byte]))
        time.sleep(0.2)


def hang(connection):
    connection.recv(1 << 20)
    time.sleep(30)


def hang_up(connection):
    connection.shutdown(socket.SHUT_RDWR)


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


@pytest.mark.parametrize("what", [drip, hang, hang_up])
@pytest.mark.parametrize("at", ["greeting", "EHLO", "MAIL", "content"])
def test_odd_servers_are_left_in_time(tmp_path, at, what):
    with Odd(at, what) as server:
        setup = Mailer(tmp_path, timeout=3).at(server)
        got = setup.run(core_event())
        assert (got.status, got.word) == (1, "ERROR") and got.seconds < 9  # a busy machine; the server would take 100
        assert got.code == ("unreachable" if at in ("greeting", "EHLO") else "unknown-outcome"), got.line
        assert ("it may come twice" in got.line) == (got.code == "unknown-outcome")
        assert len(server.contents) == (at == "content")
    with Sink() as sink:
        assert codes(setup.at(sink), core_event(), core_event()) == ["sent", "no-change"]


def test_a_mail_that_may_come_twice_has_the_same_id(tmp_path):
    with Odd("content", reset) as server:
        setup = Mailer(tmp_path, timeout=3).at(server)
        assert setup.run(core_event()).code == "unknown-outcome"
        assert setup.run(core_event(executed=int(time.time()) + 60)).code == "unknown-outcome"
        one, two = (parsed(content) for content in server.contents)
    assert one["Message-ID"] == two["Message-ID"]


def test_a_server_that_says_no_at_once(tmp_path):
    with Odd("greeting", lambda connection: connection.sendall(b"554 not you\r\n")) as server:
        got = Mailer(tmp_path).at(server).run(core_event())
    assert (got.status, got.code) == (1, "rejected") and "554 not you" in got.line
    with Odd("greeting", lambda connection: connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")) as server:
        got = Mailer(tmp_path, timeout=3).at(server).run(core_event())
    assert got.status == 1 and got.code in ("unreachable", "rejected"), got.line


# By sendmail


def test_sendmail_where_no_server_is_set(tmp_path):
    setup = Mailer(tmp_path, to=["ops@example.com", "root"])
    path = setup.sendmail()
    setup.environ["SENSU_LXC_MAIL_PASSWORD"] = PASSWORD
    event = core_event()
    event["check"]["output"] = "one\n.\nFrom two\n"
    got = setup.run(event)
    assert got.code == "sent" and f"mailed to ops@example.com, root by {path}" in got.line
    assert open(path + ".argv").read().split() == ["-i", "-f", "sensu@example.com", "ops@example.com", "root"]
    content = open(path + ".stdin", "rb").read()
    assert b"\r" not in content and "one\n.\nFrom two\n" in text(parsed(content))
    assert PASSWORD not in open(path + ".env").read()
    assert setup.run(event).code == "no-change"


@pytest.mark.parametrize("status, code", [(75, "deferred"), (71, "deferred"), (67, "rejected"), (1, "rejected")])
def test_a_sendmail_that_fails(tmp_path, status, code):
    setup = Mailer(tmp_path)
    setup.sendmail(status, "it is full")
    got = setup.run(core_event())
    assert (got.status, got.word, got.code) == (1, "ERROR", code) and f"ended with {status}: it is full" in got.line
    setup.sendmail()
    assert setup.run(core_event()).code == "sent"


def test_a_sendmail_that_is_not_there_or_never_ends(tmp_path):
    setup = Mailer(tmp_path, sendmail="/nonexistent/sendmail", timeout=2)
    got = setup.run(core_event())
    assert (got.status, got.code) == (1, "rejected") and "install a mail system" in got.line
    path = setup.sendmail()
    with open(path, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\necho $$ > $0.pid\nsleep 60\n")
    got = setup.run(core_event())
    assert (got.status, got.code) == (1, "unknown-outcome") and got.seconds < 2
    with pytest.raises(ProcessLookupError):
        os.kill(int(open(path + ".pid").read()), 0)


def test_sendmail_where_the_server_can_not_be_reached(tmp_path, authorities):
    setup = Mailer(tmp_path, fallback=True, timeout=3)
    path = setup.sendmail()
    with Odd("greeting", hang) as server:
        got = setup.at(server).run(core_event())
        assert got.code == "sent" and got.seconds < 3
        assert f"mailed to ops@example.com by {path}" in got.line and "[by sendmail, as 127.0.0.1:" in got.line
    with Sink(tls=authorities[0][1:], login=("sensu", PASSWORD)) as sink:
        setup.at(sink, tls="starttls", user="sensu", password_file=setup.secret("password", "wr0ng-password"))
        for ca, why in ((authorities[1].ca, "ca_file"), (authorities[0].ca, "does not let sensu in")):
            os.remove(path + ".stdin")
            setup.scope["ca_file"] = ca
            got = setup.run(core_event(incident=ca))
            assert got.code == "sent" and why in got.line and os.path.exists(path + ".stdin")
            assert "wr0ng" not in got.line
    os.remove(path + ".stdin")
    setup = Mailer(tmp_path, fallback=True, sendmail=path)
    with Sink() as sink:
        # What one refuses for good, the other would only send back.
        sink.replies["RCPT"] = ["550 no such user"]
        assert setup.at(sink).run(core_event(incident="k")).code == "rejected"
        assert setup.run(core_event(incident="k")).code == "sent"
        assert not os.path.exists(path + ".stdin")


# Many at once, and killed


def test_fifty_at_once_send_one_mail(setup, sink):
    setup.scope["timeout"] = 60  # two cores for fifty interpreters
    processes = [setup.start() for _ in range(50)]
    event = core_event()
    for process in processes:
        process.stdin.write(encode(event))
        process.stdin.close()
    got = [result(process.wait(), process.stdout.read()).code for process in processes]
    for process in processes:
        process.stdout.close()
    assert sorted(got) == ["no-change"] * 49 + ["sent"]
    assert len(sink.mails) == 1


def test_twenty_checks_at_once_are_twenty_mails(setup, sink):
    setup.scope["timeout"] = 60
    processes = [setup.start() for _ in range(20)]
    for number, process in enumerate(processes):
        process.stdin.write(encode(core_event(entity=f"web{number}")))
        process.stdin.close()
    got = [result(process.wait(), process.stdout.read()).code for process in processes]
    for process in processes:
        process.stdout.close()
    assert got == ["sent"] * 20
    assert {message["X-Sensu-Entity"] for message in sink.messages} == {f"web{number}" for number in range(20)}


def test_who_waits_for_another_that_fails_sends_it(tmp_path):
    taken, go_on = threading.Event(), threading.Event()

    def stall(connection):
        taken.set()
        go_on.wait(10)

    with Odd("content", stall) as server, Sink() as sink:
        setup = Mailer(tmp_path, timeout=20).at(server)
        one = setup.start()
        one.stdin.write(encode(core_event()))
        one.stdin.close()
        assert taken.wait(10)
        two = setup.at(sink).start()
        two.stdin.write(encode(core_event()))
        two.stdin.close()
        time.sleep(0.5)
        assert two.poll() is None and not sink.mails
        go_on.set()
        assert result(one.wait(), one.stdout.read()).code == "unknown-outcome"
        assert result(two.wait(), two.stdout.read()).code == "sent"
        one.stdout.close()
        two.stdout.close()


def test_killed_between_sending_and_remembering(tmp_path):
    """A second mail rather than none, and under the id of the first."""
    with Sink() as sink:
        process = Victim(tmp_path, "remember").at(sink).start()
        process.communicate(encode(core_event()), timeout=20)
        assert process.returncode == -signal.SIGKILL and len(sink.mails) == 1
        setup = Mailer(tmp_path).at(sink)
        assert codes(setup, core_event(), core_event()) == ["sent", "no-change"]
        one, two = sink.messages
    assert one["Message-ID"] == two["Message-ID"]


@pytest.mark.parametrize("where", ["recall", "can_remember"])
def test_killed_before_sending(tmp_path, where):
    with Sink() as sink:
        process = Victim(tmp_path, where).at(sink).start()
        process.communicate(encode(core_event()), timeout=20)
        assert process.returncode == -signal.SIGKILL and not sink.mails
        setup = Mailer(tmp_path).at(sink)
        assert codes(setup, core_event(), core_event()) == ["sent", "no-change"]


@pytest.mark.parametrize("delay", [0.02, 0.05, 0.08, 0.11, 0.14, 0.17, 0.2])
def test_killed_anywhere(setup, sink, delay):
    process = setup.start()
    process.stdin.write(encode(core_event()))
    process.stdin.close()
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert codes(setup, core_event(), core_event())[-1] == "no-change"
    assert 1 <= len(sink.mails) <= 2
    assert len({message["Message-ID"] for message in sink.messages}) == 1


class Victim(Mailer):
    """The handler that is killed as soon as it has come to a method of its memory (before it is run)."""

    def __init__(self, folder, method):
        super().__init__(folder)
        self._method = method

    def start(self, *arguments, **options):
        code = (
            "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
            "import handler_mail; from sensu_lxc_handlers import mailed\n"
            "def killed(*arguments): os.kill(os.getpid(), signal.SIGKILL)\n"
            f"mailed.Memory.{self._method} = killed; del sys.argv[1]\n"
            "handler_mail.main()\n"
        )
        command = [sys.executable, "-c", code, os.path.dirname(SCRIPT), "--config", self.config]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.environ)


# Where nothing can be remembered


def broken(setup):
    os.makedirs(os.path.dirname(setup.state), exist_ok=True)
    with open(setup.state, "w", encoding="utf-8") as file:
        file.write("no database" * 1000)


def test_without_a_memory_each_event_speaks_for_itself(setup, sink):
    broken(setup)
    at = int(time.time())
    story = [("0", "2"), ("0", "2", "2"), ("2", "1"), ("2", "1", "0"), ("1", "0", "0")]
    got = []
    for number, history in enumerate(story):
        event = core_event(status=int(history[-1]), executed=at + number)
        event["check"]["history"] = list(history)
        event["occurrences"] = 2 if history[-1] == history[-2] else 1
        got.append(setup.run(event))
    assert {(one.status, one.word, one.code) for one in got} == {(3, "ERROR", "ledger")}
    assert all("it is damaged; move it and its -journal away" in one.line for one in got)
    assert [message["Subject"].split(":")[0] for message in sink.messages] == [
        "CRITICAL", "WARNING, was CRITICAL", "OK, was WARNING"]  # fmt: skip
    assert open(setup.state).read().startswith("no database")


def test_without_a_memory_nobody_claims_that_it_was_mailed(setup, sink):
    """Neither of these was, as nobody is there to take it."""
    broken(setup)
    setup.scope["port"] = 1
    event = core_event()
    first, second = setup.run(event), setup.run({**event, "occurrences": 2})
    assert (first.status, first.code) == (1, "unreachable")
    assert (second.status, second.word) == (3, "ERROR") and "CRITICAL was mailed" not in second.line
    assert "nothing is mailed, as by its own account it was CRITICAL before already" in second.line


def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def test_a_full_disk_silences_nobody(setup, sink):
    event = core_event()
    got = setup.run(event, preexec_fn=limit_files)
    assert (got.status, got.code) == (3, "ledger") and len(sink.mails) == 1
    assert "'CRITICAL: web1/check_memory' mailed to" in got.line and "free space on its disk" in got.line
    again = setup.run({**event, "occurrences": 2}, preexec_fn=limit_files)
    assert (again.status, len(sink.mails)) == (3, 1), "a repetition"


def test_a_disk_that_fills_up_later(setup, sink):
    """What is there can be read, and not written: still not a mail for each repetition."""
    setup.run(core_event(entity="before"))

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    event = core_event()
    got = [setup.run({**event, "occurrences": number}, preexec_fn=limit) for number in (1, 2, 3)]
    assert [one.status for one in got] == [3, 3, 3] and len(sink.mails) == 2


@pytest.mark.parametrize(
    "change",
    ["wall = 'x'", "wall = 9e999", "uptime = -9e999", "mails = 'x'", "state = x'ff'", "first_id = 'a' || char(10)",
     "last_id = cast(x'ff' AS TEXT)", "executed = 1.5"],
)  # fmt: skip
def test_values_that_make_no_sense(setup, sink, change):
    setup.run(core_event(status=1))
    with sqlite3.connect(setup.state) as db:
        db.execute(f"UPDATE mailed SET {change}")
    db.close()
    got = setup.run(core_event())
    assert (got.status, got.code) == (3, "ledger") and len(sink.mails) == 2


def test_a_file_of_another_program(setup, sink):
    os.makedirs(os.path.dirname(setup.state))
    for statements in ("CREATE TABLE x (y); PRAGMA user_version = 1", "CREATE TABLE IF NOT EXISTS x (y);"
                       "PRAGMA user_version = 0"):  # fmt: skip
        db = sqlite3.connect(setup.state)
        db.executescript(statements)
        db.close()
        got = setup.run(core_event())
        assert got.status == 3 and "is of another program or version: name another `state_file`" in got.line
    db = sqlite3.connect(setup.state)
    assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("x",)]
    db.close()


def test_only_its_owner_reads_what_is_remembered(setup, sink):
    os.umask(0o022)
    setup.run(core_event())
    for path in glob.glob(setup.state + "*"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(setup.state)).st_mode) == 0o700
    os.truncate(setup.state, 0)  # lost: it begins anew, with a second mail
    assert codes(setup, core_event(), core_event()) == ["sent", "no-change"]


def test_what_is_long_over_is_forgotten(setup, sink):
    setup.run(core_event(entity="recovered"))
    setup.run(core_event(entity="recovered", status=0))
    setup.run(core_event(entity="lasts"))
    age(setup, 31 * 86400)
    setup.run(core_event(entity="new"))
    db = sqlite3.connect(setup.state)
    assert {row[0] for row in db.execute("SELECT entity FROM mailed")} == {"lasts", "new"}
    db.close()


# How it is called


@pytest.mark.parametrize(
    "change, says",
    [({"to": ""}, "lxc_mail.to is missing"), ({"to": 7}, "an address, or a list"),
     ({"to": ["nobody at all"]}, "is no address"), ({"to": "a@b..c"}, "is no address"),
     ({"to": "-t@x"}, "is no address"), ({"to": "a@exämple.com"}, "is no address"),
     ({"from": "a@b.c, d@e.f"}, "from must be one address"), ({"form": "a@b"}, "did you mean from?"),
     ({"subject": "{entitiy}"}, "lxc_mail.subject has {entitiy}, known are {change}"),
     ({"body": "{secret}"}, "known are {change} {check}"), ({"body": "\x1b"}, "must be a text"),
     ({"body": 7}, "must be a text"), ({"tls": "ssl"}, '"starttls", "tls"'),
     ({"server": "mail:25"}, "its port belongs into lxc_mail.port"),
     ({"server": "", "user": "x"}, "lxc_mail.server is missing"), ({"port": "25"}, "a number from 1 to 65535"),
     ({"server": "mail.example", "user": "x", "tls": "none"}, "would be sent in the clear"),
     ({"remind": "1s"}, "0 or a duration"), ({"severities": ["ok"]}, "severities must be some of"),
     ({"resolve": "no"}, "true or false"), ({"fallback": 1}, "true or false"),
     ({"sendmail": "sendmail"}, "absolute path"), ({"timeout": "1h"}, "timeout must be a duration"),
     ({"password": "x"}, "is not a setting"), ({"subject": "a\nb"}, "one line")],
)  # fmt: skip
def test_wrong_settings_are_named_with_the_event_that_was_not_handled(setup, sink, change, says):
    setup.scope.update(change)
    if change.get("server") == "":
        del setup.scope["port"]
    got = setup.run(core_event())
    assert (got.status, got.code) == (2, "misconfigured")
    assert "web1/check_memory CRITICAL not handled: " in got.line and says in got.line, got.line


@pytest.mark.parametrize("event", [b"", b"null", b"[" * 100_000])
def test_no_event(setup, sink, event):
    got = setup.run(event)
    assert (got.status, got.code) == (4, "bad-event")


def test_help_needs_no_event_and_its_example_works(setup, tmp_path):
    process = subprocess.run([sys.executable, SCRIPT, "--help"], stdin=subprocess.DEVNULL, capture_output=True,
                             env=setup.environ, text=True)  # fmt: skip
    assert process.returncode == 0 and process.stderr == ""
    for word in ("--dry-run", "password_file", "SENSU_LXC_MAIL_PASSWORD", "exit status", "{executed}"):
        assert word in process.stdout
    example = process.stdout.partition("remembers nothing):\n")[2].replace("/tmp/", f"{tmp_path}/")
    example = example.replace("handler_mail.py", f"{shlex.quote(sys.executable)} {shlex.quote(SCRIPT)}")
    shell = subprocess.Popen(["sh", "-c", example], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=setup.environ)
    assert finish(shell, b"").code == "dry-run"


def loaded(setup, event):
    """The modules that the handler has loaded when it leaves."""
    code = "import os, sys; leave = os._exit; "
    code += "os._exit = lambda status: (print(*sys.modules, file=sys.stderr, flush=True), leave(status))"
    code += f"; sys.argv[1:] = ['--config', {setup.config!r}]; sys.path.insert(0, {os.path.dirname(SCRIPT)!r})"
    process = subprocess.run([sys.executable, "-c", code + "; import handler_mail; handler_mail.main()"],
                             input=encode(event), capture_output=True, env=setup.environ)  # fmt: skip
    bare = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, check=True)
    return set(process.stderr.decode().split()) - set(bare.stdout.decode().split())


def test_what_it_loads(setup, sink):
    heavy = {"requests", "urllib3", "subprocess", "smtplib", "email", "ssl", "socket", "hashlib", "typing",
             "sensu_lxc_handlers.mail", "sensu_lxc_handlers.jenkins"}  # fmt: skip
    assert "smtplib" in loaded(setup, core_event())
    for event in (core_event(), core_event(silenced=True), core_event(entity="fine", status=0)):
        assert not loaded(setup, event) & heavy


def test_works_where_it_was_copied_to(setup, sink, tmp_path):
    subprocess.run(["cp", "-r", os.path.join(ROOT, "handlers", "."), tmp_path / "copied"], check=True)
    command = [sys.executable, tmp_path / "copied" / "handler_mail.py", "--config", setup.config]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=setup.environ, cwd="/")
    assert finish(process, core_event()).code == "sent" and len(sink.mails) == 1


def test_a_file_that_hangs(setup, sink):
    setup.scope.update(timeout=2, user="sensu", password_file=os.path.join(setup.folder, "fifo"))
    os.mkfifo(setup.scope["password_file"])
    got = setup.run(core_event())
    assert (got.status, got.word, got.code) == (1, "ERROR", "timeout") and "reading the password" in got.line
    assert got.seconds < 2
