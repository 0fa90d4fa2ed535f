"""``make test-platforms``: runs the matrix, or ``ONLY`` some of its cells, and prints what was seen on each."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from tests.platforms.cells import CACHE, Cell, UnknownCellError, chosen
from tests.platforms.turns import Turns

LOGS = CACHE / "logs"

_LAST_LINES = 15
_BROKEN = 125
"""The status of a cell that could not even begin, as of a machine that ended before its job."""

_SUMMARY = re.compile(
    r"^=+ (.*(?:passed|failed|error).*) in [\d.]+s.* =+\s*$|^(\d+ .*passed.*) in [\d.]+s", re.MULTILINE
)
"""pytest's last words."""


@dataclass
class Run:
    """A cell at work."""

    cell: Cell
    log: Path
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return f"{self.cell.name:16} {(time.monotonic() - self.began) / 60:4.1f} min  {self._last()}"

    def _last(self) -> str:
        """The last line of its log that says anything."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 1000))
            lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip()[-90:] for line in reversed(lines) if line.strip()), "")


class Board:
    """What is running, on the terminal's last lines, or as a line a minute where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: dict[str, Run] = {}

    def run(self, cell: Cell) -> int:
        """Runs a cell; its status."""
        log = LOGS / f"{cell.name}.log"
        log.write_bytes(b"")
        run = self._running[cell.name] = Run(cell, log)
        self._say(f"[dim]{_clock()}[/] {cell.name:16} begins: {cell.shows}")
        try:
            status = cell.run(log)
        except Exception:  # noqa: BLE001 - a cell that cannot even begin is red, and the others go on
            with log.open("a") as out:
                traceback.print_exc(file=out)
            status = _BROKEN
        del self._running[cell.name]
        text = log.read_text(errors="replace")
        seen = ", ".join(dict.fromkeys(first or second for first, second in _SUMMARY.findall(text)))
        colour, word = ("green", "passed") if status == 0 else ("red", f"failed with {status}")
        took = f"{(time.monotonic() - run.began) / 60:.1f} min"
        self._say(f"[dim]{_clock()}[/] [{colour}]{cell.name:16} {word}[/] in {took}: {seen or 'no tests'}; {log}")
        if status != 0:
            last = "\n".join(f"    {line}" for line in text.splitlines()[-_LAST_LINES:])
            self._console.print(last, markup=False, soft_wrap=True)
        return status

    def work(self, turns: Turns) -> dict[str, int]:
        """Runs cells until none is left that has not begun; their status by name."""
        status = {}
        while (cell := turns.take()) is not None:
            try:
                status[cell.name] = self.run(cell)
            finally:
                turns.ended(cell)
        return status

    def watch(self, running: list[Future[dict[str, int]]]) -> None:
        """Until all have ended."""
        if self._console.is_terminal:
            with Live(get_renderable=self._text, console=self._console, refresh_per_second=2, transient=True):
                wait(running)
        while wait(running, timeout=60).not_done:
            self._say(str(self._text()))

    def _text(self) -> Text:
        return Text("\n".join(map(str, list(self._running.values()))), no_wrap=True)

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)


def _clock() -> str:
    return time.strftime("%H:%M:%S")


@click.command()
@click.option("--only", multiple=True, metavar="PATTERN", help="Run the cells whose name fits, for example 'kernel-*'.")
@click.option("--list", "listing", is_flag=True, help="Say which cells there are, and run none.")
@click.option("--rebuild", is_flag=True, help="Fetch and build anew what these cells need.")
@click.option(
    "--patch", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Change the checkout first."
)
@click.option("--red", multiple=True, metavar="NAME", help="A cell that has to fail: with --patch, a fault's.")
@click.option(
    "--jobs", default=min(2, os.cpu_count() or 1), show_default=True, help="Cells at once; each takes one processor."
)
def main(
    only: tuple[str, ...], listing: bool, rebuild: bool, patch: Path | None, red: tuple[str, ...], jobs: int
) -> None:
    """Runs the cells; exit status 1 if one is red that should not be, or the other way round."""
    try:
        patterns = tuple(pattern for words in only for pattern in words.split())
        cells = chosen(patterns or (("*",) if listing else ()), patch and patch.resolve())
    except UnknownCellError as error:
        raise click.UsageError(str(error)) from None
    if listing:
        for cell in cells:
            print(f"{cell.name:16} {cell.shows}")
        return
    if rebuild:
        for part in {part for cell in cells for part in cell.built}:
            for path in CACHE.glob(part):
                shutil.rmtree(path)
    LOGS.mkdir(parents=True, exist_ok=True)
    board = Board(Console(highlight=False))
    turns = Turns(cells)
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(board.work, turns) for _ in range(jobs)]
        board.watch(running)
    failed = {name for each in running for name, status in each.result().items() if status != 0}
    print(f"{len(cells) - len(failed)} passed, {len(failed)} failed")
    for name in sorted(set(red) - failed):
        print(f"{name} passed, and has to fail")
    sys.exit(failed != set(red))


if __name__ == "__main__":
    main()
