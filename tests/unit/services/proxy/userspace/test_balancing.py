"""Which endpoint is tried first, and which next; and that nftables is led to ports where there were endpoints."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from overlay.services.proxy.userspace.messages import Endpoint
from overlay.services.proxy.userspace.mode import address_of, wanted_in
from overlay.services.proxy.userspace.worker import balancing
from overlay.services.proxy.userspace.worker.balancing import Balancer
from overlay.services.table import Backend, Entry, Frontend, Kind, Place, PortName, Table

A, B, C = endpoints = (("10.0.1.2", 80), ("10.0.1.3", 80), ("10.0.1.4", 80))


def balancer(*of: Endpoint, affinity: int = 0, seed: int = 1) -> Balancer:
    made = Balancer(random.Random(seed))
    made.change(of, affinity)
    return made


def test_each_has_its_turn_and_the_others_follow_it() -> None:
    made = balancer(*endpoints)
    orders = [made.order("x", 0.0) for _ in range(6)]
    assert orders[:3] == orders[3:]
    assert {order[0] for order in orders[:3]} == set(endpoints)
    assert all(sorted(order) == sorted(endpoints) for order in orders)


def test_nodes_do_not_all_begin_with_the_same() -> None:
    assert len({balancer(*endpoints, seed=seed).order("x", 0.0)[0] for seed in range(40)}) == 3


def test_there_may_be_none() -> None:
    assert balancer().order("x", 0.0) == []


def test_a_client_keeps_its_own_until_it_was_away_too_long() -> None:
    made = balancer(*endpoints, affinity=30)
    own = made.order("x", 0.0)[0]
    made.taken("x", own, 0.0)
    for now in (29.0, 58.0, 87.0):
        assert made.order("x", now)[0] == own
        made.taken("x", own, now)
    assert {made.order("x", 120.0)[0] for _ in range(3)} == set(endpoints)


def test_who_comes_between_has_its_turn_all_the_same() -> None:
    made = balancer(A, B, affinity=30)
    made.taken("x", A, 0.0)
    assert len({made.order(client, 0.0)[0] for client in ("y", "z")}) == 2
    turns = []
    for number in range(4):
        made.order("x", 0.0)
        turns.append(made.order(str(number), 0.0)[0])
    assert turns in ([A, B, A, B], [B, A, B, A])


def test_an_endpoint_that_is_gone_is_nobodys() -> None:
    made = balancer(*endpoints, affinity=30)
    made.taken("x", A, 0.0)
    made.change((B,), 30)
    assert made.order("x", 0.0) == [B]
    made.change((A, B), 30)
    made.taken("x", B, 0.0)
    assert made.order("x", 0.0) == [B, A]


def test_so_many_clients_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancing, "MOST_CLIENTS", 3)
    made = balancer(*endpoints, affinity=30)
    for client in "vwxyz":
        made.taken(client, A, 0.0)
    kept = [client for client in "vwxyz" if {made.order(client, 0.0)[0] for _ in range(4)} == {A}]
    assert kept == ["x", "y", "z"]


def test_the_workers_address_is_one_of_the_overlay() -> None:
    networks = (IPv4Network("10.0.0.0/16"),)
    assert address_of(Place("n", networks, frozenset({"172.31.0.1", "10.0.1.1"}))) == "10.0.1.1"
    assert address_of(Place("n", (), frozenset({"172.31.0.9", "172.31.0.10"}))) == "172.31.0.9"
    assert address_of(Place("n", networks)) is None


def test_there_is_a_port_for_each_set_of_endpoints_that_is_asked_for() -> None:
    name, sctp = PortName("d", "web", "", "TCP"), PortName("d", "sig", "", "SCTP")
    frontends = (Frontend(Kind.CLUSTER_IP, "10.96.0.1", 80),)
    both = (Backend("10.0.1.2", 80, True), Backend("10.0.2.2", 80, False))
    entry = Entry(name, frontends, both, both[:1], affinity_seconds=9)

    def wanted(entry: Entry) -> dict[bool, tuple[Endpoint, ...]]:
        found = wanted_in(Table(Place("n"), {name: entry, sctp: Entry(sctp, frontends, both, both)}))
        assert {each.affinity for each in found.values()} <= {9}
        return {key[1]: each.endpoints for key, each in found.items() if isinstance(key, tuple)}

    every, local = (("10.0.1.2", 80), ("10.0.2.2", 80)), (("10.0.1.2", 80),)
    assert wanted(entry) == {False: every}
    for limited in (replace(entry, internal_local=True), replace(entry, external_local=True)):
        assert wanted(limited) == {False: every, True: local}
        assert wanted(replace(limited, local=())) == {False: every}
    assert wanted(Entry(name, frontends)) == {}
