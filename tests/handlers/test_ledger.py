"""The ledger: one decision at a time, nothing lost, and a clear word when it can't be used."""

import os
import sqlite3
import stat

import pytest
from sensu_lxc_handlers import policy
from sensu_lxc_handlers.event import Event
from sensu_lxc_handlers.ledger import Ledger, moment
from sensu_lxc_handlers.outcome import LedgerUnusable
from sensu_lxc_handlers.policy import Act, Hold

from .support import core_event

RULES = policy.Rules(600, 60, 7200)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "new" / "ledger.sqlite")


def event(executed, **more):
    return Event.from_sensu(core_event(executed=executed, **more))


def decide(ledger, executed, group="g", now=None, **more):
    now = now or moment()
    return ledger.decide(group, event(executed, **more), "job", now, lambda *known: policy.decide(*known, now, RULES))


def test_one_request_then_cooldown_then_the_next_generation(path):
    with Ledger(path, 1) as ledger:
        act, ticket = decide(ledger, 1)
        assert act == Act(1, None, False)
        assert decide(ledger, 2)[0].code == "in-flight"
        ledger.settle(ticket, policy.SENT, moment(), 12, "queue item 12")
    with Ledger(path, 1) as ledger:
        assert decide(ledger, 3)[0].code == "cooldown"
        now = moment()
        act, second = decide(ledger, 4, now=now._replace(uptime=now.uptime + 601))
        assert act.generation == 2 and second.request_id == ticket.request_id[:-1] + "2"
        assert decide(ledger, 5, group="other")[0] == Act(1, None, False)


def test_the_same_event_is_one_decision_whatever_it_was(path):
    with Ledger(path, 1) as ledger:
        _, ticket = decide(ledger, 1)
        ledger.settle(ticket, policy.UNSENT, moment(), None, "refused")
        assert decide(ledger, 1)[0].code == "duplicate"
        assert decide(ledger, 1, incident="another")[0].previous.request_id == ticket.request_id
        assert decide(ledger, 2)[0].code == "in-flight"
        assert decide(ledger, 2)[0].code == "duplicate"


def test_who_comes_back_late_does_not_overwrite_who_took_over(path):
    with Ledger(path, 1) as ledger:
        _, first = decide(ledger, 1)
        now = moment()
        act, second = decide(ledger, 2, now=now._replace(uptime=now.uptime + 61))
        assert act.look_first and second.request_id == first.request_id and second.attempt == 2
        ledger.settle(second, policy.SENT, moment(), 7, "")
        ledger.settle(first, policy.UNKNOWN, moment(), None, "")
        assert decide(ledger, 3)[0].code == "cooldown"


def test_a_new_ledger_does_not_repeat_the_ids_of_the_lost_one(path):
    with Ledger(path, 1) as ledger:
        _, before = decide(ledger, 1)
    os.remove(path)
    with Ledger(path, 1) as ledger:
        _, after = decide(ledger, 1)
    assert before.request_id != after.request_id


def test_a_shared_queue_item_is_noticed_for_a_day(path):
    with Ledger(path, 1) as ledger:
        now = moment()
        _, first = decide(ledger, 1)
        ledger.settle(first, policy.SENT, now, 5, "")
        _, second = decide(ledger, 1, group="other")
        assert ledger.shares_queue_item(second, "job", 5, now) == first.request_id
        assert ledger.shares_queue_item(first, "job", 5, now) is None
        assert ledger.shares_queue_item(second, "job", 5, now._replace(wall=now.wall + 86401)) is None


def test_old_decisions_are_forgotten(path):
    with Ledger(path, 1) as ledger:
        now = moment()
        decide(ledger, 1)
        decide(ledger, 2, group="other", now=now._replace(wall=now.wall + 31 * 86400))
        assert decide(ledger, 1)[0].code == "in-flight"


def test_only_its_owner_reads_it(path):
    os.umask(0o022)
    with Ledger(path, 1) as ledger:
        decide(ledger, 1)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700


def test_read_only_decides_the_same_and_leaves_no_trace(path):
    with Ledger(path, 1, read_only=True) as ledger:
        assert decide(ledger, 1) == (Act(1, None, False), None)
    assert not os.path.exists(os.path.dirname(path))
    with Ledger(path, 1) as ledger:
        decide(ledger, 1)
    before = open(path, "rb").read()
    with Ledger(path, 1, read_only=True) as ledger:
        assert isinstance(decide(ledger, 2)[0], Hold)
        assert decide(ledger, 1)[0].code == "duplicate"
        assert decide(ledger, 2)[0].code == "in-flight"
    assert open(path, "rb").read() == before
    assert os.listdir(os.path.dirname(path)) == ["ledger.sqlite"]


def unusable(path, **options):
    with pytest.raises(LedgerUnusable) as error, Ledger(path, 0.1, **options) as ledger:
        decide(ledger, 1)
    assert path in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("read_only", [False, True])
def test_damaged(path, read_only):
    os.makedirs(os.path.dirname(path))
    with open(path, "w", encoding="utf-8") as file:
        file.write("this is no database\n" * 500)
    assert "it is damaged" in unusable(path, read_only=read_only)


def test_damaged_in_the_middle(path):
    with Ledger(path, 1) as ledger:
        decide(ledger, 1)
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 20000)
    assert "it is damaged" in unusable(path)


def test_locked(path):
    with Ledger(path, 1) as ledger:
        decide(ledger, 1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert "another process holds it" in unusable(path)
    other.close()


def test_nowhere_to_write():
    assert "name another file in `ledger`" in unusable("/proc/sensu-lxc/ledger.sqlite")


def test_not_a_file(tmp_path):
    assert "Is a directory" in unusable(str(tmp_path))


def test_made_by_a_later_version(path):
    with Ledger(path, 1):
        pass
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 9")
    other.close()
    assert "update sensu-lxc" in unusable(path)


def test_a_file_that_was_only_just_created_is_an_empty_ledger(path):
    os.makedirs(os.path.dirname(path))
    open(path, "w").close()
    with Ledger(path, 1) as ledger:
        assert decide(ledger, 1)[0] == Act(1, None, False)
