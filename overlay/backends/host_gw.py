"""flannel's host-gw backend: a route by each peer's own address, and nothing around the packets.

The nodes must be on one link, for the peer has to be the next hop itself (flannel: pkg/backend/hostgw,
pkg/backend/route_network.go). There is no device, and so no way of telling which peer a packet came from: what the
link's nodes send is trusted, as with flannel.

All routes are compared with all peers at every ``apply``, which netlink's events cause; of a new table of peers only
what differs from the last one is done, at once. :func:`aims` is pure.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import NoReturn

from overlay.backends.base import Applied, Desired, Flags
from overlay.backends.options import as_given
from overlay.daemon.threads import in_thread
from overlay.datapath.base import DatapathStatus
from overlay.errors import ConfigError, NodeError, PrivilegeError
from overlay.linux.netlink import Netlink
from overlay.linux.routes import Route, RouteTable
from overlay.model import EMPTY_PEERS, Advertisement, BackendConfig, NetworkConfig, Peer, PeerTable
from overlay.node import routes
from overlay.node.interfaces import Underlay
from overlay.node.removal import Removal
from overlay.node.routes import Difference, Outcome
from overlay.packet.mtu import inner_mtu
from overlay.problem import Problem

MAX_NAMED = 20
"""Peers that are named to people as out of reach; of more than these only the number is told."""

_REASON = "the network's Backend.Type"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Link:
    """The underlay's: its interface, and the networks that the routing table says are on it."""

    index: int
    interface: str
    networks: tuple[IPv4Network, ...]

    @classmethod
    def of(cls, underlay: Underlay, present: Iterable[Route]) -> Link:
        """As the routes ``present`` say."""
        here = (route for route in present if route.index == underlay.index and route.gateway is None)
        return cls(underlay.index, underlay.interface, tuple(route.destination for route in here))


@dataclass(frozen=True, slots=True)
class Aims:
    """What peers come to on one link, by subnet: a route to each that is on it, and those that are not."""

    routes: Mapping[IPv4Network, Route]
    remote: Mapping[IPv4Network, Peer]


def aims(peers: Iterable[Peer], link: Link, device: str) -> Aims:
    """The routes to ``peers``; ``device`` is this agent's, by whose name it knows them again."""
    on_link = [(int(network.netmask), int(network.network_address)) for network in link.networks]
    found: dict[IPv4Network, Route] = {}
    remote: dict[IPv4Network, Peer] = {}
    for peer in peers:
        address = int(peer.public_ip)
        if any(address & mask == base for mask, base in on_link):
            found[peer.subnet] = routes.peer_route(peer.subnet, peer.public_ip, link.index, device)
        else:
            remote[peer.subnet] = peer
    return Aims(found, remote)


@dataclass(frozen=True, slots=True)
class _Done:
    """What was last done, to which the next table of peers is the difference.

    Attributes:
        refused: why a route is not there.
    """

    underlay: Underlay
    link: Link
    table: PeerTable
    aims: Aims
    refused: Mapping[Route, NodeError]


class HostGwBackend:
    """See :class:`overlay.backends.base.Backend`. Its lease says its type; the gateway is its public IP."""

    type = "host-gw"
    devices: frozenset[str] = frozenset()

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._table = EMPTY_PEERS
        self._new_table = asyncio.Event()
        self._done: _Done | None = None
        self._turn = asyncio.Lock()

    def options(self, backend: BackendConfig) -> Mapping[str, object]:
        return as_given(backend)

    def check(self, config: NetworkConfig) -> None:
        if config.ipv4 is None:
            raise ConfigError(
                "the host-gw backend carries IPv4 only", about="EnableIPv4 false", remedy="enable IPv4 in the config"
            )

    async def anticipate(self) -> bool:
        return False

    async def prepare(self, config: NetworkConfig, underlay: Underlay) -> Advertisement:
        return Advertisement(self.type)

    async def apply(self, desired: Desired) -> Applied:
        underlay = desired.underlay
        mtu = inner_mtu(underlay.mtu, self._flags.mtu, overhead=0)
        async with self._turn:
            outcome = await in_thread(self._do_all, underlay)
        return Applied(mtu, underlay.interface, outcome.changes, outcome.failures)

    def set_peers(self, table: PeerTable) -> None:
        self._table = table
        self._new_table.set()

    async def watch(self) -> NoReturn:
        while True:
            await self._new_table.wait()
            self._new_table.clear()
            async with self._turn:
                if self._done is None:
                    continue
                try:
                    outcome = await in_thread(self._do_what_is_new, self._done)
                except PrivilegeError:
                    raise
                except NodeError as error:
                    _log.info("%s; looking again soon", error)  # as apply does, which tells what stays wrong
                    continue
            for change in (*outcome.changes, *outcome.failures):
                _log.info("%s", change)

    async def status(self) -> DatapathStatus:
        done = self._done
        if done is None:
            return DatapathStatus(self.type, running=False, detail="no routes yet", reason=_REASON)
        there = len(done.aims.routes) - len(done.refused)
        detail = f"{there} routes by {done.link.interface}"
        return DatapathStatus(self.type, True, detail, reason=_REASON, problems=tuple(_problems(done)))

    async def close(self, *, given_back: bool = False) -> None:
        async with self._turn:
            self._done = None
            if given_back:
                for line in await in_thread(lambda: list(self._remove())):
                    _log.info("%s", line)

    def removals(self) -> tuple[Removal, ...]:
        return (Removal("routes", self._remove),)

    def _do_all(self, underlay: Underlay) -> Outcome:
        """Compares all routes with all peers, and does what differs. Raises NodeError."""
        table = self._table
        with RouteTable() as kernel:
            present = kernel.routes()
            link = Link.of(underlay, present)
            wanted = aims(table.peers.values(), link, self._flags.device)
            difference = routes.compare(wanted.routes.values(), present, self._is_ours)
            outcome = routes.carry_out(difference, kernel, lambda _: link.interface)
        self._done = _Done(underlay, link, table, wanted, outcome.refused)
        return outcome

    def _do_what_is_new(self, done: _Done) -> Outcome:
        """The same where only peers have changed: what is done costs as much as their number. Raises NodeError."""
        table, before = self._table, done.table.peers
        after = table.peers
        changed = [peer for subnet, peer in after.items() if before.get(subnet) is not peer]
        ended = [subnet for subnet, peer in before.items() if after.get(subnet) is not peer]
        new = aims(changed, done.link, self._flags.device)
        routed, remote = dict(done.aims.routes), dict(done.aims.remote)
        gone = {subnet: route for subnet in ended if (route := routed.pop(subnet, None)) is not None}
        for subnet in ended:
            remote.pop(subnet, None)
        add = tuple(route for subnet, route in new.routes.items() if gone.get(subnet) != route)
        replaced = tuple(gone[route.destination] for route in add if route.destination in gone)
        stale = tuple(route for subnet, route in gone.items() if subnet not in new.routes)
        with RouteTable() as kernel:
            outcome = routes.carry_out(Difference(replaced, add, stale), kernel, lambda _: done.link.interface)
        if outcome.refused:  # by what a look at all knows better
            again = self._do_all(done.underlay)
            return replace(again, changes=(*outcome.changes, *again.changes))
        refused = {route: error for route, error in done.refused.items() if routed.get(route.destination) == route}
        wanted = Aims(routed | dict(new.routes), remote | dict(new.remote))
        self._done = _Done(done.underlay, done.link, table, wanted, refused)
        return outcome

    def _is_ours(self, route: Route) -> bool:
        return routes.is_peer_route(route, self._flags.device)

    def _remove(self) -> Iterator[str]:
        with Netlink() as netlink, RouteTable() as kernel:
            names = {link.index: link.name for link in netlink.links()}
            yield from routes.remove(kernel, self._is_ours, lambda index: names.get(index or 0, "?"))


def _problems(done: _Done) -> Iterator[Problem]:
    """A problem a peer that is not reached; of many the first, and how many more there are."""
    found = [_remote(peer, done.link) for _, peer in sorted(done.aims.remote.items())]
    refused = sorted(done.refused.items(), key=lambda item: item[0].destination)
    found += [Problem.of(error, "route", after="trying again") for _, error in refused]
    yield from found[:MAX_NAMED]
    if (more := len(found) - MAX_NAMED) > 0:
        yield Problem("peers", f"{more} more peers are without a route", "look at those that are named")


def _remote(peer: Peer, link: Link) -> Problem:
    return Problem(
        "not-on-link",
        f"no route to peer {peer.subnet}: its node {peer.public_ip} is not on the link of {link.interface}",
        "host-gw needs all nodes on one link: move it there, see that it has --iface and --public-ip of that link, or "
        "take another Backend.Type",
        about=str(peer.subnet),
    )
