"""What holds for every check, whatever it looks at: options, exit statuses, time, a stdout that takes nothing."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.plugins.running import NAMES, PLUGINS, STATES, Output, command, run
from tests.plugins.trees import MIB, Tree

# The fence is the same for all checks: two of them show the whole of it, the others what their own options can break.
SCRIPTS = ["check_container_memory.py", "check_container_state.py"]
OTHERS = [script for script in NAMES if script.startswith("check_container_") and script not in SCRIPTS]
each_script = pytest.mark.parametrize("script", SCRIPTS)
every_script = pytest.mark.parametrize("script", list(NAMES))


@pytest.fixture
def host(tree: Tree) -> Tree:
    """A host on which all is well."""
    tree.container("web", usage=10 * MIB)
    return tree


MISUSE = {
    "misspelt option": ["--nmae", "web"],
    "abbreviated option": ["--verb"],
    "abbreviated option with a value": ["--lxc", "/srv"],
    "unknown letter": ["-x"],
    "stray word": ["web"],
    "option without its value": ["-n"],
    "empty name": ["-n", ""],
    "empty name in a list": ["-n", "web,,db"],
    "blank name": ["-n", " "],
    "empty exclude": ["--exclude", ""],
    "relative lxcpath": ["-P", "var/lib/lxc"],
    "empty lxcpath": ["-P", ""],
    "missing lxcpath": ["-P", "/none"],
    "relative state dir": ["--state-dir", "state"],
    "missing root": ["--root", "/none/at/all"],
    "empty root": ["--root", ""],
    "root is a file": ["--root", "/etc/passwd"],
    "no duration": ["--timeout", "soon"],
    "negative duration": ["--timeout", "-1"],
    "zero duration": ["--timeout", "0"],
    "newline in an option": ["--a\nb"],
    "escape sequence in an option": ["--\x1b[31m"],
    "bar in an option": ["--a|b"],
    "very long option": ["--" + "x" * 5000],
    "one root twice": ["--root", "/", "--root=/"],
    "one time twice": ["--timeout", "5", "--timeout", "5"],
}
MISUSE_OF_MEMORY = {
    "bad threshold": ["-w", "80x"],
    "negative threshold": ["-w", "-5"],
    "empty threshold": ["-w", ""],
    "threshold that never alerts": ["-c", "0:"],
    "more than all": ["-c", "101%"],
    "warning above critical": ["-w", "90%", "-c", "80%"],
    "warning above critical in bytes": ["-w", "2G", "-e", "1G"],
    "mixed range": ["-c", "10%:20M"],
    "above all": ["-c", "~:100%"],
    "swap twice": ["--metric", "swap", "-w", "50%", "--swap-warning", "60%"],
    "zero percent to a size": ["-c", "0%:900M"],
    "absurd number": ["-c", "9" * 5000],
    "number that is no UTF-8": ["-c", "\udcff"],
    "unknown metric": ["--metric", "rss"],
    "unknown ceiling": ["--unlimited-as", "guest"],
    "warning twice": ["-w", "80%", "-w", "90%"],
    "critical twice by two names": ["-c", "80%", "-e", "90%"],
    "metric twice": ["--metric", "used", "--metric", "swap"],
}
MISUSE_OF_STATE = {
    "unknown state": ["--expect", "THAWED"],
    "no state": ["--expect", ""],
    "twice": ["--expect", "RUNNING", "--expect", "RUNNING"],
}


def _misuses() -> list[object]:
    own = {"check_container_memory.py": MISUSE_OF_MEMORY, "check_container_state.py": MISUSE_OF_STATE}
    return [
        pytest.param(script, arguments, id=f"{script.split('_')[2][:-3]}: {what}")
        for script in [*SCRIPTS, *OTHERS]
        for what, arguments in (MISUSE | own.get(script, {})).items()
    ]


@pytest.mark.parametrize(("script", "arguments"), _misuses())
def test_misuse_is_one_line(host: Tree, script: str, arguments: list[str]) -> None:
    assert len(run(script, host, *arguments).misuse()) < 800


@each_script
def test_misuse_says_what_to_write(host: Tree, script: str) -> None:
    assert "--help" in run(script, host, "--nmae", "web").first
    assert "--lxcpath 'lxc' is not absolute; write for example -P /var/lib/lxc" in run(script, host, "-P", "lxc").first
    assert "--lxcpath '' is not absolute; write for example -P /var/lib/lxc" in run(script, host, "-P", "").first
    assert "--root '' is no directory; name the one" in run(script, None, "--root", "").first


@each_script
def test_a_root_without_proc_is_no_hosts(tmp_path: Path, script: str) -> None:
    said = run(script, None, "--root", str(tmp_path)).misuse()
    assert f"is {tmp_path} a host's root? it has no proc/" in said
    (tmp_path / "proc").mkdir()
    said = run(script, None, "--root", str(tmp_path)).misuse()
    assert said.endswith("/proc/net/unix: No such file or directory; is that the /proc of a Linux host that runs?")


def test_what_is_given_twice_is_named(host: Tree) -> None:
    """The last would win in silence, and a threshold that somebody put into a wrapper be gone."""
    script = "check_container_memory.py"
    assert run(script, host, "-w", "80%", "-w90%").misuse().endswith(": -w is given twice; give it once")
    assert "-c and --error are one option; give one of them" in run(script, host, "-c", "1", "--error=2").misuse()
    assert run(script, host, "-n", "web", "-n", "w*", "--exclude", "a", "--exclude", "b", "-v", "-v").status == 0
    assert run(script, host, "-P", "/var/lib/lxc", "-P", "/var/lib/lxc").status == 0


BROKEN_HOSTS = ["/proc/1/net/unix", "/proc/1/mountinfo", "/proc/meminfo"]


@each_script
@pytest.mark.parametrize("path", BROKEN_HOSTS)
@pytest.mark.parametrize("how", ["missing", "empty", "directory", "garbage", "fifo"])
def test_a_host_that_cannot_be_read_is_one_line_that_names_the_file(
    host: Tree, script: str, path: str, how: str
) -> None:
    if (script, path) == ("check_container_state.py", "/proc/meminfo"):
        pytest.skip("it does not read that")
    file = host.at(path)
    content = file.read_bytes()
    file.unlink()
    if how == "directory":
        file.mkdir()
    elif how == "fifo":
        os.mkfifo(file)
    elif how != "missing":
        file.write_bytes(b"" if how == "empty" else content[::-1] + b"\0\xff")
    said = run(script, host).misuse()
    assert os.path.basename(path) in said


@every_script
class TestHelp:
    def test_it_is_no_alarm(self, script: str) -> None:
        done = run(script, None, "--help")
        assert (done.status, done.err) == (0, "")
        assert "Example:" in done.out
        assert max(map(len, done.out.splitlines())) <= 120

    def test_its_examples_are_accepted(self, host: Tree, script: str) -> None:
        examples = re.findall(rf"^\s+({re.escape(script)}.*)$", run(script, None, "--help").out, re.MULTILINE)
        assert len(examples) >= 2
        (host.root / "srv/lxc").mkdir(parents=True)
        for line in examples:
            done = run(script, host, *shlex.split(line)[1:]).well_formed()
            assert "--help shows" not in done.out, line
            assert "write" not in done.first, line


@each_script
class TestStdout:
    def ran(self, script: str, host: Tree, redirection: str, *arguments: str) -> int:
        """The status; what stdout does not take is said on stderr."""
        line = shlex.join(command(script, host, *arguments))
        done = subprocess.run(["sh", "-c", f"{line} {redirection}"], stderr=subprocess.PIPE, timeout=30, text=True)
        assert "internal" not in done.stderr
        assert "Traceback" not in done.stderr
        if "2>&-" not in redirection and "--help" not in arguments:
            assert re.match(rf"{NAMES[script]} (OK|CRITICAL): ", done.stderr)
        return done.returncode

    @pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "</dev/null >&-", "<&- >&- 2>&-"])
    def test_what_could_not_be_said_is_not_ok(self, host: Tree, script: str, redirection: str) -> None:
        assert self.ran(script, host, redirection) == 3

    @pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
    def test_a_problem_keeps_its_status(self, host: Tree, script: str, redirection: str) -> None:
        critical = ["-c", "1"] if "memory" in script else ["-n", "none"]
        assert self.ran(script, host, redirection, *critical) == 2

    @pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
    def test_help(self, host: Tree, script: str, redirection: str) -> None:
        assert self.ran(script, host, redirection, "--help") in (0, 3)

    def test_a_reader_that_left(self, host: Tree, script: str) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(command(script, host), stdout=writer, stderr=subprocess.PIPE, timeout=30)
        os.close(writer)
        assert (done.returncode, done.stderr.startswith(f"{NAMES[script]} OK: web".encode())) == (3, True)

    def test_a_reader_that_never_reads(self, host: Tree, script: str) -> None:
        """More than a pipe holds: the process ends all the same, and not with OK."""
        for number in range(30):
            host.container("n" * 200 + str(number), usage=MIB, processes=False)
        reader, writer = os.pipe()
        fcntl.fcntl(writer, 1031, 4096)  # F_SETPIPE_SZ, which Python names since 3.10
        start = time.monotonic()
        running = subprocess.Popen(command(script, host, "-v", "--timeout", "1"), stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        try:
            assert running.wait(timeout=20) == 3
            assert time.monotonic() - start < 8
            assert running.stderr is not None
            assert running.stderr.read().startswith(f"{NAMES[script]} OK: ".encode())
        finally:
            running.kill()
            running.communicate()
            os.close(reader)


# A system call that does not return can't be had in a test without FUSE; a call of ours that does not is as good.
BLOCKED = """
import os, sys, time
sys.path.insert(0, {plugins!r})
def block(*_):
    {body}
import {module}
{patch} = block
sys.argv = [{script!r}, *{arguments!r}]
{module}.main()
"""


@each_script
class TestTimeout:
    @pytest.mark.parametrize(
        ("patch", "body"),
        {
            "a file": ("sensu_lxc.host.Host.read", "time.sleep(60)"),
            "a directory": ("os.listdir", "time.sleep(60)"),
            "the root": ("os.path.isdir", "return _[0] != sys.argv[2] or time.sleep(60)"),
            "a busy loop": ("sensu_lxc.host.Host.read", "while True: pass"),
            "a pipe": ("sensu_lxc.host.Host.read", "os.read(os.pipe()[0], 1)"),
        }.values(),
        ids=["file", "directory", "root", "loop", "pipe"],
    )
    def test_it_holds(self, host: Tree, script: str, patch: str, body: str) -> None:
        module = script[: -len(".py")]
        arguments = ["--root", str(host.root), "--timeout", "300ms"]
        patched = patch if patch.startswith("os.") else f"{module}.plugin.Host.read"
        code = BLOCKED.format(
            plugins=str(PLUGINS), body=body, module=module, patch=patched, script=script, arguments=arguments
        )
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30)
        assert time.monotonic() - start < 4
        said = Output(script, done.returncode, done.stdout.decode(), done.stderr.decode()).misuse()
        assert "not finished after 0.3 s" in said

    @pytest.mark.parametrize("timeout", ["0.001", "1ms", ".001s"])
    def test_too_short_a_time_is_told_or_enough(self, host: Tree, script: str, timeout: str) -> None:
        done = run(script, host, "--timeout", timeout).well_formed()
        if done.status:
            assert "--timeout" in done.misuse()

    def test_a_lot_of_time_is_taken(self, host: Tree, script: str) -> None:
        assert run(script, host, "--timeout", "365d").well_formed().status == 0


@each_script
def test_each_status_is_seen(host: Tree, script: str) -> None:
    """0, 1, 2 and 3 as Nagios defines them, and as the first line says."""
    if "memory" in script:
        calls = {0: [], 1: ["-w", "1M"], 2: ["-c", "1M"], 3: ["-n", "none"]}
    else:
        calls = {0: [], 2: ["-n", "none"], 3: ["-n", "none*"]}
    for status, arguments in calls.items():
        done = run(script, host, *arguments).well_formed()
        assert (done.status, done.first.split()[1]) == (status, STATES[status] + ":")


@each_script
def test_interrupted(host: Tree, script: str) -> None:
    module = script[: -len(".py")]
    code = (
        f"import sys; sys.path.insert(0, {str(PLUGINS)!r}); import {module}\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        f"{module}.plugin.Host.read = stop; sys.argv = [{script!r}, '--root', {str(host.root)!r}]; {module}.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, text=True)
    assert "interrupted" in Output(script, done.returncode, done.stdout, done.stderr).misuse()


@each_script
def test_a_fault_of_ours_is_unknown_and_can_be_reported(host: Tree, script: str) -> None:
    module = script[: -len(".py")]
    code = (
        f"import sys; sys.path.insert(0, {str(PLUGINS)!r}); import {module}\n"
        "def fail(*_): raise ZeroDivisionError('a|b\\nc')\n"
        f"{module}.plugin.Host.read = fail; sys.argv = [{script!r}, '--root', {str(host.root)!r}]; {module}.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, text=True)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (3, "", 1)
    assert re.search(
        r"UNKNOWN: internal error, please report it: ZeroDivisionError: a\?b\?c at <string>:2$", done.stdout
    )


@each_script
@pytest.mark.parametrize(
    "environment", [{}, {"LANG": "C", "LC_ALL": "POSIX"}, {"PYTHONIOENCODING": "ascii", "COLUMNS": "20"}]
)
def test_any_environment(tree: Tree, script: str, environment: dict[str, str]) -> None:
    tree.container("wüb", usage=MIB)
    done = run(script, tree, env=environment).well_formed()
    assert done.status == 0
    assert run(script, tree, "--help", env=environment).status == 0


def test_it_runs_from_anywhere_and_through_a_link(host: Tree, tmp_path: Path) -> None:
    link = tmp_path / "check"
    link.symlink_to(PLUGINS / "check_container_memory.py")
    done = subprocess.run(
        [sys.executable, str(link), "--root", "host"], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout


# A number that each check takes where another one would be refused.
TAKEN = {
    "check_container_cpu.py": "80%",
    "check_container_disk.py": "900M",
    "check_container_io.py": "10M",
    "check_container_memory.py": "900M",
    "check_container_network.py": "10M",
    "check_container_pids.py": "80%",
    "check_container_pressure.py": "80%",
}


@pytest.mark.parametrize("script", TAKEN)
def test_who_wrote_no_threshold_is_told_what_this_check_takes(script: str, host: Tree) -> None:
    said = run(script, host, "-w", "many").misuse()
    assert TAKEN[script] in said
    assert ("80%" in said) == (script not in ("check_container_io.py", "check_container_network.py"))
    assert run(script, host, "-w", TAKEN[script], "-n", "web").first.find("argument") == -1


@every_script
def test_a_range_is_explained_where_one_is_taken(script: str) -> None:
    out = run(script, None, "--help").out
    assert ("=RANGE" in out or " RANGE\n" in out or "-warning RANGE" in out) == ("RANGE is N (alerts at N" in out)


@pytest.mark.parametrize("arguments", [("-w", "-5%"), ("--warning", "-5M"), ("-w=-5%",), ("--timeout", "-5s")])
def test_a_negative_number_is_called_so(arguments: tuple[str, ...], host: Tree) -> None:
    assert "is negative" in run("check_container_memory.py", host, *arguments).misuse()


def test_a_stray_word_is_taken_for_a_name(host: Tree) -> None:
    assert "write -n nu-a,nu-b;" in run("check_container_state.py", host, "nu-a", "nu-b").misuse()
    assert "write -n" not in run("check_container_state.py", host, "nu-a", "--nmae").misuse()
    assert "write -n" not in run("check_host_capacity.py", host, "nu-a").misuse(), "it takes no -n"


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root may not see all")
def test_root_is_not_told_that_something_may_be_hidden(host: Tree) -> None:
    assert run("check_container_memory.py", host, "-n", "nosuch").first.endswith("nosuch: no such container here")


def test_without_sensu_plugin_it_is_said_what_to_install(tmp_path: Path) -> None:
    line = [sys.executable, "-S", str(PLUGINS / "check_container_state.py")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (3, "")
    assert "install sensu-plugin==0.8.0 requests" in done.stdout
    assert "--break-system-packages" in done.stdout
