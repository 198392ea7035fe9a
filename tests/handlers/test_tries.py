"""What was asked, in a file: one decision at a time, and what later events tell of it."""

import sqlite3

import pytest
from sensu_lxc_handlers import remedy
from sensu_lxc_handlers.event import Event
from sensu_lxc_handlers.outcome import LedgerUnusable
from sensu_lxc_handlers.policy import Hold
from sensu_lxc_handlers.tries import Tries

from .support import core_event
from .test_remedy import WALL, action, at


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "new" / "remediate.sqlite")


def event(seconds, entity="web1", status=2, check="check_container_state", **more):
    document = core_event(entity, check, status, WALL + seconds, **more)
    document["client"]["type"], document["check"]["origin"] = "proxy", "host1"
    return Event.from_sensu(document)


def decide(tries, seconds, **changed):
    """(code, the try's number) of an event that comes a second after its check ran."""
    told, now = event(seconds, **changed), at(seconds + 1)
    decision, number = tries.decide(
        told, now, lambda known, seen: remedy.decide(told, [action()], known, seen, now, 60)
    )
    return (decision.code if isinstance(decision, Hold) else "act"), number


def rows(path, columns="state"):
    db = sqlite3.connect(path)
    found = db.execute(f"SELECT {columns} FROM tries ORDER BY number").fetchall()
    db.close()
    return [row if len(row) > 1 else row[0] for row in found]


def test_each_scope_has_a_memory_of_its_own(path):
    with Tries(path, 1, "lxc_remediate") as one, Tries(path, 1, "grow") as two:
        assert decide(one, 0) == ("act", 1) and decide(one, 0)[0] == "duplicate"
        assert decide(two, 0) == ("act", 2) and decide(two, 0)[0] == "duplicate"
        one.settle(1, remedy.ASKED, "asked")
        two.settle(2, remedy.ASKED, "asked")
        assert decide(one, 20)[0] == "cooldown"
        assert rows(path) == ["FAILED", "ASKED"], "of the other one no later event was seen"
        assert two.well(event(30, status=0)).number == 2
        assert rows(path) == ["FAILED", "WELL"]


def test_one_try_at_a_time_and_what_becomes_of_it(path):
    with Tries(path, 1, "lxc_remediate") as tries:
        assert decide(tries, 0) == ("act", 1)
        assert rows(path, "state, runner, entity, action, asked_check") == [
            ("INTENT", "host1", "web1", "start_container", "start_container")
        ]
        assert decide(tries, 10) == ("in-flight", None)
        tries.settle(1, remedy.ASKED, "asked")
        assert decide(tries, 0) == ("duplicate", None)
        assert rows(path) == ["ASKED"]
        assert decide(tries, 20) == ("cooldown", None)
        assert rows(path) == ["FAILED"]
        tries.settle(1, remedy.UNSENT, "a handler that comes back late says nothing any more")
        assert rows(path) == ["FAILED"]
    with Tries(path, 1, "lxc_remediate") as tries:
        assert decide(tries, 700) == ("act", 2)
        tries.settle(2, remedy.ASKED, "asked")
        assert tries.well(event(690, status=0)).number == 1  # from before the second
        last = tries.well(event(800, status=0))
        assert (last.number, last.action) == (2, "start_container")
        assert rows(path) == ["WELL", "WELL"]
        assert tries.well(event(900, status=0)) is None


def test_a_result_of_the_same_second(path):
    """Asked at 1.9, mended at once, and found well at 1.95: Sensu says 1."""
    with Tries(path, 1, "lxc_remediate") as tries:
        told, now = event(0), at(1.9)
        tries.decide(told, now, lambda known, seen: remedy.decide(told, [action()], known, seen, now, 60))
        tries.settle(1, remedy.ASKED, "")
        assert tries.well(event(0, status=0)) is None
        assert tries.well(event(1, status=0)).number == 1


def test_entities_and_checks_are_told_apart(path):
    with Tries(path, 1, "lxc_remediate") as tries:
        assert decide(tries, 0)[0] == decide(tries, 0, entity="web2")[0] == "act"
        assert decide(tries, 1, check="check_other")[0] == "in-flight"
        tries.settle(1, remedy.ASKED, "")
        assert decide(tries, 5, check="check_other")[0] == "cooldown"
        assert rows(path) == ["ASKED", "INTENT"]  # it is bad by another check, which says nothing of the first
        assert tries.well(event(9, status=0, check="check_other")) is None
        assert tries.well(event(9, status=0, entity="web3")) is None


def test_what_a_dry_run_leaves(path, tmp_path):
    with Tries(path, 1, "lxc_remediate", read_only=True) as tries:
        assert decide(tries, 0) == ("act", None)
    assert not (tmp_path / "new").exists()
    with Tries(path, 1, "lxc_remediate") as tries:
        decide(tries, 0)
    with open(path, "rb") as file:
        before = file.read()
    with Tries(path, 1, "lxc_remediate", read_only=True) as tries:
        assert decide(tries, 5) == ("in-flight", None)
    with open(path, "rb") as file:
        assert file.read() == before


def test_what_is_long_over_is_forgotten(path):
    with Tries(path, 1, "lxc_remediate") as tries:
        decide(tries, 0)
        assert decide(tries, 31 * 86400) == ("act", 1)  # the number of a row that is gone
    assert rows(path, "wall") == [WALL + 31 * 86400 + 1]


def test_values_that_make_no_sense(path):
    with Tries(path, 1, "lxc_remediate") as tries:
        decide(tries, 0)
    db = sqlite3.connect(path)
    db.execute("UPDATE tries SET state = 'DONE'")
    db.commit()
    db.close()
    with (
        Tries(path, 1, "lxc_remediate") as tries,
        pytest.raises(LedgerUnusable, match="damaged; look in the handler's log"),
    ):
        decide(tries, 20)


def test_why_is_kept(path):
    with Tries(path, 1, "lxc_remediate") as tries:
        decide(tries, 0)
        decide(tries, 5)
    db = sqlite3.connect(path)
    found = db.execute("SELECT word, code, text FROM decisions ORDER BY executed").fetchall()
    db.close()
    assert found[0] == ("ACT", "asked", "try 1")
    assert found[1][:2] == ("HOLD", "in-flight") and "another handler" in found[1][2]
