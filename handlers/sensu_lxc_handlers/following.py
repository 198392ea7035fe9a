"""What becomes of a request once Jenkins was asked: pure functions of (request, what was seen of it, now, rules).

The request's id is the truth. Jenkins' own numbers begin at 1 again when it lost its queue, so an item of that number
may be somebody else's.
"""

from collections import namedtuple

from .fleet import (
    BUILDING,
    BUILT,
    COALESCED,
    FAILED,
    GONE,
    IN,
    INTENT,
    IS_DOWN,
    IS_GONE,
    IS_RUNNING,
    IS_UNTOLD,
    MISSED,
    OPEN,
    OUT,
    PRESENT,
    SENT,
    UNKNOWN,
    UNSENT,
    UNVERIFIED,
    VERIFIED,
    Fleet,
    Moment,
    Request,
    elapsed,
)
from .policy import Rules, duration

# What a look into Jenkins found of a request.
QUEUED, RUNNING, SUCCEEDED, UNSUCCESSFUL, CANCELLED, ABSENT, UNREADABLE = (
    "queued", "running", "succeeded", "unsuccessful", "cancelled", "absent", "unreadable")  # fmt: skip
# A build that failed may have made containers all the same. They are looked for no longer than that, but while they are
# heard of.
_FAILED_SECONDS = 86400


class Sighting(namedtuple("Sighting", "kind queue_item build detail", defaults=(None, None, ""))):
    """kind: one of the words above; ABSENT only after a search that could not miss it; detail: a sentence on it."""

    __slots__ = ()


def follow(fleet: Fleet, request_id: str, seen: Sighting, now: Moment, rules: Rules) -> Fleet:
    """The fleet after a look into Jenkins for one of its requests."""
    one = fleet.find(request_id)
    if one is None or one.state not in (*OPEN, UNSENT) or seen.kind == UNREADABLE:
        return fleet
    changed = _followed(one, seen, now, rules)
    if changed is one:
        return fleet
    fleet = fleet.replaced(changed)
    target = fleet.find(changed.target) if changed.way == IN and changed.state == GONE else None
    if target is not None:
        fleet = fleet.replaced(target._replace(state=GONE, at=now, detail=f"taken away by {request_id}"))
    return fleet


def _followed(one: Request, seen: Sighting, now: Moment, rules: Rules) -> Request:
    if seen.kind == ABSENT:
        return _lost(one, now, rules)
    numbers = {"queue_item": seen.queue_item or one.queue_item, "build": seen.build or one.build}
    where = f"build {numbers['build']}" if numbers["build"] else f"queue item {numbers['queue_item']}"
    state, detail = {
        QUEUED: (COALESCED if one.state == COALESCED else SENT, where),
        RUNNING: (BUILDING, where),
        SUCCEEDED: (BUILT if one.way == OUT else GONE, where),
        UNSUCCESSFUL: (FAILED, f"{where} {seen.detail or 'failed'}"),
        CANCELLED: (FAILED, f"{where} was cancelled"),
    }[seen.kind]
    if (state, *numbers.values()) == (one.state, one.queue_item, one.build):
        return one
    # An attempt whose handler may still be at work is its own to settle, unless Jenkins is past that.
    if one.state == INTENT and state in (SENT, COALESCED) and elapsed(one.at, now) < rules.lease:
        return one
    at = one.at if state == one.state else now
    return one._replace(state=state, at=at, detail=detail, **numbers)


def _lost(one: Request, now: Moment, rules: Rules) -> Request:
    """Jenkins has neither item nor build of that id: the next reason to act asks under the same id again."""
    if one.state == UNSENT or elapsed(one.at, now) < rules.lease:
        return one
    never = one.state in (INTENT, UNKNOWN)
    detail = "Jenkins never got it" if never else f"Jenkins lost it when it was {one.state}: no queue item, no build"
    return one._replace(state=UNSENT, at=now, detail=detail)


def is_sought(one: Request, now: Moment) -> bool:
    """Whether its containers are to be looked for."""
    if one.state == FAILED and not one.present and elapsed(one.at, now) >= _FAILED_SECONDS:
        return False
    return _may_have_made(one)


def _may_have_made(one: Request) -> bool:
    # What was cancelled in the queue has made nothing.
    return bool(one.way == OUT and (one.state in PRESENT or (one.state == FAILED and one.build is not None)))


def verify(fleet: Fleet, request_id: str, containers: "dict[str, str]", now: Moment, rules: Rules) -> Fleet:
    """The fleet after a look for the containers of one request: {name: what is known of it, see fleet.py}.

    Nothing is gone because nothing is told of it.
    """
    one = fleet.find(request_id)
    if one is None or not _may_have_made(one):
        return fleet
    before = dict(zip(one.names, one.words))
    words = tuple(_known(word, before.get(name), one.state) for name, word in containers.items())
    left = [word for word in words if word != IS_GONE]
    all_run = bool(left) and all(word == IS_RUNNING for word in left)
    since: Moment = one.amiss or now
    one = one._replace(names=tuple(containers), words=words, amiss=None if all_run else since)
    if one.state == FAILED:
        if all_run and len(left) == len(words):
            one = one._replace(state=VERIFIED, at=now, detail=f"seen running, although {one.detail}")
    elif words and not left:
        one = one._replace(state=GONE, at=now, detail=f"{', '.join(containers)}: no longer there")
    elif all_run:
        one = one if one.state == VERIFIED else one._replace(state=VERIFIED, at=now, detail="seen running")
    elif one.state == BUILT and elapsed(one.at, now) >= rules.warm_up:
        missing = [name for name, word in zip(containers, words) if word != IS_RUNNING]
        detail = f"{', '.join(missing)} not seen running within {duration(rules.warm_up)}"
        one = one._replace(state=UNVERIFIED, at=now, detail=detail)
    elif one.state == VERIFIED and IS_DOWN in left and elapsed(since, now) >= rules.warm_up:
        one = one._replace(state=MISSED, at=now, detail=f"{one.named(IS_DOWN)} ran, and is told not to run any more")
    return fleet.replaced(one)


def _known(word: str, before: "str | None", state: str) -> str:
    """What is known of a container that was told of before."""
    if word != IS_UNTOLD:
        return word
    # Its last result may be deleted; it is gone all the same.
    if before == IS_GONE:
        return IS_GONE
    # Of a failed build only what is heard of is taken to be there, and does not stop to be by falling silent.
    return IS_DOWN if state == FAILED and before in (IS_RUNNING, IS_DOWN) else IS_UNTOLD
