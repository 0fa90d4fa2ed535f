"""Allocation in flannel's order, and whose lease is whose."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Network
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.control.leases.allocator import RANDOM_WINDOW, Claim, Identity, Memory, Source, allocate
from overlay.control.leases.view import LeaseView
from overlay.control.schema.config import parse_config
from overlay.control.schema.keys import format_lease_key
from overlay.errors import OutOfSubnetsError
from overlay.model import Advertisement, NetworkConfig
from overlay.store.contract import KeyValue, Snapshot
from tests.support.limits import limit

DIRECTORY = "/coreos.com/network/subnets/"
ME = Identity("me", IPv4Address("172.31.0.1"))
UDP = Advertisement("udp")
CONFIG = parse_config(b'{"Network":"10.0.0.0/16"}')


def lease(subnet: str, ip: str, node: str | None = None, *, revision: int = 5, lease_id: int = 77) -> KeyValue:
    value = f'{{"PublicIP":"{ip}","PublicIPv6":null' + (f',"NodeID":"{node}"' if node else "") + "}"
    return KeyValue(DIRECTORY + format_lease_key(IPv4Network(subnet)), value.encode(), revision, lease_id)


def claim(*items: KeyValue, memory: Memory | None = None, config: NetworkConfig = CONFIG, seed: int = 1) -> Claim:
    view = LeaseView(DIRECTORY)
    view.load(Snapshot(100, items), 0.0)
    return allocate(view, config, ME, memory or Memory(), Random(seed), advertisement=UDP)


def remembered(*subnets: str, lease_id: int = 0) -> Memory:
    return Memory(tuple(IPv4Network(subnet) for subnet in subnets), (), lease_id)


def test_a_random_one_of_the_first_hundred_free() -> None:
    chosen = {claim(lease("10.0.1.0/24", "172.31.0.9", "x"), seed=seed).lease.subnet for seed in range(400)}
    expected = {IPv4Network(f"10.0.{n}.0/24") for n in range(2, 2 + RANDOM_WINDOW)}
    assert chosen <= expected
    assert len(chosen) > 0.9 * RANDOM_WINDOW


def test_a_new_claim_publishes_our_id() -> None:
    made = claim()
    assert made.record is None
    assert made.key == DIRECTORY + format_lease_key(made.lease.subnet)
    assert (made.lease.public_ip, made.lease.node_id, made.reserved) == (ME.public_ip, "me", False)


def test_our_own_lease_comes_first() -> None:
    made = claim(lease("10.0.9.0/24", "172.31.0.1", "me", revision=8), memory=remembered("10.0.3.0/24"))
    assert (str(made.lease.subnet), made.source) == ("10.0.9.0/24", Source.OWN)
    assert made.record is not None
    assert made.record.mod_revision == 8


def test_a_flannelds_lease_of_our_address_is_taken_over() -> None:
    made = claim(lease("10.0.9.0/24", "172.31.0.1"))
    assert (str(made.lease.subnet), made.source, made.lease.node_id) == ("10.0.9.0/24", Source.OWN, "me")


def test_our_own_lease_over_which_anothers_lies_is_given_up() -> None:
    made = claim(lease("10.0.9.0/24", "172.31.0.1", "me"), lease("10.0.8.0/23", "172.31.0.9", "other"))
    assert made.source is Source.RANDOM
    assert [str(stale.lease.subnet) for stale in made.stale] == ["10.0.9.0/24"]


def test_the_remembered_subnet_comes_second() -> None:
    made = claim(memory=remembered("10.0.30.0/24", "10.0.3.0/24"))
    assert (str(made.lease.subnet), made.source) == ("10.0.30.0/24", Source.REMEMBERED)


def test_an_older_remembered_subnet_if_the_newest_is_taken() -> None:
    made = claim(lease("10.0.30.0/24", "172.31.0.9"), memory=remembered("10.0.30.0/24", "10.0.3.0/24"))
    assert str(made.lease.subnet) == "10.0.3.0/24"


@pytest.mark.parametrize("subnet", ["10.0.0.0/24", "10.1.3.0/24", "10.0.3.0/25"])
def test_a_remembered_subnet_that_does_not_fit_is_passed_over(subnet: str) -> None:
    assert claim(memory=remembered(subnet)).source is Source.RANDOM


def test_a_reservation_comes_before_a_lease_and_stays_permanent() -> None:
    made = claim(
        lease("10.0.9.0/24", "172.31.0.1", "me"),
        lease("10.0.200.0/24", "172.31.0.1", revision=3, lease_id=0),
        memory=remembered("10.0.9.0/24"),
    )
    assert str(made.lease.subnet) == "10.0.200.0/24"
    assert made.reserved
    assert [str(stale.lease.subnet) for stale in made.stale] == ["10.0.9.0/24"]


def test_another_nodes_lease_is_never_taken_even_with_our_address() -> None:
    """flannel 1810: two nodes behind one address got the same lease."""
    made = claim(lease("10.0.9.0/24", "172.31.0.1", "other"), memory=remembered("10.0.9.0/24", lease_id=77))
    assert made.lease.subnet != IPv4Network("10.0.9.0/24")
    assert not made.stale


def test_our_id_with_another_address_is_ours_if_we_remember_it() -> None:
    """flannel 408, 1052, 760: a changed public address."""
    made = claim(lease("10.0.9.0/24", "172.31.0.7", "me"), memory=remembered("10.0.9.0/24"))
    assert (str(made.lease.subnet), made.lease.public_ip) == ("10.0.9.0/24", ME.public_ip)
    assert str(claim(lease("10.0.9.0/24", "172.31.0.7", "me"), memory=Memory((), (), 77)).lease.subnet) == "10.0.9.0/24"


def test_our_id_with_another_address_is_another_machines_if_we_do_not() -> None:
    made = claim(lease("10.0.9.0/24", "172.31.0.7", "me"))
    assert made.lease.subnet != IPv4Network("10.0.9.0/24")
    assert not made.stale


def test_own_leases_outside_the_config_go_when_a_new_one_is_claimed() -> None:
    made = claim(lease("10.9.9.0/24", "172.31.0.1", "me"), lease("10.9.8.0/24", "172.31.0.1"))
    assert {str(stale.lease.subnet) for stale in made.stale} == {"10.9.9.0/24", "10.9.8.0/24"}
    assert made.source is Source.RANDOM


def test_a_reservation_outside_the_config_is_left_alone() -> None:
    made = claim(lease("10.9.9.0/24", "172.31.0.1", lease_id=0))
    assert made.source is Source.RANDOM
    assert not made.stale


def test_backend_data_is_compared_by_value() -> None:
    key = DIRECTORY + "10.0.9.0-24"
    vxlan = b'{"PublicIP":"172.31.0.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1}}'
    assert claim(KeyValue(key, vxlan, 5, 1)).key == key


def test_out_of_subnets_says_what_to_do() -> None:
    small = parse_config(b'{"Network":"10.0.0.0/22"}')
    items = [lease(f"10.0.{n}.0/24", f"172.31.0.{n + 10}") for n in range(4)]
    with pytest.raises(OutOfSubnetsError, match=r"all 3 subnets .* are leased; free one"):
        claim(*items, config=small)


def test_both_families_are_claimed_together() -> None:
    both = parse_config(b'{"Network":"10.0.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/56"}')
    made = claim(config=both)
    assert made.lease.ipv6_subnet is not None
    assert made.key.endswith(format_lease_key(made.lease.subnet, made.lease.ipv6_subnet))
    assert claim(lease("10.0.9.0/24", "172.31.0.1", "me"), config=both).source is Source.RANDOM


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(22, 26)), max_size=25), st.integers(0, 2**32))
def test_what_is_claimed_never_overlaps_a_lease(leases: list[tuple[int, int]], seed: int) -> None:
    taken = {IPv4Network(((10 << 24) | (number << 6), length), strict=False) for number, length in leases}
    items = [lease(str(subnet), "172.31.0.9", "other") for subnet in taken]
    config = parse_config(b'{"Network":"10.0.0.0/20","SubnetLen":25,"SubnetMax":"10.0.2.128"}')
    assert config.ipv4 is not None
    free = [s for s in config.ipv4.subnets() if not any(s.overlaps(other) for other in taken)]
    if free:
        assert claim(*items, config=config, seed=seed).lease.subnet in free
    else:
        with pytest.raises(OutOfSubnetsError):
            claim(*items, config=config, seed=seed)


def test_fast_among_five_thousand_leases() -> None:
    """flannel 875: allocation under churn in a large network."""
    config = parse_config(b'{"Network":"10.0.0.0/8"}')
    bases = [IPv4Network(((10 << 24) + 256 * n, 24)) for n in range(1, 5001)]
    view = LeaseView(DIRECTORY)
    view.load(Snapshot(100, tuple(lease(str(base), "172.31.0.9", "other") for base in bases)), 0.0)
    began = time.process_time()
    for seed in range(10):
        assert allocate(view, config, ME, Memory(), Random(seed), advertisement=UDP).lease.subnet not in bases
    assert (time.process_time() - began) / 10 < limit(0.02, 0.5), "seconds a choice"
