"""cgroup files of v1 and v2 (kernel: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst) and /proc/PID/cgroup."""

from __future__ import annotations

import re

from sensu_lxc.errors import CannotObserve

# v1 has no word for "no limit": it shows the largest page-aligned number, which depends on the page size.
_UNLIMITED_V1 = 2**62
_LARGEST = 2**63
_SUFFIX = re.compile(r"-\d+", re.ASCII)


def number(raw: bytes, path: str) -> int:
    """A file with one count: bytes, or tasks. Raises CannotObserve, quoting what stood there instead."""
    digits = raw.strip()
    if not digits.isdigit() or len(digits) > 20:  # isdigit() of bytes knows ASCII only, and takes no sign
        raise CannotObserve(f"{path} holds {quoted(raw)} where a number should be")
    return int(digits)


def limit(raw: bytes, path: str) -> int | None:
    """A limit in bytes; None where there is none (v2 says max, v1 a number next to 2**63)."""
    if raw.strip() == b"max":
        return None
    value = number(raw, path)
    return None if value >= _UNLIMITED_V1 else value


def keyed(raw: bytes, path: str) -> dict[bytes, int]:
    """A flat keyed file such as memory.stat or cgroup.events: {key: count}.

    A line that does not fit is an error, as is a last line without its end: a number that was cut is another number.
    """
    if not raw.endswith(b"\n"):
        raise CannotObserve(f"{path} is cut off or empty: it ends in {quoted(raw[-40:])}")
    words = raw.split()
    values = words[1::2]
    if len(words) % 2 or not all(map(bytes.isdigit, values)) or raw.count(b"\n") != len(values):
        raise CannotObserve(f"{path} holds {quoted(_first_bad_line(raw))} where a key and a number should be")
    return dict(zip(words[::2], map(int, values)))


def _first_bad_line(raw: bytes) -> bytes:
    for line in raw.splitlines():
        words = line.split()
        if len(words) != 2 or not words[1].isdigit():
            return line
    return raw


def quoted(raw: bytes) -> str:
    """What was read, short and printable, for an error's sentence."""
    return ascii(raw[:40].decode("ascii", "backslashreplace")) if raw else "nothing"


def memberships(raw: bytes, path: str) -> dict[str, str]:
    """/proc/PID/cgroup: {controller: cgroup path}; v2's hierarchy has the controller ""."""
    found: dict[str, str] = {}
    for line in raw.decode("utf-8", "surrogateescape").splitlines():
        fields = line.split(":", 2)
        if len(fields) != 3 or not fields[2].startswith("/"):
            raise CannotObserve(
                f"{path} holds {quoted(line.encode('utf-8', 'surrogateescape'))}, which names no cgroup"
            )
        for controller in fields[1].split(","):
            found[controller] = fields[2]
    return found


def payload_of(path: str, name: str) -> str:
    """The container's own cgroup above (or at) the one its init sits in, by LXC's naming of every era.

    Under a nested systemd init sits in …/init.scope, with a limit and an inner directory in the inner one. LXC before
    4.0 wrote lxc/NAME and lxc.payload/NAME, since then lxc.payload.NAME; -N follows where the name was taken. A path of
    no known shape (lxc.cgroup.dir.container) is its own answer.
    """
    parts = path.split("/")
    for index, part in enumerate(parts):
        inside = part
        if part.startswith("lxc.payload."):
            inside = part[len("lxc.payload.") :]
        elif index and parts[index - 1] not in ("lxc", "lxc.payload"):
            if part == "payload" and name in parts[:index]:  # lxc.cgroup.pattern = …/%n, before 4.0
                return "/".join(parts[: index + 1])
            if part.endswith(".scope") and part.startswith(f"lxc-{name}-"):
                return "/".join(parts[: index + 1])
            continue
        if inside == name or (inside.startswith(name) and _SUFFIX.fullmatch(inside[len(name) :])):
            return "/".join(parts[: index + 1])
    return path
