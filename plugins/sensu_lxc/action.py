"""Scripts that change containers and that Sensu runs as checks: which ones, one after the other, one line for each."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import contextmanager, suppress
from time import monotonic

from sensu_lxc import acting, inventory, owned, plugin, state_dir
from sensu_lxc.cgroups import Cgroups
from sensu_lxc.deeds import Deeds
from sensu_lxc.errors import CannotObserve
from sensu_lxc.expected import absent
from sensu_lxc.findings import Finding, State
from sensu_lxc.options import Misuse
from sensu_lxc.owned import CannotAct
from sensu_lxc.render import report
from sensu_lxc.sources import ownership

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import NoReturn

    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Container

# What is left of --timeout when the last step has to be over, so that it is us who say how far we came.
_MARGIN_SECONDS = 2.0


class Action(plugin.ContainerCheck):
    """Does something to each container that needs it. A subclass says what in act()."""

    may_be_per_container = False
    may_be_elsewhere = False
    bound_seconds = 60.0
    stop = acting.Stop()

    def setup(self) -> None:
        """Add the options that all of them have."""
        add = self.parser.add_argument
        add("--state-dir", metavar="DIR", help="where to remember what was done, until the next boot")
        add("--dry-run", action="store_true", help="say what would be done")
        super().setup()

    def validate(self) -> None:
        """Prepare what is remembered, and the time that there is."""
        super().validate()
        options = self.options
        if options.state_dir is not None and not options.state_dir.startswith("/"):
            raise Misuse(f"--state-dir {options.state_dir!r} is not absolute; write /var/lib/sensu-lxc or such")
        margin = min(_MARGIN_SECONDS, options.timeout / 4)
        self.deadline = monotonic() + options.timeout - margin

    def select(self, containers: Sequence[Container]) -> Iterable[Container | Finding]:
        """Those of the containers to act on, and what is to be said of others."""
        return containers

    def act(self, container: Container) -> Finding | None:
        """Do it, and say what was done. Raises Refused, CannotAct or CannotObserve."""
        raise NotImplementedError

    def findings(self) -> Iterator[Finding]:
        if os.geteuid() != 0:
            script = os.path.basename(sys.argv[0])
            raise CannotObserve(
                f"user {os.geteuid()} may not change containers: run it as root, for example sudo -n "
                f"/etc/sensu/plugins/{script}, which a line in /etc/sudoers.d allows the agent's user (README, Actions)"
            )
        self.deeds = Deeds(self.host, self.options.state_dir, type(self).__name__)
        found = self.inventory()
        for name in found.missing:
            yield absent(name, self.options.lxcpath)._replace(state=State.UNKNOWN)
        for sentence in found.unseen:
            yield Finding(State.UNKNOWN, "", f"containers may be missing here: {sentence}")
        self.tree = Cgroups(self.host, found.running)
        for one in self.select(found.containers):
            finding = one if isinstance(one, Finding) else self._acted(one)
            if finding is not None:
                yield finding

    def _acted(self, container: Container) -> Finding | None:
        if self.stop():
            return Finding(State.UNKNOWN, container.label, f"left as it is: interrupted by {self.stop.name}")
        if monotonic() >= self.deadline:
            return Finding(
                State.UNKNOWN, container.label, f"not come to within {self.options.timeout:g} s; see --timeout"
            )
        try:
            return self.act(container)
        except (acting.Refused, CannotObserve) as problem:
            return Finding(State.UNKNOWN, container.label, str(problem))
        except CannotAct as problem:
            return Finding(State.CRITICAL, container.label, str(problem))
        except OSError as problem:
            return Finding(State.UNKNOWN, container.label, f"{problem.filename}: {problem.strerror}")

    def output(self, status: State, findings: Sequence[Finding]) -> str:
        """One line for each container, whatever became of it."""
        return report(type(self).__name__, status, findings, self.notes, self.measures, len(findings) > 1)

    def work(self, container: Container) -> acting.Work:
        """The work on one, whose programs are heard by nobody else: Sensu would mix it into the output."""
        heard = os.memfd_create("heard", os.MFD_CLOEXEC)
        work = acting.Work(
            self.host, container.lxcpath, container.name, self.options.timeout, self.stop, lambda words: None, heard
        )
        work.deadline = self.deadline
        return work

    @contextmanager
    def alone(self, container: Container, work: acting.Work) -> Iterator[None]:
        """Be the only one at work on a container that is root's to change, and a whole one. Raises Refused."""
        folder = container.lxcpath
        if container.is_lxd:
            folder = self.deeds.folder  # no file of ours in LXD's own folder
            state_dir.own_folder(folder)
        else:
            check_trusted(container)
        with owned.lock(folder, container.name, max(0.0, self.deadline - monotonic()), self.stop) as work.lock:
            record = None if container.is_lxd else owned.record(self.host, container.directory)
            if record is not None and record.state == ownership.CREATING:
                raise acting.Refused("is half made or half removed; the next run of its request goes on with that")
            yield

    @classmethod
    def main(cls, arguments: Sequence[str] | None = None) -> NoReturn:
        """Run it; a signal ends it after the step that it is at."""
        os.umask(0o022)  # what a container writes is to be the same whoever started it
        cls.stop.watch()
        super().main(arguments)


def check_trusted(container: Container) -> None:
    """Raise Refused where somebody but root says what is in the lxcpath.

    Any user's running container is found, and root who starts it, or writes its config, would do what that user wrote.
    """
    about = os.stat(container.lxcpath)
    if about.st_uid != 0 or about.st_mode & stat.S_IWOTH:
        whose = f"belongs to user {about.st_uid}" if about.st_uid else "can be written by everybody"
        raise acting.Refused(
            f"{container.lxcpath} {whose}, so root could be made to run anything by it; it is left to its user, or "
            "chown it to root and chmod go-w it"
        )


def replace_file(host: Host, path: str, data: bytes) -> None:
    """Have data in the place of a file in one step, with its owner, mode and labels. Raises OSError.

    By a fixed name, so that what a killed run left is used again; we are the only one at work.
    """
    real = os.path.realpath(host.root + path)
    before, new = os.stat(real), f"{real}.sensu-lxc.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(new, flags, 0o600)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        about = os.fstat(descriptor)
        # Proxmox' own filesystem has one owner and one mode, and lets nobody set them.
        if (about.st_uid, about.st_gid) != (before.st_uid, before.st_gid):
            os.fchown(descriptor, before.st_uid, before.st_gid)
        if about.st_mode != before.st_mode:
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
        with suppress(OSError):  # a filesystem without labels
            for label in os.listxattr(real):
                os.setxattr(descriptor, label, os.getxattr(real, label))
        os.fsync(descriptor)
        os.rename(new, real)
    except OSError as error:
        os.unlink(new)
        error.filename = path
        raise
    finally:
        os.close(descriptor)


def lxd_socket(container: Container) -> str:
    """The API's socket of the daemon that manages a container."""
    return inventory.LXD_PATHS[container.lxcpath]
