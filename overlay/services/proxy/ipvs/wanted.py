"""What IPVS should have for an entry of the table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from ipaddress import IPv4Address

from overlay.linux.ipvs import Real, Virtual
from overlay.services.table import Answer, Entry, Frontend, Kind, Place

SCHEDULERS = ("rr", "lc", "dh", "sh", "sed", "nq")
"""Those that are offered; the kernel loads the module of each by itself."""

DEFAULT = "rr"


@dataclass(frozen=True, slots=True)
class Pool:
    """What a virtual service should choose from.

    Attributes:
        servers: one of these for each new connection.
        draining: those that keep the connections which they have.
    """

    scheduler: str
    persistence: int | None
    servers: frozenset[Real]
    draining: frozenset[Real] = frozenset()


@dataclass(frozen=True, slots=True)
class Claim:
    """What one entry wants at one virtual address. An address of a Service's own goes before a node port."""

    pool: Pool
    at_node_port: bool


def is_local(frontend: Frontend, place: Place) -> bool:
    """Whether an address is made the node's own: ClusterIPs, of a service CIDR where there is nothing else.

    Never an external address: it may be another node's, which would be cut off from this one.
    """
    cidr = place.service_cidr
    return (
        frontend.kind is Kind.CLUSTER_IP
        and cidr is not None
        and frontend.address not in place.addresses
        and IPv4Address(frontend.address) in cidr
    )


def is_carried(frontend: Frontend, place: Place) -> bool:
    """Whether IPVS chooses there, and not the rules beneath: where packets are for this node itself."""
    return not frontend.address or frontend.address in place.addresses or is_local(frontend, place)


def claims_of(
    entry: Entry, place: Place, default: str = DEFAULT, schedulers: Set[str] = frozenset(SCHEDULERS)
) -> dict[Virtual, Claim]:
    """By virtual address. A pool may be empty: then the rules beneath refuse whatever is new.

    Args:
        default: the scheduler of entries that ask for none.
        schedulers: those that the kernel has.
    """
    made: dict[Virtual, Claim] = {}
    wished = entry.scheduler or default
    scheduler = wished if wished in schedulers else DEFAULT
    draining = frozenset((each.address, each.port) for each in entry.draining)
    for frontend in entry.frontends:
        if not is_carried(frontend, place):
            continue
        chosen = entry.backends(frontend.kind) if entry.answer(frontend.kind) is Answer.BALANCE else ()
        servers = frozenset((each.address, each.port) for each in chosen)
        pool = Pool(scheduler, entry.affinity_seconds, servers, draining - servers)
        at_node_port = frontend.kind is Kind.NODE_PORT
        for address in place.addresses if at_node_port else (frontend.address,):
            virtual = Virtual(entry.protocol, address, frontend.port)
            if virtual not in made or not at_node_port:
                made[virtual] = Claim(pool, at_node_port)
    return made


def local_addresses(entry: Entry, place: Place) -> frozenset[str]:
    """Those that are to be made the node's own."""
    return frozenset(each.address for each in entry.frontends if is_local(each, place))


def remark(entry: Entry, default: str, schedulers: Set[str]) -> str:
    """What the Service's owner is told; empty where all is as wished."""
    wished = entry.scheduler or default
    if not wished or wished in schedulers:
        return ""
    names = ", ".join(each for each in SCHEDULERS if each in schedulers)
    return f"ipvs has no scheduler {wished} (it has {names}): endpoints are given their turns (rr)"


Claims = Mapping[Virtual, Claim]
