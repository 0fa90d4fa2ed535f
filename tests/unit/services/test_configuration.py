"""The cluster's configuration."""

from __future__ import annotations

import pytest

from overlay.errors import ConfigError
from overlay.services.configuration import Configuration, parse, render


def test_every_field_has_a_default() -> None:
    assert parse(b"{}") == Configuration()


def test_what_is_rendered_is_parsed() -> None:
    text = b'{"serviceCIDR":"10.10.0.0/16","nodePorts":"20000-20099","domain":"lab.example"}'
    assert render(parse(text)) == text
    assert parse(text).node_ports.first == 20000


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "is no JSON"),
        (b"[]", "is no JSON object"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"servicecidr": "10.0.0.0/16"}', "has no field 'servicecidr'; there are serviceCIDR"),
        (b'{"serviceCIDR": "10.0.0.1/16"}', "serviceCIDR: '10.0.0.1/16' is no IPv4 network"),
        (b'{"serviceCIDR": "10.0.0.0/8"}', "is no network between /12 and /30"),
        (b'{"serviceCIDR": "127.0.0.0/16"}', "of a range that no packet is routed to"),
        (b'{"serviceCIDR": 7}', "is no IPv4 network"),
        (b'{"nodePorts": "32767-30000"}', "is no range of ports"),
        (b'{"nodePorts": "0-70000"}', "is no range of ports"),
        (b'{"nodePorts": []}', "is no range of ports"),
        (b'{"domain": "-x"}', "is no domain"),
        (b'{"domain": 3}', "is no domain"),
    ],
)
def test_what_breaks_a_rule_is_told(text: bytes, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text, about="/overlay/config")
    assert told in str(raised.value)
    assert "/overlay/config" in str(raised.value)
