"""metrics_container.py: the numbers of made hosts, what is left out, what one bad container costs the others."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from metrics_container import CATALOGUE, MetricsContainer
from prometheus_client.parser import text_string_to_metric_families
from sensu_lxc import host
from sensu_lxc.findings import State, worst

from tests.plugins.running import PLUGINS, Output, command, run
from tests.plugins.test_network import HEADING
from tests.plugins.trees import MIB, Container, Tree, files_of

SCRIPT = "metrics_container.py"
Numbers = dict[str, float]


def whole(tree: Tree, name: str, **how: object) -> Container:
    """A container that has everything there is to measure."""
    made = tree.container(name, **how)  # type: ignore[arg-type]
    base = f"/proc/{made.init}"
    lo = b"    lo: 7 7 0 0 0 0 0 0 7 7 0 0 0 0 0 0\n"
    tree.write(f"{base}/net/dev", HEADING + lo + b"  eth0: 1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0\n")
    tree.write(f"{base}/net/unix", "Num       RefCount Protocol Flags    Type St Inode Path\n")
    # Started 400 s after the boot, 600 s ago.
    tree.write(
        f"{base}/stat", f"{made.init} (init) S 1 1 1 0 -1 4194560 97 0 0 0 59 51 0 0 20 0 1 0 40000 2461696 512\n"
    )
    tree.write(f"{base}/mountinfo", "500 400 254:0 /rootfs / rw,relatime - ext4 /dev/vda rw\n")
    tree.at(f"{base}/root").mkdir(exist_ok=True)
    tree.write("/proc/loadavg", "1.50 2.50 3.50 2/345 6789\n")
    tree.write("/proc/1/net/dev", HEADING + lo)
    return made


def with_monitor(tree: Tree, name: str) -> Container:
    """Beside it the cgroup of its monitor, by which its name alone tells where its own is."""
    tree.cgroup(f"/lxc.monitor.{name}", usage=0, limit=None)
    return whole(tree, name)


def metrics(tree: Tree | None, *arguments: str) -> Output:
    return run(SCRIPT, tree, *arguments)


def numbers(tree: Tree, *arguments: str) -> Numbers:
    """{path without lxc.: number} of a good run."""
    done = metrics(tree, *arguments)
    assert (done.status, done.err) == (0, ""), done
    found: Numbers = {}
    for line in done.out.splitlines():
        path, value, seconds = line.split(" ")
        assert path.startswith("lxc.") and path not in found
        assert re.fullmatch(r"\d{10}", seconds)
        found[path[len("lxc.") :]] = float(value)
    return found


def of(container: str, found: Numbers) -> Numbers:
    start = f"container.{container}."
    return {path[len(start) :]: value for path, value in found.items() if path.startswith(start)}


def test_all_that_a_container_uses(any_tree: Tree) -> None:
    made = whole(any_tree, "web", usage=40 * MIB, limit=64 * MIB, active_file=4 * MIB, inactive_file=6 * MIB, swap=MIB)
    made.write("pids.max", "100\n")
    found = numbers(any_tree)
    v1 = any_tree.layout != "v2"
    expected = {
        "up": 1,
        "frozen": 0,
        "orphaned": 0,
        "cpu_usage_seconds_total": 1,
        "cpu_cores": 4,
        "memory_used_bytes": 30 * MIB,
        "memory_working_set_bytes": 34 * MIB,
        "memory_usage_bytes": 40 * MIB,
        "memory_cache_bytes": 10 * MIB,
        "memory_limit_bytes": 64 * MIB,
        "swap_used_bytes": MIB,
        "memory_oom_kills_total": 0,
        "tasks": 5,
        "tasks_limit": 100,
        "network_receive_bytes_total.eth0": 1000,
        "network_receive_packets_total.eth0": 10,
        "network_receive_errors_total.eth0": 1,
        "network_receive_drops_total.eth0": 2,
        "network_transmit_bytes_total.eth0": 2000,
        "network_transmit_packets_total.eth0": 20,
        "network_transmit_errors_total.eth0": 3,
        "network_transmit_drops_total.eth0": 4,
        "uptime_seconds": 600,
    }
    if not v1:  # which counts none until there is a limit
        expected["io_read_bytes_total.8:0"] = 1048576
        expected["io_write_bytes_total.8:0"] = 524288
        expected["io_reads_total.8:0"] = 16
        expected["io_writes_total.8:0"] = 8
    if "" in any_tree.mounts:
        for resource in ("cpu", "memory", "io"):
            expected[f"pressure_{resource}_waiting_seconds_total"] = 0.001
            expected[f"pressure_{resource}_stalled_seconds_total"] = 0.0005
    measured = of("web", found)
    disk = {name: measured.pop(name) for name in list(measured) if name.startswith("disk_")}
    assert measured == expected
    space = os.statvfs(any_tree.root)
    assert disk["disk_used_bytes"] == pytest.approx((space.f_blocks - space.f_bfree) * space.f_frsize, rel=0.1)
    assert found["scrape.unavailable_containers.io"] == v1
    assert found["scrape.unavailable_containers.pressure"] == ("" not in any_tree.mounts)
    assert {found[f"scrape.{one}"] for one in ("containers", "running_containers")} == {1}
    assert found["scrape.failed_containers"] == 0


def test_each_file_of_a_container_is_read_once(any_tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening costs more than all else; and on v1 its init tells for all hierarchies at once that it lives there."""
    made = with_monitor(any_tree, "web")
    opened: list[str] = []
    open_ = os.open

    def note(path: str, *how: int, **more: int) -> int:
        opened.append(str(path))
        return open_(path, *how, **more)

    monkeypatch.setattr(os, "open", note)
    monkeypatch.setattr(host, "_open", note)
    assert worst(MetricsContainer(["--root", str(any_tree.root)]).findings()) == State.OK
    own = [path for path in opened if made.path in path or f"/proc/{made.init}/" in path]
    assert len(own) > 15
    assert len(set(own)) == len(own)
    if any_tree.layout != "v2":
        assert len([path for path in own if path.endswith("cgroup.procs")]) == 1
        assert not any("throttle." in path and path.endswith("_device") for path in own), "nothing is counted anyway"


@pytest.mark.parametrize("where", [None, "5:pids:/elsewhere\n0::/\n", "", "nonsense"])
def test_where_init_does_not_tell_each_hierarchy_does(any_tree: Tree, where: str | None) -> None:
    made = with_monitor(any_tree, "web")
    told = of("web", numbers(any_tree))
    path = f"/proc/{made.init}/cgroup"
    if where is None:
        any_tree.at(path).unlink()
    else:
        any_tree.write(path, where)
    now = of("web", numbers(any_tree))
    assert (set(now), now["tasks"]) == (set(told), told["tasks"])


def test_a_quota_and_a_device_with_a_name(tree: Tree) -> None:
    made = whole(tree, "web")
    made.write("cpu.max", "150000 100000\n")
    made.write("cpu.stat", "usage_usec 5000000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 250000\n")
    tree.write("/sys/dev/block/8:0/uevent", "MAJOR=8\nMINOR=0\nDEVNAME=sda\nDEVTYPE=disk\n")
    found = of("web", numbers(tree))
    cpu = {name: value for name, value in found.items() if name.startswith("cpu_")}
    assert cpu == {
        "cpu_cores": 1.5,
        "cpu_usage_seconds_total": 5,
        "cpu_periods_total": 10,
        "cpu_throttled_periods_total": 4,
        "cpu_throttled_seconds_total": 0.25,
    }
    assert found["io_read_bytes_total.sda"] == 1048576


def test_the_host_as_a_whole(tree: Tree) -> None:
    whole(tree, "web", usage=40 * MIB, limit=64 * MIB).write("cpu.max", "150000 100000\n")
    whole(tree, "db", usage=32 * MIB, limit=None)
    tree.container("off", running=False)
    found = numbers(tree)
    host = {path: value for path, value in found.items() if path.startswith("host.")}
    assert host.pop("host.memory_available_bytes") > 0
    space = os.statvfs(tree.root)
    disk = {path: host.pop(path) for path in list(host) if ".disk_" in path}
    assert set(disk) >= {f"host.disk_{one}_bytes.~2fvar~2flib~2flxc" for one in ("used", "available")}
    assert disk["host.disk_available_bytes.~2fvar~2flib~2flxc"] == pytest.approx(
        space.f_bavail * space.f_frsize, rel=0.1
    )
    assert host == {
        "host.memory_total_bytes": 2012132 * 1024,
        "host.memory_promised_bytes": 96 * MIB,
        "host.memory_unlimited_containers": 1,
        "host.cpu_cores": 4,
        "host.cpu_promised_cores": 1.5,
        "host.cpu_unlimited_containers": 1,
        "host.load5": 2.5,
        "host.defined_containers": 3,
    }
    assert not [path for path in numbers(tree, "-n", "web") if path.startswith("host.")], "a part is not the host"


def test_stopped_and_frozen(any_tree: Tree) -> None:
    whole(any_tree, "ice", frozen=True)
    any_tree.container("off", running=False)
    found = numbers(any_tree)
    assert of("off", found) == {"up": 0, "orphaned": 0}
    assert (of("ice", found)["up"], of("ice", found)["frozen"]) == (1, 1)
    assert (found["scrape.containers"], found["scrape.running_containers"]) == (2, 1)


def test_an_orphan_is_no_clean_stop(any_tree: Tree) -> None:
    whole(any_tree, "web", socket=False)
    whole(any_tree, "db")
    any_tree.container("off", running=False)
    found = numbers(any_tree)
    assert of("web", found) == {"up": 0, "orphaned": 1}
    assert (of("db", found)["orphaned"], of("off", found)["orphaned"]) == (0, 0)
    assert found["scrape.unavailable_containers.orphaned"] == 0


def test_an_orphan_that_nothing_defines(any_tree: Tree) -> None:
    whole(any_tree, "db")
    any_tree.write("/proc/loadavg", "1.50 2.50 3.50 2/345 6789\n")
    any_tree.cgroup("/lxc.payload.ghost", usage=MIB, limit=None, procs="77\n")
    found = numbers(any_tree)
    assert of("ghost", found) == {"orphaned": 1}
    assert found["scrape.containers"] == 1


def test_an_orphan_beside_the_next_life(any_tree: Tree) -> None:
    """LXC gives the next life a numbered cgroup; the earlier one lives on in the one that bears the name."""
    whole(any_tree, "web", suffix="-1")
    any_tree.cgroup("/lxc.payload.web", usage=MIB, limit=None, procs="77\n")
    found = of("web", numbers(any_tree))
    assert (found["up"], found["orphaned"], found["tasks"]) == (1, 1, 5)


def test_whether_there_is_an_orphan_can_be_unknown(tree: Tree) -> None:
    """Where a cgroup does not tell whether anything lives in it, 0 would say too much."""
    whole(tree, "db")
    tree.container("web", socket=False).write("cgroup.events", "nonsense\n")
    done = metrics(tree, "-v")
    found = numbers(tree)
    assert of("web", found) == {"up": 0}
    assert found["scrape.unavailable_containers.orphaned"] == 1
    assert "web: no orphaned: " in done.err


def test_a_disk_of_the_host_that_can_not_be_asked_costs_only_itself(tree: Tree) -> None:
    whole(tree, "web")
    tree.write("/proc/1/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    tree.write("/etc/lxc/lxc.conf", "lxc.lxcpath = /srv/none\n")
    tree.listen("/srv/none/other/command")
    done = metrics(tree, "-v")
    assert (done.status, "nothing of the disk of /srv/none: " in done.err) == (0, True), done
    assert "host.disk_" not in done.out and "host.memory_total_bytes" in done.out


def test_what_is_not_there_is_left_out_and_never_0(tree: Tree) -> None:
    """No limit, no swap, no pressure, no I/O counted, no network of its own, no process to be seen."""
    made = whole(tree, "web", limit=None, swap=None)
    for name in ("cpu.pressure", "io.stat", "memory.events"):
        made.file(name).unlink()
    tree.at(f"/proc/{made.init}/net/dev").unlink()
    found = numbers(tree)
    web = of("web", found)
    gone = ("io_", "memory_limit", "swap_", "memory_oom", "network_", "tasks_limit", "pressure_cpu")
    assert not [name for name in web if name.startswith(gone)]
    assert (web["tasks"], web["memory_usage_bytes"]) == (5, 32 * MIB)
    left_out = {path: value for path, value in found.items() if path.startswith("scrape.unavailable") and value}
    assert set(left_out) == {f"scrape.unavailable_containers.{one}" for one in ("io", "oom", "network", "pressure")}
    said = metrics(tree, "-v")
    assert said.status == 0
    assert "web: no io: " in said.err and "web: no network: " in said.err
    assert said.out.count("\n") == len(found)


@pytest.mark.parametrize("content", ["", "nonsense\n", "12"])
@pytest.mark.parametrize(
    "name",
    ["cpu.stat", "cpu.max", "memory.current", "memory.stat", "memory.max", "pids.current", "io.stat", "cgroup.procs",
     "io.pressure", "cgroup.events", "memory.events", "cpuset.cpus.effective"],
)  # fmt: skip
def test_one_bad_file_costs_neither_the_rest_nor_the_others(tree: Tree, name: str, content: str) -> None:
    whole(tree, "bad").write(name, content)
    whole(tree, "web")
    found = numbers(tree)
    web, bad = ({one for one in of(container, found) if not one.startswith("disk_")} for container in ("web", "bad"))
    assert len(web) == 32
    assert bad < web or (name, bad) == ("cgroup.procs", web)
    assert len(bad) > 16
    assert found["scrape.failed_containers"] == 0


def test_one_bad_container_costs_the_others_nothing(any_tree: Tree) -> None:
    made = whole(any_tree, "bad")
    for base, _, names in os.walk(any_tree.root):
        for name in names:
            if base.endswith(made.path) or f"/proc/{made.init}" in base:
                Path(base, name).write_bytes(b"\xff\xfe")
    whole(any_tree, "web")
    found = numbers(any_tree)
    assert len(of("web", found)) > 20
    assert found["scrape.failed_containers"] == (set(of("bad", found)) == {"up", "orphaned"})
    assert of("bad", found)["up"] == 1


def test_nothing_measured_is_no_metric(tree: Tree) -> None:
    made = tree.container("bad", processes=False)
    for file in made.directory().iterdir():
        file.write_text("nonsense")
    for form in ("graphite", "influxdb", "opentsdb", "prometheus", "json", "nagios"):
        done = metrics(tree, "--format", form)
        assert (done.status, done.err) == (3, "")
        assert done.out.startswith("MetricsContainer UNKNOWN: nothing could be measured: bad: no ")
        assert done.out.count("\n") == 1
        assert "|" not in done.out and len(done.out.split(" ")) > 4  # no parser takes it for a metric


def test_a_name_without_a_container_is_counted(tree: Tree) -> None:
    whole(tree, "web")
    assert numbers(tree, "-n", "web,nosuch")["scrape.failed_containers"] == 1
    done = metrics(tree, "-n", "nosuch")
    assert (done.status, "nosuch: no such container" in done.out) == (3, True)


def test_every_metric_is_in_the_catalogue_and_in_help(tree: Tree) -> None:
    whole(tree, "web").write("cpu.max", "100000 100000\n")
    done = metrics(tree, "--format", "prometheus")
    families = list(text_string_to_metric_families(done.out))
    known = {f"lxc_{one.subject}_{one.name}" for one in CATALOGUE}
    assert {sample.name for family in families for sample in family.samples} <= known
    helped = subprocess.run([sys.executable, str(PLUGINS / SCRIPT), "--help"], capture_output=True, text=True).stdout
    for name in known:
        assert name in helped
    for one in CATALOGUE:  # Prometheus' naming rules: base units, and counters that say so
        assert one.name.endswith("_total") == (one.kind == "counter")
        assert re.fullmatch(r"[a-z0-9_]+", one.name) and one.help and "\n" not in one.help and "\\" not in one.help
        assert not re.search(r"(_ms|_us|_ns|_kb|_mib|_percent)\b", one.name)
    assert len(known) == len(CATALOGUE)


def test_formats_tell_the_same(tree: Tree) -> None:
    whole(tree, "web")
    counts = {
        "graphite": len(metrics(tree).out.splitlines()),
        "opentsdb": len(metrics(tree, "--format", "opentsdb").out.splitlines()),
        "json": len(json.loads(metrics(tree, "--format", "json").out)["metrics"]),
        "nagios": metrics(tree, "--format", "nagios").out.count("="),
        "prometheus": len([one for one in metrics(tree, "--format", "prometheus").out.splitlines() if one[0] != "#"]),
        "influxdb": sum(
            line.split(" ")[1].count("=") for line in metrics(tree, "--format", "influxdb").out.splitlines()
        ),
    }
    assert len(set(counts.values())) == 1, counts


class TestOutput:
    def test_is_replaced_as_a_whole(self, tree: Tree, tmp_path: Path) -> None:
        whole(tree, "web")
        target = tmp_path / "lxc.prom"
        target.write_text("old")
        target.chmod(0o600)
        before = target.stat().st_ino
        done = run(SCRIPT, tree, "--output", str(target), umask=0o077)
        assert (done.status, done.out, done.err) == (0, "", "")
        assert stat.S_IMODE(target.stat().st_mode) == 0o644
        assert target.stat().st_ino != before, "written into the file that node_exporter reads"
        assert sorted(os.listdir(tmp_path)) == ["host", "lxc.prom"]
        text = target.read_text()
        assert text.endswith("\n")
        assert 'lxc_container_up{container="web"} 1\n' in text
        assert list(text_string_to_metric_families(text))

    def test_claims_nothing_where_nothing_could_be_measured(self, tree: Tree, tmp_path: Path) -> None:
        whole(tree, "web")
        target = tmp_path / "lxc.prom"
        assert metrics(tree, "--output", str(target)).status == 0
        assert "lxc_scrape_success 1\n" in target.read_text()
        (tree.root / "proc/1/net/unix").unlink()
        done = metrics(tree, "--output", str(target))
        assert (done.status, "net/unix" in done.out) == (3, True)
        assert [line for line in target.read_text().split("\n") if line[:1] not in ("#", "")] == [
            "lxc_scrape_success 0"
        ]

    @pytest.mark.parametrize("arguments", [(), ("--exclude", "web"), ("-n", "web*")])
    def test_of_a_host_whose_last_container_is_gone(
        self, arguments: tuple[str, ...], tree: Tree, tmp_path: Path
    ) -> None:
        tree.write("/proc/loadavg", "1.50 2.50 3.50 2/345 6789\n")
        target = tmp_path / "lxc.prom"
        target.write_text('lxc_container_up{container="web"} 1\n')
        if "--exclude" in arguments:
            whole(tree, "web")
        done = metrics(tree, "--output", str(target), *arguments)
        assert (done.status, done.out, done.err) == (0, "", "")
        text = target.read_text()
        assert "lxc_container_up" not in text
        assert "lxc_scrape_containers 0\n" in text
        assert ("lxc_host_defined_containers 0\n" in text, "lxc_host_cpu_cores" in text) == (not arguments,) * 2

    @pytest.mark.parametrize("kind", ["device", "fifo", "link to a fifo"])
    def test_what_is_no_file_stays_what_it_is(self, tree: Tree, tmp_path: Path, kind: str) -> None:
        whole(tree, "web")
        target = fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        if kind == "link to a fifo":
            target = tmp_path / "link"
            target.symlink_to(fifo)
        elif kind == "device":
            target = Path("/dev/fd/1")  # the pipe that the test reads
        done = metrics(tree, "--output", str(target))
        assert (done.status, "is no file" in done.out) == (3, True)
        assert stat.S_ISFIFO(fifo.stat().st_mode) and target.exists()

    def test_a_link_stays_one(self, tree: Tree, tmp_path: Path) -> None:
        whole(tree, "web")
        (tmp_path / "link").symlink_to(tmp_path / "lxc.prom")
        assert metrics(tree, "--output", str(tmp_path / "link")).status == 0
        assert (tmp_path / "link").is_symlink() and "lxc_container_up" in (tmp_path / "lxc.prom").read_text()

    def test_that_can_not_be_written_is_said(self, tree: Tree, tmp_path: Path) -> None:
        whole(tree, "web")
        done = metrics(tree, "--output", str(tmp_path / "none/lxc.prom"))
        assert (done.status, "No such file" in done.out) == (3, True)
        (tmp_path / "folder").mkdir()
        done = metrics(tree, "--output", str(tmp_path / "folder"))
        assert (done.status, "folder is no file, which --output would replace" in done.out) == (3, True)
        assert sorted(os.listdir(tmp_path)) == ["folder", "host"]

    def test_in_another_format(self, tree: Tree, tmp_path: Path) -> None:
        whole(tree, "web")
        assert metrics(tree, "--output", str(tmp_path / "x"), "--format", "json").status == 0
        assert json.loads((tmp_path / "x").read_text())["metrics"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--scheme", "a b"),
        ("--scheme", ""),
        ("--scheme", "host.lxc", "--format", "prometheus"),
        ("--scheme", "1", "--format", "influxdb"),
        ("--output", ""),
        ("--format", "xml"),
        ("--per-container",),
        ("-w", "80%"),
    ],
)
def test_misuse_is_one_unknown_line(tree: Tree, arguments: tuple[str, ...]) -> None:
    whole(tree, "web")
    done = metrics(tree, *arguments)
    assert (done.status, done.err, done.out.count("\n")) == (3, "", 1)
    assert done.out.startswith("MetricsContainer UNKNOWN: ")


def test_scheme(tree: Tree) -> None:
    whole(tree, "web")
    assert metrics(tree, "--scheme", "site1.host-2.lxc").out.startswith("site1.host-2.lxc.container.web.up 1 ")


def test_a_full_pipe_ends_with_the_time(tree: Tree) -> None:
    for number in range(60):  # more than a pipe holds
        whole(tree, f"web{number}")
    process = subprocess.Popen(
        command(SCRIPT, tree, "--timeout", "1", "--format", "json"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.wait(20) == 3
    finally:
        process.kill()
        assert process.stdout is not None
        process.stdout.close()


def test_hostile_names_stay_in_their_place(tree: Tree) -> None:
    for name in ('x"} 1\nlxc_container_up{container="fake', "a b", "a.b", "a~b", "ü", "|", "\x1b[31m", "=,;"):
        whole(tree, name)
    for form, parse in {
        "prometheus": lambda text: {
            sample.labels["container"]
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "lxc_container_up"
        },
        "json": lambda text: {
            one["labels"]["container"] for one in json.loads(text)["metrics"] if one["name"] == "lxc_container_up"
        },
        "graphite": lambda text: set(re.findall(r"^lxc\.container\.([^. ]+)\.up ", text, re.MULTILINE)),
        "nagios": lambda text: set(re.findall(r" lxc\.container\.([^. ]+)\.up=", text)),
    }.items():
        done = metrics(tree, "--format", form)
        assert done.status == 0
        found = parse(done.out)
        assert len(found) == 8, (form, found)
        assert "fake" not in found
        assert "\x1b" not in done.out
        assert done.out.count("|") == (form == "nagios") or form in ("json", "prometheus")


@settings(max_examples=40)
@given(data=some.data())
def test_no_garbage_makes_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: some.DataObject) -> None:
    layout = data.draw(some.sampled_from(["v1", "hybrid", "v2"]))
    tree = Tree(tmp_path_factory.mktemp("fuzz"), layout)
    whole(tree, "web")
    whole(tree, "bad")
    paths = [path for path in files_of(tree) if "bad" in path or "/proc/" in path]
    for path in data.draw(some.lists(some.sampled_from(paths), min_size=1, max_size=4)):
        tree.at(path).write_bytes(data.draw(some.binary(max_size=40)))
    done = metrics(tree, "--format", data.draw(some.sampled_from(["graphite", "prometheus"])))
    assert done.err == "" and "internal error" not in done.out
    assert done.status == (3 if done.out.startswith("MetricsContainer UNKNOWN: ") else 0)
