"""What was found out from the rules of all who write some, known for as long as nobody changes one.

To read them takes a handful of processes; to ask the kernel whether they have changed, a message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from overlay.linux import netfilter

T = TypeVar("T")


class Standstill(Generic[T]):
    """One such finding."""

    def __init__(self) -> None:
        self._known: tuple[tuple[int, object], T] | None = None

    def known(self, asked: object, look: Callable[[], T]) -> T:
        """What ``look`` finds, or found when nothing was otherwise: no rule, and not what is ``asked``.

        Raises whatever ``look`` raises.
        """
        state = netfilter.state()  # before: what is changed while it looks is seen the next time
        if self._known is not None and self._known[0] == (state, asked):
            return self._known[1]
        self._known = None
        found = look()
        if state is not None:
            self._known = (state, asked), found
        return found

    def forget(self) -> None:
        """Has the next one look again."""
        self._known = None
