"""The fuzz targets run, for as long as a unit test may, and see what they are there to see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzz.datagrams import from_bytes, with_mutations
from tests.fuzz.wire import MODES, Wire

AN_ACK_AFTER_DATA = bytes((6, 0, 0, 7, 0, 0, 8, 0, 0))
"""The flow's last two segments and an empty one; three bytes choose a datagram, its sender, and how it is edited."""
ANOTHER_FLOW_FIRST = bytes((0, 0, 0, 9, 0, 0, 10, 0, 0x81, 5, 77))
"""One that is never fragmented, then two of a flow that may be, of which the second's identification (byte 5) jumps."""
A_COUNTER_LESS = bytes((6, 6, 1))
"""The message is a Status, and its byte 6, the number of counters, changed by 1."""


@pytest.fixture(params=MODES, ids=["trains", "plain"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    with closing(Wire(request.param)) as made:
        yield made


def test_each_datagram_enters_once_under_its_own_sender_or_is_counted_as_refused(wire: Wire) -> None:
    assert with_mutations([wire], 20_000, seed=3) > 1000


@given(st.binary(max_size=400))
@example(AN_ACK_AFTER_DATA)
@example(ANOTHER_FLOW_FIRST)
@example(A_COUNTER_LESS)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_raw_bytes(wire: Wire, data: bytes) -> None:
    from_bytes(wire)(data)
