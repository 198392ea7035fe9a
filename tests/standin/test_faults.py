"""Every fault reaches the client as what it says, with or without effect on the queue."""

import http.client
import ssl
import threading
import time
import urllib.request

import pytest
import requests

from . import certificates
from .jenkins import Fault, Jenkins, Phase
from .replay import job_xml

PARAMETERS = {"REQUEST_ID": "one"}


@pytest.fixture
def jenkins(tmp_path):
    with Jenkins(work=tmp_path) as standin:
        standin.create_job("param", job_xml("usual"))
        yield standin


def post(jenkins, timeout=5, **options):
    url = f"{jenkins.url}/job/param/buildWithParameters"
    return requests.post(
        url, data=PARAMETERS, auth=jenkins.auth("builder"), timeout=timeout, allow_redirects=False, **options
    )


@pytest.mark.parametrize(
    "fault, error, queued",
    [
        (Fault.CLOSE_BEFORE_READING, requests.ConnectionError, 0),
        (Fault.CLOSE_AFTER_QUEUEING, requests.ConnectionError, 1),
        (Fault.RESET, requests.ConnectionError, 1),
        (Fault.BLACKHOLE, requests.ReadTimeout, 0),
        (Fault.BLACKHOLE_AFTER_QUEUEING, requests.ReadTimeout, 1),
    ],
)
def test_no_answer(jenkins, fault, error, queued):
    jenkins.fault = fault
    with pytest.raises(error):
        post(jenkins, timeout=0.3 if error is requests.ReadTimeout else 5)
    assert len(jenkins.queued()) == queued
    assert [request.method for request in jenkins.requests] == ["POST"]


def test_reset_is_a_reset(jenkins):
    jenkins.fault = Fault.RESET
    with pytest.raises(requests.ConnectionError, match="reset by peer"):
        post(jenkins)


def test_cut_in_header_loses_the_location(jenkins):
    jenkins.fault = Fault.CUT_IN_HEADER
    try:
        response = post(jenkins)
    except requests.ConnectionError:
        pass  # so may a client see it
    else:
        assert "Location" not in response.headers  # and so does this one: a 201 without an address
    assert len(jenkins.queued()) == 1


@pytest.mark.parametrize("fault", [Fault.DRIP, Fault.DRIP_HEADER])
def test_drip_outlasts_the_read_timeout(jenkins, fault):
    """Each byte comes in time, the whole does not: what a timeout of requests does not bound."""
    jenkins.fault = fault
    jenkins.drip_interval = 0.01
    began = time.monotonic()
    response = post(jenkins, timeout=0.3)
    assert response.status_code == 201
    assert time.monotonic() - began > 0.5


def test_starting_for_a_while(jenkins):
    jenkins.fault, jenkins.fault_count = Fault.STARTING, 2
    assert [post(jenkins).status_code for _ in range(3)] == [503, 503, 201]
    assert jenkins.fault is None


def test_login_redirect(jenkins):
    jenkins.fault = Fault.LOGIN_REDIRECT
    response = post(jenkins)
    assert (response.status_code, response.headers["Location"]) == (302, "https://login.example/sso?back=jenkins")
    assert jenkins.queued() == []


def test_faults_spare_what_is_no_build_unless_told_otherwise(jenkins):
    jenkins.fault = Fault.STARTING
    url = f"{jenkins.url}/queue/api/json"
    assert requests.get(url, auth=jenkins.auth(), timeout=5).status_code == 200
    jenkins.fault_everywhere = True
    assert requests.get(url, auth=jenkins.auth(), timeout=5).status_code == 503


def test_requests_are_kept_as_they_came(jenkins):
    post(jenkins)
    (request,) = jenkins.requests
    assert (request.method, request.path, request.body) == ("POST", "/job/param/buildWithParameters", b"REQUEST_ID=one")
    assert request.headers.get("authorization").startswith("Basic ")


def test_keep_alive(jenkins):
    connection = http.client.HTTPConnection("127.0.0.1", jenkins.port, timeout=5)
    sockets = set()
    for method, path in (("GET", "/login"), ("HEAD", "/login"), ("POST", "/job/param/build"), ("GET", "/login")):
        connection.request(method, path)
        with connection.getresponse() as response:
            response.read()
        sockets.add(connection.sock)
    connection.close()
    assert len(sockets) == 1 and None not in sockets


def test_close_breaks_off_who_waits(tmp_path):
    with Jenkins(work=tmp_path) as jenkins:
        jenkins.create_job("param", job_xml("usual"))
        jenkins.fault = Fault.BLACKHOLE
        errors = []

        def wait():
            try:
                post(jenkins, timeout=30)
            except requests.ConnectionError as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        deadline = time.monotonic() + 5
        while not jenkins.requests and time.monotonic() < deadline:
            time.sleep(0.01)
    thread.join(timeout=5)
    assert len(errors) == 1


def test_start_in_phases(tmp_path):
    with Jenkins(work=tmp_path, phase=Phase.LOADING) as jenkins:
        jenkins.create_job("param", job_xml("usual"))
        assert post(jenkins).status_code == 503
        jenkins.phase = Phase.UP
        assert post(jenkins).status_code == 201


def test_slow_restart_goes_through_the_phases(jenkins):
    statuses = []
    assert post(jenkins).status_code == 201
    jenkins.restart(startup=1.5)
    deadline = time.monotonic() + 10
    while jenkins.phase is not Phase.UP and time.monotonic() < deadline:
        try:
            status = post(jenkins).status_code
        except requests.ConnectionError:
            status = None
        if not statuses or statuses[-1] != status:
            statuses.append(status)
        time.sleep(0.005)
    jenkins.wait_until_up()
    assert statuses[0] is None
    assert {500, 403, 503} <= set(statuses)
    assert statuses.index(500) < statuses.index(403) < statuses.index(503)
    assert post(jenkins).status_code == 303  # the queue has survived


@pytest.fixture(scope="module")
def authorities(tmp_path_factory):
    if not certificates.available():
        pytest.skip("the openssl command is needed to make certificates")
    directory = tmp_path_factory.mktemp("ca")
    return [certificates.make(str(directory / name)) for name in ("ours", "theirs")]


def test_tls(tmp_path, authorities):
    ours, theirs = authorities
    with Jenkins(work=tmp_path, tls=(ours.chain, ours.key)) as jenkins:
        jenkins.create_job("param", job_xml("usual"))
        assert jenkins.url.startswith("https://127.0.0.1:")
        response = post(jenkins, verify=ours.ca)
        assert response.status_code == 201
        assert response.headers["Location"].startswith(jenkins.url)
        for verify in (theirs.ca, True):
            with pytest.raises(requests.exceptions.SSLError):
                post(jenkins, verify=verify)
        assert len(jenkins.requests) == 1  # who does not trust the certificate has sent nothing
        trusting = ssl.create_default_context(cafile=ours.ca)
        with urllib.request.urlopen(f"{jenkins.url}/login", context=trusting, timeout=5) as answer:
            assert answer.status == 200
        jenkins.fault = Fault.RESET
        with pytest.raises(requests.ConnectionError):
            post(jenkins, verify=ours.ca)
