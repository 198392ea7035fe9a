"""When something was done to a container, so that it is not done too often.

One small file for each container (state_dir.py), whatever the command line, gone at the next boot.
"""

from __future__ import annotations

import time

from sensu_lxc import state_dir
from sensu_lxc.bound import default_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sensu_lxc.host import Host

_HEADING = "sensu-lxc deeds 1"
_REMEMBERED = 1000


class Deeds:
    """What one script did. folder: None for this user's own."""

    def __init__(self, host: Host, folder: str | None, script: str) -> None:
        self.folder = folder or default_folder()
        self._script = script
        self._boot = host.read("/proc/sys/kernel/random/boot_id").decode("ascii", "replace").strip()

    def since(self, directory: str, seconds: float) -> list[float]:
        """How many seconds ago each was done, the latest first, as far as it is not longer ago than that."""
        now = _now()
        return sorted(max(0.0, now - one) for one in self._times(directory) if -1 < now - one <= seconds)  # rounded

    def note(self, directory: str) -> None:
        """Remember that it is done now; before it is, lest a run that is killed forgets. Raises CannotObserve."""
        times = [*self._times(directory), _now()][-_REMEMBERED:]
        self._save(directory, times)

    def forget_last(self, directory: str) -> None:
        """It was not done after all."""
        self._save(directory, self._times(directory)[:-1])

    def _file(self, directory: str) -> str:
        return state_dir.name_of([directory], self._script)

    def _save(self, directory: str, times: Iterable[float]) -> None:
        lines = [_HEADING, ascii(self._boot), ascii(directory), *(f"{one:.3f}" for one in times), "end\n"]
        state_dir.replace(self.folder, self._file(directory), "\n".join(lines).encode("ascii"))

    def _times(self, directory: str) -> list[float]:
        """By the clock that goes on in suspend and that nobody sets; none of another boot."""
        try:
            lines = state_dir.read(self.folder, self._file(directory)).decode("ascii").split("\n")
            if lines[:3] != [_HEADING, ascii(self._boot), ascii(directory)] or lines[-2:] != ["end", ""]:
                return []
            return [float(line) for line in lines[3:-2]]
        except ValueError:
            return []


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
