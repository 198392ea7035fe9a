"""The remote API's view of things: beans, and the tree parameter that picks from them."""

import re
from urllib.parse import quote
from xml.sax.saxutils import escape

from . import model
from .clock import span
from .runner import describe

_FREESTYLE = "hudson.model.FreeStyleProject"
_BUILD = "hudson.model.FreeStyleBuild"
_PERMALINKS = {
    "lastCompletedBuild": ("SUCCESS", "UNSTABLE", "FAILURE", "ABORTED"),
    "lastFailedBuild": ("FAILURE",),
    "lastStableBuild": ("SUCCESS",),
    "lastSuccessfulBuild": ("SUCCESS", "UNSTABLE"),
    "lastUnstableBuild": ("UNSTABLE",),
    "lastUnsuccessfulBuild": ("UNSTABLE", "FAILURE", "ABORTED"),
}


class Bean:
    """A thing the API exports. Values may be functions, so that circles are not followed until asked for."""

    def __init__(self, cls, fields, brief=None, shy=()):
        self.cls = cls
        self.fields = fields
        self.open = [name for name in fields if name not in shy]  # what shows without being asked for by name
        self.brief = self.open if brief is None else brief  # what shows of it inside another bean


class BadTree(ValueError):
    """The tree parameter does not parse."""


def parse_tree(text):
    """{name: (subtree, (start, end) or None)} of a tree parameter such as builds[number,queueId]{0,2}."""
    tree, rest = _parse_names(text)
    if rest:
        raise BadTree(text)
    return tree


def _parse_names(text):
    tree = {}
    while True:
        name, text = re.match(r"([^\[\]{},]*)(.*)", text, re.S).groups()
        subtree, bounds = {}, None
        if text.startswith("["):
            subtree, text = _parse_names(text[1:])
            if not text.startswith("]"):
                raise BadTree("unbalanced")
            text = text[1:]
        limits = re.match(r"\{(\d*)(,?)(\d*)\}", text)
        if limits:
            start, comma, end = limits.groups()
            first = int(start or 0)
            bounds = (first, (int(end) if end else None) if comma else first + 1)
            text = text[limits.end() :]
        if name:
            tree[name] = (subtree, bounds)
        if not text.startswith(","):
            return tree, text
        text = text[1:]


def render(bean, tree=None, depth=0):
    """JSON-able data of a bean: what the tree picks, or everything down to a depth."""
    if tree is not None and "*" not in tree:
        wanted = {name: branch for name, branch in tree.items() if name in bean.fields}
        shown = {name: _render(bean.fields[name], *branch, depth) for name, branch in wanted.items()}
    else:
        names = bean.open if depth >= 0 else bean.brief
        shown = {name: _render(bean.fields[name], None, None, depth - 1) for name in names}
    return {"_class": bean.cls, **shown} if bean.cls else shown


def _render(value, tree, bounds, depth):
    if callable(value):
        value = value()
    if isinstance(value, Bean):
        return render(value, tree, depth)
    if isinstance(value, (list, tuple)):
        part = value[slice(*bounds)] if bounds else value
        return [_render(each, tree, None, depth) for each in part]
    return value


def to_xml(name, data):
    """The same data as the XML flavour of the API."""
    if isinstance(data, list):
        return "".join(to_xml(name, each) for each in data)
    if isinstance(data, dict):
        cls = f" _class='{escape(data['_class'])}'" if "_class" in data else ""
        inner = "".join(to_xml(key, value) for key, value in data.items() if key != "_class")
        return f"<{name}{cls}>{inner}</{name}>"
    if data is None:
        return ""
    text = str(data).lower() if isinstance(data, bool) else str(data)
    return f"<{name}>{escape(text)}</{name}>"


def path_of(job):
    """job/A/job/B/ of A/B, ready for a URL."""
    return "".join(f"job/{quote(part, safe='')}/" for part in job.full_name.split("/"))


class Beans:
    """Builds beans for one request: the user decides what shows, the root URL how it is addressed."""

    def __init__(self, controller, profile, user, root):
        self._controller = controller
        self._profile = profile
        self._user = user
        self._root = root  # ends in a slash

    def sees(self, job):
        return self._user.may(model.ITEM_READ)

    # Causes and parameters

    def _cause(self, cause):
        if cause.user:
            fields = {"shortDescription": describe(cause), "userId": cause.user, "userName": cause.user}
            return Bean("hudson.model.Cause$UserIdCause", fields)
        fields = {"shortDescription": describe(cause), "addr": cause.address, "note": cause.note}
        return Bean("hudson.model.Cause$RemoteCause", fields)

    def _parameter(self, value):
        if value.kind == "Password":
            return Bean("hudson.model.PasswordParameterValue", {"name": value.name})
        kind = {"Choice": "String"}.get(value.kind, value.kind)
        return Bean(f"hudson.model.{kind}ParameterValue", {"name": value.name, "value": value.value})

    def _actions(self, thing, values):
        actions = []
        if values is not None:
            parameters = [self._parameter(value) for value in values]
            actions.append(Bean("hudson.model.ParametersAction", {"parameters": parameters}))
        # Equal causes are counted, not listed as they came.
        different = list(dict.fromkeys(thing.causes))
        causes = [self._cause(cause) for cause in different for _ in range(thing.causes.count(cause))]
        actions.append(Bean("hudson.model.CauseAction", {"causes": causes}))
        return actions

    # Queue

    def queue(self):
        items = [self.item(item) for item in self._controller.queued() if self.sees(item.job)]
        return Bean("hudson.model.Queue", {"discoverableItems": [], "items": items})

    def item(self, item):
        values = item.parameters
        shown = [f"\n{v.name}={'****' if v.kind == 'Password' else model.as_text(v)}" for v in values or ()]
        fields = {
            "actions": self._actions(item, values),
            "blocked": item.state == "blocked",
            "buildable": item.state == "buildable",
            "id": item.number,
            "inQueueSince": _ms(item.since),
            "params": "".join(shown),
            "stuck": False,
            "task": lambda: self.job(item.job),
            "url": f"queue/item/{item.number}/",
            "why": self._why(item),
        }
        if item.state == "waiting":
            fields["timestamp"] = _ms(item.due)
            return Bean("hudson.model.Queue$WaitingItem", fields)
        if item.state == "left":
            fields["cancelled"] = item.cancelled
            build = self._controller.executable_of(item)
            fields["executable"] = self.build(build) if build else None
            return Bean("hudson.model.Queue$LeftItem", fields)
        fields["buildableStartMilliseconds"] = _ms(item.buildable_since)
        if item.state == "blocked":
            return Bean("hudson.model.Queue$BlockedItem", fields)
        fields["pending"] = False
        return Bean("hudson.model.Queue$BuildableItem", fields)

    def _why(self, item):
        if item.state == "waiting":
            return f"In the quiet period. Expires in {span(max(0, item.due - self._controller.clock.now()))}"
        if item.state == "blocked":
            build = item.job.running[0]
            estimate = item.job.estimate_ms()
            left = estimate / 1000 - (self._controller.clock.now() - build.started)
            eta = span(max(0, left)) if estimate >= 0 else "N/A"
            return f"Build #{build.number} is already in progress (ETA: {eta})"
        if item.state == "buildable":
            quieting = self._controller.quieting
            return "Jenkins is about to shut down" if quieting else "Waiting for next available executor"
        return None

    # Jobs and builds

    def job(self, job):
        base = {"name": job.name, "url": self._root + path_of(job)}
        if job.config.is_folder:
            children = self._controller.children(job.full_name)
            fields = {
                **base,
                "description": job.config.description,
                "fullName": job.full_name,
                "jobs": lambda: [self.job(child) for child in children],
            }
            return Bean("com.cloudbees.hudson.plugins.folder.Folder", fields, ("name", "url"))
        queued = [item for item in self._controller.queued() if item.job is job]
        newest = job.newest_first()
        parameters = job.config.parameters
        definitions = {"parameterDefinitions": [_definition(each, named=True) for each in parameters]}
        unnamed = {"parameterDefinitions": [_definition(each, named=False) for each in parameters]}
        property_class = "hudson.model.ParametersDefinitionProperty"
        hidden = self._profile.transient_actions[1] if self._user.everything else 0
        fields = {
            **base,
            "actions": [Bean(property_class, unnamed)] * bool(parameters) + [Bean(None, {})] * hidden,
            "description": job.config.description,
            "displayName": job.name,
            "displayNameOrNull": None,
            "fullDisplayName": job.full_name.replace("/", " » "),
            "fullName": job.full_name,
            "buildable": job.buildable,
            "builds": lambda: [self.build(build) for build in newest],
            "color": job.color,
            "firstBuild": lambda: self._first(newest[-1:]),
            "healthReport": [],
            "inQueue": bool(queued),
            "keepDependencies": False,
            "lastBuild": lambda: self._first(newest),
            "nextBuildNumber": job.next_number,
            "property": [Bean(property_class, definitions)] * bool(parameters),
            "queueItem": lambda: self.item(queued[0]) if queued else None,
            "concurrentBuild": job.config.concurrent,
            "disabled": job.disabled,
            "downstreamProjects": [],
            "labelExpression": None,
            "scm": Bean("hudson.scm.NullSCM", {}),
            "upstreamProjects": [],
        }
        for name, results in _PERMALINKS.items():
            fields[name] = lambda results=results: self._first(job.finished(*results))
        fields["allBuilds"] = fields["builds"]
        return Bean(_FREESTYLE, fields, brief=("name", "url", "color"), shy=("allBuilds",))

    def _first(self, builds):
        return self.build(builds[0]) if builds else None

    def build(self, build):
        job = build.job
        actions = self._actions(build, build.values)
        if build.aborted_by and not build.building:
            short = f"Aborted by {build.aborted_by}"
            cause = Bean("jenkins.model.CauseOfInterruption$UserInterruption", {"shortDescription": short})
            actions.append(Bean("jenkins.model.InterruptedBuildAction", {"causes": [cause]}))
        hidden = self._profile.transient_actions[0] if self._user.everything else 0
        actions += [Bean(None, {})] * hidden
        fields = {
            "actions": actions,
            "artifacts": [],
            "building": build.building,
            "description": None,
            "displayName": f"#{build.number}",
            "duration": build.duration_ms,
            "estimatedDuration": job.estimate_ms(),
            "executor": Bean(None, {}) if build.building else None,
            "fullDisplayName": f"{job.full_name.replace('/', ' » ')} #{build.number}",
            "id": str(build.number),
            "inProgress": build.building,
            "keepLog": False,
            "number": build.number,
            "queueId": build.queue_id,
            "result": build.result,
            "timestamp": _ms(build.started),
            "url": f"{self._root}{path_of(job)}{build.number}/",
            "builtOn": "",
            "changeSet": Bean("hudson.scm.EmptyChangeLogSet", {"items": [], "kind": None}),
            "culprits": [],
        }
        return Bean(_BUILD, fields, ("number", "url"))

    # The rest

    def root(self, root_url):
        controller = self._controller
        view = Bean("hudson.model.AllView", {"name": "all", "url": self._root})
        return Bean(
            "hudson.model.Hudson",
            {
                "assignedLabels": [Bean(None, {"name": "built-in"})],
                "mode": "NORMAL",
                "nodeDescription": "the Jenkins controller's built-in node",
                "nodeName": "",
                "numExecutors": controller.executors,
                "description": None,
                "jobs": [self.job(job) for job in controller.children("") if self.sees(job)],
                "overallLoad": Bean(None, {}),
                "primaryView": view,
                "quietDownReason": None,
                "quietingDown": controller.quieting,
                "slaveAgentPort": 0,
                "unlabeledLoad": Bean("jenkins.model.UnlabeledLoadStatistics", {}),
                "url": root_url,
                "useCrumbs": True,
                "useSecurity": True,
                "views": [view],
            },
        )

    def computers(self):
        busy = {build.executor: build for build in self._controller.busy()}
        executors = []
        for number in range(self._controller.executors):
            build = busy.get(number)
            executors.append(
                Bean(
                    "hudson.model.Executor",
                    {
                        "currentExecutable": self.build(build) if build else None,
                        "idle": build is None,
                        "number": number,
                        "progress": 0 if build else -1,
                    },
                )
            )
        built_in = {
            "displayName": "Built-In Node",
            "executors": executors,
            "idle": not busy,
            "numExecutors": self._controller.executors,
            "offline": False,
            "oneOffExecutors": [],
            "temporarilyOffline": False,
        }
        fields = {
            "busyExecutors": len(busy),
            "computer": [Bean("hudson.model.Hudson$MasterComputer", built_in)],
            "displayName": "Nodes",
            "totalExecutors": self._controller.executors,
        }
        return Bean("hudson.model.ComputerSet", fields)

    def who_am_i(self, anonymous):
        fields = {
            "anonymous": anonymous,
            "authenticated": True,  # so says Jenkins of the anonymous, too
            "authorities": ["anonymous" if anonymous else "authenticated"],
            "name": self._user.name,
        }
        return Bean("hudson.security.WhoAmI", fields)

    def me(self):
        extra = {"hudson.search.UserSearchProperty": {"insensitiveSearch": True}}
        properties = [Bean(each, extra.get(each, {})) for each in self._profile.user_properties]
        fields = {
            "absoluteUrl": f"{self._root}user/{quote(self._user.name)}",
            "description": None,
            "fullName": self._user.name,
            "id": self._user.name,
            "property": properties,
        }
        return Bean("hudson.model.User", fields)


def _definition(definition, named):
    kind = f"{definition.kind}ParameterDefinition"
    value_kind = {"Choice": "String"}.get(definition.kind, definition.kind)
    default = {"name": definition.name} if named else {}
    if definition.kind != "Password":
        default["value"] = definition.default
    fields = {
        "defaultParameterValue": Bean(f"hudson.model.{value_kind}ParameterValue", default),
        "description": definition.description,
        "name": definition.name,
        "type": kind,
    }
    if definition.kind == "Choice":
        fields["choices"] = list(definition.choices)
    return Bean(f"hudson.model.{kind}", fields)


def _ms(seconds):
    return int(seconds * 1000)
