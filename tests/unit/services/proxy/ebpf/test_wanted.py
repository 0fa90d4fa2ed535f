"""What sockets meet is what the table says that a connection from this node meets."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network

import pytest

from overlay.services.meeting import meets
from overlay.services.proxy.ebpf.book import Pool
from overlay.services.proxy.ebpf.layout import Address, Virtual
from overlay.services.proxy.ebpf.wanted import changes_in, wanted_in
from overlay.services.table import Answer, Place, Table
from tests.support.service_tables import CLUSTER_IPS, OTHERS, OWN, PROTOCOLS, random_entries

PORTS, NODE_PORTS = (80, 30080), (30080, 30081)
SOURCES = (IPv4Address("10.0.1.9"), IPv4Address(OWN[0]))
"""A pod of this node, and the node."""


def place(chance: random.Random) -> Place:
    return Place("one", (IPv4Network("10.0.0.0/16"),), frozenset(OWN[: chance.choice((1, 2, 2, 2))]))


def random_table(chance: random.Random) -> Table:
    return Table(place(chance), random_entries(chance, PORTS, NODE_PORTS))


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
