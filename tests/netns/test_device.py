"""The TUN device reconciled against a real kernel.

machine: one network namespace, no link but lo and what the test makes
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.root


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"ovtest-dev-{uuid.uuid4().hex[:6]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(["ip", "netns", "del", name], check=True)


def inside(namespace: str, *command: str) -> str:
    result = subprocess.run(
        ["nsenter", f"--net=/run/netns/{namespace}", *command], check=True, capture_output=True, text=True
    )
    return result.stdout


def reconcile(namespace: str, *modes: str, device: str = "flannel0", net: int = 0) -> list[str]:
    return inside(namespace, sys.executable, "-m", "tests.support.tunnel_device", device, str(net), *modes).splitlines()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_from_nothing_then_nothing_then_what_others_broke(namespace: str) -> None:
    assert reconcile(namespace, "make") == [
        "flannel0: no IPv6 address of its own",
        "flannel0: MTU 1500 → 1472",
        "flannel0: address 10.0.58.0/32 added",
        "flannel0: packets from our own addresses accepted",
        "flannel0: set up",
        "route 10.0.0.0/16 dev flannel0 added",
    ]
    assert reconcile(namespace) == [], "applied twice, it must do nothing"
    assert "10.0.0.0/16 dev flannel0 proto 241 scope link" in inside(namespace, "ip", "route")

    inside(namespace, "ip", "link", "set", "flannel0", "down")
    inside(namespace, "ip", "addr", "add", "10.9.9.9/32", "dev", "flannel0")
    assert set(reconcile(namespace)) == {
        "flannel0: address 10.9.9.9/32 removed",
        "flannel0: set up",
        "route 10.0.0.0/16 dev flannel0 added",
    }
    inside(namespace, "ip", "route", "del", "10.0.0.0/16")
    inside(namespace, "ip", "link", "set", "flannel0", "mtu", "1300")
    assert set(reconcile(namespace)) == {"flannel0: MTU 1300 → 1472", "route 10.0.0.0/16 dev flannel0 added"}
    assert reconcile(namespace) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_its_address_is_not_the_bridges_broadcast(namespace: str) -> None:
    """Which a subnet's first address is before Linux 5.14; here, where it may not be, the route is made by hand."""
    bridge = "ip link add cni0 type bridge; ip address add 10.0.58.1/24 dev cni0; ip link set cni0 up"
    route = "ip route replace broadcast 10.0.58.0 dev cni0 table local proto kernel scope link src 10.0.58.1"
    inside(namespace, "sh", "-ec", f"{bridge}; {route}")
    assert "flannel0: address 10.0.58.0 is no broadcast" in reconcile(namespace, "make")
    assert inside(namespace, "ip", "route", "get", "10.0.58.0").startswith("local 10.0.58.0")
    assert reconcile(namespace) == []
    inside(namespace, "ip", "link", "del", "flannel0")
    assert "local 10.0.58.0" not in inside(namespace, "ip", "route", "show", "table", "local")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_kernel_sends_nothing_of_its_own_through_it(namespace: str) -> None:
    """With an IPv6 address it would solicit routers."""
    reconcile(namespace, "make")
    assert "10.0.58.0/32" in inside(namespace, "ip", "address", "show", "dev", "flannel0")
    assert inside(namespace, "ip", "-6", "address", "show", "dev", "flannel0") == ""
    inside(namespace, "ip", "link", "set", "flannel0", "down")
    reconcile(namespace)
    assert inside(namespace, "ip", "-6", "address", "show", "dev", "flannel0") == ""
    assert "addrgenmode none" in inside(namespace, "ip", "-d", "link", "show", "dev", "flannel0")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_blackhole_comes_and_goes(namespace: str) -> None:
    reconcile(namespace, "make")
    assert reconcile(namespace, "blackhole") == ["blackhole 10.0.58.0/24 added"]
    assert reconcile(namespace, "blackhole") == []
    assert "blackhole 10.0.58.0/24" in inside(namespace, "ip", "route")
    assert reconcile(namespace) == ["blackhole 10.0.58.0/24 removed"]


ETH0 = "ip link add eth0 type veth peer name far", "ip addr add 172.31.0.1/24 dev eth0", "ip link set far up"
UP = (*ETH0, "ip link set eth0 up")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    "theirs",
    [
        "10.0.0.0/16 via 172.31.0.100 dev eth0",
        "10.0.0.0/16 dev flannel1 scope link",
        "unreachable 10.0.0.0/16",
        "blackhole 10.0.0.0/16",
        "10.0.0.0/16 nexthop via 172.31.0.100 dev eth0 weight 1 nexthop via 172.31.0.101 dev eth0 weight 1",
    ],
)
def test_a_route_of_another_is_never_replaced(namespace: str, theirs: str) -> None:
    """The rest is done all the same, and it is said which route stands in the way."""
    for command in (*UP, "ip tuntap add flannel1 mode tun", "ip link set flannel1 up", f"ip route add {theirs}"):
        inside(namespace, *command.split())
    before = inside(namespace, "ip", "route", "show", "10.0.0.0/16")
    told, hole = reconcile(namespace, "make", "blackhole")
    assert hole == "blackhole 10.0.58.0/24 added"
    assert "route 10.0.0.0/16: is there already, and not ours; choose another Network" in told
    assert inside(namespace, "ip", "route", "show", "10.0.0.0/16") == before
    assert "10.0.58.0/32" in inside(namespace, "ip", "address", "show", "dev", "flannel0")
    assert "blackhole 10.0.58.0/24" in inside(namespace, "ip", "route")
    inside(namespace, "ip", "route", "del", *theirs.partition("/16")[0].split()[:-1], "10.0.0.0/16")
    assert reconcile(namespace, "blackhole") == ["route 10.0.0.0/16 dev flannel0 added"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_routes_of_an_operator_by_our_device_stay(namespace: str) -> None:
    reconcile(namespace, "make")
    for route in ("10.99.0.0/16 dev flannel0", "default dev flannel0 metric 50", "10.0.7.0/24 via 10.0.7.1 onlink"):
        inside(namespace, "ip", "route", "add", *route.split(), *([] if "dev" in route else ["dev", "flannel0"]))
    before = inside(namespace, "ip", "route")
    assert reconcile(namespace) == []
    assert inside(namespace, "ip", "route") == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_the_kernel_has_learnt_is_no_stale_route(namespace: str) -> None:
    reconcile(namespace, "make")
    assert reconcile(namespace, "learn") == []
    assert "mtu 1300" in inside(namespace, "ip", "route", "show", "table", "cache")
    assert reconcile(namespace) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_two_agents_leave_each_others_blackholes_alone(namespace: str) -> None:
    theirs = "blackhole 10.9.0.0/24 metric 2147483647"
    inside(namespace, "ip", "route", "add", *theirs.split())
    for net, device in enumerate(("flannel0", "flannel1")):
        reconcile(namespace, "make", "blackhole", device=device, net=net)
    for net, device in enumerate(("flannel0", "flannel1")):
        assert reconcile(namespace, "blackhole", device=device, net=net) == []
    assert reconcile(namespace, device="flannel1", net=1) == ["blackhole 10.1.58.0/24 removed"]
    routes = inside(namespace, "ip", "route")
    assert "blackhole 10.0.58.0/24 proto 241" in routes
    assert theirs in routes
