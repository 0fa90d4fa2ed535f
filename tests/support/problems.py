"""Problems as whoever has provoked one sees it, and which kinds there are.

A kind (``Problem.code``) that no test provokes may never arise, or be without a remedy, and nobody would know. So
each is to be seen through :func:`shown` by a test that provokes it, and ``tests/unit/test_problem.py`` holds those
calls against the package.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from overlay.problem import Problem

_ROOT = Path(__file__).resolve().parents[2]


def shown(told: Mapping[str, Any] | Iterable[Problem], code: str, *words: str) -> bool:
    """Whether a problem of this kind is told, with each of ``words`` in its line; one without a remedy fails the test.

    Args:
        told: a daemon's report of itself (``overlay status --json``), or problems.
    """
    if isinstance(told, Mapping):
        found = [(each["code"], each["sentence"], each["remedy"]) for each in told.get("problem_details", ())]
    else:
        found = [(each.code, each.sentence, each.remedy) for each in told]
    of_kind = [(sentence, remedy) for kind, sentence, remedy in found if kind == code]
    assert all(sentence and remedy for sentence, remedy in of_kind), f"without a remedy: {code}: {of_kind}"
    return any(all(word in f"{sentence}; {remedy}" for word in words) for sentence, remedy in of_kind)


def provoked() -> dict[str, set[str]]:
    """The kinds that tests look for by :func:`shown`, each with the files that do."""
    found: dict[str, set[str]] = {}
    for path in sorted((_ROOT / "tests").rglob("test_*.py")):
        for call in _calls(path):
            if _name(call) == "shown" and len(call.args) > 1 and (code := _text(call.args[1])) is not None:
                found.setdefault(code, set()).add(path.name)
    return found


def kinds() -> dict[str, set[str]]:
    """The kinds that the package names, each with the files that do."""
    files = {path: list(_calls(path)) for path in sorted((_ROOT / "overlay").rglob("*.py"))}
    constants = {name: text for path in files for name, text in _constants(path)}
    found: dict[str, set[str]] = {}
    for path, calls in files.items():
        for word in (word for call in calls for word in _code(call)):
            if (code := _text(word) or constants.get(getattr(word, "id", ""))) is not None:
                found.setdefault(code, set()).add(str(path.relative_to(_ROOT)))
    return found


def _code(call: ast.Call) -> Iterator[ast.expr]:
    """Where a call names a kind: ``Problem(code, …)``, ``Problem.of(error, code, …)``, ``daemon.keep(topic, …)``, and a
    function that makes one of the first for its callers."""
    match _name(call), call.args:
        case ("Problem" | "keep" | "Loop" | "_problem", [word, *_]):
            yield word
        case ("of", [_, word, *_]) if isinstance(call.func, ast.Attribute) and _is_problem(call.func.value):
            yield word


def _is_problem(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id == "Problem"


def _calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def _constants(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and (text := _text(node.value)):
            yield node.targets[0].id, text


def _name(call: ast.Call) -> str:
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def _text(word: ast.expr) -> str | None:
    return word.value if isinstance(word, ast.Constant) and isinstance(word.value, str) else None
