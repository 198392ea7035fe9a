"""LXC's configuration files (lxc.container.conf(5), lxc.system.conf(5)) and Proxmox's (pct.conf(5))."""

from __future__ import annotations


def settings(raw: bytes) -> list[tuple[str, str]]:
    """(key, value) in the order of the file, where the later one counts. Other keys than LXC's are passed over."""
    found = []
    for line in raw.decode("utf-8", "surrogateescape").rstrip("\n").split("\n"):
        key, equals, value = line.partition("=")
        if equals and key.lstrip().startswith("lxc."):
            found.append((key.strip(), value.strip().strip("\"'")))
    return found


def is_one(value: str) -> bool:
    """Whether a number of a config is 1, in any of the ways that strtoul(3) takes: 1, +1, 01, 0x1."""
    digits = value.strip().removeprefix("+").lower()
    return (digits.removeprefix("0x") if digits.startswith("0x") else digits).lstrip("0") == "1"


def proxmox_onboot(raw: bytes) -> bool:
    """Whether a Proxmox container starts with its host: onboot: 1 before the first [snapshot]."""
    onboot = False
    for line in raw.decode("utf-8", "surrogateescape").rstrip("\n").split("\n"):
        if line.startswith("["):
            break
        key, colon, value = line.partition(":")
        if colon and key.strip() == "onboot":
            onboot = value.strip() == "1"
    return onboot
