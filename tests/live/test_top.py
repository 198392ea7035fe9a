"""top_containers.py on real containers in trouble; what it measures of those that are well is in test_metrics.py."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.live.containers import busybox

SCRIPT = str(Path(__file__).resolve().parents[2] / "plugins/top_containers.py")
LIVES_ON = ["lxc.monitor.signal.pdeath = SIGCONT"]  # or the kernel kills its init together with the monitor
pytestmark = pytest.mark.usefixtures("requires_lxc")


def test_a_hung_monitor_and_an_orphan_are_seen_among_those_that_are_well() -> None:
    with (
        busybox("well") as well,
        busybox("hung") as hung,
        busybox("lost", config_lines=LIVES_ON) as lost,
        busybox("off", start=False) as off,
    ):
        hung.stop_monitor()
        lost.kill_monitor()
        argv = [sys.executable, SCRIPT, "--json", "--interval", "100ms", "--sort", "name"]
        for one in (well, hung, lost, off):
            argv += ["-n", one.name]
        began = time.monotonic()
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        took = time.monotonic() - began
        assert (done.returncode, done.stderr) == (0, "")
        rows = json.loads(done.stdout)["containers"]
        assert [(row["name"], row["state"]) for row in rows] == [
            (hung.name, "UNRESPONSIVE"), (lost.name, "ORPHANED"), (off.name, "STOPPED"), (well.name, "RUNNING"),
        ]  # fmt: skip
        for row in rows:  # both use what they used before
            assert (row["memory_used_bytes"] is None) == (row["name"] == off.name), row
        assert took < 10, "lxc-top, lxc-ls and lxc-info would hang on it"
