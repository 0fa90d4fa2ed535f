"""Whatever is received how, each datagram stands in its place, whole and under its sender, until all are taken."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlay.datapath.userspace.worker.arrivals import CAPACITY, PLACE, Arrivals

SENDERS = ("172.31.0.2", "172.31.0.3")
SIZES = (1, 7, 8, 60, 1399, 1400, 1401, 9000, 65_507)


@dataclass(frozen=True)
class Sent:
    """``length`` bytes in datagrams of ``size``, as the kernel hands them over at once."""

    sender: str
    length: int
    size: int

    def datagrams(self, number: int) -> list[tuple[str, bytes]]:
        content = bytes((number * 7 + at) % 251 for at in range(min(self.length, 251))) * (self.length // 251 + 1)
        whole = content[: self.length]
        return [(self.sender, whole[at : at + self.size]) for at in range(0, self.length, self.size)]


sents = st.builds(
    lambda sender, size, count, last: Sent(sender, min(65_507, size * count + min(last, size - 1)), size),
    st.sampled_from(SENDERS),
    st.sampled_from(SIZES),
    st.sampled_from((1, 1, 1, 2, 40)),
    st.sampled_from((0, 0, 1, 50)),
)
receives = st.lists(st.tuples(st.sampled_from((None, *SIZES)), st.lists(sents, min_size=1, max_size=8)), max_size=8)
"""By itself each (None), or many at once into slots of a size."""


class Kernel:
    """Writes what was sent where the arrivals say."""

    def __init__(self) -> None:
        self.arrivals = Arrivals()
        self.datagrams: list[tuple[str, bytes]] = []

    def one(self, sent: Sent) -> None:
        self._write((self.arrivals.at,), (PLACE,), sent)
        self.arrivals.add(sent.length, sent.size, sent.sender)

    def many(self, size: int, all_sent: list[Sent]) -> None:
        count = min(self.arrivals.open(size), len(all_sent))
        for slot, sent in enumerate(all_sent[:count]):
            start = self.arrivals.at + slot * size
            self._write((start, self.arrivals.aside(slot) + size), (size, PLACE), sent)
            if sent.length == sent.size == size:
                self.arrivals.fill(slot, slot + 1, sent.sender)
            else:
                self.arrivals.fill_one(slot, sent.length, sent.size, sent.sender)
        self.arrivals.close(count)

    def _write(self, places: tuple[int, ...], lengths: tuple[int, ...], sent: Sent) -> None:
        datagrams = sent.datagrams(len(self.datagrams))
        whole = b"".join(datagram for _, datagram in datagrams)
        for at, length in zip(places, lengths, strict=True):
            self.arrivals.view[at : at + len(whole[:length])] = whole[:length]
            whole = whole[length:]
        self.datagrams += datagrams

    def taken(self) -> list[tuple[str, bytes]]:
        """What is there, each train padded before its datagrams are looked at, as whoever joins them does."""
        found = []
        for train in self.arrivals.take():
            rows = self.arrivals.rows(train)
            last = train.end - train.start - (train.packets - 1) * train.size
            assert not rows[-1, last:].any()
            found += [(train.sender, row.tobytes()) for row in rows]
            found[-1] = (train.sender, found[-1][1][:last])
        return found


@given(receives)
@example([(None, [Sent(SENDERS[0], 9000, 9000)]), (60, [Sent(SENDERS[0], 60, 60)] * 2)])
@settings(max_examples=200)
def test_each_datagram_stands_where_nothing_is_written_over_it(made: list[tuple[int | None, list[Sent]]]) -> None:
    kernel = KERNEL
    for size, all_sent in made:
        if kernel.arrivals.full:
            break
        if size is None:
            kernel.one(all_sent[0])
        else:
            kernel.many(size, all_sent)
    expected, kernel.datagrams = kernel.datagrams, []
    assert kernel.taken() == expected
    assert not kernel.arrivals.full


KERNEL = Kernel()
"""One for all examples, as one is for a worker's whole life."""


@pytest.mark.parametrize(("length", "full"), [(60, False), (1400, True)])
def test_a_place_aside_is_used_once(length: int, full: bool) -> None:
    """52 datagrams of a stranger entered because a second batch was received over what stood aside of the first."""
    kernel = Kernel()
    kernel.many(60, [Sent(SENDERS[0], length, length)])
    assert kernel.arrivals.full == full, "else what comes next may be written there"


def test_there_is_always_room_for_whatever_comes_next() -> None:
    kernel = Kernel()
    while not kernel.arrivals.full:
        assert kernel.arrivals.at <= CAPACITY
        assert kernel.arrivals.open(65_507) > 0
        kernel.one(Sent(SENDERS[0], 65_507, 33_000))


def test_a_train_goes_on_where_the_one_before_ended() -> None:
    """Else each receive would be looked at by itself, which costs several times as much."""
    kernel = Kernel()
    kernel.one(Sent(SENDERS[0], 4200, 1400))
    kernel.many(1400, [Sent(SENDERS[0], 1400, 1400)] * 3)
    kernel.many(1400, [Sent(SENDERS[0], 1400, 1400), Sent(SENDERS[0], 20, 20), Sent(SENDERS[0], 1400, 1400)])
    assert [train.packets for train in kernel.arrivals.take()] == [8, 1]
