"""What the live tests share: when they may run, and the bridge that LXC's containers are plugged into."""

import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live.containers import remove_abandoned, wait_until, why_no_lxc
from tests.live.fuse import Fuse
from tests.live.sensu_go import Lab, sensu_go, why_no_sensu_go

HERE = os.path.dirname(os.path.abspath(__file__))
BRIDGE = "/sys/class/net/lxcbr0"
# Where Debian and Ubuntu have it, newer first.
LXC_NET = (
    "/usr/libexec/lxc/lxc-net",
    "/usr/lib/x86_64-linux-gnu/lxc/lxc-net",
    "/usr/lib/aarch64-linux-gnu/lxc/lxc-net",
)


def pytest_collection_modifyitems(items: "list[pytest.Item]") -> None:
    for item in items:
        if str(item.path).startswith(HERE + os.sep):
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session", autouse=True)
def clean_up_when_terminated() -> Iterator[None]:
    """Make `timeout` and a cancelled CI job end like Ctrl-C, so that containers and namespaces are removed."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def requires_lxc() -> None:
    """Skip where no container can be started; fail instead where the environment promised one (CI does)."""
    reason = why_no_lxc()
    if reason is None:
        remove_abandoned()
        _bridge()
    elif os.environ.get("SENSU_LXC_REQUIRE_LIVE") == "1":
        pytest.fail(f"SENSU_LXC_REQUIRE_LIVE=1, but this {reason}")
    else:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def requires_sensu_go() -> None:
    """Skip where no Sensu Go can be started; it is in no distribution, so it is nobody's promise either."""
    reason = why_no_sensu_go()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def sensu_go_lab(requires_sensu_go: None, tmp_path: pathlib.Path) -> Iterator[Lab]:
    """A Sensu Go with its network ready and nothing started: put things in place, then lab.start()."""
    with sensu_go(tmp_path) as lab:
        yield lab


@pytest.fixture
def fuse(tmp_path: pathlib.Path) -> Iterator[Fuse]:
    """A filesystem that stops answering once its flag is there."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse")
    made = Fuse(tmp_path)
    yield made
    made.close()


def _bridge() -> None:
    """Have lxcbr0 with its DHCP server. It stays, as after the boot of any LXC host: other runs may be using it.

    A server that was killed, or whose 253 addresses earlier runs have used up, is started anew where nobody is there.
    """
    leases = pathlib.Path("/var/lib/misc/dnsmasq.lxcbr0.leases")
    used_up = leases.exists() and leases.read_text().count("\n") > 120
    if os.path.isdir(BRIDGE) and (os.listdir(f"{BRIDGE}/brif") or (_serves() and not used_up)):
        return
    script = next(filter(os.path.exists, LXC_NET), None)
    if script:
        subprocess.run([script, "stop"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        if used_up:
            leases.unlink()
        subprocess.run([script, "start"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)
        wait_until(lambda: os.path.isdir(BRIDGE) and _serves(), 10, "lxcbr0 and its DHCP server")


def _serves() -> bool:
    try:
        pid = int(pathlib.Path("/run/lxc/dnsmasq.pid").read_text())
        return "dnsmasq" in pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    except (OSError, ValueError):
        return False
