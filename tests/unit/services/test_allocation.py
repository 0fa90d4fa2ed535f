"""ClusterIPs and node ports: bands, what is taken, what is asked for."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.services import allocation
from overlay.services.allocation import Taken
from overlay.services.configuration import Configuration, PortRange
from overlay.services.objects.document import Object, spec_of
from overlay.services.objects.status import StatusError
from tests.unit.services.support import made, service

CONFIG = Configuration()


def _assigned(given: Object, taken: Taken | None = None, config: Configuration = CONFIG) -> dict[str, Any]:
    obj = made(given)
    allocation.assign(obj, config, taken or Taken())
    return spec_of(obj)


@pytest.mark.parametrize(
    ("network", "static"),
    [  # the table of KEP-3070
        ("10.0.0.0/12", 256), ("10.0.0.0/20", 255), ("10.0.0.0/22", 63), ("10.0.0.0/24", 16), ("10.0.0.0/26", 16),
        ("10.0.0.0/28", 0), ("10.0.0.0/30", 0),
    ],
)  # fmt: skip
def test_the_static_band_of_addresses(network: str, static: int) -> None:
    assert allocation.static_addresses(IPv4Network(network)) == static


@pytest.mark.parametrize(("count", "static"), [(2768, 86), (100, 16), (5000, 128), (17, 16), (15, 0), (1, 0)])
def test_the_static_band_of_ports(count: int, static: int) -> None:
    """KEP-3668; the default range of 2,768 has 86."""
    assert allocation.static_ports(count) == static


def test_an_address_comes_from_above_the_static_band_and_is_the_same_again() -> None:
    first, again = _assigned(service()), _assigned(service())
    assert first == again
    assert first["clusterIPs"] == [first["clusterIP"]]
    assert IPv4Address(first["clusterIP"]) - 256 > CONFIG.service_cidr.network_address


@given(st.sets(st.integers(1, 62), max_size=61), st.text("abcdef", min_size=1, max_size=8))
def test_a_free_address_is_found_as_long_as_there_is_one(used: set[int], name: str) -> None:
    network = IPv4Network("10.0.0.0/26")
    taken = Taken({str(network[number]): "other/other" for number in used})
    found = IPv4Address(_assigned(service(name), taken, Configuration(network))["clusterIP"])
    assert found in network
    assert found not in (network[0], network[-1])
    assert str(found) not in taken.addresses
    if any(number not in used for number in range(17, 63)):
        assert found >= network[17]  # the static band is used last


def test_a_full_range_says_so() -> None:
    network = IPv4Network("10.0.0.0/30")
    with pytest.raises(StatusError, match=r"range 10.0.0.0/30 is full"):
        _assigned(service(), Taken({"10.0.0.1": "a/a", "10.0.0.2": "b/b"}), Configuration(network))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("10.96.0.10", ""),
        ("10.95.0.10", r"the provided IP \(10.95.0.10\) is not in the valid range"),
        ("2001:db8::1", "is not in the valid range"),
        ("10.96.0.11", "failed to allocate IP 10.96.0.11: provided IP is already allocated"),
    ],
)
def test_an_address_that_is_asked_for(asked: str, told: str) -> None:
    taken = Taken({"10.96.0.11": "other/other"})
    if not told:
        assert _assigned(service(clusterIP=asked), taken)["clusterIP"] == asked
        return
    with pytest.raises(StatusError, match=told) as raised:
        _assigned(service(clusterIP=asked), taken)
    assert raised.value.details["causes"][0]["field"] == "spec.clusterIPs"


def test_what_is_ours_already_is_not_taken() -> None:
    taken = Taken({"10.96.0.11": "default/redis"}, {30011: "default/redis"})
    spec = _assigned(service(type="NodePort", clusterIP="10.96.0.11", ports=[{"port": 1, "nodePort": 30011}]), taken)
    assert (spec["clusterIP"], spec["ports"][0]["nodePort"]) == ("10.96.0.11", 30011)


@pytest.mark.parametrize(
    ("asked", "told"),
    [(30080, ""), (80, "The range of valid ports is 30000-32767"), (30081, "provided port is already allocated")],
)
def test_a_node_port_that_is_asked_for(asked: int, told: str) -> None:
    given = service(type="NodePort", ports=[{"port": 80, "nodePort": asked}])
    taken = Taken({}, {30081: "other/other"})
    if not told:
        assert _assigned(given, taken)["ports"][0]["nodePort"] == asked
        return
    with pytest.raises(StatusError, match=told) as raised:
        _assigned(given, taken)
    assert raised.value.details["causes"][0]["field"] == "spec.ports[0].nodePort"


def test_node_ports_are_distinct_but_for_two_protocols_of_one_port() -> None:
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53},
        {"name": "http", "port": 80},
    ]
    numbers = [port["nodePort"] for port in _assigned(service(type="NodePort", ports=ports))["ports"]]
    assert numbers[0] == numbers[1] != numbers[2]
    assert all(30000 + allocation.static_ports(2768) <= number <= 32767 for number in numbers)


def test_a_full_range_of_ports_says_so() -> None:
    config = Configuration(node_ports=PortRange(30000, 30001))
    with pytest.raises(StatusError, match="range 30000-30001 is full"):
        _assigned(service(type="NodePort"), Taken({}, {30000: "a/a", 30001: "b/b"}), config)


@pytest.mark.parametrize(
    "spec", [{"clusterIP": "None"}, {"type": "ExternalName", "externalName": "a.b", "ports": None}]
)
def test_some_services_need_nothing(spec: dict[str, Any]) -> None:
    given = made(service(**spec))
    assert not allocation.needs_allocation(given)
    allocation.assign(given, CONFIG, Taken())
    assert allocation.claims(given) == allocation.Claims()
