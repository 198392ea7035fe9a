"""provision_container without containers: names, what is refused, the parsers, running programs in bounded time."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import provision_container
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc import acting, commands, owned, plugin
from sensu_lxc.errors import CannotObserve
from sensu_lxc.host import Host
from sensu_lxc.inventory import Container
from sensu_lxc.sources import addresses, ownership

SCRIPT = pathlib.Path(__file__).parents[2] / "plugins" / "provision_container.py"
REQUEST_IDS = st.from_regex(acting._REQUEST_ID, fullmatch=True)
PREFIXES = st.from_regex(acting._PREFIX, fullmatch=True)

FIB_TRIE = b"""Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.0.3.0/24 2 0 2
        +-- 10.0.3.0/26 2 0 2
           |-- 10.0.3.0
              /24 link UNICAST
           |-- 10.0.3.42
              /32 host LOCAL
        |-- 10.0.3.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
     |-- 169.254.7.7
        /32 host LOCAL
Local:
  +-- 10.0.3.0/24 2 0 2
     |-- 10.0.3.42
        /32 host LOCAL
"""
IF_INET6 = b"""00000000000000000000000000000001 01 80 10 80       lo
fe8000000000000000163efffe7d9c01 02 40 20 80     eth0
fd000000000000000000000000000002 02 40 00 80     eth0
20010db8000000000000000000000001 02 40 00 c0     eth0
20010db8000000000000000000000002 02 40 00 88     eth0
"""


def run_script(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=30, check=False, **options
    )


class TestName:
    @given(st.lists(st.tuples(PREFIXES, REQUEST_IDS), unique=True, min_size=2, max_size=20))
    def test_no_two_requests_share_one(self, requests: "list[tuple[str, str]]") -> None:
        assert len({provision_container.name_of(*request) for request in requests}) == len(requests)

    @given(PREFIXES, REQUEST_IDS)
    def test_fits_lxc_dns_and_sensu(self, prefix: str, request_id: str) -> None:
        name = provision_container.name_of(prefix, request_id)
        assert len(name) <= 63
        assert name.startswith(prefix + "-")
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert name[0] != "-" != name[-1]

    def test_stays_what_it_was(self) -> None:
        # Containers outlive releases: another name would make a second one for the same request.
        assert provision_container.name_of("auto", "web-17") == "auto-zmmkxjqowvnkcnse"


class TestRefuses:
    @pytest.mark.parametrize(
        "value", ["", " ", "a b", "a\n", "$(reboot)", "a;b", "../x", "é", "a" * 129, "a/b", "--", "-" * 129, "a\x00b"]
    )
    def test_a_request_id(self, value: str) -> None:
        self.refused(f"--request-id={value}", "--template=busybox")

    @pytest.mark.parametrize("value", ["", "-", "--", "A", "a_b", "-a", "a-", "a.b", "a" * 41, "a\n", "a b", "../a"])
    def test_a_prefix(self, value: str) -> None:
        self.refused("--request-id=x", "--template=busybox", f"--name-prefix={value}")

    @pytest.mark.parametrize(
        "value", ["", "-B", "--", "none", "/tmp/evil", "../../tmp/evil", "busybox\n", "a b", "$(reboot)", "a.b"]
    )
    def test_a_template(self, value: str) -> None:
        self.refused("--request-id=x", f"--template={value}")

    @pytest.mark.parametrize("value", ["", "-x", "--", ".", "..", "a/b", "../x", "a b", "x" * 64, "a\n"])
    def test_a_source(self, value: str) -> None:
        self.refused("--request-id=x", f"--clone={value}")

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--request-id=x"],
            ["--template=busybox"],
            ["--request-id=x", "--template=busybox", "--clone=y"],
            ["--request-id=x", "--clone=y", "--", "--release", "z"],
            ["--request-id=x", "--clone=y", "--config=/etc/hostname"],
            ["--request-id=x", "--template=busybox", "surplus"],
            ["--request-id=x", "--templat=busybox"],
            ["--request-id", "--", "--template=busybox"],
            ["--request-id=x", "--template", "--", "--release"],
            ["--request-id=x", "--template=busybox", "--timeout=0"],
            ["--request-id=x", "--template=busybox", "--timeout=--"],
            ["--request-id=x", "--template=busybox", "-P--"],
            ["--request-id=x", "--template=busybox", "--wait-for-ip=--"],
            ["--request-id=x", "--template=busybox", "--wait-for-ip=soon"],
            ["--request-id=x", "--template=busybox", "-P", "relative"],
            ["--request-id=x", "--template=busybox", "--config=/nowhere/x"],
            ["--request-id=x", "--template-path=/nowhere/x"],
            ["--request-id=x", "--template-path=/etc"],
            ["--request-id=x", "--request-id=y", "--template=busybox"],
            ["--request-id=x", "--template=busybox", "--template=debian"],
            ["--request-id=x", "--template=busybox", "-P", "/srv", "--lxcpath=/srv"],
            ["--request-id=x", "--template=busybox", "--wait-for-ip", "--wait-for-ip=1m"],
            ["--request-id=x", "--template=busybox", "-P", ""],
        ],
    )
    def test_a_command_line(self, arguments: "list[str]") -> None:
        self.refused(*arguments)

    @pytest.mark.parametrize("option", ["--template-path", "--config"])
    def test_a_file_that_others_can_write(self, option: str, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "file"
        path.write_text("#!/bin/sh\n")
        path.chmod(0o777)
        template = [] if option == "--template-path" else ["--template=busybox"]
        with pytest.raises(plugin.Misuse, match="can be changed by others"):
            provision_container.validated(["--request-id=x", *template, f"{option}={path}"])
        path.chmod(0o755)
        options, _ = provision_container.validated(["--request-id=x", *template, f"{option}={path}"])
        assert str(path) in (options.config, options.template_path)

    def refused(self, *arguments: str) -> None:
        with pytest.raises(plugin.Misuse) as caught:
            provision_container.validated(arguments)
        assert str(caught.value).isprintable()

    @given(st.lists(st.text(max_size=20), max_size=6))
    def test_whatever_is_no_request(self, arguments: "list[str]") -> None:
        if "-h" in arguments or "--help" in arguments:
            return
        with pytest.raises(plugin.Misuse):
            provision_container.validated(arguments)


class TestPlan:
    def made(self, *arguments: str) -> "list[str]":
        options, rest = provision_container.validated(["--request-id=x", "--name-prefix=p", *arguments])
        argv: list[str] = provision_container.plan(options, rest, "/lxc").argv
        return argv

    NAME = provision_container.name_of("p", "x")

    def test_of_a_template(self) -> None:
        expected = ["lxc-create", "-n", self.NAME, "-P", "/lxc", "-t", "debian", "--", "--release", "x; y", "--"]
        assert self.made("--template=debian", "--", "--release", "x; y", "--") == expected

    def test_of_a_clone(self) -> None:
        assert self.made("--clone=src") == ["lxc-copy", "-n", "src", "-P", "/lxc", "-p", "/lxc", "-N", self.NAME]

    def test_waiting_for_an_address_takes_a_time_or_none(self) -> None:
        seconds = [
            provision_container.validated(["--request-id=x", "--template=b", *more])[0].wait_for_ip
            for more in ([], ["--wait-for-ip"], ["--wait-for-ip", "2m"], ["--wait-for-ip", "--", "z"])
        ]
        assert seconds == [None, 30, 120, 30]


class TestScript:
    def test_says_what_is_wrong_in_one_json_line(self) -> None:
        done = run_script("--request-id", "a b", "--template", "busybox")
        assert done.returncode == 3
        answer = json.loads(done.stdout)
        assert done.stdout.count("\n") == 1 == done.stderr.count("\n")
        assert answer["error"] in done.stderr
        assert answer["name"] is None and answer["left"] == []

    def test_help_shows_an_example(self) -> None:
        done = run_script("--help")
        assert done.returncode == 0
        assert "provision_container.py --request-id web-17 --template busybox" in done.stdout

    def test_refuses_the_lxcpath_of_lxd(self) -> None:
        done = run_script("--request-id=x", "--template=busybox", "-P", "/var/lib/lxd/containers")
        assert (done.returncode, "LXD's" in done.stderr) == (3, True)

    def test_an_lxcpath_that_is_not_there(self, tmp_path: pathlib.Path) -> None:
        done = run_script("--request-id=x", "--template=busybox", "-P", str(tmp_path / "none"))
        assert (done.returncode, "no directory that can be written" in done.stderr) == (3, True)

    def test_an_answer_that_stdout_does_not_take_is_on_stderr(self) -> None:
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, str(SCRIPT), "--request-id=a b"], stdout=full, stderr=subprocess.PIPE, text=True,
                timeout=30, check=False,
            )  # fmt: skip
        assert (done.returncode, "stdout takes nothing; the answer was: {" in done.stderr) == (3, True)


class TestAddresses:
    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({}, "gives it no network"),
            ({"lxc.net.0.type": "empty"}, "gives it no network"),
            ({"lxc.net.0.type": "veth", "lxc.net.0.link": "lxcbr0"}, "systemctl status lxc-net"),
            ({"lxc.net.0.type": "veth", "lxc.net.0.link": "br7"}, "a DHCP server on br7?"),
            ({"lxc.net.0.type": "empty", "lxc.net.1.type": "macvlan"}, "a DHCP server on its link?"),
        ],
    )
    def test_where_to_look_for_none(self, settings: "dict[str, str]", says: str) -> None:
        assert says in provision_container.why_no_address(settings)

    def test_ipv4(self) -> None:
        assert addresses.ipv4(FIB_TRIE, "x") == ["10.0.3.42"]

    def test_ipv6(self) -> None:
        assert addresses.ipv6(IF_INET6, "x") == ["fd00::2"]

    def test_none(self) -> None:
        assert addresses.ipv4(b"", "x") == addresses.ipv6(b"", "x") == []

    @pytest.mark.parametrize("line", [b"zz 02 40 00 80 eth0", b"fd00 02 40 00 80 eth0", b"1 2", IF_INET6[:70]])
    def test_quotes_what_is_no_ipv6_address(self, line: bytes) -> None:
        with pytest.raises(CannotObserve, match="^x holds"):
            addresses.ipv6(line, "x")

    @given(st.binary(max_size=200), st.integers(0, len(FIB_TRIE)))
    def test_never_invents_an_address(self, noise: bytes, cut: int) -> None:
        for parse, whole in ((addresses.ipv4, FIB_TRIE), (addresses.ipv6, IF_INET6)):
            try:
                assert set(parse(whole[:cut], "x")) <= {"10.0.3.42", "fd00::2"}
                parse(noise, "x")
            except CannotObserve:
                pass

    def test_this_machine(self) -> None:
        # A machine may have no address at all; what is found must be what its kernel would bind to.
        import socket

        for address in provision_container.own_addresses(Host(), os.getpid()):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind((address, 0))


class TestRecord:
    RECORD = ownership.Record("web-17", ownership.READY, {"template": "busybox"}, 1700000000.5)

    def test_comes_back(self) -> None:
        assert ownership.record(ownership.text(self.RECORD).encode(), "x") == self.RECORD

    @given(st.one_of(st.binary(), st.integers(0, 120).map(lambda n: ownership.text(TestRecord.RECORD)[:n].encode())))
    def test_nothing_else_is_one(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve):
            ownership.record(raw, "x")

    def test_claims_a_name_once(self, tmp_path: pathlib.Path) -> None:
        owned.claim(str(tmp_path), "c", self.RECORD)
        assert owned.record(Host(), str(tmp_path / "c")) == self.RECORD
        with pytest.raises(OSError):
            owned.claim(str(tmp_path), "c", self.RECORD._replace(request_id="other"))
        assert owned.record(Host(), str(tmp_path / "c")) == self.RECORD
        assert os.listdir(tmp_path) == ["c"]


class TestRemovable:
    """Destroying a half-made clone must not destroy the original (lxc#694)."""

    def reason(self, tmp_path: pathlib.Path, config: str) -> "str | None":
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "config").write_text(config)
        return owned.why_not_removable(Host(), Container("c", str(tmp_path), True, False, "c"))

    @pytest.mark.parametrize(
        "value", ["DIR/c/rootfs", "dir:DIR/c/rootfs", "overlay:/base:DIR/c/delta0", "btrfs:DIR/c/r"]
    )
    def test_what_is_its_own(self, value: str, tmp_path: pathlib.Path) -> None:
        assert self.reason(tmp_path, f"lxc.rootfs.path = {value.replace('DIR', str(tmp_path))}\n") is None

    def test_without_a_root_filesystem_yet(self, tmp_path: pathlib.Path) -> None:
        assert self.reason(tmp_path, "lxc.uts.name = c\n") is None

    @pytest.mark.parametrize(
        "value",
        ["DIR/other/rootfs", "dir:DIR/other/rootfs", "/", "DIR/c/../o/rootfs", "DIR/c", "zfs:pool/c", "/dev/vg/c",
         "overlay:DIR/c/x:DIR/other/delta0", "DIR/c-other/rootfs"],
    )  # fmt: skip
    def test_what_is_not(self, value: str, tmp_path: pathlib.Path) -> None:
        reason = self.reason(tmp_path, f"lxc.rootfs.path = {value.replace('DIR', str(tmp_path))}\n")
        assert reason is not None and "lies elsewhere" in reason

    def test_a_link_leads_elsewhere(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "other").mkdir()
        reason = self.reason(tmp_path, f"lxc.rootfs.path = {tmp_path}/c/rootfs\n")
        assert reason is None
        (tmp_path / "c" / "rootfs").symlink_to(tmp_path / "other")
        assert owned.why_not_removable(Host(), Container("c", str(tmp_path), True, False, "c")) is not None

    def test_what_is_not_ours_stays(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "c").mkdir()
        with pytest.raises(owned.CannotAct, match="did not make it"):
            owned.remove(Host(), str(tmp_path), "c")
        assert (tmp_path / "c").is_dir()


class TestLock:
    def test_one_at_a_time_and_none_left(self, tmp_path: pathlib.Path) -> None:
        inside, most, lock = [0], [0], threading.Lock()

        def work() -> None:
            with owned.lock(str(tmp_path), "c", 20, lambda: False):
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0.01)
                with lock:
                    inside[0] -= 1

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1]
        assert os.listdir(tmp_path) == []

    def test_is_waited_for_no_longer_than_asked(self, tmp_path: pathlib.Path) -> None:
        with owned.lock(str(tmp_path), "c", 1, lambda: False):
            began = time.monotonic()
            with (
                pytest.raises(owned.CannotAct, match="another run"),
                owned.lock(str(tmp_path), "c", 0.2, lambda: False),
            ):
                pass
            assert time.monotonic() - began < 2
            with pytest.raises(owned.CannotAct, match="interrupted"), owned.lock(str(tmp_path), "c", 9, lambda: True):
                pass

    def test_ends_although_a_child_lives_on(self, tmp_path: pathlib.Path) -> None:
        with owned.lock(str(tmp_path), "c", 1, lambda: False) as descriptor:
            child = subprocess.Popen(["sleep", "30"], pass_fds=[descriptor])
        try:
            with owned.lock(str(tmp_path), "c", 1, lambda: False):
                pass
        finally:
            child.kill()
            child.wait()


class TestRun:
    def test_tells_status_and_output(self) -> None:
        done = commands.run(["sh", "-c", "echo out; exit 7"], 10, capture=True)
        assert (done.status, done.output, done.why) == (7, b"out\n", "")

    def test_ends_what_takes_too_long_with_its_children(self, tmp_path: pathlib.Path) -> None:
        pids = tmp_path / "pids"
        began = time.monotonic()
        done = commands.run(["sh", "-c", f"trap '' TERM; sleep 60 & echo $! > {pids}; wait; sleep 60"], 0.3)
        assert (done.why, time.monotonic() - began < 5) == ("time", True)
        with pytest.raises(ProcessLookupError):
            os.kill(int(pids.read_text()), 0)

    def test_stops_when_told(self) -> None:
        began = time.monotonic()
        done = commands.run(["sleep", "60"], 60, stop=lambda: time.monotonic() - began > 0.2)
        assert (done.why, done.status) == ("stop", -signal.SIGTERM)

    def test_says_what_is_not_installed(self) -> None:
        with pytest.raises(commands.CannotRun, match="apt install lxc"):
            commands.run(["lxc-no-such-tool"], 1)

    def test_passes_no_environment_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Jenkins kills what carries a build's BUILD_ID when the build ends: a container's monitor must not.
        monkeypatch.setenv("BUILD_ID", "7")
        monkeypatch.setenv("LD_PRELOAD", "/tmp/evil.so")
        monkeypatch.setenv("https_proxy", "http://proxy:3128")
        output = commands.run(["env"], 10, capture=True).output.decode()
        names = {line.partition("=")[0] for line in output.splitlines()}
        assert {"PATH", "HOME", "LC_ALL", "https_proxy"} <= names
        assert not names & {"BUILD_ID", "LD_PRELOAD"}
