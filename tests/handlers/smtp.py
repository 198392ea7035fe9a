"""Mail servers for the tests: aiosmtpd, a real one, and one that behaves as no real one should."""

import contextlib
import email
import email.policy
import socket
import ssl
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword


class _Controller(Controller):
    def _trigger_server(self):
        # It connects to its port to see that it is there, and was only told to take any.
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


class Sink:
    """aiosmtpd on a port of 127.0.0.1 that keeps what it is sent.

    mails        (sender, recipients, bytes) of each
    replies      {"MAIL" | "RCPT" | "DATA": answers to the next such commands, None for its own, or a function of the
                 argument}
    tls          (chain, key) paths; with implicit=True from the first byte on, else by STARTTLS
    login        (user, password) that it demands
    """

    def __init__(self, tls=None, implicit=False, login=None, **options):
        self.mails, self.replies, self.logins = [], {}, []
        self._login = login
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
        if login:
            by_starttls = tls is not None and not implicit
            options.update(authenticator=self._authenticate, auth_required=True, auth_require_tls=by_starttls)
        if implicit:
            options["ssl_context"] = context
        elif tls:
            options.update(tls_context=context, require_starttls=True)
        self._controller = _Controller(self, hostname="127.0.0.1", port=0, **options)

    def __enter__(self):
        self._controller.start()
        self.port = self._controller.port
        return self

    def __exit__(self, *exception):
        self._controller.stop()

    def _authenticate(self, server, session, envelope, mechanism, data):
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login.decode(), data.password.decode()))
        good = self.logins[-1] == self._login
        return AuthResult(success=good, handled=good)

    def _reply(self, command, argument=None):
        replies = self.replies.get(command)
        if callable(replies):
            return replies(argument)
        return replies.pop(0) if replies else None

    async def handle_MAIL(self, server, session, envelope, address, options):
        reply = self._reply("MAIL", address)
        if reply is None:
            envelope.mail_from = address
        return reply or "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        reply = self._reply("RCPT", address)
        if reply is None:
            envelope.rcpt_tos.append(address)
        return reply or "250 OK"

    async def handle_DATA(self, server, session, envelope):
        reply = self._reply("DATA")
        if reply is None:
            self.mails.append((envelope.mail_from, envelope.rcpt_tos, envelope.original_content))
        return reply or "250 OK"

    @property
    def messages(self):
        return [parsed(content) for _, _, content in self.mails]


def parsed(content):
    return email.message_from_bytes(content, policy=email.policy.default)


def text(message):
    """What a person reads."""
    return message.get_content().replace("\r\n", "\n")


class Odd:
    """A server that speaks SMTP until a moment, and then does something.

    at    a command, "greeting" or "content" (after the dot)
    what  a function of the connection
    """

    def __init__(self, at, what):
        self._at, self._what = at, what
        self.contents = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._connections = []
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._server.close()
        for connection in self._connections:
            connection.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self._connections.append(connection)
                threading.Thread(target=self._speak, args=(connection,), daemon=True).start()

    def _speak(self, connection):
        with contextlib.suppress(OSError), connection, connection.makefile("rwb") as file:
            self._answer(file, connection, "greeting", b"220 odd.example ESMTP")
            for line in file:
                command = line.split()[0].decode().upper()
                self._answer(file, connection, command, b"354 go on" if command == "DATA" else b"250 fine")
                if command == "DATA":
                    content = b""
                    while not content.endswith(b"\r\n.\r\n"):
                        content += file.readline()
                    self.contents.append(content)
                    self._answer(file, connection, "content", b"250 taken")

    def _answer(self, file, connection, at, reply):
        if at == self._at:
            self._what(connection)
            raise OSError
        file.write(reply + b"\r\n")
        file.flush()
