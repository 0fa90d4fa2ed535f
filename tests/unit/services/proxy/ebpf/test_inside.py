"""Who is inside the cluster, by the address that it sends from."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from overlay.services.proxy.ebpf.inside import is_inside
from overlay.services.table import Place

PLACE = Place("n1", (IPv4Network("10.0.0.0/16"),), frozenset({"172.31.0.1", "10.0.5.1"}))


@pytest.mark.parametrize(
    ("source", "inside"),
    [
        ("10.0.5.2", True), ("10.0.9.2", True), ("10.0.5.1", True), ("172.31.0.1", True),
        ("172.18.0.2", False), ("172.31.0.2", False), ("127.0.0.1", False), (None, False),
    ],
)  # fmt: skip
def test_the_node_and_pods_are_and_nobody_else(source: str | None, inside: bool) -> None:
    assert is_inside(None if source is None else IPv4Address(source), PLACE) is inside


def test_before_the_network_is_known_the_node_alone_is() -> None:
    place = Place("n1", (), frozenset({"172.31.0.1"}))
    assert is_inside(IPv4Address("172.31.0.1"), place)
    assert not is_inside(IPv4Address("10.0.5.2"), place)
