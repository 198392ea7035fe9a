"""Asking monitors: each kind of answer, and none at all, within the time."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Callable

import pytest
from sensu_lxc import monitor
from sensu_lxc.sources import lxc_command
from sensu_lxc.sources.lxc_command import GET_LIMIT_CGROUP, GET_STATE

Listen = Callable[..., str]
NUMBERS = itertools.count()


def answer(status: int = 0, value: int = 0, data: bytes = b"") -> bytes:
    return struct.pack("@iiP", status, len(data), value) + data


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Listen as a monitor does; each connection is answered by the pieces, a pause between them."""
    sockets: list[socket.socket] = []

    def start(*pieces: bytes, accept: bool = True, hold: bool = False, backlog: int = 100) -> str:
        name = f"/test-{os.getpid()}-{next(NUMBERS)}/web/command"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\0" + name)
        listener.listen(backlog)
        sockets.append(listener)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                    connection.recv(4096)
                    for piece in pieces:
                        connection.sendall(piece)
                        time.sleep(0.02)
                except OSError:
                    return
                sockets.append(connection)
                if not hold:
                    connection.close()

        if accept:
            threading.Thread(target=serve, daemon=True).start()
        return name

    yield start
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)  # wakes accept()
        one.close()


def test_an_answer(listen: Listen) -> None:
    reply = monitor.ask_one(listen(answer(value=2), hold=True), GET_STATE, 2)
    assert (reply.problem, reply.status, reply.value, reply.uid) == ("", 0, 2, os.getuid())


def test_an_answer_in_pieces_with_data(listen: Listen) -> None:
    whole = answer(data=b"/lxc.payload.web\0")
    reply = monitor.ask_one(listen(whole[:5], whole[5:20], whole[20:], hold=True), GET_LIMIT_CGROUP, 2, "memory")
    assert reply.data == b"/lxc.payload.web\0"


def test_a_refusal(listen: Listen) -> None:
    assert monitor.ask_one(listen(answer(status=-13)), GET_STATE, 2).status == -13


def test_nobody_listens() -> None:
    assert monitor.ask_one("/nobody/listens/command", GET_STATE, 2).problem == monitor.ABSENT


@pytest.mark.parametrize(
    "pieces", [[], [b"x" * 7], [struct.pack("@iiP", 0, -5, 0)], [struct.pack("@iiP", 0, 2**30, 0)]]
)
def test_what_is_no_answer(listen: Listen, pieces: list[bytes]) -> None:
    reply = monitor.ask_one(listen(*pieces), GET_STATE, 2)
    assert reply.problem == monitor.BROKEN
    assert reply.data


def test_an_answer_whose_data_is_cut_off_is_not_taken_for_whole(listen: Listen) -> None:
    cut = answer(data=b"/lxc.payload.web-12\0")[:-3]
    reply = monitor.ask_one(listen(cut), GET_LIMIT_CGROUP, 2, "memory")
    assert reply.problem == monitor.BROKEN


@pytest.mark.parametrize("how", [{"accept": False}, {"hold": True}])
def test_a_monitor_that_does_not_answer(listen: Listen, how: dict[str, bool]) -> None:
    start = time.monotonic()
    assert monitor.ask_one(listen(**how), GET_STATE, 0.2).problem == monitor.UNRESPONSIVE
    assert 0.15 < time.monotonic() - start < 1


def test_a_full_backlog_does_not_block(listen: Listen) -> None:
    name = listen(accept=False, backlog=0)
    others = []
    for _ in range(3):
        other = socket.socket(socket.AF_UNIX)
        other.setblocking(False)
        try:
            other.connect("\0" + name)
        except BlockingIOError:
            pass
        others.append(other)
    start = time.monotonic()
    assert monitor.ask_one(name, GET_STATE, 0.2).problem == monitor.UNRESPONSIVE
    assert time.monotonic() - start < 1
    for other in others:
        other.close()


def test_a_drip_of_bytes_does_not_extend_the_time(listen: Listen) -> None:
    drips = answer(data=b"x" * 60)
    name = listen(*[drips[at : at + 1] for at in range(len(drips))], hold=True)
    start = time.monotonic()
    assert monitor.ask_one(name, GET_STATE, 0.2).problem == monitor.UNRESPONSIVE
    assert time.monotonic() - start < 0.5


def test_what_came_in_time_counts_although_another_hung(listen: Listen) -> None:
    names = [listen(accept=False), listen(answer(value=2), hold=True), listen(answer()[:7], hold=True), listen()]
    replies = monitor.ask(names, GET_STATE, 0.2)
    assert [replies[name].problem for name in names] == [monitor.UNRESPONSIVE, "", monitor.UNRESPONSIVE, monitor.BROKEN]


def test_many_at_once_of_which_some_hang(listen: Listen) -> None:
    hung = [listen(accept=False) for _ in range(10)]
    fine = [listen(answer(value=2), hold=True) for _ in range(290)]
    start = time.monotonic()
    replies = monitor.ask(hung + fine, GET_STATE, 0.5)
    assert time.monotonic() - start < 3
    assert {replies[name].problem for name in hung} == {monitor.UNRESPONSIVE}
    assert {(replies[name].problem, replies[name].value) for name in fine} == {("", 2)}


def test_odd_addresses() -> None:
    assert monitor.ask_one("/a/w\udcff/command", GET_STATE, 1).problem == monitor.ABSENT
    assert monitor.ask_one("x" * 200, GET_STATE, 1).problem == monitor.BROKEN
    assert struct.calcsize("@iiP") == lxc_command.HEADER_SIZE
