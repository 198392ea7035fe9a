"""A bound on time that holds: one process looks, and the one that the user started waits for it, speaks and ends.

Neither a signal nor exit_group(2) ends a process that waits for a filesystem (FUSE, NFS, a lost disk) which has taken
its request and never answers. So such a process is left behind, with nothing open in it that a caller would wait for.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal makes enums of it, which costs a check 0.5 ms
import os
import sys
from time import monotonic

from sensu_lxc.errors import CannotObserve

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

_UNKNOWN = 3
_AWAITED = (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGINT)
_KILLED_SECONDS = 0.2  # within which whatever can be killed has ended
_READER_SECONDS = 1.0  # how long whoever reads stdout may take once the time is up


def speak(status: int, raw: bytes, aside: bytes = b"", seconds: float = 10.0) -> NoReturn:
    """Say raw on stdout, what is beside it on stderr, and end the process with the status.

    seconds: how long whoever reads may take. What could not be said is not OK, and is said on stderr.
    """
    # As they were for whoever started us: now nobody else is to be told of them.
    if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _signal.signal(_signal.SIGALRM, _stop)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (*_AWAITED, _signal.SIGALRM))
    if not _said(raw, 1, seconds):
        status = status or _UNKNOWN
        aside += raw
    _said(aside, 2, _READER_SECONDS)
    os._exit(status)


def end_with_stdout(status: int) -> NoReturn:
    """Say what was printed, and end. It is less than Python keeps before it writes."""
    _signal.signal(_signal.SIGALRM, _stop)
    _signal.setitimer(_signal.ITIMER_REAL, 10.0)
    try:
        sys.stdout.flush()
    except (AttributeError, OSError, ValueError, _TimeIsUp):  # None where stdout was closed
        speak(_UNKNOWN, b"", b"stdout takes nothing\n")
    os._exit(status)


def _said(raw: bytes, descriptor: int, seconds: float) -> bool:
    _signal.setitimer(_signal.ITIMER_REAL, seconds)
    try:
        return say(raw, descriptor)
    except _TimeIsUp:
        return False
    finally:
        _signal.setitimer(_signal.ITIMER_REAL, 0)


class _TimeIsUp(Exception):
    pass


def _stop(number: int, frame: object) -> NoReturn:
    raise _TimeIsUp


def line(words: str) -> bytes:
    """A line or more to be said, whatever the encoding of stdout; nothing at all where there are no words."""
    return words.encode("utf-8", "replace") + b"\n" if words else b""


def say(raw: bytes, descriptor: int) -> bool:
    """Write all of it to stdout or stderr; False where that failed."""
    data = memoryview(raw)  # of which slices are no copies: metrics are megabytes
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        return False
    return True


def default_folder() -> str:
    """Where this user's small files are: gone at the next boot, as samples should be."""
    user = os.geteuid()
    if user == 0 and os.path.isdir("/run"):  # which a small container has not
        return "/run/sensu-lxc"
    return f"/tmp/sensu-lxc-{user}"


def go_apart(name: str, arguments: Sequence[str], seconds: float) -> None:
    """Return in a process of its own, which has so many seconds; in the one that called, never return.

    name: of the check, for what is to be said of the other process; arguments: what makes it the same command line.
    What it writes to stdout and stderr is passed on when it has ended, and so is its status. Raises CannotObserve.
    """
    folder = f"{default_folder()}/stuck"
    if os.path.isdir(folder):
        from sensu_lxc import stuck

        stuck.refuse(folder, arguments)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # ignored, as some daemons leave it, no status would be told
    try:
        heard, aside = _in_memory("stdout"), _in_memory("stderr")
    except OSError as error:
        raise CannotObserve(f"cannot make a file in memory: {error.strerror}; see ulimit -n and -f") from None
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _AWAITED)
    try:
        pid = os.fork()
    except OSError as error:
        raise CannotObserve(f"cannot start a process: {error.strerror}; is its user or cgroup at its limit?") from None
    if pid:
        try:
            _wait(name, pid, heard, aside, seconds, lambda: _note(folder, arguments, pid))
        finally:  # whatever went wrong here, nobody would hear it
            os.kill(pid, _signal.SIGKILL)
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _interrupt_once)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
    # Should the one who waits be killed, nobody else would end this one. What it starts has no such timer.
    _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
    _signal.setitimer(_signal.ITIMER_REAL, seconds + _READER_SECONDS)
    try:
        null = os.open("/dev/null", os.O_RDONLY)
    except OSError:  # a chroot
        null = aside
    for source, target in ((null, 0), (heard, 1), (aside, 2)):
        if source != target:
            os.dup2(source, target)
    for one in {null, heard, aside} - {0, 1, 2}:
        os.close(one)


def _interrupt_once(number: int, frame: object) -> NoReturn:
    """A terminal's ^C reaches both processes, and the one that waits passes it on."""
    _signal.signal(number, _signal.SIG_IGN)
    raise KeyboardInterrupt


def _in_memory(name: str) -> int:
    """A file in memory, not in the place of a standard stream that is closed."""
    low = []
    while (descriptor := os.memfd_create(name)) < 3:
        low.append(descriptor)
    for one in low:
        os.close(one)
    return descriptor


def _wait(name: str, pid: int, heard: int, aside: int, seconds: float, left_behind: Callable[[], None]) -> NoReturn:
    """Pass on what a process says, and end as it does. left_behind: to be called where it can't even be killed."""
    end = monotonic() + seconds
    status = _ended(pid, end)
    if status is None:
        os.kill(pid, _signal.SIGKILL)
        if _ended(pid, monotonic() + _KILLED_SECONDS) is None:
            left_behind()
        problem = (
            f"not finished after {seconds:g} s; something it reads does not answer, or give it longer with --timeout"
        )
        speak(_UNKNOWN, line(f"{name} UNKNOWN: {problem}"), seconds=_READER_SECONDS)
    words, more = _all_of(heard), _all_of(aside)
    if status < 0:
        words = line(f"{name} UNKNOWN: signal {-status} ended it before it was done")
        status = _UNKNOWN
    elif status and not words and not more:
        words = line(f"{name} UNKNOWN: nothing was said with status {status}; is a file's size limited (ulimit -f)?")
    speak(status, words, more, max(0.0, end - monotonic()) + _READER_SECONDS)


def _ended(pid: int, end: float) -> int | None:
    """The exit status of a process, or minus the signal that ended it; None where it runs on. Signals are passed on."""
    while True:
        about = _signal.sigtimedwait(_AWAITED, max(0.0, end - monotonic()))
        # Interrupted when no time was left, CPython (to 3.13 at least) tells of a signal that there was none.
        is_late = about is None or monotonic() >= end
        if is_late or about.si_signo == _signal.SIGCHLD:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            if is_late:
                return None
        else:
            os.kill(pid, about.si_signo)


def _all_of(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _note(folder: str, arguments: Sequence[str], pid: int) -> None:
    from sensu_lxc import stuck

    stuck.note(folder, arguments, pid)
