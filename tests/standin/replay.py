"""Replays the recorded exchanges with real controllers against the stand-in and says where the two differ.

A recording is a list of scenarios in the order in which they happened, with what happened between them left out. The
tables of steps below put that back: what the people of the lab did before a scenario. They look at its name only,
never at its answer, so that a stand-in that answers wrongly is found.
"""

import base64
import contextlib
import http.client
import json
import os
import re
import threading
import time
from xml.etree import ElementTree

from .jenkins import Fault, Jenkins, Phase
from .messages import Response, reduce_html

RECORDINGS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "recordings", "jenkins")
FILES = {"2.462": "2.462.3.jsonl", "2.568": "2.568.2.jsonl"}
RECORDED_AT = "http://127.0.0.1:8080"

# Scenarios that are not compared, for both profiles, and why.
EXCLUDED = {
    "6-checkJobName": "a check of a form in the browser",
    "9-robots": "a file that Jenkins ships; nothing here reads it",
}
# The same for one profile.
EXCLUDED_IN = {
    "2.568": {"4-queue-item-waiting-html": "the wording of a hint for people who open a queue item in the browser"},
    "2.462": {},
}
# Parts of an answer that are not compared.
EXCLUDED_FIELDS = {
    ("5-job-full", "healthReport"): "the weather of a job is computed in ways that the recording does not reveal",
}
# The recorder kept only status and body here.
HEADERS_NOT_RECORDED = {"4-queue-item-left-without-executable"}

# Headers whose value, or absence, has to be the recorded one.
_EXACT_HEADERS = (
    "content-type",
    "x-jenkins",
    "x-you-are-authenticated-as",
    "x-required-permission",
    "x-error",
    "x-more-data",
    "allow",
    "www-authenticate",
    "retry-after",
)
_TIMES = {"inQueueSince", "timestamp", "buildableStartMilliseconds"}
_DURATIONS = {"duration", "estimatedDuration"}
_SECONDS_LEFT = re.compile(r"Expires in ([\d.]+) sec$")

_PARAMETERS = """<hudson.model.ParametersDefinitionProperty><parameterDefinitions>
<hudson.model.StringParameterDefinition><name>REQUEST_ID</name><defaultValue/></hudson.model.StringParameterDefinition>
{more}</parameterDefinitions></hudson.model.ParametersDefinitionProperty>"""
_MORE = """<hudson.model.StringParameterDefinition><name>SLEEP</name><defaultValue>0</defaultValue>
</hudson.model.StringParameterDefinition>
<hudson.model.StringParameterDefinition><name>CODE</name><defaultValue>0</defaultValue>
</hudson.model.StringParameterDefinition>
<hudson.model.BooleanParameterDefinition><name>FLAG</name><defaultValue>false</defaultValue>
</hudson.model.BooleanParameterDefinition>
<hudson.model.ChoiceParameterDefinition><name>MODE</name><choices class="java.util.Arrays$ArrayList">
<a class="string-array"><string>fast</string><string>slow</string></a></choices>
</hudson.model.ChoiceParameterDefinition>"""
_PASSWORD = """<hudson.model.PasswordParameterDefinition><name>PW</name><defaultValue/>
</hudson.model.PasswordParameterDefinition>"""
_SCRIPT = "echo request=$REQUEST_ID\nsleep $SLEEP\necho done\nexit $CODE\n"


def job_xml(parameters="", quiet=30, disabled=False, concurrent=False, token=None, command="echo hello"):
    """A config.xml like those of the lab; parameters: "", "usual" or "password"."""
    more = {"usual": _MORE, "password": _PASSWORD}.get(parameters)
    properties = _PARAMETERS.format(more=more) if parameters else ""
    return f"""<?xml version='1.1' encoding='UTF-8'?>
<project>
  <description>lab</description>
  <properties>{properties}</properties>
  {"" if quiet is None else f"<quietPeriod>{quiet}</quietPeriod>"}
  <disabled>{str(disabled).lower()}</disabled>
  {f"<authToken>{token}</authToken>" if token else ""}
  <concurrentBuild>{str(concurrent).lower()}</concurrentBuild>
  <builders><hudson.tasks.Shell><command>{command}</command></hudson.tasks.Shell></builders>
</project>
"""


def load(profile):
    """The scenarios of a profile, in their order."""
    with open(os.path.join(RECORDINGS, FILES[profile]), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def excluded(profile):
    """{scenario: reason} of what is not compared for a profile."""
    return {**EXCLUDED, **EXCLUDED_IN[profile]}


class Pairs:
    """Recorded values and the stand-in's, one to one: what was the same there has to be the same here."""

    def __init__(self):
        self.there = {}
        self.here = {}

    def match(self, recorded, actual):
        if recorded in self.there or actual in self.here:
            return self.there.get(recorded) == actual and self.here.get(actual) == recorded
        self.there[recorded] = actual
        self.here[actual] = recorded
        return True


class Lab:
    """The stand-in in the state of the recorded controllers, and what was learnt about it so far."""

    job_token = "job-token-of-the-lab"

    def __init__(self, profile, directory, plays=None):
        self.profile = profile  # whose recording it is to be held to
        self.nap = os.path.join(directory, "nap")
        self.jenkins = Jenkins(profile=plays or profile, work=os.path.join(directory, "work"), env=self._sleepless())
        self.base = f"http://127.0.0.1:{self.jenkins.port}"
        self.ids = Pairs()
        self.former = {}  # the ids of an earlier life of the controller
        self.sessions = Pairs()
        self.text_sizes = Pairs()
        self.crumb = self.cookie = None
        self._create_jobs()

    def close(self):
        self.jenkins.close()

    def _sleepless(self):
        """A `sleep` that lasts until the lab wakes it: builds run as long as they have to, not a second more."""
        os.makedirs(self.nap)
        sleep = os.path.join(self.nap, "sleep")
        with open(sleep, "w", encoding="utf-8") as file:
            file.write(
                "#!/bin/sh\n"
                '[ "$1" = 0 ] && exit 0\n'
                ': > "$NAP/$JOB_NAME.$BUILD_NUMBER.asleep"\n'
                'while [ ! -e "$NAP/$JOB_NAME.$BUILD_NUMBER.awake" ]; do /bin/sleep 0.02; done\n'
            )
        os.chmod(sleep, 0o755)
        return {"NAP": self.nap, "PATH": f"{self.nap}:{os.environ['PATH']}"}

    def _create_jobs(self):
        create = self.jenkins.create_job
        for name in ("plain", "veto", "name with space", "tmpdel", "tmpdis"):
            create(name, job_xml())
        create("plain-fast", job_xml(quiet=0))
        create("noquiet", job_xml(quiet=None))
        create("off", job_xml(disabled=True))
        create("tok", job_xml(token=self.job_token))
        create("param", job_xml("usual", command=_SCRIPT))
        create("param-off", job_xml("usual", disabled=True))
        create("param-veto", job_xml("usual"))
        create("param-tok", job_xml("usual", token=self.job_token))
        create("param-fast", job_xml("usual", quiet=0, command=_SCRIPT))
        create("param-conc", job_xml("usual", quiet=0, concurrent=True, command=_SCRIPT))
        create("param-pw", job_xml("password"))
        self.jenkins.vetoed.update({"veto", "param-veto"})

    # What the people of the lab did between scenarios

    def asleep(self, build):
        return os.path.exists(os.path.join(self.nap, f"{build.job.full_name}.{build.number}.asleep"))

    def wake(self, build):
        with open(os.path.join(self.nap, f"{build.job.full_name}.{build.number}.awake"), "w", encoding="utf-8"):
            pass

    def settle(self, awake=False, timeout=10):
        """Wait until every build has finished, or sleeps."""
        deadline = time.monotonic() + timeout
        while True:
            with self.jenkins.controller.lock:
                busy = self.jenkins.controller.busy()
            if awake:
                for build in busy:
                    self.wake(build)
            if all(not awake and self.asleep(build) for build in busy):
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"still at work: {busy}")
            time.sleep(0.005)

    def post(self, path, body="", user="admin"):
        """A request that the recording does not show; returns the queue id in its answer."""
        headers = {"Authorization": f"Basic <{user}:API_TOKEN>", "Content-Type": "application/x-www-form-urlencoded"}
        response = self.send("POST", path, headers, body)
        return int(re.search(r"/item/(\d+)/", dict(response.headers)["Location"]).group(1))

    def run(self, job, number, **parameters):
        """Start a build that the recording does not show, under its recorded queue id."""
        body = "&".join(f"{name}={value}" for name, value in parameters.items())
        assert self.ids.match(number, self.post(f"/job/{job}/buildWithParameters", body))
        self.settle()

    # Requests

    def send(self, method, path, headers, body):
        """Send a recorded request with its placeholders filled in."""
        connection = http.client.HTTPConnection("127.0.0.1", self.jenkins.port, timeout=10)
        with contextlib.closing(connection):
            headers = {name: self._fill_header(name, value) for name, value in headers.items()}
            connection.putrequest(method, self._fill_path(path), skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", headers.pop("Host", f"127.0.0.1:{self.jenkins.port}"))
            body = self._fill(body or "").encode()
            for name, value in headers.items():
                connection.putheader(name, value)
            if body or method in ("POST", "PUT"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            response = Response(answer.status, answer.getheaders(), answer.read())
        if "/crumbIssuer/" in path and answer.status == 200:
            self.crumb = json.loads(response.body)["crumb"]
            self.cookie = re.search(r"JSESSIONID=([^;]+)", dict(response.headers)["Set-Cookie"]).group(1)
        return response

    def _fill(self, text):
        text = text.replace("<JOB_AUTH_TOKEN>", self.job_token)
        return text.replace("<CRUMB>", self.crumb) if "<CRUMB>" in text else text

    def _fill_header(self, name, value):
        found = re.fullmatch(r"Basic <(\w+):(PASSWORD|API_TOKEN)>", value)
        if found:
            user = self.jenkins.users[found.group(1)]
            secret = user.password if found.group(2) == "PASSWORD" else user.api_token
            return "Basic " + base64.b64encode(f"{user.name}:{secret}".encode()).decode()
        if name == "Host":  # the recorded port stands for the one of the stand-in
            value = re.sub(r":8080$", f":{self.jenkins.port}", value)
        return self._fill(value.replace("<JSESSIONID>", self.cookie or ""))

    def _fill_path(self, path):
        def here(found):
            number = int(found.group(2))
            # 99999 was asked for because there is no such item.
            return found.group(1) + str(number if number == 99999 else {**self.former, **self.ids.there}[number])

        path = re.sub(r"((?:queue/item/|cancelItem\?id=))(\d+)", here, path)
        sized = re.search(r"start=(\d+)$", path)
        if sized and sized.group(1) in self.text_sizes.there:
            path = path[: sized.start(1)] + self.text_sizes.there[sized.group(1)]
        return self._fill(path)


# Before these the queue was left as it was; before all other requests to build it was emptied.
_QUEUE_KEPT = re.compile(
    r"again|same|different|defaults-explicit|^2-perm|^7-(restart|startup|quietDown-post-bwp)|prefix-(bwp|.*wrong-host)"
)


def prepare(lab, scenario):
    """Do what was done before a scenario."""
    name = scenario["name"]
    path = scenario["request"]["path"].partition("?")[0].rstrip("/")
    if path.endswith(("/build", "/buildWithParameters")) and not _QUEUE_KEPT.search(name):
        lab.jenkins.clear_queue()
    step = STEPS.get(name)
    if name.startswith("7-startup-"):
        step = _start_up
    if step:
        step(lab, scenario)
    if lab.jenkins.phase is Phase.UP:
        lab.settle()


def _queue_id(scenario):
    return int(re.search(r"queue/item/(\d+)", scenario["request"]["path"]).group(1))


def _setting(name, value):
    return lambda lab, scenario: setattr(lab.jenkins, name, value)


def _clear(lab, scenario):
    lab.jenkins.clear_queue()


def _end_fast(lab, scenario):
    """The build that was started for the last scenario: stopped in one lab, let run to its end in the other."""
    lab.jenkins.clear_queue()
    if lab.profile == "2.568":
        lab.jenkins.builds("param-fast")[0].aborted_by = "admin"
        lab.settle()
    else:
        lab.settle(awake=True)


def _pass_quiet_period(lab, scenario):
    if lab.jenkins.queued():
        lab.jenkins.advance(3)


def _wake(lab, scenario):
    lab.settle(awake=True)


def _executors_back(lab, scenario):
    lab.jenkins.clear_queue()
    lab.jenkins.executors = 2


def _tidy_jobs(lab, scenario):
    for name in ("created2", "created8"):
        lab.jenkins.controller.delete(lab.jenkins.controller.job(name))


def _root_url_back(lab, scenario):
    lab.jenkins.clear_queue()
    lab.jenkins.root_url = lab.base + "/"


def _left_before(lab, scenario):
    lab.run("param-conc", _queue_id(scenario), REQUEST_ID="left")


def _start_up(lab, scenario):
    """Bring the stand-in to the phase in which the controller was so many milliseconds after its start."""
    ends = {
        "2.462": [(1000, Phase.DOWN), (1800, Phase.UNSECURED), (2400, Phase.LOADING)],
        "2.568": [(1600, Phase.DOWN), (1900, Phase.UNSECURED), (2000, Phase.NO_USERS), (2400, Phase.LOADING)],
    }[lab.profile]
    now = scenario["t_ms_since_start"]
    phase = next((phase for end, phase in ends if now < end), Phase.UP)
    if phase is Phase.DOWN and lab.jenkins.phase is Phase.UP:
        lab.jenkins.phase = phase
        lab.jenkins.controller.start_again(kill=False)
    if phase is not lab.jenkins.phase:
        lab.jenkins.phase = phase


def _run_before_crash(lab, scenario):
    lab.run("param-conc", _queue_id(scenario), REQUEST_ID="crash", SLEEP=60)


def _kill(lab, scenario):
    lab.jenkins.restart(kill=True)
    lab.former, lab.ids = lab.ids.there, Pairs()  # they begin at 1 again


def _move_under_prefix(lab, scenario):
    lab.jenkins.restart(prefix="/jenkins")


def _leave_without_executable(lab, scenario):
    lab.jenkins.clear_queue()
    lab.jenkins.controller.executable_delay = 60
    request_id = {"2.462": "l3", "2.568": "l4"}[lab.profile]
    lab.ids = Pairs()  # recorded in another life of the controller
    lab.run("param-conc", _queue_id(scenario), REQUEST_ID=request_id)


def _expire(lab, scenario):
    lab.jenkins.restart(prefix="")
    lab.ids = Pairs()
    lab.ids.match(_queue_id(scenario), lab.post("/job/plain/build?delay=0sec"))
    lab.settle()
    lab.jenkins.advance(301)


STEPS = {
    "2-jobtoken-anonymous-read-get-right-token": _setting("anonymous_read", True),
    "2-jobtoken-buildByToken-plugin-absent": _setting("anonymous_read", False),
    "2-perm-limited-get-job": _clear,
    "2-perm-discover-get-job": _clear,
    "2-perm-blind-get-job": _clear,
    "2-perm-builder-get-job": _clear,
    "4-post-bwp": _end_fast,
    "4-queue-item-phase-LeftItem": _pass_quiet_period,
    "4-queue-item-phase-LeftItem-executable": _pass_quiet_period,
    "4-queue-item-after-finish-full": _wake,
    "4-no-executor-post-build": _setting("executors", 0),
    "4-deleted-job-post-build": _executors_back,
    "5-build-building-tree": lambda lab, scenario: lab.run("param-fast", 60, REQUEST_ID="ok", SLEEP=4),
    "5-build-success-tree": _wake,
    "5-build-failure-tree": lambda lab, scenario: lab.run("param-fast", 61, REQUEST_ID="bad", CODE=3),
    "5-build-stop-get": lambda lab, scenario: lab.run("param-fast", 62, REQUEST_ID="abort", SLEEP=60),
    "5-build-aborted-tree": lambda lab, scenario: lab.jenkins.wait_for_builds("param-fast", 4),
    "6-job-DELETE-method": lambda lab, scenario: lab.jenkins.create_job("created", job_xml()),
    "9-root-api-json": _tidy_jobs,
    "8-no-root-url-api-json-wrong-host": _setting("root_url", None),
    "8-other-root-url-post-build": _setting("root_url", "https://public.example/ci/"),
    "7-restart-post-bwp-before": _root_url_back,
    "7-restart-left-item-before": _left_before,
    "7-crash-running-before-kill9": _run_before_crash,
    "7-crash-queue-after-kill9": _kill,
    "8-prefix-root-api-json": _move_under_prefix,
    "4-queue-item-left-without-executable": _leave_without_executable,
    "4-queue-item-expired-after-5-minutes": _expire,
}


def differences(lab, scenario):
    """What the stand-in does otherwise than the recorded controller, as a list of sentences."""
    special = {
        "7-startup-fine": _compare_start_up,
        "7-shutdown-sigterm": _compare_shutdown,
        "3-parallel-24": _compare_parallel,
    }.get(scenario["name"])
    if special:
        return list(special(lab, scenario))
    prepare(lab, scenario)
    request = scenario["request"]
    headers = dict(request.get("headers") or {})
    if request.get("who") or scenario["name"] in HEADERS_NOT_RECORDED:
        headers["Authorization"] = "Basic <admin:API_TOKEN>"
    try:
        response = lab.send(request["method"], request["path"], headers, request.get("body"))
    except OSError as error:
        if scenario["status"] is None and type(error).__name__ in scenario["body"]:
            return []
        return [f"{error!r} instead of {scenario['status']}"]
    return list(_compare(lab, scenario, response))


def _compare(lab, scenario, response):
    if response.status != scenario["status"]:
        yield f"status {response.status}, recorded {scenario['status']}: {response.body[:300]}"
        return
    if scenario["name"] not in HEADERS_NOT_RECORDED:
        yield from _compare_headers(lab, scenario, response)
    yield from _compare_body(lab, scenario, response)


def _compare_headers(lab, scenario, response):
    recorded = {name.lower(): value for name, value in scenario["headers"].items()}
    actual = {name.lower(): value for name, value in response.headers}
    for name in _EXACT_HEADERS:
        if recorded.get(name) != actual.get(name):
            yield f"{name}: {actual.get(name)!r}, recorded {recorded.get(name)!r}"
    if not _same_text(lab, recorded.get("location"), actual.get("location")):
        yield f"location: {actual.get('location')!r}, recorded {recorded.get('location')!r}"
    for name, pairs in (("x-jenkins-session", lab.sessions), ("x-text-size", lab.text_sizes)):
        if not pairs.match(recorded.get(name), actual.get(name)):
            yield f"{name}: {actual.get(name)!r}, recorded {recorded.get(name)!r}, against what it was before"
    if "t_ms_since_start" in scenario:
        return  # that recorder left cookies out
    cookies = [re.sub(r"=[^;]*", "=...", v, count=1) for n, v in response.headers if n.lower() == "set-cookie"]
    if cookies != recorded.get("set-cookie", []):
        yield f"set-cookie: {cookies!r}, recorded {recorded.get('set-cookie')!r}"


def _compare_body(lab, scenario, response):
    recorded = scenario.get("body")
    if recorded is None:
        if response.body:
            yield f"a body, recorded none: {response.body[:100]}"
    elif isinstance(recorded, str):
        actual = _readable(response.body.decode())
        if actual != _readable(recorded):
            yield f"text {actual!r}, recorded {_readable(recorded)!r}"
    elif set(recorded) == {"html"}:
        actual = reduce_html(response.body)
        if actual != recorded["html"]:
            yield f"page {actual}, recorded {recorded['html']}"
    elif set(recorded) == {"xml_bytes"}:
        # The recording has but the size of what Jenkins writes back in its own order.
        if ElementTree.fromstring(re.sub(rb"^<\?xml.*?\?>", b"", response.body)).tag != "project":
            yield "no configuration of a project"
    else:
        yield from _compare_json(lab, scenario["name"], recorded, json.loads(response.body))


def _readable(text):
    """A console log without what differs between two machines: paths, and the content of hidden notes."""
    text = re.sub(r"\x1b\[8mha:.*?\x1b\[0m", "<NOTE>", text)
    text = re.sub(r"(Building in workspace )\S+/workspace/", r"\1<HOME>/", text)
    return re.sub(r"/\S+/jenkins\d+\.sh", "<SCRIPT>", text)


def _compare_json(lab, name, recorded, actual, where="$", key=None):
    if (name, key) in EXCLUDED_FIELDS:
        return
    if isinstance(recorded, dict) and isinstance(actual, dict):
        if set(recorded) != set(actual):
            yield f"{where}: keys {sorted(actual)}, recorded {sorted(recorded)}"
            return
        for each in recorded:
            yield from _compare_json(lab, name, recorded[each], actual[each], f"{where}.{each}", each)
        if {"inQueueSince", "timestamp"} <= set(recorded):
            quiet = [each["timestamp"] - each["inQueueSince"] for each in (recorded, actual)]
            if abs(quiet[0] - quiet[1]) > 50:
                yield f"{where}: a quiet period of {quiet[1]} ms, recorded {quiet[0]}"
    elif isinstance(recorded, list) and isinstance(actual, list):
        if len(recorded) != len(actual):
            yield f"{where}: {len(actual)} elements, recorded {len(recorded)}"
        for index, (there, here) in enumerate(zip(recorded, actual)):
            yield from _compare_json(lab, name, there, here, f"{where}[{index}]")
    elif not _same_value(lab, name, key, recorded, actual):
        yield f"{where}: {actual!r}, recorded {recorded!r}"


def _same_value(lab, name, key, recorded, actual):
    if type(recorded) is not type(actual):
        return False
    if isinstance(recorded, int) and key in ("id", "queueId"):
        return lab.ids.match(recorded, actual)
    if key in _TIMES:
        return abs(actual / 1000 - lab.jenkins.clock.now()) < 300
    if key in _DURATIONS:
        return actual == recorded if recorded <= 0 else actual > 0
    if recorded == "<CRUMB>":
        return actual == lab.crumb
    if isinstance(recorded, str):
        left = [_SECONDS_LEFT.search(text) for text in (recorded, actual)]
        if key == "why" and all(left):
            # A restart took its time there; elsewhere hardly any had passed.
            slack = 12 if name.startswith("7-") else 1
            return 0 <= float(left[1].group(1)) - float(left[0].group(1)) + 0.2 <= slack
        return _same_text(lab, recorded, actual)
    return recorded == actual


def _same_text(lab, recorded, actual):
    """Equal, with hosts moved and queue ids matched."""
    if recorded is None or actual is None:
        return recorded is actual
    numbers = [re.search(r"queue/item/(\d+)", text) for text in (recorded, actual)]
    if all(numbers):
        if not lab.ids.match(*(int(number.group(1)) for number in numbers)):
            return False
        recorded = recorded.replace(numbers[0].group(), numbers[1].group())
    return re.sub(r":8080(?=/|$)", f":{lab.jenkins.port}", recorded) == actual


# Scenarios that are more than one exchange

_PROBES = {
    "get-token": ("GET", "/job/plain/api/json?tree=name", "Basic <admin:API_TOKEN>", ""),
    "post-token": ("POST", "/job/plain/build", "Basic <admin:API_TOKEN>", ""),
    "get-password": ("GET", "/api/json?tree=mode", "Basic <admin:PASSWORD>", ""),
    "post-password": ("POST", "/job/plain/build", "Basic <admin:PASSWORD>", ""),
    "get-wrong": ("GET", "/api/json", "Basic YWRtaW46d3Jvbmc=", ""),
    "post-wrong": ("POST", "/job/plain/build", "Basic YWRtaW46d3Jvbmc=", ""),
    "get-anon": ("GET", "/api/json", None, ""),
    "post-bwp-token": ("POST", "/job/param/buildWithParameters", "Basic <admin:API_TOKEN>", "REQUEST_ID=s"),
    "get-queue-item-404": ("GET", "/queue/item/99999/api/json", "Basic <admin:API_TOKEN>", ""),
    "get-unknown-job": ("GET", "/job/nope/api/json", "Basic <admin:API_TOKEN>", ""),
}


def _probe(lab, probe, body=None):
    """(status, title of the page) of a probe; (None, name of the error) when there was no answer."""
    method, path, authorization, usual = _PROBES[probe]
    headers = {"Authorization": authorization} if authorization else {}
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    try:
        response = lab.send(method, path, headers, usual if body is None else body)
    except OSError as error:
        return None, type(error).__name__
    is_page = "text/html" in dict(response.headers).get("Content-Type", "")
    return response.status, reduce_html(response.body)["title"] if is_page else None


def _compare_start_up(lab, scenario):
    """Each probe has to see the recorded answers in their order; the recorder may have missed short phases."""
    lab.jenkins.restart(prefix="")
    lab.jenkins.phase = Phase.DOWN
    lab.jenkins.clear_queue()
    seen = {probe: [] for probe in _PROBES}
    for phase in lab.jenkins.phases():
        lab.jenkins.phase = phase
        for probe in _PROBES:
            for _ in range(2):  # twice, as an equal item answers otherwise than a new one
                seen[probe].append(_probe(lab, probe))
    for probe, steps in scenario["transitions"].items():
        recorded = [_recorded_step(step) for step in steps]
        rest = iter(seen[probe])
        if not all(step in rest for step in recorded):
            yield f"{probe}: {seen[probe]}, recorded {recorded}"
    known = {_recorded_step(step) for steps in scenario["transitions"].values() for step in steps}
    for probe, answers in seen.items():
        if not set(answers) <= known:
            yield f"{probe}: {set(answers) - known} was never recorded"


def _recorded_step(step):
    body = step.get("body")
    if step["status"] is None:
        return None, body.partition("(")[0]
    return step["status"], body["html"]["title"] if isinstance(body, dict) and "html" in body else None


def _compare_shutdown(lab, scenario):
    """A stop refuses whoever comes and breaks off whoever waits."""
    lab.jenkins.restart()
    lab.jenkins.clear_queue()
    lab.ids = Pairs()
    lab.post("/job/param-conc/buildWithParameters", "REQUEST_ID=running&SLEEP=60")
    bodies = {"post-bwp-token": "REQUEST_ID=sd", "post-token": "", "get-token": ""}
    seen = {probe: [_probe(lab, probe, body), _probe(lab, probe, body)] for probe, body in bodies.items()}
    for recorded, item in zip((7, 8), lab.jenkins.queued()):
        lab.ids.match(recorded, item.number)
    lab.settle()
    # A request that is under way when the stop comes.
    lab.jenkins.fault, lab.jenkins.fault_everywhere = Fault.BLACKHOLE_AFTER_QUEUEING, True
    broken = []

    def wait_in_vain(probe, body):
        broken.append((probe, _probe(lab, probe, body)))

    threads = [threading.Thread(target=wait_in_vain, args=item) for item in bodies.items()]
    before = len(lab.jenkins.requests)
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(lab.jenkins.requests) < before + len(bodies) and time.monotonic() < deadline:
        time.sleep(0.005)
    lab.jenkins.phase = Phase.DOWN
    lab.jenkins.fault, lab.jenkins.fault_everywhere = None, False
    for thread in threads:
        thread.join(timeout=10)
    for probe, answer in broken:
        seen[probe] += [answer, _probe(lab, probe)]
    lab.jenkins.restart()
    for probe, steps in scenario["transitions"].items():
        recorded = [(status, name if status is None else None) for status, name in map(_recorded_step, steps)]
        rest = iter(seen[probe])
        if not all(step in rest for step in recorded):
            yield f"{probe}: {seen[probe]}, recorded {recorded}"


def _compare_parallel(lab, scenario):
    """24 requests at once: one item, and as many answers of each kind as recorded."""
    lab.jenkins.restart()
    lab.jenkins.clear_queue()
    for key, path, bodies in (
        ("plain_build", "/job/plain/build", [""] * 24),
        ("bwp_same", "/job/param/buildWithParameters", ["REQUEST_ID=same"] * 24),
        ("bwp_different_statuses", "/job/param/buildWithParameters", [f"REQUEST_ID=d{n}" for n in range(24)]),
    ):
        answers = _at_once(lab, path, bodies)
        found = {}
        for status, _ in answers:
            shown = str(status) if key.endswith("statuses") else status
            found[shown] = found.get(shown, 0) + 1
        recorded = {}
        for shown, count in scenario[key].items():
            status = shown if key.endswith("statuses") else int(re.match(r"\((\d+)", shown).group(1))
            recorded[status] = recorded.get(status, 0) + count
        items = len({number for _, number in answers})
        wanted = 24 if key.endswith("statuses") else len({re.sub(r"^\(\d+, ", "", shown) for shown in scenario[key]})
        if found != recorded or items != wanted:
            yield f"{key}: {found} for {items} items, recorded {recorded} for {wanted}"
    lab.jenkins.clear_queue()


def _at_once(lab, path, bodies):
    answers = []
    gate = threading.Barrier(len(bodies))

    def ask(body):
        gate.wait(timeout=10)
        headers = {"Authorization": "Basic <admin:API_TOKEN>", "Content-Type": "application/x-www-form-urlencoded"}
        response = lab.send("POST", path, headers, body)
        number = re.search(r"/item/(\d+)/", dict(response.headers)["Location"]).group(1)
        answers.append((response.status, number))

    threads = [threading.Thread(target=ask, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(answers) == len(bodies)
    return answers
