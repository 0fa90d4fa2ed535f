"""What is wrong with a daemon now, and the log of it: each problem when it begins, seldom while it lasts, when it ends.

Whoever finds out keeps :class:`Troubles` up to date under a name of its own; status, probes and systemd read them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from overlay.daemon.clock import boottime
from overlay.problem import Problem, Severity

REPEAT_AFTER = 300.0
"""Seconds after which a problem that lasts is logged again."""

MAX_LINES = 40
"""Lines about one kind of problem within that time, however fast they come and go: a config that is being corrected
has a few texts, an etcd whose members fail in turn one at every attempt, and whoever writes to etcd can make and delete
malformed leases without end. 20 of those are named at a time (``membership.MAX_PROBLEMS``), each begins and is over."""


class Troubles:
    """What is wrong now, by who found it.

    Sources are few and named in the code; each is told whole, so what it does not name any more is over. The log's
    lines about it stand under ``overlay.<source>``.
    """

    def __init__(self, clock: Callable[[], float] = boottime) -> None:
        self._clock = clock
        self._found: dict[str, tuple[Problem, ...]] = {}
        self._logs: dict[str, ProblemLog] = {}

    def found(self, source: str, problems: Iterable[Problem]) -> None:
        """All that ``source`` knows to be wrong now. Told often, it says when what lasts is to be logged again."""
        self._found[source] = told = tuple(problems)
        if source not in self._logs:
            self._logs[source] = ProblemLog(logging.getLogger(f"overlay.{source}"))
        self._logs[source].update(told, self._clock())

    def over(self, source: str) -> None:
        """All is well as far as ``source`` knows."""
        self.found(source, ())

    @property
    def now(self) -> tuple[Problem, ...]:
        """Everything that is wrong, the worst first, else in the order in which sources first told something."""
        every = [problem for problems in self._found.values() for problem in problems]
        return tuple(sorted(every, key=lambda problem: problem.severity is not Severity.DOWN))

    @property
    def down(self) -> bool:
        """Whether anything of it keeps the node from being ready."""
        return any(problem.severity is Severity.DOWN for problem in self.now)


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
        present = {problem.identity: problem for problem in problems}
        for identity in [identity for identity in self._said if identity not in present]:
            over = self._said.pop(identity)
            self._say(logging.INFO, identity[0], f"over: {over.text} (after {now - over.since:.1f} s)", now)
        for identity, problem in present.items():
            said, text = self._said.get(identity), problem.text
            reads_differently = said is not None and said.text != text and not problem.measured
            if said is None or reads_differently or now - said.at >= REPEAT_AFTER:
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
