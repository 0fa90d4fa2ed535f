"""Whose turn it is: emulated machines run beside each other and beside anything, what uses this machine runs alone."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Condition

from tests.platforms.cells import Cell


class Turns:
    """Hands out cells to threads, in their order but for those that must wait for another."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._waiting = list(cells)
        self._here: Cell | None = None
        self._changed = Condition()

    def take(self) -> Cell | None:
        """The next cell, once there is one that may begin; None where all have begun."""
        with self._changed:
            while self._waiting:
                for cell in self._waiting:
                    if cell.emulated or self._here is None:
                        self._waiting.remove(cell)
                        self._here = self._here if cell.emulated else cell
                        return cell
                self._changed.wait()
            return None

    def ended(self, cell: Cell) -> None:
        with self._changed:
            if cell is self._here:
                self._here = None
            self._changed.notify_all()
