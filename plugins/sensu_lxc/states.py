"""What state containers are in, as their monitors and the kernel say it, without a subprocess."""

from __future__ import annotations

from collections import namedtuple
from time import monotonic, sleep

from sensu_lxc import inventory
from sensu_lxc.errors import CannotObserve, NotAllowed, NotThere
from sensu_lxc.monitor import BROKEN
from sensu_lxc.sources.lxc_command import GET_STATE, STATES

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence, Set

    from sensu_lxc.cgroups import Cgroups, Hierarchy
    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Container, Inventory
    from sensu_lxc.monitor import Reply

# Passing states are looked at again for that long: a container that reboots is STOPPED for some milliseconds.
_SETTLE_SECONDS = 0.5
_SETTLE_STEP_SECONDS = 0.05

# name: a word of lxc_command.STATES, or one of the following; detail: "" or what a person should know of it; doubt: ""
# or why it may not be STOPPED as far as this user can tell; beside: "" or the cgroup in which processes of an earlier
# life run on beside those of this one.
State = namedtuple("State", "name detail doubt beside", defaults=("", "", ""))
RUNNING = State("RUNNING")
# The monitor is there and does not answer: lxc-info, lxc-ls and lxc-stop hang on it.
UNRESPONSIVE = "UNRESPONSIVE"
# Processes run on in the container's cgroup and no monitor cares for them. To LXC it is STOPPED; lxc-start would start
# a second copy on the same root filesystem.
ORPHANED = "ORPHANED"
HIDDEN = "its config can't be read by this user"


def observe(
    host: Host,
    tree: Cgroups,
    containers: Sequence[Container],
    seconds: float,
    all_running: Collection[str] = (),
) -> dict[str, State | CannotObserve]:
    """{LXCPATH/NAME: its State, or why it can't be told}.

    seconds: how long monitors have to answer, all of them together; all_running: LXCPATH/NAME of every
    container that has a monitor here, where containers are only some of them.
    """
    running = [container for container in containers if container.has_monitor]
    replies = _ask(running, seconds) if host.is_this_one else {}
    found: dict[str, State | CannotObserve] = {}
    stopped = [container for container in containers if not container.has_monitor]
    all_running = all_running or [container.directory for container in running]
    stopped_monitors = set() if host.is_this_one else _stopped_monitors(tree)
    for container in running:
        directory = container.directory
        try:
            if stopped_monitors and directory in stopped_monitors:
                found[directory] = State(UNRESPONSIVE, _why_unresponsive(tree, container))
                continue
            state = _running(tree, container, replies.get(container.address) if replies else None)
            beside = "" if state.name == UNRESPONSIVE else _beside(tree, container, all_running)
            found[directory] = state._replace(beside=beside) if beside else state
        except NotThere as problem:
            if inventory.has_monitor_now(host, container):
                found[directory] = problem
            else:
                stopped.append(container)
        except CannotObserve as problem:
            found[directory] = problem
    for container in stopped:
        try:
            found[container.directory] = _stopped(host, tree, container, all_running)
        except CannotObserve as problem:
            found[container.directory] = problem
    return found


def _stopped_monitors(tree: Cgroups) -> set[str]:
    """Those of a mounted host, whose sockets are not ours to ask, that a signal has stopped."""
    found = set()
    try:
        for directory, pid in tree.monitors().items():
            try:
                if tree.process_state(pid) in "Tt":
                    found.add(directory)
            except CannotObserve:
                continue
    except CannotObserve:
        pass
    return found


def _ask(running: Sequence[Container], seconds: float) -> dict[str, Reply]:
    from sensu_lxc import monitor

    replies = monitor.ask([container.address for container in running], GET_STATE, seconds)
    deadline = monotonic() + _SETTLE_SECONDS
    while monotonic() < deadline:
        passing = [address for address, reply in replies.items() if _is_passing(reply)]
        if not passing:
            break
        sleep(_SETTLE_STEP_SECONDS)
        replies.update(monitor.ask(passing, GET_STATE, min(seconds, _SETTLE_SECONDS)))
    return replies


def _is_passing(reply: Reply) -> bool:
    if reply.problem == BROKEN:  # a monitor that ends closes its connections
        return True
    return not reply.problem and reply.status == 0 and reply.value not in (2, 6, 7)


def _running(tree: Cgroups, container: Container, reply: Reply | None) -> State:
    """The state of a container whose command socket is listed. Raises NotThere where it stopped meanwhile."""
    state = "RUNNING"
    if reply is not None:
        from sensu_lxc import monitor

        if reply.problem == monitor.ABSENT:
            raise NotThere("its monitor ended while it was looked at")
        if reply.uid is not None and not tree.may_monitor(reply.uid, container.lxcpath):
            raise CannotObserve(f"its command socket is held by uid {reply.uid}, who owns no container in its lxcpath")
        if reply.problem == monitor.UNRESPONSIVE:
            return State(UNRESPONSIVE, _why_unresponsive(tree, container))
        if reply.problem:
            raise CannotObserve(f"its monitor can't be asked: {reply.data.decode('utf-8', 'replace')}")
        # A negative status is the monitor's refusal to serve this user, which shows all the same that it lives.
        if reply.status == 0:
            if not 0 <= reply.value < len(STATES):
                raise CannotObserve(f"its monitor names the unknown state {reply.value}")
            state = "RUNNING" if STATES[reply.value] == "THAWED" else STATES[reply.value]
    if state == "RUNNING" and _is_frozen(tree, container):
        return State("FROZEN", "frozen from outside LXC" if reply is not None and reply.status == 0 else "")
    return RUNNING if state == "RUNNING" else State(state)


def _beside(tree: Cgroups, container: Container, running: Collection[str]) -> str:
    """Where an orphan of the name lives while the container runs: in the cgroup that its earlier life had."""
    hierarchy = tree.payload_hierarchy()
    places = tree.beside(container, hierarchy)
    return next(iter(_unclaimed(tree, places, hierarchy, running)), "") if places else ""


def strays(tree: Cgroups, known: Set[str], running: Collection[str]) -> list[tuple[str, str]]:
    """(name, cgroup) of payloads that run on with neither a monitor nor a definition that tells whose they are."""
    hierarchy = tree.payload_hierarchy()
    found = tree.strays(known, hierarchy)
    alone = _unclaimed(tree, [place for _, place in found], hierarchy, running)
    return [(name, place) for name, place in found if place in alone]


def strays_beside(tree: Cgroups, found: Inventory) -> list[tuple[str, str]]:
    """Those that are of no container of an inventory of the whole host. Raises CannotObserve with a whole sentence."""
    names = {container.name for container in found.containers}
    names.update(directory.rpartition("/")[2] for directory in found.running)
    try:
        return strays(tree, names, found.running)
    except CannotObserve as problem:
        raise CannotObserve(f"whether payloads run on without a definition can't be told: {problem}") from None


def _is_frozen(tree: Cgroups, container: Container) -> bool:
    try:
        return tree.is_frozen(container)
    except NotThere:
        return tree.is_frozen(container, surely=True)  # its cgroup was made anew, as at a reboot


def _why_unresponsive(tree: Cgroups, container: Container) -> str:
    try:
        pid = tree.monitors().get(container.directory)
        if pid is not None:
            return f"pid {pid}{', which was stopped by a signal' if tree.process_state(pid) in 'Tt' else ''}"
    except CannotObserve:
        pass
    return "perhaps a start hook runs"


def _stopped(host: Host, tree: Cgroups, container: Container, running: Collection[str]) -> State:
    configured = _configured(host, container)
    payload = _payload(tree, container, running, configured or [])
    if payload is None:
        return State("STOPPED", doubt="" if configured is not None else _doubt(tree, container, running))
    if inventory.has_monitor_now(host, container):
        return State("STARTING")  # it was not there when the host was looked at
    if container.directory in tree.monitors():
        raise CannotObserve(
            "its monitor lives, and its socket is not seen from here; run in the host's own network namespace"
        )
    return State(ORPHANED, payload)


def payload_without_monitor(host: Host, tree: Cgroups, container: Container, running: Collection[str]) -> str | None:
    """The cgroup directory in which processes of a container without a monitor run on; None where there are none."""
    return _payload(tree, container, running, _configured(host, container) or [])


def orphan(host: Host, tree: Cgroups, container: Container, running: Collection[str]) -> str:
    """The cgroup directory in which processes of a container run on without their monitor, "" for none.

    Those of an earlier life beside a container that runs are such, too. running: as all_running of observe().
    """
    if container.has_monitor:
        return _beside(tree, container, running)
    payload = payload_without_monitor(host, tree, container, running)
    return "" if payload is None or inventory.has_monitor_now(host, container) else payload


def _payload(tree: Cgroups, container: Container, running: Collection[str], configured: list[str]) -> str | None:
    for hierarchy in tree.payload_hierarchies():
        live = tree.live_places(container.name, hierarchy) + tree.payloads_anywhere(container.name, hierarchy)
        for path in configured:
            live += tree.populated_of_path(path, hierarchy)
        live = _unclaimed(tree, live, hierarchy, running)
        if live:
            return live[0]
    for hierarchy in tree.other_hierarchies():
        place = f"{hierarchy.point}/lxc.payload.{container.name}"
        if tree.is_populated(place, hierarchy) and _unclaimed(tree, [place], hierarchy, running):
            return place
    return None


def _doubt(tree: Cgroups, container: Container, running: Collection[str]) -> str:
    """Why a container whose config can't be read may run on all the same, in a cgroup that it names freely."""
    for hierarchy in tree.payload_hierarchies():
        places = _unclaimed(tree, tree.populated_of_path(container.name, hierarchy), hierarchy, running)
        if places:
            return f"processes run in {places[0]}, which may be its own: {HIDDEN}"
    hierarchy = tree.payload_hierarchy()
    try:
        # A payload has an init of its own, wherever its cgroup is: that of nobody else may be its.
        inits = tree.inits_elsewhere(hierarchy)
        claimed = {tree.directory(inventory.running_container(one), hierarchy) for one in running} if inits else ()
    except CannotObserve as problem:
        return f"{HIDDEN}, and {problem}"
    for place in inits:
        if not any(f"{place}/".startswith(f"{own}/") for own in claimed):
            return f"a container runs in {place}, which may be its own: {HIDDEN}"
    return ""


def _unclaimed(tree: Cgroups, places: list[str], hierarchy: Hierarchy, running: Collection[str]) -> list[str]:
    """The places that are not those of a running container: a namesake, or web where web-1 is looked at.

    Raises CannotObserve where one may be, of a container that can't prove it.
    """
    if not places:
        return []
    claimed, doubt = set(), None
    for directory in running:
        if _may_be_in(directory.rpartition("/")[2], places):
            try:
                claimed.add(tree.directory(inventory.running_container(directory), hierarchy))
            except CannotObserve as problem:
                doubt = f"whether they are those of {directory} can't be told: {problem}"
    left = [place for place in places if place not in claimed]
    if left and doubt:
        raise CannotObserve(f"processes run in {left[0]}, and {doubt}")
    return left


def _may_be_in(name: str, places: list[str]) -> bool:
    parts = "/".join(places).replace("/lxc.payload.", "/").split("/")
    return any(part == name or part.startswith(f"{name}-") for part in parts)


def _configured(host: Host, container: Container) -> list[str] | None:
    """Cgroups that the container's own config names; None where this user may not read it."""
    if container.is_lxd:
        return []
    try:
        settings = inventory.config(host, container)
    except NotThere:
        return []
    except NotAllowed:
        return None
    found = []
    if settings.get("lxc.cgroup.dir"):
        found.append(f"{settings['lxc.cgroup.dir']}/lxc.payload.{container.name}")
    if settings.get("lxc.cgroup.dir.container"):
        found.append(settings["lxc.cgroup.dir.container"])
    return [directory.strip("/") for directory in found]
