"""What the agent says of itself, as ``overlay status --json`` prints it.

Names of members are stable: scripts read them. Times are in whole seconds; null means "not yet" or "never ends".
Addresses and subnets are text, so that this needs nothing of the package and whoever reads it gets what was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class ProblemDetail:
    """One of ``problems``, in its parts; see :class:`overlay.problem.Problem`."""

    code: str
    severity: str
    about: str
    sentence: str
    remedy: str


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """The lease that is held; a reservation never ends."""

    subnet: str
    reserved: bool
    valid_for_seconds: int | None


@dataclass(frozen=True, slots=True)
class LostLease:
    """Another node's lease of what was ours."""

    subnet: str
    public_ip: str
    node_id: str | None


@dataclass(frozen=True, slots=True)
class UnderlayStatus:
    """The interface below the overlay; ``mtu`` in bytes."""

    interface: str
    address: str
    public_ip: str
    mtu: int


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """etcd, as seen from here.

    Attributes:
        connected: whether every change is being heard of.
        silent_for_seconds: since it last answered.
        skipped_keys: among the leases, malformed or unusable.
    """

    connected: bool
    endpoint: str
    silent_for_seconds: int | None
    skipped_keys: int


@dataclass(frozen=True, slots=True)
class DatapathReport:
    """What moves the packets.

    Attributes:
        reason: why this one.
        detail: one line: offloads, why packets do not take the kernel path.
        counters: since its start, by name; see :mod:`overlay.datapath.counters`.
        slow_path: which share it has carried, and why; empty where it carried none.
        port: of the tunnel.
        notes: what is not wrong, and should be known.
    """

    name: str
    reason: str
    running: bool
    detail: str
    counters: Mapping[str, int]
    slow_path: str
    port: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """Another node; ``path_mtu`` is the largest inner packet in bytes that reaches it, where less than usual does."""

    subnet: str
    public_ip: str
    node_id: str | None
    path_mtu: int | None


@dataclass(frozen=True, slots=True)
class Status:
    """The whole report.

    Attributes:
        ready: whether packets can reach the peers, and peers this node.
        problems: a line each, the worst first; the exit status of ``overlay status`` is 1 if there is any.
        phase: of the lease.
        lost_lease: where there is no lease because another node has what was ours.
        problem_details: ``problems`` in their parts, in the same order.
    """

    version: str
    pid: int
    node_id: str
    uptime_seconds: int
    ready: bool
    problems: tuple[str, ...]
    phase: str
    lease: LeaseStatus | None
    lost_lease: LostLease | None
    underlay: UnderlayStatus
    store: StoreStatus
    datapath: DatapathReport
    peers: tuple[PeerStatus, ...]
    problem_details: tuple[ProblemDetail, ...] = ()


def encode(report: object) -> bytes:
    """``report``, of frozen dataclasses, as JSON."""
    return json.dumps(report, default=_members).encode()


def _members(report: Any) -> dict[str, Any]:
    """One object's members; mappings that are no dict are copied to one."""
    if isinstance(report, Mapping):
        return dict(report)
    return {field.name: getattr(report, field.name) for field in fields(report)}
