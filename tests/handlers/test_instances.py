"""The containers of a request: their names as the host makes them, and what is known of each."""

import re
import time

import provision_container
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc import sweep
from sensu_lxc_handlers import instances
from sensu_lxc_handlers.event import CHECK, TTL
from sensu_lxc_handlers.sensu_api import Result
from sensu_lxc_handlers.settings import jenkins_settings

from .test_policy import request

NOW = 1_800_000_000
LAST = "CheckContainerState OK: {}; this is its last result"


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True),
       st.from_regex(r"[A-Za-z0-9_.-]{1,128}", fullmatch=True))  # fmt: skip
def test_names_are_those_that_the_host_makes(prefix, request_id):
    assert instances.name_of(prefix, request_id) == provision_container.name_of(prefix, request_id)


def wanted(**parameters):
    scope = {"url": "http://j/", "job": "j", "parameters": parameters}
    return jenkins_settings({"lxc_autoscale": scope}, "lxc_autoscale", "here")


def test_the_names_of_a_request():
    one = request("BUILT", containers=3)
    assert instances.request_ids(one) == ["lxc-abc-7", "lxc-abc-7.2", "lxc-abc-7.3"]
    names = instances.names_of("web", one, wanted())
    assert names == tuple(provision_container.name_of("auto", request_id) for request_id in instances.request_ids(one))
    other = instances.names_of("web", one, wanted(NAME_PREFIX="{group}-x"))
    assert all(name.startswith("web-x-") for name in other)
    # What was seen stays, whatever the settings say by then, and so does what the job is told to take away.
    seen = one._replace(names=other)
    assert instances.names_of("web", seen, wanted(NAME_PREFIX="new")) == other
    assert instances.prefix_of("web", seen, wanted(NAME_PREFIX="new")) == "web-x"


def result(status=0, age=0, kind=CHECK, output="OK", entity="a", check="check_container_state"):
    return Result(entity, check, status, output, None if age is None else NOW - age, "host", "", kind, {}, {})


def test_the_words_are_those_of_the_sweep():
    with open(sweep.__file__, encoding="utf-8") as file:
        source = file.read()
    # Each way to say farewell; only the first means that the container is gone.
    farewells = re.findall(r'f"{one.name} (is no longer [\w ]+)", (True|False)', source)
    assert farewells
    for words, is_there in farewells:
        told = instances.told_by_results([result(output=LAST.format(f"a {words}"))], ["a"], NOW, 600)
        assert told == {"a": "untold" if is_there == "True" else "gone"}, words
    assert 'OK: {text(words)}; this is its last result"' in source


@pytest.mark.parametrize("given_result, word", [
    (result(0), "running"), (result(1), "running"), (result(2), "down"), (result(3), "untold"), (result(127), "untold"),
    (result(None), "untold"), (result(0, age=601), "untold"), (result(0, age=-601), "untold"),
    (result(0, age=None), "untold"), (result(2, kind=TTL), "untold"), (result(0, check="check_memory"), "untold"),
    (result(0, entity="b"), "untold"), (result(0, age=9e6, output=LAST.format("a is no longer on this host")), "gone"),
    (result(0, kind=TTL, output=LAST.format("a is no longer on this host")), "untold"),
    (result(0, output=LAST.format("a is no longer watched")), "untold"),
    (result(0, output=LAST.format("a is no longer looked at under this name")), "untold"),
])  # fmt: skip
def test_what_a_result_tells(given_result, word):
    assert instances.told_by_results([given_result], ["a"], NOW, 600) == {"a": word}


def test_a_command_that_is_not_there_or_has_no_time_tells_nothing():
    assert instances.told_by_command(["/no/such", "{name}"], ["a"], "", 5, {}) == {"a": "untold"}
    assert instances.told_by_command(["/bin/true", "{name}"], ["a"], "", 0, {}) == {}
    assert instances.told_by_command(["/bin/true", "{name}"], ["a", "b"], "", 5, {}) == {"a": "running", "b": "running"}


def test_many_that_hang_take_no_longer_than_all_may():
    started = time.monotonic()
    told = instances.told_by_command(["/bin/sh", "-c", "sleep 9; : {name}"], ["a", "b", "c"], "", 1, {})
    assert told == {} and time.monotonic() - started < 5


def test_a_host_is_no_option():
    told = instances.told_by_command(["/bin/sh", "-c", 'test "$1" = rf_x', "{name}", "{host}"], ["a"], "--rf x", 5, {})
    assert told == {"a": "running"}
