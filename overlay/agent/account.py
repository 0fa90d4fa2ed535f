"""What the agent says of itself: to systemd, to probes and to ``overlay status``, each time as it is then."""

from __future__ import annotations

import os

from overlay import __version__
from overlay.agent import report
from overlay.agent.local import Node
from overlay.agent.settings import AgentSettings
from overlay.agent.upkeep import Upkeep
from overlay.agent.whereabouts import Whereabouts
from overlay.control.plane import ControlPlane, ControlState
from overlay.control.schema.lease import LeaseRecord
from overlay.daemon.clock import boottime
from overlay.daemon.http import Health
from overlay.daemon.lifetime import Daemon
from overlay.datapath.base import DatapathStatus
from overlay.node import forwarding
from overlay.observe.status import Status, encode
from overlay.problem import Problem
from overlay.store.etcd.client import EtcdStore


class Account:
    """Asks the parts how they are."""

    def __init__(
        self,
        daemon: Daemon,
        settings: AgentSettings,
        *,
        store: EtcdStore,
        whereabouts: Whereabouts,
        control: ControlPlane,
        node: Node,
        upkeep: Upkeep,
    ) -> None:
        self._daemon = daemon
        self._settings = settings
        self._store = store
        self._whereabouts = whereabouts
        self._control = control
        self._node = node
        self._upkeep = upkeep

    async def _examine(self) -> DatapathStatus:
        """Asks the datapath how it is, and whether the machine forwards packets to it: nothing tells of either."""
        status = await self._node.status()
        problems: tuple[Problem, ...] = ()
        if self._upkeep.converged is not None:
            problems = status.problems
            if (obstacle := forwarding.obstacle(self._node.interface)) is not None:
                problems = (Problem.of(obstacle, "forwarding"), *problems)
        self._daemon.troubles.found("datapath", problems)
        return status

    async def is_alive(self) -> bool:
        """Whether the datapath answers, where there is to be one."""
        return (await self._examine()).running or self._upkeep.converged is None

    def _is_set_up(self, state: ControlState) -> bool:
        """Whether this machine has a lease, is as it should be for it as of the last look, and peers can reach it.

        A lease is held, too, while etcd is away and while it is being taken again.
        """
        if self._upkeep.converged is None or state.held is None or self._upkeep.converged.subnet != state.held.subnet:
            return False
        return not self._daemon.troubles.down

    def one_line(self) -> str:
        """How the node is: the worst that is wrong, or what it has."""
        if problems := self._daemon.troubles.now:
            return problems[0].text
        state = self._control.state
        if state.held is None:
            return "waiting for a lease"
        return f"subnet {state.held.subnet}, {len(state.peers)} peers"

    def _taken_by(self, state: ControlState) -> LeaseRecord | None:
        """The lease to which this machine lost the subnet that it is still set up for; None where it did not."""
        if state.held is not None or self._upkeep.converged is None:
            return None
        view = self._control.view
        records = (view.record(key) for key in sorted(view.overlapping(self._upkeep.converged.subnet)))
        return next((record for record in records if record is not None), None)

    async def health(self) -> Health:
        """For probes."""
        running, state = (await self._node.status()).running, self._control.state
        return Health(running or self._upkeep.converged is None, running and self._is_set_up(state), self.one_line())

    async def report(self) -> bytes:
        """For ``overlay status``."""
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
