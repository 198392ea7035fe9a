"""Where a container's cgroups are, and what stands in them.

The name-derived directory is right nearly always and wrong when it matters: an empty left-over of an earlier start
makes LXC use lxc.payload.NAME-1, and the old place then reads stale zeros. So it is believed only where nothing else
can be meant and something lives in it; otherwise the container's monitor, or /proc of its init, is asked.
"""

from __future__ import annotations

from collections import namedtuple
from time import monotonic

from sensu_lxc.errors import CannotObserve, NotAllowed, NotThere, quoted
from sensu_lxc.sources import cgroup, meminfo, mountinfo

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Set
    from typing import Any, TypeVar

    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Container

    Number = TypeVar("Number", int, float)
    Read = TypeVar("Read")
    Places = dict[str, list[str]]

# How long monitors may take to answer, all of them together: a hung one must not take the others' time.
_ASK_SECONDS = 1.5
_ASK_ONE_SECONDS = 0.5
# Init is the oldest process of its cgroup and listed first but for what moved in; a busy one has thousands.
_INIT_AMONG = 64
# What cgroup.events of nearly every container says, compared before it is parsed.
_LIVE = b"populated 1\nfrozen 0\n"
# Parents of the containers' cgroups by LXC's age, and what stands before the name there.
_FAMILIES = (("", "lxc.payload."), ("/lxc.payload", ""), ("/lxc", ""))
# What LXC's own cgroups are called: no file is, and what lies below is a container's business.
_OURS = ("lxc.payload.", "lxc.monitor", "lxc.pivot")


class Memory(
    namedtuple(
        "Memory",
        "usage_bytes active_file_bytes inactive_file_bytes reclaimable_bytes limit_bytes swap_bytes swap_limit_bytes",
    )
):
    """A container's memory, in bytes.

    usage_bytes: all that is charged to it; active_file_bytes, inactive_file_bytes: page cache; reclaimable_bytes: slab
    that the kernel can free (0 on v1, which does not tell); limit_bytes: the least of its own and its ancestors'
    limits, None for none; swap_bytes: None where the kernel does not count it; swap_limit_bytes: likewise or None.
    """

    __slots__ = ()

    @property
    def used_bytes(self) -> int:
        """What the kernel can't take back without swap: when it reaches the limit, the OOM killer comes.

        usage − active_file − inactive_file − slab_reclaimable; tmpfs stays in it, as it must.
        """
        used: int = self.usage_bytes - self.active_file_bytes - self.inactive_file_bytes - self.reclaimable_bytes
        return max(0, used)

    @property
    def working_set_bytes(self) -> int:
        """usage − inactive_file, as cAdvisor and the kubelet count (kubernetes#43916 on why it lies upwards)."""
        working_set: int = self.usage_bytes - self.inactive_file_bytes
        return max(0, working_set)


# What stands below a mount point where LXC puts it. exact: {name: directories so named}; numbered: {name: directories
# so named with a number behind}; doubtful: names whose monitor's cgroup is younger than the payload's: LXC makes the
# monitor's first, so that the payload is of an earlier life; others: what stands at the top besides.
Names = namedtuple("Names", "exact numbered doubtful others")

# controller: as v1 names it, "" for v2 alone; point: directory of its mount; root: the cgroup mounted there;
# version: 1 or 2.
Hierarchy = namedtuple("Hierarchy", "controller point root version")


class Cgroups:
    """The cgroup tree of one host.

    running: LXCPATH/NAME of every container that has a monitor there, so that one is not taken for another.
    """

    def __init__(self, host: Host, running: Iterable[str] = ()) -> None:
        self._host = host
        self._running_names: set[str] = set()
        self._same_name: set[str] = set()
        for directory in running:
            name = directory.rpartition("/")[2]
            (self._same_name if name in self._running_names else self._running_names).add(name)
        self._mounts = self._read_mounts()
        self._hierarchies: dict[str, Hierarchy | None] = {}
        self._names: dict[str, Names] = {}
        self._believed: dict[tuple[str, str], str | None] = {}
        # {mount point: names that stand there more than once, or with a number, or elsewhere as well}
        self._suspects: dict[str, set[str]] = {}
        self._alive: set[str] = set()  # directories in which processes were seen just now
        self._limits: dict[tuple[str, str], Any] = {}
        self._monitors: dict[str, int] | None = None
        # {(LXCPATH/NAME, mounted cgroup): (mount points below which it was found alive, its path below them)}
        self._found: dict[tuple[str, str], tuple[set[str], str]] = {}
        # What is true of the host for all of a run, by the file that said it.
        self.once: dict[str, Any] = {}
        self._ask_budget = _ASK_SECONDS
        self._walked: dict[str, tuple[Places, Places, Places]] = {}
        self._files: set[str] = set()

    def _read_mounts(self) -> dict[str, mountinfo.Mount]:
        # /proc/self of a mounted or recorded host is not ours to speak of; its init sees the same cgroups.
        paths = ["/proc/self/mountinfo"] if self._host.is_this_one else ["/proc/1/mountinfo", "/proc/self/mountinfo"]
        for path in paths:
            try:
                mounts = mountinfo.cgroup_mounts(self._host.read(path), path)
            except NotThere:
                continue
            if mounts:
                return mounts
            raise CannotObserve(f"{path} shows no cgroup filesystem; is {self._host.root or '/'} a Linux host's root?")
        raise CannotObserve(f"cannot read {self._host.root}{paths[0]}, which tells where the cgroups are")

    def hierarchy(self, controller: str) -> Hierarchy | None:
        """The v1 hierarchy of a controller where there is one, else v2's (with "" only v2's); None for neither."""
        if controller not in self._hierarchies:
            version = 1 if controller and controller in self._mounts else 2
            mount = self._mounts.get(controller if version == 1 else "")
            found = None if mount is None else Hierarchy(controller, mount.point, mount.root, version)
            self._hierarchies[controller] = found
        return self._hierarchies[controller]

    def directory(self, container: Container, hierarchy: Hierarchy, surely: bool = False) -> str:
        """The container's own cgroup directory in a hierarchy; with surely the name alone is never believed.

        Remembered until forget(). Raises CannotObserve where the container does not run or nobody tells.
        """
        key = (container.directory, hierarchy.root)
        if surely:
            self._found.pop(key, None)
        point: str = hierarchy.point
        if key in self._found:
            points, path = self._found[key]
            if point in points:
                return point + path
            # LXC gives it the same path in all hierarchies that it uses, but to a namesake perhaps in the others.
            if container.name not in self._same_name and self._is_live(point + path, hierarchy):
                points.add(point)
                return point + path
        found = self._find(container, hierarchy, surely)
        self._found[key] = {point}, found[len(point) :]
        return found

    def orphan_is_in(self, container: Container, place: str) -> None:
        """Where the processes of a container without a monitor were found, which nobody else tells."""
        for hierarchy in self.payload_hierarchies():
            if place.startswith(f"{hierarchy.point}/"):
                self._found[container.directory, hierarchy.root] = {hierarchy.point}, place[len(hierarchy.point) :]

    def forget(self) -> None:
        """Look anew where containers are: time has passed."""
        self._found.clear()
        self._names.clear()
        self._believed.clear()
        self._suspects.clear()
        self._alive.clear()
        self._limits.clear()
        self.once.clear()

    def _find(self, container: Container, hierarchy: Hierarchy, surely: bool) -> str:
        place = None if surely else self._place(container, hierarchy)
        try:
            if place is not None and (place in self._alive or self._is_live(place, hierarchy)):
                return place
        except CannotObserve:  # somebody else may tell
            pass
        path = self._asked(container, hierarchy) if self._host.is_this_one else None
        if path is None:
            path = self._of_init(container, hierarchy)
        if path is None:
            return self._only_one(container.name, hierarchy)
        return self._below(hierarchy, path)

    def _only_one(self, name: str, hierarchy: Hierarchy) -> str:
        """The one directory that can be meant where neither a monitor nor /proc tells. Raises CannotObserve."""
        point: str = hierarchy.point
        # One that is exactly another running container's name proves nothing, nor does one without a living monitor.
        exact = self._by_name(point).exact
        taken = {place for other in self._running_names - {name} for place in exact.get(other, ())}
        live = [place for place in self.live_places(name, hierarchy) if place not in taken]
        if len(live) > 1:
            raise CannotObserve(
                f"which cgroup is its own can't be told: {len(live)} of that name in {point} are in use; run as root"
            )
        monitors = {f"lxc.monitor.{name}", f"lxc.monitor/{name}"}
        monitors.update(one for one in self._host.list(point) if _twin(one) == f"lxc.monitor.{name}")
        if not live or not any(self._is_live(f"{point}/{one}", hierarchy) for one in monitors):
            raise CannotObserve(
                f"which cgroup is its own can't be told: none of its name in {point} is in use beside a monitor's; it "
                "starts or stops just now, or is called otherwise there: run as root"
            )
        return live[0]

    def _place(self, container: Container, hierarchy: Hierarchy) -> str | None:
        """The directory that the name alone speaks for: no numbered twin is near that could be meant instead.

        An orphan's monitor is gone from the cgroup beside it, so what lives there is not what runs under this name. LXC
        before 3.0.4 makes no cgroup for its monitors: there the name proves nothing.
        """
        name, point = container.name, hierarchy.point
        key = (name, point)
        if key in self._believed:
            return self._believed[key]
        place = self._spoken_for(name, point)
        if place is not None:
            usual = place == f"{point}/lxc.payload.{name}"
            beside = f"{point}/lxc.monitor.{name}" if usual else f"{point}/lxc.monitor/{name}"
            if not self._is_live(beside, hierarchy):
                place = None
        self._believed[key] = place
        return place

    def _spoken_for(self, name: str, point: str) -> str | None:
        """As _place, without a look at what lives there."""
        names = self._by_name(point)
        places = names.exact.get(name, ())
        if len(places) != 1 or name in names.numbered or name in self._same_name or name in names.doubtful:
            return None
        twin = _twin(name)
        if twin and (twin in names.exact or twin in self._running_names):
            return None
        place: str = places[0]
        return place

    def _below(self, hierarchy: Hierarchy, path: str) -> str:
        root = hierarchy.root.rstrip("/")
        if root and not (path + "/").startswith(root + "/"):
            raise CannotObserve(f"its cgroup {path} lies outside of what {hierarchy.point} shows; run on the host")
        return f"{hierarchy.point}{path[len(root) :]}".rstrip("/")

    def _by_name(self, point: str) -> Names:
        if point not in self._names:
            exact: Places = {}
            numbered: Places = {}
            others: list[str] = []
            # Of a recorded or mounted tree the inodes may be anybody's.
            inodes = self._host.inodes(point) if self._host.is_this_one else dict.fromkeys(self._host.list(point), 0)
            if "cgroup.procs" not in inodes:
                raise CannotObserve(
                    f"{self._host.root}{point} shows no cgroups; mount it with what is mounted below it (mount --rbind)"
                )
            for parent, prefix in _FAMILIES:
                if parent and parent[1:] not in inodes:
                    continue
                for entry in self._host.list(point + parent) if parent else inodes:
                    if not entry.startswith(prefix):
                        others.append(entry)  # at the top alone there is a prefix
                        continue
                    name, directory = entry[len(prefix) :], f"{point}{parent}/{entry}"
                    exact.setdefault(name, []).append(directory)
                    twin = _twin(name)
                    if twin:
                        numbered.setdefault(twin, []).append(directory)
            doubtful = {
                name
                for name in (exact if self._host.is_this_one else ())
                if 0 < inodes.get(f"lxc.payload.{name}", 0) < inodes.get(f"lxc.monitor.{name}", 0)
            }
            self._names[point] = Names(exact, numbered, doubtful, others)
        return self._names[point]

    def live_places(self, name: str, hierarchy: Hierarchy) -> list[str]:
        """The directories with processes that may be a container's by its name: its own, and numbered ones.

        One that bears another running container's name is among them: that one may be elsewhere.
        """
        names = self._by_name(hierarchy.point)
        return self._live(name, hierarchy, names.exact, names.numbered)

    def beside(self, container: Container, hierarchy: Hierarchy) -> list[str]:
        """Directories with processes that may be of a running container by their name; [] where it has but one.

        Costs a look at each cgroup of the host but those inside containers, once.
        """
        name, point = container.name, hierarchy.point
        if point not in self._suspects:
            names = self._by_name(point)
            exact, numbered, _ = self._elsewhere(point)
            several = (one for one, places in names.exact.items() if len(places) > 1)
            self._suspects[point] = {*names.numbered, *exact, *numbered, *several}
        if name not in self._suspects[point] and (
            self._believed.get((name, point))
            or self._place(container, hierarchy)
            or not self._by_name(point).exact.get(name)
        ):
            return []
        return self.live_places(name, hierarchy) + self.payloads_anywhere(name, hierarchy)

    def strays(self, known: Set[str], hierarchy: Hierarchy) -> list[tuple[str, str]]:
        """(name, directory with processes) of what LXC named so and that no container of a known name can be."""
        exact = self._by_name(hierarchy.point).exact
        return [
            (name, place)
            for name in exact.keys() - known
            if _twin(name) not in known
            for place in exact[name]
            if self.is_populated(place, hierarchy) and not self._is_nested(place)
        ]

    def _live(self, name: str, hierarchy: Hierarchy, exact: Places, numbered: Places) -> list[str]:
        places = exact.get(name, []) + numbered.get(name, [])
        return [place for place in places if self.is_populated(place, hierarchy)]

    def payloads_anywhere(self, name: str, hierarchy: Hierarchy) -> list[str]:
        """As live_places, of what LXC named so elsewhere: below lxc.cgroup.dir, a scope, a service, by a pattern.

        Costs a look at each cgroup of the host but those inside containers, once. Every user may look there, also where
        hidepid shows him no process.
        """
        exact, numbered, _ = self._elsewhere(hierarchy.point)
        return [place for place in self._live(name, hierarchy, exact, numbered) if not self._is_nested(place)]

    def populated_of_path(self, path: str, hierarchy: Hierarchy) -> list[str]:
        """The directories with processes that are called so: path, or …/path as lxc.cgroup.relative makes it."""
        _, _, called = self._elsewhere(hierarchy.point)
        places = {f"{hierarchy.point}/{path}"}
        places.update(place for place in called.get(path.rpartition("/")[2], ()) if place.endswith(f"/{path}"))
        return [place for place in sorted(places) if self.is_populated(place, hierarchy) and not self._is_nested(place)]

    def _elsewhere(self, point: str) -> tuple[Places, Places, Places]:
        """As _by_name, of what lies elsewhere below a mount point; and {last part of a path: directories so called}."""
        if point not in self._walked:
            exact: Places = {}
            numbered: Places = {}
            called: Places = {}
            todo = [point]
            while todo:
                directory = todo.pop()
                above = directory[len(point) + 1 :].split("/")
                # Those at the top that LXC named live_places knows.
                for entry in self.subgroups(directory) if directory != point else self._others(point):
                    place, names = f"{directory}/{entry}", []
                    called.setdefault(entry, []).append(place)
                    if entry.startswith("lxc.payload."):
                        names = [entry[len("lxc.payload.") :]]
                    elif above[-1] in ("lxc", "lxc.payload"):
                        names = [entry]
                    elif entry == "payload":  # lxc.cgroup.pattern = …/%n, before 4.0
                        names = above
                    if not entry.startswith(_OURS) and not self._running_names.intersection(names):
                        todo.append(place)
                    for name in names:
                        exact.setdefault(name, []).append(place)
                        twin = _twin(name)
                        if twin:
                            numbered.setdefault(twin, []).append(place)
            self._walked[point] = exact, numbered, called
        return self._walked[point]

    def _others(self, point: str) -> list[str]:
        """The names of the cgroups at the top that are not LXC's own."""
        names = [one for one in self._by_name(point).others if not one.startswith(_OURS) and one != "lxc.payload"]
        return self._cgroups_among(point, names)

    def subgroups(self, directory: str) -> list[str]:
        """The names of the cgroups in one, of whose files each name is tried once. None in one that went away."""
        try:
            entries = [] if self._host.is_leaf(directory) else self._host.list(directory)
        except NotThere:
            return []
        return self._cgroups_among(directory, entries)

    def _cgroups_among(self, directory: str, entries: list[str]) -> list[str]:
        found = []
        for entry in entries:
            if entry.startswith(_OURS) or (entry not in self._files and self._is_directory(directory, entry)):
                found.append(entry)
            elif self._host.is_file(f"{directory}/{entry}"):  # and not a cgroup that was removed meanwhile
                self._files.add(entry)
        return found

    def _is_nested(self, directory: str) -> bool:
        """Whether what runs there is a container inside of another one: it is two pid namespaces below ours."""
        depths = set()
        for inner in ("", "/init.scope"):
            try:
                for pid in self._host.read(f"{directory}{inner}/cgroup.procs").split()[:_INIT_AMONG]:
                    status = self._host.value(f"/proc/{pid.decode('ascii', 'replace')}/status")
                    depths.add(len(_status_field(status, b"NSpid")))
            except (NotThere, NotAllowed):
                continue
        return min(depths, default=0) > 2

    def _is_live(self, directory: str, hierarchy: Hierarchy) -> bool:
        """Whether processes are in it, told by one file (on v1 not of those in cgroups below it)."""
        try:
            if hierarchy.version == 2:
                path = f"{directory}/cgroup.events"
                raw = self._host.value(path)
                if raw == _LIVE:
                    return True
                (populated,) = cgroup.counts(raw, path, b"populated")
                if populated is None:
                    raise CannotObserve(f"{path} does not tell whether processes are in it: it lacks populated")
                return populated == 1
            return self._processes_in(directory) != b""
        except NotThere:
            return False

    def _processes_in(self, directory: str) -> bytes:
        """The pids in a cgroup, one a line: at least the first _INIT_AMONG, as a page of them is read at once."""
        return self._host.value(f"{directory}/cgroup.procs")

    def is_populated(self, directory: str, hierarchy: Hierarchy) -> bool:
        """Whether processes are in it or below it: at the top of a nested systemd there are none."""
        if self._is_live(directory, hierarchy):
            return True
        if hierarchy.version == 2:
            return False
        return any(self.is_populated(f"{directory}/{entry}", hierarchy) for entry in self.subgroups(directory))

    def _is_directory(self, directory: str, entry: str) -> bool:
        try:
            return self._host.has(f"{directory}/{entry}/cgroup.procs")
        except NotAllowed:  # which a file would not be the reason for
            return True

    def _asked(self, container: Container, hierarchy: Hierarchy) -> str | None:
        """What the monitor says, to root and its own user; None where it does not, or is too old to know."""
        from sensu_lxc import monitor
        from sensu_lxc.sources import lxc_command

        if self._ask_budget <= 0:
            return None
        began = monotonic()
        reply = monitor.ask_one(container.address, lxc_command.GET_INIT_PID, _ASK_ONE_SECONDS)
        self._ask_budget -= monotonic() - began
        if reply.problem or reply.status != 0 or reply.value <= 0 or not self.may_monitor(reply.uid, container.lxcpath):
            return None
        if not self._is_child_of(reply.value, reply.uid):
            return None
        if hierarchy.controller:
            said = monitor.ask_one(
                container.address, lxc_command.GET_LIMIT_CGROUP, _ASK_ONE_SECONDS, hierarchy.controller
            )
            path: str = said.data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            if not said.problem and said.status == 0 and path.startswith("/"):
                return path
        return self._of_process(reply.value, container, hierarchy)

    def _is_child_of(self, pid: int, uid: int) -> bool:
        """Whether the parent of a process is of that user: whoever claims an orphan's init is not its parent."""
        try:
            parent = _status_field(self._host.value(f"/proc/{pid}/status"), b"PPid")
            status = self._host.value(f"/proc/{parent[0].decode('ascii', 'replace') if parent else '?'}/status")
        except NotThere:
            return False
        named = _status_field(status, b"Name")
        is_init = parent == [b"1"] and not (named and named[0].startswith(b"lxc"))  # it adopts every orphan
        return not is_init and _status_field(status, b"Uid")[:1] == [str(uid).encode()]

    def _of_process(self, pid: int, container: Container, hierarchy: Hierarchy) -> str | None:
        path = f"/proc/{pid}/cgroup"
        found = cgroup.memberships(self._host.read(path), path)
        controller = hierarchy.controller if hierarchy.version == 1 else ""
        where = found.get(controller)
        if where is None:
            return None
        own = cgroup.payload_of(where, str(container.name))
        if own == where:  # no name of LXC's in it: it may as well be that of whoever started the container
            parent = _status_field(self._host.read(f"/proc/{pid}/status"), b"PPid")
            path = f"/proc/{parent[0].decode('ascii', 'replace') if parent else '?'}/cgroup"
            starter = cgroup.memberships(self._host.read(path), path).get(controller, "/")
            if (starter + "/").startswith(own.rstrip("/") + "/"):
                raise CannotObserve(f"it has no {hierarchy.controller or 'v2'} cgroup of its own, but shares {own}")
        return own

    def _of_init(self, container: Container, hierarchy: Hierarchy) -> str | None:
        """What /proc says of the cgroup of the init process."""
        try:
            pid = self._init_in_proc(container)
            return None if pid is None else self._of_process(pid, container, hierarchy)
        except NotThere:
            return None

    def _init_in_proc(self, container: Container) -> int | None:
        """The child of the monitor that is pid 1 of its namespace."""
        monitor_pid = self.monitors().get(container.directory)
        for child in self._children(monitor_pid) if monitor_pid is not None else ():
            pids = _status_field(self._host.read(f"/proc/{child}/status"), b"NSpid")
            if len(pids) > 1 and pids[-1] == b"1":
                return child
        return None

    def _children(self, pid: int) -> list[int]:
        try:
            return [
                int(child) for child in self._host.read(f"/proc/{pid}/task/{pid}/children").split() if child.isdigit()
            ]
        except NotThere:
            wanted = str(pid).encode()
            return [one for one, status in self._processes() if _status_field(status, b"PPid") == [wanted]]

    def _processes(self) -> Iterator[tuple[int, bytes]]:
        for entry in self._host.list("/proc"):
            if entry.isdigit() and entry.isascii():
                try:
                    yield int(entry), self._host.read(f"/proc/{entry}/status")
                except (NotThere, NotAllowed):
                    continue

    def _hides_processes(self) -> bool:
        try:
            self._host.value("/proc/1/status")
        except (NotThere, NotAllowed):
            return True
        return False

    def inits_elsewhere(self, hierarchy: Hierarchy) -> list[str]:
        """The cgroups, none of LXC's own names, of processes that are pid 1 one pid namespace below ours.

        Raises CannotObserve where other users' processes are hidden.
        """
        if self._hides_processes():
            raise CannotObserve("the processes of others are hidden (hidepid)")
        found = []
        controller = hierarchy.controller if hierarchy.version == 1 else ""
        for pid, status in self._processes():
            pids = _status_field(status, b"NSpid")
            if len(pids) == 2 and pids[1] == b"1":
                path = f"/proc/{pid}/cgroup"
                try:
                    where = cgroup.memberships(self._host.read(path), path).get(controller, "/")
                except NotThere:
                    continue
                parts = where.split("/")
                if not any(part.startswith(_OURS[0]) for part in parts) and not {"lxc", "lxc.payload"} & {*parts[:-1]}:
                    found.append(self._below(hierarchy, where))
        return found

    def monitors(self) -> dict[str, int]:
        """{LXCPATH/NAME: pid} by the title that LXC gives its monitors, where /proc shows other users' processes.

        Any process can take that title, one inside a container too. A monitor is in the host's own pid namespace, and
        belongs to root or to the owner of the lxcpath.
        """
        if self._monitors is None:
            found = {}
            for entry in self._host.list("/proc"):
                if not (entry.isdigit() and entry.isascii()):
                    continue
                try:
                    title = self._host.read(f"/proc/{entry}/cmdline").rstrip(b"\0")
                    if not title.startswith(b"[lxc monitor] "):
                        continue
                    status = self._host.read(f"/proc/{entry}/status")
                except (NotThere, NotAllowed):
                    continue
                lxcpath, _, name = title[len(b"[lxc monitor] ") :].decode("utf-8", "surrogateescape").rpartition(" ")
                uid = _status_field(status, b"Uid")[:1]
                if (
                    len(_status_field(status, b"NSpid")) == 1
                    and uid
                    and uid[0].isdigit()
                    and self.may_monitor(int(uid[0][:10]), lxcpath)
                ):
                    found[f"{lxcpath}/{name}"] = int(entry)
            self._monitors = found
        return self._monitors

    def process_state(self, pid: int) -> str:
        """The letter of a process's state (proc_pid_stat(5)); the name before it may hold anything, ) as well."""
        fields = self._host.read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        return fields[0].decode("ascii", "replace") if fields else "?"

    def may_monitor(self, uid: int, lxcpath: str) -> bool:
        """Whether a process of that user can be the monitor of a container in lxcpath, rather than an impostor."""
        if uid == 0:
            return True
        try:
            return uid == self._host.owner(self._host.real(lxcpath))
        except CannotObserve:
            return False

    def memory(self, container: Container, surely: bool = False) -> Memory:
        """What the container's memory cgroup says. Raises CannotObserve naming the file that did not say it."""
        hierarchy = self.hierarchy("memory")
        if hierarchy is None:
            raise CannotObserve("the kernel counts no memory: no memory cgroup is mounted")
        directory = self.directory(container, hierarchy, surely)
        return self._memory_v1(directory) if hierarchy.version == 1 else self._memory_v2(directory, hierarchy)

    def _number(self, path: str) -> int:
        return cgroup.number(self._host.value(path), path)

    def _memory_v1(self, directory: str) -> Memory:
        usage = self._number(f"{directory}/memory.usage_in_bytes")
        path = f"{directory}/memory.stat"
        # hierarchical_memory_limit is the least of its own and its ancestors' limits. Values without total_ leave out
        # nested cgroups.
        active, inactive, limit, swap, swap_limit = cgroup.counts(
            self._host.value(path),
            path,
            b"total_active_file",
            b"total_inactive_file",
            b"hierarchical_memory_limit",
            b"total_swap",
            b"hierarchical_memsw_limit",
        )
        if active is None or inactive is None or limit is None:
            raise CannotObserve(f"{path} lacks its file cache or its limit")
        if swap_limit is None:  # without swap accounting total_swap stands there all the same, as 0
            return Memory(usage, active, inactive, 0, cgroup.limited(limit), None, None)
        # The limit of memsw is one of memory and swap together.
        own, both = cgroup.limited(limit), cgroup.limited(swap_limit)
        left = None if both is None else max(0, both - (own or 0))
        return Memory(usage, active, inactive, 0, own, swap, left)

    def _memory_v2(self, directory: str, hierarchy: Hierarchy) -> Memory:
        try:
            usage = self._number(f"{directory}/memory.current")
        except NotThere:
            if self._host.has(directory):
                raise CannotObserve(
                    f"{self._host.root}{directory} has no memory.current: the memory controller is not enabled there"
                ) from None
            raise
        path = f"{directory}/memory.stat"
        active, inactive, reclaimable = cgroup.counts(
            self._host.value(path), path, b"active_file", b"inactive_file", b"slab_reclaimable"
        )
        if active is None or inactive is None:
            raise CannotObserve(f"{path} lacks active_file or inactive_file")
        limit = self._least_limit(directory, hierarchy, "memory.max")
        return Memory(usage, active, inactive, reclaimable or 0, limit, None, None)

    def swap(self, container: Container, memory: Memory, surely: bool = False) -> Memory:
        """memory with v2's swap files read, which are no part of memory.stat. v1 has them there already."""
        hierarchy = self.hierarchy("memory")
        if hierarchy is None or hierarchy.version == 1:
            return memory
        directory = self.directory(container, hierarchy, surely)
        try:
            swap = self._number(f"{directory}/memory.swap.current")
        except NotThere:
            if self._host.has(f"{directory}/memory.current"):  # the kernel does not count it
                return memory
            raise
        limit = self._least_limit(directory, hierarchy, "memory.swap.max")
        return memory._replace(swap_bytes=swap, swap_limit_bytes=limit)

    def _least_limit(self, directory: str, hierarchy: Hierarchy, name: str) -> int | None:
        def limit(place: str) -> int | None:
            path = f"{place}/{name}"
            return cgroup.limit(self._host.value(path), path)

        return self.least(directory, hierarchy, name, limit)

    def least(
        self, directory: str, hierarchy: Hierarchy, name: str, read: Callable[[str], Number | None]
    ) -> Number | None:
        """The least limit of a directory and those above it; None for none.

        read(directory) gives that of one; name is what it reads, since a thousand containers have the same parents.
        """
        own = read(directory)
        parent = directory.rpartition("/")[0]
        if len(parent) <= len(hierarchy.point):
            return own
        key = (parent, name)
        if key not in self._limits:
            try:
                self._limits[key] = self.least(parent, hierarchy, name, read)
            except NotThere:  # the controller is not enabled up there, so no limit can be
                self._limits[key] = None
        above = self._limits[key]
        return above if own is None else own if above is None else min(own, above)

    def life(self, directory: str) -> int:
        """Which life of a container it is: the inode of its cgroup, which is made anew at each start and reboot."""
        return self._host.inode(directory)

    def in_one_life(self, directory: str, read: Callable[[], Read]) -> tuple[int, Read]:
        """(which life it is, what read() finds), the life being the same before and after.

        Counters are compared with those of the same life only, and a reboot may come between two reads. Raises NotThere
        where it did, whatever read() then said.
        """
        life = self.life(directory)
        try:
            return life, read()
        finally:
            if self.life(directory) != life:
                raise NotThere(f"{directory} was made anew while it was looked at: the container restarts")

    def init_pid(self, container: Container) -> int:
        """The pid of the container's init as the host sees it. Raises CannotObserve where nobody tells.

        Init is the process in its cgroup that is pid 1 one pid namespace below the monitor's. One inside the container
        can't look so: whatever namespace it makes lies deeper.
        """
        try:
            return self._init_pid(container)
        except CannotObserve as problem:
            if not self._hides_processes():
                raise
            raise CannotObserve(
                "/proc hides other users' processes from this one (hidepid), and with them the container's init; run "
                "as root, or as a member of the group that its gid= names"
            ) from problem

    def _init_pid(self, container: Container) -> int:
        hierarchy = self.payload_hierarchy()
        place = self.directory(container, hierarchy)
        hidden = None
        for inner in ("", "/init.scope", "/ns", "/ns/init.scope"):  # a nested systemd, Proxmox, both
            try:
                pids = self._processes_in(place + inner).split(None, _INIT_AMONG)
            except NotThere:
                continue
            for pid in pids[:_INIT_AMONG]:
                try:
                    own = _status_field(self._host.value(f"/proc/{pid.decode('ascii', 'replace')}/status"), b"NSpid")
                except CannotObserve as problem:
                    hidden = problem
                    continue
                if len(own) == 2 and own[1] == b"1":
                    return int(pid)
        found = self._init_of_monitor(container)
        if found is None:
            raise CannotObserve(f"its init process can't be told: {hidden or 'none of its processes is pid 1 in it'}")
        return found

    def _init_of_monitor(self, container: Container) -> int | None:
        """What the monitor says of its init, to root and its own user; else what /proc says of the monitor's child."""
        if self._host.is_this_one and self._ask_budget > 0:
            from sensu_lxc import monitor
            from sensu_lxc.sources import lxc_command

            reply = monitor.ask_one(container.address, lxc_command.GET_INIT_PID, _ASK_ONE_SECONDS)
            answered = not reply.problem and reply.status == 0 and reply.value > 0
            if answered and self.may_monitor(reply.uid, container.lxcpath):
                return int(reply.value)
        return self._init_in_proc(container)

    def is_frozen(self, container: Container, surely: bool = False) -> bool:
        """Whether its init is frozen, also when somebody other than LXC froze it.

        Where both versions exist both are asked: in a hybrid host v2 says 0 while v1 is frozen.
        """
        hierarchy = self.payload_hierarchy()
        if hierarchy.version == 2:
            return self._is_frozen_v2(container, hierarchy, surely)
        directory = self._of_its_init(container, self.directory(container, hierarchy, surely), hierarchy)
        path = f"{directory}/freezer.state"
        raw = self._host.value(path)
        state = raw[:-1]
        if raw[-1:] != b"\n" or state not in (b"THAWED", b"FREEZING", b"FROZEN"):
            raise CannotObserve(f"{path} holds {quoted(raw)} where a freezer's state should be")
        unified = self.hierarchy("")
        if state != b"THAWED" or unified is None or unified.root != hierarchy.root:
            return state != b"THAWED"  # FREEZING: some of it stands already, and the rest may never
        path = f"{unified.point}{directory[len(hierarchy.point) :]}/cgroup.events"
        try:
            return cgroup.counts(self._host.value(path), path, b"frozen") == [1]
        except NotThere:  # an LXC that leaves the unified hierarchy alone
            return False

    def _is_frozen_v2(self, container: Container, hierarchy: Hierarchy, surely: bool) -> bool:
        """Reads one file where the name tells the place. Raises NotThere for a dead one."""
        place = None if surely else self._place(container, hierarchy)
        if place is not None and not _is_payload(place):
            place = None
        for directory in (place, None):
            if directory is None:
                directory = self.directory(container, hierarchy, surely)
                surely = True
            own = directory
            try:
                if directory is not place:
                    directory = self._of_its_init(container, directory, hierarchy)
                path = f"{directory}/cgroup.events"
                raw = self._host.value(path)
                populated, frozen = (1, 0) if raw == _LIVE else cgroup.counts(raw, path, b"populated", b"frozen")
            except NotThere:
                if place is None:
                    raise
                place = None
                continue
            if populated == 1:
                if frozen is None:
                    raise CannotObserve("the kernel does not tell whether a cgroup is frozen (it does since Linux 5.2)")
                self._alive.add(own)
                return frozen == 1
            place = None
        raise NotThere(f"{path} says that no process is in the container's cgroup")

    def _of_its_init(self, container: Container, directory: str, hierarchy: Hierarchy) -> str:
        """The cgroup at or below a container's own that its init sits in: freezing that one stops it as well."""
        if _is_payload(directory) or self._host.is_leaf(directory):
            return directory
        for inner in ("/init.scope", "/ns/init.scope", "/ns"):
            try:
                if self._host.value(f"{directory}{inner}/cgroup.procs"):
                    return directory + inner
            except NotThere:
                continue
        if self._host.value(f"{directory}/cgroup.procs"):
            return directory
        pid = self._init_of_monitor(container)  # lxc.cgroup.dir.container.inner, which its config names freely
        if pid is None:
            return directory
        path = f"/proc/{pid}/cgroup"
        where = cgroup.memberships(self._host.read(path), path).get(
            hierarchy.controller if hierarchy.version == 1 else "", "/"
        )
        inside = self._below(hierarchy, where)
        return inside if inside.startswith(f"{directory}/") else directory

    def payload_hierarchies(self) -> list[Hierarchy]:
        """Where processes of a payload may be seen. In a hybrid host either may have lost them while they run on."""
        found = [self.payload_hierarchy(), self.hierarchy("")]
        return list({one.point: one for one in found if one is not None}.values())

    def other_hierarchies(self) -> list[Hierarchy]:
        """The rest, each once: of processes that somebody moved out of payload_hierarchies() one may still be told."""
        known = {one.point for one in self.payload_hierarchies()}
        found = {mount.point: self.hierarchy(controller) for controller, mount in self._mounts.items()}
        return [one for point, one in found.items() if one is not None and point not in known]

    def payload_hierarchy(self) -> Hierarchy:
        """The hierarchy in which LXC surely makes a cgroup for each payload."""
        found = self.hierarchy("freezer")
        if found is None:
            raise CannotObserve("neither cgroup v2 nor v1's freezer is mounted, without which LXC does not start")
        return found

    def host_memory(self) -> meminfo.HostMemory:
        """The host's RAM and swap in bytes."""
        return meminfo.host_memory(self._host.read("/proc/meminfo"), "/proc/meminfo")


def _is_payload(place: str) -> bool:
    """Whether LXC itself named it: it makes an inner cgroup only in one that a config names (as Proxmox does)."""
    return place.startswith(_OURS[0], place.rfind("/") + 1)


def _twin(name: str) -> str:
    """web of web-1: whose directory it may be that is so named; "" of a name without a number behind."""
    base = name.rstrip("0123456789")
    return base[:-1] if base != name and base[-1:] == "-" else ""


def _status_field(status: bytes, key: bytes) -> list[bytes]:
    start = status.find(b"\n" + key + b":") + 1
    if not start and not status.startswith(key + b":"):  # Name is its first line
        return []
    return status[start:].split(b"\n", 1)[0].split()[1:]
