"""Run other programs: a list of arguments, never a shell, in a plain environment, and never longer than asked for."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import namedtuple
from time import monotonic, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What a download needs, and what LXC's tools need of an ordinary user's session.
_PASSED_ON = (
    "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
)  # fmt: skip
_PASSED_ON_TO_USERS = ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")
_STEP_SECONDS = 0.05
_GRACE_SECONDS = 2.0


class CannotRun(Exception):
    """The program could not be started; the message is a sentence."""


class Finished(namedtuple("Finished", "status output why")):
    """How a program ended.

    status: its exit status, or minus the number of the signal that ended it; output: bytes of its stdout where they
    were asked for; why: "" or, where it was ended by us, "time" or "stop".
    """

    __slots__ = ()

    def __str__(self) -> str:
        if self.why:
            return "was ended as its time was up" if self.why == "time" else "was interrupted"
        return f"was killed by signal {-self.status}" if self.status < 0 else f"failed with status {self.status}"


def environment() -> dict[str, str]:
    """A plain environment: nothing of the caller's that could steer a program run as root.

    Nor anything that marks a process as one of a Jenkins build: at the build's end Jenkins kills all that carry its
    BUILD_ID, which would be the monitor of the container that was just started.
    """
    from pwd import getpwuid

    names = _PASSED_ON if os.geteuid() == 0 else _PASSED_ON + _PASSED_ON_TO_USERS
    found = {name: os.environ[name] for name in names if name in os.environ}
    try:
        found["HOME"] = getpwuid(os.geteuid()).pw_dir
    except KeyError:
        found["HOME"] = "/"
    return {**found, "PATH": PATH, "LC_ALL": "C.UTF-8"}


def run(
    argv: Sequence[str],
    seconds: float,
    capture: bool = False,
    stop: Callable[[], bool] | None = None,
    keep_open: Sequence[int] = (),
    output_to: int = 2,
) -> Finished:
    """Run a program and everything of its process group for at most `seconds`, or until stop() is true.

    What it says goes to the descriptor output_to (our stderr), its stdout with capture into the answer; keep_open:
    descriptors that it inherits. Raises CannotRun.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if capture else output_to,
            stderr=output_to,
            cwd="/",
            env=environment(),
            start_new_session=True,
            pass_fds=keep_open,
        )
    except FileNotFoundError:
        raise CannotRun(f"{argv[0]} is not installed; on Debian and Ubuntu: apt install lxc lxc-templates") from None
    except OSError as error:
        raise CannotRun(f"{argv[0]} can't be run: {error.strerror}") from None
    deadline = monotonic() + seconds
    why, output = "", b""
    while True:
        try:
            if capture:
                output = process.communicate(timeout=_STEP_SECONDS)[0]
            else:
                process.wait(_STEP_SECONDS)
            break
        except subprocess.TimeoutExpired:
            why = "time" if monotonic() >= deadline else "stop" if stop is not None and stop() else ""
            if why:
                _end_group(process)
                break
    return Finished(process.returncode, output, why)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then end whatever is left of its group, and wait until nothing is."""
    _signal_group(process.pid, signal.SIGTERM)
    # Not reaped before the last signal, so that its number can't be somebody else's by then.
    deadline = monotonic() + _GRACE_SECONDS
    while monotonic() < deadline and not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        sleep(0.01)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
    deadline = monotonic() + _GRACE_SECONDS
    while monotonic() < deadline and _signal_group(process.pid, 0):
        sleep(0.01)


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
