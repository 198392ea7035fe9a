"""The parsers: what real machines wrote, what is broken, and any bytes at all."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc.errors import CannotObserve
from sensu_lxc.sources import cgroup, lxc_command, lxc_config, meminfo, mountinfo, net_unix

from tests.plugins.trees import RECORDINGS

DIGITS = b"9" * 5000


def recorded(name: str) -> bytes:
    return (RECORDINGS / name).read_bytes()


class TestNumber:
    def test_recorded(self) -> None:
        assert cgroup.number(recorded("v2-nested-systemd/lxc.payload.sysd/memory.current"), "p") == 31531008
        assert cgroup.number(recorded("v1-idle/memory/lxc.payload.m/memory.usage_in_bytes"), "p") == 786432

    @pytest.mark.parametrize(
        "raw",
        [b"", b"\n", b"9437", b"-1\n", b"+1\n", b"1.5\n", b"max\n", b"1 2\n", b"1\n2\n", b"1\n\n", b" 1\n", b"0x1\n",
         b"1_0\n",
         b"\xd9\xa3\n", b"9" * 21 + b"\n", DIGITS + b"\n", b"\x00\n", b"1\r\n"],
    )  # fmt: skip
    def test_refused_with_the_path_and_what_stood_there(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve, match="/sys/x holds "):
            cgroup.number(raw, "/sys/x")


class TestLimit:
    @pytest.mark.parametrize(
        ("raw", "expected"),
        [
            (b"max\n", None),
            (b"9223372036854771712\n", None),
            (b"9223372036854710272\n", None),  # with 64 KiB pages
            (b"18446744073709551615\n", None),
            (b"67108864\n", 67108864),
            (b"0\n", 0),
        ],
    )
    def test_shapes(self, raw: bytes, expected: int | None) -> None:
        assert cgroup.limit(raw, "p") == expected

    @pytest.mark.parametrize("raw", [b"max", b"ma", b"m\n", b"", b"-1\n", b"6710", b"max\nmax\n"])
    def test_cut_off(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve):
            cgroup.limit(raw, "p")


class TestCounts:
    def test_recorded(self) -> None:
        raw = recorded("v2-nested-systemd/lxc.payload.sysd/memory.stat")
        keys = (b"inactive_file", b"active_file", b"slab_reclaimable", b"file", b"anon", b"x")
        assert cgroup.counts(raw, "p", *keys) == [6762496, 8192, 1096376, 23592960, 5308416, None]
        assert cgroup.counts(recorded("v2-frozen/lxc.payload.cpu/cgroup.events"), "p", b"populated", b"frozen") == [
            1,
            1,
        ]
        raw = recorded("v1-idle/memory/lxc.payload.m/memory.stat")
        assert cgroup.counts(raw, "p", b"total_inactive_file", b"inactive_file", b"hierarchical_memory_limit") == [
            49152, 49152, 67108864,
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "raw",
        [b"", b"a", b"a 1", b"b 1\na 2", b"a \n", b"a b\n", b"a -1\n", b"a 1 2\n", b"a 1.5\n", b"a  1\n", b"a +1\n",
         b"a 1\r\n", b"a " + DIGITS + b"\n", b"a 1\0\n"],
    )  # fmt: skip
    def test_refused(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve):
            cgroup.counts(raw, "p", b"a")

    @pytest.mark.parametrize("raw", [b"\n", b"xa 1\n", b"a\n", b"aa 1\n", b"b a 1\n"])
    def test_a_key_that_is_not_there(self, raw: bytes) -> None:
        assert cgroup.counts(raw, "p", b"a") == [None]


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("/lxc.payload.web", "web", "/lxc.payload.web"),
        ("/lxc.payload.web-1", "web", "/lxc.payload.web-1"),
        ("/lxc.payload.web-12/init.scope", "web", "/lxc.payload.web-12"),
        ("/lxc.payload.sysd/init.scope", "sysd", "/lxc.payload.sysd"),
        ("/lxc.payload.sysd/.lxc", "sysd", "/lxc.payload.sysd"),
        ("/lxc.payload/web", "web", "/lxc.payload/web"),
        ("/lxc.payload/web-1/init.scope", "web", "/lxc.payload/web-1"),
        ("/lxc/web/init.scope", "web", "/lxc/web"),
        ("/lxc/101/ns", "101", "/lxc/101"),
        ("/lxc/101/ns/init.scope", "101", "/lxc/101"),
        ("/tenants/gold/lxc.payload.web", "web", "/tenants/gold/lxc.payload.web"),
        ("/tenants/web/payload", "web", "/tenants/web/payload"),
        ("/tenants/web/payload/init.scope", "web", "/tenants/web/payload"),
        ("/tenants/web/inner", "web", "/tenants/web/inner"),
        ("/system.slice/lxc@web.service/lxc.payload.web", "web", "/system.slice/lxc@web.service/lxc.payload.web"),
        ("/lxc.payload.web.site-1", "web.site-1", "/lxc.payload.web.site-1"),
        ("/lxc.payload.web.site-1-1", "web.site-1", "/lxc.payload.web.site-1-1"),
        ("/lxc.payload.test_web", "test_web", "/lxc.payload.test_web"),
        # A container inside of a container: the outer one is on this host.
        ("/lxc.payload.web/lxc.payload.web/init.scope", "web", "/lxc.payload.web"),
        ("/user.slice/lxc-web-0.scope/lxc.payload.web", "web", "/user.slice/lxc-web-0.scope/lxc.payload.web"),
        (
            "/user.slice/lxc-web-0.scope/lxc.payload.web/init.scope",
            "web",
            "/user.slice/lxc-web-0.scope/lxc.payload.web",
        ),
        ("/tenants/web/init.scope", "web", "/tenants/web"),
    ],
)
def test_the_payload_directory_above_an_init(path: str, name: str, expected: str) -> None:
    assert cgroup.payload_of(path, name) == expected


class TestMemberships:
    def test_recorded(self) -> None:
        found = cgroup.memberships(recorded("proc/cgroup-hybrid"), "p")
        assert found["memory"] == found["cpu"] == found["cpuacct"] == found[""] == "/lxc.payload.m"
        assert cgroup.memberships(recorded("proc/systemd-init/cgroup"), "p") == {"": "/lxc.payload.sysd/init.scope"}

    @pytest.mark.parametrize("name", ["a:b", "a b", "a\x85b", "a\u2028b", "a\x0cb"])
    def test_odd_letters_in_the_path(self, name: str) -> None:
        assert cgroup.memberships(f"0::/lxc.payload.{name}\n".encode(), "p") == {"": f"/lxc.payload.{name}"}

    @pytest.mark.parametrize("raw", [b"x", b"0:\n", b"0::lxc\n", b"0::\n", b"0::/lxc.payload.web-1"])
    def test_refused(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve):
            cgroup.memberships(raw, "p")


class TestMountinfo:
    def test_recorded(self) -> None:
        assert mountinfo.cgroup_mounts(recorded("proc/mountinfo-v2"), "p") == {
            "": mountinfo.Mount("/sys/fs/cgroup", "/")
        }
        # A container's own view of it.
        inside = mountinfo.cgroup_mounts(recorded("proc/systemd-init/mountinfo"), "p")
        assert inside[""].point == "/sys/fs/cgroup"

    def test_joined_and_named_hierarchies(self) -> None:
        raw = (
            b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
            b"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 master:2 - cgroup cgroup rw,cpu,cpuacct\n"
            b"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
            b"41 31 0:38 /box /mnt/with\\040space rw - cgroup2 cgroup2 rw\n"
            b"42 31 0:38 / /second rw - cgroup2 cgroup2 rw\n"
        )
        found = mountinfo.cgroup_mounts(raw, "p")
        assert found["cpu"] == found["cpuacct"] == mountinfo.Mount("/sys/fs/cgroup/cpu,cpuacct", "/")
        assert found[""] == mountinfo.Mount("/mnt/with space", "/box")
        assert "memory" not in found

    @pytest.mark.parametrize(
        "raw",
        [
            b"41 31 - cgroup2 cgroup2 rw\n",
            b"41 31 0:38 / /sys/fs/cgroup rw - cgroup2\n",
            b"41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
            b"41 31 0:38 / /sys/fs/cgroup rw - cgro",
        ],
    )
    def test_cut_off(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve):
            mountinfo.cgroup_mounts(raw, "p")


class TestNetUnix:
    def test_recorded(self) -> None:
        found, hashed = net_unix.command_sockets(recorded("proc/net-unix"), "p")
        assert found == {f"/var/lib/lxc/{name}" for name in ("plain", "mem", "cpu", "sysd")}
        assert hashed == set(), "lxc-monitord's socket is no container's"

    def test_odd_names(self) -> None:
        line = b"000: 00000002 00000000 00010000 0001 01 1 @%s/command\n"
        names = [b"/srv/a b/web.1", b"/srv/x/w\xff", b"lxc/0123456789abcdef", b"relative/web", b"/srv/dir/", b"lxc/xyz"]
        found, hashed = net_unix.command_sockets(b"Num RefCount\n" + b"".join(line % name for name in names), "p")
        assert found == {"/srv/a b/web.1", "/srv/x/w\udcff"}
        assert hashed == {"lxc/0123456789abcdef"}

    def test_a_socket_in_the_file_system_is_no_monitor(self) -> None:
        raw = b"Num\n0: 2 0 00010000 0001 01 1 /var/lib/lxc/web/command\n".replace(b"Num", b"Num RefCount")
        assert net_unix.command_sockets(raw, "p") == (set(), set())

    @pytest.mark.parametrize("raw", [b"", b"\n", b"garbage", b"Num R\n0: 2 0 00010000 0001 01 1 @/var/lib/lxc/we"])
    def test_refused(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve):
            net_unix.command_sockets(raw, "p")

    def test_the_hash_is_the_one_that_lxc_makes(self) -> None:
        # Recorded: lxc-monitord's name hashes lxc/LXCPATH/monitor-sock with the same function.
        assert b"@lxc/ad055575fe28ddd5//var/lib/lxc" in recorded("proc/net-unix")
        value = 0xCBF29CE484222325
        for byte in b"lxc//var/lib/lxc/monitor-sock":
            value = ((value ^ byte) * 0x100000001B3) % 2**64
        assert f"{value:016x}" == "ad055575fe28ddd5"
        directory = "/" + "d" * 120
        value = 0xCBF29CE484222325
        for byte in directory.encode():
            value = ((value ^ byte) * 0x100000001B3) % 2**64
        assert net_unix.socket_name(directory) == f"lxc/{value:016x}/command"

    def test_the_longest_name_that_is_not_hashed(self) -> None:
        # commands_utils.c: hashed from 106 bytes on, /command included.
        assert net_unix.socket_name("/" + "d" * 96) == "/" + "d" * 96 + "/command"
        assert net_unix.socket_name("/" + "d" * 97).startswith("lxc/")
        assert net_unix.socket_name("/" + "ä" * 49).startswith("lxc/"), "bytes count, not letters"


class TestMeminfo:
    def test_recorded(self) -> None:
        assert meminfo.host_memory(recorded("proc/meminfo"), "p") == (2012132 * 1024, 262140 * 1024)

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"MemTotal: 1 kB\n",
            b"MemTotal: x kB\nSwapTotal: 0 kB\n",
            b"MemTotal: 1 kB\nSwapTotal: 26",
            b"MemTotal: 1\nSwapTotal: 0 kB\n",
        ],
    )
    def test_refused(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve, match="p has no line"):
            meminfo.host_memory(raw, "p")


class TestLxcConfig:
    def test_settings(self) -> None:
        raw = (
            b"# lxc.start.auto = 0\n lxc.start.auto = 1\nlxc.start.auto=1\n"
            b'lxc.uts.name = "a = b"\nnonsense\n\xff = \xff\n=x\n'
        )
        found = lxc_config.settings(raw)
        assert dict(found)["lxc.start.auto"] == "1"
        assert dict(found)["lxc.uts.name"] == "a = b"
        assert len(found) == 3, "LXC passes over what is no key of its own"

    @pytest.mark.parametrize(
        ("raw", "expected"),
        [
            (b"onboot: 1\n", True),
            (b"onboot: 0\n", False),
            (b"", False),
            (b"[snap]\nonboot: 1\n", False),
            (b"#onboot: 1\n", False),
        ],
    )
    def test_proxmox(self, raw: bytes, expected: bool) -> None:
        assert lxc_config.proxmox_onboot(raw) is expected


class TestLxcCommand:
    def test_wire_format(self) -> None:
        assert lxc_command.request(lxc_command.GET_STATE) == struct.pack("@iiP", 3, 0, 0)
        assert (
            lxc_command.request(lxc_command.GET_LIMIT_CGROUP, "memory") == struct.pack("@iiP", 19, 7, 0) + b"memory\0"
        )
        assert lxc_command.answer(struct.pack("@iiP", 0, 0, 2)) == (0, 2, 0)
        assert lxc_command.STATES[2] == "RUNNING"

    @pytest.mark.parametrize(
        "raw", [b"", b"x" * 15, struct.pack("@iiP", 0, -1, 0), struct.pack("@iiP", 0, 2**31 - 1, 0)]
    )
    def test_refused(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve):
            lxc_command.answer(raw)


PARSERS = {
    "number": lambda raw: cgroup.number(raw, "p"),
    "limit": lambda raw: cgroup.limit(raw, "p"),
    "counts": lambda raw: cgroup.counts(raw, "p", b"populated", b"1"),
    "memberships": lambda raw: cgroup.memberships(raw, "p"),
    "mountinfo": lambda raw: mountinfo.cgroup_mounts(raw, "p"),
    "net_unix": lambda raw: net_unix.command_sockets(raw, "p"),
    "meminfo": lambda raw: meminfo.host_memory(raw, "p"),
    "settings": lxc_config.settings,
    "onboot": lxc_config.proxmox_onboot,
    "answer": lxc_command.answer,
}
PIECES = [
    b"Num ", b" - ", b"cgroup2 ", b"0::/", b"\n", b" ", b"1", b"max", b"populated", b"MemTotal: ", b" kB",
    b" @/a/command", b"=", b"-", b":", b"\0", b"\xff", b"\\777",
]  # fmt: skip


@pytest.mark.parametrize("parser", PARSERS)
@given(raw=st.binary(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_any_bytes_are_facts_or_cannot_be_observed(parser: str, raw: bytes) -> None:
    try:
        PARSERS[parser](raw)
    except CannotObserve as problem:
        assert str(problem).isprintable()


@pytest.mark.parametrize(
    ("parser", "recording"),
    [
        ("number", "v2-nested-systemd/lxc.payload.sysd/memory.current"),
        ("limit", "v2-nested-systemd/lxc.payload.sysd/memory.max"),
        ("limit", "v2-unlimited/lxc.payload.plain/memory.max"),
        ("counts", "v2-frozen/lxc.payload.cpu/cgroup.events"),
        ("memberships", "proc/systemd-init/cgroup"),
        ("mountinfo", "proc/mountinfo-v2"),
        ("net_unix", "proc/net-unix"),
    ],
)
def test_a_file_cut_within_a_line_is_refused(parser: str, recording: str) -> None:
    """Half a number is another number, half a name another container: what the kernel writes ends its last line."""
    raw = recorded(recording)
    for end in range(len(raw) - 1, max(0, len(raw) - 200), -1):
        if raw[end - 1 : end] != b"\n":
            with pytest.raises(CannotObserve):
                PARSERS[parser](raw[:end])
