"""/proc/PID/mountinfo (proc_pid_mountinfo(5)): where the cgroup hierarchies are mounted."""

from __future__ import annotations

import re
from collections import namedtuple

from sensu_lxc.errors import CannotObserve

_ESCAPE = re.compile(r"\\([0-7]{3})", re.ASCII)

# point: directory where a hierarchy is mounted; root: the cgroup that is visible there ("/" for all of them).
Mount = namedtuple("Mount", "point root")


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


def unescaped(field: str) -> str:
    """A path of mountinfo without its octal escapes (space, tab, newline, backslash)."""
    return _ESCAPE.sub(lambda match: chr(int(match.group(1), 8)), field)
