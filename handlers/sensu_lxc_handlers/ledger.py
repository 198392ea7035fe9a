"""Where the fleets are kept (fleet.py: what was asked of Jenkins and what became of it), in an SQLite file.

Nothing is asked before it is written here and safely on the disk, so that many handlers at once, or one that was
killed at any point, ask at most once. The file must lie on a local disk: SQLite's locks do not hold on NFS.
"""

import os
import time
import zlib
from collections import namedtuple

from . import fleet as fleets
from .event import Event
from .fleet import Fleet, Moment, Request
from .outcome import clean
from .policy import Act, Hold, intended, settled
from .store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    Judge = Callable[[Fleet, bool], "Act | Hold"]

_SCHEMA_VERSION = 2
# A check of the document's bytes, as SQLite notices what is wrong with its pages, not with the values on them.
_SCHEMA = """
CREATE TABLE fleets (grp TEXT PRIMARY KEY, document TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE decisions (
    grp TEXT, namespace TEXT, entity TEXT, check_name TEXT, incident TEXT, executed INTEGER,
    wall REAL NOT NULL, word TEXT NOT NULL, code TEXT NOT NULL, text TEXT NOT NULL, request_id TEXT,
    PRIMARY KEY (grp, namespace, entity, check_name, incident, executed)) WITHOUT ROWID;
CREATE INDEX decisions_by_time ON decisions (wall);
CREATE TABLE changes (
    grp TEXT NOT NULL, request_id TEXT NOT NULL, wall REAL NOT NULL, state TEXT NOT NULL, detail TEXT NOT NULL);
CREATE INDEX changes_by_time ON changes (wall);
"""
_KEEP_SECONDS = 30 * 86400
# A number in Jenkins' queue names the same item only as long as that controller lives; a day is a guess on the long
# side.
_SAME_QUEUE_SECONDS = 86400

# What was decided on one alert (key: see _key) or by a look of the reconciler (no alert, all of them "").
Decision = namedtuple("Decision", "group namespace entity check executed wall word code text request_id")
# One change of a request's state.
Change = namedtuple("Change", "group request_id wall state detail")


class Ledger:
    """The ledger at path, created with its folder where they are missing.

    patience is how many seconds to wait for other handlers. With read_only nothing is created or written, and a
    missing ledger is an empty one. All that can go wrong is raised as LedgerUnusable. is_new: it was begun just now.
    """

    def __init__(self, path: str, patience: float, read_only: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        first = "look in Jenkins what was asked for lately"
        self._store = Store(path, _SCHEMA, _SCHEMA_VERSION, patience, read_only, first)
        self._db, self.is_new = self._store.db, self._store.is_new

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        self._store.close()

    def moment(self) -> Moment:
        """Now, by the clocks that all who use this ledger share."""
        return moment()

    def decide(
        self, group: str, event: Event, job: str, now: Moment, judge: "Judge"
    ) -> "tuple[Act | Hold, Request | None]":
        """Ask judge(fleet, was this event seen?) and write down what it says, as one step.

        The Request comes with an Act: its INTENT is on the disk. None with a Hold, and where the ledger is read_only.
        """
        with self._store.explained():
            if self._read_only:
                return judge(self._fleet(group), self._seen(group, event)), None
            with self._store.transaction():
                fleet, seen = self._fleet(group), self._seen(group, event)
                decision, request = judge(fleet, seen), None
                if isinstance(decision, Act):
                    self._forget(now.wall)
                    fleet, request = intended(fleet, decision, event, job, now)
                    self._put(group, fleet)
                    self._note(group, request, now.wall)
                if not seen:
                    told = ("HOLD", *decision) if isinstance(decision, Hold) else ("ACT", "request", "")
                    self._db.execute(
                        "INSERT INTO decisions VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                        (*_key(group, event), now.wall, *told, request and request.request_id),
                    )
            return decision, request

    def settle(
        self, group: str, asked: Request, state: str, now: Moment, queue_item: "int | None", detail: str
    ) -> None:
        """What became of an attempt. One that came back so late that another took over says nothing any more."""
        self.change(group, now, lambda fleet: settled(fleet, asked, state, now, queue_item, detail))

    def change(self, group: str, now: Moment, change: "Callable[[Fleet], Fleet]") -> Fleet:
        """Replace the fleet of a group by change(fleet), as one step; the fleet as it is then.

        Each change of a request's state in it is noted for the report.
        """
        with self._store.explained():
            if self._read_only:
                return change(self._fleet(group))
            with self._store.transaction():
                before = self._fleet(group)
                after = change(before)
                if after != before:
                    self._put(group, after)
                    known = {one.request_id: one.state for one in before.requests}
                    for one in after.requests:
                        if known.get(one.request_id) != one.state:
                            self._note(group, one, now.wall)
            return after

    def fleets(self) -> "dict[str, Fleet]":
        """{group: its fleet} of all groups."""
        with self._store.explained():
            names = [str(row[0]) for row in self._db.execute("SELECT grp FROM fleets ORDER BY grp").fetchall()]
            return {name: self._fleet(name) for name in names}

    def note(self, group: str, now: Moment, decision: "Act | Hold", request_id: "str | None") -> None:
        """Keep a decision that no alert asked for, where it is another one than the latest such."""
        with self._store.explained(), self._store.transaction():
            told = tuple(decision) if isinstance(decision, Hold) else ("request", "")
            word = "HOLD" if isinstance(decision, Hold) else "ACT"
            last = self._db.execute(
                "SELECT word, code, request_id FROM decisions WHERE grp = ? AND check_name = '' ORDER BY wall DESC"
                " LIMIT 1",
                (group,),
            ).fetchone()
            if last != (word, told[0], request_id):
                self._db.execute(
                    "INSERT OR REPLACE INTO decisions VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                    (group, "", "", "", "", int(now.wall * 1000), now.wall, word, *told, request_id),
                )

    def decisions(self, since_wall: float) -> "list[Decision]":
        """Those since then, oldest first."""
        with self._store.explained():
            return [
                Decision(*row)
                for row in self._db.execute(
                    "SELECT grp, namespace, entity, check_name, executed, wall, word, code, text, request_id"
                    " FROM decisions WHERE wall >= ? ORDER BY wall",
                    (since_wall,),
                )
            ]

    def changes(self, since_wall: float) -> "list[Change]":
        """Those since then, oldest first."""
        with self._store.explained():
            rows = self._db.execute(
                "SELECT grp, request_id, wall, state, detail FROM changes WHERE wall >= ? ORDER BY wall, rowid",
                (since_wall,),
            )
            return [Change(*row) for row in rows]

    def shares_queue_item(self, asked: Request, queue_item: int, now: Moment) -> "str | None":
        """The other recent request of this job that had the same item of Jenkins' queue."""
        for fleet in self.fleets().values():
            for one in fleet.requests:
                if (
                    (one.job, one.queue_item) == (asked.job, queue_item)
                    and one.request_id != asked.request_id
                    and one.asked.wall > now.wall - _SAME_QUEUE_SECONDS
                ):
                    return str(one.request_id)
        return None

    def _fleet(self, group: str) -> Fleet:
        row = self._db.execute("SELECT document, crc FROM fleets WHERE grp = ?", (group,)).fetchone()
        if row is None:
            # A fleet is written down together with its first decision to act.
            if self._db.execute("SELECT 1 FROM decisions WHERE grp = ? AND word = 'ACT'", (group,)).fetchone():
                raise self._store.damaged(f"the requests of {clean(group, 60)} are lost")
            # Random, so that a ledger begun anew does not repeat the ids of the lost one: to the job, a known id is
            # done work.
            return Fleet(os.urandom(5).hex(), 0, ())
        document, crc = row
        if type(document) is not str or zlib.crc32(document.encode()) != crc:
            raise self._store.damaged(f"the requests of {clean(group, 60)} are not as they were written")
        try:
            return fleets.from_text(document)
        except ValueError as error:
            raise self._store.damaged(f"the requests of {clean(group, 60)}: {error}") from None

    def _put(self, group: str, fleet: Fleet) -> None:
        document = fleets.to_text(fleet)
        self._db.execute(
            "INSERT OR REPLACE INTO fleets VALUES (?, ?, ?)", (group, document, zlib.crc32(document.encode()))
        )

    def _note(self, group: str, one: Request, wall: float) -> None:
        self._db.execute("INSERT INTO changes VALUES (?,?,?,?,?)", (group, one.request_id, wall, one.state, one.detail))

    def _seen(self, group: str, event: Event) -> bool:
        return (
            self._db.execute(
                "SELECT 1 FROM decisions WHERE grp = ? AND namespace = ? AND entity = ? AND check_name = ?"
                " AND incident = ? AND executed = ?",
                _key(group, event),
            ).fetchone()
            is not None
        )

    def _forget(self, wall: float) -> None:
        self._db.execute("DELETE FROM decisions WHERE wall < ?", (wall - _KEEP_SECONDS,))
        self._db.execute("DELETE FROM changes WHERE wall < ?", (wall - _KEEP_SECONDS,))


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
