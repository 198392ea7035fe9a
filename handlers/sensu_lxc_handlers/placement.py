"""On which host a new container is to be: chosen from what check_host_capacity last told of each."""

import re
from collections import namedtuple

from .event import CHECK
from .fleet import BUILT, OPEN, OUT, PRESENT, REJECTED, UNSENT, Request
from .outcome import clean, harmless
from .policy import Act, Hold, duration
from .settings import CONTAINERS, FREE_MEMORY, SPREAD, Placement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .sensu_api import Result

_FREE = ("host_memory_unpromised", "host_memory_available")
_RUNNING = "host_containers_running"
_SHOWN = 8
# A container that nobody has seen is counted as on its way no longer than that, should nobody look.
_COMING_SECONDS = 86400


class Host(namedtuple("Host", "name status kind executed free_bytes containers")):
    """A host, as its latest result tells.

    status, kind, executed  see sensu_api.Result
    free_bytes  memory that is neither promised nor in use, None where it does not tell
    containers  how many run there, None where it does not tell
    """

    __slots__ = ()


def hosts_of(results: "Iterable[Result]") -> "list[Host]":
    """The hosts of the results of check_host_capacity."""
    found = []
    for result in results:
        numbers = perfdata(result.output)
        free = [numbers[label] for label in _FREE if label in numbers]
        running = numbers.get(_RUNNING)
        found.append(Host(
            result.entity, result.status, result.kind, result.executed, min(free) if free else None,
            None if running is None else int(running),
        ))  # fmt: skip
    return found


def choose(
    hosts: "Sequence[Host]", rules: Placement, requests: "Iterable[Request]", own: "Iterable[Request]",
    containers: int, wall: float,
) -> "str | Hold":  # fmt: skip
    """The name of the host for so many containers, or why there is none.

    requests  of all groups: what was not seen yet, or asked for after a host told of itself, is not in its numbers
    own       of the group that it is for
    """
    requests, own = list(requests), list(own)
    ranked: list[tuple[tuple[float, ...], str]] = []
    refused = []
    for host in sorted(hosts):
        why = _unfit(host, rules, wall)
        coming = sum(one.containers for one in requests if _is_coming(one, host, wall))
        free = None if host.free_bytes is None else host.free_bytes - coming * rules.need_bytes
        need = rules.need_bytes * containers
        if not why and (need or rules.by == FREE_MEMORY):
            if free is None:
                why = "does not tell its free memory"
            elif free < need:
                reserved = f" beside {coming} on their way" if coming else ""
                why = f"{_size(free)} free{reserved}, {_size(need)} needed"
        if not why and rules.by == CONTAINERS and host.containers is None:
            why = "does not tell how many containers run"
        if why:
            refused.append(f"{clean(host.name, 60)}: {why}")
            continue
        by_memory = -(free or 0)
        mine = sum(one.containers for one in own if _is_there(one, host.name))
        rank = {
            FREE_MEMORY: (by_memory, mine), CONTAINERS: ((host.containers or 0) + coming, by_memory),
            SPREAD: (mine, by_memory),
        }[rules.by]  # fmt: skip
        ranked.append((rank, host.name))
    if ranked:
        return min(ranked)[1]
    if not refused:
        return Hold("no-host", f"no host has a result of {clean(rules.check, 60)}")
    more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    return Hold("no-host", "; ".join(refused[:_SHOWN]) + more)


def perfdata(output: str) -> "dict[str, float]":
    """{label: value} of the perfdata in a check's output: label=valueUNIT;…, whatever else is behind the bar."""
    found = {}
    for label, number in re.findall(
        r"(?:^|\s)([\w.:@/~-]{1,100})=(-?\d{1,20}(?:\.\d{1,9})?)[A-Za-z%]{0,3}(?=[;\s]|$)",
        output.partition("|")[2],
        re.ASCII,
    ):
        found[label] = float(number)
    return found


def _unfit(host: Host, rules: Placement, wall: float) -> str:
    """Why a host is none to choose, whatever it has free."""
    if host.kind != CHECK:
        return "was not heard of in time"
    if host.executed is None or abs(wall - host.executed) > rules.max_age:
        age = "of an unknown time" if host.executed is None else f"{duration(abs(wall - host.executed))} old"
        return f"its result is {age}, max_age is {duration(rules.max_age)}"
    if host.status != 0:
        return f"its result is {({1: 'WARNING', 2: 'CRITICAL'}).get(host.status, 'UNKNOWN')}"
    if harmless(host.name) != host.name or host.name.startswith("-"):
        return "its name is none that may go into a command"
    return ""


def _is_there(one: Request, host: str) -> bool:
    return bool(one.way == OUT and one.host == host and one.state in OPEN + PRESENT)


def _is_coming(one: Request, host: Host, wall: float) -> bool:
    """Whether what a request makes may not be in the host's numbers yet."""
    if not _is_there(one, host.name):
        return False
    is_unseen = one.state in (*OPEN, BUILT) and one.asked.wall > wall - _COMING_SECONDS
    return is_unseen or bool(one.asked.wall >= (host.executed or 0))


def is_to_place(decision: "Act | Hold") -> bool:
    """Whether it asks for containers that may be made on any host.

    One that is asked for again keeps its host where its first attempt may have made the container there.
    """
    if not isinstance(decision, Act) or decision.way != OUT:
        return False
    one = decision.previous
    return one is None or (one.state in (UNSENT, REJECTED) and one.queue_item is None and one.build is None)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
