"""Lets connections to Services pass between Docker's networks, which are kept apart otherwise.

Docker drops what goes from one of its bridges to another, and from its version 28 on all that comes to one from
elsewhere. What a mode has given a backend carries a mark on its connection, and one rule accepts that::

    -A FORWARD -j DOCKER-USER
    -A FORWARD -m connmark --mark 0x200000/0x200000 -m comment --comment "overlay services" -j ACCEPT
    -A FORWARD -j DOCKER-ISOLATION-STAGE-1          (DOCKER-FORWARD in Docker 28)

Its place is directly before the first chain of Docker's own that keeps networks apart, so that whatever operators deny
in DOCKER-USER, or before it, is denied. Docker moves its chains to the front when it makes a network, and when it
starts: the rule is put in its place again when the machine is looked at. Where Docker has no such chain there is none.

Docker 20.10 that is restarted with live-restore leaves DOCKER-USER behind the other. Then a rule before ours asks it::

    -A FORWARD -m connmark --mark 0x200000/0x200000 -m comment --comment "overlay services" -j DOCKER-USER
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from overlay.errors import NodeError
from overlay.linux.netfilter import Iptables, Tools, has_legacy_filter
from overlay.model import TRANSLATED_MARK
from overlay.problem import Problem

BASE = "-A FORWARD "

COMMENT = '--comment "overlay services"'

_OPERATORS = "DOCKER-USER"

_TRANSLATED = f"-m connmark --mark {TRANSLATED_MARK:#x}/{TRANSLATED_MARK:#x} -m comment {COMMENT}"

RULE = f"{_TRANSLATED} -j ACCEPT"

ASK = f"{_TRANSLATED} -j {_OPERATORS}"

_APART = frozenset({"DOCKER-ISOLATION-STAGE-1", "DOCKER-FORWARD", "DOCKER-INTERNAL"})
"""Chains of Docker's (20.10 to 28) that keep its networks apart."""

_ATTEMPTS = 5
"""Docker may move its chains between our reading and our writing, so what was written is read again."""


def keep() -> tuple[Problem, ...]:
    """Puts the rule in its place, or away where there is no need; tells why it could not be."""
    try:
        for tool in Tools.locate().variants:
            for _ in range(_ATTEMPTS):
                if not (commands := plan(_listed(tool))):
                    break
                _carry_out(tool, commands)
    except NodeError as error:
        cause = f"containers of other Docker networks do not reach Services' pods on docker0: {error}"
        return (Problem("docker-networks", cause, "docker network connect bridge CONTAINER"),)
    return ()


def remove() -> Iterator[str]:
    """Takes the rule away, and tells where it was. Raises NodeError."""
    for tool in Tools.locate().variants:
        if commands := plan(_listed(tool), wanted=False):
            _carry_out(tool, commands)
            yield "iptables filter FORWARD: the rule of Services"


def plan(listed: Iterable[str], *, wanted: bool = True) -> list[str]:
    """Commands for the table filter, of what ``iptables -S FORWARD`` printed; none where all is right. Pure."""
    rules = [line.removeprefix(BASE) for line in listed if line.startswith(BASE)]
    ours = [rule for rule in rules if COMMENT in rule]
    others = [rule for rule in rules if COMMENT not in rule]
    chains = list(map(_leads_to, others))
    place = next((index for index, chain in enumerate(chains) if chain in _APART), None)
    if place is None or not wanted:
        return [f"-D FORWARD {rule}" for rule in ours]
    unasked = _OPERATORS in chains[place:] and _OPERATORS not in chains[:place]
    right = [ASK, RULE] if unasked else [RULE]
    if rules == [*others[:place], *right, *others[place:]]:
        return []
    return [
        *(f"-D FORWARD {rule}" for rule in ours),
        *(f"-I FORWARD {number} {rule}" for number, rule in enumerate(right, place + 1)),
    ]


def _leads_to(rule: str) -> str:
    words = rule.split()
    return words[-1] if words[-2:-1] in (["-j"], ["-g"]) else ""


def _listed(tool: Iptables) -> list[str]:
    if not tool.is_nft and not has_legacy_filter():
        return []
    return tool.chain("filter", "FORWARD").splitlines()


def _carry_out(tool: Iptables, commands: list[str]) -> None:
    tool.carry_out("\n".join(("*filter", *commands, "COMMIT", "")))
