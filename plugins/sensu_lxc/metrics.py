"""Metrics: their names, and how Graphite, InfluxDB, OpenTSDB, Prometheus, JSON and Nagios want them written.

All formats are made of one list of samples, and are what Sensu Go's own parsers take (agent/transformers of 6.12):
three fields in Graphite's lines, floats only in InfluxDB's, one bar and no exponent in Nagios' perfdata.

A name comes from a directory, a socket or a container, and may hold anything. What a format can't hold, and what is
not printable, is written as ~ and the two hexadecimal digits of each byte, ~ itself as well, so that no two names
become one; OpenTSDB, which has no ~, gets a / instead.
"""

from __future__ import annotations

import re
from collections import namedtuple

TYPE_CHECKING = False  # importing typing for it would cost a script 3 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    # (what it measures, the container's label or "", the interface, device … or "", the number)
    Sample = tuple["Metric", str, str, "int | float"]

COUNTER, GAUGE = "counter", "gauge"


class Metric:
    """One thing that is measured. Told apart by identity, as samples are sorted by it by the thousand.

    subject: container, host or scrape; name: with its unit, as Prometheus writes it; kind: COUNTER or GAUGE; help: a
    sentence; label: what there are several of in one subject, or "".
    """

    __slots__ = ("subject", "name", "kind", "help", "label", "path", "unit")

    def __init__(self, subject: str, name: str, kind: str, help: str, label: str = "") -> None:
        self.subject, self.name, self.kind, self.help, self.label = subject, name, kind, help, label
        self.path = f"{subject}.{name}"
        unit = "B" if name.endswith("_bytes") else "s" if name.endswith("_seconds") else ""
        self.unit = "c" if kind == COUNTER else unit  # of Nagios' perfdata


# scheme: what every name begins with; host: the host's name, for formats that have no instance beside them;
# seconds: since the epoch; words: what stands before Nagios' perfdata.
Run = namedtuple("Run", "scheme host seconds words", defaults=("",))

_PLAIN = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_NODE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-:@")
_TAG = (_NODE - {":", "@"}) | {"."}


def number(value: float) -> str:
    """A number without an exponent, which Sensu Go's perfdata parser would misread (1e+16 becomes 116)."""
    if type(value) is int:
        return str(value)
    written = repr(float(value))
    if "e" in written:
        written = f"{value:.9f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def _hexed(name: str, fits: Callable[[str], bool], mark: str = "~") -> str:
    if _PLAIN.fullmatch(name):
        return name
    return "".join(
        letter if fits(letter) else "".join(f"{mark}{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))
        for letter in name
    )


def _is_shown(letter: str) -> bool:
    return letter != "~" and letter.isprintable()


def _paths(samples: Sequence[Sample], run: Run) -> list[str]:
    """SCHEME.container.NAME.METRIC.ITEM of each sample."""
    behind: dict[str, str] = {"": ""}
    paths = []
    before, last = f"{run.scheme}.", ""
    for metric, container, item, _ in samples:
        if container is not last:
            last = container
            before = f"{run.scheme}."
            if container:
                before += f"container.{_hexed(container, _NODE.__contains__)}."
        if item:
            if item not in behind:
                behind[item] = f".{_hexed(item, _NODE.__contains__)}"
            paths.append(f"{before}{metric.name if container else metric.path}{behind[item]}")
        else:
            paths.append(before + (metric.name if container else metric.path))
    return paths


def graphite(samples: Sequence[Sample], run: Run) -> str:
    """`SCHEME.container.NAME.METRIC[.ITEM] VALUE SECONDS`."""
    seconds = int(run.seconds)
    return "\n".join(
        [
            f"{path} {value if type(value) is int else number(value)} {seconds}"
            for path, (_, _, _, value) in zip(_paths(samples, run), samples)
        ]
    )


def nagios(samples: Sequence[Sample], run: Run) -> str:
    """Words, a bar, and perfdata with Graphite's paths for labels: one line, as Sensu Go splits at spaces only."""
    perfdata = " ".join(
        f"{path}={number(sample[3])}{sample[0].unit}" for path, sample in zip(_paths(samples, run), samples)
    )
    return f"{run.words.replace('|', '?')} | {perfdata}"


def opentsdb(samples: Sequence[Sample], run: Run) -> str:
    """`SCHEME.container.METRIC SECONDS VALUE container=NAME host=HOST`, without telnet's `put`."""
    seconds = int(run.seconds)
    tags: dict[tuple[str, str, str], str] = {}
    lines = []
    for metric, container, item, value in samples:
        key = container, metric.label, item
        if key not in tags:
            named = (("container", container), (metric.label, item), ("host", run.host))
            tags[key] = " ".join(f"{tag}={_hexed(name, _TAG.__contains__, '/')}" for tag, name in named if name)
        lines.append(f"{run.scheme}.{metric.path} {seconds} {number(value)} {tags[key]}")
    return "\n".join(lines)


def _influx_tag(name: str) -> str:
    # A backslash can't be told from one that escapes; Sensu Go drops it.
    return re.sub("([ ,=])", r"\\\1", _hexed(name, lambda letter: letter != "\\" and _is_shown(letter)))


def influxdb(samples: Sequence[Sample], run: Run) -> str:
    """`SCHEME_container,container=NAME,host=HOST METRIC=VALUE,… NANOSECONDS`: a line for each set of tags.

    Whole numbers are written as floats, since Sensu Go drops a line with 42i in it, and takes the first ten digits of
    the time for its seconds.
    """
    host = f",host={_influx_tag(run.host)}" if run.host else ""
    fields: dict[tuple[str, str, str, str], list[str]] = {}
    for metric, container, item, value in samples:
        key = metric.subject, container, metric.label, item
        if key in fields:
            fields[key].append(f"{metric.name}={number(value)}")
            continue
        tags = f",container={_influx_tag(container)}" if container else ""
        if item:
            tags += f",{metric.label}={_influx_tag(item)}"
        fields[key] = [f"{run.scheme}_{metric.subject}{tags}{host} {metric.name}={number(value)}"]
    nanoseconds = int(run.seconds) * 10**9
    return "\n".join(f"{','.join(values)} {nanoseconds}" for values in fields.values())


def _prometheus_label(name: str) -> str:
    shown = _hexed(name, _is_shown)
    return shown.replace("\\", "\\\\").replace('"', '\\"')


def prometheus(samples: Sequence[Sample], run: Run) -> str:
    """The text format (0.0.4), all samples of a metric together, without times: node_exporter refuses those."""
    families: dict[Metric, tuple[str, list[str]]] = {}
    labels, key = "", ("", "", "")
    for metric, container, item, value in samples:
        if container is not key[0] or item is not key[1] or metric.label is not key[2]:
            key = container, item, metric.label
            named = (("container", container), (metric.label, item))
            labels = ",".join(f'{tag}="{_prometheus_label(name)}"' for tag, name in named if name)
            labels = f"{{{labels}}}" if labels else ""
        if metric not in families:
            name = f"{run.scheme}_{metric.subject}_{metric.name}"
            families[metric] = name, [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
        name, lines = families[metric]
        lines.append(f"{name}{labels} {value if type(value) is int else number(value)}")
    return "\n".join("\n".join(lines) for _, lines in families.values())


def json(samples: Sequence[Sample], run: Run) -> str:
    """An object: timestamp (seconds), host, and metrics, a list of objects with name, type, labels, value."""
    from json import dumps

    before: dict[Metric, str] = {}
    labels, key = "", ("", "", "?")
    lines = []
    for metric, container, item, value in samples:
        if container is not key[0] or item is not key[1] or metric.label is not key[2]:
            key = container, item, metric.label
            named = (("container", container), (metric.label, item))
            labels = dumps({tag: _hexed(name, _is_shown) for tag, name in named if name})
        if metric not in before:
            before[metric] = f'{{"name": "{run.scheme}_{metric.subject}_{metric.name}", "type": "{metric.kind}"'
        lines.append(f'{before[metric]}, "labels": {labels}, "value": {number(value)}}}')
    about = f'"timestamp": {int(run.seconds)}, "host": {dumps(_hexed(run.host, _is_shown))}'
    return f'{{{about}, "metrics": [\n' + ",\n".join(lines) + "\n]}"


FORMATS: dict[str, Callable[[Sequence[Sample], Run], str]] = {
    "graphite": graphite,
    "influxdb": influxdb,
    "opentsdb": opentsdb,
    "prometheus": prometheus,
    "json": json,
    "nagios": nagios,
}
# Formats whose names have parts.
DOTTED = ("graphite", "nagios", "opentsdb")
_PARTS = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def fits(scheme: str, form: str) -> bool:
    """Whether every name of that format may begin so."""
    return bool((_PARTS if form in DOTTED else _IDENTIFIER).fullmatch(scheme))
