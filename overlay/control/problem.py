"""What people should know is wrong: a short line for ``status``, logged when it begins, seldom while it lasts, and when
it is over."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

REPEAT_AFTER = 300.0
"""Seconds after which a problem that lasts is logged again."""

MAX_TEXTS = 20
"""Different texts of one kind that are logged within that time: a config that is being corrected has a few, an etcd
whose members fail in turn has one at every attempt."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong now.

    Attributes:
        kind: tells it from others while its text changes ("store", "lease /coreos.com/…").
        text: one line, with its remedy.
    """

    kind: str
    text: str


@dataclass(slots=True)
class _Said:
    """What was last logged of one kind of problem, when, since when there is one, and how many texts it has had since
    it was last repeated."""

    text: str
    at: float
    since: float
    texts: int = 1


class ProblemLog:
    """Logs a changing set of problems at a bounded rate: when one begins or reads differently, and now and then."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[str, _Said] = {}

    def update(self, problems: Iterable[Problem], now: float) -> None:
        """The problems that there are at ``now`` (seconds of any steady clock)."""
        present = {problem.kind: problem for problem in problems}
        for kind in [kind for kind in self._said if kind not in present]:
            over = self._said.pop(kind)
            self._log.info("over: %s (after %.1f s)", over.text, now - over.since)
        for kind, problem in present.items():
            said = self._said.get(kind)
            if said is None or now - said.at >= REPEAT_AFTER:
                self._said[kind] = _Said(problem.text, now, now if said is None else said.since)
            elif said.text != problem.text and said.texts < MAX_TEXTS:
                said.text, said.texts = problem.text, said.texts + 1
            else:
                continue
            self._log.warning("%s", problem.text)
