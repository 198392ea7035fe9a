"""The decision, as the pure function it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
