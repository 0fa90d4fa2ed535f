"""Checksums against the plain loop, at every length."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from overlay.packet import checksum as fast
from overlay.packet.arrays import ones_sum, row_sums
from tests.support.admission import plain_checksum


def test_every_length() -> None:
    data = os.urandom(2000)
    for length in range(len(data)):
        assert fast.checksum(data[:length]) == plain_checksum(data[:length])


def test_the_two_zeros() -> None:
    assert fast.checksum(bytes(20)) == 0xFFFF
    assert fast.checksum(b"\xff" * 20) == 0


@given(st.binary(min_size=4, max_size=60).filter(lambda data: len(data) % 2 == 0), st.integers(0, 0xFFFF))
def test_update_is_a_new_sum(data: bytes, new: int) -> None:
    before = fast.checksum(data)
    after = fast.update(before, int.from_bytes(data[2:4], "big"), new)
    changed = data[:2] + new.to_bytes(2, "big") + data[4:]
    assert fast.ones_sum(changed + after.to_bytes(2, "big")) in {0, 0xFFFF}


def test_array_sums_at_every_length() -> None:
    data = np.frombuffer(os.urandom(3000), np.uint8)
    for length in range(1, 1500):
        expected = (0xFFFF - plain_checksum(data[:length].tobytes())) % 0xFFFF
        assert ones_sum(data[:length]) == expected
        assert row_sums(data[: 2 * length].reshape(2, length))[0] == expected


def test_array_sums_do_not_overflow() -> None:
    ones = np.full((2, 65535), 0xFF, np.uint8)
    assert row_sums(ones).tolist() == [(0xFFFF - plain_checksum(ones[0].tobytes())) % 0xFFFF] * 2
    assert ones_sum(ones[0]) == (0xFFFF - plain_checksum(ones[0].tobytes())) % 0xFFFF
