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

from tests.plugins.running import PLUGINS, Output
from tests.plugins.trees import LXC, MIB, Tree

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
        return Output(script, done.returncode, done.stdout, done.stderr).well_formed()

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
