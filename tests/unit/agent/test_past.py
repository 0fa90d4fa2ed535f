"""What an agent remembers, from files that may be damaged in any way."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.agent.announce import Announcer
from overlay.agent.past import recall, remember
from overlay.control.leases.allocator import Memory

GOOD = {"subnets": ["10.0.5.0/24"], "ipv6_subnets": [], "etcd_lease_id": "1f"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def recalled(folder: Path, content: bytes) -> Memory:
    (folder / "lease.json").write_bytes(content)
    return recall([folder], folder / "subnet.env")


def test_what_was_remembered_comes_back(folder: Path) -> None:
    memory = Memory((IPv4Network("10.0.5.0/24"),), (), 0x1F)
    remember([folder], memory)
    assert recall([folder], folder / "none") == memory


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 200,
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"subnets":' + b"[" * 40_000,
        b" " * 100_000 + json.dumps(GOOD).encode(),
        *(
            json.dumps(damaged).encode()
            for damaged in (
                None, 5, "x", [], {}, [GOOD],
                GOOD | {"subnets": None}, GOOD | {"subnets": "10.0.5.0/24"}, GOOD | {"subnets": [5]},
                GOOD | {"subnets": ["0.0.0.0/0"]}, GOOD | {"subnets": ["224.0.0.0/24"]}, GOOD | {"subnets": {"a": 1}},
                GOOD | {"subnets": ["10.0.5.1/24"]}, GOOD | {"subnets": [["10.0.5.0/24"]]},
                GOOD | {"ipv6_subnets": ["10.0.5.0/24"]}, GOOD | {"ipv6_subnets": [1]},
                GOOD | {"etcd_lease_id": 31}, GOOD | {"etcd_lease_id": "-1"}, GOOD | {"etcd_lease_id": "f" * 16},
                GOOD | {"etcd_lease_id": "zz"}, GOOD | {"etcd_lease_id": None}, GOOD | {"etcd_lease_id": "f" * 60_000},
            )
        ),
    ],
)  # fmt: skip
def test_a_damaged_memory_is_none(folder: Path, content: bytes) -> None:
    assert recalled(folder, content) == Memory()
    (folder / "announced.json").write_bytes(content)
    Announcer("true", folder)


@given(st.binary(max_size=300))
def test_no_bytes_end_the_agent(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        recalled(Path(folder), content)


def test_too_much_is_cut(folder: Path) -> None:
    many = GOOD | {"subnets": [f"10.0.{number}.0/24" for number in range(200)]}
    assert len(recalled(folder, json.dumps(many).encode()).subnets) == 4


def test_a_directory_or_nothing_in_its_place(folder: Path) -> None:
    (folder / "lease.json").mkdir()
    assert recall([folder, folder / "none"], folder) == Memory()


@pytest.mark.parametrize(
    ("line", "subnet"),
    [
        ('FLANNEL_SUBNET="10.5.52.1/24"', "10.5.52.0/24"),
        ("FLANNEL_SUBNET='10.5.52.1/24'  # ours", "10.5.52.0/24"),
        ("  FLANNEL_SUBNET=10.5.52.1/24\r", "10.5.52.0/24"),
        ("FLANNEL_SUBNET=10.5.52.1", None),
        ("FLANNEL_SUBNET=0.0.0.0/0", None),
        ('FLANNEL_SUBNET="10.5.52.1/24', None),
        ("FLANNEL_SUBNET=", None),
        ("FLANNEL_SUBNET=\udcff", None),
    ],
)
def test_subnet_env_as_people_write_it(folder: Path, line: str, subnet: str | None) -> None:
    (folder / "subnet.env").write_bytes(f"FLANNEL_MTU=1472\n{line}\n".encode(errors="surrogateescape"))
    memory = recall([], folder / "subnet.env")
    assert memory.subnets == (() if subnet is None else (IPv4Network(subnet),))
