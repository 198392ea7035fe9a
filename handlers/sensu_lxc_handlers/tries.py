"""What hosts were asked to do and what became of it, in an SQLite file.

Nothing is asked before it is written here and safely on the disk, so that many handlers at once, or one that was
killed at any point, ask at most once per cooldown.
"""

from .event import Event
from .fleet import Moment
from .outcome import clean
from .policy import Hold
from .remedy import ASKED, COUNTED, FAILED, INTENT, STATES, UNKNOWN, WELL, Act, Try
from .store import Store, check_writable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    Judge = Callable[[list[Try], bool], "Act | Hold"]

_VERSION = 2
_SCHEMA = """
CREATE TABLE tries (
    number INTEGER PRIMARY KEY, scope TEXT NOT NULL, namespace TEXT NOT NULL, entity TEXT NOT NULL,
    runner TEXT NOT NULL, action TEXT NOT NULL, check_name TEXT NOT NULL, asked_check TEXT NOT NULL,
    state TEXT NOT NULL, detail TEXT NOT NULL, wall REAL NOT NULL, boot_id TEXT NOT NULL, uptime REAL NOT NULL);
CREATE INDEX of_entity ON tries (scope, namespace, entity, runner);
CREATE TABLE decisions (
    scope TEXT, namespace TEXT, entity TEXT, check_name TEXT, incident TEXT, executed INTEGER,
    wall REAL NOT NULL, word TEXT NOT NULL, code TEXT NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (scope, namespace, entity, check_name, incident, executed)) WITHOUT ROWID;
CREATE INDEX decisions_by_time ON decisions (wall);
"""
_KEEP_SECONDS = 30 * 86400
_OPEN = f"('{ASKED}', '{UNKNOWN}')"


class Tries:
    """The file at path; see Store for patience and errors. read_only: for a dry run, which fails likewise.

    scope: whose settings are acted on; what another scope asked for is not this one's.
    """

    def __init__(self, path: str, patience: float, scope: str, read_only: bool = False) -> None:
        self._scope, self._read_only = scope, read_only
        first = "look in the handler's log what was asked for lately"
        if read_only:
            check_writable(path, f"the ledger {path}", "ledger")
        self._store = Store(path, _SCHEMA, _VERSION, patience, read_only, first)
        self._db = self._store.db

    def __enter__(self) -> "Tries":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        self._store.close()

    def decide(self, event: Event, now: Moment, judge: "Judge") -> "tuple[Act | Hold, int | None]":
        """Ask judge(tries for the event's entity and runner, was this event seen?) and write down what it says, as one.

        An open try after which the check ran, and is bad still, has failed. The number comes with an Act: its INTENT
        is on the disk. None with a Hold, and where the file is read_only.
        """
        with self._store.explained():
            if self._read_only:
                return judge(self._known(event), self._seen(event)), None
            with self._store.transaction():
                seen = self._seen(event)
                if not seen:
                    self._db.execute(
                        "UPDATE tries SET state = ? WHERE scope = ? AND namespace = ? AND entity = ? AND runner = ?"
                        f" AND check_name = ? AND state IN {_OPEN} AND wall < ?",
                        (FAILED, *self._entity(event), event.runner, event.check, event.executed),
                    )
                decision = judge(self._known(event), seen)
                number = self._intent(event, decision, now) if isinstance(decision, Act) else None
                if not seen:
                    word, code, text = ("HOLD", *decision) if isinstance(decision, Hold) else ("ACT", "asked", "")
                    text = text or f"try {number}"
                    self._db.execute(
                        "INSERT INTO decisions VALUES (?,?,?,?,?,?,?,?,?,?)",
                        (*self._key(event), now.wall, word, code, text),
                    )
            return decision, number

    def settle(self, number: int, state: str, detail: str) -> None:
        """What became of a try. One of which a later event has told already stays as that left it."""
        with self._store.explained():
            self._db.execute(
                "UPDATE tries SET state = ?, detail = ? WHERE number = ? AND state = ?", (state, detail, number, INTENT)
            )

    def well(self, event: Event) -> "Try | None":
        """The check of this event is well again: the latest try before it, where that was open or had failed."""
        # Sensu counts whole seconds, so the check may have run within the second of the try, after it.
        end = event.executed + 1
        with self._store.explained():
            counted = ", ".join(f"'{state}'" for state in COUNTED)
            row = self._db.execute(
                "SELECT number, action, state, wall, boot_id, uptime, detail FROM tries WHERE scope = ? AND"
                f" namespace = ? AND entity = ? AND check_name = ? AND state IN ({counted}) AND wall < ?"
                " ORDER BY number DESC LIMIT 1",
                (*self._entity(event), event.check, end),
            ).fetchone()
            if row is None:
                return None
            last = self._try(row, event)
            if last.state == WELL:
                return None
            if not self._read_only:
                self._db.execute("UPDATE tries SET state = ? WHERE number = ?", (WELL, last.number))
            return last

    def _known(self, event: Event) -> "list[Try]":
        rows = self._db.execute(
            "SELECT number, action, state, wall, boot_id, uptime, detail FROM tries"
            " WHERE scope = ? AND namespace = ? AND entity = ? AND runner = ? ORDER BY number",
            (*self._entity(event), event.runner),
        ).fetchall()
        return [self._try(row, event) for row in rows]

    def _try(self, row: "tuple[object, ...]", event: Event) -> Try:
        number, action, state, wall, boot_id, uptime, detail = row
        # SQLite notices what is wrong with its pages, not what is wrong with the values on them.
        if [type(value) for value in row] != [int, str, str, float, str, float, str] or state not in STATES:
            raise self._store.damaged(f"a try for {clean(event.entity, 60)} makes no sense")
        return Try(number, action, state, Moment(wall, boot_id, uptime), detail)

    def _seen(self, event: Event) -> bool:
        row = self._db.execute(
            "SELECT 1 FROM decisions WHERE scope = ? AND namespace = ? AND entity = ? AND check_name = ?"
            " AND incident = ? AND executed = ?",
            self._key(event),
        ).fetchone()
        return row is not None

    def _intent(self, event: Event, act: Act, now: Moment) -> int:
        for table in ("decisions", "tries"):
            self._db.execute(f"DELETE FROM {table} WHERE wall < ?", (now.wall - _KEEP_SECONDS,))
        cursor = self._db.execute(
            "INSERT INTO tries (scope, namespace, entity, runner, action, check_name, asked_check, state, detail, wall,"
            " boot_id, uptime) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            (*self._entity(event), event.runner, act.action.name, event.check, act.action.asked_check(event), INTENT,
             "", *now),
        )  # fmt: skip
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _entity(self, event: Event) -> "tuple[str, str, str]":
        return self._scope, event.namespace, event.entity

    def _key(self, event: Event) -> "tuple[str, str, str, str, str, int]":
        return (*self._entity(event), event.check, event.incident, event.executed)
