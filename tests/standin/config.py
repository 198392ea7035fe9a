"""Reads the config.xml of a job, as far as the stand-in can honour it."""

import re
from collections import namedtuple
from xml.etree import ElementTree

FOLDER_CLASS = "com.cloudbees.hudson.plugins.folder.Folder"
FOLDER_XML = f"<?xml version='1.1' encoding='UTF-8'?>\n<{FOLDER_CLASS}/>\n"

# kind is String, Text, Boolean, Choice or Password.
Definition = namedtuple("Definition", "kind name default choices trim description")
Value = namedtuple("Value", "kind name value")
Shell = namedtuple("Shell", "command unstable_return")
JobConfig = namedtuple(
    "JobConfig", "is_folder description parameters quiet_period disabled concurrent auth_token shells"
)


class BadConfig(ValueError):
    """This config.xml is malformed, or needs something the stand-in does not have."""


def parse(text):
    """The JobConfig in a config.xml; BadConfig when Jenkins, or this stand-in, could not load it."""
    # Jenkins writes XML 1.1, which Python's parser refuses to read although nothing in it needs 1.1.
    body = re.sub(r"^\s*<\?xml[^>]*\?>", "", text)
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise BadConfig(f"not XML: {error}") from error
    if root.tag == FOLDER_CLASS:
        return JobConfig(True, root.findtext("description"), (), None, False, False, None, ())
    if root.tag != "project":
        raise BadConfig(f"no such kind of item: {root.tag}")
    quiet = root.findtext("quietPeriod")
    return JobConfig(
        is_folder=False,
        description=root.findtext("description") or None,
        parameters=tuple(_definitions(root)),
        quiet_period=int(quiet) if quiet else None,
        disabled=_flag(root.findtext("disabled")),
        concurrent=_flag(root.findtext("concurrentBuild")),
        auth_token=root.findtext("authToken") or None,
        shells=tuple(_shells(root)),
    )


def _definitions(root):
    for element in root.iterfind("properties/hudson.model.ParametersDefinitionProperty/parameterDefinitions/*"):
        kind = re.fullmatch(
            r"hudson\.model\.(String|Text|Boolean|Choice|Password)ParameterDefinition"
            r"|org\.jvnet\.jenkins\.plugins\.nodelabelparameter\.(Label)ParameterDefinition", element.tag
        )  # fmt: skip
        if not kind:
            raise BadConfig(f"no such kind of parameter: {element.tag}")
        choices = tuple(choice.text or "" for choice in element.iterfind("choices//string"))
        default = element.findtext("defaultValue") or ""
        if kind.group(1) == "Choice":
            default = choices[0] if choices else ""
        elif kind.group(1) == "Boolean":
            default = _flag(default)
        yield Definition(
            kind.group(1) or kind.group(2),
            element.findtext("name"),
            default,
            choices,
            _flag(element.findtext("trim")),
            element.findtext("description"),
        )


def _shells(root):
    for element in root.iterfind("builders/*"):
        if element.tag != "hudson.tasks.Shell":
            # A step that would silently not run makes a test lie.
            raise BadConfig(f"the stand-in runs hudson.tasks.Shell only, not {element.tag}")
        unstable = element.findtext("unstableReturn")
        yield Shell(element.findtext("command") or "", int(unstable) if unstable else None)


def _flag(text):
    return (text or "").strip().lower() == "true"


def value_of(definition, text):
    """The Value a submitted text makes of a parameter; ValueError where Jenkins answers 500."""
    if definition.kind == "Boolean":
        return Value("Boolean", definition.name, _flag(text))
    if definition.kind == "Choice" and text not in definition.choices:
        raise ValueError(f"{text!r} is no choice of {definition.name}")
    if definition.trim:
        text = text.strip()
    return Value(definition.kind, definition.name, text)


def default_of(definition):
    """The Value of a parameter nobody gave."""
    return Value(definition.kind, definition.name, definition.default)
