"""What was asked of Jenkins and what became of it, in an SQLite file.

Nothing is asked before it is written here and safely on the disk, so that many handlers at once, or one that was
killed at any point, ask at most once. The file must lie on a local disk: SQLite's locks do not hold on NFS.
"""

import os
import time
from collections import namedtuple

from .event import Event
from .outcome import clean
from .policy import INTENT, STATES, Act, Hold, Moment, Request
from .store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    Judge = Callable[["Request | None", bool], "Act | Hold"]

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE groups (name TEXT PRIMARY KEY, prefix TEXT NOT NULL UNIQUE) WITHOUT ROWID;
CREATE TABLE requests (
    request_id TEXT PRIMARY KEY, grp TEXT NOT NULL, generation INTEGER NOT NULL, attempt INTEGER NOT NULL,
    state TEXT NOT NULL, job TEXT NOT NULL, entity TEXT NOT NULL, check_name TEXT NOT NULL, queue_item INTEGER,
    detail TEXT NOT NULL, created_wall REAL NOT NULL,
    wall REAL NOT NULL, boot_id TEXT NOT NULL, uptime REAL NOT NULL, UNIQUE (grp, generation)) WITHOUT ROWID;
CREATE TABLE decisions (
    grp TEXT, namespace TEXT, entity TEXT, check_name TEXT, incident TEXT, executed INTEGER,
    wall REAL NOT NULL, word TEXT NOT NULL, code TEXT NOT NULL, request_id TEXT,
    PRIMARY KEY (grp, namespace, entity, check_name, incident, executed)) WITHOUT ROWID;
"""
_KEEP_DECISIONS_SECONDS = 30 * 86400
# A number in Jenkins' queue names the same item only as long as that controller lives; a day is a guess on the long
# side.
_SAME_QUEUE_SECONDS = 86400


class Ticket(namedtuple("Ticket", "request_id attempt created_wall")):
    """The right to ask for one build: the INTENT that was written."""

    __slots__ = ()


class Ledger:
    """The ledger at path, created with its folder where they are missing.

    patience is how many seconds to wait for other handlers. With read_only nothing is created or written, and a
    missing ledger is an empty one. All that can go wrong is raised as LedgerUnusable.
    """

    def __init__(self, path: str, patience: float, read_only: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        first = "look in Jenkins what was asked for lately"
        self._store = Store(path, _SCHEMA, _SCHEMA_VERSION, patience, read_only, first)
        self._db = self._store.db

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        self._store.close()

    def decide(
        self, group: str, event: Event, job: str, now: Moment, judge: "Judge"
    ) -> "tuple[Act | Hold, Ticket | None]":
        """Ask judge(latest request of the group, was this event seen?) and write down what it says, as one step.

        The Ticket comes with an Act: its INTENT is on the disk. None with a Hold, and where the ledger is read_only.
        """
        with self._store.explained():
            if self._read_only:
                return judge(self._latest(group), self._seen(group, event)), None
            with self._store.transaction():
                seen = self._seen(group, event)
                decision = judge(self._latest(group), seen)
                ticket = self._intent(group, event, job, now, decision) if isinstance(decision, Act) else None
                if not seen:
                    word, code = ("HOLD", decision.code) if isinstance(decision, Hold) else ("ACT", "request")
                    self._db.execute(
                        "INSERT INTO decisions VALUES (?,?,?,?,?,?,?,?,?,?)",
                        (*_key(group, event), now.wall, word, code, ticket and ticket.request_id),
                    )
            return decision, ticket

    def settle(self, ticket: Ticket, state: str, now: Moment, queue_item: "int | None", detail: str) -> None:
        """What became of the attempt. One that came back so late that another took over says nothing any more."""
        with self._store.explained():
            self._db.execute(
                "UPDATE requests SET state = ?, wall = ?, boot_id = ?, uptime = ?, detail = ?,"
                " queue_item = coalesce(?, queue_item) WHERE request_id = ? AND attempt = ?",
                (state, *now, detail, queue_item, ticket.request_id, ticket.attempt),
            )

    def shares_queue_item(self, ticket: Ticket, job: str, queue_item: int, now: Moment) -> "str | None":
        """The other recent request of this job that had the same item of Jenkins' queue."""
        with self._store.explained():
            row = self._db.execute(
                "SELECT request_id FROM requests WHERE job = ? AND queue_item = ? AND request_id <> ? AND wall > ?",
                (job, queue_item, ticket.request_id, now.wall - _SAME_QUEUE_SECONDS),
            ).fetchone()
            return str(row[0]) if row else None

    def _latest(self, group: str) -> "Request | None":
        row = self._db.execute(
            "SELECT request_id, generation, attempt, state, wall, boot_id, uptime, created_wall, detail"
            " FROM requests WHERE grp = ? ORDER BY generation DESC LIMIT 1",
            (group,),
        ).fetchone()
        if row is None:
            # A group is written down together with its first request.
            if self._db.execute("SELECT 1 FROM groups WHERE name = ?", (group,)).fetchone():
                raise self._store.damaged(f"the requests of {clean(group, 60)} are lost")
            return None
        request_id, generation, attempt, state, wall, boot_id, uptime, created_wall, detail = row
        # SQLite notices what is wrong with its pages, not what is wrong with the values on them.
        if (
            [type(value) for value in row] != [str, int, int, str, float, str, float, float, str]
            or state not in STATES
            or not request_id.endswith(f"-{generation}")
            or not all(abs(number) < 1 << 40 for number in (generation, attempt, wall, uptime, created_wall))
        ):
            raise self._store.damaged(f"a request of {clean(group, 60)} makes no sense")
        return Request(request_id, generation, attempt, state, Moment(wall, boot_id, uptime), created_wall, detail)

    def _seen(self, group: str, event: Event) -> bool:
        return (
            self._db.execute(
                "SELECT 1 FROM decisions WHERE grp = ? AND namespace = ? AND entity = ? AND check_name = ?"
                " AND incident = ? AND executed = ?",
                _key(group, event),
            ).fetchone()
            is not None
        )

    def _intent(self, group: str, event: Event, job: str, now: Moment, act: Act) -> Ticket:
        if act.previous is not None:
            ticket = Ticket(act.previous.request_id, act.previous.attempt + 1, act.previous.created_wall)
            # The outcome of the attempt before stays to be read until this one has its own.
            self._db.execute(
                "UPDATE requests SET attempt = ?, state = ?, wall = ?, boot_id = ?, uptime = ? WHERE request_id = ?",
                (ticket.attempt, INTENT, *now, ticket.request_id),
            )
            return ticket
        self._db.execute("DELETE FROM decisions WHERE wall < ?", (now.wall - _KEEP_DECISIONS_SECONDS,))
        # Random, so that a ledger begun anew does not repeat the ids of the lost one: to the job, a known id is done
        # work.
        self._db.execute("INSERT OR IGNORE INTO groups VALUES (?, ?)", (group, os.urandom(5).hex()))
        row = self._db.execute("SELECT prefix FROM groups WHERE name = ?", (group,)).fetchone()
        if row is None:
            raise self._store.damaged(f"{clean(group, 60)} can't be written to it")
        ticket = Ticket(f"lxc-{row[0]}-{act.generation}", 1, now.wall)
        self._db.execute(
            "INSERT INTO requests VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (ticket.request_id, group, act.generation, 1, INTENT, job, event.entity, event.check, None, "",
             now.wall, *now),
        )  # fmt: skip
        return ticket


def moment() -> Moment:
    """Now, by each of the clocks that policy.elapsed() compares."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot_id = file.read().decode().strip()
    except OSError:
        boot_id = ""
    return Moment(time.time(), boot_id, time.clock_gettime(time.CLOCK_BOOTTIME))


def _key(group: str, event: Event) -> "tuple[str, str, str, str, str, int]":
    return group, event.namespace, event.entity, event.check, event.incident, event.executed
