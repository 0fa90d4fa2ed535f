"""Who the peers are: every lease of the network that is not ours, is of our backend and makes sense.

Pure and incremental: told which keys of the :class:`LeaseView` changed, it looks at those alone. What cannot be a peer
is left out, counted and named, and affects nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network
from types import MappingProxyType

from overlay.control.leases.allocator import Identity
from overlay.control.leases.view import LeaseView
from overlay.control.schema.lease import LeaseRecord
from overlay.errors import LeaseFormatError
from overlay.model import EMPTY_PEERS, NetworkConfig, Peer, PeerTable
from overlay.problem import Problem

MAX_PROBLEMS = 20
"""Leases that are named to people as unusable; of more than these only the number is told."""


class Membership:
    """Keeps the peer table up to date with the view."""

    def __init__(self, view: LeaseView) -> None:
        self._view = view
        self._config: NetworkConfig | None = None
        self._identity: Identity | None = None
        self._own: IPv4Network | None = None
        self._candidates: dict[str, Peer] = {}
        self._peers: dict[IPv4Network, Peer] = {}
        self._problems: dict[str, Problem] = {}
        self._table: PeerTable | None = EMPTY_PEERS

    def reconsider(self, config: NetworkConfig | None, identity: Identity, own: IPv4Network | None) -> None:
        """Judges every lease anew if what they are judged by is not what it was."""
        if (config, identity, own) == (self._config, self._identity, self._own):
            return
        self._config, self._identity, self._own = config, identity, own
        self._candidates.clear()
        self._peers.clear()
        self._problems.clear()
        self.update([*self._view.records, *self._view.malformed])
        self._table = None

    def update(self, keys: Iterable[str]) -> None:
        """Judges the leases at ``keys``, which appeared, changed or went."""
        for key in keys:
            before = self._candidates.pop(key, None)
            self._problems.pop(key, None)
            after = self._judge(key)
            if after is not None:
                self._candidates[key] = after
            if before != after:
                for peer in (before, after):
                    if peer is not None:
                        self._settle(peer.subnet)

    @property
    def table(self) -> PeerTable:
        """The peers as of now; the same object until something changes."""
        if self._table is None:
            self._table = PeerTable(self._own, MappingProxyType(self._peers.copy()))
        return self._table

    @property
    def skipped(self) -> int:
        """How many keys are malformed, or are leases that nobody can be reached by."""
        return len(self._problems)

    def problems(self) -> list[Problem]:
        """What was left out that should not be there: the first few by key, and how many more there are."""
        shown = [self._problems[key] for key in sorted(self._problems)[:MAX_PROBLEMS]]
        more = len(self._problems) - len(shown)
        if more:
            sentence = f"{more} more leases are malformed or unusable"
            shown.append(Problem("leases", sentence, "delete or correct their keys in etcd", about="leases"))
        return shown

    def _judge(self, key: str) -> Peer | None:
        if (error := self._view.malformed.get(key)) is not None:
            self._skip(key, error)
            return None
        record = self._view.record(key)
        config, identity = self._config, self._identity
        if record is None or config is None or config.ipv4 is None or identity is None:
            return None
        lease = record.lease
        if lease.public_ip == identity.public_ip or (lease.node_id == identity.node_id and lease.subnet == self._own):
            # Ours, or in conflict with ours, which is the keeper's to tell. Another machine with our node id is told of
            # there too, and is a peer all the same: its containers are as good as any.
            return None
        if lease.backend_type != config.backend.type:
            return None
        if not lease.subnet.subnet_of(config.ipv4.network):
            self._skip(key, _unusable(record, f"is not inside the network {config.ipv4.network}"))
            return None
        if lease.public_ip in config.ipv4.network:
            # What is sent there would go through the tunnel, and round again.
            self._skip(key, _unusable(record, f"its public IP is inside the network {config.ipv4.network}"))
            return None
        if self._own is not None and lease.subnet.overlaps(self._own):
            self._skip(key, _unusable(record, f"overlaps this node's subnet {self._own}"))
            return None
        return Peer(
            subnet=lease.subnet,
            public_ip=lease.public_ip,
            node_id=lease.node_id,
            ipv6_subnet=lease.ipv6_subnet,
            public_ipv6=lease.public_ipv6,
            backend_data=lease.backend_data,
            backend_v6_data=lease.backend_v6_data,
        )

    def _skip(self, key: str, error: LeaseFormatError) -> None:
        self._problems[key] = Problem.of(error, "lease", about=key)

    def _settle(self, subnet: IPv4Network) -> None:
        """Decides who has ``subnet``: as a rule one lease names it; of several (other IPv6 part) the oldest counts."""
        keys = [
            key
            for key in self._view.overlapping(subnet)
            if (peer := self._candidates.get(key)) is not None and peer.subnet == subnet
        ]
        self._table = None
        if keys:
            self._peers[subnet] = self._candidates[min(keys, key=self._view.mod_revision)]
        else:
            self._peers.pop(subnet, None)


def _unusable(record: LeaseRecord, cause: str) -> LeaseFormatError:
    about = f"lease {record.lease.subnet} of {record.lease.public_ip}"
    return LeaseFormatError(cause, about=about, remedy="it is ignored; delete it if nobody needs it")
