#!/usr/bin/env python3
"""Sensu handler: a real CRITICAL asks Jenkins for one build of the job that provisions a container.

Reads one event of Sensu Core or Sensu Go on STDIN and says in one line what it did, and why. Whatever else comes, an
OK, a warning, a keepalive, something silenced or flapping, is a HOLD. After a build was asked for, its group (`group`
in the settings; by default the whole scope) is held for `cooldown`, however many alerts and handlers there are.
"""

import os

from sensu_lxc_handlers import handler, policy, settings
from sensu_lxc_handlers.fleet import COALESCED, SENT, UNKNOWN
from sensu_lxc_handlers.ledger import Ledger, moment
from sensu_lxc_handlers.outcome import ACT, ERROR, HOLD, NO_LEDGER, REFUSED, LedgerUnusable, Outcome, clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sensu_lxc_handlers.fleet import Request
    from sensu_lxc_handlers.jenkins import Answer, Jenkins

# Kept from the time that Jenkins gets, for writing down what it answered.
_RECORD_SECONDS = 0.7
# Longer than any start that ends well.
_STARTING_SECONDS = 900

_EXAMPLES = """\
settings, in Sensu's conf.d or the file of --config:
  {"lxc_autoscale": {"url": "https://jenkins.example/", "job": "lxc_provision",
                     "user": "sensu", "api_token_file": "/etc/sensu/jenkins.token"}}
  Also: token or token_file (of the job), password_file, parameters, group, cooldown (10m), max_age (2h),
  timeout (10s; not longer than that of the handler's definition), ledger, ca_file.
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
        wanted = self.wanted = settings.for_event(self.settings, scope, self.where, event, self.name)
        if not wanted.enabled:
            return Outcome(HOLD, "disabled", f"{event}: `enabled` is false for it")
        rules = wanted.rules
        hold = policy.judge(event, now.wall, rules)
        if hold:
            return Outcome(HOLD, hold.code, f"{event}: {hold.text}")
        # All that can be wrong with the settings is found before anything is written down.
        jenkins = self._jenkins()
        self.doing = f"waiting for the ledger {wanted.ledger}"
        names = {key: _harmless(getattr(event, key)) for key in ("check", "entity", "namespace")}
        group = settings.fill(wanted.group, names)
        with Ledger(wanted.ledger, (self.end - self.started) / 2, read_only=self.options.dry_run) as ledger:
            if ledger.is_new:
                self.notes.append(f"the ledger {clean(wanted.ledger)} is new: what was asked for before is not known")
            now = ledger.moment()
            decision, asked = ledger.decide(
                group, event, wanted.job, now, lambda fleet, seen: policy.decide(fleet, seen, now, rules)
            )
            if isinstance(decision, policy.Hold):
                return Outcome(HOLD, decision.code, f"{event}: {decision.text}")
            if asked is None:
                again = f", again under {decision.previous.request_id}" if decision.previous else ""
                look = ", unless it turns out to have it" if decision.look_first else ""
                return Outcome(ACT, "dry-run", f"{event}: would ask Jenkins for a build of {wanted.job}{again}{look}")
            self.doing = f"asking Jenkins for {asked.request_id}"
            answer = self._ask(jenkins, asked, decision.look_first, {**names, "group": group})
            self.doing = f"recording that {asked.request_id} is {answer.state}"
            return self._record(ledger, group, asked, answer)

    def _jenkins(self) -> "Jenkins":
        from sensu_lxc_handlers.jenkins import Jenkins  # 25 ms that a HOLD does without

        self.doing = "reading the secrets"
        known = settings.credentials(self.wanted, os.environ)
        self.notes += known.notes
        self.secrets += [secret for secret in (known.job_token, known.login and known.login[1]) if secret]
        self._job_token = known.job_token
        deadline = self.end - min(_RECORD_SECONDS, self.timeout_seconds / 8)
        return Jenkins(self.wanted.url, known.login, known.needs_crumb, deadline, self.wanted.ca_file)

    def _ask(self, jenkins: "Jenkins", asked: "Request", look_first: bool, names: "dict[str, str]") -> "Answer":
        from sensu_lxc_handlers.jenkins import REQUEST_ID, Answer, Unreadable

        if look_first:
            try:
                found = jenkins.find_request(self.wanted.job, asked.request_id, asked.created_wall)
            except Unreadable as error:
                return Answer(UNKNOWN, "unknown-outcome", f"it may have got there before, and {error}")
            if found:
                where = f"build {found.build}" if found.build else f"queue item {found.queue_item}"
                return Answer(SENT, "adopted", f"it got there before, {where}", found.queue_item)
        values = {**names, "request_id": asked.request_id}
        fields = {"ALERT_CHECK": names["check"], "ALERT_ENTITY": names["entity"]}
        fields.update((key, settings.fill(value, values)) for key, value in self.wanted.parameters.items())
        fields[REQUEST_ID] = asked.request_id
        if asked.containers > 1:
            fields["COUNT"] = str(asked.containers)
        if self._job_token:
            fields.update(token=self._job_token, cause=f"Sensu: {names['entity']}/{names['check']} is critical")
        return jenkins.trigger(self.wanted.job, fields)

    def _record(self, ledger: Ledger, group: str, asked: "Request", answer: "Answer") -> Outcome:
        now, state, code, text = ledger.moment(), answer.state, answer.code, answer.text
        text = self.without_secrets(text)
        said = f"{self.event}: {asked.request_id} of {clean(self.wanted.job, 80)}, {text}"
        try:
            if code == "sent" and answer.queue_item:
                # Jenkins before 2.308 says 201 also for a request that it merged into another.
                other = ledger.shares_queue_item(asked, answer.queue_item, now)
                if other:
                    state, code, said = COALESCED, "coalesced", f"{said}, which is also that of {other}"
            ledger.settle(group, asked, state, now, answer.queue_item, clean(text))
        except LedgerUnusable as error:
            return Outcome(ERROR, "ledger", f"{said}; but that can't be recorded: {error}", NO_LEDGER)
        if code == "adopted":
            return Outcome(HOLD, code, said)
        if state in (SENT, COALESCED):
            return Outcome(ACT, code, said)
        if code == "starting":
            waited = abs(now.wall - asked.created_wall)  # a clock that was set back bounds it as well
            if waited < _STARTING_SECONDS:
                return Outcome(HOLD, code, f"{said}; the next critical event asks again")
            since = f"first asked for {policy.duration(waited)} ago"
            return Outcome(ERROR, "not-up", f"{said}, {since}: see in its log what it waits for", REFUSED)
        return Outcome(ERROR, code, said, REFUSED)


def _harmless(name: str) -> str:
    """A name out of an event, as it may go into a job's parameters: no more than a word, also in a build step's shell.

    What Sensu itself allows in names stays as it is.
    """
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.:-") else "_" for c in name[:128])


def main() -> None:
    HandlerJenkins().main()


if __name__ == "__main__":
    main()
