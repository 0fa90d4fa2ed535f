"""A flanneld in the network: what it does with leases, seen from outside, mistakes and all.

It takes the lease that has its address, or its subnet from before, or a free one, and creates a key only where there is
none. It renews by a new etcd lease and an unconditional put, exits when its lease is gone, and is started again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from random import Random

from overlay.store.contract import ABSENT, NO_LEASE, Compare, KeyRange, Put
from tests.simulation.clock import Clock
from tests.simulation.node import MARGIN, TTL
from tests.simulation.reading import CONFIG, SUBNETS, PoolFacts, owner_of, subnet_of
from tests.simulation.server import Server

LOOKS = 1.0
"""Seconds between two looks at what a real one is told by its watch."""

RETRY = 5.0
"""Seconds until a failed start or renewal is tried again."""


class Flanneld:
    """One daemon, started again whenever it exits.

    Attributes:
        subnet: what it has; also its memory (subnet.env).
        frozen_until: the world's time at which it goes on.
        on_overwrite: told of a key that it puts although somebody else has it.
    """

    def __init__(self, public_ip: IPv4Address, clock: Clock, server: Server, rng: Random) -> None:
        self.public_ip = public_ip
        self.subnet: IPv4Network | None = None
        self.frozen_until = 0.0
        self.on_overwrite: Callable[[str], None] = lambda key: None
        self._clock, self._server, self._rng = clock, server, rng
        self._leased = False
        self._renew_at = 0.0

    def run(self) -> None:
        """Starts, and goes on for ever."""
        wait = self.frozen_until - self._clock.now
        if wait <= 0:
            wait = self._step()
        self._clock.after(wait, self.run)

    def _step(self) -> float:
        """Does what is due; returns when to look again."""
        if not self._server.up:
            return LOOKS
        if not self._leased:
            self._leased = self._acquire()
            return LOOKS if self._leased else RETRY
        if not self._server.core.read(KeyRange(self._key, prefix=False), self._clock.now).items:
            self._leased = False  # "Lease has been revoked": it exits
            return self._rng.uniform(0.1, 15)
        if self._clock.now >= self._renew_at:
            self._put()
        return LOOKS

    @property
    def _key(self) -> str:
        assert self.subnet is not None
        return f"{SUBNETS.key}{self.subnet.network_address}-{self.subnet.prefixlen}"

    def _acquire(self) -> bool:
        config = self._server.core.read(CONFIG, self._clock.now).items
        try:
            pool = PoolFacts.read(config[0].value)
        except (IndexError, KeyError, ValueError):
            return False
        items = self._server.core.read(SUBNETS, self._clock.now).items
        for item in items:
            subnet = subnet_of(item.key)
            if owner_of(item.value).address != self.public_ip or subnet is None:
                continue
            if pool.has(subnet):
                self.subnet = subnet
                self._put()
                return True
            self._server.perform(lambda now, key=item.key: self._server.core.remove(key, now))  # type: ignore[misc]
        taken = [subnet for item in items if (subnet := subnet_of(item.key)) is not None]
        free = [each for each in pool.subnets() if not any(each.overlaps(other) for other in taken)]
        if not free:
            return False
        self.subnet = self.subnet if self.subnet in free else self._rng.choice(free)
        return self._put(Compare(self._key, ABSENT))

    def _put(self, *compares: Compare) -> bool:
        """A new etcd lease, and the key on it."""
        lease_id = self._rng.randrange(1, 2**63)
        value = json.dumps({"PublicIP": str(self.public_ip), "PublicIPv6": None}).encode()
        key = self._key
        was = self._server.core.read(KeyRange(key, prefix=False), self._clock.now).items

        def put(now: float) -> bool:
            self._server.core.grant(lease_id, TTL, now)
            return self._server.core.commit(compares, [Put(key, value, lease_id)], now).succeeded

        done = self._server.perform(put)
        self._renew_at = self._clock.now + TTL - MARGIN
        if was and (owner_of(was[0].value).address != self.public_ip or was[0].lease_id == NO_LEASE):
            self.on_overwrite(key)
        return done is True
