"""Keeps this node doing what the table says: the loop's work, from the mirror to the mode.

What it finds out about the machine (addresses, routes, ports in use) it looks up each time that it is told of a change
of the machine's network; what changed in etcd it is told by name, and only that is computed anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from overlay.daemon.clock import boottime
from overlay.daemon.reconcile import Look
from overlay.errors import ConfigError
from overlay.problem import Problem, Severity
from overlay.services import configuration
from overlay.services.configuration import Configuration
from overlay.services.facts import ServiceName
from overlay.services.mirror import ServicesMirror
from overlay.services.proxy import hairpin, passage, place
from overlay.services.proxy.base import Mode, Surroundings
from overlay.services.proxy.modes import MODES, NONE, choose
from overlay.services.table import Entry, Kind, Place, PortName, Table
from overlay.services.table_maker import TableMaker

_log = logging.getLogger(__name__)

CHECK_SECONDS = 30.0
"""How long what others broke may stay broken, where nobody tells."""

PORTS_SECONDS = 10.0
"""How old what is known of ports in use may be."""

SETTLE_SECONDS = 2.0
"""After a change of the machine's network it is looked at once more: others arrange their rules after their devices."""

PROBE_SECONDS = 30.0
"""From one look for a mode to the next, where there was none."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What the daemon knows of this node in the network."""

    networks: tuple[IPv4Network, ...] = ()
    subnets: tuple[IPv4Network, ...] = ()


_OTHERWISE = "ask for what it can do, in the Service, or choose another --proxy-mode"
"""What can be done about what a mode cannot do."""


class Keeper:
    """Programs this node, by one mode.

    Args:
        wish: ``--proxy-mode``.
        applied: called with every table that was carried out.
    """

    def __init__(
        self,
        mirror: ServicesMirror,
        node: str,
        wish: str,
        surroundings: Surroundings,
        applied: Callable[[Table], None] = lambda _: None,
    ) -> None:
        self._mirror = mirror
        self._node = node
        self._wish = wish
        self._surroundings = surroundings
        self._applied = applied
        self._where: Whereabouts | None = None
        self._maker = TableMaker()
        self._touched: set[ServiceName] | None = None
        self._config = Configuration()
        self._mode: Mode | None = None
        self._why_not = ""
        self._others_removed = False
        self._checked = 0.0
        self._machine: place.Machine | None = None
        self._changes, self._looked_at = 0, -1
        self._settled: float | None = None
        self._passage: tuple[Problem, ...] = ()
        self._taken: tuple[float, tuple[Problem, ...]] = (-PORTS_SECONDS, ())
        self._revision = 0
        self._remarks: dict[PortName, tuple[str, ...]] = {}
        self.table: Table | None = None

    # --- what it is told --------------------------------------------------------------------------------------------

    def touch(self) -> None:
        """The mirror has changed."""
        if self._touched is not None:
            self._touched |= self._mirror.touched

    def network_changed(self) -> None:
        """Addresses or routes of this machine may have changed; also while they are being looked at."""
        self._changes += 1
        self._settled = boottime() + SETTLE_SECONDS

    def is_at(self, where: Whereabouts) -> bool:
        """Where this node is in the network; whether that is news."""
        news, self._where = where != self._where, where
        if news:
            self.network_changed()
        return news

    # --- its work ---------------------------------------------------------------------------------------------------

    async def look(self) -> Look:
        """One turn of the loop. Nothing is done before it is told where this node is: rules that were right before a
        restart would be written anew without it. Raises OverlayError where the mode could not do it."""
        where = self._where
        if self._wish == NONE or not self._mirror.loaded or where is None:
            return Look()
        if self._mode is None and not await self._choose():
            return Look((self._no_mode(),), due=PROBE_SECONDS)
        mode = self._mode
        assert mode is not None
        now = boottime()
        if self.table is not None and now - self._checked >= CHECK_SECONDS:
            self._checked = now
            self._changes += 1
            if not await mode.check():
                _log.warning("what Services need on this node was taken away by somebody; it is made again")
        if self._settled is not None and now >= self._settled:
            self._settled = None
            self._changes += 1
        machine = await self._look_at_machine(where.subnets)
        revision = self._mirror.revision
        here, problems = place.place_of(
            machine, self._node, where.networks, where.subnets, self._service_cidr()
        )  # fmt: skip
        table, before = self._make(here), self.table
        done = await mode.apply(table)
        self.table, self._revision = table, revision
        self._note_remarks(table, before, mode)
        self._applied(table)
        if not self._others_removed:
            await self._remove_others(mode)
        if now - self._taken[0] >= PORTS_SECONDS or _other_node_ports(table, before):
            listening = await asyncio.to_thread(place.listening_ports)
            self._taken = now, place.taken_node_ports(table.entries.values(), listening)
        conflicts = [
            Problem("address-conflict", each, "take it from one of them", about=each.split(" ")[0])
            for each in table.conflicts
        ]
        told = (*problems, *self._passage, *done.problems, *self._taken[1], *conflicts, *self._told_remarks())
        return Look(told, due=self._due(done.due))

    def _due(self, mode: float | None) -> float | None:
        """When there is more to do though nothing changes."""
        settled = None if self._settled is None else max(0.0, self._settled - boottime())
        return min((due for due in (mode, settled) if due is not None), default=None)

    async def _look_at_machine(self, subnets: Sequence[IPv4Network]) -> place.Machine:
        """What was found, and found out anew if anything has changed since that look began. Raises NodeError."""
        if self._machine is None or self._looked_at != self._changes:
            begun = self._changes
            machine = await asyncio.to_thread(place.look)
            if not machine.bridged:
                bridges = machine.bridges_of(subnets)
                await asyncio.to_thread(hairpin.allow, bridges, self._surroundings.state_dir)
            self._passage = await asyncio.to_thread(passage.keep)
            self._machine, self._looked_at = machine, begun
        return self._machine

    async def _choose(self) -> bool:
        choice = await choose(self._wish, self._surroundings)
        self._why_not = choice.why_not
        self._mode = choice.mode
        if choice.mode is not None:
            told = f" ({choice.why_not})" if choice.why_not else ""
            _log.info("Services' addresses answer by %s%s", choice.mode.name, told)
        return choice.mode is not None

    def _no_mode(self) -> Problem:
        sentence = f"no Service's address answers on this node: {self._why_not}"
        return Problem("proxy", sentence, "mend that, or choose another --proxy-mode", severity=Severity.DOWN)

    def _make(self, here: Place) -> Table:
        """The table of now; what fails on the way is done whole the next time."""
        touched, self._touched = self._touched, set()
        return self._maker.make(self._mirror, here, touched)

    def _service_cidr(self) -> IPv4Network:
        """The cluster's; while its configuration is none that can be used, the last one."""
        stored = self._mirror.items.get(self._mirror.keys.config)
        try:
            self._config = Configuration() if stored is None else configuration.parse(stored.value, about=stored.key)
        except ConfigError as error:
            _log.warning("%s", error)
        return self._config.service_cidr

    async def _remove_others(self, mode: Mode) -> None:
        """What a mode left that was in use before; only now, so that addresses answered meanwhile."""
        for name, make in MODES.items():
            if name not in (mode.name, *mode.stands_on):
                other = make(self._surroundings)
                for each in await other.remove():
                    _log.info("removed: %s, of the proxy mode %s", each, name)
                await other.close()
        self._others_removed = True

    # --- what it says -----------------------------------------------------------------------------------------------

    def _note_remarks(self, table: Table, before: Table | None, mode: Mode) -> None:
        for name, _, entry in table.changed(before):
            self._remarks.pop(name, None)
            if entry is not None and (remarks := mode.remarks(entry)):
                self._remarks[name] = remarks

    def _told_remarks(self) -> list[Problem]:
        return [
            Problem("proxy-mode", f"Service {name}: {remark}", _OTHERWISE, about=f"Service {name}")
            for name, remark in sorted(self.remarks)
        ]

    @property
    def remarks(self) -> Iterator[tuple[PortName, str]]:
        """What Services ask for and this node's mode cannot do, a sentence each."""
        return ((name, remark) for name, remarks in self._remarks.items() for remark in remarks)

    def facts(self) -> dict[str, object]:
        """What ``overlay services --status`` shows."""
        if self._mode is None or self.table is None:
            return {"mode": None, "why": self._why_not or ("not wanted" if self._wish == NONE else "not begun")}
        entries: list[Entry] = list(self.table.entries.values())
        return {
            "mode": self._mode.name,
            "declined": self._why_not,
            "revision": self._revision,
            "ports": len(entries),
            "backends": sum(len(entry.cluster) for entry in entries),
            "without_endpoints": sum(not entry.cluster for entry in entries),
            **self._mode.facts(),
        }

    async def close(self) -> None:
        """The daemon ends; what carries traffic stays."""
        if self._mode is not None:
            await self._mode.close()


def _other_node_ports(table: Table, before: Table | None) -> bool:
    """Whether there is a node port that was none before, or none where there was one."""
    changed = [entry for _, *both in table.changed(before) for entry in both if entry is not None]
    return any(frontend.kind is Kind.NODE_PORT for entry in changed for frontend in entry.frontends)
