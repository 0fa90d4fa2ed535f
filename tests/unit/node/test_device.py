"""The plan from a TUN device's actual state to the desired one."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from overlay.datapath.spec import TunnelSpec
from overlay.linux.netlink import Address, Link
from overlay.linux.routes import Route
from overlay.node.device import blackhole_route, network_route, plan

SPEC = TunnelSpec(
    device="flannel0",
    network=IPv4Network("10.0.0.0/16"),
    subnet=IPv4Network("10.0.58.0/24"),
    mtu=1472,
    underlay_interface="eth0",
    underlay_address=IPv4Address("172.31.0.1"),
)
LINK = Link(7, "flannel0", 1472, up=True, kind="tun", accept_local=True)
RIGHT_ADDRESS = Address(7, IPv4Address("10.0.58.0"), 32)
RIGHT_ROUTE = network_route(SPEC.network, LINK)


def steps(
    link: Link, addresses: list[Address], routes: list[Route], spec: TunnelSpec = SPEC, *, blackhole: bool = False
) -> list[str]:
    return [step.text for step in plan(spec, link, addresses, routes, blackhole=blackhole)]


def test_a_new_device() -> None:
    assert steps(Link(7, "flannel0", 1500, up=False, kind="tun", ipv6_link_local=True), [], []) == [
        "flannel0: no IPv6 address of its own",
        "flannel0: MTU 1500 → 1472",
        "flannel0: address 10.0.58.0/32 added",
        "flannel0: packets from our own addresses accepted",
        "flannel0: set up",
        "route 10.0.0.0/16 dev flannel0 added",
    ]


def test_all_right_is_no_step() -> None:
    assert steps(LINK, [RIGHT_ADDRESS], [RIGHT_ROUTE]) == []


def test_another_subnet_replaces_address_first_and_keeps_the_route() -> None:
    spec = replace(SPEC, subnet=IPv4Network("10.0.59.0/24"))
    assert steps(LINK, [RIGHT_ADDRESS], [RIGHT_ROUTE], spec) == [
        "flannel0: address 10.0.59.0/32 added",
        "flannel0: address 10.0.58.0/32 removed",
    ]


def test_a_wider_network_adds_its_route_before_the_old_one_goes() -> None:
    spec = replace(SPEC, network=IPv4Network("10.0.0.0/12"))
    assert steps(LINK, [RIGHT_ADDRESS], [RIGHT_ROUTE], spec) == [
        "route 10.0.0.0/12 dev flannel0 added",
        "route 10.0.0.0/16 dev flannel0 removed",
    ]


def test_link_set_down_by_others_gets_its_route_back() -> None:
    """flannel 1434, 1759: routes are gone after a link flap."""
    assert steps(replace(LINK, up=False), [RIGHT_ADDRESS], []) == [
        "flannel0: set up",
        "route 10.0.0.0/16 dev flannel0 added",
    ]


def test_routes_of_others_stay_by_whatever_device() -> None:
    others = [
        Route(IPv4Network("10.0.58.0/24"), 4, protocol=2),
        Route(IPv4Network("0.0.0.0/0"), 2, gateway=IPv4Address("172.31.0.100")),
        Route(IPv4Network("10.99.0.0/16"), LINK.index, scope=253),
        Route(IPv4Network("0.0.0.0/0"), LINK.index, metric=50, protocol=16),
    ]
    assert steps(LINK, [RIGHT_ADDRESS], [*others, RIGHT_ROUTE]) == []


def test_a_blackhole_follows_the_subnet_and_goes_with_the_flag() -> None:
    old = blackhole_route(IPv4Network("10.0.57.0/24"), "flannel0")
    right = blackhole_route(SPEC.subnet, "flannel0")
    others = [replace(old, metric=5), replace(old, protocol=3), blackhole_route(IPv4Network("10.1.7.0/24"), "flannel1")]
    present = [RIGHT_ROUTE, old, *others]
    assert steps(LINK, [RIGHT_ADDRESS], present, blackhole=True) == [
        "blackhole 10.0.58.0/24 added",
        "blackhole 10.0.57.0/24 removed",
    ]
    assert steps(LINK, [RIGHT_ADDRESS], [RIGHT_ROUTE, right], blackhole=True) == []
    assert steps(LINK, [RIGHT_ADDRESS], [RIGHT_ROUTE, right, *others]) == ["blackhole 10.0.58.0/24 removed"]


def test_every_device_has_blackholes_of_its_own() -> None:
    metrics = {
        blackhole_route(SPEC.subnet, f"{stem}{number}").metric for stem in ("flannel", "o") for number in range(999)
    }
    assert len(metrics) == 2 * 999
    assert all(2**31 <= metric < 2**32 for metric in metrics)
