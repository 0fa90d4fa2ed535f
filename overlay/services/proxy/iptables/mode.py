"""The shell of the mode: reads what there is, and carries differences out with ``iptables-restore --noflush``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress

from overlay.errors import NodeError
from overlay.linux.netfilter import Iptables, Tools
from overlay.services.proxy.base import Applied, Surroundings
from overlay.services.proxy.iptables.rendering import JUMPS, PREFIX, REFUSED, SCHEDULERS, Piece, common, render
from overlay.services.table import Entry, PortName, Table

_TABLES = ("nat", "filter")


class IptablesMode:
    """Keeps the chains OVERLAY-… as the Services are, with whatever variant the machine calls iptables."""

    name = "iptables"
    stands_on = ()

    def __init__(self, surroundings: Surroundings) -> None:
        self._scheduler = surroundings.scheduler
        self._tools = Tools.locate()
        self._table: Table | None = None
        self._pieces: dict[PortName, Piece] = {}
        self._held: dict[str, dict[str, tuple[str, ...]]] = {}
        """Rules by chain, by table: what was carried out."""

    async def probe(self) -> str:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        if self._tools.own_iptables is None:
            return "iptables is not installed (apt-get install iptables)"
        try:
            await asyncio.to_thread(self._tools.own_iptables.carry_out, _PROBE)
        except NodeError as error:
            return str(error)
        return ""

    async def apply(self, table: Table) -> Applied:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        return Applied(await asyncio.to_thread(self._apply, table))

    def _apply(self, table: Table) -> int:
        before, self._table = self._table, None
        changed = table.changed(before if before is not None and before.place == table.place else None)
        if before is None or before.place != table.place:
            self._pieces = {}
        for name, _, entry in changed:
            if entry is None:
                self._pieces.pop(name, None)
            else:
                self._pieces[name] = render(entry, table.place, self._scheduler)
        nat, refused = common(table, self._pieces)
        for piece in self._pieces.values():
            nat |= piece.chains
        wanted = {"nat": nat, "filter": {REFUSED: refused}}
        changes = 0
        tools = self._iptables()
        for each in _TABLES:
            held = self._held.get(each) if before is not None else None
            commands = _script(wanted[each], _chains(tools, each) if held is None else held, _missing(tools, each))
            if commands:
                self._held.pop(each, None)
                tools.carry_out("\n".join((f"*{each}", *commands, "COMMIT", "")))
            self._held[each] = wanted[each]
            changes += len(commands)
        self._table = table
        return changes

    async def check(self) -> bool:
        """Whether the kernel's chains still lead to ours: who flushes a table takes both."""
        if self._table is None:
            return False
        missing = await asyncio.to_thread(lambda: [_missing(self._iptables(), each) for each in _TABLES])
        if any(missing):
            self._table = None
        return not any(missing)

    async def remove(self) -> list[str]:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        if self._tools.own_iptables is None:
            return []
        self._table = None
        return await asyncio.to_thread(self._remove, self._tools.own_iptables)

    @staticmethod
    def _remove(tools: Iptables) -> list[str]:
        removed = []
        for table in _TABLES:
            found = _chains(tools, table)
            if not found:
                continue
            missing = _missing(tools, table)
            jumps = [(base, rule) for (within, base), rule in JUMPS.items() if within == table]
            commands = [f"-D {base} {rule}" for base, rule in jumps if (table, base) not in missing]
            commands += [f"-F {chain}" for chain in found] + [f"-X {chain}" for chain in found]
            tools.carry_out("\n".join((f"*{table}", *commands, "COMMIT", "")))
            removed.append(f"iptables {table}: {len(found)} chains {PREFIX}… removed")
        return removed

    async def close(self) -> None:
        """See :class:`~overlay.services.proxy.base.Mode`."""

    def remarks(self, entry: Entry) -> tuple[str, ...]:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        wanted = entry.scheduler or self._scheduler
        if not wanted or wanted in SCHEDULERS:
            return ()
        return (f"iptables has no scheduler {wanted} (it has {', '.join(SCHEDULERS)}): endpoints are chosen at random",)

    def facts(self) -> Mapping[str, object]:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        return {"chains": sum(map(len, self._held.values()))}

    def _iptables(self) -> Iptables:
        if (own := self._tools.own_iptables) is None:
            raise NodeError("not installed", about="iptables", remedy="apt-get install iptables")
        return own


_Rules = Mapping[str, tuple[str, ...] | None]


def _script(wanted: Mapping[str, tuple[str, ...]], held: _Rules, missing: Mapping[tuple[str, str], str]) -> list[str]:
    """Commands for one table: chains that changed are written anew, then those that are not wanted go."""
    changed = [name for name, rules in wanted.items() if held.get(name) != rules]
    gone = [name for name in held if name not in wanted]
    # Declaring a chain that exists empties it, within the same transaction.
    declared = [f":{name} - [0:0]" for name in (*changed, *gone)]
    rules = [f"-A {name} {rule}" for name in changed for rule in wanted[name]]
    jumps = [f"-I {base} 1 {rule}" for (_, base), rule in missing.items()]
    return [*declared, *rules, *jumps, *(f"-X {name}" for name in gone)]


def _chains(tools: Iptables, table: str) -> dict[str, None]:
    """Chains of ours, by name alone: what an earlier daemon left is written anew."""
    text = tools.tables()
    within = ("\n" + text).partition(f"\n*{table}\n")[2].partition("\nCOMMIT")[0]
    return {line[1:].split()[0]: None for line in within.splitlines() if line.startswith(f":{PREFIX}")}


def _missing(tools: Iptables, table: str) -> dict[tuple[str, str], str]:
    """Jumps that are not there."""
    found = {}
    for key, rule in JUMPS.items():
        if key[0] == table:
            listed: Iterable[str] = ()
            with suppress(NodeError):  # no such table yet
                listed = tools.chain(*key).splitlines()
            if f"-A {key[1]} {rule}" not in listed:
                found[key] = rule
    return found


_PROBE = f"""\
*nat
:{PREFIX}PROBE - [0:0]
-A {PREFIX}PROBE -m recent --rcheck --seconds 5 --reap --name {PREFIX}PROBE --rsource -j RETURN
-A {PREFIX}PROBE -m statistic --mode random --probability 0.5 -j RETURN
-A {PREFIX}PROBE -m addrtype --src-type LOCAL -j MARK --set-xmark 0x4000/0x4000
-A {PREFIX}PROBE -j CONNMARK --set-xmark 0x1/0x1
-A {PREFIX}PROBE -p tcp -j DNAT --to-destination 192.0.2.1:1
-A {PREFIX}PROBE -j MASQUERADE --random-fully
-F {PREFIX}PROBE
-X {PREFIX}PROBE
COMMIT
"""
"""What not every kernel has; made and removed in one transaction."""
