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
    for name, setting in (("ip_forward", "ip_forward"), (f"conf.{device}.forwarding", f"conf/{device}/forwarding")):
        try:
            off = (_SETTINGS / setting).read_text().strip() == "0"
        except OSError:
            continue
        if off:
            return NodeError(
                "IP forwarding is off, so no container of this node reaches another node",
                about=f"net.ipv4.{name}",
                remedy=f"sysctl -w net.ipv4.{name}=1 (Docker does it when it starts, unless it has --ip-forward=false)",
            )
    return None
