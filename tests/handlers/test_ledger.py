"""The ledger: one decision at a time, nothing lost, and a clear word when it can't be used."""

import contextlib
import errno
import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import zlib

import pytest
from sensu_lxc_handlers import fleet, policy
from sensu_lxc_handlers.event import Event
from sensu_lxc_handlers.ledger import Ledger, moment
from sensu_lxc_handlers.outcome import LedgerUnusable
from sensu_lxc_handlers.policy import Act, Hold

from .redis_server import RedisServer, needed
from .support import SCRIPT, core_event

RULES = policy.Rules(600, 60, 7200)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "new" / "ledger.sqlite")


@pytest.fixture(params=["sqlite", "redis"])
def opened(request, tmp_path):
    """A function that opens the same ledger: opened(), opened(read_only=True)."""
    if request.param == "sqlite":
        yield lambda **options: Ledger(str(tmp_path / "new" / "ledger.sqlite"), 2, **options)
        return
    needed()
    from sensu_lxc_handlers.ledger_redis import RedisLedger

    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis") as server:
        yield lambda **options: RedisLedger(server.url, "", 2, **options)


def event(executed, **more):
    return Event.from_sensu(core_event(executed=executed, **more))


def decide(ledger, executed, group="g", now=None, later=0, **more):
    now = now or ledger.moment()
    now = now._replace(wall=now.wall + later, uptime=now.uptime + later)
    return ledger.decide(group, event(executed, **more), "job", now, lambda *known: policy.decide(*known, now, RULES))


# What both do


def test_one_request_then_cooldown_then_the_next_generation(opened):
    with opened() as ledger:
        assert ledger.is_new
        act, asked = decide(ledger, 1)
        assert act == Act(1, None, False) and asked.state == fleet.INTENT
        assert decide(ledger, 2)[0].code == "in-flight"
        ledger.settle("g", asked, fleet.SENT, ledger.moment(), 12, "queue item 12")
    with opened() as ledger:
        assert not ledger.is_new
        assert decide(ledger, 3)[0].code == "cooldown"
        act, second = decide(ledger, 4, later=601)
        assert act.generation == 2 and second.request_id == asked.request_id[:-1] + "2"
        assert decide(ledger, 5, group="other")[0] == Act(1, None, False)
        assert sorted(ledger.fleets()) == ["g", "other"]


def test_the_same_event_is_one_decision_whatever_it_was(opened):
    with opened() as ledger:
        _, asked = decide(ledger, 1)
        ledger.settle("g", asked, fleet.UNSENT, ledger.moment(), None, "refused")
        assert decide(ledger, 1)[0].code == "duplicate"
        assert decide(ledger, 1, incident="another")[0].previous.request_id == asked.request_id
        assert decide(ledger, 2)[0].code == "in-flight"
        assert decide(ledger, 2)[0].code == "duplicate"


def test_who_comes_back_late_does_not_overwrite_who_took_over(opened):
    with opened() as ledger:
        _, first = decide(ledger, 1)
        act, second = decide(ledger, 2, later=61)
        assert act.look_first and second.request_id == first.request_id and second.attempt == 2
        ledger.settle("g", second, fleet.SENT, ledger.moment(), 7, "")
        ledger.settle("g", first, fleet.UNKNOWN, ledger.moment(), None, "")
        assert decide(ledger, 3)[0].code == "cooldown"


def test_a_shared_queue_item_is_noticed_for_a_day(opened):
    with opened() as ledger:
        now = ledger.moment()
        _, first = decide(ledger, 1)
        ledger.settle("g", first, fleet.SENT, now, 5, "")
        _, second = decide(ledger, 1, group="other")
        assert ledger.shares_queue_item(second, 5, now) == first.request_id
        assert ledger.shares_queue_item(first, 5, now) is None
        assert ledger.shares_queue_item(second, 5, now._replace(wall=now.wall + 86401)) is None


def test_read_only_decides_the_same_and_writes_nothing(opened):
    with opened(read_only=True) as ledger:
        assert ledger.is_new
        assert decide(ledger, 1) == (Act(1, None, False), None)
        assert ledger.fleets() == {}
    with opened() as ledger:
        assert ledger.is_new
        decide(ledger, 1)
    with opened(read_only=True) as ledger:
        assert decide(ledger, 1)[0].code == "duplicate" and decide(ledger, 2)[0].code == "in-flight"
        assert ledger.peek("g", event(1))[1] is True
        before = ledger.fleets()
        ledger.change("g", ledger.moment(), lambda fleet: fleet._replace(paused="x"))
        assert ledger.fleets() == before


def test_what_is_told_afterwards(opened):
    with opened() as ledger:
        _, asked = decide(ledger, 1)
        ledger.settle("g", asked, fleet.SENT, ledger.moment(), 12, "queue item 12")
        decide(ledger, 2)
        now = ledger.moment()
        for decision in (Hold("quiet", "a"), Hold("quiet", "b"), Hold("min", "c"), Hold("quiet", "d")):
            now = now._replace(wall=now.wall + 1)
            ledger.note("g", now, decision, None)
        told = ledger.decisions(0)
        assert [(one.word, one.code) for one in told] == [
            ("ACT", "request"), ("HOLD", "cooldown"), ("HOLD", "quiet"), ("HOLD", "min"), ("HOLD", "quiet"),
        ]  # fmt: skip
        assert (told[0].entity, told[0].check, told[0].request_id) == ("web1", "check_memory", asked.request_id)
        assert told[2].check == "" and told[2].text == "a"
        assert [(one.state, one.detail) for one in ledger.changes(0)] == [
            (fleet.INTENT, ""), (fleet.SENT, "queue item 12")
        ]  # fmt: skip
        assert ledger.decisions(now.wall + 1) == [] and ledger.changes(now.wall + 1) == []


def test_what_is_old_is_forgotten(opened):
    with opened() as ledger:
        decide(ledger, 1)
        decide(ledger, 2, group="other", later=31 * 86400)
        assert [one.group for one in ledger.decisions(0)] == ["other"]
        assert [one.group for one in ledger.changes(0)] == ["other"]


def test_threads_that_change_the_same_group_lose_nothing(opened):
    with opened() as ledger:
        decide(ledger, 1)

    def work(number):
        with opened() as ledger:
            for step in range(5):
                name = f"{number}-{step}"
                ledger.change(
                    "g", ledger.moment(), lambda fleet, name=name: fleet._replace(members=(*fleet.members, name))
                )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with opened() as ledger:
        assert len(set(ledger.fleets()["g"].members)) == 30


# In a file


def test_a_new_ledger_does_not_repeat_the_ids_of_the_lost_one(path):
    with Ledger(path, 1) as ledger:
        _, before = decide(ledger, 1)
    os.remove(path)
    with Ledger(path, 1) as ledger:
        _, after = decide(ledger, 1)
    assert before.request_id != after.request_id


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


# Begun


def beside(path):
    return sorted(os.listdir(os.path.dirname(path)))


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"x" * 99, b"SQLite format 3\0" + b"\0" * 1000])
def test_what_holds_nothing_was_a_ledger_once(path, content, read_only):
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write(content)
    assert "it is damaged; look in Jenkins" in unusable(path, read_only=read_only)
    assert open(path, "rb").read() == content


@pytest.mark.parametrize("read_only", [False, True])
def test_nothing_that_is_cut_off_lets_a_second_request_through(path, read_only):
    with Ledger(path, 1) as ledger:
        decide(ledger, 1)
    whole = open(path, "rb").read()
    for size in range(0, len(whole), 256):
        with open(path, "wb") as file:
            file.write(whole[:size])
        if size > len(whole) - 4096:  # SQLite takes a page that is not whole, here that of the decisions
            with Ledger(path, 0.1, read_only=read_only) as ledger:
                assert decide(ledger, 2)[0].code == "in-flight"
        else:
            assert "it is damaged" in unusable(path, read_only=read_only)


VICTIM = """
import os, signal, sys
from sensu_lxc_handlers.ledger import Ledger
path, function, after = sys.argv[1:]
real = getattr(os, function)

def killed(name, *arguments):
    if not name.endswith(".new"):
        return real(name, *arguments)
    if after:
        real(name, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(os, function, killed)
Ledger(path, 1)
"""


@pytest.mark.parametrize("function", ["open", "link", "unlink"])
@pytest.mark.parametrize("after", ["", "after"])
def test_killed_while_it_is_begun(path, function, after):
    """Before and after each step: what is there then is no ledger or a whole one."""
    environ = {"PYTHONPATH": os.path.dirname(SCRIPT)}
    process = subprocess.run([sys.executable, "-c", VICTIM, path, function, after], env=environ)
    assert process.returncode == -signal.SIGKILL
    whole = os.path.exists(path)
    assert whole == (function == "unlink" or (function == "link" and bool(after)))
    with Ledger(path, 1) as ledger:
        decide(ledger, 1)
    with Ledger(path, 1) as ledger:
        assert decide(ledger, 2)[0].code == "in-flight"


def test_what_was_left_is_removed_after_an_hour(path):
    os.makedirs(os.path.dirname(path))
    for name, seconds in (("old", 3700), ("young", 60)):
        left = f"{path}.{name}.new"
        open(left, "w").close()
        os.utime(left, (time.time() - seconds,) * 2)
    with Ledger(path, 1):
        assert beside(path) == ["ledger.sqlite", "ledger.sqlite.young.new"]


def test_another_handler_was_faster(path, monkeypatch):
    real = os.link

    def link(one, two):
        monkeypatch.setattr(os, "link", real)
        with Ledger(path, 1) as other:
            decide(other, 1)
        real(one, two)

    monkeypatch.setattr(os, "link", link)
    with Ledger(path, 1) as ledger:
        assert decide(ledger, 2)[0].code == "in-flight"
    assert beside(path) == ["ledger.sqlite"]


def test_a_disk_without_hard_links(path, monkeypatch):
    def link(one, two):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert "its disk must know hard links; name a file on another one in `ledger`" in unusable(path)
    assert beside(path) == []


@pytest.mark.parametrize("read_only", [False, True])
def test_a_journal_without_its_ledger(path, read_only):
    """SQLite would play it back into the new one."""
    os.makedirs(os.path.dirname(path))
    open(path + "-journal", "w").close()
    assert "its ledger is gone: move it to where that is" in unusable(path, read_only=read_only)
    assert beside(path) == ["ledger.sqlite-journal"]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_link_to_nothing(path, read_only):
    os.makedirs(os.path.dirname(path))
    os.symlink("elsewhere", path)
    assert "a symbolic link to nothing" in unusable(path, read_only=read_only)
    assert beside(path) == ["ledger.sqlite"]


def test_a_link_to_a_ledger(path):
    with Ledger(path, 1) as ledger:
        decide(ledger, 1)
    os.symlink(path, path + ".link")
    with Ledger(path + ".link", 1) as ledger:
        assert decide(ledger, 2)[0].code == "in-flight"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_pipe(path, read_only):
    os.makedirs(os.path.dirname(path))
    os.mkfifo(path)
    assert "not a regular file" in unusable(path, read_only=read_only)


def test_a_name_that_looks_like_a_url(tmp_path):
    path = str(tmp_path / "a?mode=memory&b#c%20d.sqlite")
    for code in (None, "in-flight"):
        with Ledger(path, 1) as ledger:
            decision, _ = decide(ledger, 1 if code is None else 2)
            assert getattr(decision, "code", None) == code
    assert beside(path) == [os.path.basename(path)]


# Damaged


@pytest.mark.parametrize("key, value", [
    ("wall", "yesterday"), ("wall", 9e999), ("uptime", -9e999), ("boot_id", None), ("created_wall", 1e300),
    ("generation", 1.5), ("generation", 7), ("attempt", "x"), ("attempt", 2**62), ("state", "SEND"), ("state", None),
    ("detail", 0), ("request_id", "lxc-abc-1"), ("way", "up"), ("containers", 0), ("containers", True),
    ("queue_item", "7"), ("names", [7]), ("names", None), ("more", 1), ("target", None),
])  # fmt: skip
def test_values_that_make_no_sense(path, key, value):
    """A document that somebody wrote by hand, and its checksum with it."""
    with Ledger(path, 1) as ledger:
        decide(ledger, 1)
    with contextlib.closing(sqlite3.connect(path)) as other:
        document = json.loads(other.execute("SELECT document FROM fleets").fetchone()[0])
        request = document["requests"][0]
        if key in ("wall", "boot_id", "uptime"):
            request["at"][("wall", "boot_id", "uptime").index(key)] = value
        else:
            request[key] = value
        text = json.dumps(document)
        other.execute("UPDATE fleets SET document = ?, crc = ?", (text, zlib.crc32(text.encode())))
        other.commit()
    assert "it is damaged" in unusable(path)


@pytest.mark.parametrize(
    "document", ["", "[]", "null", "{", "[" * 5000, '{"format": 1}', '{"format": 2}', 7, None, b"x"]
)
def test_what_is_no_document(path, document):
    with Ledger(path, 1) as ledger:
        decide(ledger, 1)
    crc = zlib.crc32(document.encode() if isinstance(document, str) else b"")
    with contextlib.closing(sqlite3.connect(path)) as other, contextlib.suppress(sqlite3.IntegrityError):
        other.execute("UPDATE fleets SET document = ?, crc = ?", (document, crc))
        other.commit()
        document = "taken"
    if document == "taken":
        assert "it is damaged" in unusable(path)


def test_a_document_without_its_checksum(path):
    with Ledger(path, 1) as ledger:
        decide(ledger, 1)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE fleets SET document = replace(document, 'INTENT', 'UNSENT')")
        other.commit()
    assert "the requests of g are not as they were written" in unusable(path)


def test_a_group_whose_requests_are_lost(path):
    with Ledger(path, 1) as ledger:
        decide(ledger, 1)
    other = sqlite3.connect(path)
    other.execute("DELETE FROM fleets")
    other.commit()
    other.close()
    assert "the requests of g are lost" in unusable(path)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_byte_anywhere_that_is_another(path, read_only):
    """Held, or said to be damaged: never a second request, and never an exception that nobody foresaw."""
    with Ledger(path, 1) as ledger:
        for group in ("a", "g", "z"):
            for executed in (1, 2, 3):
                now = moment()
                _, ticket = decide(ledger, executed, group=group, now=now)
                if ticket:
                    ledger.settle(group, ticket, fleet.SENT, now, 7, "queue item 7")
    whole = open(path, "rb").read()
    places = [place for place, byte in enumerate(whole) if byte]
    seed = random.randrange(1 << 32)
    chosen = random.Random(seed)
    outcomes = set()
    for place in chosen.sample(places, 400):
        damaged = bytearray(whole)
        damaged[place] ^= chosen.randrange(1, 256)
        with open(path, "wb") as file:
            file.write(damaged)
        try:
            with Ledger(path, 0.1, read_only=read_only) as ledger:
                decision, ticket = decide(ledger, 9)
            assert isinstance(decision, Hold) and ticket is None, (seed, place, damaged[place])
            outcomes.add(decision.code)
        except LedgerUnusable as error:
            assert str(error).isprintable()
            outcomes.add("unusable")
    assert "cooldown" in outcomes and "unusable" in outcomes


def test_a_document_of_before_is_read():
    """What it does not tell is: whoever reads it asked for it, and nobody has looked."""
    one = policy.intended(fleet.Fleet("abc", 0, ()), Act(1, None, False), None, "job", moment(), "lxc_autoscale")[0]
    document = json.loads(fleet.to_text(one))
    for key in ("words", "amiss", "scope"):
        del document["requests"][0][key]
    (read,) = fleet.from_text(json.dumps(document)).requests
    assert (read.words, read.amiss, read.scope) == ((), None, "") and read.is_of("lxc_autoscale")


@pytest.mark.parametrize(
    "key, value", [("words", ["runs"]), ("words", ["running"]), ("words", 7), ("amiss", 7), ("scope", None)]
)
def test_a_document_whose_looks_make_no_sense(key, value):
    one = policy.intended(fleet.Fleet("abc", 0, ()), Act(1, None, False), None, "job", moment(), "s")[0]
    document = json.loads(fleet.to_text(one))
    document["requests"][0][key] = value
    with pytest.raises(ValueError):
        fleet.from_text(json.dumps(document))
