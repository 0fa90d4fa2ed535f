"""Brings the firewall to a desired ruleset, and back to it whenever others flush or reorder."""

from __future__ import annotations

import contextlib

from overlay.errors import NodeError
from overlay.node.firewall import iptables, nftables
from overlay.node.firewall.model import EMPTY, FLANNELS_DEVICE, Hook, Names, Ruleset
from overlay.node.firewall.tools import Tools

_ATTEMPTS = 3
"""Others write too: a plan made from what was read may fail, as a whole, when it is carried out."""


class Firewall:
    """One agent's rules on this machine (in this network namespace), in iptables or nftables.

    Every method blocks for some milliseconds, or longer where others hold iptables' lock: asynchronous code calls it
    through ``asyncio.to_thread``, one call at a time.

    With nftables the accepts for forwarded packets may be needed twice: a drop in any base chain is final, and Docker
    has iptables drop what it does not know, so an accept in a table of ours changes nothing about that. Where iptables'
    FORWARD refuses, it gets our chain as well.
    """

    def __init__(
        self, *, device: str = FLANNELS_DEVICE, enable_nftables: bool = False, tools: Tools | None = None
    ) -> None:
        """
        Args:
            device: the agent's tunnel device, by which its rules are told from those of another agent.
            enable_nftables: the network config's ``EnableNFTables``. Without iptables it is nftables in any case.
            tools: which binaries to use; by default those installed.
        """
        self._names = Names.of(device)
        self._tools = tools or Tools.locate()
        self._nftables = enable_nftables or not self._tools.has_iptables
        self._leftovers_gone = False

    @property
    def backend(self) -> str:
        """``iptables`` or ``nftables``, for people."""
        return "nftables" if self._nftables else "iptables"

    def reconcile(self, ruleset: Ruleset) -> list[str]:
        """Makes the rules of ours ``ruleset`` and nothing else; returns what was changed, empty when all was right.

        Raises:
            PrivilegeError: not allowed to.
            NodeError: a tool is missing or refused; nothing half-done is left in any one table.
        """
        if self._nftables:
            return self._in_iptables(ruleset, only_where_needed=True) + self._in_nftables(ruleset)
        changes = self._in_iptables(ruleset)
        if not self._leftovers_gone:
            changes += self._nftables_leftovers()
            self._leftovers_gone = True
        return changes

    def remove(self) -> list[str]:
        """Removes all rules of ours, of either kind; returns what was changed. Raises as reconcile does."""
        changes = self._in_iptables(EMPTY)
        return changes + (self._in_nftables(EMPTY) if self._nftables else self._nftables_leftovers())

    def _nftables_leftovers(self) -> list[str]:
        """Removes what a time with EnableNFTables left. A kernel without nftables has none, and says so by an error."""
        with contextlib.suppress(NodeError):
            return self._in_nftables(EMPTY)
        return []

    def _in_iptables(self, ruleset: Ruleset, *, only_where_needed: bool = False) -> list[str]:
        if not self._tools.has_iptables:
            return []
        for attempts_left in reversed(range(_ATTEMPTS)):
            tables = {table: iptables.Saved.parse(self._tools.save(table)) for table in iptables.TABLES}
            wanted = ruleset
            if only_where_needed:
                wanted = ruleset.only(Hook.FORWARD) if iptables.refuses_forwarding(tables["filter"]) else EMPTY
            plan = iptables.plan(wanted, tables, self._names)
            if not plan.changes:
                break
            try:
                self._tools.restore(plan.script)
            except NodeError:
                if not attempts_left:
                    raise
            else:
                return list(plan.changes)
        return []

    def _in_nftables(self, ruleset: Ruleset) -> list[str]:
        if not self._tools.has_nftables and not ruleset.chains:
            return []
        wanted = nftables.render(ruleset, self._names)
        text = self._tools.list_table(nftables.FAMILY, self._names.table)
        if nftables.same(nftables.parse(text) if text is not None else [], wanted):
            return []
        self._tools.transact(nftables.transaction(wanted, self._names))
        verb = "removed" if not wanted else "made" if text is None else "rewritten"
        return [f"nftables: table {nftables.FAMILY} {self._names.table} {verb}"]
