"""This node made to match what control decided: backend, peers, firewall, ``subnet.env``, and who is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import replace

from overlay.agent.announce import Announcer
from overlay.agent.settings import AgentSettings
from overlay.backends.base import Desired
from overlay.backends.succession import Succession
from overlay.datapath.base import DatapathStatus
from overlay.datapath.causes import Minute, judge
from overlay.model import Advertisement, NetworkConfig, PeerTable
from overlay.node import blackhole, subnet_env
from overlay.node.firewall import Firewall, desired_rules
from overlay.node.interfaces import Underlay
from overlay.node.routes import Outcome
from overlay.node.subnet_env import SubnetEnv, SubnetFile
from overlay.problem import Problem

_log = logging.getLogger(__name__)


class Node:
    """Carries decisions out on this machine.

    Attributes:
        interface: by which peers' inner packets come in; of the device until that is known.
    """

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._backends = Succession(settings.backend)
        self.interface = settings.backend.device
        self._peers: PeerTable | None = None
        self._firewall: Firewall | None = None
        self._firewall_made_for: tuple[str, bool] | None = None
        self._guarding = asyncio.Lock()
        self._file = SubnetFile(settings.subnet_file)
        self._minute = Minute()
        command = settings.on_subnet_change
        self._announcer = Announcer(command, settings.state_dir) if command else None

    def advertisement(self, config: NetworkConfig) -> Advertisement | None:
        """What our lease must say under ``config``; None before :meth:`prepare`."""
        return self._backends.advertisement(config)

    async def anticipate(self) -> None:
        """Begins what takes long before the config is known."""
        await self._backends.anticipate()

    async def prepare(self, config: NetworkConfig, underlay: Underlay) -> bool:
        """Prepares the config's backend; whether that was not done already. Raises as :meth:`Succession.prepare`."""
        return await self._backends.prepare(config, underlay)

    def set_peers(self, table: PeerTable, backend_type: str) -> None:
        """Hands the peers on at once; they need not wait for anything else to be right."""
        if table is not self._peers:
            self._peers = table
            self._backends.set_peers(table, backend_type)

    async def converge(self, desired: Desired) -> tuple[str, ...]:
        """Makes this machine match ``desired``, and repairs what others broke; does nothing where all is right.

        Returns:
            What could not be tidied up, while packets pass all the same.

        Raises:
            ConfigError, NodeError, DatapathError: it could not; it is right to try again.
        """
        applied = await self._backends.apply(desired)
        self.interface = applied.interface
        hole = await asyncio.to_thread(self._blackhole, desired)
        for change in (*applied.changes, *hole.changes):
            _log.info("%s", change)
        await self._publish(desired, applied.mtu)
        return (*applied.failures, *hole.failures)

    def problems(self) -> Iterator[Problem]:
        """What the last :meth:`converge` found to be wrong, and not to be mended here."""
        if (problem := self._file.problem()) is not None:
            yield problem

    def _blackhole(self, desired: Desired) -> Outcome:
        subnet = desired.subnet if self._settings.blackhole_route else None
        return blackhole.reconcile(subnet, self._settings.backend.device)

    async def guard(self, desired: Desired) -> None:
        """Puts the masquerading and forwarding rules in place, or back; with both flags off, removes old ones.

        Raises:
            NodeError: a tool is missing or refused.
        """
        pool, settings = desired.config.ipv4, self._settings
        assert pool is not None
        async with self._guarding:
            wanted = self.interface, desired.config.enable_nftables
            if self._firewall is None or self._firewall_made_for != wanted:
                self._firewall = Firewall(owner=settings.backend.device, interface=wanted[0], enable_nftables=wanted[1])
                self._firewall_made_for = wanted
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
        if await asyncio.to_thread(self._file.keep, content, time.monotonic()):
            _log.info("%s: subnet %s, MTU %d", path, content.subnet, content.mtu)
        if self._announcer is not None:
            self._announcer.tell(content)

    async def announce(self) -> None:
        """Tells ``--on-subnet-change`` of new subnets until cancelled; returns at once where there is no command."""
        if self._announcer is not None:
            await self._announcer.run()

    async def status(self) -> DatapathStatus:
        """How packets are moved, with what the counters say is wrong."""
        status, now = await self._backends.status(), time.monotonic()
        self._minute.add(status.counters, now)
        problems = judge(self._minute.gained(status.counters, now), status.causes)
        return replace(status, problems=(*status.problems, *problems))

    async def watch(self) -> None:
        """Never returns; raises DatapathError when the backend has failed for good."""
        await self._backends.watch()

    async def close(self) -> None:
        """Ends what runs for us. Device, routes and files stay, and so do programs in the kernel, which go on working:
        but for a lease that was given back, whose subnet is not ours any more."""
        await self._backends.close(given_back=self._settings.release_on_exit)
