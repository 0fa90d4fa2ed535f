"""What each test costs: a plugin of pytest (``-p tests.platforms.costs``) for machines that have one processor.

A test's time says little on an emulated machine, where waits take none of ours. What takes ours is what its processor
does; the dearest tests are listed at the end.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

_UPTIME = Path("/proc/uptime")
_LISTED = 25

_costs: dict[str, float] = {}
"""Seconds of the processor by the test's name; a fixture's are those of the test that needs it first, or last."""


def busy() -> float:
    """Seconds for which the machine's processor was not idle since it booted (proc_uptime(5))."""
    up, idle = _UPTIME.read_text().split()
    return float(up) - float(idle)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    before = busy()
    outcome = yield
    _costs[item.nodeid] = busy() - before
    return outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section(f"processor: {sum(_costs.values()):.0f} s in {len(_costs)} tests, the dearest")
    for name, seconds in sorted(_costs.items(), key=lambda cost: -cost[1])[:_LISTED]:
        terminalreporter.write_line(f"{seconds:6.1f} s  {name}")
