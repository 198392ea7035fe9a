"""Strict command lines: what is misspelt, shortened or left over is said, with one line rather than a usage."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from typing import Any, NoReturn

_WIDTH = 100
# argparse has its three headings translated, for which gettext imports locale: 1 ms of each check.
argparse._ = str  # type: ignore[attr-defined]


class Misuse(Exception):
    """The command line makes no sense; the message says what to write instead."""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    # argparse makes a formatter for each option that is added, and asks the terminal's width by way of shutil,
    # which costs a check 5 ms. The width is known where help is printed.
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=_WIDTH)


class StrictParser(argparse.ArgumentParser):
    """argparse, but a misspelt, shortened or left-over option is said, and with one line rather than a usage."""

    def __init__(self, description: str, example: str) -> None:
        super().__init__(
            description=description,
            epilog=f"Example:\n{example}",
            formatter_class=_Formatter,
            allow_abbrev=False,
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, which drops the value of --option=-- together with its type's check (Python 3.11)."""
        for word in args:
            if word == "--":
                break
            if word.startswith("-") and word.endswith("--"):
                self.error(f"{word} has no value but --")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise Misuse(f"{message}; {self.prog} --help shows what it takes")
