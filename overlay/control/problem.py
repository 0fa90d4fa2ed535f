"""What people should know is wrong: a short line for ``status``, logged when it begins, seldom while it lasts, and when
it is over."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

REPEAT_AFTER = 300.0
"""Seconds after which a problem that lasts is logged again."""

MAX_LINES = 40
"""Lines about one family of problems within that time, however fast they come and go: a config that is being corrected
has a few texts, an etcd whose members fail in turn one at every attempt, and whoever writes to etcd can make and delete
malformed leases without end. 20 of those are named at a time (``membership.MAX_PROBLEMS``), each begins and is over."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong now.

    Attributes:
        kind: tells it from others while its text changes ("store", "lease /coreos.com/…"). Its first word names the
            family; families are few, and named in the code alone.
        text: one line, with its remedy.
    """

    kind: str
    text: str


@dataclass(slots=True)
class _Said:
    """What was last logged of one kind of problem, when, and since when there is one."""

    text: str
    at: float
    since: float


@dataclass(slots=True)
class _Budget:
    """What was logged of one family since ``since``, and how much more there would have been to log."""

    since: float
    lines: int = 0
    left_out: int = 0


class ProblemLog:
    """Logs a changing set of problems at a bounded rate: when one begins or reads differently, and now and then."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[str, _Said] = {}
        self._budgets: dict[str, _Budget] = {}

    def update(self, problems: Iterable[Problem], now: float) -> None:
        """The problems that there are at ``now`` (seconds of any steady clock)."""
        present = {problem.kind: problem for problem in problems}
        for kind in [kind for kind in self._said if kind not in present]:
            over = self._said.pop(kind)
            self._say(logging.INFO, kind, f"over: {over.text} (after {now - over.since:.1f} s)", now)
        for kind, problem in present.items():
            said = self._said.get(kind)
            if said is None or said.text != problem.text or now - said.at >= REPEAT_AFTER:
                self._said[kind] = _Said(problem.text, now, now if said is None else said.since)
                self._say(logging.WARNING, kind, problem.text, now)

    def _say(self, level: int, kind: str, text: str, now: float) -> None:
        family = kind.partition(" ")[0]
        budget = self._budgets.get(family)
        if budget is None or now - budget.since >= REPEAT_AFTER:
            if budget is not None and budget.left_out:
                self._log.warning("%d more lines like this were left out: %s", budget.left_out, text)
            budget = self._budgets[family] = _Budget(now)
        if budget.lines < MAX_LINES:
            budget.lines += 1
            self._log.log(level, "%s", text)
        else:
            budget.left_out += 1
