"""What the config may say to the udp backend (flannel: pkg/backend/udp/udp_amd64.go)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from overlay.backends.options import mtu, number
from overlay.model import UDP_PORT, BackendConfig


@dataclass(frozen=True, slots=True)
class UdpOptions:
    """Attributes:
    port: of every node's socket.
    mtu: the inner MTU in bytes; None: what the underlay leaves.
    """

    port: int = UDP_PORT
    mtu: int | None = None

    @classmethod
    def of(cls, backend: BackendConfig) -> Self:
        """Raises ConfigError: not a port number, or not a possible MTU."""
        return cls(number(backend, "Port", 1, 65535, UDP_PORT), mtu(backend))
