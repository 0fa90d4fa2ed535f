"""Leases in etcd against what flanneld writes and the rules it keeps."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.control.schema.keys import config_key, format_lease_key, parse_lease_key, subnets_prefix
from overlay.control.schema.lease import format_lease_value, parse_lease, parse_lease_value
from overlay.errors import LeaseFormatError
from overlay.model import Lease
from overlay.store.contract import KeyValue

GOLDEN_UDP = b'{"PublicIP":"172.31.0.2","PublicIPv6":null}'
GOLDEN_HOST_GW = b'{"PublicIP":"172.31.0.1","PublicIPv6":null,"BackendType":"host-gw"}'
GOLDEN_VXLAN = (
    b'{"PublicIP":"172.31.0.2","PublicIPv6":null,"BackendType":"vxlan",'
    b'"BackendData":{"VNI":1,"VtepMAC":"1a:2f:c5:24:0d:cc"}}'
)
SUBNET = IPv4Network("10.0.39.0/24")


@pytest.mark.parametrize("value", [GOLDEN_UDP, GOLDEN_HOST_GW, GOLDEN_VXLAN])
def test_flannelds_lease_values_come_back_byte_for_byte(value: bytes) -> None:
    assert format_lease_value(parse_lease_value(value, SUBNET)) == value


def test_our_value_is_flannelds_with_the_node_id_at_its_end() -> None:
    lease = Lease(SUBNET, IPv4Address("172.31.0.2"), node_id="4c4c")
    assert format_lease_value(lease) == b'{"PublicIP":"172.31.0.2","PublicIPv6":null,"NodeID":"4c4c"}'


@pytest.mark.parametrize(
    ("prefix", "joined"),
    [
        ("/coreos.com/network", "/coreos.com/network/config"),
        ("/coreos.com/network/", "/coreos.com/network/config"),
        ("coreos.com/network", "coreos.com/network/config"),
        ("//coreos.com/network", "/coreos.com/network/config"),
        ("///a", "/a/config"),
        ("/coreos.com//network//", "/coreos.com/network/config"),
        ("/a/./b", "/a/b/config"),
        ("/a/../b", "/b/config"),
        ("../a", "../a/config"),
        ("/../a", "/a/config"),
        (".", "config"),
        ("a/..", "config"),
        ("", "config"),
        ("/", "/config"),
        ("//", "/config"),
        (" a ", " a /config"),
    ],
)
def test_keys_are_joined_as_flanneld_joins_them(prefix: str, joined: str) -> None:
    """Go's path.Join(prefix, "config") and path.Join(prefix, "subnets", …)."""
    assert config_key(prefix) == joined
    assert subnets_prefix(prefix) == f"{joined.removesuffix('config')}subnets/"


def test_a_lease_without_lease_id_is_a_reservation() -> None:
    record = parse_lease(KeyValue("/coreos.com/network/subnets/10.0.39.0-24", GOLDEN_UDP, 7, 0))
    assert record.reserved
    assert record.lease.subnet == SUBNET
    assert record.mod_revision == 7


def test_member_names_match_in_any_case_as_in_go() -> None:
    lease = parse_lease_value(b'{"publicip":"1.2.3.4","BACKENDTYPE":"vxlan","unknown":[1]}', SUBNET)
    assert (lease.public_ip, lease.backend_type) == (IPv4Address("1.2.3.4"), "vxlan")


@pytest.mark.parametrize(
    ("key", "subnet", "ipv6"),
    [
        ("10.5.52.0-24", "10.5.52.0/24", None),
        ("/any/prefix/subnets/10.5.52.0-24", "10.5.52.0/24", None),
        ("10.12.13.0-24&fd00:12:13::-56", "10.12.13.0/24", "fd00:12:13::/56"),
    ],
)
def test_lease_keys(key: str, subnet: str, ipv6: str | None) -> None:
    expected = (IPv4Network(subnet), None if ipv6 is None else IPv6Network(ipv6))
    assert parse_lease_key(key) == expected
    assert key.endswith(format_lease_key(*expected))


@pytest.mark.parametrize(
    "key",
    [
        "",
        "x",
        "10.5.52.0",
        "10.5.52.0-",
        "10.5.52.0-33",
        "10.5.52.0-32",
        "10.5.52.7-24",
        "10.5.52.256-24",
        "10.5.52.0-24 ",
        "10.5.52.0-24&",
        "10.5.52.0-24&fd00::-128",
        "10.5.52.0-24&zz::-64",
        "-24",
        "٣.٣.٣.٣-24",
        "1" * 10_000,
    ],
)
def test_malformed_keys_are_named(key: str) -> None:
    with pytest.raises(LeaseFormatError) as caught:
        parse_lease_key(key)
    assert key[:20] in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"{}",
        b'{"PublicIP":null}',
        b'{"PublicIP":7}',
        b'{"PublicIP":"172.31.0.300"}',
        b'{"PublicIP":"0.0.0.0"}',
        b'{"PublicIP":"224.0.0.1"}',
        b'{"PublicIP":"1.2.3.4","BackendType":7}',
        b'{"PublicIP":"1.2.3.4","NodeID":7}',
        b'{"PublicIP":"1.2.3.4","NodeID":"' + b"x" * 1000 + b'"}',
        b'{"PublicIP":' + b"[" * 30_000,
        b'{"a":' * 10_000,
        b" " * 200_000,
    ],
)
def test_malformed_values_are_one_line_that_names_the_lease(value: bytes) -> None:
    with pytest.raises(LeaseFormatError) as caught:
        parse_lease_value(value, SUBNET)
    text = str(caught.value)
    assert "10.0.39.0-24" in text
    assert "\n" not in text
    assert len(text) < 500


@given(st.binary(max_size=300))
def test_any_bytes_are_a_lease_or_a_lease_format_error(value: bytes) -> None:
    with suppress(LeaseFormatError):
        parse_lease_value(value, SUBNET)


@given(
    st.integers(0, 2**32 - 1).map(IPv4Address).filter(lambda ip: not ip.is_unspecified and not ip.is_multicast),
    st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    st.sampled_from(["udp", "vxlan", "host-gw"]),
    st.none() | st.integers(1, 2**128 - 1).map(IPv6Address),
)
def test_leases_survive_the_round_trip(ip: IPv4Address, node: str | None, kind: str, ipv6: IPv6Address | None) -> None:
    lease = Lease(SUBNET, ip, kind, node, None, ipv6)
    assert parse_lease_value(format_lease_value(lease), SUBNET) == lease
