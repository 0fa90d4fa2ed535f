"""The transactions of a lease's keeper: each changes what was judged, and only as it was judged. Pure.

A key is made only where there is none, and changed or deleted only at the modification revision that the view shows.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from overlay.control.leases.allocator import Claim
from overlay.control.leases.state import Commit, Held, Purpose
from overlay.control.leases.view import LeaseView
from overlay.control.schema.lease import LeaseRecord, format_lease_value
from overlay.model import Lease
from overlay.store.contract import Delete, Put


def claim(view: LeaseView, wanted: Claim, lease_id: int) -> Commit:
    """Takes a subnet, and deletes those of ours that it replaces. Raises LeaseFormatError: that is no lease."""
    stale = [record.key for record in wanted.stale]
    return Commit(
        Purpose.CLAIM,
        tuple(view.as_compare(key) for key in (wanted.key, *stale)),
        (Put(wanted.key, format_lease_value(wanted.lease), lease_id), *map(Delete, stale)),
    )


def ask(view: LeaseView, record: LeaseRecord, asker: IPv4Address) -> Commit:
    """Asks the owner of a lease whether it lives, in that lease (:mod:`.question`)."""
    value = format_lease_value(replace(record.lease, asked_by=asker))
    return Commit(Purpose.ASK, (view.as_compare(record.key),), (Put(record.key, value, record.lease_id),))


def repair(view: LeaseView, held: Held, wanted: Lease, lease_id: int) -> Commit:
    """Has our own lease say what it should. Raises LeaseFormatError: that is no lease."""
    value = format_lease_value(wanted)
    return Commit(Purpose.REPAIR, (view.as_compare(held.key),), (Put(held.key, value, lease_id),))


def sweep(view: LeaseView, record: LeaseRecord) -> Commit:
    """Deletes a stray lease of ours."""
    return _delete(Purpose.SWEEP, view, record)


def release(view: LeaseView, record: LeaseRecord) -> Commit:
    """Gives our subnet back."""
    return _delete(Purpose.RELEASE, view, record)


def _delete(purpose: Purpose, view: LeaseView, record: LeaseRecord) -> Commit:
    return Commit(purpose, (view.as_compare(record.key),), (Delete(record.key),))
