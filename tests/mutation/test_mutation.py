"""The table of mutants fits today's code; ``make mutants`` runs it."""

from __future__ import annotations

import ast

import pytest

from tests.mutation.patch import ROOT, Mutant
from tests.mutation.table import MUTANTS

WITHOUT_BEHAVIOUR = {"store/contract"}
"""Files that hold no decision: the types of the store's contract."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_applies_once_and_is_python(mutant: Mutant) -> None:
    ast.parse(mutant.apply(mutant.path.read_text()))
    assert all((ROOT / test.partition("::")[0]).exists() for test in mutant.tests if test.startswith("tests/"))


def test_there_are_enough_of_them_and_each_once_for_every_file() -> None:
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS) >= 60
    package = ROOT / "overlay"
    files = {
        str(path.relative_to(package).with_suffix(""))
        for folder in ("control", "store")
        for path in (package / folder).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert files - WITHOUT_BEHAVIOUR <= {mutant.file for mutant in MUTANTS}
