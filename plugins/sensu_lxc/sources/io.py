"""Block I/O files: v1's blkio.throttle.io_service* (blk-throttle.c) and v2's io.stat (cgroup-v2.rst, "IO")."""

from __future__ import annotations

import re

from sensu_lxc.errors import CannotObserve, quoted

_LINE_V1 = re.compile(rb"(\d{1,7}:\d{1,7}) (Read|Write|Sync|Async|Discard|Total) (\d{1,20})", re.ASCII)
_TOTAL_V1 = re.compile(rb"Total \d{1,20}\n", re.ASCII)
_DEVICE = re.compile(rb"\d{1,7}:\d{1,7}", re.ASCII)
_PAIR = re.compile(rb"([A-Za-z_.]{1,40})=([0-9A-Za-z_.:/-]{1,40})", re.ASCII)
# What a kernel without further controllers writes.
_LINE_V2 = re.compile(
    rb"(\d{1,7}:\d{1,7}) rbytes=(\d{1,40}) wbytes=(\d{1,40}) rios=(\d{1,40}) wios=(\d{1,40})"
    rb" dbytes=\d{1,40} dios=\d{1,40}",
    re.ASCII,
)
_UNKNOWN = b"(unknown)"  # a disk that was just taken out
_KEYS = (b"rbytes", b"wbytes", b"rios", b"wios")


def rwstat(raw: bytes, path: str) -> dict[str, tuple[int, int]]:
    """One file of v1: {"8:0": (read, written)}, in bytes or in operations.

    The file's own totals count discarded blocks as well, which are neither.
    """
    lines = raw.split(b"\n")
    # The total of all devices stands last, also where there is none: without it the file was cut off.
    if len(lines) < 2 or lines[-1] or not _TOTAL_V1.fullmatch(lines[-2] + b"\n"):
        raise CannotObserve(f"{path} is cut off or empty: it ends in {quoted(raw[-40:])}")
    found: dict[str, dict[bytes, int]] = {}
    for line in lines[:-2]:
        match = _LINE_V1.fullmatch(line)
        if match is None:
            raise CannotObserve(f"{path} holds {quoted(line)} where a device's I/O should be")
        found.setdefault(match[1].decode(), {})[match[2]] = int(match[3])
    try:
        return {device: (counts[b"Read"], counts[b"Write"]) for device, counts in found.items()}
    except KeyError:
        raise CannotObserve(f"{path} lacks what a device read or wrote") from None


def stat(raw: bytes, path: str) -> dict[str, tuple[int, int, int, int]]:
    """io.stat: {"8:0": (bytes read, bytes written, reads, writes)}; empty before the first I/O."""
    if raw and raw[-1:] != b"\n":
        raise CannotObserve(f"{path} is cut off: it ends in {quoted(raw[-40:])}")
    found: dict[str, tuple[int, int, int, int]] = {}
    for line in raw.split(b"\n"):
        plain = _LINE_V2.fullmatch(line)
        if plain is not None:
            read_bytes, written_bytes, reads, writes = map(int, plain.group(2, 3, 4, 5))
            found[plain[1].decode()] = read_bytes, written_bytes, reads, writes
            continue
        device = b""
        counts: dict[bytes, bytes] = {}
        for word in line.split():
            match = _PAIR.fullmatch(word)
            # Some kernels put devices without counts in front of the next one's.
            if not counts and (word == _UNKNOWN or _DEVICE.fullmatch(word)):
                device = word
            elif match is not None and device:
                counts[match[1]] = match[2]
            else:
                raise CannotObserve(f"{path} holds {quoted(line)} where a device's I/O should be")
        given = [counts[key] for key in _KEYS if key in counts]
        if not given or device == _UNKNOWN:  # controllers such as iocost have counts of their own there
            continue
        if len(given) < len(_KEYS) or not all(count.isdigit() for count in given):
            raise CannotObserve(f"{path} holds {quoted(line)}, which lacks what was read or written")
        read_bytes, written_bytes, reads, writes = map(int, given)
        found[device.decode()] = read_bytes, written_bytes, reads, writes
    return found
