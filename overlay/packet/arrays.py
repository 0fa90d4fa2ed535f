"""One's complement sums of many packets at once.

A *matrix* here is a two-dimensional uint8 array, one packet a row, all rows of one stride. Sums are taken over 16-bit
words in the machine's order and kept modulo 65535, where exchanging the two bytes of every word is multiplying by 256
(65536 is 1), so nothing has to be swapped but the result.
"""

from __future__ import annotations

import sys
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from overlay.packet.checksum import ONES

Matrix: TypeAlias = NDArray[np.uint8]
Numbers: TypeAlias = NDArray[np.int64]

_TO_NETWORK_ORDER = 256 if sys.byteorder == "little" else 1


def row_sums(matrix: Matrix) -> Numbers:
    """The one's complement sum of every row, 0..65534, in network order; bytes beyond a row's packet must be 0.

    Rows of even length are best: odd ones are copied first.

    The accumulator holds 32 bits: enough for 65,535 bytes (32,768 words below 65,536).
    """
    if matrix.shape[1] % 2:
        padded = np.zeros((matrix.shape[0], matrix.shape[1] + 1 & ~1), np.uint8)
        padded[:, : matrix.shape[1]] = matrix
        matrix = padded
    sums: Numbers = np.add.reduce(matrix.view(np.uint16), axis=1, dtype=np.uint32).astype(np.int64)
    sums *= _TO_NETWORK_ORDER
    sums %= ONES
    return sums


def ones_sum(data: NDArray[np.uint8]) -> int:
    """The one's complement sum of a flat array, 0..65534, in network order."""
    even = data.size & ~1
    words = data[:even].view(np.uint16)
    total = int(np.add.reduce(words, dtype=np.uint64)) * _TO_NETWORK_ORDER
    if data.size != even:
        total += int(data[even]) << 8
    return total % ONES
