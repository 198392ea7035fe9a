"""What the plugins' tests share: made hosts, and the scripts run as Sensu would run them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.plugins.running import Output, run
from tests.plugins.trees import Tree

# The same examples each time: a red build is a change of ours. `--hypothesis-profile=search` looks for new ones.
settings.register_profile(
    "house",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("search", settings.get_profile("house"), derandomize=False, max_examples=2000)
settings.load_profile("house")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """pytest's own keeps each tree of three sessions, and takes 20 s to remove the files of the fourth."""
    folder = tempfile.mkdtemp(prefix="sensu-lxc-")
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["v1", "v1-joined", "hybrid", "v2"])
def any_tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    """The same test on every layout of cgroups."""
    return Tree(tmp_path, request.param)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A host with cgroup v2."""
    return Tree(tmp_path, "v2")


@pytest.fixture
def memory() -> Callable[..., Output]:
    """check_container_memory.py on a tree."""
    return lambda tree, *arguments, **how: run("check_container_memory.py", tree, *arguments, **how)


@pytest.fixture
def state() -> Callable[..., Output]:
    """check_container_state.py on a tree."""
    return lambda tree, *arguments, **how: run("check_container_state.py", tree, *arguments, **how)
