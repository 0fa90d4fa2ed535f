"""What time it is for a daemon: pure code takes ``now``, and whoever calls it takes it from here."""

from __future__ import annotations

import time


def boottime() -> float:
    """Seconds since boot, suspended time counted, never set by anyone (CLOCK_BOOTTIME).

    Leases in etcd end while a machine sleeps, so what is compared with them must not stand still meanwhile, as
    ``time.monotonic`` and asyncio's clock do.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
