"""Keeps one worker alive, and tells it what it must know, in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque

from overlay.daemon.confined.process import Command, Process
from overlay.daemon.confined.supervision import Supervision
from overlay.errors import NodeError
from overlay.services.proxy.userspace import messages
from overlay.services.proxy.userspace.messages import Ask, Instruction, Status
from overlay.services.proxy.userspace.ports import Ports

_log = logging.getLogger(__name__)

NAME = "services worker"
START_PATIENCE = 30.0
"""Seconds that a worker may take from its start until it answers; a fifth of one is usual."""


class Helper:
    """A :class:`~overlay.daemon.confined.supervision.Charge`.

    Attributes:
        ports: what it serves.
        status: what it said of itself last.
    """

    def __init__(self) -> None:
        self.ports = Ports(self._tell)
        self.status = Status()
        self._supervision = Supervision(NAME, self, NodeError)
        self._process: Process | None = None
        self._link: _Link | None = None

    @property
    def failed(self) -> asyncio.Future[None]:
        """Done, with NodeError, when the worker could not be kept alive."""
        return self._supervision.failed

    @property
    def restarts(self) -> int:
        """Deaths so far."""
        return self._supervision.restarts

    async def start(self) -> None:
        """Returns once it answers. Raises NodeError if it does not come up."""
        await self._supervision.start()

    async def stop(self) -> None:
        """Ends the worker; ports close."""
        await self._supervision.stop()
        self.ports.close()

    # --- as a charge --------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Process id of the worker that runs now."""
        return self._process.pid if self._process else None

    async def begin(self) -> None:
        """Starts one, and tells it all ports. Raises NodeError."""
        try:
            self._process = Process(Command(NAME, "overlay.services.proxy.userspace.worker"))
        except OSError as error:
            raise NodeError(f"cannot be started: {error.strerror}", about=NAME) from error
        self._link = _Link(self._process.control)
        for told, handed_over in self.ports.all():
            self._link.tell(told, handed_over)
        if not await self.answers(START_PATIENCE):
            raise NodeError("does not answer", about=NAME)

    def end(self) -> None:
        """See :class:`~overlay.daemon.confined.supervision.Charge`."""
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            self._process.control.close()
            self._process.end()
        self._link = self._process = None

    async def died(self) -> None:
        """Waits until its control socket ends."""
        assert self._link is not None
        await self._link.ended.wait()

    async def answers(self, patience: float) -> bool:
        """Whether it says how it is in time, behind all that it was told."""
        link = self._link
        if link is None:
            return False
        link.answer.clear()
        link.tell(Ask(), None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await link.answer.wait()
                self.status = link.status
                return not link.ended.is_set()
        return False

    def _tell(self, told: Instruction, handed_over: socket.socket | None) -> None:
        if self._link is not None:
            self._link.tell(told, handed_over)


class _Link:
    """The control socket: instructions wait here while the worker is busy."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, int | None]] = deque()
        self.ended = asyncio.Event()
        self.answer = asyncio.Event()
        self.status = Status()
        control.setblocking(False)
        self._loop.add_reader(control, self._read)

    def tell(self, told: Instruction, handed_over: socket.socket | None) -> None:
        """Sends it, or has it wait its turn; the descriptor is a copy, so that the socket may be closed meanwhile."""
        self._waiting.append((messages.encode(told), None if handed_over is None else os.dup(handed_over.fileno())))
        self._write()

    def close(self) -> None:
        """Nothing more is sent or read."""
        self._loop.remove_reader(self._control)
        self._loop.remove_writer(self._control)
        for _, descriptor in self._waiting:
            if descriptor is not None:
                os.close(descriptor)
        self._waiting.clear()

    def _write(self) -> None:
        while self._waiting:
            data, descriptor = self._waiting[0]
            try:
                if descriptor is None:
                    self._control.send(data)
                else:
                    socket.send_fds(self._control, [data], [descriptor])
            except BlockingIOError:
                self._loop.add_writer(self._control, self._write)
                return
            except OSError as error:  # it has died, which the reader sees as well; or one message is too long
                _log.warning("%s was not told: %s", NAME, error.strerror)
            self._waiting.popleft()
            if descriptor is not None:
                os.close(descriptor)
        self._loop.remove_writer(self._control)

    def _read(self) -> None:
        try:
            data = self._control.recv(messages.LONGEST)
            if data:
                self.status = messages.decode_status(data)
                self.answer.set()
                return
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            _log.warning("%s speaks nonsense: %s", NAME, error)
        self._loop.remove_reader(self._control)
        self.ended.set()
