#!/usr/bin/env python3
"""Follow what handler_jenkins asked for until its containers run, keep `min` of them, and give back what is idle.

A check that runs on the Sensu server. It looks each request up in Jenkins by its id, and for its containers in the
results of check_container_state (Sensu's API, `api`) or by `verify_command`. With `min` it asks for what is missing,
with `decommission_job` it gives back, one at a time, what is idle.
"""

import os
import time
from collections import namedtuple

from sensu_lxc_handlers import following, handler, instances, policy, settings
from sensu_lxc_handlers.fleet import (
    BUILDING,
    COALESCED,
    FAILED,
    GONE,
    IN,
    INTENT,
    IS_DOWN,
    IS_RUNNING,
    IS_UNTOLD,
    MISSED,
    OPEN,
    OUT,
    REJECTED,
    SENT,
    UNKNOWN,
    UNSENT,
    UNVERIFIED,
    VERIFIED,
    elapsed,
)
from sensu_lxc_handlers.ledgers import open_ledger
from sensu_lxc_handlers.outcome import LedgerUnusable, Misconfigured, Misused, Outcome, Problem, clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from typing import Any

    from sensu_lxc_handlers.asking import Asking
    from sensu_lxc_handlers.fleet import Fleet, Moment, Request
    from sensu_lxc_handlers.following import Sighting
    from sensu_lxc_handlers.ledger import Book
    from sensu_lxc_handlers.policy import Act, Hold
    from sensu_lxc_handlers.sensu_api import Result
    from sensu_lxc_handlers.settings import JenkinsSettings

OK, WARNING, CRITICAL, TROUBLE = 0, 1, 2, 3
_WORDS = {OK: "OK", WARNING: "WARNING", CRITICAL: "CRITICAL", TROUBLE: "UNKNOWN"}
_WORST_FIRST = (CRITICAL, WARNING, TROUBLE, OK)

# Shares of the time, so that whoever does not answer leaves some for the others.
_JENKINS_SHARE, _SENSU_SHARE, _COMMAND_SHARE = 0.3, 0.55, 0.75
# Nothing is begun to be asked for with less than that.
_ASKING_SECONDS = 3.0
_RECORD_SECONDS = 0.7
# What did not get to Jenkins is looked for no longer than that.
_LATE_SECONDS = 86400
# A container that is gone is told of no longer than that.
_FAREWELL_SECONDS = 300
_SHOWN = 3

_EXAMPLES = """\
settings: those of handler_jenkins (scope lxc_autoscale). Needed for
  verifying        "api": {"url": "http://localhost:4567/"} or "verify_command": "/path/to/script {host} {name}",
                   which ends with 0: it runs, 1: it does not, 44: it is gone, else: it can't tell
  keeping a least  "min": 2
  giving back      "api", "decommission_job": "lxc_decommission" and "groups": {"web": {"match": {"entity": "web*"}}}

exit status: 0 all is well, 1 a container did not come up, does not run any more or is not heard of, a build or a
  giving back failed or is waited for too long, fewer than `min` run and none is on its way, or nobody knows what became
  of a request; 2 the circuit is open, or the ledger can't be used; 3 Jenkins or Sensu's API can't be read, or options
  or settings are wrong

examples:
  reconcile_autoscale.py
  reconcile_autoscale.py --dry-run
  reconcile_autoscale.py --report --since 24h --group web
  reconcile_autoscale.py --html /var/www/html/autoscale.html --since 7d
  reconcile_autoscale.py --group web --pause 'moving to the new rack'
  reconcile_autoscale.py --group web --resume
  reconcile_autoscale.py --forget lxc-0a1b2c3d4e-7
"""


class Finding(namedtuple("Finding", "status text")):
    """One line below the first: a status as above, and a sentence."""

    __slots__ = ()


class Seen(namedtuple("Seen", "sightings results why states")):
    """What was seen of the world.

    sightings  {request id: Sighting}
    results    of Sensu's API, or None for the reason why
    states     {entity: those of check_container_state}
    """

    __slots__ = ()

    def told(self, names: "Sequence[str]", wall: float, max_age: float, since: float = 0.0) -> "dict[str, str]":
        """{name: what is known of the container of that name}."""
        results = [one for name in names for one in self.states.get(name, ())]
        return instances.told_by_results(results, names, wall, max_age, since)


class ReconcileAutoscale(handler.Fenced):
    name = "reconcile_autoscale"
    scope = "lxc_autoscale"
    description = __doc__ or ""
    examples = _EXAMPLES
    unforeseen = TROUBLE

    def add_options(self, parser: handler.Parser) -> None:
        from argparse import ArgumentTypeError

        def period(text: str) -> float:
            seconds = settings.parse_duration(text)
            if seconds is None or not 0 < seconds <= 30 * 86400:
                raise ArgumentTypeError(f"{clean(text, 40)} is no time such as 90m, 24h or 7d")
            return seconds

        def bound(text: str) -> float:
            seconds = settings.parse_duration(text)
            if seconds is None or not 2 <= seconds <= 600:
                raise ArgumentTypeError(f"{clean(text, 40)} is no time from 2s to 10m")
            return seconds

        parser.add_argument(
            "-t", "--timeout", metavar="TIME", type=bound, default=30.0,
            help="a bound for all of it, shorter than that of the check's definition (30s)",
        )  # fmt: skip
        parser.add_argument("--group", metavar="NAME", help="this group only")
        parser.add_argument("--since", metavar="TIME", type=period, default=86400.0, help="of --report, --html (24h)")
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--report", action="store_true", help="print alerts, decisions, builds, containers; do no more"
        )
        what.add_argument("--html", metavar="FILE", help="write that as one page with a timeline; do no more")
        what.add_argument("--pause", metavar="REASON", help="nothing is asked for in the group until --resume")
        what.add_argument("--resume", action="store_true", help="end --pause")
        what.add_argument(
            "--forget", metavar="ID", help="a request's containers are known to be gone; or a member (ENTITY/CHECK) is"
        )

    def __init__(self) -> None:
        super().__init__()
        self._declared: dict[str, set[object]] = {}

    def configure(self) -> None:
        self.timeout_seconds = self.options.timeout
        self.wanted = settings.jenkins_settings(self.settings, self.options.json_config, self.where)
        self.groups = settings.of_groups(self.settings, self.options.json_config, self.where)

    def work(self, trouble: "Problem | None") -> Outcome:
        if trouble:
            raise trouble
        options = self.options
        if options.report or options.html:
            return self._told()
        if options.pause is not None or options.resume or options.forget:
            return self._commanded()
        # All that can be wrong with the settings is found before anything is written down.
        self._prepare()
        with self._ledger(options.dry_run) as ledger:
            return self._reconciled(ledger)

    def troubled(self, problem: Problem) -> Outcome:
        return Outcome("", problem.code, str(problem), CRITICAL if isinstance(problem, LedgerUnusable) else TROUBLE)

    def rendered(self, outcome: Outcome, notes: str) -> str:
        first, *more = outcome.text.split("\n")
        if outcome.word == "REPORT":
            return str(outcome.text)
        lines = [f"{self.name} {_WORDS[outcome.status]}: {clean(first, 1000)}{notes}"]
        return "\n".join([*lines, *(clean(line, 500) for line in more)])

    # Before

    def _prepare(self) -> None:
        from sensu_lxc_handlers import api_settings

        self.doing = "reading the secrets"
        self.known = settings.credentials(self.wanted, os.environ)
        self.notes += self.known.notes
        self.secrets += self.known.secrets
        self.api = None
        if self.wanted.api is not None:
            self.api = api_settings.api_settings(self.wanted.api, f"{self.options.json_config}.api", self.where)
            self.api_known = api_settings.api_credentials(self.api, os.environ)
            self.notes += self.api_known.notes
            self.secrets += self.api_known.secrets
        for wanted in (self.wanted, *self.groups.values()):
            if "{namespace}" in wanted.parameters.get(instances.PREFIX_PARAMETER, ""):
                raise Misconfigured("NAME_PREFIX has {namespace}, so its containers' names can't be known later")

    def _ledger(self, read_only: bool) -> "Book":
        self.doing = f"waiting for the ledger {self.wanted.ledger}"
        return open_ledger(self, self.wanted, self._share(0.5), read_only)

    def _share(self, share: float) -> float:
        """Seconds of that share of all the time."""
        return (self.end - self.started) * share

    def _asking(self, wanted: "JenkinsSettings", deadline: float) -> "Asking":
        from sensu_lxc_handlers.asking import Asking

        return Asking(wanted, self.known, deadline)

    def _wanted_of(self, group: str) -> "JenkinsSettings":
        wanted = self.groups.get(group, self.wanted._replace(group=group))
        # What a group had that was renamed or removed is followed to its end, and never made anew.
        return wanted if self._is_named(group) else wanted._replace(min=0)

    def _is_named(self, group: str) -> bool:
        """Whether an alert could still be of this group, by the settings as they are."""
        import re

        pattern = re.sub(r"\\\{[a-z_]+\\\}", ".*", re.escape(self.wanted.group))
        return group in self.groups or re.fullmatch(pattern, group) is not None

    def _names(self, fleets: "dict[str, Fleet]") -> "list[str]":
        """The groups to look after: those of the settings, and those of the ledger that are not another scope's."""
        named = set(self.groups) or ({self.wanted.group} if "{" not in self.wanted.group else set())
        ours = {name for name, fleet in fleets.items() if fleet.is_of(self.options.json_config)}
        known = sorted(named | ours)
        if self.options.group is None:
            return known
        if self.options.group not in known:
            there = ", ".join(clean(one, 40) for one in known[:10]) or "none"
            raise Misused(f"--group {clean(self.options.group, 60)} is not known; there is {there}")
        return [self.options.group]

    def _own(self, fleet: "Fleet") -> "list[Request]":
        """The requests that went to this scope's Jenkins. Another one would say that it never had the others."""
        return [one for one in fleet.requests if one.is_of(self.options.json_config)]

    # The look

    def _reconciled(self, ledger: "Book") -> Outcome:
        fleets = ledger.fleets()
        names = self._names(fleets)
        seen = self._look(names, fleets, ledger.moment())
        summaries, findings = [], []
        if seen.results is None and self.api is not None:
            findings.append(Finding(TROUBLE, seen.why))
        unread = {seen.detail for seen in seen.sightings.values() if seen.kind == following.UNREADABLE}
        findings += [Finding(TROUBLE, f"Jenkins can't be read: {why}") for why in sorted(unread)]
        others = dict(fleets)
        for name in names:
            fleet, found = self._group(ledger, name, seen, others)
            others[name] = fleet
            findings += found
            now, rules = ledger.moment(), self._wanted_of(name).rules
            if self._is_named(name):
                summaries.append(_summary(name, fleet, now, rules))
            elif sum(policy.count(fleet, now, rules)):
                why = "the settings do not name it any more, so none is made or taken away"
                text = f"{_summary(name, fleet, now, rules)}: {why}; remove them, then --forget each request"
                findings.append(Finding(OK, text))
        status = next(one for one in _WORST_FIRST if one == OK or any(found.status == one for found in findings))
        bad = [found for found in findings if found.status == status and status != OK]
        first = [found.text for found in bad[:_SHOWN]] or summaries[:_SHOWN] or ["no group is known yet"]
        more = len(bad or summaries) - _SHOWN
        line = "; ".join(first) + (f"; and {more} more" if more > 0 else "")
        # What the first line says already is not said again.
        unsaid = summaries if bad else summaries[_SHOWN:]
        below = [f"{_WORDS[found.status]}: {found.text}" for found in findings] + [f"group {one}" for one in unsaid]
        return Outcome("", "", self.without_secrets("\n".join([line, *below])), status)

    def _look(self, names: "list[str]", fleets: "dict[str, Fleet]", now: "Moment") -> Seen:
        """Into Jenkins, by job, and into Sensu's API."""
        by_job: dict[str, list[Request]] = {}
        for name in names:
            for one in self._own(fleets[name]) if name in fleets else ():
                late = one.state == UNSENT and elapsed(one.asked, now) < _LATE_SECONDS
                if one.state in OPEN or late:
                    by_job.setdefault(one.job, []).append(one)
        sightings: dict[str, Sighting] = {}
        jenkins = self._asking(self.wanted, self.started + self._share(_JENKINS_SHARE)).jenkins
        for job, requests in sorted(by_job.items()):
            self.doing = f"looking for {requests[0].request_id} in Jenkins"
            sightings.update(jenkins.sightings(job, requests))
        results, why = self._results()
        states: dict[str, list[Result]] = {}
        for result in results or ():
            if result.check == instances.STATE_CHECK:
                states.setdefault(result.entity, []).append(result)
        return Seen(sightings, results, why, states)

    def _results(self) -> "tuple[list[Result] | None, str]":
        """(the latest results that Sensu's API knows, "") or (None, why there are none)."""
        if self.api is None:
            return None, "the settings have no `api`"
        from sensu_lxc_handlers import sensu_api

        deadline = self.started + self._share(_SENSU_SHARE)
        try:
            sensu = sensu_api.connect(self.api, self.api_known, deadline)
            self.doing = f"asking {sensu.name}'s API for all results"
            return sensu.latest_results(), ""
        except sensu_api.ApiTrouble as error:
            return None, str(error)

    def _containers(
        self, name: str, fleet: "Fleet", wanted: "JenkinsSettings", seen: Seen, now: "Moment"
    ) -> "dict[str, dict[str, str]]":
        """{request id: {container's name: what is known of it}} of what was built; nothing where nobody can tell."""
        told = {}
        for one in self._own(fleet):
            if not following.is_sought(one, now):
                continue
            names = instances.names_of(name, one, wanted)
            if wanted.verify_command:
                self.doing = f"running verify_command for {names[0]}"
                left = self.started + self._share(_COMMAND_SHARE) - time.monotonic()
                if left > 0:
                    heard = instances.told_by_command(
                        wanted.verify_command, names, one.host, left, _without_secrets(os.environ)
                    )  # fmt: skip
                    # Where there was no time to ask, nothing is known, not even that nobody can tell.
                    told.update({one.request_id: heard} if heard else {})
            elif seen.results is not None:
                told[one.request_id] = seen.told(names, now.wall, wanted.max_age)
        return told

    def _members(
        self, name: str, fleet: "Fleet | None", wanted: "JenkinsSettings", seen: Seen, now: "Moment"
    ) -> "Members | None":
        """The members of a group by the latest results; None where scaling in has nothing to go by."""
        if seen.results is None or name not in self.wanted.groups:
            return None
        patterns = self.wanted.groups[name][0]
        # Whoever asked for what is there, as by a wish for this group, has a say in whether it is needed still.
        asked_by = {(one.entity, one.check) for one in fleet.requests if one.present} if fleet is not None else set()
        return members_of(seen.results, patterns, now.wall, wanted.max_age, asked_by)

    # One group

    def _group(
        self, ledger: "Book", name: str, seen: Seen, others: "dict[str, Fleet]"
    ) -> "tuple[Fleet, list[Finding]]":
        wanted, now = self._wanted_of(name), ledger.moment()
        rules = wanted.rules
        fleet = _followed(others[name], seen.sightings, now, rules) if name in others else None
        told = self._containers(name, fleet, wanted, seen, now) if fleet is not None else {}
        members = self._members(name, fleet, wanted, seen, now)
        asked_of_others = [one for other, known in others.items() if other != name for one in known.requests]
        # Another group's job that can't be read is no reason to leave this one short.
        known = fleet.requests if fleet is not None else ()
        kinds = {seen.sightings[one.request_id].kind for one in known if one.request_id in seen.sightings}
        is_clear = wanted.enabled and following.UNREADABLE not in kinds
        may_ask = is_clear and self.end - time.monotonic() > _ASKING_SECONDS
        # What verify_command had no time for may have stopped.
        all_told = all(one.request_id in told for one in known if one.running and one.is_of(self.options.json_config))
        can_give_back = bool(wanted.decommission_job) and members is not None and may_ask and all_told
        misfit = self._misfit(wanted) if can_give_back and fleet is not None and _may_shrink(fleet) else ""
        step = _Step()

        def change(fleet: "Fleet") -> "Fleet":
            """The look, and what follows from it, as one step. It may be run again."""
            step.request = None
            fleet = _followed(fleet, seen.sightings, now, rules)
            for request_id, containers in told.items():
                fleet = following.verify(fleet, request_id, containers, now, rules)
            more: Act | Hold = policy.top_up(fleet, now, rules)
            less: Act | Hold | None = None
            if members is not None:
                # What was given back is not missed, nor one whose container is no more.
                left = {name for one in fleet.requests if one.state == GONE for name in one.names}
                kept = (one for one in fleet.members if one not in members.left and one.partition("/")[0] not in left)
                silent = {one for one in members.silent if one.partition("/")[0] not in left}
                fleet = fleet._replace(members=tuple(sorted({*kept, *silent})))
                well = {name: fine for name, fine in members.are_well.items() if name.partition("/")[0] not in left}
                fleet, less = policy.give_back(fleet, well, now, rules)
            elif wanted.verify_command or seen.results is not None:
                fleet = fleet._replace(looked=now)
            more = policy.ours(more, fleet, self.options.json_config)
            more = self._placed(more, wanted, seen, fleet, asked_of_others, now.wall)
            step.decision = more
            step.is_short = not isinstance(more, policy.Hold) or more.code not in ("enough", "in-flight", "paused")
            if isinstance(more, policy.Hold) and more.code == "enough":
                step.decision = less if can_give_back else None
                if misfit and isinstance(step.decision, policy.Act):
                    step.decision = policy.Hold("misfit", misfit)
                if step.decision is not None:
                    step.decision = policy.ours(step.decision, fleet, self.options.json_config)
            if isinstance(step.decision, policy.Act) and may_ask:
                job = wanted.job if step.decision.way == OUT else wanted.decommission_job
                scope = self.options.json_config
                fleet, step.request = policy.intended(fleet, step.decision, None, job, now, scope)
            return fleet

        self.doing = f"waiting for the ledger {wanted.ledger}"
        fleet = ledger.change(name, now, change)
        findings = []
        decision, asked = step.decision, step.request
        is_told = asked is not None or isinstance(decision, policy.Hold)
        if decision is not None and is_told and not self.options.dry_run:
            ledger.note(name, now, decision, asked and asked.request_id)
        if isinstance(decision, policy.Hold):
            is_amiss = decision.code == "misfit" or (step.is_short and wanted.enabled)
            few = f"fewer than min ({rules.least}) are there: " if step.is_short else ""
            findings.append(Finding(WARNING if is_amiss else OK, f"{name}: {few}{decision.code}: {decision.text}"))
        elif step.is_short and asked is None and is_clear:
            findings.append(Finding(WARNING, f"{name}: fewer than min ({rules.least}) are there, and no time was left"))
        elif decision is not None and asked is not None:
            findings.append(self._ask(ledger, name, wanted, fleet, asked, decision))
            if not self.options.dry_run:
                fleet = ledger.fleets()[name]
        # Of what this run asked for it tells itself, and what can't be read may be no longer what it was.
        untold = {name for name, one in seen.sightings.items() if one.kind == following.UNREADABLE}
        trouble = _trouble(name, fleet, ledger.moment(), rules, {asked.request_id} if asked else set(), untold)
        return fleet, [*trouble, *_haunting(name, fleet, seen, now), *findings]

    def _misfit(self, wanted: "JenkinsSettings") -> str:
        """Why the job that takes containers away is none that may be asked, "" where it may.

        Jenkins drops what a job does not declare: it would then say that it took away what it never looked for.
        """
        from sensu_lxc_handlers.asking import TARGET_ID
        from sensu_lxc_handlers.jenkins import REQUEST_ID, Unreadable

        job = wanted.decommission_job
        needed = {REQUEST_ID, TARGET_ID, instances.PREFIX_PARAMETER}
        # On another host than its own it would find nothing to take away, and be content with that.
        needed |= {wanted.placement.parameter} if wanted.placement else set()
        self.doing = f"looking at the parameters of {job}"
        try:
            if job not in self._declared:
                jenkins = self._asking(wanted, self.started + self._share(_COMMAND_SHARE)).jenkins
                self._declared[job] = jenkins.declared(job)
            missing = needed - self._declared[job]
        except Unreadable as error:
            return f"{clean(job, 80)} can't be read: {error}"
        lacks = ", ".join(sorted(missing))
        return f"the job {clean(job, 80)} lacks {lacks}: import checks/jenkins/lxc_decommission.xml" if missing else ""

    def _placed(
        self, decision: "Act | Hold", wanted: "JenkinsSettings", seen: Seen, fleet: "Fleet", others: "list[Request]",
        wall: float,
    ) -> "Act | Hold":  # fmt: skip
        if wanted.placement is None:
            return decision
        from sensu_lxc_handlers import placing

        hosts = None if seen.results is None else placing.of_results(seen.results, wanted.placement.check)
        why = f"no host can be chosen: {seen.why}"
        return placing.placed(decision, wanted.placement, hosts, why, fleet, others, wall)

    def _ask(
        self, ledger: "Book", name: str, wanted: "JenkinsSettings", fleet: "Fleet",
        asked: "Request", act: "Act",
    ) -> Finding:  # fmt: skip
        from sensu_lxc_handlers.asking import record

        target = fleet.find(asked.target) if asked.way == IN else None
        what = f"take away {asked.target}" if asked.way == IN else f"have {wanted.min} of {clean(name, 40)}"
        if self.options.dry_run:
            return Finding(OK, f"{name}: would ask for a build of {asked.job} to {what}")
        self.doing = f"asking Jenkins for {asked.request_id}"
        names = {"check": asked.check, "entity": asked.entity, "namespace": ""}
        # No longer than a handler would: after its lease others take it for dead.
        deadline = min(self.end - _RECORD_SECONDS, time.monotonic() + wanted.timeout)
        asking = self._asking(wanted, deadline)
        answer = asking.ask(name, asked, target, names, f"to {what}", act.look_first)
        self.doing = f"recording that {asked.request_id} is {answer.state}"
        said = f"{name}: asked for {asked.request_id} of {clean(asked.job, 60)} to {what}"
        answer = answer._replace(text=self.without_secrets(answer.text))
        try:
            answer, _ = record(ledger, name, asked, answer, answer.text)
        except LedgerUnusable as error:
            raise LedgerUnusable(f"{said}: {answer.text}; but that can't be recorded: {error}") from None
        text = f"{said}: {answer.text}"
        if answer.state in (SENT, COALESCED):
            return Finding(OK, text)
        is_away = answer.code in ("starting", "unreachable")
        return Finding(TROUBLE if is_away else WARNING, text)

    # By hand

    def _commanded(self) -> Outcome:
        options = self.options
        with self._ledger(options.dry_run) as ledger:
            fleets = ledger.fleets()
            names = self._names(fleets)
            if options.forget:
                said = self._forgotten(ledger, {name: fleets[name] for name in names if name in fleets})
            else:
                if len(names) != 1:
                    there = ", ".join(clean(one, 40) for one in names[:10]) or "none"
                    raise Misused(f"name the group with --group; there is {there}")
                reason = clean(options.pause or "", 200)
                if options.pause is not None and not reason.strip():
                    raise Misused("--pause wants a reason, for whoever wonders why nothing happens")
                ledger.change(names[0], ledger.moment(), lambda fleet: fleet._replace(paused=reason))
                how = f"paused: {reason}; end that with --resume" if reason else "no longer paused"
                said = f"{clean(names[0], 60)} is {how}"
        return Outcome("", "", said + (" (--dry-run: nothing was changed)" if options.dry_run else ""), OK)

    def _forgotten(self, ledger: "Book", fleets: "dict[str, Fleet]") -> str:
        what = self.options.forget
        now = ledger.moment()

        def change(fleet: "Fleet") -> "Fleet":
            one = fleet.find(what)
            if one is not None:
                fleet = fleet.replaced(one._replace(state=GONE, at=now, detail="forgotten by hand"))
            return fleet._replace(members=tuple(member for member in fleet.members if member != what))

        for name, fleet in fleets.items():
            one = fleet.find(what)
            if one is not None or what in fleet.members:
                ledger.change(name, now, change)
                of = f"which was {one.state}; stop and remove its containers yourself" if one else "a member"
                return f"{clean(what, 80)} of {clean(name, 60)} is forgotten, {of}"
        raise Misused(f"--forget {clean(what, 80)}: there is neither such a request nor such a member, see --report")

    def _told(self) -> Outcome:
        from sensu_lxc_handlers import report

        with self._ledger(True) as ledger:
            if ledger.is_new:
                raise Problem(
                    f"there is no ledger {clean(self.wanted.ledger)}: it begins with the first alert or run; where"
                    " there were some, name in `ledger` the one of the handler, and run this on its server"
                )
            now = ledger.moment()
            fleets = ledger.fleets()
            since = now.wall - self.options.since
            history = report.History(fleets, ledger.decisions(since), ledger.changes(since), since, now.wall)
            history = history.of(self._names(fleets)) if self.options.group else history
        if not self.options.html:
            return Outcome("REPORT", "", self.without_secrets(report.table(history)), OK)
        self.doing = f"writing {self.options.html}"
        try:
            report.write(self.options.html, self.without_secrets(report.page(history)))
        except OSError as error:
            raise Problem(f"{clean(self.options.html)} can't be written: {error.strerror}") from None
        return Outcome("", "", f"wrote {clean(self.options.html)}: {report.counted(history)}", OK)


class _Step:
    """What came of one step in the ledger."""

    decision: "Act | Hold | None" = None
    request: "Request | None" = None
    # Fewer than min are there, and none is on its way.
    is_short = False


class Members(namedtuple("Members", "are_well silent left")):
    """Names of members, ENTITY/CHECK.

    are_well  {name: whether it is well} of all with a fresh result
    silent    of those whose latest result is old, or says that the check was not heard of
    left      of those that are no more
    """

    __slots__ = ()


def members_of(
    results: "list[Result]", patterns: "dict[str, str]", wall: float, max_age: float,
    asked_by: "Collection[tuple[str, str]]" = (),
) -> Members:  # fmt: skip
    """Who counts for scaling in: each check of each entity that the group's patterns fit, or that asked for one.

    asked_by: (entity, check) of the latter.
    """
    from fnmatch import fnmatchcase

    from sensu_lxc_handlers.event import CHECK, TIMED_OUT, TTL

    well, silent, left = {}, set(), set()
    for result in results:
        fits = all(fnmatchcase(getattr(result, key), pattern) for key, pattern in patterns.items())
        if not fits and (result.entity, result.check) not in asked_by:
            continue
        name = clean(f"{result.entity}/{result.check}", 200)
        if instances.is_last(result):
            left.add(name)
        elif result.kind == CHECK and result.executed is not None and abs(wall - result.executed) <= max_age:
            well[name] = result.status == 0
        elif result.kind in (CHECK, TTL, TIMED_OUT):
            silent.add(name)
    return Members(well, silent, left)


def _followed(fleet: "Fleet", sightings: "dict[str, Sighting]", now: "Moment", rules: "policy.Rules") -> "Fleet":
    for one in fleet.requests:
        if one.request_id in sightings:
            fleet = following.follow(fleet, one.request_id, sightings[one.request_id], now, rules)
    return fleet


def _may_shrink(fleet: "Fleet") -> bool:
    return any(one.running for one in fleet.requests)


def _without_secrets(environ: "Any") -> "dict[str, str]":
    """The environment for a command of the settings."""
    return {key: value for key, value in environ.items() if not key.startswith("SENSU_LXC_")}


def _trouble(
    name: str, fleet: "Fleet", now: "Moment", rules: "policy.Rules", asked: "set[str]", unread: "set[str]"
) -> "list[Finding]":
    """What somebody has to look after.

    asked, unread: ids of requests that this run made, and of those whose place in Jenkins could not be read.
    """
    found = []
    for way in (OUT, IN):
        broken = policy.circuit(fleet, way, now, rules)
        if broken:
            found.append(Finding(CRITICAL, f"{name}: the circuit is open: {broken}"))
    for one in fleet.requests:
        is_stale = one.request_id in unread and one.state not in (INTENT, UNKNOWN)
        if one.request_id not in asked and not is_stale:
            found += [Finding(WARNING, f"{name}: {one.request_id}: {text}") for text in _amiss(one, fleet, now, rules)]
    return found


def _amiss(one: "Request", fleet: "Fleet", now: "Moment", rules: "policy.Rules") -> "Iterator[str]":
    """What is wrong with one request."""
    forget = f"--forget {one.request_id}"
    since = policy.duration(elapsed(one.at, now))
    if one.state in (UNVERIFIED, MISSED):
        yield f"{one.detail}: look at it, or {forget}"
    elif one.state == VERIFIED and one.amiss is not None:
        for_long = elapsed(one.amiss, now)
        if IS_DOWN in one.words:
            yield f"{one.named(IS_DOWN)} is told not to run: look at it, or {forget}"
        elif IS_UNTOLD in one.words and for_long >= rules.warm_up:
            silence = f"nothing is heard of {one.named(IS_UNTOLD)} for {policy.duration(for_long)}"
            yield f"{silence}, so it is not known to run: look at it, or {forget}"
    elif one.state in (INTENT, UNKNOWN) and elapsed(one.at, now) >= rules.lease:
        yield f"nobody knows for {since} what became of it; where Jenkins can't tell any more: {forget}"
    elif one.state in (SENT, COALESCED) and elapsed(one.at, now) >= policy.patience(one, rules):
        yield f"it waits in Jenkins' queue for {since} ({one.detail}): has it an executor, and the job's node?"
    elif one.state == BUILDING and elapsed(one.at, now) >= policy.patience(one, rules):
        yield f"its build runs for {since} ({one.detail}): see its log in Jenkins"
    elif one.state == REJECTED and one is fleet.latest(one.way):
        yield f"Jenkins refused it {since} ago: {one.detail}"
    elif one.state == FAILED and one.way == OUT:
        if one.present:
            there = ", ".join(name for name in (one.named(IS_RUNNING), one.named(IS_DOWN)) if name)
            yield f"{one.detail}, and {there} is there all the same: look at it, or {forget}"
        elif one is _latest_ended(fleet):
            yield f"{one.detail}: see its log in Jenkins; the next one that comes up ends this, or {forget}"
    elif one.state == FAILED:
        later = [other for other in fleet.requests if other.target == one.target][-1]
        target = fleet.find(one.target)
        if target is not None and target.present and (one is later or later.state != FAILED):
            yield f"it did not take {one.target} away: {one.detail}: see its log in Jenkins, or {forget}"


def _latest_ended(fleet: "Fleet") -> "Request | None":
    """The latest request to make containers of which it is known how it ended."""
    open_ones = (*OPEN, UNSENT, REJECTED)
    return next((one for one in reversed(fleet.requests) if one.way == OUT and one.state not in open_ones), None)


def _haunting(name: str, fleet: "Fleet", seen: Seen, now: "Moment") -> "list[Finding]":
    """Containers that were taken away, as Jenkins says, and are heard of all the same: its job ran on another host."""
    if seen.results is None:
        return []
    found = []
    for one in fleet.requests:
        if one.way == OUT and one.state == GONE and one.names:
            since = one.at.wall + _FAREWELL_SECONDS
            told = seen.told(one.names, now.wall, _FAREWELL_SECONDS, since)
            there = [container for container, word in told.items() if word == IS_RUNNING]
            if there:
                text = f"{name}: {', '.join(there)} still runs, although {one.request_id} is gone: {one.detail}"
                found.append(Finding(WARNING, f"{text}: did the job run on its host?"))
    return found


def _summary(name: str, fleet: "Fleet", now: "Moment", rules: "policy.Rules") -> str:
    there, coming = policy.count(fleet, now, rules)
    running = sum(one.running for one in fleet.requests)
    words = f"{name}: {there} containers, {running} of them seen running, {coming} on their way"
    limits = f" (min {rules.least}, max {rules.most or 'none'})"
    return words + limits + (f", paused: {fleet.paused}" if fleet.paused else "")


def main() -> None:
    ReconcileAutoscale().main()


if __name__ == "__main__":
    main()
