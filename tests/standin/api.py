"""Answers requests the way Jenkins does: who may do what, under which address, with which answer."""

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets

from . import config, model
from .beans import BadTree, Beans, parse_tree, path_of, render, to_xml
from .controller import Vetoed
from .faults import Phase
from .messages import Answer, Form, Response, container_error, empty, starting_page, text
from .runner import without_notes

_NO_CRUMB = "No valid crumb was included in the request"
_PERMALINKS = (
    "lastBuild",
    "lastCompletedBuild",
    "lastFailedBuild",
    "lastStableBuild",
    "lastSuccessfulBuild",
    "lastUnstableBuild",
    "lastUnsuccessfulBuild",
)


class Api:
    """The HTTP face of one Jenkins."""

    def __init__(self, controller, profile, users, prefix):
        self.controller = controller
        self.profile = profile
        self.users = users
        self.prefix = prefix
        self.root_url = None  # the configured one; None: taken from the request
        self.local = None  # (scheme, host:port) of the listener
        self.anonymous_read = False
        self._key = secrets.token_bytes(16)

    def forget_sessions(self):
        self._key = secrets.token_bytes(16)

    def answer(self, request, phase):
        """The Response to a Request in a phase of the start."""
        try:
            return _Exchange(self, request, phase).answer()
        except Answer as answer:
            return answer.response


class _Exchange:
    """One request on its way to a response."""

    def __init__(self, api, request, phase):
        self.api = api
        self.controller = api.controller
        self.profile = api.profile
        self.request = request
        self.phase = phase
        self.form = Form(request)
        self.post = request.method == "POST"
        self.user = None
        self.by_token = False
        self.new_session = None
        self.scheme, self.host = self._addressed()

    # From the outside in

    def answer(self):
        if self.profile.refuses_blank_host and not self.request.headers.get("Host", "").strip():
            return container_error(400, "Blank Host")
        prefix = self.api.prefix
        path = self.form.path
        if prefix and path == prefix:
            return self._redirect(f"{prefix}/", self.profile.prefix_redirect)
        if prefix and not path.startswith(prefix + "/"):
            return container_error(404, "Not Found")
        self.segments = self.form.segments[1:] if prefix else self.form.segments
        self._pass_start()
        self._authenticate()
        self._check_crumb()
        if self.phase is Phase.LOADING:
            return starting_page(self.profile.starting)
        with self.controller.lock:
            return self._route()

    def _pass_start(self):
        """What a Jenkins says that has not got to its accounts yet."""
        if self.phase is Phase.FAILING:
            page = b"<html><head><title>Error 500</title></head></html>"
            failing = Response(500, [("Content-Type", "text/html;charset=utf-8")], page)
            raise Answer(failing if self.post else starting_page(self.profile.starting))
        if self.phase is Phase.UNSECURED:
            raise Answer(container_error(403, _NO_CRUMB) if self.post else starting_page(self.profile.starting))
        if self.phase is Phase.NO_USERS:
            if "Authorization" in self.request.headers:
                raise Answer(self._unauthorized())
            raise Answer(container_error(403, _NO_CRUMB) if self.post else starting_page(self.profile.starting))

    def _authenticate(self):
        anonymous = {model.READ, model.ITEM_READ, model.DISCOVER} if self.api.anonymous_read else ()
        self.user = model.User("anonymous", anonymous)
        header = self.request.headers.get("Authorization", "")
        scheme, _, value = header.partition(" ")
        if scheme.lower() != "basic":
            return
        try:
            name, _, secret = base64.b64decode(value.strip(), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise Answer(self._unauthorized()) from None
        user = self.api.users.get(name)
        if user is None or secret not in (user.password, user.api_token):
            raise Answer(self._unauthorized())
        self.user = user
        self.by_token = secret == user.api_token

    @property
    def anonymous(self):
        return self.user.name == "anonymous"

    def _unauthorized(self):
        response = container_error(401, "Unauthorized")
        forget = f"remember-me=; Path={self.api.prefix or '/'}; {self.profile.forget_me}"
        headers = [("WWW-Authenticate", self.profile.challenge), ("Set-Cookie", forget)]
        return response._replace(headers=response.headers + headers)

    def _session(self):
        found = re.search(r"JSESSIONID=([^;\s]+)", self.request.headers.get("Cookie", ""))
        return found.group(1) if found else None

    def _crumb(self, session):
        return hmac.new(self.api._key, f"{self.user.name} {session}".encode(), hashlib.sha256).hexdigest()

    def _check_crumb(self):
        """Every POST needs a crumb of its own session, unless it came with an API token."""
        if not self.post or self.by_token:
            return
        given = self.request.headers.get("Jenkins-Crumb") or self.form.get("Jenkins-Crumb")
        session = self._session()
        if given and session and hmac.compare_digest(given.encode(), self._crumb(session).encode()):
            return
        refusal = container_error(403, _NO_CRUMB)
        if given and not session:  # to check it, Jenkins has opened a session
            refusal.headers.append(self._new_cookie())
        raise Answer(refusal)

    def _new_cookie(self):
        self.new_session = "node0" + secrets.token_hex(8)
        cookie = f"JSESSIONID={self.new_session}; Path={self.api.prefix or '/'}; HttpOnly{self.profile.cookie_suffix}"
        return ("Set-Cookie", cookie)

    # Addresses

    def _addressed(self):
        """(scheme, host[:port]) that the client seems to have used: Jenkins believes the request."""
        headers = self.request.headers
        scheme, local = self.api.local
        host = headers.get("Host", "").strip() or local
        forwarded = dict(re.findall(r"(\w+)=\"?([^;,\"]+)", headers.get("Forwarded", "")))
        if forwarded.get("host"):
            port = host.partition(":")[2] if self.profile.forwarded_keeps_port else ""
            host = forwarded["host"] + (f":{port}" if port and ":" not in forwarded["host"] else "")
        scheme = headers.get("X-Forwarded-Proto") or forwarded.get("proto") or scheme
        if headers.get("X-Forwarded-Host"):
            host = headers.get("X-Forwarded-Host")
        port = headers.get("X-Forwarded-Port")
        if port and ":" not in host:
            host += f":{port}"
        default = {"http": ":80", "https": ":443"}.get(scheme, "")
        if default and host.endswith(default):
            host = host[: -len(default)]
        return scheme, host

    def _absolute(self, path):
        return f"{self.scheme}://{self.host}{path}"

    def _redirect(self, path, status=302):
        location = path if self.profile.relative_redirects else self._absolute(path)
        return empty(status, ("Location", location))

    def _home(self, path=""):
        return f"{self.api.prefix}/{path}"

    @property
    def root(self):
        """The root of URLs inside answers: the configured one, the request's where none is."""
        return self.api.root_url or self._absolute(self._home())

    # Pages of Jenkins

    def _page(self, status, title, headers=()):
        """A page of Jenkins proper. Rendering one opens a session."""
        known = [
            ("Content-Type", "text/html;charset=utf-8"),
            ("X-Jenkins", self.profile.version),
            ("X-Jenkins-Session", self.controller.session),
        ]
        if not self._session():
            known.append(self._new_cookie())
        head = f"<title>{title}</title>" if title else ""
        return Response(status, known + list(headers), f"<html><head>{head}</head><body></body></html>".encode())

    def _titled(self, status, title, headers=()):
        return self._page(status, self.profile.title.format(title), headers)

    def _not_found(self):
        raise Answer(self._titled(404, "Not Found"))

    def _oops(self, status=500, headers=()):
        raise Answer(self._titled(status, "Jenkins", headers))

    def _only_post(self, title=None, allow=None):
        if not self.post:
            allow = self.profile.allow_everywhere if allow is None else allow
            raise Answer(self._titled(405, title or "Method Not Allowed", [("Allow", "POST")] if allow else []))

    def _denied(self, permission=None):
        """A 403. Anonymous gets a page that leads to the login instead of one that explains."""
        headers = []
        if permission and (not self.anonymous or self.profile.tells_anonymous):
            headers = [("X-You-Are-Authenticated-As", self.user.name), ("X-Required-Permission", permission)]
        raise Answer(self._page(403, None if self.anonymous else "Jenkins", headers))

    def _need(self, permission, name=None):
        if not self.user.may(permission):
            self._denied(name or permission)

    # Routing

    def _route(self):
        parts = self.segments
        if parts == ["login"]:
            return self._titled(200, "Sign in")
        if parts == ["tcpSlaveAgentListener"]:
            return text("\n\n  Jenkins\n")
        if parts[:2] == ["whoAmI", "api"]:
            return self._export(parts[2:], Beans.who_am_i, self.anonymous)
        self._need(model.READ)
        name = parts[0] if parts else ""
        handler = {
            "": self._dashboard,
            "api": self._root_api,
            "job": self._job_tree,
            "queue": self._queue,
            "crumbIssuer": self._crumb_issuer,
            "createItem": self._create_item,
            "quietDown": self._quiet_down,
            "cancelQuietDown": self._quiet_down,
            "computer": self._computer,
            "me": self._me,
            "pluginManager": self._plugin_manager,
        }.get(name, self._not_found)
        return handler()

    def _dashboard(self):
        return self._titled(200, "Dashboard")

    def _root_api(self):
        return self._export(self.segments[1:], Beans.root, self.api.root_url)

    def _computer(self):
        if self.segments[1:2] != ["api"]:
            self._not_found()
        return self._export(self.segments[2:], Beans.computers)

    def _me(self):
        if self.anonymous or self.segments[1:2] != ["api"]:
            self._not_found()
        return self._export(self.segments[2:], Beans.me)

    def _plugin_manager(self):
        if self.segments[1:] != ["api", "json"]:
            self._not_found()
        self._need(model.ADMINISTER)
        return self._json({"_class": "hudson.LocalPluginManager", "plugins": []})

    def _crumb_issuer(self):
        if self.segments[1:] != ["api", "json"]:
            self._not_found()
        headers = []
        session = self._session()
        if not session:
            headers = [self._new_cookie()]
            session = self.new_session
        crumb = self._crumb(session)
        issuer = "hudson.security.csrf.DefaultCrumbIssuer"
        return self._json({"_class": issuer, "crumb": crumb, "crumbRequestField": "Jenkins-Crumb"}, headers)

    def _quiet_down(self):
        self._only_post()
        if not self.user.may(model.ADMINISTER):
            self._denied(self.profile.quiet_down_permission)
        self.controller.quieting = self.segments[0] == "quietDown"
        self.controller.kick()
        return self._redirect(self._home())

    # Exports

    def _json(self, data, headers=()):
        known = [
            ("X-Jenkins", self.profile.version),
            ("X-Jenkins-Session", self.controller.session),
            ("Content-Type", "application/json;charset=utf-8"),
        ]
        indent = 2 if self.form.get("pretty") == "true" else None
        return Response(200, known + list(headers), json.dumps(data, indent=indent, ensure_ascii=False).encode())

    def _export(self, flavour, method, *arguments):
        """Answer .../api/json or .../api/xml with a bean of the Beans method."""
        if flavour not in (["json"], ["xml"]):
            self._not_found()
        if self.form.get("jsonp"):
            message = "jsonp forbidden; implement jenkins.security.SecureRequester"
            raise Answer(container_error(403, message))
        tree = self.form.get("tree")
        bean = method(Beans(self.controller, self.profile, self.user, self.root), *arguments)
        try:
            data = render(bean, parse_tree(tree) if tree else None, int(self.form.get("depth") or 0))
        except (BadTree, ValueError):
            self._oops()
        if flavour == ["json"]:
            return self._json(data)
        name = bean.cls.rsplit(".", 1)[-1]
        body = to_xml(name[0].lower() + name[1:], data)
        response = self._json(None)
        headers = response.headers[:2] + [("Content-Type", "application/xml;charset=UTF-8")]
        return Response(200, headers, body.encode())

    # Queue

    def _queue(self):
        parts = self.segments[1:]
        if parts[:1] == ["api"]:
            return self._export(parts[1:], Beans.queue)
        if parts == ["cancelItem"]:
            self._only_post()
            return self._cancel(self._visible_item(self.form.get("id"), page="Jenkins"))
        if len(parts) >= 2 and parts[0] == "item":
            item = self._visible_item(parts[1])
            if parts[2:3] == ["api"]:
                return self._export(parts[3:], Beans.item, item)
            if parts[2:] == ["cancelQueue"]:
                self._only_post()
                return self._cancel(item)
            if not parts[2:] and self.profile.queue_item_page:
                return text(f"An item of the queue; see {self._home(f'queue/item/{item.number}/api/json')}")
        return self._not_found()

    def _visible_item(self, number, page="Not Found"):
        if number is not None and not number.isdigit():
            self._oops()
        item = self.controller.item(int(number)) if number else None
        if item is None or not self.user.may(model.ITEM_READ):
            raise Answer(self._titled(404, page))
        return item

    def _cancel(self, item):
        if not self.user.may(model.CANCEL):
            self._oops(422)
        if item.state == "left":
            self._oops(500)
        self.controller.cancel(item)
        return empty(204)

    # Jobs

    def _job_tree(self):
        names, parts = [], self.segments
        while len(parts) >= 2 and parts[0] == "job":
            names.append(parts[1])
            parts = parts[2:]
        job = self.controller.job("/".join(names))
        if job is None or not (self.user.may(model.ITEM_READ) or self.user.may(model.DISCOVER)):
            self._not_found()
        if not self.user.may(model.ITEM_READ):
            self._denied()
        if not parts:
            return self._job_page(job)
        if parts[0] == "api":
            return self._export(parts[1:], Beans.job, job)
        if parts == ["createItem"] and job.config.is_folder:
            return self._create_item(job.full_name)
        handler = {
            "config.xml": self._config_xml,
            "doDelete": self._delete,
            "disable": self._switch,
            "enable": self._switch,
        }.get(parts[0])
        if handler and len(parts) == 1:
            return handler(job)
        if job.config.is_folder:
            self._not_found()
        if parts == ["build"]:
            return self._build(job)
        if parts == ["buildWithParameters"]:
            return self._build_with_parameters(job)
        return self._run(job, parts[0], parts[1:])

    def _job_page(self, job):
        if self.request.method == "DELETE":
            self._need(model.DELETE)
            self.controller.delete(job)
            return empty(204)
        if not self.form.path.endswith("/"):
            return self._redirect(self._home(path_of(job)))
        return self._titled(200, job.name)

    def _config_xml(self, job):
        self._need(model.CONFIGURE)
        if self.request.method == "GET":
            return text(job.xml, "application/xml")
        if not self.post:
            return empty(400)
        try:
            job.configure(self.request.body.decode("utf-8"))
        except config.BadConfig:
            self._oops()
        self.controller.kick()
        return empty(200)

    def _delete(self, job):
        self._only_post()
        self._need(model.DELETE)
        self.controller.delete(job)
        parent = self.controller.job(job.parent) if job.parent else None
        return self._redirect(self._home(path_of(parent) if parent else ""))

    def _switch(self, job):
        self._only_post()
        self._need(model.CONFIGURE)
        if self.segments[-1] == "disable":
            self.controller.disable(job)
        else:
            job.disabled = False
        return self._redirect(self._home(path_of(job)))

    def _create_item(self, folder=""):
        self._only_post()
        self._need(model.CREATE)

        def refuse(message):
            self._oops(400, [("X-Error", message)])

        name = self.form.get("name")
        mode = self.form.get("mode")
        is_xml = re.match(r"(application|text)/xml", self.request.headers.get("Content-Type", ""))
        if not name:
            refuse("Query parameter 'name' is required")
        unsafe = re.search(r"[?*/\\%!@#$^&|<>\[\]:;]", name)
        if unsafe:
            refuse(f"{unsafe.group()}  is an unsafe character")
        full_name = f"{folder}/{name}" if folder else name
        if self.controller.job(full_name):
            refuse(f"A job already exists with the name  {name} ")
        if mode == "copy":
            original = self.controller.job(self.form.get("from") or "")
            if original is None:
                refuse("No such job")
            copy = self.controller.add_job(full_name, original.xml)
            return self._redirect(self._home(path_of(copy) + "configure"))
        if not is_xml:
            refuse("No mode given")
        try:
            self.controller.add_job(full_name, (self.request.body or b"").decode("utf-8"))
        except config.BadConfig:
            self._oops()
        return empty(200)

    # Asking for builds

    def _delay(self):
        """delay=10sec is seconds, a bare number milliseconds; in whole seconds both."""
        given = self.form.get("delay")
        if given is None:
            return None
        found = re.fullmatch(r"(-?\d+)(secs?)?", given.strip())
        if not found:
            self._oops()
        return int(found.group(1)) if found.group(2) else int(found.group(1)) // 1000

    def _only_buildable(self, job):
        if not job.buildable:
            if self.profile.plain_errors:
                raise Answer(container_error(409, f"{job.full_name} is not buildable"))
            self._oops(409)

    def _authorize(self, job):
        """By the job's token, else by permission and POST; returns the cause."""
        token, given = job.config.auth_token, self.form.get("token")
        if token and given is not None:
            if not hmac.compare_digest(given.encode(), token.encode()):
                self._denied()
            # Only with the right token is the cause what the request says.
            return model.Cause(None, "127.0.0.1", self.form.get("cause"))
        self._need(model.BUILD)
        self._only_post(self.profile.build_get_title, allow=True)
        return model.Cause(self.user.name, None, None)

    def _build(self, job):
        delay = self._delay()
        self._only_buildable(job)
        if job.config.parameters and not self.post:
            return self._page(405, "Jenkins")  # the form that asks for the parameters
        cause = self._authorize(job)
        if job.config.parameters:
            return self._build_by_form(job, cause, delay)
        item = self._schedule(job, None, cause, delay)[0]
        return empty(201, ("Location", self._item_url(item)))

    def _build_by_form(self, job, cause, delay):
        """What the form in the browser sends: a json field. The answer does not tell the queue item."""
        if not self.form.is_form:
            raise Answer(container_error(400, "Nothing is submitted"))
        if self.form.get("json") is None:
            raise Answer(container_error(400, "This page expects a form submission"))
        try:
            sent = json.loads(self.form.get("json"))
            listed = sent.get("parameter", [])
            listed = [listed] if isinstance(listed, dict) else listed
            definitions = {each.name: each for each in job.config.parameters}
            values = tuple(config.value_of(definitions[each["name"]], str(each["value"])) for each in listed)
        except (ValueError, KeyError, TypeError, AttributeError):
            self._oops()
        _, new = self._schedule(job, values, cause, delay)
        page = self._home(path_of(job))
        if not new:
            return self._redirect(page)
        if self.form.query.get("statusCode") == "303" and sent.get("redirectTo"):
            return empty(303, ("Location", self._absolute(sent["redirectTo"])))
        return empty(201, ("Location", self._absolute(page)))

    def _build_with_parameters(self, job):
        delay = self._delay()
        cause = self._authorize(job)
        self._only_buildable(job)
        if not job.config.parameters:
            if self.profile.not_parameterized == 400:
                raise Answer(container_error(400, f"{job.full_name} is not parameterized"))
            self._oops(self.profile.not_parameterized)
        values = []
        for definition in job.config.parameters:
            given = self.form.all(definition.name)
            if len(given) > 1:
                self._oops()
            try:
                values.append(config.value_of(definition, given[0]) if given else config.default_of(definition))
            except ValueError:
                self._oops()
        item, new = self._schedule(job, tuple(values), cause, delay)
        return empty(201 if new else self.profile.equal_status, ("Location", self._item_url(item)))

    def _schedule(self, job, values, cause, delay):
        try:
            return self.controller.schedule(job, values, cause, delay)
        except Vetoed:
            raise Answer(self._redirect(self._home(path_of(job)))) from None

    def _item_url(self, item):
        return self._absolute(self._home(f"queue/item/{item.number}/"))

    # Builds

    def _run(self, job, name, parts):
        build = self._find(job, name)
        if build is None:
            self._not_found()
        here = self._home(f"{path_of(job)}{build.number}/")
        if parts[:1] == ["api"]:
            return self._export(parts[1:], Beans.build, build)
        if not parts:
            return self._titled(200, f"{job.name} #{build.number}")
        if parts == ["consoleText"]:
            return text(without_notes(build.raw_log))
        if parts == ["logText", "progressiveText"]:
            return self._progressive_text(build)
        if parts == ["buildNumber"]:
            return text(str(build.number), "text/plain;charset=US-ASCII")
        if parts == ["buildStatus"]:
            return self._redirect(self._home(f"images/48x48/{model.COLORS.get(build.result, 'nobuilt')}.png"))
        if parts == ["stop"]:
            self._only_post()
            self._need(model.CANCEL)
            if build.building:
                build.aborted_by = self.user.name
            return self._redirect(here)
        if parts == ["doDelete"]:
            self._only_post()
            self._need(model.DELETE, "hudson.model.Run.Delete")
            del job.builds[build.number]
            return self._redirect(self._home(path_of(job)))
        return self._not_found()

    def _find(self, job, name):
        if name.isdigit():
            return job.builds.get(int(name))
        if name not in _PERMALINKS:
            return None
        beans = Beans(self.controller, self.profile, self.user, self.root)
        found = render(beans.job(job), {name: ({"number": ({}, None)}, None)})[name]
        return job.builds[found["number"]] if found else None

    def _progressive_text(self, build):
        log = build.raw_log
        start = int(self.form.get("start") or 0)
        shown = log[start:] if start <= len(log) else log  # beyond the end, all of it comes again
        if not self.profile.shows_notes:
            shown = without_notes(shown)
        headers = [("X-Text-Size", str(len(log)))]
        if build.building:
            headers.append(("X-More-Data", "true"))
        return text(shown.replace(b"\n", b"\r\n"), "text/plain;charset=utf-8", *headers)
