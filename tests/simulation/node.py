"""One simulated node: the real control plane in a process of its own, over a faulty line, with clocks of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from ipaddress import IPv4Address
from random import Random

from overlay.control.engine import ControlSettings, ControlState
from overlay.control.leases.allocator import Identity, Memory
from overlay.control.leases.state import Held, Phase
from overlay.control.plane import ControlPlane
from tests.simulation.clock import Clock
from tests.simulation.loop import ProcessLoop
from tests.simulation.server import Line, Request, Server
from tests.simulation.store import FaultyStore, Transaction

TTL = 40
"""Seconds that leases live in the simulation."""

MARGIN = 20.0
PREFIX = "/coreos.com/network"

MEMORIES = 20
"""Earlier contents of its state directory that a node may be set back to."""


class Standstill(Enum):
    """Why a process does nothing for a while."""

    STOPPED = "process stopped"
    """SIGSTOP, or a starved machine: every clock goes on."""
    SUSPENDED = "machine suspended"
    """CLOCK_MONOTONIC, which is asyncio's, stands still, CLOCK_BOOTTIME goes on."""
    PAUSED = "machine paused, clock too"
    """A virtual machine: both stand still, and the process cannot know."""


class Process:
    """One life of a node's agent.

    Attributes:
        state: the newest that the agent has been told.
    """

    def __init__(self, node: Node, clock: Clock, server: Server, rng: Random) -> None:
        self.node = node
        self.loop = ProcessLoop(clock)  # type: ignore[abstract]  # offers what is used
        self.store = FaultyStore(self.loop, server, node.line)
        self.store.on_call = node.on_call
        self.store.on_commit = lambda transaction: node.on_commit(node, transaction)
        identity = Identity(node.node_id, node.public_ip)
        settings = ControlSettings(PREFIX, TTL, MARGIN)
        self.plane = ControlPlane(
            self.store, settings, identity, node.memory, clock=lambda: clock.now + node.offset, rng=rng
        )
        self.state: ControlState = self.plane.state
        self._tasks = [self.loop.create_task(work) for work in (self.plane.run(), self._agent())]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def kill(self) -> None:
        """As SIGKILL."""
        self.store.die()
        self.loop.kill()

    def release(self) -> None:
        """What SIGTERM does with --release-on-exit."""
        self.loop.call_soon(lambda: self._tasks.append(self.loop.create_task(self.plane.release())))

    async def _agent(self) -> None:
        """What the agent does with the control plane: follows the state, and writes down what to remember."""
        while True:
            self.state = self.plane.state
            self.node.remember(self.state.memory)
            self.node.on_change(self.node)
            if self.state.phase is Phase.RELEASED:
                self.node.exit()
            self.state = await self.plane.changed(self.state.version)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self.node.process is self:
            error = None if task.cancelled() else task.exception()
            self.loop.error = error or AssertionError(f"{self.node.name}: a task has ended")


class Node:
    """A node, of which at most one process lives at a time.

    Attributes:
        process: the living one; None between a crash and a restart.
        memory: what its state directory holds; ``memories``: what it held before, oldest first.
        addresses: those that it has had in this process's life.
        offset: its boottime less the world's, negative after the machine was paused.
        frozen: whether the process is stopped.
        lives: how many processes it has had.
        on_change: told whenever the agent is told of a new state.
        on_commit: told before the server carries out one of its transactions.
        on_call: told of every call that it makes.
    """

    def __init__(self, name: str, public_ip: IPv4Address, clock: Clock, server: Server, rng: Random) -> None:
        self.name = name
        self.node_id = name
        self.public_ip = public_ip
        self.addresses = {public_ip}
        self.line = Line()
        self.memory = Memory()
        self.memories: list[Memory] = []
        self.process: Process | None = None
        self.offset = 0.0
        self.frozen = False
        self.lives = 0
        self.on_change: Callable[[Node], None] = lambda node: None
        self.on_commit: Callable[[Node, Transaction], None] = lambda node, transaction: None
        self.on_call: Callable[[Request], None] = lambda request: None
        self._clock, self._server, self._rng = clock, server, rng

    @property
    def now(self) -> float:
        """The time by this node's clock."""
        return self._clock.now + self.offset

    @property
    def state(self) -> ControlState:
        """What its agent knows."""
        assert self.process is not None
        return self.process.state

    @property
    def held(self) -> Held | None:
        """The lease that its agent thinks it has."""
        return None if self.process is None else self.process.state.held

    def start(self) -> None:
        """Starts the process with what the state directory remembers."""
        assert self.process is None
        self.lives += 1
        self.addresses = {self.public_ip}
        self.process = Process(self, self._clock, self._server, self._rng)

    def crash(self) -> None:
        """Ends the process as SIGKILL does. What it has sent may still arrive."""
        process, self.process = self.process, None
        assert process is not None
        self.frozen = False
        process.kill()

    def exit(self) -> None:
        """The process ends by itself, once what it does now is done."""
        process = self.process
        self._clock.at(self._clock.now, lambda: self.crash() if process is self.process is not None else None)

    def remember(self, memory: Memory) -> None:
        """Writes the state directory."""
        if memory != self.memory:
            self.memories = [*self.memories[1 - MEMORIES :], self.memory]
            self.memory = memory

    def change_address(self, public_ip: IPv4Address) -> None:
        """The node's address becomes another one; a running process is told."""
        self.public_ip = public_ip
        self.addresses.add(public_ip)
        if (process := self.process) is not None:
            process.loop.call_soon(process.plane.identify, Identity(self.node_id, public_ip))

    def release(self) -> None:
        """What SIGTERM does with --release-on-exit."""
        if self.process is not None:
            self.process.release()

    def stand_still(self, seconds: float, how: Standstill) -> None:
        """The process does nothing for a while."""
        process = self.process
        assert process is not None
        self.frozen = True
        process.loop.stop_process()
        if how is not Standstill.STOPPED:
            process.loop.stood_still += seconds  # nobody reads its clock before it goes on

        def go_on() -> None:
            if process is not self.process:
                return
            self.frozen = False
            if how is Standstill.PAUSED:
                self.offset -= seconds
            process.loop.continue_process()

        self._clock.after(seconds, go_on)
