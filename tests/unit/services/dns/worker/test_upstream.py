"""What of an upstream's bytes is an answer: by a real server on loopback."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest
import pytest_asyncio

from overlay.services.dns.worker import upstream
from overlay.services.dns.worker.counts import Counts

PATIENCE = 30.0
SERVER = Path(__file__).parents[4] / "support" / "upstream_server.py"


@pytest_asyncio.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    """An upstream's, on 127.0.0.1."""
    log, number = tmp_path / "log", random.randint(20000, 30000)
    process = await asyncio.create_subprocess_exec(sys.executable, str(SERVER), "127.0.0.1", str(log), str(number))
    try:
        async with asyncio.timeout(PATIENCE):
            while not log.exists():
                await asyncio.sleep(0.02)
        yield number
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize(
    ("name", "code", "records", "passed_over"),
    [
        ("ok.example", dns.rcode.NOERROR, 1, 0),
        ("lying.example", dns.rcode.NOERROR, 2, 2),
        ("garbage.example", dns.rcode.NOERROR, 1, 2),
        ("big.example", dns.rcode.NOERROR, 100, 0),
        ("torn.example", dns.rcode.NOERROR, 1, 0),
        ("bad.example", dns.rcode.SERVFAIL, 0, 0),
    ],
)
async def test_what_is_no_answer_is_passed_over_and_what_is_cut_off_comes_by_tcp(
    port: int, name: str, code: dns.rcode.Rcode, records: int, passed_over: int
) -> None:
    counts = Counts()
    async with asyncio.timeout(PATIENCE):
        found = await upstream.ask("127.0.0.1", dns.message.make_query(name, "A"), counts, port)
    assert (found.rcode(), sum(map(len, found.answer))) == (code, records)
    assert not found.flags & dns.flags.TC
    assert counts["upstream_wrong"] == passed_over
