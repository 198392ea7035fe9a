"""What the operator wants: Sensu's JSON settings, made one, and the scope that a handler reads, checked key by key.

Nothing is guessed: a key that is not known, a value of the wrong kind or a secret that can't be read is
Misconfigured, with the key's name and what to write instead. No message ever contains a value of a secret.
"""

import json
import os
import re
from collections import namedtuple

from .outcome import Misconfigured, clean
from .policy import duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_LEDGER = "/var/lib/sensu/sensu-lxc/ledger.sqlite"
TOKEN_VARIABLE = "SENSU_LXC_JENKINS_TOKEN"
API_TOKEN_VARIABLE = "SENSU_LXC_JENKINS_API_TOKEN"
SENSU_KEY_VARIABLE = "SENSU_LXC_API_KEY"
SENSU_PASSWORD_VARIABLE = "SENSU_LXC_API_PASSWORD"
CORE, GO = "core", "go"

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_GROUP_PLACEHOLDERS = ("check", "entity", "namespace")
_PARAMETER_PLACEHOLDERS = (*_GROUP_PLACEHOLDERS, "group", "request_id")
# Names that Jenkins takes for its own when they come in the form of buildWithParameters; REQUEST_ID is the handler's.
_RESERVED_PARAMETERS = ("REQUEST_ID", "token", "cause", "delay", "json", "statusCode", "redirectTo", "Jenkins-Crumb")


class JenkinsSettings(namedtuple(
    "JenkinsSettings", "url job user token token_file api_token_file password_file parameters group cooldown max_age"
    " timeout ledger ca_file")):  # fmt: skip
    """The scope of handler_jenkins: durations in seconds, texts as they were given, "" where there was nothing."""

    __slots__ = ()


class Credentials(namedtuple("Credentials", "job_token login needs_crumb notes")):
    """What proves who asks.

    job_token    token of the job's "Trigger builds remotely", or ""
    login        (user, API token or password), or None for an anonymous one
    needs_crumb  True unless login holds an API token
    notes        what an operator should know, sentences
    """

    __slots__ = ()


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


def jenkins_settings(settings: "Mapping[str, object]", scope: str, where: str) -> JenkinsSettings:
    """The scope of settings, which came from where (words for a message)."""
    if scope not in settings:
        example = f'{{"{scope}": {{"url": "https://jenkins.example/", "job": "lxc_provision", …}}}}'
        raise Misconfigured(f'no "{scope}" in {where}: write {example}, or choose another scope with -j')
    given = settings[scope]
    if not isinstance(given, dict):
        raise Misconfigured(f'"{scope}" in {where} must be an object, {{…}}')
    for key in given:
        if key not in JenkinsSettings._fields:
            raise Misconfigured(f"{scope}.{clean(str(key), 60)} is not a setting; did you mean {_nearest(str(key))}?")
    for key in ("url", "job"):
        if not given.get(key):
            raise Misconfigured(f"{scope}.{key} is missing")

    def text(key: str, default: str = "") -> str:
        value = given.get(key, default)
        if not isinstance(value, str) or not value.isprintable():
            raise Misconfigured(f"{scope}.{key} must be a text of one line")
        return value

    def seconds(key: str, default: float, low: float, high: float) -> float:
        value = parse_duration(given.get(key, default))
        if value is None or not low <= value <= high:
            limits = f"{duration(low)} to {duration(high)}"
            raise Misconfigured(f'{scope}.{key} must be a duration such as "90s", "10m" or "2h", from {limits}')
        return value

    job = text("job").strip("/")
    if any(name in ("", ".", "..") for name in job.split("/")):
        raise Misconfigured(f'{scope}.job must be the name of a job, or "folder/name"')
    group = text("group", scope) or scope
    _check_placeholders(f"{scope}.group", group, _GROUP_PLACEHOLDERS)
    parsed = JenkinsSettings(
        url=text("url"), job=job, user=text("user"), token=text("token"), token_file=text("token_file"),
        api_token_file=text("api_token_file"), password_file=text("password_file"),
        parameters=_parameters(f"{scope}.parameters", given.get("parameters", {})), group=group,
        cooldown=seconds("cooldown", 600, 0, 30 * 86400), max_age=seconds("max_age", 7200, 60, 30 * 86400),
        timeout=seconds("timeout", 10, 2, 600), ledger=text("ledger", DEFAULT_LEDGER) or DEFAULT_LEDGER,
        ca_file=text("ca_file"),
    )  # fmt: skip
    for key in ("token_file", "api_token_file", "password_file", "ledger", "ca_file"):
        path = getattr(parsed, key)
        if path and not os.path.isabs(path):
            raise Misconfigured(f"{scope}.{key} must be an absolute path: Sensu starts handlers in a folder of its own")
    return parsed


def credentials(settings: JenkinsSettings, environ: "Mapping[str, str]") -> Credentials:
    """The secrets: each from its variable, else from its file, the job's token at last from the settings."""
    notes: list[str] = []

    def secret(key: str, variable: str) -> str:
        given = environ.get(variable)
        return _printable(given, variable) if given else _read_secret(key, getattr(settings, key), notes)

    job_token = secret("token_file", TOKEN_VARIABLE) or _printable(settings.token, "token")
    api_token = secret("api_token_file", API_TOKEN_VARIABLE)
    password = "" if api_token else _read_secret("password_file", settings.password_file, notes)
    if settings.user and not (api_token or password):
        raise Misconfigured(f"user is set, so api_token_file (or {API_TOKEN_VARIABLE}, or password_file) must be, too")
    if (api_token or password) and not settings.user:
        raise Misconfigured("an API token or password is set, so user must be, too")
    if ":" in settings.user:
        raise Misconfigured("user must not contain a colon: the token belongs into api_token_file")
    login = (settings.user, api_token or password) if settings.user else None
    return Credentials(job_token, login, not api_token, notes)


def parse_duration(value: object) -> "float | None":
    """Seconds of 90, "90", "90s", "10m", "2h" or "1d"; None where it is nothing of that."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, str):
        return None
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,3})?)\s*([smhd]?)\s*", value, re.ASCII)
    return float(match[1]) * _UNITS[match[2]] if match else None


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
        _check_placeholders(f"{key}.{clean(name, 60)}", parameters[name], _PARAMETER_PLACEHOLDERS)
    return parameters


def _check_placeholders(key: str, template: str, known: "tuple[str, ...]") -> None:
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
        what = str(error) if isinstance(error, json.JSONDecodeError) else "not UTF-8"
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


def _read_secret(key: str, path: str, notes: "list[str]") -> str:
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
    return _printable(secret, where)


def _printable(secret: str, where: str) -> str:
    if not secret.isprintable():
        raise Misconfigured(f"{where} must hold the secret as one line of text, without control characters")
    return secret


def _nearest(word: str) -> str:
    import difflib  # 10 ms that only a mistake costs

    near = difflib.get_close_matches(word, JenkinsSettings._fields, 1, 0.6)
    return near[0] if near else "one of " + ", ".join(JenkinsSettings._fields)


# Sensu's own API, for whichever handler asks it


class Scope:
    """One object of the settings, read key by key; name stands before a key in what is said of it.

    Raises Misconfigured for what is no object, for a key that is not among known, and for values of a wrong kind.
    """

    def __init__(self, name: str, given: object, known: "Iterable[str]") -> None:
        self.name = name
        known = tuple(known)
        if not isinstance(given, dict):
            raise Misconfigured(f"{name} must be an object, {{…}}")
        for key in given:
            if key not in known:
                raise Misconfigured(f"{name}.{clean(str(key), 60)} is not a setting; {_meant(str(key), known)}")
        self.values: dict[str, object] = given

    def required(self, *keys: str) -> None:
        for key in keys:
            if not self.values.get(key):
                raise Misconfigured(f"{self.name}.{key} is missing")

    def text(self, key: str, default: str = "") -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value.isprintable():
            raise Misconfigured(f"{self.name}.{key} must be a text of one line")
        return value

    def path(self, key: str, default: str = "") -> str:
        value = self.text(key, default) or default
        if value and not os.path.isabs(value):
            raise Misconfigured(
                f"{self.name}.{key} must be an absolute path: Sensu starts handlers in a folder of its own"
            )
        return value

    def seconds(self, key: str, default: float, low: float, high: float) -> float:
        value = parse_duration(self.values.get(key, default))
        if value is None or not low <= value <= high:
            limits = f"{duration(low)} to {duration(high)}"
            raise Misconfigured(f'{self.name}.{key} must be a duration such as "90s", "10m" or "2h", from {limits}')
        return value

    def scope(self, key: str, known: "Iterable[str]") -> "Scope":
        """The object under key, an empty one where there is none."""
        return Scope(f"{self.name}.{key}", self.values.get(key, {}), known)


class ApiSettings(namedtuple("ApiSettings", "kind url namespace user api_key_file password_file ca_file")):
    """Where Sensu's API is, and who asks it: kind is CORE or GO, namespace Go's ("" for Core), texts else."""

    __slots__ = ()


class ApiCredentials(namedtuple("ApiCredentials", "key login notes")):
    """What proves who asks: Go's API key or "", (user, password) or None, and sentences for an operator."""

    __slots__ = ()

    @property
    def secrets(self) -> "list[str]":
        return [secret for secret in (self.key, self.login and self.login[1]) if secret]


def api_settings(given: object, name: str) -> ApiSettings:
    """The object `api` of a handler's scope; name is how it is called in messages, such as lxc_remediate.api."""
    scope = Scope(name, given, ApiSettings._fields)
    scope.required("url")
    url = scope.text("url")
    port = re.match(r"https?://[^/]*:(\d+)(?:/|$)", url)
    kind = scope.text("kind") or {"4567": CORE, "8080": GO}.get(port[1] if port else "", "")
    if kind not in (CORE, GO):
        raise Misconfigured(f'{name}.kind must be "core" (Sensu Core 1.x) or "go" (Sensu Go): the url does not tell')
    for key in ("namespace", "api_key_file"):
        if kind == CORE and scope.values.get(key):
            raise Misconfigured(
                f"{name}.{key} is Sensu Go's, and the API is Sensu Core's: remove it, or set kind \"go\""
            )
    user = scope.text("user")
    if ":" in user:
        raise Misconfigured(f"{name}.user must not contain a colon: the password belongs into password_file")
    return ApiSettings(
        kind=kind, url=url, namespace=(scope.text("namespace") or "default") if kind == GO else "", user=user,
        api_key_file=scope.path("api_key_file"), password_file=scope.path("password_file"),
        ca_file=scope.path("ca_file"),
    )  # fmt: skip


def api_credentials(wanted: ApiSettings, environ: "Mapping[str, str]") -> ApiCredentials:
    """The secrets: each from its variable, else from its file. The key wins over the password."""
    notes: list[str] = []

    def secret(key: str, variable: str) -> str:
        given = environ.get(variable)
        return _printable(given, variable) if given else _read_secret(key, getattr(wanted, key), notes)

    key = secret("api_key_file", SENSU_KEY_VARIABLE) if wanted.kind == GO else ""
    if key and not (key.isascii() and " " not in key):
        raise Misconfigured(f"api_key_file (or {SENSU_KEY_VARIABLE}) must hold the API key, and nothing else")
    password = "" if key else secret("password_file", SENSU_PASSWORD_VARIABLE)
    if not key and bool(wanted.user) != bool(password):
        missing = f"password_file (or {SENSU_PASSWORD_VARIABLE})" if wanted.user else "user"
        raise Misconfigured(f"of the user and the password for Sensu's API only one is set: set api.{missing}, too")
    if wanted.kind == GO and not (key or password):
        how = "sensuctl api-key grant USER makes one"
        raise Misconfigured(f"Sensu Go's API wants api.api_key_file (or {SENSU_KEY_VARIABLE}): {how}")
    return ApiCredentials(key, (wanted.user, password) if password else None, notes)


def harmless(name: str) -> str:
    """A name out of an event, as it may go into a command: no more than a word. What Sensu allows stays as it is."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.:-") else "_" for c in name[:128])


def _meant(word: str, known: "tuple[str, ...]") -> str:
    import difflib  # 10 ms that only a mistake costs

    near = difflib.get_close_matches(word, known, 1, 0.6)
    return f"did you mean {near[0]}?" if near else "known are " + ", ".join(known)
