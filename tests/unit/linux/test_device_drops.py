"""What a pair of interfaces has lost, from what either end says."""

from __future__ import annotations

import pytest

from overlay.linux.device_drops import Dropped, lost_between

NONE = Dropped(0, 0)


@pytest.mark.parametrize(
    ("one", "other", "lost"),
    [
        (NONE, NONE, 0),
        (Dropped(rx=0, tx=5), Dropped(rx=5, tx=0), 5),  # both have counted them
        (Dropped(rx=0, tx=5), NONE, 5),  # only the end that sends: the other is down
        (NONE, Dropped(rx=5, tx=0), 5),
        (Dropped(rx=3, tx=5), Dropped(rx=5, tx=3), 8),  # both ways
        (Dropped(rx=3, tx=5), None, 8),
        (None, None, 0),
    ],
)
def test_each_packet_counts_once(one: Dropped | None, other: Dropped | None, lost: int) -> None:
    assert lost_between(one, other) == lost_between(other, one) == lost
