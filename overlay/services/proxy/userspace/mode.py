"""The mode: the worker's ports stand in the endpoints' place, and nftables leads there as it would to them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from overlay.problem import Problem
from overlay.services.proxy.base import Applied, Mode
from overlay.services.proxy.userspace.helper import ProxyHelper
from overlay.services.proxy.userspace.messages import MOST_ENDPOINTS, Endpoint, Status
from overlay.services.proxy.userspace.ports import Ports, Wanted
from overlay.services.table import Backend, Entry, Place, PortName, Table

_PROTOCOLS = ("TCP", "UDP")


class UserspaceMode:
    """Services through a worker process (:class:`~overlay.services.proxy.base.Mode`).

    Args:
        beneath: the mode that leads connections to the worker's ports.
    """

    name = "userspace"

    def __init__(self, beneath: Mode) -> None:
        self.stands_on = (beneath.name, *beneath.stands_on)
        self._beneath = beneath
        self._helper: ProxyHelper | None = None

    async def probe(self) -> str:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        return await self._beneath.probe()

    async def apply(self, table: Table) -> Applied:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        address = address_of(table.place)
        if address is None:
            sentence = "this node has no address at which Services can be led to the worker"
            remedy = "give it one, as ip address add 192.0.2.1/32 dev lo, or choose another --proxy-mode"
            return Applied(problems=(Problem("proxy-address", sentence, remedy),))
        if self._helper is not None and self._helper.failed.done():
            await self.close()
        if self._helper is None:
            helper = ProxyHelper()
            await helper.start()
            self._helper = helper
        ports = self._helper.ports
        if changes := ports.want(wanted_in(table), address):
            await self._helper.settled()
        beneath = await self._beneath.apply(led_to(table, ports))
        ports.drop()
        return replace(beneath, changes=beneath.changes + changes)

    async def check(self) -> bool:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        if self._helper is None or self._helper.failed.done():
            return False
        return await self._beneath.check()

    async def remove(self) -> list[str]:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        await self.close()
        return []

    async def close(self) -> None:
        """Ends the worker, and so all connections: without the daemon this mode carries nothing."""
        if self._helper is not None:
            await self._helper.stop()
            self._helper = None
        await self._beneath.close()

    def remarks(self, entry: Entry) -> tuple[str, ...]:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        said = []
        if entry.protocol not in _PROTOCOLS:
            said.append(f"proxy mode userspace carries TCP and UDP alone: {entry.protocol} is left to nftables")
        if entry.scheduler not in ("", "rr"):
            said.append(f"proxy mode userspace gives each endpoint its turn: it has no scheduler {entry.scheduler}")
        if len(entry.cluster) > MOST_ENDPOINTS:
            said.append(f"proxy mode userspace uses {MOST_ENDPOINTS} endpoints alone, of {len(entry.cluster)}")
        return tuple(said)

    def facts(self) -> Mapping[str, object]:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        if self._helper is None:
            return {}
        said = self._helper.said or Status()
        return {
            "worker": {"pid": self._helper.pid, "restarts": self._helper.restarts},
            **{name: getattr(said, name) for name in said.__struct_fields__ if name != "number"},
            "beneath": {"mode": self._beneath.name, **self._beneath.facts()},
        }


def address_of(place: Place) -> str | None:
    """Where the worker is met: the same as long as the node has it. An address of the overlay is reached from pods
    whatever firewalls say about the underlay."""
    inside = [each for each in place.addresses if any(IPv4Address(each) in network for network in place.networks)]
    return min(inside or place.addresses, key=IPv4Address, default=None)


def wanted_in(table: Table) -> dict[Hashable, Wanted]:
    """The ports that are needed: one for each set of endpoints that a connection may be given to."""
    wanted: dict[Hashable, Wanted] = {}
    for name, entry in table.entries.items():
        if entry.protocol in _PROTOCOLS and entry.frontends:
            for local, backends in _sets(entry):
                endpoints: tuple[Endpoint, ...] = tuple((each.address, each.port) for each in backends)
                wanted[name, local] = Wanted(entry.protocol, endpoints, entry.affinity_seconds or 0)
    return wanted


def led_to(table: Table, ports: Ports) -> Table:
    """The table as nftables is to have it: whatever has endpoints has one, the worker's port for them."""

    def led(name: PortName, entry: Entry) -> Entry:
        if entry.protocol not in _PROTOCOLS or not entry.frontends:
            return entry
        through = {local: (Backend(ports.address, ports.at((name, local)), True),) for local, _ in _sets(entry)}
        return replace(
            entry, cluster=through.get(False, ()), local=through.get(True, ()), affinity_seconds=None, scheduler=""
        )

    return replace(table, entries={name: led(name, entry) for name, entry in table.entries.items()})


def _sets(entry: Entry) -> list[tuple[bool, tuple[Backend, ...]]]:
    """The sets of endpoints that are not empty, and are asked for; True for the local one."""
    found = [(False, entry.cluster)]
    if entry.internal_local or entry.external_local:
        found.append((True, entry.local))
    return [(local, backends) for local, backends in found if backends]
