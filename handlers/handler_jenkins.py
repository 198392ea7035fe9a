#!/usr/bin/env python3
"""Sensu handler: a real CRITICAL asks Jenkins for one build of the job that provisions a container.

Reads one event of Sensu Core or Sensu Go on STDIN and says in one line what it did, and why. Whatever else comes, an
OK, a warning, a keepalive, something silenced or flapping, is a HOLD. After a build was asked for, its group (`group`
in the settings; by default the whole scope) is held for `cooldown`, however many alerts and handlers there are.
"""

import os

from sensu_lxc_handlers import handler, policy, settings
from sensu_lxc_handlers.fleet import COALESCED, SENT
from sensu_lxc_handlers.ledger import moment
from sensu_lxc_handlers.ledgers import open_ledger
from sensu_lxc_handlers.outcome import (
    ACT,
    ERROR,
    HOLD,
    NO_LEDGER,
    REFUSED,
    LedgerUnusable,
    Outcome,
    clean,
    harmless,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sensu_lxc_handlers.asking import Asking
    from sensu_lxc_handlers.fleet import Fleet, Moment, Request
    from sensu_lxc_handlers.jenkins import Answer
    from sensu_lxc_handlers.ledger import Book
    from sensu_lxc_handlers.placing import Hosts

    Place = Callable[[Fleet, "policy.Act | policy.Hold"], "policy.Act | policy.Hold"]

# Kept from the time that Jenkins gets, for writing down what it answered.
_RECORD_SECONDS = 0.7
# Longer than any start that ends well.
_STARTING_SECONDS = 900

_EXAMPLES = """\
settings, in Sensu's conf.d or the file of --config:
  {"lxc_autoscale": {"url": "https://jenkins.example/", "job": "lxc_provision",
                     "user": "sensu", "api_token_file": "/etc/sensu/jenkins.token"}}
  Also: token or token_file (of the job), password_file, parameters, group, groups, cooldown (10m), breaches, min, max,
  step, budget, breaker, warm_up, max_age (2h), enabled, placement and api, ledger (a file, or redis://HOST), ca_file,
  timeout (10s; not longer than that of the handler's definition). README says what each is for.
  SENSU_LXC_JENKINS_TOKEN and SENSU_LXC_JENKINS_API_TOKEN in the environment win over the files.

exit status: 0 done (ACT) or held (HOLD). Else ERROR: 1 Jenkins refused, was not reached, did not come up or did
  not answer in time, or something unforeseen; 2 wrong options or settings; 3 the ledger can't be used;
  4 no event on STDIN

try it (asks nobody, records nothing):
  echo '{"lxc_autoscale": {"url": "http://localhost:8080/", "job": "lxc_provision"}}' > /tmp/lxc_autoscale.json
  echo '{"client": {"name": "web1"}, "check": {"name": "check_memory", "status": 2, "executed": '$(date +%s)'}}' |
    handler_jenkins.py --config /tmp/lxc_autoscale.json --dry-run
"""


class HandlerJenkins(handler.Handler):
    name = "handler_jenkins"
    scope = "lxc_autoscale"
    description = "Sensu handler: a real CRITICAL asks Jenkins for one build of the job that provisions a container."
    examples = _EXAMPLES

    def configure(self) -> None:
        self.wanted = settings.jenkins_settings(self.settings, self.options.json_config, self.where)
        self.timeout_seconds = self.wanted.timeout

    def handle(self) -> Outcome:
        event, now = self.event, moment()
        scope = self.options.json_config
        wanted, cut = settings.for_event(self.settings, scope, self.where, event, self.name)
        self.wanted = wanted
        self.notes += cut
        wishes = {key for _, wishes in event.wishes(scope, self.name) for key in wishes}
        idle = [key for key in settings.OF_RECONCILER if key in wishes]
        if idle:
            where = f"{scope} in {self.where}"
            self.notes.append(f"wished in vain: {', '.join(idle)}; the reconciler takes them from {where} alone")
        if not wanted.enabled:
            return Outcome(HOLD, "disabled", f"{event}: `enabled` is false for it")
        rules = wanted.rules
        hold = policy.judge(event, now.wall, rules)
        if hold:
            return Outcome(HOLD, hold.code, f"{event}: {hold.text}")
        # All that can be wrong with the settings is found before anything is written down.
        asking = self._asking()
        hosts = self._hosts()
        self.doing = f"waiting for the ledger {wanted.ledger}"
        names = {key: getattr(event, key) for key in ("check", "entity", "namespace")}
        group = settings.fill(wanted.group, {key: harmless(name) for key, name in names.items()})
        with open_ledger(self, wanted, (self.end - self.started) / 2, self.options.dry_run) as ledger:
            now = ledger.moment()
            place = self._placing(ledger, group, hosts, now)
            self.doing = f"waiting for the ledger {wanted.ledger}"

            def judge(fleet: "Fleet", seen: bool) -> "policy.Act | policy.Hold":
                return place(fleet, policy.ours(policy.decide(fleet, seen, now, rules), fleet, scope))

            decision, asked = ledger.decide(group, event, wanted.job, now, judge, scope)
            if isinstance(decision, policy.Hold):
                return Outcome(HOLD, decision.code, f"{event}: {decision.text}")
            if asked is None:
                again = f", again under {decision.previous.request_id}" if decision.previous else ""
                where = f" on {decision.host}" if decision.host else ""
                look = ", unless it turns out to have it" if decision.look_first else ""
                would = f"would ask Jenkins for a build of {wanted.job}{where}{again}{look}"
                return Outcome(ACT, "dry-run", f"{event}: {would}")
            self.doing = f"asking Jenkins for {asked.request_id}"
            cause = f"{harmless(event.entity)}/{harmless(event.check)} is critical"
            answer = asking.ask(group, asked, None, names, cause, decision.look_first)
            self.doing = f"recording that {asked.request_id} is {answer.state}"
            return self._record(ledger, group, asked, answer)

    def _asking(self) -> "Asking":
        from sensu_lxc_handlers.asking import Asking  # 25 ms that a HOLD does without

        self.doing = "reading the secrets"
        known = settings.credentials(self.wanted, os.environ)
        self.notes += known.notes
        self.secrets += known.secrets
        deadline = self.end - min(_RECORD_SECONDS, self.timeout_seconds / 8)
        return Asking(self.wanted, known, deadline)

    def _hosts(self) -> "Hosts | None":
        """Where the hosts' results are to be read from, None where Jenkins chooses the host."""
        if self.wanted.placement is None:
            return None
        from sensu_lxc_handlers.placing import Hosts

        # Half of the time is Jenkins', should Sensu not answer.
        scope, deadline = self.options.json_config, self.started + (self.end - self.started) / 2
        hosts = Hosts(self.wanted, scope, self.where, os.environ, deadline)
        self.notes += hosts.known.notes
        self.secrets += hosts.known.secrets
        return hosts

    def _placing(self, ledger: "Book", group: str, hosts: "Hosts | None", now: "Moment") -> "Place":
        """A function of (fleet, decision) that gives a decision to act its host.

        Sensu is only asked where the policy would act, and then before the ledger is locked for all others: the
        decision is made again under its lock.
        """
        if hosts is None:
            return lambda fleet, decision: decision
        from sensu_lxc_handlers import placement

        fleet, seen = ledger.peek(group, self.event)
        decision = policy.decide(fleet, seen, now, self.wanted.rules)
        if placement.is_to_place(decision):
            self.doing = f"asking {hosts.api} for the hosts"
            hosts.look()
        others = [one for other, fleet in ledger.fleets().items() if other != group for one in fleet.requests]
        return lambda fleet, decision: hosts.placed(decision, fleet, others, now.wall)

    def _record(self, ledger: "Book", group: str, asked: "Request", answer: "Answer") -> Outcome:
        from sensu_lxc_handlers.asking import record

        text = self.without_secrets(answer.text)

        def said(text: str) -> str:
            return f"{self.event}: {asked.request_id} of {clean(asked.job, 80)}, {text}"

        try:
            answer, now = record(ledger, group, asked, answer, text)
        except LedgerUnusable as error:
            return Outcome(ERROR, "ledger", f"{said(text)}; but that can't be recorded: {error}", NO_LEDGER)
        state, code, text = answer.state, answer.code, said(answer.text)
        if code == "adopted":
            return Outcome(HOLD, code, text)
        if state in (SENT, COALESCED):
            return Outcome(ACT, code, text)
        if code == "starting":
            waited = abs(now.wall - asked.created_wall)  # a clock that was set back bounds it as well
            if waited < _STARTING_SECONDS:
                return Outcome(HOLD, code, f"{text}; the next critical event asks again")
            since = f"first asked for {policy.duration(waited)} ago"
            return Outcome(ERROR, "not-up", f"{text}, {since}: see in its log what it waits for", REFUSED)
        return Outcome(ERROR, code, text, REFUSED)


def main() -> None:
    HandlerJenkins().main()


if __name__ == "__main__":
    main()
