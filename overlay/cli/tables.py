"""Tables on the terminal; the same without colour and without padding where the output goes into a pipe."""

from __future__ import annotations

import sys

from rich.console import Console, RenderableType
from rich.table import Table

_PIPE_WIDTH = 200
"""Columns where there is no terminal: nothing here is wider, so nothing is folded."""


def table(*headings: str) -> Table:
    """A table without lines; cells are not folded."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading, no_wrap=True)
    return made


def show(shown: RenderableType, width: int = _PIPE_WIDTH) -> None:
    """Prints to standard output. Lines that go into a pipe end where their text ends."""
    if sys.stdout.isatty():
        Console(highlight=False, markup=False).print(shown)
        return
    console = Console(width=width, highlight=False, markup=False, force_terminal=False)
    with console.capture() as printed:
        console.print(shown)
    print("\n".join(line.rstrip() for line in printed.get().splitlines()))
