"""What the pages name is there: links, decisions, tests, commands with their flags, variables, targets of make."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from overlay.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TESTS = {file.name: file for file in (ROOT / "tests").rglob("*.py")}

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`]+`|^ {4}[^`]*?$", re.MULTILINE | re.DOTALL)
SOURCES = "".join(
    file.read_text()
    for folder in ("overlay", "tests", "systemd")
    for file in (ROOT / folder).rglob("*")
    if file.suffix in {".py", ".sh", ".service", ".conf"}
)
OTHERS_ARGUMENTS = {"kubectl", "exec"}
"""Commands behind which stand another program's words."""


def shown(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Those of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_the_index_has_every_decision_once() -> None:
    folder = ROOT / "docs/decisions"
    listed = LINK.findall((folder / "README.md").read_text())
    assert sorted(listed) == sorted(page.name for page in folder.glob("*.md") if page.name != "README.md")


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_the_tests_that_it_names_are_there(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"\btest_\w+\.py\b", text):
        assert name in TESTS, name
    for path in re.findall(r"\btests/[\w/]+(?:\.py|\.sh)?\b", text):
        assert list(ROOT.glob(f"{path}*")), path
    for function in re.findall(r"`(test_\w+)`", text):
        assert f"def {function}(" in SOURCES, function


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_the_targets_of_make_that_it_names_are_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in CODE.findall(page.read_text()):
        assert set(re.findall(r"\bmake ([a-z][a-z-]+)\b", code)) <= targets, code


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_the_commands_that_it_names_are_there_with_their_flags(page: Path) -> None:
    for code in CODE.findall(page.read_text()):
        for words in calls(code.replace("\\|", "|")):
            check(cli, words)


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_the_variables_that_it_names_are_read(page: Path) -> None:
    for name in re.findall(r"\b((?:OVERLAY|FLANNELD)_[A-Z_]*[A-Z])\b", page.read_text()):
        assert name in variables() or name in SOURCES, name


@cache
def variables() -> set[str]:
    """Those of flags."""
    return {str(option.envvar) for command in every(cli) for option in command.params}


def calls(code: str) -> Iterator[list[str]]:
    """The words behind each ``overlay`` of a piece of code, up to where a shell begins another command."""
    for line in re.findall(r"(?<![\w/.-])overlay ([^\n]*)", code.strip("`")):
        yield re.split(r" [|&<>]|[;&)]|>>|  +#| #", line)[0].split()


def check(command: click.Command, words: list[str]) -> None:
    """Fails where a command has no such subcommand or flag."""
    flags = {spelling for option in command.params for spelling in option.opts} | {"--help", "--version"}
    for at, word in enumerate(words):
        if word in ("--", "…") or (command.name in OTHERS_ARGUMENTS and not word.startswith("-")):
            return
        if word.startswith("--"):
            assert word.strip("[],.").partition("=")[0] in flags, f"{command.name} {word}"
        elif isinstance(command, click.Group) and not (at and words[at - 1] in flags):
            for name in word.strip("[],.").split("|"):
                found = command.get_command(click.Context(command), name)
                assert found is not None, f"{command.name} {name}"
                check(found, words[at + 1 :])
            return


def every(command: click.Command) -> Iterator[click.Command]:
    """A command and those below it."""
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if (found := command.get_command(context, name)) is not None:
                yield from every(found)
