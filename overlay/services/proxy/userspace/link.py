"""The daemon's end of the control socket to one worker: has it serve the ports that there are.

What the worker *has* is remembered, what it *should have* is looked up when its turn comes, and only the difference is
told. So a worker that does not read costs no memory and holds up nobody, however often ports change.
"""

from __future__ import annotations

import logging
import socket
from functools import partial

from overlay.daemon.confined.control import Control
from overlay.errors import NodeError
from overlay.services.proxy.userspace import messages
from overlay.services.proxy.userspace.messages import (
    Ask,
    Change,
    Close,
    FromWorker,
    Open,
    Ready,
    Start,
    Status,
    ToWorker,
)
from overlay.services.proxy.userspace.ports import Ports, Wanted

_log = logging.getLogger(__name__)


class Link:
    """One worker's control socket on the running loop.

    Attributes:
        control: the socket; it is ready when the worker serves all ports that there were when it was made.
    """

    def __init__(self, control: socket.socket, ports: Ports) -> None:
        self._ports = ports
        self._has: dict[int, Wanted] = {}
        self._changed: dict[int, None] = dict.fromkeys(ports.numbers())
        self._started = False
        self.control: Control[ToWorker, FromWorker, Status] = Control(
            control, encode=messages.encode, more=self._more, question=Ask,
            decode=messages.decode_from_worker, take=self._take,
            complain=partial(_log.debug, "the services worker sent %s"),
            ended=lambda: NodeError("the services worker has ended"), largest=messages.LONGEST,
            handed_over=self._handed_over,
        )  # fmt: skip
        self.control.pump()

    @property
    def is_behind(self) -> bool:
        """Whether there are ports that may be otherwise than the worker was told."""
        return bool(self._changed)

    def changed(self, number: int) -> None:
        """A port may be otherwise, or gone; does not block."""
        self._changed[number] = None
        self.control.pump()

    def _more(self) -> ToWorker | None:
        while self._changed:
            number = next(iter(self._changed))
            del self._changed[number]
            if (told := self._difference(number)) is not None:
                return told
        if not self._started:
            self._started = True
            return Start()
        return None

    def _difference(self, number: int) -> ToWorker | None:
        """What makes the worker's port of that number be as it should; it counts as told."""
        had, port = self._has.pop(number, None), self._ports.get(number)
        if port is None:
            return None if had is None else Close(number)
        wanted = self._has[number] = port.wanted
        endpoints = wanted.endpoints[: messages.MOST_ENDPOINTS]
        if had is None:
            return Open(number, wanted.protocol, endpoints, wanted.affinity)
        return None if wanted == had else Change(number, endpoints, wanted.affinity)

    def _handed_over(self, told: ToWorker) -> tuple[int, ...]:
        if isinstance(told, Open) and (port := self._ports.get(told.number)) is not None:
            return (port.socket.fileno(),)
        return ()

    def _take(self, message: FromWorker) -> None:
        match message:
            case Ready():
                self.control.is_ready()
            case Status():
                self.control.answered(message.number, message)
