"""What must always hold, in thousands of random histories: alerts, answers, deaths, lost queues, clocks that are set.

The world here is the truth: which builds were really made, and which containers really run. The fleet only knows what
it is told. Everything under test is pure, so a history is a list and costs no time.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensu_lxc_handlers import fleet as fleets
from sensu_lxc_handlers import following, policy
from sensu_lxc_handlers.event import Event
from sensu_lxc_handlers.fleet import Fleet, Moment
from sensu_lxc_handlers.following import Sighting
from sensu_lxc_handlers.policy import Act, Hold, Rules

from .support import core_event

GROUP_MEMBERS = ("a", "b")


class World:
    """A group, its Jenkins and its containers, driven step by step."""

    def __init__(self, rules, seed=0):
        self.rules, self.chance = rules, random.Random(seed)
        self.seconds, self.jump = 1000.0, 0.0
        self.fleet = Fleet("abc", 0, ())
        self.seen = set()
        self.jenkins = {}  # request id -> how Jenkins has it: queued, running, succeeded, unsuccessful
        self.builds = []  # every build that ever began, by request id
        self.running = {}  # request id -> how many containers run for it
        self.log = []
        self.decisions = []

    @property
    def now(self):
        return Moment(1.8e9 + self.seconds + self.jump, "boot", self.seconds)

    # What happens

    def alert(self, status=2, entity="web1", executed=None, history=None, fate="sent"):
        """One event through handler and Jenkins. fate: what becomes of the request on its way."""
        executed = int(1.8e9 + self.seconds) if executed is None else executed
        document = core_event(entity, status=status, executed=executed)
        document["check"]["history"] = [str(one) for one in (history or [status])]
        event = Event.from_sensu(document)
        key = (event.entity, event.check, event.incident, event.executed)
        self.log.append((self.seconds, self.jump, status, entity, executed, history, fate))
        hold = policy.judge(event, 1.8e9 + self.seconds, self.rules)
        if hold:
            return hold
        decision = policy.decide(self.fleet, key in self.seen, self.now, self.rules)
        self.seen.add(key)
        return self.carry_out(decision, event, fate)

    def carry_out(self, decision, event=None, fate="sent"):
        assert isinstance(decision, (Act, Hold))
        if isinstance(decision, Hold):
            return decision
        self.decisions.append(decision)
        self.fleet, asked = policy.intended(self.fleet, decision, event, "job", self.now)
        if fate == "killed before":
            return decision
        if decision.look_first and self.jenkins.get(asked.request_id):
            self.settle(asked, fleets.SENT)
            return decision
        if fate in ("rejected", "unsent"):
            self.settle(asked, fate.upper())
            return decision
        # The job is idempotent, but a second build of one request is what must not be.
        if asked.request_id not in self.jenkins:
            self.jenkins[asked.request_id] = "queued"
            self.builds.append(asked.request_id)
        if fate == "unknown":
            self.settle(asked, fleets.UNKNOWN)
        elif fate != "killed after":
            self.settle(asked, fleets.SENT)
        return decision

    def settle(self, asked, state):
        self.fleet = policy.settled(self.fleet, asked, state, self.now, None, state.lower())

    def jenkins_works(self, succeeds=True):
        """Each build goes one step on."""
        for request_id, how in list(self.jenkins.items()):
            if how == "queued":
                self.jenkins[request_id] = "running"
            elif how == "running":
                self.jenkins[request_id] = "succeeded" if succeeds else "unsuccessful"
                one = self.fleet.find(request_id)
                if one is not None and one.way == fleets.OUT:
                    # What fails may have made some.
                    made = one.containers if succeeds else one.containers // 2
                    self.running.update({request_id: made} if made else {})
                elif succeeds and one is not None:
                    self.running.pop(one.target, None)

    def jenkins_loses_its_queue(self):
        """A kill -9 of the controller; finished builds stay."""
        for request_id, how in list(self.jenkins.items()):
            if how in ("queued", "running"):
                del self.jenkins[request_id]

    def die(self):
        if self.running:
            self.running[self.chance.choice(sorted(self.running))] = 0

    def look(self, readable=True):
        """The reconciler follows every request, and looks for each container."""
        for one in self.fleet.requests:
            how = self.jenkins.get(one.request_id, following.ABSENT) if readable else following.UNREADABLE
            self.fleet = following.follow(self.fleet, one.request_id, Sighting(how, None, 1), self.now, self.rules)
            if readable and one.way == fleets.OUT:
                running = self.running.get(one.request_id)
                word = fleets.IS_GONE if running == 0 else fleets.IS_UNTOLD
                named = {
                    f"{one.request_id}-{number}": fleets.IS_RUNNING if number < (running or 0) else word
                    for number in range(one.containers)
                }
                self.fleet = following.verify(self.fleet, one.request_id, named, self.now, self.rules)

    def give_back(self, members):
        self.fleet, decision = policy.give_back(self.fleet, members, self.now, self.rules)
        return self.carry_out(decision)

    # What must hold

    def check(self):
        assert len(self.builds) == len(set(self.builds)) or self.lost, "one request, one build"
        there, coming = policy.count(self.fleet, self.now, self.rules)
        if self.rules.most:
            assert there + coming <= self.rules.most
            assert sum(self.running.values()) <= self.rules.most
        # What was written can be read.
        assert fleets.from_text(fleets.to_text(self.fleet)) == self.fleet

    lost = False


FATES = ["sent"] * 6 + ["rejected", "unsent", "unknown", "killed before", "killed after"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("alert"), st.sampled_from([0, 1, 2, 2, 2, 3, 127]), st.sampled_from(["web1", "web2"]),
                  st.sampled_from(FATES)),
        st.tuples(st.just("wait"), st.sampled_from([1, 30, 61, 301, 601, 1801])),
        st.tuples(st.just("jump"), st.sampled_from([-3600, 3600])),
        st.tuples(st.just("jenkins"), st.booleans()),
        st.tuples(st.just("look"), st.booleans()),
        st.tuples(st.just("die")),
        st.tuples(st.just("lose")),
        st.tuples(st.just("back"), st.sampled_from([(), ("a",), ("a", "b"), ("a", "B")])),
        st.tuples(st.just("top up")),
    ),
    max_size=60,
)  # fmt: skip
RULES = st.builds(
    Rules,
    cooldown=st.sampled_from([0, 60, 600]), lease=st.just(60.0), max_age=st.just(7200.0), breaches=st.just(1),
    of=st.just(1), least=st.integers(0, 2), most=st.integers(2, 5), step=st.integers(1, 3), budget=st.integers(0, 4),
    budget_seconds=st.just(3600.0), breaker=st.integers(0, 3), warm_up=st.sampled_from([0, 300]),
    quiet=st.sampled_from([60, 1800]), cooldown_in=st.sampled_from([0, 600]),
)  # fmt: skip


def run(world, steps):
    for step in steps:
        kind = step[0]
        before = world.fleet
        made = len(world.decisions)
        if kind == "alert":
            decision = world.alert(step[1], step[2], fate=step[3])
            if step[1] != 2:
                assert isinstance(decision, Hold) and world.fleet == before, "only a critical makes anything"
        elif kind == "wait":
            world.seconds += step[1]
        elif kind == "jump":
            world.jump += step[1]
            # Neither frees nor freezes: what is decided now is what would be decided without the jump.
            there = policy.decide(world.fleet, False, world.now, world.rules)
            world.jump -= step[1]
            assert policy.decide(world.fleet, False, world.now, world.rules) == there
            world.jump += step[1]
        elif kind == "jenkins":
            world.jenkins_works(step[1])
        elif kind == "look":
            world.look(step[1])
        elif kind == "die":
            world.die()
        elif kind == "lose":
            world.lost = True
            world.jenkins_loses_its_queue()
        elif kind == "back":
            told = {name.lower(): name.islower() for name in step[1]}
            decision = world.give_back(told)
            missing_or_unwell = not told or not all(told.values()) or set(before.members) - set(told)
            if missing_or_unwell:
                assert isinstance(decision, Hold), "what is missing or unwell takes nothing away"
            if isinstance(decision, Act):
                running = sum(one.running for one in before.requests)
                assert running - before.find(decision.target).running >= world.rules.least, "min is left"
                assert before.find(decision.target).way == fleets.OUT, "only what was made here is taken away"
        elif kind == "top up":
            world.carry_out(policy.top_up(world.fleet, world.now, world.rules))
        assert len(world.decisions) <= made + 1, "one step, one decision"
        world.check()


@settings(max_examples=3000, deadline=None)
@given(RULES, STEPS)
def test_in_any_history(rules, steps):
    run(World(rules), steps)


@settings(max_examples=300, deadline=None)
@given(RULES, STEPS)
def test_the_same_log_replayed_adds_nothing(rules, steps):
    world = World(rules)
    run(world, steps)
    builds, log = len(world.builds), list(world.log)
    for _, _, status, entity, executed, history, fate in log:
        world.alert(status, entity, executed, history, fate)
    repeated = [one for one in world.builds[builds:] if one not in world.builds[:builds]]
    assert not repeated


@settings(max_examples=300, deadline=None)
@given(RULES, st.lists(st.integers(0, 59), min_size=2, max_size=30, unique=True), st.randoms())
def test_the_order_does_not_matter(rules, seconds, shuffle):
    """The alerts of one minute, in whatever order they come, make as many builds."""
    counts = set()
    for _ in range(3):
        world = World(rules._replace(cooldown=600, warm_up=300))
        shuffle.shuffle(seconds)
        for second in seconds:
            world.alert(executed=int(1.8e9 + world.seconds) - second)
        counts.add(len(world.builds))
    assert counts == {1}


@pytest.mark.parametrize("executed", range(5))
def test_a_thousand_repeats_are_one_build(executed):
    world = World(Rules(600, 60, 7200, most=5))
    for number in range(1000):
        world.alert(executed=int(1.8e9 + world.seconds) - number % 100, entity=f"web{number % 7}")
    assert len(world.builds) == 1


def test_it_converges_where_it_can():
    """Under an alert that lasts, and with a Jenkins that works, exactly max containers run in the end."""
    world = World(Rules(600, 60, 7200, most=4, step=3, budget=0, breaker=3, warm_up=300))
    for _ in range(200):
        world.alert()
        world.jenkins_works()
        world.look()
        world.seconds += 60
        world.check()
    assert sum(world.running.values()) == 4
    for name in list(world.running):
        world.running[name] = 0
    for _ in range(100):
        world.alert()
        world.jenkins_works()
        world.look()
        world.seconds += 60
    assert sum(world.running.values()) == 4


def test_it_is_given_back_down_to_min():
    world = World(Rules(600, 60, 7200, most=4, least=1, warm_up=300, quiet=1800, cooldown_in=600))
    for _ in range(60):
        world.alert()
        world.jenkins_works()
        world.look()
        world.seconds += 60
    assert sum(world.running.values()) == 4
    for _ in range(200):
        world.give_back({"a": True, "b": True})
        world.jenkins_works()
        world.look()
        world.seconds += 60
        world.check()
    assert sum(world.running.values()) == 1
    assert [one.way for one in world.fleet.requests].count(fleets.IN) == 3


def test_the_circuit_opens_and_lets_one_trial_through():
    world = World(Rules(60, 60, 7200, most=9, breaker=3, warm_up=60, budget=0))
    codes = []
    for _ in range(120):
        decision = world.alert()
        codes.append(decision.code if isinstance(decision, Hold) else "ACT")
        world.jenkins_works(succeeds=False)
        world.look()
        world.seconds += 60
    assert codes.count("ACT") == 3 + 1, "three failures, and a trial in the second hour"
    assert "circuit-open" in codes
