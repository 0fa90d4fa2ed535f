"""What was found out from rules is known as long as none changes."""

from __future__ import annotations

import pytest

from overlay.errors import NodeError
from overlay.linux import netfilter
from overlay.node.firewall.standstill import Standstill


class Rules:
    """Of which somebody says how often they have changed, or nobody does (None)."""

    def __init__(self) -> None:
        self.state: int | None = 1
        self.looks = 0

    def look(self) -> int:
        self.looks += 1
        return self.looks


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> Rules:
    rules = Rules()
    monkeypatch.setattr(netfilter, "state", lambda: rules.state)
    return rules


def test_it_looks_once_while_nothing_changes(rules: Rules) -> None:
    standstill = Standstill[int]()
    assert [standstill.known("asked", rules.look) for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("what", ["rules", "asked", "forgotten"])
def test_it_looks_again_when_anything_has_changed(rules: Rules, what: str) -> None:
    standstill = Standstill[int]()
    standstill.known("asked", rules.look)
    if what == "rules":
        rules.state = 2
    if what == "forgotten":
        standstill.forget()
    assert standstill.known("other" if what == "asked" else "asked", rules.look) == 2


def test_it_always_looks_where_nobody_counts(rules: Rules) -> None:
    rules.state, standstill = None, Standstill[int]()
    assert [standstill.known("asked", rules.look) for _ in range(3)] == [1, 2, 3]


def test_what_changes_while_it_looks_is_seen_the_next_time(rules: Rules) -> None:
    standstill = Standstill[int]()

    def look() -> int:
        rules.state = 2
        return rules.look()

    standstill.known("asked", look)
    assert standstill.known("asked", rules.look) == 2


def test_what_fails_is_tried_again(rules: Rules) -> None:
    standstill = Standstill[int]()

    def fail() -> int:
        raise NodeError("no")

    standstill.known("asked", rules.look)
    rules.state = 2
    with pytest.raises(NodeError):
        standstill.known("asked", fail)
    rules.state = 1
    assert standstill.known("asked", rules.look) == 2
