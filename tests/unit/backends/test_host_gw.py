"""What peers come to by the host-gw backend: routes for those on the link, and a word about the others."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from overlay import backends
from overlay.backends.base import Flags
from overlay.backends.host_gw import MAX_NAMED, Aims, Link, _Done, _problems, aims
from overlay.control.schema.config import parse_config
from overlay.errors import ConfigError, NodeError
from overlay.linux.routes import Route, RouteType
from overlay.model import EMPTY_PEERS, Peer
from overlay.node.interfaces import Underlay
from overlay.node.routes import is_peer_route
from tests.support.problems import shown

HERE = IPv4Address("172.31.0.1")
ETH0 = Underlay("eth0", 2, 1500, HERE, HERE)
PRESENT = [
    Route(IPv4Network("172.31.0.0/24"), 2, source=HERE, scope=253, protocol=2),
    Route(IPv4Network("172.31.7.9/32"), 2, scope=253),
    Route(IPv4Network("192.0.2.0/24"), 3, scope=253, protocol=2),
    Route(IPv4Network("0.0.0.0/0"), 2, gateway=IPv4Address("172.31.0.100")),
    Route(IPv4Network("198.51.100.0/24"), None, type=RouteType.UNREACHABLE),
]


def peer(number: int, address: str) -> Peer:
    return Peer(IPv4Network(f"10.0.{number}.0/24"), IPv4Address(address))


@pytest.mark.parametrize(
    ("address", "is_on_link"),
    [
        ("172.31.0.2", True),
        ("172.31.7.9", True),
        ("172.31.7.8", False),
        ("192.0.2.9", False),
        ("203.0.113.1", False),
        ("198.51.100.1", False),
    ],
)
def test_a_gateway_is_on_the_underlays_own_link(address: str, is_on_link: bool) -> None:
    """By its networks and single addresses; neither by the default route nor by another interface."""
    wanted = aims([peer(5, address)], Link.of(ETH0, PRESENT), "flannel0")
    assert (len(wanted.routes), len(wanted.remote)) == ((1, 0) if is_on_link else (0, 1))
    for route in wanted.routes.values():
        assert (route.index, route.gateway, route.metric) == (2, IPv4Address(address), 0)
        assert is_peer_route(route, "flannel0")


def test_what_is_out_of_reach_is_told_one_by_one_and_not_without_end() -> None:
    far = [peer(number, "192.0.2.9") for number in range(30)]
    link = Link.of(ETH0, PRESENT)
    wanted = aims([*far, peer(200, "172.31.0.2")], link, "flannel0")
    (route,) = wanted.routes.values()
    told = list(
        _problems(_Done(ETH0, link, EMPTY_PEERS, wanted, {route: NodeError("no", about="route 10.0.200.0/24")}))
    )
    assert len(told) == MAX_NAMED + 1
    assert told[0].about == "10.0.0.0/24"
    assert "192.0.2.9 is not on the link of eth0" in told[0].text
    assert told[0].remedy
    assert shown(told, "peers", "11 more peers are without a route")
    assert not list(_problems(_Done(ETH0, link, EMPTY_PEERS, Aims(wanted.routes, {}), {})))


def test_it_makes_no_device_and_takes_no_option() -> None:
    config = parse_config('{"Network":"10.0.0.0/16","Backend":{"Type":"host-gw","MTU":1,"Whatever":true}}')
    backends.check(config)
    assert backends.options(config.backend) == {"mtu": 1, "whatever": True}
    assert backends.make("host-gw", Flags()).devices == frozenset()
    ipv6 = '{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{"Type":"host-gw"}}'
    with pytest.raises(ConfigError, match="host-gw backend carries IPv4 only"):
        backends.check(parse_config(ipv6))
