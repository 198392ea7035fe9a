#!/usr/bin/env python3
"""A simulated day: our policy against the original's rule and target tracking with the Kubernetes HPA's defaults.

`python benchmarks/day.py` prints a table; `--svg FILE` draws the picture in README. Simulated are the load and the
containers; the decisions are those of sensu_lxc_handlers.policy itself, fed with the events that Sensu Core would send.
Nothing of it is random from run to run: the load is made from a seed.

Every container carries one unit of load at most and they share it evenly; each is checked once a minute (by the
original every five). Making one takes 90 s until it carries load, taking one away 30 s.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "handlers"))
from sensu_lxc_handlers import fleet as fleets  # noqa: E402
from sensu_lxc_handlers import following, policy  # noqa: E402
from sensu_lxc_handlers.event import Event  # noqa: E402
from sensu_lxc_handlers.fleet import Fleet, Moment  # noqa: E402

DAY_SECONDS, STEP_SECONDS = 86400, 15
MAKING_SECONDS, TAKING_SECONDS = 90, 30
LEAST, MOST = 2, 12
EPOCH = 1_800_000_000

# minutes_short: in which more load was there than containers could carry; hours_idle: container hours beyond what 80%
# would have taken; actions: builds for more or fewer; peak: containers at once; counts: how many there were, each step.
Outcome = namedtuple("Outcome", "minutes_short hours_idle actions peak counts")


def load_curve(seed: int) -> list[float]:
    """Load in containers' worth, for each step: night, a working day, a campaign at 14:00, noise, and a few bursts."""
    chance = random.Random(seed)
    bursts = [(chance.uniform(0, DAY_SECONDS), chance.uniform(60, 240), chance.uniform(0.5, 2)) for _ in range(14)]
    curve, noise = [], 0.0
    for step in range(DAY_SECONDS // STEP_SECONDS):
        now = step * STEP_SECONDS
        hour = now / 3600
        day = 1.2 + 4.2 * math.exp(-(((hour - 12.5) / 4.2) ** 2)) + 1.3 * math.exp(-(((hour - 20) / 1.6) ** 2))
        campaign = 3.0 * math.exp(-(((hour - 14.4) / 0.35) ** 2)) if hour > 14 else 0.0
        noise = 0.95 * noise + chance.gauss(0, 0.03)
        burst = sum(height for start, length, height in bursts if start <= now < start + length)
        curve.append(max(0.3, day + campaign + noise + burst))
    return curve


class Containers:
    """Those that run, and those on their way."""

    def __init__(self) -> None:
        self.running = LEAST
        self.coming: list[float] = []  # when each carries load
        self.actions = 0

    def advance(self, now: float) -> None:
        """Let time pass."""
        self.running += sum(1 for at in self.coming if at <= now)
        self.coming = [at for at in self.coming if at > now]

    def make(self, now: float, count: int = 1) -> None:
        """One build."""
        self.coming += [now + MAKING_SECONDS] * count
        self.actions += 1

    def take(self, count: int = 1) -> None:
        """One build of the other job."""
        self.running -= count
        self.actions += 1


class Ours:
    """handler_jenkins at each event and reconcile_autoscale once a minute, by the policy itself and its defaults."""

    warning, critical = 0.8, 0.9
    rules = policy.Rules(
        cooldown=600, lease=60, max_age=7200, least=LEAST, most=MOST, budget=6, budget_seconds=3600, breaker=3,
        warm_up=300, quiet=1800, cooldown_in=600,
    )  # fmt: skip

    def __init__(self, there: Containers) -> None:
        self.there, self.fleet = there, Fleet("day", 0, ())
        self.history: list[int] = []
        self.due: dict[str, float] = {}
        start = self.moment(0)
        for _ in range(LEAST):  # what there is in the morning was made by it as well
            act = policy.Act(self.fleet.generation + 1, None, False)
            self.fleet, asked = policy.intended(self.fleet, act, None, "job", start)
            self.fleet = self.fleet.replaced(asked._replace(state=fleets.VERIFIED))

    @staticmethod
    def moment(now: float) -> Moment:
        """That second of the day."""
        return Moment(float(EPOCH + now), "boot", 86400.0 + now)

    def step(self, now: float, use: float) -> None:
        """What happens in this step."""
        if now % 60:
            return
        moment = self.moment(now)
        status = 2 if use >= self.critical else 1 if use >= self.warning else 0
        self.history = [*self.history[-20:], status]
        for number in range(self.there.running):
            event = Event.from_sensu({
                "client": {"name": f"web{number}"}, "id": "i", "action": "create",
                "check": {"name": "check_memory", "status": status, "executed": int(EPOCH + now), "output": "x",
                          "history": [str(one) for one in self.history]},
            })  # fmt: skip
            if policy.judge(event, EPOCH + now, self.rules) is None:
                self.carry_out(policy.decide(self.fleet, False, moment, self.rules), now, event)
        for one in self.fleet.requests:
            if one.request_id in self.due:
                seen = following.SUCCEEDED if self.due[one.request_id] <= now else following.RUNNING
                sighting = following.Sighting(seen, 1, one.generation)
                self.fleet = following.follow(self.fleet, one.request_id, sighting, moment, self.rules)
                word = fleets.IS_RUNNING if seen is following.SUCCEEDED else fleets.IS_UNTOLD
                told = {f"{one.request_id}.{number}": word for number in range(one.containers)}
                self.fleet = following.verify(self.fleet, one.request_id, told, moment, self.rules)
        members = {f"web{number}": status == 0 for number in range(LEAST)}
        self.fleet, decision = policy.give_back(self.fleet, members, moment, self.rules)
        self.carry_out(decision, now, None)

    def carry_out(self, decision: policy.Act | policy.Hold, now: float, event: Event | None) -> None:
        """As Jenkins would."""
        if isinstance(decision, policy.Hold):
            return
        moment = self.moment(now)
        self.fleet, asked = policy.intended(self.fleet, decision, event, "job", moment)
        self.fleet = policy.settled(self.fleet, asked, fleets.SENT, moment, 1, "queued")
        self.due[asked.request_id] = now + (MAKING_SECONDS if decision.way == fleets.OUT else TAKING_SECONDS)
        if decision.way == fleets.OUT:
            self.there.make(now, decision.containers)
        else:
            self.there.take(decision.containers)


class OursEager(Ours):
    """The same for whom idle containers cost less than short ones: earlier, two at a time, and sooner again."""

    warning, critical = 0.6, 0.7
    rules = Ours.rules._replace(cooldown=120, step=2, budget=12, warm_up=120)


class Original:
    """A build for each CRITICAL that is reported, every five minutes; nothing is ever given back."""

    def __init__(self, there: Containers) -> None:
        self.there = there

    def step(self, now: float, use: float) -> None:
        """What happens in this step."""
        if now % 300 == 0 and use >= 0.9:
            for _ in range(self.there.running):
                self.there.make(now)


class TargetTracking:
    """The rule of the Kubernetes HPA with its defaults, at a target of 70%.

    https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/: every 15 s desired = ceil(n × use /
    target), nothing within 10% of it; up by at most 100% or 4 per 15 s; down to the highest desired of the last 5 min.
    """

    def __init__(self, there: Containers) -> None:
        self.there = there
        self.wanted: list[tuple[float, int]] = []

    def step(self, now: float, use: float) -> None:
        """What happens in this step."""
        running = self.there.running
        count = running + len(self.there.coming)
        # What does not carry load yet counts as if it used nothing when it scales up.
        ratio = use * running / count / 0.7 if use > 0.7 else use / 0.7
        desired = count if abs(ratio - 1) <= 0.1 else math.ceil(count * ratio)
        desired = min(max(desired, LEAST), MOST)
        self.wanted = [(at, one) for at, one in self.wanted if at > now - 300] + [(now, desired)]
        if desired > count:
            self.there.make(now, min(desired, max(2 * count, count + 4)) - count)
            return
        lowest = max(one for _, one in self.wanted)
        if lowest < count and not self.there.coming:
            self.there.take(count - lowest)


RULES = {"ours": Ours, "ours, eager": OursEager, "the original's": Original, "target tracking": TargetTracking}


def simulate(rule: type, curve: list[float]) -> Outcome:
    """A day under a rule."""
    there = Containers()
    acting = rule(there)
    short = idle = 0.0
    counts = []
    for step, load in enumerate(curve):
        now = step * STEP_SECONDS
        there.advance(now)
        acting.step(now, load / there.running)
        short += STEP_SECONDS / 60 if load > there.running else 0
        idle += max(0, there.running - max(LEAST, math.ceil(load / 0.8))) * STEP_SECONDS / 3600
        counts.append(there.running)
    return Outcome(short, idle, there.actions, max(counts), counts)


def picture(curve: list[float], days: dict[str, Outcome]) -> str:
    """The day as SVG, with nothing in it that a page would have to load."""
    width, height, top = 860, 300, 16

    def across(share: float) -> float:
        return 40 + (width - 60) * share

    def up(count: float) -> float:
        return height - 24 - (height - 44) * min(count, top) / top

    def line(values: list[float], colour: str, wide: float) -> str:
        points = " ".join(
            f"{across(index / len(values)):.1f},{up(value):.1f}" for index, value in enumerate(values) if index % 8 == 0
        )
        return f'<polyline fill="none" stroke="{colour}" stroke-width="{wide}" points="{points}"/>'

    colours = {"ours": "#0b6e4f", "ours, eager": "#e0a100", "the original's": "#b3261e", "target tracking": "#3b5bdb"}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12"><title>Containers through a simulated day, by four rules</title>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for count in range(0, top + 1, 4):
        parts.append(f'<line x1="40" x2="{width - 20}" y1="{up(count):.1f}" y2="{up(count):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="34" y="{up(count) + 4:.1f}" text-anchor="end">{count}</text>')
    for hour in range(0, 25, 4):
        parts.append(f'<text x="{across(hour / 24):.1f}" y="{height - 8}" text-anchor="middle">{hour}:00</text>')
    parts.append(line(curve, "#999", 1))
    parts += [line([float(one) for one in days[name].counts], colours[name], 2) for name in days]
    for index, (name, colour) in enumerate({"load": "#999", **colours}.items()):
        x = 52 + index * 150
        parts.append(f'<rect x="{x}" y="5" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 20}" y="12">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    """Simulate, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7, help="of the load (default: 7)")
    parser.add_argument("--days", type=int, default=20, help="days with other seeds, for the table's means (20)")
    parser.add_argument("--svg", metavar="FILE", help="draw the first day there")
    options = parser.parse_args()
    first = {}
    print(
        f"mean of {options.days} simulated days, {LEAST} to {MOST} containers (the original's rule knows no maximum)\n"
    )
    print(f"| {'rule':16} | short of capacity | idle container hours | builds | containers at most |")
    print(f"|{'-' * 18}|{'-' * 19}|{'-' * 22}|{'-' * 8}|{'-' * 20}|")
    for name, rule in RULES.items():
        days = [simulate(rule, load_curve(options.seed + number)) for number in range(options.days)]
        first[name] = days[0]
        short, idle, actions = (sum(values) / len(days) for values in list(zip(*days))[:3])
        peak = max(one.peak for one in days)
        print(f"| {name:16} | {short:13.1f} min | {idle:20.1f} | {actions:6.1f} | {peak:18} |")
    if options.svg:
        Path(options.svg).write_text(picture(load_curve(options.seed), first), encoding="utf-8")


if __name__ == "__main__":
    main()
