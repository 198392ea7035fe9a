"""grow_container_memory without containers: how far a limit grows, and what is written where."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import grow_container_memory
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc import growth, inventory
from sensu_lxc.acting import Refused
from sensu_lxc.cgroups import Cgroups
from sensu_lxc.growth import HIGH, LIMIT_V1, LIMIT_V2, MEMSW, Amount, Facts, Limits, Rule
from sensu_lxc.host import Host
from sensu_lxc.owned import CannotAct
from sensu_lxc.plugin import Misuse
from sensu_lxc.sources import lxc_config

from tests.plugins.running import run
from tests.plugins.trees import MIB, UNLIMITED_V1, Container, Tree

PAGE = 4096
GIB = 1 << 30
RULE = Rule(growth.step("25%"), 2 * GIB, 90.0, 512 * MIB)
SHORT = Facts(64 * MIB, None, None, 60 * MIB, 63 * MIB, [])


def decide(facts: Facts = SHORT, rule: Rule = RULE, available: int = 8 * GIB) -> growth.Decision:
    return growth.decide(facts, rule, available, PAGE)


class TestOptions:
    @pytest.mark.parametrize(
        ("text", "value", "is_percent"), [("25%", 25, True), ("256M", 256 * MIB, False), ("1.5GiB", 1.5 * GIB, False)]
    )
    def test_a_step(self, text: str, value: float, is_percent: bool) -> None:
        assert growth.step(text)[:2] == (value, is_percent)

    @pytest.mark.parametrize("text", ["", "0", "0%", "-1", "1001%", "25 percent", "10:20", "@5", "max", "1e9", "25%:"])
    def test_no_step(self, text: str) -> None:
        with pytest.raises(argparse.ArgumentTypeError):
            growth.step(text)

    @pytest.mark.parametrize("text", ["80%", "0", "~:5", "x", ""])
    def test_no_size(self, text: str) -> None:
        with pytest.raises(argparse.ArgumentTypeError):
            growth.size(text)

    @pytest.mark.parametrize("text", ["101%", "90", "0.5", "-1%", ""])
    def test_no_share(self, text: str) -> None:
        with pytest.raises(argparse.ArgumentTypeError):
            growth.share(text)

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--max=2G", "--at=0"],
            ["--max=2G", "--step=0"],
            ["--max=2G", "--step=25"],
            ["--max=2"],
            ["--max=80%"],
            ["--max=2G", "--root=/"],
            ["--max=2G", "--per-container"],
            ["--max=2G", "--cooldown=0"],
            ["--max=2G", "--maximum=3G"],
            ["--max=2G", "-n", ""],
            ["--max=2G", "--state-dir=x"],
            ["--max=2G", "--max=3G"],
        ],
    )
    def test_a_command_line_that_is_refused(self, arguments: list[str]) -> None:
        with pytest.raises(Misuse) as caught:
            grow_container_memory.GrowContainerMemory(arguments)
        assert str(caught.value).isprintable()

    def test_misuse_is_one_unknown_line(self) -> None:
        done = run("grow_container_memory.py", None, "--stp=1M")
        assert (done.status, done.out.count("\n"), done.err) == (3, 1, "")


class TestDecision:
    def test_grows_by_a_share(self) -> None:
        decision = decide()
        assert (decision.kind, decision.limits) == (growth.GROW, Limits(80 * MIB, None, None))
        assert decision.words == "60.0 MiB used, 93.8% of 64.0 MiB; grown to 80.0 MiB"

    def test_grows_by_a_size(self) -> None:
        assert decide(rule=RULE._replace(step=growth.step("100M"))).limits.limit_bytes == 164 * MIB

    def test_at_the_share_is_over_it(self) -> None:
        assert decide(SHORT._replace(limit_bytes=100 * MIB, used_bytes=90 * MIB)).kind == growth.GROW
        assert decide(SHORT._replace(limit_bytes=100 * MIB, used_bytes=90 * MIB - 1)).kind == growth.WELL

    def test_zero_grows_whatever_it_uses(self) -> None:
        facts = SHORT._replace(used_bytes=0, usage_bytes=0)
        assert decide(facts, RULE._replace(at_percent=0.0)).kind == growth.GROW

    def test_no_limit_is_nothing_to_grow(self) -> None:
        decision = decide(SHORT._replace(limit_bytes=None))
        assert (decision.kind, "no limit set" in decision.words) == (growth.WELL, True)

    def test_not_beyond_the_maximum(self) -> None:
        rule = RULE._replace(maximum_bytes=70 * MIB)
        decision = decide(rule=rule)
        assert (decision.limits.limit_bytes, decision.words.endswith("its maximum")) == (70 * MIB, True)
        assert decide(SHORT._replace(limit_bytes=70 * MIB, used_bytes=65 * MIB), rule).kind == growth.AT_MAXIMUM
        assert decide(SHORT._replace(limit_bytes=90 * MIB, used_bytes=85 * MIB), rule).kind == growth.AT_MAXIMUM
        # At its maximum and well is well.
        assert decide(SHORT._replace(limit_bytes=70 * MIB, used_bytes=5 * MIB), rule).kind == growth.WELL

    def test_the_host_keeps_its_reserve(self) -> None:
        # It may take 20 MiB more than it uses.
        assert decide(available=532 * MIB).kind == growth.GROW
        decision = decide(available=532 * MIB - 1)
        assert decision.kind == growth.REFUSED
        assert "512 MiB must remain (--reserve)" in decision.words

    def test_never_below_what_is_charged(self) -> None:
        # A limit that was set below the use: what was charged before stays.
        assert decide(SHORT._replace(usage_bytes=81 * MIB)).kind == growth.REFUSED

    def test_a_limit_of_nothing_is_full(self) -> None:
        facts = Facts(0, None, None, 0, 0, [])
        assert decide(facts).limits.limit_bytes == PAGE

    def test_memory_and_swap_together(self) -> None:
        limits = decide(SHORT._replace(memsw_bytes=100 * MIB)).limits
        assert (limits.limit_bytes, limits.memsw_bytes) == (80 * MIB, 116 * MIB)

    def test_high_grows_in_proportion(self) -> None:
        assert decide(SHORT._replace(high_bytes=32 * MIB)).limits.high_bytes == 40 * MIB

    def test_high_is_where_it_is_short(self) -> None:
        """The kernel throttles it there, so that it never comes to 90% of the limit."""
        decision = decide(SHORT._replace(high_bytes=48 * MIB, used_bytes=47 * MIB))
        assert decision.kind == growth.GROW
        assert decision.words.startswith("47.0 MiB used, 97.9% of 48.0 MiB (memory.high); grown to 80.0 MiB")
        assert decide(SHORT._replace(used_bytes=47 * MIB)).kind == growth.WELL

    def test_a_cgroup_above_that_binds_already(self) -> None:
        decision = decide(SHORT._replace(above=[("/sys/fs/cgroup/tenants", 64 * MIB)]))
        assert decision.kind == growth.AT_MAXIMUM
        assert "which is the limit of /sys/fs/cgroup/tenants above it" in decision.words
        decision = decide(SHORT._replace(limit_bytes=None, above=[("/a/b", GIB), ("/a", 64 * MIB)]))
        assert (decision.kind, "/a above it (it has no limit of its own)" in decision.words) == (
            growth.AT_MAXIMUM,
            True,
        )

    def test_a_cgroup_above_that_will_bind(self) -> None:
        decision = decide(SHORT._replace(above=[("/a/b", 70 * MIB), ("/a", GIB)]))
        assert decision.kind == growth.GROW
        assert decision.words.endswith("; the limit of /a/b above it still binds at 70.0 MiB")

    @given(
        st.integers(0, 1 << 45), st.integers(0, 1 << 45), st.integers(0, 1 << 45), st.integers(1, 1 << 45),
        st.floats(0.000001, 1000), st.booleans(), st.sampled_from([4096, 65536]), st.integers(0, 1 << 45),
    )  # fmt: skip
    def test_what_always_holds(
        self, limit: int, used: int, usage: int, maximum: int, step: float, percent: bool, page: int, available: int
    ) -> None:
        rule = Rule(Amount(step if percent else int(step * 1000) + 1, percent, ""), maximum, 0.0, 512 * MIB)
        facts = Facts(limit, limit + 7 * page, limit // 2, used, usage, [])
        decision = growth.decide(facts, rule, available, page)
        if decision.kind != growth.GROW:
            assert decision.limits is None
            return
        grown, memsw, high = decision.limits
        assert limit < grown <= maximum
        assert grown % page == 0
        assert grown > usage
        assert memsw - grown == 7 * page
        assert high is None or high <= grown
        assert available - (grown - used) >= rule.reserve_bytes


CONFIG = b"""# web1, by hand
lxc.uts.name = web1
#lxc.cgroup.memory.limit_in_bytes = 32M
lxc.cgroup.memory.limit_in_bytes = 64M
  lxc.cgroup2.memory.max=64M
lxc.net.0.type = veth
"""


class TestConfig:
    def test_each_key_that_is_there_and_nothing_else(self) -> None:
        changed = growth.with_settings(CONFIG, {LIMIT_V1: "80", LIMIT_V2: "80"})
        assert changed == CONFIG.replace(b"\nlxc.cgroup.memory.limit_in_bytes = 64M", b"\nlxc.cgroup.memory.limit_in_bytes = 80").replace(b"max=64M", b"max=80")  # fmt: skip  # noqa: E501

    def test_appended_where_there_is_none(self) -> None:
        assert growth.with_settings(b"a = 1\n", {LIMIT_V2: "80"}) == b"a = 1\nlxc.cgroup2.memory.max = 80\n"
        assert growth.with_settings(b"", {LIMIT_V2: "80"}) == b"lxc.cgroup2.memory.max = 80\n"

    def test_a_last_line_without_its_end(self) -> None:
        assert growth.with_settings(b"a = 1", {LIMIT_V2: "80"}) == b"a = 1\nlxc.cgroup2.memory.max = 80\n"
        assert growth.with_settings(b"lxc.cgroup2.memory.max = 1", {LIMIT_V2: "8"}) == b"lxc.cgroup2.memory.max = 8"

    def test_lines_that_end_as_on_windows(self) -> None:
        raw = b"a = 1\r\nlxc.cgroup2.memory.max = 64M\r\nb = 2\r\n"
        assert growth.with_settings(raw, {LIMIT_V2: "80"}) == raw.replace(b"64M", b"80")
        assert growth.with_settings(b"a = 1\r\n", {LIMIT_V2: "80"}) == b"a = 1\r\nlxc.cgroup2.memory.max = 80\r\n"

    def test_twice_the_same_key(self) -> None:
        raw = b"lxc.cgroup2.memory.max = 1\nlxc.cgroup2.memory.max = 2\n"
        assert growth.with_settings(raw, {LIMIT_V2: "8"}) == b"lxc.cgroup2.memory.max = 8\n" * 2

    def test_again_at_the_end_where_an_include_says_otherwise(self) -> None:
        raw = b"lxc.cgroup2.memory.max = 1\nlxc.include = /x\n"
        changed = growth.with_settings(raw, {LIMIT_V2: "8"}, [LIMIT_V2])
        assert changed == raw.replace(b"= 1", b"= 8") + b"lxc.cgroup2.memory.max = 8\n"

    @given(st.binary(max_size=200), st.sampled_from([b"", b"\n", b"\r\n"]), st.binary(max_size=50))
    def test_all_other_bytes_stay(self, before: bytes, end: bytes, after: bytes) -> None:
        raw = before + end + after
        changed = growth.with_settings(raw, {LIMIT_V2: "80"})
        assert dict(lxc_config.settings(changed))[LIMIT_V2] == "80"
        if LIMIT_V2.encode() not in raw:
            assert changed.startswith(raw)
        # Done twice is done once.
        assert growth.with_settings(changed, {LIMIT_V2: "80"}) == changed

    @pytest.mark.parametrize(
        ("text", "value"),
        [("64M", 64 * MIB), ("1g", GIB), ("100", 100), ("max", None), ("-1", None), ("64MB", None), ("", None)],
    )
    def test_sizes_as_the_kernel_reads_them(self, text: str, value: int | None) -> None:
        assert growth.config_bytes(text) == value

    def test_values_of_every_key_that_counts(self) -> None:
        settings = {LIMIT_V1: "64M", MEMSW: "100M", HIGH: "32M", "lxc.uts.name": "web1"}
        values = growth.config_values(settings, 64 * MIB, Limits(80 * MIB, None, None), True)
        assert values == {
            LIMIT_V1: str(80 * MIB), LIMIT_V2: str(80 * MIB), MEMSW: str(116 * MIB), HIGH: str(40 * MIB),
        }  # fmt: skip

    def test_memory_and_swap_never_below_memory(self) -> None:
        """LXC would refuse to start it."""
        values = growth.config_values({MEMSW: "10M"}, 64 * MIB, Limits(80 * MIB, None, None), False)
        assert values[MEMSW] == str(80 * MIB)
        assert MEMSW not in growth.config_values({MEMSW: "-1"}, 64 * MIB, Limits(80 * MIB, None, None), False)
        assert growth.config_values({}, 1, Limits(80 * MIB, 99 * MIB, None), False)[MEMSW] == str(99 * MIB)


class TestProxmox:
    RAW = b"arch: amd64\nhostname: web\nmemory: 512\nswap: 512\n\n[before]\nmemory: 256\n"

    def test_its_memory_and_no_snapshots(self) -> None:
        assert growth.with_proxmox_memory(self.RAW, 640) == self.RAW.replace(b"memory: 512", b"memory: 640")

    def test_without_a_line_for_it(self) -> None:
        raw = self.RAW.replace(b"memory: 512\n", b"")
        assert growth.with_proxmox_memory(raw, 640) == (
            b"arch: amd64\nhostname: web\nswap: 512\nmemory: 640\n\n[before]\nmemory: 256\n"
        )
        assert growth.with_proxmox_memory(b"arch: amd64", 640) == b"arch: amd64\nmemory: 640\n"

    def test_a_comment_is_none(self) -> None:
        assert growth.with_proxmox_memory(b"#memory: 1\n", 640) == b"#memory: 1\nmemory: 640\n"

    def test_its_lock(self) -> None:
        assert growth.proxmox_lock(b"arch: amd64\nlock: backup\n") == "backup"
        assert growth.proxmox_lock(self.RAW + b"lock: backup\n") == ""


class TestOnATree:
    """What is written into which file, on every layout. (A real kernel is in tests/live.)"""

    def grow(self, tree: Tree, web: Container, limits: Limits | None = None) -> None:
        host = Host(str(tree.root))
        container = inventory.take(host, [web.name]).containers[0]
        cgroups = Cgroups(host)
        hierarchy, directory = grow_container_memory.place(cgroups, container)
        facts = grow_container_memory.facts_of(host, cgroups, container, hierarchy, directory)
        wanted = limits or growth.decide(facts, RULE, 8 * GIB, PAGE).limits
        is_v2 = hierarchy.version == 2
        changes = grow_container_memory.config_changes(host, container, facts, wanted, is_v2)
        for change in changes:
            grow_container_memory.replace_file(host, change.path, change.after)
        grow_container_memory.keep_effective(host, container, changes, wanted, is_v2)
        grow_container_memory.set_limits(host, hierarchy, directory, facts, wanted)
        self.settings = inventory.config(host, container)

    def shown(self, web: Container, v1: str, v2: str) -> str:
        return web.file(v1 if "memory" in web.tree.mounts else v2).read_text().strip()

    def test_the_limit_and_its_config(self, any_tree: Tree) -> None:
        web = any_tree.container("web", usage=63 * MIB, config="# by hand\n")
        self.grow(any_tree, web)
        key = LIMIT_V2 if any_tree.layout == "v2" else LIMIT_V1
        assert self.shown(web, "memory.limit_in_bytes", "memory.max") == str(80 * MIB)
        assert self.settings[key] == str(80 * MIB)
        assert {LIMIT_V1, LIMIT_V2} & set(self.settings) == {key}

    def test_v1_memory_and_swap(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path, "v1")
        web = tree.container("web", usage=63 * MIB)
        web.write("memory.memsw.limit_in_bytes", f"{99 * MIB}\n")
        self.grow(tree, web)
        assert self.shown(web, "memory.memsw.limit_in_bytes", "") == str(115 * MIB)
        assert self.settings[MEMSW] == str(115 * MIB)

    def test_v1_memory_and_swap_without_a_limit(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path, "v1")
        web = tree.container("web", usage=63 * MIB)
        web.write("memory.memsw.limit_in_bytes", f"{UNLIMITED_V1}\n")
        self.grow(tree, web)
        assert self.shown(web, "memory.memsw.limit_in_bytes", "") == str(UNLIMITED_V1)
        assert MEMSW not in self.settings

    @pytest.mark.parametrize(("high", "grown"), [(f"{32 * MIB}\n", str(40 * MIB)), ("max\n", "max")])
    def test_v2_high_and_no_swap(self, tree: Tree, high: str, grown: str) -> None:
        web = tree.container("web", usage=63 * MIB, swap_limit=5 * MIB)
        web.write("memory.high", high)
        self.grow(tree, web)
        assert web.file("memory.high").read_text().strip() == grown
        assert web.file("memory.swap.max").read_text() == f"{5 * MIB}\n"
        assert self.settings.get(HIGH) == (None if grown == "max" else grown)

    def test_what_the_kernel_does_not_take_is_taken_back(self, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
        web = tree.container("web", usage=63 * MIB)
        write = grow_container_memory._write

        def cut(host: Host, path: str, value: int) -> None:
            write(host, path, value if value == 64 * MIB else value - PAGE)

        monkeypatch.setattr(grow_container_memory, "_write", cut)
        with pytest.raises(CannotAct, match=f"the kernel shows {80 * MIB - PAGE} in"):
            self.grow(tree, web)
        assert web.file("memory.max").read_text().strip() == str(64 * MIB)

    @pytest.mark.parametrize("own", ["", "lxc.cgroup2.memory.max = 64M\n"])
    @pytest.mark.parametrize("value", ["64M", str(80 * MIB), "70M"])
    def test_an_include_further_down(self, tree: Tree, own: str, value: str) -> None:
        web = tree.container("web", usage=63 * MIB, config=f"{own}lxc.include = /etc/more.conf\n")
        tree.write("/etc/more.conf", f"lxc.cgroup2.memory.max = {value}\n")
        self.grow(tree, web)
        assert self.settings[LIMIT_V2] == str(80 * MIB)
        assert tree.at("/etc/more.conf").read_text() == f"lxc.cgroup2.memory.max = {value}\n"
        assert (web.definition / "config").read_text().count(f"lxc.cgroup2.memory.max = {80 * MIB}\n") >= 1

    def test_owner_and_mode_stay(self, tree: Tree) -> None:
        web = tree.container("web", usage=63 * MIB)
        config = web.definition / "config"
        config.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(config, 1234, 4321)
        before = config.stat()
        self.grow(tree, web)
        after = config.stat()
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
        assert after.st_ino != before.st_ino
        assert sorted(os.listdir(web.definition)) == ["config"]

    def test_proxmox(self, tree: Tree) -> None:
        web = tree.container("101", usage=63 * MIB, family="proxmox")
        path = tree.write("/etc/pve/lxc/101.conf", TestProxmox.RAW)
        self.grow(tree, web, Limits(80 * MIB + PAGE, None, None))
        assert path.read_bytes() == TestProxmox.RAW.replace(b"512\nswap", b"81\nswap")
        assert self.shown(web, "", "memory.max") == str(80 * MIB + PAGE)
        assert LIMIT_V2 not in self.settings

    def test_proxmox_at_work(self, tree: Tree) -> None:
        web = tree.container("101", usage=63 * MIB, family="proxmox")
        tree.write("/etc/pve/lxc/101.conf", b"memory: 64\nlock: backup\n")
        with pytest.raises(Refused, match="backup"):
            self.grow(tree, web)

    def test_no_config(self, tree: Tree) -> None:
        web = tree.container("web", usage=63 * MIB, config=None)
        with pytest.raises(Refused, match="would be gone at its next start"):
            self.grow(tree, web)
        assert web.file("memory.max").read_text().strip() == str(64 * MIB)

    def test_a_config_that_others_may_share(self, tree: Tree) -> None:
        web = tree.container("web", usage=63 * MIB)
        config = web.definition / "config"
        shared = tree.write("/etc/shared.conf", config.read_text())
        before = shared.read_bytes()
        config.unlink()
        config.symlink_to("/etc/shared.conf")
        with pytest.raises(Refused, match="config is a link to /etc/shared.conf, so whatever shares that would grow"):
            self.grow(tree, web)
        assert shared.read_bytes() == before
        assert web.file("memory.max").read_text().strip() == str(64 * MIB)

    def test_a_link_that_stays_inside_is_followed(self, tree: Tree) -> None:
        web = tree.container("web", usage=63 * MIB)
        config = web.definition / "config"
        config.rename(web.definition / "config.real")
        config.symlink_to("config.real")
        self.grow(tree, web)
        assert f"{LIMIT_V2} = {80 * MIB}" in (web.definition / "config.real").read_text()
        assert config.is_symlink()

    def test_limits_above(self, tree: Tree) -> None:
        tree.container("web", usage=63 * MIB, family="dir", parent_limit=70 * MIB)
        host = Host(str(tree.root))
        container = inventory.take(host, ["web"]).containers[0]
        cgroups = Cgroups(host)
        place = grow_container_memory.place(cgroups, container)
        facts = grow_container_memory.facts_of(host, cgroups, container, *place)
        assert facts.above == [("/sys/fs/cgroup/tenants/gold", 70 * MIB)]
