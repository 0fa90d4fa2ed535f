"""flannel's udp backend: one TUN device, one route to the whole network, packets in UDP.

Peers are no kernel routes: the datapath looks them up (pkg/backend/udp of flannel).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn

from overlay.backends.base import Applied, Desired, Flags
from overlay.backends.options import as_given
from overlay.backends.udp import device
from overlay.backends.udp.choice import Choice, choose
from overlay.backends.udp.options import UdpOptions
from overlay.datapath.base import DatapathStatus
from overlay.datapath.kernel.attach import fou_device, gro_pair
from overlay.datapath.kernel.machine import cleanup as remove_programs
from overlay.datapath.spec import TunnelSpec
from overlay.errors import ConfigError, DatapathError
from overlay.linux.netlink import Netlink
from overlay.model import Advertisement, BackendConfig, NetworkConfig, PeerTable
from overlay.node import preflight
from overlay.node.interfaces import Underlay
from overlay.node.removal import Removal
from overlay.node.routes import Outcome
from overlay.packet.mtu import inner_mtu

_log = logging.getLogger(__name__)


class UdpBackend:
    """See :class:`overlay.backends.base.Backend`. Its lease needs to say nothing: peers know port and format."""

    type = "udp"

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._choosing: asyncio.Task[Choice] | None = None
        self._choice: Choice | None = None
        self._port: int | None = None

    @property
    def devices(self) -> frozenset[str]:
        return frozenset({self._flags.device, *gro_pair(self._flags.device), fou_device(self._flags.device)})

    def options(self, backend: BackendConfig) -> Mapping[str, object]:
        return as_given(backend, Port=UdpOptions.of(backend).port)

    def check(self, config: NetworkConfig) -> None:
        UdpOptions.of(config.backend)
        if config.ipv4 is None:
            raise ConfigError(
                "the udp backend carries IPv4 only", about="EnableIPv4 false", remedy="enable IPv4 in the config"
            )

    async def anticipate(self) -> bool:
        if not await asyncio.to_thread(device.exists, self._flags.device):
            return False
        self._choosing = asyncio.create_task(choose(self._flags))
        return True

    async def prepare(self, config: NetworkConfig, underlay: Underlay) -> Advertisement:
        if self._choice is None:
            preflight.may_make_tun()
            begun, self._choosing = self._choosing, None
            self._choice = await (choose(self._flags) if begun is None else begun)
            _log.info("datapath: %s, %s", self._choice.name, self._choice.reason)
        return Advertisement(self.type)

    def spec(self, desired: Desired) -> TunnelSpec:
        """This node's end of the tunnel. Raises ConfigError."""
        pool, options, underlay = desired.config.ipv4, UdpOptions.of(desired.config.backend), desired.underlay
        assert pool is not None, "check lets no such config through"
        return TunnelSpec(
            device=self._flags.device,
            network=pool.network,
            subnet=desired.subnet,
            mtu=inner_mtu(underlay.mtu, self._flags.mtu or options.mtu),
            underlay_interface=underlay.interface,
            underlay_address=underlay.address,
            port=options.port,
            copy_dscp=self._flags.copy_dscp,
        )

    async def apply(self, desired: Desired) -> Applied:
        spec, choice = self.spec(desired), self._prepared
        if choice.former is not None:
            await choice.former.make_way()
        await choice.datapath.configure(spec)
        self._port = spec.port
        outcome = await asyncio.to_thread(self._reconcile, spec)
        left = await choice.former.remove() if choice.former is not None else ()
        return Applied(spec.mtu, spec.device, outcome.changes, (*outcome.failures, *left))

    def _reconcile(self, spec: TunnelSpec) -> Outcome:
        with Netlink() as netlink:
            return device.reconcile(spec, netlink)

    def set_peers(self, table: PeerTable) -> None:
        self._prepared.datapath.set_peers(table)

    async def status(self) -> DatapathStatus:
        choice = self._prepared
        return replace(await choice.datapath.status(), reason=choice.reason, port=self._port)

    async def watch(self) -> NoReturn:
        await self._prepared.datapath.watch()
        raise DatapathError("ended", about=f"{self._prepared.name} datapath")

    async def close(self, *, given_back: bool = False) -> None:
        if (begun := self._choosing) is not None:  # and the config asked for something else, or none came
            self._choosing = None
            (outcome,) = await asyncio.gather(begun, return_exceptions=True)
            self._choice = outcome if isinstance(outcome, Choice) else None
        if self._choice is not None:
            await self._choice.datapath.close()
        if given_back:
            # Device and route may stay, as nothing reads the device; programs in the kernel would go on working.
            await asyncio.to_thread(remove_programs, self._flags.device)

    def removals(self) -> tuple[Removal, ...]:
        name = self._flags.device
        return Removal("programs", lambda: remove_programs(name)), Removal("device", lambda: device.remove(name))

    @property
    def _prepared(self) -> Choice:
        assert self._choice is not None, "prepare comes first"
        return self._choice
