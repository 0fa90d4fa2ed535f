"""The maps that programs and agent share: what is written is what the programs see, and it outlives its writer."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from overlay.datapath.kernel.maps import Endpoint, read_counters, write_endpoint
from overlay.datapath.kernel.programs import OBJECT, PIN_ROOT, Loaded, load, pin_directory, unpin, unpin_dead
from overlay.errors import DatapathError
from overlay.linux.libbpf import Map, Object, dry_run
from overlay.model import Peer, PeerTable
from tests.netns.test_kernel_admission import DROP, OUR_ADDRESS, PORT, REDIRECT, Outer
from tests.support.admission import OWN, PEERS, ipv4
from tests.support.namespaces import namespace
from tests.support.programs import variant

pytestmark = pytest.mark.root


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    """A directory of bpffs that is nobody else's."""
    load(OBJECT, PIN_ROOT / f"test-{tmp_path.name}" / "mount").close()  # mounts bpffs if need be
    unpin(PIN_ROOT / f"test-{tmp_path.name}" / "mount")
    directory = PIN_ROOT / f"test-{tmp_path.name}" / "flannel0"
    yield directory
    unpin(directory)
    assert not directory.exists()


def in_kernel(loaded: Loaded, source: str, outer_source: IPv4Address) -> int:
    return dry_run(loaded.decap, Outer(outer_source).around(ipv4(source=source))).verdict


def random_table(chance: random.Random) -> PeerTable:
    peers = []
    for _ in range(chance.randrange(60)):
        length = chance.choice((16, 20, 24, 24, 24, 28))
        base = 0x0A000000 | chance.randrange(1 << 12) << 8 & ~((1 << 32 - length) - 1)
        subnet = IPv4Network((base & 0xFFFFFFFF << 32 - length, length))
        peers.append(Peer(subnet, IPv4Address(0xAC1F0000 + chance.randrange(2, 20))))
    return PeerTable.of(OWN, peers)


def test_every_table_becomes_the_kernels_whatever_was_there_before() -> None:
    chance = random.Random(7)
    loaded = load(OBJECT, None)
    write_endpoint(loaded.endpoint, Endpoint(OUR_ADDRESS, PORT, OWN, 71))
    for _ in range(60):
        table = random_table(chance)
        loaded.peers.replace(table)
        assert loaded.peers.replace(table) == 0, "the second time there is nothing to do"
        for _ in range(60):
            source = IPv4Address(0x0A000000 + chance.randrange(1 << 20))
            owner = table.lookup(source)
            if source in OWN:
                continue
            verdict = in_kernel(loaded, str(source), owner.public_ip if owner else IPv4Address("172.31.0.2"))
            assert verdict == (REDIRECT if owner else DROP)
            if owner:
                assert in_kernel(loaded, str(source), owner.public_ip + 1) == DROP
    loaded.close()


def test_a_successor_finds_peers_and_counters(pins: Path) -> None:
    first = load(OBJECT, pins)
    assert not first.adopted
    first.peers.replace(PEERS)
    write_endpoint(first.endpoint, Endpoint(OUR_ADDRESS, PORT, OWN, 71))
    assert in_kernel(first, "10.0.2.9", IPv4Address("172.31.0.2")) == REDIRECT
    first.close()

    second = load(OBJECT, pins)
    assert second.adopted
    assert read_counters(second.counters)["rx_packets"] == 1
    assert second.peers.replace(PEERS) == 0
    left = PeerTable.of(OWN, [peer for peer in PEERS.peers.values() if peer.public_ip != IPv4Address("172.31.0.2")])
    assert second.peers.replace(left) == 1
    assert in_kernel(second, "10.0.2.9", IPv4Address("172.31.0.2")) == DROP
    assert read_counters(second.counters)["drop_outer_source"] == 1, "and its address is a stranger's now"
    second.close()


def test_pins_of_a_namespace_that_is_gone_are_removed() -> None:
    with namespace("gone") as made:
        alive = PIN_ROOT / str(os.stat(f"/run/netns/{made.name}").st_ino) / "flannel0"
        load(OBJECT, alive).close()
        unpin_dead()
        assert alive.exists()
    unpin_dead()
    assert not alive.exists()


def test_a_namespace_that_got_the_number_of_a_dead_one_does_not_inherit_its_peers() -> None:
    """Numbers of namespaces are given out again; only the cookie tells who has pinned something under one."""
    with namespace("reused") as made:
        ours = made.call(lambda: pin_directory("flannel0"))
        number, cookie = ours.parent.name.split("-")
        dead = PIN_ROOT / f"{number}-{int(cookie) + 1}" / "flannel0"
        former = load(OBJECT, dead)
        former.peers.replace(PEERS)
        former.close()
        loaded = made.call(lambda: load(OBJECT, pin_directory("flannel0")))
        assert not loaded.adopted
        loaded.close()
        assert (dead.exists(), ours.exists()) == (False, True)
    unpin_dead()
    assert not ours.exists()


def test_who_left_is_gone_though_there_is_no_room_for_who_came(tmp_path: Path) -> None:
    """A batch that fails half-way leaves no peer that is none any more, and the next table is exact again."""
    loaded = load(variant(tmp_path / "small", "1 << 17); /* twice", "8); /* twice"), None)
    write_endpoint(loaded.endpoint, Endpoint(OUR_ADDRESS, PORT, OWN, 71))

    def table(first: int, count: int, host: int) -> PeerTable:
        numbers = range(first, first + count)
        return PeerTable.of(
            OWN, [Peer(IPv4Network(f"10.0.{n}.0/24"), IPv4Address(f"172.31.0.{host}")) for n in numbers]
        )

    def enters(number: int, host: int) -> bool:
        return in_kernel(loaded, f"10.0.{number}.9", IPv4Address(f"172.31.0.{host}")) == REDIRECT

    loaded.peers.replace(table(10, 6, host=2))
    assert all(enters(number, 2) for number in range(10, 16))
    for first, host in ((40, 3), (12, 4)):  # others altogether; and some of the same, moved to another node
        with pytest.raises(DatapathError):
            loaded.peers.replace(table(first, 20, host))
        assert not any(enters(number, former) for number in range(10, 60) for former in {2, 3, 4} - {host})
        loaded.peers.replace(table(first, 5, host))
        assert all(enters(number, host) == (first <= number < first + 5) for number in range(10, 60))
        assert loaded.peers.replace(table(first, 5, host)) == 0
    loaded.close()


def test_maps_of_another_layout_are_replaced(pins: Path) -> None:
    """As another version may leave them: here the counters lie where the config belongs."""
    pins.mkdir(parents=True)
    with Object(OBJECT) as other:
        other.pin("causes", pins / "endpoint")
        other.load()
    loaded = load(OBJECT, pins)
    assert not loaded.adopted
    assert write_endpoint(loaded.endpoint, Endpoint(OUR_ADDRESS, PORT, OWN, 71))
    loaded.close()


def test_maps_of_another_version_are_removed_with_ours(pins: Path) -> None:
    pins.mkdir(parents=True)
    with Object(OBJECT) as other:
        other.pin("causes", pins / "of-another-version")
        other.load()
    load(OBJECT, pins).close()
    assert unpin(pins)
    assert not pins.exists()


def test_a_refused_object_names_its_cause(tmp_path: Path) -> None:
    broken = tmp_path / "broken.bpf.o"
    broken.write_bytes(OBJECT.read_bytes()[:1000])
    with pytest.raises(DatapathError, match=r"broken\.bpf\.o"):
        load(broken, None)
    with pytest.raises(DatapathError, match="No such file"):
        load(tmp_path / "missing.o", None)


def test_the_programs_know_the_path_mtus_of_peers_alone(pins: Path) -> None:
    """And still do when the next agent takes over, until that says otherwise."""
    second, third, stranger = (IPv4Address(f"172.31.0.{number}") for number in (2, 3, 99))
    loaded = load(OBJECT, pins)
    loaded.peers.replace(PEERS)

    def known() -> dict[IPv4Address, int]:
        values = ((key, senders.get(key)) for key in senders.scan())
        return {IPv4Address(key): int.from_bytes(value, sys.byteorder) for key, value in values if value and any(value)}

    senders = Map.pinned(pins / "senders")
    loaded.peers.limit({second: 1400, third: 1300, stranger: 1000})
    assert known() == {second: 1400, third: 1300}
    loaded.peers.limit({second: 1400})
    assert known() == {second: 1400}
    loaded.peers.replace(PEERS)
    assert known() == {second: 1400}, "who stays a peer keeps it"
    loaded.close()
    another = load(OBJECT, pins)
    assert known() == {second: 1400}
    another.peers.replace(PeerTable.of(OWN, []))
    another.peers.replace(PEERS)
    assert known() == {}, "who left and came back begins anew"
    another.peers.limit({third: 1200})
    another.peers.limit({})
    assert known() == {}
    senders.close()
    another.close()
