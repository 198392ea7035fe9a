"""What was mailed last about a check, and whether an event is news since then.

An alert that nobody reads is worse than one that is read twice. So a mail is remembered after it was sent, never
before: who is killed in between leads to a second mail (under the same Message-ID, by which most mailboxes show it
once). And where nothing can be remembered, on a full disk say, each event is judged by what it itself tells of the one
before it, and mailed.

What must not happen twice is kept apart by a lock of the kernel, which ends with the process that holds it, however
that ends: while a handler sends, others wait that would mail about the same check.
"""

import binascii
import fcntl
import os
import sqlite3
from collections import namedtuple

from . import event as events
from .event import Event
from .fleet import Moment, elapsed
from .outcome import LedgerUnusable, clean
from .policy import Hold, duration
from .store import Explained, check_writable

OK, FLAPPING = "OK", "FLAPPING"
# Beside a severity, where it isn't what a check found out: Sensu itself misses its results.
UNHEARD = ", not heard of"

# Handlers run side by side, so what was first may come second; but a clock that was set back must not silence a check.
_LATE_SECONDS = 60
_HISTORY = 21  # runs that Sensu Go remembers
_KEEP_RECOVERED_SECONDS = 30 * 86400
_KEEP_SECONDS = 400 * 86400  # of what never recovered, as its container was removed

_DAMAGED = "it is damaged; move it and its -journal away, and each incident that lasts is mailed once more"
_VERSION = 0x6D61_0002  # "ma" 2: neither another program's file nor the other handler's ledger
_NEW = (
    """CREATE TABLE mailed (
    scope TEXT, namespace TEXT, entity TEXT, check_name TEXT,
    state TEXT NOT NULL, incident TEXT NOT NULL, executed INTEGER NOT NULL, mails INTEGER NOT NULL,
    began REAL NOT NULL, first_id TEXT NOT NULL, last_id TEXT NOT NULL,
    owed TEXT NOT NULL, wall REAL NOT NULL, boot_id TEXT NOT NULL, uptime REAL NOT NULL,
    PRIMARY KEY (scope, namespace, entity, check_name)) WITHOUT ROWID""",
    "CREATE TABLE latest_try (id INTEGER PRIMARY KEY CHECK (id = 1), wall REAL NOT NULL)",
    f"PRAGMA user_version = {_VERSION}",
)


class Key(namedtuple("Key", "scope namespace entity check")):
    """What is remembered apart from each other: all texts."""

    __slots__ = ()


class Mailed(namedtuple("Mailed", "state incident executed mails began first_id last_id owed at")):
    """The latest mail about a check.

    state     OK, FLAPPING, or a severity, with UNHEARD behind it where that is so
    incident  what tells one incident from the next, see incident_of()
    executed  when the check ran that it told of, 0 where nobody knows
    mails     how many there were about this incident, so that each has an id of its own
    began     when the first of them was sent, in seconds since the epoch
    first_id, last_id  Message-IDs of the first and of this one
    owed      addresses with commas between them, to which it could not be sent for now; "" where all have it
    at        the Moment of this one
    """

    __slots__ = ()


class News(namedtuple("News", "state change since reminder is_owed", defaults=(False,))):
    """Worth a mail. change: in words; since: the Mailed that it follows in the same incident, or None.

    is_owed: it is since itself, once more for those alone who did not get it.
    """

    __slots__ = ()


def severity(status: "int | None") -> str:
    return {0: OK, 1: "WARNING", 2: "CRITICAL"}.get(status, "UNKNOWN")  # type: ignore[arg-type]


def state_of(event: Event) -> str:
    if event.flapping:
        return FLAPPING
    if event.resolved or event.status == 0:
        return OK
    return severity(event.status) + (UNHEARD if event.kind == events.TTL else "")


def incident_of(event: Event) -> str:
    """Core names an incident. Go tells when the check was OK last, which changes with every recovery.

    So an incident is known for a new one also where the recovery before it came by no handler: silenced, filtered, or
    while the server was down.
    """
    if event.incident:
        return str(event.incident)
    check = event.document.get("check")
    last_ok = check.get("last_ok") if isinstance(check, dict) else None
    return str(last_ok) if isinstance(last_ok, int) else ""


def no_news(event: Event) -> "Hold | None":
    """Why the event can't be worth a mail, whatever was mailed before; None where it may be."""
    if event.kind == events.METRICS:
        return Hold("metrics", "it carries metrics and no check")
    if event.kind in (events.REGISTRATION, events.DEREGISTRATION):
        return Hold(event.kind, "that a host came or went on purpose is no incident")
    if event.silenced:
        return Hold("silenced", "somebody silenced it")
    return None


def decide(
    event: Event, last: "Mailed | None", now: Moment, remind: float, severities: "frozenset[str]"
) -> "News | Hold":
    """Whether event is news after the last mail about its check. remind: seconds between reminders, 0 for none."""
    state, incident = state_of(event), incident_of(event)
    told = last.state if last else OK
    since = elapsed(last.at, now) if last else 0.0
    ago = f"{duration(since)} ago"
    if state == OK:
        if last and told == OK and last.owed:
            return News(OK, OK, last, False, True)
        if told == OK or last is None:
            return Hold("ok", "nothing is wrong, and nothing was mailed that would have to be taken back")
        return News(OK, f"OK, was {told}", last, False)
    if last and _is_late(event, state, last, since):
        return Hold("late", f"what came after it was mailed {ago}")
    # While it flaps, a check is OK in between, so that in Go each time would look like another incident.
    flaps = FLAPPING in (state, told) and not event.incident
    lasts = last is not None and told != OK and (last.incident == incident or flaps) and not _began_since(event, last)
    if last and lasts and told == state:
        if remind and since >= remind:
            return News(state, f"still {state} after {duration(max(0.0, now.wall - last.began))}", last, True)
        if last.owed:
            return News(state, state, last, False, True)
        left = f", reminder in {duration(remind - since)}" if remind else ""
        return Hold("no-change", f"{state} was mailed {ago}{left}")
    statuses = (*event.history, event.status) if state == FLAPPING else (event.status,)
    if not any(severity(status).lower() in severities for status in statuses):
        return Hold("severity", f"only {', '.join(sorted(severities))} is mailed")
    if last and lasts:
        return News(state, f"{state}, was {told}", last, False)
    return News(state, state, None, False)


def without_memory(event: Event, now: Moment, severities: "frozenset[str]") -> "News | Hold":
    """decide() for want of a memory. A Hold then says nothing of what was mailed: nobody knows."""
    news = decide(event, _told_by_itself(event, now), now, 0, severities)
    if isinstance(news, Hold) and news.code != "severity":
        return Hold(news.code, f"nothing is mailed, as by its own account it was {state_of(event)} before already")
    return news


def _told_by_itself(event: Event, now: Moment) -> "Mailed | None":
    """What the event says of the one before it, as if that had been mailed: for want of a memory."""
    state = state_of(event)
    if state == FLAPPING or (event.occurrences or 1) > 1:
        before = state
    else:
        before = severity(event.history[-2]) if len(event.history) > 1 else OK
    if before == OK:
        return None
    return Mailed(before, incident_of(event), 0, 1, now.wall, "", "", "", now)


class Memory:
    """What was mailed about key, in the file at path, which is made with its folder where it is missing.

    patience is how many seconds to wait for the disk. All that can go wrong is raised as LedgerUnusable.
    """

    def __init__(self, path: str, key: Key, patience: float) -> None:
        self._path, self._key, self._patience = path, key, patience
        self._lock = -1

    def peek(self) -> "Mailed | None":
        """The latest mail, for a dry run: nothing is made, nobody is waited for, but what could not be made is told."""
        for path in (self._path, self._path + ".lock"):
            check_writable(path, self._named(), "state_file")
        with self._explained():
            there = os.path.exists(self._path) and os.path.getsize(self._path)
            return self._latest("ro") if there else None

    def recall(self) -> "Mailed | None":
        """The latest mail, once no other handler is at it. From here to forgo() this one has the key for itself."""
        with self._explained():
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            # A file of its own: SQLite's locks on the other would end as soon as this one were closed.
            self._lock = os.open(self._path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # One byte for each key, far behind the end of the file. Two keys that share one merely wait for each other.
            fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, binascii.crc32(repr(tuple(self._key)).encode()))
            # SQLite gives its journal the mode of the file: nobody else ever reads either.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            return self._latest("rw")

    def can_remember(self) -> None:
        """Raises LedgerUnusable where a mail could not be remembered: before it is sent, so that not each is."""
        self._write("INSERT OR REPLACE INTO latest_try VALUES (1, ?)", (0,))

    def remember(self, mailed: Mailed) -> None:
        row = (*self._key, *mailed[:-1], *mailed.at)
        self._write(f"INSERT OR REPLACE INTO mailed VALUES ({','.join('?' * len(row))})", row, mailed.at)

    def forgo(self) -> None:
        """Let others at the key."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _open(self, mode: str) -> sqlite3.Connection:
        quoted = self._path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        db = sqlite3.connect(f"file://{quoted}?mode={mode}", timeout=self._patience, isolation_level=None, uri=True)
        version = _version(db)
        if version == 0 and mode == "rw":
            db.execute("BEGIN IMMEDIATE")
            # An empty file is one that is only begun, or was lost. Unlike a ledger, this may begin anew: what lasts is
            # mailed once more.
            if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in _NEW:
                    db.execute(statement)
            db.execute("COMMIT")
            version = _version(db)
        if version != _VERSION:
            db.close()
            raise LedgerUnusable(f"{self._named()} is of another program or version: name another `state_file`")
        return db

    def _latest(self, mode: str) -> "Mailed | None":
        db = self._open(mode)
        try:
            row = db.execute(
                "SELECT state, incident, executed, mails, began, first_id, last_id, owed, wall, boot_id, uptime"
                " FROM mailed WHERE scope = ? AND namespace = ? AND entity = ? AND check_name = ?",
                self._key,
            ).fetchone()
        finally:
            db.close()
        if row is None:
            return None
        # SQLite notices what is wrong with its pages, not what is wrong with the values on them.
        if [type(value) for value in row] != [str, str, int, int, float, str, str, str, float, str, float] or not all(
            value.isprintable() if isinstance(value, str) else abs(value) < 1 << 53 for value in row
        ):
            raise sqlite3.DatabaseError("a mail in it makes no sense")
        *told, wall, boot_id, uptime = row
        return Mailed._make((*told, Moment(wall, boot_id, uptime)))

    def _write(self, statement: str, values: "tuple[object, ...]", now: "Moment | None" = None) -> None:
        with self._explained():
            db = self._open("rw")
            try:
                db.execute("BEGIN IMMEDIATE")
                db.execute(statement, values)
                if now:
                    old = (now.wall - _KEEP_RECOVERED_SECONDS, OK, now.wall - _KEEP_SECONDS)
                    db.execute("DELETE FROM mailed WHERE (wall < ? AND state = ?) OR wall < ?", old)
                db.execute("COMMIT")
            finally:
                db.close()  # which rolls back what was not committed

    def _named(self) -> str:
        return f"{clean(self._path)}, which remembers what was mailed"

    def _explained(self) -> Explained:
        return Explained(self._named(), "state_file", _DAMAGED)


def _version(db: sqlite3.Connection) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def _began_since(event: Event, last: Mailed) -> bool:
    """Whether all that Sensu knows of the check came after that mail: it was deleted meanwhile, and made anew.

    In Go two incidents have one name where neither life of the check had an OK before. An event that was mailed is in
    the history until that is full, so it can't be the same life.
    """
    if event.incident or not last.executed or last.state.endswith(UNHEARD):  # that is by the server's clock
        return False
    check = event.document.get("check")
    history = check.get("history") if isinstance(check, dict) else None
    if not isinstance(history, list) or not 0 < len(history) < _HISTORY:
        return False
    times = [one.get("executed") for one in history if isinstance(one, dict)]
    if len(history) == 1 and event.occurrences == 1 and times in ([], [None]):
        times = [event.executed]
    return times[-1:] == [event.executed] and all(type(time) is int and time > last.executed for time in times)


def _is_late(event: Event, state: str, last: Mailed, since: float) -> bool:
    """Whether the failure came to pass before what was mailed a moment ago.

    Only of failures: the next one puts a false recovery right, whereas in Core nothing comes after a false failure.
    """
    # The server's clock and that of a check's host can't be compared.
    unheard = state.endswith(UNHEARD) or last.state.endswith(UNHEARD)
    return bool(event.executed and not unheard and event.executed < last.executed and since < _LATE_SECONDS)
