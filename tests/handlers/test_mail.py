"""What is news, what is remembered, and how a mail is made, without a process."""

import email
import email.header
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensu_lxc_handlers import mail, mail_settings, mailed
from sensu_lxc_handlers.event import Event, parse
from sensu_lxc_handlers.ledger import moment
from sensu_lxc_handlers.mailed import Key, Mailed, Memory, News
from sensu_lxc_handlers.outcome import LedgerUnusable, Misconfigured
from sensu_lxc_handlers.policy import Hold, Moment

from .smtp import parsed, text
from .support import core_event, recorded

ALL = frozenset(mail_settings.SEVERITIES)
WANTED = mail_settings.mail_settings({"lxc_mail": {"to": "ops@example.com", "from": "s@example.com"}}, "lxc_mail", "")
KEY = Key("lxc_mail", "", "web1", "check")


def at(seconds):
    return Moment(1_000_000.0 + seconds, "boot", 1000.0 + seconds)


def told(news, event, number, now):
    """What the handler would remember."""
    since = news.since
    began, first_id, mails = (since.began, since.first_id, since.mails) if since else (now.wall, str(number), 0)
    incident = mailed.incident_of(event)
    return Mailed(news.state, incident, event.executed, mails + 1, began, first_id, str(number), "", now)


# Random lives of a check, as Core and Go tell of them. Runs every minute; each is handled, or lost on the way.

RUNS = st.lists(st.tuples(st.sampled_from([0, 0, 1, 2, 2, 2, 3]), st.booleans(), st.booleans()), max_size=40)


def lives(kind, runs):
    """The events of runs (status, flapping, lost) with those that were lost taken out."""
    incident, last_ok, history, occurrences = 0, 0, [], 0
    for minute, (status, flapping, lost) in enumerate(runs):
        executed, flapping = 1_000_000 + 60 * minute, flapping and any(history)
        occurrences = occurrences + 1 if history[-1:] == [status] else 1
        if status and not any(history[-1:]) and not flapping:
            incident += 1
        history = [*history, status][-21:]
        last_ok = executed if status == 0 else last_ok
        if lost:
            continue
        if kind == "core":
            event = core_event(status=status, executed=executed, incident=f"i{incident}", last_ok=last_ok)
            event.update(occurrences=occurrences, action="flapping" if flapping else "create" if status else "resolve")
            event["check"]["history"] = [str(one) for one in history]
        else:
            state = "flapping" if flapping else "failing" if status else "passing"
            runs = [{"status": one, "executed": executed - 60 * ago}
                    for ago, one in zip(range(len(history) - 1, -1, -1), history)]  # fmt: skip
            event = {"entity": {"metadata": {"name": "web1"}}, "check": {
                "metadata": {"name": "c"}, "status": status, "state": state, "executed": executed, "last_ok": last_ok,
                "occurrences": occurrences, "history": runs}}  # fmt: skip
        yield minute, Event.from_sensu(event)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(["core", "go"]), RUNS, st.sampled_from([0, 600]))
def test_in_any_life_each_change_is_mailed_once(kind, runs, remind):
    last, known = None, mailed.OK
    for minute, event in lives(kind, runs):
        now, state = at(60 * minute), mailed.state_of(event)
        news = mailed.decide(event, last, now, remind, ALL)
        if state != known:
            assert isinstance(news, News) and news.state == state, "whoever reads the mails knows the state"
        elif state == mailed.OK:
            assert news.code == "ok"
        elif isinstance(news, Hold):
            assert news.code == "no-change"
            assert not remind or now.wall - last.at.wall < remind
        elif news.reminder:
            assert now.wall - last.at.wall >= remind > 0
        else:
            # The same again is news only as another incident, whose recovery was lost.
            assert last.incident != mailed.incident_of(event)
        if isinstance(news, News):
            last, known = told(news, event, minute, now), state
            # Said again at once it is no news: a restart of Sensu, a second server, a retry.
            assert isinstance(mailed.decide(event, last, at(60 * minute + 59), remind, ALL), Hold)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["core", "go"]), RUNS)
def test_without_a_memory_repetitions_are_no_news_either(kind, runs):
    before = mailed.OK
    for _, event in lives(kind, [(status, False, False) for status, _, _ in runs]):
        state = mailed.state_of(event)
        news = mailed.without_memory(event, at(0), ALL)
        assert isinstance(news, News) == (state != before)
        before = state


def test_an_event_that_names_no_incident_is_one_incident():
    event = Event.from_sensu(core_event(incident=""))
    assert mailed.incident_of(event) == ""
    news = mailed.decide(event, None, at(0), 0, ALL)
    again = mailed.decide(event, told(news, event, 0, at(0)), at(9), 0, ALL)
    assert again.code == "no-change"


def in_go(executed, *history, occurrences=None, times=True):
    """A check that was never OK; history: when it ran before."""
    runs = [{"status": 2, **({"executed": when} if times else {})} for when in (*history, executed)]
    return Event.from_sensu({"entity": {"metadata": {"name": "web1"}}, "check": {
        "metadata": {"name": "c"}, "status": 2, "state": "failing", "executed": executed, "last_ok": 0,
        "occurrences": occurrences or len(runs), "history": runs}})  # fmt: skip


@pytest.mark.parametrize("times", [True, False])
def test_a_check_that_was_deleted_and_made_anew_is_another_incident(times):
    first = in_go(1000, times=times)
    last = told(mailed.decide(first, None, at(0), 0, ALL), first, 0, at(0))
    assert mailed.decide(first, last, at(100), 0, ALL).code == "no-change"
    assert mailed.decide(in_go(1060, 1000, times=times), last, at(100), 0, ALL).code == "no-change"
    for occurrences in (1, 2, 3) if times else (1,):
        history = range(9_000_000, 9_000_000 + 60 * occurrences, 60)
        news = mailed.decide(in_go(history[-1], *history[:-1], times=times), last, at(9_000_000), 0, ALL)
        assert (news.state, news.since) == ("CRITICAL", None), "nor is it in the thread of the first"


def test_a_full_history_and_one_that_is_odd_are_no_new_incident():
    first = in_go(1000)
    last = told(mailed.decide(first, None, at(0), 0, ALL), first, 0, at(0))
    full = range(9000, 9000 + 60 * 21, 60)
    assert mailed.decide(in_go(full[-1], *full[:-1]), last, at(100), 0, ALL).code == "no-change"
    for odd in (None, [], "x", [1], [{"status": 2}] * 2, [{"status": 2, "executed": "9000"}], [{"status": 2}, None]):
        event = in_go(9000, occurrences=7)
        event.document["check"]["history"] = odd
        assert mailed.decide(event, last, at(100), 0, ALL).code == "no-change"
    assert mailed.decide(in_go(9000), last._replace(executed=0), at(100), 0, ALL).code == "no-change"


def test_who_did_not_get_it_is_news_until_he_has_it():
    event = Event.from_sensu(core_event(executed=1000))
    last = told(mailed.decide(event, None, at(0), 0, ALL), event, 0, at(0))._replace(owed="a@b")
    news = mailed.decide(event, last, at(60), 0, ALL)
    assert (news.is_owed, news.reminder, news.since) == (True, False, last)
    assert mailed.decide(event, last, at(600), 600, ALL)[3:] == (True, False), "a reminder goes to all"
    well = Event.from_sensu(core_event(status=0, executed=1060))
    assert mailed.decide(well, last, at(60), 0, ALL)[1:] == ("OK, was CRITICAL", last, False, False)
    assert mailed.decide(well, last._replace(state="OK"), at(60), 0, ALL).is_owed
    another = Event.from_sensu(core_event(executed=1060, incident="another"))
    assert mailed.decide(another, last, at(60), 0, ALL)[2:] == (None, False, False)


def test_clocks_that_are_set_change_no_reminder():
    event = Event.from_sensu(core_event())
    last = told(mailed.decide(event, None, at(0), 0, ALL), event, 0, at(0))
    for wall in (-1e9, 0, 1e9):
        assert mailed.decide(event, last, at(599)._replace(wall=wall), 600, ALL).code == "no-change"
        assert mailed.decide(event, last, at(600)._replace(wall=wall), 600, ALL).reminder


# Memory


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "new" / "mail.sqlite")


def test_it_remembers_by_key(path):
    one = Mailed("CRITICAL", "i", 1, 1, 2.0, "<a>", "<b>", "a@b,c@d", moment())
    memory = Memory(path, KEY, 1)
    assert memory.peek() is None and not os.path.exists(path)
    assert memory.recall() is None
    memory.can_remember()
    memory.remember(one)
    memory.forgo()
    for key, wanted in ((KEY, one), (KEY._replace(scope="x"), None), (KEY._replace(namespace="x"), None),
                        (KEY._replace(entity="\0'\n"), None)):  # fmt: skip
        other = Memory(path, key, 1)
        assert other.recall() == wanted == other.peek()
        other.forgo()


def test_a_name_that_looks_like_a_url(tmp_path):
    path = str(tmp_path / "a?mode=memory&b#c%20d.sqlite")
    memory = Memory(path, KEY, 1)
    memory.recall()
    memory.remember(Mailed("OK", "", 0, 1, 0.0, "", "", "", moment()))
    memory.forgo()
    assert sorted(os.listdir(tmp_path)) == [os.path.basename(path), os.path.basename(path) + ".lock"]


@pytest.mark.parametrize(
    "place, says",
    [("/proc/sensu-lxc/mail.sqlite", "write it and its folder; create that, or name another file in `state_file`"),
     ("{folder}", "Is a directory"), ("/dev/full/x", "File exists")],
)  # fmt: skip
def test_nowhere_to_remember(tmp_path, place, says):
    with pytest.raises(LedgerUnusable, match=re.escape(says)):
        Memory(place.format(folder=tmp_path), KEY, 0.1).recall()


# The mail


def composed(event, subject="{change}: {entity}/{check} {output}", body=mail_settings.DEFAULT_BODY):
    wanted = WANTED._replace(subject=subject, body=body)
    said = mail.texts(wanted, event, "CRITICAL", "1h")
    identity = mail.message_id(wanted, KEY, "i", "CRITICAL", 1)
    return said, mail.compose(wanted, event, *said, "CRITICAL", identity, ("<first@example.com>", "<last@example.com>"))


ANYTHING = st.text(st.characters() | st.sampled_from('\r\n\t =?:<>@,;."\\\x1b\u202e\u2028ä日'), max_size=300)


@settings(max_examples=500, deadline=None)
@given(ANYTHING, ANYTHING, ANYTHING)
def test_nothing_leaves_its_place(entity, check, output):
    document = core_event(entity="e" + entity, check="c" + check)
    document["check"]["output"] = output
    event = Event.from_sensu(document)
    (subject, body), content = composed(event)
    head, _, _ = content.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert (
        content.isascii() and b"\n" not in content.replace(b"\r\n", b"") and b"\r" not in content.replace(b"\r\n", b"")
    )
    assert max(map(len, content.split(b"\r\n"))) < 998 and all(line.strip() for line in lines)
    names = [line.split(b":")[0].decode() for line in lines if line[:1] not in b" \t"]
    assert sorted(names) == sorted([
        "Subject", "Message-ID", "In-Reply-To", "References", "Auto-Submitted", "X-Sensu-Entity", "X-Sensu-Check",
        "X-Sensu-Runner", "X-Sensu-Status", "X-Sensu-Occurrences", "X-Sensu-Change", "From", "To", "Date",
        "Content-Type", "Content-Transfer-Encoding", "MIME-Version"])  # fmt: skip
    # By the other of Python's two parsers, which decodes encoded words as RFC 2047 has it.
    raw = email.message_from_bytes(content)
    assert str(email.header.make_header(email.header.decode_header(raw["Subject"]))) == subject
    assert subject.isprintable() and "=?" not in subject
    assert text(parsed(content)).rstrip("\n") == body.rstrip("\n")
    assert all(c.isprintable() or c in "\n\t" for c in body)


def test_ids_thread_and_are_the_same_for_the_same():
    _, content = composed(parse(recorded("sensu-go")["proxy-critical"]))
    message = parsed(content)
    assert (message["In-Reply-To"], message["References"]) == (
        "<last@example.com>", "<first@example.com> <last@example.com>")  # fmt: skip
    one = mail.message_id(WANTED, KEY, "i", "CRITICAL", 1)
    assert one == mail.message_id(WANTED, KEY, "i", "CRITICAL", 1)
    others = [mail.message_id(WANTED, *what) for what in (
        (KEY, "j", "CRITICAL", 1), (KEY, "i", "WARNING", 1), (KEY, "i", "CRITICAL", 2),
        (KEY._replace(entity="web2"), "i", "CRITICAL", 1))]  # fmt: skip
    assert len({one, *others}) == 5


def test_times_that_no_calendar_has():
    for executed in (2**52, 10**12):
        (_, body), _ = composed(Event.from_sensu(core_event(executed=executed)))
        assert re.search(r"^executed     \S", body, re.MULTILINE)


@pytest.mark.parametrize(
    "given, wanted",
    [("ops@example.com", [("", "ops@example.com")]), ("root", [("", "root")]),
     ("Ops Räume <a.b+c@x-y.example>, d@e", [("Ops Räume", "a.b+c@x-y.example"), ("", "d@e")]),
     (["a@b"], [("", "a@b")])],
)  # fmt: skip
def test_addresses(given, wanted):
    assert [tuple(one) for one in mail_settings.parse_mailboxes(given)] == wanted


@pytest.mark.parametrize(
    "given",
    ["", ",", "a@b,", "-a@b", "a b@c", "a@b c", "a@-b", "a@b-", "a@b..c", ".a@b", "a.@b", "a@", "@b", "a@b@c",
     "a@[1.2.3.4]", "a\n@b", "<a@b>\r\nBcc: c@d", "x\x00 <a@b>", "=?utf-8?q?x?= <a@b>", '"x" <a@b>', "ä@b", "a@ä",
     "a" * 251 + "@b.c", "<>", "a@b <c@d>", "a@" + "b" * 64],
)  # fmt: skip
def test_what_is_no_address(given):
    with pytest.raises(ValueError, match="is no address|is needed"):
        mail_settings.parse_mailboxes(given)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(mail_settings._KEYS), st.none() | st.text() | st.integers() | st.booleans()
                       | st.lists(st.text() | st.integers()) | st.dictionaries(st.text(), st.text())))  # fmt: skip
def test_settings_are_taken_or_said_to_be_wrong(scope):
    try:
        mail_settings.mail_settings({"lxc_mail": scope}, "lxc_mail", "here")
    except Misconfigured as error:
        assert "lxc_mail" in str(error)


def test_defaults_of_a_server():
    def parsed_settings(**scope):
        return mail_settings.mail_settings({"lxc_mail": {"to": "a@b", **scope}}, "lxc_mail", "")

    assert [(one.tls, one.port, one.sendmail) for one in (
        parsed_settings(server="mail.example"), parsed_settings(server="mail.example", user="x"),
        parsed_settings(server="mail.example", tls="tls"), parsed_settings(server="localhost"),
        parsed_settings(server="m", fallback=True), parsed_settings())] == [
        ("starttls", 25, ""), ("starttls", 587, ""), ("tls", 465, ""), ("none", 25, ""),
        ("starttls", 25, "/usr/sbin/sendmail"), ("starttls", 25, "/usr/sbin/sendmail")]  # fmt: skip
