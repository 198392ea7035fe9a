"""What a handler answers: one line that says why, and an exit status.

The line is `NAME WORD code: text`. WORD tells the exit status: ACT (something was asked for) and HOLD (nothing was, on
purpose) are 0; ERROR is not. The code is stable and made for searching logs, the text is for people.
"""

from collections import namedtuple

ACT, HOLD, ERROR = "ACT", "HOLD", "ERROR"

# Exit statuses of ERROR.
REFUSED, MISCONFIGURED, NO_LEDGER, BAD_EVENT = 1, 2, 3, 4


class Outcome(namedtuple("Outcome", "word code text status", defaults=(0,))):
    """How one event ended. word and code as above, status is the process's exit status."""

    __slots__ = ()


class Problem(Exception):
    """What ends a handler early. Its text is a sentence that says what to do, and holds no secret."""

    code = "internal"
    status = REFUSED

    def outcome(self) -> Outcome:
        return Outcome(ERROR, self.code, str(self), self.status)


class Misused(Problem):
    """The command line is wrong."""

    code, status = "usage", MISCONFIGURED


class Misconfigured(Problem):
    """The settings, or a file that they name, are wrong."""

    code, status = "misconfigured", MISCONFIGURED


class LedgerUnusable(Problem):
    """The ledger can't be read or written, so nothing may be asked of anybody."""

    code, status = "ledger", NO_LEDGER


class BadEvent(Problem):
    """What came on STDIN is no event."""

    code, status = "bad-event", BAD_EVENT


def clean(text: str, limit: int = 200) -> str:
    """text as it may stand in a line of a log: no control or formatting character, no line break, at most limit long.

    Names and outputs in events are whatever a client sent: terminal escapes, line breaks that would fake a second
    entry in a log, right-to-left overrides, lone surrogates.
    """
    cut = text[: limit + 1]
    line = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in cut)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def harmless(name: str) -> str:
    """A name out of an event, as it may go into a command: no more than a word. What Sensu allows stays as it is."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.:-") else "_" for c in name[:128])
