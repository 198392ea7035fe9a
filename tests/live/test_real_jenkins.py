"""A handful of the recorded scenarios against a controller of yours.

Set JENKINS_URL, JENKINS_USER and JENKINS_API_TOKEN of somebody who may create, configure, build and delete jobs. It
makes two jobs named sensu-lxc-test-..., never lets them run (their quiet period is an hour) and deletes them.
"""

import os
import re
import secrets

import pytest
import requests

from tests.standin.replay import job_xml

_NEEDED = ("JENKINS_URL", "JENKINS_USER", "JENKINS_API_TOKEN")
_missing = [name for name in _NEEDED if not os.environ.get(name)]

pytestmark = pytest.mark.skipif(bool(_missing), reason=f"needs a real Jenkins: {', '.join(_missing)} not set")


class Controller:
    """A session with the controller. Addresses are taken from JENKINS_URL only, never from its answers."""

    def __init__(self):
        self.url = os.environ["JENKINS_URL"].rstrip("/")
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.auth = (os.environ["JENKINS_USER"], os.environ["JENKINS_API_TOKEN"])

    def get(self, path):
        return self.session.get(f"{self.url}/{path}", timeout=20, allow_redirects=False)

    def post(self, path, data=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.session.post(f"{self.url}/{path}", data=data, headers=headers, timeout=20, allow_redirects=False)


@pytest.fixture(scope="module")
def controller():
    real = Controller()
    with real.session:
        answer = real.get("api/json?tree=mode")
        assert answer.status_code == 200 and "X-Jenkins" in answer.headers, "no Jenkins, or not for this user"
        yield real


@pytest.fixture
def job(controller):
    """Makes jobs, and deletes them whatever happens."""
    made = []

    def make(parameters):
        name = f"sensu-lxc-test-{secrets.token_hex(4)}"
        made.append(name)
        xml = job_xml(parameters, quiet=3600, command="true")
        answer = controller.post(f"createItem?name={name}", xml.encode(), Content_Type="application/xml")
        assert answer.status_code == 200
        return name

    yield make
    for name in made:
        controller.post(f"job/{name}/doDelete")


def item_of(answer):
    return int(re.search(r"/queue/item/(\d+)/", answer.headers["Location"]).group(1))


def version(answer):
    return tuple(int(part) for part in answer.headers["X-Jenkins"].split("-")[0].split(".")[:2])


def test_plain_job_coalesces(controller, job):
    name = job("")
    first, second = (controller.post(f"job/{name}/build") for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert item_of(first) == item_of(second)


def test_equal_parameters_coalesce_and_an_item_can_be_cancelled(controller, job):
    name = job("usual")
    path = f"job/{name}/buildWithParameters"
    first, equal, other = (controller.post(path, {"REQUEST_ID": each}) for each in ("a", "a", "b"))
    newer = version(controller.get("api/json?tree=mode")) >= (2, 308)
    assert [answer.status_code for answer in (first, equal, other)] == [201, 303 if newer else 201, 201]
    number = item_of(first)
    assert item_of(equal) == number != item_of(other)
    shown = controller.get(f"queue/item/{number}/api/json").json()
    assert shown["_class"] == "hudson.model.Queue$WaitingItem"
    assert shown["params"].startswith("\nREQUEST_ID=a\n")
    assert controller.post(f"queue/cancelItem?id={number}").status_code == 204
    left = controller.get(f"queue/item/{number}/api/json").json()
    assert (left["cancelled"], left["executable"]) == (True, None)
    assert controller.post(f"queue/cancelItem?id={number}").status_code == 500


def test_json_body_is_ignored(controller, job):
    path = f"job/{job('usual')}/buildWithParameters"
    answer = controller.post(path, b'{"REQUEST_ID":"x"}', Content_Type="application/json")
    assert answer.status_code == 201
    shown = controller.get(f"queue/item/{item_of(answer)}/api/json").json()
    assert shown["params"].startswith("\nREQUEST_ID=\n")


def test_refusals(controller, job):
    name = job("usual")
    assert controller.get(f"job/{name}/buildWithParameters").status_code == 405
    assert controller.post(f"job/{name}-nope/build").status_code == 404
    assert controller.post(f"job/{name}/build").status_code == 400
    assert controller.post(f"job/{name}/buildWithParameters", {"MODE": "nonsense"}).status_code == 500
    controller.post(f"job/{name}/disable")
    assert controller.post(f"job/{name}/buildWithParameters").status_code == 409


def test_deleted_job_is_gone_and_its_item_cancelled(controller, job):
    name = job("")
    number = item_of(controller.post(f"job/{name}/build"))
    assert controller.post(f"job/{name}/doDelete").status_code == 302
    assert controller.get(f"job/{name}/api/json").status_code == 404
    assert controller.get(f"queue/item/{number}/api/json").json()["cancelled"] is True
