"""The seam between the agent and one of flannel's backend types.

A backend is made before the lease, for it may have to be in it, and all that it makes on this machine it also removes::

    config ──▶ check ──▶ prepare(underlay) ──▶ Advertisement ──▶ lease ──▶ apply ──▶ … ──▶ close, removals
                                                                            ▲
                                                   PeerTable ──▶ set_peers ─┘

An object of a backend is inert until it is prepared, so what needs no agent (a config to be checked, a machine to be
cleaned up) asks one as well. Which types there are says :mod:`overlay.backends`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import NoReturn, Protocol

from overlay.datapath.base import DatapathStatus
from overlay.model import FLANNELS_DEVICE, Advertisement, BackendConfig, NetworkConfig, PeerTable
from overlay.node.interfaces import Underlay
from overlay.node.removal import Removal


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line says to backends; each takes what concerns it.

    Attributes:
        device: name of this agent's device, and of this agent among those on its machine, even where it makes none.
        mtu: the inner MTU in bytes, which wins over the config; None to have it computed.
        copy_dscp: whether outer headers have the inner packets' class of service.
        datapath: ``auto``, ``kernel`` or ``userspace``.
        workers: processes of the userspace datapath; None: one for every two cores.
        offloads: whether it may use those of TUN and UDP.
        fou: whether the kernel datapath may leave trains to the kernel's FOU.
    """

    device: str = FLANNELS_DEVICE
    mtu: int | None = None
    copy_dscp: bool = False
    datapath: str = "auto"
    workers: int | None = None
    offloads: bool = True
    fou: bool = True


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
        mtu: the inner MTU in bytes, for ``subnet.env``.
        interface: name of the one by which peers' inner packets come in.
        changes: what had to be changed on this machine, one line each; empty when all was right already.
        failures: what could not be tidied up, while packets pass all the same.
    """

    mtu: int
    interface: str
    changes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


class Backend(Protocol):
    """One backend type on this machine, for one agent."""

    @property
    def type(self) -> str:
        """As in the config, lower case."""

    @property
    def devices(self) -> frozenset[str]:
        """Names of the links that it may make; none of them is ever an underlay."""

    def options(self, backend: BackendConfig) -> Mapping[str, object]:
        """The options of the config, its defaults filled in, as they are spelt there.

        Raises:
            ConfigError: one has a value that nobody can run.
        """

    def check(self, config: NetworkConfig) -> None:
        """Raises ConfigError for a valid config of this type that cannot be run here."""

    async def anticipate(self) -> bool:
        """Begins what takes long of :meth:`prepare`, where an earlier agent had this backend; whether it did.

        Nothing on this machine is another for it, and what comes of it, ``prepare`` tells.
        """

    async def prepare(self, config: NetworkConfig, underlay: Underlay) -> Advertisement:
        """Does what must be done before there is a lease, and says what that lease has to tell peers.

        May be called again with another config or underlay, also while packets pass: none is lost by it.

        Raises:
            DeviceError, DatapathError, NodeError: this machine cannot have this backend as it is.
        """

    async def apply(self, desired: Desired) -> Applied:
        """Makes this machine match; may be called at any time and repairs what others broke. Needs ``prepare``.

        Raises:
            ConfigError: the MTU does not fit.
            NodeError, DatapathError: this machine would not; it is right to try again.
        """

    def set_peers(self, table: PeerTable) -> None:
        """Makes ``table`` the truth about who the peers are; does not block. Needs ``prepare``."""

    async def status(self) -> DatapathStatus:
        """How it is, within a second."""

    async def watch(self) -> NoReturn:
        """Follows the peers for as long as the agent runs; needs ``apply``. Raises DatapathError: failed for good."""

    async def close(self, *, given_back: bool = False) -> None:
        """Stops; what is meant to outlive the agent stays.

        Args:
            given_back: the lease was, so nothing stays that goes on sending in its name.
        """

    def removals(self) -> tuple[Removal, ...]:
        """How all that any process's backend of this type made here goes again; in this order, once it is closed."""
