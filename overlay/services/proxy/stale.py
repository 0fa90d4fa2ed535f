"""Flows of UDP that lead where a Service does not lead any more.

A flow keeps what it was given for as long as packets come, so a client that never stops sending (a resolver, statsd)
would for ever be sent to a pod that is gone. TCP finds out by itself. Known mistakes of kube-proxy's that are none here
(``pkg/proxy/conntrack/cleanup.go``): Services without endpoints are passed over (kubernetes #139628), those that were
deleted too (#141371), and rules wait for the cleaning (#135323).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from typing import TypeAlias

from overlay.daemon.occasions import Occasion
from overlay.daemon.reconcile import Look
from overlay.errors import PrivilegeError
from overlay.linux import conntrack
from overlay.linux.conntrack import Flow
from overlay.problem import Problem
from overlay.services.table import Entry, Table

Where: TypeAlias = tuple[str, int]
"""An address and a port; of a node port the address is empty."""


def stale(flows: Iterable[Flow], table: Table, gone: frozenset[Where] = frozenset()) -> Iterator[Flow]:
    """Those of UDP's flows whose next packet has to be looked at anew. Pure.

    Args:
        gone: where Services were met until lately, and are not any more.
    """
    met = {(frontend.address, frontend.port): entry for entry in table.entries.values() if entry.protocol == "UDP"
           for frontend in entry.frontends}  # fmt: skip
    for flow in flows:
        keys = [(flow.destination, flow.port)]
        if flow.destination in table.place.addresses:
            keys.append(("", flow.port))
        answering = (flow.answered_from, flow.answered_port)
        entry = next((met[key] for key in keys if key in met), None)
        if entry is not None:
            if answering not in _serving(entry):
                yield flow
        elif answering != keys[0] and (_is_cluster_ip(table, flow) or any(key in gone for key in keys)):
            yield flow


def _serving(entry: Entry) -> set[Where]:
    """Who may go on answering: what drains, too."""
    return {(each.address, each.port) for each in (*entry.all_backends, *entry.draining)}


def _is_cluster_ip(table: Table, flow: Flow) -> bool:
    cidr = table.place.service_cidr
    return cidr is not None and IPv4Address(flow.destination) in cidr


class StaleFlows:
    """Deletes them after changes, apart from the loop that programs: listing a large table takes its time."""

    def __init__(self) -> None:
        self.occasion = Occasion()
        self.deleted = 0
        self._table: Table | None = None
        self._gone: set[Where] = set()

    def applied(self, table: Table) -> None:
        """A table was carried out."""
        changed = [each for each in table.changed(self._table) if each[0].protocol == "UDP"]
        for _, before, now in changed:
            kept = () if now is None else now.frontends
            left = [each for each in (() if before is None else before.frontends) if each not in kept]
            self._gone |= {(each.address, each.port) for each in left}
        first, self._table = self._table is None, table
        if changed or first:
            self.occasion.tell()

    async def look(self) -> Look:
        """One turn of the loop. Raises NodeError."""
        if self._table is None:
            return Look()
        table, gone = self._table, frozenset(self._gone)
        try:
            flows = await asyncio.to_thread(conntrack.udp_flows)
            self.deleted += await asyncio.to_thread(conntrack.delete, list(stale(flows, table, gone)))
        except PrivilegeError as error:  # of a mode that needs no privileges: the daemon goes on
            return Look((Problem.of(error, "flows"),))
        self._gone -= gone
        return Look()
