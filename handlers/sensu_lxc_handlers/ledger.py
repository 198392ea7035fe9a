"""What was asked of Jenkins and what became of it, in an SQLite file.

Nothing is asked before it is written here and safely on the disk, so that many handlers at once, or one that was
killed at any point, ask at most once. The file must lie on a local disk: SQLite's locks do not hold on NFS.
"""

import errno
import os
import sqlite3
import stat
import time
from collections import namedtuple

from .event import Event
from .outcome import LedgerUnusable, clean
from .policy import INTENT, STATES, Act, Hold, Moment, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    Judge = Callable[["Request | None", bool], "Act | Hold"]

_SCHEMA_VERSION = 1
# As one transaction, that is on the disk at its end; a journal would only protect a file that is worth nothing yet.
_NEW = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = FULL;
BEGIN;
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
PRAGMA user_version = {_SCHEMA_VERSION};
COMMIT;
"""
_HEADER_BYTES = 100  # no SQLite file is shorter, but one that was cut off
_LEFT_OVER_SECONDS = 3600
_DAMAGED = (
    "it is damaged; look in Jenkins what was asked for lately, then move it and its -journal away: a new one begins"
    " empty"
)
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
        with _Explained(path):
            there = _is_there(path, read_only)
            if not there and not read_only:
                _begin(path)
                there = True
            # Never created by being opened: a ledger that was lost meanwhile must not look like one that is empty.
            quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
            where = f"file://{quoted}?mode={'ro' if read_only else 'rw'}" if there else ":memory:"
            # The classic journal: a reader needs no right to write and leaves nothing behind, and it is no slower
            # here than the write-ahead log (measured). EXTRA keeps a commit also when power fails the moment after
            # it.
            self._db = sqlite3.connect(where, timeout=patience, isolation_level=None, uri=True)
            if not there:
                self._db.executescript(_NEW)
            self._db.execute("PRAGMA synchronous = EXTRA")
            self._check_version()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        self._db.close()

    def decide(
        self, group: str, event: Event, job: str, now: Moment, judge: "Judge"
    ) -> "tuple[Act | Hold, Ticket | None]":
        """Ask judge(latest request of the group, was this event seen?) and write down what it says, as one step.

        The Ticket comes with an Act: its INTENT is on the disk. None with a Hold, and where the ledger is read_only.
        """
        with _Explained(self.path):
            if self._read_only:
                return judge(self._latest(group), self._seen(group, event)), None
            with _Transaction(self._db):
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
        with _Explained(self.path):
            self._db.execute(
                "UPDATE requests SET state = ?, wall = ?, boot_id = ?, uptime = ?, detail = ?,"
                " queue_item = coalesce(?, queue_item) WHERE request_id = ? AND attempt = ?",
                (state, *now, detail, queue_item, ticket.request_id, ticket.attempt),
            )

    def shares_queue_item(self, ticket: Ticket, job: str, queue_item: int, now: Moment) -> "str | None":
        """The other recent request of this job that had the same item of Jenkins' queue."""
        with _Explained(self.path):
            row = self._db.execute(
                "SELECT request_id FROM requests WHERE job = ? AND queue_item = ? AND request_id <> ? AND wall > ?",
                (job, queue_item, ticket.request_id, now.wall - _SAME_QUEUE_SECONDS),
            ).fetchone()
            return str(row[0]) if row else None

    def _check_version(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            raise _damaged(self.path, "it holds nothing")
        if version != _SCHEMA_VERSION:
            raise LedgerUnusable(
                f"the ledger {self.path} is of version {version}, this handler knows {_SCHEMA_VERSION}:"
                " update sensu-lxc, or name another file in `ledger`"
            )

    def _latest(self, group: str) -> "Request | None":
        row = self._db.execute(
            "SELECT request_id, generation, attempt, state, wall, boot_id, uptime, created_wall, detail"
            " FROM requests WHERE grp = ? ORDER BY generation DESC LIMIT 1",
            (group,),
        ).fetchone()
        if row is None:
            # A group is written down together with its first request.
            if self._db.execute("SELECT 1 FROM groups WHERE name = ?", (group,)).fetchone():
                raise _damaged(self.path, f"the requests of {clean(group, 60)} are lost")
            return None
        request_id, generation, attempt, state, wall, boot_id, uptime, created_wall, detail = row
        # SQLite notices what is wrong with its pages, not what is wrong with the values on them.
        if (
            [type(value) for value in row] != [str, int, int, str, float, str, float, float, str]
            or state not in STATES
            or not request_id.endswith(f"-{generation}")
            or not all(abs(number) < 1 << 40 for number in (generation, attempt, wall, uptime, created_wall))
        ):
            raise _damaged(self.path, f"a request of {clean(group, 60)} makes no sense")
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
            raise _damaged(self.path, f"{clean(group, 60)} can't be written to it")
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


def _is_there(path: str, read_only: bool) -> bool:
    """Whether there is a ledger at path. What is there and can be none, or can't be opened, is raised."""
    try:
        descriptor = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if os.path.islink(path):
            raise LedgerUnusable(f"the ledger {path} is a symbolic link to nothing: remove or mend it") from None
        if os.path.exists(path + "-journal") and not os.path.exists(path):
            # SQLite would play it back into a new one.
            why = "its ledger is gone: move it to where that is, or away, and look in Jenkins what was asked for lately"
            raise LedgerUnusable(f"the journal {path}-journal: {why}") from None
        return False
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise LedgerUnusable(f"the ledger {path} is not a regular file: name another one in `ledger`")
    if found.st_size < _HEADER_BYTES:
        raise _damaged(path, f"it was cut to {found.st_size} bytes")
    return True


def _begin(path: str) -> None:
    """Make an empty ledger at path, unless another handler is faster.

    It is whole before it gets its name. So whoever is killed meanwhile leaves no ledger, and a file that holds nothing
    is never one that was only just begun, but always one that was lost.
    """
    folder, name = os.path.split(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    _tidy(folder, name)
    draft = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.new"
    # SQLite gives its journal the mode of the file: nobody else ever reads either.
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        db = sqlite3.connect(draft, isolation_level=None)
        try:
            db.executescript(_NEW)
        finally:
            db.close()
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError as error:
        raise LedgerUnusable(
            f"the ledger {path} can't get its name: {error.strerror}: its disk must know hard links;"
            " name a file on another one in `ledger`"
        ) from None
    finally:
        os.unlink(draft)


def _tidy(folder: str, name: str) -> None:
    """Remove what handlers that were killed in _begin() left."""
    for other in os.listdir(folder):
        if other.startswith(name + ".") and other.endswith(".new"):
            left = os.path.join(folder, other)
            try:
                if time.time() - os.lstat(left).st_mtime > _LEFT_OVER_SECONDS:
                    os.unlink(left)
            except FileNotFoundError:
                pass  # another handler tidies, too


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK where anything went wrong."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        if error is None:
            self._db.execute("COMMIT")
        elif self._db.in_transaction:
            self._db.execute("ROLLBACK")


class _Explained:
    """Turns what SQLite and the system say into LedgerUnusable, with what to do about it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        # What SQLite says may quote the file, so that even this may be no text.
        if isinstance(error, (sqlite3.Error, OSError, UnicodeError)):
            said = str(error.strerror if isinstance(error, OSError) else error)
            said = "it holds what is no text" if isinstance(error, UnicodeError) else clean(said, 100)
            raise LedgerUnusable(f"the ledger {self._path}: {said}: {_remedy(error, said)}") from None


def _remedy(error: Exception, said: str) -> str:
    if "locked" in said:
        return "another process holds it; see which with fuser(1)"
    if "full" in said or "disk I/O" in said or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return "free space on its disk, or name another file in `ledger`"
    if isinstance(error, OSError) or "unable to open" in said or "readonly" in said:
        user = os.geteuid()
        return f"user {user} must be able to write it and its folder; create that, or name another file in `ledger`"
    return _DAMAGED


def _damaged(path: str, how: str) -> LedgerUnusable:
    return LedgerUnusable(f"the ledger {path}: {how}: {_DAMAGED}")
