"""The decision, as the pure function it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc_handlers import policy
from sensu_lxc_handlers.event import Event
from sensu_lxc_handlers.fleet import (
    COALESCED,
    INTENT,
    OUT,
    REJECTED,
    SENT,
    UNKNOWN,
    UNSENT,
    Fleet,
    Moment,
    Request,
    elapsed,
)
from sensu_lxc_handlers.policy import Act, Hold, Rules, decide, duration

from .support import core_event

RULES = Rules(cooldown=600, lease=60, max_age=7200)
THEN = Moment(wall=1_800_000_000.0, boot_id="boot-1", uptime=5000.0)


def later(seconds, jump=0.0):
    """seconds after THEN, with the wall clock set by jump meanwhile."""
    return Moment(THEN.wall + seconds + jump, THEN.boot_id, THEN.uptime + seconds)


def request(state, generation=7, at=THEN, way=OUT, **more):
    """A request as it is after its first attempt."""
    return Request(f"lxc-abc-{generation}", generation, 1, way, state, at, at, at.wall, "job", "web1", "check", 1, "",
                   (), "", None, None, "why")._replace(**more)  # fmt: skip


def fleet(*requests, **more):
    return Fleet("abc", max((one.generation for one in requests), default=0), requests, **more)


def after(state, seconds, jump=0.0, seen=False):
    return decide(fleet(request(state)), seen, later(seconds, jump), RULES)


def test_first_event_of_a_group():
    assert decide(fleet(), False, THEN, RULES) == Act(1, None, False)


@pytest.mark.parametrize("state", [SENT, COALESCED])
def test_cooldown(state):
    hold = after(state, 599)
    assert hold.code == "cooldown" and "9m59s ago, 1s of 10m left" in hold.text
    assert after(state, 600) == Act(8, None, False)


@pytest.mark.parametrize("jump", [-3600, 3600, -86400 * 365, 86400 * 365])
def test_setting_the_clock_neither_frees_nor_freezes(jump):
    assert after(SENT, 10, jump).code == "cooldown"
    assert after(SENT, 600, jump) == Act(8, None, False)
    assert after(INTENT, 10, jump).code == "in-flight"
    assert after(UNKNOWN, 61, jump).look_first


@pytest.mark.parametrize(
    "wall, uptime, seconds",
    [
        (300, 40, 300),  # rebooted, the clock is right
        (-3600, 40, 40),  # rebooted, and the clock is an hour behind: 40 s have surely passed
        (-3600, 700, 700),
        (-2, 8_000_000, 2),  # the ledger was carried to a host that runs for months, with a clock 2 s behind
    ],
)
def test_elapsed_across_boots(wall, uptime, seconds):
    assert elapsed(THEN, Moment(THEN.wall + wall, "boot-2", uptime)) == seconds


def test_elapsed_without_boot_ids_never_frees():
    assert elapsed(Moment(1000.0, "", 5.0), Moment(400.0, "", 99999.0)) == 0


def test_refused_is_asked_again_after_a_pause_under_its_own_id():
    hold = after(REJECTED, 59)
    assert hold.code == "rejected" and hold.text.endswith("59s ago: why")
    act = after(REJECTED, 60)
    assert (act.generation, act.previous.request_id, act.look_first) == (7, "lxc-abc-7", False)


def test_what_never_got_there_is_asked_again_at_once_under_its_own_id():
    act = after(UNSENT, 0)
    assert (act.generation, act.previous.request_id, act.look_first) == (7, "lxc-abc-7", False)


@pytest.mark.parametrize("state, code", [(INTENT, "in-flight"), (UNKNOWN, "unknown-outcome")])
def test_what_may_have_got_there_is_looked_for_first(state, code):
    assert after(state, 59).code == code
    act = after(state, 60)
    assert (act.generation, act.previous.request_id, act.look_first) == (7, "lxc-abc-7", True)


def test_without_a_cooldown_a_refusal_does_not_hold_either():
    assert isinstance(decide(fleet(request(REJECTED)), False, THEN, RULES._replace(cooldown=0)), Act)


@given(st.sampled_from([INTENT, SENT, COALESCED, REJECTED, UNSENT, UNKNOWN]), st.floats(0, 1e7), st.booleans(),
       st.floats(-1e9, 1e9))  # fmt: skip
def test_always_decides(state, seconds, seen, jump):
    decision = after(state, seconds, jump, seen)
    assert isinstance(decision, (Act, Hold))
    if seen:
        assert decision.code == "duplicate"
    if isinstance(decision, Act):
        # A new request only when the one before is known to be done; else the same one again, so that the job knows it.
        assert (decision.previous is None) == (state in (SENT, COALESCED))
        assert decision.look_first == (state in (INTENT, UNKNOWN))


@pytest.mark.parametrize("seconds, text", [(0, "0s"), (59.9, "59s"), (60, "1m"), (590, "9m50s"), (3600, "1h"),
                                           (11100, "3h05m"), (1e6, "11d")])  # fmt: skip
def test_duration(seconds, text):
    assert duration(seconds) == text


# How many there may be


def made(*states, way=OUT):
    """Requests of a while ago, one for each state."""
    return [request(state, number + 1, way=way) for number, state in enumerate(states)]


MANY = RULES._replace(most=3, budget=0, warm_up=300)


@pytest.mark.parametrize(
    "states, there, coming",
    [
        ((SENT,), 0, 1), ((INTENT,), 0, 1), ((UNKNOWN,), 0, 1), (("BUILT", "VERIFIED"), 1, 1), (("UNVERIFIED",), 1, 0),
        ((UNSENT, REJECTED, "FAILED", "GONE"), 0, 0),
    ],
)  # fmt: skip
def test_count(states, there, coming):
    assert policy.count(fleet(*made(*states)), later(299), MANY) == (there, coming)


def test_what_nobody_follows_is_taken_to_be_there_after_its_warm_up():
    assert policy.count(fleet(*made(SENT)), later(300), MANY) == (1, 0)
    assert policy.count(fleet(*made("BUILDING")), later(3599), MANY) == (0, 1)
    assert policy.count(fleet(*made("BUILDING")), later(3600), MANY) == (1, 0)


def test_max_and_step():
    there = fleet(*made("VERIFIED", "VERIFIED"))
    assert decide(there, False, later(700), MANY._replace(step=5)).containers == 1
    full = decide(fleet(*made("VERIFIED", "UNVERIFIED", "VERIFIED")), False, later(700), MANY._replace(breaker=0))
    assert full.code == "max" and "nobody looks which of them are still there" in full.text
    looked = decide(fleet(*made(*["VERIFIED"] * 3), looked=THEN), False, later(700), MANY)
    assert looked.code == "max" and "nobody" not in looked.text


def test_what_never_got_there_is_not_asked_for_again_above_a_max_that_was_lowered():
    there = fleet(*made("VERIFIED", "VERIFIED", UNSENT))
    assert decide(there, False, later(700), MANY).previous is not None
    assert decide(there, False, later(700), MANY._replace(most=2)).code == "max"


def test_in_flight_even_after_the_cooldown():
    rules = MANY._replace(cooldown=10)
    assert decide(fleet(*made(SENT)), False, later(299), rules).code == "in-flight"
    assert decide(fleet(*made("BUILDING")), False, later(700), rules).code == "in-flight"
    assert decide(fleet(*made(SENT)), False, later(300), rules) == Act(2, None, False)


def test_budget():
    rules = MANY._replace(most=0, budget=2, budget_seconds=3600)
    assert decide(fleet(*made("VERIFIED", "FAILED")), False, later(3599), rules).code == "budget"
    assert isinstance(decide(fleet(*made("VERIFIED", "FAILED")), False, later(3600), rules), Act)


@pytest.mark.parametrize(
    "states, is_open",
    [
        (("FAILED", "FAILED"), False), (("FAILED", "FAILED", "UNVERIFIED"), True),
        (("FAILED", "VERIFIED", "FAILED", "FAILED"), False), (("FAILED", "FAILED", "FAILED", "BUILT"), True),
        (("FAILED", "GONE", "FAILED", "FAILED"), False),
    ],
)  # fmt: skip
def test_circuit(states, is_open):
    rules = MANY._replace(breaker=3, most=0)
    assert bool(policy.circuit(fleet(*made(*states)), OUT, later(700), rules)) == is_open
    assert policy.circuit(fleet(*made(*states)), OUT, later(3700), rules) == "", "one trial an hour"
    assert policy.circuit(fleet(*made(*states)), OUT, later(700), rules._replace(breaker=0)) == ""


def test_paused():
    assert decide(fleet(paused="Sunday"), False, THEN, RULES) == Hold("paused", "Sunday")


@pytest.mark.parametrize("history, code", [
    ((2,), "breaches"), ((2, 0, 2), "breaches"), ((2, 1, 2, 1, 2), None), ((2, 2, 1, 0, 2), None), ((), "breaches"),
    ((2, 2, 2, 2, 2, 2, 0, 0, 0, 2, 2), "breaches"),
])  # fmt: skip
def test_k_of_n_across_severities(history, code):
    event = Event.from_sensu(core_event(executed=1000))._replace(history=history)
    hold = policy.judge(event, 1000, RULES._replace(breaches=3, of=5))
    assert getattr(hold, "code", None) == code


# At least so many


def test_top_up():
    rules = MANY._replace(least=2, step=1)
    assert policy.top_up(fleet(), THEN, rules) == Act(1, None, False)
    assert policy.top_up(fleet(*made("VERIFIED", "VERIFIED")), later(700), rules).code == "enough"
    assert policy.top_up(fleet(*made("VERIFIED", SENT)), later(10), rules).code == "enough"
    assert isinstance(policy.top_up(fleet(*made("VERIFIED", "GONE")), later(700), rules), Act)
    assert isinstance(policy.top_up(fleet(*made("VERIFIED", "UNVERIFIED")), later(700), rules), Act)
    assert policy.top_up(fleet(paused="Sunday"), THEN, rules).code == "paused"
    assert policy.top_up(fleet(*made("GONE", UNSENT)), later(700), rules).previous.generation == 2


def test_top_up_relies_on_what_runs_but_silence_makes_none():
    rules = MANY._replace(least=1, most=5)
    down = request("MISSED", 1, names=("a",), words=("down",))
    silent = request("VERIFIED", 1, names=("a",), words=("untold",))
    assert policy.top_up(fleet(down), later(700), rules).containers == 1
    assert policy.top_up(fleet(silent), later(700), rules).code == "enough"
    partly = request("MISSED", 1, containers=2, names=("a", "b"), words=("down", "running"))
    assert policy.top_up(fleet(partly), later(700), rules).code == "enough"


def test_a_failed_build_counts_by_what_is_heard_of_it():
    failed = request("FAILED", 1, containers=3, build=7)
    assert policy.count(fleet(failed), later(299), MANY) == (3, 0)
    assert policy.count(fleet(failed), later(300), MANY) == (0, 0)
    heard = failed._replace(names=("a", "b", "c"), words=("running", "down", "untold"))
    assert policy.count(fleet(heard), later(300), MANY) == (2, 0)
    assert policy.count(fleet(failed._replace(build=None)), later(1), MANY) == (0, 0), "cancelled in the queue"


def test_what_another_scope_asked_for_is_not_asked_for_again():
    theirs = fleet(request(UNSENT, scope="lxc_db"))
    act = decide(theirs, False, later(700), RULES)
    assert policy.ours(act, theirs, "lxc_db") == act and policy.ours(act, theirs, "lxc_autoscale").code == "other-scope"
    unknown = fleet(request(UNSENT))
    act = decide(unknown, False, later(700), RULES)
    assert policy.ours(act, unknown, "lxc_autoscale") == act, "a ledger of before"
    _, asked = policy.intended(unknown, act, None, "job", later(700), "lxc_autoscale")
    assert asked.scope == "lxc_autoscale"


# Less

CALM = MANY._replace(least=1, quiet=1800, cooldown_in=600)
WELL = {"a": True, "b": True}


def calm(*states, **more):
    """A fleet that has been quiet for long, and was looked at a minute before it is now."""
    given = {"quiet": THEN, "looked": later(3540), "members": ("a", "b"), **more}
    return fleet(*made(*states), **given)


def test_the_youngest_is_given_back():
    after, act = policy.give_back(calm("VERIFIED", "VERIFIED"), WELL, later(3600), CALM)
    assert act == Act(3, None, False, 1, "", "in", "lxc-abc-2")
    assert (after.quiet, after.looked) == (THEN, later(3600))


@pytest.mark.parametrize(
    "there, members, code",
    [
        (calm("VERIFIED", "VERIFIED"), {"a": True}, "missing"),
        (calm("VERIFIED", "VERIFIED"), {}, "missing"),
        (calm("VERIFIED", "VERIFIED", members=()), {}, "nobody"),
        (calm("VERIFIED", "VERIFIED"), {"a": True, "b": False}, "unwell"),
        (calm("VERIFIED", "VERIFIED", quiet=None), WELL, "quiet"),
        (calm("VERIFIED", "VERIFIED", quiet=later(1801)), WELL, "quiet"),
        (calm("VERIFIED", "VERIFIED", looked=later(1000)), WELL, "quiet"),
        (calm("VERIFIED"), WELL, "min"),
        (calm("VERIFIED", "UNVERIFIED", "BUILT", "GONE"), WELL, "min"),
        (calm("VERIFIED", "VERIFIED", UNSENT), WELL, "in-flight"),
        (calm("VERIFIED", "VERIFIED", paused="Sunday"), WELL, "paused"),
    ],
)
def test_what_keeps_them(there, members, code):
    after, hold = policy.give_back(there, members, later(3600), CALM)
    assert isinstance(hold, Hold) and hold.code == code
    assert (after.quiet is None) == (code in ("missing", "unwell", "nobody"))


@pytest.mark.parametrize("words", [("down",), ("untold",)])
def test_what_does_not_run_is_no_reason_to_take_away_what_does(words):
    older = request("VERIFIED", 1, names=("a",), words=words)
    there = fleet(older, request("VERIFIED", 2), quiet=THEN, looked=later(3540), members=("a", "b"))
    held = policy.give_back(there, WELL, later(3600), CALM)[1]
    assert held == Hold("min", "1 of its containers are seen running, min is 1")
    # Nor is it what is taken away.
    act = policy.give_back(there, WELL, later(3600), CALM._replace(least=0))[1]
    assert act.target == "lxc-abc-2"


def test_what_a_failed_build_made_is_given_back():
    half = request("FAILED", 2, containers=3, build=7, names=("a", "b", "c"), words=("running", "running", "untold"))
    there = fleet(request("VERIFIED", 1), half, quiet=THEN, looked=later(3540), members=("a", "b"))
    act = policy.give_back(there, WELL, later(3600), CALM)[1]
    assert (act.target, act.containers) == ("lxc-abc-2", 3)
    assert policy.give_back(there, WELL, later(3600), CALM._replace(least=2))[1].target == "lxc-abc-1"


def test_one_that_failed_is_not_tried_again_at_once():
    failed = request("FAILED", 3, at=later(3550), asked=THEN, way="in", target="lxc-abc-2", detail="build 9 failed")
    there = fleet(*made("VERIFIED", "VERIFIED"), failed, quiet=THEN, looked=later(3540), members=("a", "b"))
    rules = CALM._replace(cooldown_in=0)
    held = policy.give_back(there, WELL, later(3600), rules)[1]
    assert held == Hold("cooldown", "lxc-abc-3 failed 50s ago: build 9 failed")
    there = there._replace(looked=later(3600))
    assert isinstance(policy.give_back(there, WELL, later(3620), rules)[1], Act)


def test_one_at_a_time():
    taking = request(SENT, 3, at=later(3500), way="in", target="lxc-abc-2")
    there = fleet(*made("VERIFIED", "VERIFIED"), taking, quiet=THEN, looked=later(3540), members=("a", "b"))
    assert policy.give_back(there, WELL, later(3600), CALM)[1].code == "in-flight"
    taken = there.replaced(taking._replace(state="GONE"))
    assert policy.give_back(taken, WELL, later(3600), CALM)[1].code == "cooldown"


def test_not_soon_after_one_was_made():
    lately = request("VERIFIED", 2, at=later(3000))
    there = fleet(request("VERIFIED", 1), lately, quiet=THEN, looked=later(3540), members=("a", "b"))
    assert policy.give_back(there, WELL, later(3600), CALM)[1].code == "cooldown"
    looked = there._replace(looked=later(4790))
    assert policy.give_back(looked, WELL, later(4799), CALM)[1].code == "cooldown"
    assert isinstance(policy.give_back(looked, WELL, later(4800), CALM)[1], Act)


def test_one_that_did_not_get_there_is_asked_for_again_while_all_is_well_only():
    unsent = request(UNSENT, 3, at=later(100), way="in", target="lxc-abc-2")
    there = fleet(*made("VERIFIED", "VERIFIED"), unsent, quiet=THEN, looked=later(3540), members=("a", "b"))
    assert policy.give_back(there, WELL, later(3600), CALM)[1].previous == unsent
    assert policy.give_back(there, {"a": True}, later(3600), CALM)[1].code == "missing"


@pytest.mark.parametrize("state, job", [(REJECTED, "mended"), (UNSENT, "mended"), (UNKNOWN, "job"), (INTENT, "job")])
def test_a_job_that_was_misspelt_is_asked_for_by_its_name_of_now(state, job):
    """But where Jenkins may have it, it is looked for where it was asked for."""
    before = fleet(request(state))
    act = decide(before, False, later(70), RULES)
    known, asked = policy.intended(before, act, None, "mended", later(70))
    assert (asked.job, asked.attempt, known.requests) == (job, 2, (asked,))
