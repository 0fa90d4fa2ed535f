"""However the tests are ended, what they have made is removed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WAITS = """
import time
from pathlib import Path

import pytest


@pytest.fixture
def made():
    place = Path(__file__).with_name("made")
    place.touch()
    yield
    place.unlink()


def test_waits(made):
    print("waits", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("ignored", [False, True], ids=["", "ignored before"])
def test_a_signal_ends_tests_as_ctrl_c_does(tmp_path: Path, number: signal.Signals, ignored: bool) -> None:
    test = tmp_path / "test_waits.py"
    test.write_text(WAITS)
    words = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "-p", "tests.conftest", str(test)]
    start = ["env", f"--ignore-signal={number.name.removeprefix('SIG')}", *words] if ignored else words
    with subprocess.Popen(start, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert any(line.endswith("waits\n") for line in process.stdout)
            process.send_signal(number)
            assert process.wait(60) == pytest.ExitCode.INTERRUPTED
        finally:
            process.kill()
    assert not (tmp_path / "made").exists()
