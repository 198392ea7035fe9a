"""Where Sensu's own API is and what proves who asks, in the scope of whichever handler asks it: the object `api`."""

import re
from collections import namedtuple

from .outcome import Misconfigured
from .settings import Scope, printable, read_secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_VARIABLE = "SENSU_LXC_API_KEY"
PASSWORD_VARIABLE = "SENSU_LXC_API_PASSWORD"
CORE, GO = "core", "go"


class ApiSettings(namedtuple("ApiSettings", "kind url namespace user api_key_file password_file ca_file")):
    """Where Sensu's API is, and who asks it: kind is CORE or GO, namespace Go's ("" for Core), texts else."""

    __slots__ = ()


class ApiCredentials(namedtuple("ApiCredentials", "key login notes")):
    """What proves who asks: Go's API key or "", (user, password) or None, and sentences for an operator."""

    __slots__ = ()

    @property
    def secrets(self) -> "list[str]":
        return [secret for secret in (self.key, self.login and self.login[1]) if secret]


def api_settings(given: object, name: str, where: str) -> ApiSettings:
    """The object `api` of a handler's scope. name: how it is called in messages, such as lxc_remediate.api; where: as
    for Scope. Raises Misconfigured."""
    scope = Scope({name: given}, name, where, ApiSettings._fields, '{"url": "http://localhost:4567/"}')
    scope.require("url")
    url = scope.text("url")
    port = re.match(r"https?://[^/]*:(\d+)(?:/|$)", url)
    kind = scope.text("kind") or {"4567": CORE, "8080": GO}.get(port[1] if port else "", "")
    if kind not in (CORE, GO):
        raise Misconfigured(f'{name}.kind must be "core" (Sensu Core 1.x) or "go" (Sensu Go): the url does not tell')
    for key in ("namespace", "api_key_file"):
        if kind == CORE and scope.given.get(key):
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
        return printable(given, variable) if given else read_secret(key, getattr(wanted, key), notes)

    key = secret("api_key_file", KEY_VARIABLE) if wanted.kind == GO else ""
    if key and not (key.isascii() and " " not in key):
        raise Misconfigured(f"api_key_file (or {KEY_VARIABLE}) must hold the API key, and nothing else")
    password = "" if key else secret("password_file", PASSWORD_VARIABLE)
    if not key and bool(wanted.user) != bool(password):
        missing = f"password_file (or {PASSWORD_VARIABLE})" if wanted.user else "user"
        raise Misconfigured(f"of the user and the password for Sensu's API only one is set: set api.{missing}, too")
    if wanted.kind == GO and not (key or password):
        how = "sensuctl api-key grant USER makes one"
        raise Misconfigured(f"Sensu Go's API wants api.api_key_file (or {KEY_VARIABLE}): {how}")
    return ApiCredentials(key, (wanted.user, password) if password else None, notes)
