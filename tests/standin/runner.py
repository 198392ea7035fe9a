"""Runs the shell steps of a build, the way an agent does."""

import base64
import contextlib
import os
import re
import select
import signal
import subprocess
import time

# Jenkins hides a link in the text with an escape sequence that carries base64. The content here is made up.
NOTE = b"\x1b[8mha:" + base64.b64encode(b"a hidden console note of the stand-in") + b"\x1b[0m"
_NOTE = re.compile(rb"\x1b\[8mha:[A-Za-z0-9+/=]*\x1b\[0m")
_TERM_GRACE_S = 2
_PIPE_GRACE_S = 0.2


def without_notes(raw):
    return _NOTE.sub(b"", raw)


class Runner:
    """Runs builds for one controller and makes sure that nothing of them stays behind."""

    def __init__(self, work, cookie, environment, agents):
        self.work = work
        self.agents = agents
        self.cookie = cookie  # marks every process started here
        self.environment = environment
        self._orphans = []
        for name in ("workspace", "tmp"):
            os.makedirs(os.path.join(work, name), exist_ok=True)

    def run(self, build, url, node_url):
        """Run all steps; sets the build's log while they run and returns the result."""
        workspace = os.path.join(self.work, "workspace", *build.job.full_name.split("/"))
        if build.job.config.concurrent and len(build.job.running) > 1:
            workspace += f"@{build.executor + 1}"
        os.makedirs(workspace, exist_ok=True)
        self._announce(build, workspace)
        environment = self._environment_of(build, workspace, url, node_url)
        result = "SUCCESS"
        try:
            for shell in build.job.config.shells:
                status = self._step(build, shell.command, workspace, environment)
                if build.aborted_by or build.abandoned:
                    break
                if status and status == shell.unstable_return:
                    result = "UNSTABLE"
                elif status:
                    build.raw_log += b"Build step 'Execute shell' marked build as failure\n"
                    result = "FAILURE"
                    break
        finally:
            # A freestyle build takes everything it started down with it, unless a process gave up its BUILD_ID.
            if not build.abandoned:
                self._kill(self._processes(BUILD_ID=str(build.number), JOB_NAME=build.job.full_name))
        if build.aborted_by:
            result = "ABORTED"
            build.raw_log += f"Build was aborted\nAborted by {build.aborted_by}\n".encode()
        build.raw_log += f"Finished: {result}\n".encode()
        return result

    def _announce(self, build, workspace):
        cause = build.causes[0]
        if cause.user:
            build.raw_log += b"Started by user " + NOTE + cause.user.encode() + b"\n"
        else:
            build.raw_log += describe(cause).encode() + b"\n"
        build.raw_log += f"Running as SYSTEM\nBuilding in workspace {workspace}\n".encode()

    def _environment_of(self, build, workspace, url, node_url):
        job = build.job
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
        environment.update(self.environment)
        environment.update(
            BUILD_NUMBER=str(build.number),
            BUILD_ID=str(build.number),
            BUILD_DISPLAY_NAME=f"#{build.number}",
            BUILD_TAG=f"jenkins-{job.full_name.replace('/', '-')}-{build.number}",
            BUILD_URL=f"{url}{build.number}/",
            JOB_NAME=job.full_name,
            JOB_BASE_NAME=job.name,
            JOB_URL=url,
            JENKINS_URL=node_url,
            JENKINS_HOME=self.work,
            JENKINS_SERVER_COOKIE=self.cookie,
            EXECUTOR_NUMBER=str(build.executor),
            NODE_NAME="built-in",
            NODE_LABELS="built-in",
            WORKSPACE=workspace,
            CI="true",
        )
        environment.update(build.parameters)
        # The NodeLabel plugin: the build runs on the agent that its parameter names.
        for definition in job.config.parameters or ():
            if definition.kind == "Label":
                name = build.parameters[definition.name]
                environment.update(self.agents[name], NODE_NAME=name, NODE_LABELS=name)
        return environment

    def _step(self, build, command, workspace, environment):
        script = os.path.join(self.work, "tmp", f"jenkins{time.monotonic_ns()}.sh")
        with open(script, "w", encoding="utf-8") as file:
            file.write(command)
        # As Jenkins does: an own #! line decides, otherwise sh with -x and -e.
        first = command.split("\n", 1)[0]
        argv = (first[2:].split() if first.startswith("#!") else ["/bin/sh", "-xe"]) + [script]
        build.raw_log += f"[{os.path.basename(workspace)}] $ {' '.join(argv)}\n".encode()
        try:
            process = subprocess.Popen(
                argv,
                cwd=workspace,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            build.raw_log += f"{error}\n".encode()
            return 127
        with process.stdout:
            self._follow(build, process)
        if not build.abandoned:
            os.unlink(script)
        return process.returncode

    def _follow(self, build, process):
        """Copy output to the log until the process ends, the build is stopped or its controller is killed."""
        terminated_at = ended_at = None
        while not build.abandoned:
            ready, _, _ = select.select([process.stdout], [], [], 0.02)
            if ready:
                data = os.read(process.stdout.fileno(), 65536)
                build.raw_log += data
                if not data:
                    break
            now = time.monotonic()
            if process.poll() is not None:
                ended_at = ended_at or now
                # Something it left running may hold the pipe open for ever.
                if not ready and now - ended_at > _PIPE_GRACE_S:
                    break
            if build.aborted_by and terminated_at is None:
                terminated_at = now
                self._terminate(process)
            elif terminated_at and now - terminated_at > _TERM_GRACE_S:
                self._kill(self._group(process.pid))
        if build.abandoned:
            # Its pipe closes now, so it dies of the next thing it says, as under a controller that was killed.
            self._orphans.append(process)
            return
        try:
            process.wait(timeout=_TERM_GRACE_S)
        except subprocess.TimeoutExpired:  # it closed its output and goes on
            while not (build.aborted_by or build.abandoned) and process.poll() is None:
                time.sleep(0.02)
            self._kill(self._group(process.pid))
            process.wait()

    def _terminate(self, process):
        """Children first, so that the shell lives to say that its child was terminated, as on a real agent."""
        for pid in self._group(process.pid):
            if pid != process.pid:
                _signal(pid, signal.SIGTERM)
        try:
            process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            _signal(process.pid, signal.SIGTERM)

    def _group(self, leader):
        """Ids of the processes in the session of a step's shell."""
        found = []
        for pid in _pids():
            with contextlib.suppress(OSError):
                if os.getsid(pid) == leader:
                    found.append(pid)
        return found

    def _processes(self, **variables):
        """Ids of the processes that were started with the cookie of this controller, and with these variables."""
        wanted = {f"{name}={value}".encode() for name, value in variables.items()}
        wanted.add(f"JENKINS_SERVER_COOKIE={self.cookie}".encode())
        found = []
        for pid in _pids():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
                if wanted <= set(file.read().split(b"\0")):
                    found.append(pid)
        return found

    def _kill(self, pids):
        for pid in pids:
            _signal(pid, signal.SIGKILL)

    def kill_everything(self):
        """End every process that any build has started, however it detached itself."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            pids = [pid for pid in self._processes() if not _is_zombie(pid)]
            if not pids:
                break
            self._kill(pids)
            time.sleep(0.01)
        for orphan in self._orphans:
            orphan.wait(timeout=5)


def describe(cause):
    """One line of who started a build."""
    if cause.user:
        return f"Started by user {cause.user}"
    note = f" with note: {cause.note}" if cause.note is not None else ""
    return f"Started by remote host {cause.address}{note}"


def _pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rsplit(b")", 1)[1].split()[0] == b"Z"
    except OSError:
        return True


def _signal(pid, number):
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
