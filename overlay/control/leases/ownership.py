"""Whose a lease is, as far as a node can tell that of its own: by its id, and by the addresses that it knows it had."""

from __future__ import annotations

from ipaddress import IPv4Address

from overlay.control.leases.allocator import Identity
from overlay.control.leases.view import LeaseView
from overlay.control.schema.lease import LeaseRecord
from overlay.model import Lease

MAX_ADDRESSES = 8
"""Own public addresses that are remembered while the agent runs, to know a late write of ours."""


class Ownership:
    """What is ours of all that the view shows.

    Attributes:
        identity: what we go by now.
    """

    def __init__(self, view: LeaseView, identity: Identity) -> None:
        self.identity = identity
        self._view = view
        self._addresses: tuple[IPv4Address, ...] = (identity.public_ip,)

    def identify(self, identity: Identity) -> None:
        """We go by something else from now on."""
        self.identity, address = identity, identity.public_ip
        self._addresses = (address, *(known for known in self._addresses if known != address))[:MAX_ADDRESSES]

    def is_ours(self, record: LeaseRecord) -> bool:
        """Whether what is at our key is our own: written by us, also late, or for us.

        Our node id alone is not enough: a cloned machine has it too, but not an address that we advertised.
        """
        if record.lease.node_id is None:
            return record.lease.public_ip == self.identity.public_ip
        return record.lease.node_id == self.identity.node_id and record.lease.public_ip in self._addresses

    def is_stray(self, record: LeaseRecord) -> bool:
        """Whether it is ours by its id, and so may be deleted where it is not needed."""
        return record.lease.node_id is not None and self.is_ours(record)

    def is_in_question(self, record: LeaseRecord) -> bool:
        """Whether it carries our id and an address that this process never had: from before, or a clone's."""
        return record.lease.node_id is not None and record.lease.public_ip not in self._addresses

    def overlapping_others(self, lease: Lease, key: str) -> set[str]:
        """Keys of other nodes' leases, malformed ones too, that share addresses with ``lease``."""
        keys = self._view.overlapping(lease.subnet)
        if lease.ipv6_subnet is not None:
            keys |= self._view.overlapping(lease.ipv6_subnet)
        records = ((other, self._view.record(other)) for other in keys if other != key)
        return {other for other, record in records if record is None or not self.is_ours(record)}
