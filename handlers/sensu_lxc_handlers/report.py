"""Why was, or wasn't, a container made: alerts, decisions, builds and containers of a ledger, as a table or a page.

Pure functions of a History, but for write().
"""

import errno
import os
import time
from collections import namedtuple

from . import fleet as fleets
from .ledger import Change
from .outcome import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .fleet import Request
    from .ledger import Decision

# How a state is drawn: (class, words of the legend).
_ASKED, _BUILDING, _BUILT, _RUNNING, _BAD, _OVER = "asked", "building", "built", "running", "bad", "over"
_DRAWN = {
    fleets.INTENT: _ASKED, fleets.UNKNOWN: _BAD, fleets.UNSENT: _BAD, fleets.REJECTED: _BAD, fleets.SENT: _ASKED,
    fleets.COALESCED: _ASKED, fleets.BUILDING: _BUILDING, fleets.BUILT: _BUILT, fleets.FAILED: _BAD,
    fleets.VERIFIED: _RUNNING, fleets.UNVERIFIED: _BAD, fleets.MISSED: _BAD, fleets.GONE: _OVER,
}  # fmt: skip
_LEGEND = (
    (_ASKED, "asked for"), (_BUILDING, "build runs"), (_BUILT, "built, not seen yet"), (_RUNNING, "seen running"),
    (_BAD, "refused, failed, unknown or not seen"),
)  # fmt: skip
_ENDS = (fleets.GONE, fleets.FAILED)
_CRITICAL, _FEWER = "it is critical, and nothing holds it", "fewer than min are there"
_LEDGER, _JENKINS, _CONTAINER, _LOOK = "ledger", "Jenkins", "containers", "reconciler"


class History(namedtuple("History", "fleets decisions changes since now")):
    """fleets {group: Fleet}; lists of Decision and Change since then; since and now in seconds since the epoch."""

    __slots__ = ()

    def of(self, groups: "Iterable[str]") -> "History":
        """What is of these groups only."""
        named = set(groups)
        return self._replace(
            fleets={name: fleet for name, fleet in self.fleets.items() if name in named},
            decisions=[one for one in self.decisions if one.group in named],
            changes=[one for one in self.changes if one.group in named],
        )


class Row(namedtuple("Row", "wall group who what request_id text times until")):
    """One thing that happened, or the same one several times in a row.

    who   the alert as ENTITY/CHECK, or who else
    what  "ACT request", "HOLD cooldown" … or a request's state
    text  why; times: how often, until: when last
    """

    __slots__ = ()


def rows(history: History) -> "list[Row]":
    """All that happened, oldest first. The same HOLD again and again is one row."""
    requests = {one.request_id: one for fleet in history.fleets.values() for one in fleet.requests}
    found: list[Row] = []
    alike: dict[str, dict[tuple[str, str], int]] = {}
    # A decision stands before what it changed in the same moment.
    told = [*map(_decided, history.decisions), *(_changed(one, requests) for one in history.changes)]
    for row in sorted(told, key=lambda row: float(row.wall)):
        if row.what.startswith("HOLD "):
            # Who else is held for the same reason meanwhile, or what becomes of a request, is no other reason.
            known = alike.get(row.group, {})
            if row.what not in {what for _, what in known}:
                known = alike[row.group] = {}
            place = known.get((row.who, row.what))
            if place is not None:
                found[place] = found[place]._replace(times=found[place].times + 1, until=row.wall)
                continue
            known[row.who, row.what] = len(found)
        elif row.what.startswith("ACT "):
            alike.pop(row.group, None)
        found.append(row)
    return found


def _decided(one: "Decision") -> Row:
    who, why = (f"{one.entity}/{one.check}", _CRITICAL) if one.check else (_LOOK, _FEWER)
    text = one.text if one.word != "ACT" else why if not one.text else f"{why}, {one.text}" if one.check else one.text
    return Row(one.wall, one.group, who, f"{one.word} {one.code}", one.request_id or "", text, 1, one.wall)


def _changed(one: "Change", requests: "dict[str, Request]") -> Row:
    request = requests.get(one.request_id)
    text = one.detail
    who = _LEDGER if one.state == fleets.INTENT else _JENKINS
    text = text or ("written down, and about to be asked for" if one.state == fleets.INTENT else "")
    if one.state in (fleets.VERIFIED, fleets.UNVERIFIED, fleets.MISSED, fleets.GONE):
        who = _CONTAINER
        names = ", ".join(request.names) if request else ""
        text = f"{names}: {text}" if names and names not in text else text
    return Row(one.wall, one.group, who, one.state, one.request_id, text, 1, one.wall)


def counted(history: History) -> str:
    """How much is in it."""
    return f"{len(history.decisions)} decisions and {len(history.changes)} changes since {_time(history.since)}"


# As text


def table(history: History) -> str:
    """Three tables: what happened, all requests, and what is paused."""
    told = [
        (_time(row.wall), row.group, row.who, row.what, row.request_id, _why(row)) for row in rows(history)
    ]  # fmt: skip
    asked = [
        (one.request_id, name, *_about(one)) for name, fleet in history.fleets.items() for one in fleet.requests
    ]  # fmt: skip
    parts = [
        f"{counted(history)} (UTC)", "",
        _columns(("TIME", "GROUP", "WHO", "WHAT", "REQUEST", "WHY"), told) if told else "nothing happened", "",
        _columns(("REQUEST", "GROUP", "WAY", "STATE", "ALERT", "HOST", "BUILD", "CONTAINERS"), asked)
        if asked else "no request is known",
    ]  # fmt: skip
    parts += [
        f"\n{clean(name, 60)} is paused: {fleet.paused}" for name, fleet in history.fleets.items() if fleet.paused
    ]
    return "\n".join(parts)


def _why(row: Row) -> str:
    return str(row.text) + (f" (×{row.times}, until {_time(row.until)[11:]})" if row.times > 1 else "")


def _about(one: "Request") -> "tuple[str, ...]":
    alert = f"{one.entity}/{one.check}" if one.check else "none"
    way = "out" if one.way == fleets.OUT else f"in, of {one.target}"
    build = f"build {one.build}" if one.build else f"item {one.queue_item}" if one.queue_item else "-"
    named = ", ".join(one.names) or f"{one.containers}, not seen yet"
    return way, one.state, alert, one.host or "-", build, named if one.way == fleets.OUT else "-"


def _columns(heads: "Sequence[str]", lines: "Sequence[Sequence[str]]") -> str:
    cells = [[clean(cell, 200) for cell in line] for line in (heads, *lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths)), line[-1]]).rstrip() for line in cells
    )


def _time(wall: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(wall))


# As a page

_WIDTH, _LEFT, _LINE, _TOP = 1200, 240, 22, 30
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --paper: #fff; --soft: #6b7280; --rule: #d8dce2;
  --asked: #7c8896; --building: #3878c7; --built: #8db8e8; --running: #2e8b57; --bad: #c43d3d; --over: #b9bec6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #15181c; --soft: #9aa3ad; --rule: #343a42; } }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 1240px; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
p { color: var(--soft); margin: .2rem 0; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 12px; } svg .soft { fill: var(--soft); }
svg .group { font-weight: 600; } svg line { stroke: var(--rule); }
.asked { fill: var(--asked); background: var(--asked); }
.building { fill: var(--building); background: var(--building); }
.built { fill: var(--built); background: var(--built); } .running { fill: var(--running); background: var(--running); }
.bad { fill: var(--bad); background: var(--bad); } .act { fill: var(--building); } .hold { fill: var(--over); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 1em; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--rule); vertical-align: top;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 500; }
td:last-child { white-space: normal; min-width: 16rem; overflow-wrap: anywhere; }
tr.ACT td.what, tr.VERIFIED td.what { font-weight: 600; } tr.HOLD { color: var(--soft); }
"""


def page(history: History) -> str:
    """One page of HTML that needs nothing else: no script, no font, no picture, and lets none be loaded."""
    told = rows(history)
    happened = [
        (row.what.partition(" ")[0], (_time(row.wall), row.group, row.who, row.what, row.request_id, _why(row)))
        for row in told
    ]
    asked = [
        (one.state, (one.request_id, name, *_about(one), one.detail))
        for name, fleet in history.fleets.items()
        for one in fleet.requests
    ]
    keys = "".join(f'<span class="key {kind}"></span>{words}' for kind, words in _LEGEND)
    paused = "".join(
        f"<p><strong>{_html(name)} is paused: {_html(fleet.paused)}</strong></p>"
        for name, fleet in history.fleets.items()
        if fleet.paused
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Containers: why, and why not</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>Containers: why, and why not</h1>\n<p>{_html(counted(history))}, as of {_time(history.now)} (UTC)</p>\n"
        f"{paused}<h2>Timeline</h2>\n<p>● an alert's decision: blue asked for a build, grey did not. {keys}</p>\n"
        f'<div class="scroll">{_timeline(history)}</div>\n'
        "<h2>What happened</h2>\n"
        f"{_html_table(('Time (UTC)', 'Group', 'Who', 'What', 'Request', 'Why'), happened)}\n"
        "<h2>Requests</h2>\n"
        f"{_html_table(_ABOUT, asked)}\n</body>\n</html>\n"
    )


_ABOUT = ("Request", "Group", "Way", "State", "Alert", "Host", "Build", "Containers", "Detail")


def _html_table(heads: "Sequence[str]", lines: "Sequence[tuple[str, Sequence[str]]]") -> str:
    """lines: (class of the row, its cells)."""
    if not lines:
        return "<p>nothing</p>"
    names = {"What": ' class="what"'}
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(
        f'<tr class="{_html(kind)}">'
        + "".join(f"<td{names.get(name, '')}>{_html(cell)}</td>" for name, cell in zip(heads, cells))
        + "</tr>\n"
        for kind, cells in lines
    )
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def _timeline(history: History) -> str:
    """A lane for each group: its alerts' decisions, and a bar for each request from being asked for to its end."""
    span = max(1.0, history.now - history.since)

    def place(wall: float) -> float:
        inside = min(max(wall, history.since), history.now)
        return float(round(_LEFT + (inside - history.since) / span * (_WIDTH - _LEFT - 10), 1))

    drawn, y = [], _TOP
    groups = sorted({*history.fleets, *(one.group for one in history.decisions)})
    for group in groups:
        y += _LINE
        drawn.append(f'<text class="group" x="4" y="{y}">{_html(clean(group, 34))}</text>')
        drawn += [
            f'<circle class="{kind}" cx="{x}" cy="{y - 4}" r="5"><title>{_html(words)}</title></circle>'
            for kind, x, words in _dots([one for one in history.decisions if one.group == group], place)
        ]
        for request_id, parts in _bars(history, group):
            y += _LINE
            drawn.append(f'<text class="soft" x="16" y="{y}">{_html(clean(request_id, 34))}</text>')
            for kind, start, end, words in parts:
                left = place(start)
                width = round(max(3.0, place(end) - left), 1)
                title = f"<title>{_html(clean(words))}</title>"
                drawn.append(
                    f'<rect class="{kind}" x="{left}" y="{y - 13}" width="{width}" height="14" rx="2">{title}</rect>'
                )
    height = y + 20
    rules = []
    for number in range(7):
        wall = history.since + span * number / 6
        x = place(wall)
        anchor = "end" if number == 6 else "middle"
        rules.append(f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{height}"/>')
        words = _time(wall)[5:16]
        rules.append(f'<text class="soft" x="{x}" y="{_TOP - 10}" text-anchor="{anchor}">{words}</text>')
    name = 'role="img" aria-label="Timeline of decisions, builds and containers"'
    return f'<svg {name} viewBox="0 0 {_WIDTH} {height}">{"".join(rules)}{"".join(drawn)}</svg>'


def _dots(decisions: "Sequence[Decision]", place: "Callable[[float], float]") -> "list[tuple[str, float, str]]":
    """(class, x, words) of decisions: those to act above the others, and of many in one place one."""
    found: dict[tuple[str, int], tuple[float, str, int]] = {}
    for row in map(_decided, decisions):
        x = place(row.wall)
        key = ("act" if row.what.startswith("ACT ") else "hold", int(x / 4))
        words = f"{_time(row.wall)} {row.who}: {row.what} {row.request_id} {row.text}"
        first, said, count = found.get(key, (x, words, 0))
        found[key] = first, said, count + 1
    return [
        (kind, x, said if count == 1 else f"{said} (and {count - 1} more)")
        for kind in ("hold", "act")
        for (is_kind, _), (x, said, count) in found.items()
        if is_kind == kind
    ]


def _bars(history: History, group: str) -> "list[tuple[str, list[tuple[str, float, float, str]]]]":
    """(request id, [(class, from, to, words), …]) of each request of a group that was anything in that time."""
    changes: dict[str, list[Change]] = {}
    for change in history.changes:
        if change.group == group:
            changes.setdefault(change.request_id, []).append(change)
    fleet = history.fleets.get(group)
    known = {one.request_id: one for one in fleet.requests} if fleet else {}
    for request_id, one in known.items():
        # It has not changed since, and what it was before it changed first is no longer told.
        if request_id not in changes and one.state not in _ENDS:
            changes[request_id] = [Change(group, request_id, history.since, one.state, one.detail)]
    found = []
    for request_id, told in changes.items():
        parts = []
        for index, change in enumerate(told):
            end = told[index + 1].wall if index + 1 < len(told) else history.now
            kind = _DRAWN.get(change.state, _ASKED)
            if kind == _OVER:
                continue
            if change.state in _ENDS and index + 1 == len(told):
                end = change.wall
            parts.append((kind, change.wall, end, f"{request_id} {change.state} {change.detail}"))
        found.append((request_id, parts))
    return sorted(found, key=lambda bar: min((part[1] for part in bar[1]), default=0.0))


def _html(text: str) -> str:
    from html import escape

    return escape(clean(text, 400))


def write(path: str, text: str) -> None:
    """Replace the file in one step, so that a web server never shows half of it; a link stays one. Raises OSError."""
    real = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(real):  # a device; /dev/stdout, which leads to no path at all
        raise OSError(errno.EINVAL, "it is no file", path)
    path = real
    draft = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.new"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
