"""Results handed to each kind of agent, and what becomes of those that it does not take."""

from __future__ import annotations

import re
import socket
import threading
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from sensu_lxc import agent
from sensu_lxc.agent import Refused, Result, Unreachable, entity_name
from sensu_lxc.options import Misuse

from tests.plugins.agents import CoreHttp, CoreSocket, Go

RESULT = Result("web1", "check_x", 2, "CheckX CRITICAL: wéb", 180, 60, ("mail", "pager"), 1700000000.5)
KINDS: list[Any] = [Go, CoreHttp, CoreSocket]


def later(seconds: float = 5.0) -> float:
    return monotonic() + seconds


@pytest.mark.parametrize("kind", KINDS)
class TestEachAgent:
    def test_takes_a_result_whole(self, kind: Any) -> None:
        with kind() as there:
            agent.connect(there.url, 5).send(RESULT, later())
        (taken,) = there.taken
        assert (taken["name"], taken["entity"], taken["status"]) == ("check_x", "web1", 2)
        assert (taken["output"], taken["ttl"], taken["interval"]) == ("CheckX CRITICAL: wéb", 180, 60)
        assert (taken["handlers"], taken["executed"]) == (["mail", "pager"], 1700000000)

    def test_a_last_result_has_no_ttl(self, kind: Any) -> None:
        with kind() as there:
            agent.connect(there.url, 5).send(RESULT._replace(ttl=0), later())
        assert not there.taken[0].get("ttl")

    def test_a_refused_result_costs_the_next_one_nothing(self, kind: Any) -> None:
        with kind() as there:
            door = agent.connect(there.url, 5)
            with pytest.raises(Refused, match="HTTP (400 proxy entity name|500)|'invalid'"):
                door.send(RESULT._replace(entity="a b"), later())
            door.send(RESULT, later())
        assert len(there.taken) == 1

    def test_says_that_nobody_is_there(self, kind: Any) -> None:
        with kind() as there:
            pass
        with pytest.raises(Unreachable, match="no agent at .*: Connection refused"):
            agent.connect(there.url, 5).send(RESULT, later())


@pytest.mark.parametrize("kind", [CoreHttp, CoreSocket])
def test_core_is_told_that_there_is_no_ttl(kind: Any) -> None:
    """A server that defines a check of that name would add its own, and miss the container for ever."""
    with kind() as there:
        agent.connect(there.url, 5).send(RESULT._replace(ttl=0), later())
    assert there.taken[0]["ttl"] is None


def test_a_client_that_lost_its_transport_gets_nothing_that_it_would_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "_CONNECTED_SECONDS", 0.0)
    with CoreHttp() as there:
        door = agent.connect(there.url, 5)
        door.send(RESULT, later())
        there.connected = False
        with pytest.raises(Unreachable, match="no connection to its transport and would drop"):
            door.send(RESULT, later())
        there.connected = True
        door.send(RESULT, later())
        assert len(there.taken) == 2


def test_core_is_not_asked_for_what_it_would_write_into_its_log() -> None:
    with CoreHttp() as there:
        agent.connect(there.url, 5).send(RESULT, later())
        assert there.unknown == []


def test_one_connection_serves_all() -> None:
    with Go() as there:
        door = agent.connect(there.url, 5)
        for _ in range(20):
            door.send(RESULT, later())
        assert there.server.connections == 1
    assert len(there.taken) == 20


@pytest.mark.parametrize("closes_after", [1, 3])
def test_a_closed_connection_is_made_anew(closes_after: int) -> None:
    with Go(closes_after=closes_after) as there:
        door = agent.connect(there.url, 5)
        for _ in range(10):
            door.send(RESULT, later())
    assert len(there.taken) == 10


@pytest.mark.parametrize("scheme", ["http", "tcp"])
def test_who_takes_connections_and_says_nothing_is_not_waited_for(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unreachable, match="does not answer in time"):
            agent.connect(where, 0.2).send(RESULT, later(0.2))


@pytest.mark.parametrize("answer", [b"", b"\xff\0garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"])
def test_garbage_is_no_agent(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                connection.recv(4096)
                connection.sendall(answer)
                connection.close()

        threading.Thread(target=babble, daemon=True).start()
        with pytest.raises(Unreachable):
            agent.connect(f"http://127.0.0.1:{server.getsockname()[1]}", 1.0)


def test_a_web_server_is_no_agent() -> None:
    class Other(Go):
        def get(self, path: str) -> tuple[int, str]:
            return 200, "<html>"

    with Other() as there, pytest.raises(Unreachable, match="neither Sensu Go's agent nor Sensu Core's client"):
        agent.connect(there.url, 5)


def test_auto_finds_core_by_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with CoreSocket() as there, Go() as nobody:
        nobody.server.server_close()
        monkeypatch.setattr(agent, "HTTP_PORT", nobody.port)
        monkeypatch.setattr(agent, "SOCKET_PORT", int(there.url.rpartition(":")[2]))
        assert str(agent.connect("auto", 5)) == there.url


def test_auto_takes_the_other_socket_of_a_core_that_wants_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    class Protected(CoreHttp):
        def get(self, path: str) -> tuple[int, str]:
            return 401, '{"response":"You must be authenticated using your http_options user and password settings"}'

    with CoreSocket() as there, Protected() as protected:
        monkeypatch.setattr(agent, "HTTP_PORT", protected.port)
        monkeypatch.setattr(agent, "SOCKET_PORT", int(there.url.rpartition(":")[2]))
        assert str(agent.connect("auto", 5)) == there.url
        with pytest.raises(Unreachable, match="wants a password, .* the client's other socket wants none: --agent tcp"):
            agent.connect(protected.url, 5)


@pytest.mark.parametrize("where", ["", "https://a:1", "http://a:0", "http://a:99999", "tcp://", "a b", "http://a/path"])
def test_what_is_no_place(where: str) -> None:
    with pytest.raises(Misuse, match="is no place; write auto"):
        agent.place(where)


def test_places() -> None:
    assert agent.place("http://127.0.0.1") == ("http", "127.0.0.1", 3031)
    assert agent.place("tcp://[::1]") == ("tcp", "::1", 3030)
    assert agent.place("localhost:8031/") == ("http", "localhost", 8031)


NAMES = some.text(some.sampled_from("ax_2f5/.-é \udcff\n0"), min_size=1, max_size=8)


@given(NAMES)
def test_both_sensus_take_every_name(label: str) -> None:
    assert agent.is_name(entity_name(label))
    assert decoded(entity_name(label)) == label


def decoded(name: str) -> str:
    """That there is a way back shows that no two labels share a name."""
    return re.sub(r"_x([0-9a-f]+)_", lambda found: chr(int(found[1], 16)), name)


def test_names_stay_readable() -> None:
    assert entity_name("web-1.example_org") == "web-1.example_org"
    assert entity_name("/var/lib/lxc/web", "rack2-") == "rack2-_x2f_var_x2f_lib_x2f_lxc_x2f_web"
