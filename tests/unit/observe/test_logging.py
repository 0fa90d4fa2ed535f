"""What is told: the log's lines, and systemd's status."""

from __future__ import annotations

import io
import json
import logging
import socket
from pathlib import Path

import pytest

from overlay.daemon.sd_notify import Notifier
from overlay.observe import logging as observed

HOSTILE = "node a\nMAINPID=1\x1b[2J\ud800 \u2028b"


def written(style: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a line with hostile text and one with a traceback look like."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    root, ours = logging.getLogger(), logging.getLogger("overlay")
    before = root.handlers[:], root.level, ours.level
    try:
        observed.set_up(style, verbose=False, under_journald=False)
        log = logging.getLogger("overlay.test")
        log.warning("%s", HOSTILE)
        try:
            json.loads("cause")
        except ValueError:
            log.exception("a bug")
    finally:
        root.handlers[:], root.level = before[0], before[1]
        ours.setLevel(before[2])
    return stream.getvalue()


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_record_is_one_printable_line_with_its_traceback(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = written(style, monkeypatch).splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert "JSONDecodeError: Expecting value" in lines[1]
    assert "test_logging.py" in lines[1]


def test_json_lines_have_the_traceback_as_a_member(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (json.loads(line) for line in written("json", monkeypatch).splitlines())
    assert (first["message"], "traceback" in first) == (HOSTILE, False)
    assert second["message"] == "a bug"
    assert second["traceback"].startswith("Traceback (most recent call last):\n")


def test_systemd_hears_one_assignment_whatever_others_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sd_notify(3): a line break begins another assignment, and MAINPID=1 would be believed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        Notifier().status(HOSTILE)
        heard = systemd.recv(4096).decode()
    assert heard.startswith("STATUS=node a")
    assert heard.isprintable()
