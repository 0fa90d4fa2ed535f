"""Brings the firewall to a desired ruleset, and back to it whenever others flush or reorder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from overlay.errors import NodeError, PrivilegeError
from overlay.linux.netfilter import Iptables, Tools
from overlay.model import FLANNELS_DEVICE
from overlay.node.firewall import husks, iptables, nftables
from overlay.node.firewall.model import EMPTY, Hook, Names, Ruleset
from overlay.node.firewall.saved import Saved
from overlay.node.firewall.standstill import Standstill

_ATTEMPTS = 3
"""Others write too: a plan made from what was read may fail, as a whole, when carried out, or be wrong by then."""


class Firewall:
    """One agent's rules on this machine (in this network namespace), in iptables or nftables.

    Every method blocks for some milliseconds, or longer where others hold iptables' lock: asynchronous code calls it
    through ``asyncio.to_thread``, one call at a time. Where no rule has changed since all was right, it still is, and
    nothing is read.

    The accepts for forwarded packets may be needed more than once: the kernel asks nftables' base chains, iptables'
    rules and those of iptables' other variant, and a drop in any of them is final, so an accept in another changes
    nothing about it. Wherever FORWARD refuses, it gets our chain as well.
    """

    def __init__(
        self,
        *,
        owner: str = FLANNELS_DEVICE,
        interface: str | None = None,
        enable_nftables: bool = False,
        tools: Tools | None = None,
    ) -> None:
        """
        Args:
            owner: name of the agent's device, by which its rules are told from those of another agent.
            interface: by which peers' inner packets come in; None: that device.
            enable_nftables: the network config's ``EnableNFTables``. Without iptables it is nftables in any case.
            tools: which binaries to use; by default those installed.
        """
        self._names = Names.of(owner, interface)
        self._tools = tools or Tools.locate()
        self._looks_again = tools is None
        self._enable_nftables = enable_nftables
        self._nftables = enable_nftables or not self._tools.has_iptables
        self._leftovers_gone = False
        self._standstill: Standstill[list[str]] = Standstill()
        self._printed: dict[str, tuple[list[nftables.Json], list[nftables.Json]]] = {}

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
        self._find_what_was_missing()
        if not self._looks_again:  # with tools that were given: who knows which machine they are of
            return self._reconciled(ruleset)
        changes = self._standstill.known((ruleset, self._tools), lambda: self._reconciled(ruleset))
        if changes:
            self._standstill.forget()
        return changes

    def _reconciled(self, ruleset: Ruleset) -> list[str]:
        changes = []
        if (own := self._tools.own_iptables) is not None:
            changes += self._in_iptables(own, ruleset, only_where_needed=self._nftables)
        for other in self._tools.others:
            changes += self._in_iptables(other, ruleset, only_where_needed=True, only_tables_there_are=True)
        changes += self._marks(ruleset)
        if self._nftables:
            changes += self._in_nftables(ruleset)
        elif not self._leftovers_gone:
            changes += self._nftables_leftovers()
            self._leftovers_gone = True
        return changes

    def _find_what_was_missing(self) -> None:
        """A tool without which nothing can be done may have been installed; with one, it stays what it was."""
        if self._looks_again and not (self._tools.has_nftables if self._nftables else self._tools.has_iptables):
            self._tools = self._tools.again()
            self._nftables = self._enable_nftables or not self._tools.has_iptables

    def remove(self) -> list[str]:
        """Removes all rules of ours, of either kind; returns what was changed. Raises as reconcile does."""
        changes = []
        if (own := self._tools.own_iptables) is not None:
            changes += self._in_iptables(own, EMPTY)
        for other in self._tools.others:
            changes += self._in_iptables(other, EMPTY, only_tables_there_are=True)
        for tool in self._tools.variants:
            changes += self._husks(tool)
        changes += self._marks(EMPTY)
        return changes + (self._in_nftables(EMPTY) if self._nftables else self._nftables_leftovers())

    def _nftables_leftovers(self) -> list[str]:
        """Removes what a time with EnableNFTables left. A kernel without nftables has none, and says so by an error."""
        with contextlib.suppress(NodeError):
            return self._in_nftables(EMPTY)
        return []

    def _in_iptables(
        self, tool: Iptables, ruleset: Ruleset, *, only_where_needed: bool = False, only_tables_there_are: bool = False
    ) -> list[str]:
        """
        Args:
            only_where_needed: no more than makes ``ruleset`` count that is elsewhere.
            only_tables_there_are: asking for a table of the kernel's older ones makes it.
        """

        def make_plan(tables: Mapping[str, Saved]) -> iptables.Plan:
            wanted = _needed(ruleset, tables) if only_where_needed else ruleset
            return iptables.plan(wanted, tables, self._names, replaced=ruleset)

        changes: list[str] = []
        for attempts_left in reversed(range(_ATTEMPTS)):
            plan = self._plan(tool, make_plan, only_tables_there_are)
            if not plan.changes:
                break
            try:
                self._mark_what_is_new(tool, plan)
                if plan.deletions:
                    self._tools.transact(plan.deletions, as_json=False)
                if plan.script:
                    tool.carry_out(plan.script)
            except NodeError:
                if not attempts_left:
                    raise
            else:
                # And read again: others may have moved their chains between our reading and our writing, as Docker
                # does with each network that it makes, and then ours is in front of what keeps its networks apart.
                changes += plan.changes
        return changes

    def _plan(
        self, tool: Iptables, make: Callable[[Mapping[str, Saved]], iptables.Plan], only_tables_there_are: bool
    ) -> iptables.Plan:
        """What is to be done; before anything is, nft has the last word on what there is.

        What iptables reads of rules that it did not write may be anything, but it finds its own again, so where it
        finds nothing to do there is nothing.
        """
        if only_tables_there_are:
            tables = Saved.parse_all(text := tool.tables())
            unread = [table for table in iptables.TABLES if f"`{table}' is incompatible" in text]
        else:
            texts = {table: tool.table(table) for table in iptables.TABLES}
            tables = {table: Saved.parse(text) for table, text in texts.items() if text is not None}
            unread = [table for table, text in texts.items() if text is None]
        if not unread and not (first := make(tables)).changes:
            return first
        if not (tool.is_nft and self._tools.has_nftables):
            if unread:
                raise NodeError(
                    "holds what iptables cannot read",
                    about=f"iptables' table {unread[0]}",
                    remedy="move what was made with nft to a table of its own, or install nftables",
                )
            return first
        present = [table for table in iptables.TABLES if table in tables or table in unread]
        return make({table: self._as_nft_sees(tool, table, tables.get(table)) for table in present})

    def _mark_what_is_new(self, tool: Iptables, plan: iptables.Plan) -> None:
        """Before iptables makes a chain of the kernel's: that it was we who needed it first."""
        for base in self._bases(tool):
            if base.table in plan.tables:
                with contextlib.suppress(NodeError):  # an nft that knows no comments: what is made stays when we go
                    commands = husks.making(base, self._tools.print_table(nftables.FAMILY, base.table))
                    if commands:
                        self._tools.transact(commands, as_json=False)

    def _husks(self, tool: Iptables) -> list[str]:
        """Removes of iptables' tables what we made and in which nobody has anything by now."""
        changes = []
        for base in self._bases(tool):
            with contextlib.suppress(NodeError):  # an iptables that cannot, or somebody was faster
                there = self._tools.print_table(nftables.FAMILY, base.table)
                if there is not None and husks.chain_is_husk(base, there):
                    tool.carry_out(husks.removal_of_chain(base))
                    changes.append(f"nftables: empty chain ip {base.table} {base.chain} removed")
                    there = self._tools.print_table(nftables.FAMILY, base.table)
                if there is not None and husks.table_is_husk(base, there):
                    self._tools.transact(husks.removal_of_table(base), as_json=False)
                    changes.append(f"nftables: empty table ip {base.table} removed")
        return changes

    def _bases(self, tool: Iptables) -> tuple[husks.Base, ...]:
        """Those that can be marked: of an iptables in nftables, where nft is installed as well."""
        return husks.BASES if tool.is_nft and self._tools.has_nftables else ()

    def _as_nft_sees(self, tool: Iptables, table: str, printed: Saved | None) -> Saved:
        """A table of iptables with what iptables misreads or (``printed`` is None) cannot read at all."""
        try:
            text = self._tools.list_table("ip", table)
        except PrivilegeError:
            raise
        except NodeError:  # nft ends at an interface's name that is no UTF-8 (json.c, relational_expr_json)
            if printed is None:
                raise
            return printed
        if text is None:
            return Saved({}, {})
        own = {self._names.chains[hook]: self._names.comments[hook] for hook in Hook}
        seen = Saved.from_nft(text, own)
        if printed is not None:
            return printed.corrected(seen)
        rules = dict(seen.rules)
        for chain in own:
            if chain in seen.policies:
                try:
                    rules[chain] = tuple(Saved.parse(tool.chain(table, chain)).chain(chain))
                except PrivilegeError:
                    raise
                except NodeError:  # somebody's rule in our chain: none that we want
                    rules[chain] = ((),)
        return Saved(seen.policies, rules, seen.handles)

    def _in_nftables(self, ruleset: Ruleset) -> list[str]:
        if not self._tools.has_nftables and not ruleset.chains:
            return []
        return self._nft_table(self._names.table, nftables.render(ruleset, self._names))

    def _marks(self, ruleset: Ruleset) -> list[str]:
        """Marks for a Docker whose rules are nftables' own, as long as there are such."""
        if not self._tools.has_nftables:
            return []
        try:
            tables = nftables.tables(self._tools.list_tables())
        except PrivilegeError:
            raise
        except NodeError:  # a kernel without nftables, and so without such a Docker
            return []
        accepted = ruleset.chain(Hook.FORWARD)
        wanted: list[nftables.Json] = []
        if accepted is not None and nftables.DOCKERS_TABLE in tables:
            network = next(rule.destination.network for rule in accepted.rules if rule.destination is not None)
            wanted = nftables.render_marking(network, self._names)
        elif self._names.marking_table not in tables:
            return []
        return self._nft_table(self._names.marking_table, wanted)

    def _nft_table(self, name: str, wanted: list[nftables.Json]) -> list[str]:
        text = self._tools.list_table(nftables.FAMILY, name)
        actual = nftables.parse(text) if text is not None else []
        # An nft that prints what it was told in words that we do not know is not told again for ever.
        if nftables.same(actual, wanted) or self._printed.get(name) == (wanted, actual):
            return []
        self._tools.transact(nftables.transaction(wanted, name))
        printed = self._tools.list_table(nftables.FAMILY, name) if wanted else None
        self._printed[name] = (wanted, nftables.parse(printed) if printed is not None else [])
        verb = "removed" if not wanted else "made" if text is None else "rewritten"
        return [f"nftables: table {nftables.FAMILY} {name} {verb}"]


def _needed(ruleset: Ruleset, tables: Mapping[str, Saved]) -> Ruleset:
    """What must be in iptables' tables for the rest to count."""
    refuses = "filter" in tables and iptables.refuses_forwarding(tables["filter"])
    return ruleset.only(Hook.FORWARD) if refuses else EMPTY
