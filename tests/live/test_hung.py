"""Each check on an lxcpath whose filesystem takes a request and never answers: --timeout holds, and nobody waits on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.live.containers import wait_until
from tests.live.fuse import Fuse, stuck

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
pytestmark = pytest.mark.usefixtures("requires_lxc")

OPTIONS = {
    "operate_container": ["start", "-n", "hung"],
    "grow_container_memory": ["-n", "hung", "--step", "1M", "--max", "1G"],
    "metrics_container": ["--format", "json"],
    "top_containers": ["--once"],
    "check_container_memory": ["-n", "hung"],
}
# The others are no checks, which are run every few seconds.
OTHERS = {"watch_container_state", "provision_container", "decommission_container"}
SCRIPTS = sorted({path.stem for path in PLUGINS.glob("*_*.py")} - OTHERS)


def run(script: str, *arguments: str) -> "tuple[int, str, float]":
    """(status, what it said, seconds until nobody held its stdout and stderr any more)."""
    began = time.monotonic()
    command = [sys.executable, str(PLUGINS / f"{script}.py"), *OPTIONS.get(script, []), *arguments]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        words, _ = running.communicate(timeout=10)
    except subprocess.TimeoutExpired:  # and no kill would end it
        pytest.fail(f"{script} does not end")
    return running.returncode, words, time.monotonic() - began


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_bound_that_holds(fuse: Fuse, script: str) -> None:
    arguments = ["-P", str(fuse.point), "--timeout", "1s"]
    try:
        fuse.flag.touch()
        status, words, seconds = run(script, *arguments)
        assert (status != 0, seconds < 5) == (True, True), words
        assert "not finished after 1 s" in words
        # Or it was not what is tested here. (A kill wakes it up for a moment.)
        wait_until(lambda: stuck(str(fuse.point)) == 1, 2, "one process that a kill does not end")
        # Run again and again, as by a scheduler: no one more.
        for _ in range(2):
            status, words, seconds = run(script, *arguments)
            assert (status != 0, seconds < 2) == (True, True), words
            assert "still waits for something that does not answer" in words
        wait_until(lambda: stuck(str(fuse.point)) == 1, 2, "still one")
    finally:
        fuse.close()
    wait_until(lambda: not stuck(str(fuse.point)), 5, "the process that was left behind to end")
    _, words, _ = run(script, *arguments)
    assert "still waits" not in words
    assert not os.path.exists("/run/sensu-lxc/stuck")
