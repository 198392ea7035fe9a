"""Both ways of installation, as a user would do them: copied with only the two dependencies there, and by pip."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
RECORDED = ROOT / "tests/recordings/demo-host/before"
SCRIPTS = {path.name: path.parent.name for folder in ("plugins", "handlers") for path in (ROOT / folder).glob("*.py")}


def run(*argv: "str | Path", **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [*map(str, argv)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        cwd="/",
        env={**inherited, **environment},
    )


def check_works(python: "list[str | Path]", scripts: Path) -> None:
    """The main job of each script, from that folder."""
    done = run(*python, scripts / "check_container_memory.py", "--root", RECORDED)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith("CheckContainerMemory CRITICAL: web1: 47.8 MiB used, 99.6% of 48.0 MiB")
    done = run(*python, scripts / "check_container_state.py", "--root", RECORDED)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A virtual environment with pip and nothing else."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    yield folder


def pip(environment: Path, *arguments: "str | Path") -> None:
    done = run(environment / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments)
    assert done.returncode == 0, done.stderr


def test_copied_with_only_the_two_dependencies(environment: Path, tmp_path: Path) -> None:
    pip(environment, "sensu-plugin==0.8.0", "requests")
    python = environment / "bin/python"
    for folder in ("plugins", "handlers"):
        subprocess.run(["cp", "-r", f"{ROOT}/{folder}/.", tmp_path / folder], check=True)
    check_works([python], tmp_path / "plugins")
    for name, folder in SCRIPTS.items():
        done = run(python, tmp_path / folder / name, "--help")
        assert (done.returncode, done.stderr) == (0, ""), name
    listed = run(python, "-m", "pip", "list", "--format=freeze").stdout
    assert "sensu-lxc" not in listed


def test_without_sensu_plugin_the_check_says_what_to_install(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    done = run(tmp_path / "venv/bin/python", ROOT / "plugins/check_container_memory.py")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.count("\n") == 1
    assert "UNKNOWN" in done.stdout and "pip install sensu-plugin" in done.stdout


@pytest.mark.parametrize("how", ["wheel", "editable"])
def test_installed_by_pip(how: str, environment: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info", "build"))
    pip(environment, *(["-e"] if how == "editable" else []), source)
    try:
        scripts = environment / "bin"
        for name in SCRIPTS:
            assert os.access(scripts / name, os.X_OK), f"{name} is not on PATH"
            done = run(scripts / name, "--help")
            assert (done.returncode, done.stderr) == (0, ""), name
        check_works([], scripts)
        if how == "wheel":
            shutil.rmtree(source)
            check_works([], scripts)
    finally:
        run(environment / "bin/python", "-m", "pip", "uninstall", "-q", "-y", "sensu-lxc")


def test_an_older_python_runs_it(tmp_path: Path) -> None:
    """The oldest Python that we promise, where it is at hand."""
    # pyenv's own first: what it puts on PATH for python3.9 works only where that version was chosen.
    candidates = [*map(str, Path.home().glob(".pyenv/versions/3.9*/bin/python")), "python3.9"]
    python = next(filter(None, map(shutil.which, candidates)), None)
    if python is None:
        pytest.skip("no Python 3.9 on this machine")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    pip(tmp_path / "venv", "sensu-plugin==0.8.0", "requests")
    check_works([tmp_path / "venv/bin/python"], ROOT / "plugins")
    for name, folder in SCRIPTS.items():
        done = run(tmp_path / "venv/bin/python", ROOT / folder / name, "--help")
        assert (done.returncode, done.stderr) == (0, ""), name
    assert sys.version_info >= (3, 9)
