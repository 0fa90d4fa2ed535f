"""Builds the parts of the agent, and starts what runs for as long as it does.

Tasks, and loops (:class:`~overlay.daemon.reconcile.Loop`), which look now, when told and after a while::

    control     follows etcd and keeps our lease; publishes ControlState
    peers       ControlState → backend, at once: a new peer must not wait for anything
    events      tells the next of the kernel's links, addresses and routes
    underlay    (loop) which interface it is, and what a Network collides with; has control told
    etcd's names  keeps the addresses of etcd's members, which the Network must not cover
    backend     (loop) has the wanted config's prepared, without which nothing is leased
    node        (loop) ControlState and underlay → this machine
    announce    runs ``--on-subnet-change``
    firewall    (loop) masquerading and forwarding rules, every ``--iptables-resync`` seconds: netlink tells nothing
    datapath    follows the peers; ends only by an error, which then ends the agent
    neighbours  (loop) looks whether Docker and the firewalls of others let packets pass
    heartbeat   systemd's status and watchdog, from what control and datapath say of themselves
    report, health  answer ``overlay status`` and probes

Everything that may fail while the world is incomplete (no etcd, no config, no interface, a port in use) is tried again,
and a problem meanwhile. What can never work (no privileges, wrong flags, no means for the config's backend) ends the
agent with one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os

from overlay import __version__
from overlay.agent import heap, report
from overlay.agent import past as memory
from overlay.agent.local import Node
from overlay.agent.neighbours import LOOK_SECONDS, Neighbours
from overlay.agent.settings import AgentSettings
from overlay.agent.whereabouts import Whereabouts
from overlay.backends.base import Desired
from overlay.control.peers.linger import Lingering
from overlay.control.plane import ControlPlane, ControlSettings, ControlState
from overlay.control.schema import LeaseRecord
from overlay.daemon.clock import boottime
from overlay.daemon.http import Health
from overlay.daemon.lifetime import Daemon
from overlay.daemon.occasions import Occasion, changes_of_this_machine
from overlay.daemon.reconcile import Look
from overlay.datapath.base import DatapathStatus
from overlay.node import forwarding, preflight
from overlay.observe.status import Status, encode
from overlay.problem import Problem, Severity
from overlay.store.etcd.client import EtcdStore

_log = logging.getLogger(__name__)

_RELEASE_SECONDS = 5.0
"""How long a shutdown waits for etcd: systemd's default patience is 90 s, an operator's is less."""


async def run(settings: AgentSettings, notices: tuple[str, ...] = ()) -> None:
    """Runs the agent of this node until SIGTERM or SIGINT.

    Args:
        notices: things about the command line that belong into the log.

    Raises:
        PrivilegeError: this machine can never run it.
        NodeError: another agent runs with the same state directory.
        DeviceError, DatapathError: the machine has not what the first config's backend needs, or that died and cannot
            be mended.
    """
    for notice in notices:
        _log.warning("%s", notice)
    preflight.may_change_network()
    heap.keep_small()
    daemon = Daemon("agent", settings.state_dir)
    await daemon.run(lambda: _bring_up(daemon, settings))


async def _bring_up(daemon: Daemon, settings: AgentSettings) -> None:
    """Waits for an underlay, makes the parts, and starts them."""
    store = EtcdStore(settings.etcd)
    daemon.at_end(store.close)
    directories = tuple(dict.fromkeys((settings.state_dir, settings.data_dir)))
    remembered = await asyncio.to_thread(memory.recall, directories, settings.subnet_file)
    changes = Occasion()
    daemon.start("events", changes_of_this_machine(changes))
    whereabouts = Whereabouts(settings, store, daemon.notifier, remembered)
    daemon.keep("underlay", whereabouts.look, occasion=changes)
    underlay = await whereabouts.first()
    node = Node(settings)
    daemon.at_end(node.close)
    control = ControlPlane(
        store,
        ControlSettings(
            prefix=settings.prefix,
            ttl=settings.lease_ttl,
            margin=settings.renew_margin,
            check_config=whereabouts.check_config,
            advertise=node.advertisement,
        ),
        whereabouts.identity(underlay),
        remembered,
        troubles=daemon.troubles,
    )
    whereabouts.tell(control)
    agent = _Agent(daemon, settings, store=store, whereabouts=whereabouts, control=control, node=node)
    daemon.start("control", control.run())
    daemon.start("etcd's names", whereabouts.resolve())
    daemon.start("announce", node.announce())
    daemon.before_stop(agent.give_lease_back)
    agent.start()


class _Agent:
    """The parts, and what they know of each other."""

    def __init__(
        self,
        daemon: Daemon,
        settings: AgentSettings,
        *,
        store: EtcdStore,
        whereabouts: Whereabouts,
        control: ControlPlane,
        node: Node,
    ) -> None:
        self._daemon = daemon
        self._settings = settings
        self._store = store
        self._whereabouts = whereabouts
        self._control = control
        self._node = node
        self._neighbours = Neighbours(settings.state_dir, watch_docker=settings.watch_docker)
        self._wanted = Occasion()
        self._applied: Desired | None = None
        """What the device is set up for, and the firewall is to be."""
        self._converged: Desired | None = None
        """What this machine is set up for."""

    def start(self) -> None:
        """Starts what keeps this machine as control has it, and what tells how it is."""
        daemon, resync = self._daemon, self._settings.firewall_resync
        self._firewall = daemon.keep("firewall", self._guard, every=resync, retry=resync)
        daemon.keep("node", self._converge, severity=Severity.DOWN, occasion=self._whereabouts.moved)
        daemon.keep("neighbours", self._look_around, every=LOOK_SECONDS)
        daemon.start("peers", self._follow_control())
        daemon.start("backend", self._keep_prepared())
        daemon.start("datapath", self._node.watch())
        daemon.beat(self._is_alive, self._one_line)
        daemon.answer(self._report)
        if self._settings.health_address is not None:
            daemon.answer_probes(self._settings.health_address, self._health)

    async def give_lease_back(self) -> None:
        """What ``--release-on-exit`` asks for."""
        if not self._settings.release_on_exit:
            return
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._control.release()
        except TimeoutError:
            _log.warning("the lease was not given back, etcd does not answer: it ends by itself")

    # --- control and this machine -----------------------------------------------------------------------------------

    async def _follow_control(self) -> None:
        """Hands peers on at once, keeps the memory on disk, and wakes whoever changes this machine."""
        control, state = self._control, self._control.state
        directories = tuple(dict.fromkeys((self._settings.state_dir, self._settings.data_dir)))
        written = None
        backend_type, lingering = "", Lingering()
        while True:
            if state.config is not None:
                if backend_type != state.config.backend.type:  # no peer of the one lingers among those of the other
                    backend_type, lingering = state.config.backend.type, Lingering()
                self._node.set_peers(lingering.update(state.peers, boottime()), backend_type)
            if state.wanted != state.config:
                self._wanted.tell()
            if self._desired(state) != self._converged:
                self._whereabouts.moved.tell()
            if state.memory != written:
                await asyncio.to_thread(memory.remember, directories, state.memory)
                written = state.memory
            patience = None if lingering.due is None else max(0.0, lingering.due - boottime())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    state = await control.changed(state.version)

    def _desired(self, state: ControlState) -> Desired | None:
        """What this machine should be; None while there is no lease. What it was, while one is sought anew, or ours
        still says that we have another backend."""
        underlay = self._whereabouts.underlay
        if state.config is None or state.held is None or underlay is None:
            return self._converged
        if state.held.lease.backend_type != state.config.backend.type:
            return self._converged
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
        if self._converged is not None and self._converged.underlay != desired.underlay:
            self._wanted.tell()
        left = await self._node.converge(desired)
        before, self._applied = self._converged, desired
        if before is None or (before.config, before.subnet) != (desired.config, desired.subnet):
            await self._firewall.once()
        self._converged = desired
        if before is None:
            self._daemon.notifier.status(self._one_line())
            self._daemon.notifier.ready()
            _log.info("ready: subnet %s", desired.subnet)
        return Look((Problem("leftovers", "; ".join(left), "trying again", about="leftovers"),) if left else ())

    async def _guard(self) -> Look:
        if self._applied is not None:
            await self._node.guard(self._applied)
        return Look()

    async def _look_around(self) -> Look:
        return await self._neighbours.look(self._converged, self._node.interface)

    # --- what it says of itself -------------------------------------------------------------------------------------

    async def _examine(self) -> DatapathStatus:
        """Asks the datapath how it is, and whether the machine forwards packets to it: nothing tells of either."""
        status = await self._node.status()
        problems: tuple[Problem, ...] = ()
        if self._converged is not None:
            problems = status.problems
            if (obstacle := forwarding.obstacle(self._node.interface)) is not None:
                problems = (Problem.of(obstacle, "forwarding"), *problems)
        self._daemon.troubles.found("datapath", problems)
        return status

    async def _is_alive(self) -> bool:
        return (await self._examine()).running or self._converged is None

    def _is_set_up(self, state: ControlState) -> bool:
        """Whether this machine has a lease, is as it should be for it as of the last look, and peers can reach it.

        A lease is held, too, while etcd is away and while it is being taken again.
        """
        if self._converged is None or state.held is None or self._converged.subnet != state.held.subnet:
            return False
        return not self._daemon.troubles.down

    def _one_line(self) -> str:
        if problems := self._daemon.troubles.now:
            return problems[0].text
        state = self._control.state
        if state.held is None:
            return "waiting for a lease"
        return f"subnet {state.held.subnet}, {len(state.peers)} peers"

    def _taken_by(self, state: ControlState) -> LeaseRecord | None:
        """The lease to which this machine lost the subnet that it is still set up for; None where it did not."""
        if state.held is not None or self._converged is None:
            return None
        view = self._control.view
        records = (view.record(key) for key in sorted(view.overlapping(self._converged.subnet)))
        return next((record for record in records if record is not None), None)

    async def _health(self) -> Health:
        running, state = (await self._node.status()).running, self._control.state
        return Health(running or self._converged is None, running and self._is_set_up(state), self._one_line())

    async def _report(self) -> bytes:
        chosen = self._whereabouts.underlay
        assert chosen is not None
        status, state, now = await self._examine(), self._control.state, boottime()
        problems = self._daemon.troubles.now
        return encode(
            Status(
                version=__version__,
                pid=os.getpid(),
                node_id=self._settings.node_id,
                uptime_seconds=int(self._daemon.uptime),
                ready=self._is_set_up(state) and status.running,
                problems=tuple(problem.text for problem in problems),
                phase=state.phase.name.lower(),
                lease=report.lease(state.held, now),
                lost_lease=report.lost_lease(self._taken_by(state)),
                underlay=report.underlay(chosen),
                store=report.store(state, self._store.endpoint, now),
                datapath=report.datapath(status),
                peers=tuple(report.peers(state.peers, status.path_mtus)),
                problem_details=tuple(report.details(problems)),
            )
        )
