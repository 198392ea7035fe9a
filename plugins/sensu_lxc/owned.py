"""Containers that sensu-lxc makes: the record that says so, the lock for work on one, and how one is removed safely."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from time import monotonic, sleep

from sensu_lxc import commands, inventory, states
from sensu_lxc.cgroups import Cgroups
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.inventory import Container
from sensu_lxc.sources import mountinfo, ownership

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sensu_lxc.host import Host
    from sensu_lxc.sources.ownership import Record

_MONITOR_SECONDS = 2.0
_STEP_SECONDS = 0.05
_STOP_SECONDS = 20.0
_DESTROY_SECONDS = 60.0
# Storage whose last part alone is the container's own; what is below it belongs to others and stays at a destroy.
_LAYERED = ("overlay", "overlayfs", "aufs")


class CannotAct(Exception):
    """Something could not be done; the message is a sentence that says why."""


def find(host: Host, lxcpath: str, name: str) -> Container:
    """The container of that name, defined or not. It may run under another spelling of the lxcpath."""
    return _look(host, lxcpath, name)[0]


def state(host: Host, lxcpath: str, name: str, seconds: float = _MONITOR_SECONDS) -> states.State:
    """Its state now, "STOPPED" also where it does not exist; its monitor has so many seconds to say it.

    Raises CannotObserve.
    """
    container, running = _look(host, lxcpath, name)
    seconds = max(0.1, min(seconds, _MONITOR_SECONDS))
    seen = states.observe(host, Cgroups(host, running), [container], seconds, running)[container.directory]
    if isinstance(seen, CannotObserve):
        raise seen
    return seen


def _look(host: Host, lxcpath: str, name: str) -> tuple[Container, set[str]]:
    """(the container, LXCPATH/NAME of all that run, so that it is not taken for one of them)."""
    found = inventory.take(host, [name], (), [lxcpath])
    known: Container = next(iter(found.containers), Container(name, lxcpath, False, False, name))
    return known, found.running


def record(host: Host, directory: str) -> Record | None:
    """What sensu-lxc wrote into a container's directory; None where it wrote nothing. Raises CannotObserve.

    A removal that was cut short may have taken the record and not all the rest: that is ours all the same, half made.
    """
    path = f"{directory}/{ownership.FILE}"
    try:
        return ownership.record(host.read(path), path)
    except NotThere:
        pass
    path = _notice(directory)
    try:
        inode, _, told = host.read(path).partition(b"\n")
        # Whoever made another directory of that name since is not meant.
        return ownership.record(told, path) if inode == b"%d" % host.inode(directory) else None
    except NotThere:
        return None


def _notice(directory: str) -> str:
    """The file that says of a directory (by its inode) that it is ours and being removed."""
    lxcpath, _, name = directory.rpartition("/")
    return f"{lxcpath}/.sensu-lxc.{name}.removing"


def write_record(directory: str, of: Record) -> None:
    """Replace the record in one step. Raises OSError."""
    _write_whole(f"{directory}/{ownership.FILE}", ownership.text(of))


def _write_whole(path: str, content: str) -> None:
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.new", path)


def claim(lxcpath: str, name: str, of: Record) -> None:
    """Make the container's directory, with the record in it from the first moment on. Raises OSError."""
    new = f"{lxcpath}/.sensu-lxc.{name}.new"
    with suppress(FileExistsError):  # of a run that was killed here
        os.mkdir(new)
    os.chmod(new, 0o770)  # as lxc-create makes it: the group is what an unprivileged user keeps of it
    write_record(new, of)
    try:
        os.rename(new, f"{lxcpath}/{name}")  # fails where something is there, unless it is an empty directory
    except OSError:
        os.unlink(f"{new}/{ownership.FILE}")
        os.rmdir(new)
        raise


@contextmanager
def lock(lxcpath: str, name: str, seconds: float, stop: Callable[[], bool]) -> Iterator[int]:
    """Be the only one at work on a container; the value is the lock's descriptor.

    Whoever inherits it goes on to hold the lock when we are killed, so a killed run's lxc-create is waited for. Raises
    CannotAct after `seconds`, or when stop() is true.
    """
    path = f"{lxcpath}/.sensu-lxc.{name}.lock"
    deadline = monotonic() + seconds
    descriptor = _open_lock(path)
    try:
        while not _is_locked(descriptor, path):
            if stop():
                raise CannotAct(f"interrupted while another run was at work on {name}")
            if monotonic() >= deadline:
                raise CannotAct(f"another run has been at work on {name} for {seconds:.0f} s, see: fuser -v {path}")
            sleep(_STEP_SECONDS)
            if not _is_at(descriptor, path):
                os.close(descriptor)
                descriptor = _open_lock(path)
        try:
            yield descriptor
        finally:
            # Said outright: by closing alone a process that a template left behind would keep it.
            with suppress(OSError):
                os.unlink(path)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _open_lock(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise CannotAct(f"cannot make the lock {path}: {error.strerror}") from None


def _is_locked(descriptor: int, path: str) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise CannotAct(f"cannot lock {path}: {error.strerror}") from None
    return _is_at(descriptor, path)


def _is_at(descriptor: int, path: str) -> bool:
    """Whether the file that was opened is the one that is there: the last holder removes it."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


def remove(
    host: Host, lxcpath: str, name: str, keep_open: Sequence[int] = (), seconds: float = _DESTROY_SECONDS
) -> None:
    """Stop and remove a container that is ours. Raises CannotAct or CannotObserve where it, or a part of it, stays.

    keep_open: the lock, which is then held by what removes it, also when we are killed; seconds: for lxc-destroy.
    """
    directory = f"{lxcpath}/{name}"
    found = record(host, directory)
    if found is None:
        if os.path.lexists(directory):
            raise CannotAct(f"{directory} is not removed: sensu-lxc did not make it")
        _tidy(lxcpath, name)
        return
    try:
        _check_removable(host, lxcpath, name)  # before it is stopped for nothing
        kill(host, lxcpath, name, keep_open)
        _check_removable(host, lxcpath, name)
    except CannotAct as problem:
        raise CannotAct(f"{directory} is not removed: {problem}") from None
    try:
        half = ownership.text(found._replace(state=ownership.CREATING))
        _write_whole(_notice(directory), f"{os.stat(directory).st_ino}\n{half}")
        if os.path.exists(f"{directory}/config"):
            argv = ["lxc-destroy", "-n", name, "-P", lxcpath]
            done = commands.run(argv, seconds, keep_open=keep_open)
            if done.status or done.why:
                _check_not_refused(host, lxcpath, name, found, done)
        if os.path.lexists(directory):
            from shutil import rmtree

            rmtree(directory)
        _tidy(lxcpath, name)
    except (OSError, commands.CannotRun) as error:
        raise CannotAct(f"{directory} is not removed entirely: {error}") from None


def _check_removable(host: Host, lxcpath: str, name: str) -> None:
    reason = why_not_removable(host, find(host, lxcpath, name))
    if reason is not None:
        raise CannotAct(reason)


def _check_not_refused(host: Host, lxcpath: str, name: str, found: Record, done: commands.Finished) -> None:
    """Raise CannotAct where lxc-destroy failed for a reason to leave the container as it is.

    Its status alone tells nothing: of a half-made container LXC says that there was none. So what it refuses for is
    looked at again: clones, snapshots, mounts or a start since we looked, and the destroy hook's veto.
    """
    directory = f"{lxcpath}/{name}"
    try:
        _check_removable(host, lxcpath, name)
        seen = state(host, lxcpath, name)
        if seen.name != "STOPPED":
            raise CannotAct(f"somebody started it meanwhile, it is {seen.name}")
        # What never was whole has nothing that its hook could want to keep.
        if found.state != ownership.CREATING and _settings(host, find(host, lxcpath, name)).get("lxc.hook.destroy"):
            raise CannotAct(
                f"lxc-destroy {done}, and it has an lxc.hook.destroy, which may forbid it; its own lines on stderr "
                "say why"
            )
    except (CannotAct, CannotObserve) as problem:
        # Where the record went already the notice alone says that it is ours.
        if os.path.exists(f"{directory}/{ownership.FILE}"):
            _tidy(lxcpath, name)
        raise CannotAct(f"{directory} is not removed: {problem}") from None


def _tidy(lxcpath: str, name: str) -> None:
    """Take away what runs that were killed left beside a container that is gone; nobody misses it where that fails."""
    new, notice = f"{lxcpath}/.sensu-lxc.{name}.new", _notice(f"{lxcpath}/{name}")
    for path in (notice, f"{notice}.new", f"{new}/{ownership.FILE}", f"{new}/{ownership.FILE}.new"):
        with suppress(OSError):
            os.unlink(path)
    with suppress(OSError):
        os.rmdir(new)


def kill(host: Host, lxcpath: str, name: str, keep_open: Sequence[int] = (), output_to: int = 2) -> None:
    """End a container at once, as a power cut would. Raises CannotAct where it goes on.

    keep_open: as in remove; output_to: as in commands.run.
    """
    deadline = monotonic() + _STOP_SECONDS
    asked = False
    while True:
        try:
            seen = state(host, lxcpath, name)
        except CannotObserve as problem:  # as for a moment where it ends just now
            if monotonic() >= deadline:
                raise CannotAct(f"whether {name} stops can't be told: {problem}") from None
            sleep(_STEP_SECONDS)
            continue
        if seen.name == "STOPPED":
            return
        if seen.name == states.ORPHANED:
            raise CannotAct(f"{name} runs on without its monitor, in {seen.detail}")
        if monotonic() >= deadline:
            raise CannotAct(f"{name} is {seen.name} and does not stop")
        if not asked:
            asked = True
            try:
                argv = ["lxc-stop", "-k", "-n", name, "-P", lxcpath]
                commands.run(argv, _STOP_SECONDS, keep_open=keep_open, output_to=output_to)
            except commands.CannotRun as error:
                raise CannotAct(str(error)) from None
        sleep(_STEP_SECONDS)


def why_not_removable(host: Host, container: Container) -> str | None:
    """Why removing the container would remove more than the container, or None. Raises CannotObserve.

    The config of an interrupted clone may still name the root filesystem of the original (lxc#694), what a killed
    template mounted would be emptied with it, and clones and snapshots of it go on to live on its root filesystem.
    """
    directory = container.directory
    depends = _dependent(host, container)
    if depends:
        return depends
    rootfs = root_filesystem(_settings(host, container))
    if rootfs is not None and not is_below(rootfs, directory):
        return f"its config names the root filesystem {rootfs}, which lies elsewhere"
    real = os.path.realpath(directory)
    for line in host.read("/proc/self/mountinfo").decode("utf-8", "surrogateescape").rstrip("\n").split("\n"):
        point = mountinfo.unescaped(line.split(" ")[4])
        if f"{point}/".startswith(f"{real}/"):
            return f"something is mounted at {point}"
    return None


def _settings(host: Host, container: Container) -> dict[str, str]:
    try:
        return inventory.config(host, container)
    except NotThere:
        return {}


def _dependent(host: Host, container: Container) -> str:
    """Why lxc-destroy would refuse it for what was made of it, or "". Raises CannotObserve.

    lxc_snapshots has two lines, lxcpath and name, for each clone that shares its files; an older LXC wrote a number.
    Whether those are still there is not asked: they may be where nothing is mounted just now.
    """
    directory = container.directory
    path = f"{directory}/lxc_snapshots"
    try:
        words = host.read(path).decode("utf-8", "surrogateescape").split("\n")
    except NotThere:
        pass
    else:
        clones = [f"{lxcpath}/{name}" for lxcpath, name in zip(words[::2], words[1::2]) if name]
        more = f" and {len(clones) - 3} more" if len(clones) > 3 else ""
        named = f" ({', '.join(clones[:3])}{more})" if clones else ""
        return f"clones share its root filesystem{named}; lxc-destroy those first, or remove {path} where they are gone"
    # As LXC looks for them: beside the lxcpath where it once put them, if that is there.
    for folder in (f"{directory}/snaps", f"{container.lxcpath}snaps/{container.name}"):
        try:
            snapshots = host.list(folder)
        except NotThere:
            continue
        if snapshots:
            where = f"-n {container.name} -P {container.lxcpath}"
            return f"its snapshots in {folder} would be lost; remove them first: lxc-snapshot {where} -d ALL"
    return ""


def root_filesystem(settings: dict[str, str]) -> str | None:
    """The path, or the volume's name, of what lxc.rootfs.path says, without the storage's type; None for nothing."""
    value = settings.get("lxc.rootfs.path") or settings.get("lxc.rootfs")
    if not value:
        return None
    kind, colon, rest = value.partition(":")
    if not colon or "/" in kind:
        return value
    return rest.rpartition(":")[2] if kind in _LAYERED else rest


def is_below(path: str, directory: str) -> bool:
    """Whether path lies inside directory, wherever links lead."""
    return path.startswith("/") and os.path.realpath(path).startswith(os.path.realpath(directory) + "/")
