"""The loop: rounds outside, ways innermost, so that what is compared is measured within seconds of each other."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence

from overlay.errors import LabError, UsageError
from overlay.lab.bench.probes import PROBES, busy_seconds
from overlay.lab.bench.results import Conditions, Results
from overlay.lab.bench.scenarios import OF_CARDS, Mode, Way
from overlay.lab.bench.stage import Staged, staged
from overlay.lab.process import poll
from overlay.lab.shell import require_programs, require_root

Progress = Callable[[str], None]

_QUIET = 0.4
"""Seconds of a core in one second: agents that stand take a few hundredths, more while they see to a changed link."""
_SETTLING_SECONDS = 10.0

PROGRAMS = ("bridge", "ethtool", "iperf3", "sockperf")


def run_bench(
    ways: Sequence[Way],
    modes: Sequence[Mode],
    *,
    seconds: float,
    rounds: int,
    name: str,
    progress: Progress,
    cards: Sequence[str] = (),
) -> Results:
    """Measures everything.

    Args:
        ways: what is compared.
        modes: the underlay's, one after the other within each round.
        seconds: of every single measurement.
        rounds: how often all of it is repeated.
        name: of the labs, to which a digit is added.
        progress: is told what is done next.
        cards: see :func:`staged`.

    Raises:
        LabError: no root, or a program is missing.
        UsageError: cards cannot be all that is asked for.
    """
    if cards and (others := [mode.value for mode in modes if mode not in OF_CARDS]):
        possible = ", ".join(mode.value for mode in OF_CARDS)
        raise UsageError("is no mode of cards", about=f"mode {others[0]}", remedy=f"they have {possible}")
    require_root()
    require_programs(*PROGRAMS)
    conditions = Conditions(platform.release(), os.cpu_count() or 1, seconds, rounds)
    results = Results(conditions, tuple(modes), tuple(ways))
    with staged(ways, name, lambda title: progress(f"lab: {title}"), cards) as stage:
        results.unavailable.update({way: str(it) for way, it in stage.items() if isinstance(it, LabError)})
        ready = [it for it in stage.values() if isinstance(it, Staged)]
        for number in range(rounds):
            for mode in modes:
                for it in ready:
                    it.set_mode(mode)
                poll(_quiet, _SETTLING_SECONDS)
                progress(f"round {number + 1} of {rounds}, {mode.value} mode")
                _measure_all(ready, mode, number, results)
    return results


def _quiet() -> bool:
    """Whether this machine does little; a second long."""
    before = busy_seconds()
    time.sleep(1)
    return busy_seconds() - before < _QUIET


def _measure_all(ready: Sequence[Staged], mode: Mode, number: int, results: Results) -> None:
    for probe in PROBES:
        for it in ready:
            try:
                it.wake()
                with it.load():
                    figures = probe.run(it.ends, results.conditions.seconds)
                results.add(mode, it.way, number, figures)
            except LabError as error:
                measures = " and ".join(measure.title for measure in probe.measures)
                results.failures.append(f"{it.way.title}, {mode.value} mode, round {number + 1}, {measures}: {error}")
