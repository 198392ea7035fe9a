"""The containers of a request: how they are called, and what is known of each of them.

Their names are made as provision_container.py makes them, on the LXC host (tests/handlers/test_instances.py compares
both), so that a request's containers can be looked for although Jenkins never tells of them.
"""

from .event import CHECK
from .fleet import IS_DOWN, IS_GONE, IS_RUNNING, IS_UNTOLD, Request
from .outcome import harmless
from .settings import JenkinsSettings, fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .sensu_api import Result

PREFIX_PARAMETER = "NAME_PREFIX"
DEFAULT_PREFIX = "auto"
STATE_CHECK = "check_container_state"
# How the sweep of a check ends the results of a container; it does so also for one that runs and is only no longer
# watched, as by an --exclude.
_LAST_RESULT = "this is its last result"
_GONE = f"is no longer on this host; {_LAST_RESULT}"

# Not 2, which is also said by an interpreter without its script, a wrong option, and any check that is CRITICAL.
_WORDS = {0: IS_RUNNING, 1: IS_DOWN, 44: IS_GONE}
_COMMAND_SECONDS = 5.0


def name_of(prefix: str, request_id: str) -> str:
    """The name that provision_container.py gives a container."""
    from base64 import b32encode
    from hashlib import sha256  # 3 ms that a HOLD does without

    return f"{prefix}-{b32encode(sha256(request_id.encode()).digest()[:10]).decode().lower()}"


def request_ids(one: Request) -> "list[str]":
    """What provision_container.py is run for: ID, and for more containers than one ID.2, ID.3, …"""
    return [one.request_id, *(f"{one.request_id}.{number}" for number in range(2, one.containers + 1))]


def prefix_of(group: str, one: Request, wanted: JenkinsSettings) -> str:
    """What the names of its containers begin with, as the job was told when they were made."""
    if one.names:
        return str(one.names[0].rpartition("-")[0])
    values = {
        "check": harmless(one.check), "entity": harmless(one.entity), "namespace": "", "group": group,
        "request_id": one.request_id,
    }  # fmt: skip
    return fill(wanted.parameters.get(PREFIX_PARAMETER) or DEFAULT_PREFIX, values)


def names_of(group: str, one: Request, wanted: JenkinsSettings) -> "tuple[str, ...]":
    """The names of a request's containers."""
    if one.names:
        return tuple(one.names)
    prefix = prefix_of(group, one, wanted)
    return tuple(name_of(prefix, request_id) for request_id in request_ids(one))


def is_last(result: "Result") -> bool:
    """Whether it says that nothing more will come, be its container gone or only no longer watched."""
    return result.kind == CHECK and _LAST_RESULT in result.output


def told_by_results(
    results: "Iterable[Result]", names: "Sequence[str]", wall: float, max_age: float, since: float = 0.0
) -> "dict[str, str]":
    """{name: what the latest result of check_container_state says of the container of that name}.

    A result that is older than max_age, or than since (in seconds since the epoch), tells nothing.
    """
    told = dict.fromkeys(names, IS_UNTOLD)
    for result in results:
        if result.entity not in told or result.check != STATE_CHECK or result.kind != CHECK:
            continue
        if is_last(result):
            told[result.entity] = IS_GONE if _GONE in result.output else IS_UNTOLD
        elif result.executed is not None and abs(wall - result.executed) <= max_age and result.executed >= since:
            # A WARNING is of one that runs, after restarts; an UNKNOWN could not tell.
            told[result.entity] = {0: IS_RUNNING, 1: IS_RUNNING, 2: IS_DOWN}.get(result.status, IS_UNTOLD)
    return told


def told_by_command(
    words: "Sequence[str]", names: "Sequence[str]", host: str, seconds: float, environ: "Mapping[str, str]"
) -> "dict[str, str]":
    """{name: what the command's exit status says of the container of that name}, within seconds in all.

    {} where that was too short to ask for each.
    """
    from time import monotonic

    end = monotonic() + seconds
    told = {}
    for name in names:
        left = end - monotonic()
        if left <= 0:
            return {}
        values = {"name": name, "host": harmless(host).lstrip("-")}
        argv = [words[0], *(fill(word, values) for word in words[1:])]
        told[name] = _WORDS.get(_status(argv, min(_COMMAND_SECONDS, left), environ), IS_UNTOLD)
    return told


def _status(argv: "Sequence[str]", seconds: float, environ: "Mapping[str, str]") -> int:
    """The command's exit status; -1 where it can't be started or takes longer, and then all that it began is ended."""
    import os
    import signal
    import subprocess

    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, env=dict(environ),
        )  # fmt: skip
    except (OSError, ValueError):
        return -1
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its own session: nobody else is in that group
        process.wait()
        return -1
