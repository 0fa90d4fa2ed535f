"""What the kernel datapath promises whatever the kernel does: its threads, and one line for each trouble."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import cast

import pytest

from overlay.daemon.threads import in_thread
from overlay.datapath.base import DatapathStatus
from overlay.datapath.kernel.datapath import KernelDatapath, SlowPath
from overlay.datapath.kernel.machine import Machine
from overlay.datapath.kernel.state import OBSTACLE, WAITING, State
from overlay.errors import DatapathError
from overlay.model import EMPTY_PEERS, PeerTable
from overlay.problem import Problem


class Slow:
    """A slow path that only remembers."""

    def __init__(self) -> None:
        self.tables: list[PeerTable] = []

    def set_peers(self, table: PeerTable) -> None:
        self.tables.append(table)

    async def status(self) -> DatapathStatus:
        return DatapathStatus("userspace", True, "no offloads", {"tx_packets": 5})

    async def close(self) -> None:
        pass


def datapath_with(slow: Slow) -> KernelDatapath:
    return KernelDatapath(cast(SlowPath, slow))


async def test_a_cancelled_caller_waits_for_its_thread() -> None:
    """Else whoever comes next closes descriptors, or uses the maps, while the thread still does."""
    started, go_on, finished = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        go_on.wait(20)
        finished.set()

    caller = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(started.wait, 20)
    for _ in range(3):
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert finished.is_set()


async def test_a_threads_error_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


async def test_the_slow_path_has_its_peers_at_once() -> None:
    slow = Slow()
    datapath_with(slow).set_peers(EMPTY_PEERS)
    assert slow.tables == [EMPTY_PEERS]


async def test_before_it_is_configured() -> None:
    datapath = datapath_with(Slow())
    status = await datapath.status()
    assert (status.name, status.running, status.counters["tx_packets"]) == ("kernel", False, 5)
    assert "not configured" in status.detail
    with pytest.raises(DatapathError, match="not configured"):
        await datapath.watch()
    await datapath.close()
    await datapath.close()


class Seen:
    """A machine in the states that it is given, one a look."""

    without_fou = ""

    def __init__(self, *states: State) -> None:
        self._states = iter(states)

    def reconcile(self, _table: PeerTable | None) -> State:
        return next(self._states)


async def test_a_trouble_is_said_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    datapath = datapath_with(Slow())
    states = (
        State(problem=WAITING),
        State(problem=Problem(OBSTACLE, "eth0: there is no such interface")),
        State(problem=Problem(OBSTACLE, "eth0: there is no such interface")),
        State("1 subnets", None, ("attached overlay_decap to ingress of eth0",)),
        State("1 subnets", None),
    )
    datapath._machine = cast(Machine, Seen(*states))
    assert [await datapath._loop.once() for _ in states] == [1.0, 1.0, 1.0, 30.0, 30.0], "soon again while it lasts"
    assert [(record.levelname, record.getMessage().partition(" (after")[0]) for record in caplog.records] == [
        ("INFO", f"kernel datapath: {WAITING.plain}"),
        ("WARNING", "kernel-path: eth0: there is no such interface"),
        ("INFO", "kernel datapath: attached overlay_decap to ingress of eth0"),
        ("INFO", "kernel datapath: 1 subnets"),
        ("INFO", "over: kernel-path: eth0: there is no such interface"),
    ]


async def test_what_others_broke_is_counted_and_what_was_never_whole_is_not() -> None:
    datapath = datapath_with(Slow())
    missing = Problem(OBSTACLE, "eth0: there is no such interface")
    states = (
        State(problem=missing, mended=("made the pair",)),
        State("1 subnets", None, ("attached overlay_decap to ingress of eth0",)),
        State("1 subnets", None, ("attached overlay_decap to ingress of eth0", "put the pair's MTU back")),
        State(problem=missing, mended=("attached overlay_encap to egress of flannel0",)),
    )
    datapath._machine = cast(Machine, Seen(*states))
    counted = []
    for _ in states:
        await datapath._loop.once()
        counted.append(datapath._repairs)
    assert counted == [0, 0, 2, 3]
