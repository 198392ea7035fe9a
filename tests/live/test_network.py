"""check_container_network.py on real links: our numbers against the other end of the veth, and links that go."""

import contextlib
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sensu_lxc import inventory, network
from sensu_lxc.cgroups import Cgroups
from sensu_lxc.host import Host

from tests.live.containers import Container, busybox, wait_until
from tests.live.test_checks import as_nobody, check, nobody  # noqa: F401

pytestmark = pytest.mark.usefixtures("requires_lxc")
LINK = "lxc.net.{}.type = veth", "lxc.net.{}.link = lxcbr0", "lxc.net.{}.flags = up"
HOST, INSIDE = "10.0.3.1", "10.0.3.250"
RECEIVED, SENT = 5_000_000, 2_000_000
COUNTERS = ("bytes", "packets", "errors", "dropped")


@contextlib.contextmanager
def linked(links: int = 1, start: bool = True) -> "Iterator[Container]":
    """A container on lxcbr0. It asks nobody for an address, each of which would be kept from others for an hour."""
    lines = [line.format(number) for number in range(links) for line in LINK]
    with busybox(config_lines=[*lines, f"lxc.net.0.ipv4.address = {INSIDE}/24"], start=False) as container:
        script = Path(container.rootfs, "etc/init.d/rcS")
        script.write_text(script.read_text().replace("/bin/udhcpc\n", ""))
        if start:
            container.start()
        yield container


def host_side(container: Container, interface: str = "eth0") -> Path:
    """The other end of a container's link, below /sys/class/net."""
    index = container.run("cat", f"/sys/class/net/{interface}/iflink").stdout.strip()
    (found,) = [one for one in Path("/sys/class/net").iterdir() if (one / "ifindex").read_text().strip() == index]
    return found


def reversed_counters(end: Path) -> "list[int]":
    """What its other end has received and sent, as the kernel counts it here."""
    return [int((end / f"statistics/{way}_{what}").read_text()) for way in ("tx", "rx") for what in COUNTERS]


def looked_at(state: str) -> float:
    """When the last run looked, by its own file in --state-dir: a process' start and end are not what we measure."""
    (file,) = Path(state).iterdir()
    return float(file.read_text().split("\n")[1].split("\t")[2])


def rates(output: str, container: Container, interface: str = "eth0") -> "list[float]":
    values = dict(re.findall(r"(\S+)=([\d.]+)", output.partition(" | ")[2]))
    return [
        float(values[f"{container.name}_{interface}_{way}_{what}_per_second"])
        for way in ("rx", "tx")
        for what in ("bytes", "packets", "errors", "drops")
    ]


@contextlib.contextmanager
def server(take: int = 0) -> "Iterator[int]":
    """Listens on the bridge; takes that many bytes of each caller, gives him RECEIVED bytes, and hangs up."""
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        taken = 0
                        while taken < take:  # busybox' nc does not say that it has no more
                            taken += len(connection.recv(1 << 16))
                        connection.sendall(b"x" * RECEIVED)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_traffic_is_what_the_other_end_counts(tmp_path, record_property):
    state = str(tmp_path / "state")
    arguments = ("--state-dir", state, "--sample", "10ms", "-c", "1G")
    with linked() as container, server(SENT) as port:
        arguments = ("-n", container.name, *arguments)
        end = host_side(container)
        wait_until(
            lambda: container.run("ping", "-c1", "-W1", HOST, check=False).returncode == 0, 20, "the link to carry"
        )
        assert check("network", *arguments)[0] == 0
        began, before = looked_at(state), reversed_counters(end)
        container.run(
            "sh", "-c", 'head -c "$1" /dev/zero | nc "$2" "$3" | wc -c', "sh", str(SENT), HOST, str(port), timeout=60
        )
        status, output = check("network", *arguments)
        seconds, after = looked_at(state) - began, reversed_counters(end)
        assert status == 0, output
    ours = [rate * seconds for rate in rates(output, container)]
    kernels = [new - old for new, old in zip(after, before)]
    record_property("ours and the kernel's", f"{ours} {kernels}")
    print("ours", [round(one) for one in ours], "the kernel's", kernels, f"in {seconds:.3f} s")
    assert kernels[0] > RECEIVED and kernels[4] > SENT
    for our, kernel in zip(ours, kernels):
        # 2% and a few packets of others' (router solicitations, ARP) between our look and the test's.
        assert our == pytest.approx(kernel, rel=0.02, abs=5), (ours, kernels)


def test_thresholds_are_bytes_per_second(tmp_path):
    state = ("--state-dir", str(tmp_path / "state"), "--sample", "10ms")
    with linked() as container, server() as port:
        for arguments in (("-c", "100k"), ("--packets-critical", "10"), ("-c", "1G")):
            check("network", "-n", container.name, *state, *arguments)
        wait_until(
            lambda: container.run("ping", "-c1", "-W1", HOST, check=False).returncode == 0, 20, "the link to carry"
        )
        container.run("sh", "-c", f"nc {HOST} {port} < /dev/null | wc -c")
        status, output = check("network", "-n", container.name, *state, "-c", "100k")
        assert (status, "in (critical at 100k)" in output) == (2, True), output
        status, output = check("network", "-n", container.name, *state, "--packets-critical", "10")
        assert (status, "packets/s in (critical at 10)" in output) == (2, True), output
        assert check("network", "-n", container.name, *state, "-c", "1G")[0] == 0


def test_a_link_that_was_removed_inside(tmp_path):
    state = ("--state-dir", str(tmp_path / "state"))
    with linked(2) as container:
        named = ("-n", container.name, *state, "--interface", "eth0")
        both = ("-n", container.name, *state)
        assert check("network", *both)[0] == 0
        assert check("network", *named)[0] == 0
        container.run("ip", "link", "del", "eth0")
        for arguments in (named, both, named, both):
            status, output = check("network", *arguments)
            assert (status, f"{container.name}: eth0 is gone" in output) == (2, True), output
        assert check("network", *both, "-v")[0] == 2  # who looks closer is to see it
        status, output = check("network", *both, "-w", "1T")  # another command line knows of no earlier run
        assert status == 0, output
        assert check("network", *named, "-v")[0] == 2, "by its name it is missed all the same"
        container.reboot_inside()
        for arguments in (named, both):
            status, output = check("network", *arguments)
            assert (status, "_eth0_rx_" in output) == (0, True), output


def test_no_link_at_all(tmp_path):
    state = ("--state-dir", str(tmp_path / "state"))
    with busybox() as container:
        status, output = check("network", "-n", container.name, *state)
        assert (status, "has no interface but lo" in output) == (0, True), output
        status, output = check("network", "-n", container.name, *state, "--interface", "eth0")
        assert (status, "has no interface eth0" in output) == (2, True), output


def test_what_runs_inside_comes_and_goes(tmp_path):
    arguments = ("--state-dir", str(tmp_path / "state"))
    with busybox() as container:
        container.run("ip", "link", "add", "vethab12cd", "type", "veth")
        container.run("ip", "link", "add", "eth7", "type", "bridge")
        status, output = check("network", "-n", container.name, *arguments)
        assert (status, "veth" in output, "eth7" in output) == (0, True, True), output
        container.run("ip", "link", "del", "vethab12cd")
        assert check("network", "-n", container.name, *arguments)[0] == 0
        container.run("ip", "link", "del", "eth7")
        status, output = check("network", "-n", container.name, *arguments)
        assert (status, "eth7 is gone" in output, "veth" in output) == (2, True, False), output


def test_a_link_made_anew_has_no_rate_yet(tmp_path):
    arguments = ("--state-dir", str(tmp_path / "state"), "--sample", "10ms")
    with busybox() as container:

        def make() -> None:
            container.run("ip", "link", "add", "eth8", "type", "veth")  # busybox calls its other end veth0
            container.run("ip", "link", "set", "eth8", "up")
            container.run("ip", "link", "set", "veth0", "up")

        make()
        container.run("ip", "addr", "add", "192.0.2.1/24", "dev", "eth8")
        container.run("ping", "-c3", "-W1", "192.0.2.9", check=False)  # asks by ARP, which nobody answers
        assert check("network", "-n", container.name, *arguments)[0] == 0
        container.run("ip", "link", "del", "eth8")
        make()
        status, output = check("network", "-n", container.name, *arguments)
        assert (status, "began anew" in output) == (3, True), output
        assert check("network", "-n", container.name, *arguments)[0] == 0


def test_frozen_and_stopped(tmp_path):
    arguments = ("--state-dir", str(tmp_path / "state"))
    with linked() as container:
        container.freeze_outside()
        status, output = check("network", "-n", container.name, *arguments)
        assert (status, "eth0" in output) == (0, True), output
        container.thaw_outside()
        container.stop()
        status, output = check("network", "-n", container.name, *arguments)
        assert (status, "is not running, so it has no traffic" in output) == (3, True), output


def test_nobody_sees_it(nobody):  # noqa: F811
    with linked() as container:
        status, output = as_nobody(nobody, "network", "-n", container.name)
        assert (status, "eth0" in output) == (0, True), output
        container.run("ip", "link", "del", "eth0")
        assert as_nobody(nobody, "network", "-n", container.name)[0] == 2


HIDDEN = """
mount -t proc proc /proc
lxc-start -n {name}
lxc-wait -n {name} -s RUNNING -t 10
mount -t proc -o hidepid=2 proc /proc
cd /
for check in network disk 'state --uptime-warning 1s' 'state --addresses ipv4'; do
    set -- $check
    script=$1
    shift
    setpriv --reuid={uid} --regid={uid} --clear-groups \\
        /usr/bin/python3 {folder}/check_container_$script.py -n {name} "$@" && status=0 || status=$?
    echo "$script ended with $status"
done
lxc-stop -k -n {name}
"""


def test_under_hidepid_nobody_says_what_he_can_not_see(nobody):  # noqa: F811
    """In namespaces of its own, where the container is as well: its processes have to be there to be hidden."""
    uid, folder, environment = nobody
    with busybox(start=False) as container:
        script = HIDDEN.format(name=container.name, uid=uid, folder=folder)
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", script],
            capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"], **environment},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done
        ended = [line for line in done.stdout.splitlines() if " ended with " in line]
        assert ended == [f"{name} ended with 3" for name in ("network", "disk", "state", "state")], done.stdout
        assert done.stdout.count("hides other users' processes") >= 4, done.stdout
        assert done.stdout.count("run as root") >= 4


def test_the_hosts_network_is_told_apart():
    """By the inode number of net/dev. No container of type none is started, as it would strip this host's network."""
    host = Host()
    with linked() as container:
        found = inventory.take(host, [container.name])
        tree = Cgroups(host, found.running)
        (one,) = found.containers
        for pid, shared in ((os.getpid(), True), (container.monitor_pid, True), (container.pid, False)):
            inode = host.inode(f"/proc/{pid}/net/dev")
            assert network._is_the_hosts(host, tree, one, pid, inode) == shared
