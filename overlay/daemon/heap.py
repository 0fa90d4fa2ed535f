"""glibc's heap, kept as small as one process with few busy threads needs it.

By default each thread gets a heap of its own, up to eight for each core, and what a large answer of etcd took stays in
them. Another C library has none of these functions, nor the habit: there all of this does nothing.
"""

from __future__ import annotations

from overlay.linux import libc

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""malloc.h: size from which a block is a mapping of its own, and how many heaps there may be."""

_LARGE = 128 * 1024
"""glibc's own threshold; once it is set, it no longer grows with the blocks that are freed (mallopt(3))."""


def keep_small() -> None:
    """One heap for all threads, and large blocks go back to the kernel when freed; call it before threads start."""
    libc.mallopt(_M_ARENA_MAX, 1)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
