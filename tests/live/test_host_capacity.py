"""check_host_capacity.py and container lives, compared with what the kernel and LXC's own tools say."""

import os
import re
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
from sensu_lxc import capacity, lives
from sensu_lxc.cgroups import Cgroups
from sensu_lxc.findings import State
from sensu_lxc.host import Host
from sensu_lxc.inventory import running_container

from tests.live.containers import Container, busybox, wait_until
from tests.live.test_checks import nobody  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.usefixtures("requires_lxc")
MIB = 1 << 20


def check(*arguments: str) -> "tuple[int, dict[str, float], str]":
    done = subprocess.run(
        [sys.executable, str(ROOT / "plugins/check_host_capacity.py"), *arguments],
        capture_output=True, text=True, timeout=30, cwd="/",
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, values(done.stdout), done.stdout


def values(output: str) -> "dict[str, float]":
    return {label: float(value) for label, value in re.findall(r" (host_[a-z0-9_]+)=(-?[\d.]+)", output)}


def looked_at(*containers: Container) -> "tuple[Host, Cgroups, list]":
    host = Host()
    tree = Cgroups(host, [container.directory for container in containers])
    return host, tree, [running_container(container.directory) for container in containers]


def test_promises_are_the_limits_and_else_what_is_used() -> None:
    quota = ["lxc.cgroup.cpu.cfs_quota_us = 50000", "lxc.cgroup2.cpu.max = 50000 100000"]
    with busybox(limit_bytes=64 * MIB, config_lines=quota) as limited, busybox() as unlimited:
        unlimited.fill(20 * MIB)
        seen = capacity.host_capacity(*looked_at(limited, unlimited))
        assert 84 * MIB <= seen.memory_promised_bytes <= 90 * MIB
        assert (seen.memory_unlimited, seen.running) == (1, 2)
        assert (seen.cores_promised, seen.cores_unlimited, seen.cores) == (0.5, 1, os.cpu_count())
        assert seen.unseen == {}


def test_the_script_says_what_free_and_df_say(nobody) -> None:  # noqa: F811
    with busybox(limit_bytes=64 * MIB):
        free = subprocess.run(["free", "-b"], capture_output=True, text=True, check=True).stdout.split("\n")[1].split()
        status, said, output = check()
        assert said["host_memory_used"] + said["host_memory_available"] == int(free[1])
        assert abs(said["host_memory_available"] - int(free[6])) < 0.1 * int(free[1])
        space = os.statvfs("/var/lib/lxc")
        assert abs(said["host_disk_free"] - space.f_bavail * space.f_frsize) < 64 * MIB
        assert said["host_memory_promised"] >= 64 * MIB
        assert said["host_containers_running"] >= 1
        listed = subprocess.run(["lxc-ls", "-1"], capture_output=True, text=True, check=True, timeout=30).stdout.split()
        assert said["host_containers_defined"] >= len(listed) - 3  # others come and go
        assert check("--memory-critical", "64M")[0] == 2
        _, output = as_any_user(nobody, "-v")
        assert values(output)["host_memory_promised"] >= 64 * MIB
        assert abs(values(output)["host_disk_free"] - said["host_disk_free"]) < 64 * MIB


def as_any_user(nobody: "tuple[int, str, dict[str, str]]", *arguments: str) -> "tuple[int, str]":  # noqa: F811
    uid, folder, environment = nobody
    done = subprocess.run(
        ["/usr/bin/python3", f"{folder}/check_host_capacity.py", *arguments],
        capture_output=True, text=True, timeout=30, user=uid, group=uid, extra_groups=[], cwd="/",
        env={"PATH": "/usr/bin:/bin", **environment},
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_uptime_and_restarts(tmp_path: Path) -> None:
    options = Namespace(
        restarts_warning=None, restarts_critical=lives.often("1/1h"), uptime_warning=None, uptime_critical=None,
        addresses=None, state_dir=str(tmp_path / "state"),
    )  # fmt: skip

    def restarts(container: Container) -> "tuple[float | None, State]":
        host, tree, (one,) = looked_at(container)
        found = lives.Lives(host, options, ["x"])
        (finding,) = found.findings(tree, one, True)
        assert list(found.remember()) == []
        return finding.measures[0].value if finding.measures else None, finding.state

    with busybox() as container:
        assert restarts(container) == (None, State.OK)  # what was before is not known
        assert restarts(container) == (0, State.OK)
        host, tree, (one,) = looked_at(container)
        elapsed = subprocess.run(["ps", "-o", "etimes=", "-p", str(container.pid)], capture_output=True, text=True)
        assert abs(lives.uptime(host, tree, one) - int(elapsed.stdout)) < 2
        time.sleep(1.2)
        container.reboot_inside()
        assert restarts(container) == (1, State.CRITICAL)
        assert lives.uptime(*looked_at(container)[:2], one) < 10
        container.stop()
        container.start()
        assert restarts(container) == (2, State.CRITICAL)
        assert restarts(container) == (2, State.CRITICAL)


def test_addresses() -> None:
    with busybox() as container:
        host, tree, (one,) = looked_at(container)
        assert lives.has_addresses(host, tree, one, "ipv4") == []
        container.run("ip", "link", "set", "lo", "up")
        container.run("ip", "addr", "add", "10.9.8.7/24", "dev", "lo")
        assert lives.has_addresses(host, tree, one, "ipv4") == ["10.9.8.7"]
        assert lives.has_addresses(host, tree, one, "ipv6") == []
        container.run("ip", "addr", "add", "fd42::7/64", "dev", "lo")
        # The kernel first makes sure that nobody else has it.
        assert wait_until(lambda: lives.has_addresses(host, tree, one, "ipv6"), 10, "the address") == ["fd42::7"]
