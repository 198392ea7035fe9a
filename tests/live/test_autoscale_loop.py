"""The whole of autoscaling on real containers: an alert, a build, a container seen running, and given back again.

Jenkins is the stand-in, which runs the jobs' real steps; what is known of the containers comes from the real
check_container_state, handed to a stand-in of Sensu's API as Sensu itself would have it.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live.containers import LXCPATH, Container
from tests.standin.jenkins import Jenkins
from tests.standin.sensu import SensuCore

pytestmark = pytest.mark.usefixtures("requires_lxc")

ROOT = pathlib.Path(__file__).resolve().parents[2]
JOBS = ROOT / "checks" / "jenkins"
DECOMMISSION = ROOT / "plugins" / "decommission_container.py"


class Loop:
    """A group whose containers are made under a prefix of their own; close() removes whatever is left of them."""

    def __init__(self, folder: pathlib.Path, jenkins: Jenkins, sensu: SensuCore) -> None:
        self.prefix = f"p{os.getpid()}x{uuid.uuid4().hex[:6]}"
        self.jenkins, self.sensu, self.folder = jenkins, sensu, folder
        sensu.results = []
        token = folder / "token"
        token.write_text(jenkins.auth("builder")[1])
        token.chmod(0o600)
        self.scope: dict[str, Any] = {
            "url": jenkins.url, "job": "lxc_provision", "user": "builder", "api_token_file": str(token), "cooldown": 0,
            "ledger": str(folder / "ledger.sqlite"), "parameters": {"NAME_PREFIX": self.prefix}, "budget": 0,
            "api": {"url": sensu.url, "kind": "core"}, "decommission_job": "lxc_decommission", "quiet": "60s",
            "groups": {"web": {"match": {"check": "check_memory"}, "min": 1, "max": 3}}, "cooldown_in": "60s",
        }  # fmt: skip

    def script(self, name: str, *arguments: str, event: "dict[str, Any] | None" = None) -> "tuple[int, str]":
        config = self.folder / "settings.json"
        config.write_text(json.dumps({"lxc_autoscale": self.scope}))
        done = subprocess.run(
            [sys.executable, str(ROOT / "handlers" / name), "--config", str(config), *arguments],
            input=json.dumps(event) if event else "", capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.stderr == ""
        return done.returncode, done.stdout

    def reconcile(self, status: int = 0) -> str:
        """One run, with what Sensu has heard of the containers until then."""
        self.look()
        got, output = self.script("reconcile_autoscale.py")
        assert got == status, output
        return output

    def look(self) -> None:
        """The real check, once per container, as --per-container would hand it in."""
        for name in self.containers:
            done = subprocess.run(
                [sys.executable, str(ROOT / "plugins" / "check_container_state.py"), "-n", name],
                capture_output=True, text=True, timeout=30, check=False,
            )  # fmt: skip
            self.told(name, "check_container_state", done.returncode, done.stdout)

    def told(self, entity: str, check: str, status: int, output: str) -> None:
        self.sensu.results = [
            one for one in self.sensu.results if (one["client"], one["check"]["name"]) != (entity, check)
        ]
        details = {"name": check, "status": status, "executed": int(time.time()), "output": output}
        self.sensu.results.append({"client": entity, "check": details})

    def alert(self, number: int) -> str:
        check = {"name": "check_memory", "status": 2, "executed": int(time.time()) - number, "output": "CRITICAL"}
        event = {"id": str(number), "client": {"name": "web1"}, "check": check, "occurrences": 1, "action": "create"}
        self.told("web1", "check_memory", 2, "CRITICAL")
        return self.script("handler_jenkins.py", event=event)[1]

    def sleep(self, seconds: int) -> None:
        """Let time pass for the ledger."""
        from sensu_lxc_handlers.fleet import Moment
        from sensu_lxc_handlers.ledger import Ledger

        def older(moment: Any) -> Any:
            return moment and Moment(moment.wall - seconds, "an earlier boot", 1.0)

        def change(fleet: Any) -> Any:
            requests = tuple(one._replace(at=older(one.at), asked=older(one.asked)) for one in fleet.requests)
            return fleet._replace(requests=requests, quiet=older(fleet.quiet))

        with Ledger(self.scope["ledger"], 5) as ledger:
            ledger.change("web", ledger.moment(), change)

    @property
    def containers(self) -> "list[str]":
        return sorted(one for one in os.listdir(LXCPATH) if one.startswith(self.prefix))

    def close(self) -> None:
        for name in self.containers:
            with contextlib.suppress(Exception):
                Container(name, LXCPATH, ours=True).close()


@pytest.fixture
def loop(tmp_path: pathlib.Path) -> Iterator[Loop]:
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}:{ROOT / 'plugins'}"
    (tmp_path / "jenkins").mkdir()
    with Jenkins(work=tmp_path / "jenkins", env={"PATH": path}) as jenkins, SensuCore() as sensu:
        for job in ("lxc_provision", "lxc_decommission"):
            jenkins.create_job(job, (JOBS / f"{job}.xml").read_text())
        one = Loop(tmp_path, jenkins, sensu)
        try:
            yield one
        finally:
            one.close()


def test_min_is_kept_and_an_alert_adds_one(loop: Loop) -> None:
    assert "asked for lxc-" in loop.reconcile()
    loop.jenkins.wait_for_builds("lxc_provision", 1, timeout=60)
    assert len(loop.containers) == 1
    loop.reconcile()  # sees the build
    assert "1 of them seen running" in loop.reconcile()
    assert "ACT sent" in loop.alert(1)
    loop.jenkins.wait_for_builds("lxc_provision", 2, timeout=60)
    loop.reconcile()
    assert "2 of them seen running" in loop.reconcile()
    assert len(loop.containers) == 2


def test_when_the_load_falls_it_is_drained_to_min(loop: Loop) -> None:
    if not DECOMMISSION.exists():
        pytest.skip("plugins/decommission_container.py is not here yet: it is on branch actions")
    loop.reconcile()
    loop.jenkins.wait_for_builds("lxc_provision", 1, timeout=60)
    loop.alert(1)
    for number in (1, 2):
        loop.reconcile()
        loop.reconcile()
        loop.alert(1 + number)
        loop.jenkins.wait_for_builds("lxc_provision", 1 + number, timeout=60)
    loop.reconcile()
    assert "3 of them seen running" in loop.reconcile()
    assert len(loop.containers) == 3
    loop.told("web1", "check_memory", 0, "OK")
    for left in (2, 1):
        loop.reconcile()
        loop.sleep(70)
        assert "to take away lxc-" in loop.reconcile()
        loop.jenkins.wait_for_builds("lxc_decommission", 3 - left, timeout=90)
        assert len(loop.containers) == left
    loop.reconcile()
    loop.sleep(70)
    assert "min is 1" in loop.reconcile()
    assert len(loop.containers) == 1
    report = loop.script("reconcile_autoscale.py", "--report")[1]
    assert report.count(" GONE") >= 4
