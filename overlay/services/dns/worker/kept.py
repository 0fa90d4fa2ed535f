"""Encoded answers by the bytes of their questions, so that what is asked again costs one look. Pure.

The key is a whole question but its id: two clients that ask for the same with the same letters, flags and EDNS are
given the same bytes. An answer is kept until what it hangs on changes, or the second ends that it was made for.
"""

from __future__ import annotations

from collections.abc import Iterable

from overlay.services.dns.records import Tag

MOST_ANSWERS = 1 << 16
MOST_BYTES = 32 << 20
"""Bounds of what is kept; the oldest goes first."""

LONGEST_QUESTION = 512
"""Bytes: longer ones are answered, and not kept."""


class Kept:
    """What is kept.

    Attributes:
        answers: answer behind its id, by question behind its id: to be read by who answers in a hurry.
    """

    def __init__(self) -> None:
        self.answers: dict[bytes, bytes] = {}
        self._bytes = 0
        self._tags: dict[bytes, frozenset[Tag]] = {}
        self._by_tag: dict[Tag, set[bytes]] = {}
        self._ending: dict[int, list[bytes]] = {}
        self._swept = 0

    def put(self, question: bytes, answer: bytes, depends: frozenset[Tag], until: int | None = None) -> None:
        """Keeps an answer.

        Args:
            until: the second in which it ends, as told to :meth:`sweep`; None: never.
        """
        if len(question) > LONGEST_QUESTION:
            return
        self.drop(question)
        self.answers[question] = answer
        self._bytes += len(question) + len(answer)
        if depends:
            self._tags[question] = depends
            for tag in depends:
                self._by_tag.setdefault(tag, set()).add(question)
        if until is not None:
            self._ending.setdefault(max(until, self._swept + 1), []).append(question)
        while len(self.answers) > MOST_ANSWERS or self._bytes > MOST_BYTES:
            self.drop(next(iter(self.answers)))

    def drop(self, question: bytes) -> None:
        """Forgets one; none is right as well."""
        if (answer := self.answers.pop(question, None)) is None:
            return
        self._bytes -= len(question) + len(answer)
        for tag in self._tags.pop(question, ()):
            questions = self._by_tag[tag]
            questions.discard(question)
            if not questions:
                del self._by_tag[tag]

    def changed(self, tags: Iterable[Tag]) -> None:
        """Forgets all that hangs on any of these."""
        for tag in tags:
            for question in list(self._by_tag.get(tag, ())):
                self.drop(question)

    def sweep(self, second: int) -> None:
        """Forgets what ends in this second, or has ended before."""
        for due in [each for each in self._ending if each <= second]:
            for question in self._ending.pop(due):
                self.drop(question)
        self._swept = max(self._swept, second)

    def clear(self) -> None:
        """Forgets everything."""
        self.answers.clear()
        self._tags.clear()
        self._by_tag.clear()
        self._ending.clear()
        self._bytes = 0
