"""Serves a stand-in until it is told to stop, for demonstrations:

    python -m tests.standin --port 0 --job A/lxc_provision=provision.xml --secrets /run/demo

prints one line of JSON: where it listens, who may build there, and the files with the secrets.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading

from .config import BadConfig
from .jenkins import Jenkins
from .profiles import PROFILES


def main(argv=None):
    options = _parser().parse_args(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    own = None if options.secrets else tempfile.TemporaryDirectory(prefix="jenkins-standin-secrets-")
    secrets = _Secrets(options.secrets or own.name)
    try:
        jenkins = Jenkins(options.profile, options.prefix, options.work, dict(options.env), port=options.port)
    except OSError as error:
        sys.exit(f"cannot listen on port {options.port}: {error}")
    try:
        with jenkins:
            tokens = {}
            for name, path in options.job:
                job = _create(jenkins, name, path)
                if job.config.auth_token:
                    tokens[name] = secrets.keep(f"job-token.{name.replace('/', '.')}", job.config.auth_token)
            user = jenkins.users[options.user]
            ready = {
                "url": jenkins.url,
                "user": user.name,
                "api_token_file": secrets.keep(f"api-token.{user.name}", user.api_token),
                "password_file": secrets.keep(f"password.{user.name}", user.password),
                "job_token_files": tokens,
                "jobs": [name for name, _ in options.job],
                "profile": options.profile,
                "pid": os.getpid(),
            }
            print(json.dumps(ready), flush=True)
            stop.wait()
    finally:
        secrets.forget()
        if own:
            own.cleanup()


def _create(jenkins, name, path):
    try:
        with open(path, encoding="utf-8") as file:
            return jenkins.create_job(name, file.read())
    except (OSError, BadConfig) as error:
        sys.exit(f"cannot create job {name} from {path}: {error}")


class _Secrets:
    """Files that only their owner may read, removed in the end."""

    def __init__(self, directory):
        self._directory = directory
        self._files = []
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def keep(self, name, secret):
        """Write a secret and return the path."""
        path = os.path.abspath(os.path.join(self._directory, name))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.fchmod(descriptor, 0o600)  # it may have been there before
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secret)
        self._files.append(path)
        return path

    def forget(self):
        for path in self._files:
            if os.path.exists(path):
                os.unlink(path)


def _pair(text):
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"NAME=VALUE expected, not {text!r}")
    return name, value


def _parser():
    parser = argparse.ArgumentParser(prog="python -m tests.standin", description="A stand-in for a Jenkins controller.")
    parser.add_argument("--port", type=int, default=0, help="0 for any free one")
    parser.add_argument("--job", type=_pair, action="append", default=[], metavar="NAME=CONFIG.XML")
    parser.add_argument("--prefix", default="", help="context path, such as /jenkins")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="2.568")
    parser.add_argument("--env", type=_pair, action="append", default=[], metavar="KEY=VALUE", help="for shell steps")
    parser.add_argument("--user", choices=("admin", "builder"), default="builder", help="whose secrets to write")
    parser.add_argument("--secrets", metavar="DIR", help="where to write them")
    parser.add_argument("--work", metavar="DIR", help="for workspaces; a temporary one if not given")
    return parser


if __name__ == "__main__":
    main()
