"""Stand-ins for Sensu's agents: Go's as recorded (../recordings), Core's as a real 1.9 answers (live/sensu_core.py)."""

from __future__ import annotations

import http.server
import json
import re
import socket
import socketserver
import threading
from typing import Any

NAME = re.compile(r"[\w.\-]+", re.ASCII)
GO_NAME = re.compile(r"[\w.\-:]+", re.ASCII)
WATCHDOG_SECONDS = 0.5


class _Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        status, answer = self.server.agent.get(self.path)
        self.answer(status, answer)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(*self.server.agent.post(self.path, body, self.headers.get("Content-Type", "")))

    def answer(self, status: int, body: str) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.server.requests += 1
        if self.server.agent.closes_after and self.server.requests % self.server.agent.closes_after == 0:
            self.close_connection = True  # without having said so

    def log_message(self, *_: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    agent: Go
    requests = 0
    connections = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)


class Go:
    """The agent API of Sensu Go 6.12."""

    def __init__(self, port: int = 0, closes_after: int = 0) -> None:
        self.closes_after = closes_after
        self.taken: list[dict[str, Any]] = []
        self.server = _Server(("127.0.0.1", port), _Http)
        self.server.agent = self
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Any:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()

    def get(self, path: str) -> tuple[int, str]:
        return (200, '{"version":"6.12.0"}\n') if path == "/version" else (404, "404 page not found\n")

    def post(self, path: str, body: bytes, kind: str) -> tuple[int, str]:
        event = json.loads(body)
        check = event["check"]
        ttl, interval = check.get("ttl", 0), check.get("interval") or 1
        if path != "/events":
            return 404, "404 page not found\n"
        if not GO_NAME.fullmatch(check["metadata"]["name"]):
            return 400, "check name cannot contain spaces or special characters\n"
        if not GO_NAME.fullmatch(check["proxy_entity_name"]):
            return 400, "proxy entity name cannot contain spaces or special characters\n"
        if ttl and ttl < 5:
            return 400, "minimum ttl is 5 seconds\n"
        if ttl and ttl <= interval:
            return 400, "ttl must be greater than check interval\n"
        self.taken.append({**check, "name": check["metadata"]["name"], "entity": check["proxy_entity_name"]})
        return 202, ""


class CoreHttp(Go):
    """The HTTP socket of Sensu Core's client, which closes each connection.

    connected: whether it has its transport; without it says the same and the result is lost. unknown: paths that it did
    not know, each of which it warns of in its log.
    """

    def __init__(self, port: int = 0) -> None:
        super().__init__(port, closes_after=1)
        self.connected = True
        self.unknown: list[str] = []

    def get(self, path: str) -> tuple[int, str]:
        if path != "/info":
            self.unknown.append(path)
            return 404, '{"endpoints":{"/info":{"help":"Sensu client information","methods":["GET"]}}}'
        count = "0" if self.connected else "null"
        pipes = ",".join(f'"{name}":{{"messages":{count},"consumers":{count}}}' for name in ("keepalives", "results"))
        transport = f'{{"name":"redis",{pipes},"connected":{json.dumps(self.connected)}}}'
        return 200, f'{{"sensu":{{"version":"1.9.0"}},"transport":{transport}}}'

    def post(self, path: str, body: bytes, kind: str) -> tuple[int, str]:
        if "application/json" not in kind:
            return 415, '{"response":"Invalid content type"}'
        try:
            check = json.loads(body)
        except ValueError:
            return 400, '{"response":"Failed to parse JSON body"}'
        if not core_takes(check):
            return 500, '{"response":"Internal Server Error: Check your Sensu logs for error details"}'
        if self.connected:
            self.taken.append({**check, "entity": check["source"]})
        return 202, '{"response":"ok"}'


def core_takes(check: Any) -> bool:
    """What Core's validator looks at; null is as good as nothing."""
    return (
        isinstance(check, dict)
        and NAME.fullmatch(check.get("name", "")) is not None
        and NAME.fullmatch(check.get("source") or "x") is not None
        and isinstance(check.get("output"), str)
        and isinstance(check.get("status") or 0, int)
        and isinstance(check.get("ttl") or 1, int)
        and (check.get("ttl") or 1) > 0
        and all(isinstance(one, str) for one in check.get("handlers") or ())
    )


class CoreSocket:
    """The TCP socket of Sensu Core's client: parses what has come so far, and gives up 500 ms after the last chunk."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        stand_in = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.settimeout(WATCHDOG_SECONDS)
                data = b""
                while True:
                    try:
                        chunk = self.request.recv(65536)
                    except socket.timeout:
                        self.request.sendall(b"invalid")
                        return
                    if not chunk:  # an end of the stream is the connection's end, answered by nothing
                        return
                    data += chunk
                    answer = stand_in.answer(data)
                    if answer:
                        self.request.sendall(answer)
                        return

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self.server = Server(("127.0.0.1", 0), Connection)
        self.url = f"tcp://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, data: bytes) -> bytes:
        if data.strip() == b"ping":
            return b"pong"
        try:
            check = json.loads(data)
        except ValueError:
            return b""
        if not core_takes(check):
            return b"invalid"
        self.taken.append({**check, "entity": check["source"]})
        return b"ok"

    def __enter__(self) -> CoreSocket:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()
