"""The systemd unit of the watch under a real systemd, installed as README says: in the guest of make test-vm."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.containers import busybox, wait_until
from tests.live.test_watch import Stamped

ROOT = Path(__file__).resolve().parents[2]
UNIT = "sensu-lxc-watch.service"
SOURCE = ROOT / "checks/systemd" / UNIT
INSTALLED = Path("/etc/systemd/system") / UNIT
PLUGINS = Path("/etc/sensu/plugins")
STATE = Path("/var/lib/sensu-lxc")
PORT = 3031  # where the unit's command line looks for Sensu Go's agent
pytestmark = pytest.mark.usefixtures("requires_lxc")


def systemctl(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 or not check, f"systemctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def shown(name: str) -> str:
    return systemctl("show", "--value", "-p", name, UNIT)


def journal() -> str:
    argv = ["journalctl", "-o", "cat", "--no-pager", "-u", UNIT]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture
def installed() -> Iterator[None]:
    """What README says: the plugins dropped in, the unit copied. Nothing may be there already."""
    if not os.path.isdir("/run/systemd/system"):
        pytest.skip("systemd does not run here; in the guest of make test-vm it does")
    if INSTALLED.exists() or PLUGINS.exists() or STATE.exists():
        pytest.skip(f"{INSTALLED}, {PLUGINS} or {STATE} is there already")
    PLUGINS.mkdir(parents=True)
    subprocess.run(["cp", "-r", f"{ROOT}/plugins/.", str(PLUGINS)], check=True)
    shutil.copy(SOURCE, INSTALLED)
    try:
        yield
    finally:
        systemctl("disable", "--now", UNIT, check=False)
        systemctl("clean", "--what=state", UNIT, check=False)
        INSTALLED.unlink()
        shutil.rmtree(PLUGINS)
        systemctl("daemon-reload")


def analyzed(*arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    return done.stdout + done.stderr


def test_installed_as_the_readme_says(installed: None) -> None:
    assert UNIT not in analyzed("verify", str(INSTALLED)), "it complains of other units only"
    exposure = re.search(r"exposure level for \S+ ([\d.]+)", analyzed("security", UNIT))
    assert exposure and float(exposure[1]) < 3, "what follows is shown to work in a sandbox"
    with busybox("watched") as web, Stamped(PORT) as there:
        systemctl("enable", "--now", UNIT)
        wait_until(lambda: there.of(web.name) == [(0, "RUNNING")], 30, "its first result")
        assert systemctl("is-enabled", UNIT) == "enabled"
        web.stop()
        bad = (2, "STOPPED, expected RUNNING")
        wait_until(lambda: bad in there.of(web.name), 30, "the stop to be told")
        assert f"CRITICAL {web.name}: STOPPED" in journal()
        # It comes back after a death that it did not choose, and remembers whom it told of.
        pid = int(shown("MainPID"))
        os.kill(pid, signal.SIGKILL)
        count = len(there.of(web.name))
        web.start()
        wait_until(lambda: int(shown("MainPID")) not in (0, pid), 30, "systemd to start it again")
        wait_until(lambda: (0, "RUNNING") in there.of(web.name)[count:], 30, "the start to be told")
        assert shown("NRestarts") == "1"
        systemctl("stop", UNIT)
        assert (shown("Result"), shown("ExecMainStatus"), shown("ActiveState")) == ("success", "0", "inactive")
        assert "ended by a signal" in journal()
        # What went away while it was stopped is told at the next start, also where that comes after a boot.
        assert list(STATE.glob("check_container_state-*-reported"))
        web.destroy()
        systemctl("start", UNIT)
        gone = (0, f"{web.name} is no longer on this host; this is its last result")
        wait_until(lambda: gone in there.of(web.name), 30, "its farewell")
        assert "UNKNOWN" not in journal().replace("UNKNOWN no container here", ""), journal()
