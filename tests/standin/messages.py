"""Requests and responses, and the pages that they carry."""

import collections
import re
from collections import namedtuple
from email.parser import BytesParser
from html import escape
from urllib.parse import parse_qsl, unquote

Request = namedtuple("Request", "method path headers body time")
Response = namedtuple("Response", "status headers body")


class Answer(Exception):
    """Ends the handling of a request with a response."""

    def __init__(self, response):
        super().__init__(response.status)
        self.response = response


class Form:
    """The parameters of a request: of its query and, if it is a form, of its body."""

    def __init__(self, request):
        self.path, _, query = request.path.partition("?")
        self.query = dict(parse_qsl(query, keep_blank_values=True))
        pairs = parse_qsl(query, keep_blank_values=True)
        kind = request.headers.get("Content-Type", "")
        self.is_form = False
        if kind.startswith("application/x-www-form-urlencoded"):
            body = (request.body or b"").decode("utf-8", "replace")
            pairs += parse_qsl(body, keep_blank_values=True)
            self.is_form = True
        elif kind.startswith("multipart/form-data"):
            pairs += list(_multipart(kind, request.body or b""))
            self.is_form = True
        self._values = collections.OrderedDict()
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def get(self, name):
        """The first value of a name, None if it was not sent."""
        return self._values.get(name, [None])[0]

    def all(self, name):
        return self._values.get(name, [])

    @property
    def segments(self):
        """Decoded parts of the path. A plus is a plus in a path."""
        return [unquote(part) for part in self.path.split("/") if part]


def _multipart(kind, body):
    message = BytesParser().parsebytes(b"Content-Type: " + kind.encode("latin-1") + b"\r\n\r\n" + body)
    for part in message.walk():
        name = part.get_param("name", header="Content-Disposition")
        if name and not part.is_multipart():
            yield name, part.get_payload(decode=True).decode("utf-8", "replace")


class Headers:
    """Headers by name whatever their case, the first of equal ones."""

    def __init__(self, pairs):
        self.pairs = list(pairs)

    def get(self, name, default=None):
        return next((value for key, value in self.pairs if key.lower() == name.lower()), default)

    def __contains__(self, name):
        return self.get(name) is not None

    def items(self):
        return list(self.pairs)

    def __repr__(self):
        return f"Headers({self.pairs!r})"


def container_error(status, message):
    """An error of the servlet container: before Jenkins proper, or where Jenkins leaves the page to it."""
    body = (
        f"<html><head><title>Error {status} {escape(message)}</title></head>"
        f"<body><h2>HTTP ERROR {status} {escape(message)}</h2>"
        f"<table><tr><th>STATUS:</th><td>{status}</td></tr><tr><th>MESSAGE:</th><td>{escape(message)}</td></tr></table>"
        "</body></html>"
    )
    return Response(status, [("Content-Type", "text/html;charset=iso-8859-1")], body.encode())


def starting_page(heading):
    body = f"<html><head><title>Starting Jenkins</title></head><body><h1>{heading}</h1></body></html>"
    return Response(503, [("Content-Type", "text/html;charset=utf-8")], body.encode())


def empty(status, *headers):
    return Response(status, list(headers), b"")


def text(body, kind="text/plain;charset=utf-8", *headers):
    return Response(200, [("Content-Type", kind), *headers], body if isinstance(body, bytes) else body.encode())


def reduce_html(body):
    """Title, h1 and message of a page, as the recordings keep them."""
    page = body.decode("utf-8", "replace")

    def first(pattern):
        found = re.search(pattern, page, re.S)
        return found.group(1).strip() if found else None

    return {
        "title": first(r"<title>(.*?)</title>"),
        "h1": first(r"<h1>(.*?)</h1>"),
        "p": first(r"<p>(.*?)</p>"),
        "message": first(r"<th>MESSAGE:</th><td>(.*?)</td>"),
    }
