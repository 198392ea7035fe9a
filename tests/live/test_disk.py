"""check_container_disk.py on real filesystems: what df says, whose they are, and those that do not answer."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.containers import Container, busybox, wait_until
from tests.live.fuse import Fuse, stuck
from tests.live.test_checks import as_nobody, nobody  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = str(ROOT / "plugins/check_container_disk.py")
pytestmark = pytest.mark.usefixtures("requires_lxc")
MIB = 1 << 20


def check(*arguments: str) -> "tuple[int, str]":
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=30, cwd="/")
    assert done.stderr == ""
    return done.returncode, done.stdout


def measured(output: str, label: str) -> "tuple[int, int]":
    """(value, maximum) of a label."""
    found = re.search(rf" {re.escape(label)}=(\d+)B?;[^;]*;[^;]*;0;(\d+)", output)
    assert found, output
    return int(found[1]), int(found[2])


def df(container: Container, path: str = "/") -> "tuple[int, int]":
    """(bytes used, used and available), as df says it inside."""
    lines = container.run("df", "-k", path).stdout.splitlines()
    _, used, available = [int(word) for word in " ".join(lines[1:]).split()[1:4]]
    return used * 1024, (used + available) * 1024


@contextlib.contextmanager
def made_by(*arguments: str, lxcpath: str, name: str = "c") -> Iterator[Container]:
    """A busybox container by lxc-create's own backend."""
    container = Container(name, lxcpath, ours=True)
    argv = ["lxc-create", "-P", lxcpath, "-n", name, "-t", "busybox", *arguments]
    try:
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
        without_network(container)
        container.start()
        yield container
    finally:
        container.close()


def without_network(container: Container) -> None:
    with open(os.path.join(container.directory, "config"), "a") as config:
        config.write("lxc.net =\nlxc.net.0.type = empty\n")


def test_a_directory_of_the_host() -> None:
    with busybox() as container:
        status, output = check("-n", container.name)
        used, whole = measured(output, f"{container.name}_disk")
        there_used, there_whole = df(container)
        assert abs(used - there_used) < 64 * MIB, output  # others write to the host's disk as well
        assert abs(whole - there_whole) < 64 * MIB
        space = os.statvfs(container.rootfs)
        inodes, all_inodes = measured(output, f"{container.name}_inodes")
        assert abs(inodes - (space.f_files - space.f_ffree)) < 5000
        assert abs(all_inodes - space.f_files) < 5000
        assert "shared with the host" in output
        assert status == (0 if used < 0.8 * whole else 2 if used >= 0.9 * whole else 1)


def test_two_directories_of_the_host_as_any_user(nobody) -> None:  # noqa: F811
    with busybox("one") as one, busybox("two") as two:
        status, output = as_nobody(nobody, "disk", "-n", f"{one.name},{two.name}", "-w", "1")
        assert status == 1, output
        assert output.count("shared with the host and 1 other container") >= 2


def test_a_loop_image(tmp_path: Path, nobody) -> None:  # noqa: F811
    with made_by("-B", "loop", "--fssize", "64M", lxcpath=str(tmp_path)) as container:
        options = ("-n", container.name, "-P", str(tmp_path))
        status, output = check(*options)
        assert (status, "shared" in output) == (0, False), output
        assert measured(output, "c_disk") == df(container)
        container.run("dd", "if=/dev/zero", "of=/root/x", "bs=1M", "count=200", check=False)
        container.run("sync")
        status, output = check(*options)
        assert (status, "critical at 90%" in output) == (2, True), output
        assert measured(output, "c_disk") == df(container)
        container.run("rm", "/root/x")
        container.run("sync")
        inodes = os.statvfs(f"/proc/{container.pid}/root")
        free = inodes.f_favail
        container.run(
            "sh", "-c", 'i=0; mkdir /root/i; while [ $i -lt $1 ]; do : > /root/i/$i || break; i=$((i+1)); done',
            "sh", str(int(inodes.f_files * 0.85) - (inodes.f_files - free)),
        )  # fmt: skip
        status, output = check(*options)
        assert (status, "% of" in output and "inodes (warning at 80%)" in output) == (1, True), output
        status, output = as_nobody(nobody, "disk", "-n", container.name)
        assert (status, "run the check as root" in output) == (3, True), output


@pytest.fixture
def volume_group(tmp_path: Path) -> Iterator[str]:
    """An LVM of its own on a loop device; the kernel of make test-vm's guest has what it takes."""
    if shutil.which("vgcreate") is None:
        pytest.skip("no vgcreate (apt install lvm2)")
    if subprocess.run(["dmsetup", "version"], capture_output=True).returncode:
        pytest.skip("this kernel has no device-mapper")
    image, name = tmp_path / "image", f"sensu-lxc-test-{os.getpid()}"
    with open(image, "wb") as file:
        file.truncate(200 * MIB)
    attach = ["losetup", "--find", "--show", str(image)]
    device = subprocess.run(attach, capture_output=True, text=True, check=True).stdout.strip()
    try:
        subprocess.run(["vgcreate", "-q", name, device], check=True, capture_output=True, timeout=60)
        yield name
    finally:
        subprocess.run(["vgremove", "-q", "-f", name], capture_output=True, timeout=60)
        subprocess.run(["pvremove", "-q", "-f", device], capture_output=True, timeout=60)
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_logical_volume(tmp_path: Path, volume_group: str, nobody) -> None:  # noqa: F811
    how = ("-B", "lvm", "--vgname", volume_group, "--fssize", "64M", "--fstype", "ext4")
    with made_by(*how, lxcpath=str(tmp_path)) as container:
        assert f"/dev/{volume_group}/c" in Path(container.directory, "config").read_text()
        options = ("-n", container.name, "-P", str(tmp_path))
        status, output = check(*options)
        assert (status, "shared" in output) == (0, False), output
        assert measured(output, "c_disk") == df(container)
        container.run("dd", "if=/dev/zero", "of=/root/x", "bs=1M", "count=200", check=False)
        container.run("sync")
        status, output = check(*options)
        assert (status, "critical at 90%" in output) == (2, True), output
        assert measured(output, "c_disk") == df(container)
        status, output = as_nobody(nobody, "disk", "-n", container.name)
        assert (status, "run the check as root" in output) == (3, True), output


def test_an_overlay_fills_the_hosts_disk(tmp_path: Path, nobody) -> None:  # noqa: F811
    lxcpath = str(tmp_path)
    with made_by(lxcpath=lxcpath, name="base") as base:
        base.stop()
        copy = Container("copy", lxcpath, ours=True)
        try:
            subprocess.run(
                ["lxc-copy", "-P", lxcpath, "-n", "base", "-N", "copy", "-s", "-B", "overlay"],
                check=True, capture_output=True, timeout=60,
            )  # fmt: skip
            without_network(copy)
            copy.start()
            status, output = check("-n", "copy", "-P", lxcpath, "-w", "1%")
            assert "overlay shared with the host" in output, output
            used, whole = measured(output, "copy_disk")
            there_used, there_whole = df(copy)
            assert abs(used - there_used) < 64 * MIB
            assert abs(whole - there_whole) < 64 * MIB
            status, output = as_nobody(nobody, "disk", "-n", "copy", "-w", "1%")
            assert status == 1, output
            assert abs(measured(output, "copy_disk")[0] - there_used) < 64 * MIB
        finally:
            copy.close()


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[str]:
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("no mkfs.btrfs (apt install btrfs-progs)")
    image, point = tmp_path / "image", tmp_path / "pool"
    point.mkdir()
    with open(image, "wb") as file:
        file.truncate(400 * MIB)
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(point)], capture_output=True).returncode:
        pytest.skip("this kernel mounts no btrfs from a loop device")
    yield str(point)
    subprocess.run(["umount", str(point)], check=True)


def test_a_btrfs_subvolume_with_and_without_a_quota(btrfs: str) -> None:
    with made_by("-B", "btrfs", lxcpath=btrfs) as container:
        options = ("-n", "c", "-P", btrfs)
        status, output = check(*options)
        assert (status, "inodes" in output, "shared with the host" in output) == (0, False, True), output
        assert measured(output, "c_disk") == df(container)
        subprocess.run(["btrfs", "quota", "enable", btrfs], check=True)
        subprocess.run(["btrfs", "qgroup", "limit", "60M", container.rootfs], check=True)
        container.run("dd", "if=/dev/zero", "of=/root/x", "bs=1M", "count=50")
        subprocess.run(["sync"], check=True)
        status, output = check(*options)
        assert (status, "btrfs with a quota of 60.0 MiB" in output) == (1, True), output
        show = ["btrfs", "qgroup", "show", "-r", "--raw", "-f", container.rootfs]
        shown = subprocess.run(show, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
        used, whole = measured(output, "c_disk")
        assert (used, whole) == (int(shown[1]), 60 * MIB)


def test_a_mount_of_its_own_and_what_hides_it() -> None:
    with busybox() as container:
        container.run("sh", "-c", "mkdir -p /srv/data && mount -t tmpfs -o size=8m,nr_inodes=50 none /srv/data")
        container.run("dd", "if=/dev/zero", "of=/srv/data/x", "bs=1M", "count=6")
        status, output = check("-n", container.name, "--path", "/srv/data", "-w", "70%")
        assert status == 1, output
        assert measured(output, f"{container.name}_disk_/srv/data") == (6 * MIB, 8 * MIB)
        assert measured(output, f"{container.name}_inodes_/srv/data")[1] == 50
        status, output = check("-n", container.name, "--path", "/srv")
        assert (status, "/srv: nothing is mounted there" in output) == (3, True), output
        container.run("mount", "-t", "tmpfs", "-o", "size=1g", "none", "/srv")
        container.run("mkdir", "/srv/data")
        status, output = check("-n", container.name, "--path", "/srv/data")
        assert (status, "hidden by another mount" in output) == (3, True), output
        container.run("rmdir", "/srv/data")
        container.run("ln", "-s", "/", "/srv/data")
        status, output = check("-n", container.name, "--path", "/srv/data")
        assert (status, "hidden by another mount" in output) == (3, True), output


@pytest.mark.parametrize("how", ["mute", "stopped"])
def test_a_filesystem_that_does_not_answer_costs_the_others_nothing(fuse: Fuse, how: str) -> None:
    entry = f"lxc.mount.entry = {fuse.point} mnt none bind,create=dir"
    with busybox(config_lines=[entry]) as container:
        options = ("-n", container.name, "--timeout", "4s", "--path", "/mnt", "--path", "/", "-v")
        status, output = check(*options)
        assert measured(output, f"{container.name}_disk_/mnt") == (400 * 4096, 900 * 4096), output
        assert measured(output, f"{container.name}_inodes_/mnt") == (60, 100)
        if how == "mute":
            fuse.flag.touch()
        else:
            fuse.process.send_signal(signal.SIGSTOP)
        for _ in range(3):
            began = time.monotonic()
            status, output = check(*options)  # which waits until nobody holds its standard output any more
            assert time.monotonic() - began < 4
            assert (status, bool(re.search("/mnt: the filesystem at .* does not answer", output))) == (3, True), output
            measured(output, f"{container.name}_disk")
        # Where the question can't be taken back one process stays, not one for each run.
        wait_until(lambda: stuck(SCRIPT) == (how == "mute"), 5, "the processes that asked to be gone")
        fuse.flag.unlink(missing_ok=True)
        fuse.close()
        wait_until(lambda: stuck(SCRIPT) == 0, 5, "the process that asked to go on")


def test_the_other_containers_are_told(fuse: Fuse) -> None:
    entry = f"lxc.mount.entry = {fuse.point} mnt none bind,create=dir"
    with busybox("well") as well, busybox("hung", config_lines=[entry]) as hung:
        fuse.flag.touch()
        status, output = check("-n", f"{well.name},{hung.name}", "--path", "/mnt", "--timeout", "4s")
        assert status == 3
        assert f"{hung.name}: /mnt: the filesystem at" in output
        assert f"{well.name}: /mnt: nothing is mounted there" in output
        assert check("-n", f"{well.name},{hung.name}", "-w", "1", "-c", "1P")[0] == 1


def test_a_root_filesystem_of_its_own_that_does_not_answer(tmp_path: Path) -> None:
    """ext4 in an image, as fuse2fs serves it, and that process stopped."""
    if shutil.which("fuse2fs") is None or shutil.which("mkfs.ext4") is None:
        pytest.skip("no fuse2fs (apt install fuse2fs)")
    image, point = tmp_path / "image", tmp_path / "root"
    point.mkdir()
    with busybox("well") as well, busybox("hung", start=False) as hung:
        subprocess.run(["mkfs.ext4", "-q", "-d", hung.rootfs, str(image), "64M"], check=True, capture_output=True)
        server = subprocess.Popen(["fuse2fs", "-f", "-o", "allow_other", str(image), str(point)])
        try:
            wait_until(lambda: os.path.ismount(point), 10, "fuse2fs to serve")
            with open(f"{hung.directory}/config", "a") as config:
                config.write(f"lxc.rootfs.path = dir:{point}\n")
            hung.start()
            status, output = check("-n", f"{well.name},{hung.name}", "-w", "1", "-c", "1P")
            assert status == 1
            assert abs(measured(output, f"{hung.name}_disk")[0] - df(hung)[0]) < MIB
            server.send_signal(signal.SIGSTOP)
            status, output = check("-n", f"{well.name},{hung.name}", "-w", "1", "-c", "1P", "--timeout", "4s")
            assert status == 3, output
            assert re.search(f"{hung.name}: the filesystem at .* does not answer", output)
            assert re.search(f"WARNING {well.name}: .* shared with the host", output)
        finally:
            server.send_signal(signal.SIGCONT)
            hung.close()
            subprocess.run(["umount", "-l", str(point)], capture_output=True, timeout=10)
            server.terminate()
            server.wait(10)
