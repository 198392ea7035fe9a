"""A clock that runs, and can be pushed forward."""

import threading
import time


class Clock:
    """Seconds since the epoch, plus whatever it was advanced by."""

    def __init__(self):
        self._lock = threading.Lock()
        self._base = time.time() - time.monotonic()

    def now(self):
        with self._lock:
            return self._base + time.monotonic()

    def advance(self, seconds):
        with self._lock:
            self._base += seconds


def span(seconds):
    """A duration in the words of Jenkins: 2.9 sec, 29 sec, 1 min 4 sec."""
    if seconds < 1:
        return f"{int(seconds * 1000)} ms"
    if seconds < 10:
        return f"{int(seconds * 10) / 10} sec"
    minutes, rest = divmod(int(seconds), 60)
    if not minutes:
        return f"{rest} sec"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} hr {minutes} min" if hours else f"{minutes} min {rest} sec"
