"""Thresholds: what a user may write after -w and -c, and when it alerts.

The grammar, for sizes, percentages and durations alike (README, "Thresholds"):

    N          alerts at N and above. That is what people who write `-w 80%` mean; Nagios itself alerts above N only.
    N: ~:N N:M alerts outside the range, its ends included in the good part (Nagios plugin guidelines,
               https://www.monitoring-plugins.org/doc/guidelines.html#THRESHOLDFORMAT)
    @N:M       alerts inside the range, its ends included

N is a number with an optional unit: % of the limit; K M G T P or KiB MiB … (powers of 1024, as the kernel and LXC read
them); kB MB GB … (powers of 1000).
"""

from __future__ import annotations

import re
from collections import namedtuple

from sensu_lxc.findings import Measure, State
from sensu_lxc.options import ArgumentTypeError

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NUMBER = r"(\d{1,19}(?:\.\d{0,9})?|\.\d{1,9})\s*([A-Za-z%]*)"
_BINARY = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", 1):
    _BINARY[_letter] = _BINARY[_letter + "ib"] = 1024**_power
    _BINARY[_letter + "b"] = 1000**_power
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

# What N of a threshold may be. words: for --help and errors; range: an example of a Nagios range of it.
Numbers = namedtuple("Numbers", "words range")
SIZES_OR_SHARES = Numbers("a size (943718400, 900M, 1.5GiB) or a percentage of the limit (80%)", "@10%:20%, 64M:")
COUNTS_OR_SHARES = Numbers("a number (500) or a percentage of the limit (80%)", "@10%:20%, 10:")
SHARES = Numbers("a percentage (80, 80%)", "@10%:20%, 10%:")
BYTES = Numbers("a number of bytes (1000000, 10M, 1.5MiB)", "@1k:10M, 1k:")
COUNTS = Numbers("a number (500)", "@10:20, 10:")
_DURATION_HELP = "write seconds or a number with ms, s, m, h or d, for example 10s"
_LARGEST = 2**63


def _number(text: str, units: Mapping[str, float], advice: str) -> tuple[float, str]:
    match = re.fullmatch(_NUMBER, text.strip(), re.ASCII)
    if match is None and text.strip().startswith("-"):
        raise ArgumentTypeError(f"{_quoted(text)} is negative, which nothing here can be; {advice}")
    if match is None:
        raise ArgumentTypeError(f"{_quoted(text)} is not a number with a unit; {advice}")
    digits, unit = match.groups()
    if unit == "%":
        return float(digits), "%"
    if len(unit) > 1 and unit[-1] == "b" and units is _BINARY:
        raise ArgumentTypeError(
            f"{_quoted(text)} may mean bits: write {unit[:-1]}B for bytes (a link of 100 Mbit/s carries 12.5MB/s)"
        )
    try:
        factor = units[unit.lower()]
    except KeyError:
        raise ArgumentTypeError(f"{_quoted(text)} has the unknown unit {unit!r}; {advice}") from None
    value = float(digits) * factor if "." in digits else int(digits) * factor
    if value >= _LARGEST:
        raise ArgumentTypeError(f"{_quoted(text)} is more than any container can have; {advice}")
    return value, ""


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


class Threshold(namedtuple("Threshold", "text low high inside at_and_above is_percent")):
    """One threshold.

    low, high: float bounds or None for none, in the caller's unit or in percent (is_percent); inside: it alerts between
    them rather than outside; at_and_above: it was a plain number, and alerts from `high` on.
    """

    __slots__ = ()

    def alerts(self, value: float, whole: float | None = None) -> bool:
        """Whether value breaches. whole: what 100% is; a percentage of nothing never alerts."""
        if self.at_and_above:
            if self.is_percent:
                return whole is not None and bool(value * 100 >= self.high * whole)
            return bool(value >= self.high)
        low, high = self.bounds(whole)
        within = (low is None or value >= low) and (high is None or value <= high)
        if self.is_percent and whole is None:
            return False
        return within if self.inside else not within

    def bounds(self, whole: float | None = None) -> tuple[float | None, float | None]:
        """(low, high) in absolute units; None where there is no such bound."""
        if not self.is_percent:
            return self.low, self.high
        if whole is None:
            return None, None
        return (
            None if self.low is None else self.low * whole / 100,
            None if self.high is None else self.high * whole / 100,
        )

    def spelt(self, unit: str, whole: str = "the limit") -> str:
        """As it was given, with its unit where that went without saying: a forgotten % shows there.

        whole: what a percentage would be of.
        """
        text: str = self.text
        if not text.isdigit():
            return text
        return f"{text} {unit}; {text}% would be of {whole}" if 0 < int(text) <= 100 else f"{text} {unit}"

    def as_range(self, whole: float | None = None) -> str:
        """The threshold in absolute units as perfdata wants it; "" where a percentage has no whole."""
        if self.is_percent and whole is None:
            return ""
        if self.at_and_above:
            return plain(self.high * whole / 100 if self.is_percent else self.high)
        low, high = self.bounds(whole)
        end = "" if high is None else plain(high)
        return f"{'@' if self.inside else ''}{'~' if low is None else plain(low)}:{end}"


class Levels(namedtuple("Levels", "warning critical")):
    """A warning and a critical Threshold, each of which may be None."""

    __slots__ = ()

    def judge(self, value: float, whole: float | None = None) -> tuple[State, Threshold | None]:
        """The state of value, and the threshold that made it so (None when it is OK)."""
        if self.critical is not None and self.critical.alerts(value, whole):
            return State.CRITICAL, self.critical
        if self.warning is not None and self.warning.alerts(value, whole):
            return State.WARNING, self.warning
        return State.OK, None

    def measure(self, label: str, value: float, unit: str = "", whole: float | None = None) -> Measure:
        """The value for graphs, with these levels in its unit; it lies between 0 and whole."""
        warning, critical = (one.as_range(whole) if one is not None else "" for one in self)
        return Measure(label, value, unit, warning, critical, 0, whole)

    @property
    def use_percent(self) -> bool:
        """Whether a percentage is among them, which needs a whole to be a percentage of."""
        return any(threshold is not None and threshold.is_percent for threshold in self)

    def contradiction(self) -> str | None:
        """Why the pair makes no sense, or None: with the critical bound below the warning's, no warning ever comes."""
        warning, critical = self
        if warning is None or critical is None or warning.is_percent != critical.is_percent:
            return None
        if warning.at_and_above and critical.at_and_above and warning.high > critical.high:
            return f"the warning threshold {warning.text} lies above the critical one {critical.text}; exchange them"
        return None


NOTHING = Levels(None, None)


def thresholds(numbers: Numbers) -> Callable[[str], Threshold]:
    """For argparse: type=thresholds(BYTES) parses a threshold, and else advises those numbers."""
    return lambda text: threshold(text, numbers)


def threshold(text: str, numbers: Numbers = SIZES_OR_SHARES) -> Threshold:
    """Parse one threshold (the module's docstring has the grammar). numbers: what to advise where it is none."""
    text = text.strip()
    advice = f"write {numbers.words} or a Nagios range ({numbers.range})"
    inside = text.startswith("@")
    low_text, colon, high_text = text.lstrip("@").rpartition(":") if text.count("@") == inside else ("", "", text)
    if not high_text and not colon:
        raise ArgumentTypeError(f"a threshold is empty; {advice}")
    alone = not colon and not inside
    low, low_kind = (None, "") if alone or low_text == "~" else _bound(low_text or "0", text, advice)
    high, high_kind = _bound(high_text, text, advice) if high_text else (None, "")
    if "%" in (low_kind, high_kind) and not inside and not alone and not low and high is not None and high >= 100:
        raise ArgumentTypeError(f"{_quoted(text)} alerts above 100%, which is never reached; {advice}")
    if not inside and high is None and not low:
        raise ArgumentTypeError(f"{_quoted(text)} would never alert; {advice}")
    if high is not None and low_kind != high_kind and (low_kind or low):  # a bare 0 is 0 of either kind
        raise ArgumentTypeError(f"{_quoted(text)} mixes a percentage with a size; give both ends the same kind")
    if low is not None and high is not None and low > high:
        raise ArgumentTypeError(f"{_quoted(text)} begins above its end; exchange the two")
    return Threshold(text, low, high, inside, alone, "%" in (low_kind, high_kind))


def _bound(digits: str, whole: str, advice: str) -> tuple[float, str]:
    value, kind = _number(digits, _BINARY, advice)
    if kind == "%" and value > 100:
        raise ArgumentTypeError(f"{_quoted(whole)} is more than 100%, which is never reached; {advice}")
    return value, kind


def duration(text: str) -> float:
    """Parse a positive duration into seconds. For argparse: type=duration."""
    seconds, kind = _number(text, _SECONDS, _DURATION_HELP)
    if kind or not 0 < seconds <= 86400 * 366:
        raise ArgumentTypeError(f"{_quoted(text)} is not a duration above zero; {_DURATION_HELP}")
    return float(seconds)


def plain(number: float) -> str:
    """A number without an exponent, which Sensu Go's perfdata parser would misread (1e+16 becomes 116)."""
    if number >= 100000 or number == int(number):
        return str(round(number))
    return f"{number:.6f}".rstrip("0").rstrip(".")
