"""A Redis of one's own for a test: on loopback, to be killed, with all on the disk before it is confirmed."""

import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

SERVER = shutil.which("redis-server")


class RedisServer:
    """redis-server in a folder. start() after kill() finds what it had confirmed."""

    def __init__(self, folder, *options):
        self.folder, self.options, self.process = str(folder), options, None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0?prefix=test"

    def start(self, *options):
        self.process = subprocess.Popen(
            [SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder, "--save", "",
             "--appendonly", "yes", "--appendfsync", "always", *self.options, *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                if self.ask("PING"):
                    return
            except (ConnectionError, OSError):
                time.sleep(0.02)
        self.kill()
        raise AssertionError("redis-server does not come up")

    def ask(self, *words):
        """One command as redis-cli would send it; the first line of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            connection.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
            answer = connection.recv(65536).decode()
        if answer.startswith("-LOADING"):
            raise ConnectionError(answer)
        return answer

    def kill(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def lose(self):
        """Begin anew, without all that it knew."""
        self.kill()
        shutil.rmtree(os.path.join(self.folder, "appendonlydir"), ignore_errors=True)
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()


def needed():
    """Skip where there is no Redis to test with."""
    pytest.importorskip("redis", reason="the package redis is not installed: pip install 'sensu-lxc[redis]'")
    if SERVER is None:
        pytest.skip("no redis-server here: apt-get install redis-server")
