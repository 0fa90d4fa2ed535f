"""Runs one mutant in this process, which is to be a new one: ``python -m tests.mutation.child NUMBER``.

Prints what caught it. Exit status 0: caught; 1: it got through; anything else: the mutant does not run at all.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import warnings

from tests.mutation.patch import Mutant, install
from tests.mutation.table import MUTANTS

CPU_LIMIT = 20.0
"""Seconds of processor that one seed gets, of which it needs hundredths: a mistake may go round for ever."""


class NoEndError(AssertionError):
    """No TimeoutError, which the code under test may be waiting for."""


def _overdue(*_: object) -> None:
    raise NoEndError(f"no end after {CPU_LIMIT:g} s of processor time")


def by_simulation() -> str | None:
    """What the first seed that notices says."""
    from tests.simulation.scenario import DEFAULT_SEEDS, Scenario

    signal.signal(signal.SIGVTALRM, _overdue)
    for seed in range(DEFAULT_SEEDS):
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_LIMIT)
        try:
            Scenario(seed).run()
        except Exception as error:  # noqa: BLE001  # a mistake may end a process by any
            return f"seed {seed}: {type(error).__name__}: {error}"
    return None


def by_tests(mutant: Mutant) -> str | None:
    """The first test that fails."""
    import pytest

    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *mutant.tests])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        sys.exit(f"{report.getvalue()}\npytest ended with {status!r}")
    failed = [line for line in report.getvalue().splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else None


def main() -> int:
    """The mutant whose number is given."""
    warnings.simplefilter("ignore")
    mutant = MUTANTS[int(sys.argv[1])]
    install(mutant)
    caught = by_tests(mutant) if mutant.tests else by_simulation()
    print(caught or "got through")
    return 0 if caught else 1


if __name__ == "__main__":
    sys.exit(main())
