#!/usr/bin/env python3
"""Sensu handler: asks Sensu to run an action on the host that ran the check: start a container, give it more memory.

Reads one event of Sensu Core or Sensu Go on STDIN and says in one line what it did, and why. Each action is a check of
Sensu's that is asked for by its API, of the one host that ran the event's check, once per `cooldown` and within its
`budget`. That Sensu took it does not mean that it is done: the next result of the event's check decides.
"""

import os

from sensu_lxc_handlers import api_settings, handler, outcome, remedy
from sensu_lxc_handlers.fleet import elapsed
from sensu_lxc_handlers.ledger import moment
from sensu_lxc_handlers.outcome import ACT, ERROR, HOLD, LedgerUnusable, Misconfigured, Outcome, clean, harmless
from sensu_lxc_handlers.policy import Hold, duration
from sensu_lxc_handlers.tries import Tries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sensu_lxc_handlers.sensu_api import Sensu

# Kept from the time that Sensu gets, for writing down what it answered.
_RECORD_SECONDS = 0.7

_EXAMPLES = """\
settings, in Sensu's conf.d or the file of --config:
  {"lxc_remediate": {
    "api": {"url": "http://localhost:4567/"},
    "actions": {"start_container": {
      "check": "start_container",
      "when": {"check": "check_container_state", "severities": ["critical"], "occurrences": [1, 5]},
      "cooldown": "10m", "budget": "3/1h"}}}}
  api, for Sensu Go: {"url": "https://localhost:8080/", "api_key_file": "/etc/sensu/remediate.key"}. Also: kind,
  namespace, user, password_file, ca_file. SENSU_LXC_API_KEY and SENSU_LXC_API_PASSWORD in the environment win.
  when also takes entity and output, a regular expression; check and entity are a pattern, or a list of them. Also:
  max_age (10m), timeout (10s; not longer than that of the handler's definition), ledger.
  An event's check or client (Core: "lxc_remediate": {…} in its definition; Go: annotations
  sensu.io/plugins/handler_remediate/config/…) may want actions (names, or "off"), occurrences, severities, cooldown.

exit status: 0 asked (ACT) or held (HOLD). Else ERROR: 1 Sensu refused, was not reached or did not answer in time, or
  something unforeseen; 2 wrong options or settings; 3 the ledger can't be used; 4 no event on STDIN

example (asks nobody, records nothing), with sensu-lxc's own definition:
  echo '{"client": {"name": "host1"}, "check": {"name": "check_container_state", "status": 2,
    "output": "web1: STOPPED, expected RUNNING", "executed": '$(date +%s)'}, "occurrences": 2}' |
    handler_remediate.py --config checks/handlers/remediate.json --dry-run
"""


class HandlerRemediate(handler.Handler):
    name = "handler_remediate"
    scope = "lxc_remediate"
    description = "Sensu handler: asks Sensu to run an action on the host that ran the check."
    examples = _EXAMPLES

    def configure(self) -> None:
        self.wanted = remedy.remediation_settings(self.settings, self.options.json_config, self.where)
        self.timeout_seconds = self.wanted.timeout

    def handle(self) -> Outcome:
        wanted, event, now, scope = self.wanted, self.event, moment(), self.options.json_config
        hold = remedy.unfit(event, now.wall, wanted.max_age)
        if hold:
            return self._well() if hold.code == "ok" else self._hold(hold)
        wishes = event.wishes(scope, self.name)
        patterned = [action.name for action in wanted.actions if action.output is not None]
        if patterned:
            # A pattern such as (a+)+b takes for ever, and what it is matched with was written by others.
            names = ", ".join(patterned)
            self.doing = f"matching the output of {event} with the `output` of {names}: write a simpler pattern there"
        actions = remedy.chosen(event, wanted.actions, remedy.with_wishes(wanted.actions, wishes))
        if isinstance(actions, Hold):
            return self._hold(actions)
        # All that can be wrong with the settings is found before anything is written down.
        sensu = self._sensu()
        lease = max(60.0, 2 * wanted.timeout)
        with self._tries() as tries:
            decision, number = tries.decide(
                event, now, lambda known, seen: remedy.decide(event, actions, known, seen, now, lease)
            )
            if isinstance(decision, Hold):
                return self._hold(decision)
            check = decision.action.asked_check(event)
            what = f"{clean(event.runner, 80)} for {check}"
            if number is None:
                return Outcome(ACT, "dry-run", f"{event}: would ask {what}")
            self.doing = f"asking {what}"
            code, text = self._ask(sensu, check)
            text = self.without_secrets(text)
            self.doing = f"recording that {check} is {code}"
            said = f"{event}: {text}"
            try:
                tries.settle(number, _STATES[code], clean(text))
            except LedgerUnusable as error:
                return Outcome(ERROR, "ledger", f"{said}; but that can't be recorded: {error}", outcome.NO_LEDGER)
        if code != "asked":
            return Outcome(HOLD, code, said) if code == "proxy" else Outcome(ERROR, code, said, outcome.REFUSED)
        nth = f"try {decision.tries + 1} of {decision.action.budget} in {duration(decision.action.budget_seconds)}"
        return Outcome(ACT, code, f"{said}, {nth}; the next result decides")

    def _hold(self, hold: Hold) -> Outcome:
        return Outcome(HOLD, hold.code, f"{self.event}: {hold.text}")

    def _well(self) -> Outcome:
        """The end of an incident, and of what was tried in it."""
        event, said = self.event, f"{self.event}: nothing is wrong"
        # Where nothing was asked there is no ledger, and none is begun for saying so.
        if event.executed is None or not os.path.exists(self.wanted.ledger):
            return Outcome(HOLD, "ok", said)
        with self._tries() as tries:
            last = tries.well(event)
        if last is None:
            return Outcome(HOLD, "ok", said)
        ago = duration(elapsed(last.at, moment()))
        return Outcome(HOLD, "ok", f"{said} any more; {last.action} was asked for {ago} ago")

    def _tries(self) -> Tries:
        self.doing = f"waiting for the ledger {self.wanted.ledger}"
        patience = (self.end - self.started) / 2
        return Tries(self.wanted.ledger, patience, self.options.json_config, read_only=self.options.dry_run)

    def _sensu(self) -> "Sensu":
        from sensu_lxc_handlers import sensu_api  # 25 ms that a HOLD does without

        wanted = self.wanted.api
        is_go = "entity" in self.event.document
        if is_go != (wanted.kind == api_settings.GO):
            sent, asked = ("Sensu Go", "Core") if is_go else ("Sensu Core", "Go")
            raise Misconfigured(
                f"{sent} sent the event, and {self.options.json_config}.api is Sensu {asked}'s: set its url and kind"
            )
        self.doing = "reading the secrets"
        known = api_settings.api_credentials(wanted, os.environ)
        self.notes += known.notes
        self.secrets += known.secrets
        deadline = self.end - min(_RECORD_SECONDS, self.timeout_seconds / 8)
        return sensu_api.connect(wanted, known, deadline)

    def _ask(self, sensu: "Sensu", check: str) -> "tuple[str, str]":
        """(the outcome's code, what happened)."""
        from sensu_lxc_handlers import sensu_api

        event, who = self.event, clean(self.event.runner, 80)
        reason = f"{harmless(event.entity)}/{harmless(event.check)}"
        try:
            # Sensu says 202 also where nobody of that name is there, or only a proxy.
            agent = sensu.agent(event.runner, event.namespace)
            if agent is None:
                return (
                    "nobody",
                    f"{sensu.name} knows no {who}, who ran the check as it says, so {check} was not asked for",
                )
            if agent.is_proxy:
                return "proxy", f"{who} is a proxy, which can't be asked for {check}"
            sensu.request(check, agent.name, reason, event.namespace)
        except sensu_api.ApiTrouble as error:
            if error.code == sensu_api.UNANSWERED:
                return "unknown-outcome", f"{who} may have been asked for {check}: {error}"
            return error.code, f"{who} was not asked for {check}: {error}"
        return "asked", f"asked {who} for {check}"


_STATES = {
    "asked": remedy.ASKED, "unknown-outcome": remedy.UNKNOWN, "unreachable": remedy.UNSENT, "rejected": remedy.REJECTED,
    "nobody": remedy.REJECTED, "proxy": remedy.REJECTED,
}  # fmt: skip


def main() -> None:
    HandlerRemediate().main()


if __name__ == "__main__":
    main()
