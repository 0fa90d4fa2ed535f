"""The chains, walked through as the kernel does, against what the table says that a connection meets."""

from __future__ import annotations

import random
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv4Address, IPv4Network

import pytest

from overlay.model import TRANSLATED_MARK
from overlay.services.meeting import meets
from overlay.services.proxy.iptables.rendering import MASQUERADE, REFUSED, SERVICES, common, render
from overlay.services.table import Answer, Place, Table
from tests.support.service_tables import CLUSTER_IPS, OTHERS, OWN, PROTOCOLS, random_entries

PORTS = (80, 30080, 30081)
SOURCES = ("10.0.1.2", "10.0.7.9", OWN[0], "127.0.0.1", "192.0.2.9", "198.51.100.7")
"""A backend, another node's pod, the node twice, a client that may come to a load balancer's address, another."""


@dataclass(frozen=True)
class Packet:
    source: str
    destination: str
    port: int
    protocol: str
    marked: bool = False
    connection_marked: bool = False


@dataclass(frozen=True)
class Outcome:
    """Where a packet ends: a verdict, or another destination."""

    verdict: str
    at: tuple[str, int] = ("", 0)
    masqueraded: bool = False


def walk(chains: Mapping[str, tuple[str, ...]], chain: str, packet: Packet) -> Iterator[Packet | Outcome]:
    """All ways that a packet may take: outcomes, and packets that return from the chain."""
    ways = [packet]
    for rule in chains[chain]:
        returning: list[Packet] = []
        for each in ways:
            words = options(rule)
            certain, possible = matches(words, each)
            if not possible:
                returning.append(each)
                continue
            if not certain:
                returning.append(each)
            for end in target(chains, words, each):
                if isinstance(end, Outcome):
                    yield end
                elif end is not STOP:
                    returning.append(end)
                else:
                    yield replace(each)
        ways = returning
    yield from ways


STOP = Packet("", "", 0, "")


def target(
    chains: Mapping[str, tuple[str, ...]], words: Mapping[str, str], packet: Packet
) -> Iterator[Packet | Outcome]:
    name = words.get("-j")
    if name is None:
        yield packet
    elif name == "RETURN":
        yield STOP
    elif name == "MARK":
        value, mask = (int(each, 16) for each in words["--set-xmark"].split("/"))
        assert value == 0x4000
        yield replace(packet, marked=True if mask else not packet.marked)
    elif name == "CONNMARK":
        assert words["--set-xmark"] == f"{TRANSLATED_MARK:#x}/{TRANSLATED_MARK:#x}"
        yield replace(packet, connection_marked=True)
    elif name == "DNAT":
        assert packet.connection_marked, "what is given a backend is known by that"
        address, port = words["--to-destination"].split(":")
        yield Outcome("DNAT", (address, int(port)), packet.marked)
    elif name in ("REJECT", "DROP", "MASQUERADE"):
        yield Outcome(name)
    else:
        yield from walk(chains, name, packet)


@cache
def options(rule: str) -> Mapping[str, str]:
    words, found = shlex.split(rule), {}
    for at, word in enumerate(words):
        if word.startswith("-"):
            value = words[at + 1] if at + 1 < len(words) and not words[at + 1].startswith("-") else ""
            found.update({f"-m {value}": ""} if word == "-m" else {word: value})
    return found


def matches(words: Mapping[str, str], packet: Packet) -> tuple[bool, bool]:
    """Whether it does for sure, and whether it may."""
    if "-s" in words and IPv4Address(packet.source) not in IPv4Network(words["-s"]):
        return False, False
    if "-d" in words and IPv4Address(packet.destination) not in IPv4Network(words["-d"]):
        return False, False
    if "-p" in words and words["-p"] != packet.protocol.lower():
        return False, False
    if "--dport" in words and int(words["--dport"]) != packet.port:
        return False, False
    if words.get("--src-type") == "LOCAL" and not (packet.source in OWN or packet.source.startswith("127.")):
        return False, False
    if "-m mark" in words:
        return not packet.marked, not packet.marked
    if "--rcheck" in words:
        return False, False
    return "-m statistic" not in words, True


def random_table(chance: random.Random) -> Table:
    entries = random_entries(chance, PORTS, PORTS[1:], ("", "rr"))
    networks = chance.choice(([], ["10.0.0.0/16"], ["10.0.0.0/22", "10.0.4.0/22"]))
    bridged = chance.choice(((), (IPv4Network("10.0.1.0/24"),)))
    return Table(Place("one", tuple(map(IPv4Network, networks)), frozenset(OWN), bridged=bridged), entries)


@pytest.mark.parametrize("seed", range(12))
def test_a_packet_meets_in_the_chains_what_the_table_says(seed: int) -> None:
    table = random_table(random.Random(seed))
    nat, refused = common(table, pieces := {name: render(each, table.place) for name, each in table.entries.items()})
    for piece in pieces.values():
        nat |= piece.chains
    for address in {*CLUSTER_IPS, *OTHERS, *OWN, "10.96.9.9", "8.8.8.8"}:
        for port in PORTS:
            for protocol in PROTOCOLS:
                for source in SOURCES:
                    packet = Packet(source, address, port, protocol)
                    assert met(nat, refused, packet) == said(table, packet), packet


def met(nat: Mapping[str, tuple[str, ...]], refused: tuple[str, ...], packet: Packet) -> set[Outcome]:
    ends = set()
    for end in walk(nat, SERVICES, packet):
        if isinstance(end, Outcome):
            ends.add(end)
        else:
            filtered = next(iter(walk({REFUSED: refused}, REFUSED, end)))
            ends.add(filtered if isinstance(filtered, Outcome) else Outcome("PASS"))
    return ends


def said(table: Table, packet: Packet) -> set[Outcome]:
    meeting = meets(
        table, IPv4Address(packet.source), IPv4Address(packet.destination), packet.port, packet.protocol
    )  # fmt: skip
    if meeting.answer is not Answer.BALANCE:
        return {Outcome(meeting.answer.name)}
    return {Outcome("DNAT", (each.address, each.port), each in meeting.masqueraded) for each in meeting.backends}


def test_only_what_is_marked_is_masqueraded_and_once() -> None:
    nat, _ = common(Table(Place("one")), {})
    packet = Packet("10.0.1.2", "10.0.1.3", 80, "TCP")
    assert list(walk(nat, MASQUERADE, packet)) == [packet]
    assert list(walk(nat, MASQUERADE, replace(packet, marked=True))) == [Outcome("MASQUERADE")]


def test_chains_have_names_that_the_kernel_takes() -> None:
    table = random_table(random.Random(3))
    for entry in table.entries.values():
        assert all(len(name) <= 28 for name in render(entry, table.place).chains)
