"""How Jenkins is asked for what a ledger holds as INTENT, and how its answer is written down.

Handler and reconciler do the same: first the request is written down (Ledger.decide, Ledger.change), then it is asked
for here at most once, then what became of it is written down here.
"""

from .fleet import COALESCED, IN, SENT, UNKNOWN, Moment, Request
from .following import ABSENT, CANCELLED, UNREADABLE
from .instances import PREFIX_PARAMETER, prefix_of
from .jenkins import REQUEST_ID, Answer, Jenkins
from .outcome import clean, harmless
from .settings import Credentials, JenkinsSettings, fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .ledger import Book

TARGET_ID = "TARGET_ID"
COUNT = "COUNT"


class Asking:
    """One group's requests of a Jenkins that is asked until deadline (by time.monotonic())."""

    def __init__(self, wanted: JenkinsSettings, known: Credentials, deadline: float) -> None:
        self._wanted, self._job_token = wanted, known.job_token
        self.jenkins = Jenkins(wanted.url, known.login, known.needs_crumb, deadline, wanted.ca_file)

    def ask(self, group: str, asked: Request, target: "Request | None", names: "dict[str, str]", cause: str,
            look_first: bool) -> Answer:  # fmt: skip
        """Ask for the build of a request that is written down.

        target      of an IN: the request whose containers are to be taken away
        names       check, entity and namespace for the parameters
        look_first  it may have got there before
        """
        if look_first:
            seen = self.jenkins.sightings(asked.job, [asked])[asked.request_id]
            if seen.kind == UNREADABLE:
                forget = f"where that can't be mended: reconcile_autoscale.py --forget {asked.request_id}"
                return Answer(UNKNOWN, "unknown-outcome", f"it may have got there before, and {seen.detail}; {forget}")
            if seen.kind not in (ABSENT, CANCELLED):
                where = f"build {seen.build}" if seen.build else f"queue item {seen.queue_item}"
                return Answer(SENT, "adopted", f"it got there before, {where}", seen.queue_item)
        fields = self._fields_of_in(group, asked, target) if asked.way == IN else self._fields(group, asked, names)
        if asked.host and self._wanted.placement:
            fields[self._wanted.placement.parameter] = asked.host
        if self._job_token:
            fields.update(token=self._job_token, cause=f"Sensu: {cause}")
        return self.jenkins.trigger(asked.job, fields)

    def _fields(self, group: str, asked: Request, names: "dict[str, str]") -> "dict[str, str]":
        words = {key: harmless(value) for key, value in names.items()}
        values = {**words, "group": group, "request_id": asked.request_id}
        fields = {"ALERT_CHECK": words["check"], "ALERT_ENTITY": words["entity"]}
        fields.update((key, fill(value, values)) for key, value in self._wanted.parameters.items())
        fields[REQUEST_ID] = asked.request_id
        if asked.containers > 1:
            fields[COUNT] = str(asked.containers)
        return fields

    def _fields_of_in(self, group: str, asked: Request, target: "Request | None") -> "dict[str, str]":
        assert target is not None  # policy.give_back() names one that is there
        fields = {
            REQUEST_ID: asked.request_id, TARGET_ID: target.request_id,
            PREFIX_PARAMETER: prefix_of(group, target, self._wanted),
        }  # fmt: skip
        if target.containers > 1:
            fields[COUNT] = str(target.containers)
        return fields


def record(ledger: "Book", group: str, asked: Request, answer: Answer, text: str) -> "tuple[Answer, Moment]":
    """(the answer as it is written down, when). text is its text without secrets. Raises LedgerUnusable."""
    now, state, code = ledger.moment(), answer.state, answer.code
    if code == "sent" and answer.queue_item:
        # Jenkins before 2.308 says 201 also for a request that it merged into another.
        other = ledger.shares_queue_item(asked, answer.queue_item, now)
        if other:
            state, code, text = COALESCED, "coalesced", f"{text}, which is also that of {other}"
    ledger.settle(group, asked, state, now, answer.queue_item, clean(text))
    return answer._replace(state=state, code=code, text=text), now
