"""Whether this machine forwards packets between its containers and the tunnel at all."""

from __future__ import annotations

from pathlib import Path

from overlay.errors import NodeError

_SETTINGS = Path("/proc/sys/net/ipv4")


def obstacle(device: str) -> NodeError | None:
    """Why packets are not forwarded; None where they are, or where nobody can tell.

    Args:
        device: of the tunnel; its own setting counts for what comes in there (ip-sysctl, conf/interface/forwarding).
    """
    if _is_zero("ip_forward"):
        return _off("ip_forward", " (Docker does it when it starts, unless it has --ip-forward=false, or nftables)")
    return obstacle_of(device)


def obstacle_of(interface: str) -> NodeError | None:
    """Why what comes in by ``interface`` is not forwarded, for the setting that it has of its own."""
    return _off(f"conf.{interface}.forwarding") if _is_zero(f"conf/{interface}/forwarding") else None


def _is_zero(setting: str) -> bool:
    try:
        return (_SETTINGS / setting).read_text().strip() == "0"
    except OSError:
        return False


def _off(name: str, hint: str = "") -> NodeError:
    return NodeError(
        "IP forwarding is off, so no container of this node reaches another node",
        about=f"net.ipv4.{name}",
        remedy=f"sysctl -w net.ipv4.{name}=1{hint}",
    )
