#!/usr/bin/env python3
"""Alert when a container's filesystem fills up, by bytes or by inodes."""

from __future__ import annotations

from sensu_lxc import disk, measuring, plugin, render
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.findings import Finding, State
from sensu_lxc.levels import COUNTS_OR_SHARES, Levels, threshold
from sensu_lxc.options import Misuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sensu_lxc.disk import Disk
    from sensu_lxc.inventory import Container


class CheckContainerDisk(measuring.MeasuringCheck):
    """Alert when a container's filesystem fills up, by bytes or by inodes.

    100% is what is used and what an ordinary user may still write, as in df; blocks reserved for root are in neither.
    A btrfs subvolume with a quota is measured by that, and one that others share is told so. Needs root but for what
    the host has mounted as well. Default: 80% and 90% of bytes and of inodes.
    """

    example = """\
  check_container_disk.py -w 80% -c 90%
  check_container_disk.py -n 'db*' --path / --path /srv/data -c 20G
  check_container_disk.py --exclude build1 --inodes-critical 95%"""
    measured = "disk"

    def setup(self) -> None:
        plugin.add_levels(self.parser, "of the disk used (default: -w 80%% -c 90%%)")
        told = tuple(f" (default: {one}%, where neither is given)" for one in ("80%", "90%"))
        plugin.add_pair(self.parser, "inodes", "at this many inodes used", COUNTS_OR_SHARES, default=told)
        self.parser.add_argument(
            "--path", metavar="DIR", action="append",
            help="where it is mounted in the container; may be repeated (default: /)",
        )  # fmt: skip
        super().setup()

    def validate(self) -> None:
        super().validate()
        options = self.options
        default = Levels(threshold("80%"), threshold("90%"))
        self.levels = plugin.levels(options, default)
        self.inodes = plugin.levels(options, default, "inodes")
        self.paths: list[str] = []
        for path in options.path or ["/"]:
            if not path.startswith("/") or {"", ".", ".."}.intersection(path.rstrip("/").split("/")[1:]):
                raise Misuse(f"--path {path!r} is no mount point; write it as mount shows it, for example /srv/data")
            if (path.rstrip("/") or "/") in self.paths:
                raise Misuse(f"--path {path} is given twice; give it once")
            self.paths.append(path.rstrip("/") or "/")

    def prepare(self) -> None:
        seconds = self.options.timeout
        self.host.filesystems = disk.Filesystems(self.host, seconds * 0.2, seconds * 0.5)
        self.seen: list[tuple[Container, list[Disk]]] = []
        self.unseen: list[Finding] = []

    def observe(self, container: Container, surely: bool) -> list[Disk]:
        seen, unseen = [], []
        for path in self.paths:
            try:
                seen.append(disk.usage(self.host, self.tree, container, surely, path))
            except NotThere:
                raise
            except CannotObserve as problem:
                words = str(problem) if path == "/" else f"{path}: {problem}"
                unseen.append(Finding(State.UNKNOWN, container.label, words))
        self.unseen += unseen
        return seen

    def look(self, container: Container) -> Iterable[Finding]:
        self.seen.append((container, self.observed(container)))
        return ()

    def finish(self) -> Iterator[Finding]:
        """Judged once all were looked at, as then it is known how many share what."""
        disk.filesystems(self.host).close()
        sharing: dict[str, set[str]] = {}
        for container, disks in self.seen:
            for one in disks:
                sharing.setdefault(one.device, set()).add(container.directory)
        for container, disks in self.seen:
            for one in disks:
                yield judge(container.label, one, self.levels, self.inodes, len(sharing[one.device]) - 1)
        yield from self.unseen


def judge(label: str, seen: Disk, levels: Levels, inodes: Levels, others: int = 0) -> Finding:
    """The worse of bytes and inodes. others: how many other containers were seen on the same filesystem."""
    state, threshold = levels.judge(seen.used_bytes, seen.whole_bytes)
    percent = 100 * seen.used_bytes / (seen.whole_bytes or 1)
    place = "" if seen.path == "/" else f"_{seen.path}"
    measures = [levels.measure(f"disk{place}", seen.used_bytes, "B", seen.whole_bytes)]
    words = f"{render.size(seen.used_bytes)} used, {percent:.1f}% of {render.size(seen.whole_bytes)}"
    if threshold is not None:
        words += f" ({state.name.lower()} at {threshold.spelt('bytes', 'the disk')})"
    whole = seen.whole_inodes
    if whole is not None:
        grade, threshold = inodes.judge(seen.used_inodes, whole)
        share = 100 * seen.used_inodes / (whole or 1)
        measures.append(inodes.measure(f"inodes{place}", seen.used_inodes, "", whole))
        words += f", {share:.1f}% of {whole} inodes"
        if threshold is not None:
            words += f" ({grade.name.lower()} at {threshold.spelt('inodes', 'all')})"
        state, percent = max(state, grade), max(percent, share)
    if place:
        words = f"{seen.path}: {words}"
    return Finding(state, label, f"{words}, {_whose(seen, others)}", tuple(measures), percent)


def _whose(seen: Disk, others: int) -> str:
    if seen.quota_bytes is not None:
        return f"{seen.kind} with a quota of {render.size(seen.quota_bytes)}"
    sharers = ["the host"] if seen.shared_with_host else []
    if others:
        sharers.append(f"{others} other container{'' if others == 1 else 's'}")
    kind: str = seen.kind
    return kind + (f" shared with {' and '.join(sharers)}" if sharers else "")


def main() -> None:
    """The console script."""
    CheckContainerDisk.main()


if __name__ == "__main__":
    main()
