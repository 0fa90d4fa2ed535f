"""What is told, and how often: the log's lines, systemd's status, and problems that come and go."""

from __future__ import annotations

import io
import json
import logging
import socket
from pathlib import Path

import pytest

from overlay.daemon.sd_notify import Notifier
from overlay.daemon.troubles import MAX_LINES, REPEAT_AFTER, ProblemLog
from overlay.observe import logging as observed
from overlay.problem import Problem

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


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def told() -> tuple[ProblemLog, list[str]]:
    handler, logger = Lines(), logging.Logger("problems")
    logger.addHandler(handler)
    return ProblemLog(logger), handler.lines


@pytest.mark.parametrize(
    "family",
    ["one that flaps", "always another one", "one whose text changes"],
)
def test_problems_that_come_and_go_for_ever_are_told_at_a_bounded_rate(
    told: tuple[ProblemLog, list[str]], family: str
) -> None:
    log, lines = told
    for second in range(int(3 * REPEAT_AFTER)):
        match family:
            case "one that flaps":
                problems = [Problem("lease", "it is malformed", about="/a")] if second % 2 else []
            case "always another one":
                problems = [Problem("lease", f"{second} is malformed", about=f"/{second}")]
            case _:
                problems = [Problem("lease", f"it is malformed: {second}", about="/a")]
        log.update(problems, float(second))
    assert 3 <= len(lines) <= 3 * (MAX_LINES + 1)
    assert sum("were left out" in line for line in lines) == 2


def test_a_problem_that_lasts_is_told_as_it_begins_now_and_then_and_when_it_reads_differently(
    told: tuple[ProblemLog, list[str]],
) -> None:
    log, lines = told
    for second in range(int(REPEAT_AFTER) + 2):
        log.update([Problem("store", "etcd is away", about="etcd")], float(second))
    assert lines == ["etcd is away"] * 2
    log.update([Problem("store", "etcd denies", about="etcd")], REPEAT_AFTER + 2)
    log.update([], REPEAT_AFTER + 3)
    assert lines[2:] == ["etcd denies", f"over: etcd denies (after {REPEAT_AFTER + 3:.1f} s)"]


def test_what_floods_one_family_leaves_the_others_their_say(told: tuple[ProblemLog, list[str]]) -> None:
    log, lines = told
    flood = [Problem("lease", f"{number} is malformed", about=f"/{number}") for number in range(1000)]
    log.update(flood, 0.0)
    log.update([*flood, Problem("store", "etcd is away", about="etcd")], 1.0)
    assert lines[-1] == "etcd is away"
    log.update(flood, 2.0)
    assert lines[-1] == "over: etcd is away (after 1.0 s)"
