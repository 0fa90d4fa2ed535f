"""The plan from a TUN device's actual state to the desired one."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from overlay.backends.udp.device import plan
from overlay.datapath.spec import TunnelSpec
from overlay.linux.netlink import Address, Link

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


def steps(link: Link, addresses: list[Address], spec: TunnelSpec = SPEC) -> list[str]:
    return [step.text for step in plan(spec, link, addresses)]


def test_a_new_device() -> None:
    assert steps(Link(7, "flannel0", 1500, up=False, kind="tun", ipv6_link_local=True), []) == [
        "flannel0: no IPv6 address of its own",
        "flannel0: MTU 1500 → 1472",
        "flannel0: address 10.0.58.0/32 added",
        "flannel0: packets from our own addresses accepted",
        "flannel0: set up",
    ]


def test_all_right_is_no_step() -> None:
    assert steps(LINK, [RIGHT_ADDRESS]) == []


def test_another_subnet_replaces_address_first() -> None:
    spec = replace(SPEC, subnet=IPv4Network("10.0.59.0/24"))
    assert steps(LINK, [RIGHT_ADDRESS], spec) == [
        "flannel0: address 10.0.59.0/32 added",
        "flannel0: address 10.0.58.0/32 removed",
    ]


def test_link_set_down_by_others_is_set_up() -> None:
    """flannel 1434, 1759: routes are gone after a link flap; they are looked at behind this."""
    assert steps(replace(LINK, up=False), [RIGHT_ADDRESS]) == ["flannel0: set up"]
