"""`make demo`: the whole loop on this machine, each step shown as it happens, everything removed at the end.

A container runs short of memory; the standalone check says CRITICAL; its event goes to handler_jenkins; Jenkins (the
stand-in of the tests, which really runs the job's shell step) runs provision_container.py; a new container is RUNNING.
Without root or LXC the same happens on a recorded host: the scripts are real, the host is a folder, and the job copies
a recorded container into it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.live.containers import LXCPATH, busybox, remove_abandoned, why_no_lxc
from tests.standin.jenkins import Jenkins

ROOT = Path(__file__).resolve().parent.parent
DEFINITION = ROOT / "checks/standalone/check_memory_no_agent.json"
JOB = ROOT / "checks/jenkins/lxc_provision.xml"
LIMIT = 64 << 20
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PREFIX = f"demo{os.getpid()}"
RECORDED = Path(__file__).resolve().parent / "recordings/demo-host"


def step(number: int, words: str) -> None:
    """Announce a step."""
    print(f"\n\033[1m{number}. {words}\033[0m" if sys.stdout.isatty() else f"\n{number}. {words}", flush=True)


def show(words: str) -> None:
    """Show what a program said, set off from our own words."""
    for line in words.rstrip().splitlines():
        print(f"   {line}", flush=True)


def run(command: str, stdin: str = "", **environment: str) -> tuple[int, str]:
    """Run a command line as Sensu does, by /bin/sh with the plugins on PATH, and show it."""
    where = os.pathsep.join([str(Path(sys.executable).parent), str(ROOT / "plugins"), str(ROOT / "handlers")])
    shown = command.replace(str(ROOT) + "/", "")
    print(f"   $ {shown}", flush=True)
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment, "PATH": f"{where}{os.pathsep}{os.environ['PATH']}"},
        timeout=120,
        check=False,
    )
    show(done.stdout)
    return done.returncode, done.stdout


def as_client(client: dict[str, Any]) -> dict[str, Any]:
    """The check's definition with its :::tokens::: filled in from the client's attributes, as Sensu Core does it."""
    (name, check), *others = json.loads(DEFINITION.read_text())["checks"].items()
    assert not others

    def value(match: re.Match[str]) -> str:
        path, _, default = match.group(1).partition("|")
        found: Any = client
        for key in path.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        return default if found is None else str(found)

    return {**check, "name": name, "command": re.sub(r":::(.+?):::", value, check["command"])}


def event(client: dict[str, Any], check: dict[str, Any], status: int, output: str) -> str:
    """The event that Sensu Core's server would give to the handler."""
    now = int(time.time())
    return json.dumps(
        {
            "id": "a3f1e2b4-0001-4a5e-9a3e-demo00000001",
            "client": {**client, "timestamp": now},
            "check": {**check, "type": "standard", "status": status, "output": output, "issued": now, "executed": now,
                      "duration": 0.03, "history": ["0", str(status)], "origin": client["name"]},
            "occurrences": 1, "occurrences_watermark": 1, "action": "create", "timestamp": now, "silenced": False,
            "silenced_by": [],
        }
    )  # fmt: skip


def need(done: bool, words: str) -> None:
    """Stop the demo where a step did not do what it should have."""
    if not done:
        raise SystemExit(f"\nThe demo stops here: {words}")


def loop(name: str, job: str, root: str, job_environment: dict[str, str]) -> None:
    """Steps 2 to 7."""
    client = {
        "name": "lxchost1", "address": "192.0.2.10", "subscriptions": ["lxc"],
        "lxc": {"container": name, "memory_warning": "75%", "memory_error": "90%"},
    }  # fmt: skip
    check = as_client(client)
    command = check["command"] + (f" --root {shlex.quote(root)}" if root else "")
    step(2, f"Sensu's client runs {DEFINITION.relative_to(ROOT)}, with the client's attributes filled in")
    status, output = run(command)
    print(f"   exit status {status}", flush=True)
    need(status == 2, "the check should be CRITICAL")
    with (
        tempfile.TemporaryDirectory() as folder,
        Jenkins(work=Path(folder) / "jenkins", env=job_environment) as jenkins,
    ):
        step(3, f"A Jenkins (the tests' stand-in) at {jenkins.url} gets the job {JOB.relative_to(ROOT)}")
        jenkins.create_job("lxc_provision", job)
        secret = Path(folder) / "jenkins.token"
        secret.write_text(jenkins.users["builder"].api_token)
        secret.chmod(0o600)
        config = Path(folder) / "lxc_autoscale.json"
        settings = {"url": jenkins.url, "job": "lxc_provision", "user": "builder", "api_token_file": str(secret),
                    "cooldown": "10m", "ledger": str(Path(folder) / "ledger.sqlite"),
                    "parameters": {"TEMPLATE": "busybox", "NAME_PREFIX": PREFIX}}  # fmt: skip
        config.write_text(json.dumps({"lxc_autoscale": settings}))
        show(json.dumps({**settings, "api_token_file": "…"}, ensure_ascii=False))
        step(4, "Sensu's server pipes the event into the handler")
        critical = event(client, check, status, output)
        status, _ = run(f"handler_jenkins.py --config {config}", stdin=critical)
        need(status == 0, "the handler should have asked for a build")
        step(5, "Jenkins runs the job on the LXC host")
        build = jenkins.wait_for_builds("lxc_provision", 1, timeout=90)[0]
        show(build.log)
        lines = [line for line in build.log.splitlines() if line.startswith("{")]
        need(build.result == "SUCCESS" and bool(lines), f"the build ended with {build.result}")
        new = json.loads(lines[-1])["name"]
        step(6, "The alert comes again: one incident, one container")
        later = json.loads(critical)
        later["occurrences"] = later["occurrences_watermark"] = 2
        later["check"]["executed"] = later["check"]["issued"] = int(time.time()) + 1
        run(f"handler_jenkins.py --config {config}", stdin=json.dumps(later))
        need(len(jenkins.builds("lxc_provision")) == 1, "a second build was made")
    step(7, "The next check sees both containers")
    options = f"-n {name},{new}" + (f" --root {shlex.quote(root)}" if root else "")
    status, _ = run(f"check_container_state.py -v {options}")
    need(status == 0, "both containers should be RUNNING")


@contextlib.contextmanager
def removed_at_the_end() -> Iterator[None]:
    """Remove what the job made, also when it was interrupted before it could tell the name."""
    try:
        yield
    finally:
        for entry in os.scandir(LXCPATH):
            # Only what provision_container made, which leaves its mark in the container's directory.
            if entry.name.startswith(f"{PREFIX}-") and os.path.exists(f"{entry.path}/sensu-lxc.json"):
                subprocess.run(["lxc-destroy", "-f", "-n", entry.name], capture_output=True, check=False, timeout=60)
            elif entry.name.startswith(f".sensu-lxc.{PREFIX}-"):  # the lock of a run that was killed
                os.unlink(entry.path)


def real() -> None:
    """The demo on real containers."""
    remove_abandoned()
    with removed_at_the_end(), busybox("demo", limit_bytes=LIMIT) as container:
        step(1, f"A busybox container {container.name} with a limit of {LIMIT >> 20} MiB fills its memory")
        container.fill(59 << 20)
        run(f"lxc-info -n {container.name}")
        path = os.pathsep.join([str(Path(sys.executable).parent), str(ROOT / "plugins"), os.environ["PATH"]])
        loop(container.name, JOB.read_text(), "", {"PATH": path})


def recorded(why: str) -> None:
    """The demo on a recorded host, where no container can be started."""
    print(f"This machine {why}.\nSo this is a RECORDED host: real scripts on a copy of {RECORDED.relative_to(ROOT)}.")
    with tempfile.TemporaryDirectory() as folder:
        host = Path(folder) / "host"
        shutil.copytree(RECORDED / "before", host)
        copy = f"cp -r {shlex.quote(str(RECORDED / 'after'))}/. {shlex.quote(str(host))}"
        say = 'echo \'{"name": "demo-6f2a", "recorded": true}\''
        job = re.sub(
            r"<command>.*?</command>",
            lambda _: f"<command>{escape(copy)}\n{escape(say)}</command>",
            JOB.read_text(),
            flags=re.DOTALL,
        )
        step(1, "A recorded container web1 has filled its 48 MiB")
        loop("web1", job, str(host), {})


def interrupt_once(number: int, frame: object) -> None:
    """End in order; a second Ctrl-C must not interrupt the removal, nor the tools that it runs."""
    for one in ENDS:
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    """Run the demo that this machine can run."""
    # `timeout` and a closed terminal end like Ctrl-C: everything is removed.
    for number in ENDS:
        signal.signal(number, interrupt_once)
    why = why_no_lxc()
    try:
        if why is None:
            _bridge()
            real()
        else:
            recorded(why)
    except KeyboardInterrupt:
        print("\ninterrupted; everything was removed")
        sys.exit(130)
    print("\nDone: the loop is closed. Everything was removed.")


def _bridge() -> None:
    from tests.live.conftest import _bridge as bridge

    bridge()


if __name__ == "__main__":
    main()
