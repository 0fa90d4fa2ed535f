"""Where this node is: its underlay, kept up with, and what its Network may collide with there."""

from __future__ import annotations

import asyncio
import logging

from overlay import backends
from overlay.agent.lookout import Lookout, Sight
from overlay.agent.settings import AgentSettings
from overlay.control.leases.allocator import Identity, Memory
from overlay.control.plane import ControlPlane
from overlay.daemon.clock import boottime
from overlay.daemon.occasions import Occasion
from overlay.daemon.reconcile import Look
from overlay.daemon.sd_notify import Notifier
from overlay.errors import InterfaceError
from overlay.model import NetworkConfig
from overlay.node import subnet_env
from overlay.node.collision import Surroundings, collision
from overlay.node.interfaces import Underlay
from overlay.problem import Problem, Severity
from overlay.store.etcd.client import EtcdStore

_log = logging.getLogger(__name__)

_NO_PEER = "no peer reaches this node until there is one that works"


class Whereabouts:
    """Looks around, and has the control plane and etcd's client told of what has changed.

    Attributes:
        underlay: what was chosen last; None until there is one.
        moved: told after every look that found an underlay.
    """

    def __init__(self, settings: AgentSettings, store: EtcdStore, notifier: Notifier, remembered: Memory) -> None:
        self.underlay: Underlay | None = None
        self.moved = Occasion()
        self._settings = settings
        self._store = store
        self._notifier = notifier
        self._remembered = remembered
        self._lookout = Lookout(settings)
        self._surroundings = Surroundings()
        self._control: ControlPlane | None = None
        self._found: asyncio.Future[Underlay] = asyncio.get_running_loop().create_future()

    async def first(self) -> Underlay:
        """Waits until :meth:`look` has found an interface that fits: at boot, it may come later than we do."""
        return await self._found

    def tell(self, control: ControlPlane) -> None:
        """``control`` is to hear of what changes from now on."""
        self._control = control

    def identity(self, underlay: Underlay) -> Identity:
        """What the lease says of this node."""
        return Identity(self._settings.node_id, underlay.public_ip, self._settings.public_ipv6)

    def check_config(self, config: NetworkConfig) -> None:
        """Raises ConfigError for a config that this agent cannot run, or that would take what is another's here."""
        backends.check(config)
        if config.ipv4 is not None and (error := collision(config.ipv4.network, self._surroundings)) is not None:
            raise error

    async def look(self) -> Look:
        """Keeps up with the underlay's address and MTU, and with whatever others do to links and routes."""
        before = self._surroundings
        sight = await self._sight()
        problems: tuple[Problem, ...] = ()
        if sight.error is not None:
            problems = (self._missing(sight.error),)
        elif sight.underlay is not None and sight.underlay != self.underlay:
            await self._move_to(sight.underlay)
        if sight.error is None and sight.fault is not None:
            problems = (Problem.of(sight.fault, "underlay", after=_NO_PEER, severity=Severity.DOWN),)
        if self._control is not None and self._surroundings != before:
            self._control.check_again()
        self.moved.tell()
        return Look(problems, self._lookout.due(boottime()))

    async def resolve(self) -> None:
        """Keeps the addresses of etcd's members, which the Network must not cover, until cancelled."""
        await self._lookout.resolve()

    def _missing(self, error: InterfaceError) -> Problem:
        after = _NO_PEER
        if self.underlay is None:
            after = "waiting for one that does"
            self._notifier.status(f"waiting for an interface: {error}")
        return Problem.of(error, "underlay", after=after, severity=Severity.DOWN)

    async def _move_to(self, underlay: Underlay) -> None:
        """Goes over to another underlay, or the same with another address or MTU, and has peers told."""
        before, self.underlay = self.underlay, underlay
        if before is None:
            _log.info("underlay %s; node id %s", underlay, self._settings.node_id)
            self._found.set_result(underlay)
            return
        _log.info("underlay is now %s", underlay)
        if before.address != underlay.address:
            # What is sent from an address that is gone vanishes: writing the lease would wait for a time-out.
            await self._store.reconnect()
        if self._control is not None:
            self._control.identify(self.identity(underlay))

    async def _sight(self) -> Sight:
        """One look at this machine, with what is known by now of the overlay's own addresses."""
        network, remembered = None, set(self._remembered.subnets)
        if self._control is not None and (config := self._control.state.config) is not None and config.ipv4 is not None:
            network, remembered = config.ipv4.network, set(self._control.state.memory.subnets)
        elif (previous := await asyncio.to_thread(subnet_env.previous_network, self._settings.subnet_file)) is not None:
            remembered.add(previous)
        sight = await self._lookout.look(network, frozenset(remembered), boottime())
        self._surroundings = sight.surroundings
        return sight
