"""Peers that left stay for a moment, unless their subnet is somebody's."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from overlay.control.peers.linger import LINGER_SECONDS, Lingering
from overlay.model import Peer, PeerTable

OWN = IPv4Network("10.0.1.0/24")
A = Peer(IPv4Network("10.0.2.0/24"), IPv4Address("192.0.2.2"))
B = Peer(IPv4Network("10.0.3.0/24"), IPv4Address("192.0.2.3"))


def table(*peers: Peer, own: IPv4Network = OWN) -> PeerTable:
    return PeerTable.of(own, peers)


def test_without_departures_nothing_is_copied() -> None:
    lingering = Lingering()
    first, second = table(A), table(A, B)
    assert lingering.update(first, 0.0) is first
    assert lingering.update(second, 1.0) is second
    assert lingering.due is None


def test_a_peer_that_left_stays_for_its_time_and_no_longer() -> None:
    lingering = Lingering()
    lingering.update(table(A, B), 0.0)
    gone = table(B)
    assert lingering.update(gone, 10.0).lookup(A.subnet.network_address + 5) == A
    assert lingering.due == 10.0 + LINGER_SECONDS
    assert lingering.update(gone, 10.0 + LINGER_SECONDS - 0.1).lookup(A.subnet.network_address) == A
    assert lingering.update(gone, 10.0 + LINGER_SECONDS) is gone


def test_a_peer_that_is_back_is_as_the_store_has_it() -> None:
    lingering = Lingering()
    lingering.update(table(A), 0.0)
    lingering.update(table(), 1.0)
    moved = table(Peer(A.subnet, IPv4Address("192.0.2.9")))
    assert lingering.update(moved, 1.5) is moved
    assert lingering.due is None


def test_a_subnet_that_anybody_leases_is_given_up_at_once() -> None:
    lingering = Lingering()
    lingering.update(table(A, B), 0.0)
    inside = table(Peer(IPv4Network("10.0.2.128/25"), IPv4Address("192.0.2.9")))
    kept = lingering.update(inside, 1.0)
    assert kept.lookup(IPv4Address("10.0.2.1")) is None
    assert kept.lookup(IPv4Address("10.0.3.1")) == B
    ours = table(own=B.subnet)
    assert lingering.update(ours, 1.5) is ours or lingering.update(ours, 1.5).lookup(IPv4Address("10.0.3.1")) is None
