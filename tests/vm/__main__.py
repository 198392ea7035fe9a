"""Run the live tests in a QEMU guest whose cgroups are pure v2: `make test-vm`, or python -m tests.vm [TEST...].

The guest is made of Debian packages only (image.sh), once per version of that file, and kept in .vm/. It is never
written to. The checkout and the libraries of this interpreter go in as a tar archive on a second disk; what the tests
print comes out of a serial line as it is printed.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import pathlib
import select
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from typing import Optional

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".vm"
PACKAGES = ("qemu-system-x86", "mmdebstrap", "debian-archive-keyring", "e2fsprogs")
TOOLS = ("qemu-system-x86_64", "mmdebstrap", "mke2fs")
# What asks the kernel and LXC. The guest has no LXD, no Sensu and no way out, which other tests need.
TESTS = tuple(
    f"tests/live/test_{topic}.py"
    for topic in ("checks", "accounting", "network", "disk", "host_capacity", "watch", "top", "systemd")
)
# Without KVM each takes ten seconds: those for which v2 has other files, or has them elsewhere; and what only the guest
# has.
FEW = (
    "tests/live/test_accounting.py",
    *(
        f"tests/live/test_checks.py::test_{name}"
        for name in (
            "memory_over_its_limit_is_critical_and_within_it_is_ok",
            "page_cache_is_not_used_memory",
            "anonymous_memory_is_used_memory",
            "a_nested_cgroup_that_runs_out_counts_for_its_container",
            "a_nested_oom_kill_leaves_the_container_measured",
            "a_left_over_cgroup_does_not_hide_the_real_one",
            "frozen_by_lxc_and_from_outside",
            "a_payload_without_its_monitor",
            "an_orphan_in_a_cgroup_that_its_config_names_freely",
            "a_reboot_from_inside",
            "nobody_sees_running_containers",
        )
    ),
    "tests/live/test_network.py::test_traffic_is_what_the_other_end_counts",
    "tests/live/test_disk.py::test_a_loop_image",
    # A device-mapper, and a systemd that runs.
    "tests/live/test_disk.py::test_a_logical_volume",
    "tests/live/test_systemd.py",
)
# Where Debian's Python 3.11 looks, whoever runs it.
LIBRARIES = "usr/local/lib/python3.11/dist-packages"
LEFT_OUT = ("pip", "setuptools", "pkg_resources", "mypy", "mypyc", "mypy_extensions.py", "ruff", "librt")
SHARED = ("plugins", "handlers", "checks", "tests", "setup.cfg", "pyproject.toml")
# Its plugins take longer to load than a test takes, and the live tests need none.
PYTEST = "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 python3 -m pytest -v -m live -p no:cacheprovider --tb=short --durations=5"
STATUS = "exit status "
# What an emulated processor takes long for: other clocks than its own, waiting for each processor in turn, zeroing.
FASTER = "mitigations=off nowatchdog audit=0 tsc=reliable clocksource=tsc rcupdate.rcu_expedited=1 init_on_alloc=0"
# Before any command.
PREPARE = """
cd /srv/sensu-lxc || exit 1
export HOME=/root LC_ALL=C.UTF-8
if grep -q hierarchy=1 /proc/cmdline && [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
    echo "the guest's cgroups are not pure v2"; exit 1
fi
python3 -c 'import sys; from tests.live.containers import why_no_lxc; sys.exit(why_no_lxc())' || exit 1
"""


class Failed(Exception):
    """The guest could not be made or did not come to its end."""


def main() -> int:
    """Make what is missing, run the tests in the guest, and return their status."""
    parser = argparse.ArgumentParser(prog="tests.vm", description=__doc__.partition("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--all", action="store_true", help="all tests that can run there, which is the default with KVM only")
    add("--command", help="run this shell command in the guest, in the checkout, instead of the tests")
    add("--limit", type=float, default=900, metavar="SECONDS", help="end the guest after that long (%(default)g)")
    add("--hybrid", action="store_true", help="boot the same guest with hybrid cgroups")
    add("--apparmor", action="store_true", help="boot it with AppArmor, which makes each start of a container slow")
    add("tests", nargs="*", metavar="TEST", help="instead of the usual ones; behind -- any argument of pytest")
    options = parser.parse_args()
    try:
        missing = [tool for tool in TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
        if missing:
            raise Failed(f"needs {', '.join(missing)}: apt-get install --no-install-recommends {' '.join(PACKAGES)}")
        image = made_image()
        kvm = kvm_works(image)
        tests = options.tests or (TESTS if kvm or options.all else FEW)
        command = options.command or f"{PYTEST} {' '.join(map(shlex.quote, tests))}"
        cgroups = "unified_cgroup_hierarchy=0" if options.hybrid else "unified_cgroup_hierarchy=1 cgroup_no_v1=all"
        kernel = f"{FASTER} apparmor={int(options.apparmor)} systemd.{cgroups}"
        print(f"test-vm: booting the guest, {'with KVM' if kvm else 'without KVM, which takes minutes'}", flush=True)
        with tempfile.TemporaryDirectory(prefix="sensu-lxc-vm.") as folder:
            payload = pathlib.Path(folder, "payload.tar")
            pack(payload, command)
            return run(image, payload, pathlib.Path(folder), options.limit, kernel, kvm)
    except Failed as problem:
        print(f"test-vm: {problem}", file=sys.stderr)
        return 1


def made_image() -> pathlib.Path:
    """The folder with the guest's kernel, initrd and disk; made where image.sh has changed since the last time."""
    script = HERE / "image.sh"
    image = CACHE / hashlib.sha256(script.read_bytes()).hexdigest()[:16]
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if image.is_dir():
            return image
        if os.geteuid() != 0:
            raise Failed("making the guest's image needs root")
        for other in CACHE.iterdir():
            if other.is_dir():
                shutil.rmtree(other)
        partial = CACHE / "partial"
        partial.mkdir()
        began = time.monotonic()
        print("test-vm: making the guest's image, which takes a minute or two", flush=True)
        log = CACHE / "image.log"
        with open(log, "w") as output:
            process = subprocess.Popen(
                ["sh", str(script), str(partial)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            status = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
        if status:
            raise Failed(f"image.sh: exit {status}\n{log.read_text(errors='replace')[-4000:]}")
        print(f"test-vm: image made in {time.monotonic() - began:.0f} s", flush=True)
        partial.rename(image)
    return image


def pack(payload: pathlib.Path, command: str) -> None:
    """Write the checkout, the libraries and the script that the guest runs as one archive."""

    def wanted(member: tarfile.TarInfo) -> Optional[tarfile.TarInfo]:
        """Whoever tests here may own the files; in the guest it is root, and everybody may read."""
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mode |= 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    # Compiled files of another Python are of no use there, and take time.
    same = sys.version_info[:2] == (3, 11)
    with tarfile.open(payload, "w") as archive:
        libraries = pathlib.Path(sysconfig.get_path("purelib"))
        for entry in sorted(libraries.iterdir()):
            if entry.name.partition("-")[0] in LEFT_OUT or entry.name.endswith((".so", ".pth", "-stubs")):
                continue
            if same or entry.name != "__pycache__":
                archive.add(entry, f"{LIBRARIES}/{entry.name}", filter=wanted)
        for name in SHARED:
            archive.add(ROOT / name, f"srv/sensu-lxc/{name}", filter=wanted)
        script = payload.with_name("run.sh")
        script.write_text(f"{PREPARE}{command}\n")
        archive.add(script, "run.sh", filter=wanted)


def run(image: pathlib.Path, payload: pathlib.Path, folder: pathlib.Path, limit: float, kernel: str, kvm: bool) -> int:
    """Boot the guest, print what the tests print, and return their status."""
    console = folder / "console.log"
    append = f"root=/dev/vda rw console=ttyS0 quiet panic=-1 {kernel}"
    argv = [
        "qemu-system-x86_64", "-M", "q35", *accelerator(kvm=kvm), "-smp", "2", "-m", "3072",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
        "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd"), "-append", append,
        "-drive", f"file={image}/root.img,format=raw,if=virtio,snapshot=on,cache=unsafe",
        "-drive", f"file={payload},format=raw,if=virtio,readonly=on",
        "-device", "virtio-rng-pci", "-serial", f"file:{console}", "-serial", "stdio",
    ]  # fmt: skip
    began = time.monotonic()
    status = None
    with guest(argv, folder) as process:
        for line in lines_until(process, began + limit):
            if line.startswith(STATUS):
                status = int(line[len(STATUS) :])
            else:
                print(line, flush=True)
    took = time.monotonic() - began
    if status is None:
        tail = "\n".join(console.read_text(errors="replace").splitlines()[-30:]) if console.exists() else ""
        why = f"was not done after {limit:g} s: ended" if took >= limit else "ended without the status of its tests"
        raise Failed(f"the guest {why}. {(folder / 'qemu.log').read_text()}\nIts console's last lines:\n{tail}")
    print(f"test-vm: the guest was done after {took:.0f} s, status {status}", flush=True)
    return status


@contextlib.contextmanager
def guest(argv: "list[str]", folder: pathlib.Path) -> "Iterator[subprocess.Popen[bytes]]":
    """QEMU, which ends with this block however that ends."""
    with open(folder / "qemu.log", "wb") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env={**os.environ, "TMPDIR": "/var/tmp"}
        )
    try:
        yield process
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    finally:
        process.kill()
        process.wait()


def lines_until(process: "subprocess.Popen[bytes]", deadline: float) -> Iterator[str]:
    """What comes out of it line by line, until it ends or the deadline is there; then also what is no line yet."""
    assert process.stdout is not None
    rest = b""
    while time.monotonic() < deadline:
        if not select.select([process.stdout], [], [], 0.5)[0]:
            continue
        data = os.read(process.stdout.fileno(), 65536)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace").rstrip("\r")
    if rest:
        yield rest.decode("utf-8", "replace")


def accelerator(*, kvm: bool) -> "list[str]":
    """Five-level page tables, as `max` has them, cost emulation a lot."""
    if kvm:
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off"]


def kvm_works(image: pathlib.Path) -> bool:
    """Whether a guest really runs under KVM: /dev/kvm may be there and take none, or one that never gets on.

    The kernel is given nothing to start, so where it runs it panics within a second or two, which ends QEMU.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    argv = [
        "qemu-system-x86_64", "-M", "q35", *accelerator(kvm=True), "-m", "256", "-nodefaults", "-no-user-config",
        "-display", "none", "-nic", "none", "-kernel", str(image / "vmlinuz"),
        "-append", "console=ttyS0 quiet panic=-1", "-no-reboot", "-serial", "stdio",
    ]  # fmt: skip
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=15)
    except subprocess.TimeoutExpired:
        return False
    return b"Kernel panic" in done.stdout


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cancelled job takes the guest along
    sys.exit(main())
