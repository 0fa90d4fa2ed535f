"""What is wrong now, by who found it."""

from __future__ import annotations

import logging

import pytest

from overlay.daemon.troubles import REPEAT_AFTER, Troubles
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
