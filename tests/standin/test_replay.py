"""Holds the stand-in to the recordings of two real controllers, scenario by scenario."""

import pytest

from . import replay

_CASES = [(profile, scenario["name"]) for profile in replay.FILES for scenario in replay.load(profile)]
_outcomes = {}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """{scenario: differences or the exception it raised} of a profile, from one replay in the recorded order."""

    def of(profile):
        if profile not in _outcomes:
            _outcomes[profile] = _replay(profile, str(tmp_path_factory.mktemp("lab")))
        return _outcomes[profile]

    yield of
    _outcomes.clear()


def _replay(profile, directory, plays=None, spoil=None):
    found = {}
    lab = replay.Lab(profile, directory, plays)
    if spoil:
        spoil(lab.jenkins)
    try:
        for scenario in replay.load(profile):
            if scenario["name"] in replay.excluded(profile):
                continue
            try:
                found[scenario["name"]] = replay.differences(lab, scenario)
            except Exception as error:  # the scenarios after it shall be judged, too
                found[scenario["name"]] = [repr(error)]
    finally:
        lab.close()
    return found


@pytest.mark.parametrize("profile, name", _CASES)
def test_answers_as_recorded(outcome, profile, name):
    reason = replay.excluded(profile).get(name)
    if reason:
        pytest.skip(f"not compared: {reason}")
    assert outcome(profile)[name] == []


@pytest.mark.parametrize("profile", replay.FILES)
def test_every_recorded_scenario_is_compared_or_excluded_by_name(outcome, profile):
    recorded = [scenario["name"] for scenario in replay.load(profile)]
    assert len(recorded) == len(set(recorded))
    assert set(outcome(profile)) | set(replay.excluded(profile)) == set(recorded)
    assert not set(outcome(profile)) & set(replay.excluded(profile))
    assert len(replay.excluded(profile)) < 0.02 * len(recorded)
    assert set(replay.STEPS) <= {s["name"] for p in replay.FILES for s in replay.load(p)}


# Each breaks one thing about the stand-in, which the replay has to notice in this scenario.
_SPOILT = {
    "3-param-bwp-same-while-queued": lambda j: setattr(j._api, "profile", j.profile._replace(equal_status=201)),
    "2-perm-limited-post-build": lambda j: j.users["limited"].permissions.add("hudson.model.Item.Build"),
    "2-plain-queue-item-after-repeats": lambda j: j.create_job("plain", replay.job_xml(quiet=20)),
    "2-veto-plain-post-build": lambda j: j.vetoed.clear(),
    "1-crumb-password-post-without-crumb": lambda j: setattr(j.users["admin"], "api_token", j.users["admin"].password),
}


@pytest.mark.parametrize("name", _SPOILT)
def test_replay_notices_a_stand_in_that_is_wrong(tmp_path, name):
    assert _replay("2.568", str(tmp_path), spoil=_SPOILT[name])[name] != []


def test_replay_notices_the_other_version(tmp_path):
    """The profiles differ where the recorded versions do, and the comparison sees it."""
    found = _replay("2.568", str(tmp_path), plays="2.462")
    wrong = {name for name, differences in found.items() if differences}
    assert {"2-disabled-post-build", "3-plain-bwp", "2-veto-plain-post-build", "8-host-empty-host-post-build"} <= wrong
    assert len(wrong) > len(found) / 2  # titles, cookies and X-Jenkins everywhere
