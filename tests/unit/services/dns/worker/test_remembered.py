"""What upstreams said: how long it holds, and how long it is better than nothing."""

from __future__ import annotations

import pytest

from overlay.services.dns.worker import remembered
from overlay.services.dns.worker.remembered import RECHECK, STALE_FOR, Remembered


def test_it_holds_and_then_is_better_than_nothing_and_then_is_nothing() -> None:
    memory = Remembered()
    memory.put("q", b"wire", 60, 100.0)
    said = memory.holds("q", 159.9)
    assert said is not None
    assert said.age(159.9) == 59
    assert memory.holds("q", 160.0) is None
    assert memory.stale("q", 160.0) is said
    assert memory.stale("q", 160.0 + STALE_FOR) is None
    assert len(memory) == 0


def test_what_holds_for_no_time_is_not_remembered_and_replaces_what_was() -> None:
    memory = Remembered()
    memory.put("q", b"wire", 60, 0.0)
    memory.put("q", b"", 0, 1.0)
    assert memory.stale("q", 1.0) is None


def test_a_failure_is_not_repeated_at_once() -> None:
    memory = Remembered()
    memory.failed("q", 10.0)
    assert memory.just_failed("q", 10.0 + RECHECK - 0.1)
    assert not memory.just_failed("q", 10.0 + RECHECK)
    memory.failed("q", 20.0)
    memory.put("q", b"wire", 60, 20.5)
    assert not memory.just_failed("q", 20.6)


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST", 10)
    monkeypatch.setattr(remembered, "MOST_BYTES", 200)
    memory = Remembered()
    for number in range(50):
        memory.put(number, bytes(10), 60, 0.0)
        memory.failed(number, 0.0)
        memory.holds(45, 1.0)
    assert len(memory) == 10
    assert len(memory._failed) == 10
    assert memory.holds(45, 1.0) is not None  # asked for, it stays
    memory.put("large", bytes(195), 60, 0.0)
    assert len(memory) == 1
