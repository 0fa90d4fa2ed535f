"""What a lab is, as data: its nodes, pods and addresses follow from one frozen :class:`LabSpec`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import MappingProxyType
from typing import Any

from overlay.errors import LabError, UsageError
from overlay.node import subnet_env

NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
"""A lab's name. No hyphen: it ends the prefix, so that no lab's prefix is the beginning of another's."""

ETCD_HOST = 100
"""Host number of etcd's address in the underlay, which is 172.31.0.100 by default."""

MAX_NODES = ETCD_HOST - 1
"""Node i has host number i, and etcd's comes after the last."""

MAX_PODS = 100
"""Pods of one node; they need host numbers from 2 up in the node's subnet."""

ETCD_CLIENT_PORT = 2379

NETWORK = IPv4Network("10.0.0.0/16")

UNDERLAY = IPv4Network("172.31.0.0/24")
"""Lives inside the namespaces alone, so it does not matter whether the machine's own network uses the same."""


@dataclass(frozen=True, slots=True)
class PodSpec:
    """One pod: a namespace with one interface on its node's docker0."""

    name: str
    namespace: str
    node: str
    host: int
    """Its host number in the node's subnet; the bridge is 1."""

    @property
    def port(self) -> str:
        """The node's end of the pod's veth pair."""
        return f"v{self.name}"

    def address_in(self, gateway: IPv4Interface) -> IPv4Interface:
        """This pod's address, given docker0's (``FLANNEL_SUBNET``)."""
        return IPv4Interface((gateway.network.network_address + self.host, gateway.network.prefixlen))


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node: a namespace on the underlay bridge, with its pods."""

    name: str
    namespace: str
    address: IPv4Interface
    pods: tuple[PodSpec, ...] = ()


@dataclass(frozen=True)
class LabSpec:
    """All that distinguishes one lab from another.

    Attributes:
        name: prefix of every namespace; letters and digits.
        nodes: how many nodes, n1 and up.
        pods: how many pods on each, n1p1 and up.
        network: the overlay's network, for etcd's config.
        backend: flannel's backend type, for etcd's config.
        config: further members of the config, which also replace those of the two fields above.
        agent_arguments: added to every agent's command line.
        agents: whether ``up`` starts etcd and the agents; without, there are only machines and links.
        mtu: of the underlay, in bytes.
        wire: no segmentation offload on either end of the underlay's veths: packets cross at MTU size, as on a wire.
            Without it a veth carries 64 KB packets untouched, which no network does.
        trains: but with ``wire``, trains of datagrams (UDP_SEGMENT) cross whole, as without.
        gro: GRO on at the nodes' underlay interfaces, as network cards have it; veths come with it off.
        cards: network cards of this machine that etcd and the nodes have, in this order, instead of ends of veth pairs;
            they are joined outside of it. Given back at the end, with the offloads that the lab has set.
        underlay: addresses of the nodes and of etcd.
    """

    name: str = "lab"
    nodes: int = 3
    pods: int = 1
    network: IPv4Network = NETWORK
    backend: str = "udp"
    config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    agent_arguments: tuple[str, ...] = ()
    agents: bool = True
    mtu: int = 1500
    wire: bool = False
    trains: bool = False
    gro: bool = False
    cards: tuple[str, ...] = ()
    underlay: IPv4Network = UNDERLAY

    def __post_init__(self) -> None:
        check_name(self.name)
        _check(1 <= self.nodes <= MAX_NODES, f"{self.nodes} nodes", f"a lab has 1 to {MAX_NODES}")
        _check(0 <= self.pods <= MAX_PODS, f"{self.pods} pods a node", f"a node has 0 to {MAX_PODS}")
        _check(576 <= self.mtu <= 65535, f"MTU {self.mtu}", "the underlay's must be between 576 and 65535")
        _check(
            len(set(self.cards)) in (0, 1 + self.nodes),
            f"cards {' '.join(self.cards)}",
            f"etcd and {self.nodes} nodes need {1 + self.nodes} of them, each its own",
        )
        _check(
            self.underlay.prefixlen <= 24,
            f"underlay {self.underlay}",
            "it needs room for host numbers up to 100: a /24",
        )
        _check(
            not self.underlay.overlaps(self.network),
            f"network {self.network}",
            f"it overlaps the underlay {self.underlay}",
        )

    @property
    def prefix(self) -> str:
        """What every namespace's name begins with."""
        return f"{self.name}-"

    @property
    def switch(self) -> str:
        """The namespace of the underlay's bridge."""
        return f"{self.prefix}sw"

    @property
    def etcd(self) -> str:
        """The namespace of the etcd server."""
        return f"{self.prefix}etcd"

    @property
    def etcd_address(self) -> IPv4Interface:
        return self._underlay_host(ETCD_HOST)

    @property
    def endpoint(self) -> str:
        """etcd's client URL, as the nodes reach it."""
        return f"http://{self.etcd_address.ip}:{ETCD_CLIENT_PORT}"

    @cached_property
    def node_specs(self) -> tuple[NodeSpec, ...]:
        return tuple(self._node(number) for number in range(1, self.nodes + 1))

    @property
    def pod_specs(self) -> tuple[PodSpec, ...]:
        return tuple(pod for node in self.node_specs for pod in node.pods)

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Every namespace of the lab."""
        nodes = tuple(node.namespace for node in self.node_specs)
        return (self.switch, self.etcd, *nodes, *(pod.namespace for pod in self.pod_specs))

    @property
    def machines(self) -> dict[str, str]:
        """Namespace by the short name that the command line uses: ``n1``, ``n1p1``, ``etcd``, ``sw``."""
        return {namespace.removeprefix(self.prefix): namespace for namespace in self.namespaces}

    def network_config(self) -> dict[str, Any]:
        """The value of flannel's config key."""
        return {"Network": str(self.network), "Backend": {"Type": self.backend}, **self.config}

    def to_json(self) -> str:
        document = asdict(replace(self, config=dict(self.config)))
        return json.dumps(document | {"network": str(self.network), "underlay": str(self.underlay)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> LabSpec:
        """The inverse of :meth:`to_json`. Raises LabError for what it did not write."""
        try:
            document = json.loads(text)
            document |= {
                "network": IPv4Network(document["network"]),
                "underlay": IPv4Network(document["underlay"]),
                "agent_arguments": tuple(document["agent_arguments"]),
                "cards": tuple(document["cards"]),
            }
            return cls(**document)
        except (ValueError, TypeError, KeyError) as error:
            raise LabError(f"is not a lab's description ({error})") from error

    def _underlay_host(self, number: int) -> IPv4Interface:
        return IPv4Interface((self.underlay.network_address + number, self.underlay.prefixlen))

    def _node(self, number: int) -> NodeSpec:
        name = f"n{number}"
        pods = tuple(
            PodSpec(f"{name}p{pod}", f"{self.prefix}{name}p{pod}", name, host=pod + 1)
            for pod in range(1, self.pods + 1)
        )
        return NodeSpec(name, self.prefix + name, self._underlay_host(number), pods)


@dataclass(frozen=True, slots=True)
class SubnetFile:
    """What a lab needs of subnet.env: docker0's address and the MTU."""

    gateway: IPv4Interface
    mtu: int

    @classmethod
    def parse(cls, text: str) -> SubnetFile:
        """Reads ``FLANNEL_SUBNET`` and ``FLANNEL_MTU``. Raises LabError if they are missing or malformed."""
        variables = subnet_env.parse(text)
        try:
            return cls(IPv4Interface(variables["FLANNEL_SUBNET"]), int(variables["FLANNEL_MTU"]))
        except (KeyError, ValueError) as error:
            raise LabError(f"no usable {error}", about="subnet file") from error

    @property
    def base(self) -> IPv4Address:
        """The subnet's base address, which is flannel0's."""
        return self.gateway.network.network_address


def check_name(name: str) -> str:
    """Raises UsageError for what cannot be a lab's name; returns it otherwise."""
    _check(NAME.fullmatch(name) is not None, f"lab name {name!r}", "use up to 12 lower-case letters and digits")
    return name


def _check(holds: bool, about: str, remedy: str) -> None:
    if not holds:
        raise UsageError("cannot be", about=about, remedy=remedy)
