"""A lab for every way, made before the first measurement: none has to be changed over while the clock runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from overlay.errors import LabError
from overlay.lab import plan
from overlay.lab.bench.load import Flood, forgeries
from overlay.lab.bench.scenarios import Ends, Load, Mode, Way
from overlay.lab.cluster import Lab
from overlay.lab.machine import Node
from overlay.lab.process import poll
from overlay.lab.shell import run_batch
from overlay.lab.topology import LabSpec, SubnetFile
from overlay.lab.traffic import ping

VXLAN_DEVICE = "vxlan0"
VXLAN_PORT = 8472
"""As flannel's vxlan backend has it: the Linux kernel's own default."""

VXLAN_OVERHEAD = 50
"""Bytes: outer IP 20, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348, 5)."""

_WARM_UP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a way is measured: two namespaces and the address of the second as the first reaches it."""

    source: str
    target: str
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Staged:
    """A way with its lab, ready to be measured."""

    way: Way
    lab: Lab
    ends: Endpoints
    flood: Flood | None = None

    def load(self) -> contextlib.AbstractContextManager[None]:
        """What arrives beside the measurement, for the length of a ``with`` statement."""
        return self.flood.running() if self.flood else contextlib.nullcontext()

    def wake(self) -> None:
        """Sends something for a second: after a pause a way may have to find neighbours anew, or whether a peer takes
        packets unfinished (overlay.bpf.c, ``question``), and a measurement meanwhile is of something else."""
        ping(self.ends.source, self.ends.address, count=5, interval=0.25)

    def set_mode(self, mode: Mode) -> None:
        """Sets the underlay's offloads."""
        offloads = replace(
            self.lab.spec,
            wire=mode is not Mode.VETH,
            gro=mode is Mode.WIRE_GRO,
            trains=mode is Mode.WIRE_TRAINS,
        )
        Lab(offloads, self.lab.state).set_offloads()


@contextlib.contextmanager
def staged(
    ways: Sequence[Way], name: str, progress: Callable[[str], None], cards: Sequence[str] = ()
) -> Iterator[dict[Way, Staged | LabError]]:
    """Builds all of it, and removes all of it at the end.

    Args:
        ways: each gets a lab of its own.
        name: of the labs, to which a digit is added.
        progress: is told what is made next.
        cards: network cards for etcd and the nodes of each lab in turn; none: the labs' links are veth pairs.

    Yields:
        For each way what it needs, or why it is not to be had here (a kernel without eBPF, say).
    """
    with contextlib.ExitStack() as stack:
        stage: dict[Way, Staged | LabError] = {}
        left = list(cards)
        for number, way in enumerate(ways):
            progress(way.title)
            nodes = 3 if way.load else 2
            own, left = left[: 1 + nodes], left[1 + nodes :]
            spec = LabSpec(
                name=f"{name}{number}",
                nodes=nodes,
                cards=tuple(own),
                pods=0 if way.ends is Ends.NODES else 1,
                agents=way.agent is not None,
                agent_arguments=way.agent or (),
            )
            try:
                stage[way] = _prepare(way, stack.enter_context(Lab.running(spec)))
            except LabError as error:
                stage[way] = error
        yield stage


def _prepare(way: Way, lab: Lab) -> Staged:
    """Joins the nodes where the way needs that, and sends the first packets."""
    near, far, *others = lab.nodes
    if way.vxlan:
        for node, other in ((near, far), (far, near)):
            _join_by_vxlan(node, other)
    source, target, address = (
        (near, far, far.address) if way.ends is Ends.NODES else (near.pods[0], far.pods[0], far.pods[0].address)
    )
    # An agent is ready before it knows peers that come later.
    if not poll(lambda: source.ping(address, patience=0.5).complete, _WARM_UP_SECONDS):
        raise LabError("no packet gets through", about=way.title)
    flood = _flood(way.load, lab, others[0], far) if way.load else None
    return Staged(way, lab, Endpoints(source.namespace, target.namespace, address), flood)


def _flood(load: Load, lab: Lab, peer: Node, target: Node) -> Flood:
    """From a node that is a peer, and from etcd's host, which is a stranger to the tunnel."""
    forged = forgeries(_leased(peer), _leased(target))
    return Flood(load, (peer.namespace, lab.etcd.namespace), (target.namespace, target.address), forged)


def _leased(node: Node) -> IPv4Network:
    if (leased := node.subnet_file) is None:
        raise LabError("has no subnet", about=node.name)
    return leased.gateway.network


def _join_by_vxlan(node: Node, other: Node) -> None:
    """What flannel's vxlan backend does: static neighbour and forwarding entry, one route for the other's subnet, and
    the two forwarding rules that flanneld and our agent make alike."""
    subnet, far = _subnet(node), _subnet(other)
    run_batch(
        [
            f"link add {VXLAN_DEVICE} address {_mac(node)} type vxlan id 1 local {node.address} "
            f"dev {plan.INTERFACE} dstport {VXLAN_PORT} nolearning",
            f"addr add {subnet.base}/32 dev {VXLAN_DEVICE}",
            f"link set {VXLAN_DEVICE} mtu {subnet.mtu} up",
            f"neigh add {far.base} lladdr {_mac(other)} dev {VXLAN_DEVICE} nud permanent",
            f"route add {far.gateway.network} via {far.base} dev {VXLAN_DEVICE} onlink",
        ],
        namespace=node.namespace,
    )
    node.run("bridge", "fdb", "append", _mac(other), "dev", VXLAN_DEVICE, "dst", str(other.address))
    for rule in _forwarding_rules(node.lab.network):
        node.run("iptables", "-w", *rule)
    node.files.subnet_file.write_text(f"FLANNEL_SUBNET={subnet.gateway}\nFLANNEL_MTU={subnet.mtu}\n")
    node.connect_pods()


def _forwarding_rules(network: IPv4Network) -> Iterator[tuple[str, ...]]:
    """To the letter: iptables-nft has the comment's match run for every packet."""
    comment = ("-m", "comment", "--comment", "flanneld forward")
    yield "-N", "FLANNEL-FWD"
    yield "-A", "FORWARD", *comment, "-j", "FLANNEL-FWD"
    for option in ("-s", "-d"):
        yield "-A", "FLANNEL-FWD", option, str(network), *comment, "-j", "ACCEPT"


def _number(node: Node) -> int:
    return node.address.packed[-1]


def _mac(node: Node) -> str:
    return f"02:00:00:00:00:{_number(node):02x}"


def _subnet(node: Node) -> SubnetFile:
    base = node.lab.network.network_address + 256 * _number(node)
    return SubnetFile(IPv4Interface((base + 1, 24)), node.lab.mtu - VXLAN_OVERHEAD)
