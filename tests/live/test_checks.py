"""Both checks on real containers, in states that existing plugins get wrong: each told right, none OK wrongly."""

import contextlib
import functools
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.containers import busybox, wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.usefixtures("requires_lxc")
MIB = 1 << 20


def check(script: str, *arguments: str, user: "int | None" = None, python: str = sys.executable, **environment: str):
    """(exit status, output) of a check; it must never write to stderr or show a traceback."""
    done = subprocess.run(
        [python, str(ROOT / f"plugins/check_container_{script}.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
        cwd="/",
        env={**os.environ, **environment},
    )
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout


@pytest.fixture
def nobody() -> "Iterator[tuple[int, str, dict[str, str]]]":
    """How to run a check as nobody, who may read neither /root nor perhaps this checkout: a drop-in copy."""
    if subprocess.run(["/usr/bin/python3", "-c", "import requests"], capture_output=True).returncode not in (0, 1):
        pytest.skip("no /usr/bin/python3 that every user may run")
    import sensu_plugin

    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        shutil.copytree(os.path.dirname(sensu_plugin.__file__), f"{folder}/site/sensu_plugin")
        shutil.copytree(ROOT / "plugins", f"{folder}/plugins", ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        yield 65534, f"{folder}/plugins", {"PYTHONPATH": f"{folder}/site"}


def as_nobody(nobody, script: str, *arguments: str):
    uid, folder, environment = nobody
    done = subprocess.run(
        ["/usr/bin/python3", f"{folder}/check_container_{script}.py", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        user=uid,
        group=uid,
        extra_groups=[],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout


# Memory


def test_memory_over_its_limit_is_critical_and_within_it_is_ok():
    with busybox(limit_bytes=64 * MIB) as container:
        status, output = check("memory", "-n", container.name)
        assert (status, "of 64.0 MiB" in output) == (0, True), output
        container.fill(59 * MIB)
        status, output = check("memory", "-n", container.name)
        assert status == 2, output
        assert re.search(r"\d\d\.\d% of 64\.0 MiB \(critical at 90%\)", output)
        used = int(re.search(r"_used=(\d+)B", output)[1])
        assert 59 * MIB <= used <= 64 * MIB
        container.empty()
        assert check("memory", "-n", container.name)[0] == 0


def test_page_cache_is_not_used_memory():
    with busybox(limit_bytes=64 * MIB) as container:
        container.fill_cache(61 * MIB)
        assert check("memory", "-n", container.name, "--metric", "usage")[0] == 2
        status, output = check("memory", "-n", container.name)
        assert status == 0, output


def test_anonymous_memory_is_used_memory():
    with busybox(limit_bytes=64 * MIB) as container, container.hold(59 * MIB):
        assert check("memory", "-n", container.name)[0] == 2
        assert check("memory", "-n", container.name, "--metric", "working-set")[0] == 2


def test_absolute_thresholds_need_no_limit():
    with busybox() as container:
        container.fill(20 * MIB)
        assert check("memory", "-n", container.name, "-w", "10M", "-e", "1G")[0] == 1
        assert check("memory", "-n", container.name, "-w", "5M", "-e", "10M")[0] == 2
        assert check("memory", "-n", container.name, "-w", str(100 * MIB))[0] == 0


def test_a_percentage_without_a_limit_is_ok_and_says_so():
    with busybox() as container:
        status, output = check("memory", "-n", container.name, "-w", "1%")
        assert (status, "no limit set, so no percentage of it" in output) == (0, True)
        container.fill(64 * MIB)
        status, output = check("memory", "-n", container.name, "-w", "0.1%", "--unlimited-as", "host")
        assert (status, "of the host" in output) == (1, True)


def test_a_nested_cgroup_that_runs_out_counts_for_its_container():
    with busybox(limit_bytes=64 * MIB) as container:
        nested = f"{container.cgroup('memory')}/nested"
        os.mkdir(nested)
        try:
            with container.hold(58 * MIB):
                holder = max(map(int, Path(container.cgroup("memory"), "cgroup.procs").read_text().split()))
                Path(nested, "cgroup.procs").write_text(str(holder))
                status, output = check("memory", "-n", container.name)
                assert status == 2, output
        finally:
            for pid in Path(nested, "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    Path(container.cgroup("memory"), "cgroup.procs").write_text(pid)
            wait_until(lambda: _removed(nested), 5, "the nested cgroup to be removable")


def _removed(directory: str) -> bool:
    with contextlib.suppress(OSError):
        os.rmdir(directory)
    return not os.path.isdir(directory)


def test_a_nested_oom_kill_leaves_the_container_measured():
    with busybox(limit_bytes=64 * MIB) as container:
        with pytest.raises(MemoryError), container.hold(200 * MIB):
            pass
        assert check("memory", "-n", container.name)[0] == 0
        assert check("state", "-n", container.name)[0] == 0


@contextlib.contextmanager
def left_over_cgroup(name: str) -> "Iterator[None]":
    """An empty directory of an earlier start in one hierarchy: LXC takes NAME-1 in all of them."""
    mount = "/sys/fs/cgroup/memory" if os.path.isdir("/sys/fs/cgroup/memory") else "/sys/fs/cgroup"
    stale = f"{mount}/lxc.payload.{name}"
    os.mkdir(stale)
    try:
        yield
    finally:
        wait_until(lambda: _removed(stale), 5, "the left-over cgroup to be removable")


def test_a_left_over_cgroup_does_not_hide_the_real_one():
    with busybox(limit_bytes=64 * MIB, start=False) as container, left_over_cgroup(container.name):
        container.start()
        assert container.cgroup("memory").endswith(f"lxc.payload.{container.name}-1")
        container.fill(59 * MIB)
        status, output = check("memory", "-n", container.name)
        assert status == 2, output
        assert check("state", "-n", container.name)[0] == 0
        container.freeze_outside()
        assert check("state", "-n", container.name)[0] == 2
        container.thaw_outside()


def test_a_real_numbered_twin_is_not_mistaken():
    with (
        busybox(limit_bytes=64 * MIB) as web,
        busybox(name=f"{web.name}-1", limit_bytes=64 * MIB) as twin,
    ):
        twin.fill(59 * MIB)
        assert check("memory", "-n", web.name)[0] == 0
        status, output = check("memory", "-n", twin.name)
        assert status == 2, output
        assert check("memory", "-n", f"{web.name}*")[1].count("\nCRITICAL") == 1


def test_the_same_name_in_two_lxcpaths():
    with tempfile.TemporaryDirectory(dir="/srv") as other, busybox(limit_bytes=64 * MIB) as here:
        os.chmod(other, 0o755)
        with busybox(name=here.name, lxcpath=other, limit_bytes=64 * MIB) as there:
            there.fill(59 * MIB)
            status, output = check("memory", "-n", here.name)
            assert status == 2, output
            assert f"{other}/{there.name}" in output.splitlines()[0]
            assert check("memory", "-n", here.name, "-P", "/var/lib/lxc")[0] == 0
            assert check("memory", "-n", here.name, "-P", other)[0] == 2
            assert check("state", "-n", here.name)[0] == 0


def test_an_over_long_lxcpath_has_a_hashed_socket():
    with tempfile.TemporaryDirectory(dir="/srv", prefix="x" * 90) as folder:
        os.chmod(folder, 0o755)
        with busybox(lxcpath=folder) as container:
            assert f"@{folder}" not in Path("/proc/net/unix").read_text()
            status, output = check("state", "-P", folder)
            assert (status, container.name in output) == (0, True), output
            assert check("memory", "-P", folder, "-n", container.name)[0] == 0


def test_a_stopped_container_is_unknown_to_the_memory_check():
    with busybox(start=False) as container:
        status, output = check("memory", "-n", container.name)
        assert (status, "is not running" in output) == (3, True)


def test_a_missing_container():
    status, output = check("memory", "-n", "no-such-container")
    assert (status, "no such container" in output) == (3, True)
    status, output = check("state", "-n", "no-such-container")
    assert (status, "does not exist" in output) == (2, True)
    status, output = check("state", "-n", "no-such-*")
    assert (status, "matches no container" in output) == (3, True)


def test_a_container_that_is_removed_during_the_run():
    """Started, stopped and removed while checks run again and again: no traceback, never OK for what is gone."""
    ended = threading.Event()
    with busybox() as stays, busybox() as goes:

        def churn() -> None:
            for _ in range(3):
                goes.stop()
                goes.start()
            goes.destroy()
            ended.set()

        thread = threading.Thread(target=churn)
        thread.start()
        while not ended.is_set():
            for script in ("memory", "state"):
                status, output = check(script, "-n", f"{stays.name},{goes.name}")
                assert (script, status) != ("state", 3), output
                if status == 0:
                    assert f"{goes.name}_used=" in output or script == "state", output
            status, output = check("memory", "-n", stays.name)
            assert status == 0, output
        thread.join()
        assert check("state", "-n", goes.name)[0] == 2
        assert check("memory", "-n", goes.name)[0] == 3


# State


def test_running_stopped_and_what_is_expected():
    with busybox() as container:
        assert check("state", "-n", container.name)[0] == 0
        status, output = check("state", "-n", container.name, "--expect", "STOPPED")
        assert (status, "RUNNING, expected STOPPED" in output) == (2, True)
        container.stop()
        status, output = check("state", "-n", container.name)
        assert (status, "STOPPED, expected RUNNING" in output) == (2, True)
        assert check("state", "-n", container.name, "--expect", "STOPPED")[0] == 0


def test_frozen_by_lxc_and_from_outside():
    with busybox() as container:
        subprocess.run(["lxc-freeze", "-n", container.name], check=True, timeout=10)
        status, output = check("state", "-n", container.name)
        assert (status, "FROZEN, expected RUNNING" in output) == (2, True), output
        assert check("state", "-n", container.name, "--expect", "FROZEN")[0] == 0
        subprocess.run(["lxc-unfreeze", "-n", container.name], check=True, timeout=10)
        container.freeze_outside()
        said = subprocess.run(["lxc-info", "-n", container.name, "-sH"], capture_output=True, text=True, timeout=10)
        status, output = check("state", "-n", container.name)
        assert (status, "FROZEN (frozen from outside LXC)" in output) == (2, True), (output, said.stdout)
        assert check("memory", "-n", container.name)[0] == 0
        container.thaw_outside()
        assert check("state", "-n", container.name)[0] == 0


def test_a_stopped_monitor_is_said_within_the_time_bound():
    with busybox() as hung, busybox() as well:
        hung.stop_monitor()
        began = time.monotonic()
        status, output = check("state", "-n", f"{hung.name},{well.name}", "--timeout", "5s")
        assert time.monotonic() - began < 5
        assert status == 2
        assert f"{hung.name}: monitor unresponsive (pid {hung.monitor_pid}, which was stopped by a signal)" in output
        assert "1 more OK" in output
        assert check("memory", "-n", f"{hung.name},{well.name}")[0] == 0
        hung.continue_monitor()
        assert check("state", "-n", hung.name)[0] == 0


def test_ten_stopped_monitors_take_no_longer_than_one():
    with contextlib.ExitStack() as stack:
        containers = [stack.enter_context(busybox()) for _ in range(10)]
        for container in containers:
            container.stop_monitor()
        began = time.monotonic()
        status, output = check("state", "-n", ",".join(container.name for container in containers))
        assert time.monotonic() - began < 5
        assert (status, output.count("CRITICAL t-")) == (2, 10), output
        for container in containers:
            container.continue_monitor()


def test_a_payload_without_its_monitor():
    # By default the kernel kills init when the monitor dies (PR_SET_PDEATHSIG), but not under AppArmor, whose exec
    # clears that: there, as with this setting, the payload runs on.
    with busybox(config_lines=["lxc.monitor.signal.pdeath = SIGCONT"]) as container:
        container.kill_monitor()
        for expected in ("RUNNING", "STOPPED"):
            status, output = check("state", "-n", container.name, "--expect", expected)
            assert (status, "runs on without its monitor" in output) == (2, True), output
        status, output = check("memory", "-n", container.name)
        assert (status, "runs on without its monitor" in output) == (3, True), output


def test_an_orphan_is_not_measured_for_its_namesake():
    """The one's processes run on in lxc.payload.NAME, the other runs under lxc.cgroup.dir."""
    with (
        tempfile.TemporaryDirectory(dir="/srv") as other,
        busybox(config_lines=["lxc.monitor.signal.pdeath = SIGCONT"]) as orphan,
    ):
        orphan.kill_monitor()
        lines = [f"lxc.cgroup.dir = {orphan.name}-dir"]
        with busybox(name=orphan.name, lxcpath=other, limit_bytes=64 * MIB, config_lines=lines) as runs:
            runs.fill(59 * MIB)
            status, output = check("memory", "-n", runs.name, "-P", other)
            assert status == 2, output
            runs.freeze_outside()
            status, output = check("state", "-n", runs.name, "-P", other)
            assert (status, "FROZEN" in output) == (2, True), output
            runs.thaw_outside()
            status, output = check("state", "-n", orphan.name, "-P", "/var/lib/lxc", "--expect", "STOPPED")
            assert (status, "runs on without its monitor" in output) == (2, True), output
        remove_cgroups(f"{orphan.name}-dir")


def test_an_orphan_beside_the_container_that_was_started_again():
    """lxc-start starts a second copy on the same root filesystem, and to LXC all is well."""
    with busybox(config_lines=["lxc.monitor.signal.pdeath = SIGCONT"]) as container:
        orphan = container.pid
        container.kill_monitor()
        container.start()
        status, output = check("state", "-n", container.name)
        assert (status, "processes of an earlier life run on" in output) == (2, True), output
        os.kill(orphan, signal.SIGKILL)
        wait_until(lambda: check("state", "-n", container.name)[0] == 0, 10, "the orphan's end to be seen")


def remove_cgroups(name: str) -> None:
    """Remove what a test had LXC make below a directory of that name at the top of the hierarchies."""
    for directory in {*glob.glob(f"/sys/fs/cgroup/{name}"), *glob.glob(f"/sys/fs/cgroup/*/{name}")}:
        wait_until(functools.partial(_removed_with_children, directory), 5, f"{directory} to be removable")


def _removed_with_children(directory: str) -> bool:
    for parent, _, _ in os.walk(directory, topdown=False):
        _removed(parent)
    return not os.path.isdir(directory)


LET_LIVE = "lxc.monitor.signal.pdeath = SIGCONT"


@pytest.mark.parametrize("lines", [["lxc.cgroup.dir = TOP"], ["lxc.cgroup.relative = 1"]], ids=["dir", "relative"])
def test_an_orphan_is_seen_by_everybody_wherever_lxc_named_its_cgroup(nobody, lines: "list[str]"):
    name = f"t-orphan-{os.getpid()}"
    lines = [LET_LIVE, *(line.replace("TOP", f"{name}-top") for line in lines)]
    try:
        with busybox(name=name, config_lines=lines, start=False) as container:
            start_in_cgroup(container, f"{name}-top")
            assert f"/{name}-top/" in container.cgroup("freezer"), "LXC put it elsewhere"
            assert check("state", "-n", name)[0] == 0
            container.kill_monitor()
            for done in (
                check("state", "-n", name, "--expect", "STOPPED"),
                as_nobody(nobody, "state", "-n", name, "--expect", "STOPPED"),
            ):
                assert (done[0], f"-top/lxc.payload.{name}; LXC calls it STOPPED" in done[1]) == (2, True), done
    finally:
        remove_cgroups(f"{name}-top")


def start_in_cgroup(container, name: str) -> None:
    """Start it from a cgroup of that name, to which lxc.cgroup.relative is relative."""
    tops = ["/sys/fs/cgroup"]
    if not os.path.exists("/sys/fs/cgroup/cgroup.procs"):  # v1; a cpuset takes no process before it has CPUs
        tops = [top for top in glob.glob("/sys/fs/cgroup/*") if not top.endswith("/cpuset") and not os.path.islink(top)]
    move = "".join(f"mkdir -p {top}/{name} && echo $$ > {top}/{name}/cgroup.procs && " for top in tops)
    subprocess.run(["sh", "-c", f"{move} exec lxc-start -n {container.name}"], check=True, timeout=30)
    container._learn(wait_until(container._init_pid, 10, "its init"))


def test_an_orphan_in_a_cgroup_that_its_config_names_freely(nobody):
    name = f"t-free-{os.getpid()}"
    lines = [LET_LIVE, f"lxc.cgroup.dir.container = {name}-top/{name}", f"lxc.cgroup.dir.monitor = {name}-top/monitor"]
    stopped = ("state", "-n", name, "--expect", "STOPPED")
    try:
        with busybox(name=name, config_lines=lines) as container:
            container.kill_monitor()
            status, output = check(*stopped)
            assert (status, "runs on without its monitor" in output) == (2, True), output
            # Its directory is 0770, as LXC makes it.
            status, output = as_nobody(nobody, *stopped)
            assert (status, f"-top/{name}, which may be its own: its config can't be read" in output) == (3, True)
            container.kill_payload()
            assert check(*stopped)[0] == 0
            # No other container's init runs in a cgroup of a free name, unless somebody else's tests have one just now.
            status, output = as_nobody(nobody, *stopped)
            assert status == 0 or (status == 3 and "may be its own" in output), output
    finally:
        remove_cgroups(f"{name}-top")


def test_an_orphan_whose_monitors_cgroup_its_next_life_took_over():
    """The orphan is still in lxc.payload.NAME, and beside it lives the monitor of what runs elsewhere by its config."""
    name = f"t-heir-{os.getpid()}"
    try:
        with busybox(name=name, limit_bytes=64 * MIB, config_lines=[LET_LIVE]) as container:
            orphan = container.pid
            container.kill_monitor()
            remove_cgroups(f"lxc.monitor.{name}")
            with open(f"{container.directory}/config", "a") as config:
                config.write(
                    f"lxc.cgroup.dir.container = {name}-top/own\nlxc.cgroup.dir.monitor = lxc.monitor.{name}\n"
                )
            container.start()
            container.fill(59 * MIB)
            status, output = check("memory", "-n", name)
            assert (status, "MiB used, 9" in output) == (2, True), output
            status, output = check("state", "-n", name)
            assert (status, f"monitor, in /sys/fs/cgroup/freezer/lxc.payload.{name}" in output or pure_v2()) == (
                2,
                True,
            )
            assert "processes of an earlier life run on" in output
            os.kill(orphan, signal.SIGKILL)
            wait_until(lambda: check("state", "-n", name)[0] == 0, 10, "the orphan's end to be seen")
    finally:
        remove_cgroups(f"{name}-top")


def test_an_orphan_where_older_lxcs_put_payloads_is_not_measured_for_its_heir(nobody):
    """lxc/NAME is no proof: the monitor of what runs now lives elsewhere."""
    name = f"t-old-{os.getpid()}"
    then = [LET_LIVE, f"lxc.cgroup.dir.container = lxc/{name}", f"lxc.cgroup.dir.monitor = {name}-m/{name}"]
    try:
        with busybox(name=name, limit_bytes=64 * MIB, config_lines=then) as container:
            orphan = container.pid
            container.kill_monitor()
            change_config(container, r"lxc\.cgroup\.dir\..*", f"lxc.cgroup.dir = {name}-top")
            container.start()
            container.fill(59 * MIB)
            for status, output in (check("memory", "-n", name), as_nobody(nobody, "memory", "-n", name)):
                assert (status, "MiB used, 9" in output) == (2, True), output
            status, output = check("state", "-n", name)
            assert (status, "processes of an earlier life run on" in output) == (2, True), output
            os.kill(orphan, signal.SIGKILL)
            wait_until(lambda: check("state", "-n", name)[0] == 0, 10, "the orphan's end to be seen")
            container.freeze_outside()
            status, output = check("state", "-n", name)
            assert (status, "FROZEN" in output) == (2, True), output
            container.thaw_outside()
    finally:
        for top in (f"lxc/{name}", f"{name}-m", f"{name}-top"):
            remove_cgroups(top)


def change_config(container, pattern: str, *lines: str) -> None:
    with open(f"{container.directory}/config") as config:
        kept = [line for line in config if not re.match(pattern, line)]
    with open(f"{container.directory}/config", "w") as config:
        config.writelines([*kept, *(line + "\n" for line in lines)])


def test_an_orphan_of_the_life_before_the_last(nobody):
    with busybox(config_lines=[LET_LIVE]) as container:
        first = container.pid
        container.kill_monitor()
        container.start()
        second = container.pid
        container.kill_monitor()
        os.kill(first, signal.SIGKILL)
        container.start()
        for status, output in (check("state", "-n", container.name), as_nobody(nobody, "state", "-n", container.name)):
            assert (status, f"lxc.payload.{container.name}-1" in output) == (2, True), output
        os.kill(second, signal.SIGKILL)
        wait_until(lambda: check("state", "-n", container.name)[0] == 0, 10, "the orphan's end to be seen")


def test_an_orphan_beside_its_heir_below_lxc_cgroup_dir():
    name = f"t-gold-{os.getpid()}"
    try:
        with busybox(name=name, config_lines=[LET_LIVE, f"lxc.cgroup.dir = {name}-top/gold"]) as container:
            orphan = container.pid
            container.kill_monitor()
            container.start()
            status, output = check("state", "-n", name)
            assert (status, "processes of an earlier life run on" in output) == (2, True), output
            os.kill(orphan, signal.SIGKILL)
    finally:
        remove_cgroups(f"{name}-top")


def test_frozen_from_outside_below_the_cgroup_with_its_limits(nobody):
    name = f"t-inner-{os.getpid()}"
    lines = [f"lxc.cgroup.dir.container = {name}-top/own", "lxc.cgroup.dir.container.inner = in",
             f"lxc.cgroup.dir.monitor = {name}-top/monitor"]  # fmt: skip
    try:
        with busybox(name=name, config_lines=lines) as container:
            assert check("state", "-n", name)[0] == 0
            container.freeze_outside()  # where its init is
            for status, output in (check("state", "-n", name), as_nobody(nobody, "state", "-n", name)):
                assert (status, "FROZEN" in output) == (2, True), output
            container.thaw_outside()
            assert check("state", "-n", name)[0] == 0
    finally:
        remove_cgroups(f"{name}-top")


def test_processes_whose_definition_is_gone():
    with busybox(config_lines=[LET_LIVE]) as container:
        container.kill_monitor()
        directory = f"{container.directory}.gone"
        os.rename(container.directory, directory)
        try:
            status, output = check("state", "-n", container.name)
            assert (status, "its processes run on in" in output) == (2, True), output
            assert f"{container.name}: no lxcpath here defines it" in check("state", "-v")[1]
        finally:
            os.rename(directory, container.directory)
        container.kill_payload()


def test_whoever_listens_in_the_place_of_a_monitor_hides_no_orphan():
    with busybox(config_lines=[LET_LIVE]) as container, tempfile.TemporaryDirectory() as folder:
        container.kill_monitor()
        os.chown(folder, 65534, 65534)
        listen = (
            "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1].replace('@', chr(0))); "
            "s.listen(); print(flush=True); time.sleep(60)"
        )
        who = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        argv = [*who, "/usr/bin/python3", "-c", listen, f"@{folder}/{container.name}/command"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as impostor:
            try:
                assert impostor.stdout is not None and impostor.stdout.readline()
                status, output = check("state", "-n", container.name, "-P", "/var/lib/lxc", "--expect", "STOPPED")
                assert status in (2, 3) and ("processes run in" in output or "runs on" in output), output
            finally:
                impostor.kill()
        container.kill_payload()


def pure_v2() -> bool:
    return os.path.exists("/sys/fs/cgroup/cgroup.procs")


def test_an_orphan_that_was_moved_out_of_all_cgroups_but_one(nobody):
    if pure_v2():
        pytest.skip("cgroup v2 has one hierarchy only")
    with busybox(config_lines=[LET_LIVE]) as container:
        container.kill_monitor()
        for directory in glob.glob(f"/sys/fs/cgroup/*/lxc.payload.{container.name}"):
            if "/memory/" not in directory:
                for pid in open(f"{directory}/cgroup.procs").read().split():
                    with contextlib.suppress(OSError), open(f"{os.path.dirname(directory)}/cgroup.procs", "w") as procs:
                        procs.write(pid)
        for done in (
            check("state", "-n", container.name, "--expect", "STOPPED"),
            as_nobody(nobody, "state", "-n", container.name, "--expect", "STOPPED"),
        ):
            assert (done[0], f"in /sys/fs/cgroup/memory/lxc.payload.{container.name}" in done[1]) == (2, True), done
        container.kill_payload()


def test_one_name_in_two_lxcpaths_that_share_no_hierarchy():
    """Both get lxc.payload.NAME, each where the other has none: neither is measured for the other."""
    if pure_v2():
        pytest.skip("cgroup v2 leaves LXC no choice of controllers")
    with tempfile.TemporaryDirectory(dir="/srv") as other, tempfile.TemporaryDirectory() as folder:
        uses = ("freezer,memory,name=systemd", "cpu,cpuacct,pids,blkio")
        with (
            busybox(start=False, limit_bytes=64 * MIB) as one,
            busybox(name=one.name, lxcpath=other, start=False) as two,
        ):
            for container, use in zip((one, two), uses):
                etc = f"{folder}/{len(os.listdir(folder))}"
                shutil.copytree("/etc/lxc", etc)
                with open(f"{etc}/lxc.conf", "a") as conf:
                    conf.write(f"lxc.cgroup.use = {use}\n")
                # v2 is used by both where LXC finds it.
                hide = "umount /sys/fs/cgroup/unified 2>/dev/null;" if container is two else ""
                start = f"{hide} mount --bind {etc} /etc/lxc && exec lxc-start -n {one.name} -P {container.lxcpath}"
                subprocess.run(["unshare", "--mount", "sh", "-c", start], check=True, timeout=30)
                container._learn(wait_until(container._init_pid, 10, "its init"))
            assert two.cgroup("pids").endswith(f"/lxc.payload.{one.name}"), "LXC put it elsewhere"
            status, output = check("pids", "-n", one.name, "-P", "/var/lib/lxc")
            assert (status, "it has no pids cgroup of its own" in output) == (3, True), output
            status, output = check("memory", "-n", one.name, "-P", other)
            assert (status, "it has no memory cgroup of its own" in output) == (3, True), output
            printed = subprocess.run(
                [sys.executable, f"{ROOT}/plugins/metrics_container.py", "--format", "prometheus", "-n", one.name, "-P",
                 "/var/lib/lxc"], capture_output=True, text=True, timeout=30,
            ).stdout  # fmt: skip
            told = [
                line for line in printed.splitlines() if line.startswith(("lxc_container_tasks", "lxc_container_cpu"))
            ]
            assert "lxc_container_memory_used_bytes" in printed
            assert not told, told


def test_a_container_without_a_memory_cgroup_of_its_own_is_not_measured_by_its_starters():
    if not os.path.isdir("/sys/fs/cgroup/memory"):
        pytest.skip("cgroup v2 leaves LXC no choice of controllers")
    with tempfile.TemporaryDirectory() as folder, busybox(start=False) as container:
        shutil.copytree("/etc/lxc", f"{folder}/lxc")
        with open(f"{folder}/lxc/lxc.conf", "a") as conf:
            conf.write("lxc.cgroup.use = freezer,pids,name=systemd\n")
        mounted = f"mount --bind {folder}/lxc /etc/lxc && exec lxc-start -n {container.name}"
        subprocess.run(["unshare", "--mount", "sh", "-c", mounted], check=True, timeout=30)
        container._learn(wait_until(container._init_pid, 10, "its init"))
        status, output = check("memory", "-n", container.name)
        assert (status, "it has no memory cgroup of its own, but shares /" in output) == (3, True), output
        assert check("state", "-n", container.name)[0] == 0


def test_one_lxcpath_by_two_spellings():
    with tempfile.TemporaryDirectory(dir="/srv") as folder, busybox() as container:
        os.symlink("/var/lib/lxc", f"{folder}/link")
        for lxcpath in (f"{folder}/link", "/var/lib/../lib/lxc"):
            assert check("state", "-n", container.name, "-P", lxcpath)[0] == 0
            assert check("state", "-n", container.name, "-P", lxcpath, "--expect", "STOPPED")[0] == 2
            assert check("memory", "-n", container.name, "-P", lxcpath)[0] == 0


def test_a_payload_that_died_with_its_monitor_is_stopped():
    with busybox() as container:
        container.kill_monitor()
        container.wait_for_payload_to_end()
        status, output = check("state", "-n", container.name)
        assert (status, "STOPPED, expected RUNNING" in output) == (2, True), output


def test_a_reboot_from_inside():
    with busybox(limit_bytes=64 * MIB) as container:
        container.fill(59 * MIB)
        assert check("memory", "-n", container.name)[0] == 2
        container.reboot_inside()
        assert check("memory", "-n", container.name)[0] == 0
        assert check("state", "-n", container.name)[0] == 0


def test_autostart_only():
    with busybox(config_lines=["lxc.start.auto = 1"]) as starts, busybox(start=False) as rests:
        names = f"{starts.name},{rests.name}"
        assert check("state", "-n", names)[0] == 2
        assert check("state", "-n", names, "--autostart-only")[0] == 0
        status, output = check("state", "-n", rests.name, "--autostart-only")
        assert (status, "start with the host" in output) == (3, True)


def test_lxc_info_agrees():
    with busybox() as container:
        said = subprocess.run(["lxc-info", "-n", container.name, "-sH"], capture_output=True, text=True, timeout=10)
        assert said.stdout.strip() == "RUNNING"
        status, output = check("state", "-n", container.name, "-v")
        assert (status, f"OK {container.name}: RUNNING" in output) == (0, True)


# As an ordinary user


def test_nobody_sees_running_containers(nobody):
    with busybox(limit_bytes=64 * MIB) as container:
        assert as_nobody(nobody, "state", "-n", container.name)[0] == 0
        assert as_nobody(nobody, "memory", "-n", container.name)[0] == 0
        container.fill(59 * MIB)
        assert as_nobody(nobody, "memory", "-n", container.name)[0] == 2
        container.freeze_outside()
        status, output = as_nobody(nobody, "state", "-n", container.name)
        assert (status, "FROZEN" in output) == (2, True), output
        container.thaw_outside()
        container.stop_monitor()
        status, output = as_nobody(nobody, "state", "-n", container.name)
        assert (status, "monitor unresponsive" in output) == (2, True), output
        container.continue_monitor()
        container.stop()
        status, output = as_nobody(nobody, "state", "-n", container.name)
        assert (status, "STOPPED" in output) == (2, True), output
        status, output = as_nobody(nobody, "memory", "-n", container.name)
        assert (status, "is not running" in output) == (3, True), output


def test_nobody_says_what_can_not_be_seen(nobody):
    with busybox() as container:
        status, output = as_nobody(nobody, "state", "-n", container.name, "--autostart-only")
        assert status == 3
        assert "Permission denied" in output
    with tempfile.TemporaryDirectory(dir="/srv") as hidden:
        os.chmod(hidden, 0o700)
        with busybox(lxcpath=hidden) as running, busybox(lxcpath=hidden, start=False) as stopped:
            status, output = as_nobody(nobody, "state", "-P", hidden)
            assert (status, "Permission denied" in output) == (3, True), output
            assert running.name in as_nobody(nobody, "memory", "-P", hidden)[1]
            status, output = as_nobody(nobody, "state", "-P", hidden, "-n", stopped.name)
            assert status != 0, output


def test_nobody_with_a_left_over_cgroup(nobody):
    with busybox(limit_bytes=64 * MIB, start=False) as container, left_over_cgroup(container.name):
        container.start()
        container.fill(59 * MIB)
        status, output = as_nobody(nobody, "memory", "-n", container.name)
        assert status == 2, output


def test_an_impostor_is_not_taken_for_a_monitor(nobody):
    """Any user may listen on any abstract name: that alone must not make a stopped container RUNNING."""
    with busybox(start=False) as container:
        code = (
            "import os, socket, sys, time; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
            f"s.bind('\\0{container.directory}/command'); s.listen(); print('ready', flush=True); time.sleep(60)"
        )
        impostor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        try:
            assert impostor.stdout.readline() == b"ready\n"
            status, output = check("state", "-n", container.name)
            assert (status, "held by uid 65534" in output) == (3, True), output
            assert check("memory", "-n", container.name)[0] == 3
            assert as_nobody(nobody, "state", "-n", container.name)[0] != 0
        finally:
            impostor.kill()
            impostor.wait()
            impostor.stdout.close()


# LXD beside LXC


@pytest.fixture(scope="module")
def lxd() -> "Iterator[None]":
    """A real LXD with a busybox image, as ../shared/labs shows one; skipped where the package is absent."""
    if not shutil.which("lxd") or not shutil.which("lxc"):
        if os.environ.get("SENSU_LXC_REQUIRE_LIVE") == "1":
            pytest.fail("SENSU_LXC_REQUIRE_LIVE=1, but LXD is not installed")
        pytest.skip("needs LXD (apt install lxd lxd-client)")
    from tests.live.lxd_lab import lxd_lab

    with lxd_lab():
        yield


def test_an_lxd_container_beside_an_lxc_one(lxd, nobody):
    from tests.live.lxd_lab import lxc, running

    with busybox(limit_bytes=64 * MIB) as plain, running("bb-lxd") as name:
        status, output = check("state", "-n", f"{plain.name},{name}", "-v")
        assert (status, output.count("\nOK ")) == (0, 2), output
        status, output = check("memory", "-n", f"{plain.name},{name}", "-v")
        assert (status, output.count("\nOK ")) == (0, 2), output
        assert as_nobody(nobody, "memory", "-n", name)[0] == 0
        assert as_nobody(nobody, "state", "-n", name)[0] == 0
        lxc("config", "set", name, "limits.memory=64MiB")
        status, output = check("memory", "-n", name)
        assert (status, "of 64.0 MiB" in output) == (0, True), output
        lxc("pause", name)
        status, output = check("state", "-n", name)
        assert (status, "FROZEN" in output) == (2, True), output
        lxc("start", name)
        status, output = check("state", "-n", name, "--autostart-only")
        assert status == 3, output
        lxc("config", "set", name, "boot.autostart=true")
        assert check("state", "-n", name, "--autostart-only")[0] == 0
        lxc("stop", "-f", name)
        status, output = check("state", "-n", name)
        assert (status, "STOPPED" in output) == (2, True), output
        assert as_nobody(nobody, "state", "-n", name)[0] == 2


def test_the_same_name_in_lxd_and_lxc(lxd):
    from tests.live.lxd_lab import running

    with busybox(limit_bytes=64 * MIB) as plain, running(plain.name) as name:
        plain.fill(59 * MIB)
        status, output = check("memory", "-n", name)
        assert status == 2, output
        assert f"/var/lib/lxc/{name}" in output
        assert check("memory", "-n", name, "-P", "/var/lib/lxd/containers")[0] == 0
        assert check("state", "-n", name)[0] == 0
