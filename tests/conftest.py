"""What holds for all tests: nothing of the user's, so that they find the same on every machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# An example's time says how busy the machine is; what has to be fast is measured, not timed in a test.
settings.register_profile("any machine", settings(), deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home of their own and no cache: what passes only where something was downloaded before, fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("PIP_NO_CACHE_DIR", "1")
        for name in [name for name in os.environ if name.startswith("XDG_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def _signals_as_in_a_terminal() -> Iterator[None]:
    """A script's background ignores SIGINT, nohup SIGHUP, and so would all that tests start and then interrupt."""
    ends = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
    ignored = [number for number in ends if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
