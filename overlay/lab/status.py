"""What a lab is doing right now: read from the kernel, the processes and etcd, not from memory of what was done."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address

from overlay.errors import LabError
from overlay.lab.cluster import Lab
from overlay.lab.machine import Node
from overlay.lab.shell import run

_SUBNETS = "/coreos.com/network/subnets/"


@dataclass(frozen=True, slots=True)
class PodStatus:
    """``address`` is None while its node has no subnet."""

    name: str
    address: str | None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node.

    Attributes:
        name: its short name.
        address: in the underlay.
        agent: ``running``, ``frozen`` or ``stopped``.
        pid: the agent's process; None if stopped.
        subnet: what subnet.env gives docker0, e.g. ``10.0.39.1/24``; None without a subnet file.
        leased: whether etcd has a lease of that subnet for this node's address; None if etcd does not answer.
        mtu: from subnet.env.
        pods: its pods.
    """

    name: str
    address: str
    agent: str
    pid: int | None
    subnet: str | None
    leased: bool | None
    mtu: int | None
    pods: tuple[PodStatus, ...]


@dataclass(frozen=True, slots=True)
class LabStatus:
    """The whole lab; ``etcd`` is its endpoint, ``etcd_answers`` whether it does."""

    name: str
    state: str
    etcd: str
    etcd_answers: bool
    nodes: tuple[NodeStatus, ...]

    @property
    def healthy(self) -> bool:
        """Whether etcd answers and every agent runs on a lease."""
        return self.etcd_answers and all(node.agent == "running" and node.leased for node in self.nodes)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def status_of(lab: Lab) -> LabStatus:
    """Asks everything once. Raises LabError if the lab's namespaces are gone."""
    leases = _leases(lab)
    return LabStatus(
        lab.spec.name,
        str(lab.state.path),
        lab.spec.endpoint,
        leases is not None,
        tuple(_node_status(node, leases) for node in lab.nodes),
    )


def _node_status(node: Node, leases: dict[str, str] | None) -> NodeStatus:
    agent = node.agent
    try:
        subnet = node.subnet_file
    except LabError:
        subnet = None
    leased = None
    if leases is not None:
        leased = subnet is not None and leases.get(str(subnet.gateway.network)) == str(node.address)
    state = "stopped" if agent is None else "frozen" if agent.stopped else "running"
    return NodeStatus(
        node.name,
        str(node.address),
        state,
        agent.pid if agent is not None else None,
        str(subnet.gateway) if subnet else None,
        leased,
        subnet.mtu if subnet else None,
        tuple(PodStatus(pod.name, _shown(pod.find_address())) for pod in node.pods),
    )


def _shown(address: IPv4Address | None) -> str | None:
    return None if address is None else str(address)


def _leases(lab: Lab) -> dict[str, str] | None:
    """Public IP by subnet, straight from etcd's keys; None if it does not answer."""
    argv = ["etcdctl", "--command-timeout=2s", "--dial-timeout=2s", "get", "--prefix", _SUBNETS]
    done = run(argv, namespace=lab.spec.etcd, check=False)
    if done.returncode != 0:
        return None
    lines = done.stdout.splitlines()
    leases = {}
    for key, value in zip(lines[::2], lines[1::2], strict=False):
        try:
            address = str(json.loads(value)["PublicIP"])
        except (ValueError, KeyError, TypeError):
            continue
        # A dual-stack key has its IPv6 subnet after an ampersand.
        leases[key.removeprefix(_SUBNETS).partition("&")[0].replace("-", "/")] = address
    return leases
