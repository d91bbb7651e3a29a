"""The documentation names only links, files, commands, options, modules, variables and functions that exist."""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import device_agent.settings
import server.settings
from benchmarks.__main__ import BENCHMARKS
from tests.layer_diagram import BLOCK, PAGE, diagram, reduced

ROOT = Path(__file__).parent.parent
TOP_LEVEL = ("elasticvit", "server", "device_agent", "android_bench", "tests", "benchmarks", "docs")
FOLDERS = ("docs", "android_bench", "elasticvit/pretrained", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FILE = re.compile(
    rf"(?<![\w./~-])(?:{'|'.join(TOP_LEVEL)})/[\w./*-]+|[\w-]+(?:/[\w.-]+)*/[\w-]+\.(?:py|c|h|md|svg|jsonl?)"
)
VARIABLE = re.compile(r"\bELASTICVIT_[A-Z_]+\b")
COMMAND = re.compile(r"`(?:ELASTICVIT_\w+=\w+ )?(?:make|elasticvit|python -m benchmarks(?:\.\w+)?|GET) ")
FUNCTION = re.compile(r"`([\w/]+\.py)` `(\w+)`")
STOP = re.compile(r"^(\d+)\. `([^`]+)` `([^`]+)`: ", re.MULTILINE)
# Made by a command, or of the reader's own.
NOT_HERE = ("android_bench/build/",)
MAX_STOPS = 12

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def _prose(page: Path) -> str:
    return FENCE.sub("", page.read_text("utf-8"))


def _code(page: Path) -> Iterator[str]:
    """Code spans, and the lines of shell blocks with continued lines joined."""
    yield from SPAN.findall(_prose(page))
    for language, text in FENCE.findall(page.read_text("utf-8")):
        if language in ("", "sh", "bash"):
            yield from text.replace("\\\n", " ").splitlines()


def _anchors(page: Path) -> set[str]:
    """The ids that GitHub gives to the headings of a page."""
    titles = (re.sub(r"[`*]|\[|\]\([^)]*\)", "", title).strip().lower() for title in HEADING.findall(_prose(page)))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pages
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in LINK.findall(_prose(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            wrong.append(link)
    assert wrong == []


@pages
def test_files_that_are_named_exist(page: Path) -> None:
    names = {name.rstrip(".") for code in _code(page) for name in FILE.findall(code)}
    wrong = {name for name in names if not name.startswith(NOT_HERE) and not any(ROOT.glob(name.rstrip("/")))}
    assert wrong == set()


@cache
def _commands() -> Mapping[str, frozenset[str]]:
    """The options of every command of the `elasticvit` script; commands of a group are `group command`."""
    from elasticvit.cli.app import app as library
    from server.cli.main import app as service

    options: dict[str, frozenset[str]] = {}
    for app in (library, service):
        for name, command in _inside(typer.main.get_command(app)).items():
            inner = {f"{name} {sub}": inside for sub, inside in _inside(command).items()}
            options |= {full: _options(inside) for full, inside in (inner or {name: command}).items()}
    return options


def _inside(command: Any) -> Mapping[str, Any]:  # noqa: ANN401 - typer may bring its own copy of click
    commands: Mapping[str, Any] = getattr(command, "commands", {})
    return commands


def _options(command: Any) -> frozenset[str]:  # noqa: ANN401
    return frozenset(option for param in command.params for option in (*param.opts, *param.secondary_opts)) | {"--help"}


def _invocations(page: Path) -> Iterator[list[str]]:
    """What follows `elasticvit` on a command line, as words, up to a comment or a pipe."""
    for code in _code(page):
        for match in re.finditer(r"(?:^|[\s/(])(?<!from )elasticvit ([a-z][^#|;…]*)", code):
            yield shlex.split(re.sub(r"[()']", " ", match[1]))


def _problem(arguments: list[str]) -> str | None:
    """What is wrong with an invocation. `elasticvit devices` alone names a group, which is right, too."""
    commands = _commands()
    name = arguments[0] if arguments[0] in commands else " ".join(arguments[:2])
    if name not in commands:
        is_group = len(arguments) == 1 and any(known.startswith(f"{name} ") for known in commands)
        return None if is_group else f"no command `{name}`"
    unknown = {word.partition("=")[0] for word in arguments if word.startswith("--")} - commands[name]
    return f"`{name}` has no {sorted(unknown)}" if unknown else None


@pages
def test_commands_that_are_named_exist_with_their_options(page: Path) -> None:
    wrong = [problem for arguments in _invocations(page) if (problem := _problem(arguments))]
    assert wrong == []


def test_an_unknown_command_or_option_is_noticed() -> None:
    assert _problem(["serch", "host"]) == "no command `serch host`"
    assert _problem(["devices", "calibrat"]) == "no command `devices calibrat`"
    assert _problem(["demo", "--sweeps"]) == "`demo` has no ['--sweeps']"


@pages
def test_modules_that_are_named_exist(page: Path) -> None:
    names = {name for code in _code(page) for name in re.findall(r"python -m ([\w.]+)", code)}
    assert {name for name in names if importlib.util.find_spec(name) is None} == set()


@pages
def test_benchmarks_that_are_named_exist(page: Path) -> None:
    names = {name for code in _code(page) for name in re.findall(r"python -m benchmarks ([a-z][\w.]*)", code)}
    assert names <= set(BENCHMARKS)


@pages
def test_targets_of_make_that_are_named_exist(page: Path) -> None:
    named = {name for code in _code(page) for name in re.findall(r"\bmake ([a-z][a-z-]+)", code)}
    assert named <= set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def _variables() -> frozenset[str]:
    """Environment variables that the code reads: those of the settings classes, and those named in the sources."""
    names = {
        f"{settings.model_config['env_prefix']}{field}".upper()
        for settings in (server.settings.Settings, device_agent.settings.Settings)
        for field in settings.model_fields
    }
    sources = [path for name in TOP_LEVEL for path in (ROOT / name).rglob("*.py")]
    return frozenset(names.union(*(VARIABLE.findall(path.read_text("utf-8")) for path in sources)))


@pages
def test_environment_variables_that_are_named_are_read(page: Path) -> None:
    assert set(VARIABLE.findall(page.read_text("utf-8"))) <= _variables()


def test_every_claim_has_its_command_and_its_machine() -> None:
    rows = re.findall(r"^\| (.+) \|$", (ROOT / "docs" / "figures.md").read_text("utf-8"), re.MULTILINE)
    claims = [row.split(" | ") for row in rows if not row.startswith(("claim |", "--"))]
    assert claims and all(len(claim) == 4 for claim in claims)
    for name, _, command, machine in claims:
        assert COMMAND.match(command), f"{name!r} names no command"
        assert machine in ("Xeon", "EPYC"), f"{name!r} names no machine"


@pytest.mark.medium
def test_the_drawing_of_the_layers_is_that_of_the_code() -> None:
    (block,) = BLOCK.findall(PAGE.read_text("utf-8"))
    assert block == diagram(), "run `python -m tests.layer_diagram`"


def test_the_drawing_leaves_out_what_follows_from_other_arrows() -> None:
    needs = {"a": frozenset("bcd"), "b": frozenset("c"), "c": frozenset("d"), "d": frozenset[str]()}
    assert reduced(needs) == {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("d"), "d": frozenset()}


@pytest.mark.parametrize("way", ["A search's way through the code", "A measurement's way through the code"])
def test_every_function_on_a_way_through_the_code_is_in_the_file_that_is_named(way: str) -> None:
    section = PAGE.read_text("utf-8").partition(f"\n## {way}\n")[2].partition("\n## ")[0]
    stops = STOP.findall(section)
    assert [int(number) for number, _, _ in stops] == list(range(1, len(stops) + 1))
    assert 0 < len(stops) <= MAX_STOPS
    assert len(stops) == len(re.findall(r"^\d+\.", section, re.MULTILINE)), "each stop names a file and a function"
    named = FUNCTION.findall(section)
    assert {(file, name) for _, file, name in stops} <= set(named)
    assert [(file, name) for file, name in named if name not in _functions(ROOT / file)] == []


def _functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
