"""Base chains and tables of iptables' where we are the first to need them: made with a mark, taken away when empty.

iptables makes a table of its own, and the kernel's chain in it, when it first needs them, and never takes them away, so
they would stay behind. Who made one cannot be told by looking; a comment on it can tell. What anybody has in it by then
keeps it. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MADE = "made by overlay"
"""The comment (nft 0.9.7, Linux 5.10, and newer: with older ones the empty chain stays)."""


@dataclass(frozen=True, slots=True)
class Base:
    """A chain that the kernel calls, as iptables makes it.

    Attributes:
        priority: as a number: nft's names for them have changed.
    """

    table: str
    chain: str
    kind: str
    hook: str
    priority: int


BASES = (Base("filter", "FORWARD", "filter", "forward", 0), Base("nat", "POSTROUTING", "nat", "postrouting", 100))


def making(base: Base, there: str | None) -> str:
    """Commands for ``nft -f``; none where the chain is there.

    Args:
        there: the table as ``nft list table`` prints it; None where there is none.
    """
    if there is not None and re.search(rf"^\tchain {base.chain} ", there, re.MULTILINE):
        return ""
    table = f'add table ip {base.table} {{ comment "{MADE}"; }}\n' if there is None else ""
    place = f"type {base.kind} hook {base.hook} priority {base.priority}; policy accept"
    return f'{table}add chain ip {base.table} {base.chain} {{ {place}; comment "{MADE}"; }}\n'


def chain_is_husk(base: Base, there: str) -> bool:
    """Whether the chain is ours, without a rule, and with its policy as it was made."""
    place = rf"type {base.kind} hook {base.hook} priority [^;]+; policy accept;"
    husk = rf'^\tchain {base.chain} {{\n\t\tcomment "{MADE}"\n\t\t{place}\n\t}}$'
    return re.search(husk, there, re.MULTILINE) is not None


def table_is_husk(base: Base, there: str) -> bool:
    """Whether the table is ours, and nothing is in it."""
    return there.split() == f'table ip {base.table} {{ comment "{MADE}" }}'.split()


def removal_of_chain(base: Base) -> str:
    """For iptables-restore, which refuses where the chain has a rule by now (iptables 1.8.8 and newer)."""
    return f"*{base.table}\n-X {base.chain}\nCOMMIT\n"


def removal_of_table(base: Base) -> str:
    """For ``nft -f``."""
    return f"delete table ip {base.table}\n"
