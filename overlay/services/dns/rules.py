"""The packet filter's part: questions are not tracked, and come from where their address is.

Two questions from one socket at the same moment, as glibc asks for A and AAAA, race for one entry of the connection
table, and the loser is dropped: five seconds of silence. What is not tracked cannot race (NodeLocal DNSCache does the
same). A question whose source is not behind the device that it came by is forged, and its answer would go to another.

All is in a table of our own, which is there only while the daemon runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from overlay.linux.netfilter import Tools

FAMILY, TABLE = "ip", "overlay-dns"


def script(address: IPv4Address, port: int = 53) -> str:
    """What nft is told: the table anew, whatever it had, in one transaction."""
    to, back = (
        f"ip {side}addr {address} meta l4proto {{ tcp, udp }} th {side}port {port}" for side in ("d", "s")
    )  # fmt: skip
    return f"""
table {FAMILY} {TABLE}
delete table {FAMILY} {TABLE}
table {FAMILY} {TABLE} {{
    chain prerouting {{
        type filter hook prerouting priority raw; policy accept;
        {to} iifname != "lo" fib saddr . iif oif 0 drop
        {to} notrack
    }}
    chain output {{
        type filter hook output priority raw; policy accept;
        {to} notrack
        {back} notrack
    }}
}}
"""


class Rules:
    """The table, as it should be."""

    def __init__(self, tools: Tools | None = None) -> None:
        self._tools = tools or Tools.locate()
        self._applied: tuple[IPv4Address, str | None] | None = None

    def apply(self, address: IPv4Address) -> bool:
        """Makes the table so; True if it was not. Blocks. Raises NodeError."""
        self._tools = self._tools.again()
        if self._applied is not None and self._applied == (address, self._print()):
            return False
        self._tools.transact(script(address), as_json=False)
        self._applied = address, self._print()
        return True

    def remove(self) -> Iterator[str]:
        """Takes it away; tells what there was. Blocks. Raises NodeError."""
        self._applied = None
        if self._tools.has_nftables and self._print() is not None:
            self._tools.transact(f"delete table {FAMILY} {TABLE}\n", as_json=False)
            yield f"nftables table {FAMILY} {TABLE} removed"

    def _print(self) -> str | None:
        return self._tools.print_table(FAMILY, TABLE)
