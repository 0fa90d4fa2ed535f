"""Which other leases quarrel with ours: of our public address, of our node id, or reserved for us and not held.

Nothing is done about them; people are told, on both nodes, as only they can put it right.
"""

from __future__ import annotations

from overlay.control.leases.allocator import Claimant, Identity, Memory, claimant, fits
from overlay.control.leases.view import LeaseView
from overlay.control.schema.lease import MAX_NODE_ID_CHARS, LeaseRecord
from overlay.model import NetworkConfig
from overlay.problem import Problem
from overlay.text import excerpt

MAX_CONFLICTS = 8
"""Leases that are named to people at most."""


def conflicts(
    view: LeaseView, config: NetworkConfig, identity: Identity, memory: Memory, own_key: str | None
) -> list[Problem]:
    """One problem a lease; ``own_key`` is where the lease is that we hold, if we hold one."""
    found: dict[str, Problem] = {}
    for record in view.of_public_ip(identity.public_ip):
        if record.key != own_key and record.lease.node_id != identity.node_id:
            found[record.key] = _conflict(record, *_of_our_address(record, config))
    for record in view.of_node(identity.node_id):
        if record.key != own_key and claimant(record, identity, memory) is not Claimant.OURS:
            lease = record.lease
            found[record.key] = _conflict(
                record,
                f"node id {_name(record)} is also used by {lease.public_ip} for {lease.subnet}",
                f"set --node-id, or if that was this node's own address, overlay release {lease.subnet}",
            )
    return list(found.values())[:MAX_CONFLICTS]


def _conflict(record: LeaseRecord, sentence: str, remedy: str) -> Problem:
    return Problem("conflict", sentence, remedy, about=record.key)


def _of_our_address(record: LeaseRecord, config: NetworkConfig) -> tuple[str, str]:
    """What is wrong, and the remedy."""
    lease = record.lease
    if lease.node_id is not None:
        return (
            f"public IP {lease.public_ip} is also advertised by node {_name(record)} for {lease.subnet}",
            "give each node its own address with --public-ip",
        )
    if not record.reserved:
        return f"public IP {lease.public_ip} is also advertised by a lease without node id for {lease.subnet}", ""
    if not fits(lease, config):
        return f"reservation {lease.subnet} for this node does not fit the network's config", "it is left alone"
    return f"{lease.subnet} is reserved for this node", "it is taken when the agent starts again"


def _name(record: LeaseRecord) -> str:
    return excerpt(record.lease.node_id, MAX_NODE_ID_CHARS)
