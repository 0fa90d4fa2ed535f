"""What the agent sees around it: which interface is the underlay, and what the Network may collide with."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import NoReturn

from overlay import backends
from overlay.agent.settings import AgentSettings
from overlay.errors import InterfaceError
from overlay.linux.netlink import Netlink
from overlay.node import collision, interfaces
from overlay.node.collision import Surroundings
from overlay.node.interfaces import Ours, Underlay
from overlay.node.mtu import SettledMtu

_RESOLVE_SECONDS = 60.0
"""How old the addresses of etcd's members may be that are known by name."""

_DNS_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look found.

    Attributes:
        underlay: what was chosen; what was before, where nothing fits now.
        error: why nothing fits.
        fault: why nothing passes by the underlay.
    """

    underlay: Underlay | None
    error: InterfaceError | None
    surroundings: Surroundings
    fault: InterfaceError | None = None


class Lookout:
    """Looks at this machine when asked; remembers what it chose."""

    def __init__(self, settings: AgentSettings) -> None:
        self._selection = settings.selection
        self._devices = backends.devices(settings.backend)
        self._members = settings.etcd.members()
        self._etcd: frozenset[IPv4Address] = frozenset()
        self._mtu = SettledMtu()
        self._underlay: Underlay | None = None

    async def look(self, network: IPv4Network | None, remembered: frozenset[IPv4Network], now: float) -> Sight:
        """Chooses the underlay anew.

        Args:
            network: the overlay's, once etcd has told it.
            remembered: what was the overlay's before. A hint until then: if it leaves no underlay at all, it is wrong.
            now: seconds of a steady clock.
        """
        sight = await asyncio.to_thread(self._look, Ours(self._devices, network, remembered))
        if sight.underlay is None and network is None:
            sight = await asyncio.to_thread(self._look, Ours(self._devices))
        if sight.error is None and sight.underlay is not None:
            self._underlay = self._mtu.settle(sight.underlay, now)
        return replace(sight, underlay=self._underlay)

    def due(self, now: float) -> float | None:
        """In how many seconds a look is worth while although nothing changes; None if none is."""
        return self._mtu.due(now)

    def _look(self, ours: Ours) -> Sight:
        underlay, error = self._underlay, None
        with Netlink() as netlink:
            try:
                underlay = interfaces.choose(self._selection, netlink, ours, self._underlay)
            except InterfaceError as failure:
                error = failure
            fault = None if underlay is None else interfaces.fault(underlay, netlink.links())
            return Sight(underlay, error, collision.survey(netlink, ours, underlay, sorted(self._etcd)), fault)

    async def resolve(self) -> NoReturn:
        """Keeps the addresses of etcd's members, until cancelled; a name that cannot be resolved has none."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DNS_SECONDS):
                    found = await asyncio.gather(*(_addresses(member.host) for member in self._members))
                    self._etcd = frozenset().union(*found)
            await asyncio.sleep(_RESOLVE_SECONDS)


async def _addresses(host: str) -> frozenset[IPv4Address]:
    with suppress(ValueError):
        literal = ip_address(host)
        return frozenset({literal}) if isinstance(literal, IPv4Address) else frozenset()
    with suppress(OSError, UnicodeError):
        found = await asyncio.get_running_loop().getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
        return frozenset(IPv4Address(address[0]) for *_, address in found)
    return frozenset()
