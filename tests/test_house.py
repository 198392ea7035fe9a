"""The house's rules (CONTRIBUTING.md), so that they stay true without anyone's watching."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.trees import Tree

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"plugins": "sensu_lxc", "handlers": "sensu_lxc_handlers"}
SCRIPTS = sorted(path for room in ROOMS for path in (ROOT / room).glob("*.py"))
SOURCES = sorted((ROOT / "plugins/sensu_lxc/sources").glob("*.py"))
CODE = sorted(path for room in ROOMS for path in (ROOT / room).glob("**/*.py"))
CHECKS = [path for path in SCRIPTS if path.name.startswith("check_")]

each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
each_file = pytest.mark.parametrize("file", CODE, ids=lambda path: str(path.relative_to(ROOT)))

# What a check loads besides what the interpreter loads anyway and our own. Each module costs every check, every few
# seconds, on every host; before adding one: python -X importtime plugins/check_…
MAY_LOAD = {
    "argparse", "collections", "keyword", "reprlib", "operator",  # options, named tuples
    "re", "copyreg", "functools", "types", "enum",  # what argparse and our patterns need
    "importlib.machinery", "errno", "itertools", "warnings",
    "gc",  # to turn it off
    "select", "struct",  # asking monitors
    "atexit",  # sensu_plugin
}  # fmt: skip
NEVER = {
    "requests", "urllib3", "subprocess", "typing", "dataclasses", "pathlib", "socket", "json", "logging", "traceback",
    "shutil", "locale", "inspect", "sqlite3", "ssl", "http", "email", "datetime", "random", "tempfile", "threading",
    "gettext",
}  # fmt: skip


def test_the_version_is_the_newest_of_the_changelog() -> None:
    package = configparser.ConfigParser()
    package.read(ROOT / "setup.cfg", encoding="utf-8")
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest and package["metadata"]["version"] == newest[1]


def test_the_table_of_contents_leads_to_each_section() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    sections = re.findall(r"^##+ (.+)$", text, re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", section.lower()).replace(" ", "-") for section in sections]
    assert re.findall(r"\]\(#([^)]*)\)", text.partition("\n## ")[0]) == anchors


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in it, for the type checker as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:  # of the own package
                continue
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@each_source
def test_a_parser_knows_no_operating_system(source: Path) -> None:
    for module in imports(parsed(source)):
        top = module.partition(".")[0]
        assert top in getattr(sys, "stdlib_module_names", {top}) or module.startswith("sensu_lxc.errors"), module
        assert top not in {"os", "io", "subprocess", "argparse", "pathlib", "shutil", "socket", "time", "sys"}, module
    for node in ast.walk(parsed(source)):
        assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"open", "print", "input"})


@each_file
def test_only_the_fence_knows_sensu_plugin(file: Path) -> None:
    users = {"plugin.py", "handler.py"}
    if any(module.partition(".")[0] == "sensu_plugin" for module in imports(parsed(file))):
        assert file.name in users and file.parent.name in ROOMS.values()


@each_file
def test_rooms_and_scripts_do_not_know_each_other(file: Path) -> None:
    room = file.relative_to(ROOT).parts[0]
    foreign = {package for other, package in ROOMS.items() if other != room}
    scripts = {script.stem for script in SCRIPTS} | {"sensu_lxc_plugins", "sensu_lxc_handler_scripts"}
    for module in imports(parsed(file)):
        assert module.partition(".")[0] not in foreign | scripts, module


IMPURE = re.compile(
    r"(time\.|monotonic\(|datetime\.|subprocess\.|socket\.|requests\.|random\.|open\(|getenv\("
    r"|os\.(environ|getenv|open|listdir|stat|getpid|getcwd|popen|system|path\.(exists|isfile|isdir))\b)"
)


@each_file
def test_an_import_reads_nothing(file: Path) -> None:
    """Neither the clock, nor argv, the environment or a file: functions do."""
    for node in _at_import_time(parsed(file)):
        said = ast.unparse(node) if isinstance(node, (ast.Call, ast.Attribute)) else ""
        impure = IMPURE.match(said) if isinstance(node, ast.Call) else said in ("os.environ", "sys.argv")
        assert not impure, f"{file.name}: {said[:80]}"


def _at_import_time(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: all but functions' bodies, main guards and type annotations."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            todo += [*node.decorator_list, *node.args.defaults, *(one for one in node.args.kw_defaults if one)]
        elif isinstance(node, ast.Lambda) or (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
            continue
        else:
            yield node
            todo += [child for field, child in _children(node) if field != "annotation"]


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield field, child


@each_file
def test_no_shell(file: Path) -> None:
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {"os.system", "os.popen", "subprocess.getoutput"}
            for keyword in node.keywords:
                assert keyword.arg != "shell" or ast.unparse(keyword.value) == "False"


@each_file
def test_no_python_newer_than_promised(file: Path) -> None:
    ast.parse(file.read_text(encoding="utf-8"), str(file), feature_version=(3, 9))


def test_it_compiles_with_the_oldest_python(tmp_path: Path) -> None:
    oldest = sorted(Path("/root/.pyenv/versions").glob("3.9*/bin/python")) if os.access("/root", os.X_OK) else []
    python = str(oldest[0]) if oldest else shutil.which("python3.9")
    if python is None:
        pytest.skip("no Python 3.9 here; the one of the tests parsed them for 3.9")
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room)
    done = subprocess.run([python, "-m", "compileall", "-q", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@each_script
class TestScript:
    def test_runs_as_it_is(self, script: Path) -> None:
        assert os.access(script, os.X_OK), f"chmod +x {script}"
        assert script.read_text().startswith("#!/usr/bin/env python3\n")

    def test_has_a_row_in_the_readme(self, script: Path) -> None:
        rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
        assert any(script.name in row.split("|")[1] for row in rows), f"README.md has no row for {script.name}"

    def test_has_a_command_when_installed(self, script: Path) -> None:
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        commands = dict(
            (part.strip() for part in line.split("=", 1))
            for line in setup["options.entry_points"]["console_scripts"].strip().splitlines()
        )
        assert commands[script.name].endswith(f".{script.stem}:main")

    def test_has_a_test(self, script: Path) -> None:
        assert (ROOT / "tests" / script.parent.name / f"test_{script.name}").exists()

    def test_help_shows_an_example_with_options_that_exist(self, script: Path) -> None:
        done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, "")
        examples = re.findall(rf"^.*\b{re.escape(script.name)} (.*)$", done.stdout.partition("xample")[2], re.MULTILINE)
        assert examples, "no Example in --help"
        known = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", done.stdout.partition("xample")[0]))
        for example in examples:
            for word in shlex.split(example, comments=True):
                if word == "--":
                    break
                if re.match(r"--?[A-Za-z]", word):
                    assert word.partition("=")[0] in known, f"{word} in: {example}"

    def test_starts_from_a_copied_folder(self, script: Path, tmp_path: Path) -> None:
        shutil.copytree(script.parent, tmp_path / "copy")
        done = subprocess.run(
            [sys.executable, str(tmp_path / "copy" / script.name), "--help"], capture_output=True, cwd="/", timeout=30
        )
        assert done.returncode == 0, done.stderr

    def test_a_misspelt_option_is_unknown_and_one_line(self, script: Path) -> None:
        done = subprocess.run(
            [sys.executable, str(script), "--misspelt"], capture_output=True, text=True, timeout=30, input=""
        )
        if script.name.startswith(("check_", "metrics_")):
            assert (done.returncode, done.stdout.count("\n"), done.stderr) == (3, 1, "")
        else:
            assert done.returncode not in (0, 1, 2) or script.parent.name == "handlers"
        assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("check", CHECKS, ids=lambda path: path.name)
def test_what_a_check_loads(check: Path, tmp_path: Path) -> None:
    """Of a whole run, on a host with a running, a stopped and a frozen container."""
    tree = Tree(tmp_path, "v2")
    tree.container("web")
    tree.container("off", running=False)
    tree.container("ice", frozen=True)
    loaded = _modules(check, ["--root", str(tree.root)]) - _modules(None, [])
    own = {name for name in loaded if name.partition(".")[0] in ("sensu_lxc", "sensu_plugin", check.stem)}
    assert not {name for name in loaded if name.partition(".")[0] in NEVER}
    surplus = {name for name in loaded - own if not name.startswith("_")} - MAY_LOAD
    surplus = {name for name in surplus if name.rpartition(".")[0] not in ("re", "collections", "importlib")}
    assert surplus - {"sre_compile", "sre_constants", "sre_parse"} == set()
    assert "sensu_lxc.lxd" not in own, "for LXD's containers only"


def test_measuring_asks_no_monitor(tmp_path: Path) -> None:
    """Where each container is found by its name, nothing is loaded that would ask for it."""
    tree = Tree(tmp_path, "v2")
    tree.container("web")
    loaded = _modules(ROOT / "plugins/check_container_memory.py", ["--root", str(tree.root)])
    assert not loaded & {"sensu_lxc.states", "sensu_lxc.monitor", "sensu_lxc.sources.lxc_command", "select", "struct"}


def _modules(check: Path | None, arguments: list[str]) -> set[str]:
    code = "import os, sys\n"
    if check is not None:
        code += (
            f"sys.path.insert(0, {str(check.parent)!r}); sys.argv = [{check.name!r}, *{arguments!r}]\n"
            "def stop(status): os.write(2, '\\n'.join([*sys.modules, '']).encode()); stopped(status)\n"
            "stopped, os._exit = os._exit, stop\n"
            f"import {check.stem}; {check.stem}.main()\n"
        )
    else:
        code += "os.write(2, '\\n'.join(sys.modules).encode())\n"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=30)
    assert "Traceback" not in done.stderr, done.stderr
    return set(done.stderr.split())


def test_a_change_is_told_and_a_newcomer_welcome() -> None:
    for name, words in {
        "CHANGELOG.md": "## ",
        "CONTRIBUTING.md": "plugins/",
        "LICENSE": "MIT",
        "README.md": "```",
    }.items():
        assert (ROOT / name).exists(), f"{name} is missing"
        assert words in (ROOT / name).read_text(), f"{name} lacks {words!r}"
