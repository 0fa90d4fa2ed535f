"""What a keeper writes compares all that it judged, and nothing is decided before the view shows what became of it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from random import Random

from overlay.control.leases import writes
from overlay.control.leases.allocator import Claim, Source
from overlay.control.leases.pending import READ_AGAIN_AFTER, Pending
from overlay.control.leases.state import ReadAgain
from overlay.control.leases.view import LeaseView
from overlay.control.schema.lease import LeaseRecord
from overlay.store.contract import Committed, Compare, Delete, KeyValue, Snapshot

PREFIX = "/coreos.com/network/subnets/"
OURS, STALE = f"{PREFIX}10.0.1.0-24", f"{PREFIX}10.0.2.0-24"
VALUE = b'{"PublicIP":"172.31.0.1","NodeID":"me"}'


def view_at(revision: int) -> LeaseView:
    view = LeaseView(PREFIX)
    view.load(Snapshot(revision, (KeyValue(OURS, VALUE, 3, 7), KeyValue(STALE, VALUE, 4, 7))), 0.0)
    return view


def record(view: LeaseView, key: str) -> LeaseRecord:
    found = view.record(key)
    assert found is not None
    return found


def test_a_claim_compares_what_it_deletes() -> None:
    view = view_at(9)
    ours, stale = record(view, OURS), record(view, STALE)
    wanted = Claim(OURS, replace(ours.lease, public_ip=IPv4Address("172.31.0.2")), Source.OWN, False, ours, (stale,))
    commit = writes.claim(view, wanted, 7)
    assert [(each.key, each.mod_revision) for each in commit.compares] == [(OURS, 3), (STALE, 4)]
    assert commit.operations[1:] == (Delete(STALE),)


def test_a_refusal_by_values_alone_waits_for_a_new_snapshot() -> None:
    """The store was restored: its revisions are those that the view has, and are of another history."""
    view = view_at(9)
    commit = writes.sweep(view, record(view, STALE))
    pending = Pending(view, Random(1))
    pending.decided(commit)
    assert pending.completed() is commit
    pending.answered(commit, Committed(False, 9, (KeyValue(STALE, b"other", 4, 7),)), 100.0)
    assert pending.unseen(100.0) == 100.0 + READ_AGAIN_AFTER
    assert isinstance(pending.unseen(102.0), ReadAgain)
    view.load(Snapshot(9, ()), 101.0)
    assert pending.unseen(102.0) is None


def test_a_refusal_is_over_once_the_view_has_what_was_in_the_way() -> None:
    view = view_at(9)
    commit = writes.sweep(view, record(view, STALE))
    pending = Pending(view, Random(1))
    pending.decided(commit)
    pending.completed()
    pending.answered(commit, Committed(False, 9, (KeyValue(STALE, b"other", 8, 7),)), 100.0)
    assert pending.unseen(100.0) is not None
    view.load(Snapshot(9, (KeyValue(STALE, VALUE, 8, 7),)), 99.0)
    assert pending.unseen(100.0) is None
    assert commit.compares == (Compare(STALE, 4, VALUE),)
