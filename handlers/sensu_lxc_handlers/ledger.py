"""Where the fleets are kept (fleet.py: what was asked of Jenkins and what became of it): in an SQLite file.

Nothing is asked before it is written here and safely on the disk, so that many handlers at once, or one that was
killed at any point, ask at most once. The file must lie on a local disk: SQLite's locks do not hold on NFS. Where
several servers handle events, ledger_redis.py does the same.
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
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Any

    Judge = Callable[[Fleet, bool], "Act | Hold"]
    # group, namespace, entity, check, incident, executed
    Key = tuple[str, str, str, str, str, int]

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
KEEP_SECONDS = 30 * 86400
# What is to be done before a ledger that is lost or damaged is begun anew.
FIRST = "look in Jenkins what was asked for lately"
# A number in Jenkins' queue names the same item only as long as that controller lives, and an item stays in the queue.
_SAME_QUEUE_SECONDS = 600

# What was decided on one alert (key: see _key) or by a look of the reconciler (no alert, all of them "").
Decision = namedtuple("Decision", "group namespace entity check executed wall word code text request_id")
# One change of a request's state.
Change = namedtuple("Change", "group request_id wall state detail")


class Book:
    """What a ledger does, whatever keeps it. A subclass reads and writes: _step(), _peek(), fleets(), note(), …

    All that can go wrong is raised as LedgerUnusable. is_new: it was begun just now; notes: what is odd about it,
    sentences for an operator.
    """

    is_new = False
    notes: "Sequence[str]" = ()

    def __enter__(self) -> "Book":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        raise NotImplementedError

    def moment(self) -> Moment:
        """Now, by the clocks that all who use this ledger share."""
        raise NotImplementedError

    def decide(
        self, group: str, event: Event, job: str, now: Moment, judge: "Judge", scope: str = ""
    ) -> "tuple[Act | Hold, Request | None]":
        """Ask judge(fleet, was this event seen?) and write down what it says, as one step.

        The Request comes with an Act: its INTENT is on the disk. None with a Hold, and where the ledger is read_only.
        scope is that of the settings. judge may be asked again, where somebody else was faster.
        """

        def work(fleet: Fleet, seen: bool) -> "Step":
            decision, request = judge(fleet, seen), None
            if isinstance(decision, Act):
                fleet, request = intended(fleet, decision, event, job, now, scope)
            told = None if seen else _told(_key(group, event), now, decision, request and request.request_id)
            return Step((decision, request), fleet, told)

        (decision, request), written = self._step(group, _key(group, event), now, work)
        return decision, request if written else None

    def peek(self, group: str, event: Event) -> "tuple[Fleet, bool]":
        """(the fleet, was this event seen?) as decide() would hand them over now. Nothing is locked."""
        return self._peek(group, _key(group, event))

    def settle(
        self, group: str, asked: Request, state: str, now: Moment, queue_item: "int | None", detail: str
    ) -> None:
        """What became of an attempt. One that came back so late that another took over says nothing any more."""
        self.change(group, now, lambda fleet: settled(fleet, asked, state, now, queue_item, detail))

    def change(self, group: str, now: Moment, change: "Callable[[Fleet], Fleet]") -> Fleet:
        """Replace the fleet of a group by change(fleet), as one step; the fleet as it is then.

        Each change of a request's state in it is noted for the report. change may be called again, where somebody else
        was faster.
        """

        def work(fleet: Fleet, seen: bool) -> "Step":
            after = change(fleet)
            return Step(after, after, None)

        return self._step(group, None, now, work)[0]  # type: ignore[no-any-return]

    def note(self, group: str, now: Moment, decision: "Act | Hold", request_id: "str | None") -> None:
        """Keep a decision that no alert asked for, where it is another one than the latest such."""
        key = (group, "", "", "", "", int(now.wall * 1000))
        self._keep(group, _told(key, now, decision, request_id), key)

    def fleets(self) -> "dict[str, Fleet]":
        """{group: its fleet} of all groups."""
        raise NotImplementedError

    def decisions(self, since_wall: float) -> "list[Decision]":
        """Those since then, oldest first."""
        raise NotImplementedError

    def changes(self, since_wall: float) -> "list[Change]":
        """Those since then, oldest first."""
        raise NotImplementedError

    def shares_queue_item(self, asked: Request, queue_item: int, now: Moment) -> "str | None":
        """The other recent request of this job that had the same item of Jenkins' queue."""
        for fleet in self.fleets().values():
            for one in fleet.requests:
                if (
                    (one.job, one.queue_item) == (asked.job, queue_item)
                    and one.request_id != asked.request_id
                    and (one.is_of(asked.scope) or not asked.scope)  # each scope may have a Jenkins of its own
                    and one.asked.wall > now.wall - _SAME_QUEUE_SECONDS
                ):
                    return str(one.request_id)
        return None

    def _step(
        self, group: str, key: "Key | None", now: Moment, work: "Callable[[Fleet, bool], Step]"
    ) -> "tuple[Any, bool]":
        """(result of work(fleet, was the event of key seen?), is it written down). Nobody else's step comes between."""
        raise NotImplementedError

    def _peek(self, group: str, key: "Key") -> "tuple[Fleet, bool]":
        raise NotImplementedError

    def _keep(self, group: str, told: Decision, key: "Key") -> None:
        raise NotImplementedError


# What becomes of one step: its result, the fleet as it is then, and the Decision to keep or None.
Step = namedtuple("Step", "result fleet told")


class Ledger(Book):
    """The ledger in the SQLite file at path, created with its folder where they are missing.

    patience is how many seconds to wait for other handlers. With read_only nothing is created or written, and a
    missing ledger is an empty one.
    """

    def __init__(self, path: str, patience: float, read_only: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        self._store = Store(path, _SCHEMA, _SCHEMA_VERSION, patience, read_only, FIRST)
        self._db, self.is_new = self._store.db, self._store.is_new

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        self._store.close()

    def moment(self) -> Moment:
        return moment()

    def fleets(self) -> "dict[str, Fleet]":
        with self._store.explained():
            names = [str(row[0]) for row in self._db.execute("SELECT grp FROM fleets ORDER BY grp").fetchall()]
            return {name: self._fleet(name) for name in names}

    def decisions(self, since_wall: float) -> "list[Decision]":
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
        with self._store.explained():
            rows = self._db.execute(
                "SELECT grp, request_id, wall, state, detail FROM changes WHERE wall >= ? ORDER BY wall, rowid",
                (since_wall,),
            )
            return [Change(*row) for row in rows]

    def _step(
        self, group: str, key: "Key | None", now: Moment, work: "Callable[[Fleet, bool], Step]"
    ) -> "tuple[Any, bool]":
        with self._store.explained():
            if self._read_only:
                return work(*self._peek(group, key)).result, False
            with self._store.transaction():
                before, seen = self._peek(group, key)
                result, after, told = work(before, seen)
                if after != before:
                    self._forget(now.wall)
                    document = fleets.to_text(after)
                    self._db.execute(
                        "INSERT OR REPLACE INTO fleets VALUES (?, ?, ?)",
                        (group, document, zlib.crc32(document.encode())),
                    )
                    self._db.executemany(
                        "INSERT INTO changes VALUES (?,?,?,?,?)", changed(group, before, after, now.wall)
                    )  # fmt: skip
                if told and key:
                    self._insert(key, told)
            return result, True

    def _peek(self, group: str, key: "Key | None") -> "tuple[Fleet, bool]":
        with self._store.explained():
            seen = (
                key is not None
                and self._db.execute(
                    "SELECT 1 FROM decisions WHERE grp = ? AND namespace = ? AND entity = ? AND check_name = ?"
                    " AND incident = ? AND executed = ?",
                    key,
                ).fetchone()
            )
            return self._fleet(group), bool(seen)

    def _keep(self, group: str, told: Decision, key: "Key") -> None:
        with self._store.explained(), self._store.transaction():
            last = self._db.execute(
                "SELECT word, code, request_id FROM decisions WHERE grp = ? AND check_name = '' ORDER BY wall DESC"
                " LIMIT 1",
                (group,),
            ).fetchone()
            if last != (told.word, told.code, told.request_id):
                self._insert(key, told)

    def _insert(self, key: "Key", told: Decision) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO decisions VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            (*key, told.wall, told.word, told.code, told.text, told.request_id),
        )

    def _fleet(self, group: str) -> Fleet:
        row = self._db.execute("SELECT document, crc FROM fleets WHERE grp = ?", (group,)).fetchone()
        if row is None:
            # A fleet is written down together with its first decision to act.
            if self._db.execute("SELECT 1 FROM decisions WHERE grp = ? AND word = 'ACT'", (group,)).fetchone():
                raise self._store.damaged(f"the requests of {clean(group, 60)} are lost")
            return new_fleet()
        try:
            return known_fleet(group, *row)
        except ValueError as error:
            raise self._store.damaged(str(error)) from None

    def _forget(self, wall: float) -> None:
        self._db.execute("DELETE FROM decisions WHERE wall < ?", (wall - KEEP_SECONDS,))
        self._db.execute("DELETE FROM changes WHERE wall < ?", (wall - KEEP_SECONDS,))


def new_fleet() -> Fleet:
    """That of a group of which nothing is known.

    Its prefix is random, so that a ledger begun anew does not repeat the ids of the lost one: to the job, a known id is
    done work.
    """
    return Fleet(os.urandom(5).hex(), 0, ())


def known_fleet(group: str, document: object, crc: object) -> Fleet:
    """The fleet as it was written. Raises ValueError with what is wrong."""
    if not isinstance(document, str) or zlib.crc32(document.encode()) != crc:
        raise ValueError(f"the requests of {clean(group, 60)} are not as they were written")
    try:
        return fleets.from_text(document)
    except ValueError as error:
        raise ValueError(f"the requests of {clean(group, 60)}: {error}") from None


def changed(group: str, before: Fleet, after: Fleet, wall: float) -> "list[Change]":
    """What is to be told of what became of requests."""
    known = {one.request_id: (one.state, one.attempt) for one in before.requests}
    return [
        Change(group, one.request_id, wall, one.state, one.detail)
        for one in after.requests
        if known.get(one.request_id) != (one.state, one.attempt)
    ]


def moment() -> Moment:
    """Now, by each of the clocks that policy.elapsed() compares."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot_id = file.read().decode().strip()
    except OSError:
        boot_id = ""
    return Moment(time.time(), boot_id, time.clock_gettime(time.CLOCK_BOOTTIME))


def _key(group: str, event: Event) -> "Key":
    return group, event.namespace, event.entity, event.check, event.incident, event.executed or 0


def _told(key: "Key", now: Moment, decision: "Act | Hold", request_id: "str | None") -> Decision:
    group, namespace, entity, check, _, executed = key
    word, code, text = ("HOLD", *decision) if isinstance(decision, Hold) else ("ACT", "request", _where(decision))
    return Decision(group, namespace, entity, check, executed, now.wall, word, code, text, request_id)


def _where(act: Act) -> str:
    if act.target:
        return f"takes away {act.target}"
    return f"on {act.host}" if act.host else ""
