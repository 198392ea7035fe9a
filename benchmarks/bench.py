#!/usr/bin/env python3
"""What a check costs, side by side in one run: medians of interleaved rounds, as tables.

`make bench` runs it. As root on a host with LXC it also measures 50 real containers, lxc-info, and the original's shell
script on real files; elsewhere those rows are left out, and said to be. Figures are wall time in ms, and the peak
memory (RSS) of the process in MB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PYTHON = sys.executable
MEMORY = str(ROOT / "plugins/check_container_memory.py")
STATE = str(ROOT / "plugins/check_container_state.py")
HANDLER = str(ROOT / "handlers/handler_jenkins.py")
# Byte code is there after the first run on a user's host, so it must be here.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
# Sockets are of what it opens, too: the state check asks each monitor, which answers only with credentials.
BARE_LOOP = """
import os, sys
paths = open(sys.argv[1]).read().splitlines()
if any(path[0] == "@" for path in paths):
    import _socket, struct
    me = struct.pack("iII", os.getpid(), os.getuid(), os.getgid())
    credentials = [(_socket.SOL_SOCKET, _socket.SCM_CREDENTIALS, me)]
    get_state = struct.pack("iiP", 3, 0, 0)
for path in paths:
    if path[0] == "@":
        monitor = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        monitor.connect(chr(0).encode() + path[1:].encode())
        monitor.sendmsg([get_state], credentials)
        monitor.recv(4096)
        monitor.close()
        continue
    descriptor = os.open(path, os.O_RDONLY)
    os.read(descriptor, 65536)
    os.close(descriptor)
"""
# What the original did for one container: read the usage, compare, say a word.
SHELL_SCRIPT = """#!/bin/sh
used=$(cat "$1")
if [ "$used" -ge 1048576000 ]; then
    echo "CRITICAL: $used bytes"
    exit 2
elif [ "$used" -ge 943718400 ]; then
    echo "WARNING: $used bytes"
    exit 1
fi
echo "OK: $used bytes"
"""
SHELL_LOOP = 'while read -r path; do "$0" "$path"; done < "$1"'
INFO_LOOP = 'while read -r name; do lxc-info -n "$name"; done < "$1"'


def run(command: Sequence[str], stdin: str = "", statuses: Sequence[int] = (0,)) -> tuple[float, float]:
    """(wall time in ms, peak RSS in MB) of one process."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    assert process.stdin is not None
    process.stdin.write(stdin.encode())
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = (time.perf_counter() - began) * 1000
    process.returncode = os.waitstatus_to_exitcode(status)  # it is waited for already
    if process.returncode not in statuses:
        raise SystemExit(f"{' '.join(command)[:200]} ended with {process.returncode}: a figure of a failure is none")
    return elapsed, usage.ru_maxrss / 1024


def side_by_side(
    commands: dict[str, Sequence[str]], rounds: int, stdin: str = "", statuses: Sequence[int] = (0,)
) -> dict[str, tuple[float, float]]:
    """{name: medians of run()}; a round runs each command once, so that a busy moment meets all of them."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for command in commands.values():
        run(command, stdin, statuses)
    for _ in range(rounds):
        for name, command in commands.items():
            taken[name].append(run(command, stdin, statuses))
    return {name: (statistics.median(ms for ms, _ in runs), max(mb for _, mb in runs)) for name, runs in taken.items()}


def table(title: str, rows: dict[str, tuple[float, float]], base: str) -> None:
    """Print rows with their ratio to one of them."""
    print(f"\n{title}\n")
    print(f"| {'':52} | {'ms':>9} | {'MB':>6} | {'x':>6} |\n|{'-' * 54}|{'-' * 11}|{'-' * 8}|{'-' * 8}|")
    for name, (ms, mb) in rows.items():
        print(f"| {name:52} | {ms:9.2f} | {mb:6.1f} | {ms / rows[base][0]:6.2f} |")


def made_tree(root: Path, count: int, stopped: int = 0) -> None:
    """A made cgroup v2 host with `count` containers below root, of which that many are stopped."""
    stat = "".join(
        f"{key} {value}\n"
        for key, value in {
            "anon": 52428800, "file": 20971520, "kernel": 3145728, "kernel_stack": 98304, "pagetables": 262144,
            "sec_pagetables": 0, "percpu": 1440, "sock": 4096, "vmalloc": 0, "shmem": 4096, "zswap": 0, "zswapped": 0,
            "file_mapped": 8388608, "file_dirty": 0, "file_writeback": 0, "swapcached": 0, "anon_thp": 0, "file_thp": 0,
            "shmem_thp": 0, "inactive_anon": 52420608, "active_anon": 8192, "inactive_file": 12582912,
            "active_file": 8388608, "unevictable": 0, "slab_reclaimable": 1048576, "slab_unreclaimable": 524288,
            "slab": 1572864, "workingset_refault_anon": 0, "workingset_refault_file": 12, "pgfault": 91234,
            "pgmajfault": 31, "pgrefill": 0, "pgscan": 0, "pgsteal": 0, "pgactivate": 1203, "pgdeactivate": 0,
        }.items()
    )  # fmt: skip
    (root / "proc/1/net").mkdir(parents=True)
    (root / "proc/1/mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n")
    (root / "proc/meminfo").write_text("MemTotal:       65536000 kB\nMemFree: 1 kB\nSwapTotal:      0 kB\n")
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/cgroup.procs").write_text("1\n")
    sockets = ["Num       RefCount Protocol Flags    Type St Inode Path"]
    for number in range(count):
        name = f"web{number:04}"
        (root / f"var/lib/lxc/{name}").mkdir(parents=True)
        (root / f"var/lib/lxc/{name}/config").write_text("lxc.start.auto = 1\n")
        if number < stopped:
            continue
        group = root / f"sys/fs/cgroup/lxc.payload.{name}"
        group.mkdir(parents=True)
        (group / "cgroup.events").write_text("populated 1\nfrozen 0\n")
        monitor = root / f"sys/fs/cgroup/lxc.monitor.{name}"
        monitor.mkdir()
        (monitor / "cgroup.events").write_text("populated 1\nfrozen 0\n")
        (group / "memory.current").write_text("76546048\n")
        (group / "memory.max").write_text("1073741824\n")
        (group / "memory.stat").write_text(stat)
        sockets.append(f"{number:016x}: 00000002 00000000 00010000 0001 01 {number + 999} @/var/lib/lxc/{name}/command")
    (root / "proc/1/net/unix").write_text("\n".join(sockets) + "\n")


def crowded(root: Path, services: int, processes: int) -> None:
    """Put services and processes of others beside the containers of a made tree."""
    top = root / "sys/fs/cgroup"
    files = [
        f"{controller}.{what}"
        for controller, whats in {
            "cgroup": "controllers events freeze kill max.depth max.descendants procs stat subtree_control type",
            "cpu": "idle max max.burst pressure stat weight weight.nice uclamp.max uclamp.min",
            "cpuset": "cpus cpus.effective cpus.partition mems mems.effective",
            "io": "bfq.weight latency max pressure stat weight",
            "memory": "current events events.local high low max min numa_stat oom.group peak pressure reclaim stat "
            "swap.current swap.events swap.high swap.max zswap.current zswap.max",
            "pids": "current events max peak",
        }.items()
        for what in whats.split()
    ]
    places = [f"system.slice/unit{number}.service" for number in range(services)]
    for place in ("", "system.slice", *places):
        (top / place).mkdir(parents=True, exist_ok=True)
        for file in files:
            (top / place / file).touch()
    for number in range(processes):
        process = root / f"proc/{10000 + number}"
        process.mkdir()
        (process / "cgroup").write_text(f"0::/{places[number % services]}\n")


def opened_by(script: Sequence[str], below: Sequence[str], out: Path) -> Path:
    """A file that lists what a run of a script opens below a directory."""
    recorder = str(ROOT / "benchmarks/record_opens.py")
    subprocess.run(
        [PYTHON, recorder, str(out), ":".join(below), *script],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        check=False,
        timeout=60,
    )
    # A file that is not there costs the loop no read, and would end it.
    kept = [path for path in out.read_text().splitlines() if path[0] == "@" or os.path.isfile(path)]
    out.write_text("\n".join(kept))
    return out


def one_container(work: Path, rounds: int, real: str | None) -> None:
    """A check of one container against what one could do instead."""
    commands: dict[str, Sequence[str]] = {"python -c pass": [PYTHON, "-c", "pass"]}
    if real:
        where = ["-n", real]
        usage = next(iter(Path("/sys/fs/cgroup").glob(f"**/lxc.payload.{real}/memory.[uc]*")), None)
        for name in ("memory.usage_in_bytes", "memory.current"):
            usage = next(iter(Path("/sys/fs/cgroup").glob(f"**/lxc.payload.{real}/{name}")), usage)
        commands["the original's way: a shell script reads and compares"] = [str(work / "check.sh"), str(usage)]
        commands["lxc-info -n NAME"] = ["lxc-info", "-n", real]
    else:
        where = ["--root", str(work / "1"), "-n", "web0000"]
    commands["python -c 'import argparse'"] = [PYTHON, "-c", "import argparse"]
    commands["python -c 'import sensu_plugin'"] = [PYTHON, "-c", "import sensu_plugin"]
    commands["check_container_memory.py"] = [PYTHON, MEMORY, *where]
    commands["check_container_state.py"] = [PYTHON, STATE, *where]
    what = f"the real container {real}" if real else "one container of a made tree (no root or no LXC: no real one)"
    table(f"One check of {what}; to reach: at most 2.5 times the bare interpreter", side_by_side(commands, rounds),
          "python -c pass")  # fmt: skip


def many_containers(work: Path, rounds: int, counts: Sequence[int]) -> None:
    """One process for many containers of a made tree, against a bare loop over the same files."""
    for script in (MEMORY, STATE):
        rows = {}
        added: dict[str, list[float]] = {"check": [], "bare": []}
        for count in counts:
            command = [script, "--root", str(work / str(count))]
            opened = opened_by(command, (str(work / str(count)),), work / f"opened-{count}")
            usages = work / f"usages-{count}"
            usages.write_text(
                "".join(f"{path}\n" for path in sorted(map(str, (work / str(count)).glob("sys/fs/*/*/memory.current"))))
            )
            commands: dict[str, Sequence[str]] = {
                f"{count:5} containers: bare loop over its files": [PYTHON, "-c", BARE_LOOP, str(opened)],
                f"{count:5} containers: {Path(script).name}": [PYTHON, script, "--root", str(work / str(count))],
            }
            if script == MEMORY:
                commands[f"{count:5} containers: the shell script in a loop"] = [
                    "/bin/sh", "-c", SHELL_LOOP, str(work / "check.sh"), str(usages),
                ]  # fmt: skip
            measured = side_by_side(commands, rounds if count <= 100 else max(5, rounds // 3))
            rows.update(measured)
            values = list(measured.values())
            added["bare"].append(values[0][0])
            added["check"].append(values[1][0])
        table(
            f"One process for many containers, {Path(script).name}, made tree; to reach: under 40 MB",
            rows,
            next(iter(rows)),
        )
        for low, high in zip(range(len(counts)), range(1, len(counts))):
            width = counts[high] - counts[low]
            check = (added["check"][high] - added["check"][low]) / width * 1000
            bare = (added["bare"][high] - added["bare"][low]) / width * 1000
            print(
                f"added per container from {counts[low]} to {counts[high]}: {check:.1f} us, bare loop {bare:.1f} us, "
                f"{check / bare:.2f} times (to reach: at most 2)"
            )


def stopped_containers(work: Path, rounds: int) -> None:
    """Stopped containers, for each of which it is made sure that nothing of it runs on without its monitor."""
    for script in (MEMORY, STATE):
        commands: dict[str, Sequence[str]] = {}
        for stopped in (0, 100):
            root = str(work / f"stopped-{stopped}")
            if not os.path.exists(root):
                made_tree(Path(root), 1000, stopped)
                crowded(Path(root), 150, 3000)
            commands[f" 1000 containers of which {stopped:3} stopped"] = [PYTHON, script, "--root", root]
        measured = side_by_side(commands, max(7, rounds // 3), statuses=(0, 2))  # a stopped one is CRITICAL
        table(
            f"{Path(script).name}, made tree with 150 services and 3000 processes beside the containers",
            measured,
            next(iter(measured)),
        )


def real_containers(work: Path, rounds: int, names: Sequence[str]) -> None:
    """One process for 50 real containers, against a loop of lxc-info and of the shell script."""
    listed = work / "names"
    listed.write_text("".join(f"{name}\n" for name in names))
    chosen = ["-n", ",".join(names)]
    below = "/sys/fs/cgroup"
    usages = work / "real-usages"
    paths = [
        path
        for name in names
        for kind in ("memory.usage_in_bytes", "memory.current")
        for path in Path(below).glob(f"**/lxc.payload.{name}/{kind}")
    ]
    usages.write_text("".join(f"{path}\n" for path in paths))
    rows: dict[str, Sequence[str]] = {"python -c pass": [PYTHON, "-c", "pass"]}
    for script in (MEMORY, STATE):
        for count, where in ((1, ["-n", names[0]]), (len(names), chosen)):
            opened = opened_by([script, *where], ("/sys/", "/proc/"), work / f"opened-{Path(script).stem}-{count}")
            rows[f"{count:2}: bare loop over what {Path(script).stem} opens"] = [PYTHON, "-c", BARE_LOOP, str(opened)]
            rows[f"{count:2}: {Path(script).name}"] = [PYTHON, script, *where]
    rows["the shell script in a loop"] = ["/bin/sh", "-c", SHELL_LOOP, str(work / "check.sh"), str(usages)]
    rows["lxc-info in a loop"] = ["/bin/sh", "-c", INFO_LOOP, "sh", str(listed)]
    measured = side_by_side(rows, max(9, rounds // 2))
    table(f"One process for 1 and {len(names)} real containers", measured, "python -c pass")
    for script in (MEMORY, STATE):
        stem, name = Path(script).stem, Path(script).name
        check, bare = (
            (measured[f"{len(names):2}: {what}"][0] - measured[f" 1: {what}"][0]) / (len(names) - 1) * 1000
            for what in (name, f"bare loop over what {stem} opens")
        )
        print(f"{name}: added per container {check:.1f} us, bare loop {bare:.1f} us, {check / bare:.2f} times")


def handler(work: Path, rounds: int) -> None:
    """handler_jenkins from an event on STDIN to the decision and to the request sent, without the network."""
    if not Path(HANDLER).exists():
        return
    from benchmarks.sink import Sink

    recorded = json.loads((ROOT / "tests/recordings/sensu-go/events/check-critical-first.json").read_text())
    with Sink() as sink:
        config = work / "handler.json"
        secret = work / "token"
        secret.write_text("bench-token")
        secret.chmod(0o600)
        settings = {
            "url": sink.url,
            "job": "folder/lxc_provision",  # as the recorded event wishes it
            "user": "bench",
            "api_token_file": str(secret),
            "cooldown": 0,
            "warm_up": 0,
            "max": 0,
            "budget": 0,
        }
        settings["ledger"] = str(work / "ledger.sqlite")
        config.write_text(json.dumps({"lxc_autoscale": settings}))
        config.chmod(0o600)
        taken, whole = [], []
        for number in range(rounds):
            # Another incident each time, as the same one is held; the ledger stays, as in life.
            recorded["entity"]["metadata"]["name"] = f"lxchost{number}"
            recorded["timestamp"] = recorded["check"]["issued"] = recorded["check"]["executed"] = int(time.time())
            event = json.dumps(recorded)
            began = time.monotonic()
            sent = run([PYTHON, HANDLER, "--config", str(config)], event)
            whole.append(sent)
            arrived = sink.arrived()
            if arrived is not None:
                taken.append((arrived - began) * 1000)
    bare = side_by_side({"python -c pass": [PYTHON, "-c", "pass"]}, rounds)
    rows = {
        **bare,
        "handler_jenkins.py, start to end": (statistics.median(ms for ms, _ in whole), max(mb for _, mb in whole)),
    }
    if taken:
        rows["handler_jenkins.py, start until the request is there"] = (statistics.median(taken), 0.0)
    table("handler_jenkins from event to request sent; to reach: at most 60 ms", rows, "python -c pass")
    if not taken:
        print("no request arrived: the handler held; see its line with --dry-run")


def main() -> None:
    """Parse the options and run all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21, help="how often each command is run (default: 21)")
    parser.add_argument("--only", choices=["one", "many", "stopped", "real", "handler"], help="one part")
    options = parser.parse_args()
    print(f"{sys.version.split()[0]} on {os.uname().release}, {os.cpu_count()} CPUs, {options.rounds} rounds")
    wanted = {options.only} if options.only else {"one", "many", "stopped", "real", "handler"}
    from tests.live.containers import busybox, why_no_lxc

    why = why_no_lxc()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        script = work / "check.sh"
        script.write_text(SHELL_SCRIPT)
        script.chmod(0o755)
        counts = (1, 100, 1000)
        for count in counts:
            made_tree(work / str(count), count)
        if "one" in wanted:
            if why:
                one_container(work, options.rounds, None)
            else:
                with busybox("bench") as container:
                    one_container(work, options.rounds, container.name)
        if "many" in wanted:
            many_containers(work, options.rounds, counts)
        if "stopped" in wanted:
            stopped_containers(work, options.rounds)
        if "real" in wanted and why:
            print(f"\nleft out: 50 real containers, lxc-info: {why}")
        elif "real" in wanted:
            from contextlib import ExitStack

            with ExitStack() as stack:
                names = [stack.enter_context(busybox("bench")).name for _ in range(50)]
                real_containers(work, options.rounds, names)
        if "handler" in wanted:
            handler(work, options.rounds)


if __name__ == "__main__":
    main()
