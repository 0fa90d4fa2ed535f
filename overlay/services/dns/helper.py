"""The DNS worker on the sockets of port 53, as the daemon has it.

The sockets stay open here, so questions wait in them while there is no worker. What it is told is :mod:`.feed`'s.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from overlay.daemon.confined.helper import Helper
from overlay.daemon.confined.process import Command
from overlay.errors import ServicesError
from overlay.services.dns.feed import Facts, Feed
from overlay.services.dns.messages import Settings, Status
from overlay.services.dns.zone import ServiceName


@dataclass(frozen=True, slots=True)
class Sockets:
    """Bound to the server's address and port 53."""

    udp: socket.socket
    tcp: socket.socket

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


class DnsHelper(Helper[Feed, Status]):
    """Answers questions; the sockets are its to close.

    Args:
        loaded: whether the facts are all there is.
        upstream_port: at which upstreams answer.
    """

    name = "DNS worker"
    failure = ServicesError
    patience = 20.0  # half a second is usual

    def __init__(
        self, sockets: Sockets, facts: Facts, settings: Settings, loaded: Callable[[], bool], upstream_port: int
    ) -> None:
        super().__init__()
        self.sockets = sockets
        self._facts = facts
        self._settings = settings
        self._loaded = loaded
        self._upstream_port = upstream_port

    async def stop(self) -> None:
        """Ends the worker, and closes the sockets."""
        await super().stop()
        self.sockets.close()

    def settle(self, settings: Settings) -> None:
        """From now on it works by these."""
        if settings != self._settings:
            self._settings = settings
            if self.link is not None:
                self.link.settle(settings)

    def changed(self, names: Iterable[ServiceName], *, sets: bool) -> None:
        """See :meth:`Feed.changed`."""
        if self.link is not None:
            self.link.changed(names, sets=sets)

    def command(self) -> Command:
        """See :class:`~overlay.daemon.confined.helper.Helper`."""
        descriptors = (self.sockets.udp.fileno(), self.sockets.tcp.fileno())
        return Command(self.name, "overlay.services.dns.worker", descriptors, (str(self._upstream_port),))

    def connect(self, control: socket.socket) -> Feed:
        """See :class:`~overlay.daemon.confined.helper.Helper`."""
        return Feed(control, self._facts, self._settings, loaded=self._loaded())
