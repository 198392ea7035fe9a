"""Where the fleets are kept (fleet.py: what was asked of Jenkins and what became of it), in an SQLite file.

Nothing is asked before it is written here and safely on the disk, so that many handlers at once, or one that was
killed at any point, ask at most once. The file must lie on a local disk: SQLite's locks do not hold on NFS.
"""

import errno
import os
import sqlite3
import stat
import time
import zlib
from collections import namedtuple

from . import fleet as fleets
from .event import Event
from .fleet import Fleet, Moment, Request
from .outcome import LedgerUnusable, clean
from .policy import Act, Hold, intended, settled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    Judge = Callable[[Fleet, bool], "Act | Hold"]

_SCHEMA_VERSION = 2
# As one transaction, that is on the disk at its end; a journal would only protect a file that is worth nothing yet.
# A check of the document's bytes, as SQLite notices what is wrong with its pages, not with the values on them.
_NEW = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = FULL;
BEGIN;
CREATE TABLE fleets (grp TEXT PRIMARY KEY, document TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE decisions (
    grp TEXT, namespace TEXT, entity TEXT, check_name TEXT, incident TEXT, executed INTEGER,
    wall REAL NOT NULL, word TEXT NOT NULL, code TEXT NOT NULL, text TEXT NOT NULL, request_id TEXT,
    PRIMARY KEY (grp, namespace, entity, check_name, incident, executed)) WITHOUT ROWID;
CREATE INDEX decisions_by_time ON decisions (wall);
CREATE TABLE changes (
    grp TEXT NOT NULL, request_id TEXT NOT NULL, wall REAL NOT NULL, state TEXT NOT NULL, detail TEXT NOT NULL);
CREATE INDEX changes_by_time ON changes (wall);
PRAGMA user_version = {_SCHEMA_VERSION};
COMMIT;
"""
_HEADER_BYTES = 100  # no SQLite file is shorter, but one that was cut off
_LEFT_OVER_SECONDS = 3600
_DAMAGED = (
    "it is damaged; look in Jenkins what was asked for lately, then move it and its -journal away: a new one begins"
    " empty"
)
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
        with _Explained(path):
            there = _is_there(path, read_only)
            self.is_new = not there
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

    def moment(self) -> Moment:
        """Now, by the clocks that all who use this ledger share."""
        return moment()

    def decide(
        self, group: str, event: Event, job: str, now: Moment, judge: "Judge"
    ) -> "tuple[Act | Hold, Request | None]":
        """Ask judge(fleet, was this event seen?) and write down what it says, as one step.

        The Request comes with an Act: its INTENT is on the disk. None with a Hold, and where the ledger is read_only.
        """
        with _Explained(self.path):
            if self._read_only:
                return judge(self._fleet(group), self._seen(group, event)), None
            with _Transaction(self._db):
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
        with _Explained(self.path):
            if self._read_only:
                return change(self._fleet(group))
            with _Transaction(self._db):
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
        with _Explained(self.path):
            names = [str(row[0]) for row in self._db.execute("SELECT grp FROM fleets ORDER BY grp").fetchall()]
            return {name: self._fleet(name) for name in names}

    def note(self, group: str, now: Moment, decision: "Act | Hold", request_id: "str | None") -> None:
        """Keep a decision that no alert asked for, where it is another one than the latest such."""
        with _Explained(self.path), _Transaction(self._db):
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
        with _Explained(self.path):
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
        with _Explained(self.path):
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

    def _check_version(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            raise _damaged(self.path, "it holds nothing")
        if version != _SCHEMA_VERSION:
            remedy = "update sensu-lxc" if version > _SCHEMA_VERSION else "move it away, a new one begins empty"
            raise LedgerUnusable(
                f"the ledger {self.path} is of version {version}, this handler knows {_SCHEMA_VERSION}:"
                f" {remedy}, or name another file in `ledger`"
            )

    def _fleet(self, group: str) -> Fleet:
        row = self._db.execute("SELECT document, crc FROM fleets WHERE grp = ?", (group,)).fetchone()
        if row is None:
            # A fleet is written down together with its first decision to act.
            if self._db.execute("SELECT 1 FROM decisions WHERE grp = ? AND word = 'ACT'", (group,)).fetchone():
                raise _damaged(self.path, f"the requests of {clean(group, 60)} are lost")
            # Random, so that a ledger begun anew does not repeat the ids of the lost one: to the job, a known id is
            # done work.
            return Fleet(os.urandom(5).hex(), 0, ())
        document, crc = row
        if type(document) is not str or zlib.crc32(document.encode()) != crc:
            raise _damaged(self.path, f"the requests of {clean(group, 60)} are not as they were written")
        try:
            return fleets.from_text(document)
        except ValueError as error:
            raise _damaged(self.path, f"the requests of {clean(group, 60)}: {error}") from None

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
