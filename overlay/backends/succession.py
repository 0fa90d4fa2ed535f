"""The backend that a node runs, and how one follows another when the config's ``Backend.Type`` changes.

The next one is prepared while the present one runs. It is applied before its predecessor is closed, and what that one
made on this machine is removed last: a packet that can pass either way passes all the time. What backends of other
types left here in an earlier agent's time is removed with the first ``apply``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace
from typing import NoReturn

from overlay import backends
from overlay.backends.base import Applied, Backend, Desired, Flags
from overlay.datapath.base import DatapathStatus
from overlay.model import EMPTY_PEERS, Advertisement, NetworkConfig, PeerTable
from overlay.node import removal
from overlay.node.interfaces import Underlay
from overlay.node.removal import Removal

_log = logging.getLogger(__name__)

NONE_YET = DatapathStatus("none", running=False, detail="waiting for the network's config")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A backend, what it is prepared for, and what came of it."""

    backend: Backend
    config: NetworkConfig
    underlay: Underlay
    advertisement: Advertisement


class Succession:
    """One backend after another; one call of ``prepare`` or ``apply`` at a time."""

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._begun: Backend | None = None
        self._prepared: _Prepared | None = None
        self._running: Backend | None = None
        self._gone_over = asyncio.Event()
        self._peers, self._peers_type = EMPTY_PEERS, ""
        self._fed: Backend | None = None
        self._settled = False
        self._to_remove: tuple[Removal, ...] = ()

    def advertisement(self, config: NetworkConfig) -> Advertisement | None:
        """What the lease must say under ``config``; None while that is not known."""
        prepared = self._prepared
        return prepared.advertisement if prepared is not None and prepared.config.backend == config.backend else None

    async def anticipate(self) -> None:
        """Has the backend begin that an earlier agent had, which as a rule the config will name; before ``prepare``."""
        for backend in backends.every(self._flags):
            if await backend.anticipate():
                self._begun = backend
                return

    async def prepare(self, config: NetworkConfig, underlay: Underlay) -> bool:
        """Prepares the backend that ``config`` names; whether that was not done already.

        Raises:
            ConfigError, DeviceError, DatapathError, NodeError: it cannot be; the one that runs goes on.
        """
        former = self._prepared
        if former is not None and (former.config, former.underlay) == (config, underlay):
            return False
        backend = self._known(config.backend.type) or backends.make(config.backend.type, self._flags)
        advertisement = await backend.prepare(config, underlay)
        self._prepared = _Prepared(backend, config, underlay, advertisement)
        if former is not None and former.backend not in (backend, self._running):
            await former.backend.close()  # it was prepared, and never needed
        if (begun := self._begun) is not None:
            self._begun = None
            if begun is not backend:
                await begun.close()
        return True

    def _known(self, kind: str) -> Backend | None:
        """The backend of this type that runs, is prepared, or has begun."""
        known = (self._running, None if self._prepared is None else self._prepared.backend, self._begun)
        return next((each for each in known if each is not None and each.type == kind), None)

    async def apply(self, desired: Desired) -> Applied:
        """Makes this machine match, by the backend that the config names, which has been prepared. Raises as that."""
        kind, former = desired.config.backend.type, self._running
        backend = self._known(kind)
        assert backend is not None, "no lease says another type than the one that is prepared"
        if backend is not self._fed:
            # Only now: with a lease the peers are known; until then what an earlier agent left is better than none.
            self._fed, self._settled = backend, False
            backend.set_peers(self._peers if self._peers_type == kind else EMPTY_PEERS)
        applied = await backend.apply(desired)
        if not self._settled:
            self._running, self._settled = backend, True
            self._gone_over.set()
            self._to_remove = self._others(kind)
            if former is not None and former is not backend:
                _log.info("went over from the %s backend to %s", former.type, kind)
                await former.close()
        return replace(applied, failures=(*applied.failures, *await self._remove_others(tolerant=former is None)))

    def _others(self, kind: str) -> tuple[Removal, ...]:
        return tuple(each for other in backends.every(self._flags) if other.type != kind for each in other.removals())

    async def _remove_others(self, *, tolerant: bool) -> list[str]:
        """Removes what other backends made; what could not be is tried again the next time.

        Args:
            tolerant: whether nobody knows that there is anything, so that not to be able to look is no failure.
        """
        if not self._to_remove:
            return []
        removed, failed = await asyncio.to_thread(removal.carry_out, self._to_remove)
        for line in removed:
            _log.info("left by another backend: %s", line)
        if tolerant:
            for line in failed:
                _log.info("what another backend may have left could not be looked for: %s", line)
            failed = []
        if not failed:
            self._to_remove = ()
        return failed

    def set_peers(self, table: PeerTable, kind: str) -> None:
        """Hands peers whose leases are of this type to the backend that they concern, now or when it is applied."""
        self._peers, self._peers_type = table, kind
        if self._fed is not None and self._fed.type == kind:
            self._fed.set_peers(table)

    async def status(self) -> DatapathStatus:
        """How the backend that runs is; else the one that is prepared."""
        if self._running is not None:
            return await self._running.status()
        return NONE_YET if self._prepared is None else await self._prepared.backend.status()

    async def watch(self) -> NoReturn:
        """Follows the peers with whichever backend runs. Raises DatapathError: it has failed for good."""
        while True:
            self._gone_over.clear()
            running, gone_over = self._running, asyncio.create_task(self._gone_over.wait())
            tasks = {gone_over}
            if running is not None:
                tasks.add(asyncio.create_task(running.watch()))
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if not gone_over.done():
                    for task in tasks - {gone_over}:
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self, *, given_back: bool = False) -> None:
        """See :meth:`Backend.close`."""
        prepared = None if self._prepared is None else self._prepared.backend
        every = (self._running, prepared, self._begun)
        for backend in {id(each): each for each in every if each is not None}.values():
            await backend.close(given_back=given_back)
