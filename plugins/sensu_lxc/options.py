"""Strict command lines: what is misspelt, shortened or left over is said, with one line rather than a usage."""

from __future__ import annotations

import sys

# argparse has its words translated, for which gettext and locale cost each check 2 ms. It gets words as they are.
_plain = type(sys)("gettext")
vars(_plain).update(gettext=str, ngettext=lambda one, many, count: one if count == 1 else many)
_loaded = sys.modules.setdefault("gettext", _plain)
import argparse  # noqa: E402
from argparse import ArgumentTypeError as ArgumentTypeError  # noqa: E402

if _loaded is _plain:  # whoever imports it later gets the real one
    del sys.modules["gettext"]

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from typing import Any, NoReturn

_WIDTH = 100


class Misuse(Exception):
    """The command line makes no sense; the message says what to write instead."""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    # argparse makes a formatter for each option that is added, and asks the terminal's width by way of shutil,
    # which costs a check 5 ms. The width is known where help is printed.
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=_WIDTH)


class _Once(argparse.Action):
    """What argparse does with an option of one value, but for the last of several silently taking the others' place."""

    _by: tuple[object, str] = (None, "")

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        filled, first = self._by
        if filled is namespace:
            if first == option_string:
                raise Misuse(f"{first} is given twice; give it once")
            raise Misuse(f"{first} and {option_string} are one option; give one of them")
        self._by = namespace, option_string
        setattr(namespace, self.dest, values)


class StrictParser(argparse.ArgumentParser):
    """argparse, but a misspelt, shortened, repeated or left-over option is said, with one line rather than a usage."""

    def __init__(self, description: str, example: str) -> None:
        try:
            super().__init__(
                description=description,
                epilog=f"Example:\n{example}",
                formatter_class=_Formatter,
                allow_abbrev=False,
            )
        except TypeError:  # that of PyPI, of Python 2.7, which sensu-plugin brings along
            raise Misuse(
                f"{argparse.__file__} hides Python's own argparse, and is an old one; put a virtual environment's bin/ "
                "first on PATH rather than its site-packages on PYTHONPATH"
            ) from None
        self.register("action", None, _Once)

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
