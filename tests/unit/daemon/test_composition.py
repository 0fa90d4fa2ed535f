"""A whole daemon on the chassis, as a process: what systemd, probes, ``status`` and a second one of it see."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overlay.daemon.status_socket import ask
from overlay.errors import OverlayError
from tests.support import small_daemon

PATIENCE = 60.0


class Small:
    """The process, and systemd's end of its socket."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port = directory, port
        self.kept = directory / "state" / "kept"
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(directory / "notify"))
        self.systemd.settimeout(PATIENCE)
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", small_daemon.__name__, str(self.directory / "state"), str(self.port)],
            env={"NOTIFY_SOCKET": str(self.directory / "notify")},
            stderr=subprocess.PIPE,
            text=True,
        )

    def tells(self, *wanted: str) -> list[str]:
        """What systemd hears until it has heard all of ``wanted``, in order."""
        heard: list[str] = []
        while not set(wanted) <= set(heard):
            heard.append(self.systemd.recv(4096).decode())
        return heard

    def probe(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def problems(self) -> object:
        try:
            return ask(self.directory / "state", "small")
        except OverlayError as error:
            return str(error)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.systemd.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = Small(tmp_path, port)
    yield made
    made.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_daemons_life(small: Small) -> None:
    small.tells("READY=1", "STATUS=0 problems")
    assert small.kept.read_text() == small_daemon.CONTENT
    until(lambda: small.problems() == [])
    until(lambda: small.probe("/readyz") == 200)

    second = small.start()
    assert second.wait(PATIENCE) == 1
    assert second.stderr is not None
    assert f"another small runs there (process {small.process.pid})" in second.stderr.read()
    second.stderr.close()

    small.kept.unlink()
    until(lambda: small.kept.exists() and small.kept.read_text() == small_daemon.CONTENT)  # what others break is mended
    small.kept.unlink()
    small.kept.mkdir()  # and what cannot be mended is told
    told = f"{small.kept}: Is a directory; trying again"
    until(lambda: small.problems() == [told])
    assert small.probe("/readyz") == 503
    assert small.probe("/healthz") == 200
    small.kept.rmdir()
    until(lambda: small.problems() == [])

    small.process.terminate()
    _, log = small.process.communicate(timeout=PATIENCE)
    assert small.process.returncode == 0
    assert "STOPPING=1" in small.tells("STOPPING=1")
    assert f"file: {told}\n" in log
    assert f"file: over: {told} (after " in log
    assert not small.kept.exists(), "what it held it gave back"
    assert sorted(path.name for path in small.kept.parent.iterdir()) == ["small.lock"]
    assert "no small runs with this state directory" in str(small.problems())
