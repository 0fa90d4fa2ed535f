"""The driver of a :class:`~overlay.store.follower.Follower`: tasks, clock and store for what decides without them.

Who follows a range is a :class:`Follows`; a :class:`Following` asks it what to do, does that, and tells it what came of
it, for ever::

    following = Following(store, view, clock, view_has_changed)
    await following.run()
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import NoReturn, Protocol

from overlay.errors import StoreError, StoreRestoredError, StoreUnavailableError
from overlay.store.contract import Events, KeyRange, Snapshot, Store
from overlay.store.follower import Read, Watch
from overlay.store.recall import Recall


class Follows(Protocol):
    """One range's read-and-watch loop and what it feeds, to be driven. Times are of the driver's clock."""

    @property
    def span(self) -> KeyRange:
        """The range."""

    def next_step(self, now: float) -> Read | Watch | float:
        """What to do; see :meth:`Follower.next`."""

    def loaded(self, snapshot: Snapshot, now: float) -> None:
        """The read was answered."""

    def recall(self) -> Recall | None:
        """What the store must remember before a watch counts; None once it has. See :meth:`Follower.recall`."""

    def proved(self, now: float) -> None:
        """The watch stands, and the store remembers that."""

    def heard(self, batch: Events, now: float) -> bool:
        """The watch brought a batch. False: end the watch and ask :meth:`next_step`."""

    def lost(self, error: StoreError, now: float) -> None:
        """The read failed or the watch ended."""


class Following:
    """Drives one :class:`Follows` against a store.

    Args:
        told: called after everything that was told to ``follows``, but for a watch's signs of life.
    """

    def __init__(
        self, store: Store, follows: Follows, clock: Callable[[], float], told: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._follows = follows
        self._clock = clock
        self._told = told
        self._watch = _Interruptible()

    def interrupt(self) -> None:
        """Ends a watch that is going on; what is next is asked for then."""
        self._watch.interrupt()

    async def run(self) -> NoReturn:
        """Follows until cancelled. No state of the store ends it."""
        while True:
            step = self._follows.next_step(self._clock())
            if isinstance(step, float):
                await asyncio.sleep(max(0.0, step - self._clock()))
                continue
            try:
                if isinstance(step, Watch):
                    await self._watch.run(self._hear(step.after))
                else:
                    # Kept in no variable: it would stay there for as long as the watch that follows lasts.
                    self._follows.loaded(await self._store.read(self._follows.span), self._clock())
            except StoreError as error:
                self._follows.lost(error, self._clock())
            self._told()

    async def _hear(self, after: int) -> None:
        """Hears of changes, once the store has proved its past, until it has gone back in time, or an error ends it."""
        async with _closing(self._store.watch(self._follows.span, after)) as batches:
            async for batch in batches:
                if (known := self._follows.recall()) is not None:  # the watch stands, and nothing of it is used yet
                    past = await self._store.recall(self._follows.span, known.revision, known.keys)
                    if not known.agrees(past):
                        raise StoreRestoredError
                    self._follows.proved(self._clock())
                    self._told()
                if not self._follows.heard(batch, self._clock()):
                    return
                if batch.events:
                    self._told()
        raise StoreUnavailableError("the watch has ended")


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
