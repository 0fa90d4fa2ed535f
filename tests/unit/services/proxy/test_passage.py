"""Where the rule that lets Services pass between Docker's networks belongs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from overlay.services.proxy.passage import ASK, BASE, RULE, plan
from tests.support.foreign_rules import DOCKER_26, DOCKER_28
from tests.support.problems import shown

ALL, DENIED = "-A FORWARD -j ACCEPT", "-A FORWARD -s 192.0.2.1/32 -j DROP"
USER = "-A FORWARD -j DOCKER-USER"


def forward(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(BASE)]


def carried_out(listed: list[str], commands: list[str]) -> list[str]:
    """What is listed afterwards."""
    rules = list(listed)
    for command in commands:
        verb, _, rest = command.partition(" FORWARD ")
        if verb == "-D":
            rules.remove(BASE + rest)
        else:
            number, _, rule = rest.partition(" ")
            rules.insert(int(number) - 1, BASE + rule)
    return rules


@pytest.mark.parametrize("docker", [DOCKER_26, DOCKER_28], ids=["20.10 to 26", "28"])
@pytest.mark.parametrize("before", [[], [DENIED], [BASE + RULE], [DENIED, BASE + RULE, ALL]])
@pytest.mark.parametrize("after", [[], [DENIED], [BASE + RULE], [BASE + RULE, DENIED, BASE + RULE]])
def test_it_is_directly_before_what_keeps_networks_apart(docker: str, before: list[str], after: list[str]) -> None:
    listed = [*before, *forward(docker), *after]
    rules = carried_out(listed, plan(listed))
    at = rules.index(BASE + RULE)
    assert rules.count(BASE + RULE) == 1
    assert rules[at - 1] == USER
    assert rules[at + 1].split()[-1] in ("DOCKER-ISOLATION-STAGE-1", "DOCKER-FORWARD")
    assert [rule for rule in rules if rule != BASE + RULE] == [rule for rule in listed if rule != BASE + RULE]
    assert plan(rules) == []
    assert carried_out(rules, plan(rules, wanted=False)) == [rule for rule in listed if rule != BASE + RULE]


def test_what_operators_put_between_comes_before_it() -> None:
    listed = forward(DOCKER_28)
    listed[1:1] = [BASE + RULE, DENIED]
    assert carried_out(listed, plan(listed))[1:3] == [DENIED, BASE + RULE]


def test_an_older_rule_of_ours_is_replaced() -> None:
    older = '-A FORWARD -m connmark --mark 0x1 -m comment --comment "overlay services" -j ACCEPT'
    listed = [older, *forward(DOCKER_26)]
    assert older not in carried_out(listed, plan(listed))


@pytest.mark.parametrize("listed", [[], ["-P FORWARD ACCEPT"], [DENIED], [DENIED, ALL]])
def test_without_docker_there_is_none(listed: list[str]) -> None:
    assert plan(listed) == []
    assert plan([BASE + RULE, *listed]) == [f"-D FORWARD {RULE}"]


@pytest.mark.parametrize("before", [[], [BASE + RULE], [BASE + ASK, BASE + RULE], [BASE + RULE, BASE + ASK]])
def test_operators_are_asked_first_also_where_docker_left_them_behind(before: list[str]) -> None:
    left = ["-A FORWARD -j DOCKER-ISOLATION-STAGE-1", USER]
    rules = carried_out([*before, *left], plan([*before, *left]))
    assert rules == [BASE + ASK, BASE + RULE, *left]
    assert plan(rules) == []
    assert carried_out(rules, plan(rules, wanted=False)) == left
    mended = [*rules[:2], *reversed(left)]
    assert carried_out(mended, plan(mended)) == [USER, BASE + RULE, left[0]]


def test_what_only_names_dockers_chains_is_none_of_them() -> None:
    assert plan(["-A FORWARD -m comment --comment DOCKER-FORWARD -j ACCEPT"]) == []


KEEP = (
    "import json; from overlay.services.proxy.passage import keep; print(json.dumps([each.parts for each in keep()]))"
)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("iptables") is None, reason="needs root and iptables")
def test_who_may_not_read_the_rules_says_what_does_not_work() -> None:
    bounded = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", sys.executable, "-c", KEEP)
    done = subprocess.run(bounded, capture_output=True, check=True, timeout=60)
    assert shown({"problem_details": json.loads(done.stdout)}, "docker-networks", "docker network connect")
