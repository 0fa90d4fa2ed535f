"""Random tables of Services, for the modes' pure halves to be held against the oracle."""

from __future__ import annotations

import random
from collections.abc import Sequence
from ipaddress import IPv4Network

from overlay.services.table import Backend, Entry, Frontend, Kind, PortName

OWN = ("172.31.0.1", "10.0.1.1")
CLUSTER_IPS = [f"10.96.0.{number}" for number in range(1, 5)]
OTHERS = ["203.0.113.1", "203.0.113.2", OWN[0]]
PROTOCOLS = ("TCP", "UDP", "SCTP")


def random_entries(
    chance: random.Random, ports: Sequence[int], node_ports: Sequence[int], schedulers: Sequence[str] = ("",)
) -> dict[PortName, Entry]:
    """Every frontend is one entry's, as in every table."""
    frontends = [Frontend(Kind.CLUSTER_IP, address, port) for address in CLUSTER_IPS for port in ports]
    frontends += [Frontend(chance.choice((Kind.EXTERNAL_IP, Kind.LOAD_BALANCER)), address, port)
                  for address in OTHERS for port in ports]  # fmt: skip
    frontends += [Frontend(Kind.NODE_PORT, "", port) for port in node_ports]
    entries = {}
    for protocol in PROTOCOLS:
        free = chance.sample(frontends, len(frontends))
        for number in range(chance.randrange(5)):
            name = PortName("default", f"s{number}", "", protocol)
            own = tuple(free.pop() for _ in range(chance.randrange(4)))
            cluster = tuple(Backend(f"10.0.1.{each}", 8080, each < 4) for each in sorted(chance.sample(range(2, 8), 3)))
            cluster = cluster[: chance.randrange(4)]
            entries[name] = Entry(
                name, own, cluster, tuple(each for each in cluster if each.local),
                chance.random() < 0.3, chance.random() < 0.3, chance.choice((None, 30)),
                chance.choice(((), (IPv4Network("192.0.2.0/24"),))), chance.choice(schedulers),
            )  # fmt: skip
    return entries
