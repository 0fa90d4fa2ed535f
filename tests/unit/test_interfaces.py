"""The choice of the underlay interface, in flannel's order."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

import pytest

from overlay.errors import InterfaceError
from overlay.node.interfaces import Selection, choose
from overlay.node.netlink import Address, Link, Route

ETH0, ETH1, DOCKER = Link(2, "eth0", 1500, True), Link(3, "eth1", 9000, True), Link(4, "docker0", 1500, True)


@dataclass
class Machine:
    """A machine with two uplinks, of which eth0 has the default route."""

    default: bool = True
    route: Route = field(default_factory=lambda: Route(IPv4Network("192.0.2.0/24"), 3, source=IPv4Address("10.1.0.9")))

    def links(self) -> list[Link]:
        return [Link(1, "lo", 65536, True), ETH0, ETH1, DOCKER]

    def addresses(self, index: int | None = None) -> list[Address]:
        every = [
            Address(1, IPv4Address("127.0.0.1"), 8),
            Address(2, IPv4Address("169.254.7.7"), 16),
            Address(2, IPv4Address("172.31.0.1"), 24),
            Address(2, IPv4Address("172.31.0.77"), 24, secondary=True),
            Address(3, IPv4Address("10.1.0.9"), 16),
            Address(4, IPv4Address("10.0.58.1"), 24),
        ]
        return [address for address in every if index is None or address.index == index]

    def routes(self, index: int | None = None) -> list[Route]:
        del index
        return [Route(IPv4Network("0.0.0.0/0"), 2, gateway=IPv4Address("172.31.0.100"))] if self.default else []

    def route_to(self, destination: IPv4Address) -> Route:
        del destination
        return self.route


@pytest.mark.parametrize(
    ("selection", "interface", "address"),
    [
        (Selection(), "eth0", "172.31.0.1"),
        (Selection(names=("eth1",)), "eth1", "10.1.0.9"),
        (Selection(names=("10.1.0.9",)), "eth1", "10.1.0.9"),
        (Selection(names=("172.31.0.77",)), "eth0", "172.31.0.77"),
        (Selection(names=("nope", "eth1", "eth0")), "eth1", "10.1.0.9"),
        (Selection(patterns=("^10\\.1\\.",)), "eth1", "10.1.0.9"),
        (Selection(patterns=("eth1",)), "eth1", "10.1.0.9"),
        (Selection(names=("nope",), patterns=("^eth1$",)), "eth1", "10.1.0.9"),
        (Selection(can_reach=IPv4Address("192.0.2.1")), "eth1", "10.1.0.9"),
    ],
)
def test_order(selection: Selection, interface: str, address: str) -> None:
    underlay = choose(selection, Machine())
    assert (underlay.interface, str(underlay.address), str(underlay.public_ip)) == (interface, address, address)


def test_public_ip_overrides_only_what_is_advertised() -> None:
    underlay = choose(Selection(public_ip=IPv4Address("203.0.113.5")), Machine())
    assert str(underlay.address) == "172.31.0.1"
    assert str(underlay.public_ip) == "203.0.113.5"
    assert underlay.mtu == 1500


@pytest.mark.parametrize("default", [True, False])
def test_a_public_ip_alone_takes_the_interface_that_has_it(default: bool) -> None:
    underlay = choose(Selection(public_ip=IPv4Address("10.1.0.9")), Machine(default=default))
    assert (underlay.interface, str(underlay.address), str(underlay.public_ip)) == ("eth1", "10.1.0.9", "10.1.0.9")


def test_a_named_interface_wins_over_the_one_that_has_the_public_ip() -> None:
    underlay = choose(Selection(names=("eth0",), public_ip=IPv4Address("10.1.0.9")), Machine())
    assert (underlay.interface, str(underlay.address), str(underlay.public_ip)) == ("eth0", "172.31.0.1", "10.1.0.9")


def test_unknown_interface_names_what_there_is() -> None:
    with pytest.raises(InterfaceError, match=r"--iface eth9: no interface .*; here are: .*eth0 \(172\.31\.0\.1\)"):
        choose(Selection(names=("eth9",)), Machine())


def test_no_default_route_says_so() -> None:
    with pytest.raises(InterfaceError, match=r"no default route .* --iface"):
        choose(Selection(), Machine(default=False))
