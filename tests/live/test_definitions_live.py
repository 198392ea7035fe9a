"""Each check under checks/, run as Sensu's client runs it, against a real container that is brought over its limit."""

import os
import pathlib
import re
import subprocess
import sys
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


# Each check's name to the container's limit and what is done to the container. A new check needs an entry.
SCENARIOS = {
    "check_memory_no_agent": (1200 * MIB, memory_no_agent),
    "check_memory": (64 * MIB, memory),
    "check_container_state": (None, state),
}


@pytest.mark.parametrize("check", having(kind="CheckConfig"), ids=str)
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
            assert re.match(rf"Check\w+ {STATES[status]}: {container.name}: ", first), output
            assert words in first

        scenario(container, expect)


def run(check: Definition, container: Container, plugins: pathlib.Path) -> "tuple[int, str]":
    """Run the command, with the container's name and the scripts' folder for those that stand in the definition."""
    command = check.command.replace("/etc/sensu/plugins", str(plugins))
    command = command.replace("-n ubuntu ", f"-n {container.name} ") + f" -P {container.lxcpath}"
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
