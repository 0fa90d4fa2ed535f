"""``subnet.env``: what flanneld tells Docker's start scripts (pkg/subnet/subnet.go, ``WriteSubnetFile``)."""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

from overlay.linux.files import read_regular, write_atomically
from overlay.problem import Problem


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


_FORGOTTEN_AFTER = 600.0
"""Seconds for which it counts that somebody else wrote the file."""

_PATIENCE = 3
"""How often within that time the file is written anew all the same: each change may restart Docker."""


class SubnetFile:
    """The file as one agent keeps it, and whether somebody else (another agent, flanneld) keeps it as well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written: IPv4Network | None = None
        self._found: deque[tuple[float, IPv4Network]] = deque(maxlen=_PATIENCE)

    def keep(self, content: SubnetEnv, now: float) -> bool:
        """Makes the file ``content``; returns whether it changed.

        Args:
            now: seconds of a steady clock.

        Raises:
            FileError: it cannot be written.
        """
        while self._found and now - self._found[0][0] >= _FORGOTTEN_AFTER:
            self._found.popleft()
        there = previous_subnet(self.path)
        if there is not None and self._written is not None and there not in (self._written, content.subnet):
            if len(self._found) == _PATIENCE:
                return False
            self._found.append((now, there))
        self._written = content.subnet
        return write(self.path, content)

    def problem(self) -> Problem | None:
        """That somebody else writes it."""
        if not self._found:
            return None
        return Problem(
            "subnet-file",
            f"{self.path} had the subnet {self._found[-1][1]}, which somebody else has written: Docker gets one or the "
            "other",
            "stop the other agent or flanneld, or give each its own --subnet-file",
            about=str(self.path),
        )


def previous_subnet(path: Path) -> IPv4Network | None:
    """The subnet that the file names, whoever wrote it; None if there is no file or no usable line in it."""
    return subnet_of(_read(path))


def previous_network(path: Path) -> IPv4Network | None:
    """The same for the Network."""
    return _network(_read(path).get("FLANNEL_NETWORK", ""))


def parse(text: str) -> dict[str, str]:
    """Variables of an environment file, as a shell takes them that sources it, which is what flannel's script does.

    ``NAME=value`` lines, also with ``export`` before them, quotes as in a shell; other lines are skipped.
    """
    variables = {}
    for line in text.removeprefix("\ufeff").splitlines():  # as some editors begin a file
        name, equals, value = line.strip().partition("=")
        name = name.removeprefix("export ").lstrip()
        if equals and name.isidentifier():
            try:
                variables[name] = "".join(shlex.split(value, comments=True)[:1])
            except ValueError:
                continue
    return variables


def subnet_of(variables: Mapping[str, str]) -> IPv4Network | None:
    """The subnet that FLANNEL_SUBNET names, as a gateway's address; None where it names none that could be used."""
    return _network(variables.get("FLANNEL_SUBNET", ""))


def _read(path: Path) -> dict[str, str]:
    try:
        return parse(read_regular(path).decode())
    except (OSError, UnicodeDecodeError):
        return {}


def _network(text: str) -> IPv4Network | None:
    try:
        network = IPv4Interface(text.split(",", maxsplit=1)[0]).network  # flanneld lists several networks with commas
    except ValueError:
        return None
    # No address at all, or all there are: as a file is that was cut off, or filled in by a template.
    return network if 0 < network.prefixlen < 32 else None
