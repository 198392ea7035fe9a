"""Settings: what is found where, and that nothing wrong is taken in silence."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc_handlers import settings
from sensu_lxc_handlers.event import Event
from sensu_lxc_handlers.outcome import Misconfigured

from .support import core_event

SMALLEST = {"url": "https://jenkins.example/", "job": "LXC Provision", "token": "t0ken"}


def parsed(**scope):
    return settings.jenkins_settings({"lxc_autoscale": {**SMALLEST, **scope}}, "lxc_autoscale", "a test")


def test_as_little_as_the_original_had_is_enough():
    wanted = parsed()
    assert (wanted.job, wanted.cooldown, wanted.timeout, wanted.max_age) == ("LXC Provision", 600, 10, 7200)
    assert (wanted.group, wanted.ledger) == ("lxc_autoscale", settings.DEFAULT_LEDGER)
    known = settings.credentials(wanted, {})
    assert (known.job_token, known.login, known.needs_crumb) == ("t0ken", None, True)


@pytest.mark.parametrize(
    "scope, says",
    [
        ({"cooldwon": "10m"}, "lxc_autoscale.cooldwon is not a setting; did you mean cooldown?"),
        ({"\x1b[31m": 1}, "is not a setting; did you mean one of url, job"),
        ({"url": ""}, "url is missing"),
        ({"job": None}, "job is missing"),
        ({"job": "a/../b"}, "job must be"),
        ({"job": "a//b"}, "job must be"),
        ({"job": 7}, "job must be a text"),
        ({"user": "a\nb"}, "user must be a text of one line"),
        ({"cooldown": "soon"}, 'cooldown must be a duration such as "90s"'),
        ({"cooldown": -1}, "cooldown"),
        ({"cooldown": 10**400}, "cooldown"),
        ({"cooldown": "31d"}, '"2h", from 0s to 30d'),
        ({"timeout": 601}, '"2h", from 2s to 10m'),
        ({"cooldown": True}, "cooldown"),
        ({"timeout": 1}, "timeout must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"ledger": "ledger.sqlite"}, "ledger must be an absolute path"),
        ({"parameters": ["A"]}, "parameters must be an object"),
        ({"parameters": {"A": ["b"]}}, "parameters.A must be a text"),
        ({"parameters": {"A": "\ud800"}}, "parameters.A must be a text"),
        ({"parameters": {"REQUEST_ID": "x"}}, "may not hold 'REQUEST_ID'"),
        ({"parameters": {"delay": "10"}}, "may not hold 'delay'"),
        ({"parameters": {"A": "{entitty}"}}, "has {entitty}, known are {check}"),
        ({"group": "{request_id}"}, "group has {request_id}"),
        ({"ledger": "mysql://h/"}, 'ledger must be an absolute path, or "redis://HOST:6379/0"'),
        ({"ledger": "redis://"}, "ledger must name a Redis"),
        ({"ledger": "redis://h:99999/"}, "ledger is no URL"),
        ({"ledger": "redis://u:s3cret@h/"}, "ledger must not hold the password"),
        ({"ledger": "rediss://h/?password=s3cret"}, "ledger must not hold the password"),
        ({"ledger_password_file": "redis"}, "ledger_password_file must be an absolute path"),
        ({"verify_command": "x {nam}"}, "verify_command has {nam}, known are {name} {host}"),
        ({"verify_command": "x '"}, "verify_command can't be split into words"),
        ({"verify_command": "x"}, "verify_command must be a program and its arguments, with {name}"),
        ({"verify_command": "{host} {name}"}, "verify_command must be a program"),
        ({"placement": {"by": "random"}}, "placement.by must be free_memory, containers or spread"),
        ({"placement": {"by": "spread", "need": "much"}}, "placement.need must be a size"),
        ({"placement": {"by": "spread", "needs": 1}}, "placement.needs is not a setting; did you mean need?"),
        ({"placement": {"parameter": "REQUEST_ID"}}, "placement.parameter must be the name of a parameter"),
        ({"placement": {"parameter": "A B"}}, "placement.parameter must be the name of a parameter"),
        ({"placement": {"max_age": "1s"}}, "placement.max_age must be a duration"),
        ({"placement": []}, 'placement" in a test must be an object'),
        ({"placement": {"by": "spread"}}, "placement needs lxc_autoscale.api"),
        ({"placement": {}, "api": {}, "parameters": {"LXC_HOST": "x"}}, "parameters may not hold LXC_HOST"),
        ({"groups": {"w": {"match": {"check": "x"}, "ledger": "/x"}}}, "may hold match, "),
        ({"groups": {"w": {"match": {"check": "x"}, "placement": {"by": "x"}}}}, "placement.by must be"),
    ],
)
def test_what_is_wrong_is_named(scope, says):
    with pytest.raises(Misconfigured) as error:
        parsed(**scope)
    assert says in str(error.value) and str(error.value).isprintable()


def test_placement_and_ledger():
    wanted = parsed(api={"url": "http://h:4567/"}, placement={"need": "1.5G"}, ledger="rediss://h:6380/2?prefix=x")
    assert wanted.placement == settings.Placement("free_memory", "check_host_capacity", "LXC_HOST", 1610612736, 600)
    assert wanted.ledger == "rediss://h:6380/2?prefix=x"
    assert parsed(ledger="unix:///run/redis.sock?db=1").ledger == "unix:///run/redis.sock?db=1"
    assert parsed(verify_command="a 'b c' {name}").verify_command == ("a", "b c", "{name}")


@pytest.mark.parametrize("text, size", [
    (0, 0), (7, 7), ("7", 7), ("256M", 256 << 20), ("256MiB", 256 << 20), ("256MB", 256_000_000), ("1.5G", 3 << 29),
    ("1k", 1024), ("1kB", 1000), ("5B", 5), ("-1", None), (-1, None), ("5iB", None), ("1 G", None), (True, None),
    (1.5, None), (None, None), ("", None), ("1e9", None),
])  # fmt: skip
def test_size(text, size):
    assert settings.parse_size(text) == size


def test_the_ledgers_password(tmp_path):
    path = tmp_path / "redis"
    path.write_text("s3cret\n")
    path.chmod(0o600)
    wanted = parsed(ledger="redis://h/", ledger_password_file=str(path))
    assert settings.ledger_password(wanted, {}, []) == "s3cret"
    assert settings.ledger_password(wanted, {settings.LEDGER_PASSWORD_VARIABLE: "other"}, []) == "other"
    assert settings.ledger_password(parsed(), {}, []) == ""


@pytest.mark.parametrize("tree, says", [({}, "write {"), ({"lxc_autoscale": []}, "must be an object")])
def test_no_scope(tree, says):
    with pytest.raises(Misconfigured, match=says):
        settings.jenkins_settings(tree, "lxc_autoscale", "a test")


def test_parameters_are_texts():
    given_ = {"TEMPLATE": "busybox", "MEMORY": 512, "START": True, "JSON": '{"a": 1}', "WHO": "{check}@{entity}"}
    assert parsed(parameters=given_).parameters == {
        "TEMPLATE": "busybox", "MEMORY": "512", "START": "true", "JSON": '{"a": 1}', "WHO": "{check}@{entity}"
    }  # fmt: skip
    assert settings.fill("{check}@{entity}", {"check": "{entity}", "entity": "b"}) == "{entity}@b"


@pytest.mark.parametrize("text, seconds", [("10m", 600), ("90", 90), (90, 90), ("1.5h", 5400), (" 2 d ", 172800),
                                           ("10 min", None), ("", None), (None, None), ("٣m", None)])  # fmt: skip
def test_duration(text, seconds):
    assert settings.parse_duration(text) == seconds


@given(st.text() | st.floats() | st.integers() | st.none() | st.lists(st.integers()))
def test_any_duration(value):
    try:
        assert parsed(cooldown=value).cooldown >= 0
    except Misconfigured as error:
        assert "cooldown" in str(error)


# Secrets


def write(path, text, mode=0o600):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.chmod(path, mode)
    return str(path)


def test_variables_win_over_files_and_files_over_settings(tmp_path):
    job, api = write(tmp_path / "job", " fromfile\n"), write(tmp_path / "api", "apifile\n", 0o640)
    wanted = parsed(user="sensu", token_file=job, api_token_file=api)
    known = settings.credentials(wanted, {})
    assert known == settings.Credentials("fromfile", ("sensu", "apifile"), False, [])
    environ = {settings.TOKEN_VARIABLE: "envjob", settings.API_TOKEN_VARIABLE: "envapi"}
    assert settings.credentials(wanted, environ)[:2] == ("envjob", ("sensu", "envapi"))


def test_a_password_needs_a_crumb(tmp_path):
    known = settings.credentials(parsed(user="sensu", password_file=write(tmp_path / "p", "pässword")), {})
    assert known.login == ("sensu", "pässword") and known.needs_crumb


def test_a_secret_that_everybody_can_read_is_said(tmp_path):
    known = settings.credentials(parsed(token_file=write(tmp_path / "t", "s3cret", 0o644)), {})
    assert known.job_token == "s3cret"
    assert known.notes == [f"everybody on this host can read the secret in {tmp_path}/t: chmod o= it"]


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"s3cret\nsecond line", b"s3cret\x00"])
def test_a_file_that_holds_no_secret(tmp_path, content):
    with pytest.raises(Misconfigured) as error:
        settings.credentials(parsed(token_file=write(tmp_path / "t", content)), {})
    assert f"token_file {tmp_path}/t" in str(error.value) and "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "scope, says",
    [
        ({"token_file": "/nonexistent/token"}, "^token_file /nonexistent/token: No such file .* user [0-9]+ must"),
        ({"api_token_file": "/nonexistent/t"}, "^api_token_file /nonexistent/t: No such file"),
        ({"password_file": "/nonexistent/t"}, "^password_file /nonexistent/t: No such file"),
        ({"user": "sensu"}, "api_token_file"),
        ({"user": "a:b", "password_file": "/etc/hostname"}, "colon"),
        ({"password_file": "/etc/hostname"}, "user must be"),
    ],
)
def test_incomplete_credentials(scope, says):
    with pytest.raises(Misconfigured, match=says):
        settings.credentials(parsed(**scope), {})


# Files


def test_files_are_merged_and_bad_ones_said(tmp_path):
    one = write(tmp_path / "one.json", json.dumps({"lxc_autoscale": SMALLEST, "a": [{"x": 1}], "b": 1}))
    two = write(tmp_path / "two.json", json.dumps({"lxc_autoscale": {"cooldown": "5m"}, "a": [{"x": 2}, {"x": 1}]}))
    bad = [
        write(tmp_path / "bad.json", '{"token": "s3cret" "x"}'),
        write(tmp_path / "bytes.json", b'{"token": "s3cret\xff"}'),
        write(tmp_path / "list.json", "[]"),
        write(tmp_path / "deep.json", "[" * 100000),
        str(tmp_path / "missing.json"),
    ]
    merged, notes = settings.merge_files([one, *bad, two])
    assert merged == {"lxc_autoscale": {**SMALLEST, "cooldown": "5m"}, "a": [{"x": 1}, {"x": 2}], "b": 1}
    assert len(notes) == 5 and all(note.startswith(f"skipped {path}: ") for note, path in zip(notes, bad))
    assert "s3cret" not in "".join(notes)


def test_conf_d_is_read_with_its_subfolders_after_config_json(tmp_path):
    folder = tmp_path / "conf.d"
    (folder / "sub" / "deeper").mkdir(parents=True)
    for name in ("b.json", "sub/a.json", "sub/deeper/c.json", "sub/ignored.txt"):
        (folder / name).write_text("{}")
    config = str(tmp_path / "z-config.json")
    found = settings.with_subfolders([str(folder / "b.json"), config], str(folder))
    expected = [config, *(str(folder / name) for name in ("b.json", "sub/a.json", "sub/deeper/c.json"))]
    assert found == expected


def test_the_definition_in_checks_is_complete():
    path = os.path.join(os.path.dirname(__file__), "..", "..", "checks", "handlers", "jenkins.json")
    tree = settings.read_file(path)
    wanted = settings.jenkins_settings(tree, "lxc_autoscale", path)
    assert tree["handlers"]["jenkins"]["timeout"] > wanted.timeout


# What an event may wish


def wished(scope, **wishes):
    event = core_event()
    event["client"]["lxc_autoscale"] = wishes
    tree = {"lxc_autoscale": {"url": "http://j", "job": "j", **scope}}
    return settings.for_event(tree, "lxc_autoscale", "here", Event.from_sensu(event), "handler_jenkins")


@pytest.mark.parametrize(
    "key, bound, wish, granted",
    [
        ("enabled", False, True, False),
        ("enabled", False, "true", False),
        ("enabled", True, False, False),
        ("max", 3, 9, 3),
        ("max", 3, 0, 3),
        ("max", 3, 2, 2),
        ("max", 0, 50, 50),
        ("breaker", 1, 0, 1),
        ("breaker", 2, 5, 2),
        ("breaker", 2, 1, 1),
        ("breaker", 0, 4, 4),
        ("cooldown", "1h", 0, 3600),
        ("cooldown", "1h", "2h", 7200),
        ("budget", "1/1h", 0, (1, 3600)),
        ("budget", "1/1h", "0/1d", (1, 3600)),
        ("budget", "3/1h", "4/2h", (3, 7200)),
        ("budget", "3/1h", "2/10m", (2, 3600)),
        ("budget", "3/1h", "2/1d", (2, 86400)),
        ("budget", 0, "2/1d", (2, 86400)),
        ("budget", 0, 0, (0, 3600)),
    ],
)
def test_a_wish_can_only_make_it_more_careful(key, bound, wish, granted):
    got, notes = wished({key: bound}, **{key: wish})
    assert getattr(got, key) == granted
    as_wished = getattr(settings.jenkins_settings({"s": {"url": "u", "job": "j", key: wish}}, "s", ""), key)
    assert notes == ([] if as_wished == granted else [f"cut to what lxc_autoscale in here allows: {key}"])


def test_what_the_settings_leave_out_is_a_bound_as_well():
    got, (note,) = wished({}, cooldown=0, budget=0, breaker=0, max=0, step=20)
    assert (got.cooldown, got.budget, got.breaker, got.max, got.step) == (600, (6, 3600), 3, 10, 20)
    assert note.endswith("allows: cooldown, budget, breaker, max")


def test_the_bounds_are_those_of_the_group_that_it_is_in():
    groups = {"web": {"match": {"entity": "web*"}, "enabled": False}, "db": {"match": {"entity": "db*"}, "breaker": 1}}
    assert wished({"groups": groups}, enabled=True)[0].enabled is False
    got, _ = wished({"groups": groups}, enabled=True, group="db", breaker=2)
    assert (got.group, got.enabled, got.breaker) == ("db", True, 1)


def test_min_above_max_names_the_group_and_the_wish():
    groups = {"web": {"match": {"entity": "web*"}, "min": 5}}
    tree = {"lxc_autoscale": {"url": "http://j/", "job": "j", "max": 9, "groups": groups}}
    event = core_event("web1")
    event["check"]["lxc_autoscale"] = {"max": 3}
    with pytest.raises(Misconfigured) as told:
        settings.for_event(tree, "lxc_autoscale", "here", Event.from_sensu(event), "handler_jenkins")
    words = "min is 5 and lxc_autoscale.max 3 in here for the group web with what the event wishes (max)"
    assert words in str(told.value) and "min must not be above max" in str(told.value)
    groups["web"]["max"] = 4
    with pytest.raises(Misconfigured, match="max 4 in here for the group web: min must not be above max"):
        settings.jenkins_settings(tree, "lxc_autoscale", "here")


def test_a_wish_has_nothing_to_do_with_the_other_groups():
    groups = {"web": {"match": {"entity": "web*"}, "min": 5}, "db": {"match": {"entity": "db*"}}}
    tree = {"lxc_autoscale": {"url": "http://j/", "job": "j", "max": 9, "groups": groups}}
    event = core_event("db1")
    event["check"]["lxc_autoscale"] = {"max": 3}
    granted, _ = settings.for_event(tree, "lxc_autoscale", "here", Event.from_sensu(event), "handler_jenkins")
    assert (granted.group, granted.max) == ("db", 3)
