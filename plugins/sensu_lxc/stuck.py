"""Processes that were left behind as not even a kill ended them: one of each command line is enough.

A file for each in a folder that is only there as long as there is one, so that a run without any reads nothing of it.
"""

from __future__ import annotations

import os
from time import localtime, strftime, time

from sensu_lxc import state_dir
from sensu_lxc.errors import CannotObserve
from sensu_lxc.host import Host
from sensu_lxc.sources import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


_AGAIN_SECONDS = 3600.0  # the filesystem may have been replaced, and whom it kept waits for ever


def note(folder: str, arguments: Sequence[str], pid: int) -> None:
    """Write down that the process of this command line can't be ended. Where that can't be, the next one finds out."""
    started, since = _started(pid), strftime("%Y-%m-%d %H:%M", localtime())
    if not started:
        return
    try:
        state_dir.own_folder(os.path.dirname(folder))
        state_dir.replace(folder, state_dir.name_of(arguments), f"{pid} {started} {since}".encode())
    except (CannotObserve, OSError):
        pass


def refuse(folder: str, arguments: Sequence[str]) -> None:
    """Raise CannotObserve while a process that this command line left behind is still there; forget who has ended."""
    ours = state_dir.name_of(arguments)
    try:
        state_dir.verify(folder)  # lest somebody else fill it
    except (CannotObserve, OSError):
        return
    for name in state_dir.names(folder, "", ""):
        words = state_dir.read(folder, name).decode("ascii", "replace").split(" ", 2)
        if len(words) < 3 or not words[0].isdigit():  # another's, or on its way
            continue
        pid, started, since = words
        if started != _started(int(pid)):
            state_dir.remove(folder, name)
        elif name == ours and abs(time() - state_dir.touched_at(folder, name)) < _AGAIN_SECONDS:
            raise CannotObserve(
                f"the process that looked at {since} (pid {pid}) still waits for something that does not answer, and "
                f"could not be killed; nothing is looked at for up to an hour: which filesystem hangs? (as root: cat "
                f"/proc/{pid}/stack); once that is mended: rm {folder}/{name}"
            )
    try:
        os.rmdir(folder)
    except OSError:  # some are still there
        pass


def _started(pid: int) -> str:
    """When a process was started, in clock ticks since the host's boot; empty where it has ended."""
    path = f"/proc/{pid}/stat"
    try:
        raw = Host().value(path)
        return "" if raw.rpartition(b")")[2].split()[0] in (b"Z", b"X") else str(stat.start_ticks(raw, path))
    except CannotObserve:
        return ""
