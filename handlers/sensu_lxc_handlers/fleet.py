"""What was asked of Jenkins for one group, what became of it, and what is known to run: one document for each group.

The document is all that a decision needs, so policy.py stays a pure function of it, and any store that can replace one
text in one step can keep it (ledger.py: SQLite; ledger_redis.py: Redis).
"""

import json
from collections import namedtuple

# The way of a request: OUT makes containers, IN takes those of an earlier request away.
OUT, IN = "out", "in"

# What became of a request.
# INTENT: a handler is about to ask, or died while it did.     UNKNOWN: it may have got to Jenkins.
# UNSENT: it did not get to Jenkins, or Jenkins lost it.       REJECTED: Jenkins, being up, said no.
# SENT: Jenkins queued it.                                     COALESCED: Jenkins had an equal one queued already.
# BUILDING: its build runs.                                    BUILT: its build succeeded.
# FAILED: its build did not succeed.
# VERIFIED: all its containers were seen running.              UNVERIFIED: they were not, within the warm-up.
# MISSED: they were, and are told not to run since.            GONE: they are no more; of an IN: it is done.
INTENT, UNKNOWN, UNSENT, REJECTED = "INTENT", "UNKNOWN", "UNSENT", "REJECTED"
SENT, COALESCED, BUILDING, BUILT, FAILED = "SENT", "COALESCED", "BUILDING", "BUILT", "FAILED"
VERIFIED, UNVERIFIED, MISSED, GONE = "VERIFIED", "UNVERIFIED", "MISSED", "GONE"
STATES = (
    INTENT, UNKNOWN, UNSENT, REJECTED, SENT, COALESCED, BUILDING, BUILT, FAILED, VERIFIED, UNVERIFIED, MISSED, GONE,
)  # fmt: skip
# Those in which Jenkins has it, or may have it, and it is not known how it ended.
OPEN = (INTENT, UNKNOWN, SENT, COALESCED, BUILDING)
# Those in which its containers are there, or may be there.
PRESENT = (BUILT, VERIFIED, UNVERIFIED, MISSED)

# What is known of a container.
IS_RUNNING, IS_DOWN, IS_GONE, IS_UNTOLD = "running", "down", "gone", "untold"
_TOLD = (IS_RUNNING, IS_DOWN, IS_GONE, IS_UNTOLD)

_FORMAT = 1
_LARGEST = 1 << 40
# Requests that are over are remembered that long, and that many of them: for budgets, breakers and reports.
_KEEP_SECONDS = 30 * 86400
_KEEP = 200


class Moment(namedtuple("Moment", "wall boot_id uptime")):
    """A point in time: seconds since the epoch, which boot it was, and seconds since that boot (CLOCK_BOOTTIME)."""

    __slots__ = ()


class Request(namedtuple(
    "Request", "request_id generation attempt way state at asked created_wall job entity check containers host names"
    " target queue_item build detail words amiss scope", defaults=((), None, ""))):  # fmt: skip
    """One request of Jenkins.

    way          OUT or IN
    at           Moment of its latest change of state; asked: of the latest attempt; created_wall: of its first
    job          that Jenkins runs for it
    entity, check  whose alert asked for it; "" where none did
    containers   how many it makes or takes away
    host         where they are to be, "" where Jenkins chooses
    names        of the containers, as far as they are known
    target       of an IN: the request_id of the OUT whose containers it takes away, else ""
    queue_item, build  Jenkins' numbers, None where it gave none
    detail       a sentence on its state
    words        what was known of each of names at the latest look, () where nobody has looked
    amiss        Moment since when not all that are left of them are told to run; None while they are, or nobody looks
    scope        of the settings that it was asked by, and so of which Jenkins; "" where that is not known
    """

    __slots__ = ()

    @property
    def present(self) -> int:
        """How many of its containers are there, or may be, once its build has ended.

        Of a build that succeeded all that are not told to be gone; of one that failed those that are heard of.
        """
        if self.way == OUT and self.state in PRESENT:
            return int(self.containers - self.words.count(IS_GONE))
        if self.way == OUT and self.state == FAILED:
            return int(self.words.count(IS_RUNNING) + self.words.count(IS_DOWN))
        return 0

    @property
    def running(self) -> int:
        """How many of its containers were told to run at the latest look."""
        if self.way != OUT or self.state not in (VERIFIED, UNVERIFIED, MISSED, FAILED):
            return 0
        known = self.containers if self.state == VERIFIED and not self.words else self.words.count(IS_RUNNING)
        return int(known)

    def is_of(self, scope: str) -> bool:
        """Whether it was asked for by that scope, as far as is known."""
        return self.scope in ("", scope)

    def named(self, word: str) -> str:
        """The names of those of its containers of which that is known."""
        return ", ".join(name for name, told in zip(self.names, self.words) if told == word)


class Fleet(
    namedtuple("Fleet", "prefix generation requests quiet looked members paused", defaults=(None, None, (), ""))
):
    """All of a group.

    prefix      random: part of each request_id, so that a ledger begun anew repeats none of the lost one's
    generation  of the latest request
    requests    tuple of Request, oldest first
    quiet       Moment since when all members have been well at each look; None where they are not
    looked      Moment of the reconciler's latest look, None for none
    members     names of those whose results count for scaling in, as the latest look saw them
    paused      why nothing is to be done, "" where it may
    """

    __slots__ = ()

    def latest(self, way: str = OUT) -> "Request | None":
        """The request of that way that was made last."""
        return next((one for one in reversed(self.requests) if one.way == way), None)

    def find(self, request_id: str) -> "Request | None":
        """The request of that id."""
        return next((one for one in self.requests if one.request_id == request_id), None)

    def is_of(self, scope: str) -> bool:
        """Whether it is that scope's to look after: not where all of it was asked for by others."""
        return not self.requests or any(one.is_of(scope) for one in self.requests)

    def replaced(self, request: Request) -> "Fleet":
        """The fleet with this request instead of the one of its id."""
        return self._replace(
            requests=tuple(request if one.request_id == request.request_id else one for one in self.requests)
        )

    def with_request(self, request: Request, wall: float) -> "Fleet":
        """The fleet with one more request, and without what is long over."""
        kept = [
            one
            for index, one in enumerate(self.requests)
            if one.state in OPEN
            or one.present
            or (one.at.wall > wall - _KEEP_SECONDS and index >= len(self.requests) - _KEEP)
        ]
        return self._replace(generation=request.generation, requests=(*kept, request))


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


def to_text(fleet: Fleet) -> str:
    """The document, in which from_text() finds the same fleet."""
    requests = [dict(zip(Request._fields, one)) for one in fleet.requests]
    return json.dumps({"format": _FORMAT, **dict(zip(Fleet._fields, fleet)), "requests": requests}, sort_keys=True)


def from_text(text: str) -> Fleet:
    """The fleet of a document. Raises ValueError, with what is wrong, for anything that to_text() would not write."""
    try:
        document = json.loads(text)
        if document.pop("format") != _FORMAT:
            raise ValueError("its format is another one")
        requests = tuple(_request(one) for one in document.pop("requests"))
        fleet = Fleet(requests=requests, **document)
        fleet = fleet._replace(
            quiet=_moment(fleet.quiet), looked=_moment(fleet.looked), members=tuple(fleet.members)
        )  # fmt: skip
    except (AttributeError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"it lacks something or holds too much ({type(error).__name__})") from None
    generations = [one.generation for one in requests]
    if (
        type(fleet.generation) is not int
        or not 0 <= fleet.generation < _LARGEST
        or not all(isinstance(value, str) for value in (fleet.prefix, fleet.paused, *fleet.members))
        or not fleet.prefix
        or sorted(set(generations)) != generations
        or (generations[-1] if generations else 0) > fleet.generation
        or any(one.request_id != request_id(fleet.prefix, one.generation) for one in requests)
    ):
        raise ValueError("its requests make no sense")
    return fleet


def request_id(prefix: str, generation: int) -> str:
    """What the job is asked for, once."""
    return f"lxc-{prefix}-{generation}"


_KINDS = {
    "request_id": str, "generation": int, "attempt": int, "way": str, "state": str, "created_wall": float, "job": str,
    "entity": str, "check": str, "containers": int, "host": str, "target": str, "detail": str, "scope": str,
}  # fmt: skip


def _request(given: "dict[str, object]") -> Request:
    one = Request(**given)
    numbers = (one.generation, one.attempt, one.containers, one.created_wall)
    if (
        any(type(getattr(one, key)) is not kind for key, kind in _KINDS.items())
        or any(value is not None and type(value) is not int for value in (one.queue_item, one.build))
        or not all(0 < number < _LARGEST for number in numbers)
        or one.state not in STATES
        or one.way not in (OUT, IN)
    ):
        raise ValueError("a request makes no sense")
    at, asked = _moment(one.at), _moment(one.asked)
    if at is None or asked is None or not all(isinstance(name, str) for name in one.names):
        raise ValueError("a request makes no sense")
    if not all(word in _TOLD for word in one.words) or len(one.words) not in (0, len(one.names)):
        raise ValueError("a request makes no sense")
    return one._replace(
        at=at, asked=asked, names=tuple(one.names), words=tuple(one.words), amiss=_moment(one.amiss)
    )  # fmt: skip


def _moment(given: object) -> "Moment | None":
    if given is None:
        return None
    if not isinstance(given, (list, tuple)) or [type(one) for one in given] != [float, str, float]:
        raise ValueError("a time makes no sense")
    moment = Moment(*given)
    if not (0 < moment.wall < _LARGEST and 0 <= moment.uptime < _LARGEST):
        raise ValueError("a time makes no sense")
    return moment
