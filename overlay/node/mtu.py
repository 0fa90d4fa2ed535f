"""The underlay's MTU without its flutter. What follows from it is in :mod:`overlay.packet.mtu`."""

from __future__ import annotations

from dataclasses import replace

from overlay.node.interfaces import Underlay
from overlay.packet.mtu import MINIMUM, UDP_ENCAPSULATION

SETTLE_SECONDS = 60.0
"""How long an underlay must have had a larger MTU before it is used: a change of it restarts Docker."""


_USABLE = MINIMUM + UDP_ENCAPSULATION
"""Bytes. From a smaller one nothing has followed, so nothing has to stay as it is."""


class SettledMtu:
    """The underlay's MTU without its flutter: a smaller one counts at once, as larger packets would be lost; a larger
    one once it has stayed for a minute."""

    def __init__(self) -> None:
        self._used: Underlay | None = None
        self._larger: tuple[int, float] | None = None

    def settle(self, seen: Underlay, now: float) -> Underlay:
        """The underlay to use, when ``seen`` is there at ``now`` (seconds of a steady clock)."""
        used = self._used
        if used is None or seen.index != used.index or seen.mtu <= used.mtu or used.mtu < _USABLE:
            self._used, self._larger = seen, None
            return seen
        if self._larger is None or self._larger[0] != seen.mtu:
            self._larger = (seen.mtu, now)
        if now - self._larger[1] >= SETTLE_SECONDS:
            self._used, self._larger = seen, None
            return seen
        self._used = replace(seen, mtu=used.mtu)
        return self._used

    def due(self, now: float) -> float | None:
        """Seconds until a larger MTU counts; None where there is none."""
        return None if self._larger is None else max(0.0, self._larger[1] + SETTLE_SECONDS - now)
