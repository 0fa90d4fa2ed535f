"""The etcd schema against what flanneld writes and the rules it keeps."""

from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.control import schema
from overlay.errors import ConfigError, LeaseFormatError
from overlay.model import Lease
from overlay.store.contract import KeyValue

GOLDEN_UDP = b'{"PublicIP":"172.31.0.2","PublicIPv6":null}'
GOLDEN_HOST_GW = b'{"PublicIP":"172.31.0.1","PublicIPv6":null,"BackendType":"host-gw"}'
GOLDEN_VXLAN = (
    b'{"PublicIP":"172.31.0.2","PublicIPv6":null,"BackendType":"vxlan",'
    b'"BackendData":{"VNI":1,"VtepMAC":"1a:2f:c5:24:0d:cc"}}'
)
SUBNET = IPv4Network("10.0.39.0/24")


def config(**fields: object) -> bytes:
    return json.dumps({"Network": "10.3.0.0/16", **fields}).encode()


# --- leases ---


@pytest.mark.parametrize("value", [GOLDEN_UDP, GOLDEN_HOST_GW, GOLDEN_VXLAN])
def test_flannelds_lease_values_come_back_byte_for_byte(value: bytes) -> None:
    assert schema.format_lease_value(schema.parse_lease_value(value, SUBNET)) == value


def test_our_value_is_flannelds_with_the_node_id_at_its_end() -> None:
    lease = Lease(SUBNET, IPv4Address("172.31.0.2"), node_id="4c4c")
    assert schema.format_lease_value(lease) == b'{"PublicIP":"172.31.0.2","PublicIPv6":null,"NodeID":"4c4c"}'


@pytest.mark.parametrize(
    ("prefix", "config_key"),
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
def test_keys_are_joined_as_flanneld_joins_them(prefix: str, config_key: str) -> None:
    """Go's path.Join(prefix, "config") and path.Join(prefix, "subnets", …)."""
    assert schema.config_key(prefix) == config_key
    assert schema.subnets_prefix(prefix) == f"{config_key.removesuffix('config')}subnets/"


def test_a_lease_without_lease_id_is_a_reservation() -> None:
    record = schema.parse_lease(KeyValue("/coreos.com/network/subnets/10.0.39.0-24", GOLDEN_UDP, 7, 0))
    assert record.reserved
    assert record.lease.subnet == SUBNET
    assert record.mod_revision == 7


def test_member_names_match_in_any_case_as_in_go() -> None:
    lease = schema.parse_lease_value(b'{"publicip":"1.2.3.4","BACKENDTYPE":"vxlan","unknown":[1]}', SUBNET)
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
    assert schema.parse_lease_key(key) == expected
    assert key.endswith(schema.format_lease_key(*expected))


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
        schema.parse_lease_key(key)
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
        schema.parse_lease_value(value, SUBNET)
    text = str(caught.value)
    assert "10.0.39.0-24" in text
    assert "\n" not in text
    assert len(text) < 500


@given(st.binary(max_size=300))
def test_any_bytes_are_a_lease_or_a_lease_format_error(value: bytes) -> None:
    with suppress(LeaseFormatError):
        schema.parse_lease_value(value, SUBNET)


@given(
    st.integers(0, 2**32 - 1).map(IPv4Address).filter(lambda ip: not ip.is_unspecified and not ip.is_multicast),
    st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    st.sampled_from(["udp", "vxlan", "host-gw"]),
    st.none() | st.integers(1, 2**128 - 1).map(IPv6Address),
)
def test_leases_survive_the_round_trip(ip: IPv4Address, node: str | None, kind: str, ipv6: IPv6Address | None) -> None:
    lease = Lease(SUBNET, ip, kind, node, None, ipv6)
    assert schema.parse_lease_value(schema.format_lease_value(lease), SUBNET) == lease


# --- the config ---


def test_defaults_of_a_config_with_a_network_alone() -> None:
    parsed = schema.parse_config(b'{"Network":"10.3.7.9/16"}')
    assert parsed.ipv4 is not None
    assert str(parsed.ipv4.network) == "10.3.0.0/16"
    assert parsed.ipv4.subnet_len == 24
    assert (str(parsed.ipv4.subnet_min), str(parsed.ipv4.subnet_max)) == ("10.3.1.0", "10.3.255.0")
    assert parsed.ipv6 is None
    assert parsed.backend.type == "udp"


@pytest.mark.parametrize(
    ("network", "length"), [("10.0.0.0/8", 24), ("10.0.0.0/22", 24), ("10.0.0.0/23", 25), ("10.0.0.0/28", 30)]
)
def test_default_subnet_len(network: str, length: int) -> None:
    parsed = schema.parse_config(json.dumps({"Network": network}))
    assert parsed.ipv4 is not None
    assert parsed.ipv4.subnet_len == length


def test_both_families() -> None:
    parsed = schema.parse_config(config(EnableIPv6=True, IPv6Network="fd00:10:244::/56"))
    assert parsed.ipv6 is not None
    assert parsed.ipv6.subnet_len == 64
    assert str(parsed.ipv6.subnet_min) == "fd00:10:244:1::"
    assert str(parsed.ipv6.subnet_max) == "fd00:10:244:ff::"


def test_names_in_any_case_nulls_and_unknown_members() -> None:
    parsed = schema.parse_config(
        b'{"network":"10.3.0.0/16","SUBNETLEN":26,"SubnetMax":"10.3.8.0","subnetlen":null,"x":1,"backend":{"type":"VXLAN"}}'
    )
    assert parsed.ipv4 is not None
    assert parsed.ipv4.subnet_len == 26
    assert parsed.backend.type == "vxlan"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"", []),
        (b"[]", []),
        (b"{}", ["Network"]),
        (b"{" * 50_000, []),
        (config(Network=7), ["Network", "7", "string"]),
        (config(Network="10.3.0.0"), ["Network"]),
        (config(Network="10.3.0.0/255.255.0.0"), ["Network"]),
        (config(Network="10.3.0.0/33"), ["Network", "10.3.0.0/33"]),
        (config(Network="10.3.0.0/29"), ["Network", "/28"]),
        (config(SubnetLen="24"), ["SubnetLen", "whole number"]),
        (config(SubnetLen=24.5), ["SubnetLen"]),
        (config(SubnetLen=True), ["SubnetLen", "whole number"]),
        (config(Network="10.3.0.0/16") + b" " * 65536, ["65536 bytes"]),
        (config(SubnetLen=31), ["SubnetLen", "31", "30"]),
        (config(SubnetLen=17), ["SubnetLen", "17", "18"]),
        (config(SubnetLen=-1), ["SubnetLen"]),
        (config(SubnetMin="10.4.0.0"), ["SubnetMin", "10.4.0.0", "10.3.0.0/16"]),
        (config(SubnetMin="10.3.1.5"), ["SubnetMin", "10.3.1.5", "boundary"]),
        (config(SubnetMax="nonsense"), ["SubnetMax", "nonsense"]),
        (config(SubnetMin="10.3.9.0", SubnetMax="10.3.8.0"), ["SubnetMin", "10.3.9.0", "SubnetMax", "10.3.8.0"]),
        (config(EnableIPv4=False), ["EnableIPv4"]),
        (config(EnableIPv4="yes"), ["EnableIPv4", "true or false"]),
        (config(EnableIPv4=1), ["EnableIPv4"]),
        (config(EnableIPv6=True), ["IPv6Network"]),
        (config(EnableIPv6=True, IPv6Network="fd00::/125"), ["IPv6Network", "/124"]),
        (config(EnableIPv6=True, IPv6Network="fd00::/56", IPv6SubnetLen=127), ["IPv6SubnetLen", "126"]),
        (config(Backend="udp"), ["Backend"]),
        (config(Backend={"Port": 1}), ["Backend.Type"]),
        (config(Backend={"Type": 7}), ["Backend.Type"]),
    ],
)
def test_broken_rules_name_field_value_and_rule(text: bytes, names: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        schema.parse_config(text)
    line = str(caught.value)
    assert "\n" not in line
    assert "overlay config set" in line
    for name in names:
        assert name in line


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_text_is_a_config_or_a_config_error(text: bytes | str) -> None:
    with suppress(ConfigError):
        schema.parse_config(text)


@pytest.mark.parametrize(
    "text",
    [
        config(),
        config(SubnetLen=26, SubnetMin="10.3.4.0", SubnetMax="10.3.8.0", EnableNFTables=True),
        config(Backend={"Type": "udp", "Port": 9000, "MTU": 1400}),
        config(EnableIPv6=True, IPv6Network="fd00::/48", Backend={"Type": "vxlan", "VNI": 3}),
    ],
)
def test_a_rendered_config_means_the_same(text: bytes) -> None:
    parsed = schema.parse_config(text)
    again = schema.parse_config(schema.render_config(parsed, parsed.backend.options))
    assert (again.ipv4, again.ipv6, again.enable_nftables) == (parsed.ipv4, parsed.ipv6, parsed.enable_nftables)
    assert again.backend == parsed.backend
