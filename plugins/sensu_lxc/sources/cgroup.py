"""cgroup files of v1 and v2 (kernel: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst) and /proc/PID/cgroup."""

from __future__ import annotations

import re

from sensu_lxc.errors import CannotObserve, quoted

# v1 has no word for "no limit": it shows the largest page-aligned number, which depends on the page size.
_UNLIMITED_V1 = 2**62
_SUFFIX = r"-\d+"


def number(raw: bytes, path: str) -> int:
    """A file with one count: bytes, or tasks. Raises CannotObserve, quoting what stood there instead."""
    digits = raw[:-1]
    # A number without its line's end was cut off, and is another number. isdigit() of bytes takes ASCII only, no sign.
    if raw[-1:] != b"\n" or not digits.isdigit() or len(digits) > 20:
        raise CannotObserve(f"{path} holds {quoted(raw)} where a number should be")
    return int(digits)


def limit(raw: bytes, path: str) -> int | None:
    """A limit in bytes; None where there is none (v2 says max, v1 a number next to 2**63)."""
    return None if raw == b"max\n" else limited(number(raw, path))


def limited(value: int) -> int | None:
    """A limit of v1, or None where its number means that there is none."""
    return None if value >= _UNLIMITED_V1 else value


def counts(raw: bytes, path: str, *keys: bytes) -> list[int | None]:
    """The counts of some keys of a flat keyed file such as memory.stat or cgroup.events; None for a key it has not.

    A last line without its end is an error, as the number that was cut off there is another number.
    """
    if raw[-1:] != b"\n":
        raise CannotObserve(f"{path} is cut off or empty: it ends in {quoted(raw[-40:])}")
    found: list[int | None] = []
    for key in keys:
        start = raw.find(b"\n" + key + b" ") + 1
        if not start and not raw.startswith(key + b" "):
            found.append(None)
            continue
        digits = raw[start + len(key) + 1 : raw.index(b"\n", start)]
        if not digits.isdigit() or len(digits) > 20:
            raise CannotObserve(f"{path} holds {quoted(digits)} where the number of {key.decode()} should be")
        found.append(int(digits))
    return found


def memberships(raw: bytes, path: str) -> dict[str, str]:
    """/proc/PID/cgroup: {controller: cgroup path}; v2's hierarchy has the controller ""."""
    if not raw.endswith(b"\n"):
        raise CannotObserve(f"{path} is cut off or empty: it ends in {quoted(raw[-40:])}")
    found: dict[str, str] = {}
    for line in raw.decode("utf-8", "surrogateescape").rstrip("\n").split("\n"):
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
    no known shape (lxc.cgroup.dir.container) is its own answer: its usage and the limits above it are the same.
    """
    parts = path.split("/")
    for index, part in enumerate(parts):
        inside = part
        if part.startswith("lxc.payload."):
            inside = part[len("lxc.payload.") :]
        elif index and parts[index - 1] not in ("lxc", "lxc.payload"):
            if part == "payload" and name in parts[:index]:  # lxc.cgroup.pattern = …/%n, before 4.0
                return "/".join(parts[: index + 1])
            continue
        if inside == name or (inside.startswith(name) and re.fullmatch(_SUFFIX, inside[len(name) :], re.ASCII)):
            return "/".join(parts[: index + 1])
    # Below a directory that the config names freely, a systemd inside has moved init one further down.
    return path.rpartition("/")[0] if parts[-1] == "init.scope" else path
