"""Services by IPVS, on the node of test_services_ebpf.py: what is special to this mode."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from overlay.lab.process import poll
from overlay.linux.ipvs import Ipvs, Real, Service, Virtual, is_loaded
from overlay.linux.pyroute import IPVS, IPVSService
from overlay.services.proxy.base import Applied, Mode, Surroundings
from overlay.services.proxy.ipvs import settings
from overlay.services.proxy.ipvs.mode import DEVICE, LEAVING_SECONDS
from overlay.services.proxy.ipvs.wanted import SCHEDULERS
from overlay.services.proxy.modes import MODES
from overlay.services.table import Backend, Table
from tests.netns.test_services_ebpf import MANY, NODE, PLACE, PODS, VIP, Node, node
from tests.netns.test_services_ebpf import table as web
from tests.support.ipvs import needs_ipvs

pytestmark = pytest.mark.root
__all__ = ["node"]


class Balanced:
    """The mode, in the node's namespace."""

    def __init__(self, node: Node, scheduler: str = "") -> None:
        self._host = node.host
        self.mode: Mode = MODES["ipvs"](Surroundings(Path("/nonexistent"), scheduler))

    def probe(self) -> str:
        return self._host.call(lambda: asyncio.run(self.mode.probe()))

    def apply(self, table: Table) -> Applied:
        return self._host.call(lambda: asyncio.run(self.mode.apply(table)))

    def check(self) -> bool:
        return self._host.call(lambda: asyncio.run(self.mode.check()))

    def remove(self) -> list[str]:
        beneath = MODES["nftables"](Surroundings(Path("/nonexistent")))
        return self._host.call(lambda: asyncio.run(self.mode.remove()) + asyncio.run(beneath.remove()))


@pytest.fixture
def mode(node: Node) -> Iterator[Balanced]:
    needs_ipvs()
    node.host.batch(
        "link add uplink type veth peer name far\nlink set far up\nlink set uplink up\nroute add default dev uplink"
    )
    node.host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    before = node.host.call(settings.read)
    made = Balanced(node)
    assert made.probe() == ""
    yield made
    made.remove()
    node.host.batch("link del uplink")
    assert services(node) == {}
    assert node.host.call(settings.read) == before
    assert node.host.attempt("ip", "link", "show", DEVICE).returncode


def services(node: Node) -> dict[Virtual, Service]:
    def found() -> dict[Virtual, Service]:
        with Ipvs() as door:
            return door.services()

    return node.host.call(found)


def weights(node: Node) -> dict[tuple[Virtual, Real], int]:
    return {(virtual, real): server.weight for virtual, each in services(node).items()
            for real, server in each.servers.items()}  # fmt: skip


BRIDGES = "/proc/sys/net/bridge/bridge-nf-call-iptables"


def table(*names: str, **fields: object) -> Table:
    """Where packets that pass a bridge alone pass no netfilter, as in a namespace without Docker."""
    return web(*names, place=replace(PLACE, bridged=(IPv4Network("10.0.1.0/24"),)), **fields)


@pytest.mark.parametrize("bridges", ["unseen", "seen"])
@pytest.mark.parametrize("where", ["node", "c", "a"])
def test_an_address_is_answered_by_every_pod(node: Node, mode: Balanced, where: str, bridges: str) -> None:
    """From the host, from a pod, and from a pod that is one of its own backends; round robin is the default."""
    subprocess.run(["modprobe", "-q", "br_netfilter"], check=False)
    node.host.run("sh", "-c", f"echo {int(bridges == 'seen')} >{BRIDGES}")
    if where == "a":  # as the daemon does: who is given itself comes back where it came from
        node.host.run("ip", "link", "set", "to-a", "type", "bridge_slave", "hairpin", "on")
    mode.apply(table("a", "b") if bridges == "unseen" else web("a", "b"))
    try:
        for host, port in ((VIP, 80), (NODE, 30080)):
            for ask in (f"tcp('{host}', {port})", f"udp(new(), '{host}', {port})"):
                answers = node.ask(where, *[ask] * MANY)
                names = [name for name, _ in answers]
                assert names.count("a") == names.count("b") == MANY / 2
                assert {peer for _, peer in answers} == {host}
    finally:
        node.host.run("sh", "-c", f"echo 0 >{BRIDGES}")


def test_a_kernel_without_ipvs_is_told(node: Node) -> None:
    """On one that has it, the probe has nothing to say."""
    why = Balanced(node).probe()
    has = node.host.call(is_loaded)
    assert why == ("" if has else "module ip_vs: this kernel has no IPVS; modprobe ip_vs")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_is_the_kernels(node: Node, mode: Balanced, scheduler: str) -> None:
    mode.apply(table("a", "b", scheduler=scheduler))
    assert {each.scheduler for each in services(node).values()} == {scheduler}
    names = {name for name, _ in node.ask("c", *[f"tcp('{VIP}', 80)"] * MANY)}
    if scheduler in ("rr", "lc"):
        assert len(names) == 2
    elif scheduler in ("dh", "sh"):
        assert len(names) == 1
    else:
        assert names, "they count what is open, and nothing is"


def test_the_fewest_connections_get_the_next(node: Node, mode: Balanced) -> None:
    """Of pods that close at once, and one that has been held for longer than IPVS would remember a handshake."""
    mode.apply(table("a", "b", scheduler="lc"))
    with served(node, "c", 8081) as backend:
        mode.apply(replaced(table("a"), backend))
        with node.client("node") as ask:
            ask(f"[globals().__setitem__('s', socket.create_connection(('{VIP}', 80), 20)) or '', '']")
            for _ in range(3):
                time.sleep(40)
                assert ask("[s.sendall(b'x') or s.recv(9).decode(), '']") == ["x", ""]
            mode.apply(replaced(table("a"), backend, Backend(PODS["a"], 8080, True), scheduler="lc"))
            names = [name for name, _ in node.ask("node", *[f"tcp('{VIP}', 80)"] * 4)]
            assert names == ["a"] * 4


def test_a_process_at_all_addresses_is_not_met_at_a_clusterip(node: Node, mode: Balanced) -> None:
    """The address is the node's own, but its ports are the Service's alone."""
    mode.apply(table("a"))
    script = "import socket; s = socket.create_server(('', 81)); print(flush=True); s.accept()"
    with subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{node.host.name}", sys.executable, "-c", script], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            for where in ("c", "node"):
                assert node.ask(where, f"tcp('{VIP}', 81)") == [["ConnectionRefusedError", ""]]
                assert node.ask(where, f"tcp('{VIP}', 30080)") == [["ConnectionRefusedError", ""]], "no node port"
        finally:
            process.kill()


def test_without_backends_a_connection_is_refused(node: Node, mode: Balanced) -> None:
    mode.apply(table())
    assert services(node) == {}
    for where in ("node", "c"):
        answers = node.ask(where, f"tcp('{VIP}', 80)", f"tcp('{NODE}', 30080)", f"tcp('{VIP}', 81)")
        assert answers == [["ConnectionRefusedError", ""]] * 3


def test_a_client_keeps_its_backend_until_that_is_gone(node: Node, mode: Balanced) -> None:
    mode.apply(table("a", "b", affinity_seconds=60))
    ((first, _),) = node.ask("c", f"tcp('{VIP}', 80)")
    assert {name for name, _ in node.ask("c", *[f"tcp('{VIP}', 80)"] * MANY)} == {first}
    (other,) = {"a", "b"} - {first}
    mode.apply(table(other, affinity_seconds=60))
    assert {name for name, _ in node.ask("c", *[f"tcp('{VIP}', 80)"] * 4)} == {other}


@contextmanager
def served(node: Node, pod: str, port: int) -> Iterator[Backend]:
    """One that answers what it is told for as long as it is asked, one client."""
    echo = f"import socket\ns = socket.create_server(('', {port}))\nprint(flush=True)\nc = s.accept()[0]\n"
    echo += "while d := c.recv(9): c.sendall(d)"
    with subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{node.pods[pod].name}", sys.executable, "-c", echo], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield Backend(PODS[pod], port, True)
        finally:
            process.kill()


def replaced(table: Table, *backends: Backend, **fields: object) -> Table:
    """The table with others in the pods' place."""
    entries = {name: replace(entry, cluster=backends, **fields) for name, entry in table.entries.items()}  # type: ignore[arg-type]
    return replace(table, entries=entries)


def test_connections_outlive_their_backends_end_and_new_ones_go_elsewhere(node: Node, mode: Balanced) -> None:
    """The server is deleted once they have ended."""
    with served(node, "a", 8081) as backend, node.client("c") as ask:
        mode.apply(replaced(table("a"), backend))
        ask(f"[globals().__setitem__('s', socket.create_connection(('{VIP}', 80), 20)) or '', '']")
        say = "[s.sendall(b'x') or s.recv(9).decode(), '']"
        assert ask(say) == ["x", ""]
        assert mode.apply(table("b")).due is not None
        assert ask(say) == ["x", ""], "it goes on"
        assert {name for name, _ in node.ask("c", *[f"tcp('{VIP}', 80)"] * 4)} == {"b"}
        virtual = Virtual("TCP", VIP, 80)
        assert weights(node).items() >= {(virtual, (PODS["a"], 8081)): 0, (virtual, (PODS["b"], 8080)): 1}.items()

    def gone() -> bool:
        time.sleep(LEAVING_SECONDS)
        mode.apply(table("b"))
        return len(services(node)[Virtual("TCP", VIP, 80)].servers) == 1

    assert poll(gone, 300.0), "IPVS forgets a connection two minutes after its end"
    assert mode.apply(table("b")).due is None


def test_a_flow_of_udp_is_given_another_backend_at_once(node: Node, mode: Balanced) -> None:
    mode.apply(table("a", "b"))
    with node.client("c") as ask:
        ask("[globals().__setitem__('u', new()) or '', '']")
        (first, _), (again, _) = (ask(f"udp(u, '{VIP}', 80)") for _ in range(2))
        assert first == again
        (other,) = {"a", "b"} - {first}
        mode.apply(table(other))
        lost = f"[u.settimeout(1) or u.sendto(b'?', ('{VIP}', 80)) and '', '']"
        ask(lost)  # the first packet may be, by which IPVS finds out
        assert ask(f"udp(u, '{VIP}', 80)")[0] == other


def test_a_successor_changes_nothing_and_what_others_break_is_mended(node: Node, mode: Balanced) -> None:
    both = table("a", "b")
    mode.apply(both)
    assert mode.apply(both).changes == 0
    assert mode.check()
    there = weights(node)
    operations: list[object] = []
    successor = Balanced(node)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("overlay.services.proxy.ipvs.mode._carry_out", lambda _, each: operations.append(each))
        successor.apply(both)
    assert operations == []
    virtual = Virtual("TCP", VIP, 80)

    def take_server() -> None:
        with Ipvs() as door:
            door.delete_server(virtual, (PODS["a"], 8080))

    def take_service() -> None:
        with Ipvs() as door:
            door.delete_service(virtual)

    for broken in (
        lambda: node.host.call(take_server),
        lambda: node.host.call(take_service),
        lambda: node.host.run("ip", "link", "del", DEVICE),
        lambda: node.host.run("ip", "route", "flush", "table", "local", "dev", DEVICE),
        lambda: node.host.run("sysctl", "-qw", "net.ipv4.vs.conntrack=0"),
        lambda: node.host.run("nft", "flush", "ruleset"),
    ):
        broken()
        assert not mode.check()
        mode.apply(both)
        assert mode.check()
        assert weights(node) == there
        assert {name for name, _ in node.ask("c", *[f"tcp('{VIP}', 80)"] * 4)} == {"a", "b"}


def test_virtual_services_of_others_stay_and_are_told(node: Node, mode: Balanced) -> None:
    """As keepalived makes them, one at an address that a Service has, too."""
    others = [Virtual("TCP", VIP, 80), Virtual("TCP", NODE, 8443)]

    def make() -> None:
        with IPVS() as door:
            for each in others:
                door.service("add", service=IPVSService(addr=each.address, port=each.port, protocol=6, sched_name="rr"))

    def unmake() -> None:
        with IPVS() as door:
            for each in others:
                door.service("del", service=IPVSService(addr=each.address, port=each.port, protocol=6))

    node.host.call(make)
    try:
        (problem,) = mode.apply(table("a")).problems
        assert problem.about == f"{VIP}:80/TCP"
        there = services(node)
        assert {each for each in there if not there[each].ours} == {*others}
        mode.remove()
        assert services(node).keys() == {*others}
    finally:
        node.host.call(unmake)
    mode = Balanced(node)
    assert mode.apply(table("a")).problems == ()
    assert node.ask("c", f"tcp('{VIP}', 80)") == [["a", VIP]]
