"""``make bench-vm``: the bench on Debian's kernels, with time counted in instructions, so that its ratios repeat.

Each machine has one processor and skips what it would wait: both nodes and both ends take turns on it, and what a way
costs is what it executes, at a nanosecond an instruction. Only ratios mean anything, and the hardware's share of a
packet is not in them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from overlay.lab.bench.scenarios import Measure
from tests.platforms import vm
from tests.platforms.cells import CACHE, KERNELS, on_kernel

_BEGIN, _END = "--- results", "--- end of results"
_BASE = "vxlan"


@dataclass(frozen=True)
class Row:
    """Medians of one way in one mode on one kernel, as ratios to vxlan's in the same round."""

    kernel: str
    mode: str
    way: str
    ratios: dict[Measure, float]


@click.command()
@click.option("--only", multiple=True, metavar="VERSION", help=f"Of {', '.join(KERNELS)}; default: all.")
@click.option("--mode", "modes", multiple=True, default=("wire", "wire-gro"), show_default=True)
@click.option("--way", "ways", multiple=True, default=("vxlan", "kernel", "kernel-no-fou"), show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="Of a measurement, in the machine's time.")
@click.option("--cards", is_flag=True, help="Nodes have virtio-net cards without offloads instead of veth pairs.")
def main(
    only: tuple[str, ...], modes: tuple[str, ...], ways: tuple[str, ...], rounds: int, seconds: float, cards: bool
) -> None:
    """Measures on every kernel and prints the ratios; exit status 1 where one could not be measured."""
    console = Console(highlight=False)
    versions = tuple(word for words in only for word in words.split()) or tuple(KERNELS)
    if unknown := [version for version in versions if version not in KERNELS]:
        raise click.UsageError(f"no kernel is called {unknown[0]}: there are {', '.join(KERNELS)}")
    arguments = [f"--mode {mode}" for mode in modes] + [f"--way {way}" for way in ways]
    hubs = len(ways) if cards else 0
    arguments += [f"--card eth{number}" for number in range(hubs * vm.HUB_CARDS)]
    job = f"""
    overlay lab bench --json --rounds {rounds} --seconds {seconds} {" ".join(arguments)} >/tmp/results.json
    status=$?
    echo "{_BEGIN}"; cat /tmp/results.json; echo; echo "{_END}"
    exit $status
    """
    table = Table("kernel", "underlay", "way", *(measure.title for measure in Measure), box=None, pad_edge=False)
    complete = True
    for version in versions:
        console.print(f"{version} …", style="dim")
        rows = _measure(version, job, hubs)
        complete &= bool(rows)
        for row in rows:
            cells = (f"{row.ratios[m]:.2f}" if m in row.ratios else "-" for m in Measure)
            table.add_row(row.kernel, row.mode, row.way, *cells)
    console.print(table)
    sys.exit(not complete)


def _measure(version: str, job: str, hubs: int) -> list[Row]:
    log = CACHE / "logs" / f"bench-{version}{'-cards' if hubs else ''}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    on_kernel(version, job, log, hardware=vm.Hardware(processor=vm.WHOLE, hubs=hubs))
    printed = log.read_text(errors="replace").replace("\r", "")
    _, begun, rest = printed.partition(f"\n{_BEGIN}\n")
    text, ended, _ = rest.partition(f"\n{_END}\n")
    if not begun or not ended or not text.strip():
        print(f"{version}: no results, see {log}")
        return []
    return ratios(version, json.loads(text))


def ratios(version: str, results: Mapping[str, Any]) -> list[Row]:
    """One row for each mode and way of the bench's JSON, but not vxlan's own."""
    rows: dict[tuple[str, str], Row] = {}
    for result in results["results"]:
        if result["way"] != _BASE and result["of_vxlan"] is not None:
            row = rows.setdefault((result["mode"], result["way"]), Row(version, result["mode"], result["way"], {}))
            row.ratios[Measure(result["measure"])] = result["of_vxlan"]
    return list(rows.values())


if __name__ == "__main__":
    main()
