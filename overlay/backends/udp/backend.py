"""flannel's udp backend: one TUN device, one route to the whole network, packets in UDP.

Peers are no kernel routes: the datapath looks them up (pkg/backend/udp of flannel).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from overlay.backends.base import Applied, Desired
from overlay.control.schema import mtu as configured_mtu
from overlay.control.schema import udp_port
from overlay.datapath.base import Datapath, DatapathStatus
from overlay.datapath.spec import TunnelSpec
from overlay.linux.netlink import Netlink
from overlay.model import PeerTable
from overlay.node import device
from overlay.node.device import Outcome
from overlay.packet.mtu import inner_mtu


@dataclass(frozen=True, slots=True)
class UdpBackend:
    """See :class:`overlay.backends.base.Backend`.

    Attributes:
        device: name of the TUN device.
        mtu: what the command line asked for, which wins over the config; None to have it computed.
        blackhole: whether packets to our subnet end here while no bridge has it.
        copy_dscp: whether outer headers have the inner packets' class of service.
    """

    datapath: Datapath
    device: str = "flannel0"
    mtu: int | None = None
    blackhole: bool = False
    copy_dscp: bool = False
    type: str = "udp"

    def spec(self, desired: Desired) -> TunnelSpec:
        """This node's end of the tunnel. Raises ConfigError."""
        pool = desired.config.ipv4
        assert pool is not None, "backends.check lets no such config through"
        underlay = desired.underlay
        return TunnelSpec(
            device=self.device,
            network=pool.network,
            subnet=desired.subnet,
            mtu=inner_mtu(underlay.mtu, self.mtu or configured_mtu(desired.config.backend)),
            underlay_interface=underlay.interface,
            underlay_address=underlay.address,
            port=udp_port(desired.config.backend),
            copy_dscp=self.copy_dscp,
        )

    async def apply(self, desired: Desired) -> Applied:
        spec = self.spec(desired)
        await self.datapath.configure(spec)
        outcome = await asyncio.to_thread(self._reconcile, spec)
        return Applied(spec.mtu, outcome.changes, outcome.failures)

    def _reconcile(self, spec: TunnelSpec) -> Outcome:
        with Netlink() as netlink:
            return device.reconcile(spec, netlink, blackhole=self.blackhole)

    def set_peers(self, table: PeerTable) -> None:
        self.datapath.set_peers(table)

    async def status(self) -> DatapathStatus:
        return await self.datapath.status()

    async def watch(self) -> None:
        await self.datapath.watch()

    async def close(self) -> None:
        await self.datapath.close()
