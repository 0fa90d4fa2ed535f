"""The userspace datapath's decision against the plain oracle."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from overlay.datapath.userspace.counters import COUNTER_NAMES
from overlay.datapath.userspace.worker.admission import Verdict, admit
from overlay.datapath.userspace.worker.routes import Routes
from tests.support.admission import OWN, PEERS, VECTORS, Outcome, Vector, mutations, oracle


def make_routes() -> Routes:
    routes = Routes()
    routes.own(int(OWN.network_address), OWN.prefixlen)
    for peer in PEERS.peers.values():
        routes.add(int(peer.subnet.network_address), peer.subnet.prefixlen, int(peer.public_ip))
    return routes


ROUTES = make_routes()


def outcome(outer_source: IPv4Address, datagram: bytes, slack: bytes = b"") -> Outcome:
    match admit(datagram + slack, len(datagram), str(outer_source), ROUTES):
        case Verdict.ADMIT:
            return Outcome.ENTERS
        case Verdict.EXPIRED:
            return Outcome.EXPIRES
        case _:
            return Outcome.REFUSED


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_vectors(vector: Vector) -> None:
    assert oracle(vector.outer_source, vector.datagram, OWN, PEERS) is vector.outcome
    assert outcome(vector.outer_source, vector.datagram) is vector.outcome


def test_what_is_left_in_the_buffer_does_not_count() -> None:
    for vector in VECTORS:
        assert outcome(vector.outer_source, vector.datagram, slack=bytes(range(64))) is vector.outcome


def test_mutations() -> None:
    seen = dict.fromkeys(Outcome, 0)
    for outer_source, datagram in mutations(seed=1, count=20_000):
        expected = oracle(outer_source, datagram, OWN, PEERS)
        assert outcome(outer_source, datagram) is expected, (outer_source, datagram.hex())
        seen[expected] += 1
    assert min(seen.values()) > 100, "the mutations reach every outcome"


def test_every_refusal_has_its_counter() -> None:
    assert {verdict.value for verdict in Verdict if verdict is not Verdict.ADMIT} <= set(COUNTER_NAMES)
