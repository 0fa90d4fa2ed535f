"""The seam between what decides (control, backends) and what moves packets."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import Any, Protocol

from overlay.datapath.causes import Cause
from overlay.datapath.spec import TunnelSpec
from overlay.model import PeerTable
from overlay.problem import Problem

Meanwhile = Callable[[], Coroutine[Any, Any, None]]
"""What is done while something else is waited for."""


@dataclass(frozen=True, slots=True)
class DatapathStatus:
    """What a datapath says of itself.

    Attributes:
        name: ``userspace`` or ``kernel``, or the backend's where it needs neither.
        running: whether packets can pass right now.
        detail: one line for people: which offloads are on, how many routes there are.
        counters: monotonic counts since start by name, e.g. ``tx_packets``, ``rx_bytes``, ``drop_inner_source``.
        notes: what is not wrong, and should be known: a line each.
        problems: what is wrong with it on this machine, apart from what ``counters`` say.
        causes: what is known of this machine about counters that grow, by their names; see
            :mod:`overlay.datapath.causes`.
        path_mtus: by a peer's underlay address the largest inner packet, in bytes, that reaches it, where that is known
            to be less than the device's MTU.
        reason: one line for people: why this datapath and no other.
        port: UDP port of every node; None where packets cross the underlay as they are.
    """

    name: str
    running: bool
    detail: str = ""
    counters: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    path_mtus: Mapping[IPv4Address, int] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    causes: Mapping[str, Cause] = field(default_factory=lambda: MappingProxyType({}))
    reason: str = ""
    port: int | None = None


class Datapath(Protocol):
    """Moves packets between the TUN device and the peers, in flannel's udp wire format.

    ``configure`` and ``set_peers`` take the whole desired state and may be called any number of times; what is
    already so is left alone, so traffic does not notice.
    """

    async def configure(self, spec: TunnelSpec) -> None:
        """Opens what is needed for ``spec``, or changes over to it.

        Raises:
            PrivilegeError, DeviceError, PortInUseError, DatapathError: nothing was changed then.
        """

    def set_peers(self, table: PeerTable) -> None:
        """Makes ``table`` the truth about who may send what, and where packets go. Does not block."""

    async def status(self) -> DatapathStatus:
        """A snapshot; answers within a second even if the datapath hangs (then ``running`` is False)."""

    async def watch(self) -> None:
        """Returns never; raises DatapathError when the datapath has failed beyond what it can mend itself."""

    async def close(self) -> None:
        """Stops moving packets; leaves in place what is meant to outlive the agent (device, pinned maps)."""
