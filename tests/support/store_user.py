"""A process that uses a store as an agent does, and says what that cost it.

``python -m tests.support.store_user SECONDS URL…`` reads the leases every second and watches them. It prints "ready",
waits for a line on its standard input, measures for SECONDS, prints one JSON object, and goes on until SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
import time
from pathlib import Path

from overlay.errors import OverlayError
from overlay.store.contract import KeyRange
from overlay.store.etcd.client import EtcdSettings, EtcdStore

SPAN = KeyRange("/coreos.com/network/subnets/")
PAUSE = 1.0
SETTLE = 2.0
"""Seconds until connections stand."""


class Kept(logging.Handler):
    """Every line that was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


async def read(store: EtcdStore) -> None:
    while True:
        with contextlib.suppress(OverlayError):
            await store.read(SPAN)
        await asyncio.sleep(PAUSE)


async def watch(store: EtcdStore) -> None:
    while True:
        try:
            async for _ in store.watch(SPAN, 0):
                pass
        except OverlayError:
            await asyncio.sleep(PAUSE)


def resident_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


async def use(kept: Kept, seconds: float, urls: tuple[str, ...]) -> None:
    store = EtcdStore(EtcdSettings(endpoints=urls))
    async with asyncio.TaskGroup() as group:
        group.create_task(read(store))
        group.create_task(watch(store))
        await asyncio.sleep(SETTLE)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        cpu, wall = time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        print(json.dumps({"share": cpu / wall, "resident_kib": resident_kib(), "lines": kept.lines}), flush=True)


async def main(seconds: float, *urls: str) -> None:
    """Uses the store until SIGTERM."""
    kept = Kept()
    logging.basicConfig(level=logging.INFO, handlers=[kept])
    task = asyncio.create_task(use(kept, seconds, urls))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), *sys.argv[2:]))
