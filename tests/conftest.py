"""What holds for all tests: nothing of the user's, so that they find the same on every machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

# An example's time says how busy the machine is; what has to be fast is measured, not timed in a test.
settings.register_profile("any machine", settings(), deadline=None)
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """A home of their own and no cache: what passes only where something was downloaded before, fails.

    Before anything is collected, as what tests import may write to it.
    """
    patch = pytest.MonkeyPatch()
    home = TemporaryDirectory(prefix="overlay-test-home-")
    config.add_cleanup(home.cleanup)
    config.add_cleanup(patch.undo)
    patch.setenv("HOME", home.name)
    patch.setenv("PIP_NO_CACHE_DIR", "1")
    for name in [name for name in os.environ if name.startswith("XDG_")]:
        patch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def _signals_as_in_a_terminal() -> Iterator[None]:
    """A script's background ignores SIGINT, nohup SIGHUP, and so would all that tests start and then interrupt.

    Each of them ends the tests as Ctrl-C does, so that what they have made is removed, also where a limit of time or a
    closed terminal ends them.
    """
    ends = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in ends}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
