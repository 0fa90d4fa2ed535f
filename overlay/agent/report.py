"""The parts of the agent's report of itself, each made of one fact: see :mod:`overlay.observe.status`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address

from overlay.control.leases.state import Held
from overlay.control.plane import ControlState
from overlay.control.schema.lease import LeaseRecord
from overlay.datapath.base import DatapathStatus
from overlay.datapath.causes import slow_path_share
from overlay.model import PeerTable
from overlay.node.interfaces import Underlay
from overlay.observe.status import (
    DatapathReport,
    LeaseStatus,
    LostLease,
    PeerStatus,
    ProblemDetail,
    StoreStatus,
    UnderlayStatus,
)
from overlay.problem import Problem


def details(problems: Iterable[Problem]) -> Iterator[ProblemDetail]:
    """Problems in their parts."""
    for problem in problems:
        yield ProblemDetail(**problem.parts)


def lease(held: Held | None, now: float) -> LeaseStatus | None:
    """What is held at ``now``, by the clock of ``held``."""
    if held is None:
        return None
    valid_for = None if held.reserved else max(0, int(held.valid_until - now))
    return LeaseStatus(str(held.subnet), held.reserved, valid_for)


def lost_lease(taken_by: LeaseRecord | None) -> LostLease | None:
    """Another node's lease of what was ours."""
    if taken_by is None:
        return None
    other = taken_by.lease
    return LostLease(str(other.subnet), str(other.public_ip), other.node_id)


def underlay(chosen: Underlay) -> UnderlayStatus:
    """The interface that was chosen."""
    return UnderlayStatus(chosen.interface, str(chosen.address), str(chosen.public_ip), chosen.mtu)


def store(state: ControlState, endpoint: str, now: float) -> StoreStatus:
    """etcd at ``now``, by the control plane's clock."""
    silent = None if state.last_contact is None else int(now - state.last_contact)
    return StoreStatus(state.store_connected, endpoint, silent, state.skipped)


def datapath(status: DatapathStatus) -> DatapathReport:
    """What moves the packets, and why that."""
    return DatapathReport(
        name=status.name,
        reason=status.reason,
        running=status.running,
        detail=status.detail,
        counters=status.counters,
        slow_path=slow_path_share(status.counters, status.causes),
        port=status.port,
        notes=status.notes,
    )


def peers(table: PeerTable, path_mtus: Mapping[IPv4Address, int]) -> Iterator[PeerStatus]:
    """Everybody else."""
    for peer in table.peers.values():
        yield PeerStatus(str(peer.subnet), str(peer.public_ip), peer.node_id, path_mtus.get(peer.public_ip))
