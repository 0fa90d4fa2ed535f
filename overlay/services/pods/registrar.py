"""Carries out what :class:`~overlay.services.pods.registration.Registration` decides, against the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import NoReturn

from overlay.errors import StoreError
from overlay.services.objects.document import Object
from overlay.services.pods.registration import Registration, Write
from overlay.store.contract import Committed, Store
from overlay.store.session import Grant, Refresh

LONGEST_SLEEP = 10.0
"""Seconds at most: asyncio's clock stands still in a suspended machine, ours goes on."""


class Registrar:
    """Keeps this node and its pods in etcd for as long as :meth:`run` runs.

    Args:
        told: called after every action.
    """

    def __init__(
        self,
        store: Store,
        registration: Registration,
        clock: Callable[[], float],
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._registration = registration
        self._clock = clock
        self._told = told
        self._wake = asyncio.Event()

    def want(self, record: Object, pods: Mapping[str, Object], unknown: Collection[str] = ()) -> None:
        """This node and its pods from now on; see :meth:`Registration.want`."""
        self._registration.want(record, pods, unknown)
        self._wake.set()

    def wake(self) -> None:
        """The mirror has changed."""
        self._wake.set()

    async def run(self) -> NoReturn:
        """Works until cancelled. No state of the store ends it."""
        while True:
            self._wake.clear()
            now = self._clock()
            action = self._registration.next(now)
            if isinstance(action, float):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, min(action - now, LONGEST_SLEEP))):
                        await self._wake.wait()
                continue
            try:
                result = await self._carry_out(action)
            except StoreError as error:
                self._registration.failed(error, self._clock())
            else:
                self._registration.completed(result, self._clock())
            self._told()

    async def _carry_out(self, action: Grant | Refresh | Write) -> Committed | int | None:
        match action:
            case Grant(lease_id, ttl):
                await self._store.grant(lease_id, ttl)
                return None
            case Refresh(lease_id):
                return await self._store.refresh(lease_id)
            case Write(compares, operations):
                return await self._store.commit(compares, operations)
