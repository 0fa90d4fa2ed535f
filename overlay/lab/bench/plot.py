"""Results as a picture: one panel of bars for every measure, in SVG, which needs no library and prints at any size."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from overlay.errors import FileError
from overlay.lab.bench.report import number
from overlay.lab.bench.results import Results
from overlay.lab.bench.scenarios import PLAIN, VXLAN, Measure, Mode, Way

_WIDTH = 860
_LABELS = 230
"""Pixels on the left for the ways' titles."""

_VALUES = 130
"""Pixels on the right for the figures."""

_BAR = 16
_ROW = 22
_PANEL_TITLE = 34
_HEADER = 56
_MARGIN = 16

_OURS, _OTHERS = "#2f6fb0", "#b8bec6"


def write_svg(results: Results, mode: Mode, path: Path) -> None:
    """Draws one mode's medians. Raises FileError where the file cannot be written."""
    try:
        path.write_text(svg(results, mode))
    except OSError as error:
        raise FileError(error.strerror or str(error), about=f"cannot write {path}") from error


def svg(results: Results, mode: Mode) -> str:
    """The picture: what we made is blue, what is compared with it is grey."""
    panels = [measure for measure in Measure if any(_row(results, mode, measure))]
    height = _HEADER + sum(_PANEL_TITLE + _ROW * len(_row(results, mode, measure)) for measure in panels) + _MARGIN
    body = "\n".join(_panels(results, mode, panels))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" role="img"
     font-family="system-ui, sans-serif" font-size="13">
<title>overlay lab bench, {mode.value} mode</title>
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="{_MARGIN}" y="26" font-size="16" font-weight="600" fill="#1c2126">overlay lab bench, {mode.value} mode</text>
<text x="{_MARGIN}" y="45" font-size="12" fill="#5b646e">{escape(_subtitle(results))}</text>
{body}
</svg>
"""


def _subtitle(results: Results) -> str:
    conditions = results.conditions
    base = f"; x is the ratio to {results.base.title}" if results.base else ""
    return f"medians of {conditions.rounds} rounds, {conditions.cores} shared cores, Linux {conditions.kernel}{base}"


def _row(results: Results, mode: Mode, measure: Measure) -> list[tuple[Way, float]]:
    values = ((way, results.median(mode, way, measure)) for way in results.ways)
    return [(way, value) for way, value in values if value is not None]


def _panels(results: Results, mode: Mode, panels: list[Measure]) -> Iterator[str]:
    top = _HEADER
    room = _WIDTH - _LABELS - _VALUES - _MARGIN
    for measure in panels:
        rows = _row(results, mode, measure)
        largest = max(value for _, value in rows) or 1.0
        better = "less is better" if measure.less_is_better else "more is better"
        yield (
            f'<text x="{_MARGIN}" y="{top + 22}" font-weight="600" fill="#1c2126">{escape(measure.title)}'
            f'<tspan dx="8" font-weight="400" fill="#5b646e">{escape(measure.unit)}, {better}</tspan></text>'
        )
        top += _PANEL_TITLE
        for way, value in rows:
            colour = _OTHERS if way in (PLAIN, VXLAN) else _OURS
            length = max(1.0, value / largest * room)
            base_line = top + _BAR - 4
            yield (
                f'<text x="{_LABELS - 8}" y="{base_line}" text-anchor="end" fill="#1c2126">{escape(way.title)}</text>'
                f'<rect x="{_LABELS}" y="{top}" width="{length:.1f}" height="{_BAR}" rx="2" fill="{colour}"/>'
                f'<text x="{_LABELS + length + 6:.1f}" y="{base_line}" fill="#1c2126">'
                f"{_figure(results, mode, way, measure)}</text>"
            )
            top += _ROW


def _figure(results: Results, mode: Mode, way: Way, measure: Measure) -> str:
    text = number(results.median(mode, way, measure) or 0.0)
    if results.base is None or way == results.base:
        return text
    ratio = results.ratio(mode, way, results.base, measure)
    return text if ratio is None else f"{text}  ({ratio:.2f}x)"
