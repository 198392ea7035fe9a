"""Whether an event is a reason to have its host do something about it: settings, and pure functions of what is known.

They read no clock and no file, so that the same events decided again decide the same. What must always hold:

- only the host that ran the check is asked, never a proxy, never all subscribers;
- an action is asked for once per cooldown and entity, and within its budget, however many events come;
- an OK, an unknown or a missing result, keepalives, what is silenced, flapping or stale, never ask for anything.
"""

import re
from collections import namedtuple
from fnmatch import fnmatchcase

from . import policy
from .api_settings import api_settings
from .event import Event
from .fleet import Moment, elapsed
from .outcome import Misconfigured, clean, harmless
from .policy import Hold, duration
from .settings import Scope, fill, parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_LEDGER = "/var/lib/sensu/sensu-lxc/remediate.sqlite"

# What became of a try.
# INTENT: a handler is about to ask, or died while it did.   UNKNOWN: it may have been asked.
# ASKED: Sensu took it; nothing is known yet.                FAILED: a later result was still bad.
# WELL: a later result was good.
# UNSENT: it was not asked.                                  REJECTED: Sensu said no.
INTENT, ASKED, UNKNOWN, FAILED, WELL, UNSENT, REJECTED = (
    "INTENT", "ASKED", "UNKNOWN", "FAILED", "WELL", "UNSENT", "REJECTED")  # fmt: skip
STATES = (INTENT, ASKED, UNKNOWN, FAILED, WELL, UNSENT, REJECTED)
# The host has done it, or may have.
COUNTED = (INTENT, ASKED, UNKNOWN, FAILED, WELL)

# How long a refusal keeps others from asking the same again, as for a build.
REJECTED_PAUSE_SECONDS = 60

_SEVERITIES = {"warning": 1, "critical": 2}
# What Core writes as the origin of a result that came by POST /results.
_THROUGH_CORES_API = "sensu-api"
_OUTPUT_CHARACTERS = 4096
_SHOWN = 3
_PLACEHOLDER = re.compile(r"\{\w*\}")
_MONTH = 30 * 86400
_BUDGET = (3, 3600.0)


class Action(namedtuple(
    "Action", "name check patterns entities severities least most output cooldown budget budget_seconds")):  # fmt: skip
    """What a host may be asked for, and when.

    name      as the settings call it
    check     Sensu's check to ask for, with {entity} and {check}
    patterns, entities  globs of the checks and the clients or entities whose events it is for, one of which must fit
    severities  statuses, such as (2,)
    least, most  which of the occurrences in a row; most 0: all the later ones
    output    compiled pattern that the output must hold, or None
    cooldown  seconds between two tries for one entity
    budget, budget_seconds  at most so many tries within that time for one entity
    """

    __slots__ = ()

    def misfit(self, event: Event) -> "tuple[int, str]":
        """(how many of its conditions fit, what the next one wants) where it is not for this event, else (4, "").

        Whichever occurrence it is.
        """
        if not any(fnmatchcase(event.check, pattern) for pattern in self.patterns):
            return 0, f"is for the check {clean(' or '.join(self.patterns), 80)}"
        if not any(fnmatchcase(event.entity, pattern) for pattern in self.entities):
            return 1, f"is for the entity {clean(' or '.join(self.entities), 80)}"
        if event.status not in self.severities:
            return 2, f"is for {' or '.join(word for word, status in _SEVERITIES.items() if status in self.severities)}"
        if self.output is not None and not self.output.search(event.output[:_OUTPUT_CHARACTERS]):
            return 3, f"wants {clean(self.output.pattern, 80)} in its output"
        return 4, ""

    def asked_check(self, event: Event) -> str:
        """The name of Sensu's check to ask for."""
        return fill(self.check, {"entity": harmless(event.entity), "check": harmless(event.check)})


class Remediation(namedtuple("Remediation", "api actions max_age timeout ledger")):
    """The scope of handler_remediate: ApiSettings, a tuple of Action in the order of the settings, seconds, a path."""

    __slots__ = ()


class Try(namedtuple("Try", "number action state at detail")):
    """One time that a host was asked for an action on an entity. at: the Moment when it was."""

    __slots__ = ()


class Act(namedtuple("Act", "action tries")):
    """Ask for this Action; tries: how often it was within its budget's time."""

    __slots__ = ()


# The event alone


def unfit(event: Event, wall: float, max_age: float) -> "Hold | None":
    """Why nothing is to be done on this event, whatever the settings; None where there may be."""
    hold = policy.unfit(event, wall, max_age)
    if hold:
        return hold
    if event.runner in ("", _THROUGH_CORES_API):
        return Hold("no-runner", "nobody tells which host ran the check, and a proxy can't be asked for anything")
    return None


def chosen(event: Event, wanted: "Iterable[Action]", wishes: "Iterable[Action]") -> "Hold | list[Action]":
    """The actions for this event, in their order. wanted: as configured; wishes: as its check and entity have them."""
    for action in wanted:
        if fnmatchcase(event.check, _PLACEHOLDER.sub("*", action.check)):
            return Hold("own", f"it is the result of {action.name} itself, on which nothing is done")
    wishes = list(wishes)
    if not wishes:
        return Hold("off", "its check or entity switched remediation off")
    misfits = {action: action.misfit(event) for action in wishes}
    fitting = [action for action, (_, why) in misfits.items() if not why]
    if not fitting:
        nearest = max(count for count, _ in misfits.values())
        why = [f"{action.name} {why}" for action, (count, why) in misfits.items() if count == nearest]
        more = f", and {len(why) - _SHOWN} more" if len(why) > _SHOWN else ""
        return Hold("no-action", f"no action is for it: {'; '.join(why[:_SHOWN])}{more}")
    if event.occurrences is None:
        return Hold("occurrences", "it does not say how often in a row it was so")
    early = [action for action in fitting if event.occurrences < action.least]
    if len(early) == len(fitting):
        times = min(action.least for action in early)
        return Hold("occurrences", f"it is so for the {_th(event.occurrences)} time, {early[0].name} waits for {times}")
    return [action for action in fitting if action not in early]


# And what was asked before


def decide(
    event: Event, actions: "Iterable[Action]", known: "Iterable[Try]", seen: bool, now: Moment, lease: float
) -> "Act | Hold":
    """What is to be asked for: the first action that is not given up, once its time has come.

    known: the tries for this entity and host, oldest first; seen: this very event was decided before; lease: how long
    a handler that said INTENT may still be at work.
    """
    if seen:
        return Hold("duplicate", "this very event was decided before")
    given_up = None
    for action in actions:
        tries = [one for one in known if one.action == action.name]
        verdict = _next(event, action, tries, now, lease)
        if isinstance(verdict, Act) or verdict.code != "given-up":
            return verdict
        given_up = given_up or verdict
    return given_up or Hold("no-action", "no action is for it")


def _next(event: Event, action: Action, tries: "list[Try]", now: Moment, lease: float) -> "Act | Hold":
    name, counted = action.name, [one for one in tries if one.state in COUNTED]
    recent = [one for one in counted if elapsed(one.at, now) < action.budget_seconds]
    spent = f"{name} was asked for {_times(len(recent))} in {duration(action.budget_seconds)}"
    # First of all, so that the cooldown of what is given up does not keep the next action from its turn.
    if action.most and (event.occurrences or 0) > action.most:
        until = f"it is so for the {_th(event.occurrences or 0)} time and {name} is tried up to the {_th(action.most)}"
        return Hold("given-up", f"{until}; {spent}: somebody has to look")
    if counted:
        last = counted[-1]
        since = elapsed(last.at, now)
        said = f"{name} was asked for {duration(since)} ago"
        if since < action.cooldown:
            left = f"{duration(action.cooldown - since)} of {duration(action.cooldown)} left"
            if last.state == INTENT and since < lease:
                return Hold("in-flight", f"another handler set out to ask for {name} {duration(since)} ago")
            return Hold("cooldown", f"{said}, {_STANDS[last.state]}, {left}")
    if tries and tries[-1].state == REJECTED:
        since = elapsed(tries[-1].at, now)
        if since < min(REJECTED_PAUSE_SECONDS, action.cooldown):
            return Hold("rejected", f"{name} was refused {duration(since)} ago: {tries[-1].detail}")
    if len(recent) >= action.budget:
        return Hold("given-up", f"{spent}, and it is not well: somebody has to look")
    return Act(action, len(recent))


_STANDS = {
    INTENT: "perhaps",
    ASKED: "the next result decides",
    UNKNOWN: "perhaps, as no answer came",
    FAILED: "and it is not well yet",
    WELL: "after which it was well",
}


# Settings


def remediation_settings(settings: "Mapping[str, object]", scope: str, where: str) -> Remediation:
    """The scope of settings, which came from where (words for a message). Raises Misconfigured."""
    example = '{"api": {"url": "http://localhost:4567/"}, "actions": {…}}'
    known = Scope(settings, scope, where, Remediation._fields, example)
    known.require("api", "actions")
    return Remediation(
        api=api_settings(known.given["api"], f"{scope}.api", where),
        actions=_actions(f"{scope}.actions", known.given["actions"], where),
        max_age=known.seconds("max_age", 600, 10, _MONTH), timeout=known.seconds("timeout", 10, 2, 600),
        ledger=known.path("ledger", DEFAULT_LEDGER),
    )  # fmt: skip


def with_wishes(
    actions: "Iterable[Action]", wishes: "Iterable[tuple[str, Mapping[str, object]]]"
) -> "tuple[Action, ...]":
    """The actions as an event's check and entity want them (Event.wishes); none where they are off.

    They may choose among the actions, and change occurrences, severities and cooldown; never what is asked for, how
    often at most, or of whom. Either of the two switches all of it off.
    """
    found: dict[str, tuple[str, object]] = {}
    for who, wanted in wishes:
        for key, value in wanted.items():
            if key not in _WISHES:
                known = ", ".join(_WISHES)
                raise Misconfigured(f"its {who} wants {clean(key, 60)} of remediation, which it can't: only {known}")
            found.setdefault(key, (f"its {who}'s {key}", value))
            if key == "actions" and value == "off":
                return ()
    actions = tuple(actions)
    if "actions" in found:
        where, names = found["actions"][0], _words(*found["actions"])
        for name in names:
            if name not in [action.name for action in actions]:
                raise Misconfigured(f"{where} has {clean(name, 60)}, which is not among the actions of the settings")
        actions = tuple(action for action in actions if action.name in names)
    for key, parse in (("severities", _severities), ("occurrences", _occurrences), ("cooldown", _cooldown)):
        if key in found:
            changed = parse(*found[key])
            actions = tuple(action._replace(**changed) for action in actions)
    return actions


_WISHES = ("actions", "severities", "occurrences", "cooldown")


def _actions(key: str, given: object, where: str) -> "tuple[Action, ...]":
    if not isinstance(given, dict):
        raise Misconfigured(f"{key} must be an object of names and actions")
    return tuple(_action(f"{key}.{clean(name, 60)}", name, value, where) for name, value in given.items())


def _action(key: str, name: str, value: object, where: str) -> Action:
    example = '{"check": "start_container", "when": {"check": "check_container_state"}}'
    given = Scope({key: value}, key, where, ("check", "when", "cooldown", "budget"), example)
    given.require("check", "when")
    check, of_when = given.text("check"), ("check", "entity", "severities", "occurrences", "output")
    when = Scope({f"{key}.when": given.given["when"]}, f"{key}.when", where, of_when, '{"check": "check_*"}')
    when.require("check")
    if not re.fullmatch(r"[\w.:-]{1,60}", name, re.ASCII) or name == "off":
        raise Misconfigured(f'{key}: an action\'s name is a word, and not "off"')
    if not re.fullmatch(r"(?:[\w.:-]|\{entity\}|\{check\})+", check, re.ASCII) or not _PLACEHOLDER.sub("", check):
        raise Misconfigured(f"{key}.check must be the name of a check of Sensu's, with {{entity}} or {{check}} in it")
    try:
        output = re.compile(when.text("output")) if when.given.get("output") else None
    except re.error as error:
        raise Misconfigured(f"{key}.when.output is no regular expression: {clean(str(error), 80)}") from None
    patterns = {word: _patterns(f"{key}.when.{word}", when.given.get(word, "*")) for word in ("check", "entity")}
    settings = {
        **_severities(f"{key}.when.severities", when.given.get("severities", ["critical"])),
        **_occurrences(f"{key}.when.occurrences", when.given.get("occurrences", [1, 0])),
    }
    budget = _budget(f"{key}.budget", given.given["budget"]) if "budget" in given.given else _BUDGET
    return Action(
        name=name, check=check, patterns=patterns["check"], entities=patterns["entity"], output=output,
        budget=budget[0], budget_seconds=budget[1], cooldown=given.seconds("cooldown", 600, 0, _MONTH), **settings,
    )  # fmt: skip


def _patterns(where: str, value: object) -> "tuple[str, ...]":
    patterns = _words(where, value)
    if not all(patterns) or not patterns:
        raise Misconfigured(f'{where} must be a pattern, such as "check_*", or a list of them')
    return tuple(patterns)


def _severities(where: str, value: object) -> "dict[str, object]":
    words = _words(where, value)
    if not words or not set(words) <= set(_SEVERITIES):
        raise Misconfigured(f'{where} must be a list of "warning" and "critical"')
    return {"severities": tuple(sorted({_SEVERITIES[word] for word in words}))}


def _occurrences(where: str, value: object) -> "dict[str, object]":
    """[1, 3] or "1-3"; [2, 0] or "2-" where there is no end."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,6})\s*-\s*(\d{0,6})\s*", value, re.ASCII)
        value = [int(match[1]), int(match[2] or 0)] if match else None
    if not isinstance(value, list) or len(value) != 2 or [type(one) for one in value] != [int, int]:
        value = [0, 0]
    least, most = value
    if least < 1 or most < 0 or 0 < most < least:
        raise Misconfigured(f'{where} must be the first and the last that count, [1, 3] or "1-3"; [2, 0] has no last')
    return {"least": least, "most": most}


def _cooldown(where: str, value: object) -> "dict[str, object]":
    seconds = parse_duration(value)
    if seconds is None or not 0 <= seconds <= _MONTH:
        raise Misconfigured(f'{where} must be a duration such as "90s", "10m" or "2h"')
    return {"cooldown": seconds}


def _budget(where: str, value: object) -> "tuple[int, float]":
    count, _, window = value.partition("/") if isinstance(value, str) else ("", "", "")
    seconds = parse_duration(window)
    if not re.fullmatch(r"\d{1,4}", count.strip(), re.ASCII) or int(count) < 1 or not seconds or seconds > _MONTH:
        raise Misconfigured(f'{where} must be a number of tries and a time, such as "3/1h"')
    return int(count), seconds


def _words(where: str, value: object) -> "list[str]":
    """A list of texts, or one text with commas, as annotations have it."""
    words = [one.strip() for one in value.split(",")] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(one, str) for one in words):
        raise Misconfigured(f"{where} must be a list of words")
    return words


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _th(count: int) -> str:
    ending = "th" if count // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
    return f"{count}{ending}"
