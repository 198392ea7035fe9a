"""As an ordinary user: what may be read is judged, what may not is said, and nothing of it is OK."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
import sensu_plugin

from tests.plugins.running import NAMES, PLUGINS, Output
from tests.plugins.trees import LXC, MIB, Container, Tree

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
Run = Callable[..., Output]


@pytest.fixture(scope="module")
def readable() -> Iterator[Path]:
    """Plugins and sensu_plugin where nobody may read them; pytest's own folders are root's."""
    folder = Path(tempfile.mkdtemp(prefix="as-nobody-"))
    folder.chmod(0o755)
    site = os.path.dirname(os.path.dirname(sensu_plugin.__file__))
    for package in ("sensu_plugin", "requests", "urllib3", "certifi", "idna", "charset_normalizer"):
        if os.path.isdir(f"{site}/{package}"):
            shutil.copytree(f"{site}/{package}", folder / "site" / package)
    shutil.copytree(PLUGINS, folder / "plugins")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def nobodys_tree(readable: Path) -> Iterator[Tree]:
    folder = Path(tempfile.mkdtemp(dir=readable))
    folder.chmod(0o755)
    yield Tree(folder, "v2")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def python(readable: Path) -> str:
    """An interpreter that nobody may run: pyenv's below /root is not one."""
    environment = {"PYTHONPATH": str(readable / "site")}
    for candidate in (sys.executable, "/usr/bin/python3"):
        try:
            done = subprocess.run(
                [candidate, "-c", "import sensu_plugin"], user=NOBODY, env=environment, capture_output=True
            )
        except OSError:
            continue
        if done.returncode == 0:
            return candidate
    pytest.skip("no Python here that nobody may run")


@pytest.fixture
def as_nobody(python: str, readable: Path, nobodys_tree: Tree) -> Run:
    def run(script: str, *arguments: str) -> Output:
        line = [python, str(readable / "plugins" / script), "--root", str(nobodys_tree.root), *arguments]
        environment = {"PYTHONPATH": str(readable / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            line,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            text=True,
            env=environment,
            cwd="/",
            timeout=30,
        )
        output = Output(script, done.returncode, done.stdout, done.stderr)
        return output.well_formed() if script in NAMES else output

    return run


MEMORY, STATE = "check_container_memory.py", "check_container_state.py"


def test_what_may_be_read_is_judged(nobodys_tree: Tree, as_nobody: Run) -> None:
    nobodys_tree.container("full", usage=63 * MIB).definition.chmod(0o770)
    nobodys_tree.container("ice", frozen=True).definition.chmod(0o770)
    nobodys_tree.container("off", running=False).definition.chmod(0o770)
    assert "full: 63.0 MiB used" in as_nobody(MEMORY).first
    assert as_nobody(MEMORY, "-n", "full").status == 2
    done = as_nobody(STATE)
    assert done.status == 2
    assert "ice: FROZEN" in done.out
    assert "off: STOPPED" in done.out
    assert as_nobody(STATE, "-n", "full").status == 0
    assert as_nobody(STATE, "-n", "off", "--expect", "STOPPED").status == 0, "LXC's 0770 shows that it is there"


@pytest.mark.parametrize("mode", [0o700, 0o711])
def test_an_lxcpath_that_may_not_be_listed(nobodys_tree: Tree, as_nobody: Run, mode: int) -> None:
    nobodys_tree.container("web", usage=10 * MIB)
    nobodys_tree.container("off", running=False)
    nobodys_tree.at(LXC).chmod(mode)
    done = as_nobody(STATE)
    assert done.status == 3, "stopped containers may be missing"
    assert "run as root, or name the containers" in done.out
    assert as_nobody(STATE, "-n", "web").status == 0
    done = as_nobody(MEMORY)
    assert (done.status, "run as root" in done.first) == (0, True), "a stopped container has no memory"


def test_a_name_that_cannot_be_looked_up(nobodys_tree: Tree, as_nobody: Run) -> None:
    nobodys_tree.container("web", usage=MIB)
    nobodys_tree.at(LXC).chmod(0o700)
    done = as_nobody(STATE, "-n", "misspelt")
    assert (done.status, "can't be read by this user" in done.first) == (2, True)
    assert as_nobody(STATE, "-n", "misspelt", "--expect", "STOPPED").status == 3
    assert as_nobody(STATE, "-n", "misspelt", "--expect", "FROZEN").status == 3
    assert as_nobody(MEMORY, "-n", "misspelt").status == 3


def test_nothing_may_be_seen(nobodys_tree: Tree, as_nobody: Run) -> None:
    nobodys_tree.container("off", running=False)
    nobodys_tree.at(LXC).chmod(0o700)
    assert as_nobody(STATE).status == 3
    assert as_nobody(MEMORY).status == 3


@pytest.mark.parametrize("file", ["memory.current", "memory.stat", "memory.max"])
def test_a_file_that_may_not_be_read(nobodys_tree: Tree, as_nobody: Run, file: str) -> None:
    web = nobodys_tree.container("web", usage=10 * MIB)
    nobodys_tree.container("full", usage=64 * MIB)
    web.file(file).chmod(0o600)
    done = as_nobody(MEMORY, "-n", "web")
    assert (done.status, "Permission denied" in done.first, file in done.first) == (3, True, True)
    assert as_nobody(MEMORY).status == 2, "the other one is seen"


@pytest.mark.parametrize("file", ["cgroup.events"])
def test_a_state_that_may_not_be_read(nobodys_tree: Tree, as_nobody: Run, file: str) -> None:
    nobodys_tree.container("web").file(file).chmod(0o600)
    assert as_nobody(STATE).status == 3


def test_hidepid(nobodys_tree: Tree, as_nobody: Run) -> None:
    """Other users' processes are hidden: the name tells while it is the only one, and nothing is guessed."""
    plain = nobodys_tree.container("plain", usage=10 * MIB)
    other = nobodys_tree.container("plain", "/srv/lxc", suffix="-1", usage=60 * MIB)
    alone = nobodys_tree.container("alone", usage=10 * MIB)
    for one in (plain, other, alone):
        nobodys_tree.at(f"/proc/{one.monitor}").chmod(0o700)
        nobodys_tree.at(f"/proc/{one.init}").chmod(0o700)
    assert as_nobody(MEMORY, "-n", "alone").status == 0
    done = as_nobody(MEMORY, "-n", "plain")
    assert done.status == 3
    assert "can't be told" in done.out


@pytest.mark.parametrize(
    "hidden", ["/proc", "/proc/1/net", "/proc/1/mountinfo", "/sys/fs/cgroup", "/sys/fs/cgroup/lxc.payload.web"]
)
def test_a_hidden_place_is_never_ok(nobodys_tree: Tree, as_nobody: Run, hidden: str) -> None:
    nobodys_tree.container("web", usage=10 * MIB)
    nobodys_tree.at(hidden).chmod(0o700 if nobodys_tree.at(hidden).is_dir() else 0o600)
    for script in (MEMORY, STATE):
        done = as_nobody(script)
        assert done.status == 3
        assert "Permission denied" in done.out


STOPPED = ("--expect", "STOPPED")


@pytest.mark.parametrize("hidepid", [False, True])
class TestOrphans:
    """Cgroups are everybody's to see, with hidepid as without. What an unreadable config names freely has its init."""

    def hide(self, tree: Tree, *containers: Container, hidepid: bool) -> None:
        for one in containers:
            one.definition.chmod(0o770)
            for pid in (one.monitor, one.init) if hidepid else ():
                if tree.at(f"/proc/{pid}").exists():
                    tree.at(f"/proc/{pid}").chmod(0o700)

    @pytest.mark.parametrize("family", ["lxc.payload.", "scope", "lxc@.service", "dir", "pattern"])
    def test_one_is_seen_where_lxc_named_its_cgroup(
        self, nobodys_tree: Tree, as_nobody: Run, family: str, hidepid: bool
    ) -> None:
        web = nobodys_tree.container("web", family=family, socket=False)
        self.hide(nobodys_tree, web, hidepid=hidepid)
        done = as_nobody(STATE, *STOPPED)
        assert (done.status, "runs on without its monitor" in done.first) == (2, True), done.out

    def test_one_may_be_where_its_config_says(self, nobodys_tree: Tree, as_nobody: Run, hidepid: bool) -> None:
        config = "lxc.cgroup.dir.container = tenants/web\n"
        web = nobodys_tree.container("web", family="limit+inner", socket=False, config=config)
        self.hide(nobodys_tree, web, hidepid=hidepid)
        done = as_nobody(STATE, *STOPPED)
        assert done.status == 3, done.out
        assert "processes run in /sys/fs/cgroup/tenants/web, which may be its own" in done.first
        assert "run as root" in done.first
        assert as_nobody(STATE).status == 2, "it is bad either way where it should run"
        web.definition.chmod(0o755)
        assert as_nobody(STATE, *STOPPED).status == 2

    def test_a_cgroup_that_may_not_be_listed_may_hide_one(
        self, nobodys_tree: Tree, as_nobody: Run, hidepid: bool
    ) -> None:
        off = nobodys_tree.container("off", running=False)
        self.hide(nobodys_tree, off, hidepid=hidepid)
        nobodys_tree.cgroup("/user.slice/user-7.slice/session-1.scope", usage=1, limit=None)
        nobodys_tree.at("/sys/fs/cgroup/user.slice/user-7.slice").chmod(0o700)
        done = as_nobody(STATE, *STOPPED)
        assert (done.status, "user-7.slice: Permission denied" in done.first) == (3, True), done.out

    def test_a_stopped_one_is_ok_where_no_other_init_runs(
        self, nobodys_tree: Tree, as_nobody: Run, hidepid: bool
    ) -> None:
        off = nobodys_tree.container("off", running=False)
        run = nobodys_tree.container("run")
        self.hide(nobodys_tree, off, run, hidepid=hidepid)
        if hidepid:
            nobodys_tree.at("/proc/1/status").chmod(0o600)
        done = as_nobody(STATE, "-n", "off", *STOPPED)
        hidden = "its config can't be read by this user, and the processes of others are hidden"
        assert (done.status, hidden in done.first) == ((3, True) if hidepid else (0, False)), done.out
        if not hidepid:
            nobodys_tree.process(7000, 1, "/sbin/init", "/tenants/anybody", inside=1)
            done = as_nobody(STATE, "-n", "off", *STOPPED)
            assert (done.status, "/tenants/anybody, which may be its own" in done.first) == (3, True), done.out
        off.definition.chmod(0o755)
        assert as_nobody(STATE, "-n", "off", *STOPPED).status == 0
        assert "config" not in as_nobody(STATE).first


def test_autostart_needs_the_config(nobodys_tree: Tree, as_nobody: Run) -> None:
    web = nobodys_tree.container("web", config="lxc.start.auto = 1\n")
    assert as_nobody(STATE, "--autostart-only").status == 0
    web.definition.chmod(0o770)
    done = as_nobody(STATE, "--autostart-only")
    assert (done.status, "Permission denied" in done.first) == (3, True)


def test_an_lxc_conf_that_may_not_be_read(nobodys_tree: Tree, as_nobody: Run) -> None:
    nobodys_tree.container("web")
    nobodys_tree.write("/etc/lxc/lxc.conf", "lxc.lxcpath = /srv/lxc\n").chmod(0o600)
    nobodys_tree.container("other", "/srv/lxc", running=False)
    assert as_nobody(STATE).status == 3


def test_a_directory_that_can_not_be_listed_is_no_empty_one(as_nobody: Run, nobodys_tree: Tree) -> None:
    nobodys_tree.write("/proc/loadavg", "1.50 2.50 3.50 2/345 6789\n")
    folder = nobodys_tree.root / "srv/lxc"
    folder.mkdir(parents=True)
    assert as_nobody("metrics_container.py", "-P", "/srv/lxc").status == 0
    assert as_nobody("check_host_capacity.py", "-P", "/srv/lxc", "--disk-critical", "100%").status in (0, 1)
    folder.chmod(0o700)
    done = as_nobody("metrics_container.py", "-P", "/srv/lxc")
    assert (done.status, "srv/lxc: Permission denied; run as root, or name the containers with -n" in done.out) == (
        3,
        True,
    )
    done = as_nobody("check_host_capacity.py", "-P", "/srv/lxc", "--disk-critical", "100%")
    assert done.status == 3
    assert "not all containers can be counted" in done.first
    assert "srv/lxc: Permission denied; run as root, or name another directory with -P" in done.out
