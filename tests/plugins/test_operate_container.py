"""operate_container without containers: what is done in which state, how often, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import operate_container
import pytest
from sensu_lxc import acting, action, commands, deeds, states
from sensu_lxc.acting import Refused
from sensu_lxc.host import Host
from sensu_lxc.inventory import Container
from sensu_lxc.owned import CannotAct
from sensu_lxc.plugin import Misuse
from sensu_lxc.states import State

from tests.plugins.running import PLUGINS, run
from tests.plugins.trees import Tree

HERE = Container("web", "/var/lib/lxc", True, True, "web")


class TestOptions:
    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["start"],
            ["restart"],
            ["thaw", "--exclude=web"],
            ["stop", "-n", "web"],
            ["start", "thaw", "-n", "web"],
            ["start", "-n", ""],
            ["start", "-n", "web", "--at-most=0/1h"],
            ["start", "-n", "web", "--at-most=3"],
            ["start", "-n", "web", "--root=/"],
            ["start", "-n", "web", "--autostart"],
            ["start", "-n", "web", "--state-dir=x"],
            ["restart", "-n", "web", "--stop-timeout=60s"],
            ["restart", "-n", "web", "--timeout=45s"],
            ["start", "-n", "web", "-P", "relative"],
        ],
    )
    def test_a_command_line_that_is_refused(self, arguments: list[str]) -> None:
        with pytest.raises(Misuse) as caught:
            operate_container.OperateContainer(arguments)
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize(
        "arguments", [["start", "--autostart-only"], ["thaw", "-n", "*"], ["restart", "-n", "a", "--timeout=50s"]]
    )
    def test_one_that_is_not(self, arguments: list[str]) -> None:
        assert operate_container.OperateContainer(arguments).options.action == arguments[0]

    def test_misuse_is_one_unknown_line(self) -> None:
        done = run("operate_container.py", None, "start")
        assert (done.status, done.out.count("\n"), done.err) == (3, 1, "")
        assert "golden images" in done.out

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
    @pytest.mark.parametrize("line", ["operate_container.py start -n web", "grow_container_memory.py --max 2G"])
    def test_nobody_is_told_what_to_do(self, line: str) -> None:
        """In a process that became nobody once all was imported: the checkout need not be readable by others."""
        script, *arguments = line.split()
        code = (
            f"import os, sys; sys.path.insert(0, {str(PLUGINS)!r}); sys.argv = {[script, *arguments]!r}\n"
            f"import {script[:-3]} as it\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534); it.main()\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd="/")
        assert (done.returncode, done.stdout.count("\n"), done.stderr) == (3, 1, ""), done
        assert "UNKNOWN: user 65534 may not change containers: run it as root, for example sudo -n " in done.stdout
        assert f"/etc/sensu/plugins/{script}" in done.stdout


class TestWhat:
    @pytest.mark.parametrize(
        ("wish", "seen", "todo"),
        [
            ("start", "STOPPED", "start"), ("start", "RUNNING", ""),
            ("restart", "STOPPED", "start"), ("restart", "RUNNING", "restart"),
            ("thaw", "FROZEN", "thaw"), ("thaw", "RUNNING", ""), ("thaw", "STOPPED", ""),
        ],
    )  # fmt: skip
    def test_is_done(self, wish: str, seen: str, todo: str) -> None:
        assert operate_container.what(wish, State(seen)) == todo

    @pytest.mark.parametrize("wish", operate_container.ACTIONS)
    @pytest.mark.parametrize(
        ("seen", "words"),
        [
            (State(states.ORPHANED, "/sys/fs/cgroup/x"), "run on without their monitor, in /sys/fs/cgroup/x"),
            (State("RUNNING", beside="/sys/fs/cgroup/y"), "run on without their monitor, in /sys/fs/cgroup/y"),
            (State("STOPPED", beside="/sys/fs/cgroup/y"), "end those first"),
            (State(states.UNRESPONSIVE, "pid 7"), r"\(pid 7\), and LXC's tools hang on it: continue it"),
        ],
    )
    def test_is_refused(self, wish: str, seen: State, words: str) -> None:
        with pytest.raises(Refused, match=words):
            operate_container.what(wish, seen)

    @pytest.mark.parametrize("wish", ["start", "restart"])
    def test_what_is_frozen_is_not_started(self, wish: str) -> None:
        with pytest.raises(Refused, match="operate_container.py thaw"):
            operate_container.what(wish, State("FROZEN"))


class TestDeeds:
    def test_are_remembered_for_each_container(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        memory = deeds.Deeds(Host(), str(tmp_path), "X")
        assert memory.since("/a/web", 60) == []
        memory.note("/a/web")
        memory.note("/a/web")
        first, second = deeds.Deeds(Host(), str(tmp_path), "X").since("/a/web", 60)
        assert 0 <= first <= second < 5
        assert memory.since("/a/db", 60) == []
        assert deeds.Deeds(Host(), str(tmp_path), "Y").since("/a/web", 60) == []
        memory.forget_last("/a/web")
        assert len(memory.since("/a/web", 60)) == 1

    def test_only_those_of_late_count(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tmp_path.chmod(0o700)
        memory = deeds.Deeds(Host(), str(tmp_path), "X")
        for now in (1000.0, 1500.0, 1900.0):
            monkeypatch.setattr(deeds, "_now", lambda now=now: now)
            memory.note("/a/web")
        assert memory.since("/a/web", 600) == [0.0, 400.0]
        # Of a clock that went back nothing is believed.
        monkeypatch.setattr(deeds, "_now", lambda: 10.0)
        assert memory.since("/a/web", 600) == []

    @pytest.mark.parametrize("damage", [b"", b"x", b"sensu-lxc deeds 1\n'b'\n'/a/web'\n12\n"])
    def test_damaged_ones_are_none(self, tmp_path: Path, damage: bytes) -> None:
        tmp_path.chmod(0o700)
        memory = deeds.Deeds(Host(), str(tmp_path), "X")
        memory.note("/a/web")
        (file,) = tmp_path.iterdir()
        file.write_bytes(damage)
        assert memory.since("/a/web", 60) == []

    def test_of_another_boot_are_none(self, tmp_path: Path, tree: Tree) -> None:
        tmp_path.chmod(0o700)
        deeds.Deeds(Host(), str(tmp_path / "state"), "X").note("/a/web")
        assert deeds.Deeds(Host(str(tree.root)), str(tmp_path / "state"), "X").since("/a/web", 60) == []


class TestAbove:
    def test_who_keeps_it_frozen(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path, "v2")
        tree.container("web", family="dir")
        tree.write("/sys/fs/cgroup/tenants/cgroup.freeze", "1\n")
        tree.write("/sys/fs/cgroup/tenants/gold/cgroup.freeze", "0\n")
        host = Host(str(tree.root))
        directory = "/sys/fs/cgroup/tenants/gold/lxc.payload.web"
        found = operate_container.above(host, directory, "/sys/fs/cgroup", "cgroup.freeze")
        assert list(found) == ["/sys/fs/cgroup/tenants"]


class FakeWork:
    """What programs would be run, and how they end."""

    def __init__(self, *statuses: int) -> None:
        self.statuses, self.ran, self.lxc = list(statuses), [], ""  # type: ignore[var-annotated]

    def run(self, argv: list[str], **how: Any) -> commands.Finished:
        self.ran.append(" ".join(argv))
        return commands.Finished(self.statuses.pop(0), b"", "")

    def heard(self) -> str:
        return "CT is locked"

    def start(self, log: str) -> None:
        self.lxc = log


class TestProxmox:
    """Which writes LXC's config at its own start: of lxc-start it would know nothing, nor of a memory that grew."""

    @pytest.fixture(autouse=True)
    def proxmox(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "101.conf").touch()
        monkeypatch.setattr(operate_container, "_PROXMOX", str(tmp_path))

    CT = Container("101", "/var/lib/lxc", True, True, "101")

    def test_starts_and_stops_its_own(self) -> None:
        work = FakeWork(0, 0)
        assert operate_container.restart(self.CT, work, "log", 30)  # type: ignore[arg-type]
        assert work.ran == ["pct shutdown 101 --timeout 30", "pct start 101"]

    def test_what_does_not_shut_down_is_killed(self) -> None:
        work = FakeWork(255, 0, 0)
        assert not operate_container.restart(self.CT, work, "log", 30)  # type: ignore[arg-type]
        assert work.ran == ["pct shutdown 101 --timeout 30", "pct stop 101", "pct start 101"]

    def test_its_no_is_told(self) -> None:
        with pytest.raises(CannotAct, match="pct start failed with status 255: CT is locked"):
            operate_container.start(self.CT, FakeWork(255), "log")  # type: ignore[arg-type]

    def test_others_are_lxcs(self) -> None:
        work = FakeWork()
        operate_container.start(HERE, work, "log")  # type: ignore[arg-type]
        assert (work.ran, work.lxc) == ([], "log")


class TestTrust:
    def at(self, path: Path) -> Container:
        return Container("web", str(path), True, True, "web")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give away")
    def test_root_starts_nothing_of_others(self, tmp_path: Path) -> None:
        action.check_trusted(self.at(tmp_path))
        os.chown(tmp_path, 1234, -1)
        with pytest.raises(Refused, match="belongs to user 1234"):
            action.check_trusted(self.at(tmp_path))

    @pytest.mark.skipif(os.geteuid() != 0, reason="looks at what root owns")
    def test_nor_of_everybody(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o1777)
        with pytest.raises(Refused, match="can be written by everybody"):
            action.check_trusted(self.at(tmp_path))


def test_names_where_to_look() -> None:
    assert operate_container.log_of(Container("w", "/srv/lxc", True, True, "w")) == "/srv/lxc/w/w.log"
    assert operate_container.log_of(Container("w", "/var/lib/incus/containers", True, True, "w")).startswith(
        "/var/log/inc"
    )
    assert acting.PROOF_SECONDS >= 0.2
