#!/usr/bin/env python3
"""Sensu handler: one mail when a check changes its severity, recovers or begins to flap, and reminders if wanted.

Reads one event of Sensu Core or Sensu Go on STDIN and says in one line what it did, and why. A repetition of what was
mailed before makes no second mail, nor does a restart of Sensu; a mail that could not be sent is tried again at the
next event. Keepalives and expired TTLs are mailed, silenced events are not.
"""

import os
import time

from sensu_lxc_handlers import handler, mail_settings, mailed
from sensu_lxc_handlers.ledger import moment
from sensu_lxc_handlers.outcome import ACT, ERROR, HOLD, NO_LEDGER, REFUSED, LedgerUnusable, Misconfigured, Outcome
from sensu_lxc_handlers.policy import Hold, duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sensu_lxc_handlers.mail import Taken
    from sensu_lxc_handlers.mailed import Mailed, Memory, News

# Kept for writing down that the mail was taken.
_REMEMBER_SECONDS = 0.7

_EXAMPLES = """\
settings, in Sensu's conf.d or the file of --config:
  {"lxc_mail": {"to": ["ops@example.com"], "from": "Sensu <sensu@example.com>", "server": "mail.example.com",
                "user": "sensu", "password_file": "/etc/sensu/mail.password", "remind": "4h"}}
  Also: port, tls (starttls, tls, none), ca_file, fallback (true: sendmail where the server does not take it),
  sendmail (its path; used where no server is set), severities, resolve (false: no mail at recovery), subject, body,
  timeout (10s; not longer than that of the handler's definition), state_file.
  SENSU_LXC_MAIL_PASSWORD in the environment wins over the file.
  In subject and body: {change} {status} {entity} {check} {output} {occurrences} {history} {executed} {lasted}
  {runner} {namespace} {command}

exit status: 0 mailed (ACT) or held (HOLD). Else ERROR: 1 the mail was not taken, or something unforeseen; 2 wrong
  options or settings; 3 what was mailed can't be remembered (changes are mailed nevertheless); 4 no event on STDIN

try it (sends nothing, remembers nothing):
  echo '{"lxc_mail": {"to": "ops@example.com", "server": "localhost"}}' > /tmp/lxc_mail.json
  echo '{"client": {"name": "web1"}, "check": {"name": "check_memory", "status": 2, "output": "94% used"}}' |
    handler_mail.py --config /tmp/lxc_mail.json --dry-run
"""


class HandlerMail(handler.Handler):
    name = "handler_mail"
    scope = "lxc_mail"
    description = "Sensu handler: one mail for each change of a check, and reminders."
    examples = _EXAMPLES

    def configure(self) -> None:
        self.wanted = mail_settings.mail_settings(self.settings, self.options.json_config, self.where)
        self.timeout_seconds = self.wanted.timeout

    def handle(self) -> Outcome:
        event, scope = self.event, self.options.json_config
        hold = mailed.no_news(event)
        if hold:
            return self._held(hold)
        self.wanted, notes = mail_settings.with_wishes(self.wanted, event, scope, self.name)
        self.notes += notes
        key = mailed.Key(scope, event.namespace, event.entity, event.check)
        memory = mailed.Memory(self.wanted.state_file, key, max(0.1, (self.end - time.monotonic()) / 2))
        self.doing = "waiting for another handler that mails about the same"
        now, trouble, sent = moment(), None, None
        try:
            last = memory.peek() if self.options.dry_run else memory.recall()
            news = mailed.decide(event, last, moment(), self.wanted.remind, self.wanted.severities)
            if not isinstance(news, Hold) and not self.options.dry_run:
                self.doing = f"writing to {self.wanted.state_file}"
                memory.can_remember()
        except LedgerUnusable as error:
            trouble = error
            news = mailed.without_memory(event, now, self.wanted.severities)
        if isinstance(news, Hold):
            outcome = self._held(news)
        elif news.state == mailed.OK and not news.is_owed and not self.wanted.resolve:
            outcome = self._held(Hold("resolve", f"{news.change}, and `resolve` is false"))
            told = news.since._replace(state=mailed.OK, executed=event.executed or 0, owed="", at=now)
            trouble = trouble or self._remember(memory, told)
        else:
            outcome, sent = self._mail(news, key)
            if sent:
                self.doing = "remembering that it was mailed"
                trouble = trouble or self._remember(memory, sent)
        if trouble and (sent or outcome.word != ERROR):
            return Outcome(ERROR, trouble.code, f"{outcome.text}; but {trouble}", NO_LEDGER)
        return outcome

    def _held(self, hold: Hold) -> Outcome:
        return Outcome(HOLD, hold.code, f"{self.event}: {hold.text}")

    def _mail(self, news: "News", key: mailed.Key) -> "tuple[Outcome, Mailed | None]":
        """Send it. What to remember is None where nothing was sent."""
        from sensu_lxc_handlers import mail  # with email and smtplib 60 ms, that a HOLD does without

        event, now, since = self.event, moment(), news.since
        if news.is_owed:
            owed = since.owed.split(",")
            self.wanted = self.wanted._replace(to=[one for one in self.wanted.to if one.address in owed])
            if not self.wanted.to:
                text = f"{since.state} was mailed, but for those who are not in `to` any more"
                return self._held(Hold("no-change", text)), None
        wanted = self.wanted
        lasted = duration(max(0.0, now.wall - since.began)) if since else ""
        subject, body = mail.texts(wanted, event, news.change, lasted)
        recipients = ", ".join(one.address for one in wanted.to)
        incident, number = mailed.incident_of(event), since.mails + 1 if since else 1
        # Without a name of the incident, only the time of its first event tells it from the one before.
        named = incident or (since.first_id if since else event.executed)
        identity = since.last_id if news.is_owed else mail.message_id(wanted, key, named, news.state, number)
        thread = tuple(one for one in (since.first_id, since.last_id) if one and one != identity) if since else ()
        content = mail.compose(wanted, event, subject, body, news.change, identity, thread)
        try:
            taken = self._hand_over(content)
        except mail.Undelivered as error:
            text = f"{event}: not mailed to {recipients}: {error}"
            return Outcome(ERROR, error.code, text, REFUSED), None
        if self.options.dry_run:
            return Outcome(ACT, "dry-run", f"{event}: would mail '{subject}' to {recipients} by {taken.by}"), None
        self.notes += taken.refused
        owed = ",".join(taken.deferred)
        sent = since._replace(owed=owed) if news.is_owed else mailed.Mailed(
            news.state, incident, event.executed or 0, number, since.began if since else now.wall,
            (since.first_id if since else "") or identity, identity, owed, now,
        )  # fmt: skip
        got = ", ".join(one.address for one in wanted.to if one.address not in taken.deferred)
        text = f"{event}: '{subject}' mailed to {got} by {taken.by}"
        if owed:
            why = "; ".join(f"{address}: {why}" for address, why in taken.deferred.items())
            whom = "him alone" if len(taken.deferred) == 1 else "them alone"
            text += f", but not for now to {why}: the next event sends it to {whom}"
            return Outcome(ERROR, "deferred", text, REFUSED), sent
        return Outcome(ACT, "reminder" if news.reminder else "sent", text), sent

    def _hand_over(self, content: bytes) -> "Taken":
        """Who takes it, or in a dry run would, where all that is here is as it should be."""
        from sensu_lxc_handlers import mail

        wanted = self.wanted
        deadline = self.end - min(_REMEMBER_SECONDS, self.timeout_seconds / 8)
        if not wanted.server:
            return self._to_sendmail(content, deadline)
        now = time.monotonic()
        try:
            self.doing = "reading the password"
            login = mail_settings.credentials(wanted, os.environ, self.notes)
            if login:
                self.secrets += mail.secrets_of(login)
            by = now + (deadline - now) / 2 if wanted.fallback else deadline
            server = mail.SmtpServer(wanted, login, by, self.without_secrets)
            if self.options.dry_run:
                return mail.Taken(f"{wanted.server}:{wanted.port}", [])
            self.doing = f"waiting for {wanted.server}"
            taken = server.send(content)
            server.close()
            return self._deferred_to_sendmail(taken, content, deadline) if taken.deferred and wanted.fallback else taken
        except (mail.Undelivered, Misconfigured) as error:
            if not wanted.fallback or not getattr(error, "elsewhere", True):
                raise
            self.notes.append(f"by sendmail, as {error}")
            return self._to_sendmail(content, deadline)

    def _deferred_to_sendmail(self, taken: "Taken", content: bytes, deadline: float) -> "Taken":
        """Those whom the server refused for now get it by sendmail, or stay deferred."""
        from sensu_lxc_handlers import mail

        self.doing = f"waiting for {self.wanted.sendmail}"
        rest = [one for one in self.wanted.to if one.address in taken.deferred]
        for address, why in taken.deferred.items():
            self.notes.append(f"by sendmail to {address}, as {taken.by} refused it for now: {why}")
        try:
            mail.by_sendmail(self.wanted._replace(to=rest), content, deadline)
        except mail.Undelivered as error:
            self.notes.append(str(error))
            return taken
        return taken._replace(deferred={})

    def _to_sendmail(self, content: bytes, deadline: float) -> "Taken":
        from sensu_lxc_handlers import mail

        if self.options.dry_run:
            return mail.by_sendmail_if_it_can_run(self.wanted)
        self.doing = f"waiting for {self.wanted.sendmail}"
        return mail.by_sendmail(self.wanted, content, deadline)

    def _remember(self, memory: "Memory", sent: "Mailed") -> "LedgerUnusable | None":
        if self.options.dry_run:
            return None
        try:
            memory.remember(sent)
        except LedgerUnusable as error:
            return error
        return None


def main() -> None:
    HandlerMail().main()


if __name__ == "__main__":
    main()
