"""Places of the array: no two runs have one in common, and none is read and written at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import NodeError
from overlay.services.proxy.ebpf.slots import REST, Slots


def test_a_run_rests_before_it_is_given_out_again() -> None:
    slots = Slots(8)
    first, second = slots.take(4, 0.0), slots.take(4, 0.0)
    slots.give_back(first, 4, 10.0)
    with pytest.raises(NodeError, match=r"no room for 3 more backends; 8 is the most"):
        slots.take(3, 10.0 + REST / 2)
    assert slots.take(3, 10.0 + REST) == first
    assert {first, second} == {0, 4}


def test_what_a_predecessor_has_is_not_given_out() -> None:
    slots = Slots(64, [(8, 3), (32, 1)])
    given_out = {place for _ in range(8) for place in run(slots.take(4, 0.0), 4)}
    assert not given_out & {8, 9, 10, 11, 32}


def run(first: int, length: int) -> range:
    return range(first, first + length)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.floats(0, 3)), max_size=80), st.integers(0, 60))
def test_runs_have_no_place_in_common(steps: list[tuple[bool, int, float]], beginning: int) -> None:
    taken: dict[int, int] = {beginning: 5}
    resting: list[tuple[float, range]] = []
    slots, now = Slots(512, [(beginning, 5)]), 0.0
    for takes, length, seconds in steps:
        now += seconds
        if takes:
            try:
                first = slots.take(length, now)
            except NodeError:
                continue
            fresh = set(run(first, length))
            assert fresh <= set(range(512))
            for other, size in taken.items():
                assert not fresh & set(run(other, size))
            for since, places in resting:
                assert now - since >= REST or not fresh & set(places)
            taken[first] = length
        elif taken:
            first = sorted(taken)[length % len(taken)]
            size = taken.pop(first)
            slots.give_back(first, size, now)
            resting.append((now, run(first, size)))
