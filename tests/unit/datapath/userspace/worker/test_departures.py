"""Whatever is gathered comes out once, in trains that one send can carry, and each peer's packets in order."""

from __future__ import annotations

import itertools
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from overlay.datapath.userspace.worker.departures import CAPACITY, Departures

SIZES = st.sampled_from([20, 100, 1472, 9000])
PUT = st.lists(st.tuples(st.sampled_from("ab"), SIZES, st.integers(1, 12), st.integers(0, 3)), max_size=60)
"""To whom, of which size, how many (the last is shorter, as segmentation leaves it), and which class of service."""


def cut(train: bytes, size: int) -> list[bytes]:
    return [train[at : at + size] for at in range(0, len(train), size)]


@given(PUT)
def test_what_goes_in_comes_out(put: list[tuple[str, int, int, int]]) -> None:
    departures, number = Departures(), itertools.count()
    inside: dict[str, list[bytes]] = defaultdict(list)
    outside: dict[str, list[bytes]] = defaultdict(list)

    def take() -> None:
        for train, size, peer in departures.take():
            packets = cut(bytes(train), size)
            assert len({packet[0] for packet in packets}) == 1, "one train has one outer header"
            outside[peer] += packets

    for peer, size, count, service in put:
        packets = [bytes([service, next(number) % 256]) * (size // 2) for _ in range(count)]
        if count > 1:
            packets[-1] = packets[-1][: size // 2]
        whole = b"".join(packets)
        if not departures.has_room(len(whole)):
            take()
        at = departures.reserve(peer, size, len(whole), service)
        departures.view[at : at + len(whole)] = whole
        inside[peer] += packets
    take()
    assert outside == inside
    assert departures.take() == []
    assert departures.has_room(CAPACITY)
    assert not departures.has_room(CAPACITY + 1)
