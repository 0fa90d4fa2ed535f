"""Who may ask, and how much."""

from __future__ import annotations

import socket
from ipaddress import IPv4Network

from overlay.services.dns.worker.clients import MOST, UNBOUNDED, Clients

POD, OTHER, STRANGER = map(socket.inet_aton, ("10.0.5.2", "10.0.5.3", "192.0.2.66"))


def clients(rate: int) -> Clients:
    made = Clients()
    made.admit([IPv4Network("10.0.5.0/24"), IPv4Network("192.0.2.1/32")], rate)
    return made


def test_only_those_of_this_node() -> None:
    asked = clients(0)
    assert asked.allowance(POD, 1.0) == UNBOUNDED
    assert asked.allowance(socket.inet_aton("192.0.2.1"), 1.0) == UNBOUNDED
    assert asked.allowance(STRANGER, 1.0) == -1
    asked.admit([IPv4Network("0.0.0.0/0")], 0)
    assert asked.allowance(STRANGER, 1.0) == UNBOUNDED


def test_each_has_a_bound_of_its_own() -> None:
    asked = clients(100)
    assert asked.allowance(POD, 1.0) == 100
    asked.spend(POD, 100)
    assert asked.allowance(POD, 1.0) == 0
    assert asked.allowance(OTHER, 1.0) == 100
    assert asked.allowance(POD, 1.5) == 50
    assert asked.allowance(POD, 60.0) == 100


def test_no_more_are_remembered_than_there_can_be() -> None:
    asked = clients(10)
    for number in range(2 * MOST):
        asked.allowance(number.to_bytes(4, "big"), 1.0)
    assert len(asked._known) == MOST
