"""The one loop by which a daemon keeps something as it should be.

What it keeps (a device, a ruleset, a socket that answers) is compared with what should be: at once, whenever it is
told, and after a while in any case, since not everything that breaks tells. What it finds wrong is a problem until a
look finds otherwise; so is its own failure, after which the next attempt comes sooner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn

from overlay.daemon.occasions import Occasion
from overlay.daemon.troubles import Troubles
from overlay.errors import OverlayError, PrivilegeError
from overlay.problem import Problem, Severity

EVERY_SECONDS = 30.0
"""How long a change that nobody tells of can last."""

RETRY_SECONDS = 2.0
"""From a failure to the next attempt."""


@dataclass(frozen=True, slots=True)
class Look:
    """What came of one look.

    Attributes:
        problems: what is wrong and not for this loop to mend, or not now.
        due: in how many seconds another is worth while though nothing changes; None if none is.
    """

    problems: tuple[Problem, ...] = ()
    due: float | None = None


Work = Callable[[], Awaitable[Look]]
"""Compares and mends. Raises OverlayError or OSError where it could not, and PrivilegeError where it never can."""


class Loop:
    """Keeps one thing as it should be, for as long as :meth:`run` runs.

    Args:
        topic: its name in the log, and the code of the problem that there is while it fails.
        every: seconds between two looks at most.
        retry: seconds from a failure to the next attempt.
        severity: what it is to the node that it fails.
        occasion: what others tell; one of its own by default.
    """

    def __init__(
        self,
        topic: str,
        work: Work,
        troubles: Troubles,
        *,
        every: float = EVERY_SECONDS,
        retry: float = RETRY_SECONDS,
        severity: Severity = Severity.DEGRADED,
        occasion: Occasion | None = None,
    ) -> None:
        self._topic = topic
        self._work = work
        self._troubles = troubles
        self._every, self._retry = every, retry
        self._severity = severity
        self._turn = asyncio.Lock()
        self.occasion = occasion or Occasion()

    async def once(self) -> float:
        """One attempt, of which there is one at a time; in how many seconds the next is due.

        Raises:
            PrivilegeError: another would not help.
        """
        async with self._turn:
            try:
                look = await self._work()
            except PrivilegeError:
                raise
            except (OverlayError, OSError) as error:
                # Of the latter, whatever nobody has put into words: a machine that is short of descriptors or memory.
                known = error if isinstance(error, OverlayError) else OverlayError(error.strerror or str(error))
                problem = Problem.of(known, self._topic, after="trying again", severity=self._severity)
                self._troubles.found(self._topic, [problem])
                return self._retry
            self._troubles.found(self._topic, look.problems)
            return self._every if look.due is None else min(look.due, self._every)

    async def run(self) -> NoReturn:
        """Looks at once, when told and when due, until cancelled. Raises as :meth:`once`."""
        while True:
            self.occasion.take()
            await self.occasion.wait(await self.once())
