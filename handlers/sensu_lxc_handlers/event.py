"""A Sensu event in one shape, whether Sensu Core 1.x or Sensu Go sent it.

Written from events that Sensu 1.9.0 and Sensu Go 6.12.0 put on a handler's STDIN; see tests/recordings/.
"""

import json
import re
from collections import namedtuple

from .outcome import BadEvent, clean

# What an event tells of. Only CHECK is something that a check found out about what it watches.
CHECK, METRICS, KEEPALIVE, REGISTRATION, DEREGISTRATION, TTL, TIMED_OUT = (
    "check", "metrics", "keepalive", "registration", "deregistration", "ttl", "timed-out")  # fmt: skip

# Sensu's own words in place of a check's output.
_TTL_OUTPUT = re.compile(r"Last check execution was \d+ seconds ago")
_TIMEOUT_OUTPUT = "Execution timed out"


class Event(namedtuple(
    "Event", "kind entity check namespace incident status executed silenced flapping resolved runner history"
    " occurrences output document", defaults=("", (), None, "", {}))):  # fmt: skip
    """One event.

    kind       one of the words above
    entity     name of the client (Core) or entity (Go): of the container where it has one of its own, else of its host
    check      name of the check, "" where only metrics came
    namespace  Go's namespace, "" in Core
    incident   Core's event id, which stays the same through an incident; "" in Go, whose id is of the one event
    status     exit status as an int, or None where there was none that is a number
    executed   when the check ran, in seconds since the epoch by the clock of who ran it, or None
    silenced, flapping, resolved  bool
    runner     name of the client or entity that ran the check, "" where nobody tells: never that of a proxy
    history    the statuses of the latest runs, oldest first, this one last; severities follow each other as they came
    occurrences  how often in a row it had this status, or None
    output     what the check printed, "" where it printed nothing
    document   the event as it was sent, for what a handler's own settings may name in it
    """

    __slots__ = ()

    @classmethod
    def from_sensu(cls, document: object) -> "Event":
        """The event of a decoded JSON document. Raises BadEvent where it is none."""
        if not isinstance(document, dict):
            raise BadEvent("the event is not a JSON object")
        check, names = _dict(document, "check"), _dict(document, "entity") or _dict(document, "client")
        metadata = _dict(names, "metadata")
        entity = _text(metadata.get("name")) or _text(names.get("name"))
        if not entity:
            raise BadEvent("the event names neither a client (Sensu Core) nor an entity (Sensu Go)")
        if not check and not document.get("metrics"):
            raise BadEvent(f"the event of {clean(entity, 60)} has no check and no metrics")
        check_metadata = _dict(check, "metadata")
        name = _text(check_metadata.get("name")) or _text(check.get("name"))
        if check and not name:
            raise BadEvent(f"the event of {clean(entity, 60)} does not name its check")
        status, state, action = check.get("status"), check.get("state"), document.get("action")
        # Core says silenced and silenced_by beside the check, Go is_silenced and silenced in it.
        silenced = any((document.get("silenced"), document.get("silenced_by"),
                        check.get("is_silenced"), check.get("silenced")))  # fmt: skip
        return cls(
            kind=_kind(name, check),
            entity=entity,
            check=name,
            namespace=_text(check_metadata.get("namespace")) or _text(metadata.get("namespace")),
            incident="" if "entity" in document else _text(document.get("id")),
            status=status if type(status) is int else None,
            executed=_seconds(check.get("executed")) or _seconds(check.get("issued")),
            silenced=silenced,
            flapping=action == "flapping" or state == "flapping",
            resolved=action == "resolve" or state == "passing",
            runner=_runner(check, names),
            history=_history(check.get("history")),
            # In Core's check it is what the definition wants, for a filter.
            occurrences=_count((check if "entity" in document else document).get("occurrences")),
            output=_text(check.get("output")),
            document=document,
        )

    @property
    def is_proxy(self) -> bool:
        """Whether it is of somebody who runs nothing: a container's results, handed in by its host."""
        return bool(self.runner != self.entity)

    def wishes(self, scope: str, handler: str) -> "list[tuple[str, dict[str, object]]]":
        """What its check, then its client or entity, want of a handler: (who, {setting: value}), the first one wins.

        Sensu Core: an object under the settings' scope in the definition. Sensu Go: annotations
        sensu.io/plugins/HANDLER/config/SETTING, whose values are texts, as sensu-plugin-sdk has them.
        """
        names = _dict(self.document, "entity") or _dict(self.document, "client")
        found = []
        for who, thing in (("check", _dict(self.document, "check")), ("entity", names)):
            wanted = dict(_dict(thing, scope))
            prefix = f"sensu.io/plugins/{handler}/config/"
            for key, value in _dict(_dict(thing, "metadata"), "annotations").items():
                if key.startswith(prefix):
                    wanted[key[len(prefix) :].replace("-", "_")] = value
            if wanted:
                found.append((who, wanted))
        return found

    def __str__(self) -> str:
        severity = {0: "OK", 1: "WARNING", 2: "CRITICAL"}.get(self.status, "UNKNOWN")
        if self.kind == METRICS:
            return f"{clean(self.entity, 80)} metrics"
        return f"{clean(self.entity, 80)}/{clean(self.check, 80)} {severity}"


def parse(text: bytes) -> Event:
    """The event that a handler read from STDIN. Raises BadEvent, which shows the beginning of what was read.

    Stricter than Python's json: NaN and Infinity are no JSON, and a number of thousands of digits is an attack.
    """
    try:
        # Not the codec that knows byte order marks: it is loaded for this alone.
        known = text.decode("utf-8", "replace").lstrip("\ufeff")
        document = json.loads(known, parse_constant=_no_number, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else clean(str(error), 80)
        start = clean(text[:120].decode("utf-8", "replace"), 80)
        raise BadEvent(f"STDIN held no JSON ({why}): it began with '{start}'" if text.strip() else
                       "STDIN was empty: a handler expects an event there, see --help") from None  # fmt: skip
    return Event.from_sensu(document)


def _kind(name: str, check: dict) -> str:  # type: ignore[type-arg]
    output = _text(check.get("output")).lstrip()
    if not check:
        return METRICS
    if name in (KEEPALIVE, REGISTRATION, DEREGISTRATION):
        return name
    if _TTL_OUTPUT.match(output):
        return TTL
    if output.startswith(_TIMEOUT_OUTPUT):
        return TIMED_OUT
    return CHECK


def _runner(check: dict, names: dict) -> str:  # type: ignore[type-arg]
    """Go says processed_by, Core origin where it is not the client itself.

    Core says that a proxy was its own runner where it missed its result, and so does who hands it in by that name.
    """
    told = _text(check.get("processed_by")) or _text(check.get("origin"))
    name = _text(_dict(names, "metadata").get("name")) or _text(names.get("name"))
    if names.get("type") == "proxy" or names.get("entity_class") == "proxy":
        return told if told != name else ""
    return told or name


def _history(value: object) -> "tuple[int, ...]":
    """Core has texts, Go objects with the status in them. What is no status is left out with all before it."""
    found: list[int] = []
    for entry in value if isinstance(value, list) else []:
        status = entry.get("status") if isinstance(entry, dict) else entry
        if isinstance(status, str) and status.isascii() and status.isdigit() and len(status) < 5:
            status = int(status)
        if type(status) is int:
            found.append(status)
        else:
            found.clear()
    return tuple(found)


def _count(value: object) -> "int | None":
    return value if type(value) is int and value > 0 else None


def _dict(parent: dict, key: str) -> dict:  # type: ignore[type-arg]
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    """value where it is a text that can be encoded (JSON may hold lone surrogates), else ""."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _seconds(value: object) -> "int | None":
    """A time as whole seconds, where it is one; 0 is Go's way to say never."""
    return int(value) if isinstance(value, (int, float)) and 1 <= value < 2**53 and value is not True else None


def _no_number(word: str) -> object:
    raise ValueError(f"{word} is not a JSON number")


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
