"""What state containers are in."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from sensu_lxc import expected, inventory, monitor, states
from sensu_lxc.cgroups import Cgroups
from sensu_lxc.errors import CannotObserve, NotThere
from sensu_lxc.host import Host
from sensu_lxc.monitor import Reply

from tests.plugins.trees import FAMILIES, LXC, Cgroup, Tree


def look(tree: Tree, host: Host | None = None) -> dict[str, Any]:
    host = host or Host(str(tree.root))
    found = inventory.take(host)
    seen = states.observe(host, Cgroups(host, found.running), found.containers, 1.0, found.running)
    return {container.label: seen[container.directory] for container in found.containers}


def names(tree: Tree) -> dict[str, str]:
    return {label: getattr(state, "name", "?") for label, state in look(tree).items()}


@pytest.mark.parametrize("nested", [False, True])
def test_the_plain_ones(any_tree: Tree, nested: bool) -> None:
    any_tree.container("run", nested_systemd=nested)
    any_tree.container("ice", frozen=True, nested_systemd=nested)
    any_tree.container("off", running=False)
    any_tree.lxd("lxd-off", running=False)
    assert names(any_tree) == {"run": "RUNNING", "ice": "FROZEN", "off": "STOPPED", "lxd-off": "STOPPED"}


@pytest.mark.parametrize("family", ["lxc.payload.", "lxc.payload/", "lxc/"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("suffix", ["", "-1"])
def test_a_payload_without_its_monitor(any_tree: Tree, family: str, nested: bool, suffix: str) -> None:
    orphan = any_tree.container("web", family=family, socket=False, nested_systemd=nested, suffix=suffix)
    found = look(any_tree)["web"]
    assert found.name == states.ORPHANED
    assert found.detail.endswith(orphan.path)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("dir", "lxc.cgroup.dir = tenants/gold\n"),
        ("limit+inner", "lxc.cgroup.dir.container = /tenants/web\nlxc.cgroup.dir.container.inner = inner\n"),
    ],
)
def test_a_payload_without_its_monitor_where_the_config_says(any_tree: Tree, family: str, config: str) -> None:
    any_tree.container("web", family=family, socket=False, config=config)
    assert names(any_tree) == {"web": states.ORPHANED}


class TestOrphansElsewhere:
    """A payload without its monitor in a place that neither the top of the hierarchy nor the config tells."""

    PLACES = {
        "scope": FAMILIES["scope"][0],
        "lxc@.service": FAMILIES["lxc@.service"][0],
        "lxc.cgroup.dir": FAMILIES["dir"][0],
        "lxc.cgroup.pattern": FAMILIES["pattern"][0],
        "lxc.cgroup.pattern with the name before": "/containers/{name}/of/us/payload",
        "lxc.cgroup.relative": "/user.slice/user-0.slice/session-7.scope/lxc.payload.{name}",
        "lxc.cgroup.relative, 3.0.3": "/user.slice/user-0.slice/session-7.scope/lxc/{name}",
        "lxc.cgroup.relative, 3.2": "/user.slice/user-0.slice/session-7.scope/lxc.payload/{name}",
        "lxc.cgroup.dir = lxc/gold": "/lxc/gold/lxc.payload.{name}",
    }
    each_place = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)

    def put(self, tree: Tree, monkeypatch: pytest.MonkeyPatch, place: str, name: str, **how: Any) -> Any:
        monkeypatch.setitem(FAMILIES, "this", (place, ""))
        return tree.container(name, family="this", **how)

    @each_place
    @pytest.mark.parametrize("nested", [False, True])
    def test_is_found(self, any_tree: Tree, monkeypatch: pytest.MonkeyPatch, place: str, nested: bool) -> None:
        orphan = self.put(any_tree, monkeypatch, place, "web", socket=False, nested_systemd=nested)
        any_tree.container("web-1")
        any_tree.container("we", running=False)
        found = look(any_tree)
        assert found["web"].name == states.ORPHANED
        assert found["web"].detail.endswith(orphan.path)
        assert (found["web-1"].name, found["we"].name) == ("RUNNING", "STOPPED")

    @each_place
    def test_is_found_with_a_number_behind(self, any_tree: Tree, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
        self.put(any_tree, monkeypatch, place.replace("{name}", "{name}-1"), "web", socket=False)
        assert names(any_tree) == {"web": states.ORPHANED}

    @each_place
    def test_an_empty_directory_is_none(self, any_tree: Tree, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
        monkeypatch.setitem(FAMILIES, "this", (place, ""))
        any_tree.stale("web", family="this")
        any_tree.container("web", running=False)
        assert names(any_tree) == {"web": "STOPPED"}

    @each_place
    def test_that_of_a_running_namesake_is_its_own(
        self, any_tree: Tree, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        self.put(any_tree, monkeypatch, place, "web", lxcpath="/srv/lxc")
        any_tree.container("web", running=False)
        assert names(any_tree) == {f"{LXC}/web": "STOPPED", "/srv/lxc/web": "RUNNING"}

    @pytest.mark.parametrize("above", ["/lxc.payload.outer", "/lxc.payload.outer/system.slice", "/lxc/outer/ns"])
    def test_that_of_a_container_inside_of_another_is_its_own(
        self, any_tree: Tree, monkeypatch: pytest.MonkeyPatch, above: str
    ) -> None:
        any_tree.container("outer", family="proxmox" if "ns" in above else "lxc.payload.")
        self.put(any_tree, monkeypatch, f"{above}/lxc.payload.{{name}}", "web", socket=False)
        assert names(any_tree) == {"outer": "RUNNING", "web": "STOPPED"}

    def test_that_of_a_container_inside_of_a_foreign_one(self, any_tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
        """Docker's cgroup does not tell by its name that it is a container's; the pid namespaces do."""
        place = "/system.slice/docker-3f2a.scope/lxc.payload.{name}"
        web = self.put(any_tree, monkeypatch, place, "web", socket=False)
        assert names(any_tree) == {"web": states.ORPHANED}
        any_tree.write(f"/proc/{web.init}/status", f"Pid:\t{web.init}\nNSpid:\t{web.init}\t31\t1\n")
        assert names(any_tree) == {"web": "STOPPED"}

    def test_where_the_config_names_a_place_relative_to_the_starter(
        self, any_tree: Tree, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = "/user.slice/session-7.scope/tenants/gold"
        config = "lxc.cgroup.relative = 1\nlxc.cgroup.dir.container = tenants/gold/\n"
        self.put(any_tree, monkeypatch, place, "web", socket=False, config=config)
        any_tree.container("off", running=False, config="lxc.cgroup.dir.container = silver/gold\n")
        assert names(any_tree) == {"web": states.ORPHANED, "off": "STOPPED"}

    def test_where_the_config_names_a_place_that_looks_like_lxcs_own(
        self, any_tree: Tree, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = "lxc.cgroup.dir.container = lxc.payload.gold\n"
        self.put(any_tree, monkeypatch, "/lxc.payload.gold", "web", socket=False, config=config)
        assert names(any_tree) == {"web": states.ORPHANED}

    def test_a_place_that_went_away_meanwhile(self, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
        self.put(tree, monkeypatch, self.PLACES["scope"], "web", socket=False)
        tree.container("off", running=False)
        host, listing = Host(str(tree.root)), Host.list

        def vanishing(self: Host, path: str) -> list[str]:
            if path.endswith(".slice"):
                raise NotThere(path)
            return listing(self, path)

        monkeypatch.setattr(Host, "list", vanishing)
        assert {state.name for state in look(tree, host).values()} == {"STOPPED"}


def test_left_over_directories_are_no_payload(any_tree: Tree) -> None:
    any_tree.stale("web")
    any_tree.stale("web-1")
    any_tree.container("web", running=False)
    assert names(any_tree) == {"web": "STOPPED"}


def test_a_stopped_one_is_not_taken_for_the_running_one_beside_it(any_tree: Tree) -> None:
    any_tree.container("web", running=False)
    any_tree.container("web-1")
    assert names(any_tree) == {"web": "STOPPED", "web-1": "RUNNING"}


def test_a_stopped_one_is_not_taken_for_the_one_that_runs_in_the_cgroup_of_its_name(any_tree: Tree) -> None:
    any_tree.stale("web")
    any_tree.container("web", suffix="-1")
    any_tree.container("web-1", running=False)
    assert names(any_tree) == {"web": "RUNNING", "web-1": "STOPPED"}


def test_the_stopped_one_is_not_blamed_for_its_namesake(any_tree: Tree) -> None:
    any_tree.container("web")
    any_tree.container("web", "/srv/lxc", running=False)
    any_tree.write("/etc/lxc/lxc.conf", "lxc.lxcpath = /srv/lxc\n")
    any_tree.listen("unrelated")
    found = {label: state.name for label, state in look(any_tree).items()}
    assert set(found.values()) == {"RUNNING", "STOPPED"}


def test_what_is_broken_is_not_stopped(any_tree: Tree) -> None:
    web = any_tree.container("web")
    web.write("freezer.state" if "freezer" in any_tree.mounts else "cgroup.events", "nonsense\n")
    off = any_tree.container("off", running=False)
    stale = any_tree.stale("off")
    assert off.path == stale.path
    found = look(any_tree)
    assert isinstance(found["web"], CannotObserve)
    assert found["off"].name == "STOPPED"


def test_recorded(tree: Tree) -> None:
    tree.recorded("v2-frozen", "cpu")
    tree.recorded("v2-nested-systemd", "sysd", proc="systemd-init")
    assert names(tree) == {"cpu": "FROZEN", "sysd": "RUNNING"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_era(any_tree: Tree, family: str) -> None:
    any_tree.container("101", family=family)
    any_tree.container("102", family=family, frozen=True)
    assert names(any_tree) == {"101": "RUNNING", "102": "FROZEN"}


class LiveHost(Host):
    """A tree that is taken for this host, so that its monitors are asked."""

    is_this_one = True  # type: ignore[assignment]


class TestWhatMonitorsSay:
    @pytest.fixture
    def live(self, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> Any:
        """look(reply): the state of a container whose monitor says that."""
        web = tree.container("web", "/no-such-lxcpath")

        def ask(reply: Reply, frozen: bool = False, init: Reply | None = None) -> Any:
            web.write("cgroup.events", f"populated 1\nfrozen {int(frozen)}\n")
            for path in ("net/unix", "mountinfo"):
                source = tree.at(f"/proc/1/{path}").read_bytes()
                tree.write("/proc/net/unix" if path == "net/unix" else "/proc/self/mountinfo", source)
            monkeypatch.setattr(states, "_ask", lambda running, seconds: {one.address: reply for one in running})
            return look(tree, LiveHost(str(tree.root)))["web"]

        return ask

    @pytest.mark.parametrize(
        ("value", "frozen", "expected", "detail"),
        [
            (2, False, "RUNNING", ""),
            (2, True, "FROZEN", "frozen from outside LXC"),
            (6, True, "FROZEN", ""),
            (7, False, "RUNNING", ""),
            (1, False, "STARTING", ""),
            (3, False, "STOPPING", ""),
            (4, False, "ABORTING", ""),
            (5, False, "FREEZING", ""),
        ],
    )
    def test_a_state(self, live: Any, value: int, frozen: bool, expected: str, detail: str) -> None:
        assert live(Reply("", 0, value, b"", 0), frozen) == (expected, detail, "", "")

    @pytest.mark.parametrize("value", [8, 99, 2**63])
    def test_an_unknown_state(self, live: Any, value: int) -> None:
        assert isinstance(live(Reply("", 0, value, b"", 0)), CannotObserve)

    @pytest.mark.parametrize("frozen", [False, True])
    def test_a_refusal_still_shows_that_it_lives(self, live: Any, frozen: bool) -> None:
        assert live(Reply("", -13, 0, b"", 0), frozen).name == ("FROZEN" if frozen else "RUNNING")

    def test_no_answer(self, live: Any) -> None:
        assert live(Reply(monitor.UNRESPONSIVE, uid=0)).name == states.UNRESPONSIVE
        assert live(Reply(monitor.UNRESPONSIVE)).name == states.UNRESPONSIVE

    def test_a_broken_answer(self, live: Any) -> None:
        assert isinstance(live(Reply(monitor.BROKEN, data=b"\xff|", uid=0)), CannotObserve)

    @pytest.mark.parametrize("value", [2, 6])
    def test_an_impostor_is_not_believed(self, live: Any, value: int) -> None:
        found = live(Reply("", 0, value, b"", 12345))
        assert isinstance(found, CannotObserve)
        assert "12345" in str(found)

    def test_gone_between_two_looks(self, live: Any, tree: Tree) -> None:
        found = live(Reply(monitor.ABSENT))
        assert isinstance(found, CannotObserve) or found.name in ("STOPPED", states.ORPHANED, "STARTING")

    def test_lxcpath_names(self) -> None:
        assert LXC == "/var/lib/lxc"


def test_an_orphan_in_a_cgroup_with_a_running_ones_name(any_tree: Tree) -> None:
    """A left-over sent web into …web-1, so web-1 into …web-1-1; then web's monitor died."""
    any_tree.container("web", suffix="-1", socket=False)
    any_tree.container("web-1", suffix="-1")
    assert names(any_tree) == {"web": "ORPHANED", "web-1": "RUNNING"}


def test_an_orphan_beside_the_one_that_runs_under_its_name(any_tree: Tree) -> None:
    any_tree.container("web", socket=False)
    any_tree.container("web", suffix="-1")
    any_tree.container("db")
    found = look(any_tree)
    seen = {label: (state.name, state.beside.rpartition("/")[2]) for label, state in found.items()}
    assert seen == {"web": ("RUNNING", "lxc.payload.web"), "db": ("RUNNING", "")}
    finding = expected.judge("web", found["web"], "RUNNING")
    assert (finding.state.name, "earlier life run on without their monitor" in str(finding)) == ("CRITICAL", True)


def test_the_same_name_in_two_lxcpaths_is_no_orphan(any_tree: Tree) -> None:
    any_tree.container("web")
    any_tree.container("web", "/srv/lxc", suffix="-1")
    assert {state.beside for state in look(any_tree).values()} == {""}


# An orphan beside the one that runs, wherever the config was changed to in between


@pytest.mark.parametrize("then", ["lxc.payload.", "dir", "pattern"])
@pytest.mark.parametrize("now", ["lxc.payload.", "dir", "pattern"])
def test_an_orphan_beside_the_one_whose_place_changed(any_tree: Tree, then: str, now: str) -> None:
    suffix = "-1" if then == now else ""
    any_tree.container("web", family=then, socket=False)
    any_tree.container("web", family=now, suffix=suffix)
    any_tree.container("db")
    found = look(any_tree)
    assert found["web"].beside, found
    assert not found["db"].beside


def test_an_orphan_with_a_number_beside_one_with_another(any_tree: Tree) -> None:
    any_tree.stale("web")
    any_tree.container("web", suffix="-1", socket=False)
    any_tree.container("web", suffix="-2")
    assert look(any_tree)["web"].beside.endswith("/lxc.payload.web-1")


@pytest.mark.parametrize("family", ["proxmox", "limit+inner"])
def test_frozen_where_its_init_sits_below_its_own_cgroup(any_tree: Tree, family: str) -> None:
    web = any_tree.container("web", family=family)
    inner = Cgroup(any_tree, web.path + FAMILIES[family][1])
    if "freezer" in any_tree.mounts:
        inner.write("freezer.state", "FROZEN\n")
    else:
        inner.write("cgroup.events", "populated 1\nfrozen 1\n")
    assert names(any_tree) == {"web": "FROZEN"}


def test_one_that_can_not_be_frozen_whole_is_not_running(any_tree: Tree) -> None:
    if "freezer" not in any_tree.mounts:
        pytest.skip("v2 knows no FREEZING")
    any_tree.container("web").write("freezer.state", "FREEZING\n")
    assert names(any_tree) == {"web": "FROZEN"}


def test_a_monitor_of_a_mounted_host_that_a_signal_stopped(any_tree: Tree) -> None:
    web = any_tree.container("web")
    stat = any_tree.at(f"/proc/{web.monitor}/stat")
    stat.write_text(stat.read_text().replace(") S ", ") T "))
    found = look(any_tree)["web"]
    assert (found.name, "stopped by a signal" in found.detail) == (states.UNRESPONSIVE, True)


def test_a_monitor_whose_socket_is_not_seen_from_here(any_tree: Tree) -> None:
    web = any_tree.container("web")
    any_tree.stop_listening(f"{web.lxcpath}/web/command")
    found = look(any_tree)["web"]
    assert isinstance(found, CannotObserve) and "network namespace" in str(found)


def test_whoever_can_not_prove_it_claims_nothing(any_tree: Tree) -> None:
    """Anybody may listen on a socket of the orphan's name in an lxcpath of his own."""
    any_tree.container("web", socket=False)
    any_tree.listen("/tmp/mine/web/command")
    found = {label: found for label, found in look(any_tree).items() if "/tmp" not in label}
    (orphan,) = found.values()
    assert isinstance(orphan, CannotObserve) or orphan.name == states.ORPHANED


def test_an_empty_mount_point_shows_no_cgroups(tree: Tree) -> None:
    tree.container("web", socket=False)
    shutil.rmtree(tree.at("/sys/fs/cgroup"))
    tree.at("/sys/fs/cgroup").mkdir()
    found = look(tree)["web"]
    assert isinstance(found, CannotObserve) and "shows no cgroups; mount it with" in str(found)
