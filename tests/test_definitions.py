"""The definitions under checks/: what Sensu Core and Sensu Go require of them, and what both take in silence.

Core keeps a misspelt key as a custom attribute, and Go drops it; both take a handler that doesn't exist, and Go a check
without `publish`. Each of these is an alert that never comes, so the tests here are stricter than the servers.
tests/live/ runs the commands, and gives the resources to a real Sensu Go.
"""

import argparse
import glob
import importlib
import json
import os
import re
import shlex
from collections import namedtuple
from typing import Any

import pytest
import yaml

from tests.standin import config

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CHECKS = os.path.join(REPOSITORY, "checks")
CORE, GO = "Sensu Core", "Sensu Go"

# What sensu 1.9 reads of a check and of a pipe handler, as far as the definitions here use it.
CORE_CHECK_KEYS = {
    "command", "handlers", "high_flap_threshold", "interval", "low_flap_threshold", "occurrences", "publish", "refresh",
    "source", "standalone", "subdue", "subscribers", "timeout", "ttl", "type",
}  # fmt: skip
CORE_HANDLER_KEYS = {"command", "filters", "handle_flapping", "handle_silenced", "severities", "timeout", "type"}
# core/v2's CheckConfig and Handler, likewise.
GO_CHECK_KEYS = {
    "check_hooks", "command", "env_vars", "handlers", "high_flap_threshold", "interval", "low_flap_threshold",
    "output_metric_format", "output_metric_handlers", "pipelines", "proxy_entity_name", "publish", "round_robin",
    "runtime_assets", "secrets", "subdues", "subscriptions", "timeout", "ttl",
}  # fmt: skip
GO_HANDLER_KEYS = {"command", "env_vars", "filters", "mutator", "runtime_assets", "secrets", "timeout", "type"}
GO_BUILT_IN_FILTERS = {"has_metrics", "is_incident", "not_silenced"}
# Sensu Core's own name for the handler of checks that name none; every site defines it for itself.
SITES_OWN_HANDLERS = {"default"}
# Handlers end by themselves within this; when Sensu ends one first, nobody learns why.
OWN_BOUND_SECONDS = 10
# What changes something runs when it is asked for, and never by itself.
ACTIONS = {"grow_container_memory.py", "operate_container.py"}
# The scope of settings beside a handler, and what reads it: (module, function).
SETTINGS = {
    "lxc_autoscale": ("sensu_lxc_handlers.settings", "jenkins_settings"),
    "lxc_mail": ("sensu_lxc_handlers.mail_settings", "mail_settings"),
    "lxc_remediate": ("sensu_lxc_handlers.remedy", "remediation_settings"),
}
TOKEN = re.compile(r":::(?P<attribute>[^:|]+)\|(?P<default>[^:|]*):::")


class Definition(namedtuple("Definition", "sensu kind name spec path")):
    """One check, handler or pipeline. kind: as Sensu Go names it; spec: its attributes, of either Sensu."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self.sensu.split()[1].lower()}-{self.kind}-{self.name}"

    @property
    def command(self) -> str:
        """What the shell gets, with Core's :::attribute|default::: of a client that has no such attribute."""
        return TOKEN.sub(r"\g<default>", self.spec["command"]) if self.sensu == CORE else self.spec["command"]

    @property
    def argv(self) -> "list[str]":
        return shlex.split(self.command)

    @property
    def script(self) -> str:
        """The file name of what it runs."""
        return os.path.basename(self.argv[0])

    @property
    def room(self) -> str:
        """The folder of this repository, and below /etc/sensu, that has its script."""
        return "handlers" if self.kind == "Handler" or self.script.startswith("reconcile_") else "plugins"


def core_files() -> "list[str]":
    found = []
    for folder in ("standalone", "subscription", "handlers"):
        found += glob.glob(os.path.join(CHECKS, folder, "*.json"))
    return sorted(found)


def go_files() -> "list[str]":
    return sorted(glob.glob(os.path.join(CHECKS, "sensu-go", "*.y*ml")))


def resources(path: str) -> "list[dict[str, Any]]":
    """The resources of a Sensu Go file, split where sensuctl splits it: at each line of three dashes."""
    with open(path, encoding="utf-8") as file:
        return [yaml.safe_load(part) for part in re.split(r"^---\s*$", file.read(), flags=re.MULTILINE)]


def definitions() -> "list[Definition]":
    """Everything that is defined for either Sensu."""
    found = []
    for path in core_files():
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        for section, kind in (("checks", "CheckConfig"), ("handlers", "Handler")):
            for name, spec in content.get(section, {}).items():
                found.append(Definition(CORE, kind, name, spec, path))
    for path in go_files():
        for resource in resources(path):
            found.append(Definition(GO, resource["type"], resource["metadata"]["name"], resource["spec"], path))
    return found


def having(**wanted: str) -> "list[Definition]":
    return [one for one in definitions() if all(getattr(one, key) == value for key, value in wanted.items())]


def with_command() -> "list[Definition]":
    return [one for one in definitions() if "command" in one.spec]


each = pytest.mark.parametrize


def test_both_sensus_have_the_same_checks_and_handlers() -> None:
    wanted = {"check_container_state", "check_memory", "check_memory_no_agent", "jenkins"}
    assert wanted <= {one.name for one in having(sensu=CORE)}
    core, go = (
        {one.name: (one.script, one.argv[1:], one.spec.get("interval")) for one in with_command() if one.sensu == sensu}
        for sensu in (CORE, GO)
    )
    assert core == go


def test_no_name_is_defined_twice() -> None:
    named = [(one.sensu, one.kind, one.name) for one in definitions()]
    assert len(named) == len(set(named))


@each("path", core_files(), ids=os.path.basename)
def test_a_core_file_is_one_object_of_sections_and_settings(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        content = json.load(file, object_pairs_hook=_without_duplicates)
    in_handlers = os.path.basename(os.path.dirname(path)) == "handlers"
    assert content
    assert set(content) <= ({"handlers", *SETTINGS} if in_handlers else {"checks"})


@each("path", go_files(), ids=os.path.basename)
def test_a_go_file_has_whole_resources_only(path: str) -> None:
    for resource in resources(path):
        # None: a comment before the first dashes, which sensuctl takes for a resource and refuses.
        assert isinstance(resource, dict)
        assert set(resource) == {"type", "api_version", "metadata", "spec"}
        assert resource["api_version"] == "core/v2"
        assert set(resource["metadata"]) <= {"name", "namespace", "labels", "annotations"}
        assert re.fullmatch(r"[\w.:-]+", resource["metadata"]["name"], re.ASCII)
        assert resource["type"] in ("CheckConfig", "EventFilter", "Handler", "Pipeline", "Role", "RoleBinding")


@each("check", having(sensu=CORE, kind="CheckConfig"), ids=str)
def test_core_takes_and_runs_the_check(check: Definition) -> None:
    spec = check.spec
    assert re.fullmatch(r"[\w.-]+", check.name, re.ASCII)
    assert set(spec) <= CORE_CHECK_KEYS
    assert isinstance(spec["command"], str)
    assert type(spec["interval"]) is int
    assert spec["interval"] > 0
    # A token without a default keeps the check from running on a client that lacks the attribute.
    assert ":::" not in check.command
    assert spec.get("publish", True) is (check.script not in ACTIONS)
    # Either the client schedules it, or the server publishes it to somebody.
    assert (spec.get("standalone") is True) != _is_list_of_names(spec.get("subscribers"))
    assert _is_list_of_names(spec["handlers"])
    known = {handler.name for handler in having(sensu=CORE, kind="Handler")}
    assert set(spec["handlers"]) <= known | SITES_OWN_HANDLERS


@each("handler", having(sensu=CORE, kind="Handler"), ids=str)
def test_core_takes_and_runs_the_handler(handler: Definition) -> None:
    assert re.fullmatch(r"[\w.-]+", handler.name, re.ASCII)
    assert set(handler.spec) <= CORE_HANDLER_KEYS
    assert handler.spec["type"] == "pipe"
    assert isinstance(handler.spec["command"], str)


@each("check", having(sensu=GO, kind="CheckConfig"), ids=str)
def test_go_takes_and_runs_the_check(check: Definition) -> None:
    spec = check.spec
    assert set(spec) <= GO_CHECK_KEYS
    assert isinstance(spec["command"], str)
    assert type(spec["interval"]) is int
    assert spec["interval"] > 0
    assert spec["publish"] is (check.script not in ACTIONS)  # without it it is accepted and never runs
    assert _is_list_of_names(spec["subscriptions"])
    handlers, pipelines = ({one.name for one in having(sensu=GO, kind=kind)} for kind in ("Handler", "Pipeline"))
    assert set(spec.get("handlers") or ()) <= handlers
    assert not (spec.get("handlers") and spec.get("pipelines"))  # both would handle each event
    for reference in spec.get("pipelines") or ():
        assert reference == {"name": reference["name"], "type": "Pipeline", "api_version": "core/v2"}
        assert reference["name"] in pipelines


@each("handler", having(sensu=GO, kind="Handler"), ids=str)
def test_go_takes_and_runs_the_handler(handler: Definition) -> None:
    spec = handler.spec
    assert set(spec) <= GO_HANDLER_KEYS
    assert spec["type"] == "pipe"
    assert isinstance(spec["command"], str)
    assert filters_well(spec["filters"])


@each("definition", having(sensu=GO, kind="EventFilter"), ids=str)
def test_go_takes_the_filter(definition: Definition) -> None:
    assert set(definition.spec) == {"action", "expressions"}
    assert definition.spec["action"] == "allow"
    assert _is_list_of_names(definition.spec["expressions"])
    assert definition.name not in GO_BUILT_IN_FILTERS


@each("pipeline", having(sensu=GO, kind="Pipeline"), ids=str)
def test_go_pipelines_lead_somewhere(pipeline: Definition) -> None:
    assert set(pipeline.spec) == {"workflows"}
    assert pipeline.spec["workflows"]
    for workflow in pipeline.spec["workflows"]:
        assert set(workflow) <= {"name", "filters", "mutator", "handler"}
        handler = workflow["handler"]
        assert handler == {"name": handler["name"], "type": "Handler", "api_version": "core/v2"}
        assert handler["name"] in {one.name for one in having(sensu=GO, kind="Handler")}
        # A pipeline goes by its own filters and never looks at those of the handler.
        for reference in workflow["filters"]:
            assert reference == {"name": reference["name"], "type": "EventFilter", "api_version": "core/v2"}
        assert filters_well([one["name"] for one in workflow["filters"]])
        assert {one["name"] for one in workflow["filters"]} == set(_handler(handler["name"]).spec["filters"])


@each("definition", with_command(), ids=str)
def test_sensu_waits_longer_than_the_script_does(definition: Definition) -> None:
    own = OWN_BOUND_SECONDS
    if definition.kind == "CheckConfig":
        own = parse(definition.script, definition.argv[1:]).timeout
    assert definition.spec["timeout"] > own


@each("definition", with_command(), ids=str)
def test_the_command_names_a_script_where_the_installation_puts_it(definition: Definition) -> None:
    # Core's packages have /etc/sensu/plugins and /etc/sensu/handlers on PATH, where Go's have neither.
    folder = f"/etc/sensu/{definition.room}" if definition.sensu == GO else ""
    assert definition.argv[0] == os.path.join(folder, definition.script)
    path = os.path.join(REPOSITORY, definition.room, definition.script)
    assert os.access(path, os.X_OK)


@each("definition", with_command(), ids=str)
def test_the_script_takes_every_option_of_the_command(definition: Definition) -> None:
    assert parse(definition.script, definition.argv[1:])


@each("script", sorted({one.script for one in with_command()}))
def test_an_option_that_the_script_does_not_know_would_be_noticed(script: str) -> None:
    with pytest.raises(Exception, match="--no-such-option"):
        parse(script, ["--no-such-option"])


@each("handler", having(sensu=CORE, kind="Handler"), ids=str)
def test_the_handler_takes_the_settings_beside_it(handler: Definition) -> None:
    with open(handler.path, encoding="utf-8") as file:
        content = json.load(file)
    (scope,) = set(content) & set(SETTINGS)
    module, function = SETTINGS[scope]
    wanted = getattr(importlib.import_module(module), function)(content, scope, handler.path)
    assert content[scope].get("url", "https://").startswith("https://")
    # A secret in a definition would end up in a repository, and in the API of Sensu Core.
    assert not {key for key in content[scope] if re.search("token|password", key) and not key.endswith("_file")}
    # Sensu Core kills no handler by itself; ours must end before the bound that is set here.
    assert wanted.timeout < handler.spec["timeout"]


def test_the_role_of_remediation_allows_what_its_settings_ask_for_and_no_more() -> None:
    """Who may create a check of any name may run any command on every agent."""
    with open(os.path.join(CHECKS, "handlers", "remediate.json"), encoding="utf-8") as file:
        actions = json.load(file)["lxc_remediate"]["actions"]
    found = resources(os.path.join(CHECKS, "sensu-go", "remediate.yaml"))
    (role,) = [one["spec"] for one in found if one["type"] == "Role"]
    (creating,) = [rule for rule in role["rules"] if set(rule["verbs"]) - {"get", "list"}]
    assert creating["verbs"] == ["create"]
    assert creating["resources"] == ["checks"]
    assert sorted(creating["resource_names"]) == sorted(action["check"] for action in actions.values())


@each("name, script, parameters", [
    ("lxc_provision", "provision_container.py", {"REQUEST_ID", "NAME_PREFIX", "COUNT"}),
    ("lxc_decommission", "decommission_container.py", {"REQUEST_ID", "TARGET_ID", "NAME_PREFIX", "COUNT"}),
])  # fmt: skip
def test_the_job_is_one_that_jenkins_can_load(name: str, script: str, parameters: "set[str]") -> None:
    with open(os.path.join(CHECKS, "jenkins", f"{name}.xml"), encoding="utf-8") as file:
        job = config.parse(file.read())
    # What handler_jenkins and reconcile_autoscale send; Jenkins drops a parameter that the job does not have.
    assert parameters <= {parameter.name for parameter in job.parameters}
    assert not job.disabled
    assert job.auth_token is None  # a token that everybody can read is none
    (step,) = job.shells
    assert script in step.command


def parse(script: str, arguments: "list[str]") -> argparse.Namespace:
    """The command line as the script itself takes it; raises what it says of a wrong one."""
    module = importlib.import_module(script.removesuffix(".py"))
    if script.startswith(("handler_", "reconcile_")):
        (handler,) = [value for value in vars(module).values() if _is_defined_in(module, value, "configure")]
        options = handler()._parser().parse_args(arguments)
    else:
        (check,) = [value for value in vars(module).values() if _is_defined_in(module, value, "findings")]
        options = check(arguments).options
    assert isinstance(options, argparse.Namespace)
    return options


def filters_well(names: "list[str]") -> bool:
    """Whether neither each OK nor a silenced event comes by these filters, and each of them is there."""
    known = GO_BUILT_IN_FILTERS | {one.name for one in having(sensu=GO, kind="EventFilter")}
    return "not_silenced" in names and bool(set(names) & {"is_incident", "failed_lately"}) and set(names) <= known


def _handler(name: str) -> Definition:
    (found,) = [one for one in having(sensu=GO, kind="Handler") if one.name == name]
    return found


def _is_defined_in(module: Any, value: Any, method: str) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__ and hasattr(value, method)


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) and one for one in value)


def _without_duplicates(pairs: "list[tuple[str, Any]]") -> "dict[str, Any]":
    # JSON parsers keep the last of two equal keys and say nothing.
    content = dict(pairs)
    assert len(content) == len(pairs)
    return content


def test_the_units_memory_lies_where_systemd_keeps_it() -> None:
    """Else who goes away while the host boots is never told so, and his ttl alarms for ever."""
    with open(os.path.join(CHECKS, "systemd/sensu-lxc-watch.service"), encoding="utf-8") as file:
        lines = file.read().splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    script, *arguments = shlex.split(settings["ExecStart"].replace("%S", "/var/lib"))
    options = importlib.import_module(os.path.basename(script)[: -len(".py")]).WatchContainerState(arguments).options
    assert options.state_dir == f"/var/lib/{settings['StateDirectory']}"
    assert settings["StateDirectoryMode"] == "0700", "nobody else may write there"
