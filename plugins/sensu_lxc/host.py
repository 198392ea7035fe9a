"""The only door to /sys, /proc and /var/lib/lxc, so that a check sees a recorded or mounted host as it sees its own."""

from __future__ import annotations

import errno
import os
import stat

from sensu_lxc.errors import CannotObserve, NotAllowed, NotThere

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from typing import Any

# O_NONBLOCK: a FIFO in the place of a file must not hang a check.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_CHUNK = 65536
_open, _read, _close = os.open, os.read, os.close  # looked up once, not once for each of thousands of files
_LARGEST = 64 * 1024 * 1024
# A cgroup that went away while its file was open answers ENODEV; a process that did, ESRCH.
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ESRCH, errno.ENXIO}


class Host:
    """A host whose / is at `root`."""

    def __init__(self, root: str = "/") -> None:
        self.root = root.rstrip("/")
        self.filesystems: Any = None  # what sensu_lxc.disk knows of them

    @property
    def is_this_one(self) -> bool:
        """Whether it is the host we run on: only then are its sockets and processes there to be asked."""
        return not self.root

    def read(self, path: str) -> bytes:
        """All of a file. Raises NotThere, NotAllowed or CannotObserve with a sentence that names path."""
        try:
            descriptor = os.open(self.root + path, _FLAGS)
            try:
                data = os.read(descriptor, _CHUNK)
                if data:
                    while more := os.read(descriptor, _CHUNK):
                        data += more
                        if len(data) > _LARGEST:
                            raise CannotObserve(f"{self.root}{path} is larger than {_LARGEST >> 20} MiB")
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise self._sentence(path, error) from None
        return data

    def read_with_inode(self, path: str) -> tuple[bytes, int]:
        """(all of a file, its inode number). Raises as read does."""
        try:
            descriptor = _open(self.root + path, _FLAGS)
            try:
                data = more = _read(descriptor, _CHUNK)
                while more:
                    more = _read(descriptor, _CHUNK)
                    data += more
                    if len(data) > _LARGEST:
                        raise CannotObserve(f"{self.root}{path} is larger than {_LARGEST >> 20} MiB")
                return data, os.fstat(descriptor).st_ino
            finally:
                _close(descriptor)
        except (OSError, ValueError) as error:
            raise self._sentence(path, error) from None

    def value(self, path: str) -> bytes:
        """All of a small file of /sys or /proc, which the kernel shows whole in one read. Raises as read does.

        Of a list such as cgroup.procs, which comes in pieces, it is the first one: a page.
        """
        try:
            descriptor = _open(self.root + path, _FLAGS)
            try:
                return _read(descriptor, _CHUNK)
            finally:
                _close(descriptor)
        except (OSError, ValueError) as error:
            raise self._sentence(path, error) from None

    def head(self, path: str, size: int) -> bytes:
        """The beginning of a file, at most size bytes: the kernel makes a list such as mountinfo only as far as it is
        read, and most of that costs more than all else that is read of a container. Raises as read does."""
        try:
            descriptor = _open(self.root + path, _FLAGS)
            try:
                return _read(descriptor, size)
            finally:
                _close(descriptor)
        except (OSError, ValueError) as error:
            raise self._sentence(path, error) from None

    def list(self, path: str) -> list[str]:
        """The names in a directory, in no order. Raises as read does."""
        try:
            return os.listdir(self.root + path)
        except (OSError, ValueError) as error:
            raise self._sentence(path, error) from None

    def inodes(self, path: str) -> dict[str, int]:
        """{name: inode number} of what is in a directory, from its listing alone. Raises as read does."""
        try:
            with os.scandir(self.root + path) as entries:
                return {entry.name: entry.inode() for entry in entries}
        except (OSError, ValueError) as error:
            raise self._sentence(path, error) from None

    def has(self, path: str) -> bool:
        """Whether path exists. Raises NotAllowed where that can't be told."""
        try:
            os.stat(self.root + path)
        except (OSError, ValueError) as error:
            failure = self._sentence(path, error)
            if isinstance(failure, NotThere):
                return False
            raise failure from None
        return True

    def owner(self, path: str) -> int:
        """The uid that owns path. Raises as read does."""
        try:
            return os.stat(self.root + path).st_uid
        except (OSError, ValueError) as error:
            raise self._sentence(path, error) from None

    def inode(self, path: str) -> int:
        """The inode number of path. Raises as read does."""
        try:
            return os.stat(self.root + path).st_ino
        except (OSError, ValueError) as error:
            raise self._sentence(path, error) from None

    def is_file(self, path: str) -> bool:
        """Whether path is a regular file; False where that can't be told."""
        try:
            return stat.S_ISREG(os.stat(self.root + path).st_mode)
        except (OSError, ValueError):
            return False

    def is_leaf(self, path: str) -> bool:
        """Whether a directory surely has none in it, told at a tenth of a listing's price. Raises as read does."""
        try:
            return os.stat(self.root + path).st_nlink == 2  # its own "." and its name; each below adds its ".."
        except (OSError, ValueError) as error:
            raise self._sentence(path, error) from None

    def real(self, path: str) -> str:
        """path with its symbolic links followed, an absolute one from this host's root as the host itself would."""
        if not self.root:
            try:
                return os.path.realpath(path)
            except (OSError, ValueError) as error:
                raise self._sentence(path, error) from None
        done, todo, links = "", path.split("/"), 0
        while todo:
            part = todo.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            try:
                target = os.readlink(f"{self.root}{done}/{part}")
            except (OSError, ValueError):
                done = f"{done}/{part}"
                continue
            links += 1
            if links > 40:
                raise CannotObserve(f"{self.root}{path} is a loop of symbolic links")
            if target.startswith("/"):
                done = ""
            todo[:0] = target.split("/")
        return done or "/"

    def _sentence(self, path: str, error: OSError | ValueError) -> CannotObserve:
        if not isinstance(error, OSError):  # a NUL in a path that a file named
            return CannotObserve(f"cannot read {self.root}{path}: {error}")
        kind = NotThere if error.errno in _GONE else NotAllowed if isinstance(error, PermissionError) else CannotObserve
        return kind(f"cannot read {self.root}{path}: {error.strerror or type(error).__name__}")
