"""Whether an event is a reason to ask its host for anything: every guard, alone and in their order."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc_handlers import remedy
from sensu_lxc_handlers.event import Event
from sensu_lxc_handlers.fleet import Moment
from sensu_lxc_handlers.outcome import BadEvent, Misconfigured
from sensu_lxc_handlers.policy import Hold
from sensu_lxc_handlers.remedy import Act, Try

from .support import ROOT, core_event, recorded

WALL = 1_795_000_000
START = {"check": "start_container", "when": {"check": "check_container_state", "occurrences": [1, 3]}}
RESTART = {
    "check": "restart",
    "when": {"check": "check_*", "severities": ["warning", "critical"], "occurrences": [3, 6]},
}
API = {"url": "http://127.0.0.1:4567/"}


def settings(actions=None, **scope):
    actions = {"start_container": START, "restart": RESTART} if actions is None else actions
    given = {"lxc_remediate": {"api": API, "actions": actions, **scope}}
    return remedy.remediation_settings(given, "lxc_remediate", "settings.json")


def action(**changed):
    return settings().actions[0]._replace(**changed)


def event(check="check_container_state", status=2, occurrences=1, executed=WALL, **more):
    return Event.from_sensu(core_event("host1", check, status, executed, occurrences=occurrences, **more))


def at(seconds):
    return Moment(WALL + seconds, "boot", 5000.0 + seconds)


def tried(state, seconds=0, name="start_container", detail="d"):
    return Try(1, name, state, at(seconds), detail)


def decide(known, seconds, actions=None, seen=False, **changed):
    actions = settings().actions[:1] if actions is None else actions
    return remedy.decide(event(**changed), actions, known, seen, at(seconds), 60)


# The event alone


@pytest.mark.parametrize(
    "changed, code",
    [
        ({}, None),
        ({"status": 1}, None),
        ({"status": 0}, "ok"),
        ({"action": "resolve"}, "ok"),
        ({"status": 3}, "unknown"),
        ({"status": 127}, "unknown"),
        ({"status": None}, "unknown"),
        ({"silenced": True}, "silenced"),
        ({"silenced_by": ["client:host1"]}, "silenced"),
        ({"action": "flapping"}, "flapping"),
        ({"executed": WALL - 601}, "stale"),
        ({"executed": WALL + 601}, "stale"),
        ({"check": "keepalive"}, "keepalive"),
        ({"check": "deregistration"}, "deregistration"),
        ({"client": {"name": "web1", "type": "proxy"}}, "no-runner"),
    ],
)
def test_events(changed, code):
    hold = remedy.unfit(event(**changed), WALL, 600)
    assert (hold and hold.code) == code


def test_who_runs_nothing():
    """Core says origin also where a client's results were handed in by itself, so a proxy may be its own runner."""
    document = core_event("web1", executed=WALL)
    document["client"]["type"], document["check"]["origin"] = "proxy", "web1"
    assert remedy.unfit(Event.from_sensu(document), WALL, 600).code == "no-runner"
    document["check"]["origin"] = "host1"
    assert remedy.unfit(Event.from_sensu(document), WALL, 600) is None
    document = json.loads(recorded("sensu-go")["proxy-critical"])
    assert remedy.unfit(Event.from_sensu(document), document["check"]["executed"], 600) is None
    document["check"]["processed_by"] = document["entity"]["metadata"]["name"]
    assert remedy.unfit(Event.from_sensu(document), document["check"]["executed"], 600).code == "no-runner"
    del document["check"]["processed_by"]
    assert remedy.unfit(Event.from_sensu(document), document["check"]["executed"], 600).code == "no-runner"


@pytest.mark.parametrize(
    "kind, fit",
    [
        (
            "sensu-core",
            "check_container_state__create__s2__o2 check_memory_no_agent__create__s2__o1"
            " check_memory_no_agent__create__s2__o5 flappy__create__s1__o1 memory_check__create__s2__o1"
            " memory_check__create__s2__o4 proxied__create__s2__o1",
        ),
        (
            "sensu-go",
            "check-critical-first check-critical-to-warning metrics-perfdata pipeline-critical-with-hook"
            " posted-proxy-with-labels proxy-critical",
        ),
    ],
)
def test_what_was_recorded(kind, fit):
    """Of all of it only what a host found bad: no keepalive, ttl, timeout, missing script; nothing silenced or handed
    in through Core's API."""
    found = {}
    for name, text in recorded(kind).items():
        told = Event.from_sensu(json.loads(text))
        hold = remedy.unfit(told, told.executed or 0, 600)
        found[name.partition("__")[2] if kind == "sensu-core" else name] = hold and hold.code
    assert sorted(name for name, code in found.items() if code is None) == fit.split()
    codes = {"ok", "flapping", "silenced", "keepalive", "timed-out", "ttl", "unknown"}
    of_core = {"no-runner", "registration", "deregistration"}
    assert set(found.values()) - {None} == codes | (of_core if kind == "sensu-core" else set())


@pytest.mark.parametrize(
    "check, status, occurrences, names",
    [
        ("check_container_state", 2, 1, ["start_container"]),
        ("check_container_state", 2, 3, ["start_container", "restart"]),
        ("check_container_state", 2, 9, ["start_container", "restart"]),  # which are given up is said by decide()
        ("check_memory", 1, 3, ["restart"]),
        ("check_memory", 1, 2, "occurrences"),
        ("check_memory", 1, None, "occurrences"),
        ("check_container_state", 1, 1, "occurrences"),
        ("Check_memory", 2, 3, "no-action"),
        ("start_container", 2, 1, "own"),
        ("restart", 2, 3, "own"),
    ],
)
def test_which_actions(check, status, occurrences, names):
    wanted = settings().actions
    got = remedy.chosen(event(check, status, occurrences), wanted, wanted)
    assert (got.code if isinstance(got, Hold) else [one.name for one in got]) == names


def test_the_output_decides_too():
    thaw = {"check": "thaw", "when": {"check": "*", "output": "(?i)is frozen$"}}
    wanted = settings({"thaw": thaw}).actions
    document = core_event("host1", executed=WALL)
    for output, fits in (("web1 is FROZEN", True), ("web1 is STOPPED", False), ("x" * 5000 + " is frozen", False)):
        document["check"]["output"] = output
        assert (remedy.chosen(Event.from_sensu(document), wanted, wanted) == list(wanted)) == fits


def test_the_entity_may_have_to_fit():
    wanted = settings({"start": {"check": "start", "when": {"check": "*", "entity": "web*"}}}).actions
    assert remedy.chosen(event(), wanted, wanted).code == "no-action"
    assert remedy.chosen(Event.from_sensu(core_event("web1", executed=WALL)), wanted, wanted) == list(wanted)


@pytest.mark.parametrize(
    "check, output, said",
    [
        ("check_container_state", "CheckContainerState CRITICAL: web1: STOPPED, expected RUNNING", ["start"]),
        ("check_container_state", "web1: FROZEN (frozen from outside LXC), expected RUNNING", ["thaw"]),
        ("check_container_state", "web1: RUNNING, expected STOPPED", "start wants STOPPED"),
        (
            "check_container_state",
            "web1: FROZEN, expected STOPPED; web2: RUNNING, expected FROZEN",
            "thaw wants FROZEN",
        ),
        ("check_memory", "web1 91%", ["grow_memory"]),
        ("check_memory_no_agent", "web1 91%", ["grow_memory"]),
        # Of the container itself, which can't give itself more.
        ("check_memory_inside", "web1 91%", "grow_memory is for the check check_memory or check_memory_no_agent"),
    ],
)
def test_the_actions_that_are_shipped(check, output, said):
    """By what the checks themselves say; and where none is for it, the condition that it failed."""
    with open(os.path.join(ROOT, "checks", "handlers", "remediate.json"), encoding="utf-8") as file:
        actions = remedy.remediation_settings(json.load(file), "lxc_remediate", "there").actions
    document = core_event("host1", check, executed=WALL, occurrences=5)
    document["check"]["output"] = output
    got = remedy.chosen(Event.from_sensu(document), actions, actions)
    assert said in got.text if isinstance(got, Hold) else [one.name for one in got] == said, got


def test_a_hold_says_which_condition_failed():
    when = {"check": "check_*", "entity": ["web*", "db*"], "severities": ["critical"]}
    wanted = settings({"start": {"check": "start", "when": when}}).actions
    for entity, status, said in (("host1", 2, "is for the entity web* or db*"), ("db1", 1, "is for critical")):
        told = Event.from_sensu(core_event(entity, status=status, executed=WALL))
        assert remedy.chosen(told, wanted, wanted).text == f"no action is for it: start {said}"


def test_names_are_reduced_to_words():
    one = action(check="start_{entity}.{check}")
    assert one.asked_check(event()) == "start_host1.check_container_state"
    hostile = Event.from_sensu(core_event("we b1;$(reboot)/../x", "ü\n", executed=WALL))
    assert one.asked_check(hostile) == "start_we_b1___reboot__.._x.__"
    wanted = [action(check="{entity}_start")]
    assert remedy.chosen(event("web1_start"), wanted, wanted).code == "own"


# What was asked before


@pytest.mark.parametrize(
    "state, seconds, code",
    [
        (remedy.INTENT, 59, "in-flight"),
        (remedy.INTENT, 61, "cooldown"),
        (remedy.ASKED, 599, "cooldown"),
        (remedy.UNKNOWN, 599, "cooldown"),
        (remedy.FAILED, 599, "cooldown"),
        (remedy.WELL, 599, "cooldown"),
        (remedy.REJECTED, 59, "rejected"),
        (remedy.REJECTED, 60, None),
        (remedy.UNSENT, 0, None),
        (remedy.FAILED, 600, None),
        (remedy.INTENT, 600, None),
    ],
)
def test_a_try_before(state, seconds, code):
    got = decide([tried(state)], seconds)
    assert (got.code if isinstance(got, Hold) else None) == code
    if code is None:
        assert got == Act(settings().actions[0], 0 if state in (remedy.REJECTED, remedy.UNSENT) else 1)


def test_the_budget():
    known = [tried(remedy.FAILED, seconds) for seconds in (0, 700, 1400)]
    got = decide(known, 2100)
    assert got.code == "given-up" and "asked for 3 times in 1h" in got.text and "somebody has to look" in got.text
    assert decide(known, 3599).code == "given-up"
    assert decide(known, 3600) == Act(settings().actions[0], 2)
    assert decide([*known, tried(remedy.UNSENT, 1500)], 2100).code == "given-up"
    assert isinstance(decide(known[:2] + [tried(remedy.REJECTED, 1400)], 2100), Act)


def test_after_the_last_occurrence_it_is_given_up():
    got = decide([tried(remedy.FAILED, 0)], 60, occurrences=4)
    assert (
        got.code == "given-up"
        and "4th time" in got.text
        and "up to the 3rd; start_container was asked for once" in got.text
    )


def test_the_next_action_has_its_turn():
    actions = settings().actions
    known = [tried(remedy.FAILED, 0)]
    assert decide(known, 60, actions, occurrences=3).code == "cooldown"
    assert decide(known, 60, actions, occurrences=4).action.name == "restart"
    known.append(tried(remedy.FAILED, 60, "restart"))
    assert decide(known, 120, actions, occurrences=5).code == "cooldown"
    assert decide(known, 120, actions, occurrences=7).code == "given-up"
    budget = [action(budget=1), actions[1]]
    assert decide(known[:1], 700, budget, occurrences=3).action.name == "restart"


def test_the_same_event_again():
    assert decide([], 0, seen=True).code == "duplicate"


def test_clocks_that_are_set():
    """Within one boot the kernel's uptime counts: an hour forwards or back neither frees nor freezes."""
    for jump in (-3600, 3600):
        now = at(300)._replace(wall=WALL + 300 + jump)
        assert remedy.decide(event(), settings().actions, [tried(remedy.ASKED)], False, now, 60).code == "cooldown"
        now = at(700)._replace(wall=WALL + 700 + jump)
        assert isinstance(remedy.decide(event(), settings().actions, [tried(remedy.ASKED)], False, now, 60), Act)


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 9)), max_size=60),
    st.integers(0, 900),
    st.integers(1, 4),
    st.integers(1, 5000),
)
def test_never_more_than_the_budget_nor_within_the_cooldown(steps, cooldown, budget, window):
    """Whatever comes when: of the times when an action was asked for, no two are too near, and no window holds more."""
    one, known, asked, seconds = action(cooldown=cooldown, budget=budget, budget_seconds=window), [], [], 0
    for pause, occurrences in steps:
        seconds += pause
        got = decide(known, seconds, [one], occurrences=occurrences)
        if isinstance(got, Act):
            assert one.least <= occurrences <= one.most
            known.append(tried(remedy.FAILED, seconds))
            asked.append(seconds)
    assert all(later - earlier >= cooldown for earlier, later in zip(asked, asked[1:]))
    assert all(sum(since <= when < since + window for when in asked) <= budget for since in asked)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 40) | st.text(max_size=5) | st.sampled_from(["proxy", "c", "2"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    "kind, name", [("sensu-core", "monitor_lxc__proxied__create__s2__o1"), ("sensu-go", "proxy-critical")]
)
@given(data=st.data())
def test_hostile_events(kind, name, data):
    """Whatever a client puts into its event: a decision or BadEvent, and never anybody but a runner that is told."""
    document = json.loads(recorded(kind)[name])
    for _ in range(data.draw(st.integers(1, 3))):
        where = document
        while True:
            key = data.draw(st.sampled_from(sorted(where)))
            if not isinstance(where[key], dict) or not where[key] or data.draw(st.booleans()):
                break
            where = where[key]
        where[key] = data.draw(_json)
    try:
        told = Event.from_sensu(document)
    except BadEvent:
        return
    actions = settings().actions
    hold = remedy.unfit(told, told.executed or 0, 600)
    if hold is None:
        assert told.runner and told.status in (1, 2)
        assert isinstance(remedy.chosen(told, actions, actions), (Hold, list))
    assert f"{told}{hold}".encode()


# Wishes


def wish(**wanted):
    return remedy.with_wishes(settings().actions, [("check", wanted)])


def test_wishes():
    assert remedy.with_wishes(settings().actions, []) == settings().actions
    assert [one.name for one in wish(actions=["restart"])] == ["restart"]
    assert [one.name for one in wish(actions="restart, start_container")] == ["start_container", "restart"]
    assert wish(actions="off") == wish(actions=[]) == ()
    assert {one.severities for one in wish(severities="warning")} == {(1,)}
    assert {(one.least, one.most) for one in wish(occurrences="2-4")} == {(2, 4)}
    assert {(one.least, one.most) for one in wish(occurrences=[5, 0])} == {(5, 0)}
    assert {one.cooldown for one in wish(cooldown="1m")} == {60}
    assert remedy.chosen(event(), settings().actions, ()).code == "off"


def test_the_check_wins_over_the_entity():
    wishes = [("check", {"cooldown": "1m"}), ("entity", {"cooldown": "2m", "severities": ["warning"]})]
    (one, _) = remedy.with_wishes(settings().actions, wishes)
    assert (one.cooldown, one.severities) == (60, (1,))
    wishes = [("check", {"actions": ["restart"]}), ("entity", {"actions": "off"})]
    assert remedy.with_wishes(settings().actions, wishes) == ()


@pytest.mark.parametrize(
    "wanted, says",
    [
        ({"api": {"url": "http://evil"}}, "its check wants api of remediation, which it can't: only actions, sev"),
        ({"api_key_file": "/etc/shadow"}, "which it can't"),
        ({"budget": "99/1s"}, "which it can't"),
        ({"actions": "reboot"}, "its check's actions has reboot, which is not among"),
        ({"actions": 7}, "list of words"),
        ({"severities": "unknown"}, '"warning" and "critical"'),
        ({"severities": []}, '"warning" and "critical"'),
        ({"occurrences": "often"}, "first and the last"),
        ({"cooldown": "soon"}, "duration"),
    ],
)
def test_wishes_that_nobody_grants(wanted, says):
    with pytest.raises(Misconfigured, match=says):
        wish(**wanted)


# Settings


def test_settings_as_small_as_they_may_be():
    wanted = settings({"start": {"check": "start_container", "when": {"check": "check_container_state"}}})
    (one,) = wanted.actions
    assert (one.severities, one.least, one.most, one.cooldown) == ((2,), 1, 0, 600)
    assert (one.budget, one.budget_seconds) == (3, 3600)
    assert (wanted.max_age, wanted.timeout, wanted.ledger) == (600, 10, remedy.DEFAULT_LEDGER)


WHEN = {"check": "c"}


@pytest.mark.parametrize(
    "actions, says",
    [
        ({}, "actions is missing"),
        ([1], "must be an object of names and actions"),
        ({"a b": {"check": "c", "when": WHEN}}, "an action's name is a word"),
        ({"off": {"check": "c", "when": WHEN}}, "an action's name is a word"),
        ({"a": {"when": WHEN}}, "a.check is missing"),
        ({"a": {"check": "c"}}, "a.when is missing"),
        ({"a": {"check": "c", "when": {"severities": ["critical"]}}}, "a.when.check is missing"),
        ({"a": {"check": "c d", "when": WHEN}}, "must be the name of a check"),
        ({"a": {"check": "{check}", "when": WHEN}}, "must be the name of a check"),
        ({"a": {"check": "c_{group}", "when": WHEN}}, "must be the name of a check"),
        ({"a": {"check": "c", "when": WHEN, "cooldwn": "1m"}}, "a.cooldwn is not a setting; did you mean cooldown"),
        ({"a": {"check": "c", "when": {**WHEN, "occurrences": 3}}}, "first and the last"),
        ({"a": {"check": "c", "when": {**WHEN, "occurrences": [3, 1]}}}, "first and the last"),
        ({"a": {"check": "c", "when": {**WHEN, "occurrences": [True, 2]}}}, "first and the last"),
        ({"a": {"check": "c", "when": {**WHEN, "severities": ["ok"]}}}, '"warning" and "critical"'),
        ({"a": {"check": "c", "when": {**WHEN, "output": "("}}}, "no regular expression"),
        ({"a": {"check": "c", "when": WHEN, "cooldown": "soon"}}, "cooldown must be a duration"),
        ({"a": {"check": "c", "when": WHEN, "budget": "3"}}, 'such as "3/1h"'),
        ({"a": {"check": "c", "when": WHEN, "budget": "0/1h"}}, 'such as "3/1h"'),
        ({"a": {"check": "c", "when": WHEN, "budget": None}}, 'such as "3/1h"'),
    ],
)
def test_actions_that_are_none(actions, says):
    with pytest.raises(Misconfigured, match=says):
        settings(actions)


def test_scopes_that_are_none():
    with pytest.raises(Misconfigured, match='no "lxc_remediate" in settings.json'):
        remedy.remediation_settings({}, "lxc_remediate", "settings.json")
    with pytest.raises(Misconfigured, match="lxc_remediate.ledger must be an absolute path"):
        settings(ledger="remediate.sqlite")
    with pytest.raises(Misconfigured, match="lxc_remediate.api.url is missing"):
        settings(api={"kind": "core"})
