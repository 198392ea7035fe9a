"""The stand-in for a Jenkins controller.

    with Jenkins(profile="2.568", work=tmp_path) as jenkins:
        jenkins.create_job("A/lxc_provision", xml)
        requests.post(f"{jenkins.url}/job/A/job/lxc_provision/build", auth=jenkins.auth("builder"))
        build, = jenkins.wait_for_builds("A/lxc_provision", 1)

It queues, coalesces, delays, refuses, forgets and restarts as the recorded controllers did, and runs the shell steps
for real. test_replay.py holds it to the recordings.
"""

import shutil
import tempfile
import threading
import time
import uuid

from .api import Api
from .beans import path_of
from .clock import Clock
from .config import FOLDER_XML
from .controller import Controller
from .faults import Fault, Phase
from .model import lab_users
from .profiles import PROFILES
from .runner import Runner
from .server import Server

__all__ = ["Fault", "Jenkins", "Phase"]

# How a start is divided among its phases when it is to take some time.
_SHARES = {Phase.DOWN: 3, Phase.FAILING: 1, Phase.UNSECURED: 1, Phase.NO_USERS: 0.3, Phase.LOADING: 4.7}


class Jenkins:
    """A controller on 127.0.0.1 that listens from construction on. Use it as a context manager, or close() it.

    profile  "2.462", "2.568" or "pre-2.308"
    prefix   the context path, such as "/jenkins"
    work     a directory for workspaces; a temporary one, removed on close, if not given
    env      variables that shell steps get in addition
    agents   {name: such variables on the agent of that name}, where a job's parameter (NodeLabel plugin) names one
    tls      (certificate chain, key) files; the URL is https then
    phase    where in its start-up it is; up unless told otherwise
    """

    def __init__(self, profile="2.568", prefix="", work=None, env=None, tls=None, port=0, phase=Phase.UP, agents=None):
        self.profile = PROFILES[profile]
        self._own_work = None if work else tempfile.mkdtemp(prefix="jenkins-standin-")
        self.clock = Clock()
        self.users = lab_users()
        self.requests = []
        self.fault = None
        self.fault_count = None  # how many requests it still hits; None: all, until it is cleared
        self.fault_everywhere = False  # also what is no request to build
        self._fault_lock = threading.Lock()
        self._scheme = "https" if tls else "http"
        self._phase = phase
        self._starter = None
        self._closed = threading.Event()
        runner = Runner(str(work or self._own_work), uuid.uuid4().hex, dict(env or {}), dict(agents or {}))
        self.controller = Controller(self.clock, runner, self.job_url, lambda: self.url + "/")
        self.controller.up = phase is Phase.UP
        self._api = Api(self.controller, self.profile, self.users, prefix)
        self._server = None
        try:
            self._server = Server(
                self._respond, self._take_fault, self.requests.append, self.profile.starting, port, tls
            )
        except BaseException:  # the port is taken, say: leave no thread and no directory
            self.close()
            raise
        self._api.local = (self._scheme, f"127.0.0.1:{self.port}")
        self.root_url = self.url + "/"
        if phase is Phase.DOWN:
            self._server.stop()

    # Addresses and secrets

    @property
    def port(self):
        return self._server.port

    @property
    def prefix(self):
        return self._api.prefix

    @property
    def url(self):
        """Where it listens, with the context path, without a slash at the end."""
        return f"{self._scheme}://127.0.0.1:{self.port}{self._api.prefix}"

    @property
    def root_url(self):
        """The URL it is configured to have, used inside answers; None makes it believe the request."""
        return self._api.root_url

    @root_url.setter
    def root_url(self, url):
        self._api.root_url = url

    def auth(self, user="admin"):
        """(name, API token) of a user."""
        return user, self.users[user].api_token

    @property
    def job_token(self):
        """The token of the one job that has one, None if there is none."""
        tokens = [job.config.auth_token for job in self.controller.jobs.values() if job.config.auth_token]
        return tokens[0] if tokens else None

    def job_url(self, job):
        return f"{self.url}/{path_of(job)}"

    # Jobs and builds

    @property
    def anonymous_read(self):
        """Whether everybody may look."""
        return self._api.anonymous_read

    @anonymous_read.setter
    def anonymous_read(self, allowed):
        self._api.anonymous_read = allowed

    @property
    def executors(self):
        return self.controller.executors

    @executors.setter
    def executors(self, number):
        self.controller.executors = number
        self.controller.kick()

    @property
    def vetoed(self):
        """Full names of the jobs that the queue refuses."""
        return self.controller.vetoed

    def create_job(self, full_name, xml):
        """Create a job, with the folders it is in; or give the existing one this configuration."""
        with self.controller.lock:
            parts = full_name.split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                if self.controller.job(folder) is None:
                    self.controller.add_job(folder, FOLDER_XML)
            existing = self.controller.job(full_name)
            if existing is None:
                return self.controller.add_job(full_name, xml)
            existing.configure(xml)
            return existing

    def builds(self, full_name):
        """The builds of a job, oldest first; each has number, result, parameters, log, queue_id and building."""
        with self.controller.lock:
            job = self.controller.job(full_name)
            if job is None:
                raise KeyError(full_name)
            return job.newest_first()[::-1]

    def wait_for_builds(self, full_name, count, timeout=10):
        """Builds of a job once `count` of them have finished; AssertionError when that takes too long."""
        deadline = time.monotonic() + timeout
        with self.controller.lock:
            while True:
                builds = self.builds(full_name)
                if sum(not build.building for build in builds) >= count:
                    return builds
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"{count} finished builds of {full_name} wanted in {timeout} s, got {builds}")
                self.controller.changed.wait(min(left, 0.5))

    def queued(self):
        """Items in the queue; each has number, job, parameters, causes and state."""
        with self.controller.lock:
            return self.controller.queued()

    def clear_queue(self):
        """Cancel whatever is queued."""
        for item in self.queued():
            self.controller.cancel(item)

    def quiet_down(self):
        self.controller.quieting = True

    def cancel_quiet_down(self):
        self.controller.quieting = False
        self.controller.kick()

    def advance(self, seconds):
        """Push the virtual clock: quiet periods pass, items that left are forgotten."""
        self.clock.advance(seconds)
        self.controller.kick()

    # Start and stop

    @property
    def phase(self):
        return self._phase

    @phase.setter
    def phase(self, phase):
        self._phase = phase
        if phase is Phase.DOWN:
            self._server.stop()
        else:
            self._server.listen()
        self.controller.up = phase is Phase.UP
        self.controller.kick()

    def phases(self):
        """The phases this version goes through when it starts."""
        return [phase for phase in Phase if phase is not Phase.NO_USERS or self.profile.users_load_late]

    def restart(self, kill=False, startup=0, prefix=None):
        """Stop, or kill -9, and start again on the same port.

        With a `startup` in seconds, it goes through all phases of a start in the background and this returns at once.
        """
        self.phase = Phase.DOWN
        self.controller.start_again(kill)
        self._api.forget_sessions()
        if prefix is not None:
            self._api.prefix = prefix
        if not startup:
            self.phase = Phase.UP
            return
        self._starter = threading.Thread(target=self._start_slowly, args=(startup,), daemon=True)
        self._starter.start()

    def _start_slowly(self, startup):
        phases = self.phases()
        whole = sum(_SHARES.get(phase, 0) for phase in phases)
        for phase in phases:
            if self._closed.is_set():
                return
            self.phase = phase
            self._closed.wait(startup * _SHARES.get(phase, 0) / whole)

    def wait_until_up(self, timeout=10):
        deadline = time.monotonic() + timeout
        while self.phase is not Phase.UP:
            if time.monotonic() > deadline:
                raise AssertionError(f"still {self.phase} after {timeout} s")
            time.sleep(0.01)

    def close(self):
        """Stop listening, end all builds with all their processes, remove a temporary work directory."""
        self._closed.set()
        if self._starter:
            self._starter.join(timeout=5)
        if self._server:
            self._server.stop()
        self.controller.close()
        if self._own_work:
            shutil.rmtree(self._own_work, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    # For the listener

    @property
    def drip_interval(self):
        """Seconds between two bytes of a dripped answer."""
        return self._server.drip_interval

    @drip_interval.setter
    def drip_interval(self, seconds):
        self._server.drip_interval = seconds

    def _respond(self, request):
        return self._api.answer(request, self._phase)

    def _take_fault(self, method, path):
        builds = path.partition("?")[0].rstrip("/").endswith(("/build", "/buildWithParameters"))
        if not (self.fault_everywhere or (method == "POST" and builds)):
            return None
        with self._fault_lock:
            fault = self.fault
            if fault is not None and self.fault_count is not None:
                self.fault_count -= 1
                if self.fault_count <= 0:
                    self.fault = self.fault_count = None
            return fault
