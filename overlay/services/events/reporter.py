"""Writes what :func:`~overlay.services.events.reporting.plan` finds is to be told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from random import Random
from typing import Any

from overlay.daemon.lifetime import Daemon
from overlay.daemon.occasions import Occasion
from overlay.daemon.reconcile import Look
from overlay.services.events.reporting import TTL, Remark, plan
from overlay.services.mirror import ServicesMirror
from overlay.store.contract import Store

PAUSE_SECONDS = 5.0
"""From one transaction to the next at least; meanwhile the mirror hears of it."""

_EVERY_SECONDS = 60.0
"""How long an Event that somebody deleted stays away."""


class Reporter:
    """Tells Services' owners what the proxy of this node cannot do for them.

    Args:
        holds_name: whether this node's name is its own; of two machines of one name one alone tells.
        now: the wall clock, for an Event's times are for people, and of other machines.
    """

    def __init__(
        self, store: Store, mirror: ServicesMirror, rng: Random, holds_name: Callable[[], bool],
        *, node: str, now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        self._store = store
        self._mirror = mirror
        self._rng = rng
        self._holds_name = holds_name
        self._node = node
        self._now = now
        self._occasion = Occasion()
        self._remarks = frozenset[Remark]()
        self._left_out = 0

    def start(self, daemon: Daemon) -> None:
        """Starts the loop of a daemon that runs."""
        daemon.keep("events", self.look, every=_EVERY_SECONDS, occasion=self._occasion)

    def say(self, remarks: Iterable[Remark]) -> None:
        """All that is to be told from now on."""
        news = frozenset(remarks)
        if news != self._remarks:
            self._remarks = news
            self._occasion.tell()

    def facts(self) -> dict[str, Any]:
        """What ``overlay services --status`` says of it."""
        return {"remarks": len(self._remarks), "left_out": self._left_out}

    async def look(self) -> Look:
        """Writes what is due. Raises StoreError where the store does not let it."""
        if not (self._mirror.loaded and self._holds_name()):
            return Look(due=PAUSE_SECONDS)
        wanted = plan(self._mirror, self._remarks, self._node, self._now(), self._rng)
        self._left_out = wanted.left_out
        if not wanted.events:
            return Look(due=wanted.due)
        lease_id = self._rng.randrange(1, 2**63)
        await self._store.grant(lease_id, TTL)
        done = await self._store.commit(wanted.compares, wanted.operations(lease_id))
        if not done.succeeded:  # another node was faster, or a Service has changed: the mirror will show it
            await self._store.revoke(lease_id)
        return Look(due=PAUSE_SECONDS)
