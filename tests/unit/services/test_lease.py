"""Where this node is: subnet.env, and the lease of the subnet that it names."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from random import Random

import pytest

from overlay.services.lease import LeaseFollower, subnets_in
from overlay.store.contract import Event, Events, KeyValue, Snapshot
from overlay.store.follower import Read, Watch

PREFIX = "/coreos.com/network/subnets/"


@pytest.mark.parametrize(
    ("text", "subnets"),
    [
        ("FLANNEL_NETWORK=10.0.0.0/8\nFLANNEL_SUBNET=10.0.5.1/24\nFLANNEL_MTU=1472\n", ["10.0.5.0/24"]),
        ("FLANNEL_IPV6_SUBNET=fd00:5::1/64\nFLANNEL_SUBNET=10.0.5.1/24\n", ["10.0.5.0/24", "fd00:5::/64"]),
        ('FLANNEL_SUBNET="10.0.5.1/24"\n', ["10.0.5.0/24"]),
        ("FLANNEL_SUBNET=10.0.5.1/24,10.1.5.1/24\n", ["10.0.5.0/24"]),
        ("FLANNEL_SUBNET=\n", []),
        ("FLANNEL_SUBNET=10.0.5.1/2", ["0.0.0.0/2"]),
        ("FLANNEL_SUBNET=10.0.5.1", []),
        ("FLANNEL_SUBNET=0.0.0.0/0\n", []),
        ("FLANNEL_SUBNET=%s\n", []),
        ("XFLANNEL_SUBNET=10.0.5.1/24\n", []),
        ("", []),
    ],
)
def test_subnet_env_whoever_wrote_it(tmp_path: Path, text: str, subnets: list[str]) -> None:
    file = tmp_path / "subnet.env"
    file.write_text(text)
    assert [str(each) for each in subnets_in(file)] == subnets


def test_a_file_that_is_none(tmp_path: Path) -> None:
    assert subnets_in(tmp_path / "missing") == ()
    assert subnets_in(tmp_path) == ()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe" * 100_000)
    assert subnets_in(tmp_path / "bytes") == ()


def test_the_address_is_that_of_the_lease() -> None:
    follower = LeaseFollower(PREFIX, Random(1))
    subnet, other = IPv4Network("10.0.5.0/24"), IPv4Network("10.0.6.0/24")
    assert follower.public_ip(subnet) is None
    assert isinstance(follower.next_step(0.0), Read)
    both = KeyValue(f"{PREFIX}10.0.6.0-24&fd00:6::-64", b'{"PublicIP":"172.31.0.2","PublicIPv6":"fd00::2"}', 4)
    follower.loaded(Snapshot(5, (KeyValue(f"{PREFIX}10.0.5.0-24", b'{"PublicIP":"172.31.0.1"}', 3), both)), 0.1)
    assert follower.public_ip(subnet) == IPv4Address("172.31.0.1")
    assert follower.public_ip(other) == IPv4Address("172.31.0.2")
    assert isinstance(follower.next_step(0.1), Watch)
    follower.proved(0.1)
    moved = KeyValue(f"{PREFIX}10.0.5.0-24", b'{"PublicIP":"172.31.0.9"}', 6)
    assert follower.heard(Events(6, (Event(moved),)), 0.2)
    assert follower.public_ip(subnet) == IPv4Address("172.31.0.9")


@pytest.mark.parametrize("value", [b"", b"[]", b'{"PublicIP":7}', b'{"PublicIP":"x"}', b"{}", b"\xff"])
def test_a_lease_that_says_none_gives_none(value: bytes) -> None:
    follower = LeaseFollower(PREFIX, Random(1))
    follower.next_step(0.0)
    follower.loaded(Snapshot(5, (KeyValue(f"{PREFIX}10.0.5.0-24", value, 3),)), 0.1)
    assert follower.public_ip(IPv4Network("10.0.5.0/24")) is None
