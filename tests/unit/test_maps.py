"""Every package's docstring is its map: it names all that is in it, and what docstrings refer to is there."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "overlay").rglob("*.py"))
PACKAGES = [file.parent for file in FILES if file.name == "__init__.py"]

BY_A_RULE = {"cli": "one file a subcommand"}
"""Packages whose map is a sentence."""

REFERENCE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?((?:overlay)?[.\w]+)`")


def name_of(path: Path) -> str:
    """The module's, or the package's, for imports."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("package", PACKAGES, ids=name_of)
def test_a_package_names_its_parts(package: Path) -> None:
    said = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    if (rule := BY_A_RULE.get(package.name)) is not None:
        assert rule in said
        return
    modules = {file.stem for file in package.glob("*.py")} - {"__init__", "__main__"}
    folders = {file.parent.name for file in package.glob("*/__init__.py")}
    assert {part for part in modules | folders if not re.search(rf"\b{part}\b", said)} == set()


@pytest.mark.parametrize("file", [file for file in FILES if REFERENCE.search(file.read_text())], ids=name_of)
def test_what_a_docstring_refers_to_is_there(file: Path) -> None:
    package = name_of(file.parent)
    for target in REFERENCE.findall(file.read_text()):
        if target.startswith(("overlay.", ".")):
            find(f"{package}{target}" if target.startswith(".") else target)


def find(path: str) -> object:
    """Raises ImportError or AttributeError where nothing has this name."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            annotations = getattr(found, "__annotations__", {})
            found = annotations[part] if part in annotations else getattr(found, part)
        return found
    raise ImportError(path)
