"""The watch without a container: what monitors say, what waits for the agent, how it ends."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import watch_container_state
from hypothesis import given
from hypothesis import strategies as some
from sensu_lxc import following, inventory, states
from sensu_lxc.agent import Result
from sensu_lxc.errors import CannotObserve
from sensu_lxc.host import Host
from sensu_lxc.sources import lxc_monitor
from sensu_lxc.sources.lxc_command import STATES

from tests.plugins.agents import Go
from tests.plugins.running import PLUGINS

SCRIPT = str(PLUGINS / "watch_container_state.py")
RUNNING, STOPPING, FROZEN, THAWED = (STATES.index(word) for word in ("RUNNING", "STOPPING", "FROZEN", "THAWED"))


def answer(value: int, status: int = 0, length: int = 0) -> bytes:
    return struct.pack("@iiP", status, length, value)


def message(state: int, kind: int = 0) -> bytes:
    return struct.pack("@i256si", kind, b"web", state)


class TestWhatMonitorsSay:
    def test_the_state_at_once(self) -> None:
        assert lxc_monitor.state(answer(RUNNING)) == RUNNING

    def test_the_state_later(self) -> None:
        whole = answer(8) + message(STOPPING)
        assert [lxc_monitor.state(whole[:end]) for end in (0, 15, 16, len(whole) - 1)] == [None] * 4
        assert lxc_monitor.state(whole) == STOPPING

    def test_thawed_is_running(self) -> None:
        assert lxc_monitor.state(answer(8) + message(THAWED)) == RUNNING

    def test_asks_for_all_that_is_not_known(self) -> None:
        def wanted(known: int | None) -> list[str]:
            mask = struct.unpack("@8i", lxc_monitor.request(known)[16:])
            return [word for word, is_wanted in zip(STATES, mask) if is_wanted]

        assert wanted(None) == list(STATES)
        assert wanted(FROZEN) == [word for word in STATES if word != "FROZEN"]
        assert wanted(RUNNING) == [word for word in STATES if word not in ("RUNNING", "THAWED")]

    @pytest.mark.parametrize(
        "raw",
        [answer(0, -1), answer(0, -22), answer(9), answer(0, 0, 5), answer(8) + message(8), answer(8) + message(1, 2)],
    )
    def test_what_is_none(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve):
            lxc_monitor.state(raw)

    @given(some.binary(max_size=300))
    def test_garbage(self, raw: bytes) -> None:
        try:
            assert lxc_monitor.state(raw) in (None, *range(7))
        except CannotObserve:
            pass


class TestFollowers:
    """With a monitor of our own making, whose name the kernel lists."""

    def test_hears_a_change_and_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        directory = f"/test-{os.getpid()}-follow/web"
        mine = ({directory}, set[str]())
        monkeypatch.setattr(following.inventory, "command_sockets", lambda host: mine)
        poll = select.poll()
        followers = following.Followers(Host(), poll)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"\0{directory}/command")
            server.listen()
            followers.scan(time.monotonic())
            stranger, _ = server.accept()
            assert stranger.recv(100) == lxc_monitor.farewell(), "for whoever was killed before"
            first, _ = server.accept()
            assert first.recv(100) == lxc_monitor.request(None)
            first.sendall(answer(RUNNING))
            assert self.heard(followers, poll) == (directory, True)
            second, _ = server.accept()
            assert second.recv(100) == lxc_monitor.request(RUNNING)
            second.sendall(answer(8))
            assert self.heard(followers, poll) == (directory, False)
            second.sendall(message(STOPPING))
            assert self.heard(followers, poll) == (directory, False), "it asks again, and waits"
            third, _ = server.accept()
            followers.close()
            assert third.recv(100) == lxc_monitor.request(STOPPING) + lxc_monitor.farewell()
            assert third.recv(100) == b""
            followers.scan(time.monotonic() + 1)
        assert self.heard(followers, poll) == (directory, True)
        assert not poll.poll(0)

    def test_says_who_is_not_served(self, monkeypatch: pytest.MonkeyPatch) -> None:
        directory = f"/test-{os.getpid()}-refuse/web"
        mine = ({directory}, set[str]())
        monkeypatch.setattr(following.inventory, "command_sockets", lambda host: mine)
        poll = select.poll()
        followers = following.Followers(Host(), poll)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"\0{directory}/command")
            server.listen()
            followers.scan(time.monotonic())
            server.accept()
            connection, _ = server.accept()
            connection.sendall(answer(0, -1))
            self.heard(followers, poll)
            assert (
                followers.problem == f"{directory} can't be followed: its monitor does not serve this user; run as root"
            )
            followers.scan(time.monotonic() + 1)
            server.settimeout(0)
            with pytest.raises(BlockingIOError):  # not asked again at once
                server.accept()

    @staticmethod
    def heard(followers: following.Followers, poll: select.poll) -> Any:
        ((descriptor, _),) = poll.poll(5000)
        return followers.hear(descriptor)


class TestPatience:
    """One container whose state and whose clock are ours."""

    @pytest.fixture
    def site(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
        directory = "/srv/lxc/web"
        where = ["--agent", "http://127.0.0.1:9", "--state-dir", str(tmp_path)]

        class Site:
            now = 1000.0

            def __init__(self, *more: str) -> None:
                self.watch = watch_container_state.Watch(watch_container_state.WatchContainerState([*where, *more]))
                self.told: list[str] = []
                one = inventory.Container("web", "/srv/lxc", True, True, "web")
                found = inventory.Inventory([one], [], [], {directory})
                monkeypatch.setattr(self.watch._check, "inventory", lambda: found)
                monkeypatch.setattr(self.watch._outbox, "put", lambda result: self.told.append(result.output))
                monkeypatch.setattr(watch_container_state.states, "observe", lambda *_: {directory: self.state})
                monkeypatch.setattr(watch_container_state, "monotonic", lambda: self.now)

            def sees(self, seconds: float, name: str, detail: str = "") -> str:
                """What is told when it is looked at after so long, without the beginning of each line."""
                self.now += seconds
                self.state = states.State(name, detail)
                self.told.clear()
                self.watch._look({directory}, 0.2)
                return " ".join(output.rpartition("web: ")[2] for output in self.told)

            @property
            def due(self) -> float:
                """Seconds until it is looked at again by itself; each is asked for once."""
                return round(self.watch._due.pop(directory) - self.now, 3)

        return Site

    OUTSIDE = ("FROZEN", "frozen from outside LXC")

    def test_what_is_wrong_is_told_at_once_and_what_passes_is_not(self, site: Any) -> None:
        web = site()
        assert web.sees(0, "RUNNING") == "RUNNING"
        assert web.sees(0, "STOPPING") == ""
        assert web.due == 5
        assert web.sees(1, "STOPPED") == "STOPPED, expected RUNNING"
        # What was wrong for long is told of what passes no sooner.
        assert web.sees(60, "STARTING") == ""
        assert web.due == 5
        assert web.sees(1, "STOPPING") == ""
        assert web.due == 4, "what only passes from one to the next is told all the same"
        assert web.sees(4, "STARTING") == "STARTING, expected RUNNING"
        assert web.sees(1, "RUNNING") == "RUNNING"

    def test_who_is_created_may_take_a_moment_to_be_started(self, site: Any) -> None:
        web = site()
        assert web.sees(0, "STOPPED") == ""
        assert web.due == 5
        assert web.sees(3, "RUNNING") == "RUNNING"
        other = site()
        assert other.sees(0, "STOPPED") == ""
        assert other.sees(5, "STOPPED") == "STOPPED, expected RUNNING"

    @pytest.mark.parametrize("seconds", [0, 60])
    def test_a_thaw_is_no_freeze_from_outside(self, site: Any, seconds: int) -> None:
        web = site()
        assert web.sees(0, "RUNNING") == "RUNNING"
        assert web.sees(0, "FROZEN") == "FROZEN, expected RUNNING"
        # Its monitor calls it RUNNING, and the kernel has not thawed it yet.
        assert web.sees(seconds, *self.OUTSIDE) == ""
        assert web.due == 0.3
        assert web.sees(0.3, "RUNNING") == "RUNNING"
        assert web.sees(9, *self.OUTSIDE) == ""
        assert web.sees(0.3, *self.OUTSIDE) == "FROZEN (frozen from outside LXC), expected RUNNING"

    def test_settle_counts_from_when_it_was_well(self, site: Any) -> None:
        web = site("--settle", "2s")
        assert web.sees(0, "RUNNING") == "RUNNING"
        assert web.sees(0, "STOPPED") == ""
        assert web.due == 2
        assert web.sees(1, "FROZEN") == ""
        assert web.due == 1
        assert web.sees(1, "STOPPED") == "STOPPED, expected RUNNING"


def result(entity: str, status: int = 0) -> Result:
    return Result(entity, "check_x", status, "x", 180, 60, (), time.time())


class TestOutbox:
    def deliver(self, outbox: watch_container_state.Outbox, there: Go, count: int) -> list[tuple[str, int]]:
        threading.Thread(target=outbox.run, daemon=True).start()
        return self.delivered(there, count)

    @staticmethod
    def delivered(there: Go, count: int) -> list[tuple[str, int]]:
        deadline = time.monotonic() + 10
        while len(there.taken) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return [(one["entity"], one["status"]) for one in there.taken]

    def test_the_oldest_goes_first_and_the_newest_of_each_counts(self) -> None:
        with Go() as there:
            outbox = watch_container_state.Outbox(there.url)
            for one in (result("a", 1), result("b", 1), result("c", 1), result("a", 2), result("a", 0)):
                outbox.put(one)
            assert self.deliver(outbox, there, 3) == [("a", 0), ("b", 1), ("c", 1)]
            assert outbox.close(1) == 0

    def test_is_bounded_and_says_what_went(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(watch_container_state, "QUEUE_AT_MOST", 2)
        monkeypatch.setattr(watch_container_state, "RETRY_SECONDS", 0.05)
        with Go() as nobody:
            pass
        outbox = watch_container_state.Outbox(nobody.url)
        for name in "abcd":
            outbox.put(result(name))
        threading.Thread(target=outbox.run, daemon=True).start()
        time.sleep(0.2)
        with Go(nobody.port) as there:
            assert self.delivered(there, 2) == [("c", 0), ("d", 0)]
            assert outbox.close(2) == 0
        said = capfd.readouterr().out
        assert said.count("UNKNOWN results wait: no agent at") == 1
        assert "takes results again, 1 more wait; 2 were dropped, the oldest first" in said

    def test_a_refused_one_is_said_and_left(self, capfd: pytest.CaptureFixture[str]) -> None:
        with Go() as there:
            outbox = watch_container_state.Outbox(there.url)
            outbox.put(result("a b"))
            outbox.put(result("c"))
            assert self.deliver(outbox, there, 1) == [("c", 0)]
        assert "refused the result of a b: HTTP 400 proxy entity name" in capfd.readouterr().out


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    where = ["--agent", "http://127.0.0.1:9", "--state-dir", str(tmp_path / "state"), "-n", "no-such-container"]
    with subprocess.Popen([sys.executable, SCRIPT, *where], stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_a_signal_ends_it_well(watch: subprocess.Popen[str]) -> None:
    assert watch.stdout is not None
    said = [watch.stdout.readline() for _ in range(2)]
    assert any("CRITICAL no-such-container: does not exist" in line for line in said)
    assert any("UNKNOWN results wait: no agent at http://127.0.0.1:9" in line for line in said)
    watch.send_signal(signal.SIGTERM)
    assert watch.wait(10) == 0
    assert watch.stdout.read() == "ended by a signal, 1 results not delivered\n"


@pytest.mark.parametrize("arguments", [["--ttl", "2s"], ["--root", "/tmp"], ["--expect", "WELL"], ["--per-container"]])
def test_misuse(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (3, "", 1)
    assert done.stdout.startswith("WatchContainerState UNKNOWN: ")
