"""Each check under checks/, run as Sensu's client runs it, against a real container that is brought over its limit."""

import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Callable

import pytest

from tests.live.containers import Container, busybox
from tests.test_definitions import CORE, REPOSITORY, Definition, having

pytestmark = pytest.mark.usefixtures("requires_lxc")

MIB = 1 << 20
OK, WARNING, CRITICAL = range(3)
STATES = ("OK", "WARNING", "CRITICAL")

Expect = Callable[[int, str], None]


def memory_no_agent(container: Container, expect: Expect) -> None:
    expect(OK, "used")
    container.fill(920 * MIB)  # over 943718400
    expect(WARNING, "warning at 943718400")
    container.fill(90 * MIB)  # over 1048576000
    expect(CRITICAL, "critical at 1048576000")
    container.empty()
    expect(OK, "used")


def memory(container: Container, expect: Expect) -> None:
    expect(OK, "of 64.0 MiB")
    container.fill_cache(40 * MIB)  # which the kernel can take back, so it alarms nobody
    container.fill(30 * MIB)
    expect(OK, "of 64.0 MiB")
    container.fill(23 * MIB)
    expect(WARNING, "warning at 80%")
    container.fill(6 * MIB)
    expect(CRITICAL, "critical at 90%")
    container.empty()
    expect(OK, "of 64.0 MiB")


def state(container: Container, expect: Expect) -> None:
    expect(OK, "RUNNING")
    container.freeze_outside()
    expect(CRITICAL, "FROZEN")
    container.thaw_outside()
    expect(OK, "RUNNING")
    container.stop()
    expect(CRITICAL, "STOPPED")
    container.start()
    expect(OK, "RUNNING")


def network(container: Container, expect: Expect) -> None:
    container.run("ip", "link", "add", "eth7", "type", "bridge")
    expect(OK, "eth7 0 B/s in")
    container.run("ip", "link", "del", "eth7")
    expect(CRITICAL, "eth7 is gone")
    container.run("ip", "link", "add", "eth7", "type", "bridge")
    expect(OK, "eth7")


def disk(container: Container, expect: Expect) -> None:
    expect(OK, "shared with the host")
    container.stop()
    aside = f"{container.rootfs}.aside"
    os.rename(container.rootfs, aside)
    os.mkdir(container.rootfs)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", container.rootfs], check=True)
    try:
        subprocess.run(["cp", "-a", f"{aside}/.", container.rootfs], check=True)
        container.start()
        expect(OK, "of 20.0 MiB")
        container.run("dd", "if=/dev/zero", "of=/root/x", "bs=1M", "count=30", check=False)
        expect(CRITICAL, "critical at 90%")
        container.run("rm", "/root/x")
        expect(OK, "of 20.0 MiB")
    finally:
        container.stop()
        subprocess.run(["umount", container.rootfs], check=True)


def capacity(container: Container, expect: Expect) -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    folder = container.cgroup("memory")
    files = [f"{folder}/{name}" for name in ("memory.limit_in_bytes", "memory.max")]
    limit = pathlib.Path(next(filter(os.path.exists, files)))
    expect(OK, "")
    limit.write_text(str(int(total * 0.95)))
    expect(WARNING, "(warning at 90%)")
    limit.write_text(str(total))
    expect(CRITICAL, "(critical at 100%)")


def pids(container: Container, expect: Expect) -> None:
    limit = pathlib.Path(container.cgroup("pids"), "pids.max")
    expect(OK, "no limit set")
    time.sleep(1)  # its init starts what it starts
    tasks = int(limit.with_name("pids.current").read_text())
    limit.write_text(str(tasks))
    expect(CRITICAL, "critical at 90%")
    limit.write_text(str(2 * tasks))
    expect(OK, f"of {2 * tasks}")


def pressure(container: Container, expect: Expect) -> None:
    folder = container.cgroup("cpu")
    is_v1 = os.path.exists(f"{folder}/cpu.cfs_quota_us")
    quota = pathlib.Path(folder, "cpu.cfs_quota_us" if is_v1 else "cpu.max")
    expect(OK, "of the time")
    quota.write_text("10000" if is_v1 else "10000 100000")
    container.run("sh", "-c", "for i in 1 2 3 4; do (while :; do :; done) >/dev/null 2>&1 & done")
    time.sleep(6)
    expect(CRITICAL, "critical at 60%")
    quota.write_text("-1" if is_v1 else "max 100000")
    container.run("killall", "sh")
    time.sleep(1)
    expect(OK, "of the time")


def cpu(container: Container, expect: Expect) -> None:
    folder = container.cgroup("cpu")
    is_v1 = os.path.exists(f"{folder}/cpu.cfs_quota_us")
    pathlib.Path(folder, "cpu.cfs_quota_us" if is_v1 else "cpu.max").write_text("20000" if is_v1 else "20000 100000")
    expect(OK, "of 0.2 cores")
    container.run("sh", "-c", "(while :; do :; done) >/dev/null 2>&1 &")
    for status in (OK, OK, CRITICAL):  # three runs in a row
        time.sleep(1)
        expect(status, "of 0.2 cores")
    container.run("killall", "sh")
    time.sleep(1)
    expect(OK, "of 0.2 cores")


def io(container: Container, expect: Expect) -> None:
    """Into a disk directly by a process of its cgroup.

    v1 counts no disk until one was ever limited: there it is a loop device that gets a limit, in memory, where nobody
    else takes its time. Once the disk itself is counted, the loop device would be the same I/O for a second time.
    """
    folder = container.cgroup("blkio")
    if not os.path.exists(f"{folder}/blkio.throttle.write_bps_device") or is_counted(container):
        write_to(f"{container.rootfs}/root/image", folder, expect)
        return
    image = f"/dev/shm/{container.name}.image"
    subprocess.run(["truncate", "-s", "64M", image], check=True)
    done = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=True)
    loop = done.stdout.strip()
    try:
        number = os.stat(loop).st_rdev
        limit = f"{os.major(number)}:{os.minor(number)} 1000000000000"
        pathlib.Path(folder, "blkio.throttle.write_bps_device").write_text(limit)
        write_to(loop, folder, expect)
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)
        os.unlink(image)


def is_counted(container: Container) -> bool:
    """Whether v1 counts I/O on the disk of its root filesystem without a limit."""
    disk = os.stat(container.rootfs).st_dev
    with open("/sys/fs/cgroup/blkio/blkio.throttle.io_service_bytes") as counts:
        return any(re.match(rf"{os.major(disk)}:{os.minor(disk)} Write [1-9]", line) for line in counts)


def write_to(target: str, folder: str, expect: Expect) -> None:
    def write(script: str) -> None:
        dd = f"dd if=/dev/zero of={target} bs=1M oflag=direct conv=notrunc count="
        whole = f"echo $$ > {folder}/cgroup.procs; {script.replace('DD', dd)}"
        subprocess.run(["sh", "-c", whole], stderr=subprocess.DEVNULL)

    write("DD1")  # v1 lists a disk from the first I/O on it
    expect(OK, "0 B/s")
    write("timeout 4 sh -c 'while :; do DD64; done'")
    expect(CRITICAL, "critical at 50M")
    time.sleep(1)
    expect(OK, "0 B/s")


def start(container: Container, expect: Expect) -> None:
    with open(os.path.join(container.directory, "config"), "a") as config:
        config.write("lxc.start.auto = 1\n")
    expect(OK, "is RUNNING: nothing to start")
    container.stop()
    expect(OK, "was STOPPED; started, is RUNNING")


def thaw(container: Container, expect: Expect) -> None:
    expect(OK, "is RUNNING: nothing to thaw")
    container.freeze_outside()
    expect(OK, "thawed, is RUNNING")
    expect(OK, "is RUNNING: nothing to thaw")


def restart(container: Container, expect: Expect) -> None:
    for _ in range(3):
        expect(OK, "was RUNNING; restarted, is RUNNING")
    expect(CRITICAL, "given up: is RUNNING")


def grow(container: Container, expect: Expect) -> None:
    expect(OK, "nothing to grow")
    container.fill(60 * MIB)
    expect(OK, "grown to 80.0 MiB")
    container.fill(10 * MIB)
    expect(OK, "nothing to grow")


# Each check's name to the container's limit and what is done to the container. A new check needs an entry.
SCENARIOS = {
    "check_memory_no_agent": (1200 * MIB, memory_no_agent),
    "check_memory": (64 * MIB, memory),
    "check_container_state": (None, state),
    "check_container_network": (None, network),
    "check_container_pids": (None, pids),
    "check_container_cpu": (None, cpu),
    "check_container_pressure": (None, pressure),
    "check_container_io": (None, io),
    "check_container_disk": (None, disk),
    "check_host_capacity": (None, capacity),
    "start_container": (None, start),
    "thaw_container": (None, thaw),
    "restart_container": (None, restart),
    "grow_container_memory": (64 * MIB, grow),
}


@pytest.mark.parametrize(
    "check",
    # What runs inside a container is tried there, in test_self.py.
    [
        one
        for one in having(kind="CheckConfig")
        if one.room == "plugins" and not one.script.startswith("metrics_") and "--self" not in one.argv
    ],
    ids=str,
)
def test_tells_good_from_bad(check: Definition, tmp_path: pathlib.Path) -> None:
    limit_bytes, scenario = SCENARIOS[check.name]
    plugins = tmp_path / "etc-sensu-plugins"
    plugins.mkdir()
    subprocess.run(["cp", "-r", os.path.join(REPOSITORY, "plugins") + "/.", str(plugins)], check=True, timeout=30)
    # A folder of its own, or a check of "every container" would also see those of whoever else works here.
    with busybox(lxcpath=str(tmp_path / "lxc"), limit_bytes=limit_bytes) as container:

        def expect(status: int, words: str) -> None:
            code, output = run(check, container, plugins)
            first = output.splitlines()[0]
            assert code == status, output
            subject = "" if check.name.startswith("check_host") else f"{container.name}: "
            assert re.match(rf"[A-Z]\w+ {STATES[status]}: {subject}", first), output
            assert words in first

        scenario(container, expect)


def run(check: Definition, container: Container, plugins: pathlib.Path) -> "tuple[int, str]":
    """Run the command, with the container's name and the scripts' folder for those that stand in the definition."""
    command = check.command.replace("/etc/sensu/plugins", str(plugins))
    command = re.sub(r"-n (ubuntu|web1)\b", f"-n {container.name}", command) + f" -P {container.lxcpath}"
    # `env python3` is to find the interpreter that has the libraries; /etc/sensu/plugins is on PATH under Core only.
    path = [os.path.dirname(sys.executable), os.defpath, *([str(plugins)] if check.sensu == CORE else [])]
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd="/",
        env={"PATH": os.pathsep.join(path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # as both Sensus do
        text=True,
        timeout=check.spec["timeout"],
    )
    return done.returncode, done.stdout
