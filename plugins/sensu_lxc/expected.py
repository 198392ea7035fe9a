"""What the state of a container means where another one is expected: one judge for the check and for the watch."""

from __future__ import annotations

from sensu_lxc import inventory, states
from sensu_lxc.findings import Finding, State

TYPE_CHECKING = False  # importing typing for it would cost a check 3 ms
if TYPE_CHECKING:
    from collections.abc import Sequence

EXPECTABLE = ("RUNNING", "STOPPED", "FROZEN")
# A state on its way to the one that is expected: (expected, seen).
PASSING = {("RUNNING", "STARTING"), ("STOPPED", "STOPPING"), ("FROZEN", "FREEZING")}


def absent(name: str, lxcpaths: Sequence[str] = ()) -> Finding:
    """What it means that a container that was named is not there, or that a pattern means none.

    lxcpaths: where alone it was looked for.
    """
    where = f" in {' or '.join(lxcpaths)}, which is where -P looks for it" if lxcpaths else ""
    if inventory.is_pattern(name):
        words = f"no container matches that pattern{where}"
    else:
        words = "does not exist" + (where or ": no lxcpath defines it and no monitor runs for it")
    return Finding(State.CRITICAL, name, words)


def stray(name: str, place: str) -> Finding:
    """Processes in a cgroup that LXC made for a container of that name, which nothing else here knows of."""
    return Finding(
        State.CRITICAL,
        name,
        f"no lxcpath here defines it and no monitor runs for it, but its processes run on in {place}: end them, or "
        "name its lxcpath with -P",
    )


def judge(label: str, state: states.State, expected: str, defined: bool | None = True) -> Finding:
    """What a state means where another one may be expected.

    A container that does not run and that this user may not see the definition of might not exist at all: said, as
    both is bad where it should run.
    """
    if defined is not None and state == (expected, "", "", ""):  # as a thousand of them are
        return Finding(State.OK, label, expected)
    detail = f" ({state.detail})" if state.detail else ""
    if state.name == states.UNRESPONSIVE:
        return Finding(State.CRITICAL, label, f"monitor unresponsive{detail}; lxc-info and lxc-stop will hang on it")
    if state.name == states.ORPHANED:
        return Finding(
            State.CRITICAL,
            label,
            f"runs on without its monitor, in {state.detail}; LXC calls it STOPPED, and starting it would start a "
            "second copy: end those processes first",
        )
    if state.beside:
        return Finding(
            State.CRITICAL,
            label,
            f"{state.name}{detail}, while processes of an earlier life run on without their monitor, in {state.beside}"
            ", and may write to the same root filesystem: end those",
        )
    unsure = ""
    if state.name == "STOPPED" and defined is None:
        unsure = ", if it exists: its definition can't be read by this user"
        if expected != "RUNNING":
            return Finding(State.UNKNOWN, label, f"STOPPED{unsure}")
    if expected == "STOPPED" and state.doubt:
        return Finding(State.UNKNOWN, label, f"STOPPED as far as this user can tell, but {state.doubt}; run as root")
    if state.name == expected:
        return Finding(State.OK, label, f"{state.name}{detail}")
    grade = State.WARNING if (expected, state.name) in PASSING else State.CRITICAL
    return Finding(grade, label, f"{state.name}{detail}, expected {expected}{unsure}")
