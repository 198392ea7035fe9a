"""What the checks say of a known load, beside what the kernel's own files say of it.

Stated error: counts are equal; rates over several seconds are within 5%, as the kernel's file is read a moment before
or after the check reads it.
"""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sensu_lxc import accounting, inventory
from sensu_lxc.cgroups import Cgroups
from sensu_lxc.host import Host

from tests.live.containers import Container, busybox, wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.usefixtures("requires_lxc")
MIB = 1 << 20
HAS_V1 = os.path.isdir("/sys/fs/cgroup/memory")


class Check:
    """One command line of a check, run again and again."""

    def __init__(self, script: str, folder: Path, *arguments: str):
        self._argv = [sys.executable, str(ROOT / f"plugins/check_container_{script}.py"), *arguments]
        if script != "pids":
            self._argv += ["--state-dir", str(folder / "state")]

    def __call__(self):
        """(exit status, output); it must never write to stderr or show a traceback."""
        done = subprocess.run(self._argv, capture_output=True, text=True, timeout=60, cwd="/")
        assert done.stderr == ""
        assert "internal error" not in done.stdout
        return done.returncode, done.stdout

    def values(self) -> "dict[str, float]":
        """{label: number} of the perfdata, without the container's name."""
        _, output = self()
        return {
            label.partition("_")[2]: float(value)
            for label, value in re.findall(r"(\S+)=([\d.]+)", output.partition(" | ")[2])
        }


@contextlib.contextmanager
def burning(container: Container, processes: int) -> "Iterator[None]":
    """Processes inside that do nothing but use CPU time."""
    argv = ["lxc-attach", "-n", container.name, "--", "sh", "-c", "while :; do :; done"]
    burners = [subprocess.Popen(argv, stdin=subprocess.DEVNULL) for _ in range(processes)]
    try:
        time.sleep(1)
        yield
    finally:
        for burner in burners:
            burner.kill()  # lxc-attach; what it started dies with the container
            burner.wait()


def field(path: str, key: str) -> int:
    """The number behind a key of a flat keyed file."""
    return int(re.search(rf"^{key} (\d+)$", Path(path).read_text(), re.MULTILINE)[1])


def quota(cores: float) -> "list[str]":
    """Each LXC and kernel takes the one that it knows and ignores the other."""
    us = round(cores * 100000)
    return [
        f"lxc.cgroup.cpu.cfs_quota_us = {us}",
        f"lxc.cgroup2.cpu.max = {us} 100000",
    ]


class Kernel:
    """The kernel's own counters of a container's CPU."""

    def __init__(self, container: Container) -> None:
        self._stat = f"{container.cgroup('cpu')}/cpu.stat"
        self._usage = f"{container.cgroup('cpuacct')}/cpuacct.usage"
        self._pressure = f"{container.cgroup('unified')}/cpu.pressure"

    def cpu_seconds(self) -> float:
        if os.path.exists(self._usage):
            return int(Path(self._usage).read_text()) / 1e9
        return field(self._stat, "usage_usec") / 1e6

    def periods(self) -> "tuple[int, int]":
        return field(self._stat, "nr_periods"), field(self._stat, "nr_throttled")

    def pressure_us(self) -> "tuple[int, ...]":
        return tuple(map(int, re.findall(r"total=(\d+)", Path(self._pressure).read_text())))


# CPU


def test_a_burner_under_a_quota_of_half_a_core(tmp_path):
    with busybox(config_lines=quota(0.5)) as container, burning(container, 1):
        check, kernel = Check("cpu", tmp_path, "-n", container.name), Kernel(container)
        check()
        began, used, (periods, throttled) = time.monotonic(), kernel.cpu_seconds(), kernel.periods()
        time.sleep(6)
        ours = check.values()
        seconds = time.monotonic() - began
        theirs = 100 * (kernel.cpu_seconds() - used) / seconds / 0.5
        assert ours["cpu"] == pytest.approx(theirs, rel=0.03)
        periods, throttled = (now - before for now, before in zip(kernel.periods(), (periods, throttled)))
        assert ours["throttled"] == pytest.approx(100 * throttled / periods, abs=5)
        print(f"\nCPU of a 0.5 core quota: ours {ours['cpu']:.2f}%, kernel {theirs:.2f}%")
        print(f"throttled: ours {ours['throttled']:.1f}%, kernel {100 * throttled / periods:.1f}%")


def test_the_first_run_sees_it_as_well(tmp_path):
    with busybox(config_lines=quota(0.5)) as container, burning(container, 1):
        check, kernel = Check("cpu", tmp_path, "-n", container.name, "--sample", "3s"), Kernel(container)
        began, used = time.monotonic(), kernel.cpu_seconds()
        ours = check.values()["cpu"]
        theirs = 100 * (kernel.cpu_seconds() - used) / (time.monotonic() - began) / 0.5
        assert ours == pytest.approx(theirs, rel=0.1)


def test_a_core_to_which_it_is_pinned_is_all_of_it(tmp_path):
    """check_lxc#7: it says 52% of a container that uses up the one core that it has."""
    lines = ["lxc.cgroup.cpuset.cpus = 0", "lxc.cgroup2.cpuset.cpus = 0"]
    with busybox(config_lines=lines) as container, burning(container, 2):
        check, kernel = Check("cpu", tmp_path, "-n", container.name), Kernel(container)
        check()
        began, used = time.monotonic(), kernel.cpu_seconds()
        time.sleep(6)
        status, output = check()
        theirs = 100 * (kernel.cpu_seconds() - used) / (time.monotonic() - began)
        ours = float(re.search(r"_cpu=([\d.]+)%", output)[1])
        assert "% of 1 core over" in output
        assert ours == pytest.approx(theirs, rel=0.03)
        assert status == (2 if ours >= 90 else 1 if ours >= 80 else 0)
        print(f"\npinned to a core: ours {ours:.2f}%, kernel {theirs:.2f}% of one core")


def test_a_reboot_is_no_negative_and_no_huge_rate(tmp_path):
    with busybox() as container:
        check = Check("cpu", tmp_path, "-n", container.name)
        with burning(container, 1):
            check()
        container.reboot_inside()
        with burning(container, 1):
            time.sleep(2)
            assert 0 < check.values()["cpu"] <= 101


# Pressure


@pytest.mark.skipif(not os.path.exists("/proc/pressure/cpu"), reason="the kernel tells no pressure (psi=0)")
def test_cpu_pressure(tmp_path):
    """Twice as many burners as there are cores, under a quota of a fifth: some always wait, and mostly all do."""
    with busybox(config_lines=quota(0.2)) as container, burning(container, 2 * os.cpu_count()):
        check, kernel = Check("pressure", tmp_path, "-n", container.name, "--resource", "cpu"), Kernel(container)
        check()
        began, before = time.monotonic(), kernel.pressure_us()
        time.sleep(8)
        ours = check.values()
        seconds = time.monotonic() - began
        some, full = (100 * (now - then) / 1e6 / seconds for now, then in zip(kernel.pressure_us(), before))
        assert (ours["cpu_some"], ours["cpu_full"]) == (pytest.approx(some, rel=0.05), pytest.approx(full, rel=0.05))
        assert ours["cpu_some"] > 50
        status, output = check()
        averages = Path(f"{container.cgroup('unified')}/cpu.pressure").read_text()
        assert (status, "critical at 60%" in output) == (2, True), output
        print(f"\nCPU pressure: ours some {ours['cpu_some']:.1f}% full {ours['cpu_full']:.1f}%, kernel {some:.1f}%")
        print(f"{full:.1f}%; its averages: {averages}")


@pytest.mark.skipif(not os.path.exists("/proc/pressure/cpu"), reason="the kernel tells no pressure (psi=0)")
def test_no_pressure(tmp_path):
    with busybox() as container:
        status, output = Check("pressure", tmp_path, "-n", container.name)()
        assert (status, output.count(container.name + "_")) == (0, 6), output


# Tasks


def tasks_of(container: Container) -> int:
    """As the kernel lists them, one thread a line, in the container's cgroup and below."""
    top, name = (container.cgroup("pids"), "tasks") if HAS_V1 else (container.cgroup("unified"), "cgroup.threads")
    return sum(len(Path(folder, name).read_text().split()) for folder, _, _ in os.walk(top))


def test_tasks(tmp_path):
    lines = ["lxc.cgroup.pids.max = 40", "lxc.cgroup2.pids.max = 40"]
    with busybox(config_lines=lines) as container:
        check = Check("pids", tmp_path, "-n", container.name)
        time.sleep(1)  # its init starts what it starts
        before, current = tasks_of(container), Path(container.cgroup("pids"), "pids.current")
        assert check.values() == {"tasks": before}
        for sleepers, status in ((20, 0), (33 - before, 1), (37 - before, 2)):
            container.run("sh", "-c", f"for i in $(seq {sleepers}); do sleep 100 >/dev/null 2>&1 & done")
            assert tasks_of(container) == before + sleepers
            assert check.values() == {"tasks": before + sleepers}
            assert check()[0] == status
            print(f"\ntasks: ours and kernel {before + sleepers}")
            container.run("killall", "sleep")
            # They are counted until init has reaped them, though they are listed no more.
            wait_until(lambda: int(current.read_text()) == before, 10, "the sleepers to be reaped")


def test_no_limit_of_tasks(tmp_path):
    with busybox() as container:
        status, output = Check("pids", tmp_path, "-n", container.name, "-c", "1%")()
        assert (status, "no limit set, so no percentage of it" in output) == (0, True), output
        host = min(int(Path(f"/proc/sys/kernel/{name}").read_text()) for name in ("pid_max", "threads-max"))
        status, output = Check("pids", tmp_path, "-n", container.name, "--unlimited-as", "host")()
        assert (status, f"of {host} of the host" in output) == (0, True), output


# Block I/O


@pytest.fixture
def disk():
    """A disk of its own, (device, where it is mounted): on v1 counting begins for all containers of a disk at once."""
    with tempfile.TemporaryDirectory(dir="/srv") as folder:
        subprocess.run(["truncate", "-s", "256M", f"{folder}/image"], check=True)
        done = subprocess.run(["losetup", "-f", "--show", f"{folder}/image"], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no loop device to be had: {done.stderr.strip()}")
        device = done.stdout.strip()
        os.mkdir(f"{folder}/mounted")
        try:
            subprocess.run(["mkfs.ext4", "-q", device], check=True)
            subprocess.run(["mount", device, f"{folder}/mounted"], check=True)
            yield device, f"{folder}/mounted"
        finally:
            subprocess.run(["umount", f"{folder}/mounted"], check=False)
            subprocess.run(["losetup", "-d", device], check=True)


def number_of(device: str) -> str:
    status = os.stat(device)
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def kernel_io(container: Container, number: str) -> "tuple[int, int]":
    """(bytes read, bytes written) on a device."""
    if HAS_V1:
        text = Path(container.cgroup("blkio"), "blkio.throttle.io_service_bytes_recursive").read_text()
        found = dict(re.findall(rf"^{number} (Read|Write) (\d+)$", text, re.MULTILINE))
        return int(found.get("Read", 0)), int(found.get("Write", 0))
    found = re.search(rf"^{number} rbytes=(\d+) wbytes=(\d+)", Path(container.cgroup("unified"), "io.stat").read_text())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def test_a_writer_and_a_reader(tmp_path, disk):
    device, mounted = disk
    number = number_of(device)
    lines = [
        f"lxc.cgroup.blkio.throttle.write_bps_device = {number} 1000000000000",  # as the check advises
        f"lxc.cgroup.blkio.throttle.read_bps_device = {number} 1000000000000",
        f"lxc.mount.entry = {mounted} mnt none bind 0 0",
    ]
    with busybox(config_lines=lines) as container:
        if not HAS_V1 and "io" not in Path(container.cgroup("unified"), "cgroup.controllers").read_text().split():
            pytest.skip("the io controller is not enabled for LXC's cgroups here")
        check = Check("io", tmp_path, "-n", container.name, "--device", device)
        assert check.values()[f"{os.path.basename(device)}_io"] == 0
        began, before = time.monotonic(), kernel_io(container, number)
        # The host's dd in the container's cgroup, as busybox' own may know no direct I/O.
        folder = container.cgroup("blkio") if HAS_V1 else container.cgroup("unified")
        enter = ["sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec dd bs=1M "$@"', "sh"]
        for what in (
            ["if=/dev/zero", f"of={mounted}/file", "count=64", "oflag=direct"],
            [f"if={mounted}/file", "of=/dev/null", "count=32", "iflag=direct"],
        ):
            subprocess.run([*enter, *what], check=True, capture_output=True)
        time.sleep(5)
        ours = check.values()
        seconds = time.monotonic() - began
        read, written = (now - then for now, then in zip(kernel_io(container, number), before))
        name = os.path.basename(device)
        assert (read, written) == (pytest.approx(32 * MIB, rel=0.01), pytest.approx(64 * MIB, rel=0.01))
        assert ours[f"{name}_read"] == pytest.approx(read / seconds, rel=0.05)
        assert ours[f"{name}_written"] == pytest.approx(written / seconds, rel=0.05)
        assert ours[f"{name}_io"] == pytest.approx(ours[f"{name}_read"] + ours[f"{name}_written"], rel=0.001)
        print(f"\nI/O in bytes: wrote {64 * MIB}, kernel {written}, ours {ours[f'{name}_written'] * seconds:.0f};")
        print(f"read {32 * MIB}, kernel {read}, ours {ours[f'{name}_read'] * seconds:.0f}")
        # What was counted, exactly.
        found = measured(accounting.io, container)
        counts = found.counters[number]
        assert counts[:2] == kernel_io(container, number)


@pytest.mark.skipif(not HAS_V1, reason="v2 always counts")
def test_what_v1_does_not_count_is_unavailable(tmp_path):
    with busybox() as container:
        container.fill_cache(5 * MIB)
        if "Write" in Path(container.cgroup("blkio"), "blkio.throttle.io_service_bytes_recursive").read_text():
            pytest.skip("on this machine somebody has set an I/O limit for the disk of the containers")
        status, output = Check("io", tmp_path, "-n", container.name)()
        assert (status, "begins with a limit" in output, " | " in output) == (3, True, False), output


# OOM kills


def measured(function, container: Container):
    """What accounting says of a container here."""
    host = Host()
    found = inventory.take(host, [container.name])
    return function(host, Cgroups(host, found.running), *found.containers)


def test_oom_kills():
    """On v1 in a cgroup of the container's own making, of which the container's own file knows nothing."""
    with busybox(limit_bytes=64 * MIB) as container:
        assert measured(accounting.oom_kills, container).kills == 0
        before = field("/proc/vmstat", "oom_kill")
        if not HAS_V1:
            with pytest.raises(MemoryError), container.hold(200 * MIB):
                pass
            theirs = field(f"{container.cgroup('unified')}/memory.events", "oom_kill")
        else:
            nested = f"{container.cgroup('memory')}/app.slice/heavy"
            os.makedirs(nested)
            Path(nested, "memory.limit_in_bytes").write_text(str(16 * MIB))
            for _ in range(2):
                argv = ["sh", "-c", f"echo $$ > {nested}/cgroup.procs && exec dd if=/dev/zero of=/dev/null bs=64M"]
                assert subprocess.run(argv, capture_output=True, timeout=60).returncode == -9
            assert field(f"{container.cgroup('memory')}/memory.oom_control", "oom_kill") == 0
            theirs = field(f"{nested}/memory.oom_control", "oom_kill")
        ours = measured(accounting.oom_kills, container).kills
        assert ours == theirs > 0
        assert field("/proc/vmstat", "oom_kill") - before >= ours
        print(f"\nOOM kills: ours {ours}, kernel {theirs}, of the host {field('/proc/vmstat', 'oom_kill') - before}")
