"""The scope of handler_mail, and what a check or its entity may want otherwise."""

import os
import re
from collections import namedtuple

from .event import Event
from .outcome import Misconfigured, clean
from .settings import Scope, check_placeholders, parse_duration, printable, read_secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_STATE_FILE = "/var/lib/sensu/sensu-lxc/mail.sqlite"
PASSWORD_VARIABLE = "SENSU_LXC_MAIL_PASSWORD"
PLACEHOLDERS = (
    "change", "check", "command", "entity", "executed", "history", "lasted", "namespace", "occurrences", "output",
    "runner", "status",
)  # fmt: skip
DEFAULT_SUBJECT = "{change}: {entity}/{check}"
DEFAULT_BODY = """\
{entity}/{check}: {change}

{output}

executed     {executed}
occurrences  {occurrences}
history      {history}
run by       {runner}
namespace    {namespace}
"""
SEVERITIES = ("warning", "critical", "unknown")

_DEFAULT_SENDMAIL = "/usr/sbin/sendmail"
_TLS = ("starttls", "tls", "none")
_WISHES = ("to", "subject", "remind", "severities")
_ADDRESSES = 50
# Less than RFC 5321 allows, but all that is in use, and nothing that could be taken for an option or break out of a
# header or of the SMTP dialogue. A name alone is a mailbox of the mail server itself.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"(?!-){_ATOM}(?:\.{_ATOM})*(?:@{_LABEL}(?:\.{_LABEL})*)?", re.ASCII)
_NAMED = re.compile(r'(?P<name>[^<>"@]*)<(?P<address>[^<>]*)>')


class Mailbox(namedtuple("Mailbox", "name address")):
    """Whom a mail comes from or goes to. name: as people read it, or ""; address: user@domain, or a local user."""

    __slots__ = ()


class MailSettings(namedtuple(
    "MailSettings", "to sender subject body server port tls ca_file user password_file sendmail fallback timeout remind"
    " severities resolve state_file")):  # fmt: skip
    """The scope of handler_mail.

    to          list of Mailbox; sender a Mailbox
    server      host name or address, "" where sendmail is used; tls one of "starttls", "tls", "none"
    sendmail    path, "" where there is none to use
    timeout     seconds; remind as well, 0 for no reminders
    severities  set of the words that are worth a mail, of SEVERITIES
    """

    __slots__ = ()


# As they are in the settings; `from` can be no name in Python.
_KEYS = tuple("from" if field == "sender" else field for field in MailSettings._fields)


def mail_settings(settings: "Mapping[str, object]", scope: str, where: str) -> MailSettings:
    """The scope of settings, which came from where (words for a message)."""
    known = Scope(settings, scope, where, _KEYS, '{"to": "ops@example.com", "server": "mail.example.com", …}')
    known.require("to")
    subject, body = known.text("subject") or DEFAULT_SUBJECT, known.given.get("body") or DEFAULT_BODY
    if not isinstance(body, str) or not body.replace("\n", "").replace("\t", "").isprintable():
        raise Misconfigured(f"{scope}.body must be a text; \\n begins a new line")
    for key, template in (("subject", subject), ("body", body)):
        check_placeholders(f"{scope}.{key}", template, PLACEHOLDERS)
    server, user, password_file = known.text("server"), known.text("user"), known.path("password_file")
    if server and not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", server, re.ASCII):
        raise Misconfigured(f"{scope}.server must be a host name or an address; its port belongs into {scope}.port")
    here = server == "localhost" or server.startswith("127.") or server == "::1"
    tls = known.text("tls") or ("none" if here else "starttls")
    if tls not in _TLS:
        raise Misconfigured(f'{scope}.tls must be "starttls", "tls" (from the first byte on) or "none"')
    for key in ("port", "tls", "ca_file", "user", "password_file", "fallback"):
        if known.given.get(key) and not server:
            raise Misconfigured(f"{scope}.{key} is for a server, and {scope}.server is missing")
    if user and tls == "none" and not here:
        raise Misconfigured(f"{scope}.tls is none, so the password would be sent in the clear: set it to starttls")
    fallback = _flag(known, "fallback", False)
    sendmail = known.path("sendmail") or ("" if server and not fallback else _DEFAULT_SENDMAIL)
    try:
        severities = parse_severities(known.given.get("severities", list(SEVERITIES)))
        to = parse_mailboxes(known.given["to"])
        sender = parse_mailboxes(known.given.get("from") or f"sensu@{_this_host()}")
    except ValueError as error:
        raise Misconfigured(f"{scope}: {error}") from None
    if len(sender) != 1:
        raise Misconfigured(f"{scope}.from must be one address")
    return MailSettings(
        to=to, sender=sender[0], subject=subject, body=body, server=server,
        port=_port(known, {"tls": 465}.get(tls, 587 if user else 25)), tls=tls, ca_file=known.path("ca_file"),
        user=user, password_file=password_file, sendmail=sendmail, fallback=fallback,
        timeout=known.seconds("timeout", 10, 2, 600), remind=_remind(known), severities=severities,
        resolve=_flag(known, "resolve", True), state_file=known.path("state_file", DEFAULT_STATE_FILE),
    )  # fmt: skip


def with_wishes(wanted: MailSettings, event: Event, scope: str, handler: str) -> "tuple[MailSettings, list[str]]":
    """wanted as the event's check and its entity want it, and notes on wishes that can't be granted.

    Whoever may write a check says to whom and how often it is told, not by which server and with which password. A
    wish that makes no sense is noted and ignored: no mail at all would be worse.
    """
    granted: dict[str, object] = {}
    notes = []
    for who, wishes in event.wishes(scope, handler):
        for key, value in wishes.items():
            try:
                if key not in _WISHES:
                    raise ValueError(f"only {', '.join(_WISHES)} can be wished")
                parsed = _WISH_PARSERS[key](value)
            except ValueError as error:
                notes.append(f"ignored {clean(key, 40)} of the {who}: {error}")
            else:
                granted.setdefault(key, parsed)
    return wanted._replace(**granted), notes


def credentials(wanted: MailSettings, environ: "Mapping[str, str]", notes: "list[str]") -> "tuple[str, str] | None":
    """(user, password), or None for a server that wants neither."""
    if not wanted.user:
        return None
    given = environ.get(PASSWORD_VARIABLE)
    if given:
        password = printable(given, PASSWORD_VARIABLE)
    else:
        password = read_secret("password_file", wanted.password_file, notes)
    if not password:
        raise Misconfigured(f"user is set, so password_file (or {PASSWORD_VARIABLE}) must be, too")
    if not (password + wanted.user).isascii():
        raise Misconfigured("user and password must be ASCII: more can't be sent to a mail server")
    return wanted.user, password


def parse_mailboxes(value: object) -> "list[Mailbox]":
    """The addresses of a list, or of a text with commas between them. Raises ValueError with a sentence."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list) or not given or len(given) > _ADDRESSES:
        raise ValueError(f"an address, or a list of up to {_ADDRESSES}, is needed")
    return [_mailbox(one) for one in given]


def parse_severities(value: object) -> "frozenset[str]":
    """The words of a list, or of a text with commas between them. Raises ValueError with a sentence."""
    given = [word.strip() for word in value.split(",")] if isinstance(value, str) else value
    if not isinstance(given, list) or not given or any(word not in SEVERITIES for word in given):
        raise ValueError(f"severities must be some of {', '.join(SEVERITIES)}")
    return frozenset(given)


def _mailbox(value: object) -> Mailbox:
    if isinstance(value, str):
        match = _NAMED.fullmatch(value.strip())
        name, address = (match["name"].strip(), match["address"]) if match else ("", value.strip())
        if _ADDRESS.fullmatch(address) and len(address) <= 254 and name.isprintable() and "=?" not in name:
            return Mailbox(name[:80], address)
    shown = f"'{clean(value, 80)}'" if isinstance(value, str) else "that"
    raise ValueError(f"{shown} is no address: write ops@example.com, or Operations <ops@example.com>")


def _subject(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("it must be a text of one line")
    try:
        check_placeholders("it", value, PLACEHOLDERS)
    except Misconfigured as error:
        raise ValueError(str(error)) from None
    return value


def _reminder(value: object) -> float:
    """Seconds between reminders, 0 for none. Raises ValueError with a sentence."""
    seconds = parse_duration(value)
    if seconds is None or not (seconds == 0 or 60 <= seconds <= 30 * 86400):
        raise ValueError('it must be 0 or a duration from "1m" to "30d"')
    return seconds


_WISH_PARSERS = {
    "to": parse_mailboxes, "subject": _subject, "remind": _reminder, "severities": parse_severities,
}  # fmt: skip


def _remind(known: Scope) -> float:
    try:
        return _reminder(known.given.get("remind", 0))
    except ValueError as error:
        raise Misconfigured(f"{known.name}.remind: {error}") from None


def _port(known: Scope, default: int) -> int:
    value = known.given.get("port", default)
    if type(value) is not int or not 0 < value < 65536:
        raise Misconfigured(f"{known.name}.port must be a number from 1 to 65535")
    return value


def _flag(known: Scope, key: str, default: bool) -> bool:
    value = known.given.get(key, default)
    if not isinstance(value, bool):
        raise Misconfigured(f"{known.name}.{key} must be true or false")
    return value


def _this_host() -> str:
    name = os.uname().nodename
    return name if _ADDRESS.fullmatch(f"sensu@{name}") else "localhost"
