"""Every recorded event of both Sensus with the decision that it must lead to, and what no Sensu would send."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensu_lxc_handlers import event as events
from sensu_lxc_handlers import policy
from sensu_lxc_handlers.event import Event, parse
from sensu_lxc_handlers.outcome import BadEvent

from .support import core_event, encode, recorded

RULES = policy.Rules(cooldown=600, lease=60, max_age=7200)

# The name of a recording tells its scenario; the code of the Hold, or ACT.
DECISIONS = {
    "sensu-core": {
        "lxchost1__deregistration__create__s1__o1": "deregistration",
        "lxchost1__keepalive__resolve__s0__o1": "keepalive",
        "lxchost1__missing__create__s127__o1": "unknown",
        "lxchost1__registration__create__s1__o2": "registration",
        "monitor_lxc__proxied__create__s2__o1": "ACT",
        "ubuntu__check_memory_no_agent__create__s2__o1": "ACT",
        "ubuntu__check_memory_no_agent__create__s2__o5": "ACT",
        "ubuntu__check_memory_no_agent__resolve__s0__o15": "ok",
        "ubuntu__flappy__create__s1__o1": "warning",
        "ubuntu__flappy__flapping__s0__o1": "ok",
        "ubuntu__flappy__flapping__s2__o1": "flapping",
        "ubuntu__keepalive__create__s2__o1": "keepalive",
        "ubuntu__memory_check__create__s2__o1": "ACT",
        "ubuntu__memory_check__create__s2__o4": "ACT",
        "ubuntu__memory_check__create__silenced": "silenced",
        "ubuntu__metrics__create__s0__o1": "ok",
        "ubuntu__slow__create__s2__o1": "timed-out",
        "web1__check_container_state__create__s2__o2": "ACT",
        "web1__check_container_state__ttl_expired__s1__o1": "ttl",
        "web1__ttlcheck__create__s2__o1": "ACT",  # a result posted with a ttl that has not expired
        "web2__check_container_state__resolve__s0__o2": "ok",
    },
    "sensu-go": {
        "check-critical-first": "ACT",
        "check-critical-silenced": "silenced",
        "check-critical-third": "silenced",  # recorded while it was silenced
        "check-critical-to-warning": "warning",
        "check-first-ok": "ok",
        "check-flapping": "flapping",
        "command-not-found": "unknown",
        "command-timed-out": "timed-out",
        "keepalive-critical": "keepalive",
        "keepalive-ok": "keepalive",
        "keepalive-warning": "keepalive",
        "metrics-graphite": "ok",
        "metrics-influx": "ok",
        "metrics-perfdata": "warning",
        "metrics-prom": "ok",
        "pipeline-critical-with-hook": "ACT",
        "pipeline-resolve": "ok",
        "posted-proxy-metrics": "ok",
        "posted-proxy-with-labels": "warning",
        "proxy-critical": "ACT",
        "proxy-resolve": "ok",
        "ttl-expired": "ttl",
    },
}  # fmt: skip
CASES = [(kind, name, code) for kind, names in DECISIONS.items() for name, code in names.items()]


def decision(event, wall=None):
    hold = policy.judge(event, event.executed if wall is None else wall, RULES)
    return hold.code if hold else "ACT"


@pytest.mark.parametrize("kind, name, code", CASES, ids=[f"{kind}-{name}" for kind, name, _ in CASES])
def test_recorded(kind, name, code):
    assert decision(parse(recorded(kind)[name])) == code


def test_no_recording_is_forgotten():
    assert {kind: set(names) for kind, names in DECISIONS.items()} == {kind: set(recorded(kind)) for kind in DECISIONS}


def test_core_names_the_incident_go_does_not():
    core = parse(recorded("sensu-core")["ubuntu__check_memory_no_agent__create__s2__o5"])
    assert core.incident == "57fe2553-ba33-4090-bb33-b67964c9720b"
    assert (core.entity, core.check, core.namespace) == ("ubuntu", "check_memory_no_agent", "")
    go = parse(recorded("sensu-go")["proxy-critical"])
    assert (go.entity, go.check, go.namespace, go.incident) == ("web1", "check_proxy", "default", "")
    assert str(go) == "web1/check_proxy CRITICAL"


def changed(document, **check):
    return Event.from_sensu({**document, "check": {**document["check"], **check}})


@pytest.mark.parametrize(
    "check, code",
    [
        ({"output": "Last check execution was 61 seconds ago", "ttl": 60}, "ttl"),  # with ttl_status 2
        ({"output": "Execution timed out - Unable to TERM/KILL the process: #12, not permitted"}, "timed-out"),
        ({"name": "registration"}, "registration"),
        ({"name": "deregistration"}, "deregistration"),
        ({"status": 3}, "unknown"),
        ({"status": "2"}, "unknown"),
        ({"status": 2.0}, "unknown"),
        ({"status": True}, "unknown"),
        ({"status": None}, "unknown"),
        ({"executed": None, "issued": None}, "stale"),
        ({"executed": 0, "issued": 0}, "stale"),
        ({"executed": 1e300, "issued": None}, "stale"),
        ({"output": None}, "ACT"),
        ({"is_silenced": True}, "silenced"),
        ({"silenced": ["entity:x:*"]}, "silenced"),
        ({"state": "flapping"}, "flapping"),
        ({"state": "passing"}, "ok"),
    ],
)
def test_what_is_no_reason(check, code):
    assert decision(changed(core_event(executed=1000), **check), 1000) == code


@pytest.mark.parametrize("more, code", [({"silenced": True}, "silenced"), ({"silenced_by": ["x"]}, "silenced"),
                                        ({"action": "flapping"}, "flapping"), ({"action": "resolve"}, "ok"),
                                        ({"occurrences": None}, "ACT")])  # fmt: skip
def test_what_core_says_beside_the_check(more, code):
    assert decision(Event.from_sensu(core_event(**more))) == code


def test_metrics_without_a_check():
    event = {"entity": {"metadata": {"name": "web1"}}, "check": None, "metrics": {"points": None}}
    assert decision(Event.from_sensu(event), 0) == "metrics"


@pytest.mark.parametrize("age, code", [(7199, "ACT"), (7201, "stale"), (-7199, "ACT"), (-7201, "stale")])
def test_stale(age, code):
    event = Event.from_sensu(core_event(executed=100000))
    assert decision(event, 100000 + age) == code


@pytest.mark.parametrize(
    "text, says",
    [
        (b"", "STDIN was empty"),
        (b" \n", "STDIN was empty"),
        (b"CRITICAL: no \x1b[31mJSON\n", "it began with 'CRITICAL: no ?[31mJSON '"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"client": null, "check": null}', "neither a client"),
        (b'{"client": {"name": "web1"}, "check": null}', "no check and no metrics"),
        (b'{"client": {"name": "web1"}, "check": {"status": 2}}', "does not name its check"),
        (b'{"client": {"name": ["web1"]}, "check": {"name": "c"}}', "neither a client"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "not a JSON number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "5000 digits"),
        (b"[" * 200000, "nested too deep"),
        (b'{"a":' * 200000, "nested too deep"),
    ],
)
def test_not_an_event(text, says):
    with pytest.raises(BadEvent) as error:
        parse(text)
    assert says in str(error.value)


def test_byte_order_mark_and_bad_utf8_are_no_reason_to_lose_an_event():
    text = b"\xef\xbb\xbf" + encode(core_event()).replace(b"CRITICAL", b"\xff\xfe")
    assert parse(text).status == 2


def test_hostile_names_are_one_harmless_line():
    event = Event.from_sensu(core_event(entity="a\ud800\n\x1b]0;x\x07\u202eb", check="x" * 5000))
    event.entity.encode()
    assert str(event).isprintable() and len(str(event)) < 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([2, "2", 2.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["name", "status", "state", "executed", "issued", "output", "silenced", "is_silenced", "history", "metadata"]


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["id", "client", "entity", "action", "silenced", "metrics", "check"]), JSON),
    st.dictionaries(st.sampled_from(KEYS), JSON),
    st.dictionaries(st.sampled_from(["name", "metadata"]), JSON),
)
def test_random_events_act_only_on_status_2(event, check, names):
    for document in (event, {**event, "check": check, "client": {"name": "a", **names}}):
        try:
            known = Event.from_sensu(document)
        except BadEvent as error:
            assert str(error).isprintable()
            continue
        assert str(known).isprintable()
        if decision(known, 1000) == "ACT":
            assert document["check"]["status"] == 2 and type(document["check"]["status"]) is int
            assert known.kind == events.CHECK and isinstance(known.executed, int)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.integers(0, 900).map(lambda n: encode(core_event())[:n]))
def test_random_bytes(text):
    try:
        parse(text)
    except BadEvent as error:
        assert str(error).isprintable()


def test_json_dumps_of_a_recording_is_the_same_event():
    for text in recorded("sensu-go").values():
        assert parse(json.dumps(json.loads(text)).encode()) == parse(text)


class TestWhoRanIt:
    """Actions go to whoever ran the check, never to the proxy that the result is told of."""

    @pytest.mark.parametrize(
        "kind, name, runner, is_proxy",
        [
            ("sensu-core", "ubuntu__memory_check__create__s2__o1", "ubuntu", False),
            ("sensu-core", "monitor_lxc__proxied__create__s2__o1", "ubuntu", True),
            ("sensu-core", "web1__check_container_state__create__s2__o2", "lxchost1", True),
            ("sensu-core", "web1__check_container_state__ttl_expired__s1__o1", "", True),  # it says web1 itself
            ("sensu-go", "proxy-critical", "lxchost1", True),
            ("sensu-go", "check-critical-first", "lxchost1", False),
            ("sensu-go", "posted-proxy-with-labels", "lxchost1", True),
            ("sensu-go", "ttl-expired", "", True),
        ],
    )
    def test_recorded(self, kind, name, runner, is_proxy):
        event = parse(recorded(kind)[name])
        assert (event.runner, event.is_proxy) == (runner, is_proxy)


class TestHistory:
    def test_both_shapes_oldest_first(self):
        assert parse(recorded("sensu-go")["proxy-critical"]).history == (0, 0, 0, 0, 2, 2)
        core = parse(recorded("sensu-core")["ubuntu__memory_check__create__s2__o4"])
        assert (core.history[-4:], core.occurrences) == ((2, 2, 2, 2), 4)

    @pytest.mark.parametrize(
        "history, statuses",
        [
            (None, ()),
            ("2", ()),
            ([2, "2", {"status": 2}], (2, 2, 2)),
            ([2, None, "1"], (1,)),
            ([True, 0], (0,)),
            (["-1", "99999", "x", "²"], ()),
        ],
    )
    def test_what_is_no_status_counts_for_nothing(self, history, statuses):
        event = core_event()
        event["check"]["history"] = history
        assert parse(encode(event)).history == statuses


class TestWishes:
    def test_core_has_an_object_under_the_scope(self):
        event = core_event()
        event["check"]["lxc_autoscale"] = {"cooldown": "1h"}
        event["client"]["lxc_autoscale"] = {"cooldown": "2h", "group": "db"}
        wishes = parse(encode(event)).wishes("lxc_autoscale", "handler_jenkins")
        assert wishes == [("check", {"cooldown": "1h"}), ("entity", {"cooldown": "2h", "group": "db"})]

    def test_go_has_annotations(self):
        event = json.loads(recorded("sensu-go")["check-critical-first"])
        event["check"]["metadata"]["annotations"] = {"sensu.io/plugins/handler_jenkins/config/max-age": "1h", "x": "y"}
        event["entity"]["metadata"]["annotations"] = None
        assert parse(encode(event)).wishes("lxc_autoscale", "handler_jenkins") == [("check", {"max_age": "1h"})]

    @pytest.mark.parametrize("value", [None, [], "x", 7])
    def test_what_is_no_object_wishes_nothing(self, value):
        event = core_event()
        event["check"]["lxc_autoscale"] = value
        event["check"]["metadata"] = {"annotations": value}
        assert parse(encode(event)).wishes("lxc_autoscale", "handler_jenkins") == []
