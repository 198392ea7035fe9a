"""One HTTP request and its answer, in a bounded time, and always known whether anything of it has left this host.

http.client is used as it is: it follows no redirect and reads no proxy from the environment, and importing requests
alone would take longer than all the rest of a handler.
"""

import importlib
import json
import socket
import sys
import threading
import time
from binascii import b2a_base64
from urllib.parse import quote, urlsplit

from .outcome import Misconfigured, clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    import http.client
    import ssl
    from collections.abc import Mapping
    from typing import Any

_CONNECT_SECONDS = 3  # per address of the host: one that swallows packets leaves time for the next
_ERROR_PAGE_SECONDS = 2
_BODY_BYTES = 8 << 20


class NotSent(Exception):
    """Nothing of the request has left this host. again: the next moment may be better."""

    def __init__(self, code: str, text: str, again: bool = True) -> None:
        super().__init__(text)
        self.code = code
        self.again = again


class Unanswered(Exception):
    """The request was sent, at least in part, and no answer to it came."""


class Reply:
    """Status, headers and the body, as much of it as came."""

    __slots__ = ("status", "headers", "body")

    def __init__(self, status: int, headers: "http.client.HTTPMessage") -> None:
        self.status = status
        self.headers = headers
        self.body = bytearray()

    def json(self) -> "dict[str, object]":
        """The body's JSON object. Raises ValueError where it is none."""
        try:
            value = json.loads(self.body)
        except RecursionError:
            raise ValueError("nested too deep") from None
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value


class Server:
    """One server, asked over a connection of its own for each exchange.

    url       its root, with the path below which it is found where it has one
    headers   sent with each request, such as Authorization
    deadline  by time.monotonic(); everything ends then, also name look-ups and answers that only drip
    ca_file   certificate authorities to trust instead of the system's, or ""
    example   such a url, for who has to correct it
    """

    def __init__(
        self, url: str, headers: "Mapping[str, str]", deadline: float, ca_file: str = "",
        example: str = "https://server.example/",
    ) -> None:  # fmt: skip
        self._https, self._host, self._port, self._root = _parse_url(url, example)
        self.where = f"{self._host}:{self._port}"
        self._headers = {"Accept": "application/json", "User-Agent": "sensu-lxc", **headers}
        self._deadline = deadline
        self._tls = tls_context(ca_file) if self._https else None

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()

    def exchange(
        self, method: str, path: str, body: "str | None" = None, headers: "Mapping[str, str] | None" = None,
        anonymous: bool = False,
    ) -> Reply:  # fmt: skip
        """One request and its answer, or NotSent or Unanswered, by the deadline. anonymous: without the usual headers.

        Socket timeouts don't bound a look-up of a name, nor an answer of a byte a second. So the exchange runs in a
        thread that is left behind when time is up; what it may still send is decided under a lock, so that NotSent
        stays true.
        """
        sent = {} if anonymous else dict(self._headers)
        exchange = _Exchange(self, method, self._root + path, body, {**sent, **(headers or {}), "Connection": "close"})
        threading.Thread(target=exchange.run, daemon=True).start()
        exchange.answered.wait(max(0.0, self.left()))
        with exchange.lock:
            exchange.abandoned = True
            if exchange.error:
                raise exchange.error
            if exchange.reply is None:
                if exchange.sending:
                    raise Unanswered(f"no answer from {self.where} in time")
                raise NotSent("unreachable", f"no connection to {self.where} in time")
        # The answer to a POST is in its status and headers; an error page is only nice to have.
        is_error = method == "POST" or exchange.reply.status != 200
        exchange.complete.wait(max(0.0, min(_ERROR_PAGE_SECONDS, self.left()) if is_error else self.left()))
        return exchange.reply

    def connect(self) -> "http.client.HTTPConnection":
        """A connection, made and verified. Raises NotSent, and what the socket raises."""
        left = self.left()
        if left <= 0:
            raise NotSent("unreachable", "no time is left", again=False)
        # Not http.client's own connect(): bytes spare an ASCII name the codec for international ones, 2 ms to load.
        name: Any = self._host.encode("ascii" if self._host.isascii() else "idna")
        sock = socket.create_connection((name, self._port), min(_CONNECT_SECONDS, left))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        http_client = _http_client(bool(self._tls))
        connection: http.client.HTTPConnection
        if self._tls:
            sock = self._tls.wrap_socket(sock, server_hostname=self._host)
            connection = http_client.HTTPSConnection(self._host, self._port, context=self._tls)
        else:
            connection = http_client.HTTPConnection(self._host, self._port)
        sock.settimeout(max(0.001, self.left()))
        connection.sock = sock
        return connection


class _Exchange:
    """One HTTP exchange, run in a thread of its own; see Server.exchange()."""

    def __init__(self, server: Server, method: str, path: str, body: "str | None", headers: "dict[str, str]") -> None:
        self._server = server
        self._request = method, path, body, headers
        self.lock = threading.Lock()
        self.answered = threading.Event()
        self.complete = threading.Event()
        self.abandoned = False
        self.sending = False
        self.reply: Reply | None = None
        self.error: NotSent | Unanswered | None = None

    def run(self) -> None:
        connection = None
        try:
            connection = self._server.connect()
            with self.lock:
                if self.abandoned:
                    return
                self.sending = True
            connection.request(*self._request)
            answer = connection.getresponse()
            self.reply = Reply(answer.status, answer.headers)
            self.answered.set()
            while len(self.reply.body) < _BODY_BYTES:
                piece = answer.read1(65536)
                if not piece:
                    break
                self.reply.body += piece
        except NotSent as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 -- a thread's exception would be lost, and each means one of two things
            if self.reply is None:
                self.error = _explain(error, self._server.where, self.sending)
        finally:
            self.answered.set()
            self.complete.set()
            if connection:
                connection.close()


def basic(user: str, password: str) -> str:
    """The header Authorization for a user and a password, or what is taken for one."""
    return "Basic " + b2a_base64(f"{user}:{password}".encode(), newline=False).decode()


def _explain(error: Exception, where: str, sending: bool) -> "NotSent | Unanswered":
    # Only an OSError's words are known to hold nothing of what was sent.
    words = (getattr(error, "verify_message", None) or error.strerror) if isinstance(error, OSError) else None
    what = clean(f"{words or type(error).__name__} ({where})")
    if sending:
        return Unanswered(f"the connection broke before an answer: {what}")
    if type(error).__module__ == "ssl":
        return NotSent("tls", f"{what}: {_tls_advice(str(words))}", again=False)
    return NotSent("unreachable", f"could not connect: {what}")


def _tls_advice(words: str) -> str:
    if "mismatch" in words or "not valid for" in words:
        return "url must name the server as its certificate does"
    if "certificate" in words or "issuer" in words or "signed" in words:
        return "does ca_file hold the authority that signed the certificate?"
    return "does it speak TLS 1.2 or later on that port?"


def _http_client(with_tls: bool) -> "Any":
    """http.client; it loads ssl, 10 ms, where it can, and does without where it can't."""
    if with_tls or "http.client" in sys.modules or "ssl" in sys.modules:
        return importlib.import_module("http.client")
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("http.client")
    finally:
        del sys.modules["ssl"]


def tls_context(ca_file: str) -> "ssl.SSLContext":
    """Verified TLS; there is no way to switch it off."""
    import ssl  # 10 ms that only https costs

    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise Misconfigured(f"ca_file {clean(ca_file)}: {error.strerror or error}: give a PEM file") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _parse_url(url: str, example: str) -> "tuple[bool, str, int, str]":
    """(https?, host, port, path) of the server's root."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Misconfigured("url is not a URL: write https://HOST:PORT/ and the path where there is one") from None
    if parts.username is not None or parts.password is not None:
        raise Misconfigured("url must not hold user:password@, it would end up in logs: use user and a secret's file")
    plain = parts.scheme in ("http", "https") and url.isprintable() and not (parts.query or parts.fragment)
    if not plain or not parts.hostname:
        raise Misconfigured(f"url must be the server's root, such as {example}")
    https = parts.scheme == "https"
    return https, str(parts.hostname), port or (443 if https else 80), quote(parts.path.rstrip("/"), safe="/%")
