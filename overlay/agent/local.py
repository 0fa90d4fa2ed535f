"""This node made to match what control decided: device, routes, peers, firewall, ``subnet.env``, and who is told."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

from overlay import backends
from overlay.agent.announce import Announcer
from overlay.agent.settings import AgentSettings
from overlay.backends.base import Backend, Desired
from overlay.backends.udp.choice import Choice
from overlay.datapath.base import DatapathStatus
from overlay.datapath.causes import Minute, judge
from overlay.datapath.kernel.machine import cleanup as remove_programs
from overlay.model import EMPTY_PEERS, PeerTable
from overlay.node import subnet_env
from overlay.node.firewall import Firewall, desired_rules
from overlay.node.subnet_env import SubnetEnv

_log = logging.getLogger(__name__)


class Node:
    """Carries decisions out on this machine.

    Attributes:
        reason: why this datapath, for people.
    """

    def __init__(self, settings: AgentSettings, choice: Choice) -> None:
        self._settings = settings
        self._datapath = choice.datapath
        self.reason = choice.reason
        self._backend: Backend | None = None
        self._peers = EMPTY_PEERS
        self._firewall: Firewall | None = None
        self._firewall_nftables = False
        self._guarding = asyncio.Lock()
        self._minute = Minute()
        command = settings.on_subnet_change
        self._announcer = Announcer(command, settings.state_dir) if command else None

    def set_peers(self, table: PeerTable) -> None:
        """Hands the peers on at once; they need not wait for anything else to be right."""
        if table is self._peers:
            return
        self._peers = table
        if self._backend is not None:
            self._backend.set_peers(table)

    async def converge(self, desired: Desired) -> tuple[str, ...]:
        """Makes this machine match ``desired``, and repairs what others broke; does nothing where all is right.

        Returns:
            What could not be tidied up, while packets pass all the same.

        Raises:
            ConfigError, NodeError, DatapathError: it could not; it is right to try again.
        """
        if self._backend is None:
            self._backend = backends.make(
                desired.config,
                self._datapath,
                device=self._settings.datapath.device,
                mtu=self._settings.mtu,
                blackhole=self._settings.blackhole_route,
                copy_dscp=self._settings.copy_dscp,
            )
            # Only now: with a lease the peers are known, and until then what an earlier agent left is better than none.
            self._backend.set_peers(self._peers)
        applied = await self._backend.apply(desired)
        for change in applied.changes:
            _log.info("%s", change)
        await self._publish(desired, applied.mtu)
        return applied.failures

    async def guard(self, desired: Desired) -> None:
        """Puts the masquerading and forwarding rules in place, or back; with both flags off, removes old ones.

        Raises:
            NodeError: a tool is missing or refused.
        """
        pool, settings = desired.config.ipv4, self._settings
        assert pool is not None
        async with self._guarding:
            if self._firewall is None or self._firewall_nftables != desired.config.enable_nftables:
                self._firewall = Firewall(
                    device=settings.datapath.device, enable_nftables=desired.config.enable_nftables
                )
                self._firewall_nftables = desired.config.enable_nftables
            rules = desired_rules(
                pool.network,
                desired.subnet,
                ip_masq=settings.ip_masq,
                forward_rules=settings.forward_rules,
                random_fully=settings.random_fully,
            )
            for change in await asyncio.to_thread(self._firewall.reconcile, rules):
                _log.info("%s", change)

    async def _publish(self, desired: Desired, mtu: int) -> None:
        """Writes ``subnet.env``, and has ``--on-subnet-change`` told of the subnet in it."""
        assert desired.config.ipv4 is not None
        content = SubnetEnv(
            network=desired.config.ipv4.network,
            subnet=desired.subnet,
            mtu=mtu,
            ip_masq=self._settings.ip_masq,
            ipv6_network=desired.config.ipv6.network if desired.config.ipv6 else None,
            ipv6_subnet=desired.ipv6_subnet,
        )
        path = self._settings.subnet_file
        if self._announcer is not None:
            before = await asyncio.to_thread(subnet_env.previous_subnet, path)
            await asyncio.to_thread(self._announcer.begin, before or content.subnet)
        if await asyncio.to_thread(subnet_env.write, path, content):
            _log.info("%s: subnet %s, MTU %d", path, content.subnet, content.mtu)
        if self._announcer is not None:
            self._announcer.tell(content)

    async def announce(self) -> None:
        """Tells ``--on-subnet-change`` of new subnets until cancelled; returns at once where there is no command."""
        if self._announcer is not None:
            await self._announcer.run()

    async def status(self) -> DatapathStatus:
        """How the datapath is, with what its counters say is wrong."""
        status, now = await self._datapath.status(), time.monotonic()
        self._minute.add(status.counters, now)
        problems = judge(self._minute.gained(status.counters, now), status.causes)
        return replace(status, problems=(*status.problems, *problems))

    async def watch(self) -> None:
        """Never returns; raises DatapathError when the datapath has failed for good."""
        await self._datapath.watch()

    async def close(self) -> None:
        """Ends what runs for us. Device, routes and files stay, and so do programs in the kernel, which go on working:
        but for a lease that was given back, whose subnet is not ours any more."""
        await self._datapath.close()
        if self._settings.release_on_exit:
            await asyncio.to_thread(remove_programs, self._settings.datapath.device)
