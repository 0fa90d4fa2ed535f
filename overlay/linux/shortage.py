"""Whether something failed only for want of descriptors, memory or buffers, of which the next try may find enough."""

from __future__ import annotations

import errno

_SHORT_OF = {
    errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EAGAIN, errno.EINTR, errno.EBUSY
}  # fmt: skip
"""ENOSPC: libbpf, once it has run out of descriptors."""


def is_shortage(error: BaseException | None) -> bool:
    """Whether this machine was short of something at the moment, by the error numbers of what led to ``error``."""
    while error is not None:
        if {getattr(error, "errno", None), getattr(error, "code", None)} & _SHORT_OF:  # OSError's, pyroute2's
            return True
        error = error.__cause__
    return False
