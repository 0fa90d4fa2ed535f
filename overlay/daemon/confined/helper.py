"""One helper over all its lives: started on what it is given, told what it must know, replaced when it fails.

What a daemon's own helper is besides, a subclass says: what it runs, and how the two talk.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from overlay.daemon.confined.control import Control
from overlay.daemon.confined.process import Command, Process
from overlay.daemon.confined.supervision import Supervision
from overlay.errors import OverlayError

_log = logging.getLogger(__name__)

Report = TypeVar("Report")


class Link(Protocol):
    """The daemon's end of the control socket to one process.

    Attributes:
        control: the socket; it is ready when the process does its work.
    """

    control: Control[Any, Any, Any]


L = TypeVar("L", bound=Link)


class Helper(ABC, Generic[L, Report]):
    """A :class:`~overlay.daemon.confined.supervision.Charge` of which one process runs at a time.

    Attributes:
        name: for people.
        failure: the kind of error that it is to its owner when it does not work.
        patience: seconds that a process may take from its start until it does its work.
        failed: done, with ``failure``, when it could not be kept alive, or nobody looks after it any more.
        link: to the process that runs now; None while none does.
        said: what a process said of itself last; None before that.
    """

    name: ClassVar[str]
    failure: ClassVar[type[OverlayError]]
    patience: ClassVar[float]

    def __init__(self) -> None:
        self._supervision = Supervision(self.name, self, self.failure)
        self._process: Process | None = None
        self.failed = self._supervision.failed
        self.link: L | None = None
        self.said: Report | None = None

    @abstractmethod
    def command(self) -> Command:
        """What a new process runs. Raises OverlayError where there is nothing to run it on."""

    @abstractmethod
    def connect(self, control: socket.socket) -> L:
        """The link to a new process, by which it is told all that there is."""

    @property
    def pid(self) -> int | None:
        """Process id of the one that runs now."""
        return self._process.pid if self._process else None

    @property
    def restarts(self) -> int:
        """Deaths so far."""
        return self._supervision.restarts

    @property
    def trouble(self) -> OverlayError | None:
        """Why no other could be started when it was tried last; None since one was."""
        return self._supervision.trouble

    async def start(self) -> None:
        """Returns once a process does its work. Raises OverlayError where none does; nothing of it is left then."""
        await self._supervision.start()

    async def stop(self) -> None:
        """Ends it; nothing more is said of it."""
        await self._supervision.stop()

    async def ask(self, patience: float) -> Report | None:
        """How it is; None if it does not say within ``patience`` seconds."""
        if self.link is None:
            return None
        try:
            async with asyncio.timeout(patience):
                self.said = await self.link.control.ask()
        except (TimeoutError, OverlayError):
            return None
        return self.said

    # --- as a charge ---

    async def begin(self) -> None:
        """Starts a process. Raises OverlayError where it does not come up; ``failure``, where the process is why."""
        command = self.command()
        try:
            process = self._process = Process(command)
        except OSError as failure:
            raise self.failure(f"cannot start it: {failure.strerror}", about=self.name) from failure
        link = self.link = self.connect(process.control)
        try:
            async with asyncio.timeout(self.patience):
                detail = await asyncio.shield(link.control.ready)
        except (TimeoutError, OverlayError) as failure:
            cause = "ended before it was ready" if link.control.closed.is_set() else "does not come up"
            raise self.failure(cause, about=str(process), remedy="its own message is above") from failure
        _log.info("%s runs%s", process, f": {detail}" if detail else "")

    def end(self) -> None:
        """Ends it, however it is, and whether it was ever started."""
        if self.link is not None:
            self.link.control.close()
            self.link = None
        if self._process is not None:
            self._process.end()
            self._process = None

    async def died(self) -> None:
        """Waits until it has closed its end of the control socket."""
        assert self.link is not None
        await self.link.control.closed.wait()

    async def answers(self, patience: float) -> bool:
        """Whether it says how it is."""
        return await self.ask(patience) is not None
