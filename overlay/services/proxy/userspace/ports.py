"""The daemon's side of the ports: a socket for each pool of endpoints, which stays while workers come and go.

Connections wait in it while there is no worker, and the number by which nftables leads to it stays the same.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from overlay.errors import NodeError
from overlay.services.proxy.userspace.messages import WAITING, Endpoint


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pool: what is served at one port.

    Attributes:
        affinity: seconds; 0 for none.
    """

    protocol: str
    endpoints: tuple[Endpoint, ...]
    affinity: int = 0


@dataclass(slots=True)
class Port:
    """One that is open."""

    number: int
    socket: socket.socket
    wanted: Wanted


@dataclass(slots=True)
class Ports:
    """All of them, at one address.

    Args:
        changed: called with the number of each port that is opened, changed or closed.
    """

    changed: Callable[[int], None]
    address: str = ""
    _ports: dict[Hashable, Port] = field(default_factory=dict)
    _leaving: list[Port] = field(default_factory=list)
    _numbered: dict[int, Port] = field(default_factory=dict)
    _next: int = 0

    def want(self, wanted: Mapping[Hashable, Wanted], address: str) -> int:
        """Makes these be open; returns how many changed. Others stay open until :meth:`drop`.

        Raises:
            NodeError: no more sockets; those that are open stay.
        """
        if address != self.address:
            self._leaving += self._ports.values()
            self._ports.clear()
            self.address = address
        changes = 0
        for name, each in wanted.items():
            port = self._ports.get(name)
            if port is None:
                self._open(name, each)
            elif port.wanted != each:
                port.wanted = each
                self.changed(port.number)
            else:
                continue
            changes += 1
        self._leaving += [self._ports.pop(name) for name in list(self._ports) if name not in wanted]
        return changes + len(self._leaving)

    def drop(self) -> None:
        """Closes what was not wanted the last time: nothing leads there any more."""
        while self._leaving:
            port = self._leaving.pop()
            del self._numbered[port.number]
            port.socket.close()
            self.changed(port.number)

    def at(self, name: Hashable) -> int:
        """The port's number at its address."""
        return int(self._ports[name].socket.getsockname()[1])

    def numbers(self) -> list[int]:
        """Of all that are open."""
        return list(self._numbered)

    def get(self, number: int) -> Port | None:
        """The one of that number; None where it is not open."""
        return self._numbered.get(number)

    def close(self) -> None:
        """Closes all."""
        self._leaving += self._ports.values()
        self._ports.clear()
        self.drop()

    def _open(self, name: Hashable, wanted: Wanted) -> None:
        kind = socket.SOCK_STREAM if wanted.protocol == "TCP" else socket.SOCK_DGRAM
        made = socket.socket(socket.AF_INET, kind)
        try:
            made.bind((self.address, 0))
            if wanted.protocol == "TCP":
                made.listen(WAITING)  # at once: nobody is refused until the worker looks
        except OSError as error:
            made.close()
            raise NodeError(f"no port for it: {error.strerror}", about=str(name)) from error
        self._next += 1
        self._ports[name] = self._numbered[self._next] = Port(self._next, made, wanted)
        self.changed(self._next)
