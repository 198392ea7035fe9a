"""Small files in which a run leaves something for the next one of the same command line.

One file for each script and its arguments, since two definitions of a check must not take each other's samples. It is
replaced as a whole, and lies where nobody else can write.
"""

from __future__ import annotations

import os
import stat
import sys

from sensu_lxc.errors import CannotObserve
from sensu_lxc.sources.net_unix import fnv1a

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from collections.abc import Iterable

_LARGEST = 64 * 1024 * 1024


def name_of(arguments: Iterable[str], script: str = "") -> str:
    """The file name of a script (this one where none is given) with these arguments."""
    script = script or os.path.basename(sys.argv[0])
    return f"{script.replace('/', '_')}-{fnv1a(ascii(list(arguments)).encode()):016x}"


def read(folder: str, name: str) -> bytes:
    """What was left there; nothing where nothing was, or where somebody else could have left it."""
    try:
        _verify(folder)
        descriptor = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            raw = b""
            while more := os.read(descriptor, 65536):
                raw += more
                if len(raw) > _LARGEST:
                    return b""
        finally:
            os.close(descriptor)
    except (OSError, CannotObserve):
        return b""
    return raw


def replace(folder: str, name: str, data: bytes) -> None:
    """Leave data there for the next run. Raises CannotObserve where that can't be."""
    path = f"{folder}/{name}"
    temporary = f"{path}.{os.getpid()}"
    try:
        own_folder(folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, 0o600)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CannotObserve(f"cannot write {path}: {error.strerror}; --state-dir names another place") from None


def names(folder: str, beginning: str, ending: str) -> list[str]:
    """The files there whose names begin and end so."""
    try:
        return sorted(name for name in os.listdir(folder) if name.startswith(beginning) and name.endswith(ending))
    except OSError:
        return []


def touched_at(folder: str, name: str) -> float:
    """When it was last written or touched, as time() has it; 0 where it is not there."""
    try:
        return os.stat(f"{folder}/{name}", follow_symlinks=False).st_mtime
    except OSError:
        return 0.0


def touch(folder: str, name: str) -> None:
    """Let a file that is there be as new as if it were written again."""
    try:
        os.utime(f"{folder}/{name}", follow_symlinks=False)
    except OSError:
        pass


def remove(folder: str, name: str) -> None:
    """Remove what nobody needs any more."""
    try:
        os.unlink(f"{folder}/{name}")
    except OSError:
        pass


def own_folder(folder: str) -> None:
    """Make sure that folder is there and that nobody else can write into it. Raises OSError or CannotObserve."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    _verify(folder)


def _verify(folder: str) -> None:
    """In /tmp somebody else may have been first to make a folder of our name, or a link to elsewhere."""
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise CannotObserve(
            f"{folder} is not a folder that only user {os.geteuid()} can write to; --state-dir names another place"
        )
