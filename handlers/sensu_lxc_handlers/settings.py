"""What the operator wants: Sensu's JSON settings, made one, and the scope that a handler reads, checked key by key.

Nothing is guessed: a key that is not known, a value of the wrong kind or a secret that can't be read is
Misconfigured, with the key's name and what to write instead. No message ever contains a value of a secret.
"""

import json
import os
import re
from collections import namedtuple

from .outcome import Misconfigured, clean
from .policy import Rules, duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .event import Event

DEFAULT_LEDGER = "/var/lib/sensu/sensu-lxc/ledger.sqlite"
TOKEN_VARIABLE = "SENSU_LXC_JENKINS_TOKEN"
API_TOKEN_VARIABLE = "SENSU_LXC_JENKINS_API_TOKEN"

LEDGER_PASSWORD_VARIABLE = "SENSU_LXC_LEDGER_PASSWORD"
FREE_MEMORY, CONTAINERS, SPREAD = "free_memory", "containers", "spread"
REDIS = ("redis://", "rediss://", "unix://")

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_GROUP_PLACEHOLDERS = ("check", "entity", "namespace")
_PARAMETER_PLACEHOLDERS = (*_GROUP_PLACEHOLDERS, "group", "request_id")
# Names that Jenkins takes for its own when they come in the form of buildWithParameters; REQUEST_ID is the handler's.
_RESERVED_PARAMETERS = (
    "REQUEST_ID", "TARGET_ID", "COUNT", "token", "cause", "delay", "json", "statusCode", "redirectTo", "Jenkins-Crumb",
)  # fmt: skip


# What decides whether and when, see policy.Rules. A group may have its own, and so may a check and an entity.
_RULES = ("cooldown", "max_age", "breaches", "min", "max", "step", "budget", "breaker", "warm_up", "quiet",
          "cooldown_in", "enabled")  # fmt: skip
_OF_GROUPS = (*_RULES, "job", "parameters", "decommission_job", "placement", "verify_command")
# Whoever runs an agent says what its events wish, so that they choose among what the settings name, in their bounds.
_BY_EVENTS = (*_RULES, "group", "job")
# Those that only the reconciler decides by. It looks at whole groups, whose members may wish different things, so it
# takes the settings alone.
OF_RECONCILER = ("min", "quiet", "cooldown_in")
_MATCHES = ("check", "entity", "namespace")


class JenkinsSettings(namedtuple(
    "JenkinsSettings", "url job user token token_file api_token_file password_file parameters group cooldown max_age"
    " timeout ledger ca_file breaches min max step budget breaker warm_up quiet cooldown_in enabled groups"
    " decommission_job api placement verify_command ledger_password_file")):  # fmt: skip
    """The scope of handler_jenkins: durations in seconds, texts as they were given, "" where there was nothing.

    breaches, budget  (how many, of so many runs) and (how many, within so many seconds)
    groups            {name: (patterns of check, entity and namespace, what differs from the rest of the scope)}
    api               the object as it was given, for api_settings(); None where there is none
    placement         Placement, or None where Jenkins chooses the host
    verify_command    tuple of words, () where there is none
    """

    __slots__ = ()

    @property
    def rules(self) -> Rules:
        """What the policy decides by."""
        return Rules(
            self.cooldown, max(60.0, 2 * self.timeout), self.max_age, self.breaches[0], self.breaches[1], self.min,
            self.max, self.step, self.budget[0], self.budget[1], self.breaker, self.warm_up, self.quiet,
            self.cooldown_in,
        )  # fmt: skip


class Placement(namedtuple("Placement", "by check parameter need_bytes max_age")):
    """How the host of a new container is chosen.

    by          FREE_MEMORY (the most), CONTAINERS (the fewest that run) or SPREAD (the fewest of this group)
    check       pattern of the check whose latest results tell of the hosts
    parameter   of the job, that takes the host's name
    need_bytes  free memory that a host must have for each container
    max_age     how old a result may be, in seconds
    """

    __slots__ = ()


class Credentials(namedtuple("Credentials", "job_token login needs_crumb notes")):
    """What proves who asks.

    job_token    token of the job's "Trigger builds remotely", or ""
    login        (user, API token or password), or None for an anonymous one
    needs_crumb  True unless login holds an API token
    notes        what an operator should know, sentences
    """

    __slots__ = ()

    @property
    def secrets(self) -> "list[str]":
        return [secret for secret in (self.job_token, self.login and self.login[1]) if secret]


def merge_files(paths: "Iterable[str]") -> "tuple[dict[str, object], list[str]]":
    """One dictionary of all settings files, later ones winning, and notes on those that had to be skipped.

    One malformed file of somebody else must not switch off every handler, so it is skipped and said. Objects are
    merged key by key and lists joined, as Sensu does it.
    """
    settings: dict[str, object] = {}
    notes = []
    for path in paths:
        try:
            settings = _merge(settings, _read_object(path))
        except Misconfigured as error:
            notes.append(f"skipped {error}")
    return settings, notes


def read_file(path: str) -> "dict[str, object]":
    """The settings of the one file that was named by --config, which therefore must be good."""
    return _read_object(path)


def with_subfolders(paths: "Iterable[str]", folder: str = "/etc/sensu/conf.d") -> "list[str]":
    """paths, and every settings file anywhere below folder, in the order in which Sensu itself loads them."""
    found = set(paths)
    for parent, _, names in os.walk(folder):
        found.update(os.path.join(parent, name) for name in names if name.endswith(".json"))
    # config.json comes before the folder, which may override it.
    return sorted(found, key=lambda path: (path.startswith(folder), path))


class Scope:
    """One object of the settings, by its name. A key that is not known, or a value of the wrong kind, is Misconfigured.

    where are words for whence the settings came, example shows the object with what it needs at least.
    """

    def __init__(
        self, settings: "Mapping[str, object]", name: str, where: str, known: "tuple[str, ...]", example: str
    ) -> None:
        self.name = name
        if name not in settings:
            raise Misconfigured(f'no "{name}" in {where}: write {{"{name}": {example}}}, or choose another with -j')
        given = settings[name]
        if not isinstance(given, dict):
            raise Misconfigured(f'"{name}" in {where} must be an object, {{…}}')
        for key in given:
            if key not in known:
                near = nearest(str(key), known)
                raise Misconfigured(f"{name}.{clean(str(key), 60)} is not a setting; did you mean {near}?")
        self.given: dict[str, object] = given

    def require(self, *keys: str) -> None:
        for key in keys:
            if not self.given.get(key):
                raise Misconfigured(f"{self.name}.{key} is missing")

    def text(self, key: str, default: str = "") -> str:
        value = self.given.get(key, default)
        if not isinstance(value, str) or not value.isprintable():
            raise Misconfigured(f"{self.name}.{key} must be a text of one line")
        return value

    def path(self, key: str, default: str = "") -> str:
        """An absolute path, or "" where there is none."""
        value = self.text(key) or default
        if value and not os.path.isabs(value):
            why = "Sensu starts handlers in a folder of its own"
            raise Misconfigured(f"{self.name}.{key} must be an absolute path: {why}")
        return value

    def seconds(self, key: str, default: float, low: float, high: float) -> float:
        value = parse_duration(self.given.get(key, default))
        if value is None or not low <= value <= high:
            limits = f"{duration(low)} to {duration(high)}"
            raise Misconfigured(f'{self.name}.{key} must be a duration such as "90s", "10m" or "2h", from {limits}')
        return value


def jenkins_settings(settings: "Mapping[str, object]", scope: str, where: str) -> JenkinsSettings:
    """The scope of settings, which came from where (words for a message)."""
    example = '{"url": "https://jenkins.example/", "job": "lxc_provision", …}'
    known = Scope(settings, scope, where, JenkinsSettings._fields, example)
    known.require("url", "job")
    given, text, seconds = known.given, known.text, known.seconds

    def number(key: str, default: int, low: int, high: int) -> int:
        value = _whole(given.get(key, default))
        if value is None or not low <= value <= high:
            raise Misconfigured(f"{scope}.{key} must be a whole number from {low} to {high}")
        return value

    def job(key: str) -> str:
        name = text(key).strip("/")
        if name and any(part in ("", ".", "..") for part in name.split("/")) or (not name and key == "job"):
            raise Misconfigured(f'{scope}.{key} must be the name of a job, or "folder/name"')
        return name

    breaches = _share(given.get("breaches", 1), _whole)
    if breaches is None or not 1 <= breaches[0] <= (breaches[1] or breaches[0]) <= 21:  # Sensu tells of 21 runs
        raise Misconfigured(f'{scope}.breaches must be "3/5" (3 of the last 5 runs, of at most 21) or a number of runs')
    budget = _share(given.get("budget", "6/1h"), parse_duration)
    if budget is None or not (0 <= budget[0] <= 1000 and 60 <= (budget[1] or 3600) <= 30 * 86400):
        raise Misconfigured(f'{scope}.budget must be builds per time, such as "6/1h"; 0 sets none')
    word = given.get("enabled", True)
    enabled = {"true": True, "false": False}.get(str(word).lower()) if isinstance(word, (bool, str)) else None
    if enabled is None:
        raise Misconfigured(f"{scope}.enabled must be true or false")
    group = text("group", scope) or scope
    check_placeholders(f"{scope}.group", group, _GROUP_PLACEHOLDERS)
    parsed = JenkinsSettings(
        url=text("url"), job=job("job"), user=text("user"), token=text("token"), token_file=known.path("token_file"),
        api_token_file=known.path("api_token_file"), password_file=known.path("password_file"),
        parameters=_parameters(f"{scope}.parameters", given.get("parameters", {})), group=group,
        cooldown=seconds("cooldown", 600, 0, 30 * 86400), max_age=seconds("max_age", 7200, 60, 30 * 86400),
        timeout=seconds("timeout", 10, 2, 600), ledger=_ledger(known),
        ca_file=known.path("ca_file"), breaches=(breaches[0], int(breaches[1] or breaches[0])),
        min=number("min", 0, 0, 1000), max=number("max", 10, 0, 1000), step=number("step", 1, 1, 20),
        budget=(budget[0], budget[1] or 3600.0),
        breaker=number("breaker", 3, 0, 100), warm_up=seconds("warm_up", 300, 0, 86400),
        quiet=seconds("quiet", 1800, 60, 30 * 86400), cooldown_in=seconds("cooldown_in", 600, 0, 30 * 86400),
        enabled=enabled, groups=_groups(given, scope), decommission_job=job("decommission_job"), api=given.get("api"),
        placement=_placement(given, scope, where), verify_command=_command(text("verify_command"), scope),
        ledger_password_file=known.path("ledger_password_file"),
    )  # fmt: skip
    if parsed.placement and parsed.api is None:
        raise Misconfigured(f"{scope}.placement needs {scope}.api, where the hosts' latest results are")
    if parsed.placement and parsed.placement.parameter in parsed.parameters:
        raise Misconfigured(f"{scope}.parameters may not hold {parsed.placement.parameter}: placement chooses it")
    if parsed.max and parsed.min > parsed.max:
        both = f"{scope}.min is {parsed.min} and {scope}.max {parsed.max}"
        raise Misconfigured(f"{both} in {where}: min must not be above max")
    for name in parsed.groups:
        jenkins_settings({scope: _as_group(given, name)}, scope, f"{where} for the group {name}")
    return parsed


def _ledger(known: Scope) -> str:
    """The path of the ledger, or the URL of a Redis."""
    given = known.text("ledger")
    if not given.startswith(REDIS):
        if "://" in given:
            raise Misconfigured(f'{known.name}.ledger must be an absolute path, or "redis://HOST:6379/0"')
        return known.path("ledger", DEFAULT_LEDGER)
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError:
        raise Misconfigured(f"{known.name}.ledger is no URL: write redis://HOST:6379/0") from None
    if parts.password is not None or "password" in parts.query:
        why = "it would end up in logs: use ledger_password_file"
        raise Misconfigured(f"{known.name}.ledger must not hold the password, {why}")
    if not (parts.hostname or (parts.scheme == "unix" and parts.path and port is None)) or parts.fragment:
        raise Misconfigured(f"{known.name}.ledger must name a Redis: redis://HOST:6379/0")
    return given


def _command(text: str, scope: str) -> "tuple[str, ...]":
    """verify_command as its words."""
    if not text:
        return ()
    import shlex

    key = f"{scope}.verify_command"
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise Misconfigured(f"{key} can't be split into words: {error}") from None
    check_placeholders(key, " ".join(words), ("name", "host"))
    if "{name}" not in " ".join(words[1:]) or "{" in words[0]:
        raise Misconfigured(f"{key} must be a program and its arguments, with {{name}} for the container's name")
    return words


def _placement(given: "Mapping[str, object]", name: str, where: str) -> "Placement | None":
    if given.get("placement") is None:
        return None
    key = f"{name}.placement"
    known = Scope({key: given["placement"]}, key, where, ("by", "check", "parameter", "need", "max_age"),
                  '{"by": "free_memory", "need": "256M"}')  # fmt: skip
    by = known.text("by", FREE_MEMORY)
    if by not in (FREE_MEMORY, CONTAINERS, SPREAD):
        raise Misconfigured(f"{key}.by must be {FREE_MEMORY}, {CONTAINERS} or {SPREAD}")
    need = parse_size(known.given.get("need", 0))
    if need is None:
        raise Misconfigured(f'{key}.need must be a size such as "256M" or "1.5G"')
    parameter = known.text("parameter", "LXC_HOST")
    if parameter in _RESERVED_PARAMETERS or not re.fullmatch(r"\w{1,100}", parameter, re.ASCII):
        raise Misconfigured(f"{key}.parameter must be the name of a parameter of the job, such as LXC_HOST")
    check = known.text("check", "check_host_capacity")
    return Placement(by, check, parameter, need, known.seconds("max_age", 600, 10, 86400))


def for_event(
    settings: "Mapping[str, object]", scope: str, where: str, event: "Event", handler: str
) -> "tuple[JenkinsSettings, list[str]]":
    """(the scope as it holds for an event, sentences on wishes that were cut).

    What its check wishes wins over its entity's wishes, those over its group, that over the rest. The first group whose
    patterns fit is the event's. Raises Misconfigured for a wish that is none, with who wished it.
    """
    from fnmatch import fnmatchcase

    known, given = jenkins_settings(settings, scope, where), _scope(settings, scope)
    fitting = (
        name
        for name, (patterns, _) in known.groups.items()
        if all(fnmatchcase(getattr(event, key), pattern) for key, pattern in patterns.items())
    )
    group, wishes = next(fitting, None), {}
    for who, wanted in reversed(event.wishes(scope, handler)):
        for key, value in wanted.items():
            if key not in _BY_EVENTS:
                raise Misconfigured(
                    f"the {who} wishes {clean(key, 60)}, and may only wish {', '.join(_BY_EVENTS)}; the rest belongs "
                    f"into {where}"
                )
            if key == "group" and not (isinstance(value, str) and value in known.groups):
                raise Misconfigured(f"the {who} wishes a group that {scope}.groups in {where} does not name")
            try:
                # Alone, as other groups have nothing to do with it.
                jenkins_settings({scope: {**given, "groups": {}, "min": 0, key: value}}, scope, where)
            except Misconfigured as error:
                raise Misconfigured(f"the {who} wishes {key}, but {error}") from None
        wishes.update(wanted)
    group = wishes.pop("group", group)
    base = given if group is None else _as_group(given, str(group))
    merged = {key: value for key, value in {**base, **wishes}.items() if key != "groups"}
    whose = where if group is None else f"{where} for the group {clean(str(group), 60)}"
    wished = f"{whose} with what the event wishes ({', '.join(wishes)})" if wishes else whose
    wanted_now, bounds = jenkins_settings({scope: merged}, scope, wished), jenkins_settings({scope: base}, scope, whose)
    if wanted_now.job not in {known.job, *(one.job for one in of_groups(settings, scope, where).values())}:
        raise Misconfigured(
            f"the event wishes the job {clean(wanted_now.job, 80)}, which {scope} in {where} nowhere names"
        )
    granted = _within(wanted_now, bounds)
    # Not by what is wished: one that is no more than the settings have already was not cut.
    cut = [key for key in wishes if getattr(granted, key) != getattr(wanted_now, key)]
    notes = [f"cut to what {scope} in {where} allows: {', '.join(cut)}"] if cut else []
    return granted, notes


def _within(wanted: JenkinsSettings, bounds: JenkinsSettings) -> JenkinsSettings:
    """wanted, with each guard at least as careful as in bounds: whoever can write an event must not undo a stop."""

    def at_most(value: int, most: int) -> int:
        """Of two numbers of which 0 means that there is no bound."""
        return min(value or most, most or value)

    builds, seconds = wanted.budget
    if bounds.budget[0]:
        longest = max(seconds, bounds.budget[1]) if builds else bounds.budget[1]
        builds, seconds = at_most(builds, bounds.budget[0]), longest
    return wanted._replace(
        enabled=wanted.enabled and bounds.enabled, max=at_most(wanted.max, bounds.max), budget=(builds, seconds),
        breaker=at_most(wanted.breaker, bounds.breaker), cooldown=max(wanted.cooldown, bounds.cooldown),
    )  # fmt: skip


def of_groups(settings: "Mapping[str, object]", scope: str, where: str) -> "dict[str, JenkinsSettings]":
    """{group: the scope as it holds for it} of the groups that the settings name."""
    known, given = jenkins_settings(settings, scope, where), _scope(settings, scope)
    return {name: jenkins_settings({scope: _as_group(given, name)}, scope, where) for name in known.groups}


def _scope(settings: "Mapping[str, object]", scope: str) -> "Mapping[str, object]":
    given = settings[scope]
    assert isinstance(given, dict)  # jenkins_settings() made sure
    return given


def _as_group(given: "Mapping[str, object]", name: str) -> "dict[str, object]":
    """The scope as it holds for one of its groups."""
    groups = given["groups"]
    assert isinstance(groups, dict)
    merged = {key: value for key, value in given.items() if key != "groups"}
    own = {key: value for key, value in groups[name].items() if key != "match"}
    if isinstance(own.get("parameters"), dict) and isinstance(merged.get("parameters"), dict):
        own["parameters"] = {**merged["parameters"], **own["parameters"]}  # type: ignore[dict-item]
    return {**merged, **own, "group": name}


def _groups(given: "Mapping[str, object]", scope: str) -> "dict[str, tuple[dict[str, str], dict[str, object]]]":
    groups = given.get("groups", {})
    example = f'"{scope}": {{"groups": {{"web": {{"match": {{"entity": "web*"}}, "max": 5}}}}}}'
    if not isinstance(groups, dict):
        raise Misconfigured(f"{scope}.groups must be an object: {example}")
    found = {}
    for name, own in groups.items():
        key = f"{scope}.groups.{clean(name, 60)}"
        if not name or not name.isprintable() or "{" in name or not isinstance(own, dict):
            raise Misconfigured(f"{key} must be a name and an object: {example}")
        patterns = own.get("match")
        if not isinstance(patterns, dict) or not patterns or not all(isinstance(p, str) for p in patterns.values()):
            raise Misconfigured(f"{key}.match must say which events are its: {example}")
        for pattern in patterns:
            if pattern not in _MATCHES:
                raise Misconfigured(f"{key}.match knows {', '.join(_MATCHES)}, not {clean(pattern, 60)}")
        for one in own:
            if one != "match" and one not in _OF_GROUPS:
                raise Misconfigured(f"{key} may hold match, {', '.join(_OF_GROUPS)}, not {clean(one, 60)}")
        found[name] = (patterns, own)
    return found


def _whole(value: object) -> "int | None":
    """A whole number, as such or as a text of digits; None where it is none."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,6}", value, re.ASCII):
        return int(value)
    return value if type(value) is int else None


def _share(value: object, parse: "Callable[[object], float | None]") -> "tuple[int, float | None] | None":
    """(N, M) of "N/M", or (N, None) of N; None where it is neither."""
    first, slash, second = str(value).partition("/") if isinstance(value, str) else (value, "", "")
    count, whole = _whole(first), parse(second) if slash else None
    return None if count is None or (slash and whole is None) else (count, whole)


def credentials(settings: JenkinsSettings, environ: "Mapping[str, str]") -> Credentials:
    """The secrets: each from its variable, else from its file, the job's token at last from the settings."""
    notes: list[str] = []

    def secret(key: str, variable: str) -> str:
        return _secret(key, getattr(settings, key), variable, environ, notes)

    job_token = secret("token_file", TOKEN_VARIABLE) or printable(settings.token, "token")
    api_token = secret("api_token_file", API_TOKEN_VARIABLE)
    password = "" if api_token else read_secret("password_file", settings.password_file, notes)
    if settings.user and not (api_token or password):
        raise Misconfigured(f"user is set, so api_token_file (or {API_TOKEN_VARIABLE}, or password_file) must be, too")
    if (api_token or password) and not settings.user:
        raise Misconfigured("an API token or password is set, so user must be, too")
    if ":" in settings.user:
        raise Misconfigured("user must not contain a colon: the token belongs into api_token_file")
    login = (settings.user, api_token or password) if settings.user else None
    return Credentials(job_token, login, not api_token, notes)


def ledger_password(settings: JenkinsSettings, environ: "Mapping[str, str]", notes: "list[str]") -> str:
    """The password of the Redis that holds the ledger, "" where there is none."""
    return _secret(
        "ledger_password_file", settings.ledger_password_file, LEDGER_PASSWORD_VARIABLE, environ, notes
    )  # fmt: skip


def _secret(key: str, path: str, variable: str, environ: "Mapping[str, str]", notes: "list[str]") -> str:
    """A secret from its variable, else from its file."""
    given = environ.get(variable)
    return printable(given, variable) if given else read_secret(key, path, notes)


def parse_duration(value: object) -> "float | None":
    """Seconds of 90, "90", "90s", "10m", "2h" or "1d"; None where it is nothing of that."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if abs(value) < 1e12 else None
    if not isinstance(value, str):
        return None
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,3})?)\s*([smhd]?)\s*", value, re.ASCII)
    return float(match[1]) * _UNITS[match[2]] if match else None


def parse_size(value: object) -> "int | None":
    """Bytes of 268435456, "256M", "256MiB" (powers of 1024) or "256MB" (of 1000); None where it is no size."""
    if type(value) is int and value >= 0:
        return value
    match = (
        re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)([kKMGTP]?)(i?B)?", value, re.ASCII) if isinstance(value, str) else None
    )
    if not match or (match[3] == "iB" and not match[2]):
        return None
    base = 1000 if match[2] and match[3] == "B" else 1024
    return int(float(match[1]) * base ** " KMGTP".index(match[2].upper() or " "))


def fill(template: str, values: "Mapping[str, str]") -> str:
    """template with its {names} replaced by values; what was checked when it was read can't be missing."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def _parameters(key: str, given: object) -> "dict[str, str]":
    if not isinstance(given, dict):
        raise Misconfigured(f"{key} must be an object of names and values")
    parameters = {}
    for name, value in given.items():
        if name in _RESERVED_PARAMETERS or not name:
            raise Misconfigured(f"{key} may not hold '{clean(name, 60)}', which the handler or Jenkins itself uses")
        if isinstance(value, bool):
            value = str(value).lower()
        value = str(value) if isinstance(value, (int, float)) else value
        # Lone surrogates are the one thing that JSON can hold and a form can't.
        if not isinstance(value, str) or any("\ud800" <= c <= "\udfff" for c in name + value):
            raise Misconfigured(f"{key}.{clean(name, 60)} must be a text, a number, true or false")
        parameters[name] = value
        check_placeholders(f"{key}.{clean(name, 60)}", parameters[name], _PARAMETER_PLACEHOLDERS)
    return parameters


def check_placeholders(key: str, template: str, known: "tuple[str, ...]") -> None:
    """Raise Misconfigured where template has a {name} that is not known."""
    for name in _PLACEHOLDER.findall(template):
        if name not in known:
            raise Misconfigured(f"{key} has {{{clean(name, 40)}}}, known are " + " ".join(f"{{{k}}}" for k in known))


def _read_object(path: str) -> "dict[str, object]":
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read().decode().lstrip("\ufeff"))
    except OSError as error:
        raise Misconfigured(f"{clean(path)}: {error.strerror}") from None
    except ValueError as error:
        # A decoding error quotes the content, which may be a secret; a JSON error only says where and what.
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "a number of thousands of digits"
        what = str(error) if isinstance(error, json.JSONDecodeError) else what
        raise Misconfigured(f"{clean(path)}: not JSON, {what}") from None
    except RecursionError:
        raise Misconfigured(f"{clean(path)}: nested too deep") from None
    if not isinstance(value, dict):
        raise Misconfigured(f"{clean(path)}: must hold a JSON object, {{…}}")
    return value


def _merge(one: "dict[str, object]", two: "dict[str, object]") -> "dict[str, object]":
    merged = dict(one)
    for key, value in two.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            merged[key] = old + [item for item in value if item not in old]
        else:
            merged[key] = value
    return merged


def read_secret(key: str, path: str, notes: "list[str]") -> str:
    """The secret in the file that the setting key names, "" where it names none; adds to notes what is odd about it."""
    if not path:
        return ""
    where = f"{key} {clean(path)}"
    try:
        with open(path, "rb") as file:
            others = os.fstat(file.fileno()).st_mode & 0o007
            content = file.read(65536)
    except OSError as error:
        user = os.geteuid()
        raise Misconfigured(f"{where}: {error.strerror}: user {user} must be able to read a secret there") from None
    try:
        secret = content.decode().strip()
    except UnicodeDecodeError:
        raise Misconfigured(f"{where} must hold the secret as one line of text") from None
    if not secret:
        raise Misconfigured(f"{where} is empty: write the secret into it")
    if others:
        notes.append(f"everybody on this host can read the secret in {clean(path)}: chmod o= it")
    return printable(secret, where)


def printable(secret: str, where: str) -> str:
    """secret, or Misconfigured where a header or a form can't hold it."""
    if not secret.isprintable():
        raise Misconfigured(f"{where} must hold the secret as one line of text, without control characters")
    return secret


def nearest(word: str, known: "tuple[str, ...]") -> str:
    """What was meant by a misspelt word, for a message."""
    import difflib  # 10 ms that only a mistake costs

    near = difflib.get_close_matches(word, known, 1, 0.6)
    return near[0] if near else "one of " + ", ".join(known)
