"""The model of a herd: what it counts, where the capacity suffices and where it does not."""

from __future__ import annotations

import pytest

from tests.simulation.herd import Herd, Member, Terms


def test_a_member_shares_its_capacity_among_those_who_wait() -> None:
    member = Member(reads_per_second=10.0)
    member.ask(1, 0.0)
    assert member.next_answer() == pytest.approx(0.1)
    member.ask(2, 0.05)  # half of the first is done; from here both get half of the capacity
    assert member.next_answer() == pytest.approx(0.15)
    assert member.answer(0.15) == 1
    assert member.next_answer() == pytest.approx(0.2)
    assert member.give_up(2, 0.16)
    assert not member.give_up(2, 0.17)
    assert member.next_answer() == float("inf")


def test_a_small_herd_follows_again_and_what_is_asked_is_accounted_for() -> None:
    herd = Herd(Terms(followers=100, down=1.0))
    herd.run(0.9)
    assert (herd.following, herd.asked) == (0, 0)
    herd.run(30.0)
    assert herd.following == 100
    assert herd.asked == herd.answered + herd.given_up >= 100


def test_nobody_follows_a_member_that_answers_too_late() -> None:
    herd = Herd(Terms(followers=10, reads_per_second=0.1))
    herd.run(20.0)
    assert (herd.following, herd.answered) == (0, 0)
    assert herd.given_up > 10
