"""Whether an event is a reason to ask for a container: pure functions of (event, ledger, now).

They read no clock and no file, so that the same log decided again decides the same.
"""

from collections import namedtuple

from . import event as events
from .event import Event

# What became of a request. INTENT: a handler is about to ask, or died while it did. SENT: Jenkins queued it. COALESCED:
# Jenkins had an equal one queued already. REJECTED: Jenkins, being up, said no. UNSENT: it did not get to Jenkins.
# UNKNOWN: it may have got there.
INTENT, SENT, COALESCED, REJECTED, UNSENT, UNKNOWN = "INTENT", "SENT", "COALESCED", "REJECTED", "UNSENT", "UNKNOWN"
STATES = (INTENT, SENT, COALESCED, REJECTED, UNSENT, UNKNOWN)

# How long a refusal keeps others from asking the same again: long enough that an alert every second does not hammer at
# Jenkins with a wrong token, short enough for who has just corrected the settings.
REJECTED_PAUSE_SECONDS = 60


class Moment(namedtuple("Moment", "wall boot_id uptime")):
    """A point in time: seconds since the epoch, which boot it was, and seconds since that boot (CLOCK_BOOTTIME)."""

    __slots__ = ()


class Request(namedtuple("Request", "request_id generation attempt state at created_wall detail")):
    """What was asked of Jenkins for a group. at is the Moment of its latest change, created_wall that of its first."""

    __slots__ = ()


class Rules(namedtuple("Rules", "cooldown lease max_age")):
    """The settings that decide, in seconds.

    cooldown  how long after a build was asked for nothing more is asked for the same group
    lease     how long a handler that said INTENT may still be at work, or an unanswered request on its way
    max_age   how old an event may be
    """

    __slots__ = ()


class Hold(namedtuple("Hold", "code text")):
    """Do nothing, and why."""

    __slots__ = ()


class Act(namedtuple("Act", "generation previous look_first")):
    """Ask for the build of this generation.

    previous    the Request to ask again under its own id, or None where this is a new one
    look_first  the earlier attempt may have reached Jenkins: only ask after a complete search did not find it
    """

    __slots__ = ()


def elapsed(then: Moment, now: Moment) -> float:
    """Seconds from then to now. A clock that is set, forwards or back, does not change them.

    Within one boot the kernel's uptime counts. Across boots only the wall clock can; where it runs backwards (a clock
    that is not set yet after booting), this boot's own duration is what has surely passed, unless the ledger was
    merely carried to a host whose clock is a little behind: then the difference is small and so is the harm.
    """
    if then.boot_id and then.boot_id == now.boot_id:
        return max(0.0, float(now.uptime - then.uptime))
    difference = float(now.wall - then.wall)
    if difference >= 0 or not (then.boot_id and now.boot_id):
        return max(0.0, difference)
    return min(float(now.uptime), -difference)


def judge(event: Event, wall: float, rules: Rules) -> "Hold | None":
    """Why the event alone is no reason to act, or None where it is one: a real check's fresh CRITICAL."""
    if event.kind != events.CHECK:
        return Hold(event.kind, _NOT_A_CHECK[event.kind])
    if event.resolved or event.status == 0:
        return Hold("ok", "nothing is wrong")
    if event.status == 1:
        return Hold("warning", "only critical asks for a build")
    if event.status != 2:
        return Hold("unknown", f"exit status {event.status} means that the check could not tell")
    if event.silenced:
        return Hold("silenced", "somebody silenced it")
    if event.flapping:
        return Hold("flapping", "it changes its state too often to be believed")
    if event.executed is None:
        return Hold("stale", "it does not say when the check ran")
    age = wall - event.executed
    if abs(age) > rules.max_age:
        where = f"{duration(age)} old" if age > 0 else f"from {duration(-age)} in the future"
        return Hold("stale", f"it is {where}, max_age is {duration(rules.max_age)}")
    return None


_NOT_A_CHECK = {
    events.METRICS: "it carries metrics and no check",
    events.KEEPALIVE: "a host that is not heard of says nothing about its load",
    events.REGISTRATION: "a client registered",
    events.DEREGISTRATION: "a client deregistered",
    events.TTL: "the check was not heard of in time, which says nothing about the load",
    events.TIMED_OUT: "the check did not end in time, which says nothing about the load",
}


def decide(last: "Request | None", seen: bool, now: Moment, rules: Rules) -> "Act | Hold":
    """What a reason to act leads to, given the group's latest request and if this very event was decided before."""
    if seen:
        return Hold("duplicate", "this very event was decided before")
    if last is None:
        return Act(1, None, False)
    since = elapsed(last.at, now)
    ago = f"{duration(since)} ago"
    if last.state in (SENT, COALESCED):
        if since < rules.cooldown:
            left = f"{duration(rules.cooldown - since)} of {duration(rules.cooldown)} left"
            return Hold("cooldown", f"{last.request_id} was asked for {ago}, {left}")
        return Act(last.generation + 1, None, False)
    if last.state == REJECTED:
        if since < min(REJECTED_PAUSE_SECONDS, rules.cooldown):
            return Hold("rejected", f"Jenkins refused {last.request_id} {ago}: {last.detail}")
        return Act(last.generation, last, False)
    if last.state == UNSENT:
        return Act(last.generation, last, False)
    if since < rules.lease:
        if last.state == INTENT:
            return Hold("in-flight", f"another handler set out to ask for {last.request_id} {ago}")
        return Hold("unknown-outcome", f"Jenkins may have {last.request_id}, asked {ago}: {last.detail}")
    return Act(last.generation, last, True)


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
