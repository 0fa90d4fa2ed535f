"""Services as chains of iptables, on the node of test_services_ebpf.py: what is special to this mode."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overlay.services.proxy.base import Applied, Surroundings
from overlay.services.proxy.iptables.mode import IptablesMode
from overlay.services.table import Table
from tests.netns.test_services_ebpf import MANY, NODE, VIP, Node, node, table

pytestmark = pytest.mark.root
__all__ = ["node"]


class Mode:
    """The mode, in the node's namespace."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.mode = IptablesMode(Surroundings(Path("/nonexistent")))

    def probe(self) -> str:
        return self._node.host.call(lambda: asyncio.run(self.mode.probe()))

    def apply(self, table: Table) -> Applied:
        return self._node.host.call(lambda: asyncio.run(self.mode.apply(table)))

    def check(self) -> bool:
        return self._node.host.call(lambda: asyncio.run(self.mode.check()))

    def remove(self) -> list[str]:
        return self._node.host.call(lambda: asyncio.run(self.mode.remove()))


@pytest.fixture
def mode(node: Node) -> Iterator[Mode]:
    node.host.batch(
        "link add uplink type veth peer name far\nlink set far up\nlink set uplink up\nroute add default dev uplink"
    )
    node.host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    # As dockerd does without its userland proxy: with br_netfilter, who is given itself comes back where it came from.
    node.host.run("ip", "link", "set", "to-a", "type", "bridge_slave", "hairpin", "on")
    before = rules(node)
    made = Mode(node)
    yield made
    made.remove()
    node.host.batch("link del uplink")
    assert rules(node) == before


def rules(node: Node) -> list[str]:
    """All, and policies; tables that were made and are empty do not count."""
    text = node.host.run("iptables-save")
    return [line for line in text.splitlines() if line.startswith("-A") or (line[:1] == ":" and " - " in line)]


@pytest.mark.parametrize("where", ["node", "c", "a"])
def test_an_address_is_answered_by_every_pod(node: Node, mode: Mode, where: str) -> None:
    """From the host, from a pod, and from a pod that is one of its own backends."""
    assert mode.probe() == ""
    mode.apply(table("a", "b"))
    for host, port in ((VIP, 80), (NODE, 30080)):
        for ask in (f"tcp('{host}', {port})", f"udp(new(), '{host}', {port})"):
            answers = node.ask(where, *[ask] * MANY)
            assert {name for name, _ in answers} == {"a", "b"}
            assert {peer for _, peer in answers} == {host}


def test_without_backends_a_connection_is_refused(node: Node, mode: Mode) -> None:
    mode.apply(table())
    for where in ("node", "c"):
        answers = node.ask(where, f"tcp('{VIP}', 80)", f"tcp('{NODE}', 30080)", f"tcp('{VIP}', 81)")
        assert answers == [["ConnectionRefusedError", ""]] * 3


def test_round_robin_gives_each_its_turn(node: Node, mode: Mode) -> None:
    mode.apply(table("a", "b", scheduler="rr"))
    names = [name for name, _ in node.ask("c", *[f"tcp('{VIP}', 80)"] * 10)]
    assert names in (["a", "b"] * 5, ["b", "a"] * 5)


def test_a_client_keeps_its_backend_until_that_is_gone(node: Node, mode: Mode) -> None:
    mode.apply(table("a", "b", affinity_seconds=60))
    ((first, _),) = node.ask("c", f"tcp('{VIP}', 80)")
    assert {name for name, _ in node.ask("c", *[f"tcp('{NODE}', 30080)", f"tcp('{VIP}', 80)"] * MANY)} == {first}
    (other,) = {"a", "b"} - {first}
    mode.apply(table(other, affinity_seconds=60))
    assert {name for name, _ in node.ask("c", *[f"tcp('{VIP}', 80)"] * 4)} == {other}


def test_only_what_changed_is_written_and_what_others_removed_is_put_back(node: Node, mode: Mode) -> None:
    both = table("a", "b")
    assert mode.apply(both).changes > 0
    assert mode.apply(both).changes == 0
    ours = rules(node)
    assert mode.check()
    assert mode.apply(table("a")).changes < 30
    mode.apply(both)
    assert sorted(rules(node)) == sorted(ours)
    node.host.run("iptables", "-t", "nat", "-F")
    assert not mode.check()
    mode.apply(both)
    assert sorted(rules(node)) == sorted(ours)
    assert mode.check()


def test_a_successor_takes_over_and_removes_what_is_nobodys(node: Node, mode: Mode) -> None:
    mode.apply(table("a", "b"))
    successor = Mode(node)
    successor.apply(replace(table("a"), entries={name: each for name, each in table("a").entries.items()
                                                 if name.protocol == "TCP"}))  # fmt: skip
    assert {name for name, _ in node.ask("c", *[f"tcp('{VIP}', 80)"] * 8)} == {"a"}
    text = node.host.run("iptables-save", "-t", "nat")
    assert "--to-destination 10.0.1.3:8080" not in text
    assert "-p udp" not in text


def test_rules_of_others_stay(node: Node, mode: Mode) -> None:
    own = ["-A OUTPUT -d 192.0.2.7/32 -j ACCEPT", "-N OVERLAYS", "-A OVERLAYS -j RETURN"]
    try:
        node.host.run("iptables", "-t", "nat", *own[0].split())
        node.host.run("iptables", "-t", "nat", "-N", "OVERLAYS")
        mode.apply(table("a"))
        listed = node.host.run("iptables", "-t", "nat", "-S", "OUTPUT").splitlines()
        assert listed[1:] == ["-A OUTPUT -j OVERLAY-SERVICES", own[0]], "Services come before what was there"
        mode.remove()
        assert own[0] in rules(node)
        assert ":OVERLAYS - [0:0]" in rules(node)
    finally:
        node.host.run("iptables", "-t", "nat", "-D", *own[0].split()[1:])
        node.host.run("iptables", "-t", "nat", "-X", "OVERLAYS")
