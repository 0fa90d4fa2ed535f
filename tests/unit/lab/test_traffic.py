"""Reading what ping and iperf3 print."""

from __future__ import annotations

import pytest

from overlay.errors import LabError
from overlay.lab.traffic import Ping, Transfer, iperf_document

ANSWERED = """\
PING 10.0.39.2 (10.0.39.2) 56(84) bytes of data.
64 bytes from 10.0.39.2: icmp_seq=1 ttl=60 time=1.14 ms
64 bytes from 10.0.39.2: icmp_seq=2 ttl=60 time=0.741 ms

--- 10.0.39.2 ping statistics ---
3 packets transmitted, 2 received, 33.3333% packet loss, time 626ms
rtt min/avg/max/mdev = 0.670/0.850/1.139/0.206 ms
"""
UNANSWERED = """\
PING 10.0.39.2 (10.0.39.2) 56(84) bytes of data.
From 10.0.58.0 icmp_seq=1 Destination Net Unreachable

--- 10.0.39.2 ping statistics ---
1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms
"""


def test_ping_with_answers() -> None:
    ping = Ping.parse(ANSWERED)
    assert ping == Ping(sent=3, received=2, rtt_ms=0.850, ttl=60)
    assert not ping.complete


def test_ping_without_answers() -> None:
    assert Ping.parse(UNANSWERED) == Ping(sent=1, received=0, rtt_ms=None, ttl=None)


def test_ping_that_sent_nothing_is_an_error_in_its_own_words() -> None:
    with pytest.raises(LabError, match="ping: connect: Network is unreachable"):
        Ping.parse("ping: connect: Network is unreachable\n")


def test_nothing_sent_is_not_complete() -> None:
    assert not Ping(0, 0, None, None).complete


def test_rate() -> None:
    assert Transfer(received=1_250_000_000, seconds=5.0).gigabits == 2.0
    assert Transfer(received=0, seconds=0.0).gigabits == 0.0


@pytest.mark.parametrize(
    ("output", "words"), [('{"error": "unable to connect"}', "unable to connect"), ("oops", "oops")]
)
def test_iperf3_complaints(output: str, words: str) -> None:
    with pytest.raises(LabError, match=f"iperf3: .*{words}"):
        iperf_document(output)
