"""Which host is chosen, and why none is: a pure function of hosts, rules and requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc_handlers import placement
from sensu_lxc_handlers.event import CHECK, TTL
from sensu_lxc_handlers.placement import Host
from sensu_lxc_handlers.policy import Hold
from sensu_lxc_handlers.sensu_api import Result
from sensu_lxc_handlers.settings import Placement

from .test_policy import THEN, request

WALL = THEN.wall
MIB = 1 << 20
MEMORY = Placement("free_memory", "check_host_capacity", "LXC_HOST", 256 * MIB, 600)
OUTPUT = (
    "CheckHostCapacity OK: 12.0 GiB of 32.0 GiB memory promised | host_memory_promised=12884901888B;30923764531;"
    "34359738368;0;34359738368 host_memory_unpromised=-5B host_memory_used=1B host_memory_available=300B;;;0"
    " host_load5=0.52;;;0 host_containers_running=7;;;0 host_disk_free_/srv/a=3B;;;0\nWARNING: a=b=3"
)


def host(name="a", free=1024, containers=3, status=0, kind=CHECK, age=10):
    return Host(
        name, status, kind, None if age is None else WALL - age, None if free is None else free * MIB, containers
    )


def choose(*hosts, rules=MEMORY, requests=(), own=None, containers=1):
    return placement.choose(hosts, rules, requests, requests if own is None else own, containers, WALL)


def out(name, age, **more):
    asked = THEN._replace(wall=WALL - age)
    return request(more.pop("state", "BUILDING"), host=name, asked=asked, **more)


def test_what_a_real_output_tells():
    numbers = placement.perfdata(OUTPUT)
    assert numbers["host_memory_unpromised"] == -5 and numbers["host_load5"] == 0.52
    (found,) = placement.hosts_of([Result("h", "check_host_capacity", 0, OUTPUT, WALL, "h", "", CHECK, {}, {})])
    assert found == Host("h", 0, CHECK, WALL, -5, 7)


@given(st.text())
def test_any_output_tells_something_or_nothing(output):
    (found,) = placement.hosts_of([Result("h", "c", 0, output, WALL, "h", "", CHECK, {}, {})])
    assert found.free_bytes is None or isinstance(found.free_bytes, float)


def test_by_memory_by_number_and_by_spread():
    hosts = (host("a", free=900, containers=9), host("b", free=4000, containers=5), host("c", free=700, containers=1))
    assert choose(*hosts) == "b"
    assert choose(*hosts, rules=MEMORY._replace(by="containers")) == "c"
    spread = MEMORY._replace(by="spread")
    assert choose(*hosts, rules=spread) == "b"
    own = [out("b", 3000, state="VERIFIED"), out("a", 3000, state="GONE")]
    assert choose(*hosts, rules=spread, requests=own) == "a", "b has one already, and a has the most memory else"
    assert choose(*hosts, rules=spread, requests=[*own, out("c", 1, state="VERIFIED")], own=own) == "a"


def test_equals_go_by_their_names():
    assert choose(host("b"), host("a"), host("c")) == "a"


def test_what_is_on_its_way_is_counted_until_the_host_tells_of_it():
    hosts = (host("a", free=600, age=60), host("b", free=500, age=60))
    assert choose(*hosts) == "a"
    assert choose(*hosts, requests=[out("a", 30)]) == "b"
    assert choose(*hosts, requests=[out("a", 90, state="VERIFIED")]) == "a", "its result is younger than that"
    # It was asked for before the host told of itself, and is not built yet, or was not seen yet.
    for state in ("SENT", "BUILDING", "BUILT"):
        assert choose(*hosts, requests=[out("a", 90, state=state)]) == "b"
    assert choose(*hosts, requests=[out("a", 86401, state="SENT")]) == "a", "nobody follows it"
    held = choose(host("a", free=600, age=60), requests=[out("a", 30, containers=2)])
    assert held == Hold("no-host", "a: 88 MiB free beside 2 on their way, 256 MiB needed")
    by_number = MEMORY._replace(by="containers")
    assert (
        choose(host("a", containers=1), host("b", containers=2), rules=by_number, requests=[out("a", 1), out("a", 2)])
        == "b"
    )


def test_it_must_hold_all_containers_of_the_request():
    assert choose(host("a", free=600), containers=2) == "a"
    assert choose(host("a", free=600), containers=3).code == "no-host"


@pytest.mark.parametrize("unfit, why", [
    (host(status=1), "its result is WARNING"), (host(status=2), "its result is CRITICAL"),
    (host(status=3), "its result is UNKNOWN"), (host(status=None), "its result is UNKNOWN"),
    (host(kind=TTL), "was not heard of in time"), (host(age=601), "its result is 10m01s old, max_age is 10m"),
    (host(age=-601), "its result is 10m01s old, max_age is 10m"), (host(age=None), "its result is of an unknown time"),
    (host(free=None), "does not tell its free memory"), (host(free=-1), "-1 MiB free, 256 MiB needed"),
    (host("a;b"), "its name is none that may go into a command"), (host("-a"), "its name is none that"),
])  # fmt: skip
def test_why_a_host_is_none(unfit, why):
    held = choose(unfit)
    assert held.code == "no-host" and f"{unfit.name}: {why}" in held.text
    assert choose(unfit, host("other", free=300)) == "other"


def test_without_need_memory_need_not_be_told():
    free = Placement("containers", "c", "LXC_HOST", 0, 600)
    assert choose(host(free=None), rules=free) == "a"
    assert "how many containers" in choose(host(containers=None), rules=free).text


def test_nobody_and_too_many_to_tell():
    assert choose().text == "no host has a result of check_host_capacity"
    assert choose(*(host(f"h{number:02}", free=1) for number in range(20))).text.endswith("; and 12 more")
