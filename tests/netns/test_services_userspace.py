"""Services through the worker, on the node of test_services_ebpf.py: what is special to this mode."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overlay.services.proxy.base import Applied, Surroundings
from overlay.services.proxy.nftables.mode import Nftables
from overlay.services.proxy.userspace.mode import UserspaceMode
from overlay.services.table import Backend, Table
from tests.netns.test_services_ebpf import MANY, NODE, VIP, Node, node, table
from tests.support.inside_loop import Inside, loop_inside

pytestmark = pytest.mark.root
__all__ = ["node"]

NOBODY = Backend("10.0.1.99", 8080, True)
"""On the pods' network, where no host answers for it."""


class Mode:
    """The mode, in the node's namespace."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self.mode = UserspaceMode(Nftables(Surroundings(Path("/nonexistent"))))

    def apply(self, table: Table) -> Applied:
        return self._inside.run(self.mode.apply(table))

    def check(self) -> bool:
        return self._inside.run(self.mode.check())

    def remove(self) -> list[str]:
        return self._inside.run(self.mode.remove())

    def fact(self, name: str) -> Any:
        return self.mode.facts()[name]

    @property
    def worker(self) -> int:
        return int(self.fact("worker")["pid"])


@pytest.fixture
def mode(node: Node) -> Iterator[Mode]:
    node.host.batch("link add uplink type veth peer name far\nlink set far up\nlink set uplink up")
    node.host.batch("route add default dev uplink")
    node.host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    with loop_inside(node.host) as inside:
        made = Mode(inside)
        yield made
        made.remove()
        inside.run(Nftables(Surroundings(Path("/nonexistent"))).remove())
        assert node.host.run("nft", "list", "tables") == ""
        node.host.batch("link del uplink")


@pytest.mark.parametrize("where", ["node", "c", "a"])
def test_an_address_is_answered_by_every_pod_in_its_turn(node: Node, mode: Mode, where: str) -> None:
    """From the host, from a pod, and from a pod that is one of its own backends."""
    mode.apply(table("a", "b"))
    for host, port in ((VIP, 80), (NODE, 30080)):
        for ask in (f"tcp('{host}', {port})", f"udp(new(), '{host}', {port})"):
            answers = node.ask(where, *[ask] * 10)
            assert [name for name, _ in answers] in (["a", "b"] * 5, ["b", "a"] * 5)
            assert {peer for _, peer in answers} == {host}


def test_a_dial_that_fails_moves_on_to_the_next_endpoint(node: Node, mode: Mode) -> None:
    """One where nobody answers, one that refuses, and one that serves."""
    broken = table("a")
    entries = {
        name: replace(entry, cluster=(NOBODY, Backend("10.0.1.4", 8080, True), *entry.cluster))
        for name, entry in broken.entries.items()
    }
    mode.apply(replace(broken, entries=entries))
    assert [name for name, _ in node.ask("c", *[f"tcp('{VIP}', 80)"] * 6)] == ["a"] * 6
    until(lambda: mode.fact("moved_on") >= 6)
    assert mode.fact("failed") == 0


def test_nothing_is_led_to_a_port_before_the_worker_serves_it(node: Node, mode: Mode) -> None:
    """A connection would be refused there."""
    mode.apply(table("a"))
    worker = mode.worker
    with ThreadPoolExecutor(1) as pool:
        os.kill(worker, signal.SIGSTOP)
        try:
            applied = pool.submit(mode.apply, table("b"))
            with pytest.raises(TimeoutError):
                applied.result(0.5)
        finally:
            os.kill(worker, signal.SIGCONT)
        assert applied.result(60).changes


def test_a_udp_client_keeps_its_endpoint_until_that_refuses_or_is_gone(node: Node, mode: Mode) -> None:
    mode.apply(table("a", "b"))
    with node.client("c") as ask:
        ask("globals().update(s=new()) or []")
        first = {ask(f"udp(s, '{VIP}', 80)")[0] for _ in range(MANY)}
        assert len(first) == 1
        (other,) = {"a", "b"} - first
        mode.apply(table(other))
        assert ask(f"udp(s, '{VIP}', 80)")[0] == other


def test_a_client_keeps_its_endpoint_with_affinity(node: Node, mode: Mode) -> None:
    mode.apply(table("a", "b", affinity_seconds=60))
    names = {name for name, _ in node.ask("c", *[f"tcp('{VIP}', 80)", f"tcp('{NODE}', 30080)"] * 6)}
    assert len(names) == 1
    (other,) = {"a", "b"} - names
    mode.apply(table(other, affinity_seconds=60))
    assert {name for name, _ in node.ask("c", *[f"tcp('{VIP}', 80)"] * 4)} == {other}


def test_without_endpoints_a_connection_is_refused(node: Node, mode: Mode) -> None:
    mode.apply(table())
    for where in ("node", "c"):
        answers = node.ask(where, f"tcp('{VIP}', 80)", f"tcp('{NODE}', 30080)")
        assert answers == [["ConnectionRefusedError", ""]] * 2


def test_no_connection_fails_while_the_worker_is_replaced(node: Node, mode: Mode) -> None:
    """Who connects meanwhile waits; the ports are where they were."""
    mode.apply(table("a", "b"))
    with node.client("c") as ask:
        before = mode.worker
        os.kill(before, signal.SIGKILL)
        assert ask(f"tcp('{VIP}', 80)")[0] in ("a", "b")
        until(lambda: mode.mode.facts()["worker"] != {"pid": before, "restarts": 0})
        assert ask(f"udp(new(), '{VIP}', 80)")[0] in ("a", "b")
        assert mode.check()
        assert mode.apply(table("a", "b")).changes == 0


def test_the_worker_has_no_rights(mode: Mode) -> None:
    mode.apply(table("a"))
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{mode.worker}/status").read_text().splitlines())
    assert set(status["Uid"].split()) == {"82852"}
    assert {int(status[f"Cap{name}"], 16) for name in ("Prm", "Eff", "Inh", "Bnd", "Amb")} == {0}
    assert status["Seccomp"] == "2"


def test_what_is_not_wanted_any_more_is_closed(node: Node, mode: Mode) -> None:
    mode.apply(table("a", "b"))
    until(lambda: mode.fact("ports") == 2)
    only = {name: each for name, each in table("a").entries.items() if name.protocol == "TCP"}
    mode.apply(replace(table("a"), entries=only))
    until(lambda: mode.fact("ports") == 1)
    assert mode.fact("worker")["restarts"] == 0
    assert node.ask("c", f"tcp('{VIP}', 80)")[0][0] == "a"


def until(condition: Callable[[], bool], patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
