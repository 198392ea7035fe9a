"""Jenkins' remote API, as far as a handler needs it: ask for a build once, and find out later what became of it.

Every answer below was seen on Jenkins 2.462.3 and 2.568.2 (tests/recordings/jenkins).
"""

import re
import time
from collections import namedtuple
from urllib.parse import quote, quote_plus, unquote, urlencode, urlsplit

from .exchange import NotSent, Reply, Server, Unanswered, basic
from .fleet import COALESCED, REJECTED, SENT, UNKNOWN, UNSENT
from .following import (
    ABSENT,
    CANCELLED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    UNREADABLE,
    UNSUCCESSFUL,
    Sighting,
)
from .outcome import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .fleet import Request

# The name of the parameter that carries the request's id. The job does its work once per id; see checks/jenkins.
REQUEST_ID = "REQUEST_ID"

# Pauses before asking again a Jenkins that certainly did not take the request: a proxy that reloads, a short restart.
_RETRY_PAUSES = (0.5, 1.0)
_BUILDS_PAGE = 100
_CLOCKS_DIFFER_SECONDS = 3600
_BETWEEN_QUEUE_AND_BUILD_SECONDS = 0.2
# What Jenkins answers to a request that it does not take. Another status is of what stands before it, which may have
# handed the request on.
_NO = (301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 409, 500)


class Answer(namedtuple("Answer", "state code text queue_item again", defaults=(None, False))):
    """What became of one trigger().

    state       SENT, COALESCED, REJECTED, UNSENT or UNKNOWN, as fleet.py defines them
    code        a word for logs
    text        for people: what was answered, and what to do about it
    queue_item  number in Jenkins' queue, None where it gave none
    again       bool: asking again in a moment may help
    """

    __slots__ = ()


class Unreadable(Exception):
    """Jenkins could not be read, or not in full, so that a request that was not found may yet be there."""


class Jenkins:
    """One controller, asked by one user.

    url          its root, with the context path where it has one
    login        (user, API token or password), or None
    needs_crumb  True unless login holds an API token
    deadline     by time.monotonic(); everything ends then, also name look-ups and answers that only drip
    ca_file      certificate authorities to trust instead of the system's, or ""
    """

    def __init__(
        self, url: str, login: "tuple[str, str] | None", needs_crumb: bool, deadline: float, ca_file: str = ""
    ) -> None:
        headers = {"Authorization": basic(*login)} if login else {}
        self._server = Server(url, headers, deadline, ca_file, "https://jenkins.example/ or …/jenkins/")
        self._anonymous = login is None
        self._secrets = [login[1], headers["Authorization"].partition(" ")[2]] if login else []
        self._needs_crumb = needs_crumb

    def trigger(self, job: str, fields: "Mapping[str, str]") -> Answer:
        """Ask for one build of job ("folder/name") with these form fields, parameters and the job's token.

        Sends at most one request that may have reached Jenkins.
        """
        path, form = _job_path(job) + "buildWithParameters", urlencode(fields)
        self._secrets += [fields["token"]] if fields.get("token") else []
        for pause in (*_RETRY_PAUSES, None):
            answer = self._trigger_once(path, form)
            if not answer.again or pause is None or self._server.left() < 2 * pause:
                break
            time.sleep(pause)
        return answer

    def sightings(self, job: str, requests: "Sequence[Request]") -> "dict[str, Sighting]":
        """{request id: what is seen of it} for requests of one job: two GETs where each of them is queued or built.

        What can't be read, or not in full, is UNREADABLE with why. ABSENT is only what a whole search did not find.
        """
        try:
            return self._sightings(job, {one.request_id: one for one in requests})
        except Unreadable as error:
            return {one.request_id: Sighting(UNREADABLE, detail=str(error)) for one in requests}

    def declared(self, job: str) -> "set[object]":
        """The names of the job's parameters; Jenkins drops what a job does not declare. Raises Unreadable."""
        about, _ = self._list(_job_path(job) + "api/json", "property[parameterDefinitions[name]]", "property")
        return {name for names in _declared(about) for name in names}

    def _sightings(self, job: str, wanted: "dict[str, Request]") -> "dict[str, Sighting]":
        found: dict[str, Sighting] = {}
        for item in self._queue(job):
            request_id = _parameter(item, REQUEST_ID)
            if isinstance(request_id, str) and request_id in wanted:
                found[request_id] = Sighting(QUEUED, _number(item.get("id")))
        built: dict[str, Sighting] = {}

        def read(builds: "Iterator[dict[str, object]]") -> None:
            for build in builds:
                request_id = _parameter(build, REQUEST_ID)
                if isinstance(request_id, str) and request_id in wanted:
                    built.setdefault(request_id, _seen(build))  # the newest comes first
                if len(built) == len(wanted):
                    return

        # What is queued was hardly built before; the latest builds tell.
        missing = [one.created_wall for request_id, one in wanted.items() if request_id not in found]
        read(self._builds(job, min(missing, default=float("inf"))))
        if any(one not in found and one not in built for one in wanted):
            # What left the queue just before it was read may not have been among the builds yet.
            time.sleep(_BETWEEN_QUEUE_AND_BUILD_SECONDS)
            read(self._builds(job, float("inf")))
        for request_id, seen in built.items():
            # Asked for again after a build that failed, it is on its way; after one that did not, that is the news.
            if request_id not in found or seen.kind != UNSUCCESSFUL:
                found[request_id] = seen
        for request_id, one in wanted.items():
            if request_id not in found:
                found[request_id] = self._left(one)
        return found

    def _left(self, one: "Request") -> Sighting:
        """What is seen of a request that is neither queued nor built: cancelled, or just on its way between the two."""
        if one.queue_item is None:
            return Sighting(ABSENT)
        path = f"/queue/item/{one.queue_item}/api/json"
        tree = "cancelled,actions[parameters[name,value]]"
        try:
            reply = self._server.exchange("GET", f"{path}?tree={quote(tree, safe='[],')}")
            if reply.status == 404:  # five minutes after it left the queue
                return Sighting(ABSENT)
            if reply.status != 200:
                raise Unreadable(f"{path} answered {reply.status}")
            item = reply.json()
        except (NotSent, Unanswered) as error:
            raise Unreadable(str(error)) from None
        except ValueError:
            raise Unreadable(f"{path} answered no JSON") from None
        if _parameter(item, REQUEST_ID) != one.request_id:  # Jenkins began its numbers anew
            return Sighting(ABSENT)
        if item.get("cancelled") is True:
            return Sighting(CANCELLED, one.queue_item)
        # It has just left the queue, for a build that is not listed yet.
        return Sighting(QUEUED, one.queue_item)

    def _queue(self, job: str) -> "list[dict[str, object]]":
        """What of that job is queued. Raises Unreadable."""
        tree = "items[id,task[url],actions[parameters[name,value]]]"
        return [item for item in self._list("/queue/api/json", tree, "items")[1] if _is_of(item, job)]

    def _builds(self, job: str, since_wall: float) -> "Iterator[dict[str, object]]":
        """The builds of a job, newest first, those since then and maybe more; at least one page. Raises Unreadable."""
        wanted = "number,queueId,timestamp,building,result,actions[parameters[name,value]]"
        page, oldest, lowest = 0, float("inf"), 0
        while oldest > (since_wall - _CLOCKS_DIFFER_SECONDS) * 1000 or page == 0:
            builds_tree = f"allBuilds[{wanted}]{{{page},{page + _BUILDS_PAGE}}}"
            tree = f"nextBuildNumber,property[parameterDefinitions[name]],{builds_tree}"
            about, builds = self._list(_job_path(job) + "api/json", tree, "allBuilds")
            for build in builds:
                yield build
                oldest = _number(build.get("timestamp")) or oldest
                lowest = _number(build.get("number")) or lowest
            lowest = lowest or _number(about.get("nextBuildNumber")) or 1
            if not any(REQUEST_ID in names for names in _declared(about)):
                raise Unreadable(f"the job has no parameter {REQUEST_ID}, so its builds can't be told apart: add it")
            if len(builds) < _BUILDS_PAGE:
                if lowest > 1 and oldest > since_wall * 1000 and since_wall != float("inf"):
                    raise Unreadable("older builds were discarded, its own perhaps: let the job keep those of a day")
                return
            page += _BUILDS_PAGE

    def _list(self, path: str, tree: str, key: str) -> "tuple[dict[str, object], list[dict[str, object]]]":
        """What path answers, and its list of objects under key."""
        try:
            reply = self._server.exchange("GET", f"{path}?tree={quote(tree, safe='[],')}")
            if reply.status != 200:
                why = "Jenkins is starting" if _is_starting(reply) else "the user needs Overall/Read and Job/Read"
                why = "there is no such job any more, or the user needs Job/Read" if reply.status == 404 else why
                raise Unreadable(f"{path} answered {reply.status}: {why}")
            about = reply.json()
        except (NotSent, Unanswered) as error:
            raise Unreadable(str(error)) from None
        except ValueError:
            raise Unreadable(f"{path} answered no JSON") from None
        if not isinstance(about.get(key), list):
            raise Unreadable(f"{path} did not list its {key}")
        return about, _dicts(about, key)

    def _trigger_once(self, path: str, form: str) -> Answer:
        try:
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            if self._needs_crumb:
                reply = self._server.exchange("GET", "/crumbIssuer/api/json")
                # 404: this controller wants no crumbs. 403: anonymous may not read; the POST tells whether it may
                # build.
                if reply.status == 200:
                    headers.update(_crumb(reply))
                elif reply.status not in (403, 404):
                    return self._refusal(reply, "GET /crumbIssuer", sent=False)
        except NotSent as error:
            return Answer(REJECTED if error.code == "tls" else UNSENT, error.code, str(error), again=error.again)
        except (Unanswered, ValueError) as error:
            return Answer(UNSENT, "unreachable", f"no crumb from /crumbIssuer: {error}")
        try:
            reply = self._server.exchange("POST", path, form, headers)
        except NotSent as error:
            return Answer(REJECTED if error.code == "tls" else UNSENT, error.code, str(error), again=error.again)
        except Unanswered as error:
            return Answer(UNKNOWN, "unknown-outcome", str(error))
        item = _queue_item(reply)
        if reply.status == 201 and (item or "X-Jenkins" in reply.headers):
            return Answer(SENT, "sent", f"queue item {item}" if item else "Jenkins named no queue item", item)
        if reply.status == 303 and item:
            return Answer(COALESCED, "coalesced", f"Jenkins had it queued already, item {item}", item)
        return self._refusal(reply, "POST " + path, sent=True)

    def _refusal(self, reply: Reply, what: str, sent: bool) -> Answer:
        """An answer that is no build. Final only where the controller is up: while it starts it says anything."""
        status, what = reply.status, f"{what} answered {reply.status}"
        is_starting, doubt = _is_starting(reply), ""
        if status in (401, 403, 500) and "X-Jenkins" not in reply.headers:
            is_starting, doubt = self._doubt()
        if is_starting:
            return Answer(UNSENT, "starting", f"{what}: Jenkins is starting", again=True)
        text = f"{what}: {_advice(reply, self._anonymous, self._redacted)}" + (
            f"; or url leads elsewhere: {doubt}" if doubt else ""
        )
        if status == 429 or (status == 503 and not sent):
            return Answer(UNSENT, "unreachable", text, again=True)
        if status not in _NO or (status == 500 and doubt):
            # Not Jenkins' word: whether it got the request is anybody's guess, unless that was only a look.
            return Answer(UNKNOWN if sent else UNSENT, "unknown-outcome" if sent else "unreachable", text)
        return Answer(REJECTED, "rejected", text)

    def _redacted(self, text: str) -> str:
        """What a server said, without the secrets that it may echo, before anything is cut off it."""
        for secret in self._secrets:
            for form in (secret, quote(secret, safe=""), quote_plus(secret), quote(secret)):
                text = text.replace(form, "***")
        return text

    def _doubt(self) -> "tuple[bool, str]":
        """(is this a Jenkins that starts, why it may be none; "" where it is one that is up).

        Asked without login: a wrong one gets 401 either way.
        """
        try:
            reply = self._server.exchange("GET", "/api/json?tree=mode", anonymous=True)
        except (NotSent, Unanswered) as error:
            return False, str(error)
        if reply.status in (200, 403) and "X-Jenkins" in reply.headers:
            return False, ""
        return _is_starting(reply), f"GET /api/json answered {reply.status} without X-Jenkins"


def _job_path(job: str) -> str:
    """/job/A/job/B/ of "A/B"."""
    return "".join(f"/job/{quote(name, safe='')}" for name in job.split("/")) + "/"


def _crumb(reply: Reply) -> "dict[str, str]":
    """The headers that show that who POSTs had fetched the crumb; it counts only with its session's cookie."""
    given = reply.json()
    field, crumb = given.get("crumbRequestField"), given.get("crumb")
    cookies = "; ".join(cookie.partition(";")[0] for cookie in reply.headers.get_all("Set-Cookie", []))
    if not isinstance(field, str) or not re.fullmatch(
        r"[\w.-]{0,40}crumb[\w.-]{0,40}", field, re.ASCII | re.IGNORECASE
    ):
        raise ValueError("its answer makes no sense")
    if (
        not isinstance(crumb, str)
        or not crumb
        or not (crumb + cookies).isascii()
        or not (crumb + cookies).isprintable()
    ):
        raise ValueError("its answer makes no sense")
    return {field: crumb, "Cookie": cookies} if cookies else {field: crumb}


def _queue_item(reply: Reply) -> "int | None":
    """N of Location …/queue/item/N/. The rest of it is made of the request's Host header and must not be followed."""
    match = re.search(r"/queue/item/(\d{1,18})/$", reply.headers.get("Location") or "", re.ASCII)
    return int(match[1]) if match else None


def _is_starting(reply: Reply) -> bool:
    """Whether this is Jenkins' own 503, and not that of what stands before it.

    The page comes without a header of Jenkins and in the server's language, but in each it names Jenkins.
    """
    return reply.status == 503 and ("X-Jenkins" in reply.headers or b"Jenkins" in reply.body)


def _advice(reply: Reply, anonymous: bool, redacted: "Callable[[str], str]") -> str:
    """What to configure, by status and the words on Jenkins' error page."""
    page, location = reply.body.decode("utf-8", "replace"), reply.headers.get("Location") or ""
    if "Invalid token" in page:
        return 'the job has another `token`, see its "Trigger builds remotely"'
    if "No valid crumb" in page:
        return "set user and api_token_file" if anonymous else "a proxy loses the crumb's session: use api_token_file"
    missing = reply.headers.get("X-Required-Permission")
    if missing:
        return f"the user lacks {clean(redacted(missing), 80)}"
    if reply.status in (301, 302, 303, 307, 308):
        # A veto sends to the job's page; a proxy that wants another scheme or host sends to the same path there.
        if "/job/" in location and "buildWithParameters" not in location:
            return "the queue did not take it: a plugin vetoes builds, or the job can't be built now"
        if "login" in location.lower():
            return "it is sent to a login page: url must lead to Jenkins itself, not through single sign-on"
        where = clean(redacted(location).partition("?")[0], 120) or "nowhere"
        return f"it is redirected to {where}: set url to where that leads"
    return _ADVICE.get(reply.status, "that is not how Jenkins answers: does url lead to it?")


_NO_ANSWER = "what stands before Jenkins has no answer from it: is it up?"
_ADVICE = {
    201: "it names no queue item, as Jenkins does: does url lead to it?",
    400: "the job takes no parameters: it needs REQUEST_ID (checks/jenkins/lxc_provision.xml has it)",
    401: "user, or his token or password, is wrong",
    403: "the job has another `token` or none was given, or the user may not build it (Job/Build)",
    404: "there is no such job, or the user may not see it: check job, url (its context path), and Job/Read",
    405: "the job can't be built like this: check that `job` is a job and no folder",
    409: "the job is disabled",
    429: "what stands before Jenkins is too busy",
    500: "Jenkins failed on it: does the job have a parameter REQUEST_ID, and do choices allow the `parameters`?",
    502: _NO_ANSWER,
    503: _NO_ANSWER,
    504: _NO_ANSWER,
}


def _seen(build: "dict[str, object]") -> Sighting:
    """What a build, whose request is known, says of it."""
    numbers = _number(build.get("queueId")), _number(build.get("number"))
    result = build.get("result")
    if build.get("building") is True or not isinstance(result, str):
        return Sighting(RUNNING, *numbers)
    if result == "SUCCESS":
        return Sighting(SUCCEEDED, *numbers)
    return Sighting(UNSUCCESSFUL, *numbers, f"ended as {clean(result, 40)}")


def _is_of(item: "dict[str, object]", job: str) -> bool:
    """Whether a queue item is of that job, as far as it says. Its URL is of the configured root, whatever that is."""
    task = item.get("task")
    url = task.get("url") if isinstance(task, dict) else None
    if not isinstance(url, str):
        return True
    # Names match without regard to case on a plain controller.
    path = unquote(urlsplit(url).path).rstrip("/").casefold()
    return path.endswith(unquote(_job_path(job)).rstrip("/").casefold())


def _parameter(thing: object, name: str) -> object:
    """The value of a parameter of a queue item or build, None where it has none."""
    for action in _dicts(thing, "actions"):
        for parameter in _dicts(action, "parameters"):
            if parameter.get("name") == name:
                return parameter.get("value")
    return None


def _declared(job: "dict[str, object]") -> "list[list[object]]":
    return [[p.get("name") for p in _dicts(entry, "parameterDefinitions")] for entry in _dicts(job, "property")]


def _dicts(parent: object, key: str) -> "list[dict[str, object]]":
    value = parent.get(key) if isinstance(parent, dict) else None
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _number(value: object) -> "int | None":
    return value if type(value) is int else None
