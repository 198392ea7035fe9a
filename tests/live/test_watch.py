"""watch_container_state.py on real containers: what reaches the agent, in which order, and how soon."""

import contextlib
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import pytest

from tests.live.containers import Container, busybox, wait_until
from tests.live.sensu_go import Lab
from tests.live.test_per_container import free_port
from tests.plugins.agents import Go

pytestmark = pytest.mark.usefixtures("requires_lxc")

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "plugins/watch_container_state.py"


@pytest.fixture
def lxcpath() -> Iterator[str]:
    """One of our own, so that nobody else's containers are in it."""
    with tempfile.TemporaryDirectory(prefix="watch-", dir="/var/lib") as folder:
        yield folder


def made(lxcpath: str, name: str) -> "contextlib.AbstractContextManager[Container]":
    """A running container."""
    return busybox("watch", lxcpath=lxcpath, name=name)


class Stamped(Go):
    """Remembers when each result came."""

    def post(self, path: str, body: bytes, kind: str) -> "tuple[int, str]":
        now = time.monotonic()
        answer = super().post(path, body, kind)
        self.taken[-1]["came"] = now
        return answer

    def of(self, entity: str) -> "list[tuple[int, str]]":
        """(status, what its output says of it) in the order in which it came."""
        return [(one["status"], one["output"].split(": ")[-1]) for one in list(self.taken) if one["entity"] == entity]


@contextlib.contextmanager
def watching(lxcpath: str, url: str, tmp_path: pathlib.Path, *more: str) -> Iterator["subprocess.Popen[str]"]:
    argv = [sys.executable, str(SCRIPT), "-P", lxcpath, "--agent", url, "--state-dir", str(tmp_path / "watch-state")]
    with open(tmp_path / "watch.log", "a") as log:
        process = subprocess.Popen([*argv, *more], stdout=log, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        try:
            if process.poll() is None:  # the test did not end it itself
                process.send_signal(signal.SIGTERM)
                assert process.wait(5) == 0, (tmp_path / "watch.log").read_text()
        finally:
            process.kill()
            process.wait()


def test_each_change_is_told_and_a_reboot_is_none(lxcpath: str, tmp_path: pathlib.Path) -> None:
    with made(lxcpath, "web") as web, Stamped() as there, watching(lxcpath, there.url, tmp_path, "--interval", "1h"):
        wait_until(lambda: there.of("web") == [(0, "RUNNING")], 10, "its first result")
        web.reboot_inside()
        time.sleep(1)
        assert there.of("web") == [(0, "RUNNING")], "a reboot is no alarm"
        web.stop()
        wait_until(lambda: len(there.of("web")) == 2, 10, "the stop to be told")
        web.start()
        wait_until(lambda: len(there.of("web")) == 3, 10, "the start to be told")
        bad, good = (2, "STOPPED, expected RUNNING"), (0, "RUNNING")
        assert there.of("web") == [good, bad, good]

        with made(lxcpath, "new"):
            wait_until(lambda: there.of("new") == [good], 10, "a new container to be followed")
        last = (0, "new is no longer on this host; this is its last result")
        wait_until(lambda: last in there.of("new"), 30, "its end to be told")
        assert there.of("new") in ([good, bad, last], [good, last])  # it may be gone before one could look
        assert "ttl" not in there.taken[-1]
        assert there.of("web") == [good, bad, good], "it is none of its business"
        took = how_soon(web, there)
    # For the closing note; a test asserts no time.
    print(
        f"a stop is with the agent after {statistics.median(took):.1f} ms (median of {len(took)}, max {max(took):.1f})"
    )


def test_a_thaw_is_no_freeze_from_outside(lxcpath: str, tmp_path: pathlib.Path) -> None:
    """The monitor calls it RUNNING before the kernel has thawed it."""
    with made(lxcpath, "web") as web, Stamped() as there, watching(lxcpath, there.url, tmp_path, "--interval", "1h"):
        good, frozen = (0, "RUNNING"), (2, "FROZEN, expected RUNNING")
        told = [good]
        wait_until(lambda: there.of("web") == told, 10, "its first result")
        for pause in [0] * 10 + [1] * 5:
            for tool, news in (("lxc-freeze", frozen), ("lxc-unfreeze", good)):
                subprocess.run([tool, "-P", lxcpath, "-n", "web"], check=True, timeout=10)
                told.append(news)
                wait_until(lambda: len(there.of("web")) >= len(told), 9, f"{tool} to be told")
                assert there.of("web") == told
                time.sleep(pause)
        web.freeze_outside()
        bad = (2, "FROZEN (frozen from outside LXC), expected RUNNING")
        wait_until(lambda: there.of("web") == [*told, bad], 15, "a real one to be told")


def how_soon(container: Container, there: Stamped, rounds: int = 15) -> "list[float]":
    """Milliseconds from the kill of a container's init to the result at the agent; it ends stopped."""
    took = []
    for number in range(rounds):
        count = len(there.taken)
        if number:
            container.start()
            count += 1
            wait_until(lambda count=count: len(there.taken) == count, 10, "a start to be told")
        began = time.monotonic()
        os.kill(container.pid, signal.SIGKILL)
        wait_until(lambda count=count: len(there.taken) == count + 1, 10, "a stop to be told", interval=0.005)
        took.append((there.taken[-1]["came"] - began) * 1000)
        wait_until(lambda: not os.path.exists(f"/proc/{container.monitor_pid}"), 10, "its monitor to end")
    return took


def test_survives_the_agent(lxcpath: str, tmp_path: pathlib.Path) -> None:
    first = Stamped(closes_after=1)  # so that no connection outlives its server
    with made(lxcpath, "web") as web, watching(lxcpath, first.url, tmp_path) as process:
        with first:
            wait_until(lambda: first.of("web"), 10, "its first result")
        web.stop()
        time.sleep(1)
        with Stamped(first.port) as second:
            wait_until(lambda: second.of("web"), 10, "what waited")
            assert second.of("web")[-1] == (2, "STOPPED, expected RUNNING")
        assert process.poll() is None


def test_one_incident_with_the_sweep_under_a_real_sensu_go(
    sensu_go_lab: Lab, lxcpath: str, tmp_path: pathlib.Path
) -> None:
    lab, port = sensu_go_lab, free_port()
    lab.start_backend()
    lab.start_agent(api_port=port)
    with made(lxcpath, "web") as web, watching(lxcpath, f"http://127.0.0.1:{port}", tmp_path):
        good = lab.wait_for_event("web", "check_container_state")
        assert good["check"]["status"] == 0
        web.stop()
        bad = lab.wait_for_event("web", "check_container_state", lambda event: event["check"]["status"] == 2)
        assert bad["check"]["occurrences"] == 1
        argv = [sys.executable, str(SCRIPT.with_name("check_container_state.py")), "-P", lxcpath, "--per-container"]
        argv += ["--agent", f"http://127.0.0.1:{port}", "--state-dir", str(tmp_path / "sweep-state")]
        subprocess.run(argv, capture_output=True, timeout=30, check=True)
        again = lab.wait_for_event("web", "check_container_state", lambda event: event["check"]["occurrences"] == 2)
        assert again["check"]["output"] == bad["check"]["output"]
        assert len([event for event in lab.events() if event["entity"]["metadata"]["name"] == "web"]) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_leaves_nothing_in_a_monitor(number: signal.Signals, lxcpath: str, tmp_path: pathlib.Path) -> None:
    """A monitor keeps whom it was to tell, by descriptor, and else sends that to whoever asks it the next thing."""
    names = [f"web{one}" for one in range(4)]
    with contextlib.ExitStack() as stack:
        there = stack.enter_context(Stamped())
        for name in names:
            stack.enter_context(made(lxcpath, name))

        def follow() -> "contextlib.AbstractContextManager[subprocess.Popen[str]]":
            return watching(lxcpath, there.url, tmp_path)

        with follow() as watch:
            wait_until(lambda: all(there.of(name) for name in names), 10, "their first results")
            for name in names:  # a question by somebody else, as each look asks
                tool("lxc-info", lxcpath, name)
            if number == signal.SIGKILL:
                watch.kill()
                watch.wait()
        if number == signal.SIGKILL:  # then the next one makes up for it
            count = {name: len(there.of(name)) for name in names}
            with follow():
                wait_until(lambda: all(len(there.of(name)) > count[name] for name in names), 10, "what it sees")
        for name in names[:2]:
            tool("lxc-freeze", lxcpath, name)
            tool("lxc-unfreeze", lxcpath, name)
        for name in names:
            tool("lxc-stop", lxcpath, name, "-k")


def tool(name: str, lxcpath: str, container: str, *more: str) -> None:
    done = subprocess.run([name, "-P", lxcpath, "-n", container, *more], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, ""), f"{name} {container}"
