"""/proc/PID/mountinfo (proc_pid_mountinfo(5)): where the cgroup hierarchies and other filesystems are mounted."""

from __future__ import annotations

import re
from collections import namedtuple

from sensu_lxc.errors import CannotObserve

# Compiled where they are needed, which few checks do: each costs one that does not 30 us.
_ESCAPE = r"\\([0-7]{3})"
_NUMBERS = r"\d{1,10} \d{1,10} \d{1,9}:\d{1,9}"

# point: directory where a hierarchy is mounted; root: the cgroup that is visible there ("/" for all of them).
Mount = namedtuple("Mount", "point root")

# One mount of any kind. number, parent: ids that no other mount of this kernel has at the time; device: "major:minor";
# root: what of the filesystem is mounted, as a path in it; point: where; options: the filesystem's own.
Filesystem = namedtuple("Filesystem", "number parent device root point kind source options")


def cgroup_mounts(raw: bytes, path: str) -> dict[str, Mount]:
    """{controller: Mount}, with the controller "" for cgroup v2. The first mount of a hierarchy counts."""
    if not raw.endswith(b"\n"):
        raise CannotObserve(f"{path} is cut off or empty")
    found: dict[str, Mount] = {}
    for line in raw.decode("utf-8", "surrogateescape").rstrip("\n").split("\n"):
        before, separator, after = line.partition(" - ")
        if not after.startswith("cgroup"):
            continue
        fields, kind = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(kind) < 3:
            raise CannotObserve(f"{path} holds a line about cgroups that is cut off: {ascii(line[:60])}")
        mount = Mount(unescaped(fields[4]), unescaped(fields[3]))
        for controller in [""] if kind[0] == "cgroup2" else kind[2].split(","):
            found.setdefault(controller, mount)
    return found


def filesystems(raw: bytes, path: str, point: str | None = None) -> list[Filesystem]:
    """Every mount in the order of the file, or those at one point only."""
    if not raw.endswith(b"\n"):
        raise CannotObserve(f"{path} is cut off or empty")
    found = []
    for line in raw.decode("utf-8", "surrogateescape").rstrip("\n").split("\n"):
        fields = line.split(" ", 5)
        if point is not None and fields[4:5] and unescaped(fields[4]) != point:
            continue
        _, separator, after = line.partition(" - ")
        kind = after.split(" ")
        if not separator or len(kind) < 3 or not re.fullmatch(_NUMBERS, " ".join(fields[:3]), re.ASCII):
            raise CannotObserve(f"{path} holds a line that is no mount: {ascii(line[:60])}")
        number, parent, device, root, at, _ = fields
        paths = unescaped(root), unescaped(at)
        found.append(Filesystem(int(number), int(parent), device, *paths, kind[0], unescaped(kind[1]), kind[2]))
    return found


def topmost(mounts: list[Filesystem]) -> Filesystem | None:
    """The one of several mounts at one point that is seen there: the one on which no other of them is mounted."""
    below = {mount.parent for mount in mounts}
    return next((mount for mount in reversed(mounts) if mount.number not in below), None)


def unescaped(field: str) -> str:
    """A path of mountinfo without its octal escapes (space, tab, newline, backslash)."""
    return re.sub(_ESCAPE, lambda match: chr(int(match.group(1), 8)), field) if "\\" in field else field
