"""What a ruleset does for certain to one kind of packet. Pure.

Nobody can tell by reading what becomes of every packet; but of one kind, of which some things are known and others not,
some rulesets can be said to refuse whatever it is. Each condition of a rule is true, false or unknown for the packet; a
rule of which something is unknown both counts and does not::

    -P INPUT DROP
    -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT     false: it is a flow's first
    -A INPUT -p tcp --dport 22 -j ACCEPT                              false: it is UDP
    -A INPUT -s 192.0.2.0/24 -j ACCEPT                                unknown where the sender is not known
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network

from overlay.node.firewall.saved import Saved, Tokens, target

Known = bool | None
"""Whether something holds; None where that cannot be told."""


class Outcome(Enum):
    """How a packet leaves a chain."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    PASSED = "passed"
    """No rule ended it: it goes on where the chain was called, or the kernel's chain has a policy."""


@dataclass(frozen=True, slots=True)
class Packet:
    """What is known of one kind of packet, the first of its flow; None is unknown.

    Attributes:
        comes_by, leaves_by: names of interfaces; empty for none.
        source, destination: where it is from and goes to, as far as that is known.
    """

    protocol: str | None = None
    port: int | None = None
    comes_by: str | None = None
    leaves_by: str | None = None
    source: IPv4Network | None = None
    destination: IPv4Network | None = None


_REFUSALS = frozenset({"DROP", "REJECT"})

_GO_ON = frozenset(
    (
        *("LOG", "NFLOG", "ULOG", "TRACE", "AUDIT", "LED", "RATEEST", "IDLETIMER", "SET", "TEE", "NOTRACK", "CT"),
        *("MARK", "CONNMARK", "SECMARK", "CONNSECMARK", "CLASSIFY", "CHECKSUM", "TCPMSS", "TOS", "DSCP", "ECN", "TTL"),
    )
)
"""Targets behind which the next rule is tried (iptables-extensions(8)); any other accepts for all we know."""

_DEEPEST = 16
"""The kernel refuses loops; this guards against a text that no kernel printed."""


def is_refused(packet: Packet, table: Saved, chain: str) -> bool:
    """Whether ``chain``, one of the kernel's, ends such a packet whatever else it is."""
    if chain not in table.policies:
        return False
    outcomes = _run(packet, table, chain, 0)
    if Outcome.PASSED in outcomes:
        policy = Outcome.REFUSED if table.policies[chain] == "DROP" else Outcome.ACCEPTED
        outcomes = outcomes - {Outcome.PASSED} | {policy}
    return outcomes == {Outcome.REFUSED}


def _run(packet: Packet, table: Saved, chain: str, depth: int) -> set[Outcome]:
    """All ways in which it may leave ``chain``."""
    outcomes: set[Outcome] = set()
    for rule in table.chain(chain):
        holds = _holds(packet, rule)
        name = target(rule)
        if holds is False or name is None or name in _GO_ON:
            continue
        if name in table.policies:
            inner = _run(packet, table, name, depth + 1) if depth < _DEEPEST else set(Outcome)
            ends = inner if "-g" in rule else inner - {Outcome.PASSED}
            goes_on = ends != inner
        else:
            ends, goes_on = {_verdict(name)}, False
        outcomes |= ends
        if holds and not goes_on:
            return outcomes
    return outcomes | {Outcome.PASSED}


def _verdict(name: str) -> Outcome:
    if name == "RETURN":
        return Outcome.PASSED
    return Outcome.REFUSED if name in _REFUSALS else Outcome.ACCEPTED


def _holds(packet: Packet, rule: Tokens) -> Known:
    """Whether all conditions of a rule do."""
    found = list(_conditions(packet, rule))
    return False if False in found else None if None in found else True


def _conditions(packet: Packet, rule: Tokens) -> Iterator[Known]:
    words = iter(rule)
    inverted = False
    for word in words:
        if word == "!":
            inverted = True
            continue
        if word in ("-j", "-g"):
            return
        if word == "-m":
            next(words, None)  # a module alone says nothing: its options do
        elif word == "--comment":
            next(words, None)
        else:
            known = _condition(packet, word, words)
            yield known if known is None else known is not inverted
        inverted = False


def _condition(packet: Packet, word: str, words: Iterator[str]) -> Known:
    """Of one option, taking its value off ``words``; other words, values of options that are unknown, are unknown."""
    match word:
        case "-s" | "-d":
            return _within(packet.source if word == "-s" else packet.destination, next(words, ""))
        case "-i" | "-o":
            return _is_interface(packet.comes_by if word == "-i" else packet.leaves_by, next(words, ""))
        case "-p":
            return _is_protocol(packet.protocol, next(words, ""))
        case "--dport" | "--dports":
            return _is_port(packet.port, next(words, ""))
        case "--ctstate" | "--state":
            states = next(words, "").split(",")
            return True if "NEW" in states else None if {"UNTRACKED", "DNAT", "SNAT"} & set(states) else False
    return None


_NUMBERS = {"udp": "17", "tcp": "6", "icmp": "1"}


def _is_protocol(protocol: str | None, wanted: str) -> Known:
    if wanted in ("all", "0"):
        return True
    return None if protocol is None else wanted in (protocol, _NUMBERS[protocol])


def _within(address: IPv4Network | None, text: str) -> Known:
    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        return None
    if network.prefixlen == 0 or (address is not None and address.subnet_of(network)):
        return True
    return None if address is None or address.overlaps(network) else False


def _is_interface(name: str | None, wanted: str) -> Known:
    if name is None:
        return True if wanted == "+" else None
    return name.startswith(wanted[:-1]) if wanted.endswith("+") else name == wanted


def _is_port(port: int | None, text: str) -> Known:
    if port is None:
        return None
    for part in text.split(","):
        first, colon, last = part.partition(":")
        try:
            if int(first or 0) <= port <= int((last or 65535) if colon else first):
                return True
        except ValueError:  # a service by its name
            return None
    return False
