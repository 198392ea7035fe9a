"""checks/grafana under the databases that they ask: real containers, a real InfluxDB and a real Prometheus.

Grafana itself is in no Debian package; what it puts in the place of its variables before it asks is done here.
"""

import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.containers import Container, busybox, wait_until
from tests.live.test_per_container import free_port

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "plugins/metrics_container.py")
DASHBOARDS = sorted((ROOT / "checks/grafana").glob("*.json"))
MIB = 1 << 20
CORES = 0.2
# Everything that a container may have a limit of; on v1 its I/O is only counted with one. Its first disk is asked for.
LIMITS = """
lxc.cgroup.cpu.cfs_quota_us = 20000
lxc.cgroup2.cpu.max = 20000 100000
lxc.cgroup.memory.limit_in_bytes = 67108864
lxc.cgroup.memory.memsw.limit_in_bytes = 134217728
lxc.cgroup2.memory.max = 67108864
lxc.cgroup2.memory.swap.max = 67108864
lxc.cgroup.pids.max = 100
lxc.cgroup2.pids.max = 100
lxc.cgroup.blkio.throttle.read_bps_device = DISK 1000000000000
lxc.cgroup.blkio.throttle.write_bps_device = DISK 1000000000000
lxc.net.0.type = veth
lxc.net.0.flags = up
"""
pytestmark = pytest.mark.usefixtures("requires_lxc")

Query = dict[str, Any]


def needs(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing and os.environ.get("SENSU_LXC_REQUIRE_LIVE") == "1":
        pytest.fail(f"SENSU_LXC_REQUIRE_LIVE=1, but there is no {' and no '.join(missing)}")
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} (apt install {' '.join(tools).replace('influxd', 'influxdb')})")


def printed(how: str) -> str:
    done = subprocess.run([sys.executable, SCRIPT, "--format", how], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def not_told() -> "list[str]":
    """The few metrics that a kernel may have none of: swap that it does not count, and groups when it counts all."""
    told = printed("prometheus")
    absent = [one for one in ("swap_used_bytes", "swap_limit_bytes") if f"lxc_container_{one}{{" not in told]
    if not re.search(r"^lxc_scrape_unavailable_containers\S* [1-9]", told, re.MULTILINE):
        absent.append("unavailable_containers")
    return absent


@contextlib.contextmanager
def daemon(argv: "list[str]", folder: Path, url: str) -> Iterator[None]:
    """A server that answers under a URL, until this block ends."""
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status < 300)
        return False

    try:
        wait_until(answers, 30, f"{argv[0]} to answer")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait()


def answer(url: str, body: "bytes | None" = None, **words: str) -> Any:
    """The JSON that a database answers; its own complaint where it has one."""
    try:
        with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(words)}", body, timeout=30) as reply:
            return json.loads(reply.read() or b"null")
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{words}: {error} {error.read().decode()}") from None


@pytest.fixture
def site() -> Iterator[Container]:
    """A container with a limit of everything that works up to its quota, beside one without any."""
    disk = os.stat("/").st_dev
    device = Path(os.path.realpath(f"/sys/dev/block/{os.major(disk)}:{os.minor(disk)}"))
    whole = device.parent if (device / "partition").exists() else device  # which is what v1 counts by
    number = (whole / "dev").read_text().strip()
    lines = LIMITS.replace("DISK", number).strip().splitlines()
    # A dot is one that has to be escaped.
    with busybox(name=f"dash.{os.getpid()}", config_lines=lines) as one, busybox("plain"):
        one.run("sh", "-c", "(while :; do :; done) >/dev/null 2>&1 &")
        yield one


def queries(stem: str) -> "tuple[list[Query], list[Query]]":
    """(variables, panels' targets with their panel's title and type) of a dashboard."""
    dashboard = json.loads((ROOT / f"checks/grafana/{stem}.json").read_text())
    variables = [one for one in dashboard["templating"]["list"] if one["type"] == "query"]
    targets = [
        {**target, "title": panel["title"], "kind": panel["type"]}
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]
    assert variables and len(targets) > 15
    return variables, targets


class Influx:
    """One whose database `lxc` holds what was printed of real containers, three times."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str, **words: str) -> "list[Any]":
        """[series] of an InfluxQL query."""
        (result,) = answer(f"{self.url}/query", q=query, epoch="ms", **words)["results"]
        assert "error" not in result, f"{query}: {result}"
        return result.get("series", [])


@pytest.fixture
def influx(site: Container, tmp_path: Path) -> Iterator[Influx]:
    needs("influxd")
    port = free_port()
    config = f"""
        reporting-disabled = true
        bind-address = "127.0.0.1:{free_port()}"
        [meta]
        dir = "{tmp_path}/meta"
        [data]
        dir = "{tmp_path}/data"
        wal-dir = "{tmp_path}/wal"
        [monitor]
        store-enabled = false
        [http]
        bind-address = "127.0.0.1:{port}"
    """
    (tmp_path / "influxdb.conf").write_text(config)
    there = Influx(f"http://127.0.0.1:{port}")
    with daemon(["influxd", "-config", str(tmp_path / "influxdb.conf")], tmp_path, f"{there.url}/ping"):
        there.ask("CREATE DATABASE lxc")
        for number in range(3):
            if number:
                time.sleep(1.1)
            answer(f"{there.url}/write", printed("influxdb").encode(), db="lxc")
        yield there


def test_influxdb_answers_each_query(influx: Influx, site: Container) -> None:
    def ask(query: str, **values: str) -> "list[Any]":
        now = round(time.time() * 1000)
        values.update(timeFilter=f"time >= {now - 60_000}ms and time <= {now + 1000}ms", __interval="1s")
        asked = re.sub(r"\$(\w+)", lambda name: values[name[1]], query)
        return influx.ask(asked, db="lxc")

    me, name = re.escape(os.uname().nodename), re.escape(site.name)
    untold = []
    for stem in ("fleet-influxdb", "container-influxdb"):
        variables, targets = queries(stem)
        for variable in variables:
            (series,) = ask(variable["query"], host=".*")
            wanted = {"host": os.uname().nodename, "container": site.name}[variable["name"]]
            assert wanted in [value for _, value in series["values"]], variable
        for host in (".*", me, f"({me}|elsewhere)"):
            for target in targets:
                found = ask(target["query"], host=host, container=name)
                values = [row[1] for series in found for row in series["values"] if row[1] is not None]
                if not values:
                    untold.append(target["query"])
                elif (target["title"], host) == ("CPU", me) and "cpu_usage" in target["query"]:
                    assert len(found) == 1 and CORES / 4 < values[-1] < CORES * 4, found
                elif target["title"] == "Memory, of its limit":
                    assert 0 <= min(values) <= max(values) <= 100, found
                if target["kind"] == "timeseries":
                    assert all(series["tags"]["host"] for series in found), found
        assert not ask(targets[0]["query"], host="elsewhere", container=name)
    absent = not_told()
    assert not [query for query in untold if not any(f'"{one}"' in query for one in absent)]


class Scraped(http.server.BaseHTTPRequestHandler):
    """What an exporter would serve."""

    def do_GET(self) -> None:
        body = printed("prometheus").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Prometheus:
    """One that has scraped real containers for some seconds."""

    def __init__(self, url: str, instance: str) -> None:
        self.url, self.instance = f"{url}/api/v1", instance

    def ask(self, what: str, **words: str) -> Any:
        said = answer(f"{self.url}/{what}", **words)
        assert said["status"] == "success" and not said.get("warnings"), said
        return said["data"]


@pytest.fixture
def prometheus(site: Container, tmp_path: Path) -> Iterator[Prometheus]:
    needs("prometheus")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scraped)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    instance = f"127.0.0.1:{server.server_address[1]}"
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "lxc", "static_configs": [{"targets": [instance]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # which YAML is made of
    port = free_port()
    argv = [
        "prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    there = Prometheus(f"http://127.0.0.1:{port}", instance)
    try:
        with daemon(argv, tmp_path, f"http://127.0.0.1:{port}/-/ready"):
            counted = "count_over_time(lxc_scrape_containers[1m]) >= 5"
            wait_until(lambda: there.ask("query", query=counted)["result"], 30, "Prometheus to scrape")
            yield there
    finally:
        server.shutdown()
        server.server_close()


def test_prometheus_answers_each_query(prometheus: Prometheus, site: Container) -> None:
    def ask(query: str, instant: bool, **values: str) -> "list[Any]":
        values.update(__rate_interval="4s", __range="1m")
        asked = re.sub(r"\$(\w+)", lambda name: values[name[1]], query)
        now = time.time()
        if instant:
            return [series["value"] for series in prometheus.ask("query", query=asked)["result"]]
        window = {"start": str(now - 5), "end": str(now), "step": "1"}
        return [
            point for one in prometheus.ask("query_range", query=asked, **window)["result"] for point in one["values"]
        ]

    me = re.escape(prometheus.instance).replace("\\", "\\\\")
    untold = []
    for stem in ("fleet-prometheus", "container-prometheus"):
        variables, targets = queries(stem)
        for variable in variables:
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert found
            selector = found[1].replace("$instance", ".*")
            wanted = {"instance": prometheus.instance, "container": site.name}[variable["name"]]
            assert wanted in prometheus.ask(f"label/{found[2]}/values", **{"match[]": selector}), variable
        for instance in (".*", me, f"({me}|elsewhere)"):
            for target in targets:
                points = ask(target["expr"], bool(target.get("instant")), instance=instance, container=site.name)
                numbers = [float(value) for _, value in points]
                assert all(number == number for number in numbers), f"not a number: {target}"
                if not numbers:
                    untold.append(target["expr"])
                elif target["title"] == "CPU" and "cpu_usage" in target["expr"]:
                    assert CORES / 4 < numbers[-1] < CORES * 4, points
                elif "of its limit" in target["title"] or "of what it may use" in target["title"]:
                    assert 0 <= min(numbers) <= max(numbers) <= 150, points
        assert not ask(targets[0]["expr"], True, instance="elsewhere", container=site.name)
    absent = not_told()
    assert not [query for query in untold if not any(one in query for one in absent)]
