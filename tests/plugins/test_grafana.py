"""checks/grafana/: each metric and each tag of a dashboard is one that metrics_container.py prints."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from line_protocol_parser import parse_line
from metrics_container import CATALOGUE
from prometheus_client.parser import text_string_to_metric_families

from tests.plugins.running import ROOT, run
from tests.plugins.test_metrics_container import whole
from tests.plugins.trees import MIB, Tree

DASHBOARDS = sorted((ROOT / "checks/grafana").glob("*.json"))
each_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
PROMQL = {
    "sum", "max", "by", "topk", "rate", "increase", "instance", "container", "interface", "device", "group", "bool",
    "label_values",
}  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(dashboard: dict[str, Any]) -> Iterator[str]:
    """Everything that is asked of a database."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield target.get("expr") or target["query"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"] if isinstance(variable["query"], dict) else variable["query"]


@pytest.fixture
def site(tree: Tree) -> Tree:
    """A host on which everything is there to be measured."""
    made = whole(tree, "web", usage=40 * MIB, limit=64 * MIB, swap=MIB, swap_limit=2 * MIB)
    made.write("pids.max", "100\n")
    made.write("cpu.max", "150000 100000\n")
    return tree


@pytest.fixture
def series(site: Tree) -> dict[str, set[str]]:
    """{metric that is printed for Prometheus: its labels, with the one that Prometheus adds}."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(run("metrics_container.py", site, "--format", "prometheus").out):
        for sample in family.samples:
            found[sample.name] = {"instance", *sample.labels}
    return found


@pytest.fixture
def fields(site: Tree) -> dict[str, dict[str, set[str]]]:
    """{measurement: {field that is printed for InfluxDB: its tags}}."""
    found: dict[str, dict[str, set[str]]] = defaultdict(dict)
    for line in run("metrics_container.py", site, "--format", "influxdb").out.splitlines():
        point = parse_line(line)
        for field in point["fields"]:
            found[point["measurement"]][field] = set(point["tags"])
    return found


def test_there_are_two_dashboards_for_each_database() -> None:
    assert [path.stem for path in DASHBOARDS] == [
        "container-influxdb", "container-prometheus", "fleet-influxdb", "fleet-prometheus",
    ]  # fmt: skip


def test_all_that_is_catalogued_is_printed(series: dict[str, set[str]]) -> None:
    assert set(series) >= {f"lxc_{one.subject}_{one.name}" for one in CATALOGUE if "inodes" not in one.name}


@each_dashboard
def test_each_metric_is_printed(
    path: Path, series: dict[str, set[str]], fields: dict[str, dict[str, set[str]]]
) -> None:
    asked = list(queries(read(path)))
    assert len(asked) > 15
    for query in asked:
        if path.stem.endswith("influxdb"):
            assert_influxdb_has(query, fields)
        else:
            assert_prometheus_has(query, series)


def assert_prometheus_has(query: str, series: dict[str, set[str]]) -> None:
    bare = re.sub(r'"[^"]*"|\[[^]]*\]', "", query)
    words = set(re.findall(r"[a-zA-Z_]\w*", bare))
    metrics = {word for word in words if word.startswith("lxc")}
    assert metrics and metrics <= set(series), query
    assert words - metrics <= PROMQL, query
    for metric, selector in re.findall(r"(lxc_\w+)\{([^}]*)\}", query):
        labels = set(re.findall(r"(\w+)=~?\"", selector))
        assert labels <= series[metric], query
    for labels_ in re.findall(r"by \(([^)]*)\)", query):
        assert set(labels_.split(", ")) <= set.union(*(series[metric] for metric in metrics)), query
    for opening, closing in ("()", "{}", "[]"):
        assert query.count(opening) == query.count(closing), query


def assert_influxdb_has(query: str, fields: dict[str, dict[str, set[str]]]) -> None:
    (measurement,) = re.findall(r'FROM "(\w+)"', query)
    assert measurement in fields, query
    known = fields[measurement]
    asked = set(re.findall(r'\("(\w+)"\)', query)) - {"last"}
    if query.startswith("SHOW TAG VALUES"):
        tags, asked = set(re.findall(r'"(\w+)"', query)) - {measurement}, set(known)
        assert tags <= set.intersection(*known.values()) or measurement == "lxc_scrape", query
        return
    assert asked and asked <= set(known), query
    behind = query.partition(" WHERE ")[2]
    tags = set(re.findall(r'"(\w+)"', behind))
    for field in asked:
        assert tags <= known[field], query
        # A sum over what has several devices would be of whichever was last.
        assert not {"interface", "device", "group", "lxcpath"} & (known[field] - tags), query
    for opening, closing in ("()", "{}"):
        assert query.count(opening) == query.count(closing), query
    assert query.count('"') % 2 == 0


@each_dashboard
def test_it_is_one_that_grafana_can_show(path: Path) -> None:
    dashboard = read(path)
    kind = path.stem.rpartition("-")[2]
    assert dashboard["uid"] == f"sensu-lxc-{path.stem}" and len(dashboard["uid"]) <= 40
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([list(queries(dashboard)), panels(dashboard)])))
    built_in = {"__rate_interval", "__range", "__interval", "timeFilter"}
    assert {name for name in used if not name.startswith("tag_")} - built_in <= variables
    for panel in panels(dashboard):
        assert panel["datasource"] == {"type": kind, "uid": "${datasource}"}
        assert panel["title"] and panel["fieldConfig"]["defaults"]["unit"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("kind", ["prometheus", "influxdb"])
def test_all_of_a_container_is_shown(kind: str) -> None:
    shown = " ".join(queries(read(ROOT / f"checks/grafana/container-{kind}.json")))
    for one in CATALOGUE:
        if one.subject == "container":
            assert re.search(rf"\b(lxc_container_)?{one.name}\b", shown), one.name


@pytest.mark.parametrize("kind", ["prometheus", "influxdb"])
def test_all_of_a_host_is_shown(kind: str) -> None:
    shown = " ".join(queries(read(ROOT / f"checks/grafana/fleet-{kind}.json")))
    for one in CATALOGUE:
        if one.subject != "container":
            assert re.search(rf"\b(lxc_\w+_)?{one.name}\b", shown), one.name
