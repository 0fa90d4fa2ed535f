"""One DNS worker on the sockets of port 53, told what it must know, replaced when it fails.

The sockets stay open here, so questions wait in them while there is no worker. How it is kept alive is
:mod:`overlay.daemon.confined.supervision`'s; what it is told, :mod:`.feed`'s.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from overlay.daemon.confined.process import Command, Process
from overlay.daemon.confined.supervision import Supervision
from overlay.errors import OverlayError, ServicesError
from overlay.services.dns.feed import Facts, Feed
from overlay.services.dns.messages import Settings, Status
from overlay.services.dns.zone import ServiceName

_log = logging.getLogger(__name__)

NAME = "DNS worker"
START_PATIENCE = 20.0
"""Seconds that a worker may take from its start until it answers; half of one is usual."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """Bound to the server's address and port 53."""

    udp: socket.socket
    tcp: socket.socket

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


class Helper:
    """A :class:`~overlay.daemon.confined.supervision.Charge`; the sockets are its to close.

    Args:
        loaded: whether the facts are all there is.
        upstream_port: at which upstreams answer.

    Attributes:
        failed: done, with ServicesError, when the worker could not be kept alive.
    """

    def __init__(
        self, sockets: Sockets, facts: Facts, settings: Settings, loaded: Callable[[], bool], upstream_port: int
    ) -> None:
        self.sockets = sockets
        self._facts = facts
        self._settings = settings
        self._loaded = loaded
        self._upstream_port = upstream_port
        self._process: Process | None = None
        self._feed: Feed | None = None
        self._supervision = Supervision(NAME, self, ServicesError)
        self.failed = self._supervision.failed

    @property
    def restarts(self) -> int:
        """Deaths so far."""
        return self._supervision.restarts

    @property
    def pid(self) -> int | None:
        """Process id of the worker that runs now."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Returns once it answers questions. Raises ServicesError if it does not come up."""
        await self._supervision.start()

    async def stop(self) -> None:
        """Ends the worker, and closes the sockets."""
        await self._supervision.stop()
        self.sockets.close()

    def settle(self, settings: Settings) -> None:
        """From now on it works by these."""
        if settings != self._settings:
            self._settings = settings
            if self._feed is not None:
                self._feed.settle(settings)

    def changed(self, names: Iterable[ServiceName], *, sets: bool) -> None:
        """See :meth:`Feed.changed`."""
        if self._feed is not None:
            self._feed.changed(names, sets=sets)

    async def ask(self, patience: float) -> Status | None:
        """How the worker is; None if it does not say within ``patience`` seconds."""
        if self._feed is None:
            return None
        try:
            async with asyncio.timeout(patience):
                return await self._feed.ask()
        except (TimeoutError, ServicesError):
            return None

    # --- for what keeps it alive ---

    async def begin(self) -> None:
        """Starts a worker; raises ServicesError where it does not come up."""
        descriptors = (self.sockets.udp.fileno(), self.sockets.tcp.fileno())
        command = Command(NAME, "overlay.services.dns.worker", descriptors, (str(self._upstream_port),))
        try:
            process = self._process = Process(command)
        except OSError as failure:
            raise ServicesError(f"cannot start it: {failure.strerror}", about=NAME) from failure
        self._feed = Feed(process.control, self._facts, self._settings, loaded=self._loaded())
        try:
            async with asyncio.timeout(START_PATIENCE):
                await asyncio.shield(self._feed.control.ready)
        except (TimeoutError, OverlayError) as failure:
            cause = "ended before it answered" if self._feed.control.closed.is_set() else "does not come up"
            raise ServicesError(cause, about=str(process), remedy="its own message is above") from failure
        _log.info("%s answers", process)

    def end(self) -> None:
        """Ends it, however it is."""
        if self._feed is not None:
            self._feed.control.close()
            self._feed = None
        if self._process is not None:
            self._process.end()
            self._process = None

    async def died(self) -> None:
        """Waits until it has closed its end of the control socket."""
        assert self._feed is not None
        await self._feed.control.closed.wait()

    async def answers(self, patience: float) -> bool:
        """Whether it says how it is."""
        return await self.ask(patience) is not None
