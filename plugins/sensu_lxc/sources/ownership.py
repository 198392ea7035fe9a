"""sensu-lxc.json in a container's directory: that sensu-lxc made the container, and for which request.

It moves with the directory, and lxc-copy does not copy it, so that a copy is nobody's but the copier's.
"""

from __future__ import annotations

from collections import namedtuple

from sensu_lxc.errors import CannotObserve

FILE = "sensu-lxc.json"
CREATING, CREATED, READY = "creating", "created", "ready"

# request_id: as it was given; state: CREATING (half made), CREATED (complete, never seen to work) or READY;
# made_from: {"template": …} or {"clone": …}; created_at: seconds since 1970.
Record = namedtuple("Record", "request_id state made_from created_at")


def record(raw: bytes, path: str) -> Record:
    """Parse it. Raises CannotObserve where it says anything else."""
    import json

    try:
        found = json.loads(raw)
        request_id, state, made_from = found["request_id"], found["state"], found["made_from"]
        created_at = float(found["created_at"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise CannotObserve(f"{path} is no record of sensu-lxc") from None
    if not isinstance(request_id, str) or not isinstance(made_from, dict) or state not in (CREATING, CREATED, READY):
        raise CannotObserve(f"{path} is no record of sensu-lxc")
    return Record(request_id, state, made_from, created_at)


def text(of: Record) -> str:
    """What the file holds."""
    import json

    return json.dumps({"created_by": "sensu-lxc", **of._asdict()}, indent=1) + "\n"
