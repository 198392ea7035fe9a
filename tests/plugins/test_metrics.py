"""The formats: each is parsed back by a parser of its own, and nothing of a name or a number is lost on the way."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from line_protocol_parser import parse_line
from prometheus_client.parser import text_string_to_metric_families
from sensu_lxc import metrics
from sensu_lxc.metrics import COUNTER, GAUGE, Metric, Run

if TYPE_CHECKING:
    from sensu_lxc.metrics import Sample

UP = Metric("container", "up", GAUGE, "1 where it runs")
CPU = Metric("container", "cpu_usage_seconds_total", COUNTER, "CPU time used")
MEMORY = Metric("container", "memory_used_bytes", GAUGE, "Memory")
UPTIME = Metric("container", "uptime_seconds", GAUGE, "Time")
RECEIVED = Metric("container", "network_receive_bytes_total", COUNTER, "Bytes", "interface")
READ = Metric("container", "io_read_bytes_total", COUNTER, "Bytes", "device")
SEEN = Metric("scrape", "containers", GAUGE, "Containers")
UNAVAILABLE = Metric("scrape", "unavailable_containers", GAUGE, "Containers", "group")
EVERY = [UP, CPU, MEMORY, UPTIME, RECEIVED, READ, SEEN, UNAVAILABLE]

SECONDS = 1795573800.75
RUN = Run("lxc", "host1", SECONDS, "MetricsContainer OK: 2 of 2 containers run")
SAMPLES: list[Sample] = [
    (UP, "web1", "", 1),
    (CPU, "web1", "", 12.5),
    (MEMORY, "web1", "", 2**60),
    (RECEIVED, "web1", "eth0", 123456),
    (READ, "web1", "sda", 0),
    (UP, "web.2", "", 0),
    (SEEN, "", "", 2),
    (UNAVAILABLE, "", "io", 1),
]
# What one sample is once it was written and parsed: (metric, container, item, number).
Parsed = set[tuple[str, str, str, float]]


def unhexed(text: str, mark: str = "~") -> str:
    """What a name was before it was made fit for a format."""
    raw = re.sub(
        re.escape(mark.encode()) + rb"([0-9a-f]{2})",
        lambda found: bytes.fromhex(found[1].decode()),
        text.encode("utf-8"),
    )
    return raw.decode("utf-8", "surrogateescape")


def expected(samples: list[Sample]) -> Parsed:
    return {(f"{metric.subject}_{metric.name}", *names, float(value)) for metric, *names, value in samples}  # type: ignore[misc]


# Parsers, of the format's specification, or real ones


def from_path(path: str) -> tuple[str, str, str]:
    parts = path.split(".")
    assert parts[0] == "lxc" and "" not in parts, path
    if parts[1] == "container":
        return f"container_{parts[3]}", unhexed(parts[2]), unhexed(".".join(parts[4:]))
    return f"{parts[1]}_{parts[2]}", "", unhexed(".".join(parts[3:]))


def from_graphite(text: str) -> Parsed:
    found = set()
    for line in text.split("\n"):
        path, value, seconds = line.split(" ")  # as Sensu Go: exactly three
        assert re.fullmatch(r"[A-Za-z0-9_.:@~-]+", path), path
        assert seconds == "1795573800"
        found.add((*from_path(path), float(value)))
    return found


def from_nagios(text: str) -> Parsed:
    assert text.count("|") == 1 and "\n" not in text
    found = set()
    for word in text.split(" | ")[1].split(" "):
        match = re.fullmatch(r"([A-Za-z0-9_.:@~-]+)=(\d+(?:\.\d+)?)(s|B|c|)", word)
        assert match, word
        unit = "c" if "_total" in match[1] else "B" if "_bytes" in match[1] else "s" if "_seconds" in match[1] else ""
        assert match[3] == unit
        found.add((*from_path(match[1]), float(match[2])))
    return found


def from_opentsdb(text: str) -> Parsed:
    found = set()
    for line in text.split("\n"):
        name, seconds, value, *tags = line.split(" ")
        assert re.fullmatch(r"lxc\.(container|scrape)\.[a-z0-9_]+", name)
        assert seconds == "1795573800"
        assert 1 <= len(tags) <= 8
        by_name = dict(tag.split("=") for tag in tags)
        assert all(re.fullmatch(r"[A-Za-z0-9_./-]+", part) for pair in by_name.items() for part in pair), line
        assert unhexed(by_name.pop("host"), "/") == "host1"
        container = unhexed(by_name.pop("container", ""), "/")
        (item,) = by_name.values() or ("",)
        found.add((name[len("lxc.") :].replace(".", "_", 1), container, unhexed(item, "/"), float(value)))
    return found


def from_influxdb(text: str) -> Parsed:
    found = set()
    for line in text.split("\n"):
        point = parse_line(line)
        tags = point["tags"]
        assert point["time"] == 1795573800 * 10**9
        assert str(point["time"])[:10] == "1795573800"  # what Sensu Go takes
        assert tags.pop("host") == "host1"
        container = unhexed(tags.pop("container", ""))
        (item,) = tags.values() or ("",)
        for field, value in point["fields"].items():
            assert type(value) is float  # Sensu Go drops a line with an integer in it
            found.add((f"{point['measurement'][len('lxc_') :]}_{field}", container, unhexed(item), value))
    return found


def from_prometheus(text: str) -> Parsed:
    found = set()
    seen = set()
    for family in text_string_to_metric_families(text + "\n"):
        assert family.name not in seen, "a family in two pieces"
        seen.add(family.name)
        assert family.documentation
        for sample in family.samples:
            assert family.type == ("counter" if sample.name.endswith("_total") else "gauge")
            assert sample.timestamp is None  # node_exporter refuses a file with one
            labels = dict(sample.labels)
            container = unhexed(labels.pop("container", ""))
            (item,) = labels.values() or ("",)
            found.add((sample.name[len("lxc_") :], container, unhexed(item), float(sample.value)))
    return found


def from_json(text: str) -> Parsed:
    found = set()
    content = json.loads(text)
    assert (content["timestamp"], content["host"]) == (1795573800, "host1")
    for one in content["metrics"]:
        labels: dict[str, str] = one["labels"]
        assert one["type"] == ("counter" if one["name"].endswith("_total") else "gauge")
        container = unhexed(labels.pop("container", ""))
        (item,) = labels.values() or ("",)
        found.add((one["name"][len("lxc_") :], container, unhexed(item), float(one["value"])))
    return found


PARSERS: dict[str, Callable[[str], Parsed]] = {
    "graphite": from_graphite,
    "influxdb": from_influxdb,
    "opentsdb": from_opentsdb,
    "prometheus": from_prometheus,
    "json": from_json,
    "nagios": from_nagios,
}
each_format = pytest.mark.parametrize("form", metrics.FORMATS)


def test_each_format_has_a_parser_here() -> None:
    assert list(PARSERS) == list(metrics.FORMATS)


@each_format
def test_what_is_written_is_read_back(form: str) -> None:
    assert PARSERS[form](metrics.FORMATS[form](SAMPLES, RUN)) == expected(SAMPLES)


# File names, and what the kernel shows of them where they are not UTF-8.
names = some.binary(min_size=1, max_size=20).filter(lambda raw: not set(raw) & {0, 47}).map(
    lambda raw: raw.decode("utf-8", "surrogateescape")
) | some.text("web1.-_~ ,=\\\"'{}|\n\té;:/", min_size=1)
numbers = some.integers(0, 2**63) | some.floats(0, 1e18, allow_nan=False)


@each_format
@given(
    samples=some.lists(
        some.tuples(some.sampled_from([UP, CPU, MEMORY, UPTIME]), names, some.just(""), numbers)
        | some.tuples(some.sampled_from([RECEIVED, READ]), names, names, numbers),
        min_size=1,
        unique_by=lambda sample: sample[:3],
    )
)
def test_no_name_breaks_a_format_or_becomes_another(form: str, samples: list[Sample]) -> None:
    written = metrics.FORMATS[form](samples, RUN)
    assert len(written.splitlines()) == written.count("\n") + 1, "only \\n ends a line"
    assert all(letter == "\n" or letter.isprintable() for letter in written)
    rounded = [(metric, name, item, float(metrics.number(value))) for metric, name, item, value in samples]
    assert PARSERS[form](written) == expected(rounded)


@given(numbers)
def test_a_number_has_no_exponent_and_is_not_changed(value: float) -> None:
    written = metrics.number(value)
    assert re.fullmatch(r"\d+(\.\d+)?", written)
    assert float(written) == pytest.approx(value, abs=1e-9, rel=1e-15)


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("graphite", "lxc.container.web~2e2.up 0 1795573800"),
        ("graphite", "lxc.container.web1.network_receive_bytes_total.eth0 123456 1795573800"),
        ("graphite", "lxc.scrape.unavailable_containers.io 1 1795573800"),
        ("influxdb", "lxc_container,container=web1,host=host1 up=1,cpu_usage_seconds_total=12.5,"
         f"memory_used_bytes={2**60} 1795573800000000000"),
        ("influxdb", "lxc_container,container=web1,interface=eth0,host=host1 network_receive_bytes_total=123456 "
         "1795573800000000000"),
        ("opentsdb", "lxc.container.up 1795573800 0 container=web.2 host=host1"),
        ("opentsdb", "lxc.scrape.containers 1795573800 2 host=host1"),
        ("prometheus", "# HELP lxc_container_cpu_usage_seconds_total CPU time used"),
        ("prometheus", "# TYPE lxc_container_cpu_usage_seconds_total counter"),
        ("prometheus", 'lxc_container_cpu_usage_seconds_total{container="web1"} 12.5'),
        ("prometheus", 'lxc_container_io_read_bytes_total{container="web1",device="sda"} 0'),
        ("prometheus", "lxc_scrape_containers 2"),
        ("json", '{"name": "lxc_container_up", "type": "gauge", "labels": {"container": "web.2"}, "value": 0},'),
    ],
)  # fmt: skip
def test_names_are_stable(form: str, line: str) -> None:
    assert line in metrics.FORMATS[form](SAMPLES, RUN).split("\n")


def test_nagios_stands_behind_one_bar() -> None:
    written = metrics.nagios([(CPU, "a|b", "", 1)], RUN._replace(words="Metrics OK: a|b"))
    assert written == "Metrics OK: a?b | lxc.container.a~7cb.cpu_usage_seconds_total=1c"


@each_format
def test_the_scheme_comes_first(form: str) -> None:
    written = metrics.FORMATS[form](SAMPLES, RUN._replace(scheme="site7", words=""))
    assert "site7" in written and "lxc" not in written


@pytest.mark.parametrize("scheme", ["", ".", "a.", "a..b", "a b", "a|b", "a\nb", "é", "a;b", "a=b", "{a}"])
@each_format
def test_a_scheme_that_breaks_a_format_does_not_fit(form: str, scheme: str) -> None:
    assert not metrics.fits(scheme, form)


@each_format
def test_a_scheme_with_parts_fits_where_names_have_parts(form: str) -> None:
    assert metrics.fits("lxc_2", form)
    assert metrics.fits("host-1.lxc", form) == (form in ("graphite", "opentsdb", "nagios"))


def test_hosts_of_any_name_are_written() -> None:
    run: Any = RUN._replace(host="a b,c=d\\")
    assert parse_line(metrics.influxdb(SAMPLES[:1], run))["tags"]["host"] == "a b,c=d~5c"
    assert "host=a/20b/2cc/3dd/5c" in metrics.opentsdb(SAMPLES[:1], run)
