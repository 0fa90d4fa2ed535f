"""What is wrong now, by who found it, and how often it is told."""

from __future__ import annotations

import logging

import pytest

from overlay.daemon.troubles import MAX_LINES, REPEAT_AFTER, ProblemLog, Troubles
from overlay.problem import Problem, Severity

AWAY = Problem("store", "etcd is away", about="etcd")
DROPS = Problem("drops", "2 % of packets were dropped", "give it more", measured=True)
NO_DEVICE = Problem("node", "flannel0: is busy", about="flannel0", severity=Severity.DOWN)


def test_what_keeps_the_node_from_being_ready_comes_first() -> None:
    troubles = Troubles(lambda: 0.0)
    troubles.found("control.plane", [AWAY])
    troubles.found("datapath", [DROPS])
    assert (troubles.now, troubles.down) == ((AWAY, DROPS), False)
    troubles.found("node", [NO_DEVICE])
    assert (troubles.now, troubles.down) == ((NO_DEVICE, AWAY, DROPS), True)
    troubles.over("node")
    assert (troubles.now, troubles.down) == ((AWAY, DROPS), False)


def test_each_source_answers_for_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """What one does not name any more is over; of what another names it says nothing."""
    caplog.set_level(logging.INFO)
    now = 0.0
    troubles = Troubles(lambda: now)
    troubles.found("control.plane", [AWAY])
    troubles.found("datapath", [DROPS])
    now = 3.0
    troubles.found("control.plane", [])
    assert troubles.now == (DROPS,)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("overlay.control.plane", "etcd is away"),
        ("overlay.datapath", "drops: 2 % of packets were dropped; give it more"),
        ("overlay.control.plane", "over: etcd is away (after 3.0 s)"),
    ]


def test_figures_that_every_look_finds_different_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    troubles = Troubles(lambda: now)
    while now < REPEAT_AFTER:
        troubles.found("datapath", [Problem("drops", f"{now} % were dropped", measured=True)])
        now += 5.0
    assert caplog.messages == ["drops: 0.0 % were dropped"]
    troubles.found("datapath", [Problem("drops", "7 % were dropped", measured=True)])
    assert caplog.messages[1:] == ["drops: 7 % were dropped"], "said again after a while, as it is then"


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
