"""What happened in this process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """As in :class:`~overlay.services.proxy.userspace.messages.Status`."""

    connections: int = 0
    flows: int = 0
    dialled: int = 0
    moved_on: int = 0
    failed: int = 0
    turned_away: int = 0
