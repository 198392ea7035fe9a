"""Clients written for real controllers do their main jobs with the stand-in, and trip where they trip there."""

import os
import subprocess
import sys

import pytest

from .jenkins import Jenkins
from .replay import job_xml

python_jenkins = pytest.importorskip("jenkins", reason="python-jenkins is not installed")
api4jenkins = pytest.importorskip("api4jenkins")

PROFILES = ["2.462", "2.568"]


@pytest.fixture(params=PROFILES)
def standin(request, tmp_path):
    with Jenkins(profile=request.param, work=tmp_path) as jenkins:
        yield jenkins


@pytest.fixture
def client(standin):
    return python_jenkins.Jenkins(standin.url, *standin.auth(), timeout=5)


@pytest.fixture
def api4(standin):
    return api4jenkins.Jenkins(standin.url, auth=standin.auth())


def test_python_jenkins_builds(standin, client):
    assert client.get_whoami()["id"] == "admin"
    assert client.get_version() == standin.profile.version  # does not log in by itself
    client.create_job("job", job_xml("usual"))
    assert client.job_exists("job") and not client.job_exists("nope")
    number = client.build_job("job", {"REQUEST_ID": "r1"})
    assert client.get_queue_item(number)["why"].startswith("In the quiet period")
    assert [item["id"] for item in client.get_queue_info()] == [number]
    standin.advance(31)
    standin.wait_for_builds("job", 1)
    assert client.get_queue_item(number)["executable"]["number"] == 1
    build = client.get_build_info("job", 1)
    assert (build["result"], build["queueId"]) == ("SUCCESS", number)
    assert client.get_build_console_output("job", 1) == standin.builds("job")[0].log
    assert client.get_job_info("job")["lastBuild"]["number"] == 1
    assert [job["name"] for job in client.get_jobs()] == ["job"]


def test_python_jenkins_changes_jobs(standin, client):
    client.create_job("job", job_xml())
    with pytest.raises(python_jenkins.JenkinsException, match="already exists"):
        client.create_job("job", job_xml())
    client.disable_job("job")
    with pytest.raises(Exception, match="409"):
        client.build_job("job")
    client.enable_job("job")
    client.reconfig_job("job", job_xml(quiet=7))
    assert client.get_job_config("job") == job_xml(quiet=7)
    number = client.build_job("job")
    client.cancel_queue(number)
    assert client.get_queue_item(number)["cancelled"] is True
    client.quiet_down()
    assert standin.controller.quieting
    client.delete_job("job")
    assert not client.job_exists("job")


def test_python_jenkins_with_a_password_fetches_a_crumb(standin):
    standin.create_job("job", job_xml())
    client = python_jenkins.Jenkins(standin.url, "builder", standin.users["builder"].password, timeout=5)
    assert client.build_job("job") == standin.queued()[0].number


def test_python_jenkins_in_folders(standin, client):
    standin.create_job("A/B/job", job_xml("usual"))
    assert client.build_job("A/B/job", {"REQUEST_ID": "r1"}) == standin.queued()[0].number
    assert client.get_job_info("A/B/job")["fullName"] == "A/B/job"
    assert [job["fullname"] for job in client.get_all_jobs()] == ["A", "A/B", "A/B/job"]


def test_python_jenkins_trips_over_the_303(standin, client):
    """It follows the redirect to an item that has no page on 2.462, and misses Location on the page of 2.568."""
    standin.create_job("job", job_xml("usual"))
    client.build_job("job", {"REQUEST_ID": "r1"})
    error = {
        "2.462.3": python_jenkins.NotFoundException,
        "2.568.2": python_jenkins.EmptyResponseException,
    }[standin.profile.version]
    with pytest.raises(error):
        client.build_job("job", {"REQUEST_ID": "r1"})
    assert len(standin.queued()) == 1


def test_api4jenkins_builds(standin, api4):
    assert api4.version == standin.profile.version
    api4.create_job("job", job_xml("usual"))
    item = api4.build_job("job", REQUEST_ID="r1")
    assert item.get_build() is None
    again = api4.build_job("job", REQUEST_ID="r1")  # a 303 is a success to it
    assert again.id == item.id
    standin.advance(31)
    standin.wait_for_builds("job", 1)
    build = item.get_build()
    assert (build.number, build.result, build.building) == (1, "SUCCESS", False)
    assert {p.name: p.value for p in build.get_parameters()}["REQUEST_ID"] == "r1"
    assert "".join(build.console_text()).endswith("Finished: SUCCESS")
    assert list(build.progressive_output())[-1].strip() == "Finished: SUCCESS"


def test_api4jenkins_in_folders(standin, api4):
    standin.create_job("A/job", job_xml("usual", quiet=0))
    item = api4.build_job("A/job", REQUEST_ID="r1")
    standin.wait_for_builds("A/job", 1)
    assert item.get_build().result == "SUCCESS"
    assert api4.get_job("A/job").full_name == "A/job"


def test_api4jenkins_reads_the_reason_of_a_refusal(standin, api4):
    standin.create_job("job", job_xml())
    with pytest.raises(api4jenkins.exceptions.BadRequestError, match="already exists"):
        api4.create_job("job", job_xml())


def test_api4jenkins_trips_over_a_400_without_a_reason(standin, api4):
    """2.568 answers 400 without X-Error to parameters for a job that has none, 2.462 500."""
    standin.create_job("job", job_xml())
    if standin.profile.version == "2.568.2":
        with pytest.raises(KeyError, match="X-Error"):
            api4.build_job("job", REQUEST_ID="r1")
    else:
        with pytest.raises(Exception, match="500 Internal Server Error"):
            api4.build_job("job", REQUEST_ID="r1")
    assert standin.queued() == []


def test_live_scenarios_hold_here_too(standin):
    """What the opt-in test expects of a real controller; so it is run at least once everywhere."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    user, token = standin.auth()
    environment = {**os.environ, "JENKINS_URL": standin.url, "JENKINS_USER": user, "JENKINS_API_TOKEN": token}
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/live/test_real_jenkins.py"]
    done = subprocess.run(argv, cwd=root, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout and "skipped" not in done.stdout
    assert standin.controller.jobs == {}  # it has tidied up
