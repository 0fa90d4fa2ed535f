"""The shipped object is what its source says, and Python's view of its layouts is the C file's."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from ipaddress import IPv4Address, IPv4Network

import pytest

from overlay.datapath.kernel import attach, build
from overlay.datapath.kernel.maps import Endpoint
from overlay.datapath.kernel.programs import OBJECT

SOURCE = build.SOURCE.read_text()


def test_the_object_belongs_to_the_source() -> None:
    manifest = json.loads(build.MANIFEST.read_text())
    assert manifest["source_sha256"] == hashlib.sha256(build.SOURCE.read_bytes()).hexdigest()
    assert manifest["object_sha256"] == hashlib.sha256(OBJECT.read_bytes()).hexdigest()
    assert manifest["flags"] == list(build.FLAGS)


@pytest.mark.skipif(shutil.which("clang") is None or shutil.which("llvm-strip") is None, reason="needs clang and llvm")
def test_the_object_can_be_rebuilt() -> None:
    outcome = build.check()
    same_compiler = "the same to the last byte" in outcome
    assert same_compiler or "bytes were not compared" in outcome


def test_wrong_arguments_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--chek"]) == 1
    assert capsys.readouterr().err == "--chek: unknown argument; use --check or none\n"


def test_no_path_of_the_builder_is_in_the_object() -> None:
    content = OBJECT.read_bytes()
    assert b"/home" not in content
    assert str(OBJECT.parent).encode() not in content


def test_config_has_the_programs_layout() -> None:
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
        "flags": 1,
        "tun": 7,
        "gro": 8,
        "finish": 9,
        "second": 250,
        "secret": 1 << 63,
    }


@pytest.mark.parametrize("device", ["flannel0", "f", "flannel1234", "a-name-of-15-ch"])
def test_names_of_the_veth_pair_fit(device: str) -> None:
    names = attach.gro_pair(device)
    assert len(set(names)) == 2
    assert all(0 < len(name) <= 15 for name in names)
    assert attach.gro_pair(device) == names


def test_long_devices_do_not_share_a_veth_pair() -> None:
    assert attach.gro_pair("a-name-of-15-ch") != attach.gro_pair("a-name-of-15-cx")
