"""How full the filesystems are that containers write to, and whose they are.

A filesystem that does not answer (a dead NFS server, a FUSE daemon that hangs) keeps whoever asks, and a process with
such a thread can't end: exit_group(2) waits for it, and Sensu for its standard output. So a process of our own asks,
which is left behind where it does not return.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import namedtuple
from time import monotonic

from sensu_lxc.errors import CannotObserve, NotAllowed, NotThere, quoted
from sensu_lxc.sources import cgroup, mountinfo

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from sensu_lxc.cgroups import Cgroups
    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Container
    from sensu_lxc.sources.mountinfo import Filesystem

# How long one filesystem may take to answer, and how long all those together that then did not.
_EACH_SECONDS = 0.5
_TOTAL_SECONDS = 1.5
_END_SECONDS = 0.2
# In which the first mount of a list is found, but for an overlay of many layers.
HEAD_BYTES = 256
# ext4 and xfs then answer for a directory with the quota of its project, rather than for all of the filesystem.
_PROJECT_QUOTAS = {"prjquota", "pquota", "prjjquota"}
_REFERENCED, _EXCLUSIVE = 1, 2  # BTRFS_QGROUP_LIMIT_MAX_RFER, …_EXCL (linux/btrfs.h)

# Of one filesystem. used_bytes: what is written; available_bytes: what an ordinary user may still write, so that blocks
# reserved for root are in neither, as in df; the inodes are None where a filesystem has no fixed number of them.
Space = namedtuple("Space", "used_bytes available_bytes used_inodes available_inodes")


class Disk(
    namedtuple(
        "Disk",
        "path kind source device shared_with_host quota_bytes used_bytes available_bytes used_inodes available_inodes",
    )
):
    """One mount of a container.

    path: where it is in the container; kind: ext4, overlay, btrfs, …; source: what was mounted; device: "major:minor"
    of the filesystem that fills up, which is overlay's upper one where that can be told; shared_with_host: whether the
    host has things of its own there; quota_bytes: of its btrfs subvolume (then the bytes are of that, not of the
    filesystem), None for none; the rest: see Space.
    """

    __slots__ = ()

    @property
    def whole_bytes(self) -> int:
        """What 100% is, as in df: used and available."""
        whole: int = self.used_bytes + self.available_bytes
        return whole

    @property
    def whole_inodes(self) -> int | None:
        """Likewise of inodes; None where there is no fixed number of them."""
        return None if self.used_inodes is None else self.used_inodes + self.available_inodes


def usage(host: Host, tree: Cgroups, container: Container, surely: bool = False, path: str = "/") -> Disk:
    """What is mounted at path in a running container. Raises CannotObserve where that can't be told."""
    mount, root = mounted(host, tree, container, surely, path)
    return filesystems(host).disk(mount, root, container)


def mounted(
    host: Host, tree: Cgroups, container: Container, surely: bool = False, path: str = "/"
) -> tuple[Filesystem, str]:
    """(what is mounted at path in a running container, where the host sees its root), of which nobody was asked yet."""
    if surely:
        tree.directory(container, tree.payload_hierarchy(), surely=True)
    # Its own root is open to every user from inside; that of its init is not.
    pid = "self" if container.is_own and host.is_this_one else tree.init_pid(container)
    mount = _listed(host, f"/proc/{pid}/mountinfo", path)
    if mount is None:
        raise CannotObserve("nothing is mounted there; a directory of another filesystem is no mount point")
    return mount, f"/proc/{pid}/root"


def _listed(host: Host, listed: str, path: str) -> Filesystem | None:
    """What is mounted at path, by a list of mounts."""
    if path == "/":
        # A root was mounted before what is in it, and is what its processes have, whatever was mounted over it since.
        raw = host.head(listed, HEAD_BYTES)
        first = mountinfo.filesystems(raw[: raw.index(b"\n") + 1], listed, path) if b"\n" in raw else []
        if first:
            return first[0]
    return mountinfo.topmost(mountinfo.filesystems(host.read(listed), listed, path))


def filesystems(host: Host) -> Filesystems:
    """What is known of a host's filesystems during this run."""
    if host.filesystems is None:
        host.filesystems = Filesystems(host)
    known: Filesystems = host.filesystems
    return known


class Filesystems:
    """The host's mounts, and what was asked of them, each once. close() it, lest a process of ours stay for a while.

    each, total: seconds that one filesystem may take to answer, and that all those together may that then did not.
    """

    def __init__(self, host: Host, each: float = _EACH_SECONDS, total: float = _TOTAL_SECONDS) -> None:
        self._host = host
        self._asker = Asker(each, total)
        self._mounts: dict[str, list[Filesystem]] | None = None
        self._spaces: dict[str, Space | CannotObserve] = {}
        self._inside: dict[str, Space] = {}

    def close(self) -> None:
        """End the process that asks."""
        self._asker.close()

    def disk(self, mount: Filesystem, root: str, container: Container) -> Disk:
        """A container's mount, which is seen through the /proc/PID/root of its init."""
        below = None if container.is_own else self._below(mount)
        device = mount.device if below is None else below.device
        quota = self._quota(mount) if mount.kind == "btrfs" else None
        space = self._space(mount, below, root)
        # Whose it is besides is not seen from inside.
        shared = not container.is_own and any(
            not self._is_its_own(one.point, container) for one in self._on_host(device)
        )
        if quota is None:
            return Disk(mount.point, mount.kind, mount.source, device, shared, None, *space)
        limit, used = quota
        available = min(max(0, limit - used), space.available_bytes)
        space = space._replace(used_bytes=used, available_bytes=available)
        return Disk(mount.point, mount.kind, mount.source, device, False, limit, *space)

    def space_of(self, path: str) -> Space:
        """The filesystem that a directory of the host is on; its path has no symbolic links."""
        mount = self._holding(path)
        return self._asker.ask(self._host.root or "/", path, None, "0:0" if mount is None else mount.device)

    def _on_host(self, device: str) -> list[Filesystem]:
        """Where the host has a device mounted."""
        return self._host_mounts().get(device, [])

    def _host_mounts(self) -> dict[str, list[Filesystem]]:
        if self._mounts is None:
            path = "/proc/self/mountinfo" if self._host.is_this_one else "/proc/1/mountinfo"
            self._mounts = {}
            for mount in mountinfo.filesystems(self._host.read(path), path):
                self._mounts.setdefault(mount.device, []).append(mount)
        return self._mounts

    def _holding(self, path: str) -> Filesystem | None:
        """The host's mount that a path of the host is on."""
        every = [mount for mounts in self._host_mounts().values() for mount in mounts]
        above = [mount for mount in every if (path + "/").startswith(mount.point.rstrip("/") + "/")]
        longest = max((len(mount.point) for mount in above), default=0)
        return mountinfo.topmost([mount for mount in above if len(mount.point) == longest])

    def _below(self, mount: Filesystem) -> Filesystem | None:
        """The host's mount that holds what is written to an overlay, where LXC or LXD mounted it."""
        if mount.kind != "overlay" or mount.point != "/":  # its own mounts are named as it sees them, not the host
            return None
        uppers = [one[9:] for one in mount.options.split(",") if one.startswith("upperdir=/")]
        return self._holding(mountinfo.unescaped(uppers[0])) if uppers else None

    def _is_its_own(self, point: str, container: Container) -> bool:
        """Whether the host has that mount for this container alone, as LXD has a zfs dataset."""
        if container.name not in point.split("/"):
            return False
        places = container.directory, self._host.real(container.directory)
        return any((point + "/").startswith(place + "/") for place in places)

    def _space(self, mount: Filesystem, below: Filesystem | None, root: str) -> Space:
        """Where the host has it mounted as well it is asked there: once for all containers, and without root.

        Through a container it is asked once for all that are on it, unless it may answer differently by directory.
        """
        has_quotas = _PROJECT_QUOTAS.intersection(mount.options.split(","))
        on_host = [] if has_quotas else self._on_host(mount.device)
        if on_host and self._host.is_this_one:
            try:
                return self._once(on_host[0])
            except (NotAllowed, Hidden):
                pass
        by_directory = has_quotas or mount.kind.startswith("fuse")
        if mount.device in self._inside and not by_directory:
            return self._inside[mount.device]
        try:
            space = self._asker.ask(self._host.root + root, mount.point, self._number(mount, root), mount.device)
            self._inside[mount.device] = space
            return space
        except NotAllowed:
            if below is None or not self._host.is_this_one or _PROJECT_QUOTAS.intersection(below.options.split(",")):
                raise
            return self._once(below)

    def _once(self, mount: Filesystem) -> Space:
        if mount.device not in self._spaces:
            try:
                self._spaces[mount.device] = self._asker.ask("/", mount.point, mount.number, mount.device)
            except CannotObserve as problem:
                self._spaces[mount.device] = problem
        space = self._spaces[mount.device]
        if isinstance(space, CannotObserve):
            raise space
        return space

    def _number(self, mount: Filesystem, root: str) -> int | None:
        """The id that is to be found at the mount's point. A recorded host has directories, which have none."""
        try:
            recorded = stat.S_ISDIR(os.lstat(self._host.root + root).st_mode)
        except OSError:
            recorded = False
        number: int = mount.number
        return None if recorded else number

    def _quota(self, mount: Filesystem) -> tuple[int, int] | None:
        """(quota, used of it) of a btrfs subvolume in bytes, which statvfs does not tell; None without one."""
        subvolume = next((one[9:] for one in mount.options.split(",") if one.startswith("subvolid=")), "")
        device = self._host.real(mount.source).rpartition("/")[2]
        try:
            known = [one for one in self._host.list("/sys/fs/btrfs") if "-" in one]
        except NotThere:
            return None
        for one in known:
            group = f"/sys/fs/btrfs/{one}/qgroups/0_{subvolume}"
            try:
                if device not in self._host.list(f"/sys/fs/btrfs/{one}/devices"):
                    continue
                kinds = self._count(f"{group}/limit_flags")
            except NotThere:  # without quotas, or before Linux 5.9
                continue
            found = []
            for flag, what in ((_REFERENCED, "referenced"), (_EXCLUSIVE, "exclusive")):
                if kinds & flag:
                    found.append((self._count(f"{group}/max_{what}"), self._count(f"{group}/{what}")))
            return min(found, key=lambda pair: pair[0] - pair[1], default=None)
        return None

    def _count(self, path: str) -> int:
        return cgroup.number(self._host.value(path), path)


class Hidden(CannotObserve):
    """A mount that can't be seen where it is, as another one lies over it."""


class Asker:
    """Asks filesystems how full they are, in a process of its own."""

    def __init__(self, each: float, total: float) -> None:
        self._each, self._left, self._total = each, total, total
        self._pid = 0
        self._requests = self._answers = -1

    def ask(self, top: str, inside: str, number: int | None, device: str) -> Space:
        """The filesystem at a directory inside of another one, which no symbolic link leads out of.

        number: the id that its mount has, None for any; device: "major:minor" of the filesystem.
        """
        if self._left <= 0:
            raise CannotObserve(f"not asked, as others did not answer for {self._total:g} s; see --timeout")
        began = monotonic()
        try:
            if not self._pid:
                self._start()
            words = (top, inside, "" if number is None else str(number), device)
            os.write(self._requests, b"".join(os.fsencode(word) + b"\0" for word in words))
            raw = self._answer(min(self._each, self._left))
        except OSError as error:
            self._abandon()
            raise CannotObserve(f"the filesystem at {inside} can't be asked: {error.strerror}") from None
        if raw is None:
            self._abandon()
            waited = monotonic() - began
            self._left -= waited
            raise CannotObserve(f"the filesystem at {inside} does not answer (after {waited:.1f} s)")
        return _space(raw, inside)

    def close(self) -> None:
        """End the process, and wait for it: where the agent is pid 1 nobody else would."""
        if self._pid:
            os.close(self._requests)
            self._requests = -1
            if self._answer(_END_SECONDS) == b"":  # it has gone, or is about to
                os.waitpid(self._pid, 0)
                os.close(self._answers)
                self._pid, self._answers = 0, -1
            else:
                self._abandon()

    def _answer(self, seconds: float) -> bytes | None:
        """A line of the process, b"" when it has ended, None when there is none in time."""
        import select

        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        return os.read(self._answers, 4096) if poll.poll(seconds * 1000) else None

    def _start(self) -> None:
        theirs, self._requests = os.pipe()
        self._answers, ours = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                _serve(theirs, ours)
            finally:
                os._exit(0)
        os.close(theirs)
        os.close(ours)
        self._pid = pid

    def _abandon(self) -> None:
        """Leave the process behind. Killed, it ends as soon as its system call lets it."""
        if self._pid:
            import signal

            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, os.WNOHANG)
        for descriptor in (self._requests, self._answers):
            if descriptor >= 0:
                os.close(descriptor)
        self._pid, self._requests, self._answers = 0, -1, -1


def _space(raw: bytes, inside: str) -> Space:
    """What the process said. Whoever serves a filesystem may say anything, and a container may serve its own."""
    words = raw.split()
    if words[:1] == [b"errno"]:
        number = int(words[1])
        if number in (errno.EACCES, errno.EPERM):
            raise NotAllowed(f"the filesystem at {inside} can be looked at by root only; run the check as root")
        kind = NotThere if number in (errno.ENOENT, errno.ESRCH) else CannotObserve
        raise kind(f"cannot look at the filesystem at {inside}: {os.strerror(number)}")
    if words == [b"hidden"]:
        raise Hidden(f"the filesystem at {inside} is hidden by another mount")
    if len(words) != 7:
        raise CannotObserve(f"the process that asks ended; it said {quoted(raw)}")
    size, blocks, free, available, inodes, free_inodes, available_inodes = map(int, words)
    if free > blocks or size <= 0:
        raise CannotObserve(f"the filesystem at {inside} claims that more of it is free than there is")
    if not blocks:
        raise CannotObserve(f"the filesystem at {inside} has no size")
    used, available = (blocks - free) * size, min(available, free) * size
    if not inodes or free_inodes > inodes:
        return Space(used, available, None, None)
    return Space(used, available, inodes - free_inodes, min(available_inodes, free_inodes))


def _serve(requests: int, answers: int) -> None:
    """The process that asks: nothing that the check was given may stay open in it, or who waits for that waits on."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    low, high = sorted((requests, answers))
    for first, end in ((3, low), (low + 1, high), (high + 1, 4096)):
        os.closerange(first, end)
    locks = _open_locks()
    while True:
        raw = b""
        while raw.count(b"\0") < 4:
            more = os.read(requests, 65536)
            if not more:
                return
            raw += more
        top, inside, number, device = raw.split(b"\0")[:4]
        try:
            said = _look(top, inside, number, device, locks)
        except OSError as error:
            said = f"errno {error.errno}"
        os.write(answers, said.encode())


def _open_locks() -> int:
    from sensu_lxc.bound import default_folder
    from sensu_lxc.state_dir import own_folder

    try:
        own_folder(default_folder())
        return os.open(f"{default_folder()}/asking", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except (OSError, CannotObserve):
        return -1


def _look(top: bytes, inside: bytes, number: bytes, device: bytes, locks: int) -> str:
    if locks < 0:
        return _look_now(top, inside, number)
    import fcntl

    major, minor = map(int, device.split(b":"))
    # One that hangs where no signal reaches it is enough: the next run's waits here, where it can be killed.
    fcntl.lockf(locks, fcntl.LOCK_EX, 1, major << 20 | minor)
    try:
        return _look_now(top, inside, number)
    finally:
        fcntl.lockf(locks, fcntl.LOCK_UN, 1, major << 20 | minor)


def _look_now(top: bytes, inside: bytes, number: bytes) -> str:
    at = os.open(top, os.O_PATH | os.O_CLOEXEC)
    try:
        # Step by step, as a link in a container would lead out of it.
        for part in inside.split(b"/"):
            if part:
                try:
                    below = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                except (FileNotFoundError, NotADirectoryError):
                    return "hidden"
                os.close(at)
                at = below
        if _mount_of(at) != number if number else stat.S_ISLNK(os.fstat(at).st_mode):
            return "hidden"
        said = os.fstatvfs(at)
    finally:
        os.close(at)
    sizes = said.f_frsize or said.f_bsize, said.f_blocks, said.f_bfree, said.f_bavail
    return " ".join(map(str, (*sizes, said.f_files, said.f_ffree, said.f_favail)))


def _mount_of(descriptor: int) -> bytes:
    """The id of the mount that a descriptor is on, as mountinfo has it."""
    about = os.open(f"/proc/self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(about, 4096).split(b"\n")
    finally:
        os.close(about)
    return next((line[7:].strip() for line in lines if line.startswith(b"mnt_id:")), b"")
