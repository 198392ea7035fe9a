"""What is asked of a container while it starts or ends, when for a moment its state can't be told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sensu_lxc import acting, commands, owned, states
from sensu_lxc.errors import CannotObserve
from sensu_lxc.host import Host

NOT_TO_BE_TOLD = CannotObserve("which cgroup is its own can't be told")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is seen of the container, one look after the other; the last goes on."""
    looks: list[object] = []

    def state(*_: object) -> states.State:
        look = looks.pop(0) if len(looks) > 1 else looks[0]
        if isinstance(look, Exception):
            raise look
        return states.State(str(look))

    monkeypatch.setattr(owned, "state", state)
    monkeypatch.setattr(commands, "run", lambda *_, **__: commands.Finished(0, b"", ""))
    return looks


@pytest.fixture
def work() -> Iterator[acting.Work]:
    yield acting.Work(Host(), "/var/lib/lxc", "web", 5.0, acting.Stop(), lambda words: None)


def test_it_is_ended_all_the_same(seen: list[object]) -> None:
    seen += [NOT_TO_BE_TOLD, "RUNNING", NOT_TO_BE_TOLD, "STOPPED"]
    owned.kill(Host(), "/var/lib/lxc", "web")
    assert seen == ["STOPPED"]


def test_where_it_can_never_be_told_that_is_said(seen: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owned, "_STOP_SECONDS", 0.3)
    seen.append(NOT_TO_BE_TOLD)
    with pytest.raises(owned.CannotAct, match="whether web stops can't be told: which cgroup"):
        owned.kill(Host(), "/var/lib/lxc", "web")


def test_it_stopped_as_asked(seen: list[object], work: acting.Work) -> None:
    seen += [NOT_TO_BE_TOLD, "STOPPING", NOT_TO_BE_TOLD, "STOPPED"]
    assert work.halt(1.0) is True


def test_it_came_up(seen: list[object], work: acting.Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "PROOF_SECONDS", 0.2)
    monkeypatch.setattr(acting.Work, "init_pid", lambda self: 42)
    seen += ["STARTING", NOT_TO_BE_TOLD, "RUNNING"]
    assert work.proved("log") == 42
