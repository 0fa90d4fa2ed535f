"""Runs mutants, each in a process of its own, and tells what caught them."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.mutation.patch import ROOT
from tests.mutation.table import MUTANTS

LIMIT = 600.0
"""Seconds that one mutant gets; a mistake that goes round for ever is not caught by that, but reported."""


def run(number: int) -> tuple[int, str, float]:
    """One mutant's exit status, what caught it, and how long that took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.mutation.child", str(number)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return 2, f"no end after {LIMIT:g} s", time.monotonic() - began
    said = (done.stdout if done.returncode in (0, 1) else done.stderr).strip().splitlines()
    return done.returncode, said[-1] if said else "", time.monotonic() - began


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutants whose text has all of these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once")
    arguments = parser.parse_args()
    chosen = [n for n, mutant in enumerate(MUTANTS) if all(word in str(mutant) for word in arguments.words)]
    escaped = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for number, (status, said, seconds) in zip(chosen, pool.map(run, chosen), strict=True):
            escaped += status != 0
            verdict = {0: "caught", 1: "ESCAPED"}.get(status, "BROKEN")
            print(f"{verdict}  {MUTANTS[number]}\n        {said[:200]}  ({seconds:.1f} s)", flush=True)
    print(f"{len(chosen)} mutants, {escaped} not caught")
    return 1 if escaped or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
