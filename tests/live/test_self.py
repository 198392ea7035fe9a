"""--self in real containers: what is seen from inside is what the host and its kernel say, or it is UNKNOWN."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import lxd_lab
from tests.live.containers import Container, busybox, wait_until
from tests.test_definitions import REPOSITORY, having

pytestmark = pytest.mark.usefixtures("requires_lxc")

MIB = 1 << 20
LIMIT = 64 * MIB
# What the check itself takes, as its interpreter runs in the container that it measures.
ITSELF = 12 * MIB
LXCFS = "/usr/share/lxcfs/lxc.mount.hook"
# The interpreter of these tests and the scripts, where the host has them; a busybox has neither.
FOLDERS = sorted({REPOSITORY, os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)})
BORROWED = [f"lxc.mount.entry = {folder} {folder[1:]} none ro,bind,create=dir 0 0" for folder in FOLDERS]
# How the cgroups of a container come to be seen in it. A cgroup namespace is LXC's default.
SEEN = {
    "own cgroup namespace": ["lxc.mount.auto = cgroup:ro:force"],
    "writable": ["lxc.mount.auto = cgroup:rw:force"],
    "no cgroup namespace": ["lxc.namespace.clone = ipc mnt net pid uts", "lxc.mount.auto = cgroup:mixed"],
    "all of the host's": ["lxc.namespace.clone = ipc mnt net pid uts", "lxc.mount.auto = cgroup-full:ro"],
}
NOTHING = ["lxc.mount.auto = cgroup:mixed"]  # which LXC leaves to a systemd inside, where there is a cgroup namespace


def command(script: str, *arguments: str) -> "list[str]":
    return [sys.executable, f"{REPOSITORY}/plugins/check_container_{script}.py", *arguments]


def seen_inside(container: Container, script: str, *arguments: str) -> "tuple[int, str]":
    done = container.run(*command(script, "--self", *arguments), check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def seen_outside(container: Container, script: str, *arguments: str) -> "tuple[int, str]":
    words = command(script, "-n", container.name, *arguments)
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.returncode, done.stdout


def number(output: str, measure: str) -> float:
    return float(re.search(rf"_{measure}=([\d.]+)", output)[1])


@pytest.mark.parametrize("lines", SEEN.values(), ids=SEEN)
def test_memory_by_its_cgroup(lines: "list[str]") -> None:
    with busybox(limit_bytes=LIMIT, config_lines=lines + BORROWED) as container:
        for size in (MIB, 15 * MIB):
            container.fill(size)
            container.fill_cache(10 * MIB)
            own, host = (look(container, "memory")[1] for look in (seen_inside, seen_outside))
            assert "of 64.0 MiB" in own
            assert 0 < number(own, "used") - number(host, "used") < ITSELF
            assert number(own, "used") > size
        container.fill(38 * MIB)
        status, own = seen_inside(container, "memory")
        assert (status, own.startswith(f"CheckContainerMemory CRITICAL: {container.name}: ")) == (2, True), own


@pytest.mark.parametrize("check", having(name="check_memory_inside"), ids=str)
def test_the_definition_of_an_agent_inside(check) -> None:
    with busybox(limit_bytes=LIMIT, config_lines=SEEN["own cgroup namespace"] + BORROWED) as container:
        for size, status, words in (
            (10, 0, "of 64.0 MiB"),
            (37, 1, "warning at 80%"),
            (8, 2, "critical at 90%"),
        ):
            container.fill(size * MIB)
            done = container.run(sys.executable, f"{REPOSITORY}/plugins/{check.script}", *check.argv[1:], check=False)
            assert (done.returncode, words in done.stdout) == (status, True), done.stdout


@pytest.fixture
def lxcfs() -> "Iterator[None]":
    """lxcfs on the host, where it was installed; one that runs already is used."""
    if not (shutil.which("lxcfs") and os.path.exists(LXCFS) and os.path.exists("/dev/fuse")):
        pytest.skip("needs lxcfs (apt install lxcfs)")
    if os.path.exists("/var/lib/lxcfs/proc/meminfo"):
        yield
        return
    os.makedirs("/var/lib/lxcfs", exist_ok=True)
    argv = ["lxcfs", "-f", "-p", f"/tmp/lxcfs-{os.getpid()}.pid", "/var/lib/lxcfs"]
    daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: os.path.exists("/var/lib/lxcfs/proc/meminfo"), 10, "lxcfs")
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(10)
        subprocess.run(["umount", "-l", "/var/lib/lxcfs"], capture_output=True)


def test_memory_by_lxcfs_alone(lxcfs: None) -> None:
    hook = ["lxc.hook.version = 0", f"lxc.hook.mount = {LXCFS}"]
    with busybox(limit_bytes=LIMIT, config_lines=[*NOTHING, *hook, *BORROWED]) as container:
        container.fill(20 * MIB)  # a tmpfs, which lxcfs 5 counts as available
        container.fill_cache(10 * MIB)
        own, host = (look(container, "memory")[1] for look in (seen_inside, seen_outside))
        assert "of 64.0 MiB (told by lxcfs" in own
        assert 0 < number(own, "used") - number(host, "used") < ITSELF
        assert number(own, "used") > 20 * MIB


def test_where_nothing_is_seen_nothing_is_told() -> None:
    with busybox(limit_bytes=LIMIT, config_lines=NOTHING + BORROWED) as container:
        for script, words in {
            "memory": "the memory of this container can't be told from inside",
            "cpu": "cpu cgroup of this container can't be seen",
            "pids": "pids cgroup of this container can't be seen",
        }.items():
            status, own = seen_inside(container, script)
            assert (status, words in own, "=" in own.partition("|")[2]) == (3, True, False), own
        for script in ("network", "disk"):
            status, own = seen_inside(container, script, "-c", "100%" if script == "disk" else "1G")
            assert (status, f"{container.name}: " in own) == (0, True), own


@pytest.mark.parametrize("lines", [SEEN["own cgroup namespace"], SEEN["no cgroup namespace"]], ids=["with", "without"])
def test_cpu_and_tasks_are_the_kernels_numbers(lines: "list[str]") -> None:
    with busybox(config_lines=lines + BORROWED) as container:
        folder = Path(container.cgroup("cpuacct"))
        is_v1 = (folder / "cpuacct.usage").exists()

        def used_ns() -> int:
            if is_v1:
                return int((folder / "cpuacct.usage").read_text())
            return 1000 * int(re.search(r"usage_usec (\d+)", (folder / "cpu.stat").read_text())[1])

        container.run("sh", "-c", "(while :; do :; done) >/dev/null 2>&1 &")
        before, began = used_ns(), time.monotonic()
        _, own = seen_inside(container, "cpu", "--sample", "3s", "--cores", "--state-dir", "/root/state")
        kernel = (used_ns() - before) / 1e9 / (time.monotonic() - began)
        # Starting the interpreter is in the kernel's number, and not in ours.
        assert abs(number(own, "cpu_cores") - kernel) < 0.15, own
        # The next run compares with that one.
        status, own = seen_inside(container, "cpu", "--sample", "3s", "--cores", "--state-dir", "/root/state")
        assert "not remembered" not in own
        tasks = int(Path(container.cgroup("pids"), "pids.current").read_text())
        _, own = seen_inside(container, "pids")
        assert 0 < number(own, "tasks") - tasks <= 4, own  # the check, its watch, who attached it


def test_an_ordinary_user_inside_sees_the_same() -> None:
    with busybox(limit_bytes=LIMIT, config_lines=SEEN["own cgroup namespace"] + BORROWED) as container:
        container.run("chmod", "755", "/", "/root")
        attach = ["lxc-attach", "-n", container.name, "-u", "65534", "-g", "65534", "--"]
        for script in ("memory", "pids", "disk"):
            options = ["-c", "100%"] if script == "disk" else []
            done = subprocess.run([*attach, *command(script, "--self", *options)], capture_output=True, text=True)
            if "can't open file" in done.stderr or "Permission denied" in done.stderr:
                pytest.skip("this checkout is for its owner only")
            assert (done.returncode, done.stderr) == (0, ""), done.stdout
            assert f"{container.name}: " in done.stdout


def test_a_container_of_lxd(lxcfs: None) -> None:
    """Unprivileged, with lxcfs; its busybox mounts no cgroup."""
    if shutil.which("lxd") is None:
        pytest.skip("needs LXD (apt install lxd)")
    with lxd_lab.lxd_lab(), lxd_lab.running("selfie") as name:
        lxd_lab.lxc("config", "set", name, "limits.memory", "64MiB")
        for index, folder in enumerate([*FOLDERS, "/usr"]):
            words = [name, f"d{index}", "disk", f"source={folder}", f"path={folder}", "readonly=true"]
            lxd_lab.lxc("config", "device", "add", *words)
        for library in ("lib", "lib64"):
            lxd_lab.lxc("exec", name, "--", "busybox", "ln", "-s", f"usr/{library}", f"/{library}")
        argv = ["lxc", "exec", name, "--", *command("memory", "--self")]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        host = subprocess.run(
            command("memory", "-n", name, "-P", "/var/lib/lxd/containers"), capture_output=True, text=True, timeout=60
        )
        assert done.stderr == ""
        assert "selfie: " in done.stdout
        assert "of 64.0 MiB (told by lxcfs" in done.stdout
        assert 0 < number(done.stdout, "used") - number(host.stdout, "used") < ITSELF
