"""--per-container under a real Sensu Go: fifty real containers are fifty entities, and each is told of by itself."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.live.containers import busybox, wait_until
from tests.live.sensu_go import Event, Lab
from tests.plugins.agents import Go

pytestmark = pytest.mark.usefixtures("requires_lxc")

PLUGINS = pathlib.Path(__file__).resolve().parents[2] / "plugins"
COUNT = 50
TTL = 5


@pytest.fixture
def lxcpath() -> Iterator[str]:
    """One of our own, so that nobody else's containers are in it."""
    with tempfile.TemporaryDirectory(prefix="fleet-", dir="/var/lib") as folder:
        yield folder


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def fleet(lxcpath: str, config: str, count: int) -> Iterator[list[str]]:
    """So many running containers on one root filesystem, with the config of one that has it: quick to make."""
    names = [f"f{number:02}" for number in range(count)]
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: start_copy(lxcpath, name, config), names))
        yield names
    finally:
        for name in names:
            stop(lxcpath, name)
            shutil.rmtree(f"{lxcpath}/{name}", ignore_errors=True)


def start_copy(lxcpath: str, name: str, config: str) -> None:
    os.mkdir(f"{lxcpath}/{name}", 0o770)
    pathlib.Path(lxcpath, name, "config").write_text(config + f"\nlxc.uts.name = {name}\n")
    argv = ["lxc-start", "-n", name, "-P", lxcpath]
    subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)


def stop(lxcpath: str, name: str) -> None:
    argv = ["lxc-stop", "-k", "-n", name, "-P", lxcpath]
    subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)


def run(*arguments: str, script: str = "check_container_state.py") -> "tuple[int, str]":
    """(status, first line without perfdata)."""
    argv = [sys.executable, str(PLUGINS / script), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()[0].partition(" | ")[0]


def test_fifty_containers_are_fifty_entities(sensu_go_lab: Lab, lxcpath: str, tmp_path: pathlib.Path) -> None:
    lab, port = sensu_go_lab, free_port()
    lab.start_backend()
    lab.start_agent(api_port=port)
    url = f"http://127.0.0.1:{port}"
    how = ["-P", lxcpath, "--per-container", "--agent", url, "--state-dir", str(tmp_path / "state"), "--timeout", "30s"]
    how += ["--interval", "1s", "--ttl", f"{TTL}s"]

    def events() -> "dict[str, Event]":
        return {event["entity"]["metadata"]["name"]: event for event in lab.events() if is_ours(event)}

    def is_ours(event: Event) -> bool:
        return bool(event["check"]["metadata"]["name"] == "check_container_state")

    def settled(count: int) -> "dict[str, Event]":
        """The events once all of a sweep are stored: the agent takes them a moment earlier."""
        seen: dict[str, Event] = wait_until(
            lambda: len(found := events()) >= count and min(map(sequence, found.values())) and found, 15, "the events"
        )
        return seen

    def sequence(event: Event) -> int:
        return int(event["check"]["executed"])

    with busybox("one", lxcpath=lxcpath, name="doomed") as doomed:
        config = pathlib.Path(doomed.directory, "config").read_text()
        config = "\n".join(line for line in config.splitlines() if not line.startswith("lxc.uts.name"))
        with fleet(lxcpath, config, COUNT - 1) as names:
            assert run(*how) == (0, f"CheckContainerState OK: {COUNT} containers reported to {url} ({COUNT} OK)")
            seen = settled(COUNT)
            assert set(seen) == {"doomed", *names}
            for name, event in seen.items():
                assert event["check"]["status"] == 0
                assert event["check"]["output"].startswith(f"CheckContainerState OK: {name}: RUNNING")
                assert event["check"]["ttl"] == TTL
                assert event["entity"]["entity_class"] == "proxy"

            stop(lxcpath, "f07")
            status, line = run(*how)
            assert (status, line) == (
                0, f"CheckContainerState OK: {COUNT} containers reported to {url} ({COUNT - 1} OK, 1 CRITICAL)",
            )  # fmt: skip
            lab.wait_for_event("f07", "check_container_state", lambda event: event["check"]["status"] == 2)
            assert {name for name, event in settled(COUNT).items() if event["check"]["status"]} == {"f07"}

            # Destroyed: it is told so, and the ttl that it had runs out in silence, while that of the others does not.
            doomed.destroy()
            assert "1 told for the last time" in run(*how)[1]
            last = lab.wait_for_event("doomed", "check_container_state", lambda event: not event["check"].get("ttl"))
            assert last["check"]["status"] == 0
            assert last["check"]["output"].startswith(
                "CheckContainerState OK: doomed is no longer on this host; this is its last result"
            )
            told = f"CheckContainerState OK: {COUNT - 1} containers reported to {url} ({COUNT - 2} OK, 1 CRITICAL)"
            assert run(*how) == (0, told)
            time.sleep(TTL * 3)
            seen = events()
            assert seen["doomed"]["check"]["output"] == last["check"]["output"]
            assert seen["doomed"]["check"]["status"] == 0
            expired = [name for name in names if "Last check execution" in seen[name]["check"]["output"]]
            assert expired == names, "a ttl that runs out is an alarm, else this test could not fail"


def test_an_orphan_whose_definition_is_gone_is_told_until_it_ends(lxcpath: str, tmp_path: pathlib.Path) -> None:
    with Go() as agent, busybox(lxcpath=lxcpath, config_lines=["lxc.monitor.signal.pdeath = SIGCONT"]) as container:
        how = ["-P", lxcpath, "--per-container", "--agent", agent.url, "--state-dir", str(tmp_path / "state")]

        def told(script: str) -> "tuple[int, str]":
            """(status, output) of the result."""
            agent.taken.clear()
            run(*how, script=script)
            (result,) = agent.taken
            return result["status"], result["output"].partition(" | ")[0]

        for script in ("check_container_state.py", "check_container_memory.py"):
            assert told(script)[0] == 0
        container.kill_monitor()
        aside = pathlib.Path(f"{lxcpath}/.aside")
        os.rename(container.directory, aside)
        try:
            for script, status in (("check_container_state.py", 2), ("check_container_memory.py", 3)) * 2:
                found, output = told(script)
                assert (found, f"{container.name}: runs on without its monitor" in output) == (status, True), output
            container.kill_payload()
            for script in ("check_container_state.py", "check_container_memory.py"):
                found, output = told(script)
                assert (found, "is no longer on this host; this is its last result" in output) == (0, True), output
        finally:
            aside.rename(container.directory)
