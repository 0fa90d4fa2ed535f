"""What each test costs, and why one fails: a plugin of pytest (``-p tests.platforms.costs``) for emulated machines.

A test's time says little there where waits cost nothing. What costs is what the one processor does; the
dearest tests are listed at the end. Why a test fails is said at once as well, as the end may be half an hour away.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

_UPTIME = Path("/proc/uptime")
_LISTED = 25


def busy() -> float:
    """Seconds for which the machine's processor was not idle since it booted (proc_uptime(5))."""
    up, idle = _UPTIME.read_text().split()
    return float(up) - float(idle)


class Costs:
    """Seconds of the processor by the test's name; a fixture's are those of the test that needs it first, or last."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        before = busy()
        outcome = yield
        self._seconds[item.nodeid] = busy() - before
        return outcome

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            terminal = self._config.pluginmanager.get_plugin("terminalreporter")
            assert terminal is not None
            terminal.write_line(f"\n{report.longreprtext}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        everything = sum(self._seconds.values())
        terminalreporter.section(f"processor: {everything:.0f} s in {len(self._seconds)} tests, the dearest")
        for name, seconds in sorted(self._seconds.items(), key=lambda cost: -cost[1])[:_LISTED]:
            terminalreporter.write_line(f"{seconds:6.1f} s  {name}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Costs(config))
