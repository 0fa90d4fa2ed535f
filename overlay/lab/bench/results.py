"""Samples, medians and ratios; pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from overlay.lab.bench.scenarios import PLAIN, VXLAN, Measure, Mode, Way


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the figures depend on."""

    kernel: str
    cores: int
    seconds: float
    rounds: int


@dataclass
class Results:
    """What was measured, by mode, way, measure and round.

    Attributes:
        conditions: how it was measured.
        modes, ways: in the order of the report.
        unavailable: ways that could not be built, and why.
        failures: measurements that failed, one line each.
    """

    conditions: Conditions
    modes: tuple[Mode, ...]
    ways: tuple[Way, ...]
    unavailable: dict[Way, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _samples: dict[tuple[Mode, Way, Measure], dict[int, float]] = field(default_factory=dict)

    def add(self, mode: Mode, way: Way, round_: int, figures: Mapping[Measure, float]) -> None:
        for measure, value in figures.items():
            self._samples.setdefault((mode, way, measure), {})[round_] = value

    def samples(self, mode: Mode, way: Way, measure: Measure) -> list[float]:
        """In the order of the rounds; those that failed are not there."""
        return [value for _, value in sorted(self._samples.get((mode, way, measure), {}).items())]

    def median(self, mode: Mode, way: Way, measure: Measure) -> float | None:
        """None where nothing was measured."""
        return median(values) if (values := self.samples(mode, way, measure)) else None

    def ratio(self, mode: Mode, way: Way, base: Way, measure: Measure) -> float | None:
        """The median over the rounds of this way's value over ``base``'s of the same round; None without one.

        Not the ratio of the medians: those may come from rounds in which the machine was not equally busy.
        """
        mine = self._samples.get((mode, way, measure), {})
        theirs = self._samples.get((mode, base, measure), {})
        ratios = [mine[number] / theirs[number] for number in mine.keys() & theirs.keys() if theirs[number]]
        return median(ratios) if ratios else None

    @property
    def base(self) -> Way | None:
        """What ratios in the report refer to: kernel vxlan; without it plain node to node; else the first measured."""
        measured = {way for _, way, _ in self._samples}
        return next((way for way in (VXLAN, PLAIN, *self.ways) if way in measured), None)

    @property
    def complete(self) -> bool:
        return not self.unavailable and not self.failures

    def to_json(self) -> str:
        """For machines: the conditions, and an object for every mode, way and measure."""
        return json.dumps(
            {
                "conditions": {
                    "kernel": self.conditions.kernel,
                    "cores": self.conditions.cores,
                    "seconds": self.conditions.seconds,
                    "rounds": self.conditions.rounds,
                },
                "unavailable": {way.name: why for way, why in self.unavailable.items()},
                "failures": self.failures,
                "results": list(self._rows()),
            },
            indent=2,
        )

    def _rows(self) -> Iterator[dict[str, Any]]:
        for mode in self.modes:
            for way in self.ways:
                for measure in Measure:
                    if values := self.samples(mode, way, measure):
                        yield {
                            "mode": mode.value,
                            "way": way.name,
                            "measure": measure.value,
                            "unit": measure.unit,
                            "samples": values,
                            "median": median(values),
                            "of_plain": self.ratio(mode, way, PLAIN, measure),
                            "of_vxlan": self.ratio(mode, way, VXLAN, measure),
                        }
