"""Results as a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from overlay.lab.bench.results import Results
from overlay.lab.bench.scenarios import Measure, Mode, Way

_MODE_TITLES = {
    Mode.WIRE: "Wire mode: packets cross at MTU size, as on a network",
    Mode.WIRE_GRO: "Wire mode with GRO on the underlay: the same, and joined on arrival, as network cards do",
    Mode.WIRE_TRAINS: "TSO and GSO off: TCP crosses at MTU size, trains of datagrams as one, as on no network",
    Mode.VETH: "Veth mode: packets of 64 KB cross as one, as on no network",
}


def report(results: Results) -> RenderableType:
    """One table a mode, then what the figures mean and what went wrong."""
    return Group(*_parts(results))


def number(value: float) -> str:
    """Three significant digits where that takes a decimal point, else whole: ``3.42``, ``38.1``, ``1250``."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _parts(results: Results) -> Iterator[RenderableType]:
    for mode in results.modes:
        yield Text(_MODE_TITLES[mode], style="bold")
        yield _table(results, mode)
        yield Text()
    conditions = results.conditions
    spent = f"medians of {conditions.rounds} interleaved rounds of {conditions.seconds:g} s"
    base = results.base
    ratios = f"; x is the ratio to {base.title} in the same round" if base else ""
    yield Text(f"{spent}{ratios}.")
    yield Text(f"Linux {conditions.kernel}, {conditions.cores} cores, which both nodes and both ends share.")
    for way, why in results.unavailable.items():
        yield Text(f"not available: {way.title}: {why}", style="yellow")
    for failure in results.failures:
        yield Text(f"failed: {failure}", style="red")


def _table(results: Results, mode: Mode) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for measure in Measure:
        table.add_column(f"{measure.title}\n{measure.unit}", justify="right", no_wrap=True)
    for way in results.ways:
        if way not in results.unavailable:
            table.add_row(way.title, *(_cell(results, mode, way, measure) for measure in Measure))
    return table


def _cell(results: Results, mode: Mode, way: Way, measure: Measure) -> str:
    value = results.median(mode, way, measure)
    if value is None:
        return "-"
    ratio = None
    if results.base is not None and way != results.base:
        ratio = results.ratio(mode, way, results.base, measure)
    return number(value) + ("       " if ratio is None else f" {ratio:>5.2f}x")
