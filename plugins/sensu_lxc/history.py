"""What a check saw at its previous run, so that rates span the time between two runs rather than a moment.

A small text file (state_dir.py), only believed for the same boot of the host and the same life of a container: a
counter that begins anew may stand higher than the old one, so that "it went down" tells nothing. Within these it is
believed however long ago it was, so that runs a day apart are runs in a row as well; only an average over so long is
none that anybody wants (rates.py). A container that no run saw for a week is forgotten.
"""

from __future__ import annotations

from collections import namedtuple
from time import monotonic

from sensu_lxc import state_dir
from sensu_lxc.bound import default_folder
from sensu_lxc.errors import CannotObserve

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from typing import Any

    from sensu_lxc.host import Host

_FORGOTTEN_SECONDS = 7 * 86400.0
_UNSEEN = -1
_HEADING = "sensu-lxc history 1"


class Past(namedtuple("Past", "life at counters over")):
    """What was seen of one container.

    life: which life of it that was (Cgroups.life); at: seconds by CLOCK_MONOTONIC; counters: {item: tuple of int}, the
    item being an interface or a device, or "" for the container; over: (runs in a row that were over the warning or
    the critical level, runs in a row over the critical one).
    """

    __slots__ = ()

    @classmethod
    def now(cls, facts: Any, over: tuple[int, int] = (0, 0)) -> Past:
        """What is remembered of facts that have life and counters and were seen just now."""
        return cls(facts.life, monotonic(), facts.counters, over)

    @property
    def was_seen(self) -> bool:
        """False of a container that was there and could not be looked at."""
        return bool(self.life != _UNSEEN)


class History:
    """The file of one command line: no script means this one, no folder this user's own.

    is_first: whether no run before this one left anything, not even in an earlier boot of the host.
    """

    def __init__(
        self, host: Host, folder: str | None, script: str | None = None, arguments: Iterable[str] = ()
    ) -> None:
        self._folder = folder or default_folder()
        self._name = state_dir.name_of(arguments, script or "")
        try:
            self._boot = host.read("/proc/sys/kernel/random/boot_id").decode("ascii", "replace").strip()
        except CannotObserve:  # a recorded host has none, and never boots
            self._boot = ""
        self._now: dict[str, Past] = {}
        self.is_first = True
        self._before = self._load()

    def before(self, directory: str) -> Past | None:
        """What the last run that saw the container LXCPATH/NAME in this boot saw of it; None where none did."""
        past = self._before.get(ascii(directory))
        return past if past is not None and past.at <= monotonic() else None

    def keep(self, directory: str, past: Past) -> None:
        """Remember it for the next run."""
        self._now[ascii(directory)] = past

    def miss(self, directory: str) -> None:
        """Remember that it was there, and could not be looked at: the next run is not to take it for something new."""
        if ascii(directory) not in self._before:
            self.keep(directory, Past(_UNSEEN, monotonic(), {}, (0, 0)))

    def save(self, untold: Collection[str] = ()) -> None:
        """Write what was kept, and what was not seen this time. Raises CannotObserve where that can't be.

        untold: LXCPATH/NAME of those whose results nobody took. For them this run is as if it had not been, so that the
        next one tells what happened since the last that was told; but where that had nothing to compare with, no more
        is known of earlier.
        """
        for key in map(ascii, untold):
            if not self.is_first and (key not in self._before or self._before[key].was_seen):
                self._now.pop(key, None)
        lines = [f"{_HEADING}\t{ascii(self._boot)}"]
        oldest = monotonic() - _FORGOTTEN_SECONDS
        earlier = {key: past for key, past in self._before.items() if past.at >= oldest}
        for key, past in {**earlier, **self._now}.items():
            items = [f"{ascii(item)}={','.join(map(str, counts))}" for item, counts in past.counters.items()]
            lines.append("\t".join((key, str(past.life), f"{past.at:.6f}", ",".join(map(str, past.over)), *items)))
        lines.append("end\n")
        state_dir.replace(self._folder, self._name, "\n".join(lines).encode("ascii"))

    def _load(self) -> dict[str, Past]:
        """The previous run's; nothing where it is of another boot, or not whole: then this run is the first."""
        try:
            lines = state_dir.read(self._folder, self._name).decode("ascii").split("\n")
            heading, _, boot = lines[0].partition("\t")
            if heading != _HEADING or lines[-2:] != ["end", ""]:
                return {}
            found = dict(_parsed(line) for line in lines[1:-2])
            self.is_first = False
            return found if boot == ascii(self._boot) else {}
        except ValueError:
            return {}


def _parsed(line: str) -> tuple[str, Past]:
    key, life, at, over, *items = line.split("\t")
    counters: dict[str, tuple[int, ...]] = {}
    for one in items:
        item, _, counts = one.rpartition("=")
        # As ascii() wrote it: in quotes, and escaped where it is not plain.
        if "\\" in item:
            item = item.encode("ascii").decode("unicode_escape")
        counters[item[1:-1]] = tuple(map(int, counts.split(",")))
    warning, critical = over.split(",")
    return key, Past(int(life), float(at), counters, (int(warning), int(critical)))


def differences(
    before: Mapping[str, tuple[int, ...]], now: Mapping[str, tuple[int, ...]], item: str = ""
) -> tuple[int, ...] | None:
    """How far the counters of an item moved; None where it was not there before or began anew (a link made again)."""
    old, new = before.get(item), now.get(item)
    if old is None or new is None or len(old) != len(new):
        return None
    moved = tuple(after - earlier for after, earlier in zip(new, old))
    return None if min(moved) < 0 else moved
