#!/usr/bin/env python3
"""Give a container that runs short of memory more of it, within bounds, and so that it keeps it."""

from __future__ import annotations

import os
from collections import namedtuple
from time import monotonic, sleep

from sensu_lxc import action, cgroups, growth, inventory, lives
from sensu_lxc.acting import Refused
from sensu_lxc.action import replace_file
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.findings import Finding, Measure, State
from sensu_lxc.levels import duration
from sensu_lxc.options import Misuse
from sensu_lxc.owned import CannotAct
from sensu_lxc.render import size
from sensu_lxc.sources import cgroup, lxc_config, meminfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sensu_lxc.cgroups import Cgroups, Hierarchy
    from sensu_lxc.growth import Facts, Limits
    from sensu_lxc.host import Host
    from sensu_lxc.inventory import Container

STATES = {
    growth.WELL: State.OK,
    growth.GROW: State.OK,
    growth.AT_MAXIMUM: State.WARNING,
    growth.REFUSED: State.UNKNOWN,
}
_PROXMOX = "/etc/pve/lxc"
_MIB = 1 << 20
_LXD_SECONDS = 5.0
# A config file, how it was and how it is to be.
Change = namedtuple("Change", "path before after")


class GrowContainerMemory(action.Action):
    """Give a container that runs short of memory more of it, within bounds, and so that it keeps it.

    Raises the limit of its cgroup (v1 with memory and swap together, v2 with memory.high) and writes it into its
    config, or Proxmox' (memory:); LXD and Incus do both themselves. Needs root.
    """

    example = """\
  grow_container_memory.py --step 25% --max 2G
  grow_container_memory.py -n 'web*' --step 256M --max 1G --at 95% --reserve 1G --cooldown 30m
  grow_container_memory.py -n web1 --step 512M --max 4G --at 0 --dry-run

Grown is what uses --at of its limit or more, by the memory that the kernel can't take back (as check_container_memory
counts it), once per --cooldown. status: 0 grown, or nothing to do; 1 at its maximum, or bound by a cgroup above it, and
still over; 2 failed, or grown and not kept; 3 can't be seen, or refused: the host has not so much, or it is not to be
touched just now."""

    def setup(self) -> None:
        add = self.parser.add_argument
        add(
            "--step", metavar="SIZE", type=growth.step, default=growth.step("25%"),
            help="by how much it grows: of its limit, or a size (25%%)",
        )  # fmt: skip
        add("--max", metavar="SIZE", type=growth.size, help="never beyond that, for example 2G (required)")
        add(
            "--at", metavar="SHARE", type=growth.share, default=90.0,
            help="only what uses that share of its limit or more (90%%); 0 for all that are named",
        )  # fmt: skip
        add(
            "--reserve", metavar="SIZE", type=growth.size, default=512 * _MIB,
            help="what the host must have left when the container takes all that it then may (512M)",
        )  # fmt: skip
        add("--cooldown", metavar="TIME", type=duration, default=600.0, help="not again before that (10m)")
        super().setup()

    def validate(self) -> None:
        super().validate()
        options = self.options
        if options.max is None:  # said here, as argparse says it before it names a misspelt option
            raise Misuse("say how far it may grow, for example --max 2G")
        if options.at == 0 and not options.name:
            raise Misuse("--at 0 without -n would grow every container, whatever it uses; name those with -n")
        self.rule = growth.Rule(options.step, options.max, options.at, options.reserve)
        self.promised_bytes = 0
        self.page_bytes = os.sysconf("SC_PAGE_SIZE")

    def select(self, containers: Iterable[Container]) -> Iterable[Container | Finding]:
        stopped = 0
        for container in containers:
            if container.has_monitor:
                yield container
            elif container.name in self.options.name:
                yield Finding(State.UNKNOWN, container.label, "is not running, so it wants no memory")
            else:
                stopped += 1
        if stopped:
            self.note(f"{stopped} not running")

    def act(self, container: Container) -> Finding:
        facts = self._facts(container)
        # Most need nothing, and are not locked for that.
        decision = growth.decide(facts, self.rule, self._available(), self.page_bytes)
        if decision.kind != growth.GROW:
            return self._finding(container, decision, facts.limit_bytes)
        wait = self._cooldown(container)
        if wait:
            words = f"{decision.words.partition(';')[0]}; {wait}"
            return self._finding(container, growth.Decision(growth.WELL, words), facts.limit_bytes)
        if self.options.dry_run:
            if not container.is_lxd:  # what would be refused is
                config_changes(self.host, container, facts, decision.limits, self.place[0].version == 2)
            words = decision.words.replace("; grown to", "; would be grown to", 1)
            return self._finding(container, decision._replace(words=words), facts.limit_bytes)
        with self.alone(container, self.work(container)):
            facts = self._facts(container)
            decision = growth.decide(facts, self.rule, self._available(), self.page_bytes)
            if decision.kind != growth.GROW or self._cooldown(container):  # another run was faster
                return self._finding(container, decision._replace(kind=growth.WELL), facts.limit_bytes)
            self.deeds.note(container.directory)
            try:
                self._grow(container, facts, decision.limits)
            except (Refused, CannotObserve, CannotAct):
                self.deeds.forget_last(container.directory)
                raise
        self.promised_bytes += decision.limits.limit_bytes - facts.used_bytes
        return self._finding(container, decision, decision.limits.limit_bytes)

    def _finding(self, container: Container, decision: growth.Decision, limit: int | None) -> Finding:
        measures = () if limit is None else (Measure("memory_limit", limit, "B", minimum=0),)
        return Finding(STATES[decision.kind], container.label, decision.words, measures)

    def _cooldown(self, container: Container) -> str:
        """Why it is not grown again yet, or ""."""
        last = self.deeds.since(container.directory, self.options.cooldown)
        if not last:
            return ""
        return (
            f"grown {lives.span(last[0])} ago, and once in {lives.span(self.options.cooldown)} is enough (--cooldown)"
        )

    def _available(self) -> int:
        """What the host can give, less what this run has promised already."""
        path = "/proc/meminfo"
        return meminfo.available(self.host.read(path), path) - self.promised_bytes

    def _facts(self, container: Container) -> Facts:
        self.place = found = place(self.tree, container)
        return facts_of(self.host, self.tree, container, *found)

    def _grow(self, container: Container, facts: Facts, limits: Limits) -> None:
        hierarchy, directory = self.place
        if container.is_lxd:
            self._by_lxd(container, hierarchy, directory, limits)
            return
        changes = config_changes(self.host, container, facts, limits, hierarchy.version == 2)
        # The config first: a run that is killed between the two is done again by the next, as it is still over.
        done: list[Change] = []
        try:
            for change in changes:
                done.append(change)
                replace_file(self.host, change.path, change.after)
            keep_effective(self.host, container, changes, limits, hierarchy.version == 2)
            set_limits(self.host, hierarchy, directory, facts, limits)
        except (OSError, CannotObserve, CannotAct) as problem:
            why = f"{problem.filename}: {problem.strerror}" if isinstance(problem, OSError) else str(problem)
            for change in done:
                try:
                    replace_file(self.host, change.path, change.before)
                except OSError as error:
                    why += f"; and {change.path} can't be written back: {error.strerror}"
            raise CannotAct(f"not grown to {size(limits.limit_bytes)}: {why}") from None

    def _by_lxd(self, container: Container, hierarchy: Hierarchy, directory: str, limits: Limits) -> None:
        from sensu_lxc import lxd

        try:
            lxd.set_memory_limit(self.host, action.lxd_socket(container), container.name, limits.limit_bytes)
        except CannotObserve as problem:
            raise CannotAct(f"not grown to {size(limits.limit_bytes)}: {problem}") from None
        until = monotonic() + _LXD_SECONDS
        while (shown := own_limit(self.host, hierarchy, directory)) != limits.limit_bytes:
            if monotonic() > until:
                raise CannotAct(f"LXD took a limit of {size(limits.limit_bytes)}, but the kernel shows {shown}")
            sleep(0.05)


def place(tree: Cgroups, container: Container) -> tuple[Hierarchy, str]:
    """The memory hierarchy and the container's own directory in it, looked up by more than its name."""
    hierarchy = tree.hierarchy("memory")
    if hierarchy is None:
        raise CannotObserve("the kernel counts no memory: no memory cgroup is mounted")
    return hierarchy, tree.directory(container, hierarchy, surely=True)


def _limit(host: Host, path: str) -> int | None:
    return cgroup.limit(host.value(path), path)


def _limit_if_there(host: Host, path: str) -> int | None:
    try:
        return _limit(host, path)
    except NotThere:
        return None


def _file(hierarchy: Hierarchy) -> str:
    return "memory.limit_in_bytes" if hierarchy.version == 1 else "memory.max"


def own_limit(host: Host, hierarchy: Hierarchy, directory: str) -> int | None:
    """The limit of one cgroup in bytes, None for none."""
    return _limit(host, f"{directory}/{_file(hierarchy)}")


def facts_of(host: Host, tree: Cgroups, container: Container, hierarchy: Hierarchy, directory: str) -> Facts:
    """What its cgroup, and those above it, say now."""
    memory: cgroups.Memory = tree.memory(container)
    is_v1 = hierarchy.version == 1
    above, parent = [], directory.rpartition("/")[0]
    while len(parent) > len(hierarchy.point):
        limit = _limit_if_there(host, f"{parent}/{_file(hierarchy)}")
        if limit is not None:
            above.append((parent, limit))
        parent = parent.rpartition("/")[0]
    return growth.Facts(
        own_limit(host, hierarchy, directory),
        _limit_if_there(host, f"{directory}/memory.memsw.limit_in_bytes") if is_v1 else None,
        None if is_v1 else _limit_if_there(host, f"{directory}/memory.high"),
        memory.used_bytes,
        memory.usage_bytes,
        above,
    )


def set_limits(host: Host, hierarchy: Hierarchy, directory: str, facts: Facts, limits: Limits) -> None:
    """Write the limits in the order that the kernel takes, and see that it took them. Raises CannotAct or OSError."""
    if hierarchy.version == 1:
        # Never is one of memory above the one of memory and swap together, so that one grows first.
        todo = [("memory.memsw.limit_in_bytes", facts.memsw_bytes, limits.memsw_bytes)]
        todo.append(("memory.limit_in_bytes", facts.limit_bytes, limits.limit_bytes))
    else:
        todo = [("memory.max", facts.limit_bytes, limits.limit_bytes)]
        todo.append(("memory.high", facts.high_bytes, limits.high_bytes))
    done: list[tuple[str, int]] = []
    for name, before, wanted in todo:
        if wanted is None:
            continue
        path = f"{directory}/{name}"
        try:
            done.append((path, before))
            _write(host, path, wanted)
            shown = _limit(host, path)
            if shown != wanted:
                raise CannotAct(f"the kernel shows {shown} in {path} where {wanted} was written")
        except (OSError, CannotObserve, CannotAct):
            for written, old in reversed(done):
                try:
                    _write(host, written, old)
                except OSError:
                    pass  # what it refused stands as it stood
            raise


def _write(host: Host, path: str, value: int) -> None:
    """One write of one number above zero: an empty one is a limit of 0 to v2, which kills what runs there."""
    assert value > 0
    descriptor = os.open(host.root + path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, b"%d" % value)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(descriptor)


def config_changes(host: Host, container: Container, facts: Facts, limits: Limits, is_v2: bool) -> list[Change]:
    """What has to be written so that the next start knows the limit. Raises Refused where there is nothing to write."""
    if container.lxcpath == "/var/lib/lxc":
        path = f"{_PROXMOX}/{container.name}.conf"
        try:
            raw = host.read(path)
        except NotThere:
            pass
        else:
            # Proxmox writes LXC's config anew at each start.
            busy = growth.proxmox_lock(raw)
            if busy:
                raise Refused(f"Proxmox is at work on it ({busy}); again when that is over, or: pct unlock")
            return [Change(path, raw, growth.with_proxmox_memory(raw, -(-limits.limit_bytes // _MIB)))]
    directory = host.real(container.directory)
    path = f"{directory}/config"
    real = host.real(path)
    if not real.startswith(f"{directory}/"):
        raise Refused(
            f"{path} is a link to {real}, so whatever shares that would grow with it; put a file of its own there (it "
            "may lxc.include that one)"
        )
    try:
        raw = host.read(path)
    except NotThere:
        raise Refused(f"{path} is not there, so that the growth would be gone at its next start") from None
    values = growth.config_values(inventory.config(host, container), facts.limit_bytes, limits, is_v2)
    return [Change(path, raw, growth.with_settings(raw, values))]


def keep_effective(host: Host, container: Container, changes: list[Change], limits: Limits, is_v2: bool) -> None:
    """Where a file that the config includes further down sets a limit again, have the config say it at its end."""
    (change,) = changes
    if change.path.startswith(_PROXMOX):
        return
    wanted = {
        key: value
        for key, value in lxc_config.settings(change.after)
        if key in (growth.LIMIT_V1, growth.LIMIT_V2, growth.MEMSW, growth.HIGH)
    }
    for _ in range(2):
        settings = inventory.config(host, container)
        overridden = [key for key, value in wanted.items() if settings.get(key) != value]
        if not overridden:
            return
        replace_file(host, change.path, growth.with_settings(host.read(change.path), wanted, overridden))
    raise CannotAct(f"{change.path} does not keep it: what it includes says something else")


def main() -> None:
    """The console script."""
    GrowContainerMemory.main()


if __name__ == "__main__":
    main()
