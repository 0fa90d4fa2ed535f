"""What IPVS has and what it should have, and the operations from the one to the other. Pure.

A server that is not wanted any more is one of three:

* of UDP: it goes at once. IPVS forgets its flows (``expire_nodest_conn``), and gives their next packet to another.
* of TCP and SCTP: it gets no new connections, and goes once those that it had have ended (kube-proxy's
  ``graceful_termination.go``). How long that may take IPVS knows: idle for 15 minutes, a connection is forgotten.
* one that drains: as before, of UDP too, for as long as it serves.

Services of others are seen and never changed, whatever stands at their address in the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from overlay.linux.ipvs import Real, Server, Service, Virtual
from overlay.services.proxy.ipvs.wanted import Claim, Claims, Pool
from overlay.services.table import PortName


@dataclass(frozen=True, slots=True)
class SetService:
    """A service as it should choose. ``new``: there is none yet."""

    virtual: Virtual
    scheduler: str
    persistence: int | None
    new: bool


@dataclass(frozen=True, slots=True)
class DeleteService:
    """A service with all of its servers."""

    virtual: Virtual


@dataclass(frozen=True, slots=True)
class SetServer:
    """A server and its weight. ``new``: the service does not have it yet."""

    virtual: Virtual
    real: Real
    weight: int
    new: bool


@dataclass(frozen=True, slots=True)
class DeleteServer:
    """A server of a service."""

    virtual: Virtual
    real: Real


Operation: TypeAlias = SetService | DeleteService | SetServer | DeleteServer


class Plan:
    """Compares what is wanted with what is there, and looks only at what may have changed.

    Args:
        found: all virtual services; those of ours are looked at once.
    """

    def __init__(self, found: Mapping[Virtual, Service]) -> None:
        self._held = dict(found)
        self._by_entry: dict[PortName, Claims] = {}
        self._claims: dict[Virtual, dict[PortName, Claim]] = {}
        self._looked_at = {virtual for virtual, each in found.items() if each.ours}
        self._leaving: set[Virtual] = set()
        self._others: set[Virtual] = set()
        self._failed: set[Virtual] = set()

    @property
    def held(self) -> Mapping[Virtual, Service]:
        """Services of ours, as they are once all operations were carried out."""
        return {virtual: each for virtual, each in self._held.items() if each.ours}

    @property
    def leaving(self) -> frozenset[Virtual]:
        """Where servers wait for the end of their connections."""
        return frozenset(self._leaving)

    @property
    def unsettled(self) -> bool:
        """Whether something depends on what is found the next time: it is to be given to :meth:`looked`."""
        return bool(self._leaving or self._others or self._failed)

    @property
    def others(self) -> frozenset[Virtual]:
        """Where a Service should be met, and is not: somebody else's virtual service stands there."""
        return frozenset(self._others)

    def want(self, name: PortName, claims: Claims) -> None:
        """What an entry wants from now on."""
        before = self._by_entry.pop(name, {})
        for virtual in before.keys() - claims.keys():
            del self._claims[virtual][name]
            if not self._claims[virtual]:
                del self._claims[virtual]
        for virtual, claim in claims.items():
            self._claims.setdefault(virtual, {})[name] = claim
        if claims:
            self._by_entry[name] = claims
        self._looked_at |= {each for each in {*before, *claims} if before.get(each) != claims.get(each)}

    def looked(self, found: Mapping[Virtual, Service]) -> None:
        """What is there now: connections have ended since. Whose a service is it is not asked: ours is what was."""
        ours = self.held
        self._held = {virtual: replace(each, ours=virtual in ours) for virtual, each in found.items()}
        self._looked_at |= self._leaving | self._others | self._failed

    def failed(self, virtual: Virtual) -> None:
        """The operation that was given last could not be done: what else is to be done at its address waits."""
        self._failed.add(virtual)

    def operations(self) -> Iterator[Operation]:
        """What is to be done, in its order; each counts as done once the next is asked for, unless it failed."""
        for virtual in sorted(self._looked_at):
            for each in (self._leaving, self._others, self._failed):
                each.discard(virtual)
            pool, held = self._pool(virtual), self._held.get(virtual)
            if held is not None and not held.ours:
                if pool is not None and pool.servers:
                    self._others.add(virtual)
                continue
            for operation in self._towards(virtual, pool, held):
                yield operation
                if virtual in self._failed:
                    break
                self._done(operation)
            left = self._held.get(virtual)
            if left is not None and pool is not None and left.servers.keys() - (pool.servers | pool.draining):
                self._leaving.add(virtual)
        self._looked_at.clear()

    def _pool(self, virtual: Virtual) -> Pool | None:
        """What is wanted at an address: its own Service's before a node port's."""
        claims = self._claims.get(virtual, {}).values()
        return next((each.pool for each in sorted(claims, key=lambda claim: claim.at_node_port)), None)

    @staticmethod
    def _towards(virtual: Virtual, pool: Pool | None, held: Service | None) -> Iterator[Operation]:
        if pool is None:
            if held is not None:
                yield DeleteService(virtual)
            return
        if held is None:
            if not pool.servers:
                return
            held = Service(pool.scheduler, pool.persistence)
            yield SetService(virtual, pool.scheduler, pool.persistence, True)
        elif (held.scheduler, held.persistence) != (pool.scheduler, pool.persistence):
            yield SetService(virtual, pool.scheduler, pool.persistence, False)
        for real in sorted(pool.servers):
            if (server := held.servers.get(real)) is None or server.weight != 1:
                yield SetServer(virtual, real, 1, server is None)
        left = len(held.servers.keys() - pool.servers)
        for real, server in sorted(held.servers.items()):
            if real in pool.servers:
                continue
            keeps_flows = real in pool.draining or virtual.protocol != "UDP"
            if keeps_flows and server.weight:
                yield SetServer(virtual, real, 0, False)
            elif not keeps_flows or (real not in pool.draining and not server.connections):
                yield DeleteServer(virtual, real)
                left -= 1
        if not left and not pool.servers:
            yield DeleteService(virtual)

    def _done(self, operation: Operation) -> None:
        virtual = operation.virtual
        if isinstance(operation, DeleteService):
            del self._held[virtual]
            return
        held = self._held.get(virtual) or Service("")
        servers = dict(held.servers)
        if isinstance(operation, SetService):
            held = replace(held, scheduler=operation.scheduler, persistence=operation.persistence)
        elif isinstance(operation, SetServer):
            known = servers.get(operation.real, Server())
            servers[operation.real] = replace(known, weight=operation.weight)
        else:
            del servers[operation.real]
        self._held[virtual] = replace(held, servers=servers)
