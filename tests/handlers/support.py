"""What the tests of the handlers share: events, settings, and a handler run as Sensu runs it."""

import glob
import json
import os
import subprocess
import sys
import time
from collections import namedtuple

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SCRIPT = os.path.join(ROOT, "handlers", "handler_jenkins.py")
RECORDINGS = os.path.join(ROOT, "tests", "recordings")

Result = namedtuple("Result", "status line word code seconds")


def recorded(kind):
    """{file name without .json: bytes} of the recorded events of "sensu-core" or "sensu-go"."""
    paths = glob.glob(os.path.join(RECORDINGS, kind, "events", "*.json"))
    return {os.path.basename(path)[:-5]: open(path, "rb").read() for path in paths}


def core_event(entity="web1", check="check_memory", status=2, executed=None, incident="i", **more):
    """A small event of Sensu Core, fresh unless executed says otherwise."""
    executed = int(time.time()) if executed is None else executed
    details = {"name": check, "status": status, "executed": executed, "output": "CRITICAL", "issued": executed}
    event = {"id": incident, "client": {"name": entity}, "check": details, "occurrences": 1, "action": "create"}
    return {**event, **more}


def encode(event):
    return event if isinstance(event, bytes) else json.dumps(event).encode()


class Setup:
    """Settings in a folder of their own, and the handler run with them."""

    script, scope_name = SCRIPT, "lxc_autoscale"

    def __init__(self, folder, **scope):
        self.folder = str(folder)
        self.ledger = os.path.join(self.folder, "ledger", "ledger.sqlite")
        self.scope = {"url": "http://127.0.0.1:1/", "job": "lxc_provision", "ledger": self.ledger, **scope}
        # What Python compiled once is used by all the others, as on an installed system.
        self.environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPYCACHEPREFIX": os.path.join(RECORDINGS, "..", "..", ".pytest_cache", "pyc"),
        }

    def secret(self, name, text, mode=0o600):
        """A file with a secret; returns its path."""
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.chmod(path, mode)
        return path

    @property
    def config(self):
        path = os.path.join(self.folder, "settings.json")
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump({self.scope_name: self.scope}, file)
        os.replace(path + ".new", path)
        return path

    def start(self, *arguments, **options):
        """The handler as a process that waits for its event."""
        return subprocess.Popen(
            [sys.executable, self.script, "--config", self.config, *arguments], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environ, **options
        )  # fmt: skip

    def run(self, event, *arguments, **options):
        return finish(self.start(*arguments, **options), event)


def finish(process, event, timeout=30):
    """Hand over the event, await the end, and take the one line apart."""
    started = time.monotonic()
    output, _ = process.communicate(encode(event), timeout=timeout)
    return result(process.returncode, output, time.monotonic() - started)


def result(status, output, seconds=0.0):
    text = output.decode()
    assert "Traceback" not in text
    assert text.count("\n") == 1 and text.endswith("\n"), text
    assert all(c.isprintable() for c in text[:-1]), text
    name, word, code, _ = text.split(" ", 3)
    assert name.startswith("handler_") and code.endswith(":"), text
    assert (status == 0) == (word in ("ACT", "HOLD")), text
    return Result(status, text[:-1], word, code[:-1], seconds)


def job_xml(token=None, disabled=False, parameters=("REQUEST_ID", "TEMPLATE"), command="true", quiet=0):
    """A job of Jenkins with text parameters and one shell step."""
    definitions = "".join(
        f"<hudson.model.StringParameterDefinition><name>{name}</name></hudson.model.StringParameterDefinition>"
        for name in parameters
    )
    properties = (
        "<properties><hudson.model.ParametersDefinitionProperty><parameterDefinitions>"
        f"{definitions}</parameterDefinitions></hudson.model.ParametersDefinitionProperty></properties>"
    )
    return (
        f"<project>{properties if parameters else ''}<quietPeriod>{quiet}</quietPeriod>"
        f"<disabled>{str(disabled).lower()}</disabled>{f'<authToken>{token}</authToken>' if token else ''}"
        f"<builders><hudson.tasks.Shell><command>{command}</command></hudson.tasks.Shell></builders></project>"
    )
