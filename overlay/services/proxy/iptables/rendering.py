"""A table as chains of iptables. Pure.

The way of a new connection (kubernetes ``pkg/proxy/iptables/proxier.go`` has the same, by the names of KUBE-…)::

    nat  PREROUTING, OUTPUT ──▶ OVERLAY-SERVICES   a rule an address
              ├── ClusterIP ──────────────▶ OVERLAY-SVC-… or OVERLAY-SVL-…   one of all, or of the local backends
              ├── any other ▶ OVERLAY-EXT-… ──▶ either     masquerade, or who is inside the cluster
              └── with source ranges ▶ OVERLAY-FW-… ──▶ OVERLAY-EXT-…
                                                              └──▶ OVERLAY-SEP-…   remembers the client; mark; DNAT
    filter  INPUT, FORWARD, OUTPUT ──▶ OVERLAY-REFUSED     what no rule above has given a backend
    nat  POSTROUTING ──▶ OVERLAY-MASQUERADE                what is marked

Only a connection's first packet passes nat; filter's is asked for new connections alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import chain
from types import MappingProxyType
from typing import TypeAlias

from overlay.model import MASQUERADED_MARK, TRANSLATED_MARK
from overlay.services.table import Answer, Backend, Entry, Frontend, Kind, Place, PortName, Table

Chains: TypeAlias = Mapping[str, tuple[str, ...]]
"""Rules by chain, as ``iptables-restore`` has them behind ``-A CHAIN``."""

PREFIX = "OVERLAY-"
SERVICES, MASQUERADE, OUTSIDE, MARK = (f"{PREFIX}{name}" for name in ("SERVICES", "MASQUERADE", "OUTSIDE", "MARK"))
REFUSED = f"{PREFIX}REFUSED"

JUMPS = MappingProxyType(
    {
        ("nat", "PREROUTING"): f"-j {SERVICES}",
        ("nat", "OUTPUT"): f"-j {SERVICES}",
        ("nat", "POSTROUTING"): f"-j {MASQUERADE}",
        **{("filter", base): f"-m conntrack --ctstate NEW -j {REFUSED}" for base in ("INPUT", "FORWARD", "OUTPUT")},
    }
)
"""From the kernel's chains to ours, the first rule of each: Docker's node ports come behind."""

SCHEDULERS = ("random", "rr")

_MARK = f"{MASQUERADED_MARK:#x}/{MASQUERADED_MARK:#x}"
"""Of packets that are to be masqueraded, until they are."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one entry needs.

    Attributes:
        chains: of its own, in nat.
        services, node_ports: rules of :data:`SERVICES`, at addresses and at all of the node's own.
        refused, refused_node_ports: rules of :data:`REFUSED`, likewise.
    """

    chains: Chains = field(default_factory=dict)
    services: tuple[str, ...] = ()
    node_ports: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    refused_node_ports: tuple[str, ...] = ()


def render(entry: Entry, place: Place, scheduler: str = "") -> Piece:
    """One entry's.

    Args:
        scheduler: of entries that ask for none; empty: random.
    """
    made = _Chains(entry, place, entry.scheduler or scheduler)
    services: dict[bool, list[str]] = {False: [], True: []}
    refused: dict[bool, list[str]] = {False: [], True: []}
    for frontend in entry.frontends:
        at_node_port, answer = frontend.kind is Kind.NODE_PORT, entry.answer(frontend.kind)
        for match in _matches(entry, frontend, place):
            if answer is Answer.BALANCE or (frontend.kind.external and entry.cluster):
                services[at_node_port].append(f"{match} -j {made.target(frontend)}")
            if frontend.address in place.addresses:  # where it is given no backend, it is no node port either
                services[at_node_port].append(f"{match} -j RETURN")
            if answer is not Answer.BALANCE:
                verdict = _reject(entry.protocol) if answer is Answer.REJECT else "DROP"
                sources = entry.source_ranges if _is_limited(entry, frontend) else ()
                refused[at_node_port] += [f"-s {each} {match} -j {verdict}" for each in sources]
                refused[at_node_port] += [] if sources else [f"{match} -j {verdict}"]
            if _is_limited(entry, frontend):
                refused[at_node_port].append(f"{match} -j DROP")
    return Piece(made.chains, *map(tuple, (*services.values(), *refused.values())))


def common(table: Table, pieces: Mapping[PortName, Piece]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The chains that all entries share: those of nat, and the rules of :data:`REFUSED`.

    An address of its own goes before a node port, as everywhere.
    """
    place, every = table.place, pieces.values()
    services = [*(each.services for each in every), *(each.node_ports for each in every)]
    refused = [*(each.refused for each in every), *(each.refused_node_ports for each in every)]
    outside = [*(f"-s {network} -j RETURN" for network in place.networks), f"-j {MARK}"] if place.networks else []
    nat = {
        SERVICES: tuple(chain.from_iterable(services)),
        OUTSIDE: tuple(outside),
        MARK: (f"-j MARK --set-xmark {_MARK}",),
        MASQUERADE: (
            f"-m mark ! --mark {_MARK} -j RETURN",
            f"-j MARK --set-xmark {MASQUERADED_MARK:#x}/0x0",  # is cleared
            "-j MASQUERADE --random-fully",
        ),
    }
    return nat, (*chain.from_iterable(refused), *_unknown(table))


def _reject(protocol: str) -> str:
    """ICMP errors are limited to one a second a client; who tries again would hang."""
    return "REJECT --reject-with tcp-reset" if protocol == "TCP" else "REJECT"


def _unknown(table: Table) -> Iterator[str]:
    """At a ClusterIP only its ports answer; an address that could be one and is none answers nobody."""
    addresses = {each.address: None for entry in table.entries.values() for each in entry.frontends
                 if each.kind is Kind.CLUSTER_IP}  # fmt: skip
    for address in addresses:
        yield f"-d {address}/32 -p tcp -j {_reject('TCP')}"
        yield f"-d {address}/32 -j {_reject('')}"
    if table.place.service_cidr is not None:
        yield f"-d {table.place.service_cidr} -j DROP"


class _Chains:
    """The chains of one entry, made when they are asked for."""

    def __init__(self, entry: Entry, place: Place, scheduler: str) -> None:
        self._entry, self._place, self._scheduler = entry, place, scheduler
        self.chains: dict[str, tuple[str, ...]] = {}

    def target(self, frontend: Frontend) -> str:
        """Where what comes to an address goes on."""
        if not frontend.kind.external:
            return self._pool(self._entry.internal_local)
        return self._limited() if _is_limited(self._entry, frontend) else self._external()

    def _pool(self, local: bool) -> str:
        name = self._name("SVL" if local else "SVC")
        if name not in self.chains:
            backends = self._entry.local if local else self._entry.cluster
            inside = [f"{match} -j {OUTSIDE}" for each in self._entry.frontends if each.kind is Kind.CLUSTER_IP
                      and self._entry.internal_local == local
                      for match in _matches(self._entry, each, self._place)]  # fmt: skip
            targets = [self._endpoint(each) for each in backends]
            self.chains[name] = (*inside, *self._remembered(backends, targets), *self._choice(targets))
        return name

    def _remembered(self, backends: Sequence[Backend], targets: Sequence[str]) -> Iterator[str]:
        seconds = self._entry.affinity_seconds
        if seconds is not None:
            for target in targets:
                yield f"-m recent --rcheck --seconds {seconds} --reap --name {target} --rsource -j {target}"

    def _choice(self, targets: Sequence[str]) -> Iterator[str]:
        for number, target in enumerate(targets):
            left = len(targets) - number
            if left == 1:
                yield f"-j {target}"
            elif self._scheduler == "rr":
                yield f"-m statistic --mode nth --every {left} --packet 0 -j {target}"
            else:
                yield f"-m statistic --mode random --probability {1 / left:.11f} -j {target}"

    def _endpoint(self, backend: Backend) -> str:
        name = self._name("SEP", str(backend))
        protocol = self._entry.protocol.lower()
        remember = [f"-m recent --set --name {name} --rsource"] if self._entry.affinity_seconds is not None else []
        self.chains[name] = (
            *(f"-s {source} -j {MARK}" for source in self._unseen(backend)),
            *remember,
            f"-j CONNMARK --set-xmark {TRANSLATED_MARK:#x}/{TRANSLATED_MARK:#x}",
            f"-p {protocol} -j DNAT --to-destination {backend.address}:{backend.port}",
        )
        return name

    def _unseen(self, backend: Backend) -> Iterator[str]:
        """Whom a backend would answer directly, if it saw the address: itself, and neighbours on a bridge."""
        yield f"{backend.address}/32"
        yield from (str(each) for each in self._place.bridged if ip_address(backend.address) in each)

    def _external(self) -> str:
        name = self._name("EXT")
        if name not in self.chains:
            self.chains[name] = tuple(self._external_rules())
        return name

    def _external_rules(self) -> Iterator[str]:
        entry = self._entry
        if not entry.external_local:
            yield f"-j {MARK}"
            yield f"-j {self._pool(False)}"
            return
        for network in self._place.networks:
            yield f"-s {network} -j {self._pool(False)}"
        yield f"-m addrtype --src-type LOCAL -j {MARK}"
        yield f"-m addrtype --src-type LOCAL -j {self._pool(False)}"
        if entry.local:
            yield f"-j {self._pool(True)}"

    def _limited(self) -> str:
        name = self._name("FW")
        self.chains[name] = tuple(f"-s {each} -j {self._external()}" for each in self._entry.source_ranges)
        return name

    def _name(self, kind: str, more: str = "") -> str:
        """A chain's name has 28 characters at most (``XT_EXTENSION_MAXNAMELEN``)."""
        text = f"{self._entry.name!r} {more}"
        return f"{PREFIX}{kind}-{base64.b32encode(hashlib.sha256(text.encode()).digest())[:16].decode()}"


def _is_limited(entry: Entry, frontend: Frontend) -> bool:
    return frontend.kind is Kind.LOAD_BALANCER and bool(entry.source_ranges)


def _matches(entry: Entry, frontend: Frontend, place: Place) -> list[str]:
    addresses = sorted(place.addresses) if frontend.kind is Kind.NODE_PORT else [frontend.address]
    protocol = entry.protocol.lower()
    return [f"-d {each}/32 -p {protocol} -m {protocol} --dport {frontend.port}" for each in addresses]
