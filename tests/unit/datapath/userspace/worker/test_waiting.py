"""The worker's waiting, on a clock and a poll of the test's own."""

from __future__ import annotations

from overlay.datapath.userspace.worker.waiting import AWAKE, BRISK, Ready, Waiting


class World:
    """Packets arrive at given times; looking and resting take a microsecond, being woken takes fifty."""

    def __init__(self, *arrivals: float) -> None:
        self.now = 0.0
        self.sleeps = 0
        self.rests = 0
        self._arrivals = list(arrivals)

    def clock(self) -> float:
        return self.now

    def rest(self) -> None:
        self.rests += 1
        self.now += 1e-6

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> Ready:
        assert maxevents > 0
        self.now += 1e-6
        if self._arrivals[0] > self.now:
            if timeout == 0:
                return []
            self.sleeps += 1
            self.now = self._arrivals[0] + 50e-6
        self._arrivals.pop(0)
        return [(7, 1)]


def times(*gaps: float) -> list[float]:
    at, result = 0.0, []
    for gap in gaps:
        at += gap
        result.append(at)
    return result


def test_distant_packets_never_keep_it_awake() -> None:
    world = World(*times(*[1e-3] * 20))
    waiting = Waiting(world, world.clock, world.rest)
    for _ in range(20):
        assert waiting.next(64) == [(7, 1)]
    assert world.sleeps == 20
    assert world.rests == 0


def test_close_packets_are_met_awake() -> None:
    world = World(*times(*[60e-6] * 50))
    waiting = Waiting(world, world.clock, world.rest)
    for _ in range(50):
        waiting.next(64)
    assert world.sleeps <= 1
    assert world.rests > 50


def test_after_a_stream_it_looks_for_its_time_and_sleeps() -> None:
    world = World(*times(10e-6, 10e-6, 10e-6, 1.0, 1.0))
    waiting = Waiting(world, world.clock, world.rest)
    for _ in range(3):
        waiting.next(64)
    slept, rested = world.sleeps, world.rests
    waiting.next(64)
    assert world.sleeps == slept + 1
    assert 0 < (world.rests - rested) * 1e-6 <= AWAKE
    rested = world.rests
    waiting.next(64)
    assert world.rests == rested, "the pause was long, so the next one is slept through from the start"


def test_after_much_data_nobody_waits_for_the_next() -> None:
    world = World(*times(*[60e-6] * 50))
    waiting = Waiting(world, world.clock, world.rest)
    for _ in range(50):
        waiting.next(65000)
    assert world.rests == 0


def test_being_woken_counts_as_part_of_a_short_pause() -> None:
    assert BRISK > AWAKE + 50e-6
