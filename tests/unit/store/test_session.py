"""Our etcd lease: when it is granted and refreshed, and until when it surely lives."""

from __future__ import annotations

from random import Random

import pytest

from overlay.store.contract import NO_LEASE
from overlay.store.session import Grant, Refresh, Session

TTL = 60


def new_session(lease_id: int = NO_LEASE) -> Session:
    return Session(TTL, 20.0, Random(1), lease_id)


def test_a_lease_lives_from_when_it_was_first_asked_for() -> None:
    """The answer to the first grant was lost; the lease may have been made by it."""
    session = new_session()
    first = session.action(100.0)
    assert first == Grant(session.lease_id, TTL)
    assert session.action(110.0) == first
    session.granted()
    assert session.valid_until == 100.0 + TTL


def test_a_grant_without_an_answer_is_asked_for_under_another_id_before_it_may_end() -> None:
    session = new_session()
    first = session.action(100.0)
    second = session.action(100.0 + TTL / 2)
    assert isinstance(second, Grant)
    assert second != first
    assert session.action(101.0 + TTL / 2) == second
    session.granted()
    assert session.valid_until == 100.0 + TTL / 2 + TTL


def test_a_lease_that_is_gone_is_followed_by_another_that_is_counted_anew() -> None:
    session = new_session()
    session.action(100.0)
    session.granted()
    old, now = session.lease_id, 150.0
    assert session.action(now) == Refresh(old)
    assert not session.refreshed(0)
    assert session.valid_until == 0.0
    assert session.action(now) == Grant(session.lease_id, TTL)
    assert session.lease_id != old
    session.granted()
    assert session.valid_until == now + TTL


@pytest.mark.parametrize(("ttl", "kept"), [(TTL, True), (TTL + 1, False), (0, False)])
def test_a_lease_from_before_is_kept_if_it_lives_and_has_our_ttl(ttl: int, kept: bool) -> None:
    session = new_session(7)
    assert session.action(100.0) == Refresh(7)
    assert session.refreshed(ttl) is kept
    assert (session.lease_id == 7) is kept
    assert (session.action(100.0) is None) is kept


def test_it_is_refreshed_in_time_and_not_before() -> None:
    session = new_session()
    session.action(100.0)
    session.granted()
    assert session.action(session.refresh_due - 0.01) is None
    assert session.refresh_due <= 100.0 + TTL / 3
    assert session.action(session.refresh_due) == Refresh(session.lease_id)
    assert session.refreshed(TTL)
    assert session.valid_until == pytest.approx(session.refresh_due, abs=TTL)
    assert session.valid_until > 100.0 + TTL
