"""check_container_network.py: judged in-process, over several runs on made hosts, and seen from outside."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from check_container_network import CheckContainerNetwork, judge
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc import history
from sensu_lxc import rates as rates_room
from sensu_lxc.errors import CannotObserve
from sensu_lxc.findings import Finding, State, worst
from sensu_lxc.levels import Levels, threshold
from sensu_lxc.options import Misuse
from sensu_lxc.sources.net_dev import Interface

from tests.plugins import running
from tests.plugins.running import Output
from tests.plugins.test_as_nobody import Run, as_nobody, nobodys_tree, python, readable  # noqa: F401
from tests.plugins.test_network import HEADING, new_life, recorded, with_network
from tests.plugins.trees import Container, Tree

SCRIPT = "check_container_network.py"
KIB = 1024
NONE = Levels(None, None)
QUIET = (0,) * 8


def carried(made: Container, **interfaces: tuple[int, ...]) -> None:
    """Let its interfaces show these counts, in the order of Interface; lo is always there."""
    lines = [
        f"{name:>6}: {counts[0]:7} {counts[1]} {counts[2]} {counts[3]} 0 0 0 0 "
        f"{counts[4]} {counts[5]} {counts[6]} {counts[7]} 0 0 0 0\n"
        for name, counts in {"lo": QUIET, **interfaces}.items()
    ]
    made.tree.write(f"/proc/{made.init}/net/dev", HEADING + "".join(lines).encode())


def levels(**given: tuple[str | None, str | None]) -> dict[str, Levels]:
    pairs = {kind: Levels(*(one and threshold(one) for one in pair)) for kind, pair in given.items()}
    return {kind: pairs.get(kind, NONE) for kind in ("bytes", "packets", "errors", "drops")}


def rates(**given: float) -> Interface:
    return Interface(**{field: given.get(field, 0.0) for field in Interface._fields})


class TestJudge:
    @pytest.mark.parametrize(
        ("rate", "levels_", "expected"),
        [
            ({"rx_bytes": 999}, {"bytes": ("1000", "2000")}, "OK"),
            ({"rx_bytes": 1000}, {"bytes": ("1000", "2000")}, "WARNING"),
            ({"tx_bytes": 1000}, {"bytes": ("1000", "2000")}, "WARNING"),
            ({"rx_bytes": 1000, "tx_bytes": 2000}, {"bytes": ("1000", "2000")}, "CRITICAL"),
            ({"rx_bytes": 999, "tx_bytes": 999}, {"bytes": ("1000", None)}, "OK"),  # each way by itself
            ({"rx_bytes": 10 * KIB, "tx_bytes": 10 * KIB}, {"bytes": (None, "1k:")}, "OK"),
            ({"rx_bytes": 10 * KIB, "tx_bytes": 1}, {"bytes": (None, "1k:")}, "CRITICAL"),
            ({"rx_packets": 5}, {"packets": ("5", None)}, "WARNING"),
            ({"tx_errors": 0.1}, {"errors": (None, "~:0")}, "CRITICAL"),
            ({}, {"errors": (None, "~:0")}, "OK"),
            ({"rx_drops": 3}, {"drops": ("1", "4")}, "WARNING"),
            ({"rx_bytes": 1e12, "rx_packets": 1e9, "rx_errors": 1e9, "tx_drops": 1e9}, {}, "OK"),
            ({"rx_bytes": 1e12}, {"packets": ("1", "1"), "errors": ("1", "1"), "drops": ("1", "1")}, "OK"),
        ],
    )
    def test_levels(
        self, rate: dict[str, float], levels_: dict[str, tuple[str | None, str | None]], expected: str
    ) -> None:
        assert judge("web", "eth0", rates(**rate), levels(**levels_), 60).state.name == expected

    def test_the_sentence(self) -> None:
        rate = rates(rx_bytes=12 * KIB * KIB, tx_bytes=80 * KIB, rx_packets=9000)
        finding = judge("web1", "eth0", rate, levels(bytes=(None, "10M")), 60)
        assert str(finding) == "web1: eth0 12.0 MiB/s in (critical at 10M), 80.0 KiB/s out over 60 s"

    def test_what_went_wrong_is_said_without_a_threshold(self) -> None:
        finding = judge("web1", "eth0", rates(rx_drops=0.05, tx_errors=120), levels(), 60)
        assert str(finding) == "web1: eth0 0 B/s in, 0.05 drops/s in, 0 B/s out, 120 errors/s out over 60 s"

    def test_what_is_measured(self) -> None:
        finding = judge("web", "eth0", Interface(*range(1, 9)), levels(bytes=("1k", "10k"), drops=(None, "~:0")), 60)
        assert [(one.label, one.value, one.unit) for one in finding.measures] == [
            ("eth0_rx_bytes_per_second", 1, "B"),
            ("eth0_rx_packets_per_second", 2, ""),
            ("eth0_rx_errors_per_second", 3, ""),
            ("eth0_rx_drops_per_second", 4, ""),
            ("eth0_tx_bytes_per_second", 5, "B"),
            ("eth0_tx_packets_per_second", 6, ""),
            ("eth0_tx_errors_per_second", 7, ""),
            ("eth0_tx_drops_per_second", 8, ""),
        ]
        assert finding.measures[0][3:] == ("1024", "10240", 0, None)
        assert finding.measures[7][3:] == ("", "~:0", 0, None)

    def test_the_busiest_is_the_most_urgent(self) -> None:
        busy = judge("web", "eth0", rates(tx_bytes=9000), levels(), 60)
        idle = judge("web", "eth1", rates(rx_bytes=10), levels(), 60)
        assert busy.urgency > idle.urgency


class Found(NamedTuple):
    findings: list[Finding]
    notes: list[str]

    @property
    def state(self) -> str:
        return worst(self.findings).name

    @property
    def said(self) -> str:
        return "; ".join(map(str, self.findings))


class Site:
    """A made host with a clock of its own, on which the check runs again and again."""

    def __init__(self, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tree, self.now = tree, 1000.0
        self.meanwhile = lambda: None  # what happens between the two looks of one run
        monkeypatch.setattr(rates_room, "monotonic", lambda: self.now)
        monkeypatch.setattr(history, "monotonic", lambda: self.now)
        monkeypatch.setattr(rates_room, "sleep", self._sleep)

    def run(self, *arguments: str, after: float = 60) -> Found:
        self.now += after
        state = str(self.tree.root.parent / "state")
        check = CheckContainerNetwork(["--root", str(self.tree.root), "--state-dir", state, *arguments])
        return Found(list(check.outcome()), check.notes)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


@pytest.fixture
def site(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tree, monkeypatch)


@pytest.fixture
def web(tree: Tree) -> Container:
    made = with_network(tree)
    carried(made, eth0=QUIET)
    return made


def rate_of(found: Found, label: str) -> float:
    (value,) = [one.value for finding in found.findings for one in finding.measures if one.label == label]
    return float(value)


class TestRates:
    def test_are_those_since_the_previous_run(self, site: Site, web: Container) -> None:
        carried(web, eth0=(1000, 10, 1, 2, 5000, 20, 3, 4))
        site.run()
        carried(web, eth0=(61000, 70, 1, 62, 5600, 26, 3, 10))
        found = site.run(after=60)
        values = [one.value for one in found.findings[0].measures]
        assert values == pytest.approx([1000, 1, 0, 1, 10, 0.1, 0, 0.1])

    def test_the_first_run_looks_twice(self, site: Site, web: Container) -> None:
        site.meanwhile = lambda: carried(web, eth0=(5000, 0, 0, 0, 500, 0, 0, 0))
        found = site.run()
        assert rate_of(found, "eth0_rx_bytes_per_second") == pytest.approx(10000)
        assert "over 0.5 s" in found.said

    def test_each_interface_but_lo(self, site: Site, web: Container) -> None:
        carried(web, eth0=QUIET, eth1=QUIET)
        assert [one.text() for one in site.run().findings] == [  # type: ignore[operator]
            "eth0 0 B/s in, 0 B/s out over 0.5 s",
            "eth1 0 B/s in, 0 B/s out over 0.5 s",
        ]
        assert "lo 0 B/s" in site.run("--interface", "lo").said

    def test_only_those_that_are_named(self, site: Site, web: Container) -> None:
        carried(web, eth0=QUIET, eth1=QUIET, lan0=QUIET)
        for names in (("--interface", "eth0,lan0"), ("--interface", "eth0", "--interface", "lan*")):
            found = site.run(*names)
            assert [str(one).split()[1] for one in found.findings] == ["eth0", "lan0"]

    def test_thresholds_alert(self, site: Site, web: Container) -> None:
        arguments = ("-w", "1000", "-c", "5000", "--drops-critical", "1")
        assert site.run(*arguments).state == "OK"
        carried(web, eth0=(60 * 1000, 0, 0, 0, 0, 0, 0, 0))
        assert site.run(*arguments).state == "WARNING"
        carried(web, eth0=(120 * 1000, 0, 0, 0, 60 * 5000, 0, 0, 0))
        assert site.run(*arguments).state == "CRITICAL"
        carried(web, eth0=(120 * 1000, 0, 0, 0, 60 * 5000, 0, 0, 60))
        assert "1 drops/s out (critical at 1)" in site.run(*arguments).said
        assert site.run(*arguments).state == "OK"

    def test_count(self, site: Site, web: Container) -> None:
        arguments = ("-c", "1000", "--count", "2")
        site.run(*arguments)
        carried(web, eth0=(60 * 1000, 0, 0, 0, 0, 0, 0, 0))
        assert site.run(*arguments).state == "OK"
        carried(web, eth0=(120 * 1000, 0, 0, 0, 0, 0, 0, 0))
        assert site.run(*arguments).state == "CRITICAL"

    def test_counters_that_began_anew(self, site: Site, web: Container) -> None:
        """The link was made anew: there is no rate of it, and the others are told all the same."""
        carried(web, eth0=(10**9, 0, 0, 0, 0, 0, 0, 0), eth1=(0, 0, 0, 0, 0, 0, 0, 0))
        site.run()
        carried(web, eth0=(10**6, 0, 0, 0, 0, 0, 0, 0), eth1=(6000, 0, 0, 0, 0, 0, 0, 0))
        found = site.run()
        assert "web: the counters of eth0 began anew since the last look" in found.said
        assert [one.state for one in found.findings] == [State.UNKNOWN, State.OK]
        assert rate_of(found, "eth1_rx_bytes_per_second") == pytest.approx(100)
        assert site.run().state == "OK"

    def test_an_interface_that_came(self, site: Site, web: Container) -> None:
        """Wherever its counters stand: it may have carried that elsewhere."""
        site.run("-c", "1M")
        carried(web, eth0=QUIET, eth1=(10**12, 0, 0, 0, 0, 0, 0, 0))
        found = site.run("-c", "1M")
        assert (found.state, "eth1 is there since the last look" in found.said) == ("OK", True)
        carried(web, eth0=QUIET, eth1=(10**12 + 6000, 0, 0, 0, 0, 0, 0, 0))
        assert rate_of(site.run("-c", "1M"), "eth1_rx_bytes_per_second") == pytest.approx(100)

    def test_a_restart_begins_anew(self, site: Site, web: Container) -> None:
        """Also where the new counters stand higher."""
        site.run()
        new_life(web)
        carried(web, eth0=(10**9, 0, 0, 0, 0, 0, 0, 0))
        found = site.run()
        assert rate_of(found, "eth0_rx_bytes_per_second") == 0
        assert "over 0.5 s" in found.said

    def test_odd_names_are_remembered(self, site: Site, web: Container) -> None:
        site.tree.write(f"/proc/{web.init}/net/dev", recorded("odd-names"))
        site.run()
        found = site.run()
        assert found.said.count("over 60 s") == 12, found.said
        assert found.state == "OK"


class TestALinkThatIsGone:
    def test_named_and_not_there(self, site: Site, web: Container) -> None:
        found = site.run("--interface", "eth0,eth1")
        assert (found.state, "web: has no interface eth1" in found.said) == ("CRITICAL", True)
        assert len(found.findings) == 2
        assert site.run("--interface", "eth0").state == "OK"

    def test_a_pattern_wants_one_at_least(self, site: Site, web: Container) -> None:
        assert site.run("--interface", "eth*").state == "OK"
        found = site.run("--interface", "wlan*")
        assert (found.state, "has no interface wlan*" in found.said) == ("CRITICAL", True)

    def test_repeated_with_v_it_is_still_told(self, site: Site, web: Container) -> None:
        carried(web, eth0=QUIET, eth1=QUIET)
        site.run()
        carried(web, eth0=QUIET)
        assert [site.run(*arguments).state for arguments in ((), ("-v",), ("--timeout", "9"))] == ["CRITICAL"] * 3

    def test_a_lower_bound_misses_a_container_without_interfaces(self, site: Site, web: Container) -> None:
        carried(web)
        assert (site.run().state, site.run("-w", "1M").state) == ("OK", "OK")
        assert (site.run("-w", "1k:").state, site.run("--packets-critical", "1:").state) == ("WARNING", "CRITICAL")

    @pytest.mark.parametrize("arguments", [(), ("--interface", "eth*"), ("--interface", "eth0,eth1")])
    def test_stays_until_it_is_back(self, site: Site, web: Container, arguments: tuple[str, ...]) -> None:
        carried(web, eth0=QUIET, eth1=(10**9, 0, 0, 0, 0, 0, 0, 0))
        assert site.run(*arguments).state == "OK"
        carried(web, eth0=QUIET)
        for _ in range(3):
            found = site.run(*arguments)
            assert found.state == "CRITICAL"
            assert [str(one) for one in found.findings if one.state is State.CRITICAL] == [
                "web: eth1 is gone; where that is meant, name the others with --interface"
            ]
            assert "eth0 0 B/s in" in found.said
        carried(web, eth0=QUIET, eth1=(2 * 10**9, 0, 0, 0, 0, 0, 0, 0))
        found = site.run(*arguments, "-w", "1T", after=0)  # another command line knows nothing of it
        assert found.state == "OK"
        found = site.run(*arguments)
        assert (found.state, "eth1 is there since the last look" in found.said) == ("OK", True)
        assert rate_of(site.run(*arguments), "eth1_rx_bytes_per_second") == 0

    def test_seen_yesterday(self, site: Site, web: Container) -> None:
        carried(web, eth0=QUIET, eth1=QUIET)
        site.run()
        carried(web, eth0=QUIET)
        for _ in range(2):
            found = site.run(after=86400)
            assert (found.state, "web: eth1 is gone" in found.said) == ("CRITICAL", True)

    def test_the_last_one(self, site: Site, web: Container) -> None:
        site.run()
        carried(web)
        found = site.run()
        assert [str(one).partition(";")[0] for one in found.findings] == ["web: eth0 is gone"]
        assert found.state == "CRITICAL"

    def test_two_runs_within_a_moment_do_not_forget_it(self, site: Site, web: Container) -> None:
        site.run()
        carried(web)
        assert site.run().state == "CRITICAL"
        assert site.run(after=0.1).state == "CRITICAL"
        assert site.run(after=0.1).state == "CRITICAL"

    def test_between_the_two_looks_of_the_first_run(self, site: Site, web: Container) -> None:
        site.meanwhile = lambda: carried(web)
        assert site.run().state == "CRITICAL"
        assert site.run().state == "CRITICAL"

    def test_a_restart_forgets_it(self, site: Site, web: Container) -> None:
        site.run()
        carried(web)
        assert site.run().state == "CRITICAL"
        new_life(web)
        assert site.run().state == "OK"
        assert site.run("--interface", "eth0").state == "CRITICAL"

    def test_the_operator_forgets_it(self, site: Site, web: Container) -> None:
        site.run()
        carried(web)
        assert site.run().state == "CRITICAL"
        for file in (site.tree.root.parent / "state").iterdir():
            file.unlink()
        assert site.run().state == "OK"

    def test_what_comes_and_goes_inside(self, site: Site, web: Container) -> None:
        passing = {"vethab12cd": QUIET, "vnet3": QUIET, "tap0": QUIET, "cali12": QUIET}
        carried(web, eth0=QUIET, **passing)
        named = ("--interface", "tap0")
        assert len(site.run().findings) == 5
        assert site.run(*named).state == "OK"
        carried(web, eth0=QUIET)
        assert site.run().state == "OK"
        found = site.run(*named)
        assert (found.state, "tap0 is gone" in found.said) == ("CRITICAL", True)

    def test_is_more_urgent_than_traffic(self, site: Site, web: Container) -> None:
        site.run("-c", "1")
        carried(web, eth1=(10**15, 0, 0, 0, 0, 0, 0, 0), eth2=QUIET)
        gone = next(one for one in site.run("-c", "1").findings if "gone" in str(one))
        busy = judge("web", "eth1", rates(rx_bytes=1e15), levels(bytes=(None, "1")), 60)
        assert gone.urgency > busy.urgency

    def test_no_interface_at_all(self, site: Site, web: Container) -> None:
        carried(web)
        found = site.run()
        assert (found.state, found.said) == ("OK", "web: has no interface but lo")


class TestTheHostsNetwork:
    @pytest.fixture
    def none(self, tree: Tree) -> Container:
        made = with_network(tree, "none", "host")
        tree.write(f"/proc/{made.init}/net/unix", tree.at("/proc/1/net/unix").read_bytes())
        return made

    def test_named_is_unknown(self, site: Site, none: Container) -> None:
        found = site.run("-n", "none")
        assert found.state == "UNKNOWN"
        assert "none: shares the host's network (lxc.net type none): its counters are the host's" in found.said
        assert not found.findings[0].measures

    def test_else_it_is_noted(self, site: Site, web: Container, none: Container) -> None:
        found = site.run()
        assert (found.state, len(found.findings)) == ("OK", 1)
        assert found.notes[0] == "not measured, as the network is the host's: none"

    def test_nothing_else_there_is_not_ok(self, tree: Tree, none: Container, tmp_path: Path) -> None:
        done = running.run(SCRIPT, tree, "--state-dir", str(tmp_path / "state"))
        assert "nothing to look at" in done.misuse()
        assert "the network is the host's: none" in done.first


class TestOnAHost:
    def run(self, tree: Tree, *arguments: str) -> Output:
        state = str(tree.root.parent / "state")
        return running.run(SCRIPT, tree, "--state-dir", state, "--sample", "1ms", *arguments).well_formed()

    def test_a_container(self, any_tree: Tree) -> None:
        made = with_network(any_tree)
        carried(made, eth0=QUIET)
        assert self.run(any_tree).status == 0
        carried(made, eth0=(4 * 10**9, 4000, 0, 0, 10**9, 1000, 0, 0))
        done = self.run(any_tree)
        assert done.status == 0
        rate = {label: float(parts["value"]) for label, parts in done.perfdata.items()}
        assert rate["web_eth0_rx_bytes_per_second"] > 10**6
        assert rate["web_eth0_rx_bytes_per_second"] == pytest.approx(4 * rate["web_eth0_tx_bytes_per_second"], rel=1e-3)
        assert rate["web_eth0_rx_bytes_per_second"] == pytest.approx(
            10**6 * rate["web_eth0_rx_packets_per_second"], rel=1e-3
        )

    def test_a_link_gone(self, any_tree: Tree) -> None:
        made = with_network(any_tree)
        carried(made, eth0=QUIET, eth1=QUIET)
        assert self.run(any_tree).status == 0
        carried(made, eth0=QUIET)
        done = self.run(any_tree)
        assert (done.status, "web: eth1 is gone" in done.first) == (2, True)
        assert self.run(any_tree).status == 2

    def test_frozen_is_measured(self, any_tree: Tree) -> None:
        made = any_tree.container("ice", frozen=True)
        carried(made, eth0=QUIET)
        done = self.run(any_tree)
        assert (done.status, "ice: eth0 0 B/s in" in done.first) == (0, True)

    def test_one_bad_one_costs_the_others_nothing(self, any_tree: Tree) -> None:
        carried(any_tree.container("web"), eth0=QUIET)
        any_tree.write(f"/proc/{any_tree.container('bad').init}/net/dev", "nonsense\n")
        any_tree.container("lost", processes=False)
        done = self.run(any_tree, "-v")
        assert done.status == 3
        assert "OK web: eth0 0 B/s in" in done.out
        assert re.search(r"UNKNOWN bad: /proc/\d+/net/dev is not whole", done.out)
        assert "UNKNOWN lost: its init process can't be told" in done.out

    def test_what_does_not_run(self, any_tree: Tree) -> None:
        carried(any_tree.container("web"), eth0=QUIET)
        any_tree.container("off", running=False)
        done = self.run(any_tree)
        assert (done.status, "1 not running" in done.first) == (0, True)
        done = self.run(any_tree, "-n", "off,missing")
        assert (done.status, "off: is not running, so it has no traffic" in done.out) == (3, True)
        assert "missing: no such container" in done.out

    def test_odd_names(self, any_tree: Tree) -> None:
        made = any_tree.container("web")
        any_tree.write(f"/proc/{made.init}/net/dev", recorded("odd-names"))
        for _ in range(2):
            done = self.run(any_tree, "-v")
            assert done.status == 0
            assert len(done.perfdata) == 12 * 8
            assert done.out.count("|") == 1
        any_tree.write(f"/proc/{made.init}/net/dev", recorded("veth-late"))
        assert self.run(any_tree, "-v").status == 2

    def test_an_init_that_ended(self, any_tree: Tree) -> None:
        any_tree.container("web")
        done = self.run(any_tree)
        assert (done.status, "net/dev: No such file" in done.first) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-w", "80%"], "80% of what?"),
        (["--errors-critical", "1%"], "1% of what?"),
        (["-c", "0"], "~:0 is more than nothing"),
        (["--drops-warning", "0"], "~:0 is more than nothing"),
        (["--packets-warning", "10k"], "packets are counted"),
        (["-w", "2M", "-c", "1M"], "exchange them"),
        (["--drops-warning", "2", "--drops-critical", "1"], "exchange them"),
        (["--interface", "eth0,"], "empty name"),
        (["--interface", ""], "empty name"),
    ],
)
def test_misuse(arguments: list[str], words: str) -> None:
    with pytest.raises(Misuse, match=re.escape(words)):
        CheckContainerNetwork(arguments)


@given(st.tuples(*[st.integers(0, 2**64 - 1)] * 8), st.tuples(*[st.integers(0, 2**64 - 1)] * 8), st.floats(0.001, 3600))
def test_any_counters(before: tuple[int, ...], now: tuple[int, ...], seconds: float) -> None:
    """What went down is no rate; what is a rate is never negative, and is told whatever it is."""
    try:
        moved = rates_room.moved(
            history.Past(1, 0.0, {"eth0": before}, (0, 0)), type("Facts", (), {"counters": {"eth0": now}}), "eth0"
        )
    except CannotObserve:
        assert any(new < old for new, old in zip(now, before))
        return
    finding = judge("web", "eth0", Interface(*(count / seconds for count in moved)), levels(bytes=("1", None)), seconds)
    assert all(one.value >= 0 for one in finding.measures)
    assert finding.state in (State.OK, State.WARNING)
    assert str(finding).isprintable()


@given(st.data())
def test_a_garbled_file_is_never_ok(data: st.DataObject) -> None:
    """One byte of it changed into what is no digit, or a part of it left out: nothing is measured by what is left."""
    whole = HEADING + b"  eth0: 1000 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n"
    first = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        raw = whole[:first] + data.draw(st.sampled_from([b"x", b"-", b"\0", b"\xff", b"\n"])) + whole[first + 1 :]
    else:
        raw = whole[:first]
    from sensu_lxc.sources import net_dev

    try:
        found = net_dev.interfaces(raw, "f")
    except CannotObserve:
        return
    assert raw == whole or list(found.values()) == [Interface(1000, 1, 1, 1, 1, 1, 1, 1)], "at most its name changed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
class TestAsNobody:
    def test_what_may_be_read_is_judged(self, nobodys_tree: Tree, as_nobody: Run) -> None:  # noqa: F811
        carried(with_network(nobodys_tree), eth0=QUIET)
        assert as_nobody(SCRIPT, "-n", "web").status == 0

    @pytest.mark.parametrize("hidden", ["/proc/{}", "/proc/{}/net", "/proc/{}/net/dev", "/proc/{}/status"])
    def test_what_may_not_is_unknown(self, nobodys_tree: Tree, as_nobody: Run, hidden: str) -> None:  # noqa: F811
        made = with_network(nobodys_tree)
        carried(made, eth0=QUIET)
        nobodys_tree.at(hidden.format(made.init)).chmod(0)
        done = as_nobody(SCRIPT, "-n", "web")
        assert (done.status, "Permission denied" in done.first) == (3, True)
