"""``subnet.env``: what flanneld tells Docker's start scripts (pkg/subnet/subnet.go, ``WriteSubnetFile``)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

from overlay.linux.files import write_atomically
from overlay.node.docker_opts import parse_env


@dataclass(frozen=True, slots=True)
class SubnetEnv:
    """The file's content; ``subnet`` and ``ipv6_subnet`` are written as the gateway's address (base + 1)."""

    network: IPv4Network
    subnet: IPv4Network
    mtu: int
    ip_masq: bool
    ipv6_network: IPv6Network | None = None
    ipv6_subnet: IPv6Network | None = None

    def render(self) -> str:
        """The bytes flanneld writes, in its order, each line ended."""
        lines = [
            f"FLANNEL_NETWORK={self.network}",
            f"FLANNEL_SUBNET={IPv4Interface((self.subnet.network_address + 1, self.subnet.prefixlen))}",
        ]
        if self.ipv6_network is not None and self.ipv6_subnet is not None:
            gateway = IPv6Interface((self.ipv6_subnet.network_address + 1, self.ipv6_subnet.prefixlen))
            lines += [f"FLANNEL_IPV6_NETWORK={self.ipv6_network}", f"FLANNEL_IPV6_SUBNET={gateway}"]
        lines += [f"FLANNEL_MTU={self.mtu}", f"FLANNEL_IPMASQ={str(self.ip_masq).lower()}"]
        return "".join(f"{line}\n" for line in lines)

    def variables(self) -> dict[str, str]:
        """The same as environment variables."""
        return dict(line.split("=", 1) for line in self.render().splitlines())


def write(path: Path, content: SubnetEnv) -> bool:
    """Replaces the file atomically, mode 0644; returns whether it changed. Raises FileError."""
    return write_atomically(path, content.render())


def previous_subnet(path: Path) -> IPv4Network | None:
    """The subnet that the file names, whoever wrote it; None if there is no file or no usable line in it."""
    return _network_in(path, "FLANNEL_SUBNET")


def previous_network(path: Path) -> IPv4Network | None:
    """The same for the Network."""
    return _network_in(path, "FLANNEL_NETWORK")


def _network_in(path: Path, name: str) -> IPv4Network | None:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        return None
    value = parse_env(text).get(name, "")
    with suppress(ValueError):
        network = IPv4Interface(value.split(",")[0]).network  # flanneld lists several networks with commas
        # No address at all, or all there are: as a file is that was cut off, or filled in by a template.
        return network if 0 < network.prefixlen < 32 else None
    return None
