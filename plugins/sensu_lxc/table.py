"""A table for a terminal, and the terminal itself: plain ANSI, put back as it was however the program ends."""

from __future__ import annotations

import os
import select
import signal
import termios
import tty
from collections import namedtuple
from unicodedata import combining, east_asian_width

from sensu_lxc import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import FrameType, TracebackType
    from typing import Any

BOLD, DIM, RED, YELLOW, CYAN, REVERSED = "1", "2", "31", "33", "36", "7"
_ENTER, _LEAVE = b"\x1b[?1049h\x1b[?25l\x1b[?7l", b"\x1b[?7h\x1b[?25h\x1b[?1049l"

# text: what stands there; colour: "" or one of the above; is_left: to the left of its column rather than to the right.
Cell = namedtuple("Cell", "text colour is_left", defaults=("", False))


def width(text: str) -> int:
    """How many columns of a terminal it takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)


def cut(text: str, columns: int) -> str:
    """text made fit for a terminal and no wider than that."""
    text = render.text(text.replace("|", "¦"), 300)
    if width(text) <= columns:
        return text
    while text and width(text) >= columns:
        text = text[:-1]
    return f"{text}…" if columns > 0 else ""


def table(heading: Sequence[Cell], rows: Iterable[Sequence[Cell]], columns: int, colours: bool) -> list[str]:
    """The lines of a table whose first column shrinks; the last columns are left out where there is no room."""
    lines = [heading, *rows]
    widths = [max(width(line[number].text) for line in lines) for number in range(len(heading))]
    least = min(widths[0], 16)
    while len(widths) > 1 and least + sum(one + 1 for one in widths[1:]) > columns:
        widths.pop()
    widths[0] = max(1, min(widths[0], columns - sum(one + 1 for one in widths[1:])))
    return [" ".join(_cell(cell, room, colours) for cell, room in zip(line, widths)).rstrip(" ") for line in lines]


def _cell(cell: Cell, room: int, colours: bool) -> str:
    text = cut(cell.text, room)
    blank = " " * (room - width(text))
    painted = paint(text, cell.colour) if colours else text
    return painted + blank if cell.is_left else blank + painted


def paint(text: str, colour: str) -> str:
    """text in a colour."""
    return f"\x1b[{colour}m{text}\x1b[0m" if colour else text


def wants_colours(descriptor: int) -> bool:
    """Whether it is a terminal that shows them to somebody who wants them (https://no-color.org)."""
    return os.isatty(descriptor) and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


class Terminal:
    """The terminal while a program fills it; a context manager.

    Whatever ends the program but SIGKILL, the terminal is left as it was found. Ctrl-Z stops it likewise.
    """

    def __init__(self) -> None:
        self._before = termios.tcgetattr(0)
        self._wake = os.pipe()
        for end in self._wake:
            os.set_blocking(end, False)
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Terminal:
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._handlers[number] = signal.signal(number, self._end)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stop)
        # Only so that wait() returns: the size is asked for at each look.
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda number, frame: None)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for end in self._wake:
            os.close(end)

    def _take(self) -> None:
        tty.setcbreak(0, termios.TCSADRAIN)
        _write(_ENTER)

    def _give_back(self) -> None:
        try:
            _write(_LEAVE)
            termios.tcsetattr(0, termios.TCSADRAIN, self._before)
        except (OSError, termios.error):  # it is gone
            pass

    def _end(self, number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # it goes on here, once it is told to
        signal.signal(signal.SIGTSTP, self._stop)
        self._take()

    @property
    def size(self) -> tuple[int, int]:
        """(columns, lines)."""
        size = os.get_terminal_size(1)
        return size.columns or 80, size.lines or 24

    def show(self, lines: Sequence[str]) -> None:
        """Fill the screen, without a moment in which it is empty."""
        _write(("\x1b[H" + "\x1b[K\n".join(lines[: self.size[1]]) + "\x1b[K\x1b[J").encode("utf-8", "replace"))

    def wait(self, seconds: float) -> str:
        """The keys that are pressed within that time, at the first of them; "" also where the size changed."""
        ready, _, _ = select.select([0, self._wake[0]], [], [], max(0.0, seconds))
        if self._wake[0] in ready:
            try:
                os.read(self._wake[0], 4096)
            except BlockingIOError:
                pass
        if 0 not in ready:
            return ""
        keys = os.read(0, 64)
        if not keys:
            raise SystemExit(0)  # whoever held the other end is gone
        return keys.decode("utf-8", "replace")


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
