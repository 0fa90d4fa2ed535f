"""Operations against a model of IPVS that carries them out: whatever is found, what is wanted comes of it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.linux.ipvs import Real, Server, Service, Virtual
from overlay.services.proxy.ipvs.plan import DeleteServer, DeleteService, Operation, Plan, SetServer, SetService
from overlay.services.proxy.ipvs.wanted import SCHEDULERS, Claim, Pool, claims_of, is_carried, local_addresses
from overlay.services.table import Answer, Backend, Entry, Frontend, Kind, Place, PortName
from tests.support.service_tables import OWN, random_entries

Found = dict[Virtual, Service]

VIRTUALS = [Virtual(protocol, f"10.96.0.{number}", 80) for protocol in ("TCP", "UDP") for number in (1, 2)]
REALS: list[Real] = [(f"10.0.1.{number}", 8080) for number in range(2, 6)]
PLACE = Place("one", (IPv4Network("10.0.0.0/16"),), frozenset(OWN))


def carry_out(found: Found, operation: Operation) -> None:
    """As the kernel does, which refuses what is there already, and what is not there."""
    virtual = operation.virtual
    if isinstance(operation, DeleteService):
        assert found.pop(virtual).ours
        return
    if isinstance(operation, SetService) and operation.new:
        assert virtual not in found
        found[virtual] = Service(operation.scheduler, operation.persistence)
        return
    held = found[virtual]
    assert held.ours
    servers = dict(held.servers)
    if isinstance(operation, SetService):
        held = replace(held, scheduler=operation.scheduler, persistence=operation.persistence)
    elif isinstance(operation, SetServer):
        assert (operation.real not in servers) == operation.new
        servers[operation.real] = replace(servers.get(operation.real, Server()), weight=operation.weight)
    else:
        assert isinstance(operation, DeleteServer)
        del servers[operation.real]
    found[virtual] = replace(held, servers=servers)


def run(plan: Plan, found: Found) -> int:
    operations = list(plan.operations())
    for each in operations:
        carry_out(found, each)
    assert plan.held == {virtual: each for virtual, each in found.items() if each.ours}
    return len(operations)


def is_right(found: Found, wanted: Mapping[Virtual, Pool]) -> None:
    """Each address as wanted, but for what keeps connections, and what is others'."""
    for virtual in VIRTUALS:
        pool, held = wanted.get(virtual), found.get(virtual)
        if held is not None and not held.ours:
            continue
        if pool is None:
            assert held is None
            continue
        chosen = set() if held is None else {real for real, server in held.servers.items() if server.weight}
        assert chosen == pool.servers
        if held is not None:
            assert held.servers, "one that has none does not stand"
            if pool.servers:
                assert (held.scheduler, held.persistence) == (pool.scheduler, pool.persistence)
            if held.servers.keys() - pool.servers - pool.draining:
                assert virtual.protocol != "UDP", "flows go at once"


pools = st.builds(
    lambda scheduler, persistence, servers, draining: Pool(scheduler, persistence, servers, draining - servers),
    st.sampled_from(["rr", "lc"]), st.sampled_from([None, 30]),
    st.frozensets(st.sampled_from(REALS)), st.frozensets(st.sampled_from(REALS)),
)  # fmt: skip
wishes = st.dictionaries(st.sampled_from(VIRTUALS), pools)
servers = st.builds(Server, st.integers(0, 1), st.integers(0, 1))
services = st.builds(
    Service, st.sampled_from(["rr", "lc"]), st.sampled_from([None, 30]), st.booleans(),
    st.dictionaries(st.sampled_from(REALS), servers),
)  # fmt: skip


def name_of(virtual: Virtual) -> PortName:
    return PortName("default", virtual.address, "", virtual.protocol)


@given(st.dictionaries(st.sampled_from(VIRTUALS), services), st.lists(st.tuples(wishes, st.booleans()), min_size=1))
def test_whatever_is_there_what_is_wanted_comes_of_it_and_once_is_enough(
    found: Found, steps: list[tuple[dict[Virtual, Pool], bool]]
) -> None:
    others = {virtual: each for virtual, each in found.items() if not each.ours}
    plan = Plan(found)
    for wanted, restarted in steps:
        if restarted:
            plan = Plan(found)
        for virtual in VIRTUALS:
            plan.want(name_of(virtual), {virtual: Claim(wanted[virtual], False)} if virtual in wanted else {})
        run(plan, found)
        is_right(found, wanted)
        assert plan.others == {virtual for virtual in others if virtual in wanted and wanted[virtual].servers}
        assert run(plan, found) == 0
    assert {virtual: each for virtual, each in found.items() if not each.ours} == others
    # Connections end; then nothing is left of what is not wanted.
    ended = {
        virtual: replace(each, servers={real: replace(server, connections=0) for real, server in each.servers.items()})
        if each.ours else each
        for virtual, each in found.items()
    }  # fmt: skip
    plan.looked(ended)
    run(plan, ended)
    is_right(ended, steps[-1][0])
    assert not plan.leaving
    for virtual, pool in steps[-1][0].items():
        if virtual in ended and virtual not in others:
            assert ended[virtual].servers.keys() <= pool.servers | pool.draining


def test_who_has_connections_waits_for_their_end_and_may_come_back() -> None:
    virtual, (one, two, *_) = VIRTUALS[0], REALS
    found = {virtual: Service("rr", None, True, {one: Server(1, 3), two: Server(1, 0)})}
    plan = Plan(found)
    plan.want(name_of(virtual), {virtual: Claim(Pool("rr", None, frozenset({two})), False)})
    assert list(plan.operations()) == [SetServer(virtual, one, 0, False)]
    assert plan.leaving
    assert list(plan.operations()) == []
    plan.looked({virtual: Service("rr", None, True, {one: Server(0, 1), two: Server(1, 0)})})
    assert list(plan.operations()) == []
    plan.want(name_of(virtual), {virtual: Claim(Pool("rr", None, frozenset({one, two})), False)})
    assert list(plan.operations()) == [SetServer(virtual, one, 1, False)]
    assert not plan.leaving


def test_what_the_kernel_refuses_keeps_nothing_else_and_is_tried_again() -> None:
    """A kernel without SCTP's half of IPVS, for one."""
    one, other = VIRTUALS[:2]
    plan, found = Plan({}), Found()
    for virtual in (one, other):
        plan.want(name_of(virtual), {virtual: Claim(Pool("rr", None, frozenset(REALS[:1])), False)})
    for operation in plan.operations():
        if operation.virtual == one:
            plan.failed(one)
        else:
            carry_out(found, operation)
    assert found.keys() == plan.held.keys() == {other}
    assert plan.unsettled
    plan.looked(found)
    run(plan, found)
    assert found.keys() == {one, other}
    assert not plan.unsettled


def test_an_address_of_a_services_own_goes_before_a_node_port() -> None:
    virtual = Virtual("TCP", OWN[0], 30080)
    own, node_port = (Pool("rr", None, frozenset({real})) for real in REALS[:2])
    for names in (("a", "b"), ("b", "a")):
        plan = Plan({})
        plan.want(PortName("default", names[0], "", "TCP"), {virtual: Claim(node_port, True)})
        plan.want(PortName("default", names[1], "", "TCP"), {virtual: Claim(own, False)})
        found: Found = {}
        run(plan, found)
        assert found[virtual].servers.keys() == own.servers
        plan.want(PortName("default", names[1], "", "TCP"), {})
        run(plan, found)
        assert {real for real, each in found[virtual].servers.items() if each.weight} == node_port.servers


@pytest.mark.parametrize("seed", range(12))
def test_of_random_tables_every_address_has_the_backends_that_its_policy_allows(seed: int) -> None:
    chance = random.Random(seed)
    entries = random_entries(chance, (80, 30080), (30080, 30081), ("", "lc", "random", "nonsense"))
    plan, found = Plan({}), Found()
    for name, entry in entries.items():
        plan.want(name, claims_of(entry, PLACE))
    run(plan, found)
    expected: dict[Virtual, set[Real]] = {}
    for at_node_port in (True, False):  # the latter take the place of the former
        for entry in entries.values():
            for frontend in entry.frontends:
                if (frontend.kind is Kind.NODE_PORT) is at_node_port and is_carried(frontend, PLACE):
                    chosen = entry.backends(frontend.kind) if entry.answer(frontend.kind) is Answer.BALANCE else ()
                    for address in OWN if at_node_port else (frontend.address,):
                        where = Virtual(entry.protocol, address, frontend.port)
                        expected[where] = {(each.address, each.port) for each in chosen}
    assert {where: {*each.servers} for where, each in found.items()} == {
        where: reals for where, reals in expected.items() if reals
    }
    assert {each.scheduler for each in found.values()} <= {"rr", "lc"}


def test_what_may_be_somebody_elses_is_never_made_local() -> None:
    """An external address that is another node's would cut it off; so would a ClusterIP where there is something."""
    name = PortName("default", "web", "", "TCP")
    inside, outside = Frontend(Kind.CLUSTER_IP, "10.96.0.1", 80), Frontend(Kind.CLUSTER_IP, "172.31.0.9", 80)
    external = Frontend(Kind.EXTERNAL_IP, "172.31.0.2", 80)
    entry = Entry(name, (inside, outside, external), (Backend("10.0.1.2", 8080, True),))
    assert local_addresses(entry, PLACE) == {"10.96.0.1"}
    assert {each.address for each in claims_of(entry, PLACE)} == {"10.96.0.1"}
    nowhere = replace(PLACE, service_cidr=None)
    assert local_addresses(entry, nowhere) == frozenset()
    assert claims_of(entry, nowhere) == {}


def test_a_scheduler_that_the_kernel_does_not_have_is_none() -> None:
    name = PortName("default", "web", "", "TCP")
    entry = Entry(name, (Frontend(Kind.CLUSTER_IP, "10.96.0.1", 80),), scheduler="lc")
    for has, expected in (({*SCHEDULERS}, "lc"), ({"rr"}, "rr")):
        (claim,) = claims_of(entry, PLACE, schedulers=has).values()
        assert claim.pool.scheduler == expected
