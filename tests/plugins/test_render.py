"""How findings are told."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc import render
from sensu_lxc.findings import Finding, Measure, State, worst, worst_first

OK, WARNING, CRITICAL, UNKNOWN = State.OK, State.WARNING, State.CRITICAL, State.UNKNOWN


@pytest.mark.parametrize(
    ("count", "said"),
    {
        0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1.0 KiB", 63897600: "60.9 MiB", 64 * 2**20: "64.0 MiB",
        100 * 2**20: "100 MiB", 1023 * 2**20: "1023 MiB", 2**30 - 1: "1024 MiB", 2**60: "1024 PiB",
    }.items(),
)  # fmt: skip
def test_sizes(count: int, said: str) -> None:
    assert render.size(count) == said


@given(st.integers(0, 2**63))
def test_a_size_is_right_within_its_digits(count: int) -> None:
    number, unit = render.size(count).split(" ")
    factor = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].index(unit)
    assert float(number) * factor == pytest.approx(count, rel=0.06, abs=1)
    assert len(number) <= 4


@given(st.text(max_size=400))
def test_text_is_one_printable_line_without_a_bar(words: str) -> None:
    said = render.text(words)
    assert said.isprintable()
    assert "|" not in said
    assert len(said) <= 300
    if words.isprintable() and "|" not in words and len(words) <= 300:
        assert said == words


HOSTILE = [
    "a b",
    "a'b",
    'a"b',
    "a\nb",
    "a|b",
    "a;b",
    "a=b",
    "\x1b[31ma",
    "a\udcffb",
    "‮evil",
    "ünï",
    "a,b",
    "",
    "a\tb",
    "=;|",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_labels_are_fit_for_every_parser(name: str) -> None:
    said = render.perfdata([Finding(OK, name, "", (Measure("used", 5, "B", "1", "2", 0, 10),))])
    assert re.fullmatch(r"[A-Za-z0-9_.:@/~-]*used=5B;1;2;0;10", said), said


def test_two_containers_never_share_a_label() -> None:
    names = ["a b", "a_b", "a\tb", "ä", "ö", "_"]
    said = render.perfdata([Finding(OK, name, "", (Measure("used", 5),)) for name in names])
    assert len({word.partition("=")[0] for word in said.split()}) == len(names)


def test_absent_parts_leave_no_semicolons_behind() -> None:
    assert render.perfdata([Finding(OK, "web", "", (Measure("used", 5, "B", minimum=0),))]) == "web_used=5B;;;0"
    assert render.perfdata([Finding(OK, "", "", (Measure("running", 2),))]) == "running=2"


@given(st.floats(0, 2.0**70) | st.integers(0, 2**80))
def test_values_have_no_exponent(value: float) -> None:
    said = render.perfdata([Finding(OK, "web", "", (Measure("used", value, "", "", "", 0, value),))])
    assert re.fullmatch(r"web_used=[\d.]+;;;0;[\d.]+", said), said


def test_the_worst_comes_first_then_the_most_urgent_then_the_name() -> None:
    findings = [
        Finding(OK, "ok", ""), Finding(WARNING, "warning", ""), Finding(UNKNOWN, "unknown", ""),
        Finding(CRITICAL, "calm", "", (), 0.91), Finding(CRITICAL, "urgent", "", (), 0.99),
        Finding(CRITICAL, "b", "", (), 0.95), Finding(CRITICAL, "a", "", (), 0.95),
    ]  # fmt: skip
    assert [one.subject for one in worst_first(findings)] == ["urgent", "a", "b", "calm", "unknown", "warning", "ok"]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((), UNKNOWN),
        ((OK,), OK),
        ((OK, WARNING), WARNING),
        ((WARNING, UNKNOWN), UNKNOWN),
        ((UNKNOWN, CRITICAL), CRITICAL),
    ],
)
def test_nothing_found_is_unknown_and_bad_outranks_unseen(states: tuple[State, ...], expected: State) -> None:
    assert worst(Finding(state, "x", "") for state in states) is expected


def _many() -> list[Finding]:
    bad = [Finding(CRITICAL, f"bad{number}", "full", (), number) for number in range(5)]
    return [Finding(OK, f"ok{number}", "fine", (Measure("used", 1, "B"),)) for number in range(95)] + bad


def test_a_hundred_containers_in_one_line() -> None:
    said = render.report("Check", CRITICAL, _many())
    first, *below = said.split("\n")
    assert first == "Check CRITICAL: bad4: full; bad3: full; bad2: full, and 2 more CRITICAL, 95 more OK"
    assert [line.partition(" | ")[0] for line in below] == [f"CRITICAL bad{number}: full" for number in (4, 3, 2, 1, 0)]
    assert said.count("|") == 1
    assert said.partition(" | ")[2].count("=") == 95


def test_all_is_well_in_one_line() -> None:
    findings = [Finding(OK, f"ok{number}", "fine") for number in range(96)]
    assert render.report("Check", OK, findings) == "Check OK: ok0: fine, and 95 more OK"
    assert render.report("Check", OK, findings, verbose=True).count("\n") == 96
    assert render.report("Check", OK, findings[:1]) == "Check OK: ok0: fine"
    assert render.report("Check", OK, findings[:1], notes=["2 not running"]) == "Check OK: ok0: fine (2 not running)"


def _of(**states: str) -> list[Finding]:
    """web="CO": a critical finding of web and one that is OK; host is what is of no container."""
    letters = {state.name[0]: state for state in State}
    return [
        Finding(letters[letter], "" if name == "host" else name, f"{letter.lower()}{number}")
        for name, kinds in states.items()
        for number, letter in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        (_of(a="CO", b="OO", c="OOO"), "a: c0, and 2 more OK"),
        (_of(a="CCCCCO", b="OO"), "a: c0; a: c1; a: c2, and 2 more about it, 1 more OK"),
        (_of(a="CC", b="CC", c="CO", d="WCO"), "a: c0; a: c1; b: c0, and 1 more about these, 2 more CRITICAL"),
        (_of(a="C", b="WW", c="WU", d="OO"), "a: c0; c: u1; b: w0, and 2 more about these, 1 more OK"),
        (_of(a="OO", b="OO", c="O"), "a: o0; a: o1, and 2 more OK"),
        (_of(a="OOOOO"), "a: o0; a: o1; a: o2, and 2 more about it"),
        (_of(host="OOO"), "o0, and 2 more OK"),
        (_of(host="UO", a="O", b="OO"), "u0, and 3 more OK"),
    ],
)
def test_what_is_left_out_is_counted_by_container(findings: list[Finding], expected: str) -> None:
    """So that "and 95 more OK" of a hundred containers is right, whatever number of findings they have."""
    assert render.report("Check", worst(findings), findings).split("\n")[0].partition(": ")[2] == expected


@given(
    st.lists(st.tuples(st.sampled_from(list(State)), st.text(max_size=30), st.text(max_size=400)), min_size=1),
    st.booleans(),
)
def test_any_finding_leaves_one_bar_and_whole_lines(raw: list[tuple[State, str, str]], verbose: bool) -> None:
    findings = [Finding(state, name, words, (Measure("used", 1, "B"),)) for state, name, words in raw]
    said = render.report("Check", worst(findings), findings, [raw[0][2]], verbose=verbose)
    assert said.count("|") == 1
    for line in said.split("\n"):
        assert line.isprintable()
        assert re.match(r"(Check )?(OK|WARNING|CRITICAL|UNKNOWN)", line)
