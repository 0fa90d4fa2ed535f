"""What the etcd store costs: processor, memory, log lines and time, also while etcd is down; and that it lets go.

The names say which of flannel's complaints a test guards against; the numbers are flannel's issues.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from overlay.errors import StoreDeniedError
from overlay.store.contract import Events, KeyRange, Put
from overlay.store.etcd import watch as etcd_watch
from tests.support.etcd import Etcd, eventually, following
from tests.support.limits import limit
from tests.support.store import FAILOVER_LIMIT, PREFIX, SUBNETS, connected, key, put, take, the_end

pytestmark = pytest.mark.etcd

SHARE = limit(0.01, 0.1)
"""Of a core, all threads counted. A loop that spins uses a whole one."""


@dataclass(frozen=True)
class Figures:
    """What a process cost: its share of one core, its resident memory, and what it logged."""

    share: float
    resident_kib: int
    lines: list[str]


def figures(seconds: float, urls: tuple[str, ...], before: Callable[[], object] = lambda: None) -> Figures:
    """Of a process that watches and reads every second; ``before`` happens once that runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.store_user", str(seconds), *urls],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        before()
        process.stdin.write("go\n")
        process.stdin.flush()
        found = Figures(**json.loads(process.stdout.readline()))
    finally:
        process.terminate()
        try:
            _, errors = process.communicate(timeout=FAILOVER_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise AssertionError("the process hangs at its end") from None
    assert (process.returncode, errors) == (0, "")
    return found


def test_1830_2171_cpu_and_log_while_etcd_is_down(three: Etcd) -> None:
    """flannel 1830, 2171: 200 % CPU after etcd is lost."""

    def kill() -> None:
        for member in three.members:
            member.kill()

    found = figures(10, three.urls, before=kill)
    print(found)
    assert found.share < SHARE
    assert len(found.lines) <= 2


def test_1830_2171_cpu_and_log_while_etcd_is_frozen(single: Etcd) -> None:
    """flannel 1830, 2171, with a server that keeps its connections and does not answer."""
    found = figures(18, single.urls, before=single.members[0].freeze)
    print(found)
    assert found.share < SHARE
    assert len(found.lines) <= 2


def test_624_386_963_memory_and_cpu_when_nothing_happens(single: Etcd) -> None:
    """flannel 624, 386, 963: memory growth. A process that watches has its interpreter, asyncio and gRPC, no more."""
    found = figures(5, single.urls)
    print(found)
    assert found.share < SHARE
    assert found.resident_kib < 60 * 1024
    assert found.lines == []


async def test_a_large_network_is_read_at_once_and_followed_promptly(single: Etcd) -> None:
    """25,000 leases are more than gRPC's 4 MiB; 5,000 must be read in well under a second."""
    value = b'{"PublicIP":"172.31.0.2","PublicIPv6":null,"NodeID":"%s"}' % (b"0" * 120)
    async with connected(*single.urls, timeout=20.0) as store:

        async def fill(first: int, last: int) -> int:
            for begin in range(first, last, 100):
                names = [f"10.{number >> 8}.{number & 255}.0-24" for number in range(begin, begin + 100)]
                revision = (await store.commit((), [Put(key(name), value) for name in names])).revision
            return revision

        await fill(0, 5000)
        await store.read(SUBNETS)
        began = time.process_time()
        assert len((await store.read(SUBNETS)).items) == 5000
        print("seconds of CPU for 5,000 leases:", reading := time.process_time() - began)
        assert reading < limit(0.3, 3.0)
        revision = await fill(5000, 25000)
        assert len((await store.read(SUBNETS)).items) == 25000
        waits: list[float] = []
        async with following(store.watch(SUBNETS, revision)) as told:
            await put(store, "warm")
            await take(told, FAILOVER_LIMIT)
            for number in range(100):
                began = time.perf_counter()
                await put(store, "k", b"%d" % number)
                await take(told, FAILOVER_LIMIT)
                waits.append(time.perf_counter() - began)
        waits.sort()
        print("seconds from put to event, median of 100:", waits[50])
        assert waits[50] < limit(0.1, 2.0)


async def test_a_watch_that_is_closed_ends_at_the_server_too(single: Etcd) -> None:
    def watchers() -> int:
        with urllib.request.urlopen(f"{single.urls[0]}/metrics", timeout=5) as answer:
            return next(
                int(line.split()[1]) for line in answer if line.startswith(b"etcd_debugging_mvcc_watcher_total ")
            )

    async def none_is_left() -> bool:
        return watchers() == 0

    async with connected(*single.urls) as store:
        revision = await put(store, "k")
        for _ in range(20):
            watch = store.watch(SUBNETS, revision - 1)
            assert [(await anext(watch)).revision for _ in range(2)] == [revision - 1, revision]
            await watch.aclose()
        await eventually(none_is_left, limit=FAILOVER_LIMIT)
        abandoned = store.watch(SUBNETS, revision - 1)
        await anext(abandoned)
        assert watchers() == 1
        del abandoned
        await eventually(none_is_left, limit=FAILOVER_LIMIT)


async def test_silence_is_broken_by_signs_of_life(single: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_watch, "SILENCE", 0.1)
    monkeypatch.setattr(etcd_watch, "ANSWER_TIME", 2.0)
    async with connected(*single.urls) as store:
        start = await put(store, "k")
        async with following(store.watch(SUBNETS, start)) as told:
            for _ in range(3):
                assert await asyncio.wait_for(told.get(), FAILOVER_LIMIT) == Events(start, ())
            single.members[0].freeze()
            end = await the_end(told, FAILOVER_LIMIT)
            assert str(end) == f"etcd at {single.urls[0]}: no answer within 2 s"
            single.members[0].thaw()


async def test_cancelled_calls_at_a_frozen_server_end_at_once(single: Etcd) -> None:
    async with connected(*single.urls, timeout=60.0) as store:
        start = await put(store, "k")
        watch = store.watch(SUBNETS, start)
        waiting = asyncio.ensure_future(anext(watch))
        single.members[0].freeze()
        calls = [asyncio.ensure_future(call) for call in (store.read(SUBNETS), store.refresh(1), store.grant(1, 60))]
        began = time.monotonic()
        for task in [waiting, *calls]:
            await asyncio.sleep(0)
            task.cancel()
        outcomes = await asyncio.gather(waiting, *calls, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        assert time.monotonic() - began < FAILOVER_LIMIT
        single.members[0].thaw()


@pytest.mark.parametrize("refused", ["password", "token"])
async def test_what_refuses_us_is_not_asked_for_a_token_at_every_call(single: Etcd, refused: str) -> None:
    """A wrong password made 0.67 logins a second for each agent for ever, and each costs etcd a slow hash."""

    def logins() -> int:
        with urllib.request.urlopen(f"{single.urls[0]}/metrics", timeout=5) as answer:
            return sum(
                int(float(line.split()[-1]))
                for line in answer
                if line.startswith(b"grpc_server_started_total") and b'"Authenticate"' in line
            )

    single.ask_for_password("flannel", "s3cret", PREFIX)
    span = SUBNETS if refused == "password" else KeyRange("/elsewhere/")
    before = logins()
    async with connected(*single.urls, username="flannel", password="s3cret" if refused == "token" else "no") as store:
        calls, began = 0, time.monotonic()
        while time.monotonic() - began < 3.0:  # time itself is what is asked about
            call = store.read(span) if refused == "password" else anext(store.watch(span, 1))
            with pytest.raises(StoreDeniedError):
                await call
            calls += 1
            await asyncio.sleep(0.01)
    assert calls > 10
    assert 1 <= logins() - before <= 5
