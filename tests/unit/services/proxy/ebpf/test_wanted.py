"""What sockets meet is what the table says that a connection from this node meets."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network

import pytest

from overlay.services.meeting import meets
from overlay.services.proxy.ebpf.book import Pool
from overlay.services.proxy.ebpf.layout import Address, Virtual
from overlay.services.proxy.ebpf.wanted import changes_in, wanted_in
from overlay.services.table import Answer, Backend, Entry, Frontend, Kind, Place, PortName, Table

OWN = ("172.31.0.1", "10.0.1.1")
CLUSTER_IPS = [f"10.96.0.{number}" for number in range(1, 5)]
OTHERS = ["203.0.113.1", "203.0.113.2", OWN[0]]
PORTS, NODE_PORTS = (80, 30080), (30080, 30081)
PROTOCOLS = ("TCP", "UDP", "SCTP")
SOURCES = (IPv4Address("10.0.1.9"), IPv4Address(OWN[0]))
"""A pod of this node, and the node."""


def place(chance: random.Random) -> Place:
    return Place("one", (IPv4Network("10.0.0.0/16"),), frozenset(OWN[: chance.choice((1, 2, 2, 2))]))


def random_table(chance: random.Random) -> Table:
    """Every frontend is one entry's, as in every table."""
    frontends = [Frontend(Kind.CLUSTER_IP, address, port) for address in CLUSTER_IPS for port in PORTS]
    frontends += [Frontend(chance.choice((Kind.EXTERNAL_IP, Kind.LOAD_BALANCER)), address, port)
                  for address in OTHERS for port in PORTS]  # fmt: skip
    frontends += [Frontend(Kind.NODE_PORT, "", port) for port in NODE_PORTS]
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
                chance.choice(((), (IPv4Network("192.0.2.0/24"),))),
            )  # fmt: skip
    return Table(place(chance), entries)


@pytest.mark.parametrize("seed", range(150))
def test_what_is_at_the_socket_is_what_a_connection_meets(seed: int) -> None:
    table = random_table(random.Random(seed))
    wanted = wanted_in(table)
    for address in (*CLUSTER_IPS, *OTHERS, *OWN):
        for port in {*PORTS, *NODE_PORTS}:
            for protocol in PROTOCOLS:
                for source in SOURCES:
                    meeting = meets(table, source, IPv4Address(address), port, protocol)
                    pool = wanted.get(Virtual(Address(IPv4Address(address), port), protocol))
                    if pool is None:
                        limited = meeting.entry is not None and bool(meeting.entry.source_ranges)
                        assert meeting.answer is not Answer.BALANCE or protocol == "SCTP" or limited
                        continue
                    met = {(str(each.ip), each.port) for each in pool.backends}
                    assert met == {(each.address, each.port) for each in meeting.backends}
                    assert meeting.entry is not None
                    assert pool.affinity == (meeting.entry.affinity_seconds or 0)


@pytest.mark.parametrize("seed", range(20))
def test_changes_lead_from_one_table_to_the_next(seed: int) -> None:
    chance = random.Random(seed)
    before = random_table(chance)
    held: dict[Virtual, Pool] = dict(wanted_in(before))
    for _ in range(30):
        table = random_table(chance)
        for virtual, pool in changes_in(table, before).items():
            if pool is None:
                held.pop(virtual, None)
            else:
                held[virtual] = pool
        assert held == wanted_in(table)
        before = table


def test_the_same_table_asks_for_no_change() -> None:
    table = random_table(random.Random(5))
    changes = changes_in(table, table)
    assert all(pool == wanted_in(table)[virtual] for virtual, pool in changes.items())
