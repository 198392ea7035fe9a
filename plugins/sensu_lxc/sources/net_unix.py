"""/proc/net/unix: the abstract sockets on which LXC's monitors listen, readable by every user."""

from __future__ import annotations

import re

from sensu_lxc.errors import CannotObserve

# Only what listens (the flag 00010000): a connection bears the name of whom it was made to, and may outlive him.
_COMMAND = re.compile(rb"^\S+ \S+ \S+ 00010000 \S+ \S+ +\d+ @(.+)/command$", re.MULTILINE)
_HASHED = r"lxc/[0-9a-f]{16}"


def command_sockets(raw: bytes, path: str) -> tuple[set[str], set[str]]:
    """(directories LXCPATH/NAME of the containers that have a monitor, hashed names lxc/HASH of over-long ones)."""
    if not raw.startswith(b"Num ") or not raw.endswith(b"\n"):
        raise CannotObserve(f"{path} is not whole: it lacks its heading or the end of its last line")
    found = {match.decode("utf-8", "surrogateescape") for match in _COMMAND.findall(raw)}
    hashed = {name for name in found if name.startswith("lxc/") and re.fullmatch(_HASHED, name)}
    return {name for name in found if name.startswith("/") and not name.endswith("/")}, hashed


def socket_name(directory: str) -> str:
    """The abstract name (without its leading NUL) of the command socket of LXCPATH/NAME.

    sun_path holds 108 bytes. LXC wants room for a NUL at both ends, and writes the hash of a directory that is too
    long.
    """
    encoded = directory.encode("utf-8", "surrogateescape")
    if len(encoded) + len("/command") < 106:
        return f"{directory}/command"
    return f"lxc/{fnv1a(encoded):016x}/command"


def fnv1a(data: bytes) -> int:
    """The 64-bit FNV-1a hash (http://www.isthe.com/chongo/tech/comp/fnv)."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value
