"""A container's network as the container sees it: read in /proc of its init, without root and without entering it."""

from __future__ import annotations

from collections import namedtuple

from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.sources import net_dev

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from sensu_lxc.cgroups import Cgroups
    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Container
    from sensu_lxc.sources.net_dev import Interface


class SharesHostNetwork(CannotObserve):
    """The container has no network of its own (lxc.net.0.type = none), so what it sees is the host's."""


class Network(namedtuple("Network", "life interfaces")):
    """A container's network.

    life: see Cgroups.life; interfaces: {name: Interface}, lo among them, rx being what the container received.
    """

    __slots__ = ()

    @property
    def counters(self) -> dict[str, Interface]:
        """What History keeps."""
        found: dict[str, Interface] = self.interfaces
        return found


def interfaces(host: Host, tree: Cgroups, container: Container, surely: bool = False) -> Network:
    """What the container's interfaces have carried.

    Raises SharesHostNetwork, NotThere where it ended or restarted meanwhile, or CannotObserve.
    """
    directory = tree.directory(container, tree.payload_hierarchy(), surely)
    # The pid of an init may be another's, and its cgroup that of the next one, once it has ended.
    return Network(*tree.in_one_life(directory, lambda: _interfaces(host, tree, container)))


def _interfaces(host: Host, tree: Cgroups, container: Container) -> dict[str, Interface]:
    pid = tree.init_pid(container)
    path = f"/proc/{pid}/net/dev"
    raw, inode = host.read_with_inode(path)
    if _is_the_hosts(host, tree, container, pid, inode):
        raise SharesHostNetwork("shares the host's network (lxc.net type none): its counters are the host's")
    return net_dev.interfaces(raw, path)


def _is_the_hosts(host: Host, tree: Cgroups, container: Container, pid: int, inode: int) -> bool:
    """Whether a process is in the host's network namespace. inode: of its net/dev.

    Each namespace has a net/dev of its own, so its inode number tells them apart for every user, and nobody inside can
    forge it. Where /proc is but a copy, the host's abstract sockets tell: its monitor's is among them.
    """
    if container.is_own:
        from sensu_lxc import inside

        return inside.is_the_hosts(host, container)
    ours = "/proc/net/dev" if host.is_this_one else "/proc/1/net/dev"
    try:
        if ours not in tree.once:
            tree.once[ours] = host.inode(ours)
        if inode == tree.once[ours]:
            return True
    except NotThere:  # in a copy
        pass
    if host.is_this_one:
        return False
    name = f" @{container.address}\n".encode("utf-8", "surrogateescape")
    try:
        return name in host.read(f"/proc/{pid}/net/unix")
    except NotThere:
        return False
