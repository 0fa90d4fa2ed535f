"""Python's view of the layouts is the C file's; names of what the programs need fit."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from overlay.datapath.kernel import attach
from overlay.datapath.kernel.maps import Endpoint, ToFou
from overlay.datapath.kernel.programs import OBJECT

SOURCE = OBJECT.with_suffix(".c").read_text()


@pytest.mark.parametrize(
    ("flags", "known"),
    [(0, ToFou.NOTHING), (4, ToFou.NOTHING), (18, ToFou.TRAINS), (2 | 8 | 4, ToFou.JOINED), (2 | 64, ToFou.TRAINS)],
)
def test_flags_of_another_version_are_as_much_as_is_known(flags: int, known: ToFou) -> None:
    ours = Endpoint(IPv4Address("1.2.3.4"), 8285, IPv4Network("10.0.1.0/24"), tun=7)
    packed = ours.pack()
    theirs = packed[:14] + flags.to_bytes(2, sys.byteorder) + packed[16:]
    assert Endpoint.unpack(theirs) == replace(ours, to_fou=known)


@pytest.mark.parametrize(
    ("to_fou", "flags"),
    [(ToFou.NOTHING, 1), (ToFou.TRAINS, 3), (ToFou.ALL_TCP, 7), (ToFou.JOINED, 11), (ToFou.ALL_IN_IP, 23)],
)
def test_config_has_the_programs_layout(to_fou: ToFou, flags: int) -> None:
    body = re.search(r"struct config \{(.*?)\n\};", SOURCE, re.DOTALL)
    assert body is not None
    fields = re.findall(r"^\t(__\w+) (\w+);", body[1], re.MULTILINE)
    sizes = {"__be32": 4, "__u32": 4, "__be16": 2, "__u16": 2, "__u64": 8}
    endpoint = Endpoint(
        IPv4Address("1.2.3.4"),
        8285,
        IPv4Network("10.0.1.0/24"),
        tun=7,
        gro=8,
        finish=9,
        copy_dscp=True,
        second=250,
        secret=1 << 63,
        socket=8286,
        to_fou=to_fou,
    )
    packed = endpoint.pack()
    assert Endpoint.unpack(packed) == endpoint
    values, at = {}, 0
    for kind, name in fields:
        size = sizes[kind]
        values[name] = int.from_bytes(packed[at : at + size], "big" if kind.startswith("__be") else "little")
        at += size
    assert at == len(packed)
    assert values == {
        "address": 0x01020304,
        "subnet": 0x0A000100,
        "netmask": 0xFFFFFF00,
        "port": 8285,
        "flags": flags,
        "tun": 7,
        "gro": 8,
        "finish": 9,
        "second": 250,
        "socket": 8286,
        "secret": 1 << 63,
    }


@pytest.mark.parametrize("device", ["flannel0", "f", "flannel1234", "a-name-of-15-ch"])
def test_names_of_the_veth_pair_fit(device: str) -> None:
    names = attach.gro_pair(device)
    assert len(set(names)) == 2
    assert all(0 < len(name) <= 15 for name in names)
    assert attach.gro_pair(device) == names


def test_the_device_behind_fou_is_named_as_the_pair() -> None:
    assert attach.fou_device("flannel0") == "flannel0-fou"
    assert len(attach.fou_device("a-name-of-15-ch")) <= 15


def test_long_devices_do_not_share_a_veth_pair() -> None:
    assert attach.gro_pair("a-name-of-15-ch") != attach.gro_pair("a-name-of-15-cx")
