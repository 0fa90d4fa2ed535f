"""From leases to peers, and what cannot be one."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from overlay.control.leases.allocator import Identity
from overlay.control.leases.view import LeaseView
from overlay.control.peers.membership import MAX_PROBLEMS, Membership
from overlay.control.schema.config import parse_config
from overlay.model import Peer
from overlay.store.contract import Event, Events, KeyValue, Snapshot
from tests.support.limits import limit
from tests.support.problems import shown

DIRECTORY = "/coreos.com/network/subnets/"
ME = Identity("me", IPv4Address("172.31.0.1"))
OWN = IPv4Network("10.0.1.0/24")
CONFIG = parse_config(b'{"Network":"10.0.0.0/8"}')


def kv(key: str, revision: int, ip: str = "172.31.0.9", more: str = "") -> KeyValue:
    return KeyValue(DIRECTORY + key, f'{{"PublicIP":"{ip}"{more}}}'.encode(), revision, 1)


def put(membership: Membership, view: LeaseView, *items: KeyValue) -> None:
    membership.update(view.apply(Events(items[-1].mod_revision, tuple(Event(item) for item in items))))


def make(*items: KeyValue) -> tuple[LeaseView, Membership]:
    view = LeaseView(DIRECTORY)
    membership = Membership(view)
    membership.reconsider(CONFIG, ME, OWN)
    membership.update(view.load(Snapshot(100, items), 0.0))
    return view, membership


def peers(membership: Membership) -> dict[str, str]:
    return {str(peer.subnet): str(peer.public_ip) for peer in membership.table.peers.values()}


def test_all_but_our_own_are_peers() -> None:
    own = kv("10.0.1.0-24", 3, "172.31.0.1", ',"NodeID":"me"')
    _, membership = make(own, kv("10.0.2.0-24", 4), kv("10.0.3.0-24", 5, "172.31.0.8", ',"NodeID":"b"'))
    assert peers(membership) == {"10.0.2.0/24": "172.31.0.9", "10.0.3.0/24": "172.31.0.8"}
    assert membership.table.own == OWN
    assert not membership.problems()


def test_a_malformed_key_or_value_harms_nobody_else() -> None:
    """flannel 2539: one bad key removed every peer."""
    bad = KeyValue(DIRECTORY + "10.0.7.0-24", b"nonsense", 6, 1)
    view, membership = make(kv("10.0.2.0-24", 4), kv("whatever", 5), bad)
    assert peers(membership) == {"10.0.2.0/24": "172.31.0.9"}
    assert membership.skipped == 2
    assert "whatever" in membership.problems()[1].text
    put(membership, view, kv("10.0.7.0-24", 101))
    assert "10.0.7.0/24" in peers(membership)
    assert membership.skipped == 1


def test_leases_of_other_backends_are_no_peers() -> None:
    _, membership = make(kv("10.0.2.0-24", 4, more=',"BackendType":"vxlan","BackendData":{"VNI":1}'))
    assert not peers(membership)
    assert not membership.problems()


def test_a_peer_has_all_that_its_lease_says() -> None:
    """Of both families, and what its backend needs; and it can still be kept in a set while it lingers."""
    vxlan = parse_config(b'{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}')
    more = ',"PublicIPv6":"fd00::9","BackendType":"vxlan","BackendData":{"VNI":1},"BackendV6Data":{"VNI":2}'
    view = LeaseView(DIRECTORY)
    membership = Membership(view)
    membership.update(view.load(Snapshot(100, (kv("10.0.2.0-24&fd00:0:0:2::-64", 4, more=more),)), 0.0))
    membership.reconsider(vxlan, ME, OWN)
    (peer,) = membership.table.peers.values()
    assert peer == Peer(
        subnet=IPv4Network("10.0.2.0/24"),
        public_ip=IPv4Address("172.31.0.9"),
        ipv6_subnet=IPv6Network("fd00:0:0:2::/64"),
        public_ipv6=IPv6Address("fd00::9"),
        backend_data={"VNI": 1},
        backend_v6_data={"VNI": 2},
    )
    assert len({peer, replace(peer, backend_data={"VNI": 3})}) == 2


def test_another_advertisement_is_another_peer() -> None:
    """A VXLAN device that was made anew has another MAC: whoever keeps the table up to date must see that."""
    vxlan = parse_config(b'{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}')
    view = LeaseView(DIRECTORY)
    membership = Membership(view)
    membership.reconsider(vxlan, ME, OWN)
    tables = []
    for number in range(2):
        more = f',"BackendType":"vxlan","BackendData":{{"VNI":{number}}}'
        put(membership, view, kv("10.0.2.0-24", 4 + number, more=more))
        tables.append(membership.table)
    assert [peer.backend_data for table in tables for peer in table.peers.values()] == [{"VNI": 0}, {"VNI": 1}]


def test_outside_the_network_or_over_our_subnet_is_shown() -> None:
    _, membership = make(kv("192.168.2.0-24", 4), kv("10.0.0.0-23", 5), kv("10.0.1.128-25", 6))
    assert not peers(membership)
    texts = " ".join(problem.text for problem in membership.problems())
    assert "192.168.2.0/24" in texts
    assert shown(membership.problems(), "lease", "192.168.2.0/24")
    assert "overlaps this node's subnet 10.0.1.0/24" in texts


def test_a_peer_that_is_itself_inside_the_network_is_shown_and_left_out() -> None:
    """What is sent to it would go through the tunnel, and round again; one such lease is no reason to refuse all."""
    _, membership = make(kv("10.0.2.0-24", 4, "10.0.9.9"), kv("10.0.3.0-24", 5))
    assert peers(membership) == {"10.0.3.0/24": "172.31.0.9"}
    assert "its public IP is inside the network 10.0.0.0/8" in membership.problems()[0].text


def test_a_changed_peer_on_a_known_subnet() -> None:
    """flannel 563, 1247, 1604: a peer's new address was missed."""
    view, membership = make(kv("10.0.2.0-24", 4))
    before = membership.table
    put(membership, view, kv("10.0.2.0-24", 101, "172.31.0.77"))
    assert peers(membership) == {"10.0.2.0/24": "172.31.0.77"}
    assert membership.table is not before
    assert membership.table is membership.table


def test_when_our_subnet_changes_all_are_judged_anew() -> None:
    _, membership = make(kv("10.0.2.0-24", 4), kv("10.0.1.128-25", 5))
    membership.reconsider(CONFIG, ME, IPv4Network("10.0.2.0/24"))
    assert peers(membership) == {"10.0.1.128/25": "172.31.0.9"}
    assert "10.0.2.0/24" in membership.problems()[0].text


def test_two_keys_of_one_subnet_the_older_counts_until_it_goes() -> None:
    view, membership = make(kv("10.0.2.0-24", 4), kv("10.0.2.0-24&fd00::-64", 5, "172.31.0.8"))
    assert peers(membership) == {"10.0.2.0/24": "172.31.0.9"}
    gone = Event(KeyValue(DIRECTORY + "10.0.2.0-24", b"", 101), deleted=True)
    membership.update(view.apply(Events(101, (gone,))))
    assert peers(membership) == {"10.0.2.0/24": "172.31.0.8"}


def test_problems_are_bounded() -> None:
    """flannel 624, 386, 963: memory that grows."""
    _, membership = make(*(kv(f"junk{n}", n + 1) for n in range(500)))
    assert membership.skipped == 500
    assert len(membership.problems()) == MAX_PROBLEMS + 1
    assert shown(membership.problems(), "leases", "480 more")


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["put", "other", "bad", "delete"])), max_size=40))
def test_incremental_is_the_same_as_anew(changes: list[tuple[int, str]]) -> None:
    view, membership = make()
    for revision, (number, kind) in enumerate(changes, start=101):
        key = f"10.0.{number}.0-24"
        item = {
            "put": kv(key, revision),
            "other": kv(key, revision, "172.31.0.8"),
            "bad": KeyValue(DIRECTORY + key, b"?", revision, 1),
            "delete": KeyValue(DIRECTORY + key, b"", revision),
        }[kind]
        membership.update(view.apply(Events(revision, (Event(item, deleted=kind == "delete"),))))
    fresh = Membership(view)
    fresh.reconsider(CONFIG, ME, OWN)
    assert fresh.table == membership.table
    assert fresh.problems() == membership.problems()


def test_one_event_among_five_thousand_peers_is_cheap() -> None:
    view, membership = make(*(kv(f"10.{n // 256 + 1}.{n % 256}.0-24", n + 1) for n in range(5000)))
    assert len(membership.table) == 5000
    began = time.process_time()
    for n in range(100):
        put(membership, view, kv("10.200.0.0-24", 5001 + n, f"172.31.1.{n}"))
        assert len(membership.table) == 5001
    assert (time.process_time() - began) / 100 < limit(0.001, 0.02), "seconds an event"
