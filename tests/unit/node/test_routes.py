"""Routes as sets: which are ours, and the way from those there are to those wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import NodeError, PrivilegeError
from overlay.linux.routes import Route, RouteType
from overlay.node import routes
from overlay.node.routes import Difference, IsOurs, blackhole_route, compare, network_route, peer_route

NETWORK, SUBNET = IPv4Network("10.0.0.0/16"), IPv4Network("10.0.58.0/24")
TUN, ETH0 = 7, 2
GATEWAY = IPv4Address("172.31.0.2")
OTHERS = [
    Route(SUBNET, 4, protocol=2),
    Route(IPv4Network("0.0.0.0/0"), ETH0, gateway=IPv4Address("172.31.0.100")),
    Route(IPv4Network("10.99.0.0/16"), TUN, scope=253),
    Route(IPv4Network("0.0.0.0/0"), TUN, metric=50, protocol=16),
    Route(IPv4Network("10.0.60.0/24"), ETH0, gateway=GATEWAY),
]
"""An operator's, a daemon's, by our device and by others."""


def by_tun(route: Route) -> bool:
    return routes.is_by_device(route, TUN)


def of_peers(route: Route) -> bool:
    return routes.is_peer_route(route, "flannel0")


def of_holes(route: Route) -> bool:
    return routes.is_blackhole(route, "flannel0")


def route_to(subnet: str, gateway: str = "172.31.0.2", device: str = "flannel0") -> Route:
    return peer_route(IPv4Network(subnet), IPv4Address(gateway), ETH0, device)


class Kernel:
    """The main table as a set, with the kernel's rule: one route of a destination, TOS and metric."""

    def __init__(self, present: Iterable[Route], refused: Mapping[Route, NodeError] = {}) -> None:
        self.present = list(present)
        self.refused = refused
        self.batches: list[tuple[list[Route], list[Route]]] = []

    def routes(self) -> list[Route]:
        return list(self.present)

    def change(self, *, delete: Iterable[Route] = (), add: Iterable[Route] = ()) -> Mapping[Route, NodeError]:
        gone, new = list(delete), list(add)
        self.batches.append((gone, new))
        failed = {route: self.refused[route] for route in (*gone, *new) if route in self.refused}
        for route in gone:
            if route not in failed:
                self.present.remove(route)
        for route in new:
            place = route.destination, route.tos, route.metric
            if any((each.destination, each.tos, each.metric) == place for each in self.present):
                failed.setdefault(route, NodeError("the kernel says: File exists"))
            elif route not in failed:
                self.present.append(route)
        return failed


def name(index: int | None) -> str:
    return {TUN: "flannel0", ETH0: "eth0"}.get(index or 0, "?")


@pytest.mark.parametrize(
    ("wanted", "is_ours"),
    [
        (network_route(NETWORK, TUN), by_tun),
        (route_to("10.0.66.0/24"), of_peers),
        (blackhole_route(SUBNET, "flannel0"), of_holes),
    ],
)
def test_of_each_kind_one_is_added_kept_and_removed_and_others_stay(wanted: Route, is_ours: IsOurs) -> None:
    kernel = Kernel(OTHERS)
    assert len(routes.reconcile([wanted], kernel, is_ours, name).changes) == 1
    assert routes.reconcile([wanted], kernel, is_ours, name).changes == ()
    assert kernel.present == [*OTHERS, wanted]
    assert len(list(routes.remove(kernel, is_ours, name))) == 1
    assert kernel.present == OTHERS
    assert list(routes.remove(kernel, is_ours, name)) == []


def test_a_kind_leaves_the_other_kinds_alone() -> None:
    """A node that goes over from one backend to another has them all for a moment."""
    kinds = {by_tun: network_route(NETWORK, TUN), of_peers: route_to("10.0.66.0/24")}
    kinds[of_holes] = blackhole_route(SUBNET, "flannel0")
    for is_ours, route in kinds.items():
        assert [other for other in kinds.values() if is_ours(other)] == [route]


def test_a_wider_network_adds_its_route_before_the_old_one_goes() -> None:
    old, new = network_route(NETWORK, TUN), network_route(IPv4Network("10.0.0.0/12"), TUN)
    kernel = Kernel([old])
    assert routes.reconcile([new], kernel, by_tun, name).changes == (
        "route 10.0.0.0/12 dev flannel0 added",
        "route 10.0.0.0/16 dev flannel0 removed",
    )
    assert kernel.batches == [([], [new]), ([old], [])]


def test_another_gateway_takes_the_place_of_the_old_one() -> None:
    old, new = route_to("10.0.66.0/24"), route_to("10.0.66.0/24", "172.31.0.9")
    kernel = Kernel([*OTHERS, old])
    assert routes.reconcile([new], kernel, of_peers, name).changes == (
        "route 10.0.66.0/24 via 172.31.0.9 dev eth0 added",
    )
    assert kernel.present == [*OTHERS, new]


def test_a_route_that_leads_there_will_do_whoever_made_it() -> None:
    """As flanneld's does, whose node this was until now."""
    flannelds = replace(route_to("10.0.66.0/24"), protocol=3)
    assert compare([route_to("10.0.66.0/24")], [flannelds], of_peers) == Difference()


def test_a_route_in_the_way_is_told_and_the_rest_is_done() -> None:
    theirs = replace(route_to("10.0.66.0/24", "172.31.0.77"), protocol=3)
    kernel = Kernel([theirs])
    blocked, right = route_to("10.0.66.0/24"), route_to("10.0.67.0/24")
    outcome = routes.reconcile([blocked, right], kernel, of_peers, name)
    assert kernel.present == [theirs, right]
    assert list(outcome.refused) == [blocked]
    assert "route 10.0.66.0/24: is there already, and not ours" in str(outcome.refused[blocked])


def test_what_the_kernel_refuses_is_told_of_each() -> None:
    first, second, old = route_to("10.0.66.0/24"), route_to("10.0.67.0/24"), route_to("10.0.68.0/24")
    kernel = Kernel([old], {first: NodeError("no"), old: NodeError("busy")})
    outcome = routes.reconcile([first, second], kernel, of_peers, name)
    assert outcome.changes == ("route 10.0.67.0/24 via 172.31.0.2 dev eth0 added",)
    assert outcome.failures == ("route 10.0.68.0/24 via 172.31.0.2 dev eth0 removed: busy",)
    assert list(outcome.refused) == [first]
    with pytest.raises(NodeError, match="busy"):
        list(routes.remove(kernel, of_peers, name))


def test_without_the_right_to_it_nothing_else_is_tried() -> None:
    wish = route_to("10.0.66.0/24")
    with pytest.raises(PrivilegeError):
        routes.reconcile([wish], Kernel([], {wish: PrivilegeError("no")}), of_peers, name)


def test_many_changes_are_not_a_line_each() -> None:
    wanted = [route_to(f"10.0.{number}.0/24") for number in range(200)]
    changes = routes.reconcile(wanted, Kernel([]), of_peers, name).changes
    assert len(changes) == 9
    assert changes[-1] == "… and 192 more routes like this"


def test_every_agent_has_routes_of_its_own() -> None:
    """By its device's name, as two agents on one machine must not remove each other's."""
    devices = [f"{stem}{number}" for stem in ("flannel", "o") for number in range(999)]
    holes = {blackhole_route(SUBNET, device).metric for device in devices}
    peers = {route_to("10.0.66.0/24", device=device).metric for device in devices}
    assert len(holes) == len(peers) == 2 * 999
    assert all(2**31 <= metric < 2**32 for metric in holes)
    assert all(0 <= metric < 2**31 for metric in peers)
    assert route_to("10.0.66.0/24").metric == 0, "as flanneld has it"
    theirs = [route_to("10.0.66.0/24", device="flannel1"), blackhole_route(SUBNET, "flannel1")]
    assert not any(of_peers(route) or of_holes(route) for route in theirs)
    ours = blackhole_route(SUBNET, "flannel0")
    assert not any(map(of_holes, (replace(ours, metric=5), replace(ours, protocol=3))))


ROUTES = st.builds(
    Route,
    st.integers(0, 5).map(lambda number: IPv4Network((0x0A000000 + (number << 8), 24))),
    st.sampled_from([TUN, ETH0]),
    gateway=st.sampled_from([None, GATEWAY, GATEWAY + 1]),
    protocol=st.sampled_from([3, routes.PROTOCOL]),
    metric=st.sampled_from([0, 100]),
    type=st.sampled_from([RouteType.UNICAST, RouteType.BLACKHOLE]),
)


@given(st.lists(ROUTES, unique_by=lambda route: (route.destination, route.metric)), st.sets(st.integers(0, 5)))
def test_whatever_is_there_ours_become_what_is_wanted_and_others_are_as_before(
    present: list[Route], subnets: set[int]
) -> None:
    wanted = [route_to(f"10.0.{number}.0/24") for number in sorted(subnets)]
    kernel = Kernel(present)
    outcome = routes.reconcile(wanted, kernel, of_peers, name)
    assert [route for route in kernel.present if not of_peers(route)] == [r for r in present if not of_peers(r)]
    assert {r for r in kernel.present if of_peers(r)} <= set(wanted)
    for wish in wanted:
        there = any((r.destination, r.gateway, r.index) == (wish.destination, GATEWAY, ETH0) for r in kernel.present)
        assert there or wish in outcome.refused
    assert routes.reconcile(wanted, kernel, of_peers, name).changes == ()
