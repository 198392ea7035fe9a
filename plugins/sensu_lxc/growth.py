"""How far a container's memory limit may grow, and the config that keeps it: arithmetic and text, no I/O."""

from __future__ import annotations

import re
from collections import namedtuple

from sensu_lxc import render
from sensu_lxc.levels import plain, threshold
from sensu_lxc.options import ArgumentTypeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

# What LXC calls the limits. The first two are the memory's own, of which each kernel knows one and ignores the other.
LIMIT_V1, LIMIT_V2 = "lxc.cgroup.memory.limit_in_bytes", "lxc.cgroup2.memory.max"
MEMSW = "lxc.cgroup.memory.memsw.limit_in_bytes"
HIGH = "lxc.cgroup2.memory.high"

_SMALLEST = 1 << 20
_STEP_HELP = "write a percentage of the present limit (25%) or a size (256M)"
_KERNEL_SIZE = re.compile(r"(\d{1,19})([KMGTPE]?)", re.ASCII | re.IGNORECASE)

# value: percent of something, or bytes; text: as it was written.
Amount = namedtuple("Amount", "value is_percent text")

# step: Amount; maximum_bytes; at_percent: of the limit, from which on it grows; reserve_bytes: what the host must have
# left when the container takes all that it may.
Rule = namedtuple("Rule", "step maximum_bytes at_percent reserve_bytes")

# limit_bytes: the container's own, None for none; memsw_bytes: v1's limit of memory and swap together, None for none;
# high_bytes: v2's memory.high, likewise; used_bytes: what can't be taken back; usage_bytes: all that is charged;
# above: [(cgroup directory, its limit in bytes)] of those above it, the nearest first.
Facts = namedtuple("Facts", "limit_bytes memsw_bytes high_bytes used_bytes usage_bytes above")

# limit_bytes, memsw_bytes, high_bytes: what to write, None for what stays as it is.
Limits = namedtuple("Limits", "limit_bytes memsw_bytes high_bytes")

# kind: one of the words below; words: why; limits: Limits where it is GROW.
Decision = namedtuple("Decision", "kind words limits", defaults=(None,))
GROW, WELL, AT_MAXIMUM, REFUSED = "grow", "well", "at maximum", "refused"


def step(text: str) -> Amount:
    """Parse 25% or 256M. For argparse: type=step."""
    found = _percent(text)
    if found is not None and 0 < found <= 1000:
        return Amount(found, True, text.strip())
    if found is None and text.strip().isdigit() and int(text) < _SMALLEST:  # most likely a forgotten %
        raise ArgumentTypeError(f"{text[:40]!r} would be {text.strip()[:40]} bytes; {_STEP_HELP}")
    if found is None:
        return Amount(size(text), False, text.strip())
    raise ArgumentTypeError(f"{text[:40]!r} is no step; {_STEP_HELP}")


def size(text: str) -> int:
    """Parse 256M into bytes. For argparse: type=size."""
    found = threshold(text)
    if not found.at_and_above or found.is_percent or found.high < 1:
        raise ArgumentTypeError(f"{text[:40]!r} is no size; write for example 256M or 2G")
    if found.high < _SMALLEST:
        raise ArgumentTypeError(
            f"{text[:40]!r} is {render.size(found.high)}, less than any container has; write for example 256M or 2G"
        )
    return int(found.high)


def share(text: str) -> float:
    """Parse 90%, or 0 for any. For argparse: type=share."""
    found = 0.0 if text.strip() == "0" else _percent(text)
    if found is None or not 0 <= found <= 100:
        raise ArgumentTypeError(f"{text[:40]!r} is no share of the limit; write 90%, or 0 to grow whatever is named")
    return found


def _percent(text: str) -> float | None:
    match = re.fullmatch(r"(\d{1,4}(?:\.\d{0,6})?)\s*%", text.strip(), re.ASCII)
    return float(match.group(1)) if match else None


def decide(facts: Facts, rule: Rule, available_bytes: int, page_bytes: int) -> Decision:
    """Whether, and how far, a limit grows. available_bytes: what the host can give without swapping."""
    limit, used, maximum = facts.limit_bytes, facts.used_bytes, rule.maximum_bytes
    nearest = min(facts.above, key=lambda one: one[1], default=None)
    binding = min((one for one in (limit, nearest and nearest[1]) if one is not None), default=None)
    if binding is None:
        return Decision(WELL, f"{render.size(used)} used, no limit set: nothing to grow")
    name = ""
    if facts.high_bytes is not None and limit is not None and facts.high_bytes < binding:
        # It is throttled there, and never comes to the limit itself.
        binding, name = facts.high_bytes, " (memory.high)"
    # A limit of 0 is full whatever is used.
    percent = used * 100 / binding if binding else 100.0
    said = f"{render.size(used)} used, {percent:.1f}% of {render.size(binding)}{name}"
    if percent < rule.at_percent:
        return Decision(WELL, f"{said}: nothing to grow below {plain(rule.at_percent)}%")
    if nearest is not None and (limit is None or nearest[1] <= limit):
        own = "it has no limit of its own" if limit is None else f"its own is {render.size(limit)}"
        return Decision(AT_MAXIMUM, f"{said}, which is the limit of {nearest[0]} above it ({own}): raise that one")
    assert limit is not None
    if limit >= maximum // page_bytes * page_bytes:
        return Decision(AT_MAXIMUM, f"{said}: at its maximum of {render.size(maximum)} (--max), so look what it does")
    grown = limit_after(limit, rule, page_bytes)
    if grown <= facts.usage_bytes:
        return Decision(
            REFUSED,
            f"{said}, and {render.size(facts.usage_bytes)} are charged to it: a limit of {render.size(grown)} would "
            "kill it; give a larger --step or --max",
        )
    # What it uses is taken from the host already.
    promised = grown - used
    if available_bytes - promised < rule.reserve_bytes:
        return Decision(
            REFUSED,
            f"{said}; not grown to {render.size(grown)}, as the host has {render.size(available_bytes)} available, and "
            f"{render.size(rule.reserve_bytes)} must remain (--reserve) when it takes {render.size(promised)} more: "
            "free memory there, or move a container",
        )
    memsw = high = None
    if facts.memsw_bytes is not None:
        memsw = facts.memsw_bytes + grown - limit  # the swap that it may use stays what it was
    if facts.high_bytes is not None and limit:
        high = in_proportion(facts.high_bytes, limit, grown, page_bytes)
    words = f"{said}; grown to {render.size(grown)}"
    if grown >= maximum // page_bytes * page_bytes:
        words += ", its maximum"
    for directory, above in facts.above:
        if above < grown:
            words += f"; the limit of {directory} above it still binds at {render.size(above)}"
    return Decision(GROW, words, Limits(grown, memsw, high))


def limit_after(limit_bytes: int, rule: Rule, page_bytes: int) -> int:
    """The next limit: a whole number of pages, as the kernel cuts it, and at least one page more.

    >>> limit_after(100, Rule(Amount(50, True, ""), 1000, 0, 0), 10)
    150
    >>> limit_after(100, Rule(Amount(1, False, ""), 1000, 0, 0), 10)
    110
    """
    by = limit_bytes * rule.step.value / 100 if rule.step.is_percent else rule.step.value
    wanted = limit_bytes + max(int(by), page_bytes)
    return int(min(wanted, rule.maximum_bytes) // page_bytes * page_bytes)


def in_proportion(value: int, before: int, after: int, page_bytes: int) -> int:
    """A value that grows as another one did, in whole pages and never above it."""
    return min(value * after // before // page_bytes * page_bytes, after)


def config_bytes(text: str) -> int | None:
    """A size in a config as the kernel reads it; None for none (max, -1) or what it would refuse."""
    match = _KERNEL_SIZE.fullmatch(text.strip())
    return None if match is None else int(match.group(1)) << 10 * " KMGTPE".index(match.group(2).upper() or " ")


def config_values(settings: Mapping[str, str], before: int, limits: Limits, is_v2: bool) -> dict[str, str]:
    """What each key of a config is to say: every one that is there, and the limit's own in any case.

    settings: those that count now; before: the limit that the container had.
    """
    grown = limits.limit_bytes
    found = {LIMIT_V2 if is_v2 else LIMIT_V1: str(grown)}
    for key in (LIMIT_V1, LIMIT_V2):
        if key in settings:
            found[key] = str(grown)
    memsw = config_bytes(settings.get(MEMSW, ""))
    if limits.memsw_bytes is not None:
        found[MEMSW] = str(limits.memsw_bytes)
    elif memsw is not None:  # of a host that counted swap; below the limit it would keep the container from starting
        found[MEMSW] = str(max(memsw + grown - before, grown))
    high = config_bytes(settings.get(HIGH, ""))
    if limits.high_bytes is not None:
        found[HIGH] = str(limits.high_bytes)
    elif high is not None and before:
        found[HIGH] = str(in_proportion(high, before, grown, 1))
    return found


def with_settings(raw: bytes, wanted: Mapping[str, str], append: Collection[str] = ()) -> bytes:
    """A config of LXC in which each key of wanted has its value, wherever it stands; all other bytes stay.

    A key that stands nowhere is added at the end, and so is one of `append`, which a file included further down sets.
    """
    missing = {key: value for key, value in wanted.items() if key in append}

    def change(line: str) -> str | None:
        key, equals, rest = line.partition("=")
        name = key.strip()
        if not equals or name not in wanted:  # a comment's key begins with its #
            return None
        seen.add(name)
        return f"{key}={rest[: len(rest) - len(rest.lstrip())]}{wanted[name]}"

    seen: set[str] = set()
    lines = _changed(raw, change)
    missing.update((key, value) for key, value in wanted.items() if key not in seen)
    return _with_lines(lines, len(lines), [f"{key} = {value}" for key, value in missing.items()])


def with_proxmox_memory(raw: bytes, mebibytes: int) -> bytes:
    """A container's config of Proxmox (pct.conf(5)) with that much memory: before the first snapshot, none of which
    changes."""
    current = True
    found = False

    def change(line: str) -> str | None:
        nonlocal current, found
        current = current and not line.startswith("[")
        if not current or line.partition(":")[0].strip() != "memory" or ":" not in line:
            return None
        found = True
        return f"memory: {mebibytes}"

    lines = _changed(raw, change)
    if found:
        return b"".join(lines)
    first = next((number for number, line in enumerate(lines) if line.startswith(b"[")), len(lines))
    # Proxmox leaves an empty line above each snapshot.
    while 0 < first < len(lines) and not lines[first - 1].strip():
        first -= 1
    return _with_lines(lines, first, [f"memory: {mebibytes}"])


def proxmox_lock(raw: bytes) -> str:
    """What Proxmox does with the container just now (backup, migrate), "" for nothing."""
    for line in raw.decode("utf-8", "surrogateescape").split("\n"):
        if line.startswith("["):
            break
        key, colon, value = line.partition(":")
        if colon and key.strip() == "lock":
            return value.strip()
    return ""


def _changed(raw: bytes, change: Callable[[str], str | None]) -> list[bytes]:
    """The lines with their ends, each as it was or, where change() gives another one, that with the end it had."""
    lines = []
    for line in _split(raw):
        content = line.rstrip(b"\r\n")
        other = change(content.decode("utf-8", "surrogateescape"))
        lines.append(line if other is None else other.encode("utf-8", "surrogateescape") + line[len(content) :])
    return lines


def _split(raw: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in raw.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _with_lines(lines: list[bytes], at: int, more: list[str]) -> bytes:
    if not more:
        return b"".join(lines)
    end = b"\r\n" if any(line.endswith(b"\r\n") for line in lines) else b"\n"
    before = b"".join(lines[:at])
    if before and not before.endswith(b"\n"):
        before += end
    added = b"".join(line.encode("utf-8", "surrogateescape") + end for line in more)
    return before + added + b"".join(lines[at:])
