"""LXC's configuration files (lxc.container.conf(5), lxc.system.conf(5)) and Proxmox's (pct.conf(5))."""

from __future__ import annotations


def settings(raw: bytes) -> list[tuple[str, str]]:
    """(key, value) in the order of the file, where the later one counts; comments and other lines are passed over."""
    found = []
    for line in raw.decode("utf-8", "surrogateescape").rstrip("\n").split("\n"):
        key, equals, value = line.partition("=")
        if equals and not key.lstrip().startswith("#"):
            found.append((key.strip(), value.strip().strip("\"'")))
    return found


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
