"""What becomes of a request after each thing that may be seen of it."""

import pytest
from sensu_lxc_handlers import fleet as fleets
from sensu_lxc_handlers import following, policy
from sensu_lxc_handlers.following import Sighting

from .test_policy import RULES, fleet, later, request

LATER = later(600)


def followed(state, seen, now=LATER, **more):
    after = following.follow(fleet(request(state, **more)), "lxc-abc-7", seen, now, RULES)
    return after.requests[0]


@pytest.mark.parametrize("state", [fleets.INTENT, fleets.UNKNOWN, fleets.SENT, fleets.COALESCED, fleets.BUILDING,
                                   fleets.UNSENT])  # fmt: skip
@pytest.mark.parametrize(
    "seen, becomes, detail",
    [
        (Sighting(following.QUEUED, 12), None, "queue item 12"),
        (Sighting(following.RUNNING, 12, 3), fleets.BUILDING, "build 3"),
        (Sighting(following.SUCCEEDED, 12, 3), fleets.BUILT, "build 3"),
        (Sighting(following.UNSUCCESSFUL, 12, 3, "ended as ABORTED"), fleets.FAILED, "build 3 ended as ABORTED"),
        (Sighting(following.CANCELLED, 12), fleets.FAILED, "queue item 12 was cancelled"),
    ],
)
def test_what_jenkins_has_is_adopted_whatever_was_thought_of_it(state, seen, becomes, detail):
    one = followed(state, seen)
    becomes = becomes or (fleets.COALESCED if state == fleets.COALESCED else fleets.SENT)
    assert (one.state, one.queue_item, one.build, one.detail) == (becomes, 12, seen.build, detail)


@pytest.mark.parametrize("state, detail", [
    (fleets.INTENT, "never got it"), (fleets.UNKNOWN, "never got it"), (fleets.SENT, "lost it when it was SENT"),
    (fleets.BUILDING, "lost it when it was BUILDING"),
])  # fmt: skip
def test_what_it_surely_has_not_is_free_to_be_asked_for_again(state, detail):
    one = followed(state, Sighting(following.ABSENT))
    assert one.state == fleets.UNSENT and detail in one.detail
    again = policy.decide(fleet(one), False, LATER, RULES)
    assert (again.previous.request_id, again.look_first) == ("lxc-abc-7", False)
    # An item that has just left the queue may be in no build yet.
    assert followed(state, Sighting(following.ABSENT), later(59)).state == state


@pytest.mark.parametrize("state", fleets.STATES)
def test_what_can_not_be_read_changes_nothing(state):
    assert followed(state, Sighting(following.UNREADABLE)) == request(state)


@pytest.mark.parametrize("state", [fleets.REJECTED, fleets.FAILED, fleets.VERIFIED, fleets.GONE, fleets.BUILT])
@pytest.mark.parametrize("kind", [following.ABSENT, following.UNSUCCESSFUL, following.QUEUED])
def test_what_is_over_stays_so(state, kind):
    assert followed(state, Sighting(kind, 1, 1)) == request(state)


def test_an_attempt_at_work_is_its_handlers_to_settle():
    assert followed(fleets.INTENT, Sighting(following.QUEUED, 12), later(1)).state == fleets.INTENT
    assert followed(fleets.INTENT, Sighting(following.SUCCEEDED, 12, 3), later(1)).state == fleets.BUILT


def test_one_taken_away_takes_its_target_along():
    made, taken = request(fleets.VERIFIED, 7), request(fleets.BUILDING, 8, way=fleets.IN, target="lxc-abc-7")
    after = following.follow(fleet(made, taken), "lxc-abc-8", Sighting(following.SUCCEEDED, 1, 2), LATER, RULES)
    assert [one.state for one in after.requests] == [fleets.GONE, fleets.GONE]
    after = following.follow(fleet(made, taken), "lxc-abc-8", Sighting(following.UNSUCCESSFUL, 1, 2), LATER, RULES)
    assert [one.state for one in after.requests] == [fleets.VERIFIED, fleets.FAILED]


def verified(state, now=LATER, **containers):
    return following.verify(fleet(request(state)), "lxc-abc-7", containers, now, RULES).requests[0]


@pytest.mark.parametrize("state", [fleets.BUILT, fleets.UNVERIFIED, fleets.VERIFIED])
def test_all_are_running(state):
    one = verified(state, a="running", b="running")
    assert (one.state, one.names) == (fleets.VERIFIED, ("a", "b"))


def test_it_has_its_warm_up_to_come_up():
    assert verified(fleets.BUILT, later(299), a="running", b="untold").state == fleets.BUILT
    one = verified(fleets.BUILT, later(300), a="running", b="untold")
    assert (one.state, one.detail) == (fleets.UNVERIFIED, "b not seen running within 5m")


@pytest.mark.parametrize("state", [fleets.BUILT, fleets.UNVERIFIED, fleets.VERIFIED])
def test_only_what_is_said_to_be_gone_is_gone(state):
    assert verified(state, a="gone", b="gone").state == fleets.GONE
    for told in ({"a": "gone", "b": "untold"}, {"a": "untold"}, {"a": "down"}, {}):
        kept = fleets.UNVERIFIED if state == fleets.BUILT else state
        assert verified(state, **told).state == kept


def test_what_a_failed_build_may_have_made_is_looked_for():
    failed = request(fleets.FAILED, build=3, containers=2, detail="build 3 ended as ABORTED")
    assert following.is_sought(failed, later(86399)) and not following.is_sought(failed, later(86400))
    assert not following.is_sought(failed._replace(build=None), later(1)), "it was cancelled in the queue"
    after = following.verify(fleet(failed), "lxc-abc-7", {"a": "running", "b": "untold"}, LATER, RULES)
    (one,) = after.requests
    assert (one.state, one.present, one.running) == (fleets.FAILED, 1, 1)
    assert following.is_sought(one, later(1e6)), "it is there"
    (one,) = following.verify(after, "lxc-abc-7", {"a": "untold", "b": "untold"}, LATER, RULES).requests
    assert (one.state, one.present, one.running) == (fleets.FAILED, 1, 0)
    (one,) = following.verify(after, "lxc-abc-7", {"a": "running", "b": "running"}, LATER, RULES).requests
    assert (one.state, one.present, one.running) == (fleets.VERIFIED, 2, 2)
    (one,) = following.verify(after, "lxc-abc-7", {"a": "gone", "b": "untold"}, LATER, RULES).requests
    assert (one.state, one.present, one.running) == (fleets.FAILED, 0, 0)


def test_what_ran_and_does_not():
    ran = request(fleets.VERIFIED, containers=2, names=("a", "b"), words=("running", "running"))
    told = {"a": "running", "b": "down"}
    after = following.verify(fleet(ran), "lxc-abc-7", told, LATER, RULES)
    (one,) = after.requests
    assert (one.state, one.amiss, one.running, one.present) == (fleets.VERIFIED, LATER, 1, 2)
    (one,) = following.verify(after, "lxc-abc-7", told, later(899), RULES).requests
    assert (one.state, one.amiss) == (fleets.VERIFIED, LATER)
    after = following.verify(after, "lxc-abc-7", told, later(900), RULES)
    (one,) = after.requests
    assert (one.state, one.detail) == (fleets.MISSED, "b ran, and is told not to run any more")
    back = dict.fromkeys(told, "running")
    (one,) = following.verify(after, "lxc-abc-7", back, later(901), RULES).requests
    assert (one.state, one.amiss) == (fleets.VERIFIED, None)
    # Silence is no such word.
    (one,) = following.verify(fleet(ran), "lxc-abc-7", {"a": "untold", "b": "untold"}, later(1e6), RULES).requests
    assert (one.state, one.running, one.present) == (fleets.VERIFIED, 0, 2)


@pytest.mark.parametrize("state", [fleets.SENT, fleets.UNSENT, fleets.FAILED, fleets.GONE])
def test_nothing_is_verified_that_was_not_built(state):
    assert verified(state, a="running") == request(state)
