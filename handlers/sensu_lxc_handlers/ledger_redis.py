"""The ledger on a Redis that several Sensu servers share.

A step is optimistic: WATCH what it reads, MULTI what it writes, EXEC; where somebody else was faster it is made again.
So nothing is locked, and a server that dies in the middle leaves nothing half done. What Redis has confirmed must
survive it: `appendonly yes` and `appendfsync always`. Where it forgot all the same, the new requests have new ids, or
the job finds its work done.

Keys, each below the prefix of the URL (?prefix=, by default sensu-lxc):

    born              a random word; where it is missing, the ledger is begun anew
    groups            set of the groups that have a fleet
    fleet:GROUP       checksum and document of the group's fleet (fleet.py)
    seen:HASH         an event that was decided on, for 30 days
    noted:GROUP       the latest decision that no alert asked for
    decisions, changes  sorted sets of JSON by time, of 30 days and at most _MOST
"""

import json
import os
import zlib
from time import monotonic
from urllib.parse import parse_qsl, urlencode, urlsplit

from . import fleet as fleets
from .fleet import Fleet, Moment
from .ledger import FIRST, KEEP_SECONDS, Book, Change, Decision, Step, changed, known_fleet, new_fleet
from .outcome import LedgerUnusable, clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from .ledger import Key

_MOST = 20000
_LATEST = 1 << 40
# What the values of a Decision and of a Change are.
_DECISION = (str, str, str, str, int, float, str, str, str, (str, type(None)))
_CHANGE = (str, str, float, str, str)
_CONNECT_SECONDS = 3.0
_PREFIX = "sensu-lxc"


class RedisLedger(Book):
    """The ledger on the Redis of a URL: redis://HOST:6379/0?prefix=P, rediss:// (TLS), unix:///SOCKET?db=0.

    patience is how many seconds to wait for Redis, and for others that are faster. With read_only nothing is written.
    """

    def __init__(self, url: str, password: str, patience: float, read_only: bool = False) -> None:
        try:
            import redis  # 100 ms that only those pay who want it
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            import sys

            install = f"install it with: {sys.executable} -m pip install 'redis>=5'"
            raise LedgerUnusable(f"the ledger {clean(url)} needs the package redis: {install}") from None
        query = dict(parse_qsl(urlsplit(url).query))
        self.path, self._prefix = clean(url), query.pop("prefix", "") or _PREFIX
        self._patience, self._read_only = patience, read_only
        self._redis = redis
        self.notes = []
        self._db: Any
        try:
            # Never asks twice by itself: an EXEC without an answer may have been done.
            self._db = redis.Redis.from_url(
                f"{url.partition('?')[0]}?{urlencode(query)}", password=password or None, decode_responses=True,
                socket_timeout=patience, socket_connect_timeout=min(_CONNECT_SECONDS, patience),
                retry=Retry(NoBackoff(), 0),
            )  # fmt: skip
        except (ValueError, TypeError):
            raise LedgerUnusable(f"the ledger {self.path} is none: write redis://HOST:6379/0?prefix=NAME") from None
        with self._explained():
            self._begin()

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        self._db.close()

    def moment(self) -> Moment:
        """Now, by the clock of Redis: all servers share it."""
        with self._explained():
            pipe = self._db.pipeline(transaction=False)
            pipe.time()
            pipe.info("server")
            (seconds, micros), about = pipe.execute()
            return Moment(seconds + micros / 1e6, str(about["run_id"]), float(max(0, about["uptime_in_seconds"])))

    def fleets(self) -> "dict[str, Fleet]":
        with self._explained():
            groups = sorted(self._db.smembers(self._key("groups")))
            texts = self._db.mget([self._key("fleet:" + group) for group in groups]) if groups else []
            return {group: self._fleet(group, text, True) for group, text in zip(groups, texts)}

    def decisions(self, since_wall: float) -> "list[Decision]":
        return [Decision(*one) for one in self._since("decisions", since_wall, _DECISION)]

    def changes(self, since_wall: float) -> "list[Change]":
        return [Change(*one) for one in self._since("changes", since_wall, _CHANGE)]

    def _begin(self) -> None:
        """See whether this Redis is one to rely on."""
        born = self._key("born")
        if self._read_only:
            self.is_new = not self._db.exists(born)
        else:
            self.is_new = bool(self._db.set(born, os.urandom(8).hex(), nx=True))
        about = self._db.info()
        if not about.get("aof_enabled"):
            self.notes = [f"{self.path} forgets when it ends: set appendonly yes and appendfsync always in redis.conf"]
        policy = about.get("maxmemory_policy")
        if about.get("maxmemory") and policy != "noeviction":
            self.notes = [*self.notes, f"{self.path} may drop the ledger: set maxmemory-policy noeviction"]

    def _step(
        self, group: str, key: "Key | None", now: Moment, work: "Callable[[Fleet, bool], Step]"
    ) -> "tuple[Any, bool]":
        end = monotonic() + self._patience
        with self._explained():
            if self._read_only:
                return work(*self._peek(group, key)).result, False
            while True:
                with self._db.pipeline(transaction=True) as pipe:
                    # Whoever writes an event as seen, or changes the fleet, makes this one start again.
                    pipe.watch(self._key("fleet:" + group), *([self._seen_key(key)] if key else []))
                    before, seen = self._read(pipe, group, key)
                    result, after, told = work(before, seen)
                    pipe.multi()
                    self._write(pipe, group, key, now, before, after, told)
                    try:
                        pipe.execute()
                        return result, True
                    except self._redis.WatchError:
                        if monotonic() > end:
                            raise LedgerUnusable(
                                f"the ledger {self.path}: others were faster for {self._patience:.1f} s"
                            ) from None

    def _write(
        self, pipe: "Any", group: str, key: "Key | None", now: Moment, before: Fleet, after: Fleet,
        told: "Decision | None",
    ) -> None:  # fmt: skip
        if after != before:
            document = fleets.to_text(after)
            pipe.set(self._key("fleet:" + group), f"{zlib.crc32(document.encode()):08x} {document}")
            pipe.sadd(self._key("groups"), group)
            for change in changed(group, before, after, now.wall):
                self._add(pipe, "changes", change)
        if told and key:
            pipe.set(self._seen_key(key), "1", ex=KEEP_SECONDS)
            self._add(pipe, "decisions", told)

    def _add(self, pipe: "Any", name: str, one: "Change | Decision") -> None:
        # Two that are alike are two: the random word at the end keeps them apart.
        pipe.zadd(self._key(name), {json.dumps([*one, os.urandom(4).hex()]): one.wall})
        pipe.zremrangebyscore(self._key(name), "-inf", one.wall - KEEP_SECONDS)
        pipe.zremrangebyrank(self._key(name), 0, -_MOST - 1)

    def _peek(self, group: str, key: "Key | None") -> "tuple[Fleet, bool]":
        with self._explained():
            return self._read(self._db, group, key)

    def _read(self, db: "Any", group: str, key: "Key | None") -> "tuple[Fleet, bool]":
        text = db.get(self._key("fleet:" + group))
        fleet = self._fleet(group, text, text is None and bool(db.sismember(self._key("groups"), group)))
        return fleet, bool(key and db.exists(self._seen_key(key)))

    def _keep(self, group: str, told: Decision, key: "Key") -> None:
        noted, what = self._key("noted:" + group), json.dumps([told.word, told.code, told.request_id])
        with self._explained():
            if self._db.get(noted) == what:
                return
            with self._db.pipeline(transaction=True) as pipe:
                pipe.set(noted, what)
                self._add(pipe, "decisions", told)
                pipe.execute()

    def _since(self, name: str, since_wall: float, kinds: "tuple[Any, ...]") -> "list[list[Any]]":
        with self._explained():
            texts = self._db.zrangebyscore(self._key(name), since_wall, "+inf")
        found = []
        for text in texts:
            try:
                *fields, _ = json.loads(text)
                is_one = len(fields) == len(kinds) and all(map(isinstance, fields, kinds))
            except (ValueError, TypeError, RecursionError):
                is_one = False
            if not is_one or not 0 <= fields[kinds.index(float)] < _LATEST:
                raise self._damaged(f"its {name} hold what is none")
            found.append(fields)
        return found

    def _fleet(self, group: str, text: "str | None", is_known: bool) -> Fleet:
        if text is None:
            if is_known:
                raise self._damaged(f"the requests of {clean(group, 60)} are lost")
            return new_fleet()
        crc, _, document = text.partition(" ")
        try:
            return known_fleet(group, document, int(crc, 16))
        except ValueError as error:
            raise self._damaged(str(error)) from None

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"

    def _seen_key(self, key: "Key") -> str:
        from hashlib import sha256

        return self._key("seen:" + sha256(json.dumps(key).encode()).hexdigest())

    def _damaged(self, how: str) -> LedgerUnusable:
        return LedgerUnusable(
            f"the ledger {self.path}: {how}: {FIRST}, then delete the keys that begin with {self._prefix}:, or take"
            " another ?prefix="
        )

    def _explained(self) -> "_Explained":
        return _Explained(self.path, self._redis)


class _Explained:
    """A context in which what Redis and the system say becomes LedgerUnusable, with what to do about it."""

    def __init__(self, path: str, redis: "Any") -> None:
        self._path, self._redis = path, redis

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        if isinstance(error, (self._redis.RedisError, OSError, UnicodeError)):
            said = clean(str(error), 120) if isinstance(error, self._redis.RedisError) else type(error).__name__
            raise LedgerUnusable(f"the ledger {self._path}: {said}: {_remedy(error, self._redis)}") from None


def _remedy(error: BaseException, redis: "Any") -> str:
    said = str(error)
    if isinstance(error, redis.AuthenticationError) or said.startswith(("NOAUTH", "NOPERM", "WRONGPASS")):
        return "set ledger_password_file to the password of a user who may read and write its keys"
    if isinstance(error, redis.ReadOnlyError) or "read only" in said:
        return "it is a replica: name the primary in `ledger`"
    if isinstance(error, redis.BusyLoadingError):
        return "it has just started; the next alert asks again"
    if isinstance(error, redis.OutOfMemoryError) or "OOM" in said:
        return "raise its maxmemory"
    if "MISCONF" in said or "No space" in said:
        return "it can't write to its disk: free space there"
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError)):
        return "is it up, and does `ledger` lead to it?"
    if "WRONGTYPE" in said or not isinstance(error, redis.RedisError):
        return "somebody else's data is there: take another ?prefix="
    return "see its log"
