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
from pathlib import Path

import pytest

from overlay.lab.namespace import call_inside
from overlay.linux.libbpf import Object
from overlay.linux.netlink import Netlink
from overlay.linux.tc import Filter, Hook, TrafficControl
from tests.support.programs import BEFORE_PROOFS, TAG, compiled, variant
from tests.support.tunnels import (
    ROOT,
    UNPROVEN,
    Node,
    entering,
    gained,
    nodes,
    proves,
    run,
    running,
    start_all,
    takes_detour,
)

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

KINDS_OF_SITE = ("kernel", "kernel", "userspace", "userspace")
KERNEL, KERNEL_TOO, USERSPACE, USERSPACE_TOO = range(4)
PAIRS = {
    "kernel to kernel": (KERNEL, KERNEL_TOO),
    "kernel to userspace": (KERNEL, USERSPACE),
    "userspace to kernel": (USERSPACE, KERNEL),
    "userspace to userspace": (USERSPACE, USERSPACE_TOO),
}


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[Node, ...]]:
    with running(KINDS_OF_SITE) as made:
        for node in made:
            vxlan_beside(node, made)
        yield made


@pytest.fixture(scope="module", params=["without checksum offload", "with VID 0", "in a VLAN", "with GRO, and FOU"])
def odd_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, ...]]:
    """The same on other links: the oracle's packets cross them too."""
    with nodes(4) as made:
        if request.param == "in a VLAN":
            if not has_vlan():
                pytest.skip("this kernel has no vlan (CONFIG_VLAN_8021Q)")
            for node in made:
                put_into_vlan(node)
        if request.param == "with VID 0":
            for node in made:
                tag_with_priority(node, tmp_path_factory.mktemp("tag"))
        if request.param == "without checksum offload":
            for node in made:
                for inside, device in ((node.namespace, "eth0"), (node.namespace, "pod"), (node.pod, "eth0")):
                    run(f"ethtool -K {device} tx off rx off", inside)
        kinds = KINDS_OF_SITE
        if request.param == "with GRO, and FOU":  # where this kernel has that
            kinds = ("kernel-fou", "kernel-fou", *KINDS_OF_SITE[2:])
            for node in made:
                like_a_card(node)
        start_all(made, kinds)
        for node in made:
            vxlan_beside(node, made)
        yield made


def like_a_card(node: Node) -> None:
    """Packets cross at MTU size, and are joined where they arrive."""
    node("ethtool -K eth0 tso off gso off tx-udp-segmentation off gro on")
    run(f"ethtool -K n{node.number} tso off gso off tx-udp-segmentation off", node.switch)


def has_vlan() -> bool:
    """Whether this kernel has them; tried in a namespace that is gone with the process."""
    script = "ip link add x1 type veth peer name x2; ip link add link x1 name x1.7 type vlan id 7"
    return subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, check=False).returncode == 0


def put_into_vlan(node: Node) -> None:
    node("ip link add link eth0 name eth0.7 type vlan id 7")
    node("ip link set eth0.7 up")
    node("ip address flush dev eth0")
    node(f"ip address add {node.address}/24 dev eth0.7")
    node.underlay = "eth0.7"


def tag_with_priority(node: Node, directory: Path) -> None:
    """All IP that leaves the node has a priority, and no VLAN."""

    def put() -> None:
        with Object(compiled(TAG, directory)) as opened, TrafficControl() as tc, Netlink() as netlink:
            opened.load()
            link, program = netlink.link("eth0"), opened.program("tag")
            assert link is not None
            tc.set_filter(link, Hook.EGRESS, Filter(7, 1, "tag"), program.fd)
            program.close()

    call_inside(node.namespace, put)


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
    # What the sender's kernel says of smaller trains, whatever they go into, it says of a larger one too: before Linux
    # 6.11 those need a device that sums up.
    refused = {said for kind, said in theirs[0].items() if isinstance(said, str) and kind != LARGER_THAN_VXLANS}
    lost = {
        kind: f"{ours[1][kind]} of {ours[0][kind]}"
        for kind, sent in theirs[0].items()
        if ours[1][kind] != ours[0][kind]
        and (theirs[1][kind] == sent or (kind == LARGER_THAN_VXLANS and ours[0][kind] not in refused))
    }
    assert not lost, f"vxlan carries these: {lost}"
    let = [kind for kind, sent in theirs[0].items() if isinstance(sent, int)]
    seen = [kind for kind in let if theirs[1][kind] == theirs[0][kind]]
    assert len(seen) > 0.6 * len(let) > 4, f"the oracle is blind: {theirs}"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pair", PAIRS)
def test_what_vxlan_carries_we_carry(site: tuple[Node, ...], pair: str, way: str) -> None:
    if pair == "kernel to kernel":
        proves(site[KERNEL], site[KERNEL_TOO])
    source, target = (partial(end)(site[number]) for end, number in zip(WAYS[way], PAIRS[pair], strict=True))
    receiver = site[PAIRS[pair][1]]
    before = receiver.counters()
    all_that_vxlan_carries_arrives(source, target)
    if pair == "kernel to kernel":
        assert gained(receiver, before, "rx_cut") == [0], "what a kernel path sends is cut before"


@pytest.mark.parametrize("way", ["pod to pod", "node to node"])
@pytest.mark.parametrize("pair", PAIRS)
def test_what_odd_links_carry_of_vxlan_they_carry_of_us(odd_site: tuple[Node, ...], pair: str, way: str) -> None:
    source, target = (partial(end)(odd_site[number]) for end, number in zip(WAYS[way], PAIRS[pair], strict=True))
    receiver = odd_site[PAIRS[pair][1]]
    before = receiver.counters()
    all_that_vxlan_carries_arrives(source, target)
    if pair == "kernel to kernel":
        fast, slow, unseen = gained(receiver, before, "rx_packets", "slow_rx_packets", "slow_rx_unseen")
        if receiver("tc filter show dev eth0 egress"):
            assert unseen > 0, "filters for IP do not see what has a tag, and that is told"
        else:
            assert unseen == 0
            assert slow < fast / 10, "IP options and outer fragments alone"


@pytest.fixture(scope="module")
def mixed_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, ...]]:
    """Kernel paths of several minds: one that proves nobody, ours, one from before proofs; and a plain process."""
    older = variant(tmp_path_factory.mktemp("older") / "programs", *BEFORE_PROOFS)
    kinds = (UNPROVEN, "kernel", "kernel", "userspace-plain")
    with running(kinds, programs=(None, None, older, None)) as made:
        for node in made:
            vxlan_beside(node, made)
        yield made


UNPROVING, OURS, OLDER, PLAIN = range(4)
MIXED = {
    "one that proves nobody to ours": (UNPROVING, OURS),
    "ours to one that proves nobody": (OURS, UNPROVING),
    "older to ours": (OLDER, OURS),
    "ours to older": (OURS, OLDER),
    "kernel to plain": (OURS, PLAIN),
    "plain to kernel": (PLAIN, OURS),
}


@pytest.mark.parametrize("way", ["pod to pod", "node to pod"])
@pytest.mark.parametrize("pair", MIXED)
def test_what_vxlan_carries_we_carry_between_versions_and_to_who_proves_nothing(
    mixed_site: tuple[Node, ...], pair: str, way: str
) -> None:
    sender, receiver = (mixed_site[number] for number in MIXED[pair])
    before = sender.counters()
    source, target = (partial(end)(node) for end, node in zip(WAYS[way], (sender, receiver), strict=True))
    all_that_vxlan_carries_arrives(source, target)
    if sender is mixed_site[UNPROVING]:
        assert gained(sender, before, "tx_finished")[0] > 0
        assert takes_detour(sender, receiver), "nothing was proven meanwhile"
