"""Keeps one helper alive: starts another in its place when it dies or hangs, and gives up where there is no use in it.

Whatever a helper sends or does, it cannot end its own supervision.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from overlay.errors import OverlayError

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between a death and the next start: doubled each time, back to the first after STABLE seconds of life."""
STABLE = 30.0
MAX_DEATHS = 10
"""Deaths in a row, none of which came after STABLE seconds, that are beyond mending."""
HEARTBEAT = 2.0
"""Seconds between two questions to the helper."""
HANG = 10.0
"""Seconds without an answer after which a helper is taken to hang, and killed."""


class Charge(Protocol):
    """What is looked after: one helper at a time, of which its owner knows how to start and ask it."""

    @property
    def pid(self) -> int | None:
        """Process id of the one that runs now."""

    async def begin(self) -> None:
        """Starts one, and returns once it does its work. Raises OverlayError where it does not; :meth:`end` follows."""

    def end(self) -> None:
        """Ends it, however it is, and whether it was ever started."""

    async def died(self) -> None:
        """Waits until it has ended by itself."""

    async def answers(self, patience: float) -> bool:
        """Whether it answers within ``patience`` seconds."""


class _BeyondMendingError(Exception):
    """A helper died too often; the text says of what."""


class Supervision:
    """Looks after one charge, from :meth:`start` to :meth:`stop`.

    Args:
        name: of whatever the charge runs, for people.
        failure: the kind of error that it is to its owner when it cannot be kept alive.

    Attributes:
        failed: done, with ``failure``, when the charge could not be kept alive, or nobody looks after it any more.
        restarts: deaths so far.
        trouble: why no other could be started when it was tried last; None since one was.
    """

    def __init__(self, name: str, charge: Charge, failure: type[OverlayError]) -> None:
        self._name = name
        self._failure = failure
        self._charge = charge
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.restarts = 0
        self.trouble: OverlayError | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once the charge does its work.

        Raises:
            OverlayError: it did not come up; nothing of it is left.
        """
        try:
            await self._charge.begin()
        except BaseException:
            self._charge.end()
            raise
        self._task = asyncio.create_task(self._supervise(), name=self._name)

    async def stop(self) -> None:
        """Ends the charge; nothing more is said of it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._charge.end()

    async def _supervise(self) -> None:
        """Keeps a helper running until cancelled; whatever else ends this is in :attr:`failed`."""
        try:
            await self._keep_alive()
        except _BeyondMendingError as failure:
            self.failed.set_exception(self._failure(str(failure), about=self._name))
        except Exception as failure:
            logger.exception("%s: its supervision broke off", self._name)
            error = self._failure(f"its supervision broke off: {failure!r}", about=self._name)
            error.__cause__ = failure
            self.failed.set_exception(error)

    async def _keep_alive(self) -> None:
        """Starts a helper whenever there is none.

        Raises:
            _BeyondMendingError: there is no use in it.
        """
        loop = asyncio.get_running_loop()
        pause, deaths, since = FIRST_PAUSE, 0, loop.time()
        while True:
            cause = await self._until_it_fails()
            if loop.time() - since >= STABLE:
                pause, deaths = FIRST_PAUSE, 0
            while True:
                self._charge.end()
                self.restarts += 1
                deaths += 1
                if deaths > MAX_DEATHS:
                    raise _BeyondMendingError(f"{cause}, {deaths} times")
                logger.warning("%s %s; starting another in %.1f s", self._name, cause, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                since = loop.time()
                try:
                    await self._charge.begin()
                    self.trouble = None
                    break
                except (OverlayError, OSError) as failure:
                    known = failure if isinstance(failure, OverlayError) else self._failure(str(failure))
                    cause, self.trouble = known.cause, known

    async def _until_it_fails(self) -> str:
        """Returns what became of the helper: when it died, or does not answer any more."""
        charge, loop = self._charge, asyncio.get_running_loop()
        heard = loop.time()
        while loop.time() - heard < HANG:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await charge.died()
            except TimeoutError:
                if await charge.answers(HEARTBEAT):
                    heard = loop.time()
                continue
            return f"{charge.pid} died"
        return f"{charge.pid} hangs"
