"""Which containers are on a host."""

from __future__ import annotations

from pathlib import Path

import pytest
from sensu_lxc import inventory
from sensu_lxc.errors import CannotObserve
from sensu_lxc.host import Host

from tests.plugins.trees import Tree


def take(tree: Tree, *names: str, **how: list[str]) -> inventory.Inventory:
    return inventory.take(Host(str(tree.root)), names, **how)


def labels(tree: Tree, *names: str, **how: list[str]) -> list[str]:
    return [container.label for container in take(tree, *names, **how).containers]


@pytest.fixture
def three(tree: Tree) -> Tree:
    tree.container("web1")
    tree.container("web2", running=False)
    tree.container("db1")
    return tree


@pytest.mark.parametrize(
    ("names", "exclude", "expected", "missing"),
    [
        ([], [], ["db1", "web1", "web2"], []),
        (["web1"], [], ["web1"], []),
        (["web*"], [], ["web1", "web2"], []),
        (["web?", "db1"], [], ["db1", "web1", "web2"], []),
        (["web[12]"], ["*2"], ["web1"], []),
        ([], ["web*"], ["db1"], []),
        (["nope"], [], [], ["nope"]),
        (["nope*", "web1"], [], ["web1"], ["nope*"]),
        (["nope", "db1"], ["nope"], ["db1"], []),
        (["WEB1"], [], [], ["WEB1"]),
        (["web"], [], [], ["web"]),
        (["web1", "web1"], [], ["web1"], []),
        (["../lxc/web1", ".", "..", "web1/"], [], [], ["../lxc/web1", ".", "..", "web1/"]),
    ],
)
def test_selection(three: Tree, names: list[str], exclude: list[str], expected: list[str], missing: list[str]) -> None:
    found = take(three, *names, exclude=exclude)
    assert [container.label for container in found.containers] == expected
    assert found.missing == missing


@pytest.mark.parametrize(
    ("names", "exclude", "left_out"),
    [
        ([], ["*"], "none of 3 containers"),
        (["web*", "nope"], ["web1,", "web?", "n*"], "none of 3 containers"),
        (["nope"], ["nope"], "out the one container that is meant"),
    ],
)
def test_a_selection_that_leaves_none_says_so(three: Tree, names: list[str], exclude: list[str], left_out: str) -> None:
    with pytest.raises(CannotObserve, match=f"^--exclude leaves {left_out}$"):
        take(three, *names, exclude=exclude)


def test_what_is_known_of_each(three: Tree) -> None:
    three.container("loose", "/srv/lxc", config=None)
    known = {one.name: (one.lxcpath, one.defined, one.has_monitor) for one in take(three).containers}
    assert known == {
        "db1": ("/var/lib/lxc", True, True),
        "web1": ("/var/lib/lxc", True, True),
        "web2": ("/var/lib/lxc", True, False),
        "loose": ("/srv/lxc", False, True),
    }


def test_dots_and_dashes_in_names(tree: Tree) -> None:
    for name in ("web.site-1", "web.site", "a.b.c", "-x", "payload"):
        tree.container(name)
    assert labels(tree, "web.site") == ["web.site"]
    assert labels(tree, "web.*") == ["web.site", "web.site-1"]
    assert labels(tree, "payload") == ["payload"]


def test_names_that_are_no_utf8(tree: Tree) -> None:
    tree.container("w\udcff")
    assert labels(tree) == ["w\udcff"]
    assert take(tree).containers[0].has_monitor


def test_the_same_name_in_two_lxcpaths(tree: Tree) -> None:
    tree.container("web")
    tree.container("web", "/srv/lxc", suffix="-1")
    assert labels(tree) == ["/srv/lxc/web", "/var/lib/lxc/web"]
    assert labels(tree, "web") == ["/srv/lxc/web", "/var/lib/lxc/web"]
    assert labels(tree, "web", lxcpaths=["/srv/lxc/"]) == ["web"]


def test_an_over_long_lxcpath_has_a_hashed_socket(tree: Tree) -> None:
    path = "/srv/" + "d" * 120
    tree.container("web", path)
    tree.container("off", path, running=False)
    found = {one.name: one.has_monitor for one in take(tree, lxcpaths=[path]).containers}
    assert found == {"web": True, "off": False}


def test_a_configured_lxcpath(tree: Tree) -> None:
    tree.write("/etc/lxc/lxc.conf", "# x\nlxc.lxcpath = /srv/lxc\n")
    tree.container("web", "/srv/lxc", running=False)
    tree.container("other", running=False)
    assert labels(tree) == ["web"]


def test_an_lxcpath_behind_links(tree: Tree) -> None:
    tree.container("web", "/srv/lxc", running=False)
    tree.at("/var/lib/lxc").rmdir()
    tree.at("/var/lib/lxc").symlink_to("/srv/lxc")  # absolute: below --root it is that host's
    assert labels(tree) == ["web"]


def test_what_is_no_container(tree: Tree) -> None:
    tree.container("web", running=False)
    tree.write("/var/lib/lxc/lost+found/x", "")
    tree.write("/var/lib/lxc/.cache/config", "")
    tree.write("/var/lib/lxc/half-made/rootfs/x", "")
    tree.write("/var/lib/lxc/file", "")
    assert labels(tree) == ["web"]
    assert take(tree, "half-made").missing == ["half-made"]


def test_lxd_and_incus_beside_lxc(tree: Tree) -> None:
    tree.container("web")
    tree.lxd("web")
    tree.lxd("test_web", running=False)
    tree.lxd("c1", base="/var/lib/incus")
    tree.lxd("s1", base="/var/snap/lxd/common/lxd")
    assert sorted(labels(tree)) == ["/var/lib/lxc/web", "/var/lib/lxd/containers/web", "c1", "s1", "test_web"]
    assert [one.is_lxd for one in take(tree, "web").containers] == [False, True]
    assert take(tree, "test_web").containers[0].defined


def test_proxmox(tree: Tree) -> None:
    tree.container("101", config=None, family="proxmox")
    tree.write("/etc/pve/lxc/101.conf", "arch: amd64\nonboot: 1\n")
    tree.write("/etc/pve/lxc/102.conf", "onboot: 0\n")
    assert [(one.name, one.defined, one.has_monitor) for one in take(tree).containers] == [
        ("101", True, True),
        ("102", True, False),
    ]
    host = Host(str(tree.root))
    assert [inventory.starts_with_host(host, one) for one in take(tree).containers] == [True, False]


def test_nothing_here_is_an_error_not_an_empty_list(tree: Tree) -> None:
    with pytest.raises(CannotObserve, match="no container here: there is none in /var/lib/lxc"):
        take(tree)
    with pytest.raises(CannotObserve, match="name an existing lxcpath"):
        take(tree, lxcpaths=["/none"])
    with pytest.raises(CannotObserve):
        take(tree, lxcpaths=["/var/lib/lxc"])


def test_without_a_list_of_sockets_nothing_is_believed(tree: Tree) -> None:
    tree.container("web")
    tree.at("/proc/1/net/unix").unlink()
    with pytest.raises(CannotObserve, match="/proc/net/unix"):
        take(tree)


def test_an_unreadable_lxc_conf_is_said(tree: Tree) -> None:
    """Its containers are somewhere else, perhaps."""
    tree.container("web")
    tree.at("/etc/lxc/lxc.conf").mkdir(parents=True)
    try:
        assert take(tree).unseen
    except CannotObserve:
        pass


def test_a_hashed_socket_of_nobody_is_said(tree: Tree) -> None:
    tree.container("web")
    tree.listen("lxc/0123456789abcdef/command")
    assert take(tree).unseen


class TestAutostart:
    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ("lxc.start.auto = 1\n", True),
            ("lxc.start.auto=1\n", True),
            ("lxc.start.auto = 0\n", False),
            ("", False),
            ("lxc.start.auto = 0\nlxc.start.auto = 1\n", True),
            ("lxc.start.auto = 1\nlxc.include = /etc/off.conf\n", False),
            ("lxc.include = /etc/on.d\n", True),
            ("lxc.include = /etc/link.conf\n", True),
            ("#lxc.start.auto = 1\n", False),
        ],
    )
    def test_config(self, tree: Tree, config: str, expected: bool) -> None:
        tree.write("/etc/off.conf", "lxc.start.auto = 0\n")
        tree.write("/etc/on.d/a.conf", "lxc.start.auto = 1\n")
        tree.write("/etc/on.d/b.conf~", "lxc.start.auto = 0\n")
        tree.at("/etc/link.conf").symlink_to("/etc/on.d/a.conf")
        tree.container("web", config=config, running=False)
        container = take(tree, "web").containers[0]
        assert inventory.starts_with_host(Host(str(tree.root)), container) is expected

    @pytest.mark.parametrize(
        "config", ["lxc.include = /var/lib/lxc/web/config\n", "lxc.include = /none\n", "lxc.include = /a\0b\n"]
    )
    def test_includes_that_lead_nowhere(self, tree: Tree, config: str) -> None:
        tree.container("web", config=config, running=False)
        with pytest.raises(CannotObserve):
            inventory.starts_with_host(Host(str(tree.root)), take(tree, "web").containers[0])

    def test_lxd_without_its_daemon_cannot_be_told(self, tree: Tree) -> None:
        tree.lxd("web")
        with pytest.raises(CannotObserve, match="daemon does not run|cannot ask"):
            inventory.starts_with_host(Host(str(tree.root)), take(tree, "web").containers[0])


def test_a_pattern_cannot_take_for_ever(tree: Tree, tmp_path: Path) -> None:
    tree.container("a" * 60)
    assert take(tree, "*a" * 30 + "b").missing


def test_what_is_told_with_its_lxcpath_is_taken_back_so(tree: Tree) -> None:
    """As it is where a name is there twice."""
    for path in ("/var/lib/lxc", "/srv/lxc"):
        tree.define("web", lxcpath=path)
    tree.define("db", lxcpath="/srv/lxc")
    both = ["/srv/lxc", "/var/lib/lxc"]
    assert labels(tree, "/srv/lxc/web") == ["web"]
    assert take(tree, "/srv/lxc/web").containers[0].lxcpath == "/srv/lxc"
    assert take(tree, "/srv//lxc/web", "/srv/lxc/none").missing == ["/srv/lxc/none"]
    assert labels(tree, "/srv/lxc/*", lxcpaths=both) == ["db", "/srv/lxc/web"]
    assert labels(tree, exclude=["/srv/lxc/web"], lxcpaths=both) == ["db", "/var/lib/lxc/web"]
    assert labels(tree, "web", exclude=["/srv/lxc/w*"], lxcpaths=both) == ["/var/lib/lxc/web"]
