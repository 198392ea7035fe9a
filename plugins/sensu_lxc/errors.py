"""What can go wrong when one looks: each error is a sentence for the person who reads the status line."""

from __future__ import annotations


class CannotObserve(Exception):
    """Something that had to be seen could not be seen. A check that meets it says UNKNOWN."""


class NotThere(CannotObserve):
    """The file or process is not there (any more)."""


class NotAllowed(CannotObserve):
    """The kernel refuses this user the look."""


def quoted(raw: bytes) -> str:
    """What was read, short and printable, for an error's sentence."""
    return ascii(raw[:40].decode("ascii", "backslashreplace")) if raw else "nothing"
