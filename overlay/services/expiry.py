"""etcd leases for objects that live for a while (:attr:`~overlay.services.objects.kinds.Kind.ttl`).

Many objects share one, for a lease costs etcd more than a key (apiserver: pkg/storage/etcd3/lease_manager.go).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from overlay.store.contract import Store

SHARED_SECONDS = 60
"""For how long objects are put on the same etcd lease, and so how much longer than its time one may live."""


class Expiry:
    """The leases that objects are put on now.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._leases: dict[int, tuple[int, float]] = {}

    async def lease(self, ttl: int) -> int:
        """An etcd lease that ends in ``ttl`` seconds, or up to a minute later. Raises StoreError."""
        now = self._clock()
        lease_id, until = self._leases.get(ttl, (0, now))
        if now >= until:
            lease_id = secrets.randbelow(2**63 - 1) + 1
            await self._store.grant(lease_id, ttl + SHARED_SECONDS)
            self._leases[ttl] = lease_id, now + SHARED_SECONDS
        return lease_id

    def forget(self) -> None:
        """One of them is gone: the store was restored to before it was granted."""
        self._leases.clear()
