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
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import replace
from ipaddress import IPv4Address
from random import Random

from overlay.control.engine import ControlSettings, ControlState, Engine, Span
from overlay.control.leases.allocator import Identity, Memory
from overlay.control.leases.keeper import Commit, Phase, ReadAgain, Revoke
from overlay.control.leases.view import LeaseView
from overlay.control.problem import ProblemLog
from overlay.errors import StoreError, StoreUnavailableError
from overlay.store.contract import Committed, Events, Store
from overlay.store.follower import Watch
from overlay.store.session import Grant, Refresh

__all__ = ["ControlPlane", "ControlSettings", "ControlState", "boottime"]

LONGEST_SLEEP = 10.0
"""Seconds that the keeper sleeps at most: asyncio's clock stands still in a suspended machine, ours goes on."""


def boottime() -> float:
    """Seconds since boot, suspended time counted, never set by anyone (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


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
    ) -> None:
        self._store = store
        self._clock = clock
        self._engine = Engine(settings, identity, memory, rng or Random())
        self._watches = {span: _Interruptible() for span in Span}
        self._published = asyncio.Event()
        self._wake = asyncio.Event()
        self._problem_log = ProblemLog(logging.getLogger(__name__))

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

    def set_public_ip(self, public_ip: IPv4Address) -> None:
        """This node is reachable under another address now: the lease is rewritten."""
        self.identify(replace(self._engine.keeper.identity, public_ip=public_ip))

    def identify(self, identity: Identity) -> None:
        """What this node says of itself has changed: the lease is rewritten."""
        if identity != self._engine.keeper.identity:
            self._engine.keeper.identify(identity)
            self._input()

    def check_again(self) -> None:
        """What ``check_config`` judges by has changed, so it may judge differently."""
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
                group.create_task(self._follow(span))
            group.create_task(self._keep())

    # --- tasks ---

    async def _follow(self, span: Span) -> None:
        while True:
            step = self._engine.next_step(span, self._clock())
            if isinstance(step, float):
                await asyncio.sleep(max(0.0, step - self._clock()))
                continue
            try:
                if isinstance(step, Watch):
                    await self._watches[span].run(self._watch(span, step.after))
                else:
                    snapshot = await self._store.read(self._engine.keys[span])
                    self._engine.loaded(span, snapshot, self._clock())
            except StoreError as error:
                self._engine.lost(span, error, self._clock())
            self._input()

    async def _watch(self, span: Span, after: int) -> None:
        """Hears of changes until the store has gone back in time; errors end it as well."""
        async with _closing(self._store.watch(self._engine.keys[span], after)) as batches:
            async for batch in batches:
                if not self._engine.heard(span, batch, self._clock()):
                    return
                if batch.events:
                    self._input()
        raise StoreUnavailableError("the watch has ended")

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            action = self._engine.next_action(self._clock())
            self._settle()
            if isinstance(action, ReadAgain):
                self._watches[Span.LEASES].interrupt()
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
        self._problem_log.update(self._engine.problems, self._clock())
        if self._engine.state.version != before:
            self._published.set()
            self._published = asyncio.Event()


class _Interruptible:
    """Something awaited that another task may end."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def run(self, work: Coroutine[None, None, None]) -> None:
        """Awaits ``work`` to its end, or until :meth:`interrupt`; its errors are raised here."""
        task = self._task = asyncio.create_task(work)
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    def interrupt(self) -> None:
        """Ends the work that is going on, if any is."""
        if self._task is not None:
            self._task.cancel()


@contextlib.asynccontextmanager
async def _closing(batches: AsyncIterator[Events]) -> AsyncIterator[AsyncIterator[Events]]:
    """Closes a watch at the end if it can be closed: an asynchronous generator would else wait for the collector."""
    try:
        yield batches
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()
