"""The worker's table against the agent's, the rate limit, the path MTUs."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from overlay.datapath.userspace.route_mtus import towards
from overlay.datapath.userspace.worker.paths import LIFETIME, MIN_INNER, PathMtus
from overlay.datapath.userspace.worker.routes import Routes
from overlay.model import Peer, PeerTable
from overlay.rates import TokenBucket

SUBNETS = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.integers(0x0A000000, 0x0A00FFFF),
    st.integers(8, 32),
)
TABLES = st.dictionaries(SUBNETS, st.integers(1, 5), max_size=12)


def add(routes: Routes, subnet: IPv4Network, host: int) -> None:
    routes.add(int(subnet.network_address), subnet.prefixlen, host)


@given(TABLES, TABLES, st.lists(st.integers(0x0A000000, 0x0A00FFFF), max_size=20))
def test_as_the_model_looks_up(before: dict[IPv4Network, int], after: dict[IPv4Network, int], asked: list[int]) -> None:
    """Whatever the table was before, after removals and additions it is the one it should be."""
    routes = Routes()
    for subnet, host in before.items():
        add(routes, subnet, host)
    for subnet in before.keys() - after.keys():
        routes.remove(int(subnet.network_address), subnet.prefixlen)
    for subnet, host in after.items():
        add(routes, subnet, host)
    table = PeerTable.of(None, [Peer(subnet, IPv4Address(host)) for subnet, host in after.items()])
    for address in [*asked, *(int(subnet.network_address) for subnet in before | after)]:
        peer = table.lookup(address)
        assert routes.next_hop(address) == (None if peer is None else str(peer.public_ip))
    assert routes.senders.keys() == {str(IPv4Address(host)) for host in after.values()}
    assert len(routes) == len(after)


def test_removing_what_is_not_there() -> None:
    routes = Routes()
    routes.remove(0x0A000000, 8)
    add(routes, IPv4Network("10.0.0.0/16"), 1)
    routes.remove(0x0A000000, 24)
    assert len(routes) == 1


def test_the_bucket() -> None:
    bucket = TokenBucket(rate=10, burst=3)
    assert [bucket.allow(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.allow(100.15) for _ in range(2)] == [True, False]
    assert bucket.allow(99.0) is False, "a clock that goes back gives nothing"
    assert sum(bucket.allow(200.0) for _ in range(10)) == 3, "no more than the burst is saved up"


def test_path_mtus() -> None:
    paths = PathMtus()
    paths.learn("172.31.0.2", 1300, now=0)
    paths.learn("172.31.0.3", 10, now=0)
    paths.learn("172.31.0.4", 2**31, now=0)
    assert paths.limits == {"172.31.0.2": 1272, "172.31.0.3": MIN_INNER, "172.31.0.4": 65535}
    assert paths.limit("172.31.0.2", LIFETIME - 1) == 1272
    assert paths.limit("172.31.0.2", LIFETIME) is None
    assert paths.limit("172.31.0.9", 0) is None
    paths.keep({"172.31.0.2": 1})
    assert paths.limits == {}


def test_the_least_of_what_routes_and_routers_say_counts() -> None:
    paths = PathMtus()
    paths.follow_routes({"172.31.0.2": 1400, "172.31.0.3": 1400})
    assert paths.limits == {"172.31.0.2": 1372, "172.31.0.3": 1372}
    paths.learn("172.31.0.2", 1300, now=0)
    paths.learn("172.31.0.3", 1500, now=0)
    assert paths.known(now=1) == {"172.31.0.2": 1272, "172.31.0.3": 1372}
    assert paths.known(now=LIFETIME) == {"172.31.0.2": 1372, "172.31.0.3": 1372}, "a route's does not expire"
    paths.learn("172.31.0.2", 1300, now=0)
    paths.forget_all()
    paths.follow_routes({"172.31.0.3": 1000})
    assert paths.limits == {"172.31.0.3": 972}
    paths.keep({})
    assert paths.limits == {"172.31.0.3": 972}


def test_the_first_address_behind_a_peer() -> None:
    routes = Routes()
    routes.add(0x0A000200, 24, 0xAC1F0002)
    routes.add(0x0A000310, 28, 0xAC1F0003)
    assert routes.address_behind("172.31.0.3") == 0x0A000310
    assert routes.address_behind("172.31.0.4") is None


@given(
    st.dictionaries(SUBNETS, st.integers(0, 9000)),
    st.dictionaries(st.just(IPv4Network("0.0.0.0/0")), st.integers(0, 9000)),
    st.lists(st.integers(0x0A000000, 0x0A01FFFF)),
)
def test_the_mtu_of_a_route_is_that_of_the_longest_prefix(
    routes: dict[IPv4Network, int], default: dict[IPv4Network, int], peers: list[int]
) -> None:
    routes = default | routes
    expected = {}
    for peer in map(IPv4Address, peers):
        holding = [each for each in routes if peer in each]
        if holding and (mtu := routes[max(holding, key=lambda each: each.prefixlen)]):
            expected[str(peer)] = mtu
    assert dict(towards(peers, routes).mtus) == expected
