"""The least that a Jenkins can be: takes one request at a time, notes when it was there, and answers 201."""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType


class Sink:
    """A listener on loopback. url: where; arrived(): time.monotonic() when the last request was there."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._arrived: float | None = None
        self._ended = False
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Sink:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._listener.close()

    def arrived(self) -> float | None:
        """When a request came since the last call; None for none."""
        found, self._arrived = self._arrived, None
        return found

    def _serve(self) -> None:
        number = 0
        while not self._ended:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                try:
                    received = connection.recv(65536)
                    self._arrived = time.monotonic()
                    while b"\r\n\r\n" not in received:
                        received += connection.recv(65536)
                    number += 1
                    connection.sendall(
                        f"HTTP/1.1 201 Created\r\nLocation: {self.url}/queue/item/{number}/\r\nContent-Length: 0\r\n"
                        "Connection: close\r\n\r\n".encode()
                    )
                except OSError:
                    continue
