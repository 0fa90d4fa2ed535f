"""Problems as they come and go, for the log: each when it begins, seldom while it lasts, and when it is over."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from overlay.problem import Problem

REPEAT_AFTER = 300.0
"""Seconds after which a problem that lasts is logged again."""

MAX_LINES = 40
"""Lines about one kind of problem within that time, however fast they come and go: a config that is being corrected
has a few texts, an etcd whose members fail in turn one at every attempt, and whoever writes to etcd can make and delete
malformed leases without end. 20 of those are named at a time (``membership.MAX_PROBLEMS``), each begins and is over."""


@dataclass(slots=True)
class _Said:
    """What was last logged of one problem, when, and since when there is one."""

    text: str
    at: float
    since: float


@dataclass(slots=True)
class _Budget:
    """What was logged of one kind since ``since``, and how much more there would have been to log."""

    since: float
    lines: int = 0
    left_out: int = 0


class ProblemLog:
    """Logs a changing set of problems at a bounded rate: when one begins or reads differently, and now and then."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[tuple[str, str], _Said] = {}
        self._budgets: dict[str, _Budget] = {}

    def update(self, problems: Iterable[Problem], now: float) -> None:
        """The problems that there are at ``now`` (seconds of any steady clock)."""
        present = {problem.identity: problem.text for problem in problems}
        for identity in [identity for identity in self._said if identity not in present]:
            over = self._said.pop(identity)
            self._say(logging.INFO, identity[0], f"over: {over.text} (after {now - over.since:.1f} s)", now)
        for identity, text in present.items():
            said = self._said.get(identity)
            if said is None or said.text != text or now - said.at >= REPEAT_AFTER:
                self._said[identity] = _Said(text, now, now if said is None else said.since)
                self._say(logging.WARNING, identity[0], text, now)

    def _say(self, level: int, code: str, text: str, now: float) -> None:
        budget = self._budgets.get(code)
        if budget is None or now - budget.since >= REPEAT_AFTER:
            if budget is not None and budget.left_out:
                self._log.warning("%d more lines like this were left out: %s", budget.left_out, text)
            budget = self._budgets[code] = _Budget(now)
        if budget.lines < MAX_LINES:
            budget.lines += 1
            self._log.log(level, "%s", text)
        else:
            budget.left_out += 1
