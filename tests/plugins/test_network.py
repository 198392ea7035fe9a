"""network.py and the parser below it: what a container's interfaces carried, and whose they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc import inventory, network
from sensu_lxc.cgroups import Cgroups
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.host import Host
from sensu_lxc.sources import net_dev
from sensu_lxc.sources.net_dev import Interface

from tests.plugins.trees import Container, Tree

RECORDINGS = Path(__file__).resolve().parents[1] / "recordings" / "net_dev"
HEADING = RECORDINGS.joinpath("veth-early").read_bytes()[: len(net_dev._HEADING)]


def recorded(name: str) -> bytes:
    return (RECORDINGS / name).read_bytes()


def parse(raw: bytes) -> dict[str, Interface]:
    return net_dev.interfaces(raw, "/proc/7/net/dev")


class TestParser:
    def test_a_container(self) -> None:
        assert parse(recorded("veth-early")) == {
            "lo": Interface(0, 0, 0, 0, 0, 0, 0, 0),
            "eth0": Interface(5168, 36, 0, 0, 1680, 8, 0, 0),
        }

    def test_each_column_is_where_it_belongs(self) -> None:
        line = b"  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
        assert parse(HEADING + line) == {
            "eth0": Interface(
                rx_bytes=1, rx_packets=2, rx_errors=3, rx_drops=4, tx_bytes=9, tx_packets=10, tx_errors=11, tx_drops=12
            )
        }

    def test_an_engine_inside(self) -> None:
        found = parse(recorded("nested-engine"))
        assert list(found) == ["lo", "eth0", "docker0", "veth0", "vethab12cd"]
        assert found["docker0"].tx_drops == 3

    def test_names_that_the_kernel_takes(self) -> None:
        names = set(parse(recorded("odd-names")))
        assert {'eth"q', "é", "a=b", "x'y", "b\\s", "p|q", "ev;il", "bad\udcff\x1b"} <= names

    @pytest.mark.parametrize("name", ["eth0", "eth0:1", "a:b"])
    def test_a_name_glued_to_its_first_number(self, name: str) -> None:
        line = f"{name}:{2**64 - 1} {' '.join('1' * 15)}\n".encode()
        assert parse(HEADING + line)[name].rx_bytes == 2**64 - 1

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            HEADING,
            HEADING[:-1],
            HEADING + b"\n",
            HEADING + b"  eth0: 1 2 3\n",
            HEADING + b"  eth0:" + b" 1" * 17 + b"\n",
            HEADING + b"  eth0:" + b" 1" * 15 + b" -1\n",
            HEADING + b"  eth0:" + b" 1" * 15 + b" 1_0\n",
            HEADING + b"  eth0:" + b" 1" * 15 + b" " + b"1" * 5000 + b"\n",
            HEADING + b"  eth0:" + b" 1" * 16,
            HEADING + b"  :" + b" 1" * 16 + b"\n",
            HEADING + b"  two names:" + b" 1" * 16 + b"\n",
            HEADING + b"  eth0" + b" 1" * 16 + b"\n",
            HEADING.replace(b"errs", b"oops") + b"  eth0:" + b" 1" * 16 + b"\n",
            recorded("host") + b"\n",
        ],
    )
    def test_garbage_is_refused(self, raw: bytes) -> None:
        with pytest.raises(CannotObserve, match="/proc/7/net/dev"):
            parse(raw)

    @given(st.binary() | st.binary().map(lambda tail: HEADING + tail))
    def test_any_bytes(self, raw: bytes) -> None:
        try:
            found = parse(raw)
        except CannotObserve as problem:
            assert str(problem).isprintable()
        else:
            assert found
            assert all(count >= 0 for interface in found.values() for count in interface)

    @given(st.sampled_from(["veth-late", "host", "odd-names"]), st.data())
    def test_cut_off(self, name: str, data: st.DataObject) -> None:
        """Where it ends in the middle of a line it is refused; at the end of one, each one that is there is right."""
        whole = recorded(name)
        raw = whole[: data.draw(st.integers(0, len(whole)))]
        if len(raw) > len(HEADING) and raw.endswith(b"\n"):
            assert parse(raw).items() <= parse(whole).items()
        else:
            with pytest.raises(CannotObserve):
                parse(raw)


def look(tree: Tree, name: str = "web", surely: bool = False, host: Host | None = None) -> network.Network:
    host = host or Host(str(tree.root))
    found = inventory.take(host, [name])
    return network.interfaces(host, Cgroups(host, found.running), found.containers[0], surely)


def with_network(tree: Tree, name: str = "web", recording: str = "veth-early") -> Container:
    made = tree.container(name)
    tree.write(f"/proc/{made.init}/net/dev", recorded(recording))
    tree.write(f"/proc/{made.init}/net/unix", "Num       RefCount Protocol Flags    Type St Inode Path\n")
    return made


class TestOfAContainer:
    @pytest.mark.parametrize("surely", [False, True])
    def test_its_interfaces_and_its_life(self, any_tree: Tree, surely: bool) -> None:
        made = with_network(any_tree)
        found = look(any_tree, surely=surely)
        assert found.interfaces["eth0"].tx_packets == 8
        assert found.counters == found.interfaces
        directory = made.directory("freezer" if "freezer" in any_tree.mounts else "")
        assert found.life == directory.stat().st_ino

    @pytest.mark.parametrize("surely", [False, True])
    def test_surely_is_handed_on(self, tree: Tree, monkeypatch: pytest.MonkeyPatch, surely: bool) -> None:
        with_network(tree)
        asked = []
        directory = Cgroups.directory

        def asking(cgroups: Cgroups, container: Any, hierarchy: Any, surely: bool = False) -> str:
            asked.append(surely)
            return directory(cgroups, container, hierarchy, surely)

        monkeypatch.setattr(Cgroups, "directory", asking)
        look(tree, surely=surely)
        assert asked[0] is surely

    def test_under_a_nested_systemd(self, any_tree: Tree) -> None:
        made = any_tree.container("web", nested_systemd=True)
        any_tree.write(f"/proc/{made.init}/net/dev", recorded("veth-late"))
        assert look(any_tree).interfaces["eth0"].rx_packets == 39

    def test_ended_before_it_was_read(self, any_tree: Tree) -> None:
        any_tree.container("web")
        with pytest.raises(NotThere):
            look(any_tree)

    def test_restarted_while_it_was_read(self, tree: Tree) -> None:
        """What was read may then be the next life's, whose counters must not be compared with this one's."""
        made = with_network(tree)

        class Restarting(Host):
            def read_with_inode(self, path: str) -> tuple[bytes, int]:
                if path.endswith("/net/dev"):
                    new_life(made)
                return super().read_with_inode(path)

        with pytest.raises(NotThere, match="restarts"):
            look(tree, host=Restarting(str(tree.root)))

    def test_ended_while_its_init_was_looked_for(self, tree: Tree) -> None:
        """It is said to have ended, rather than to have no init."""
        made = with_network(tree)

        class Ending(Host):
            def value(self, path: str) -> bytes:
                if path.endswith("/cgroup.procs") and made.directory("").exists():
                    shutil.rmtree(made.directory(""))
                    shutil.rmtree(tree.at(f"/proc/{made.init}"))
                    shutil.rmtree(tree.at(f"/proc/{made.monitor}"))
                return super().value(path)

        with pytest.raises(NotThere):
            look(tree, host=Ending(str(tree.root)))

    def test_hidepid(self, tree: Tree) -> None:
        made = with_network(tree)
        host = Host(str(tree.root))
        found = inventory.take(host, ["web"])
        cgroups = Cgroups(host, found.running)
        for pid in (1, made.monitor, made.init):
            shutil.rmtree(tree.at(f"/proc/{pid}"))
        with pytest.raises(CannotObserve, match=r"hidepid.*run as root"):
            network.interfaces(host, cgroups, found.containers[0])


class TestTheHostsNetwork:
    """lxc.net.0.type = none: never started on this machine, as the container's init would strip the host's network."""

    def test_known_by_the_monitors_socket(self, any_tree: Tree) -> None:
        made = with_network(any_tree, recording="host")
        any_tree.container("other")
        assert look(any_tree).interfaces
        shutil.copy(any_tree.at("/proc/1/net/unix"), any_tree.at(f"/proc/{made.init}/net/unix"))
        with pytest.raises(network.SharesHostNetwork, match="shares the host's network"):
            look(any_tree)

    def test_anothers_socket_is_no_sign(self, tree: Tree) -> None:
        """LXC inside of a container has sockets as well."""
        made = with_network(tree)
        nested = Tree(tree.root / "nested")
        nested.container("inner")
        shutil.copy(nested.at("/proc/1/net/unix"), tree.at(f"/proc/{made.init}/net/unix"))
        assert look(tree).interfaces

    def test_a_hashed_socket(self, tree: Tree) -> None:
        lxcpath = "/srv/" + "d" * 120
        made = tree.container("web", lxcpath)
        tree.write(f"/proc/{made.init}/net/dev", recorded("host"))
        shutil.copy(tree.at("/proc/1/net/unix"), tree.at(f"/proc/{made.init}/net/unix"))
        host = Host(str(tree.root))
        found = inventory.take(host, ["web"], lxcpaths=[lxcpath])
        with pytest.raises(network.SharesHostNetwork):
            network.interfaces(host, Cgroups(host, found.running), found.containers[0])

    def test_known_by_the_files_inode(self, any_tree: Tree) -> None:
        made = with_network(any_tree, recording="host")
        any_tree.at(f"/proc/{made.init}/net/dev").unlink()
        os.link(any_tree.write("/proc/1/net/dev", recorded("host")), any_tree.at(f"/proc/{made.init}/net/dev"))
        with pytest.raises(network.SharesHostNetwork):
            look(any_tree)

    def test_the_hosts_own_file_is_looked_at_once(self, tree: Tree) -> None:
        with_network(tree)
        with_network(tree, "db")
        tree.write("/proc/1/net/dev", recorded("host"))
        looked = []

        class Counting(Host):
            def inode(self, path: str) -> int:
                looked.append(path)
                return super().inode(path)

        host = Counting(str(tree.root))
        found = inventory.take(host)
        cgroups = Cgroups(host, found.running)
        for container in found.containers:
            network.interfaces(host, cgroups, container)
        assert looked.count("/proc/1/net/dev") == 1

    def test_a_list_of_sockets_that_may_not_be_read(self, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
        with_network(tree)
        read = Host.read

        def refused(host: Host, path: str) -> bytes:
            if path.endswith("/net/unix") and "/1/" not in path:
                raise CannotObserve(f"cannot read {path}: Permission denied")
            return read(host, path)

        monkeypatch.setattr(Host, "read", refused)
        with pytest.raises(CannotObserve, match="Permission denied"):
            look(tree)


def new_life(made: Container) -> None:
    """The container's cgroups made anew, as a restart makes them."""
    for point in set(made.tree.mounts.values()):
        directory = made.tree.at(point + made.path)
        fresh = directory.with_name("fresh")  # made before the old one goes, which could give it its inode number
        shutil.copytree(directory, fresh)
        shutil.rmtree(directory)
        fresh.rename(directory)
