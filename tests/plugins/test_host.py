"""The door to a host's files."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from sensu_lxc import host as host_module
from sensu_lxc.errors import CannotObserve, NotAllowed, NotThere
from sensu_lxc.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(str(tmp_path))


def test_reads_all_of_a_file_also_one_larger_than_a_chunk(host: Host, tmp_path: Path) -> None:
    for size in (0, 1, 65535, 65536, 65537, 300_000):
        (tmp_path / "file").write_bytes(b"x" * size)
        assert len(host.read("/file")) == size


def test_this_host_is_told_from_a_mounted_one() -> None:
    assert Host("/").is_this_one
    assert Host().is_this_one
    assert not Host("/mnt").is_this_one


def test_missing(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in ("/none", "/none/none", "/file/none"):
        with pytest.raises(NotThere, match=f"cannot read {tmp_path}{path}: "):
            host.read(path)
        with pytest.raises(NotThere):
            host.list(path)
        with pytest.raises(NotThere):
            host.owner(path)
        assert not host.has(path)


def test_a_directory_is_not_a_file_nor_the_reverse(host: Host, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    with pytest.raises(CannotObserve, match="directory"):
        host.read("/dir")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotObserve):
        host.list("/file")


def test_a_fifo_does_not_hang(host: Host, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert host.read("/fifo") == b""
    writer = os.open(tmp_path / "fifo", os.O_RDWR | os.O_NONBLOCK)
    try:
        with pytest.raises(CannotObserve):  # somebody holds it open and says nothing
            host.read("/fifo")
    finally:
        os.close(writer)


def test_a_socket_is_no_file(host: Host, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        with pytest.raises(CannotObserve):
            host.read("/sock")


def test_a_huge_file_is_refused(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "_LARGEST", 200_000)
    (tmp_path / "file").write_bytes(b"x" * 400_000)
    with pytest.raises(CannotObserve, match="larger than"):
        host.read("/file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; see test_as_nobody.py")
def test_not_allowed(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o000)
    with pytest.raises(NotAllowed):
        host.read("/file")


def test_a_loop_of_links(host: Host, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(CannotObserve):
        host.read("/a")
    with pytest.raises(CannotObserve, match="loop"):
        host.real("/a")


@pytest.mark.parametrize("root", ["/", "/host"])
def test_a_nul_in_a_path_cannot_be_observed(root: str) -> None:
    host = Host(root)
    for look in (host.read, host.list, host.has, host.owner):
        with pytest.raises(CannotObserve):
            look("/a\0b")
    try:
        assert "\0" in host.real("/a\0b")
    except CannotObserve:
        pass


def test_a_name_that_is_too_long_cannot_be_observed(host: Host) -> None:
    for look in (host.read, host.list, host.owner):
        with pytest.raises(CannotObserve):
            look("/" + "x" * 300)


def test_links_are_followed_within_the_root(host: Host, tmp_path: Path) -> None:
    (tmp_path / "srv/lxc").mkdir(parents=True)
    (tmp_path / "var/lib").mkdir(parents=True)
    for target in ("/srv/lxc", "../../srv/lxc", "/srv/./lxc/", "../../../../../srv/lxc"):
        (tmp_path / "var/lib/lxc").symlink_to(target)
        assert host.real("/var/lib/lxc") == "/srv/lxc", target
        assert host.real("/var/lib/lxc/web/config") == "/srv/lxc/web/config"
        (tmp_path / "var/lib/lxc").unlink()
    assert host.real("/") == "/"
    assert host.real("/none/../srv") == "/srv"


def test_owner(host: Host, tmp_path: Path) -> None:
    assert host.owner("/") == tmp_path.stat().st_uid
