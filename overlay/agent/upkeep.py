"""What keeps this machine as the control plane has it, from the first lease on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from overlay.agent import past as memory
from overlay.agent.local import Node
from overlay.agent.neighbours import LOOK_SECONDS, Neighbours
from overlay.agent.settings import AgentSettings
from overlay.agent.whereabouts import Whereabouts
from overlay.backends.base import Desired
from overlay.control.peers.linger import Lingering
from overlay.control.plane import ControlPlane, ControlState
from overlay.daemon.clock import boottime
from overlay.daemon.lifetime import Daemon
from overlay.daemon.occasions import Occasion
from overlay.daemon.reconcile import Look
from overlay.problem import Problem, Severity

_log = logging.getLogger(__name__)


class Upkeep:
    """The loops between control plane and machine.

    Attributes:
        converged: what this machine is set up for; None until it is for the first time.
    """

    def __init__(
        self, daemon: Daemon, settings: AgentSettings, whereabouts: Whereabouts, control: ControlPlane, node: Node
    ) -> None:
        self.converged: Desired | None = None
        self._daemon = daemon
        self._settings = settings
        self._whereabouts = whereabouts
        self._control = control
        self._node = node
        self._neighbours = Neighbours(settings.state_dir, watch_docker=settings.watch_docker)
        self._wanted, self._memory = Occasion(), Occasion()
        self._applied: Desired | None = None
        """What the device is set up for, and the firewall is to be."""

    def start(self, up: Callable[[], None]) -> None:
        """Starts them; ``up`` is called once the machine is set up for the first time."""
        daemon, resync = self._daemon, self._settings.firewall_resync
        self._up = up
        self._firewall = daemon.keep("firewall", self._guard, every=resync, retry=resync)
        daemon.keep("node", self._converge, severity=Severity.DOWN, occasion=self._whereabouts.moved)
        daemon.keep("memory", self._remember, occasion=self._memory)
        daemon.keep("neighbours", self._look_around, every=LOOK_SECONDS)
        daemon.start("peers", self._follow_control())
        daemon.start("backend", self._keep_prepared())
        daemon.start("datapath", self._node.watch())

    async def _follow_control(self) -> None:
        """Hands peers on at once, and wakes whoever changes this machine."""
        control, state = self._control, self._control.state
        told = None
        backend_type, lingering = "", Lingering()
        while True:
            if state.config is not None:
                if backend_type != state.config.backend.type:  # no peer of the one lingers among those of the other
                    backend_type, lingering = state.config.backend.type, Lingering()
                self._node.set_peers(lingering.update(state.peers, boottime()), backend_type)
            if state.wanted != state.config:
                self._wanted.tell()
            if self._desired(state) != self.converged:
                self._whereabouts.moved.tell()
            if state.memory != told:
                told = state.memory
                self._memory.tell()
            patience = None if lingering.due is None else max(0.0, lingering.due - boottime())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    state = await control.changed(state.version)

    async def _remember(self) -> Look:
        """Keeps the memory on disk, wherever there is room for it."""
        directories = tuple(dict.fromkeys((self._settings.state_dir, self._settings.data_dir)))
        failed = await asyncio.to_thread(memory.remember, directories, self._control.state.memory)
        after = "after a reboot the node may get another subnet; trying again"
        return Look(tuple(Problem.of(error, "memory", after=after) for error in failed))

    def _desired(self, state: ControlState) -> Desired | None:
        """What this machine should be; None while there is no lease. What it was, while one is sought anew, or ours
        still says that we have another backend."""
        underlay = self._whereabouts.underlay
        if state.config is None or state.held is None or underlay is None:
            return self.converged
        if state.held.lease.backend_type != state.config.backend.type:
            return self.converged
        return Desired(state.config, state.held.subnet, underlay, state.held.lease.ipv6_subnet)

    async def _keep_prepared(self) -> None:
        """Raises OverlayError where the first wanted config's backend cannot be: there is none that could run on."""
        state = self._control.state
        while state.wanted is None:
            state = await self._control.changed(state.version)
        await self._prepare()
        self._daemon.keep("backend", self._prepare, occasion=self._wanted)

    async def _prepare(self) -> Look:
        wanted, underlay = self._control.state.wanted, self._whereabouts.underlay
        if wanted is not None and underlay is not None and await self._node.prepare(wanted, underlay):
            self._control.check_again()
        return Look()

    async def _converge(self) -> Look:
        desired = self._desired(self._control.state)
        if desired is None:
            return Look()
        if self.converged is not None and self.converged.underlay != desired.underlay:
            self._wanted.tell()
        left = await self._node.converge(desired)
        before, self._applied = self.converged, desired
        if before is None or (before.config, before.subnet) != (desired.config, desired.subnet):
            await self._firewall.once()
        self.converged = desired
        if before is None:
            self._up()
            _log.info("ready: subnet %s", desired.subnet)
        leftovers = (Problem("leftovers", "; ".join(left), "trying again", about="leftovers"),) if left else ()
        return Look((*leftovers, *self._node.problems()))

    async def _guard(self) -> Look:
        if self._applied is not None:
            await self._node.guard(self._applied)
        return Look()

    async def _look_around(self) -> Look:
        status = await self._node.status()
        asked = status.name == "userspace"  # on the kernel path the host's firewall is not
        return await self._neighbours.look(self.converged, self._node.interface, status.port if asked else None)
