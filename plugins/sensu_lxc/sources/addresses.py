"""The addresses of a network namespace, as /proc/PID/net/fib_trie and /proc/PID/net/if_inet6 show them.

Both are readable without root, and without a program in the container.
"""

from __future__ import annotations

import re
from _socket import AF_INET6, inet_ntop  # socket.py costs a check 3 ms

from sensu_lxc.errors import CannotObserve

# A leaf of the trie, and below it what the address is to this namespace: its own are /32 host LOCAL.
_LEAF = re.compile(rb"\s*\|-- (\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})", re.ASCII)
_OWN = re.compile(rb"\s*/32 host LOCAL", re.ASCII)
_GLOBAL = 0
# IFA_F_DADFAILED, IFA_F_TENTATIVE (linux/if_addr.h): an address that another host has, or may have.
_NOT_USABLE = 0x08 | 0x40


def ipv4(raw: bytes, path: str) -> list[str]:
    """The namespace's IPv4 addresses that others can reach it at: neither loopback nor link-local, each once."""
    if raw and not raw.startswith(b"Main:") and b"Local:" not in raw and b"Id " not in raw:
        raise CannotObserve(
            f"{path} does not look like a routing trie: it begins with {ascii(raw[:40].decode('latin-1'))}"
        )
    found: list[str] = []
    leaf = ""
    for line in raw.splitlines():
        match = _LEAF.fullmatch(line)
        if match is not None:
            leaf = match.group(1).decode()
        elif leaf and _OWN.fullmatch(line) and leaf not in found and not leaf.startswith(("127.", "169.254.")):
            if any(int(part) > 255 for part in leaf.split(".")):
                raise CannotObserve(f"{path} holds {leaf}, which is no address")
            found.append(leaf)
    return found


def ipv6(raw: bytes, path: str) -> list[str]:
    """The namespace's IPv6 addresses of global scope (unique local ones among them) that it may use already."""
    found: list[str] = []
    for line in raw.splitlines():
        fields = line.split()
        try:
            address, _, _, scope, flags, _ = fields
            text = inet_ntop(AF_INET6, bytes.fromhex(address.decode("ascii")))
            usable = int(scope, 16) == _GLOBAL and not int(flags, 16) & _NOT_USABLE
        except ValueError:
            raise CannotObserve(
                f"{path} holds {ascii(line[:60].decode('latin-1'))} where an address, its scope and flags should be"
            ) from None
        if usable and text not in found:
            found.append(text)
    return found
