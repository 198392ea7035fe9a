"""Sensu Core's and Sensu Go's API, as far as a handler asks them, made of what real ones answered (tests/recordings).

    with SensuCore() as core:
        core.user = ("sensu", "secret")     # from then on it wants that
        core.fault = "close"                # or "blackhole" (no answer), or a status such as 500
        ...
        core.asked                          # [{"check": …, "subscribers": […]}, …]: what was taken, in order
        core.requests                       # [Request(method, path, authorization, body), …]: whatever came

A request that meets a fault was taken all the same where late_fault is set.
"""

import base64
import contextlib
import http.server
import json
import os
import threading
from collections import namedtuple
from typing import Any, Optional, Union
from urllib.parse import parse_qsl, unquote, urlsplit

RECORDINGS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "recordings")
Request = namedtuple("Request", "method path authorization body")


class _Sensu:
    """What both have. A subclass answers: (status, headers, JSON or text)."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.asked: list[dict[str, Any]] = []
        self.fault: Union[None, str, int] = None
        self.fault_on = "POST"
        self.late_fault = False
        self._stop = threading.Event()
        standin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                standin._serve(self)

            do_POST = do_GET

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: Request) -> "tuple[int, dict[str, str], Any]":
        raise NotImplementedError

    def _serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length", 0))
        text = handler.rfile.read(length)
        with contextlib.suppress(ValueError):
            text = json.loads(text)
        request = Request(handler.command, handler.path, handler.headers.get("Authorization"), text or None)
        self.requests.append(request)
        has_fault = self.fault is not None and handler.command == self.fault_on
        status, headers, body = self.answer(request) if not has_fault or self.late_fault else (0, {}, "")
        if has_fault:
            if self.fault == "blackhole":
                self._stop.wait(30)
            if isinstance(self.fault, str):
                return
            status, headers, body = self.fault or 0, {"Location": "https://portal.example/login?x=y"}, "something"
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        with contextlib.suppress(OSError):  # who asked may have been killed
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(data)


class SensuCore(_Sensu):
    """The API of Sensu 1.9. clients, checks, results, silences are what it knows, as the recorded one did."""

    def __init__(self) -> None:
        self.user: Optional[tuple[str, str]] = None
        self.connected = True  # to Redis and the transport
        self.clients = _recorded("sensu-core", "clients")
        self.checks = _recorded("sensu-core", "checks")
        self.results = _recorded("sensu-core", "results")
        self.silences: list[dict[str, Any]] = []
        super().__init__()

    def answer(self, request: Request) -> "tuple[int, dict[str, str], Any]":
        parts = urlsplit(request.path)
        path, query = [unquote(one) for one in parts.path.strip("/").split("/")], dict(parse_qsl(parts.query))
        if self.user and request.authorization != _basic(*self.user):
            return 401, {"WWW-Authenticate": 'Basic realm="Restricted Area"'}, ""
        if not self.connected:
            return 500, {"Content-type": "application/json"}, {"error": "not connected to transport"}
        if path == ["request"]:
            if request.method != "POST":
                return 405, {"Allow": "POST"}, ""
            if not _fits(request.body, check=str, subscribers=list, reason=str, creator=str):
                return 400, {}, ""
            if request.body["check"] not in [check["name"] for check in self.checks]:
                return 404, {}, ""
            self.asked.append(request.body)
            return 202, {"Content-Type": "application/json"}, {"issued": 1795380869}
        if path == ["silenced"]:
            return 200, {}, self.silences
        if path[0] == "clients" and len(path) == 2:
            found = [one for one in self.clients if one["name"] == path[1]]
            return (200, {}, found[0]) if found else (404, {}, "")
        if path[0] == "results" and len(path) < 4:
            found = [one for one in self.results if path[1:] == [one["client"], one["check"]["name"]][: len(path) - 1]]
            if len(path) == 3:
                return (200, {}, found[0]) if found else (404, {}, "")
            if "limit" not in query:
                return 200, {}, found
            limit, offset = int(query["limit"]), int(query.get("offset", 0))
            told = json.dumps({"limit": limit, "offset": offset, "total": len(found)})
            return 200, {"X-Pagination": told}, found[offset : offset + limit]
        return 404, {}, ""


def _fits(body: Any, **kinds: type) -> bool:
    """What Core asks of the body of a request."""
    return isinstance(body, dict) and all(
        isinstance(body.get(key), kind) or (body.get(key) is None and key != "check") for key, kind in kinds.items()
    )


class SensuGo(_Sensu):
    """The API of Sensu Go 6.12, in one namespace."""

    def __init__(self, key: str = "0516e34a-0e4b-4daa-9f9c-0d626e295895") -> None:
        self.key, self.login, self.token = key, ("sensu-lxc", "passw0rd1!"), "eyJhbGciOiJIUzI1NiJ9.e30.x"
        self.namespace = "default"
        self.allowed = True
        self.checks = ["start_container"]
        self.events = [*_recorded("sensu-go", "events-page")["body"], _recorded("sensu-go", "event-get")["body"]]
        agent, proxy = (_recorded("sensu-go", name)["body"] for name in ("entity-agent", "entity-get"))
        self.entities = {one["metadata"]["name"]: one for one in (agent, proxy)}
        self.silences = [{**_recorded("sensu-go", "silence")["request"]["body"], "check": ""}]
        super().__init__()

    def answer(self, request: Request) -> "tuple[int, dict[str, str], Any]":
        parts = urlsplit(request.path)
        path, query = [unquote(one) for one in parts.path.strip("/").split("/")], dict(parse_qsl(parts.query))
        if path == ["auth"]:
            if request.authorization != _basic(*self.login):
                return 401, {}, "Unauthorized\n"
            return 200, {}, {"access_token": self.token, "expires_at": 1795799598, "refresh_token": "r"}
        if request.authorization not in (f"Key {self.key}", f"Bearer {self.token}"):
            return _answer("bad-key" if request.authorization else "unauth")
        if path[:4] != ["api", "core", "v2", "namespaces"]:
            return 404, {}, "404 page not found\n"
        if path[4] != self.namespace or not self.allowed:
            return 403, {}, {"Code": 4, "Message": "unauthorized to perform action"}
        kind, names = path[5], path[6:]
        if request.method == "POST" and kind == "checks" and names[1:] == ["execute"]:
            if names[0] not in self.checks:
                return _answer("execute-missing")
            self.asked.append(request.body)
            return _answer("execute")
        if kind == "entities" and len(names) == 1:
            return (200, {}, self.entities[names[0]]) if names[0] in self.entities else _answer("event-get-missing")
        if kind == "silenced":
            return self._page(self.silences, query)
        if kind == "events":
            found = [one for one in self.events if names == _names(one)[: len(names)]]
            if len(names) < 2:
                return self._page(found, query)
            return (200, {}, found[0]) if found else _answer("event-get-missing")
        return 404, {}, "404 page not found\n"

    @staticmethod
    def _page(found: "list[Any]", query: "dict[str, str]") -> "tuple[int, dict[str, str], Any]":
        start = int(base64.b64decode(query["continue"])) if "continue" in query else 0
        end = start + int(query.get("limit", 1 << 30))
        more = {"Sensu-Continue": base64.b64encode(str(end).encode()).decode()} if end < len(found) else {}
        return 200, more, found[start:end]


def _names(event: "dict[str, Any]") -> "list[str]":
    return [event["entity"]["metadata"]["name"], event["check"]["metadata"]["name"]]


def _recorded(kind: str, name: str) -> Any:
    with open(os.path.join(RECORDINGS, kind, "api", name + ".json"), encoding="utf-8") as file:
        return json.load(file)


def _answer(name: str) -> "tuple[int, dict[str, str], Any]":
    recorded = _recorded("sensu-go", name)
    return recorded["status"], {"Content-Type": recorded["headers"]["Content-Type"]}, recorded["body"]


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
