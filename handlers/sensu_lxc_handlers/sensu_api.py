"""Sensu's API, Core's and Go's in one shape: what is known of checks and hosts, and asking a host to run a check.

    wanted = api_settings(scope["api"], "lxc_autoscale.api", where)
    sensu = connect(wanted, api_credentials(wanted, os.environ), deadline)
    for result in sensu.latest_results("check_host_capacity"): ...

Every answer was seen on Sensu 1.9.0 and Sensu Go 6.12 (tests/recordings). Whoever asks gets a namedtuple, or ApiTrouble
with a sentence that says what to configure. A check that was asked for is not done: only its next result tells.
"""

import json
from collections import namedtuple
from fnmatch import fnmatchcase
from urllib.parse import quote

from .api_settings import GO, ApiCredentials, ApiSettings
from .event import Event
from .exchange import NotSent, Reply, Server, Unanswered, basic
from .outcome import BadEvent, clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# What became of something that did not work.
# UNREACHABLE: nothing was done. UNANSWERED: it may have been done. REJECTED: the API, being reached, said no.
UNREACHABLE, UNANSWERED, REJECTED = "unreachable", "unanswered", "rejected"

# What a page holds must fit into the bound of a body, also where the outputs are long.
_PAGE = 100
# More than any installation has; a server that always says there is more must not be asked for ever.
_PAGES = 1000


class ApiTrouble(Exception):
    """code is one of the three words above, the text a sentence without secrets."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Result(namedtuple(
    "Result", "entity check status output executed runner namespace kind labels annotations")):  # fmt: skip
    """The latest result of one check of one client or entity.

    entity, check  names; entity is the container's where it has one of its own, else its host's
    status     exit status as an int, or None where there was none
    output     what it printed, with perfdata
    executed   when it ran, in seconds since the epoch by the clock of who ran it, or None
    runner     who ran it, "" where nobody tells
    namespace  Go's, "" for Core
    kind       event.CHECK, or what else it is: event.TTL, TIMED_OUT, KEEPALIVE … say nothing of what was checked
    labels, annotations  of the check, then the entity, {str: str}; {} for Core
    """

    __slots__ = ()


class Agent(namedtuple("Agent", "name is_proxy")):
    """A client (Core) or entity (Go). A proxy runs nothing: others hand in its results."""

    __slots__ = ()


class Silence(namedtuple("Silence", "subscription check reason")):
    """What is silenced; "" in subscription or check means all of them."""

    __slots__ = ()

    def covers(self, entity: str, check: str) -> bool:
        """Whether it silences that check of that entity by name. (By a subscription of many it may, too.)"""
        return self.subscription in ("", f"entity:{entity}", f"client:{entity}") and self.check in ("", check)


class Sensu:
    """What both have: asked by one user, until deadline (by time.monotonic())."""

    name = ""

    def __init__(self, wanted: ApiSettings, known: ApiCredentials, deadline: float) -> None:
        self.wanted, self._known = wanted, known
        example = "https://sensu.example:8080/" if wanted.kind == GO else "http://sensu.example:4567/"
        self._server = Server(wanted.url, {}, deadline, wanted.ca_file, example)

    # What can be asked

    def latest_results(self, check: str = "*", entity: str = "*") -> "list[Result]":
        """The latest result of each check that fits the pattern, of each entity that fits, in no order.

        An entity without * or ? is asked for alone, which is cheap; else everything is read, page by page. In Core what
        comes or goes meanwhile may be missed or told twice: who must be sure of one asks result().
        """
        found = {}
        for result in self._results("" if any(c in entity for c in "*?[") else entity):
            if fnmatchcase(result.check, check) and fnmatchcase(result.entity, entity):
                found[result.entity, result.check] = result
        return list(found.values())

    def result(self, entity: str, check: str) -> "Result | None":
        """The latest result of one check of one entity, None where there is none."""
        raise NotImplementedError

    def agent(self, name: str, namespace: str = "") -> "Agent | None":
        """Who is called so, None where nobody is. namespace: another than the settings'."""
        raise NotImplementedError

    def silenced(self) -> "list[Silence]":
        """All that is silenced now."""
        raise NotImplementedError

    def request(self, check: str, runner: str, reason: str, namespace: str = "") -> None:
        """Ask runner, and nobody else, to run check, which the server must know. It is asked, not done.

        Sends at most one request that may have got there.
        """
        raise NotImplementedError

    # How

    def _results(self, entity: str) -> "Iterator[Result]":
        raise NotImplementedError

    def _authorization(self) -> str:
        """The header that proves who asks, "" where nothing does."""
        raise NotImplementedError

    def _ask(self, method: str, path: str, authorization: str, body: "str | None" = None) -> Reply:
        headers = {"Authorization": authorization} if authorization else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            return self._server.exchange(method, path, body, headers)
        except NotSent as error:
            raise ApiTrouble(REJECTED if error.code == "tls" else UNREACHABLE, f"{self.name}'s API: {error}") from None
        except Unanswered as error:
            raise ApiTrouble(UNANSWERED if method == "POST" else UNREACHABLE, f"{self.name}'s API: {error}") from None

    def _get(self, path: str, may_lack: bool = False) -> "tuple[object, Reply]":
        """(the JSON of path, the reply); (None, the reply) for a 404 where that may be."""
        reply = self._ask("GET", path, self._authorization())
        if reply.status == 404 and may_lack:
            return None, reply
        if reply.status != 200:
            raise self._refusal("GET " + path.partition("?")[0], reply)
        try:
            return json.loads(reply.body), reply
        except (ValueError, RecursionError):
            held = f"no whole JSON, {len(reply.body)} bytes in the time that was left"
            raise ApiTrouble(UNREACHABLE, f"GET {path.partition('?')[0]} answered {held}: {self._is_it()}") from None

    def _list(self, path: str) -> "tuple[list[dict[str, object]], Reply]":
        value, reply = self._get(path)
        if not isinstance(value, list):
            raise ApiTrouble(UNREACHABLE, f"GET {path.partition('?')[0]} listed nothing: {self._is_it()}")
        return [one for one in value if isinstance(one, dict)], reply

    def _post(self, path: str, body: "Mapping[str, object]", no_check: str) -> None:
        reply = self._ask("POST", path, self._authorization(), json.dumps(body))
        if reply.status == 404:
            raise ApiTrouble(REJECTED, f"there is no check {clean(str(body['check']), 80)} {no_check}")
        if reply.status != 202:
            raise self._refusal("POST " + path, reply)

    def _refusal(self, what: str, reply: Reply) -> ApiTrouble:
        status = reply.status
        text = f"{clean(what, 120)} answered {status}: "
        if status in (301, 302, 303, 307, 308):
            location = clean((reply.headers.get("Location") or "").partition("?")[0], 120)
            return ApiTrouble(REJECTED, f"{text}it is redirected to {location}: set api.url to where that leads")
        if status in (429, 503):
            return ApiTrouble(UNREACHABLE, f"{text}{self.name} is not ready, or what stands before it is too busy")
        if status >= 500:
            # Nobody knows whether it was done: a gateway's timeout looks like that as well.
            code = UNREACHABLE if what.startswith("GET") else UNANSWERED
            return ApiTrouble(code, f"{text}{self.name} failed on it: see its log")
        return ApiTrouble(REJECTED, text + self._advice(status))

    def _advice(self, status: int) -> str:
        return f"that is not how it answers: {self._is_it()}"

    def _is_it(self) -> str:
        return f"does api.url lead to the API of {self.name}, and is api.kind right?"


class Core(Sensu):
    """Sensu Core 1.x."""

    name = "Sensu Core"

    def result(self, entity: str, check: str) -> "Result | None":
        value, _ = self._get(f"/results/{_part(entity)}/{_part(check)}", may_lack=True)
        return _core_result(value) if isinstance(value, dict) else None

    def agent(self, name: str, namespace: str = "") -> "Agent | None":
        value, _ = self._get(f"/clients/{_part(name)}", may_lack=True)
        return Agent(name, value.get("type") == "proxy") if isinstance(value, dict) else None

    def silenced(self) -> "list[Silence]":
        return [_silence(one) for one in self._list("/silenced")[0]]

    def request(self, check: str, runner: str, reason: str, namespace: str = "") -> None:
        # Without subscribers Core asks all those of the check's definition.
        body = {"check": check, "subscribers": [f"client:{runner}"], "reason": reason, "creator": "sensu-lxc"}
        self._post("/request", body, "in the settings of Core's server (its conf.d, not a client's): define it there")

    def _results(self, entity: str) -> "Iterator[Result]":
        path, read = "/results" + (f"/{_part(entity)}" if entity else ""), 0
        for _ in range(_PAGES):
            page, reply = self._list(f"{path}?limit={_PAGE}&offset={read}")
            yield from filter(None, map(_core_result, page))
            read += _PAGE
            # A Core that knows no pages has sent all of it.
            if read >= _total(reply):
                return
        raise ApiTrouble(UNREACHABLE, f"GET {path} has no end")

    def _authorization(self) -> str:
        return basic(*self._known.login) if self._known.login else ""

    def _refusal(self, what: str, reply: Reply) -> ApiTrouble:
        if reply.status == 500 and b'"not connected to ' in reply.body:  # it looks before it does anything
            text = f"{clean(what, 120)} answered 500: Sensu Core's API has lost its Redis or its transport, see its log"
            return ApiTrouble(UNREACHABLE, text)
        return super()._refusal(what, reply)

    def _advice(self, status: int) -> str:
        if status == 401:
            return "user or password_file is wrong, or missing: they are `api` in Core's own settings"
        return super()._advice(status)


class Go(Sensu):
    """Sensu Go 6."""

    name = "Sensu Go"
    _bearer = ""

    def result(self, entity: str, check: str) -> "Result | None":
        value, _ = self._get(self._in(f"events/{_part(entity)}/{_part(check)}"), may_lack=True)
        return _go_result(value) if isinstance(value, dict) else None

    def agent(self, name: str, namespace: str = "") -> "Agent | None":
        value, _ = self._get(self._in(f"entities/{_part(name)}", namespace), may_lack=True)
        return Agent(name, value.get("entity_class") != "agent") if isinstance(value, dict) else None

    def silenced(self) -> "list[Silence]":
        return [_silence(one) for one in self._paged(self._in("silenced"))]

    def request(self, check: str, runner: str, reason: str, namespace: str = "") -> None:
        body = {"check": check, "subscriptions": [f"entity:{runner}"], "reason": reason, "creator": "sensu-lxc"}
        no_check = f"in namespace {namespace or self.wanted.namespace}: create it there"
        self._post(self._in(f"checks/{_part(check)}/execute", namespace), body, no_check)

    def _results(self, entity: str) -> "Iterator[Result]":
        path = self._in("events" + (f"/{_part(entity)}" if entity else ""))
        # Selectors are ignored by the community's edition, so what fits is chosen here.
        return filter(None, map(_go_result, self._paged(path)))

    def _paged(self, path: str) -> "Iterator[dict[str, object]]":
        token = ""
        for _ in range(_PAGES):
            page, reply = self._list(f"{path}?limit={_PAGE}" + (f"&continue={quote(token, safe='')}" if token else ""))
            yield from page
            token = reply.headers.get("Sensu-Continue") or ""
            if not token:
                return
        raise ApiTrouble(UNREACHABLE, f"GET {path} has no end")

    def _in(self, what: str, namespace: str = "") -> str:
        return f"/api/core/v2/namespaces/{_part(namespace or self.wanted.namespace)}/{what}"

    def _authorization(self) -> str:
        if self._known.key:
            return f"Key {self._known.key}"
        if not self._bearer:
            reply = self._ask("GET", "/auth", basic(*self._known.login))
            if reply.status != 200:
                raise self._refusal("GET /auth", reply)
            try:
                self._bearer = str(reply.json()["access_token"])
            except (ValueError, KeyError):
                raise ApiTrouble(UNREACHABLE, f"GET /auth gave no token: {self._is_it()}") from None
        return f"Bearer {self._bearer}"

    def _advice(self, status: int) -> str:
        if status == 401:
            return "its API key is unknown or was revoked" if self._known.key else "user or password_file is wrong"
        if status == 403:
            return (
                "the user may not: his role needs get and list on events, entities and silenced, and create on the"
                " checks to ask for, in this namespace, which must exist"
            )
        return super()._advice(status)


def connect(wanted: ApiSettings, known: ApiCredentials, deadline: float) -> Sensu:
    """The API of these settings; nothing is asked yet. Raises Misconfigured for a url or ca_file that is none."""
    return (Go if wanted.kind == GO else Core)(wanted, known, deadline)


def _core_result(value: "dict[str, object]") -> "Result | None":
    return _result({"client": {"name": value.get("client")}, "check": value.get("check")})


def _go_result(value: "dict[str, object]") -> "Result | None":
    return _result(value)


def _result(document: "dict[str, object]") -> "Result | None":
    """The result of an event, None where it is of no check (metrics only)."""
    try:
        event = Event.from_sensu(document)
    except BadEvent:
        return None
    if not event.check:
        return None
    return Result(
        event.entity, event.check, event.status, event.output, event.executed, event.runner, event.namespace,
        event.kind, _texts(document, "labels"), _texts(document, "annotations"),
    )  # fmt: skip


def _texts(document: "dict[str, object]", key: str) -> "dict[str, str]":
    """Labels or annotations: the entity's, and over them the check's."""
    found: dict[str, str] = {}
    for part in ("entity", "check"):
        metadata = _dict(_dict(document, part), "metadata")
        found.update((name, value) for name, value in _dict(metadata, key).items() if isinstance(value, str))
    return found


def _silence(value: "dict[str, object]") -> Silence:
    told = (value.get(key) for key in ("subscription", "check", "reason"))
    subscription, check, reason = (one if isinstance(one, str) else "" for one in told)
    return Silence(subscription, "" if check == "*" else check, reason)


def _total(reply: Reply) -> int:
    """How many there are in all, by Core's header; 0 where it does not say."""
    try:
        total = json.loads(reply.headers.get("X-Pagination") or "{}").get("total")
    except (ValueError, AttributeError, RecursionError):
        return 0
    return total if type(total) is int else 0


def _part(name: str) -> str:
    return quote(name, safe="")


def _dict(parent: object, key: str) -> "dict[str, object]":
    value = parent.get(key) if isinstance(parent, dict) else None
    return value if isinstance(value, dict) else {}
