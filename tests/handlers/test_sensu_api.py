"""The client of Sensu's API against stand-ins made of recorded answers, and what it makes of wrong ones."""

import json
import time

import pytest
from sensu_lxc_handlers import event, sensu_api
from sensu_lxc_handlers.api_settings import (
    KEY_VARIABLE,
    PASSWORD_VARIABLE,
    ApiCredentials,
    ApiSettings,
    api_credentials,
    api_settings,
)
from sensu_lxc_handlers.outcome import Misconfigured
from sensu_lxc_handlers.sensu_api import REJECTED, UNANSWERED, UNREACHABLE, Agent, ApiTrouble, Result, Silence

from tests.standin.sensu import SensuCore, SensuGo

from .test_jenkins import Scripted, answer

KEY = "0516e34a-0e4b-4daa-9f9c-0d626e295895"


@pytest.fixture
def core():
    with SensuCore() as standin:
        yield standin


@pytest.fixture
def go():
    with SensuGo(KEY) as standin:
        yield standin


def client(url, kind, key="", login=None, seconds=3.0):
    wanted = ApiSettings(kind, url, "default" if kind == "go" else "", login[0] if login else "", "", "", "")
    return sensu_api.connect(wanted, ApiCredentials(key, login, []), time.monotonic() + seconds)


def of_core(core, login=None, **options):
    return client(core.url, "core", login=login, **options)


def of_go(go, key=KEY, **options):
    return client(go.url, "go", key, **options)


def trouble(ask, *arguments):
    """(code, text) of what an API's method raises."""
    with pytest.raises(ApiTrouble) as caught:
        ask(*arguments)
    return caught.value.code, str(caught.value)


# What is known


def test_results_of_core(core):
    results = {(one.entity, one.check): one for one in of_core(core).latest_results()}
    assert len(results) == len(core.results) == 9
    assert results["ubuntu", "memory_check"] == Result(
        "ubuntu", "memory_check", 2, "MEM CRITICAL 95%\n", 1795380888, "ubuntu", "", event.CHECK, {}, {}
    )
    proxied = results["monitor_lxc", "proxied"]
    assert (proxied.status, proxied.runner) == (2, "ubuntu")
    kinds = {check: one.kind for (_, check), one in results.items()}
    assert [kinds[name] for name in ("keepalive", "slow", "ttlcheck")] == [event.KEEPALIVE, event.TIMED_OUT, event.TTL]


def test_results_of_go(go):
    results = {(one.entity, one.check): one for one in of_go(go).latest_results()}
    assert sorted(results) == [("c0000", "sweep"), ("c0001", "sweep"), ("web9", "lbl")]
    assert results["web9", "lbl"] == Result(
        "web9", "lbl", 1, "w", 1795415522, "lxchost1", "default", event.CHECK, {"container": "web9"}, {"x": "y"}
    )
    for one in go.events:
        one["check"], one["metrics"] = {"metadata": {"name": ""}}, {"points": []}
    assert of_go(go).latest_results() == []


@pytest.mark.parametrize("page, requests", [(2, 5), (3, 3), (9, 1), (1000, 1)])
def test_core_is_read_page_by_page(core, monkeypatch, page, requests):
    monkeypatch.setattr(sensu_api, "_PAGE", page)
    assert len(of_core(core).latest_results()) == 9
    assert len(core.requests) == requests
    assert core.requests[0].path == f"/results?limit={page}&offset=0"


@pytest.mark.parametrize("page, requests", [(1, 3), (2, 2), (3, 1)])
def test_go_is_read_page_by_page(go, monkeypatch, page, requests):
    monkeypatch.setattr(sensu_api, "_PAGE", page)
    assert len(of_go(go).latest_results()) == 3
    assert len(go.requests) == requests


def test_what_fits(core, go):
    assert [one.entity for one in of_core(core).latest_results("memory_*")] == ["ubuntu"]
    assert {one.check for one in of_core(core).latest_results("*[dk]", "[mw]*")} == {"proxied", "ttlcheck"}
    assert [one.check for one in of_core(core).latest_results(entity="web1")] == ["ttlcheck"]
    assert core.requests[-1].path.startswith("/results/web1?")
    assert {one.entity for one in of_go(go).latest_results("sweep")} == {"c0000", "c0001"}
    assert [one.check for one in of_go(go).latest_results(entity="web9")] == ["lbl"]
    assert go.requests[-1].path.startswith("/api/core/v2/namespaces/default/events/web9?")
    assert of_go(go).latest_results("Sweep") == of_core(core).latest_results(entity="nosuch") == []


def test_one_result(core, go):
    assert of_core(core).result("ubuntu", "memory_check").status == 2
    assert of_go(go).result("web9", "lbl").output == "w"
    assert of_core(core).result("ubuntu", "nosuch") is of_go(go).result("web9", "nosuch") is None
    assert of_go(go).result("a/../b?c", "lbl") is None
    assert go.requests[-1].path.endswith("/events/a%2F..%2Fb%3Fc/lbl")


def test_who_is_there(core, go):
    asked = of_core(core)
    assert [asked.agent(name) for name in ("ubuntu", "web1", "x")] == [
        Agent("ubuntu", False),
        Agent("web1", True),
        None,
    ]
    asked = of_go(go)
    names = ("lxchost1", "web9", "x")
    assert [asked.agent(name) for name in names] == [Agent("lxchost1", False), Agent("web9", True), None]


def test_what_is_silenced(core, go):
    assert of_core(core).silenced() == []
    core.silences = [{"id": "client:ubuntu:memory_check", "subscription": "client:ubuntu", "check": "memory_check"}]
    (silence,) = of_core(core).silenced()
    assert silence == Silence("client:ubuntu", "memory_check", "")
    assert silence.covers("ubuntu", "memory_check")
    assert not silence.covers("ubuntu", "other") and not silence.covers("web1", "memory_check")
    (silence,) = of_go(go).silenced()
    assert silence == Silence("entity:web9", "", "moved") and silence.covers("web9", "any")


# Asking


def test_core_asks_one_client(core):
    assert of_core(core).request("unpublished_fix", "ubuntu", "web1/state is critical") is None
    assert core.asked == [
        {
            "check": "unpublished_fix",
            "subscribers": ["client:ubuntu"],
            "reason": "web1/state is critical",
            "creator": "sensu-lxc",
        }
    ]


def test_go_asks_one_entity(go):
    assert of_go(go).request("start_container", "lxchost1", "web1/state is critical") is None
    (asked,) = go.asked
    assert (asked["check"], asked["subscriptions"]) == ("start_container", ["entity:lxchost1"])
    assert go.requests[-1].path == "/api/core/v2/namespaces/default/checks/start_container/execute"


def test_a_check_that_nobody_defined(core, go):
    code, text = trouble(of_core(core).request, "nosuch", "ubuntu", "r")
    assert code == REJECTED and "no check nosuch in the settings of Core's server" in text
    code, text = trouble(of_go(go).request, "nosuch", "lxchost1", "r")
    assert code == REJECTED and "no check nosuch in namespace default" in text
    assert not core.asked and not go.asked


# Who asks


def test_users_of_core(core):
    core.user = ("sensu", "s3cret")
    assert of_core(core, ("sensu", "s3cret")).latest_results()
    for login in (None, ("sensu", "wr0ng")):
        for ask in (
            of_core(core, login).latest_results,
            lambda it=login: of_core(core, it).request("c", "ubuntu", "r"),
        ):
            code, text = trouble(ask)
            assert code == REJECTED and "user or password_file is wrong, or missing" in text and "wr0ng" not in text


def test_users_of_go(go):
    code, text = trouble(of_go(go, "wrongkey").latest_results)
    assert code == REJECTED and "API key is unknown" in text and "wrongkey" not in text
    asked = of_go(go, "", login=go.login)
    assert asked.latest_results() and asked.agent("lxchost1")
    assert [request.path for request in go.requests].count("/auth") == 1
    assert go.requests[-1].authorization == f"Bearer {go.token}"
    code, text = trouble(of_go(go, "", login=("sensu-lxc", "wr0ng")).latest_results)
    assert code == REJECTED and "GET /auth answered 401: user or password_file is wrong" in text
    go.allowed = False
    code, text = trouble(of_go(go).request, "start_container", "lxchost1", "r")
    assert code == REJECTED and "his role needs" in text


# Answers that are none


@pytest.mark.parametrize(
    "status, read, asked, says",
    [
        (302, REJECTED, REJECTED, "redirected to https://portal.example/login: set api.url"),
        (400, REJECTED, REJECTED, "that is not how it answers: does api.url lead"),
        (429, UNREACHABLE, UNREACHABLE, "not ready"),
        (500, UNREACHABLE, UNANSWERED, "failed on it"),
        (503, UNREACHABLE, UNREACHABLE, "not ready"),
        (504, UNREACHABLE, UNANSWERED, "failed on it"),
        (200, UNREACHABLE, REJECTED, "api.url lead"),
        ("close", UNREACHABLE, UNANSWERED, "broke before an answer"),
    ],
)
def test_faults(core, go, status, read, asked, says):
    for api in (of_core(core), of_go(go)):
        standin = core if api.name == "Sensu Core" else go
        standin.fault, standin.fault_on = status, "GET"
        code, text = trouble(api.latest_results)
        assert code == read and says in text
        standin.fault_on = "POST"
        code, text = trouble(api.request, "start_container", "ubuntu", "r")
        assert code == asked and (says in text)


def test_a_core_that_lost_its_redis_was_asked_for_nothing(core):
    core.connected = False
    for ask in ((of_core(core).latest_results,), (of_core(core).request, "unpublished_fix", "ubuntu", "r")):
        code, text = trouble(*ask)
        assert code == UNREACHABLE and "answered 500: Sensu Core's API has lost its Redis or its transport" in text


def test_no_answer_in_time(core):
    core.fault, core.fault_on = "blackhole", "POST"
    started = time.monotonic()
    code, text = trouble(of_core(core, seconds=0.3).request, "unpublished_fix", "ubuntu", "r")
    assert code == UNANSWERED and "no answer from 127.0.0.1" in text and time.monotonic() - started < 1


def test_nobody_listens():
    for kind in ("core", "go"):
        code, text = trouble(client("http://127.0.0.1:1", kind, KEY).request, "c", "h", "r")
        assert code == UNREACHABLE and "Connection refused (127.0.0.1:1)" in text


def test_the_other_api(core, go):
    """api.kind is wrong."""
    code, text = trouble(client(core.url, "go", KEY).latest_results)
    assert code == REJECTED and "is api.kind right" in text
    code, text = trouble(client(go.url, "core").latest_results)
    assert code == REJECTED


@pytest.mark.parametrize(
    "body", ["", "{}", "<html>", "[1, null, {}]", '[{"client": 7}]', '[{"check": {"name": "c"}}]', "[" * 9999]
)
def test_lists_that_are_none(body):
    for kind in ("core", "go"):
        asked = client(Scripted(answer(200, body=body)).url, kind, KEY)
        if body.startswith("[") and body.endswith("]"):
            assert asked.latest_results() == []
        else:
            assert trouble(asked.latest_results)[0] == UNREACHABLE


def test_a_list_that_is_cut_off():
    whole = json.dumps([{"client": "ubuntu", "check": {"name": "c", "status": 0}}])
    cut = answer(200, body=whole).replace(whole, whole[:-9])
    code, text = trouble(client(Scripted(cut).url, "core", seconds=1).latest_results)
    assert code == UNREACHABLE and "no whole JSON" in text


def test_a_list_without_an_end(monkeypatch):
    monkeypatch.setattr(sensu_api, "_PAGES", 3)
    endless = [answer(200, "Sensu-Continue: x\r\n", "[]")] * 3
    code, text = trouble(client(Scripted(*endless).url, "go", KEY).latest_results)
    assert code == UNREACHABLE and "has no end" in text


def test_a_token_that_is_none():
    asked = client(Scripted(answer(200, body="{}")).url, "go", login=("u", "passw0rd"))
    code, text = trouble(asked.latest_results)
    assert code == UNREACHABLE and "gave no token" in text


# Settings


@pytest.mark.parametrize(
    "given, kind, namespace",
    [
        ({"url": "http://sensu:4567/"}, "core", ""),
        ({"url": "https://sensu:8080"}, "go", "default"),
        ({"url": "https://sensu:8080/", "namespace": "lab"}, "go", "lab"),
        ({"url": "https://sensu/", "kind": "go"}, "go", "default"),
        ({"url": "http://[::1]:4567/sensu/"}, "core", ""),
        ({"url": "http://sensu:8080", "kind": "core"}, "core", ""),
    ],
)
def test_settings(given, kind, namespace):
    wanted = api_settings(given, "lxc_remediate.api", "settings.json")
    assert (wanted.kind, wanted.namespace, wanted.url) == (kind, namespace, given["url"])


@pytest.mark.parametrize(
    "given, says",
    [
        ([], '"lxc_remediate.api" in settings.json must be an object'),
        ({}, "lxc_remediate.api.url is missing"),
        ({"url": 7}, "url must be a text"),
        ({"url": "https://sensu/"}, 'kind must be "core"'),
        ({"url": "https://sensu:80800/"}, 'kind must be "core"'),
        ({"url": "https://sensu:8080/", "kind": "Go"}, 'kind must be "core"'),
        (
            {"url": "https://sensu:8080/", "api_key": "s3cret"},
            "api.api_key is not a setting; did you mean api_key_file",
        ),
        ({"url": "https://sensu:8080/", "zzz": "s3cret"}, "api.zzz is not a setting; did you mean one of kind, url"),
        ({"url": "https://sensu:8080/", "api_key_file": "key"}, "api_key_file must be an absolute path"),
        ({"url": "http://sensu:4567/", "namespace": "x"}, "namespace is Sensu Go's"),
        ({"url": "http://sensu:4567/", "user": "a:s3cret"}, "user must not contain a colon"),
    ],
)
def test_settings_that_are_wrong(given, says):
    with pytest.raises(Misconfigured, match=says) as error:
        api_settings(given, "lxc_remediate.api", "settings.json")
    assert "s3cret" not in str(error.value)


def test_secrets(tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    path.chmod(0o604)
    go = ApiSettings("go", "https://sensu:8080", "default", "", str(path), "", "")
    known = api_credentials(go, {})
    assert (known.key, known.login, known.secrets) == (KEY, None, [KEY]) and "chmod o=" in known.notes[0]
    assert api_credentials(go, {KEY_VARIABLE: "other"}).key == "other"
    with_password = go._replace(api_key_file="", user="u", password_file=str(path))
    assert api_credentials(with_password, {}) == ApiCredentials("", ("u", KEY), known.notes)
    assert api_credentials(with_password, {PASSWORD_VARIABLE: "p"}).login == ("u", "p")
    core = ApiSettings("core", "http://sensu:4567", "", "", "", "", "")
    assert api_credentials(core, {KEY_VARIABLE: "k"}) == ApiCredentials("", None, [])


@pytest.mark.parametrize(
    "changed, environ, says",
    [
        ({"kind": "go"}, {}, "wants api.api_key_file"),
        ({"kind": "go", "user": "u"}, {}, "set api.password_file"),
        ({"user": "u"}, {}, "set api.password_file"),
        ({}, {PASSWORD_VARIABLE: "p"}, "set api.user"),
        ({"kind": "go"}, {KEY_VARIABLE: "a b"}, "must hold the API key"),
        ({"kind": "go"}, {KEY_VARIABLE: "schlüssel"}, "must hold the API key"),
        ({"kind": "go", "api_key_file": "/nosuch"}, {}, "No such file"),
    ],
)
def test_secrets_that_are_none(changed, environ, says):
    wanted = ApiSettings("core", "http://sensu:4567", "", "", "", "", "")._replace(**changed)
    with pytest.raises(Misconfigured, match=says):
        api_credentials(wanted, environ)
