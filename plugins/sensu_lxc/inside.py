"""The container that a check runs in, as it is seen from inside (--self).

From inside there is no monitor to ask and no /proc of the host; a cgroup namespace shows the container's own cgroup as
the top of what is mounted. A host shows a top as well, and is never to be taken for a container: the kernel tells the
two apart.
"""

from __future__ import annotations

from sensu_lxc import cgroups, inventory
from sensu_lxc.cgroups import Hierarchy, Memory
from sensu_lxc.errors import CannotObserve
from sensu_lxc.inventory import Container
from sensu_lxc.sources import cgroup, meminfo, mountinfo
from sensu_lxc.sources import stat as stat_files

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from sensu_lxc.host import Host

# linux/nsfs.h: the pid namespace that the kernel starts with has had this number since 3.8, the network's since 6.18;
# those made later have higher ones.
_FIRST_PID_NAMESPACE, _FIRST_NET_NAMESPACE = 0xEFFFFFFC, 0xEFFFFFF9
# What stands for a cgroup where it matters only that the container is there.
_INIT = Hierarchy("", "/proc/1", "", 0)


class Invisible(CannotObserve):
    """The container has such a cgroup, but it is not mounted where the container could see it."""


def container(host: Host) -> Container:
    """The one that the check runs in, by its host name. Raises CannotObserve where that is no container."""
    if host.is_this_one and host.inode("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE:
        raise CannotObserve("this is no container; leave --self out")
    name = host.read("/proc/sys/kernel/hostname").decode("utf-8", "surrogateescape").strip() or "self"
    return Container(name, "", None, True, name)


def is_the_hosts(host: Host, container: Container) -> bool:
    """Whether the network seen here is the host's (lxc.net type none): then the container's monitor listens in it."""
    if host.is_this_one and host.inode("/proc/self/ns/net") == _FIRST_NET_NAMESPACE:
        return True
    try:
        running, _ = inventory.command_sockets(host)
    except CannotObserve:
        return False
    return any(directory.rpartition("/")[2] == container.name for directory in running)


class Own(cgroups.Cgroups):
    """The cgroups of the container that the check runs in.

    Limits of the cgroups above it are hidden by a cgroup namespace, but for v1's of memory.
    """

    def __init__(self, host: Host) -> None:
        self.notes: list[str] = []
        self._directories: dict[str, str] = {}
        self._mountinfo = "/proc/self/mountinfo" if host.is_this_one else "/proc/1/mountinfo"
        super().__init__(host)
        # That of init: a service, or who was attached, sits in one further down.
        path = "/proc/1/cgroup"
        self._memberships = cgroup.memberships(host.read(path), path)
        seen = self._mounts.keys() & self._memberships.keys()
        if seen and not any(map(self._is_contained, seen)):
            raise CannotObserve("this is no container; leave --self out")

    def _read_mounts(self) -> dict[str, mountinfo.Mount]:
        return mountinfo.cgroup_mounts(self._host.read(self._mountinfo), self._mountinfo)

    def _is_contained(self, controller: str) -> bool:
        """Whether a mounted hierarchy shows less than the host's, or has init below its top."""
        path = self._memberships[controller]
        return path not in ("/", "/init.scope") or not self._is_top(self._mounts[controller].point, controller == "")

    def _is_top(self, directory: str, of_v2: bool) -> bool:
        """Whether it is the top of the host's hierarchy rather than of a namespace, told by a file of either alone."""
        if of_v2:
            return not self._host.has(f"{directory}/cgroup.events")
        return self._host.has(f"{directory}/release_agent")

    def hierarchy(self, controller: str) -> Hierarchy:
        """Where the container's own cgroup is. Raises Invisible where it is not mounted, CannotObserve for none."""
        if controller not in self._hierarchies:
            self._hierarchies[controller] = self._own(controller)
        found = self._hierarchies[controller]
        assert found is not None
        return found

    def _own(self, controller: str) -> Hierarchy:
        version = 1 if controller and controller in self._memberships else 2
        listed = controller if version == 1 else ""
        mount, path = self._mounts.get(listed), self._memberships.get(listed)
        words = f"{controller} cgroup" if controller else "v2 cgroup"
        if path is None:
            raise CannotObserve(f"the kernel has no {words} for it")
        if mount is None or path.startswith("/.."):  # a service that has a cgroup namespace of its own
            raise Invisible(_invisible(words))
        payload = _payload_of(path)
        if payload is None and mount.root == "/" and not self._is_top(mount.point, version == 2):
            directory = mount.point
        else:
            root = mount.root.rstrip("/")
            own = payload or path.removesuffix("/init.scope") or "/"
            if not (own + "/").startswith(root + "/"):
                raise Invisible(_invisible(words))
            directory = (mount.point + own[len(root) :]).rstrip("/")
        if not self._host.has(directory):
            raise Invisible(_invisible(words))
        if self._is_top(directory, version == 2):
            raise CannotObserve(f"it has no {words} of its own: {directory} is the host's")
        # The top of what is mounted is elsewhere the host's, which nobody takes for a container's.
        self._directories[controller] = directory if directory != mount.point else f"{directory}/."
        return Hierarchy(controller, mount.point, mount.root, version)

    def directory(self, container: Container, hierarchy: Hierarchy, surely: bool = False) -> str:
        """Its own cgroup, which stays where it is for as long as anybody inside can look."""
        return hierarchy.point if hierarchy.version == 0 else self._directories[hierarchy.controller]

    def payload_hierarchy(self) -> Hierarchy:
        """No cgroup: its init stands for it, where it matters only that it runs."""
        return _INIT

    def is_frozen(self, container: Container, surely: bool = False) -> bool:
        """Who looks is not frozen, and is part of it."""
        return False

    def life(self, directory: str) -> int:
        """When its init was started, which is seen where no cgroup is."""
        path = "/proc/1/stat"
        return stat_files.start_ticks(self._host.value(path), path)

    def init_pid(self, container: Container) -> int:
        """As the container itself counts."""
        return 1

    def memory(self, container: Container, surely: bool = False) -> Memory:
        """By its cgroup where that is seen, else by lxcfs. Raises CannotObserve where /proc/meminfo is the host's."""
        try:
            memory = super().memory(container, surely)
        except Invisible:
            shown = self._memory_of_lxcfs()
            if shown is None:
                raise CannotObserve(
                    "the memory of this container can't be told from inside: mount its cgroup (lxc.mount.auto = "
                    "cgroup:ro:force in its config on the host) or install lxcfs on the host"
                ) from None
            if not self.notes:
                self.notes.append("told by lxcfs, as its memory cgroup is not mounted")
            return shown
        if memory.limit_bytes is None and self.hierarchy("memory").version == 2:
            shown = self._memory_of_lxcfs()  # which knows the limits above
            if shown is not None:
                memory = memory._replace(limit_bytes=shown.limit_bytes)
        return memory

    def _memory_of_lxcfs(self) -> Memory | None:
        """What lxcfs shows in /proc/meminfo; None where that is the host's."""
        mount = mountinfo.topmost(
            mountinfo.filesystems(self._host.read(self._mountinfo), self._mountinfo, "/proc/meminfo")
        )
        if mount is None or mount.kind != "fuse.lxcfs":
            return None
        path = "/proc/meminfo"
        raw = self._host.read(path)
        names = ("MemTotal", "MemFree", "Active(file)", "Inactive(file)", "SReclaimable", "Buffers")
        total, free, active, inactive, reclaimable, buffers = (meminfo.size(raw, path, name) for name in names)
        if max(free, active + inactive) > total:
            raise CannotObserve(f"{path} claims that more memory is free or file cache than there is")
        # Where lxcfs can't tell either it hands the host's on; it has no buffers to tell of, and a host has some.
        # MemAvailable is of no use: lxcfs 5 counts tmpfs in, of which nothing can be had.
        return None if buffers else Memory(total - free, active, inactive, reclaimable, total, None, None)


def _payload_of(path: str) -> str | None:
    """The innermost container's own cgroup above (or at) the one its init sits in, where LXC's names are seen."""
    parts = path.split("/")
    for index in range(len(parts) - 1, 0, -1):
        if parts[index].startswith("lxc.payload.") or parts[index - 1] in ("lxc", "lxc.payload"):
            return "/".join(parts[: index + 1])
    return None


def _invisible(words: str) -> str:
    return (
        f"the {words} of this container can't be seen from inside: mount it (lxc.mount.auto = cgroup:ro:force in its "
        "config on the host)"
    )
