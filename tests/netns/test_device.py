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

SCRIPT = """
import sys
from ipaddress import IPv4Address, IPv4Network
from overlay.model import TunnelSpec
from overlay.node import device, tun
from overlay.node.netlink import Netlink

spec = TunnelSpec("flannel0", IPv4Network("10.0.0.0/16"), IPv4Network("10.0.58.0/24"), 1472, "eth0",
                  IPv4Address("172.31.0.1"))
if sys.argv[1] == "make":
    queue = tun.open_queue("flannel0", vnet_hdr=False)
    tun.set_persistent(queue)
with Netlink() as netlink:
    for line in device.reconcile(spec, netlink, blackhole=sys.argv[1] == "blackhole"):
        print(line)
"""


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


def reconcile(namespace: str, mode: str = "again") -> list[str]:
    return inside(namespace, sys.executable, "-c", SCRIPT, mode).splitlines()


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
    assert "10.0.0.0/16 dev flannel0 scope link" in inside(namespace, "ip", "route")

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
