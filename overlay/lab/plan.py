"""From a lab's description to the commands that make it; pure, so that tests read them without root.

A *batch* is a list of lines for ``ip -batch``, all of one namespace: one process, however many links.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from overlay.lab.topology import LabSpec, NodeSpec, SubnetFile

UNDERLAY_BRIDGE = "underlay"
POD_BRIDGE = "docker0"
INTERFACE = "eth0"

MARK = "overlay-lab:"
"""Alias of ``lo`` in each of our namespaces, followed by the lab's name: what has it is ours to remove."""

NODE_SYSCTLS: Mapping[str, str] = MappingProxyType(
    {
        "net/ipv4/ip_forward": "1",
        # Loose, as systemd's 50-default.conf sets it on Debian; of "all" and the interface's own the larger counts.
        "net/ipv4/conf/all/rp_filter": "2",
        "net/ipv4/conf/default/rp_filter": "2",
    }
)
"""Set before any interface exists, so that "default" holds for all of them."""

POD_BRIDGE_OPTIONS = "type bridge forward_delay 0"
"""No STP and no learning phase: a port forwards as soon as it is up."""


def namespace_batch(spec: LabSpec) -> list[str]:
    return [f"netns add {name}" for name in spec.namespaces]


def mark_batch(spec: LabSpec) -> list[str]:
    """For each namespace: brands it as this lab's. The first thing done in it."""
    return [f"link set dev lo up alias {MARK}{spec.name}"]


def switch_batch(spec: LabSpec) -> list[str]:
    """In the switch: the bridge, and for every machine without a card a veth pair whose far end is its eth0."""
    lines = [f"link add {UNDERLAY_BRIDGE} mtu {spec.mtu} {POD_BRIDGE_OPTIONS}", f"link set {UNDERLAY_BRIDGE} up"]
    for port, namespace in switch_ports(spec).items():
        lines += [
            f"link add {port} mtu {spec.mtu} type veth peer name {INTERFACE} mtu {spec.mtu} netns {namespace}",
            f"link set {port} master {UNDERLAY_BRIDGE} up",
        ]
    return lines


def switch_ports(spec: LabSpec) -> dict[str, str]:
    """The machines behind the switch: name of its port → namespace. None, where they have cards."""
    return {} if spec.cards else _machines(spec)


def cards(spec: LabSpec) -> dict[str, str]:
    """Cards of this machine → the namespace that has it as its eth0."""
    return dict(zip(spec.cards, _machines(spec).values(), strict=True)) if spec.cards else {}


def take_batch(spec: LabSpec) -> list[str]:
    """Where the cards are: hands them to the machines."""
    return [
        f"link set dev {card} netns {namespace} name {INTERFACE} mtu {spec.mtu}"
        for card, namespace in cards(spec).items()
    ]


def return_batch(card: str, pid: int) -> list[str]:
    """In the machine that has it: gives a card back to the namespace of a process."""
    return [f"link set dev {INTERFACE} down", f"link set dev {INTERFACE} netns {pid} name {card}"]


def _machines(spec: LabSpec) -> dict[str, str]:
    """The machines on the underlay by name, etcd's first."""
    return {"etcd": spec.etcd} | {node.name: node.namespace for node in spec.node_specs}


def etcd_batch(spec: LabSpec) -> list[str]:
    return [f"addr add {spec.etcd_address} dev {INTERFACE}", f"link set {INTERFACE} up"]


def node_batch(spec: LabSpec, node: NodeSpec) -> list[str]:
    """In a node: its underlay address, and docker0 with the pods' ends, as yet without addresses."""
    lines = [
        f"addr add {node.address} dev {INTERFACE}",
        f"link set {INTERFACE} up",
        # Nothing is behind it. An agent without --iface chooses the interface of the default route.
        f"route add default via {spec.etcd_address.ip} dev {INTERFACE}",
        f"link add {POD_BRIDGE} {POD_BRIDGE_OPTIONS}",
        f"link set {POD_BRIDGE} up",
    ]
    for pod in node.pods:
        lines += [
            f"link add {pod.port} type veth peer name {INTERFACE} netns {pod.namespace}",
            f"link set {pod.port} master {POD_BRIDGE} up",
        ]
    return lines


def connect_node_batch(node: NodeSpec, subnet: SubnetFile) -> list[str]:
    """In a node: docker0 gets the address and MTU that subnet.env says, whatever it had before."""
    return [
        *(f"link set {pod.port} mtu {subnet.mtu}" for pod in node.pods),
        f"link set {POD_BRIDGE} mtu {subnet.mtu}",
        f"addr flush dev {POD_BRIDGE} scope global",
        f"addr add {subnet.gateway} dev {POD_BRIDGE}",
    ]


def connect_pod_batches(node: NodeSpec, subnet: SubnetFile) -> Iterator[tuple[str, list[str]]]:
    """In each pod (its namespace, its batch): address, MTU, and the default route by docker0."""
    for pod in node.pods:
        yield (
            pod.namespace,
            [
                f"link set {INTERFACE} mtu {subnet.mtu} up",
                f"addr flush dev {INTERFACE} scope global",
                f"addr add {pod.address_in(subnet.gateway)} dev {INTERFACE}",
                f"route replace default via {subnet.gateway.ip} dev {INTERFACE}",
            ],
        )


def sysctl_script(values: Mapping[str, str]) -> str:
    """A shell script that sets them, for a shell in the namespace: /proc/sys/net is that of the process."""
    return "\n".join(f"echo {value} > /proc/sys/{key}" for key, value in values.items())


def offload_commands(spec: LabSpec) -> Iterator[tuple[str, list[str]]]:
    """ethtool commands (namespace, argv) that make the underlay's offloads what the description says."""
    segmentation = "off" if spec.wire else "on"
    of_trains = "on" if spec.trains else segmentation
    for name, namespace in _machines(spec).items():
        port = () if spec.cards else ((spec.switch, name),)
        for where, link in (*port, (namespace, INTERFACE)):
            argv = ["ethtool", "-K", link, "tso", segmentation, "gso", segmentation]
            # Neither of these stops a train of datagrams that a socket sends with UDP_SEGMENT.
            argv += ["tx-udp-segmentation", of_trains]
            if link == INTERFACE:
                argv += ["gro", "on" if spec.gro else "off"]
            yield where, argv


def etcd_command(spec: LabSpec, data: str) -> list[str]:
    """etcd's command line, one member, listening on its underlay address and on loopback."""
    return [
        "etcd",
        "--name=lab",
        f"--data-dir={data}",
        f"--listen-client-urls={spec.endpoint},http://127.0.0.1:2379",
        f"--advertise-client-urls={spec.endpoint}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=lab=http://127.0.0.1:2380",
        "--logger=zap",
        "--log-outputs=stderr",
    ]


def agent_command(spec: LabSpec, overlay: str, directory: str, extra: Sequence[str] = ()) -> list[str]:
    """An agent's command line; ``directory`` is the node's own, for its state and its subnet file."""
    return [
        overlay,
        "agent",
        "--etcd-endpoints",
        spec.endpoint,
        "--iface",
        INTERFACE,
        "--subnet-file",
        f"{directory}/subnet.env",
        "--state-dir",
        directory,
        *spec.agent_arguments,
        *extra,
    ]
