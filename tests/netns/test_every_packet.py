"""Whatever a socket can produce arrives, on either datapath and mixed: what kernel vxlan beside it carries, we carry.

pod1 ── node1 ── switch ── node2 ── pod2      each way twice: to 10.0.N through the overlay, to 10.1.N through vxlan
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from tests.support.tunnels import ROOT, Node, entering, proves, running

pytestmark = pytest.mark.root

Result = dict[str, int | str]


@dataclass(frozen=True)
class End:
    """Where a packet begins or ends, and its address in either network."""

    namespace: str
    host: int
    number: int

    def address(self, network: str) -> str:
        return f"{network}.{self.number}.{self.host}"


def pod(node: Node) -> End:
    return End(node.pod, 2, node.number)


def host(node: Node) -> End:
    """The node itself: flannel0 has the first address of its subnet."""
    return End(node.namespace, 0, node.number)


WAYS = {
    "pod to pod": (pod, pod),
    "node to pod": (host, pod),
    "pod to node": (pod, host),
    "node to node": (host, host),
}

LARGER_THAN_VXLANS = "trains of full size"
"""vxlan's headers take 22 bytes more than ours, so for those there is no oracle but the sender."""

KERNEL, KERNEL_TOO, USERSPACE, USERSPACE_TOO = range(4)
PAIRS = {
    "kernel to kernel": (KERNEL, KERNEL_TOO),
    "kernel to userspace": (KERNEL, USERSPACE),
    "userspace to kernel": (USERSPACE, KERNEL),
    "userspace to userspace": (USERSPACE, USERSPACE_TOO),
}


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[Node, ...]]:
    with running(("kernel", "kernel", "userspace", "userspace")) as made:
        for node in made:
            vxlan_beside(node, made)
        yield made


def vxlan_beside(node: Node, every: tuple[Node, ...]) -> None:
    """A second network, 10.1.0.0/16, over the same wires."""
    node(f"ip link add vx0 type vxlan id 5 local {node.address} dstport 4789")
    node(f"ip address add 10.1.{node.number}.0/32 dev vx0")
    node(f"ip address add 10.1.{node.number}.1/24 dev cni0")
    node(f"ip link set vx0 mtu {node.mtu - 22} up")
    for other in every:
        if other is not node:
            node(f"bridge fdb append 00:00:00:00:00:00 dev vx0 dst {other.address}")
            node(f"ip route add 10.1.{other.number}.0/24 via 10.1.{other.number}.0 dev vx0 onlink "
                 f"src 10.1.{node.number}.0")  # fmt: skip
    node.in_pod(f"ip address add 10.1.{node.number}.2/24 dev eth0")
    node.in_pod(f"ip route add 10.1.0.0/16 via 10.1.{node.number}.1 src 10.1.{node.number}.2")


def carried(source: End, target: End, network: str) -> tuple[Result, Result]:
    """What was sent of each kind, and how much of it arrived whole."""
    traffic = [sys.executable, "-m", "tests.support.traffic"]
    receiver = subprocess.Popen(
        [*entering(target.namespace), *traffic, "receive"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        sender = subprocess.run(
            [*entering(source.namespace), *traffic, "send", target.address(network)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert sender.returncode == 0, sender.stderr
        sent = json.loads(sender.stdout)
        printed, _ = receiver.communicate(json.dumps(sent) + "\n", timeout=120)
        outcome = json.loads(printed)
        assert outcome["wrong"] == 0
        return sent, outcome["arrived"]
    finally:
        receiver.kill()
        receiver.wait()


def all_that_vxlan_carries_arrives(source: End, target: End) -> None:
    ours, theirs = (carried(source, target, network) for network in ("10.0", "10.1"))
    lost = {
        kind: f"{ours[1][kind]} of {ours[0][kind]}"
        for kind, sent in theirs[0].items()
        if ours[1][kind] != ours[0][kind] and (theirs[1][kind] == sent or kind == LARGER_THAN_VXLANS)
    }
    assert not lost, f"vxlan carries these: {lost}"
    assert sum(theirs[1][kind] == sent for kind, sent in theirs[0].items()) > 10, f"the oracle is blind: {theirs}"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pair", PAIRS)
def test_what_vxlan_carries_we_carry(site: tuple[Node, ...], pair: str, way: str) -> None:
    if pair == "kernel to kernel":
        proves(site[KERNEL], site[KERNEL_TOO])
    source, target = (partial(end)(site[number]) for end, number in zip(WAYS[way], PAIRS[pair], strict=True))
    all_that_vxlan_carries_arrives(source, target)
