"""The worker that carries Services' connections, as the daemon has it: the ports stay open here."""

from __future__ import annotations

import asyncio
import socket

from overlay.daemon.confined.helper import Helper
from overlay.daemon.confined.process import Command
from overlay.errors import NodeError
from overlay.services.proxy.userspace.link import Link
from overlay.services.proxy.userspace.messages import Status
from overlay.services.proxy.userspace.ports import Ports


class ProxyHelper(Helper[Link, Status]):
    """Serves ports.

    Attributes:
        ports: what it serves.
    """

    name = "services worker"
    failure = NodeError
    patience = 30.0  # a fifth of a second is usual

    def __init__(self) -> None:
        super().__init__()
        self.ports = Ports(self._changed)

    async def settled(self) -> None:
        """Returns once the worker serves the ports as they are: from then on it may be led to them.

        Raises:
            NodeError: it has ended, or does not answer.
        """
        if (link := self.link) is None:
            return  # the next one serves all of them before it is ready
        try:
            async with asyncio.timeout(self.patience):
                while True:
                    all_told = not link.is_behind
                    await link.control.ask()
                    if all_told:
                        return
        except TimeoutError:
            raise NodeError("does not answer", about=self.name) from None

    async def stop(self) -> None:
        """Ends the worker; ports close."""
        await super().stop()
        self.ports.close()

    def command(self) -> Command:
        """See :class:`~overlay.daemon.confined.helper.Helper`."""
        return Command(self.name, "overlay.services.proxy.userspace.worker")

    def connect(self, control: socket.socket) -> Link:
        """See :class:`~overlay.daemon.confined.helper.Helper`."""
        return Link(control, self.ports)

    def _changed(self, number: int) -> None:
        if self.link is not None:
            self.link.changed(number)
