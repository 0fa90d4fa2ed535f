"""The model of a herd, and what 5,000 real followers do in it."""

from __future__ import annotations

import pytest

from tests.simulation.herd import Herd, Member, Request, Terms


def test_a_member_shares_its_capacity_among_those_who_wait() -> None:
    member = Member()
    member.ask(1, 0.1, 0.0)
    assert member.next_answer() == pytest.approx(0.1)
    member.ask(2, 0.1, 0.05)  # half of the first is done; from here both get half of the time
    assert member.next_answer() == pytest.approx(0.15)
    assert member.answer(0.15) == 1
    assert member.next_answer() == pytest.approx(0.2)
    assert member.give_up(2, 0.16)
    assert not member.give_up(2, 0.17)
    assert member.next_answer() == float("inf")


def test_a_request_takes_what_is_slower_of_processor_and_link() -> None:
    fast_link = Terms(bytes_per_second=1e12)
    assert sum(fast_link.work(Request.PAGE) for _ in range(5)) == pytest.approx(1.14 / 200, rel=0.01)
    assert Terms(reads_per_second=1e9).work(Request.PAGE) == pytest.approx(168_000 / 125e6)
    assert Terms().work(Request.PROOF) < Terms().work(Request.PAGE) / 2


def test_a_small_herd_follows_again_and_what_is_asked_is_accounted_for() -> None:
    herd = Herd(Terms(followers=100, down=1.0))
    herd.run(0.9)
    assert (herd.following, herd.asked) == (0, 0)
    herd.run(30.0)
    assert herd.following == 100
    assert herd.asked == herd.answered + herd.given_up >= 400


def test_a_large_herd_follows_again_within_half_a_minute_of_a_restart() -> None:
    """Where each read everything again within three seconds or gave up, 82 of 5,000 followed after two minutes."""
    herd = Herd(Terms())
    herd.run(30.0)
    assert herd.following == 5000


@pytest.mark.parametrize("story", ["compacted", "cold"])
def test_a_large_herd_that_has_to_read_everything_comes_to_an_end(story: str) -> None:
    """5,000 times 840 kB are 34 s of a link of 1 Gbit/s, whoever asks; nothing of it may be thrown away for long."""
    herd = Herd(Terms(story=story))
    herd.run(60.0)
    assert herd.following == 5000


def test_a_member_that_takes_long_for_each_answer_is_waited_for() -> None:
    herd = Herd(Terms(followers=10, reads_per_second=0.2, story="cold"))
    herd.run(120.0)
    assert herd.following == 10
    assert herd.given_up > 0
