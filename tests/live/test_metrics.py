"""metrics_container.py on real containers: beside the kernel's numbers and LXC's, and under a real Sensu Go."""

import fcntl
import json
import os
import pathlib
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live.containers import Container, busybox, wait_until
from tests.live.sensu_go import Event, Lab

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "plugins/metrics_container.py"
MIB = 1 << 20
pytestmark = pytest.mark.usefixtures("requires_lxc")


def metrics(container: Container, *arguments: str) -> "dict[str, float]":
    """{metric without lxc_container_, with its item: number} of one container."""
    done = subprocess.run(
        [
            sys.executable,
            str(SCRIPT),
            "-n",
            container.name,
            "-P",
            container.lxcpath,
            "--format",
            "prometheus",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    found = {}
    for family in text_string_to_metric_families(done.stdout):
        for sample in family.samples:
            name = sample.name[len("lxc_") :]
            labels = dict(sample.labels)
            if labels.pop("container", None) == container.name:
                name = name[len("container_") :]
            found[":".join([name, *labels.values()])] = sample.value
    return found


def kernels(container: Container, controller: str, *names: str) -> int:
    """A number from whichever file of these the container's cgroup has."""
    for name in names:
        path = pathlib.Path(container.cgroup(controller), name)
        if path.exists():
            return int(path.read_text())
    raise FileNotFoundError(f"{container.cgroup(controller)} has none of {names}")


def kernels_cpu_seconds(container: Container) -> float:
    path = pathlib.Path(container.cgroup("cpuacct"), "cpuacct.usage")
    if path.exists():
        return int(path.read_text()) / 1e9
    stat = pathlib.Path(container.cgroup("cpuacct"), "cpu.stat").read_text()
    return int(stat.split("usage_usec ")[1].split()[0]) / 1e6


def lxc_info(container: Container) -> "dict[str, str]":
    argv = ["lxc-info", "-n", container.name, "-P", container.lxcpath, "-H"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in said.splitlines())}


@pytest.fixture
def loaded() -> "Iterator[Container]":
    """A container under a quota of half a core, with 30 MiB in use, that burns what CPU it may."""
    lines = [
        "lxc.cgroup.cpu.cfs_quota_us = 50000", "lxc.cgroup2.cpu.max = 50000 100000",
        "lxc.cgroup.pids.max = 200", "lxc.cgroup2.pids.max = 200",
    ]  # fmt: skip
    with busybox("metrics", limit_bytes=64 * MIB, config_lines=lines) as container:
        container.fill(30 * MIB)
        burner = subprocess.Popen(
            container._argv("lxc-attach", "--", "sh", "-c", "while :; do :; done"), stdin=subprocess.DEVNULL
        )
        try:
            yield container
        finally:
            burner.kill()
            burner.wait()


def test_numbers_are_the_kernels(loaded: Container) -> None:
    before = metrics(loaded)
    began = time.monotonic()
    kernel_before = kernels_cpu_seconds(loaded)
    time.sleep(2)
    kernel_after = kernels_cpu_seconds(loaded)
    after = metrics(loaded)
    seconds = time.monotonic() - began

    # Between two looks of ours lie two of the kernel's; it burns half a core.
    used = after["cpu_usage_seconds_total"] - before["cpu_usage_seconds_total"]
    assert kernel_after - kernel_before <= used <= kernel_after - kernel_before + 0.5 * seconds
    assert before["cpu_usage_seconds_total"] <= kernel_before <= kernel_after <= after["cpu_usage_seconds_total"]
    assert after["cpu_cores"] == 0.5
    periods = after["cpu_periods_total"] - before["cpu_periods_total"]
    throttled = after["cpu_throttled_periods_total"] - before["cpu_throttled_periods_total"]
    assert 15 <= periods <= 10 * seconds + 2
    assert 0 < throttled <= periods
    assert after["cpu_throttled_seconds_total"] > before["cpu_throttled_seconds_total"]

    usage = kernels(loaded, "memory", "memory.usage_in_bytes", "memory.current")
    assert after["memory_usage_bytes"] == pytest.approx(usage, rel=0.05)
    assert 30 * MIB <= after["memory_used_bytes"] <= after["memory_working_set_bytes"] <= after["memory_usage_bytes"]
    assert after["memory_limit_bytes"] == 64 * MIB
    assert after["memory_oom_kills_total"] == 0
    assert after["tasks"] == kernels(loaded, "pids", "pids.current")
    assert after["tasks_limit"] == 200
    started = float(pathlib.Path(f"/proc/{loaded.pid}/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(pathlib.Path("/proc/uptime").read_text().split()[0]) - started / os.sysconf("SC_CLK_TCK")
    assert after["uptime_seconds"] == pytest.approx(uptime, abs=1)
    pressure = pathlib.Path(loaded.cgroup("unified"), "cpu.pressure")
    if pressure.exists():
        waiting = int(re.search(r"some .* total=(\d+)", pressure.read_text())[1]) / 1e6  # type: ignore[index]
        assert after["pressure_cpu_waiting_seconds_total"] == pytest.approx(waiting, abs=1)
        assert after["pressure_cpu_waiting_seconds_total"] > 0
    space = os.statvfs(loaded.rootfs)
    assert after["disk_available_bytes"] == pytest.approx(space.f_bavail * space.f_frsize, rel=0.02)
    assert (after["up"], after["frozen"], after["scrape_failed_containers"]) == (1, 0, 0)


def test_numbers_are_those_of_lxc_info(loaded: Container) -> None:
    said, ours = lxc_info(loaded), metrics(loaded)
    if "CPU use" not in said:
        pytest.skip("on cgroup v2 lxc-info has no numbers")
    assert ours["cpu_usage_seconds_total"] == pytest.approx(float(said["CPU use"]) / 1e9, abs=1)
    assert ours["memory_usage_bytes"] == pytest.approx(float(said["Memory use"]), rel=0.05)


def test_states() -> None:
    with busybox("metrics") as container:
        container.freeze_outside()
        assert (metrics(container)["up"], metrics(container)["frozen"]) == (1, 1)
        container.thaw_outside()
        container.reboot_inside()
        again = metrics(container)
        assert (again["up"], again["frozen"]) == (1, 0)
        assert again["uptime_seconds"] < 60
        container.stop()
        stopped = metrics(container)
        assert (stopped["up"], stopped["scrape_running_containers"]) == (0, 0)
        assert "memory_usage_bytes" not in stopped


def test_a_stopped_monitor_hangs_nothing() -> None:
    with busybox("metrics") as container:
        container.stop_monitor()
        began = time.monotonic()
        assert metrics(container)["memory_usage_bytes"] > 0
        assert time.monotonic() - began < 5


def test_traffic_is_what_the_other_end_of_the_link_counts() -> None:
    link = f"mtx{os.getpid()}"
    lines = [
        "lxc.net.0.type = veth", "lxc.net.0.link = lxcbr0", "lxc.net.0.flags = up", f"lxc.net.0.veth.pair = {link}",
        "lxc.net.0.ipv4.address = 10.0.3.251/24",
    ]  # fmt: skip
    with busybox("metrics", config_lines=lines, start=False) as container:
        script = pathlib.Path(container.rootfs, "etc/init.d/rcS")
        script.write_text(script.read_text().replace("/bin/udhcpc\n", ""))  # takes no address from others
        container.start()
        before = metrics(container)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(20):
                sock.sendto(bytes(1000), ("10.0.3.251", 9))
        statistics = pathlib.Path(f"/sys/class/net/{link}/statistics")
        wait_until(lambda: int((statistics / "tx_bytes").read_text()) >= 20 * 1042, 10, "the packets to be sent")
        ours = metrics(container)
        assert ours["network_receive_bytes_total:eth0"] - before["network_receive_bytes_total:eth0"] >= 20 * 1042
        for way, theirs in (("receive", "tx"), ("transmit", "rx")):
            for what in ("bytes", "packets"):
                # A neighbour's broadcast may come between the two looks.
                counted = int((statistics / f"{theirs}_{what}").read_text())
                assert 0 <= counted - ours[f"network_{way}_{what}_total:eth0"] <= 5000
        (row,) = top(container, "--interval", "1s")
        assert row["received_bytes_per_second"] is not None


# top_containers.py


def top(container: Container, *arguments: str) -> "list[dict[str, object]]":
    argv = [sys.executable, str(ROOT / "plugins/top_containers.py"), "--json", "-n", container.name, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, ""), done
    rows: list[dict[str, object]] = json.loads(done.stdout)["containers"]
    return rows


def lxc_top(container: Container) -> "dict[str, float]":
    """CPU seconds and memory in bytes as lxc-top says them, which runs on a terminal only."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvp("lxc-top", ["lxc-top", "-b", "-d", "1", "-P", container.lxcpath])
    # It prints as many containers as the terminal has lines.
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 200, 200, 0, 0))
    said = ""
    try:
        # Time, name, CPU use in ns, by the system and by users, block I/O in bytes and operations, memory …
        line = re.compile(rf"^\d+,{re.escape(container.name)},(\d+),\d+,\d+,\d+,\d+,(\d+),", re.MULTILINE)
        deadline = time.monotonic() + 10
        while not (match := line.search(said)):
            assert time.monotonic() < deadline, said
            if select.select([terminal], [], [], 1)[0]:
                said += os.read(terminal, 65536).decode()
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)
    return {"cpu_seconds": int(match[1]) / 1e9, "memory_bytes": int(match[2])}


def test_top_says_what_the_kernel_and_lxc_top_say(loaded: Container) -> None:
    began, before = time.monotonic(), kernels_cpu_seconds(loaded)
    (row,) = top(loaded, "--interval", "2s")
    cores = (kernels_cpu_seconds(loaded) - before) / (time.monotonic() - began)
    assert row["cpu_cores_used"] == pytest.approx(cores, abs=0.1)
    assert row["cpu_percent"] == pytest.approx(200 * cores, abs=20)  # of half a core
    assert row["memory_limit_bytes"] == 64 * MIB
    assert 30 * MIB <= float(str(row["memory_used_bytes"])) <= 40 * MIB
    if "CPU use" in lxc_info(loaded):  # on cgroup v2 lxc-top shows zeros
        said = lxc_top(loaded)
        assert said["cpu_seconds"] == pytest.approx(kernels_cpu_seconds(loaded), abs=1.5)
        assert float(str(row["memory_used_bytes"])) == pytest.approx(said["memory_bytes"], rel=0.1)


# A real Sensu Go

FORMATS = {
    "graphite": "graphite_plaintext",
    "influxdb": "influxdb_line",
    "opentsdb": "opentsdb_line",
    "prometheus": "prometheus_text",
    "nagios": "nagios_perfdata",
}
CHECK = """\
type: CheckConfig
api_version: core/v2
metadata:
  name: metrics-{form}
spec:
  command: /etc/sensu/plugins/metrics_container.py -n {names} --format {form}
  subscriptions: [lxc]
  interval: 2
  publish: true
  timeout: 30
  output_metric_format: {sensus}
  output_metric_handlers: [dump-{form}]
---
type: Handler
api_version: core/v2
metadata:
  name: dump-{form}
spec:
  type: pipe
  command: cat > {folder}/{form}.part && mv {folder}/{form}.part {folder}/{form}.json
"""


def written(form: str, output: str) -> int:
    """How many numbers are in it."""
    lines = output.splitlines()
    if form == "prometheus":
        return len([line for line in lines if not line.startswith("#")])
    if form == "influxdb":
        return sum(line.split(" ")[-2].count(",") + 1 for line in lines)
    if form == "nagios":
        return len(output.split("|")[1].split())
    return len(lines)


def test_sensu_go_loses_no_line(sensu_go_lab: Lab, tmp_path: pathlib.Path) -> None:
    lab = sensu_go_lab
    lab.install("plugins", lab.agent_etc)
    folder = tmp_path / "dumped"
    folder.mkdir()
    lab.start_backend()
    with busybox("metrics.a", limit_bytes=64 * MIB) as first, busybox("metrics-b") as second:
        names = f"{first.name},{second.name}"
        for form, sensus in FORMATS.items():
            lab.create(CHECK.format(form=form, sensus=sensus, names=names, folder=folder))
        lab.start_agent()
        for form in FORMATS:
            path = folder / f"{form}.json"
            wait_until(path.exists, 30, f"the event with metrics in {form}")
            event: Event = json.loads(path.read_text())
            assert event["check"]["status"] == 0
            points = event["metrics"]["points"]
            assert len(points) == written(form, event["check"]["output"]) >= 50, form
            names_of_points = {point["name"] for point in points}
            assert len(names_of_points) > 20, names_of_points
            assert all(abs(point["timestamp"] - event["check"]["executed"]) <= 10 for point in points)
            used = [point for point in points if "memory_used_bytes" in point["name"] and is_of(point, first.name)]
            (point,) = used
            assert point["value"] == pytest.approx(metrics(first)["memory_used_bytes"], rel=0.5)


def is_of(point: "dict[str, object]", container: str) -> bool:
    """Whether it is that container's, by its tag or in its name."""
    tags = {tag["name"]: tag["value"] for tag in point["tags"] or ()}  # type: ignore[attr-defined]
    escaped = container.replace(".", "~2e")
    return tags["container"] == container if "container" in tags else f".{escaped}." in str(point["name"])


def test_an_orphan_is_no_clean_stop() -> None:
    """Its monitor killed, the payload runs on: LXC calls it STOPPED."""
    with busybox("orphan", config_lines=["lxc.monitor.signal.pdeath = SIGCONT"]) as container:
        assert metrics(container)["orphaned"] == 0
        init = container.pid
        container.kill_monitor()
        try:
            wait_until(lambda: metrics(container)["up"] == 0, 10, "the monitor's end to be seen")
            assert metrics(container)["orphaned"] == 1
            capacity = [sys.executable, str(ROOT / "plugins/check_host_capacity.py"), "-P", container.lxcpath]
            said = subprocess.run(capacity, capture_output=True, text=True, timeout=30)
            assert said.returncode in (1, 2), said
            assert f"{container.name}: processes run on without their monitor" in said.stdout
        finally:
            os.kill(init, signal.SIGKILL)
        wait_until(lambda: metrics(container)["orphaned"] == 0, 10, "the orphan's end to be seen")


def test_the_disk_of_the_host_is_what_df_says() -> None:
    with busybox("hostdisk"):
        argv = [sys.executable, str(SCRIPT), "--format", "json"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
        found = {
            one["name"]: one["value"]
            for one in json.loads(done.stdout)["metrics"]
            if one["labels"] == {"lxcpath": "/var/lib/lxc"}
        }
        space = os.statvfs("/var/lib/lxc")
        assert abs(found["lxc_host_disk_available_bytes"] - space.f_bavail * space.f_frsize) < 256 * MIB
        used = (space.f_blocks - space.f_bfree) * space.f_frsize
        assert abs(found["lxc_host_disk_used_bytes"] - used) < 256 * MIB
        assert abs(found["lxc_host_disk_available_inodes"] - space.f_favail) < 50000
