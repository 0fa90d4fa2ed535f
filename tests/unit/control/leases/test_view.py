"""The mirror of the leases against plain set arithmetic."""

from __future__ import annotations

from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from overlay.control.leases.index import SubnetIndex
from overlay.control.leases.view import LeaseView
from overlay.store.contract import Event, Events, KeyValue, Snapshot

DIRECTORY = "/coreos.com/network/subnets/"
VALUE = b'{"PublicIP":"172.31.0.1","PublicIPv6":null}'


def network(number: int, length: int) -> IPv4Network:
    return IPv4Network(((10 << 24) | (number << 6), length), strict=False)


networks = st.builds(network, st.integers(0, 40), st.integers(20, 28))


def kv(subnet: str, revision: int, value: bytes = VALUE, lease: int = 1) -> KeyValue:
    return KeyValue(f"{DIRECTORY}{subnet}", value, revision, lease)


@given(st.lists(networks, max_size=20), st.sets(st.integers(0, 19)), networks)
def test_overlaps_as_a_linear_scan_finds_them(added: list[IPv4Network], removed: set[int], asked: IPv4Network) -> None:
    index = SubnetIndex(32)
    for number, subnet in enumerate(added):
        index.add(subnet, str(number))
    kept = dict(enumerate(added))
    for number in removed & kept.keys():
        index.discard(kept.pop(number), str(number))
    expected = {str(number) for number, subnet in kept.items() if subnet.overlaps(asked)}
    assert set(index.overlapping(int(asked.network_address), asked.prefixlen)) == expected


def test_a_second_snapshot_is_compared_whole() -> None:
    """flannel 563, 1247: a changed peer on a known subnet was missed."""
    view = LeaseView(DIRECTORY)
    view.load(Snapshot(5, (kv("10.0.1.0-24", 3), kv("10.0.2.0-24", 4), kv("10.0.3.0-24", 5))), 0.0)
    moved = kv("10.0.2.0-24", 8, b'{"PublicIP":"172.31.0.9"}')
    changed = view.load(Snapshot(9, (kv("10.0.1.0-24", 3), moved, kv("10.0.4.0-24", 9))), 1.0)
    assert {key.rpartition("/")[2] for key in changed} == {"10.0.2.0-24", "10.0.3.0-24", "10.0.4.0-24"}
    record = view.record(moved.key)
    assert record is not None
    assert str(record.lease.public_ip) == "172.31.0.9"


def test_events_seen_twice_count_once() -> None:
    view = LeaseView(DIRECTORY)
    view.load(Snapshot(5, (kv("10.0.1.0-24", 3),)), 0.0)
    gone = Events(7, (Event(KeyValue(f"{DIRECTORY}10.0.1.0-24", b"", 7), deleted=True),))
    assert view.apply(gone)
    assert not view.apply(gone)
    assert not view.apply(Events(6, (Event(kv("10.0.1.0-24", 6)),)))
    assert not view.records


def test_every_event_of_a_batch_counts() -> None:
    """flanneld v0.20.2 read only the first event of a batch, so a burst of joins left it ignorant of peers."""
    view = LeaseView(DIRECTORY)
    view.load(Snapshot(1, ()), 0.0)
    view.apply(Events(9, tuple(Event(kv(f"10.0.{n}.0-24", n)) for n in range(2, 10))))
    assert len(view.records) == 8


def test_a_restored_store_begins_a_new_epoch_even_with_equal_revisions() -> None:
    view = LeaseView(DIRECTORY)
    view.load(Snapshot(50, (kv("10.0.1.0-24", 3),)), 0.0)
    other = kv("10.0.1.0-24", 3, b'{"PublicIP":"172.31.0.9"}')
    assert view.load(Snapshot(4, (other,)), 1.0) == {other.key}
    assert view.epoch == 1
    assert view.as_compare(other.key).value == other.value


def test_a_malformed_value_still_takes_its_subnet() -> None:
    view = LeaseView(DIRECTORY)
    view.load(Snapshot(5, (kv("10.0.1.0-24", 3, b"nonsense"), kv("what", 4), kv("10.0.2.0-24", 5))), 0.0)
    assert set(view.malformed) == {f"{DIRECTORY}10.0.1.0-24", f"{DIRECTORY}what"}
    assert set(view.records) == {f"{DIRECTORY}10.0.2.0-24"}
    assert not view.is_free(int(network(0, 24).network_address) + 256, 24, 4)
    assert view.load(Snapshot(6, ()), 1.0) == {f"{DIRECTORY}{key}" for key in ("10.0.1.0-24", "what", "10.0.2.0-24")}
    assert not view.malformed


def test_a_sign_of_life_counts_as_seen_so_an_older_snapshot_shows_a_restored_store() -> None:
    view = LeaseView(DIRECTORY)
    view.load(Snapshot(5, (kv("10.0.1.0-24", 3),)), 0.0)
    assert not view.apply(Events(9, ()))
    assert view.revision == 9
    view.load(Snapshot(8, (kv("10.0.1.0-24", 3),)), 1.0)
    assert view.epoch == 1
