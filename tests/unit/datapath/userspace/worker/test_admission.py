"""The userspace datapath's decision against the plain oracle."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from overlay.datapath.userspace.counters import COUNTER_NAMES
from overlay.datapath.userspace.messages import PeerChange, Peers, encode
from overlay.datapath.userspace.worker.admission import Verdict, admit
from overlay.datapath.userspace.worker.routes import Routes
from tests.support.admission import OWN, PEERS, VECTORS, Outcome, Vector, ipv4, mutations, oracle
from tests.support.workers import bench


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


STRANGER = Peers([PeerChange(True, 0x0A000200, 24, 0)])
"""Our only peer is none any more."""


@pytest.mark.parametrize(
    ("verdict", "datagram", "before"),
    [
        (Verdict.OUTER_SOURCE, ipv4(), STRANGER),
        (Verdict.MALFORMED, ipv4()[:10], None),
        (Verdict.MALFORMED, b"", None),
        (Verdict.CHECKSUM, ipv4(checksum=1), None),
        (Verdict.INNER_SOURCE, ipv4("10.0.3.1"), None),
        (Verdict.INNER_DESTINATION, ipv4(destination="10.0.9.9"), None),
        (Verdict.EXPIRED, ipv4(ttl=1), None),
    ],
)
def test_each_refusal_counts_as_what_it_is_and_as_nothing_else(
    verdict: Verdict, datagram: bytes, before: Peers | None
) -> None:
    with bench("plain") as here:
        if before is not None:
            here.tell(encode(before))
        assert here.from_peer(datagram, datagram) == []
        counted = {name: here.count(name) for name in COUNTER_NAMES if name.startswith("drop_")}
    assert {name: number for name, number in counted.items() if number} == {verdict.value: 2}
