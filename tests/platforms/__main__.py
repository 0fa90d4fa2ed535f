"""``make test-platforms``: runs the matrix, or ``ONLY`` some of its cells, and prints what was seen on each."""

from __future__ import annotations

import shutil
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from rich.console import Console

from tests.platforms.cells import CACHE, Cell, chosen

_LAST_LINES = 15


@click.command()
@click.option("--only", multiple=True, metavar="PATTERN", help="Run the cells whose name fits, for example 'kernel-*'.")
@click.option("--list", "listing", is_flag=True, help="Say which cells there are, and run none.")
@click.option("--rebuild", is_flag=True, help="Fetch kernels and build roots anew.")
@click.option("--jobs", default=2, show_default=True, help="Cells at once; each takes one processor.")
def main(only: tuple[str, ...], listing: bool, rebuild: bool, jobs: int) -> None:
    """Runs the cells; exit status 1 if any is red, with its log's last lines."""
    patterns = tuple(pattern for words in only for pattern in words.split())
    cells = chosen(patterns)
    if not cells:
        raise click.UsageError(f"no cell is called {' or '.join(patterns)}: see --list")
    if listing:
        for cell in cells:
            print(f"{cell.name:16} {cell.shows}")
        return
    if rebuild:
        for part in ("kernels", "roots", "suites"):
            shutil.rmtree(CACHE / part, ignore_errors=True)
    logs = CACHE / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    with ThreadPoolExecutor(jobs) as pool:
        statuses = list(pool.map(lambda cell: _run(cell, logs / f"{cell.name}.log", console), cells))
    failed = sum(status != 0 for status in statuses)
    print(f"{len(cells) - failed} passed, {failed} failed")
    sys.exit(failed != 0)


def _run(cell: Cell, log: Path, console: Console) -> int:
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {cell.name:16} begins: {cell.shows}")
    began = time.monotonic()
    try:
        status = cell.run(log)
    except Exception:  # noqa: BLE001 - a cell that cannot even begin is red, and the others go on
        with log.open("a") as out:
            traceback.print_exc(file=out)
        status = 125
    took = f"{(time.monotonic() - began) / 60:.1f} min"
    colour, word = ("green", "passed") if status == 0 else ("red", f"failed with {status}")
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] [{colour}]{cell.name:16} {word}[/], {took}, {log}")
    if status != 0:
        lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:] if log.exists() else []
        console.print("\n".join(f"    {line}" for line in lines), markup=False)
    return status


if __name__ == "__main__":
    main()
