"""Runs seeds and prints figures, or replays one with a trace."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter

from overlay.errors import first_of
from tests.simulation.node import Node
from tests.simulation.scenario import Scenario


def replay(seed: int) -> int:
    """Runs one seed and tells every step."""
    scenario = Scenario(seed, trace=print)
    shown: dict[str, str] = {}
    check = scenario.checker.changed

    def tell(node: Node) -> None:
        held = node.held
        what = f"{node.state.phase.name} {held.key.rpartition('/')[2] if held else ''}"
        if shown.get(node.name) != what:
            shown[node.name] = what
            print(f"{scenario.clock.now:9.3f}  {node.name} {what}")
        check(node)

    for node in scenario.nodes:
        node.on_change = tell
    log = logging.getLogger("overlay.control")
    log.setLevel(logging.INFO)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("             %(message)s"))
    log.addHandler(handler)
    try:
        scenario.run()
    except (AssertionError, ExceptionGroup) as violation:
        print(f"{scenario.clock.now:9.3f}  VIOLATION: {first_of(violation)}")
        return 1
    print(f"seed {seed}: every invariant held")
    return 0


def soak(first: int, count: int) -> int:
    """Runs ``count`` seeds and prints what was injected and what came of it."""
    faults: Counter[str] = Counter()
    leases: Counter[str] = Counter()
    failed: list[int] = []
    simulated, began, told = 0.0, time.monotonic(), time.monotonic()
    for seed in range(first, first + count):
        try:
            result = Scenario(seed).run()
        except (AssertionError, ExceptionGroup) as violation:  # a process's tasks end in a group
            failed.append(seed)
            print(f"seed {seed}: {first_of(violation)}", flush=True)
            continue
        faults += result.faults
        leases += result.leases
        simulated += result.seconds
        if time.monotonic() - told > 30:
            told = time.monotonic()
            print(f"… {seed - first + 1} of {count} seeds", flush=True)
    print(f"{count} seeds from {first} in {time.monotonic() - began:.1f} s, {simulated / 3600:.1f} h simulated")
    for title, counts in (("faults injected", faults), ("leases", leases)):
        print(f"{title}:")
        for kind, number in sorted(counts.items(), key=lambda item: -item[1]):
            print(f"  {number:9,}  {kind}")
    print(f"violations: {len(failed)}" + (f", replay with --seed: {failed[:20]}" if failed else ""))
    return 1 if failed else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="replay this one with a trace")
    arguments = parser.parse_args()
    return soak(arguments.first, arguments.seeds) if arguments.seed is None else replay(arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
