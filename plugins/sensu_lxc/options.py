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
_RANGE = """\
RANGE is N (alerts at N and above) or a Nagios range: N: alerts below N, ~:N above N, N:M outside of N to M,
@N:M inside. N is"""


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
        self._ranges: dict[str, list[str]] = {}

    def explain(self, options: str, numbers: str) -> None:
        """Have --help say what N of a RANGE is for some options."""
        self._ranges.setdefault(numbers, []).append(options)

    def format_help(self) -> str:
        """As argparse's, and what a RANGE is where an option takes one."""
        lines = [f"  {numbers}: {', '.join(options)}\n" for numbers, options in self._ranges.items()]
        return super().format_help() + (f"\n{_RANGE}\n{''.join(lines)}" if lines else "")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, which drops the value of --option=-- together with its type's check (Python 3.11)."""
        words: list[str] = []
        for word in args:
            if words and words[-1] == "--":
                pass
            elif word != "--" and word.startswith("-") and word.endswith("--"):
                self.error(f"{word} has no value but --")
            elif word[:1] == "-" and word[1:2].isdigit() and words and self._takes_value(words[-1]):
                # argparse takes -5% for an option, of which none here begins with a digit.
                words[-1] += word if len(words[-1]) == 2 else f"={word}"
                continue
            words.append(word)
        found, rest = self.parse_known_args(words, namespace)
        if rest:
            is_name = "-n" in self._option_string_actions and not any(word.startswith("-") for word in rest)
            advice = f"; containers are named with -n: write -n {','.join(rest)}" if is_name else ""
            self.error(f"unrecognized arguments: {' '.join(rest)}{advice}")
        return found

    def _takes_value(self, word: str) -> bool:
        action = self._option_string_actions.get(word)
        return action is not None and action.nargs is None

    def error(self, message: str) -> NoReturn:
        raise Misuse(f"{message}; {self.prog} --help shows what it takes")
