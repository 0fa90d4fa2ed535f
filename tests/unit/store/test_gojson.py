"""What Go's encoding/json makes of a document, in flannel's types, and that ours makes the same of it.

The types: ``Config`` (pkg/subnet/config.go), ``LeaseAttrs`` (pkg/lease/lease.go), ``IP4``, ``IP4Net`` and ``*IP6``
(pkg/ip), whose UnmarshalJSON is called for null too, and ``subnetRegex`` (pkg/subnet/subnet.go) for keys. Where we
refuse what flannel takes, or the reverse, the row says why.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest

from overlay import backends
from overlay.control.leases.view import LeaseView
from overlay.control.schema.config import parse_config, render_config
from overlay.control.schema.lease import parse_lease_value
from overlay.errors import ConfigError, LeaseFormatError
from overlay.store.contract import Event, Events, KeyValue, Snapshot
from overlay.store.gojson import MAX_DEPTH

SUBNET = IPv4Network("10.5.52.0/24")
ABC = "1.2.3.4"


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


LEASES: dict[str, str | None] = {
    '{"PublicIP":"1.2.3.4"}': ABC,
    ' \t\r\n{ "PublicIP" : "1.2.3.4" } \n': ABC,
    '{"publicip":"1.2.3.4"}': ABC,
    '{"PUBLICIP":"1.2.3.4"}': ABC,
    # Of several that match, each is decoded and the last counts.
    '{"PublicIP":"9.9.9.9","PublicIP":"1.2.3.4"}': ABC,
    '{"PublicIP":"9.9.9.9","publicip":"1.2.3.4"}': ABC,
    '{"publicip":"9.9.9.9","PublicIP":"1.2.3.4"}': ABC,
    '{"PublicIP":"nonsense","publicip":"1.2.3.4"}': None,
    '{"PublicIP":"1.2.3.4","publicip":null}': None,
    # An address in a string, of whatever family it is written in, without a zone.
    '{"PublicIP":"::ffff:1.2.3.4"}': ABC,
    '{"PublicIP":"::1"}': None,
    '{"PublicIP":"1.2.3.04"}': None,
    '{"PublicIP":"1.2.3"}': None,
    '{"PublicIP":" 1.2.3.4"}': None,
    '{"PublicIP":16909060}': None,
    '{"PublicIP":["1.2.3.4"]}': None,
    '{"PublicIP":null}': None,
    '{"PublicIP":""}': None,
    '{"PublicIP":"1.2.3.4","PublicIPv6":null}': ABC,
    '{"PublicIP":"1.2.3.4","PublicIPv6":"fd00::1"}': ABC,
    '{"PublicIP":"1.2.3.4","PublicIPv6":"5.6.7.8"}': ABC,
    '{"PublicIP":"1.2.3.4","PublicIPv6":"fe80::1%eth0"}': None,
    '{"PublicIP":"1.2.3.4","PublicIPv6":""}': None,
    '{"PublicIP":"1.2.3.4","PublicIPv6":7}': None,
    # A string is a string, null leaves it as it was.
    '{"PublicIP":"1.2.3.4","BackendType":null}': ABC,
    '{"PublicIP":"1.2.3.4","BackendType":"udp","backendtype":null}': ABC,
    '{"PublicIP":"1.2.3.4","BackendType":7}': None,
    # Raw messages, and whatever is unknown, are any JSON.
    '{"PublicIP":"1.2.3.4","BackendData":"x","BackendV6Data":[1,{"a":null}]}': ABC,
    '{"PublicIP":"1.2.3.4","BackendData":null}': ABC,
    f'{{"PublicIP":"1.2.3.4","x":{"9" * 5000},"y":1e999,"z":-0}}': ABC,
    f'{{"PublicIP":"1.2.3.4","x":{nested(MAX_DEPTH - 1)}}}': ABC,
    '{"PublicIP":"1.2.3.4","x":"' + "[{" * 1000 + '"}': ABC,
    '{"PublicIP":"1.2.3.4","x":"\\ud800\\u0000"}': ABC,
    # What is no JSON.
    "": None,
    '{"PublicIP":"1.2.3.4"}}': None,
    '{"PublicIP":"1.2.3.4",}': None,
    "{'PublicIP':'1.2.3.4'}": None,
    '{"PublicIP":"1.2.3.4","x":NaN}': None,
    '{"PublicIP":"1.2.3.4","x":Infinity}': None,
    '{"PublicIP":"1.2.3.4","x":01}': None,
    '{"PublicIP":"1.2.3.4","x":1.}': None,
    '{"PublicIP":"1.2.3.4","x":"a\nb"}': None,
    '{"PublicIP":"1.2.3.4","x":"\\x"}': None,
    '\ufeff{"PublicIP":"1.2.3.4"}': None,
    '["PublicIP"]': None,
    '"PublicIP"': None,
    # Taken by flannel, and not by us: it would be a node without an address, or more than a stack takes.
    "{}": None,
    "null": None,
    '{"PublicIP":"0.0.0.0"}': None,
    f'{{"PublicIP":"1.2.3.4","x":{nested(MAX_DEPTH)}}}': None,
    f'{{"PublicIP":"1.2.3.4","x":{nested(5000)}}}': None,
}  # fmt: skip


@pytest.mark.parametrize("text", LEASES)
def test_lease_values(text: str) -> None:
    expected = LEASES[text]
    if expected is None:
        with pytest.raises(LeaseFormatError):
            parse_lease_value(text.encode(), SUBNET)
    else:
        assert parse_lease_value(text.encode(), SUBNET).public_ip == IPv4Address(expected)


def test_bytes_that_are_not_utf_8_and_half_characters_are_replaced() -> None:
    value = b'{"PublicIP":"1.2.3.4","NodeID":"a\xff\\udc80\\ud83d\\ude00","\xfe":1}'
    assert parse_lease_value(value, SUBNET).node_id == "a\ufffd\ufffd\U0001f600"


def test_an_address_may_be_written_as_one_of_the_other_family() -> None:
    lease = parse_lease_value(b'{"PublicIP":"::ffff:1.2.3.4","PublicIPv6":"5.6.7.8"}', SUBNET)
    assert (lease.public_ip, lease.public_ipv6) == (IPv4Address(ABC), IPv6Address("::ffff:5.6.7.8"))


NET = '"Network":"10.3.0.0/16"'

CONFIGS: dict[str, str | None] = {
    f"{{{NET}}}": "udp",
    '{"NETWORK":"10.3.0.0/16"}': "udp",
    f'{{{NET},"Bac\\u212aend":{{"Type":"vxlan"}}}}': "vxlan",  # the Kelvin sign is a k
    f'{{{NET},"\\u017fubnetLen":26}}': "udp",  # and the long s an s
    f'{{{NET},"Backend":{{"Type":"VXLAN"}}}}': "vxlan",
    f'{{{NET},"Backend":{{"type":"host-gw"}}}}': "host-gw",
    f'{{{NET},"Backend":{{"Type":"vxlan","type":"udp"}}}}': "udp",
    f'{{{NET},"Backend":{{"Type":"udp","type":null}}}}': "udp",
    f'{{{NET},"Backend":{{"Type":"vxlan"}},"backend":{{"Type":"udp"}}}}': "udp",
    # Only without Backend it is udp: one without Type is no backend that there is.
    f'{{{NET},"Backend":{{}}}}': None,
    f'{{{NET},"Backend":null}}': None,
    f'{{{NET},"Backend":{{"Type":""}}}}': None,
    f'{{{NET},"Backend":{{"Type":null}}}}': None,
    f'{{{NET},"Backend":{{"Port":8285}}}}': None,
    f'{{{NET},"Backend":"udp"}}': None,
    f'{{{NET},"Backend":[]}}': None,
    f'{{{NET},"Backend":{{"Type":{{}}}}}}': None,
    # Networks and addresses of both families are decoded, whichever is enabled.
    f'{{{NET},"IPv6Network":"nonsense"}}': None,
    f'{{{NET},"IPv6Network":null}}': None,
    f'{{{NET},"IPv6Network":"fd00::/130"}}': None,
    f'{{{NET},"IPv6SubnetMin":null,"IPv6SubnetMax":null}}': "udp",
    f'{{{NET},"IPv6SubnetMin":"nonsense"}}': None,
    f'{{{NET},"IPv6SubnetLen":"64"}}': None,
    f'{{{NET},"IPv6SubnetLen":-1}}': None,
    f'{{{NET},"IPv6SubnetLen":200}}': "udp",  # judged only where it is used
    f'{{{NET},"EnableIPv6":"yes"}}': None,
    f'{{{NET},"EnableIPv6":null,"EnableIPv4":null}}': "udp",
    f'{{{NET},"SubnetMin":null}}': None,
    f'{{{NET},"SubnetMin":""}}': None,
    f'{{{NET},"SubnetMin":"0.0.0.0"}}': "udp",
    f'{{{NET},"SubnetMin":"::ffff:10.3.9.0"}}': "udp",
    f'{{{NET},"SubnetMax":7}}': None,
    f'{{{NET},"SubnetLen":null}}': "udp",
    f'{{{NET},"SubnetLen":0}}': "udp",
    f'{{{NET},"SubnetLen":24.0}}': None,
    f'{{{NET},"SubnetLen":2.4e1}}': None,
    f'{{{NET},"SubnetLen":true}}': None,
    f'{{{NET},"SubnetLen":{"9" * 40}}}': None,
    f'{{{NET},"SubnetLen":"nonsense","subnetlen":24}}': None,
    f'{{{NET},"EnableNFTables":1}}': None,
    '{"Network":"10.3.7.9/16"}': "udp",
    '{"Network":"10.3.0.0/016"}': "udp",
    '{"Network":"10.3.0.0"}': None,
    '{"Network":"10.3.0.0/255.255.0.0"}': None,
    '{"Network":"10.3.0.0/+16"}': None,
    '{"Network":"10.03.0.0/16"}': None,
    '{"Network":"fd00::/48"}': None,
    '{"Network":"0.0.0.0/0"}': None,  # flannel's "not given"
    '{"Network":null}': None,
    '{"Network":["10.3.0.0/16"]}': None,
    '{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:1::/48"}': "udp",
    '{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fe80::%eth0/48"}': None,
}


@pytest.mark.parametrize("text", CONFIGS)
def test_configs(text: str) -> None:
    expected = CONFIGS[text]
    if expected is None:
        with pytest.raises(ConfigError):
            backends.options(parse_config(text).backend)
    else:
        parsed = parse_config(text)
        assert parsed.backend.type == expected
        json.loads(render_config(parsed, backends.options(parsed.backend)))


LEASE, TAKEN, NOTHING = "a lease", "no lease, but its subnet is taken", "nothing"

KEYS = {
    "10.5.52.0-24": LEASE,
    "10.5.52.0-024": LEASE,
    "x10.5.52.0-24": LEASE,  # the end of the key counts, whatever stands before
    "more/10.5.52.0-24": LEASE,
    "10.5.52.0-24&fd00:5:52::-64": LEASE,
    "10.5.52.0-24&fd00:5:52:0::0-064": LEASE,
    # flanneld counts the subnet as taken, and reaches nobody by it (proxy_amd64.c compares with host bits).
    "10.5.52.7-24": TAKEN,
    "10.5.52.0-24&fd00:5:52::1-64": TAKEN,
    "10.5.52.0-32": NOTHING,
    "10.5.52.0-24&fd00:5:52::-128": NOTHING,
    "10.5.52.256-24": NOTHING,
    "10.5.52.0-24 ": NOTHING,
    "10.5.52.0-24\n": NOTHING,
    "10.5.52.0-24/": NOTHING,
    "10.5.52.0-": NOTHING,
    "10.5.52.0": NOTHING,
    "10x5x52x0-24": NOTHING,
    "config": NOTHING,
    "": NOTHING,
}


@pytest.mark.parametrize("name", KEYS)
def test_keys(name: str) -> None:
    """flannel's own key with host bits: a subnet that two nodes would share if it did not count as taken."""
    view = LeaseView("/p/subnets/")
    item = KeyValue(view.directory + name, b'{"PublicIP":"1.2.3.4"}', 5)
    view.load(Snapshot(5, (item,)), 0.0)
    overlapping = view.overlapping(SUBNET)
    assert (item.key in view.records) == (KEYS[name] == LEASE)
    assert (item.key in view.malformed) == (KEYS[name] != LEASE)
    assert overlapping == (set() if KEYS[name] == NOTHING else {item.key})
    view.apply(Events(6, (Event(KeyValue(item.key, b"", 6), deleted=True),)))
    assert not view.overlapping(SUBNET)
    assert not view.malformed
