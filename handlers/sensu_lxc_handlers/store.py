"""An SQLite file that is created whole, read and written by many processes at once, and says in words what is wrong.

It must lie on a local disk: SQLite's locks do not hold on NFS.
"""

import errno
import os
import sqlite3
import stat
import time

from .outcome import LedgerUnusable, clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

# As one transaction, that is on the disk at its end; a journal would only protect a file that is worth nothing yet.
_NEW = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = FULL;
BEGIN;
{schema}
PRAGMA user_version = {version};
COMMIT;
"""
_HEADER_BYTES = 100  # no SQLite file is shorter, but one that was cut off
_LEFT_OVER_SECONDS = 3600


class Store:
    """The file at path, made with its folder and schema (CREATE statements) where they are missing.

    version    of the schema, from 1
    patience   seconds to wait for other processes
    read_only  nothing is created or written, and a missing file is an empty one
    first      what to do before one that is lost or damaged is begun anew, such as "look in Jenkins what was asked for"

    is_new: it was begun just now. All that can go wrong is raised as LedgerUnusable: here, and in `with
    store.explained():`.
    """

    def __init__(self, path: str, schema: str, version: int, patience: float, read_only: bool, first: str) -> None:
        self.path = path
        self._new = _NEW.format(schema=schema, version=version)
        self._first = first
        with self.explained():
            there = self._is_there(read_only)
            self.is_new = not there
            if not there and not read_only:
                self._begin()
                there = True
            # Never created by being opened: a ledger that was lost meanwhile must not look like one that is empty.
            quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
            where = f"file://{quoted}?mode={'ro' if read_only else 'rw'}" if there else ":memory:"
            # The classic journal: a reader needs no right to write and leaves nothing behind, and it is no slower
            # here than the write-ahead log (measured). EXTRA keeps a commit also when power fails the moment after
            # it.
            self.db = sqlite3.connect(where, timeout=patience, isolation_level=None, uri=True)
            if not there:
                self.db.executescript(self._new)
            self.db.execute("PRAGMA synchronous = EXTRA")
            self._check_version(version)

    def close(self) -> None:
        self.db.close()

    def explained(self) -> "Explained":
        """The context for whatever is done with the file."""
        return Explained(f"the ledger {self.path}", "ledger", self.remedy())

    def transaction(self) -> "_Transaction":
        """A context that is BEGIN IMMEDIATE … COMMIT, or ROLLBACK where anything went wrong."""
        return _Transaction(self.db)

    def damaged(self, how: str) -> LedgerUnusable:
        """To be raised where what was read can't be what was written."""
        return LedgerUnusable(f"the ledger {self.path}: {how}: {self.remedy()}")

    def remedy(self) -> str:
        return f"it is damaged; {self._first}, then move it and its -journal away: a new one begins empty"

    def _check_version(self, known: int) -> None:
        (version,) = self.db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            raise self.damaged("it holds nothing")
        if version != known:
            remedy = "update sensu-lxc" if version > known else "move it away, a new one begins empty"
            raise LedgerUnusable(
                f"the ledger {self.path} is of version {version}, this handler knows {known}:"
                f" {remedy}, or name another file in `ledger`"
            )

    def _is_there(self, read_only: bool) -> bool:
        """Whether there is a file at path. What is there and can be none, or can't be opened, is raised."""
        path = self.path
        try:
            descriptor = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            if os.path.islink(path):
                raise LedgerUnusable(f"the ledger {path} is a symbolic link to nothing: remove or mend it") from None
            if os.path.exists(path + "-journal") and not os.path.exists(path):
                # SQLite would play it back into a new one.
                why = f"its ledger is gone: move it to where that is, or away, and {self._first}"
                raise LedgerUnusable(f"the journal {path}-journal: {why}") from None
            return False
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise LedgerUnusable(f"the ledger {path} is not a regular file: name another one in `ledger`")
        if found.st_size < _HEADER_BYTES:
            raise self.damaged(f"it was cut to {found.st_size} bytes")
        return True

    def _begin(self) -> None:
        """Make an empty file at path, unless another process is faster.

        It is whole before it gets its name. So whoever is killed meanwhile leaves no ledger, and a file that holds
        nothing is never one that was only just begun, but always one that was lost.
        """
        folder, name = os.path.split(self.path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        _tidy(folder, name)
        draft = f"{self.path}.{os.getpid()}-{os.urandom(4).hex()}.new"
        # SQLite gives its journal the mode of the file: nobody else ever reads either.
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            db = sqlite3.connect(draft, isolation_level=None)
            try:
                db.executescript(self._new)
            finally:
                db.close()
            os.link(draft, self.path)
        except FileExistsError:
            pass
        except OSError as error:
            raise LedgerUnusable(
                f"the ledger {self.path} can't get its name: {error.strerror}: its disk must know hard links;"
                " name a file on another one in `ledger`"
            ) from None
        finally:
            os.unlink(draft)


def _tidy(folder: str, name: str) -> None:
    """Remove what processes that were killed in _begin() left."""
    for other in os.listdir(folder):
        if other.startswith(name + ".") and other.endswith(".new"):
            left = os.path.join(folder, other)
            try:
                if time.time() - os.lstat(left).st_mtime > _LEFT_OVER_SECONDS:
                    os.unlink(left)
            except FileNotFoundError:
                pass  # another handler tidies, too


class _Transaction:
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


class Explained:
    """A context in which what SQLite and the system say of a file becomes LedgerUnusable, with what to do about it.

    what: the file, in words; setting: that names it; damaged: what to do where its content is wrong.
    """

    def __init__(self, what: str, setting: str, damaged: str) -> None:
        self._what, self._setting, self._damaged = what, setting, damaged

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        if isinstance(error, (sqlite3.Error, OSError, UnicodeError)):
            said = str(error.strerror if isinstance(error, OSError) else error)
            # What SQLite says may quote the file, so that even this may be no text.
            said = "it holds what is no text" if isinstance(error, UnicodeError) else clean(said, 100)
            remedy = _remedy(error, said, self._setting) or self._damaged
            raise LedgerUnusable(f"{self._what}: {said}: {remedy}") from None


def check_writable(path: str, what: str, setting: str) -> None:
    """Raises LedgerUnusable where the file at path could not be written, or made with its folder.

    For a dry run, which tries neither. what and setting: as for Explained.
    """
    folder = os.path.dirname(path)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    # SQLite's journal lies beside the file.
    may = os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)
    if os.path.exists(path):
        may = may and os.path.isfile(path) and os.access(path, os.R_OK | os.W_OK)
    with Explained(what, setting, ""):
        if not may:
            raise OSError(errno.EACCES, "it can't be written")


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _remedy(error: Exception, said: str, setting: str) -> str:
    """What to do where it is not the file's content that is wrong, else ""."""
    if "locked" in said:
        return "another process holds it; see which with fuser(1)"
    if "full" in said or "disk I/O" in said or getattr(error, "errno", None) in _NO_SPACE:
        return f"free space on its disk, or name another file in `{setting}`"
    if isinstance(error, OSError) or "unable to open" in said or "readonly" in said:
        user = os.geteuid()
        return f"user {user} must be able to write it and its folder; create that, or name another file in `{setting}`"
    return ""
