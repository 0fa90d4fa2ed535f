"""The shell of the mode: reads what there is, and carries transactions out, by nft."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from overlay.errors import NodeError
from overlay.linux.netfilter import Tools
from overlay.services.proxy.base import Applied, Surroundings
from overlay.services.proxy.nftables.found import chains, found
from overlay.services.proxy.nftables.ledger import Found, Ledger
from overlay.services.proxy.nftables.rendering import (
    FRAME,
    SCHEDULERS,
    TABLE,
    Carried,
    Piece,
    frame,
    nothing_carried,
    render,
)
from overlay.services.table import Entry, Place, Table

FAMILY = "ip"


class Nftables:
    """Keeps the table ``ip overlay-services`` as the Services are.

    Args:
        carried: at which addresses another mode, of which this one is beneath, chooses backends.
    """

    name = "nftables"
    stands_on = ()

    def __init__(self, surroundings: Surroundings, carried: Carried = nothing_carried) -> None:
        self._carried = carried
        self._scheduler = surroundings.scheduler
        self._tools = Tools.locate()
        self._ledger: Ledger | None = None
        self._table: Table | None = None

    async def probe(self) -> str:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        if not self._tools.has_nftables:
            return "nft is not installed (apt-get install nftables)"
        try:
            await asyncio.to_thread(self._tools.try_out, _PROBE)
        except NodeError as error:
            return str(error)
        return ""

    async def apply(self, table: Table) -> Applied:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        return await asyncio.to_thread(self._apply, table)

    def _apply(self, table: Table) -> Applied:
        try:
            changes = self._carry_out(table)
        except BaseException:
            self._ledger = self._table = None
            raise
        assert self._ledger is not None
        return Applied(changes, due=self._ledger.due(time.monotonic()))

    def _carry_out(self, table: Table) -> int:
        before, operations = self._table, 0
        if self._ledger is None:
            self._ledger, before = Ledger(self._found()), None
        if before is None or before.place != table.place:
            commands = list(frame(table.place))
            self._transact(commands)
            operations += len(commands)
            before = None if before is None else Table(before.place)  # every entry is rendered anew
            for name in () if self._table is None else self._table.entries.keys() - table.entries.keys():
                self._ledger.want(name, None)
        for name, _, entry in table.changed(before):
            self._ledger.want(name, None if entry is None else self._render(entry, table.place))
        for batch in self._ledger.batches(time.monotonic()):
            self._transact(batch.commands)
            self._ledger.done(batch)
            operations += batch.operations
        self._table = table
        return operations

    def _render(self, entry: Entry, place: Place) -> Piece:
        return render(entry, place, self._scheduler, self._carried)

    def _transact(self, commands: list[str]) -> None:
        self._tools.transact("\n".join(commands) + "\n", as_json=False)

    def _found(self) -> Found:
        there = found()
        if there.framed or not there.chains:
            return there
        # Somebody took a part of it away: what is left of it cannot be trusted.
        self._tools.delete_table(FAMILY, TABLE)
        return Found()

    async def check(self) -> bool:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        if self._ledger is None:
            return False
        wanted = {*FRAME, *self._ledger.held_chains}
        if await asyncio.to_thread(chains) >= wanted:
            return True
        self._ledger = self._table = None
        return False

    async def remove(self) -> list[str]:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        if not self._tools.has_nftables:
            return []
        self._ledger = self._table = None
        removed = await asyncio.to_thread(self._tools.delete_table, FAMILY, TABLE)
        return [f"nftables' table {FAMILY} {TABLE}"] if removed else []

    async def close(self) -> None:
        """See :class:`~overlay.services.proxy.base.Mode`."""

    def remarks(self, entry: Entry) -> tuple[str, ...]:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        wanted = entry.scheduler or self._scheduler
        if not wanted or wanted in SCHEDULERS:
            return ()
        return (f"nftables has no scheduler {wanted} (it has {', '.join(SCHEDULERS)}): endpoints are chosen at random",)

    def facts(self) -> Mapping[str, object]:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        return {"table": f"{FAMILY} {TABLE}", **({} if self._ledger is None else self._ledger.size)}


_PROBE = f"""\
add table ip {TABLE}-probe
add set ip {TABLE}-probe clients {{ type ipv4_addr; flags dynamic,timeout; timeout 9s; size 9; }}
add chain ip {TABLE}-probe endpoint
add rule ip {TABLE}-probe endpoint update @clients {{ ip saddr }}
add rule ip {TABLE}-probe endpoint meta l4proto tcp ct mark set ct mark | 0x1 dnat ip to numgen random mod 2 map {{ 0 : 192.0.2.1 . 1, 1 : 192.0.2.1 . 2 }}
add map ip {TABLE}-probe services {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ 192.0.2.1 . tcp . 80 : goto endpoint }}; }}
add chain ip {TABLE}-probe nat {{ type nat hook output priority -100; policy accept; }}
add rule ip {TABLE}-probe nat ip daddr . meta l4proto . th dport vmap @services
add rule ip {TABLE}-probe nat ip daddr != 127.0.0.0/8 fib daddr type local return
"""  # noqa: E501 (as nft reads it)
"""What not every kernel and nft has; checked, not carried out."""
