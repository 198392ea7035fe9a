"""The two processes of a check: what the one that waits passes on, and what becomes of the one that looks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sensu_lxc import bound, state_dir, stuck
from sensu_lxc.errors import CannotObserve

from tests.plugins.running import PLUGINS

ALL_BLOCKED = "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"
CODE = """
import os, signal, sys, time
sys.path.insert(0, {plugins!r})
from sensu_lxc.bound import go_apart
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores in what it runs in the background
{before}
go_apart("Name", ["a"], {seconds})
{apart}
"""


def code(apart: str, seconds: float = 10.0, before: str = "") -> list[str]:
    return [sys.executable, "-c", CODE.format(plugins=str(PLUGINS), before=before, seconds=seconds, apart=apart)]


def run(apart: str, seconds: float = 10.0, before: str = "") -> tuple[int, str, str]:
    done = subprocess.run(code(apart, seconds, before), capture_output=True, text=True, timeout=20)
    return done.returncode, done.stdout, done.stderr


class TestPassesOn:
    def test_both_streams_and_the_status(self) -> None:
        large = 3 << 20
        apart = f"os.write(1, b'x' * {large}); os.write(2, b'aside\\n'); os._exit(2)"
        assert run(apart) == (2, "x" * large, "aside\n")

    def test_nothing(self) -> None:
        assert run("os._exit(0)") == (0, "", "")

    @pytest.mark.parametrize("before", ["signal.signal(signal.SIGCHLD, signal.SIG_IGN)", ALL_BLOCKED])
    def test_what_a_daemon_leaves_to_its_children(self, before: str) -> None:
        assert run("print('OK', flush=True); os._exit(1)", before=before) == (1, "OK\n", "")

    def test_a_time_that_is_up_with_all_signals_blocked(self) -> None:
        status, words, _ = run(
            "time.sleep(30)", 0.3, "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"
        )
        assert (status, words.startswith("Name UNKNOWN: not finished after 0.3 s")) == (3, True)

    def test_the_signals_are_as_they_were(self) -> None:
        show = "print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), flush=True); os._exit(0)"
        assert run(show) == (0, "[]\n", "")
        assert run(show, before="signal.pthread_sigmask(signal.SIG_BLOCK, [15])")[1].count("SIGTERM") == 1

    @pytest.mark.parametrize("closed", ["<&-", ">&- <&-", ">&- 2>&- <&-"])
    def test_closed_streams(self, closed: str) -> None:
        """What can't be said is not OK, whatever takes a closed stream's place."""
        command = ["sh", "-c", f'exec "$@" {closed}', "sh", *code("os.write(1, b'OK\\n'); os._exit(0)")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert done.returncode == (3 if ">&-" in closed else 0)
        assert done.stdout + done.stderr == ("" if "2>&-" in closed else "OK\n")

    def test_what_nobody_reads_of_one_stream_costs_the_other_nothing(self) -> None:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
        apart = "os.write(2, b'aside\\n'); os.write(1, b'CRITICAL\\n'); os._exit(2)"
        done = subprocess.run(code(apart, 1.0), stdout=subprocess.PIPE, stderr=writer, timeout=20)
        os.close(writer)
        os.close(reader)
        assert (done.returncode, done.stdout) == (2, b"CRITICAL\n")

    def test_no_room_for_a_file(self) -> None:
        """Which a limit on files' sizes leaves none in memory either."""
        before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
        apart = "from sensu_lxc.bound import speak; speak(0, b'OK\\n')"
        status, words, aside = run(apart, before=before)
        assert (status, "nothing was said" in words, aside) == (3, True, "")


class TestSpeak:
    """Before there are two processes: a misspelt option, or no process to be had."""

    def test_to_a_reader_that_never_reads(self) -> None:
        before = "from sensu_lxc.bound import speak; speak(0, b'x' * 100_000, seconds=0.3)"
        running = subprocess.Popen(code("", before=before), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert running.stderr is not None
        assert running.stderr.read(20) == b"x" * 20
        assert running.wait(timeout=10) == 3
        running.communicate()

    def test_a_signal_ends_it(self) -> None:
        before = "from sensu_lxc.bound import speak; speak(0, b'x' * 100_000, seconds=30)"
        running = subprocess.Popen(code("", before=before), stdout=subprocess.PIPE)
        assert running.stdout is not None
        assert running.stdout.read(1) == b"x"
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=10) == -signal.SIGINT
        running.stdout.close()


class TestTheOther:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
    def test_dies(self, number: int) -> None:
        status, words, _ = run(f"print('OK', flush=True); os.kill(os.getpid(), {int(number)})")
        assert (status, words) == (3, f"Name UNKNOWN: signal {int(number)} ended it before it was done\n")

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_is_told_of_a_signal(self, number: int) -> None:
        apart = (
            f"signal.signal({int(number)}, lambda *_: (print('heard', flush=True), os._exit(2)))\n"
            "os.write(ready, b'x'); time.sleep(30)"
        )
        reader, writer = os.pipe()
        running = subprocess.Popen(code(apart, before=f"ready = {writer}"), pass_fds=[writer], stdout=subprocess.PIPE)
        os.close(writer)
        try:
            assert os.read(reader, 1) == b"x"
            running.send_signal(number)
            assert running.communicate(timeout=10)[0] == b"heard\n"
            assert running.returncode == 2
        finally:
            os.close(reader)
            running.kill()

    def test_is_interrupted_once(self) -> None:
        """By ^C, which reaches both, and by a signal to the one that was started."""
        apart = (
            "try:\n"
            "    os.write(ready, b'x')\n"  # within, as the signal may come before the next line is reached
            "    time.sleep(30)\n"
            "except KeyboardInterrupt:\n"
            "    time.sleep(0.3); os.write(1, b'interrupted'); os._exit(3)"
        )
        for to in (os.kill, os.killpg):
            reader, writer = os.pipe()
            running = subprocess.Popen(
                code(apart, before=f"ready = {writer}"),
                pass_fds=[writer],
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            os.close(writer)
            try:
                assert os.read(reader, 1) == b"x"
                to(running.pid, signal.SIGINT)
                assert (running.communicate(timeout=10)[0], running.returncode) == (b"interrupted", 3)
            finally:
                os.close(reader)
                running.kill()

    def test_is_not_forgotten_where_the_one_that_waits_was_asleep(self) -> None:
        """Woken when its time is up, CPython's sigtimedwait tells of a signal that there was none."""
        for _ in range(3):
            running = subprocess.Popen(code("time.sleep(60)", 0.5), stdout=subprocess.PIPE, start_new_session=True)
            time.sleep(0.3)
            running.send_signal(signal.SIGSTOP)
            time.sleep(0.5)
            running.send_signal(signal.SIGCONT)
            words, _ = running.communicate(timeout=10)
            assert (running.returncode, words[:35]) == (3, b"Name UNKNOWN: not finished after 0.")
            with pytest.raises(ProcessLookupError):
                os.killpg(running.pid, 0)

    def test_ends_where_nobody_waits_for_it_any_more(self) -> None:
        reader, writer = os.pipe()
        apart = "os.write(ready, b'x'); time.sleep(60)"
        running = subprocess.Popen(code(apart, 0.5, f"ready = {writer}"), pass_fds=[writer], stdout=subprocess.PIPE)
        os.close(writer)
        assert os.read(reader, 1) == b"x"
        running.kill()
        began = time.monotonic()
        assert running.communicate(timeout=10)[0] == b""  # which it does not hold open
        assert os.read(reader, 1) == b""  # which it does until its end
        os.close(reader)
        assert time.monotonic() - began < 10


class TestStuck:
    def test_refuses_while_it_is_there(self, tmp_path: Path) -> None:
        folder = f"{tmp_path}/stuck"
        process = subprocess.Popen(["sleep", "60"])
        try:
            stuck.note(folder, ["-n", "a"], process.pid)
            stuck.refuse(folder, ["-n", "b"])
            with pytest.raises(CannotObserve, match=rf"\(pid {process.pid}\) still waits"):
                stuck.refuse(folder, ["-n", "a"])
        finally:
            process.kill()
        deadline = time.monotonic() + 10  # as a zombie it counts as gone
        while os.path.exists(folder) and time.monotonic() < deadline:
            stuck.refuse(folder, ["-n", "b"])
        assert not os.path.exists(folder)
        process.wait()
        stuck.note(folder, ["-n", "a"], process.pid)
        assert not os.path.exists(folder)

    @pytest.mark.parametrize("raw", [b"", b"1", b"1 2 3", b"x y z", b"1  now", b"\xff \xfe \xfd", b"99999999999 1 1"])
    def test_of_what_is_none_nothing_is_believed(self, tmp_path: Path, raw: bytes) -> None:
        state_dir.replace(str(tmp_path), state_dir.name_of(["a"]), raw)
        stuck.refuse(str(tmp_path), ["a"])

    def test_a_folder_that_is_empty_goes(self, tmp_path: Path) -> None:
        (tmp_path / "stuck").mkdir(0o700)
        stuck.refuse(f"{tmp_path}/stuck", ["a"])
        stuck.refuse(f"{tmp_path}/stuck", ["a"])
        assert not os.path.exists(f"{tmp_path}/stuck")

    def test_of_somebody_elses_nothing_is_believed(self, tmp_path: Path) -> None:
        stuck.note(f"{tmp_path}/stuck", ["a"], os.getpid())
        os.chmod(f"{tmp_path}/stuck", 0o777)
        stuck.refuse(f"{tmp_path}/stuck", ["a"])

    def test_tries_again_after_an_hour(self, tmp_path: Path) -> None:
        stuck.note(f"{tmp_path}/stuck", ["a"], os.getpid())
        (name,) = os.listdir(f"{tmp_path}/stuck")
        with pytest.raises(CannotObserve, match=f"rm {tmp_path}/stuck/{name}"):
            stuck.refuse(f"{tmp_path}/stuck", ["a"])
        os.utime(f"{tmp_path}/stuck/{name}", (time.time() - 3601,) * 2)
        stuck.refuse(f"{tmp_path}/stuck", ["a"])

    def test_where_nothing_can_be_written_the_bound_holds_all_the_same(self) -> None:
        stuck.note("/proc/none/stuck", ["a"], os.getpid())


def test_at_the_limit_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        with pytest.raises(CannotObserve, match="cannot start a process: Resource temporarily unavailable"):
            bound.go_apart("Name", [], 1.0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
