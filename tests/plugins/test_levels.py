"""The threshold grammar."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sensu_lxc.findings import State
from sensu_lxc.levels import Levels, Threshold, duration, plain, threshold

GIB = 1024**3

# https://www.monitoring-plugins.org/doc/guidelines.html#THRESHOLDFORMAT, less its first row: a plain number is ours.
GUIDELINES = {
    "10:": ([9.9, 0], [10, 11, 1e12]),
    "~:10": ([10.1, 11], [10, 0, 9]),
    "0:10": ([10.1], [0, 10]),
    ":10": ([10.1], [0, 10]),
    "10:20": ([9, 21], [10, 15, 20]),
    "@10:20": ([10, 15, 20], [9, 21]),
    "@20": ([0, 20], [20.1]),
    "@20:": ([20, 1e12], [19.9]),
    "@~:20": ([0, 20], [20.1]),
}


@pytest.mark.parametrize("text", GUIDELINES)
def test_ranges_alert_as_the_guidelines_say(text: str) -> None:
    alerting, quiet = GUIDELINES[text]
    parsed = threshold(text)
    assert [value for value in alerting + quiet if parsed.alerts(value)] == alerting


@pytest.mark.parametrize(
    ("text", "at"),
    {
        "943718400": 943718400,
        "900M": 943718400,
        "900m": 943718400,
        "900 MiB": 943718400,
        "900MB": 900_000_000,
        "1.5GiB": 1.5 * GIB,
        "1G": GIB,
        ".5K": 512,
        "1.K": 1024,
        "2T": 2 * 1024**4,
        "1P": 1024**5,
        "10B": 10,
        " 7 ": 7,
        "0": 0,
    }.items(),
)
def test_a_plain_number_alerts_there_and_above(text: str, at: float) -> None:
    parsed = threshold(text)
    assert parsed.alerts(at)
    assert parsed.alerts(at + 1)
    assert at == 0 or not parsed.alerts(at - 0.5)


@pytest.mark.parametrize("text", ["80%", " 80 % ", "80.0%", "~:79.999%", "0:79.999%", "@80%:100%", "@80%:"])
def test_percentages_are_of_the_whole(text: str) -> None:
    parsed = threshold(text)
    assert parsed.alerts(0.8 * GIB, GIB)
    assert not parsed.alerts(0.79 * GIB, GIB)
    assert not parsed.alerts(10 * GIB, None), "a percentage of nothing never alerts"
    assert parsed.as_range(None) == ""


BAD = [
    "", " ", "@", "@@5", "5@", "x", "-1", "+1", "1e3", "nan", "inf", "80%%", "5Q", "5 5", "1,5", "0x10", "٣", "1:2:3",
    "~", "~:", ":", "0:", "20:10", "101%", "1000%", "10%:20M", "10M:20%", "9999999999999999999", "9999999P", "5:~", "%",
    "M", "1..5", "100Mb", "10kb:", "5\n6", "5|6", "5;6", "9" * 400, "9" * 400 + ".0", "9" * 400 + "%",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_what_makes_no_sense_is_refused_with_advice(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        threshold(text)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("text", ["0%:900M", "@0%:900M"])
def test_zero_percent_to_a_size_is_a_mixture_too(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        threshold(text)


def test_a_number_of_absurd_length_is_refused_like_any_other() -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        threshold("9" * 5000)


@given(
    st.text(max_size=20) | st.from_regex(r"@?(~|[\d.]{0,4}[%kMGTiB]{0,3})?:?[\d.]{0,4}[%kMGTiB]{0,3}", fullmatch=True)
)
@example("@0:")
def test_any_text_is_a_threshold_or_refused(text: str) -> None:
    try:
        parsed = threshold(text)
    except argparse.ArgumentTypeError:
        return
    assert isinstance(parsed, Threshold)
    assert isinstance(parsed.alerts(5, 10), bool)
    assert isinstance(parsed.alerts(5), bool)


@given(
    st.from_regex(r"@?(~:|\d{1,6}:)?\d{1,6}|@?\d{1,6}:|\d{1,2}%|@?\d{1,2}%:\d{1,2}%", fullmatch=True),
    st.integers(0, 10**6),
    st.integers(100, 10**9),
)
def test_the_range_in_perfdata_means_the_same(text: str, value: int, whole: int) -> None:
    try:
        parsed = threshold(text)
    except argparse.ArgumentTypeError:
        return
    said = parsed.as_range(whole)
    assert "e" not in said
    assert "%" not in said
    again = threshold(said)
    near = [bound for bound in parsed.bounds(whole) if bound is not None and abs(bound - value) <= 1]
    if not near:
        assert again.alerts(value) == parsed.alerts(value, whole), said


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_plain_threshold_is_monotonous(at: int, value: int) -> None:
    assert threshold(str(at)).alerts(value) == (value >= at)


def test_critical_wins_and_says_which() -> None:
    levels = Levels(threshold("5"), threshold("10"))
    assert levels.judge(4) == (State.OK, None)
    assert levels.judge(5) == (State.WARNING, levels.warning)
    assert levels.judge(10) == (State.CRITICAL, levels.critical)
    assert Levels(None, None).judge(10**12) == (State.OK, None)
    assert Levels(threshold("5"), None).judge(10**12)[0] is State.WARNING


@pytest.mark.parametrize(
    ("warning", "critical", "wrong"),
    [("90%", "80%", True), ("80%", "90%", False), ("80%", "80%", False), ("2G", "1G", True), ("90%", "1G", False)],
)
def test_a_warning_above_the_critical_is_a_contradiction(warning: str, critical: str, wrong: bool) -> None:
    assert bool(Levels(threshold(warning), threshold(critical)).contradiction()) is wrong


@pytest.mark.parametrize(("text", "seconds"), {"10": 10, "10s": 10, "5m": 300, "100ms": 0.1, "1.5h": 5400}.items())
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "5%", "5x", "367d", "9" * 400, "inf", "nan", "1e3"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        duration(text)


@given(st.integers(-(2**70), 2**70) | st.floats(-(2.0**70), 2.0**70))
def test_numbers_have_no_exponent(number: float) -> None:
    said = plain(number)
    assert set(said) <= set("-.0123456789")
    assert float(said) == pytest.approx(number, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("80", "80 bytes; 80% would be of the limit"), ("101", "101 bytes"), ("80%", "80%"), ("80M", "80M"),
        ("64:", "64:"), ("@10:20", "@10:20"), ("0", "0 bytes"),
    ],
)  # fmt: skip
def test_a_forgotten_percent_sign_shows(text: str, said: str) -> None:
    assert threshold(text).spelt("bytes") == said
