"""A real LXD with a busybox image made here, for the live tests; its state goes when they end."""

import contextlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.live.containers import wait_until

SEED = """
storage_pools: [{name: default, driver: dir}]
profiles: [{name: default, devices: {root: {path: /, pool: default, type: disk}}}]
"""


def lxc(*arguments: str, stdin: str = "") -> str:
    """Run LXD's client."""
    done = subprocess.run(["lxc", *arguments], input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"lxc {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def insist(*arguments: str) -> None:
    """As lxc(), once LXD is ready to: it refuses while it has not noticed yet what became of the instance."""
    deadline = time.monotonic() + 20
    while True:
        try:
            lxc(*arguments)
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@contextlib.contextmanager
def lxd_lab() -> Iterator[None]:
    """The daemon, a directory pool and the image bb. An LXD that is there already is left alone, and refused."""
    state = Path("/var/lib/lxd")
    if (state / "unix.socket").exists():
        with contextlib.suppress(OSError), contextlib.closing(__import__("socket").socket(1)) as probe:
            probe.connect(str(state / "unix.socket"))
            raise RuntimeError("an LXD runs here already; these tests would change it")
    with tempfile.TemporaryDirectory() as folder:
        daemon = subprocess.Popen(
            ["lxd", "--group", "root", "--logfile", f"{folder}/lxd.log"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            subprocess.run(["lxd", "waitready", "--timeout", "25"], check=True, timeout=30)
            subprocess.run(
                ["lxd", "init", "--preseed"], input=SEED, text=True, check=True, capture_output=True, timeout=60
            )
            lxc("image", "import", str(_image(Path(folder))), "--alias", "bb")
            yield
        finally:
            with contextlib.suppress(AssertionError, subprocess.SubprocessError):
                for line in lxc("list", "-f", "csv", "-c", "n").split():
                    lxc("delete", "-f", line)
            with contextlib.suppress(subprocess.SubprocessError):
                subprocess.run(["lxd", "shutdown", "--timeout", "20"], capture_output=True, timeout=30)
            daemon.terminate()
            wait_until(lambda: daemon.poll() is not None, 20, "LXD to end")
            for line in Path("/proc/mounts").read_text().splitlines():
                if line.split()[1].startswith("/var/lib/lxd/"):
                    subprocess.run(["umount", "-l", line.split()[1]], capture_output=True)
            shutil.rmtree("/var/lib/lxd", ignore_errors=True)
            shutil.rmtree("/var/log/lxd", ignore_errors=True)


@contextlib.contextmanager
def running(name: str) -> Iterator[str]:
    """A running LXD container of that name."""
    lxc("launch", "bb", name)
    try:
        yield name
    finally:
        insist("delete", "-f", name)


def _image(folder: Path) -> Path:
    """The smallest image that runs: busybox, whose init keeps one process."""
    root = folder / "rootfs"
    for part in ("bin", "sbin", "etc", "proc", "sys", "dev", "tmp", "root", "var", "usr", "run"):
        (root / part).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    for applet in ("sh", "sleep", "ls", "cat", "dd"):
        os.symlink("busybox", root / "bin" / applet)
    os.symlink("../bin/busybox", root / "sbin/init")
    (root / "etc/inittab").write_text("::respawn:/bin/sleep 1000\n")
    (folder / "metadata.yaml").write_text(
        "architecture: x86_64\ncreation_date: 1700000000\nproperties: {os: busybox}\n"
    )
    image = folder / "bb.tar.gz"
    with tarfile.open(image, "w:gz") as archive:
        archive.add(folder / "metadata.yaml", "metadata.yaml")
        archive.add(root, "rootfs")
    return image
