"""One module a flannel backend type, and the one table of them."""

from __future__ import annotations

from overlay.backends.base import Backend
from overlay.backends.udp.backend import UdpBackend
from overlay.datapath.base import Datapath
from overlay.errors import ConfigError
from overlay.model import NetworkConfig
from overlay.text import excerpt

_TABLE: dict[str, type[UdpBackend]] = {"udp": UdpBackend}


def check(config: NetworkConfig) -> None:
    """Raises ConfigError for a valid config that no backend here can run."""
    if config.backend.type not in _TABLE:
        raise ConfigError(
            f"is not one of {', '.join(sorted(_TABLE))}",
            about=f"Backend.Type '{excerpt(config.backend.type)}'",
            remedy='this agent speaks flannel\'s udp format: {"Backend":{"Type":"udp"}}',
        )
    if config.ipv4 is None:
        raise ConfigError(
            "the udp backend carries IPv4 only", about="EnableIPv4 false", remedy="enable IPv4 in the config"
        )


def make(
    config: NetworkConfig, datapath: Datapath, *, device: str, mtu: int | None, blackhole: bool, copy_dscp: bool = False
) -> Backend:
    """The backend that ``config`` names. Raises ConfigError."""
    check(config)
    return _TABLE[config.backend.type](datapath, device, mtu, blackhole, copy_dscp)
