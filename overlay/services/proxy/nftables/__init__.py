"""Services in nftables: one table of our own, in which the work for a packet does not grow with the Services.

::

    table ──▶ rendering (pure) ──▶ ledger (pure): what is held, what is to change ──▶ mode ──▶ nft
                                                        ▲
    netlink ──▶ found: what an earlier daemon left ─────┘

A map leads from an address and port to a chain, and that chain to one backend. A chain that says what to do with an
entry's connections is named by what it says: it is never changed, only replaced by another in the map. So whatever
stands there under the right name is right, a restarted daemon knows by names alone what is left to do, and a change is
a new chain and one element of a map, which a new connection sees both or not at all.
"""

from __future__ import annotations

from overlay.services.proxy.nftables.mode import Nftables

__all__ = ["Nftables"]
