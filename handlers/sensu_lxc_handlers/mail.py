"""One mail about an event, and its way to a mail server or to sendmail.

Whatever stands in an event was written by somebody else: a name may hold line breaks, what looks like a header or is
one in disguise (=?utf-8?…?=), terminal escapes, ten thousand letters. Each has its place here and can't leave it.
"""

import email.header
import email.headerregistry
import email.message
import email.policy
import email.utils
import hashlib
import os
import smtplib
import socket
import threading
import time
from binascii import b2a_base64
from collections import namedtuple

from .event import Event
from .exchange import tls_context
from .mail_settings import Mailbox, MailSettings
from .mailed import severity
from .outcome import clean
from .settings import fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CONNECT_SECONDS = 4  # per address of the server: one that swallows packets leaves time for the next
_QUIT_SECONDS = 0.2
_NAME_CHARACTERS, _HEADER_CHARACTERS, _OUTPUT_CHARACTERS, _BODY_CHARACTERS = 400, 200, 16_384, 65_536
# Quoted-printable or base64 where it isn't plain ASCII of short lines: no server has to know more than RFC 5321.
_POLICY = email.policy.SMTP.clone(cte_type="7bit")
# How sendmail ends (sysexits.h) where the next time may be better.
_TEMPORARY = (71, 74, 75)


class Undelivered(Exception):
    """The mail was not taken, or nobody knows. elsewhere: another way may be tried."""

    def __init__(self, code: str, text: str, elsewhere: bool = True) -> None:
        super().__init__(text)
        self.code = code
        self.elsewhere = elsewhere


class Taken(namedtuple("Taken", "by refused deferred", defaults=({},))):
    """by: who took the mail, in words; refused: sentences on recipients for whom it will never.

    deferred: {address: sentence} of those for whom it did not for now.
    """

    __slots__ = ()


def texts(wanted: MailSettings, event: Event, change: str, lasted: str) -> "tuple[str, str]":
    """Subject and body, with the event in them. lasted: how long the incident has been mailed about, in words."""
    check = event.document.get("check")
    command = check.get("command") if isinstance(check, dict) else None
    line = {
        "change": change, "check": event.check, "entity": event.entity, "namespace": event.namespace,
        "runner": event.runner, "lasted": lasted, "status": severity(event.status),
        "command": command if isinstance(command, str) else "",
        "occurrences": str(event.occurrences or ""), "history": " ".join(str(status) for status in event.history),
        "executed": _local_time(event.executed),
    }  # fmt: skip
    values = {key: clean(value.strip(), _NAME_CHARACTERS) or "-" for key, value in line.items()}
    values["output"] = _lines(event.output, _OUTPUT_CHARACTERS) or "(the check printed nothing)"
    return _harmless(fill(wanted.subject, values), _HEADER_CHARACTERS), _lines(
        fill(wanted.body, values), _BODY_CHARACTERS
    )


def message_id(wanted: MailSettings, *what: object) -> str:
    """The Message-ID of one mail: the same where the same is mailed again, so that mailboxes can show it once."""
    digest = hashlib.sha256(repr(what).encode()).hexdigest()[:32]
    return f"<lxc-{digest}@{wanted.sender.address.partition('@')[2] or 'localhost'}>"


def compose(
    wanted: MailSettings, event: Event, subject: str, body: str, change: str, identity: str, thread: "tuple[str, ...]"
) -> bytes:
    """The mail, 7-bit, its lines ended by CRLF. thread: Message-IDs of the incident's first mail and of its latest."""
    message = email.message.EmailMessage(_POLICY)
    message["From"] = _address(wanted.sender)
    message["To"] = [_address(one) for one in wanted.to]
    message["Date"] = email.utils.localtime()
    message.set_content(body)
    texts = {"Subject": subject, "Message-ID": identity}
    if thread:
        texts["In-Reply-To"] = thread[-1]
        texts["References"] = " ".join(dict.fromkeys(thread))
    # No vacation note is sent in answer to it (RFC 3834).
    texts["Auto-Submitted"] = "auto-generated"
    told = {"Entity": event.entity, "Check": event.check, "Namespace": event.namespace, "Runner": event.runner,
            "Status": str(event.status), "Occurrences": str(event.occurrences or ""), "Change": change}  # fmt: skip
    texts.update((f"X-Sensu-{name}", value) for name, value in told.items() if value)
    head = "".join(f"{name}: {_encoded(name, text)}\r\n" for name, text in texts.items())
    return head.encode("ascii") + message.as_bytes(policy=_POLICY)


def secrets_of(login: "tuple[str, str]") -> "list[str]":
    """The password, and as it travels: a server may quote either in what it answers."""
    user, password = login
    forms = password, f"\0{user}\0{password}"
    return [password, *(b2a_base64(form.encode(), newline=False).decode() for form in forms)]


class SmtpServer:
    """The server of the settings.

    deadline  by time.monotonic(), bounds all of it
    conceal   takes the secrets out of what the server answers, before anything else is done with it
    """

    def __init__(
        self, wanted: MailSettings, login: "tuple[str, str] | None", deadline: float, conceal: "Callable[[str], str]"
    ) -> None:
        self._wanted, self._login, self._deadline, self._conceal = wanted, login, deadline, conceal
        self._where = f"{wanted.server}:{wanted.port}"
        self._tls = None if wanted.tls == "none" else tls_context(wanted.ca_file)
        self._lock = threading.Lock()
        self._done, self._closed = threading.Event(), threading.Event()
        self._abandoned = self._handing_over = False
        self._doing = "connecting"
        self._refused: dict[str, tuple[int, bytes]] = {}
        self._error: Undelivered | None = None

    def send(self, content: bytes) -> Taken:
        """Hand over the mail. Raises Undelivered.

        Timeouts of a socket bound neither the look-up of a name nor an answer of a byte a second. So it runs in a
        thread that is left behind when time is up; what that may still send is decided under a lock.
        """
        recipients = [one.address for one in self._wanted.to]
        arguments = self._wanted.sender.address, recipients, content
        threading.Thread(target=self._run, args=arguments, daemon=True).start()
        self._done.wait(max(0.0, self._deadline - time.monotonic()))
        with self._lock:
            self._abandoned = True
            if self._error:
                raise self._error
            if not self._done.is_set():
                if self._handing_over:
                    raise _unknown(f"{self._where} did not answer in time whether it took it")
                raise Undelivered("unreachable", f"{self._where}: time was up while {self._doing}")
        said = {address: (code, self._answer(code, why)) for address, (code, why) in self._refused.items()}
        refused = [f"{address} was refused: {why}" for address, (code, why) in said.items() if code >= 500]
        return Taken(self._where, refused, {address: why for address, (code, why) in said.items() if code < 500})

    def close(self) -> None:
        """Say goodbye, if that is quickly done: the server took the mail long before."""
        self._closed.wait(_QUIT_SECONDS)

    def _run(self, sender: str, recipients: "list[str]", content: bytes) -> None:
        smtp = None
        try:
            smtp = self._connect()
            with self._lock:
                if self._abandoned:
                    return
                self._handing_over = True
            self._doing = "handing it over"
            self._refused = smtp.sendmail(sender, recipients, content)
            self._done.set()
            smtp.quit()
        except Exception as error:  # noqa: BLE001 -- a thread's exception would be lost, and with it why nothing was sent
            if not self._done.is_set():
                self._error = self._explain(error)
                self._done.set()
        finally:
            self._closed.set()
            if smtp:
                smtp.close()

    def _connect(self) -> smtplib.SMTP:
        """A connection to the server that would take a mail."""
        wanted, seconds = self._wanted, max(0.1, min(_CONNECT_SECONDS, self._deadline - time.monotonic()))
        # Not the name that smtplib would find: it asks a name server for it, which may be what is down.
        name = os.uname().nodename
        own = name if name.isascii() and "." in name.strip(".") else "localhost"
        if wanted.tls == "tls":
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(wanted.server, wanted.port, own, timeout=seconds, context=self._tls)
        else:
            smtp = smtplib.SMTP(wanted.server, wanted.port, own, timeout=seconds)
        try:
            if smtp.sock:
                smtp.sock.settimeout(max(0.1, self._deadline - time.monotonic()))
            smtp.ehlo_or_helo_if_needed()
            if wanted.tls == "starttls":
                self._doing = "starting TLS"
                smtp.starttls(context=self._tls)
                smtp.ehlo_or_helo_if_needed()
            if self._login:
                self._doing = "logging in"
                smtp.login(*self._login)
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _explain(self, error: Exception) -> Undelivered:
        where, doing = self._where, self._doing
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            why = "; ".join(
                f"{clean(address, 60)}: {self._answer(*said)}" for address, said in error.recipients.items()
            )
            codes = [code for code, _ in error.recipients.values()]
            return _said_no(max(codes) if min(codes) >= 500 else 450, f"{where} refused each recipient: {why}",
                            "correct `to`, or log in with `user`")  # fmt: skip
        if isinstance(error, smtplib.SMTPAuthenticationError):
            why = self._answer(error.smtp_code, error.smtp_error)
            text = f"{where} does not let {clean(self._wanted.user, 60)} in: {why}"
            return _said_no(error.smtp_code, text, "correct `user`, or the password in `password_file`", elsewhere=True)
        if isinstance(error, smtplib.SMTPSenderRefused):
            text = f"{where} refused {clean(self._wanted.sender.address, 60)}"
            return _said_no(error.smtp_code, f"{text}: {self._answer(error.smtp_code, error.smtp_error)}",
                            "correct `from`, or log in with `user`")  # fmt: skip
        if isinstance(error, smtplib.SMTPResponseException):
            text = f"{where} said no while {doing}: {self._answer(error.smtp_code, error.smtp_error)}"
            return _said_no(error.smtp_code, text, "see in its log why", elsewhere=not self._handing_over)
        if isinstance(error, smtplib.SMTPNotSupportedError):
            if doing == "starting TLS":
                return Undelivered(
                    "tls", f'{where} offers no STARTTLS: set `tls` to "tls" and its `port`, or to "none"'
                )
            return Undelivered(
                "rejected", f"{where} takes no login: remove `user`, or set `tls` to what it wants for that"
            )
        # Only an OSError's words are known to hold nothing of what was sent.
        words = (getattr(error, "verify_message", None) or error.strerror) if isinstance(error, OSError) else None
        if isinstance(error, smtplib.SMTPServerDisconnected):
            words = "it hung up"
        elif isinstance(error, (TimeoutError, socket.timeout)):  # one and the same only since Python 3.10
            words = "no answer in time"
        what = clean(str(words or type(error).__name__), 120)
        if self._handing_over:
            return _unknown(f"the connection to {where} broke before it answered whether it took it: {what}")
        if type(error).__module__ == "ssl":
            if getattr(error, "verify_message", None):
                text = f"{where}: {what}: does `ca_file` hold the authority that signed the certificate of `server`?"
                return Undelivered("tls", text)
            return Undelivered("tls", f"{where}: {what}: do `port` and `tls` fit each other?")
        return Undelivered("unreachable", f"{where}: {what} while {doing}")

    def _answer(self, code: int, said: "bytes | str") -> str:
        # Cut off only then: what is left of a secret would not be found in it.
        text = self._conceal(said.decode("utf-8", "replace") if isinstance(said, bytes) else said)
        return clean(f"{code} {text}", 160)


def by_sendmail(wanted: MailSettings, content: bytes, deadline: float) -> Taken:
    """Hand over the mail to a program that takes it for the mail system of this host. Raises Undelivered."""
    import signal
    import subprocess

    argv = [wanted.sendmail, "-i", "-f", wanted.sender.address, *(one.address for one in wanted.to)]
    # Nothing of our own environment, which may hold the password of a server.
    environ = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C"}
    if "HOME" in os.environ:
        environ["HOME"] = os.environ["HOME"]
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ, cwd="/",
            start_new_session=True
        )  # fmt: skip
    except OSError as error:
        raise _can_not_run(wanted, error.strerror) from None
    try:
        said, _ = process.communicate(content.replace(b"\r\n", b"\n"), max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        # What it started in the background may hold its output open; that is no failure of its own.
        if process.poll() == 0:
            return Taken(wanted.sendmail, [])
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise _unknown(f"{clean(wanted.sendmail)} did not end in time, and was killed") from None
    if process.returncode:
        code = "deferred" if process.returncode in _TEMPORARY else "rejected"
        why = clean(said.decode("utf-8", "replace").strip(), 160) or "it said nothing"
        raise Undelivered(code, f"{clean(wanted.sendmail)} ended with {process.returncode}: {why}: see in its log why")
    return Taken(wanted.sendmail, [])


def by_sendmail_if_it_can_run(wanted: MailSettings) -> Taken:
    """What by_sendmail() answers where all goes well, by a look at the program. Raises Undelivered."""
    try:
        os.stat(wanted.sendmail)
    except OSError as error:
        raise _can_not_run(wanted, error.strerror) from None
    if not os.path.isfile(wanted.sendmail) or not os.access(wanted.sendmail, os.X_OK):
        raise _can_not_run(wanted, "Permission denied")
    return Taken(wanted.sendmail, [])


def _can_not_run(wanted: MailSettings, why: "str | None") -> Undelivered:
    text = f"{clean(wanted.sendmail)}: {why}: install a mail system, or name it in `sendmail`"
    return Undelivered("rejected", text)


def _local_time(executed: "int | None") -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(executed)) if executed else ""
    except (OverflowError, ValueError, OSError):
        return str(executed)


def _lines(text: str, limit: int) -> str:
    """text as it may stand in a mail: lines without control or formatting characters, at most limit long."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip()
    more = len(text) - limit
    if more > 0:
        text = f"{text[:limit]}\n… and {more} characters more"
    return "\n".join("\t".join(clean(part, limit) for part in line.split("\t")) for line in text.split("\n"))


def _address(mailbox: Mailbox) -> email.headerregistry.Address:
    user, _, domain = mailbox.address.partition("@")
    return email.headerregistry.Address(mailbox.name, user, domain)


def _encoded(name: str, text: str) -> str:
    """text as the value of a header. Not left to EmailMessage, which loses spaces where it folds encoded words.

    A line of ASCII needs no folding: it is shorter than the 998 characters that a line may have.
    """
    line = _harmless(text, _HEADER_CHARACTERS)
    return line if line.isascii() else email.header.Header(line, "utf-8", header_name=name).encode(linesep="\r\n")


def _harmless(text: str, limit: int) -> str:
    """text as a header may hold it: one line, and no encoded word that would be decoded into something else."""
    return clean(text, limit).replace("=?", "= ?").strip()


def _said_no(code: int, text: str, remedy: str, elsewhere: bool = False) -> Undelivered:
    """A refusal: of 4xx for now, so that another way may be good; of 5xx for good."""
    if 400 <= code < 500:
        return Undelivered("deferred", f"{text}: the next event tries again")
    return Undelivered("rejected", f"{text}: {remedy}", elsewhere)


def _unknown(text: str) -> Undelivered:
    return Undelivered("unknown-outcome", f"{text}: the next event sends it again, so it may come twice")
