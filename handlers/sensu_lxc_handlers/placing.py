"""Where the hosts' latest results come from, and how a decision to act gets its host from them."""

from . import placement
from .api_settings import api_credentials, api_settings
from .fleet import Fleet, Request
from .outcome import clean
from .policy import Act, Hold
from .sensu_api import ApiTrouble, connect
from .settings import JenkinsSettings, Placement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .sensu_api import Result


class Hosts:
    """The hosts of one group's placement, as Sensu's API tells of them. Raises Misconfigured for what can't be asked.

    known  the API's secrets, and notes on them
    api    words for it
    """

    def __init__(
        self, wanted: JenkinsSettings, scope: str, where: str, environ: "Mapping[str, str]", deadline: float
    ) -> None:
        self._rules = wanted.placement
        about = api_settings(wanted.api, f"{scope}.api", where)
        self.known = api_credentials(about, environ)
        self._sensu = connect(about, self.known, deadline)
        self.api = f"{self._sensu.name}'s API"
        self._hosts: list[placement.Host] | None = None
        self._why = "the hosts were not looked at, as nothing was to be asked for a moment ago"

    def look(self) -> None:
        """Read the hosts' latest results."""
        try:
            self._hosts = placement.hosts_of(self._sensu.latest_results(self._rules.check))
        except ApiTrouble as error:
            self._why = f"no host can be chosen: {error}"

    def placed(self, decision: "Act | Hold", fleet: Fleet, others: "Iterable[Request]", wall: float) -> "Act | Hold":
        """See below."""
        return placed(decision, self._rules, self._hosts, self._why, fleet, others, wall)


def of_results(results: "Iterable[Result]", check: str) -> "list[placement.Host]":
    """The hosts among the results of many checks."""
    from fnmatch import fnmatchcase

    return placement.hosts_of(one for one in results if fnmatchcase(one.check, check))


def placed(
    decision: "Act | Hold", rules: "Placement | None", hosts: "list[placement.Host] | None", why: str,
    fleet: Fleet, others: "Iterable[Request]", wall: float,
) -> "Act | Hold":  # fmt: skip
    """The decision with its host, or a Hold that says why there is none.

    hosts   None where they could not be read, for the reason why
    others  the requests of all other groups
    """
    if rules is None or not isinstance(decision, Act) or not placement.is_to_place(decision):
        return decision
    if hosts is None:
        return Hold("placement", clean(why, 300))
    requests = [*others, *fleet.requests]
    chosen = placement.choose(hosts, rules, requests, fleet.requests, decision.containers, wall)
    return chosen if isinstance(chosen, Hold) else decision._replace(host=chosen)
