"""The control plane at work: an :class:`Engine` driven against a store, and one state for the rest of the agent.

Everything that decides is pure and elsewhere; here are the tasks, the clock and the log. The agent runs
:meth:`ControlPlane.run` and awaits :meth:`ControlPlane.changed` in a loop::

    state = plane.state
    while True:
        ...  # make the node match state
        state = await plane.changed(state.version)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from random import Random

from overlay.control.engine import ControlSettings, ControlState, Engine, Span
from overlay.control.leases.allocator import Identity, Memory
from overlay.control.leases.state import Commit, Phase, ReadAgain, Revoke
from overlay.control.leases.view import LeaseView
from overlay.daemon.clock import boottime
from overlay.daemon.troubles import Troubles
from overlay.errors import StoreError
from overlay.store.contract import Committed, Store
from overlay.store.following import Following
from overlay.store.session import Grant, Refresh

__all__ = ["ControlPlane", "ControlSettings", "ControlState"]

LONGEST_SLEEP = 10.0
"""Seconds that the keeper sleeps at most: asyncio's clock stands still in a suspended machine, ours goes on."""


class ControlPlane:
    """Keeps our lease and knows the peers, for as long as :meth:`run` runs. Used from one event loop only."""

    def __init__(
        self,
        store: Store,
        settings: ControlSettings,
        identity: Identity,
        memory: Memory | None = None,
        *,
        clock: Callable[[], float] = boottime,
        rng: Random | None = None,
        troubles: Troubles | None = None,
    ) -> None:
        """
        Args:
            troubles: where to tell what is wrong; by default, the log alone hears of it.
        """
        self._store = store
        self._clock = clock
        self._engine = Engine(settings, identity, memory, rng or Random())
        self._following = {span: Following(store, self._engine.follows(span), clock, self._input) for span in Span}
        self._published = asyncio.Event()
        self._wake = asyncio.Event()
        self._troubles = troubles or Troubles(clock)

    # --- for the agent ---

    @property
    def state(self) -> ControlState:
        """The newest state; its ``last_contact`` is always up to date and alone makes no new version."""
        return replace(self._engine.state, last_contact=self._engine.last_contact())

    @property
    def view(self) -> LeaseView:
        """Every lease that the store shows, own and foreign; to be read, not changed."""
        return self._engine.view

    async def changed(self, since: int) -> ControlState:
        """The newest state, as soon as its version is above ``since``. Bursts are coalesced, nothing is lost."""
        while self._engine.state.version <= since:
            await self._published.wait()
        return self.state

    def identify(self, identity: Identity) -> None:
        """What this node says of itself has changed: the lease is rewritten."""
        if identity != self._engine.keeper.identity:
            self._engine.keeper.identify(identity)
            self._input()

    def check_again(self) -> None:
        """What ``check_config`` judges by, or ``advertise`` tells, has changed."""
        self._engine.check_again()
        self._input()

    async def release(self) -> None:
        """Gives our subnet back (not a reservation) and ends our etcd lease; :meth:`run` must be running.

        Goes on trying until it is done, so the caller sets the limit (``asyncio.timeout``).
        """
        self._engine.keeper.release()
        self._input()
        while self._engine.state.phase is not Phase.RELEASED:
            await self._published.wait()

    async def run(self) -> None:
        """Works until cancelled. No state of the store ends it."""
        async with asyncio.TaskGroup() as group:
            for span in Span:
                group.create_task(self._following[span].run())
            group.create_task(self._keep())

    # --- tasks ---

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            action = self._engine.next_action(self._clock())
            self._settle()
            if isinstance(action, ReadAgain):
                self._following[Span.LEASES].interrupt()
            elif isinstance(action, float):
                await self._sleep(action - self._clock())
            else:
                await self._carry_out(action)

    async def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(seconds, LONGEST_SLEEP)):  # wait_for can swallow a cancellation
                    await self._wake.wait()

    async def _carry_out(self, action: Grant | Refresh | Commit | Revoke) -> None:
        result: Committed | int | None = None
        try:
            match action:
                case Grant(lease_id, ttl):
                    await self._store.grant(lease_id, ttl)
                case Refresh(lease_id):
                    result = await self._store.refresh(lease_id)
                case Commit(_, compares, operations):
                    result = await self._store.commit(compares, operations)
                case Revoke(lease_id):
                    await self._store.revoke(lease_id)
        except StoreError as error:
            self._engine.failed(error, self._clock())
        else:
            self._engine.completed(result, self._clock())

    # --- publishing ---

    def _input(self) -> None:
        """Something came in from outside: the keeper may have something to do."""
        self._wake.set()
        self._settle()

    def _settle(self) -> None:
        before = self._engine.state.version
        if self._engine.settle():
            self._wake.set()
        self._troubles.found("control.plane", self._engine.state.problems)
        if self._engine.state.version != before:
            self._published.set()
            self._published = asyncio.Event()
