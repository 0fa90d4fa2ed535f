"""A small packet is taken alone after a pause."""

from __future__ import annotations

from overlay.datapath.userspace.worker.pace import QUIET, SMALL, Pace
from tests.support.admission import ipv4
from tests.support.workers import bench


def test_pace() -> None:
    now = 100.0
    pace = Pace(clock=lambda: now)
    assert pace.begin(), "nothing came before"
    pace.end()
    now += QUIET / 2
    assert not pace.begin()
    pace.end()
    now += 2 * QUIET
    assert pace.begin()


def test_a_worker_keeps_it() -> None:
    """What is left is taken by the next drain, which comes at once: the descriptor is still ready."""
    with bench("plain") as made:
        made.worker.outbound._pace = Pace(lambda: 1.0)  # a machine may be busy between two drains
        for size in (8, SMALL):
            packet = ipv4("10.0.1.7", "10.0.2.9", payload=bytes(size))
            for _ in range(3):
                made.tun.send(packet)
            made.worker.outbound.drain(64)
            assert made.count("tx_packets") == (1 if size < SMALL else 6)
            made.worker.outbound.drain(64)
            assert made.count("tx_packets") == (3 if size < SMALL else 6)
            made.worker.outbound._pace._ended = 0.0
