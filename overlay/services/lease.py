"""This node's place in the network: the subnet that the agent wrote down, and the address in the lease of it.

The agent that leases it may be another flannel's: of both only what flannel has too is read.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_interface
from pathlib import Path
from random import Random

import msgspec

from overlay.linux.files import read_regular
from overlay.store.contract import KeyRange
from overlay.store.mirror import Mirror
from overlay.store.mirror_follower import MirrorFollower

Subnet = IPv4Network | IPv6Network

_NETWORK_LINE = re.compile(r"""^\s*FLANNEL_NETWORK=["']?([^"'\s]+)["']?\s*$""", re.MULTILINE)
_LINE = re.compile(r"""^\s*(?:FLANNEL_SUBNET|FLANNEL_IPV6_SUBNET)=["']?([^"'\s]+)["']?\s*$""", re.MULTILINE)

MAX_BYTES = 1 << 16
"""Of subnet.env that are read; it has some hundred."""


def subnets_in(path: Path) -> tuple[Subnet, ...]:
    """What ``subnet.env`` names, IPv4 first; nothing where there is no file, or no usable line in it."""
    # A prefix of no length, or of all: of a file that was cut off, or is a template still.
    found = [each for each in _named(path, _LINE) if 0 < each.prefixlen < each.max_prefixlen]
    return tuple(sorted(found, key=lambda subnet: subnet.version))


def networks_in(path: Path) -> tuple[IPv4Network, ...]:
    """The whole overlay, as ``subnet.env`` has it; nothing where it does not tell."""
    return tuple(each for each in _named(path, _NETWORK_LINE) if isinstance(each, IPv4Network) and each.prefixlen)


def _named(path: Path, line: re.Pattern[str]) -> Iterator[Subnet]:
    try:
        text = read_regular(path, MAX_BYTES).decode(errors="replace")
    except OSError:
        return
    for match in line.finditer(text):
        with contextlib.suppress(ValueError):
            yield ip_interface(match[1].split(",")[0]).network


class LeaseFollower(MirrorFollower[Mirror]):
    """Follows all leases of the network, to know at which address a subnet's node is reached.

    Args:
        prefix: what every lease's key begins with.
    """

    def __init__(self, prefix: str, rng: Random) -> None:
        super().__init__(KeyRange(prefix), Mirror(), rng)

    @property
    def known(self) -> bool:
        """Whether the leases have been read."""
        return self.mirror.loaded

    def public_ip(self, subnet: IPv4Network) -> IPv4Address | None:
        """The address of the node that leases a subnet; None where no lease says one."""
        name = f"{self.span.key}{subnet.network_address}-{subnet.prefixlen}"
        leases = self.mirror.items
        kv = leases.get(name) or next((kv for key, kv in leases.items() if key.startswith(f"{name}&")), None)
        try:
            return None if kv is None else IPv4Address(msgspec.json.decode(kv.value, type=_Lease).PublicIP)
        except (msgspec.DecodeError, ValueError):
            return None


class _Lease(msgspec.Struct):
    PublicIP: str = ""
