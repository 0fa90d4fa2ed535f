"""The network's config against the rules that flanneld keeps."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.control.schema.config import parse_config, render_config
from overlay.errors import ConfigError


def config(**fields: object) -> bytes:
    return json.dumps({"Network": "10.3.0.0/16", **fields}).encode()


def test_defaults_of_a_config_with_a_network_alone() -> None:
    parsed = parse_config(b'{"Network":"10.3.7.9/16"}')
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
    parsed = parse_config(json.dumps({"Network": network}))
    assert parsed.ipv4 is not None
    assert parsed.ipv4.subnet_len == length


def test_both_families() -> None:
    parsed = parse_config(config(EnableIPv6=True, IPv6Network="fd00:10:244::/56"))
    assert parsed.ipv6 is not None
    assert parsed.ipv6.subnet_len == 64
    assert str(parsed.ipv6.subnet_min) == "fd00:10:244:1::"
    assert str(parsed.ipv6.subnet_max) == "fd00:10:244:ff::"


def test_names_in_any_case_nulls_and_unknown_members() -> None:
    parsed = parse_config(
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
        parse_config(text)
    line = str(caught.value)
    assert "\n" not in line
    assert "overlay config set" in line
    for name in names:
        assert name in line


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_text_is_a_config_or_a_config_error(text: bytes | str) -> None:
    with suppress(ConfigError):
        parse_config(text)


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
    parsed = parse_config(text)
    again = parse_config(render_config(parsed, parsed.backend.options))
    assert (again.ipv4, again.ipv6, again.enable_nftables) == (parsed.ipv4, parsed.ipv6, parsed.enable_nftables)
    assert again.backend == parsed.backend
