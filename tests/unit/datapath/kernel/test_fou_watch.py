"""When FOU is taken away, and when it gets all TCP: by counters and a clock that the test has."""

from __future__ import annotations

import pytest

from overlay.datapath.kernel.fou import socket_ports
from overlay.datapath.kernel.fou_watch import WINDOW, Verdict, Watch

NAMES = (
    *("rx_fou_left", "rx_fou", "rx_fou_refused", "rx_joined", "rx_unjoined", "rx_fou_trains"),
    *("rx_sampled", "rx_sampled_marked", "rx_fou_unseen"),
)


def counted(*numbers: int) -> dict[str, int]:
    return dict.fromkeys(NAMES, 0) | dict(zip(NAMES, numbers, strict=False)) | {"rx_packets": 7}


def verdicts(*looks: tuple[float, tuple[int, ...]]) -> list[Verdict]:
    watch = Watch()
    return [watch.judge(counted(*numbers), now) for now, numbers in looks]


NOTHING = (0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("gained", "verdict"),
    [
        (NOTHING, Verdict.KEEP),
        ((100_000, 100_000, 0, 0, 500), Verdict.KEEP),
        ((63, 0, 0, 0, 0), Verdict.KEEP),  # too few: the programs watch each peer themselves
        ((64, 0, 0, 0, 0), Verdict.TAKE_BACK),
        ((1000, 499, 0, 0, 0), Verdict.TAKE_BACK),  # a rule with a limit
        ((1000, 500, 0, 0, 0), Verdict.KEEP),
        ((0, 5000, 0, 0, 0), Verdict.KEEP),  # what the slow path would get comes out, too
        ((0, 0, 0, 0, 9_999), Verdict.KEEP),
        ((0, 0, 0, 0, 10_000), Verdict.ALL_TCP),
        ((0, 0, 0, 100, 10_000), Verdict.KEEP),  # the pair joins
        ((100, 100, 0, 0, 10_000), Verdict.KEEP),  # the underlay joins
        ((0, 0, 0, 99, 10_000), Verdict.ALL_TCP),
        ((19_999, 19_999, 0, 0, 0, 10_000), Verdict.TRAINS),
        ((20_000, 20_000, 0, 0, 0, 10_000), Verdict.KEEP),  # as many singly: from elsewhere, perhaps
        ((9_999, 9_999, 0, 0, 0, 9_999), Verdict.KEEP),
        ((20_000, 0, 0, 0, 0, 20_000), Verdict.TAKE_BACK),
        ((0, 0, 0, 65_536, 0, 0, 1, 0), Verdict.KEEP),
        ((0, 0, 0, 65_536, 0, 0, 1, 1), Verdict.JOINED),  # joined, and cut again
        ((0, 0, 0, 131_072, 0, 0, 2, 1), Verdict.KEEP),  # from some nodes only
        ((0, 0, 0, 196_608, 0, 0, 3, 2), Verdict.JOINED),
    ],
)
def test_what_a_window_says(gained: tuple[int, ...], verdict: Verdict) -> None:
    assert verdicts((50.0, NOTHING), (50.0 + WINDOW, gained))[-1] is verdict


def test_a_refusal_after_many_were_lost_waits_for_no_window() -> None:
    assert verdicts((0.0, NOTHING), (0.01, (64, 0, 1, 0, 0)))[-1] is Verdict.TAKE_BACK


def test_one_train_that_was_lost_by_chance_takes_nothing_away() -> None:
    """Of a flow that sends few: its next trains are refused until the programs forget, eight seconds after the loss."""
    looks = [(n / 2, (1 if n < 16 else n - 15, max(0, n - 16), min(n, 15), 0, 0)) for n in range(200)]
    assert set(verdicts(*looks)) == {Verdict.KEEP}


def test_a_firewall_takes_one_train_in_eight_seconds() -> None:
    """The programs forget, leave one more to FOU, and refuse again: that is no chance."""
    looks = [(n / 2, (1 + n // 16, 0, n - n // 16, 0, 0)) for n in range(40)]
    said = verdicts(*looks)
    assert set(said[:18]) == {Verdict.KEEP}
    assert Verdict.TAKE_BACK in said[18:24]


def test_a_firewall_takes_a_train_every_other_minute() -> None:
    """Of flows that are short and far between: nothing has come out since the first was refused."""
    assert verdicts(*((100.0 * n, (5 * n, 0, n, 0, 0)) for n in range(4))) == [
        *(Verdict.KEEP, Verdict.KEEP),
        *(Verdict.TAKE_BACK, Verdict.TAKE_BACK),
    ]


def test_a_chance_loss_every_other_minute_is_no_row() -> None:
    looks = [(70.0 * n, (5 * n, 4 * n, n, 0, 0)) for n in range(20)]
    assert set(verdicts(*looks)) == {Verdict.KEEP}


def test_what_was_counted_before_is_no_matter_of_this_agent() -> None:
    assert verdicts((0.0, (9000, 0, 700, 0, 90_000)), (WINDOW, (9000, 0, 700, 0, 90_000))) == [Verdict.KEEP] * 2


def test_what_most_samples_say_holds() -> None:
    """One of an odd node among a thousand of others, however it falls into a window."""
    looks = [(WINDOW * n, (0, 0, 0, 65_536 * n, 0, 0, n, n // 3)) for n in range(20)]
    assert set(verdicts(*looks)) == {Verdict.KEEP}


def test_windows_follow_each_other() -> None:
    """What is lost over two of them, too little in the first, is judged at the end of the second."""
    looks = [(WINDOW * n / 4, (max(0, n - 3) * 20, 0, 0, 0, 0)) for n in range(9)]
    assert verdicts(*looks) == [Verdict.KEEP] * 8 + [Verdict.TAKE_BACK]


def unseen(*looks: tuple[float, int]) -> list[Verdict]:
    return verdicts(*((now, (*NOTHING, 0, 0, 0, number)) for now, number in looks))


def test_packets_that_pass_by_our_program_take_it_away() -> None:
    assert unseen((0.0, 5), (0.25, 6), (0.5, 6), (1.5, 7)) == [Verdict.KEEP] * 3 + [Verdict.UNSEEN], "a ping a second"
    assert unseen((0.0, 5), (0.25, 600), (0.5, 900)) == [Verdict.KEEP] * 2 + [Verdict.UNSEEN]


def test_a_moment_in_which_packets_pass_by_our_program_does_not() -> None:
    """A new interface, before ours is attached there; and another in the next hour."""
    assert set(unseen((0.0, 5), (0.25, 90), (0.26, 95), (1.5, 95), (2.0, 95), (90.0, 99))) == {Verdict.KEEP}


def test_new_maps_begin_anew() -> None:
    assert (
        verdicts((0.0, (900, 900, 0, 0, 0)), (WINDOW, (100, 0, 0, 0, 0)), (2 * WINDOW, (100, 0, 0, 0, 0)))
        == [Verdict.KEEP] * 3
    )


@pytest.mark.parametrize("port", [1, 8285, 49_000, 49_087, 49_088, 49_151, 60_000, 65_535])
def test_the_slow_path_sends_from_no_flows_port(port: int) -> None:
    candidates = socket_ports(port)
    assert len(candidates) == 64
    assert port not in candidates
    assert set(candidates).isdisjoint(range(port + 1, port + 65)), "of a second network on this machine, as a rule"
    assert all(0 < candidate < 49_152 for candidate in candidates)
