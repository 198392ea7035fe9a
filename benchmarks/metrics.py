#!/usr/bin/env python3
"""What metrics_container.py costs: one container and 1,000, against a bare loop over the same files and lxc-info.

    .venv/bin/python benchmarks/metrics.py

The marginal cost of a container is taken in one process, as the difference between 1,000 containers and one; the loop
opens, reads and closes what the script opens, in the same order and as far as it does. Files of a made tree are read in
little more than half the time of the kernel's, so the real containers' row is the one that tells what a host pays: the
made tree shows what Python adds to files that cost next to nothing.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from benchmarks.bench import ENVIRONMENT, PYTHON, made_tree, opened_by, table  # noqa: E402

SCRIPT = str(ROOT / "plugins/metrics_container.py")
BARE = "bare loop over its files"
CGROUP_FILES = {
    "cpu.stat": "usage_usec 81234567\nuser_usec 51234567\nsystem_usec 30000000\nnr_periods 1200\nnr_throttled 17\n"
    "throttled_usec 912345\nnr_bursts 0\nburst_usec 0\n",
    "cpu.max": "50000 100000\n",
    "cpuset.cpus.effective": "0-3\n",
    "memory.swap.current": "1048576\n",
    "memory.swap.max": "max\n",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n",
    "pids.current": "23\n",
    "pids.max": "4096\n",
    "io.stat": "8:0 rbytes=104857600 wbytes=524288000 rios=1600 wios=8000 dbytes=0 dios=0\n",
    **{
        f"{resource}.pressure": "some avg10=0.12 avg60=0.10 avg300=0.05 total=1234567\n"
        "full avg10=0.02 avg60=0.01 avg300=0.00 total=234567\n"
        for resource in ("cpu", "memory", "io")
    },
}
_COUNTS = " {:8} {:7}    0    0    0     0          0         0 {:8} {:7}    0    0    0     0       0          0\n"
NET_DEV = (
    "Inter-|   Receive                                                |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast|"
    "bytes    packets errs drop fifo colls carrier compressed\n"
    f"    lo:{_COUNTS.format(10000, 100, 10000, 100)}  eth0:{_COUNTS.format(91234567, 81234, 12345678, 61234)}"
)


def whole_tree(root: Path, count: int) -> Path:
    """A made cgroup v2 host whose containers have all that is measured."""
    made_tree(root, count)
    (root / "sys/devices/system/cpu").mkdir(parents=True)
    (root / "sys/devices/system/cpu/online").write_text("0-7\n")
    (root / "sys/dev/block/8:0").mkdir(parents=True)
    (root / "sys/dev/block/8:0/uevent").write_text("MAJOR=8\nMINOR=0\nDEVNAME=sda\nDEVTYPE=disk\n")
    (root / "proc/uptime").write_text("100000.00 190000.00\n")
    (root / "proc/loadavg").write_text("0.50 0.60 0.70 1/234 5678\n")
    (root / "proc/1/net/dev").write_text(NET_DEV)
    for number in range(count):
        group = root / f"sys/fs/cgroup/lxc.payload.web{number:04}"
        pid = 2000 + number
        for name, content in {**CGROUP_FILES, "cgroup.procs": f"{pid}\n"}.items():
            (group / name).write_text(content)
        process = root / f"proc/{pid}"
        (process / "net").mkdir(parents=True)
        (process / "net/dev").write_text(NET_DEV)
        (process / "net/unix").write_text("Num       RefCount Protocol Flags    Type St Inode Path\n")
        (process / "status").write_text(f"Name:\tinit\nState:\tS (sleeping)\nTgid:\t{pid}\nNSpid:\t{pid}\t1\n")
        (process / "root").mkdir()
        (process / "mountinfo").write_text(f"{number + 500} 400 8:1 /rootfs / rw,relatime - ext4 /dev/sda1 rw\n")
        (process / "stat").write_text(
            f"{pid} (init) S 1 {pid} {pid} 0 -1 4194560 2497 0 0 0 59 51 0 0 20 0 1 0 12345 2461696 512\n"
        )
    return root


def bare(files: Sequence[tuple[str, int]]) -> None:
    """What any program must do at least."""
    for path, size in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.read(descriptor, size)
        os.close(descriptor)


def opened(arguments: Sequence[str], below: Sequence[str], work: Path) -> list[tuple[str, int]]:
    """What a run opens, each as often as it does, and how many bytes it reads of it at most."""
    from sensu_lxc.disk import HEAD_BYTES

    paths = opened_by([SCRIPT, *arguments], below, work / "opened").read_text().splitlines()
    whole = ("/proc/self/mountinfo", "/proc/1/mountinfo")  # the host's own
    return [(path, HEAD_BYTES if path.endswith("/mountinfo") and not path.endswith(whole) else 65536) for path in paths]


def script(arguments: Sequence[str]) -> Callable[[], int]:
    """A run in this process, from the inventory to the text; returns the length of that."""
    import metrics_container

    def run() -> int:
        check = metrics_container.MetricsContainer(arguments)
        gc.disable()  # as it is where main() runs it
        findings = list(check.findings())
        return len(check.output(findings[0].state, findings))

    return run


def milliseconds(work: Callable[[], object]) -> float:
    """CPU time of this process."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1000


def marginal(
    title: str, few: Sequence[str], many: Sequence[str], count: int, below: Sequence[str], work: Path, rounds: int = 7
) -> dict[str, float]:
    """Added CPU time in us for each container, of each format and of the loop, in interleaved rounds."""
    loops = [opened(arguments, below, work) for arguments in (few, many)]
    runs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        BARE: (lambda: bare(loops[0]), lambda: bare(loops[1]))
    }
    for form in ("graphite", "influxdb", "opentsdb", "prometheus", "json", "nagios"):
        runs[f"--format {form}"] = (
            script([*few, "--format", form]),
            script([*many, "--format", form]),
        )
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (small, large) in runs.items():
            taken[name].append((milliseconds(large) - milliseconds(small)) / count * 1000)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    least = medians[BARE]
    print(f"\n{title}: {(len(loops[1]) - len(loops[0])) / count:.1f} files each; to reach: at most 2 times\n")
    print(f"| {'':28} | {'us each':>9} | {'x':>6} |\n|{'-' * 30}|{'-' * 11}|{'-' * 8}|")
    for name, value in medians.items():
        print(f"| {name:28} | {value:9.1f} | {value / least:6.2f} |")
    return medians


def whole(root: Path, count: int) -> None:
    """CPU time and memory of a process for all of them."""
    rows = {}
    for form in ("graphite", "influxdb", "prometheus", "json"):
        seconds, peaks = [], []
        for _ in range(5):
            process = subprocess.Popen(
                [PYTHON, SCRIPT, "--root", str(root), "--format", form], stdout=subprocess.DEVNULL, env=ENVIRONMENT
            )
            _, status, usage = os.wait4(process.pid, 0)
            assert status == 0
            seconds.append((usage.ru_utime + usage.ru_stime) * 1000)
            peaks.append(usage.ru_maxrss / 1024)
        rows[f"--format {form}, CPU time"] = (statistics.median(seconds), max(peaks))
    table(f"{count} containers of a made tree; to reach: under 500 ms and 40 MB", rows, next(iter(rows)))


def real(work: Path) -> None:
    """Real containers, and lxc-info."""
    from tests.live.containers import busybox

    with ExitStack() as stack:
        names = [stack.enter_context(busybox("bench")).name for _ in range(11)]
        few, many = ["-n", names[0]], ["-n", ",".join(names)]
        taken = marginal("A real container", few, many, len(names) - 1, ("/sys/", "/proc/"), work, 31)
        infos = []
        for _ in range(31):
            began = time.perf_counter()
            subprocess.run(["lxc-info", "-n", names[0]], stdout=subprocess.DEVNULL, check=True)
            infos.append((time.perf_counter() - began) * 1000)
        info = statistics.median(infos)
        print(
            f"\nOne lxc-info: {info:.2f} ms; to reach: all metrics of a container in at least 15 times less, which "
            f"leaves {info / 15 * 1000:.0f} us\n"
        )
        for name in (BARE, "--format graphite"):
            print(f"{name}: {taken[name]:.1f} us, {info * 1000 / taken[name]:.1f} times less")


def main() -> None:
    """All of it."""
    from tests.live.containers import why_no_lxc

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        trees = {count: whole_tree(work / str(count), count) for count in (1, 1000)}
        few, many = (["--root", str(trees[count])] for count in (1, 1000))
        whole(trees[1000], 1000)
        marginal("A container of a made tree", few, many, 999, (folder,), work)
        why = why_no_lxc()
        if why is None:
            real(work)
        else:
            print(f"\nleft out: real containers, lxc-info: {why}")


if __name__ == "__main__":
    main()
