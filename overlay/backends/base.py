"""The seam between the agent and one of flannel's backend types."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

from overlay.datapath.base import DatapathStatus
from overlay.model import NetworkConfig, PeerTable
from overlay.node.interfaces import Underlay


@dataclass(frozen=True, slots=True)
class Desired:
    """What this node's end of the overlay should be, apart from the peers."""

    config: NetworkConfig
    subnet: IPv4Network
    underlay: Underlay
    ipv6_subnet: IPv6Network | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a :class:`Desired`.

    Attributes:
        mtu: of the overlay device in bytes, for ``subnet.env``.
        changes: what had to be changed on this machine, one line each; empty when all was right already.
        failures: what could not be tidied up, while packets pass all the same.
    """

    mtu: int
    changes: tuple[str, ...]
    failures: tuple[str, ...] = ()


class Backend(Protocol):
    """Joins device, routes and datapath for one backend type."""

    @property
    def type(self) -> str:
        """As in the config, lower case."""

    async def apply(self, desired: Desired) -> Applied:
        """Makes this machine match; may be called at any time and repairs what others broke.

        Raises:
            ConfigError: an option of the backend is wrong, or the MTU does not fit.
            NodeError, DatapathError: this machine would not; it is right to try again.
        """

    def set_peers(self, table: PeerTable) -> None:
        """Hands the peers to the datapath; does not block."""

    async def status(self) -> DatapathStatus:
        """How the datapath is."""

    async def watch(self) -> None:
        """Never returns; raises DatapathError when the datapath has failed for good."""

    async def close(self) -> None:
        """Stops; leaves in place what is meant to outlive the agent."""
