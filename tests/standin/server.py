"""The listener: HTTP/1.1 with keep-alive, and the faults a network adds to it."""

import contextlib
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler

from .faults import WITHOUT_EFFECT, Fault
from .messages import Headers, Request, empty, starting_page

_BLACKHOLE_LIMIT_S = 120


class Server:
    """Listens on one port of 127.0.0.1; can stop and listen there again."""

    def __init__(self, respond, take_fault, record, starting, port=0, tls=None):
        self.respond = respond  # Request -> Response
        self.take_fault = take_fault  # (method, path) -> Fault or None
        self.record = record  # Request -> None
        self.drip_interval = 0.05
        self.starting = starting  # heading of the page of Fault.STARTING
        self.stopping = threading.Event()
        self._context = None
        if tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*tls)
        self._lock = threading.Lock()
        self._connections = {}  # socket -> thread
        self._listener = None
        if port:  # sharing it is only for itself
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        # Holds the port without listening, so that nobody else gets it while this one is down.
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._holder.bind(("127.0.0.1", port))
        self.port = self._holder.getsockname()[1]
        self.listen()

    @property
    def listening(self):
        return self._listener is not None

    def listen(self):
        if self._listener is not None:
            return
        self.stopping.clear()
        self._listener = _Listener(("127.0.0.1", self.port), self)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self):
        """Refuse new connections and break the open ones, with whatever is in flight."""
        if self._listener is None:
            return
        self.stopping.set()
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join(timeout=5)
        self._listener = None
        with self._lock:
            open_now = dict(self._connections)
        for connection in open_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in open_now.values():
            if thread is not threading.current_thread():
                thread.join(timeout=5)

    def secure(self, connection):
        return self._context.wrap_socket(connection, server_side=True) if self._context else connection

    def opened(self, connection):
        with self._lock:
            self._connections[connection] = threading.current_thread()

    def closed(self, connection):
        with self._lock:
            self._connections.pop(connection, None)


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # tests send dozens of requests at once

    def __init__(self, address, server):
        self.server = server
        super().__init__(address, _Connection)

    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def process_request_thread(self, request, client_address):
        self.server.opened(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.server.closed(request)

    def finish_request(self, request, client_address):
        # The handshake belongs to this thread: a client that does not like our CA must not stop the others.
        with contextlib.suppress(OSError), self.server.secure(request) as secured:
            self.server.opened(secured)
            try:
                self.RequestHandlerClass(secured, client_address, self)
            finally:
                self.server.closed(secured)

    def handle_error(self, request, client_address):
        """Broken connections are the point of this server; anything else is a bug and has to be seen."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 300

    def handle_expect_100(self):
        # BaseHTTPRequestHandler would ask for the body before a fault had its turn.
        return True

    def _handle(self):
        server = self.server.server
        fault = server.take_fault(self.command, self.path)
        if fault is Fault.CLOSE_BEFORE_READING:
            server.record(Request(self.command, self.path, Headers(self.headers.items()), None, time.time()))
            self.close_connection = True
            return
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = Request(self.command, self.path, Headers(self.headers.items()), self._body(), time.time())
        server.record(request)
        response = self._without_effect(fault) if fault in WITHOUT_EFFECT else server.respond(request)
        if response is None:
            return
        head = [f"HTTP/1.1 {response.status} {self.responses.get(response.status, ('', ''))[0]}"]
        head += [f"{name}: {value}" for name, value in response.headers]
        body = response.body
        if fault is Fault.DRIP:
            body = body or b" " * 200  # the real answer has no body, a proxy's may have
        if response.status not in (204, 304):
            head.append(f"Content-Length: {len(body)}")
        head = ("\r\n".join(head) + "\r\n\r\n").encode("utf-8")
        body = b"" if self.command == "HEAD" else body
        self._send(fault, head, body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _body(self):
        length = self.headers.get("Content-Length")
        if length is not None:
            return self.rfile.read(int(length))
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return b""
        chunks = []
        while True:
            size = int(self.rfile.readline().split(b";")[0], 16)
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
            if not size:
                return b"".join(chunks)

    def _without_effect(self, fault):
        if fault is Fault.STARTING:
            return starting_page(self.server.server.starting)
        if fault is Fault.LOGIN_REDIRECT:
            return empty(302, ("Location", "https://login.example/sso?back=jenkins"))
        self._swallow()
        return None

    def _swallow(self):
        """Keep the client waiting until it goes, or this server does."""
        self.server.server.stopping.wait(_BLACKHOLE_LIMIT_S)
        self.close_connection = True

    def _send(self, fault, head, body):
        if fault is Fault.CLOSE_AFTER_QUEUEING:
            self.close_connection = True
        elif fault is Fault.RESET:
            # Linger zero turns the close into a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif fault is Fault.BLACKHOLE_AFTER_QUEUEING:
            self._swallow()
        elif fault is Fault.CUT_IN_HEADER:
            self.wfile.write(head[: head.index(b"\r\n") + 6])
            self.close_connection = True
        elif fault is Fault.DRIP_HEADER:
            self._drip(head + body)
        elif fault is Fault.DRIP:
            self.wfile.write(head)
            self._drip(body)
        else:
            self.wfile.write(head + body)

    def _drip(self, data):
        for byte in data:
            if self.server.server.stopping.wait(self.server.server.drip_interval):
                break
            self.wfile.write(bytes([byte]))
        self.close_connection = True

    def log_message(self, *arguments):
        """Tests read Jenkins.requests; nothing is written to their stderr."""
