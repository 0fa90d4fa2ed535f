"""Every MTU there is here, by name, and the arithmetic between them. All in bytes.

underlay MTU
    Of the interface that carries outer packets: the largest outer IP packet.
tunnel MTU
    Of the TUN device and of everything behind it (docker0, pods): the largest inner IP packet, so
    underlay MTU minus encapsulation overhead.
path MTU
    Like the underlay MTU, but of the whole path to one peer; never larger than it is.
"""

from __future__ import annotations

from dataclasses import replace

from overlay.errors import ConfigError
from overlay.node.interfaces import Underlay

IPV4_HEADER = 20
UDP_HEADER = 8

UDP_ENCAPSULATION = IPV4_HEADER + UDP_HEADER
"""Overhead of flannel's udp format: the payload is the bare inner packet (pkg/backend/udp/udp_amd64.go)."""

MINIMUM = 68
"""The smallest MTU of an IPv4 link (RFC 791, 3.2); also the kernel's lower bound for a TUN device (ETH_MIN_MTU)."""

MAXIMUM = 65535 - UDP_ENCAPSULATION
"""The largest inner packet whose outer packet is still an IPv4 packet (total length has 16 bits)."""


def tunnel_mtu(underlay_mtu: int, wanted: int | None = None) -> int:
    """The TUN device's MTU: what was ``wanted``, else all that the underlay leaves.

    Raises:
        ConfigError: ``wanted`` is no MTU, or does not fit into the underlay.
    """
    room = min(underlay_mtu - UDP_ENCAPSULATION, MAXIMUM)
    if wanted is None:
        if room < MINIMUM:
            raise ConfigError(
                f"leaves {room} bytes for inner packets, and IPv4 needs {MINIMUM}",
                about=f"underlay MTU {underlay_mtu}",
                remedy="choose another interface with --iface or raise its MTU",
            )
        return room
    if not MINIMUM <= wanted <= room:
        raise ConfigError(
            f"must be between {MINIMUM} and {room} (underlay MTU {underlay_mtu} less {UDP_ENCAPSULATION})",
            about=f"MTU {wanted}",
            remedy="choose another --mtu or Backend.MTU, or none to have it computed",
        )
    return wanted


SETTLE_SECONDS = 60.0
"""How long an underlay must have had a larger MTU before it is used: a change of it restarts Docker."""


class SettledMtu:
    """The underlay's MTU without its flutter: a smaller one counts at once, as larger packets would be lost; a larger
    one once it has stayed for a minute."""

    def __init__(self) -> None:
        self._used: Underlay | None = None
        self._larger: tuple[int, float] | None = None

    def settle(self, seen: Underlay, now: float) -> Underlay:
        """The underlay to use, when ``seen`` is there at ``now`` (seconds of a steady clock)."""
        used = self._used
        if used is None or seen.index != used.index or seen.mtu <= used.mtu:
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
