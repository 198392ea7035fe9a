"""The client: what it makes of each answer, and that it ends in time. The stand-in's own scenarios are in
test_handler_jenkins.py; here a server says what no healthy Jenkins would."""

import collections
import json
import socket
import threading
import time

import pytest
from sensu_lxc_handlers import following
from sensu_lxc_handlers import jenkins as api
from sensu_lxc_handlers.following import Sighting
from sensu_lxc_handlers.jenkins import Jenkins, Unreadable
from sensu_lxc_handlers.outcome import Misconfigured

from tests.standin.jenkins import Jenkins as StandIn
from tests.standin.jenkins import Phase

from .support import job_xml
from .test_policy import request

CREATED = "HTTP/1.1 201 Created\r\nLocation: http://jenkins/queue/item/1/\r\nContent-Length: 0\r\n\r\n"
UP = "HTTP/1.1 403 Forbidden\r\nX-Jenkins: 2.568.2\r\nContent-Length: 0\r\n\r\n"
LOGIN = ("sensu", "apitoken")
ELSEWHERE = "https://jenkins.example/job/lxc_provision/buildWithParameters"


class Scripted:
    """Answers each connection with the next of some raw texts, and keeps what it was sent."""

    def __init__(self, *answers):
        self.received = []
        self._answers = list(answers)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        for answer in self._answers:
            connection, _ = self._socket.accept()
            with connection:
                self.received.append(self._request(connection))
                for piece in [answer] if isinstance(answer, str) else answer:
                    try:
                        connection.sendall(piece.encode())
                    except OSError:
                        break
        self._socket.close()

    @staticmethod
    def _request(connection):
        text = b""
        while b"\r\n\r\n" not in text:
            piece = connection.recv(65536)
            if not piece:
                return text.decode()
            text += piece
        head, _, body = text.partition(b"\r\n\r\n")
        length = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line]
        while length and len(body) < length[0]:
            body += connection.recv(65536)
        return (head + b"\r\n\r\n" + body).decode()


def answer(status, headers="", body=""):
    return f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}"


# In the language of the server, with no header of Jenkins.
STARTING = answer(503, body="<html><title>Jenkins wird gestartet</title><h1>Bitte warten ...</h1></html>")


def client(url, login=LOGIN, needs_crumb=False, seconds=3.0, **options):
    return Jenkins(url, login, needs_crumb, time.monotonic() + seconds, **options)


Found = collections.namedtuple("Found", "queue_item build")


def find_request(client, job, request_id, since):
    """Where a request is, None where it surely is not."""
    one = request("INTENT", request_id=request_id, created_wall=float(since) or 1.0, job=job)
    seen = client.sightings(job, [one])[request_id]
    if seen.kind == following.UNREADABLE:
        raise Unreadable(seen.detail)
    return None if seen.kind == following.ABSENT else Found(seen.queue_item, seen.build)


def trigger(server, **options):
    return client(server.url, **options).trigger("lxc_provision", {"REQUEST_ID": "r1", "token": "t0ken"})


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(api, "_RETRY_PAUSES", (0.01, 0.01))


def test_what_is_sent():
    server = Scripted(answer(201, "Location: http://evil.example:9999/jenkins/queue/item/12/\r\n"))
    assert trigger(server)[:2] == ("SENT", "sent")
    (request,) = server.received
    assert request.startswith("POST /job/lxc_provision/buildWithParameters HTTP/1.1\r\n")
    assert request.endswith("\r\n\r\nREQUEST_ID=r1&token=t0ken")
    assert "Authorization: Basic c2Vuc3U6YXBpdG9rZW4=" in request
    assert "application/x-www-form-urlencoded" in request


@pytest.mark.parametrize(
    "location, item",
    [
        ("/queue/item/7/", 7),
        ("https://x/jenkins/queue/item/7", None),  # cut off: Jenkins ends it with a slash
        ("https://x/job/lxc_provision/", None),
        ("https://x/queue/item/abc/", None),
        ("https://x/queue/item/99999999999999999999999/", None),
    ],
)
def test_only_the_number_of_a_location_counts(location, item):
    got = trigger(Scripted(answer(201, f"Location: {location}\r\n")))
    assert (got.state, got.queue_item) == ("SENT" if item else "UNKNOWN", item)
    got = trigger(Scripted(answer(201, f"X-Jenkins: 1.500\r\nLocation: {location}\r\n")))
    assert (got.state, got.queue_item) == ("SENT", item)


@pytest.mark.parametrize(
    "answers, state, says",
    [
        ([answer(200, body="<html>log in</html>")], "UNKNOWN", "does url lead to it"),
        ([answer(302, "Location: /job/lxc_provision/\r\n")], "REJECTED", "vetoes"),
        ([answer(301, f"Location: {ELSEWHERE}?token=t0ken\r\n")], "REJECTED", f"redirected to {ELSEWHERE}: set url"),
        ([answer(302, "Location: https://sso.example/login?from=x\r\n")], "REJECTED", "login page"),
        ([answer(303, "Location: https://sso.example/\r\n")], "REJECTED", "redirected to https://sso.example/"),
        ([answer(401), UP], "REJECTED", "user, or his token or password, is wrong"),
        ([answer(403, "X-Required-Permission: x.Item.Build\r\n"), UP], "REJECTED", "the user lacks x.Item.Build"),
        ([answer(403, body="Invalid token provided."), UP], "REJECTED", "another `token`"),
        ([answer(500), answer(200, "X-Jenkins: 2.462.3\r\n")], "REJECTED", "parameter REQUEST_ID"),
        ([answer(403, "X-Jenkins: 2.568.2\r\n")], "REJECTED", "may not build it"),
        ([answer(500, "X-Jenkins: 2.568.2\r\n")], "REJECTED", "parameter REQUEST_ID"),
        ([answer(403), STARTING] * 3, "UNSENT", "Jenkins is starting"),
        ([answer(401), STARTING] * 3, "UNSENT", "Jenkins is starting"),
        ([answer(500), STARTING] * 3, "UNSENT", "Jenkins is starting"),
        ([STARTING] * 3, "UNSENT", "Jenkins is starting"),
        ([STARTING, STARTING, CREATED], "SENT", "queue item 1"),
        ([answer(429), answer(429), CREATED], "SENT", "queue item 1"),
        # What is not Jenkins, or hides it
        ([answer(503)], "UNKNOWN", "has no answer from it"),  # or it has handed the request on
        *(([answer(status)], "UNKNOWN", "not how Jenkins answers") for status in (200, 202, 204, 408, 410, 418, 499)),
        ([answer(302, "Location: /" + "a" * 95 + "apitoken\r\n")], "REJECTED", "redirected to /" + "a" * 95 + "***"),
        ([answer(403, "X-Required-Permission: c2Vuc3U6YXBpdG9rZW4=\r\n"), UP], "REJECTED", "the user lacks ***"),
        ([answer(429)] * 3, "UNSENT", "too busy"),
        (
            [answer(401), answer(401)],
            "REJECTED",
            "or url leads elsewhere: GET /api/json answered 401 without X-Jenkins",
        ),
        ([answer(403), answer(200)], "REJECTED", "or url leads elsewhere"),
        ([answer(403), ""], "REJECTED", "or url leads elsewhere: the connection broke"),
        ([answer(500), ""], "UNKNOWN", "or url leads elsewhere"),
        ([answer(500), answer(500)], "UNKNOWN", "or url leads elsewhere"),
        ([answer(201)], "UNKNOWN", "names no queue item"),
        ([answer(502)], "UNKNOWN", "answered 502"),
        ([answer(504)], "UNKNOWN", "answered 504"),
        ([""], "UNKNOWN", "broke before an answer"),
        (["HTTP/1.1 20"], "UNKNOWN", "broke before an answer"),
        (["220 mail.example ESMTP\r\n"], "UNKNOWN", "broke before an answer: BadStatusLine"),
        (["HTTP/1.1 100 Continue\r\n\r\n" + CREATED], "SENT", "queue item 1"),
        (["HTTP/1.1 201 Created\r\nLocation: /queue/item/5/\r\nX-Cut"], "SENT", "queue item 5"),
        ([answer(405)], "REJECTED", "no folder"),
        ([answer(409)], "REJECTED", "disabled"),
    ],
    ids=lambda value: None if isinstance(value, str) else value[0][9:12] or "closed",
)
def test_answers(answers, state, says):
    server = Scripted(*answers)
    got = trigger(server)
    assert (got.state, says in got.text) == (state, True), got
    assert "t0ken" not in got.text
    # One request, but where it is certain that Jenkins did not take it.
    assert sum(text.startswith("POST") for text in server.received) == 1 or state in ("UNSENT", "SENT")


@pytest.mark.parametrize("profile", ["2.462", "2.568"])
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.UP])
def test_each_phase_of_a_start(tmp_path, profile, phase):
    """As recorded: none of them is a refusal, whoever asks, and none passes for a search that found nothing."""
    with StandIn(profile=profile, work=tmp_path, phase=phase) as jenkins:
        name, user = "builder", jenkins.users["builder"]
        for secret, needs_crumb in ((user.api_token, False), (user.password, True), ("wrong", False), ("wrong", True)):
            asked = client(jenkins.url, (name, secret), needs_crumb)
            got = asked.trigger("j", {"REQUEST_ID": "r1"})
            is_down = phase is Phase.DOWN
            assert got[:2] == ("UNSENT", "unreachable" if is_down else "starting"), got
            with pytest.raises(Unreadable, match="refused" if is_down else "answered (503: Jenkins is starting|401)"):
                find_request(asked, "j", "r1", 0)


def test_nothing_is_sent_after_a_post_may_have_arrived():
    server = Scripted("", CREATED, CREATED)
    assert trigger(server).state == "UNKNOWN"
    time.sleep(0.1)
    assert len(server.received) == 1


def test_a_crumb_goes_with_its_cookie():
    crumb = json.dumps({"crumb": "c1", "crumbRequestField": "Jenkins-Crumb"})
    cookies = "Set-Cookie: JSESSIONID.1=abc; Path=/; HttpOnly\r\nSet-Cookie: route=n1\r\n"
    server = Scripted(answer(200, cookies, crumb), CREATED)
    assert trigger(server, needs_crumb=True).state == "SENT"
    assert "Jenkins-Crumb: c1" in server.received[1] and "Cookie: JSESSIONID.1=abc; route=n1" in server.received[1]


@pytest.mark.parametrize(
    "first, state",
    [
        (answer(404), "SENT"),  # crumbs are switched off
        (answer(403), "SENT"),  # anonymous may not read; perhaps it may build
        (answer(200, body="<html>"), "UNSENT"),
        (answer(200, body='{"crumb": "a\\nb", "crumbRequestField": "x"}'), "UNSENT"),
        (answer(200, body='{"crumb": "a", "crumbRequestField": "x: y"}'), "UNSENT"),
        (answer(200, body='{"crumb": "a", "crumbRequestField": "Host"}'), "UNSENT"),
        (answer(200, body='{"crumb": "\\u4e2d", "crumbRequestField": "Jenkins-Crumb"}'), "UNSENT"),
        (answer(200, body="{}"), "UNSENT"),
        (answer(200, body='{"a":' * 100_000), "UNSENT"),
        (answer(502), "UNSENT"),
        ("", "UNSENT"),
    ],
)
def test_crumbs_that_are_none(first, state):
    server = Scripted(first, CREATED)
    assert trigger(server, needs_crumb=True).state == state
    assert len(server.received) == (2 if state == "SENT" else 1)


# Time


def test_a_name_server_that_stalls(monkeypatch):
    server = Scripted(answer(201))
    real = socket.getaddrinfo

    def stalled(*arguments):
        time.sleep(0.4)
        return real(*arguments)

    monkeypatch.setattr(socket, "getaddrinfo", stalled)
    started = time.monotonic()
    assert trigger(server, seconds=0.2)[:2] == ("UNSENT", "unreachable")
    assert time.monotonic() - started < 0.35
    time.sleep(0.4)
    assert server.received in ([], [""])  # what was given up is not sent later


def test_an_address_that_swallows_packets():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        started = time.monotonic()
        got = client(f"http://127.0.0.1:{listener.getsockname()[1]}", seconds=0.3).trigger("j", {})
        assert got[:2] == ("UNSENT", "unreachable") and time.monotonic() - started < 0.5
        for filler in fillers:
            filler.close()


def slowly(text, seconds):
    for character in text:
        time.sleep(seconds)
        yield character


def test_an_answer_that_drips_before_its_status_is_unknown():
    started = time.monotonic()
    assert trigger(Scripted(slowly(answer(201), 0.05)), seconds=0.3).state == "UNKNOWN"
    assert time.monotonic() - started < 0.5


def test_a_body_that_drips_does_not_matter():
    text = answer(201, "Location: /queue/item/3/\r\n").replace("Length: 0", "Length: 100")
    started = time.monotonic()
    got = trigger(Scripted([text, *slowly("x" * 20, 0)]), seconds=1)
    assert (got.state, got.queue_item) == ("SENT", 3)
    assert time.monotonic() - started < 1.2


def test_nobody_listens():
    got = client("http://127.0.0.1:1/").trigger("j", {})
    assert got[:2] == ("UNSENT", "unreachable") and "Connection refused (127.0.0.1:1)" in got.text


def test_a_name_that_does_not_exist():
    assert client("http://jenkins.invalid/").trigger("j", {}).state == "UNSENT"


def test_proxies_of_the_environment_are_not_asked(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1/")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1/")
    assert trigger(Scripted(CREATED)).state == "SENT"


# Addresses


@pytest.mark.parametrize(
    "url",
    ["http://sensu:s3cret@jenkins/", "http://s3cret@jenkins/", "ftp://jenkins/", "jenkins:8080", "https://", "http://[::1",
     "http://h:99999/", "http://h/?token=s3cret", "http://h/#s3cret", "http://h/\x7f"],
)  # fmt: skip
def test_urls_that_are_refused_without_repeating_them(url):
    with pytest.raises(Misconfigured) as error:
        client(url)
    assert "url" in str(error.value) and "s3cret" not in str(error.value)


def test_a_ca_file_that_is_none(tmp_path):
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    for name in (str(path), str(tmp_path / "missing.pem")):
        with pytest.raises(Misconfigured, match="give a PEM file"):
            client("https://127.0.0.1/", ca_file=name)


# Looking for a request


@pytest.fixture
def standin(tmp_path):
    with StandIn(work=tmp_path) as jenkins:
        jenkins.create_job("A/lxc_provision", job_xml(quiet=30))
        yield jenkins


def find(standin, request_id="r1", user="builder", job="A/lxc_provision", since=None):
    since = time.time() if since is None else since
    return find_request(client(standin.url, standin.auth(user)), job, request_id, since)


def test_found_in_the_queue_then_among_the_builds(standin):
    assert find(standin) is None
    sent = client(standin.url, standin.auth("builder")).trigger("A/lxc_provision", {"REQUEST_ID": "r1"})
    assert find(standin) == Found(sent.queue_item, None)
    assert find(standin, "r2") is None
    standin.advance(31)
    standin.wait_for_builds("A/lxc_provision", 1)
    assert find(standin) == Found(sent.queue_item, 1)
    standin.advance(400)
    assert find(standin) == Found(sent.queue_item, 1)


@pytest.mark.parametrize("user", ["blind", "discover"])
def test_who_may_not_look_has_not_searched(standin, user):
    with pytest.raises(
        Unreadable,
        match="answered (403: the user needs Overall|404: there is no such job any more, or the user needs Job)/Read",
    ):
        find(standin, user=user)


def test_a_job_without_the_parameter_can_not_be_searched(standin):
    standin.create_job("plain", job_xml(parameters=()))
    with pytest.raises(Unreadable, match="no parameter REQUEST_ID"):
        find(standin, job="plain")


def page(oldest_seconds, count=100, request_id=None):
    builds = [{"number": number, "timestamp": oldest_seconds * 1000, "actions": [{}, None]} for number in range(count)]
    builds[-1]["actions"].append({"parameters": [{"name": "X"}, {"name": "REQUEST_ID", "value": request_id}]})
    about = {"property": [{"parameterDefinitions": [{"name": "REQUEST_ID"}]}], "allBuilds": builds}
    return answer(200, body=json.dumps(about))


@pytest.mark.parametrize(
    "pages, found",
    [
        # At the end once more the newest, among which may be what has just left the queue.
        ([page(10_000, 99), page(10_000, 99)], None),
        ([page(10_000), page(9_000), page(8_000, 1), page(10_000)], None),
        ([page(10_000), page(1_000), page(10_000)], None),  # an hour before it was asked for is far enough
        ([page(10_000, 99), page(10_000, 99, "r1")], Found(None, 98)),
        ([page(10_000), page(9_000, 7, "r1")], Found(None, 6)),
    ],
)
def test_a_search_goes_back_far_enough(pages, found):
    server = Scripted(answer(200, body='{"items": [null]}'), *pages)
    assert find_request(client(server.url), "j", "r1", 10_000) == found
    assert len(server.received) == 1 + len(pages)
    assert len(pages) < 3 or "%7B100%2C200%7D" in server.received[2].replace(",", "%2C")


def test_a_search_that_is_cut_off_is_not_complete():
    with pytest.raises(Unreadable):
        find_request(
            client(Scripted(answer(200, body='{"items": []}'), page(10_000)).url, seconds=1), "j", "r1", 10_000
        )


def test_what_was_discarded_may_have_been_it(standin):
    sent = client(standin.url, standin.auth("builder")).trigger("A/lxc_provision", {"REQUEST_ID": "r1"})
    assert sent.state == "SENT"
    standin.advance(31)
    standin.wait_for_builds("A/lxc_provision", 1)
    standin.controller.job("A/lxc_provision").builds.clear()
    with pytest.raises(Unreadable, match="older builds were discarded"):
        find(standin)


@pytest.mark.parametrize("body", ["", "[]", "{}", "<html>", '{"a":' * 100_000, '{"items": 7}', '{"items": []}'])
def test_lists_that_are_none(body):
    with pytest.raises(Unreadable):
        find_request(client(Scripted(answer(200, body=body), answer(200, body=body)).url), "j", "r1", 0)


# Many requests at once


def asked_for(request_id, created=10_000.0, queue_item=None):
    return request("SENT", request_id=request_id, created_wall=created, queue_item=queue_item)


def build(request_id, number=1, result="SUCCESS", building=False, seconds=10_000):
    parameters = [{"name": "REQUEST_ID", "value": request_id}]
    return {"number": number, "queueId": number + 10, "timestamp": seconds * 1000, "building": building,
            "result": result, "actions": [{}, {"parameters": parameters}]}  # fmt: skip


def item(request_id, number=7, url="http://any.example/ctx/job/A/job/lxc%20provision/"):
    parameters = [{"name": "REQUEST_ID", "value": request_id}]
    return {"id": number, "task": {"url": url}, "actions": [{"parameters": parameters}]}


def queue(*items):
    return answer(200, body=json.dumps({"items": list(items)}))


def builds(*found):
    about = {"property": [{"parameterDefinitions": [{"name": "REQUEST_ID"}]}], "allBuilds": list(found)}
    return answer(200, body=json.dumps(about))


def look(server, *requests):
    return client(server.url).sightings("A/lxc provision", requests)


def test_many_are_seen_in_two_gets():
    server = Scripted(
        queue(item("q"), item("again", 8)),
        builds(build("run", 5, None, True), build("ok", 4), build("bad", 3, "FAILURE"), build("again", 2, "ABORTED"),
               build("odd", 1, None)),
    )  # fmt: skip
    seen = look(server, *(asked_for(name) for name in ("q", "again", "run", "ok", "bad", "odd")))
    assert seen == {
        "q": Sighting("queued", 7), "again": Sighting("queued", 8), "run": Sighting("running", 15, 5),
        "ok": Sighting("succeeded", 14, 4), "bad": Sighting("unsuccessful", 13, 3, "ended as FAILURE"),
        "odd": Sighting("running", 11, 1),
    }  # fmt: skip
    assert len(server.received) == 2


def test_the_newest_build_of_an_id_counts_and_one_that_did_not_fail_more_than_the_queue():
    server = Scripted(
        queue(item("a"), item("b")), builds(build("a", 9), build("a", 8, "FAILURE"), build("b", 7, None, True))
    )
    seen = look(server, asked_for("a"), asked_for("b"))
    assert [seen["a"].kind, seen["b"].kind] == ["succeeded", "running"]


@pytest.mark.parametrize("url", ["http://any.example/job/A/job/lxc_decommission/", "http://any.example/job/provision/"])
def test_an_item_of_another_job_is_none_of_ours(url):
    server = Scripted(queue(item("a", url=url)), builds(), builds())
    assert look(server, asked_for("a")) == {"a": Sighting("absent")}


def test_names_of_jobs_match_without_regard_to_case():
    server = Scripted(queue(item("a", url="http://h/job/a/job/LXC%20Provision/")), builds())
    assert look(server, asked_for("a"))["a"].kind == "queued"


def test_what_left_the_queue_while_it_was_read_is_found_by_a_second_look():
    server = Scripted(queue(), builds(), builds(build("a")))
    assert look(server, asked_for("a"))["a"].kind == "succeeded"


def left(request_id="a", cancelled=False):
    parameters = [{"name": "REQUEST_ID", "value": request_id}]
    return answer(200, body=json.dumps({"cancelled": cancelled, "actions": [{"parameters": parameters}]}))


@pytest.mark.parametrize("reply, kind", [
    (left(cancelled=True), "cancelled"), (left(), "queued"), (left("other", True), "absent"),
    (answer(404), "absent"), (answer(500), "unreadable"), (answer(200, body="<html>"), "unreadable"),
    ("", "unreadable"),
])  # fmt: skip
def test_what_an_item_says_that_is_neither_queued_nor_built(reply, kind):
    server = Scripted(queue(), builds(), builds(), reply)
    assert look(server, asked_for("a", queue_item=3))["a"].kind == kind
    assert "/queue/item/3/api/json" in server.received[3]


@pytest.mark.parametrize("answers", [
    [STARTING], [answer(401)], [answer(200, body="{}")], [""], [queue(), STARTING], [queue(), answer(404)],
    [queue(), answer(200, body='{"allBuilds": []}')],
    [queue(), answer(200, body=json.dumps({"property": [], "allBuilds": []}))],
    [queue(), *([page(10_000)] * 2), STARTING],
])  # fmt: skip
def test_a_look_that_is_not_whole_tells_nothing_of_anybody(answers):
    seen = look(Scripted(*answers), asked_for("a"), asked_for("b"))
    assert {one.kind for one in seen.values()} == {"unreadable"}
    assert all(one.detail and one.detail.isprintable() for one in seen.values())


def test_it_goes_back_to_the_oldest_of_them():
    server = Scripted(queue(), page(10_000), page(9_000), page(5_000, 3, "old"), builds(build("new")))
    seen = look(server, asked_for("old", 9_000.0), asked_for("new"))
    assert [seen["old"].build, seen["new"].build] == [2, 1]


@pytest.mark.parametrize("value", [None, 7, [], {"a": 1}, ["a"]])
def test_a_parameter_that_is_no_text(value):
    server = Scripted(queue(item(value)), builds(build(value), build("a")))
    assert look(server, asked_for("a"))["a"].kind == "succeeded"


def test_what_a_job_declares(standin):
    standin.create_job("lxc_decommission", job_xml(parameters=("REQUEST_ID", "TARGET_ID")))
    asked = client(standin.url, standin.auth("builder"))
    assert asked.declared("lxc_decommission") == {"REQUEST_ID", "TARGET_ID"}
    standin.create_job("plain", job_xml(parameters=()))
    assert asked.declared("plain") == set()
    with pytest.raises(Unreadable):
        asked.declared("none")
