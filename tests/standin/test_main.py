"""`python -m tests.standin` serves, keeps its secrets to itself and leaves nothing behind."""

import json
import os
import select
import signal
import subprocess
import sys
import time

import pytest
import requests

from .jenkins import Jenkins
from .replay import job_xml

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture
def serve(tmp_path):
    processes = []

    def start(*arguments):
        argv = [sys.executable, "-m", "tests.standin", "--secrets", str(tmp_path / "secrets"), *arguments]
        # PATH alone keeps the job's environment known.
        process = subprocess.Popen(
            argv, cwd=ROOT, env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        ready, _, _ = select.select([process.stdout], [], [], 20)
        assert ready, "did not say that it is ready"
        return process, process.stdout.readline()

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=5)


def secret_in(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def test_serves_until_sigterm_and_takes_everything_along(serve, tmp_path):
    config = tmp_path / "job.xml"
    config.write_text(job_xml("usual", quiet=0, token="s3cret", command="echo $PLACE $$; exec sleep 60"))
    job = f"A/provision={config}"
    process, line = serve("--job", job, "--prefix", "/jenkins", "--profile", "2.462", "--env", "PLACE=/here")
    ready = json.loads(line)
    assert ready["url"].endswith("/jenkins") and ready["user"] == "builder" and ready["profile"] == "2.462"
    files = [ready["api_token_file"], ready["password_file"], ready["job_token_files"]["A/provision"]]
    assert [os.stat(path).st_mode & 0o777 for path in files] == [0o600] * 3
    secrets = [secret_in(path) for path in files]
    assert secrets[2] == "s3cret"
    assert not any(secret in line for secret in secrets)

    auth = (ready["user"], secrets[0])
    url = f"{ready['url']}/job/A/job/provision"
    answer = requests.post(f"{url}/buildWithParameters", data={"REQUEST_ID": "r1"}, auth=auth, timeout=5)
    assert answer.status_code == 201
    pid = None
    deadline = time.monotonic() + 10
    while pid is None and time.monotonic() < deadline:
        log = requests.get(f"{url}/1/consoleText", auth=auth, timeout=5).text
        pid = next((int(each.split()[1]) for each in log.splitlines() if each.startswith("/here ")), None)
    assert pid and os.path.exists(f"/proc/{pid}")

    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=15)
    assert (process.returncode, errors) == (0, "")
    assert not os.path.exists(f"/proc/{pid}")
    assert not any(os.path.exists(path) for path in files)
    with pytest.raises(requests.ConnectionError):
        requests.get(ready["url"], timeout=5)


def test_taken_port_ends_it_with_a_sentence():
    with Jenkins() as other:
        argv = [sys.executable, "-m", "tests.standin", "--port", str(other.port)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"cannot listen on port {other.port}: ")


def test_unusable_job_ends_it_with_a_sentence(tmp_path):
    argv = [sys.executable, "-m", "tests.standin", "--job", f"job={tmp_path}/absent.xml"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("cannot create job job from ") and "Traceback" not in done.stderr
    assert done.stdout == ""
