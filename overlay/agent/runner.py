"""Builds the parts, and supervises their tasks until the agent is told to stop.

Tasks, each of which runs as long as the agent::

    control     follows etcd and keeps our lease; publishes ControlState
    peers       ControlState → datapath, at once: a new peer must not wait for anything
    underlay    follows the kernel's links, addresses and routes; publishes Underlay, and what a Network collides with
    etcd's names  keeps the addresses of etcd's members, which the Network must not cover
    converge    ControlState and Underlay → this machine; again on every change, and after a while without one
    announce    runs ``--on-subnet-change``
    firewall    masquerading and forwarding rules, checked every ``--iptables-resync`` seconds: netlink tells nothing
    datapath    ends only by an error, which then ends the agent
    neighbours  looks whether Docker and the firewalls of others let packets pass
    heartbeat   systemd's status and watchdog, from what control and datapath say of themselves
    report, health  answer ``overlay status`` and probes

Everything that may fail while the world is incomplete (no etcd, no config, no interface, a port in use) is retried and
said once. What can never work (no privileges, no TUN driver, wrong flags) ends the agent with one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, NoReturn

from overlay import backends
from overlay.agent import heap
from overlay.agent import past as memory
from overlay.agent.local import Node
from overlay.agent.lookout import Lookout, Sight
from overlay.agent.neighbours import Neighbours
from overlay.agent.report import describe
from overlay.agent.settings import AgentSettings
from overlay.backends.base import Desired
from overlay.backends.udp.choice import choose
from overlay.control.leases.allocator import Identity, Memory
from overlay.control.peers.linger import Lingering
from overlay.control.plane import ControlPlane, ControlSettings, ControlState, boottime
from overlay.control.schema import LeaseRecord
from overlay.daemon import http as health
from overlay.daemon import lock
from overlay.daemon import status_socket as report
from overlay.daemon.http import Health
from overlay.daemon.sd_notify import Notifier
from overlay.errors import ConfigError, DatapathError, NodeError, PortInUseError, PrivilegeError, first_of
from overlay.linux import netlink
from overlay.model import NetworkConfig
from overlay.node import forwarding, preflight, subnet_env
from overlay.node.collision import Surroundings, collision
from overlay.node.interfaces import Underlay
from overlay.observe.logging import Once
from overlay.problem import Problem
from overlay.store.etcd.client import EtcdStore

_log = logging.getLogger(__name__)

_RECONCILE_SECONDS = 30.0
"""How long a change that netlink did not tell us of can last."""

_RETRY_SECONDS = 2.0

_HEARTBEAT_SECONDS = 5.0
"""How old the status line that systemd shows may be; the watchdog may ask for less."""

_RELEASE_SECONDS = 5.0
"""How long a shutdown waits for etcd: systemd's default patience is 90 s, an operator's is less."""


async def run(settings: AgentSettings, notices: tuple[str, ...] = ()) -> None:
    """Runs the agent of this node until SIGTERM or SIGINT.

    Args:
        notices: things about the command line that belong into the log.

    Raises:
        PrivilegeError, DeviceError: this machine can never run it.
        NodeError: another agent runs with the same state directory.
        DatapathError: the datapath died and cannot be mended.
    """
    for notice in notices:
        _log.warning("%s", notice)
    preflight.check()
    heap.keep_small()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    held_lock = lock.lock(settings.state_dir)
    agent = _Agent(settings)
    try:
        await _until(stop, agent.run(), agent.last_wishes)
    finally:
        await agent.close()
        os.close(held_lock)


class _Agent:
    """The parts, and what they know of each other."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._started = time.monotonic()
        self._directories = tuple(dict.fromkeys((settings.state_dir, settings.data_dir)))
        self._store = EtcdStore(settings.etcd)
        self._says = Once(_log)
        self._notifier = Notifier()
        self._wake = asyncio.Event()
        self._up = asyncio.Event()
        self._lookout = Lookout(settings)
        self._underlay: Underlay | None = None
        self._surroundings = Surroundings()
        self._remembered = Memory()
        self._control: ControlPlane | None = None
        self._node: Node | None = None
        self._converged: Desired | None = None
        self._troubles: dict[str, str] = {}
        self._datapath_problems: tuple[Problem, ...] = ()
        self._told: set[str] = set()
        self._neighbours = Neighbours(settings.datapath.device, settings.state_dir, watch_docker=settings.watch_docker)

    async def run(self) -> NoReturn:
        """Brings the node up and keeps it so; ends only by an error."""
        self._remembered = await asyncio.to_thread(memory.recall, self._directories, self._settings.subnet_file)
        self._underlay = underlay = await self._first_underlay()
        _log.info("underlay %s; node id %s", underlay, self._settings.node_id)
        control = self._control = ControlPlane(
            self._store,
            ControlSettings(
                prefix=self._settings.prefix,
                ttl=self._settings.lease_ttl,
                margin=self._settings.renew_margin,
                check_config=self._check_config,
            ),
            self._identity(underlay),
            self._remembered,
        )
        choice = await choose(self._settings.datapath)
        _log.info("datapath: %s, %s", choice.name, choice.reason)
        node = self._node = Node(self._settings, choice)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(control.run(), name="control")
            tasks.create_task(self._follow_control(control, node), name="peers")
            tasks.create_task(self._follow_underlay(control), name="underlay")
            tasks.create_task(self._lookout.resolve(), name="etcd's names")
            tasks.create_task(self._converge_for_ever(control, node), name="converge")
            tasks.create_task(node.announce(), name="announce")
            tasks.create_task(self._keep_firewall(node), name="firewall")
            tasks.create_task(self._neighbours.watch(lambda: self._converged), name="neighbours")
            tasks.create_task(self._watch_datapath(node), name="datapath")
            tasks.create_task(self._heartbeat(control, node), name="heartbeat")
            tasks.create_task(report.serve(self._settings.state_dir, self._report), name="report")
            if self._settings.health_address is not None:
                tasks.create_task(self._serve_health(self._settings.health_address), name="health")
        raise AssertionError("the agent's tasks never end by themselves")

    async def last_wishes(self) -> None:
        """What is done while everything still runs, once the agent is told to stop."""
        self._notifier.stopping()
        if not self._settings.release_on_exit or self._control is None:
            return
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._control.release()
        except TimeoutError:
            _log.warning("the lease was not given back, etcd does not answer: it ends by itself")

    async def close(self) -> None:
        """Ends the datapath's processes and the connections; what is meant to outlive the agent stays."""
        if self._node is not None:
            await self._node.close()
        await self._store.close()

    # --- underlay ---------------------------------------------------------------------------------------------------

    async def _first_underlay(self) -> Underlay:
        """Waits until there is an interface that fits: at boot, it may come later than we do."""
        async with contextlib.aclosing(_at_once_and_on_changes()) as occasions:
            async for _ in occasions:
                sight = await self._look()
                if sight.underlay is not None:
                    self._says.over("underlay", f"underlay interface {sight.underlay.interface} is there")
                    return sight.underlay
                self._says.say("underlay", f"{sight.error}; waiting for one that does")
                self._notifier.status(f"waiting for an interface: {sight.error}")
        raise AssertionError("there is always another occasion")

    async def _follow_underlay(self, control: ControlPlane) -> None:
        """Keeps up with the underlay's address and MTU, and with whatever others do to links and routes."""
        async with contextlib.aclosing(_at_once_and_on_changes(self._lookout.due)) as occasions:
            async for _ in occasions:
                before = self._surroundings
                sight = await self._look()
                underlay = sight.underlay
                if sight.error is not None or underlay is None:
                    self._troubles["underlay"] = f"{sight.error}; no peer reaches this node until there is one"
                    self._says.say("underlay", f"{sight.error}; going on as before")
                else:
                    self._troubles.pop("underlay", None)
                    self._says.over("underlay", f"underlay interface {underlay.interface} is there again")
                    if underlay != self._underlay:
                        await self._move_to(underlay, control)
                if self._surroundings != before:
                    control.check_again()
                self._wake.set()

    async def _move_to(self, underlay: Underlay, control: ControlPlane) -> None:
        """Goes over to another underlay, or the same with another address or MTU, and has peers told."""
        _log.info("underlay is now %s", underlay)
        before, self._underlay = self._underlay, underlay
        if before is None or before.address != underlay.address:
            # What is sent from an address that is gone vanishes: writing the lease would wait for a time-out.
            await self._store.reconnect()
        control.identify(self._identity(underlay))

    async def _look(self) -> Sight:
        """One look at this machine, with what is known by now of the overlay's own addresses."""
        network, remembered = None, set(self._remembered.subnets)
        if self._control is not None and (config := self._control.state.config) is not None and config.ipv4 is not None:
            network, remembered = config.ipv4.network, set(self._control.state.memory.subnets)
        elif (previous := await asyncio.to_thread(subnet_env.previous_network, self._settings.subnet_file)) is not None:
            remembered.add(previous)
        sight = await self._lookout.look(network, frozenset(remembered), boottime())
        self._surroundings = sight.surroundings
        return sight

    def _check_config(self, config: NetworkConfig) -> None:
        """Raises ConfigError for a config that this agent cannot run, or that would take what is another's here."""
        backends.check(config)
        if config.ipv4 is not None and (error := collision(config.ipv4.network, self._surroundings)) is not None:
            raise error

    def _identity(self, underlay: Underlay) -> Identity:
        return Identity(self._settings.node_id, underlay.public_ip, self._settings.public_ipv6)

    # --- control and this machine -----------------------------------------------------------------------------------

    async def _follow_control(self, control: ControlPlane, node: Node) -> None:
        """Hands peers on at once, keeps the memory on disk, and wakes whoever changes this machine."""
        state = control.state
        written = None
        lingering = Lingering()
        while True:
            node.set_peers(lingering.update(state.peers, boottime()))
            if self._desired(state) != self._converged:
                self._wake.set()
            if state.memory != written:
                await asyncio.to_thread(memory.remember, self._directories, state.memory)
                written = state.memory
            patience = None if lingering.due is None else max(0.0, lingering.due - boottime())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    state = await control.changed(state.version)

    def _desired(self, state: ControlState) -> Desired | None:
        """What this machine should be; None while there is no lease. While one is sought anew, what it was."""
        if state.config is None or state.held is None or self._underlay is None:
            return self._converged
        return Desired(state.config, state.held.subnet, self._underlay, state.held.lease.ipv6_subnet)

    async def _converge_for_ever(self, control: ControlPlane, node: Node) -> None:
        while True:
            self._wake.clear()
            patience = _RECONCILE_SECONDS
            desired = self._desired(control.state)
            if desired is not None and not await self._tried("node", self._converge(node, desired)):
                patience = _RETRY_SECONDS
            elif desired is not None:
                if self._converged is None or (self._converged.config, self._converged.subnet) != (
                    desired.config,
                    desired.subnet,
                ):
                    await self._tried("firewall", node.guard(desired))
                first, self._converged = self._converged is None, desired
                if first:
                    self._up.set()
                    self._notifier.status(self._one_line(control.state))
                    self._notifier.ready()
                    _log.info("ready: subnet %s", desired.subnet)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._wake.wait()

    async def _converge(self, node: Node, desired: Desired) -> None:
        left = await node.converge(desired)
        self._troubles.pop("leftovers", None)
        if left:
            self._troubles["leftovers"] = "; ".join(left)
            self._says.say("leftovers", f"{self._troubles['leftovers']}; trying again")
        else:
            self._says.over("leftovers", "nothing is left to be tidied up")

    async def _watch_datapath(self, node: Node) -> None:
        await self._up.wait()
        await node.watch()

    async def _keep_firewall(self, node: Node) -> None:
        while True:
            await asyncio.sleep(self._settings.firewall_resync)
            if self._converged is not None:
                await self._tried("firewall", node.guard(self._converged))

    async def _tried(self, topic: str, work: Coroutine[Any, Any, None]) -> bool:
        """Whether ``work`` succeeded; if not, that is said once, shown while it lasts, and left to the next attempt.

        Raises:
            PrivilegeError: another attempt would not help.
        """
        try:
            await work
        except PrivilegeError:
            raise
        except (NodeError, ConfigError, DatapathError) as error:
            self._troubles[topic] = str(error)
            self._says.say(topic, f"{error}; trying again")
            return False
        self._all_is_well_again(topic)
        return True

    async def _serve_health(self, address: tuple[str, int]) -> None:
        """Answers probes for as long as the agent runs, once the port is free and its address there."""
        while True:
            try:
                await health.serve(address, self._health, lambda: self._all_is_well_again("health"))
            except PortInUseError as error:
                self._troubles["health"] = str(error)
                self._says.say("health", f"{error}; trying again")
            await asyncio.sleep(_RETRY_SECONDS)

    def _all_is_well_again(self, topic: str) -> None:
        self._troubles.pop(topic, None)
        self._says.over(topic, f"{topic}: all is as it should be again")

    # --- what it says of itself -------------------------------------------------------------------------------------

    async def _heartbeat(self, control: ControlPlane, node: Node) -> None:
        """Tells systemd how we are, and that we are, as long as the datapath answers too."""
        watchdog = self._notifier.watchdog_seconds
        interval = min(_HEARTBEAT_SECONDS, watchdog / 3) if watchdog else _HEARTBEAT_SECONDS
        while True:
            self._check_forwarding()
            status = await node.status()
            if self._converged is None or status.running:
                self._notifier.alive()
            self._take_in(status.problems)
            self._notifier.status(self._one_line(control.state))
            await asyncio.sleep(interval)

    def _take_in(self, problems: tuple[Problem, ...]) -> None:
        """Logs what is wrong with the datapath when it begins and when it is over, and now and then what it is."""
        self._datapath_problems = problems if self._converged is not None else ()
        now = {problem.code for problem in self._datapath_problems}
        for code in self._told - now:
            self._says.over(code, f"{code}: over")
        for problem in self._datapath_problems:
            if problem.code not in self._told:  # its numbers change with every look
                self._says.say(problem.code, str(problem))
        self._told = now

    def _problems(self, state: ControlState) -> tuple[str, ...]:
        seen = (*self._datapath_problems, *self._neighbours.problems)
        return (*map(str, state.problems), *self._troubles.values(), *map(str, seen))

    def _check_forwarding(self) -> None:
        """Packets pass only where the machine forwards them; nothing tells when that changes."""
        device = self._settings.datapath.device
        problem = None if self._converged is None else forwarding.obstacle(device)
        if problem is None:
            self._all_is_well_again("forwarding")
        else:
            self._troubles["forwarding"] = str(problem)
            self._says.say("forwarding", str(problem))

    def _is_set_up(self, state: ControlState) -> bool:
        """Whether this machine has a lease, is as it should be for it as of the last look, and peers can reach it.

        A lease is held, too, while etcd is away and while it is being taken again.
        """
        if self._converged is None or state.held is None or self._converged.subnet != state.held.subnet:
            return False
        return self._troubles.keys().isdisjoint(("node", "underlay"))

    def _one_line(self, state: ControlState) -> str:
        if problems := self._problems(state):
            return problems[0]
        if state.held is None:
            return "waiting for a lease"
        return f"subnet {state.held.subnet}, {len(state.peers)} peers"

    def _taken_by(self, state: ControlState) -> LeaseRecord | None:
        """The lease to which this machine lost the subnet that it is still set up for; None where it did not."""
        if state.held is not None or self._converged is None or self._control is None:
            return None
        view = self._control.view
        records = (view.record(key) for key in sorted(view.overlapping(self._converged.subnet)))
        return next((record for record in records if record is not None), None)

    async def _health(self) -> Health:
        assert self._control is not None
        assert self._node is not None
        running, state = (await self._node.status()).running, self._control.state
        return Health(running or self._converged is None, running and self._is_set_up(state), self._one_line(state))

    async def _report(self) -> dict[str, Any]:
        assert self._control is not None
        assert self._node is not None
        assert self._underlay is not None
        state, status = self._control.state, await self._node.status()
        self._take_in(status.problems)
        self._check_forwarding()
        return describe(
            self._settings,
            state,
            self._underlay,
            status,
            uptime=time.monotonic() - self._started,
            endpoint=self._store.endpoint,
            ready=self._is_set_up(state),
            taken_by=self._taken_by(state),
            problems=self._problems(state),
            reason=self._node.reason,
        )


async def _at_once_and_on_changes(
    due: Callable[[float], float | None] = lambda _: None,
) -> AsyncGenerator[None, None]:
    """Once now, and after every change that the kernel tells of; again after a while without any, or when ``due``."""
    changed = asyncio.Event()

    async def listen() -> None:
        async for _ in netlink.changes():
            changed.set()

    listener = asyncio.create_task(listen())
    try:
        while True:
            changed.clear()
            yield
            with contextlib.suppress(TimeoutError):
                patience = due(boottime())
                async with asyncio.timeout(
                    _RECONCILE_SECONDS if patience is None else min(patience, _RECONCILE_SECONDS)
                ):
                    await changed.wait()
            if listener.done():
                listener.result()
    finally:
        listener.cancel()


async def _until(
    stop: asyncio.Event, work: Coroutine[Any, Any, NoReturn], last_wishes: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Runs ``work`` until it fails or ``stop`` is set; a group's first error, however deep, is raised as it is."""
    running = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        await last_wishes()
    except BaseExceptionGroup as group:  # and not "except*", which would put what is raised here into a group again
        raise first_of(group) from None
    finally:
        for task in (running, stopped):
            task.cancel()
        await asyncio.gather(running, stopped, return_exceptions=True)
