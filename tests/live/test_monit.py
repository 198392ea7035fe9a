"""checks/monit/*.cfg under a real Monit that watches a real container. What Monit says it saw is the evidence."""

import contextlib
import email.message
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live.containers import Container, busybox, wait_until

pytestmark = pytest.mark.usefixtures("requires_lxc")

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20
SECONDS = 60  # for what Monit sees within two of its cycles of 1 s: a bound that is only reached in failure


@pytest.fixture(scope="module")
def requires_monit() -> None:
    """Skip where there is no Monit, or nothing to take its mail; fail instead where that was promised (CI does)."""
    reason = None
    if shutil.which("monit", path=f"{os.environ['PATH']}:/usr/bin") is None:
        reason = "needs Monit (apt install monit)"
    else:
        try:
            import aiosmtpd  # noqa: F401
        except ImportError:
            reason = "needs a mail server for Monit's mail (pip install aiosmtpd)"
    if reason and os.environ.get("SENSU_LXC_REQUIRE_LIVE") == "1":
        pytest.fail(f"SENSU_LXC_REQUIRE_LIVE=1, but this {reason}")
    if reason:
        pytest.skip(reason)


class Mailbox:
    """A mail server's handler that keeps what arrives."""

    def __init__(self) -> None:
        self.mails: list[email.message.Message[str, str]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(email.message_from_bytes(envelope.content))
        return "250 taken"

    def about(self, service: str, event: str) -> "list[str]":
        """The bodies of the mails with exactly this subject."""
        wanted = f"monit alert --  {event} {service}"
        return [mail.get_payload() for mail in self.mails if mail["Subject"] == wanted]


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    from aiosmtpd.controller import Controller

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    box = Mailbox()
    server = Controller(box, hostname="127.0.0.1", port=port)
    server.start()
    box.port = port
    try:
        yield box
    finally:
        server.stop()


class Monit:
    """A Monit of its own, in a folder of its own; the system's service is not touched."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.rc = folder / "monitrc"

    def ask(self, *arguments: str) -> str:
        argv = ["monit", "-B", "-c", str(self.rc), *arguments]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
        return done.stdout + done.stderr

    def status(self, service: str) -> "dict[str, str]":
        """What `monit status` says of a service: its lines by their names."""
        found, name = {"": ""}, ""
        for line in self.ask("status", service).splitlines():
            label, words = line[2:31].strip(), line[31:]
            name = label or name
            found[name] = f"{found[name]}\n{words}" if not label else words
        return found

    def sees(self, service: str, status: str, exit_value: int) -> "dict[str, str]":
        """Wait until Monit has that status of the service, for that exit status of ours."""

        def seen() -> "dict[str, str]":
            said = self.status(service)
            found = (said.get("status"), said.get("last exit value")) == (status, str(exit_value))
            return said if found else {}

        try:
            return wait_until(seen, SECONDS, f"Monit to say {status!r} of {service}", interval=0.2)
        except TimeoutError as problem:
            raise AssertionError(f"{problem}: {self.ask('status', service)}\n{self.log()}") from None

    def log(self) -> str:
        return (self.folder / "log").read_text()


@contextlib.contextmanager
def monit(folder: pathlib.Path, mailbox: Mailbox, watched: str, *names: str) -> Iterator[Monit]:
    """Monit with these files of checks/monit, its cycle a second long; `watched` is what the checks are to look at."""
    included = folder / "conf.d"
    included.mkdir()
    # As an administrator would: Monit's python3 is not the one that has sensu-plugin, and web1 is called otherwise.
    for name in names:
        text = (ROOT / "checks/monit" / name).read_text()
        text, scripts = re.subn(r"/etc/sensu/plugins/(?=check)", f"{sys.executable} {ROOT}/plugins/", text)
        text, container = re.subn(r"-n web1\b", watched, text)
        assert scripts >= 1 <= container, text
        (included / name).write_text(text)
    peer = Monit(folder)
    peer.rc.write_text(
        f"set daemon 1\nset log {folder}/log\nset pidfile {folder}/pid\nset idfile {folder}/id\n"
        f"set statefile {folder}/state\nset mailserver 127.0.0.1 port {mailbox.port}\nset alert admin@localhost\n"
        f"set httpd unixsocket {folder}/socket allow root:x\ninclude {included}/*\n"
    )
    peer.rc.chmod(0o600)
    said = peer.ask("-t")
    assert "Control file syntax OK" in said, said
    with open(folder / "output", "wb") as output:
        process = subprocess.Popen(
            ["monit", "-c", str(peer.rc), "-I"], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: "uptime" in peer.ask("status"), SECONDS, "Monit to answer", interval=0.1)
        yield peer
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_a_stopped_container_is_seen_told_by_mail_and_started_again(requires_monit, mailbox, tmp_path):
    with busybox() as web, monit(tmp_path, mailbox, f"-n {web.name}", "container_state.cfg") as peer:
        said = peer.sees("web1_state", "OK", 0)
        assert f"CheckContainerState OK: {web.name}: RUNNING" in said["last output"]
        assert "exec:" not in peer.log()
        assert mailbox.about("web1_state", "Status failed") == []

        web.stop()
        wait_until(lambda: init_of(web), SECONDS, f"Monit to start {web.name} again")
        peer.sees("web1_state", "OK", 0)
        log = peer.log()
        assert f"'web1_state' status failed (2) -- CheckContainerState CRITICAL: {web.name}: STOPPED" in log
        assert f"lxc-start -n {web.name}" in log
        assert "'web1_state' status succeeded (0)" in log

        wait_until(lambda: mailbox.about("web1_state", "Status succeeded"), SECONDS, "the mail that it is well again")
        (failed,) = mailbox.about("web1_state", "Status failed")
        assert f"status failed (2) -- CheckContainerState CRITICAL: {web.name}: STOPPED, expected RUNNING" in failed
        assert "Action:      exec" in failed


def test_what_does_not_run_but_is_not_stopped_is_not_started(requires_monit, mailbox, tmp_path):
    """A payload without its monitor: to LXC it is STOPPED, and lxc-start would make a second one beside it."""
    orphan = ["lxc.monitor.signal.pdeath = SIGCONT"]
    with (
        busybox(config_lines=orphan) as web,
        monit(tmp_path, mailbox, f"-n {web.name}", "container_state.cfg") as peer,
    ):
        peer.sees("web1_state", "OK", 0)
        web.kill_monitor()
        said = peer.sees("web1_state", "Status failed", 2)
        assert "runs on without its monitor" in said["last output"]
        # The action comes again at the fifth cycle, and again it must do nothing.
        wait_until(lambda: peer.log().count("exec:") >= 2, SECONDS, "the action to be repeated")
        peer.sees("web1_state", "Status failed", 2)
        assert init_of(web) == 0
        assert len(mailbox.about("web1_state", "Status failed")) == 1


def test_a_container_that_runs_short_is_told_by_one_mail(requires_monit, mailbox, tmp_path):
    with (
        busybox(limit_bytes=64 * MIB) as web,
        monit(tmp_path, mailbox, f"-n {web.name}", "container_memory.cfg") as peer,
    ):
        peer.sees("web1_memory", "OK", 0)
        web.fill(54 * MIB)
        said = peer.sees("web1_memory", "Status failed", 1)
        assert "of 64.0 MiB (warning at 80%)" in said["last output"]
        web.fill(5 * MIB)
        said = peer.sees("web1_memory", "Status failed", 2)
        assert "of 64.0 MiB (critical at 90%)" in said["last output"]
        assert len(wait_until(lambda: mailbox.about("web1_memory", "Status failed"), SECONDS, "the mail")) == 1
        web.empty()
        peer.sees("web1_memory", "OK", 0)
        wait_until(lambda: mailbox.about("web1_memory", "Status succeeded"), SECONDS, "the mail that it is well again")
        web.stop()  # of which nothing can be said: UNKNOWN is no success
        peer.sees("web1_memory", "Status failed", 3)


def test_nothing_of_a_hostile_name_gets_into_the_head_of_a_mail(requires_monit, mailbox, tmp_path):
    """A directory may have any name: here one that would end the head of a mail, and start another."""
    lxcpath = tmp_path / "lxc"
    hostile = lxcpath / "x\r\nSubject: owned\r\nBcc: thief@localhost\r\n\r\n\x1b[2J\u202e"
    hostile.mkdir(parents=True)
    (hostile / "config").write_text("lxc.uts.name = x\n")
    with monit(tmp_path, mailbox, f"-P {lxcpath}", "container_memory.cfg", "container_state.cfg") as peer:
        said = peer.sees("web1_state", "Status failed", 2)
        assert "STOPPED, expected RUNNING" in said["last output"]
        assert "Subject: owned" in said["last output"]  # made harmless, not hidden
        wait_until(lambda: mailbox.about("web1_state", "Status failed"), SECONDS, "the mail")
    for mail in mailbox.mails:
        assert mail["To"] == "admin@localhost"
        assert mail["Bcc"] is None
        assert mail.get_all("Subject") == [mail["Subject"]]
        assert re.fullmatch(r"monit alert -- +[\w ]+", mail["Subject"])
        body = mail.get_payload(decode=True).decode()
        assert all(letter.isprintable() or letter in "\r\n\t" for letter in body), body
        assert not re.search(r"^(Subject|Bcc):", body, re.MULTILINE)


def init_of(container: Container) -> int:
    """Its init by lxc-info, 0 when there is none."""
    argv = ["lxc-info", "-n", container.name, "-P", container.lxcpath, "-pH"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10)
    return int(done.stdout) if done.stdout.strip().isdigit() else 0
