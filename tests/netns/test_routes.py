"""Routes in batches against the real kernel; iproute2 is the judge.

machine: one network namespace with a veth pair, d0 with 192.0.2.1/24
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from overlay.errors import NodeError
from overlay.linux.routes import BATCH, ONLINK, Route, RouteTable, RouteType
from tests.support.namespaces import Namespace, namespace

pytestmark = pytest.mark.root

PROTOCOL = 241


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with namespace("rt") as made:
        made.batch("link add d0 type veth peer name d1\naddr add 192.0.2.1/24 dev d0\nlink set d1 up\nlink set d0 up\n")
        yield made


def index(machine: Namespace) -> int:
    return int(machine.run("ip", "-o", "link", "show", "d0").partition(":")[0])


def shown(machine: Namespace) -> list[str]:
    """What iproute2 shows of our protocol's routes, without blanks at the end."""
    return [line.strip() for line in machine.run("ip", "route", "show", "proto", str(PROTOCOL)).splitlines()]


def table(machine: Namespace) -> RouteTable:
    """The socket is the namespace's in which it was opened."""
    return machine.call(RouteTable)


def peers(count: int, device: int) -> list[Route]:
    """Routes as host-gw has them: one /24 a peer, by a gateway on the link."""
    return [
        Route(
            IPv4Network((0x0A000000 + (number << 8), 24)),
            device,
            gateway=IPv4Address(0xC0000202 + number % 200),
            protocol=PROTOCOL,
            flags=ONLINK,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("route", "text"),
    [
        (Route(IPv4Network("10.1.0.0/16"), 1), "10.1.0.0/16 dev d0 scope link"),
        (Route(IPv4Network("0.0.0.0/0"), 1, IPv4Address("192.0.2.9")), "default via 192.0.2.9 dev d0"),
        (
            Route(IPv4Network("10.2.0.0/16"), 1, IPv4Address("198.51.100.1"), flags=ONLINK),
            "10.2.0.0/16 via 198.51.100.1 dev d0 onlink",
        ),
        (
            Route(IPv4Network("10.3.0.7/32"), 1, source=IPv4Address("192.0.2.1"), metric=77),
            "10.3.0.7 dev d0 scope link src 192.0.2.1 metric 77",
        ),
        (Route(IPv4Network("10.4.0.0/16"), None, type=RouteType.BLACKHOLE), "blackhole 10.4.0.0/16"),
        (
            Route(IPv4Network("10.5.0.0/16"), None, type=RouteType.UNREACHABLE, metric=5),
            "unreachable 10.5.0.0/16 metric 5",
        ),
        (Route(IPv4Network("10.6.0.0/16"), 1, tos=0x04), "10.6.0.0/16 tos 0x04 dev d0 scope link"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_route_is_made_read_back_and_removed(machine: Namespace, route: Route, text: str) -> None:
    device = index(machine)
    link = route.index is not None and route.gateway is None
    wanted = replace(
        route, index=None if route.index is None else device, protocol=PROTOCOL, scope=253 if link else route.scope
    )
    before = machine.run("ip", "route")
    with table(machine) as routes:
        assert routes.change(add=[wanted]) == {}
        assert shown(machine) == [text]
        assert wanted in routes.routes()
        assert routes.change(delete=[wanted]) == {}
        assert wanted not in routes.routes()
    assert machine.run("ip", "route") == before


def test_one_that_fails_keeps_no_other_from_being_made(machine: Namespace) -> None:
    device = index(machine)
    good = peers(3 * BATCH, device)
    foreign = Route(IPv4Network("10.0.5.0/24"), device, scope=253)
    impossible = Route(IPv4Network("10.200.0.0/24"), device, gateway=IPv4Address("203.0.113.1"), protocol=PROTOCOL)
    with table(machine) as routes:
        assert routes.change(add=[foreign]) == {}
        failed = routes.change(add=[impossible, *good])
        assert set(failed) == {impossible, good[5]}, "the one that would have replaced another's, and the unreachable"
        assert all(isinstance(error, NodeError) for error in failed.values())
        assert str(failed[good[5]]) == "route 10.0.5.0/24: the kernel says: File exists"
        assert {*good} - {good[5]} <= {*routes.routes()}
        assert foreign in routes.routes()
        assert routes.change(delete=good) == {}, "what is not there is gone"
    assert shown(machine) == []
    assert "10.0.5.0/24 dev d0 scope link" in machine.run("ip", "route")


def test_thousands_are_read_as_iproute2_shows_them(machine: Namespace) -> None:
    wanted = peers(5000, index(machine))
    with table(machine) as routes:
        assert routes.change(add=wanted) == {}
        assert [route for route in routes.routes() if route.protocol == PROTOCOL] == wanted
        assert len(shown(machine)) == len(wanted)


def test_what_the_kernel_learnt_or_keeps_elsewhere_is_no_route(machine: Namespace) -> None:
    machine.run("ip", "route", "add", "10.9.0.0/16", "dev", "d0", "table", "900")
    with table(machine) as routes:
        assert [str(route.destination) for route in routes.routes()] == ["192.0.2.0/24"]
