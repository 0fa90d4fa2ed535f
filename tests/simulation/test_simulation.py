"""Stories of things going wrong, with the real control plane in every node."""

from __future__ import annotations

import pytest

from tests.simulation.scenario import DEFAULT_SEEDS, Scenario

BLOCK = 100


@pytest.mark.parametrize("first", range(0, DEFAULT_SEEDS, BLOCK))
def test_invariants_hold(first: int) -> None:
    """Replay a failing seed with ``python -m tests.simulation --seed N``."""
    for seed in range(first, first + BLOCK):
        try:
            Scenario(seed).run()
        except AssertionError as violation:
            pytest.fail(f"seed {seed}: {violation}")


def test_same_seed_is_the_same_story() -> None:
    first, second = Scenario(7).run(), Scenario(7).run()
    assert first == second
