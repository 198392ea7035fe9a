"""Which containers are on this host: those with a definition in an lxcpath, and those with a monitor in any."""

from __future__ import annotations

import os
from collections import namedtuple

from sensu_lxc.errors import CannotObserve, NotAllowed, NotThere
from sensu_lxc.sources import lxc_config, net_unix

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sensu_lxc.host import Host

# LXD and Incus keep no config file per container: a link in this directory is the definition. The name of a container
# outside the default project is PROJECT_NAME there, as it is in its cgroup.
LXD_PATHS = {
    "/var/lib/lxd/containers": "/var/lib/lxd/unix.socket",
    "/var/snap/lxd/common/lxd/containers": "/var/snap/lxd/common/lxd/unix.socket",
    "/var/lib/incus/containers": "/var/lib/incus/unix.socket",
}
_PROXMOX = "/etc/pve/lxc"
_DEFAULT_LXCPATH = "/var/lib/lxc"
_MAGIC = frozenset("*?[")
_INCLUDES_AT_MOST = 32


class NoContainer(CannotObserve):
    """There is none that is meant, and all was looked at: a count may take it for 0."""


class Container(namedtuple("Container", "name lxcpath defined has_monitor label")):
    """One container.

    name, lxcpath: as LXC knows it; defined: True, False (it runs without a definition) or None (this user can't tell);
    has_monitor: a command socket is listed; label: the name, or LXCPATH/NAME where a host has that name twice.
    """

    __slots__ = ()

    @property
    def directory(self) -> str:
        """Where its config and, as a rule, its root filesystem are; also the name of its command socket."""
        return f"{self.lxcpath}/{self.name}"

    @property
    def address(self) -> str:
        """The abstract address of its monitor, without the leading NUL."""
        return net_unix.socket_name(self.directory)

    @property
    def is_own(self) -> bool:
        """Whether it is the one that the check runs in: nobody inside knows its lxcpath."""
        return not self.lxcpath

    @property
    def is_lxd(self) -> bool:
        """Whether LXD or Incus manages it."""
        return self.lxcpath in LXD_PATHS


# containers: list of Container that are meant, sorted by directory; missing: names that were asked for and stand for
# nothing; unseen: sentences on what this user could not look at; running: LXCPATH/NAME of all that have a monitor here.
Inventory = namedtuple("Inventory", "containers missing unseen running")


def take(
    host: Host,
    names: Sequence[str] = (),
    exclude: Sequence[str] = (),
    lxcpaths: Sequence[str] = (),
    advice: str = "run as root, or name the containers with -n",
) -> Inventory:
    """Find the containers that the user means.

    names, exclude: names or shell patterns, no name meaning every container; lxcpaths: none means where this host's
    LXC, LXD and Incus keep theirs, and wherever else a monitor runs; advice: where one can't be listed. Raises
    NoContainer where there is none, CannotObserve where nothing can be seen.
    """
    running, hashed = command_sockets(host)
    unseen: list[str] = []
    for path in lxcpaths:
        try:
            if not host.has(host.real(_clean(path))):
                raise CannotObserve(f"there is no {host.root}{path}; name an existing lxcpath with -P")
        except NotAllowed:
            pass  # what is in it can't be listed either, which is said below
    paths = [_clean(path) for path in lxcpaths] or default_lxcpaths(host, unseen)
    defined: dict[str, bool | None] = {}
    literal = [name for name in names if not _MAGIC.intersection(name)]
    if len(literal) == len(names) > 0:
        for path, name in [_apart(name) for name in literal if _is_whole(name)] + [
            (path, name) for path in paths for name in literal if not _is_whole(name)
        ]:
            directory = f"{path}/{name}"
            # What runs needs no look for its definition.
            known = True if directory in running else is_defined(host, path, name)
            if known is not False:
                defined[directory] = known
    else:
        for path in paths:
            _list_definitions(host, path, running, defined, unseen, advice)
    if hashed:
        by_hash = {net_unix.socket_name(directory)[: -len("/command")]: directory for directory in defined}
        running.update(by_hash[one] for one in hashed if one in by_hash)
        unknown = len([one for one in hashed if one not in by_hash])
        if unknown and not lxcpaths and not any(directory.rpartition("/")[2] in names for directory in defined):
            unseen.append(
                f"{unknown} containers run in an lxcpath too long for their sockets to tell it; name it with -P"
            )
    directories = set(defined)
    real = _real_lxcpaths(host, directories | running | {f"{path}/" for path in paths})
    wanted_paths = {real[path] for path in paths}
    directories.update(one for one in running if not lxcpaths or real[one.rpartition("/")[0]] in wanted_paths)
    if len(set(real.values())) < len(real):  # one lxcpath by two spellings: its containers are told once, as they run
        told: dict[tuple[str, str], str] = {}
        for one in sorted(directories, key=running.__contains__):
            lxcpath, _, name = one.rpartition("/")
            told[real[lxcpath], name] = one
        directories = set(told.values())
    found = {directory: directory.rpartition("/")[2] for directory in directories}
    wanted, missing = _select(found, names)
    meant = len(wanted) + len(missing)
    wanted, missing = _without(found, wanted, missing, exclude)
    if meant and not wanted and not missing:
        rest = f"; besides, {'; '.join(unseen)}" if unseen else ""
        of = f"none of {meant} containers" if meant > 1 else "out the one container that is meant"
        raise (CannotObserve if unseen else NoContainer)(f"--exclude leaves {of}{rest}")
    if not meant and not unseen:
        raise NoContainer(f"no container here: there is none in {' or '.join(paths)}; -P names another lxcpath")
    twice = _duplicates(found.values())
    # Without a definition it runs all the same; only who may look everywhere knows that it has none.
    undefined = None if names or unseen else False
    containers = []
    for directory in sorted(wanted):
        name = found[directory]
        containers.append(
            Container(
                name,
                directory[: -len(name) - 1],
                defined.get(directory, undefined),
                directory in running,
                directory if name in twice else name,
            )
        )
    return Inventory(containers, missing, unseen, running)


def command_sockets(host: Host) -> tuple[set[str], set[str]]:
    """The directories LXCPATH/NAME whose monitors listen, and the hashed names of over-long ones."""
    # /proc/net is the reader's own namespace; a mounted host's is that of its init.
    problem = None
    for path in ("/proc/net/unix",) if host.is_this_one else ("/proc/1/net/unix", "/proc/net/unix"):
        try:
            return net_unix.command_sockets(host.read(path), path)
        except NotThere as error:
            problem = error
    if not host.is_this_one and not host.has("/proc"):
        raise CannotObserve(f"is {host.root} a host's root? it has no proc/; --root names where a host's / is mounted")
    raise CannotObserve(f"{problem}; is that the /proc of a Linux host that runs?")


def running_container(directory: str) -> Container:
    """The Container of a directory LXCPATH/NAME that has a monitor, whatever else is known of it."""
    lxcpath, _, name = directory.rpartition("/")
    return Container(name, lxcpath, None, True, directory)


def has_monitor_now(host: Host, container: Container) -> bool:
    """Whether a container's monitor listens now: it may have ended, or begun, since the host was looked at."""
    running, hashed = command_sockets(host)
    return container.directory in running or container.address[: -len("/command")] in hashed


def default_lxcpaths(host: Host, unseen: list[str]) -> list[str]:
    """Where this host's LXC keeps its containers, then LXD's and Incus' places where they exist."""
    configured = {}
    try:
        configured = dict(lxc_config.settings(host.read("/etc/lxc/lxc.conf")))
    except NotThere:
        pass
    except CannotObserve as error:
        unseen.append(f"{error}; it may name another lxcpath")
    first = _clean(configured.get("lxc.lxcpath") or _DEFAULT_LXCPATH)
    others = []
    for path in LXD_PATHS:
        try:
            if host.has(path):
                others.append(path)
        except NotAllowed:
            others.append(path)
    try:
        is_there = host.has(host.real(first))
    except NotAllowed:
        is_there = True
    if is_there or not others:
        others.insert(0, first)
    if not is_there and "lxc.lxcpath" in configured:
        unseen.append(
            f"{host.root}{first} is not there, where /etc/lxc/lxc.conf says the containers are; is it mounted?"
        )
    return others


def _clean(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _real_lxcpaths(host: Host, directories: set[str]) -> dict[str, str]:
    """{lxcpath: the same with its links and .. followed} of directories LXCPATH/NAME."""
    return {path: host.real(path) for path in {one.rpartition("/")[0] for one in directories}}


def is_defined(host: Host, lxcpath: str, name: str) -> bool | None:
    """Whether lxcpath defines name; None where this user may not look."""
    if name in ("", ".", "..") or "/" in name:
        return False
    try:
        if lxcpath in LXD_PATHS:
            return host.has(f"{lxcpath}/{name}") or _has_link(host, lxcpath, name)
        real = host.real(lxcpath)
        return host.has(f"{real}/{name}/config") or (
            lxcpath == _DEFAULT_LXCPATH and host.has(f"{_PROXMOX}/{name}.conf")
        )
    except NotAllowed:
        # LXC makes container directories unreadable for others (0770), yet shows that they are there.
        try:
            return host.has(f"{host.real(lxcpath)}/{name}")
        except NotAllowed:
            return None


def _has_link(host: Host, lxcpath: str, name: str) -> bool:
    # A link whose target this user may not see, or in a recorded tree, is a definition all the same.
    try:
        return name in host.list(lxcpath)
    except CannotObserve:
        return False


def _list_definitions(
    host: Host,
    lxcpath: str,
    running: set[str],
    defined: dict[str, bool | None],
    unseen: list[str],
    advice: str,
) -> None:
    if lxcpath == _DEFAULT_LXCPATH:
        try:
            for name in host.list(_PROXMOX):
                if name.endswith(".conf"):
                    defined[f"{lxcpath}/{name[: -len('.conf')]}"] = True
        except NotThere:
            pass
        except NotAllowed as error:
            unseen.append(str(error))
    try:
        names = host.list(host.real(lxcpath))
    except NotThere:
        return
    except CannotObserve as error:
        unseen.append(f"{error}; {advice}")
        return
    for name in names:
        # lost+found is there where the lxcpath is a filesystem of its own.
        if name.startswith(".") or name == "lost+found":
            continue
        directory = f"{lxcpath}/{name}"
        # What runs in a directory of that name needs no look into it.
        is_lxds = lxcpath in LXD_PATHS and not host.is_file(directory)
        if directory in running or is_lxds or (lxcpath not in LXD_PATHS and is_defined(host, lxcpath, name)):
            defined[directory] = True


def _is_whole(name: str) -> bool:
    """Whether a name or pattern is one of LXCPATH/NAME, as a container is told whose name is there twice."""
    return name.startswith("/")


def _apart(whole: str) -> tuple[str, str]:
    lxcpath, _, name = whole.rpartition("/")
    return _clean(lxcpath), name


def _meaning(pattern: str) -> Callable[[str, str], object]:
    """A test of (LXCPATH/NAME, NAME) of a container against a name or a shell pattern, or one with its lxcpath."""
    if _is_whole(pattern):
        means_whole = matcher(_clean(pattern))
        return lambda directory, name: means_whole(directory)
    means = matcher(pattern)
    return lambda directory, name: means(name)


def _select(found: dict[str, str], names: Sequence[str]) -> tuple[set[str], list[str]]:
    """(directories that the user means, names and patterns that mean nothing)."""
    wanted, missing = set() if names else set(found), []
    for name in names:
        means = _meaning(name)
        chosen = [directory for directory, found_name in found.items() if means(directory, found_name)]
        if not chosen:
            missing.append(name)
        wanted.update(chosen)
    return wanted, missing


def _without(
    found: dict[str, str], wanted: set[str], missing: list[str], exclude: Sequence[str]
) -> tuple[set[str], list[str]]:
    """wanted and missing without what the user leaves out."""
    for pattern in exclude:
        left_out = _meaning(pattern)
        wanted = {directory for directory in wanted if not left_out(directory, found[directory])}
        missing = [name for name in missing if not left_out(name, name)]
    return wanted, missing


def chooser(names: Sequence[str], exclude: Sequence[str]) -> Callable[[str, str], bool]:
    """A test of whether these options mean (LXCPATH/NAME, NAME) of a container."""
    wanted, left_out = [_meaning(one) for one in names], [_meaning(one) for one in exclude]

    def means(directory: str, name: str) -> bool:
        is_wanted = not wanted or any(one(directory, name) for one in wanted)
        return is_wanted and not any(one(directory, name) for one in left_out)

    return means


def absent(name: str) -> str:
    """What is to be said of a name or pattern for which nothing is there. Root sees all that is."""
    if is_pattern(name):
        return "matches no container that can be seen here"
    hidden = "" if os.geteuid() == 0 else ", or it is not running and hidden from this user"
    return f"no such container here{hidden}"


def is_pattern(name: str) -> bool:
    """Whether it is a shell pattern rather than a name."""
    return bool(_MAGIC.intersection(name))


def matcher(pattern: str) -> Callable[[str], object]:
    """A test of a name against a name or a shell pattern."""
    if not is_pattern(pattern):
        return pattern.__eq__
    import fnmatch
    import re

    match = re.compile(fnmatch.translate(pattern)).match
    return lambda name: name == pattern or match(name)  # a name may hold what a pattern is made of


def _duplicates(names: Iterable[str]) -> set[str]:
    once: set[str] = set()
    twice: set[str] = set()
    for name in names:
        (twice if name in once else once).add(name)
    return twice


def starts_with_host(host: Host, container: Container) -> bool:
    """Whether it is to start when its host does: lxc.start.auto, Proxmox' onboot, LXD's and Incus' boot.autostart."""
    if container.is_lxd:
        from sensu_lxc import lxd

        return lxd.autostart(host, LXD_PATHS[container.lxcpath]).get(container.name, False)
    if container.lxcpath == _DEFAULT_LXCPATH:
        try:
            return lxc_config.proxmox_onboot(host.read(f"{_PROXMOX}/{container.name}.conf"))
        except NotThere:
            pass
    return lxc_config.is_one(config(host, container).get("lxc.start.auto", ""))


def config(host: Host, container: Container) -> dict[str, str]:
    """The settings of a container, those of the files it includes among them; the last of a key counts."""
    found: dict[str, str] = {}
    _read_config(host, f"{host.real(container.directory)}/config", found, [])
    return found


def _read_config(host: Host, path: str, found: dict[str, str], read: list[str]) -> None:
    read.append(path)
    if len(read) > _INCLUDES_AT_MOST:
        raise CannotObserve(f"{read[0]} includes more than {_INCLUDES_AT_MOST} files")
    raw = host.read(path)
    settings = lxc_config.settings(raw)
    if not settings and len(read) == 1:
        raise CannotObserve(f"{path} holds no setting of LXC; is it cut off, or no container's config?")
    for key, value in settings:
        if key != "lxc.include":
            found[key] = value
            continue
        if not value.startswith("/"):
            raise CannotObserve(f"{path} includes {ascii(value)}, which is no absolute path")
        for included in _included(host, value):
            try:
                _read_config(host, included, found, read)
            except NotThere as problem:  # of which LXC would say that the whole is no config
                raise CannotObserve(f"{path} includes what is not there: {problem}") from None


def _included(host: Host, path: str) -> list[str]:
    """A file, or the *.conf of a directory, as LXC includes them."""
    real = host.real(path)
    try:
        names = host.list(real)
    except CannotObserve:
        return [real]
    return [f"{real}/{name}" for name in sorted(names) if name.endswith(".conf")]
