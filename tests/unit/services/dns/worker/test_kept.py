"""Encoded answers are kept for as long as they hold, within bounds."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from overlay.services.dns.records import Tag
from overlay.services.dns.worker import kept
from overlay.services.dns.worker.kept import Kept

A: Tag = ("service", "default/a")
B: Tag = ("address", "10.96.0.1")

QUESTIONS = st.sampled_from([b"q1", b"q2", b"q3", b"q4"])
TAGS = st.frozensets(st.sampled_from([A, B]))


class Keeping(RuleBasedStateMachine):
    """Against a dictionary that looks at everything each time."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept()
        self.slow: dict[bytes, tuple[bytes, frozenset[Tag], int | None]] = {}
        self.second = 0

    @rule(question=QUESTIONS, answer=st.binary(max_size=4), tags=TAGS, seconds=st.none() | st.integers(1, 3))
    def put(self, question: bytes, answer: bytes, tags: frozenset[Tag], seconds: int | None) -> None:
        until = None if seconds is None else self.second + seconds
        self.kept.put(question, answer, tags, until)
        self.slow[question] = answer, tags, until

    @rule(tag=st.sampled_from([A, B]))
    def changed(self, tag: Tag) -> None:
        self.kept.changed([tag])
        self.slow = {each: value for each, value in self.slow.items() if tag not in value[1]}

    @rule()
    def tick(self) -> None:
        self.second += 1
        self.kept.sweep(self.second)
        self.slow = {each: v for each, v in self.slow.items() if v[2] is None or v[2] > self.second}

    @rule()
    def clear(self) -> None:
        self.kept.clear()
        self.slow.clear()

    @invariant()
    def never_too_long(self) -> None:
        """What was replaced may go sooner than it must; nothing stays longer, and nothing is another's answer."""
        for question, answer in self.kept.answers.items():
            assert self.slow[question][0] == answer

    @invariant()
    def nothing_without_end_is_lost(self) -> None:
        for question, (answer, _, until) in self.slow.items():
            if until is None and not self.was_replaced(question):
                assert self.kept.answers.get(question) == answer

    def was_replaced(self, question: bytes) -> bool:
        return any(question in due for due in self.kept._ending.values()) or question not in self.kept.answers


TestKeeping = Keeping.TestCase


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_ANSWERS", 10)
    monkeypatch.setattr(kept, "MOST_BYTES", 500)
    cache = Kept()
    for number in range(100):
        cache.put(b"%d" % number, bytes(10), frozenset({A}))
    assert len(cache.answers) == 10
    assert b"99" in cache.answers
    cache.put(b"large", bytes(490), frozenset())
    assert list(cache.answers) == [b"large"]
    cache.put(bytes(kept.LONGEST_QUESTION + 1), b"", frozenset())
    assert list(cache.answers) == [b"large"]


def test_what_hangs_on_nothing_any_more_leaves_nothing_behind() -> None:
    cache = Kept()
    cache.put(b"q", b"a", frozenset({A, B}), 5)
    cache.changed([A])
    assert cache.answers == {}
    assert not cache._by_tag
    assert not cache._tags
    assert cache._bytes == 0
