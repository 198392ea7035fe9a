"""What a check has found: states, findings, and which of them counts."""

from __future__ import annotations

from collections import namedtuple
from enum import IntEnum

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from collections.abc import Iterable


class State(IntEnum):
    """The four exit statuses of the Nagios plugin guidelines, which Sensu, Monit and Icinga share."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


# Something known to be bad outranks something unseen; something unseen outranks a mere warning.
_RANK = {State.OK: 0, State.WARNING: 1, State.UNKNOWN: 2, State.CRITICAL: 3}

# One number for graphs. label: str without a container's name; value: int or float in `unit` ("B", "%", "s", "");
# warning, critical: range texts in the same unit or ""; minimum, maximum: numbers or None.
Measure = namedtuple("Measure", "label value unit warning critical minimum maximum", defaults=("", "", "", None, None))


class Finding(namedtuple("Finding", "state subject text measures urgency", defaults=((), 0.0))):
    """One judged fact.

    state: State; subject: the container's label, or "" for the host; text: half a sentence for a person, or a function
    that makes it (of a thousand containers that are OK one is told of); measures: tuple of Measure; urgency: float that
    sorts findings of the same state, higher is worse.
    """

    __slots__ = ()

    @property
    def words(self) -> str:
        """The text, made now where it is a function."""
        words: str = self.text if isinstance(self.text, str) else self.text()
        return words

    def __str__(self) -> str:
        return f"{self.subject}: {self.words}" if self.subject else self.words


def worst(findings: Iterable[Finding]) -> State:
    """The state that the whole check has; UNKNOWN where nothing was found, as nothing seen is not OK."""
    return max((finding.state for finding in findings), key=_RANK.__getitem__, default=State.UNKNOWN)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sorted for a reader: by state, then by urgency, then by name."""
    return sorted(findings, key=lambda finding: (-_RANK[finding.state], -finding.urgency, finding.subject))
