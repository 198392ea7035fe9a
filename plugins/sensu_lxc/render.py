"""How findings are told: units for people, the status line, perfdata."""

from __future__ import annotations

import os

from sensu_lxc.findings import Finding, State, worst_first
from sensu_lxc.levels import plain

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sensu_lxc.findings import Measure

_SHOWN = 3
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_OF_LABELS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:@/-")


def text(words: str, at_most: int = 300) -> str:
    """words made fit for one line of output."""
    # A name comes from a directory or a socket, and may hold anything: control characters, terminal escapes and marks
    # that turn the reading direction go, and so does the bar, since everything behind it is perfdata.
    clean = words.replace("|", "?")
    if not clean.isprintable():
        clean = "".join(letter if letter.isprintable() else "?" for letter in clean)
    return clean if len(clean) <= at_most else clean[: at_most - 1] + "…"


def fault(error: BaseException) -> str:
    """A fault of ours in one line that can be reported."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"internal error, please report it: {type(error).__name__}: {error}{place}"


def size(count: float) -> str:
    """A number of bytes for a person, in powers of 1024: 60.9 MiB."""
    if count < 1024:
        return f"{count:.0f} B"
    power = min((int(count).bit_length() - 1) // 10, len(_UNITS) - 1)
    scaled = count / (1 << 10 * power)
    return f"{scaled:.0f} {_UNITS[power]}" if scaled >= 99.95 else f"{scaled:.1f} {_UNITS[power]}"


def perfdata(findings: Iterable[Finding]) -> str:
    """Nagios performance data. Labels hold neither space nor quote, as Sensu Go's parser splits at each space."""
    return " ".join(
        f"{_label(finding.subject, measure.label)}={plain(measure.value)}{measure.unit};{measure.warning};"
        f"{measure.critical};{_bound(measure.minimum)};{_bound(measure.maximum)}".rstrip(";")
        for finding in findings
        for measure in finding.measures
    )


def _label(subject: str, label: str) -> str:
    # Escaped rather than replaced, lest two containers share one graph.
    whole = f"{subject}_{label}" if subject else label
    if _OF_LABELS.issuperset(whole):
        return whole
    return "".join(letter if letter in _OF_LABELS else f"~{ord(letter):x}" for letter in whole)


def _bound(number: float | None) -> str:
    return "" if number is None else plain(number)


def report(
    name: str,
    state: State,
    findings: Sequence[Finding],
    notes: Sequence[str] = (),
    measures: Sequence[Measure] = (),
    verbose: bool = False,
) -> str:
    """The whole output: a line for a person, the problems below it (with verbose: everything), perfdata last.

    The perfdata stands behind the only bar of the output: Sensu Go takes no output with two, and Nagios and Icinga
    take it there as well.
    """
    ranked = worst_first(findings)
    problems = [finding for finding in ranked if finding.state is not State.OK]
    # Where all is well the first container is told of, and the others are counted.
    told = problems or [finding for finding in ranked if finding.subject and finding.subject == ranked[0].subject]
    shown = told[:_SHOWN] or ranked[:1]
    said = "; ".join(text(str(finding)) for finding in shown)
    rest = _rest(ranked, told, shown)
    first = f"{name} {state.name}: {said}{', and ' + rest if rest else ''}"
    if notes:
        first += f" ({text('; '.join(notes))})"
    below = ranked if verbose else problems
    lines = [first]
    if verbose or len(findings) > 1:
        lines += [f"{finding.state.name} {text(str(finding))}" for finding in below]
    graphs = perfdata([*sorted(findings, key=lambda finding: finding.subject), Finding(state, "", "", tuple(measures))])
    if graphs:
        lines[-1] += f" | {graphs}"
    return "\n".join(lines)


def _rest(ranked: Sequence[Finding], told: Sequence[Finding], shown: Sequence[Finding]) -> str:
    """What the first line leaves out: how other containers are, each counted once, by the worst of it.

    ranked: all, worst first; told: what it would tell were there room; shown: what it tells.
    """
    counted = {finding.subject for finding in shown if finding.subject}
    more = sum(1 for finding in told[len(shown) :] if finding.subject in counted)
    words = [f"{more} more about {'it' if len(counted) == 1 else 'these'}"] if more else []
    counts: dict[State, int] = {}
    for finding in ranked:
        if finding.subject in counted or any(finding is one for one in shown):
            continue
        if finding.subject:  # what is of no container counts for itself
            counted.add(finding.subject)
        counts[finding.state] = counts.get(finding.state, 0) + 1
    return ", ".join(words + [f"{count} more {state.name}" for state, count in counts.items()])
