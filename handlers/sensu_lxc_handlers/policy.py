"""Whether a container is asked for, or given back: pure functions of (event, fleet, now, rules).

They read no clock and no file, so that the same log decided again decides the same. What must always hold:

- one decision is one build at most, however often and in whatever order its alert comes;
- an OK, an unknown or a missing result never makes a container; a missing one never takes one away;
- containers known or possibly there, and those on their way, are never more than max, and scaling in leaves min.
"""

from collections import namedtuple

from . import event as events
from .event import Event
from .fleet import (
    BUILDING,
    BUILT,
    FAILED,
    IN,
    INTENT,
    OPEN,
    OUT,
    REJECTED,
    UNKNOWN,
    UNSENT,
    UNVERIFIED,
    VERIFIED,
    Fleet,
    Moment,
    Request,
    elapsed,
    request_id,
)

# How long a refusal keeps others from asking the same again: long enough that an alert every second does not hammer at
# Jenkins with a wrong token, short enough for who has just corrected the settings.
REJECTED_PAUSE_SECONDS = 60
# An open circuit lets one request through after that long, to see whether things are well again.
BREAKER_PAUSE_SECONDS = 3600
_BUILD_SECONDS = 3600


class Rules(namedtuple(
    "Rules", "cooldown lease max_age breaches of least most step budget budget_seconds breaker warm_up quiet"
    " cooldown_in", defaults=(1, 1, 0, 0, 1, 0, 3600, 0, 300, 1800, 600))):  # fmt: skip
    """The settings that decide. Times in seconds.

    cooldown  how long after a build was asked for nothing more is asked for the same group
    lease     how long a handler that said INTENT may still be at work, or an unanswered request on its way
    max_age   how old an event may be
    breaches, of  so many of the latest runs must have been critical
    least, most   how many containers are to be there; most 0: as many as may be
    step      how many containers one decision makes
    budget, budget_seconds  how many decisions may be made within that time; 0: as many as may be
    breaker   how many decisions in a row may fail or stay unverified; 0: as many as may be
    warm_up   how long a container may take until it is seen running
    quiet     how long all members must have been well before one is given back
    cooldown_in  how long after one was given back none is given back again
    """

    __slots__ = ()


class Hold(namedtuple("Hold", "code text")):
    """Do nothing, and why."""

    __slots__ = ()


class Act(namedtuple("Act", "generation previous look_first containers host way target", defaults=(1, "", OUT, ""))):
    """Ask for the build of this generation.

    previous    the Request to ask again under its own id, or None where this is a new one
    look_first  the earlier attempt may have reached Jenkins: only ask after a complete search did not find it
    containers, host, way, target  see fleet.Request
    """

    __slots__ = ()


# The event alone


def unfit(event: Event, wall: float, max_age: float) -> "Hold | None":
    """Why nothing is to be done on this event; None where it is a real check's fresh WARNING or CRITICAL."""
    if event.kind != events.CHECK:
        return Hold(event.kind, _NOT_A_CHECK[event.kind])
    if event.resolved or event.status == 0:
        return Hold("ok", "nothing is wrong")
    if event.status not in (1, 2):
        return Hold("unknown", f"exit status {event.status} means that the check could not tell")
    if event.silenced:
        return Hold("silenced", "somebody silenced it")
    if event.flapping:
        return Hold("flapping", "it changes its state too often to be believed")
    if event.executed is None:
        return Hold("stale", "it does not say when the check ran")
    age = wall - event.executed
    if abs(age) > max_age:
        where = f"{duration(age)} old" if age > 0 else f"from {duration(-age)} in the future"
        return Hold("stale", f"it is {where}, max_age is {duration(max_age)}")
    return None


_NOT_A_CHECK = {
    events.METRICS: "it carries metrics and no check",
    events.KEEPALIVE: "a host that is not heard of says nothing about its load, and can't be asked for anything",
    events.REGISTRATION: "a client registered",
    events.DEREGISTRATION: "a client deregistered",
    events.TTL: "the check was not heard of in time, which says nothing of what it checks",
    events.TIMED_OUT: "the check did not end in time, which says nothing of what it checks",
}


def judge(event: Event, wall: float, rules: Rules) -> "Hold | None":
    """Why the event alone is no reason for a build, or None where it is one: a real check's fresh CRITICAL."""
    if event.kind == events.CHECK and event.status == 1 and not event.resolved:
        return Hold("warning", "only critical asks for a build")
    hold = unfit(event, wall, rules.max_age)
    if hold:
        return hold
    # Occurrences begin anew when the severity changes (critical, warning, critical); the history tells all runs.
    seen = event.history[-rules.of :] or (2,)
    breaches = seen.count(2)
    if breaches < rules.breaches:
        return Hold("breaches", f"{breaches} of the last {len(seen)} runs were critical, {rules.breaches} are needed")
    return None


# More


def decide(fleet: Fleet, seen: bool, now: Moment, rules: Rules) -> "Act | Hold":
    """What a reason to act leads to, given all of its group, and whether this very event was decided before."""
    if seen:
        return Hold("duplicate", "this very event was decided before")
    if fleet.paused:
        return Hold("paused", fleet.paused)
    again = _unfinished(fleet, OUT, now, rules)
    if again is not None:
        return again
    asked = [one for one in fleet.requests if one.way == OUT]
    for one in reversed(asked):
        since = elapsed(one.asked, now)
        if since < rules.cooldown:
            left = f"{duration(rules.cooldown - since)} of {duration(rules.cooldown)} left"
            return Hold("cooldown", f"{one.request_id} was asked for {duration(since)} ago, {left}")
    return _one_more(fleet, now, rules)


def top_up(fleet: Fleet, now: Moment, rules: Rules) -> "Act | Hold":
    """What is to be asked for where fewer containers are there, or on their way, than there should be."""
    relied = sum(_relied(one) for one in fleet.requests if one.way == OUT)
    missing = rules.least - relied
    if missing <= 0:
        return Hold("enough", f"{relied} of at least {rules.least}")
    if fleet.paused:
        return Hold("paused", fleet.paused)
    again = _unfinished(fleet, OUT, now, rules)
    if again is not None:
        return again
    return _one_more(fleet, now, rules._replace(step=min(missing, max(rules.step, 1))))


def _relied(one: Request) -> int:
    """How many containers of a request to make some are there, or to come.

    What only may be there is none to rely on, nor what is told not to run; but silence alone makes no container.
    """
    if one.state in OPEN:
        return int(one.containers)
    return int(one.present if one.state in (BUILT, VERIFIED) else one.running)


def _unfinished(fleet: Fleet, way: str, now: Moment, rules: Rules) -> "Act | Hold | None":
    """What is to become of a latest request that did not surely get to Jenkins: the same id again, never another."""
    last = fleet.latest(way)
    if last is None or last.state not in (INTENT, UNKNOWN, UNSENT, REJECTED):
        return None
    since = elapsed(last.at, now)
    ago = f"{duration(since)} ago"
    look_first = last.state in (INTENT, UNKNOWN)
    if last.state == REJECTED and since < min(REJECTED_PAUSE_SECONDS, rules.cooldown):
        return Hold("rejected", f"Jenkins refused {last.request_id} {ago}: {last.detail}")
    if look_first and since < rules.lease:
        if last.state == INTENT:
            return Hold("in-flight", f"another handler set out to ask for {last.request_id} {ago}")
        return Hold("unknown-outcome", f"Jenkins may have {last.request_id}, asked {ago}: {last.detail}")
    others = sum(count(fleet, now, rules)) - (last.containers if look_first else 0)
    if way == OUT and rules.most and others + last.containers > rules.most:
        return Hold("max", f"{last.request_id} is not asked for again: {others} are there or may be, max {rules.most}")
    return Act(last.generation, last, look_first, last.containers, last.host, last.way, last.target)


def _one_more(fleet: Fleet, now: Moment, rules: Rules) -> "Act | Hold":
    """A new request, or the guard that does not let it through."""
    there, coming = count(fleet, now, rules)
    if coming:
        waiting = next(one for one in reversed(fleet.requests) if is_coming(one, now, rules))
        since = duration(elapsed(waiting.asked, now))
        return Hold("in-flight", f"{waiting.request_id} was asked for {since} ago and is {waiting.state}")
    step = max(rules.step, 1)
    if rules.most:
        step = min(step, rules.most - there)
        if step <= 0:
            return Hold("max", f"{there} containers are there or may be, max is {rules.most}{_never_looked(fleet)}")
    spent = [one for one in fleet.requests if one.way == OUT and elapsed(one.asked, now) < rules.budget_seconds]
    if rules.budget and len(spent) >= rules.budget:
        window = duration(rules.budget_seconds)
        return Hold("budget", f"{len(spent)} builds in the last {window}, the budget is {rules.budget}")
    broken = circuit(fleet, OUT, now, rules)
    if broken:
        return Hold("circuit-open", broken)
    return Act(fleet.generation + 1, None, False, step)


def circuit(fleet: Fleet, way: str, now: Moment, rules: Rules) -> str:
    """Why nothing more is asked for until somebody has looked; "" while things go well, or for one trial."""
    if not rules.breaker:
        return ""
    failed = []
    for one in reversed(fleet.requests):
        if one.way != way or one.state in (*OPEN, UNSENT, REJECTED, BUILT):
            continue
        if one.state not in (FAILED, UNVERIFIED):
            break
        failed.append(one)
    if len(failed) < rules.breaker:
        return ""
    since = elapsed(failed[0].at, now)
    if since >= BREAKER_PAUSE_SECONDS:
        return ""
    left = duration(BREAKER_PAUSE_SECONDS - since)
    return (
        f"the last {len(failed)} did not lead to a running container ({failed[0].request_id}: {failed[0].detail});"
        f" the next trial is in {left}"
        if way == OUT
        else f"the last {len(failed)} took none away ({failed[0].request_id}: {failed[0].detail}); next in {left}"
    )


def is_coming(one: Request, now: Moment, rules: Rules) -> bool:
    """Whether a request's containers are on their way: neither seen yet nor out of the time that they may take."""
    if one.way != OUT:
        return False
    if one.state in (INTENT, UNKNOWN):
        return True
    # A build that was seen running is waited for, but not for ever, should nobody look any more.
    return one.state in (*OPEN, BUILT) and elapsed(one.at, now) < patience(one, rules)


def patience(one: Request, rules: Rules) -> float:
    """How many seconds a request may stay in its state on the way to a container."""
    return float(max(rules.warm_up, _BUILD_SECONDS) if one.state == BUILDING else rules.warm_up)


def count(fleet: Fleet, now: Moment, rules: Rules) -> "tuple[int, int]":
    """(containers that are there or may be, containers on their way). Each is one of them, none is both.

    What Jenkins was asked for and nobody has followed (there is no reconciler) is taken to be there after its warm-up.
    A build that failed may have made some, and they have their warm-up to be heard of.
    """
    there = coming = 0
    for one in fleet.requests:
        if is_coming(one, now, rules):
            coming += one.containers
        elif one.way == OUT and (one.state in OPEN or _has_just_failed(one, now, rules)):
            there += one.containers
        else:
            there += one.present
    return there, coming


def _has_just_failed(one: Request, now: Moment, rules: Rules) -> bool:
    return one.state == FAILED and one.build is not None and elapsed(one.at, now) < rules.warm_up


def _never_looked(fleet: Fleet) -> str:
    if fleet.looked is not None:
        return ""
    return "; nobody looks which of them are still there: run reconcile_autoscale.py as a check, or set max"


# Less


def give_back(fleet: Fleet, members: "dict[str, bool]", now: Moment, rules: Rules) -> "tuple[Fleet, Act | Hold]":
    """(the fleet as it is after this look, what is to be done).

    members: {name: whether it is well} of all whose results are fresh enough to count; one that is not told is missing.
    Only a container that was made by a request of this group is given back: the youngest that runs.
    """
    missing = sorted(set(fleet.members) - set(members))
    unwell = sorted(name for name, is_well in members.items() if not is_well)
    gap = elapsed(fleet.looked, now) if fleet.looked is not None else 0.0
    is_quiet = bool(members) and not missing and not unwell
    # Between two looks far apart anything may have been.
    unbroken = fleet.quiet is not None and gap <= max(rules.quiet / 2, 1)
    quiet = (fleet.quiet if unbroken else now) if is_quiet else None
    fleet = fleet._replace(quiet=quiet, looked=now, members=tuple(sorted({*fleet.members, *members})))
    return fleet, _less(fleet, missing, unwell, now, rules)


def _less(fleet: Fleet, missing: "list[str]", unwell: "list[str]", now: Moment, rules: Rules) -> "Act | Hold":
    if fleet.paused:
        return Hold("paused", fleet.paused)
    if missing:
        mend = "where it is no more, delete it in Sensu and --forget it"
        return Hold("missing", f"nothing fresh is heard of {_some(missing)}: what is not seen is not well; {mend}")
    if unwell:
        return Hold("unwell", f"{_some(unwell)} is not well")
    if fleet.quiet is None:
        return Hold("nobody", "no result of this group is known")
    since = elapsed(fleet.quiet, now)
    if since < rules.quiet:
        return Hold("quiet", f"all are well for {duration(since)} of {duration(rules.quiet)}")
    again = _unfinished(fleet, IN, now, rules)
    if again is not None:
        return again
    for one in reversed(fleet.requests):
        if is_coming(one, now, rules) or (one.way == IN and one.state in (*OPEN, BUILT)):
            return Hold("in-flight", f"{one.request_id} is {one.state}")
        ago, pause = elapsed(one.asked, now), rules.cooldown_in if one.way == IN else rules.quiet
        if one.way == IN and one.state == FAILED and elapsed(one.at, now) < max(pause, REJECTED_PAUSE_SECONDS):
            return Hold("cooldown", f"{one.request_id} failed {duration(elapsed(one.at, now))} ago: {one.detail}")
        if ago < pause:
            return Hold("cooldown", f"{one.request_id} was asked for {duration(ago)} ago")
    unsent = fleet.latest()
    if unsent is not None and unsent.state in (UNSENT, REJECTED, INTENT, UNKNOWN):
        return Hold("in-flight", f"{unsent.request_id} is {unsent.state}")
    broken = circuit(fleet, IN, now, rules)
    if broken:
        return Hold("circuit-open", broken)
    running = sum(one.running for one in fleet.requests)
    spare = running - rules.least
    for one in reversed(fleet.requests):
        # Only where all that there are of it run, none can be taken away that does not.
        if one.state in (VERIFIED, FAILED) and 0 < one.running == one.present <= spare:
            return Act(fleet.generation + 1, None, False, one.containers, one.host, IN, one.request_id)
    return Hold("min", f"{running} of its containers are seen running, min is {rules.least}")


def ours(decision: "Act | Hold", fleet: Fleet, scope: str) -> "Act | Hold":
    """The decision, or a Hold where it would ask this scope's Jenkins for what another scope asked its own."""
    if isinstance(decision, Hold):
        return decision
    other = decision.previous or fleet.find(decision.target)
    if other is None or other.is_of(scope):
        return decision
    text = f"{other.request_id} was asked for by the scope {other.scope}, which has a group of the same name"
    return Hold("other-scope", f"{text}: give one of them another name, or each a ledger of its own")


# What becomes of a fleet


def intended(
    fleet: Fleet, act: Act, event: "Event | None", job: str, now: Moment, scope: str = ""
) -> "tuple[Fleet, Request]":
    """(the fleet, the request) once it is written down that act is about to be asked for, by that scope."""
    if act.previous is not None:
        # The outcome of the attempt before stays to be read until this one has its own. Where Jenkins surely never got
        # it, another job may be named in the settings by now: a misspelt one was refused.
        job = act.previous.job if act.look_first else job
        one = act.previous._replace(attempt=act.previous.attempt + 1, state=INTENT, at=now, asked=now, job=job)
        one = one._replace(host=act.host, scope=scope or one.scope)
        return fleet.replaced(one), one
    entity, check = (event.entity, event.check) if event is not None else ("", "")
    one = Request(
        request_id(fleet.prefix, act.generation), act.generation, 1, act.way, INTENT, now, now, now.wall, job, entity,
        check, act.containers, act.host, (), act.target, None, None, "", scope=scope,
    )  # fmt: skip
    return fleet.with_request(one, now.wall), one


def settled(fleet: Fleet, asked: Request, state: str, now: Moment, queue_item: "int | None", detail: str) -> Fleet:
    """The fleet once an attempt has its answer. One that came back so late that another took over says nothing."""
    one = fleet.find(asked.request_id)
    if one is None or one.attempt != asked.attempt or one.state != INTENT:
        return fleet
    changed = one._replace(state=state, at=now, asked=now, detail=detail)
    return fleet.replaced(changed if queue_item is None else changed._replace(queue_item=queue_item))


def _some(names: "list[str]") -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def duration(seconds: float) -> str:
    """Seconds as people say them: 45s, 9m50s, 3h05m, 12d."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s" if whole % 60 else f"{whole // 60}m"
    if whole < 2 * 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m" if whole % 3600 >= 60 else f"{whole // 3600}h"
    return f"{whole // 86400}d"
