"""The fuzz targets run, for as long as a unit test may."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.datagrams import Target, from_bytes, with_mutations


def test_mutations() -> None:
    assert with_mutations(Target(), 20_000, seed=3) > 1000


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_raw_bytes(data: bytes) -> None:
    from_bytes(Target())(data)
