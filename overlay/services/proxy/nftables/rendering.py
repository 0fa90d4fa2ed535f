"""A table's entries as nftables' chains, sets and elements. Pure.

The way of a new connection (kubernetes ``pkg/proxy/nftables/README.md``)::

    prerouting, output   -110  firewalled: the load balancer's source ranges
    prerouting, output   -100  dispatch: services (address . protocol . port) or node-ports (protocol . port)
                                  ├──▶ choose-tcp-random-3 one of three, from the map of all ClusterIPs' backends
                                  └──▶ external-…   masquerade, and who is inside the cluster
                                          └──▶ cluster-…, local-…   one of the backends
                                                  └──▶ endpoint-…   of an entry with affinity: remembers the client
    input, forward, output     refused: addresses without usable backends; ports that a ClusterIP does not have
    input                 110  the same ports where ClusterIPs are the node's own addresses, behind IPVS's hooks
    postrouting           100  masquerade what is marked, and who was given itself

Where something else chooses at an address (IPVS), such connections are marked and refused here alike, and no more.

ClusterIPs without affinity, which most are, have elements alone and share few chains: nft reads the names of all chains
and sets before each change, so that thousands of them would make it slow.

Only a connection's first packet passes the chains of type nat; those of type filter look at new connections alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, collapse_addresses
from typing import TypeAlias

from overlay.model import MASQUERADED_MARK, TRANSLATED_MARK
from overlay.services.table import Answer, Backend, Entry, Frontend, Kind, Place

TABLE = "overlay-services"

SERVICES, NODE_PORTS = "services", "node-ports"
REFUSED, REFUSED_NODE_PORTS = "refused", "refused-node-ports"
FIREWALLED, CLUSTER_IPS, HAIRPINS = "firewalled", "cluster-ips", "hairpins"
BACKENDS = {protocol: f"backends-{protocol.lower()}" for protocol in ("TCP", "UDP", "SCTP")}
"""One a protocol: nft 1.0.6 takes a map of integers for the protocol alone whose ports its declaration names."""

MAPS = {
    SERVICES: "map services { type ipv4_addr . inet_proto . inet_service : verdict; }",
    NODE_PORTS: "map node-ports { type inet_proto . inet_service : verdict; }",
    REFUSED: "map refused { type ipv4_addr . inet_proto . inet_service : verdict; }",
    REFUSED_NODE_PORTS: "map refused-node-ports { type inet_proto . inet_service : verdict; }",
    FIREWALLED: "map firewalled { type ipv4_addr . inet_proto . inet_service : verdict; }",
    CLUSTER_IPS: "set cluster-ips { type ipv4_addr; }",
    HAIRPINS: "set hairpins { type ipv4_addr . ipv4_addr; }",
    **{
        name: f"map {name} {{ typeof ip daddr . {ports} . numgen random mod 2 : ip daddr . {ports}; }}"
        for protocol, name in BACKENDS.items()
        for ports in [f"{protocol.lower()} dport"]
    },
}
"""What has an element for each address; names never change, so that they are found again."""

MAX_CLIENTS = 65536
"""That one backend remembers; who comes when there are as many is given one at random each time."""

MAX_NAME = 200
"""Bytes of a chain's name at most; the kernel takes 256 (``NFT_NAME_MAXLEN``)."""

_BY_SCHEDULER = {
    "random": "numgen random mod {}",
    "rr": "numgen inc mod {}",
    "sh": "jhash ip saddr mod {} seed 0x6f766c79",
    "dh": "jhash ip daddr mod {} seed 0x6f766c79",
}
"""How a number below the backends' count is found; the seed is the same everywhere, so that every node agrees."""

SCHEDULERS = tuple(_BY_SCHEDULER)


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of ours that is no base chain; its rules follow from its name."""

    name: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AffinitySet:
    """Clients that one backend of one entry remembers."""

    name: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Element:
    """An element of one of :data:`MAPS`: what its key leads to, a verdict or a backend; empty in a set."""

    map: str
    key: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """All of one entry. ``chains``: those that are led to before those that lead to them."""

    chains: tuple[Chain, ...] = ()
    sets: tuple[AffinitySet, ...] = ()
    elements: tuple[Element, ...] = ()


Carried: TypeAlias = Callable[[Frontend, Place], bool]
"""Whether something else than these rules gives a backend to who comes to an address."""


def nothing_carried(frontend: Frontend, place: Place) -> bool:
    """All backends are chosen by the rules."""
    return False


def render(entry: Entry, place: Place, scheduler: str = "", carried: Carried = nothing_carried) -> Piece:
    """What one entry needs.

    Args:
        scheduler: of entries that ask for none; empty: random.
    """
    pools = _Pools(entry, entry.scheduler or scheduler)
    elements: list[Element] = []
    chains: dict[str, Chain] = {}
    for frontend in entry.frontends:
        if frontend.kind is Kind.CLUSTER_IP:
            elements.append(Element(CLUSTER_IPS, frontend.address))
        elif frontend.kind is Kind.LOAD_BALANCER and entry.source_ranges:
            chain = _firewall(entry)
            chains[chain.name] = chain
            elements.append(Element(FIREWALLED, _key(entry, frontend), f"goto {chain.name}"))
        refused, services = (REFUSED_NODE_PORTS, NODE_PORTS) if frontend.kind is Kind.NODE_PORT else (REFUSED, SERVICES)
        if (answer := entry.answer(frontend.kind)) is not Answer.BALANCE:
            verdict = "goto reject-new" if answer is Answer.REJECT else "drop"
            elements.append(Element(refused, _key(entry, frontend), verdict))
        if answer is Answer.BALANCE or (frontend.kind.external and entry.cluster):
            if frontend.kind.external:
                target = _external(entry, place, pools, carried(frontend, place))
            elif carried(frontend, place):
                continue
            elif entry.affinity_seconds is None:
                target = pools.shared(len(backends := entry.backends(frontend.kind)))
                where = f"{frontend.address} . {frontend.port}"
                for number, each in enumerate(backends):
                    elements.append(Element(BACKENDS[entry.protocol], f"{where} . {number}", _pair(each)))
            else:
                target = pools.pool(entry.internal_local)
            chains[target.name] = target
            elements.append(Element(services, _key(entry, frontend), f"goto {target.name}"))
    local = sorted({each.address for each in (*entry.cluster, *entry.local) if each.local})
    hairpins = [Element(HAIRPINS, f"{each} . {each}") for each in local]
    every = tuple((pools.chains | chains).values())
    return Piece(every, tuple(pools.sets.values()), (*elements, *hairpins))


def _key(entry: Entry, frontend: Frontend) -> str:
    where = f"{entry.protocol.lower()} . {frontend.port}"
    return f"{frontend.address} . {where}" if frontend.address else where


class _Pools:
    """The chains that choose one of an entry's backends, made when they are asked for."""

    def __init__(self, entry: Entry, scheduler: str) -> None:
        self._entry = entry
        self._scheduler = scheduler if scheduler in _BY_SCHEDULER else "random"
        self._way = _BY_SCHEDULER[self._scheduler]
        self.chains: dict[str, Chain] = {}
        self.sets: dict[str, AffinitySet] = {}
        self._pools: dict[bool, Chain] = {}

    def shared(self, count: int) -> Chain:
        """The chain that chooses among so many backends in the map of all."""
        protocol = self._entry.protocol.lower()
        backends = BACKENDS[self._entry.protocol]
        chosen = f"ip daddr . {protocol} dport . {self._way.format(count)} map @{backends}"
        return Chain(f"choose-{protocol}-{self._scheduler}-{count}", (_to(self._entry, chosen),))

    def pool(self, local: bool) -> Chain:
        """The chain that chooses one of the local backends, or of all."""
        if local not in self._pools:
            backends = self._entry.local if local else self._entry.cluster
            seconds = self._entry.affinity_seconds
            rules = self._plain(backends) if seconds is None else self._with_affinity(backends, seconds)
            chain = _chain("local" if local else "cluster", self._entry, rules)
            self.chains[chain.name] = self._pools[local] = chain
        return self._pools[local]

    def _plain(self, backends: Sequence[Backend]) -> list[str]:
        return [_to(self._entry, self._choice(backends, "map", _pair))]

    def _with_affinity(self, backends: Sequence[Backend], seconds: int) -> list[str]:
        remembered, targets = [], {}
        for backend in backends:
            kept = _hashed("affinity", self._entry, f"{backend} {seconds}")
            self.sets[kept] = AffinitySet(kept, seconds)
            rules = [f"update @{kept} {{ ip saddr }}", _to(self._entry, str(backend))]
            endpoint = _chain("endpoint", self._entry, rules)
            self.chains[endpoint.name] = endpoint
            targets[backend] = f"goto {endpoint.name}"
            remembered.append(f"ip saddr @{kept} {targets[backend]}")
        return [*remembered, self._choice(backends, "vmap", targets.__getitem__)]

    def _choice(self, backends: Sequence[Backend], kind: str, of: Callable[[Backend], str]) -> str:
        if len(backends) == 1:
            return of(backends[0]).replace(" . ", ":")
        numbered = ", ".join(f"{number} : {of(each)}" for number, each in enumerate(backends))
        return f"{self._way.format(len(backends))} {kind} {{ {numbered} }}"


def _pair(backend: Backend) -> str:
    return f"{backend.address} . {backend.port}"


def _to(entry: Entry, destination: str) -> str:
    return f"meta l4proto {entry.protocol.lower()} {_TRANSLATED} dnat ip to {destination}"


def _external(entry: Entry, place: Place, pools: _Pools, carried: bool) -> Chain:
    """What comes from anywhere: it has to come back this way, unless only this node's backends are used."""
    if not entry.external_local:
        return _chain("external", entry, [_MARK, _UNCHANGED if carried else f"goto {pools.pool(False).name}"])
    everywhere = f"goto {pools.pool(False).name}"
    rules = [f"ip saddr {_one_of(place.networks)} {everywhere}"] if place.networks else []
    rules += [f"fib saddr type local {_MARK} {everywhere}"]
    if entry.local:
        rules.append(_UNCHANGED if carried else f"goto {pools.pool(True).name}")
    return _chain("external", entry, rules)


def _firewall(entry: Entry) -> Chain:
    return _chain("firewall", entry, [f"ip saddr != {_one_of(entry.source_ranges)} drop"])


def _chain(kind: str, entry: Entry, rules: Sequence[str]) -> Chain:
    return Chain(_hashed(kind, entry, "\n".join(rules)), tuple(rules))


def _hashed(kind: str, entry: Entry, content: str) -> str:
    """A name that tells whose it is, and is another one for another content."""
    digest = hashlib.blake2b(content.encode(), digest_size=10).hexdigest()
    named = "/".join(filter(None, (entry.name.namespace, entry.name.service, entry.name.port, entry.protocol.lower())))
    return f"{kind}-{digest}-{named}"[:MAX_NAME]


def _one_of(networks: Sequence[IPv4Network]) -> str:
    """Those networks, none of which may be in another: nft takes no intervals that overlap."""
    return f"{{ {', '.join(map(str, collapse_addresses(networks)))} }}"


# --- the frame --------------------------------------------------------------------------------------------------------

_MARK = f"meta mark set meta mark | {MASQUERADED_MARK:#x}"

_TRANSLATED = f"ct mark set ct mark | {TRANSLATED_MARK:#x}"

_NODE_PORT = f"ip daddr != 127.0.0.0/8 ip daddr != @{CLUSTER_IPS} fib daddr type local"
"""Node ports are at all of the node's own addresses but those (CVE-2020-8558), and ClusterIPs that IPVS makes local."""

_UNCHANGED = f"{_TRANSLATED} dnat ip to ip daddr"
"""Translated to what it is, so that nobody else translates it: Docker's published ports are at all local addresses."""

_PLACES = {
    "filter-prerouting": ("filter", "prerouting", -110),
    "filter-input": ("filter", "input", -110),
    "filter-forward": ("filter", "forward", -110),
    "filter-output": ("filter", "output", -110),
    "nat-prerouting": ("nat", "prerouting", -100),
    "nat-output": ("nat", "output", -100),
    "filter-output-after-nat": ("filter", "output", -90),
    "nat-postrouting": ("nat", "postrouting", 100),
    "filter-input-after-ipvs": ("filter", "input", 110),
}
"""Base chains: type, hook and priority."""

FRAME = (*_PLACES, "dispatch", "refuse", "refuse-cluster-ips", "reject-new")
"""Chains that are always there."""


def frame(place: Place) -> Iterator[str]:
    """Commands that make the table, its maps and the chains of :data:`FRAME` as they should be, from whatever is there.

    They change nothing that is there, except that those chains' rules are written anew.
    """
    yield f"add table ip {TABLE}"
    for declaration in MAPS.values():
        kind, name, body = declaration.split(" ", 2)
        yield f"add {kind} ip {TABLE} {name} {body}"
    for name in FRAME:
        hook = "{{ type {} hook {} priority {}; policy accept; }}".format(*_PLACES[name]) if name in _PLACES else ""
        yield f"add chain ip {TABLE} {name} {hook}".rstrip()
        yield f"flush chain ip {TABLE} {name}"
    for name, rules in _frame_rules(place).items():
        for rule in rules:
            yield f"add rule ip {TABLE} {name} {rule}"


def _frame_rules(place: Place) -> dict[str, list[str]]:
    firewalled = f"ct state new ip daddr . meta l4proto . th dport vmap @{FIREWALLED}"
    refused_node_ports = f"meta l4proto . th dport vmap @{REFUSED_NODE_PORTS}"
    outsiders = []
    if place.networks:
        outsiders = [f"ip daddr @{CLUSTER_IPS} ip saddr != {_one_of(place.networks)} {_MARK}"]
    nobodys = [] if place.service_cidr is None else [f"ip daddr {place.service_cidr} fib daddr type != local drop"]
    neighbours = [
        f"{translated} ip saddr {each} ip daddr {each} {_MASQUERADE}"
        for each in place.bridged
        for translated in ("ct status dnat", f"ct original ip daddr != {each}")  # the latter by IPVS
    ]
    return {
        "filter-prerouting": [firewalled],
        "filter-output": [firewalled],
        "nat-prerouting": ["jump dispatch"],
        "nat-output": ["jump dispatch"],
        "dispatch": [
            *outsiders,
            f"ip daddr . meta l4proto . th dport vmap @{SERVICES}",
            f"{_NODE_PORT} meta l4proto . th dport vmap @{NODE_PORTS}",
            f"ip daddr @{CLUSTER_IPS} {_UNCHANGED}",
        ],
        "filter-input": [f"{_UNMET} jump refuse", f"{_UNMET} {_NODE_PORT} {refused_node_ports}"],
        "filter-forward": [f"{_UNMET} jump refuse", f"{_UNMET} jump refuse-cluster-ips"],
        "filter-output-after-nat": [f"{_UNMET} jump refuse", f"{_UNMET} jump refuse-cluster-ips"],
        "filter-input-after-ipvs": ["ct state new jump refuse-cluster-ips"],
        "refuse": [f"ip daddr . meta l4proto . th dport vmap @{REFUSED}"],
        "refuse-cluster-ips": [f"ip daddr @{CLUSTER_IPS} goto reject-new", *nobodys],
        "reject-new": ["meta l4proto tcp reject with tcp reset", "reject"],
        "nat-postrouting": [
            f"ip saddr . ip daddr @{HAIRPINS} {_MASQUERADE}",
            # A process of this node that asks at a local address has that very address for its own.
            f"ip saddr @{CLUSTER_IPS} {_MASQUERADE}",
            *neighbours,
            f"meta mark & {MASQUERADED_MARK:#x} == 0 return",
            # What is encapsulated on its way out carries the mark along: it must not be masqueraded a second time.
            f"meta mark set meta mark ^ {MASQUERADED_MARK:#x}",
            _MASQUERADE,
        ],
    }


_UNMET = "ct state new ct status & dnat == 0"
"""New, and given no backend."""

_MASQUERADE = "masquerade fully-random"
