"""What endpoints and addresses are computed from: of a Service and of a pod what decides, and nothing else. Pure.

A cluster may have 50,000 pods, and every node knows all of them: a document as a ``dict`` takes some ten times as much
as these. :mod:`overlay.services.facts_of` finds them in documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeAlias

ServiceName: TypeAlias = tuple[str, str]
"""Namespace and name."""

SCHEDULER = "overlay.io/scheduler"
"""A Service's annotation: by which rule one of its endpoints is chosen, such as ``rr`` or ``lc``."""

SERVICE_NAME = "kubernetes.io/service-name"
"""An EndpointSlice's label: whose endpoints it tells."""


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A port that one of a pod's containers has; the name may be empty."""

    name: str
    number: int
    protocol: str


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod.

    Attributes:
        key: its key in etcd.
        addresses: IPv4 first; none where it cannot be reached.
        serving: its condition Ready.
        terminating: it is being deleted.
        ended: all of its containers have ended for good.
        hostname, subdomain: as its ``spec`` has them; empty for none.
    """

    key: str
    namespace: str
    name: str
    uid: str
    node: str
    labels: dict[str, str]
    addresses: tuple[str, ...]
    ports: tuple[ContainerPort, ...]
    serving: bool
    terminating: bool
    ended: bool
    hostname: str
    subdomain: str

    @property
    def full_name(self) -> ServiceName:
        return self.namespace, self.name


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A Service's port; ``target`` is a number, or the name of a container's port. ``node_port`` 0: it has none."""

    name: str
    port: int
    protocol: str
    target: int | str
    app_protocol: str
    node_port: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    """A Service with what its endpoints and the meaning of its addresses depend on.

    Attributes:
        selector: empty where its endpoints are somebody else's affair.
        families: ``IPv4`` and ``IPv6``, the first one first.
        publish_not_ready: ``spec.publishNotReadyAddresses``.
        type: ClusterIP, NodePort, LoadBalancer or ExternalName.
        created: RFC 3339, as its metadata has it; of two that claim one address, the older one has it.
        cluster_ips, external_ips: as its ``spec`` has them; those that are no addresses are left out.
        ingress_ips: addresses of ``status.loadBalancer`` that nodes answer for (``ipMode`` VIP, or none).
        source_ranges: ``spec.loadBalancerSourceRanges``; empty: everybody.
        affinity_seconds: how long a client keeps its endpoint; None without session affinity.
        internal_local, external_local: whether the traffic policies say Local.
        scheduler: of its annotation ``overlay.io/scheduler``; empty where there is none.
        external_name: what an ExternalName Service stands for.
    """

    namespace: str
    name: str
    uid: str
    labels: dict[str, str]
    selector: dict[str, str]
    ports: tuple[ServicePort, ...]
    headless: bool
    families: tuple[str, ...]
    publish_not_ready: bool
    type: str = "ClusterIP"
    created: str = ""
    cluster_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    ingress_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    affinity_seconds: int | None = None
    internal_local: bool = False
    external_local: bool = False
    scheduler: str = ""
    external_name: str = ""

    @property
    def full_name(self) -> ServiceName:
        return self.namespace, self.name

    def selects(self, labels: dict[str, str]) -> bool:
        """Whether pods with these labels are its endpoints, in its namespace."""
        return bool(self.selector) and self.selector.items() <= labels.items()


@dataclass(frozen=True, slots=True)
class WrittenEndpoint:
    """An endpoint that somebody wrote, of a Service without selector: its ports by the names of the Service's."""

    address: str
    node: str
    ports: tuple[ContainerPort, ...]
    ready: bool
    serving: bool
    terminating: bool
    hostname: str = ""


def is_ipv4(text: str) -> bool:
    """Whether it is an IPv4 address in the one way of writing it."""
    return ":" not in text and is_address(text)


def is_address(text: str) -> bool:
    """Whether it is an address, of either family."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
