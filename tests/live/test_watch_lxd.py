"""watch_container_state.py beside a real LXD: instances of two projects, started, stopped, killed, renamed, deleted."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.containers import wait_until
from tests.live.lxd_lab import insist, lxc, running
from tests.live.test_checks import lxd  # noqa: F401
from tests.live.test_watch import Stamped, watching

pytestmark = pytest.mark.usefixtures("requires_lxc", "lxd")
LXCPATH = "/var/lib/lxd/containers"
GOOD, BAD = (0, "RUNNING"), (2, "STOPPED, expected RUNNING")


class Told:
    """What the agent is to be told of one instance, in this order and nothing else."""

    def __init__(self, there: Stamped, entity: str) -> None:
        self.there, self.entity = there, entity
        self.all: list[tuple[int, str]] = []

    def next(self, *news: "tuple[int, str]") -> None:
        self.all += news
        wait_until(lambda: len(self.there.of(self.entity)) >= len(self.all), 30, f"{news} to be told of {self.entity}")
        assert self.there.of(self.entity) == self.all

    def last(self, name: str) -> None:
        """Its farewell, before which there may be time to see it stopped."""
        farewell = (0, f"{name} is no longer on this host; this is its last result")
        wait_until(lambda: farewell in self.there.of(self.entity), 30, f"the farewell of {self.entity}")
        assert self.there.of(self.entity) in ([*self.all, farewell], [*self.all, BAD, farewell])
        (result,) = [one for one in self.there.taken if one["entity"] == self.entity and farewell[1] in one["output"]]
        assert "ttl" not in result


def init_of(name: str) -> int:
    return int(next(line.split()[1] for line in lxc("info", name).splitlines() if line.lower().startswith("pid:")))


@pytest.fixture
def project(lxd: None) -> Iterator[str]:  # noqa: F811
    lxc("project", "create", "demo", "-c", "features.images=false", "-c", "features.profiles=false")
    yield "demo"
    for name in lxc("list", "--project", "demo", "-f", "csv", "-c", "n").split():
        insist("delete", "-f", name, "--project", "demo")
    insist("project", "delete", "demo")


def test_each_change_of_an_instance_is_told(tmp_path: Path) -> None:
    with Stamped() as there, running("web"), watching(LXCPATH, there.url, tmp_path, "--interval", "1h"):
        web = Told(there, "web")
        web.next(GOOD)
        lxc("stop", "-f", "web")
        web.next(BAD)
        insist("start", "web")
        web.next(GOOD)
        os.kill(init_of("web"), signal.SIGKILL)
        web.next(BAD)
        insist("start", "web")
        web.next(GOOD)
        lxc("pause", "web")
        web.next((2, "FROZEN, expected RUNNING"))
        lxc("start", "web")
        web.next(GOOD)
        lxc("restart", "-f", "web")  # LXD's own way: --settle is for whom that is no news
        web.next(BAD, GOOD)


def test_a_restart_by_lxd_is_no_news_to_who_lets_it_settle(tmp_path: Path) -> None:
    how = ("--interval", "1h", "--settle", "8s")
    with Stamped() as there, running("web"), watching(LXCPATH, there.url, tmp_path, *how):
        web = Told(there, "web")
        web.next(GOOD)
        lxc("restart", "-f", "web")
        lxc("stop", "-f", "web")
        web.next(BAD)


def test_instances_of_two_projects_that_are_renamed_and_deleted(project: str, tmp_path: Path) -> None:
    with Stamped() as there, running("web"):
        lxc("launch", "bb", "web", "--project", project)
        with watching(LXCPATH, there.url, tmp_path, "--interval", "1h"):
            default, demo = Told(there, "web"), Told(there, "demo_web")
            default.next(GOOD)
            demo.next(GOOD)
            lxc("stop", "-f", "web", "--project", project)
            demo.next(BAD)
            insist("rename", "web", "www", "--project", project)
            renamed = Told(there, "demo_www")
            renamed.next(BAD)
            demo.last("demo_web")
            insist("start", "www", "--project", project)
            renamed.next(GOOD)
            insist("delete", "-f", "www", "--project", project)
            renamed.last("demo_www")
            default.next()
        insist("delete", "-f", "web")  # while nobody watches
        with watching(LXCPATH, there.url, tmp_path, "--interval", "1h"):
            default.last("web")
        lxc("launch", "bb", "web")  # as the end of this block deletes it
