"""A claim about a path is believed if it quotes what we asked, and costs little if not."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from overlay.datapath.userspace.counters import Counters
from overlay.datapath.userspace.worker.claims import PATIENCE, PAUSE, QUOTED, RATE, Claims, challenge
from overlay.datapath.userspace.worker.paths import PathMtus
from overlay.packet import ip
from tests.support.admission import plain_checksum

PEER, OWN, THEIRS = "172.31.0.2", 0x0A000100, 0x0A000200
NONCE = bytes(range(1, 7))


def made(nonces: int = 1) -> tuple[PathMtus, Claims]:
    numbers = itertools.count()
    paths = PathMtus()
    return paths, Claims(paths, random=lambda size: bytes([next(numbers) % nonces] * size) if nonces > 1 else NONCE)


def test_what_quotes_our_challenge_is_believed() -> None:
    paths, claims = made()
    assert claims.hear(PEER, 1300, b"", now=0) == NONCE
    assert claims.hear(PEER, 1300, challenge(OWN, THEIRS, NONCE, 1472)[:QUOTED], now=0.2) is None
    assert paths.limits == {PEER: 1272}
    assert claims.hear(PEER, 1300, b"", now=5) is None, "no news"
    assert claims.hear(PEER, 1200, b"", now=5) == NONCE, "news are asked about"


@given(st.binary(max_size=100), st.floats(0, PATIENCE))
def test_nothing_else_is(quoted: bytes, now: float) -> None:
    paths, claims = made()
    claims.hear(PEER, 1300, b"", now=0)
    claims.hear(PEER, 1300, quoted, now)
    assert paths.limits == {}


def test_a_quote_that_is_too_short_old_or_of_another_peers_challenge_proves_nothing() -> None:
    paths, claims = made(nonces=250)
    first = claims.hear(PEER, 1300, b"", now=0)
    other = claims.hear("172.31.0.3", 1300, b"", now=0)
    assert first
    assert other
    for peer, nonce, length, now in (
        (PEER, first, QUOTED - 1, 1.0),
        (PEER, other, QUOTED, 1.0),
        (PEER, first, QUOTED, PATIENCE + 0.1),
    ):
        claims.hear(peer, 1300, challenge(OWN, THEIRS, nonce, 1472)[:length], now)
    assert paths.limits == {}


def test_what_proves_nothing_is_counted() -> None:
    counters = Counters()
    claims = Claims(PathMtus(), counters, lambda _: NONCE)
    for path_mtu, quoted in ((68, b""), (1300, b""), (1300, bytes(60)), (1300, challenge(OWN, THEIRS, NONCE, 1472))):
        claims.hear(PEER, path_mtu, quoted, now=0)
    assert counters.icmp_unproven == 3


def test_less_than_any_path_has_is_not_even_asked_about() -> None:
    paths, claims = made()
    assert claims.hear(PEER, 551, b"", now=0) is None
    assert claims.hear(PEER, 552, b"", now=0) == NONCE
    claims.hear(PEER, 551, challenge(OWN, THEIRS, NONCE, 1472), now=0)
    assert paths.limits == {}


def test_a_flood_of_claims_makes_few_challenges() -> None:
    _, claims = made()
    asked = [claims.hear(PEER, 1300, b"", now=at / 1000) is not None for at in range(5000)]
    assert sum(asked) == 5 / PAUSE
    _, claims = made()
    assert sum(claims.hear(f"172.31.{n >> 8}.{n & 255}", 1300, b"", now=0) is not None for n in range(5000)) == RATE


def test_what_is_kept_is_for_peers_alone() -> None:
    paths, claims = made(nonces=250)
    before = claims.hear(PEER, 1300, b"", now=0)
    assert before
    claims.keep({"172.31.0.3": 1})
    claims.hear(PEER, 1300, challenge(OWN, THEIRS, before, 1472), now=0.1)
    assert paths.limits == {}


@given(st.binary(min_size=6, max_size=6), st.integers(QUOTED, 9000))
def test_a_challenge_is_a_ping_answer_that_nobody_asked_for(nonce: bytes, length: int) -> None:
    packet = challenge(OWN, THEIRS, nonce, length)
    header = ip.decode(packet)
    assert (header.total_length, header.protocol, header.source, header.destination) == (length, 1, OWN, THEIRS)
    assert len(packet) == length
    assert plain_checksum(packet[:20]) == 0
    assert header.dont_fragment
    assert packet[20] == 0
    assert plain_checksum(packet[20:]) == 0
