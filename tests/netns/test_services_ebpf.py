"""Services at the socket: what is special to eBPF. One node, in a cgroup of its own, with two pods and a client each::

    node (10.0.1.1 on br0) ──┬── a (10.0.1.2)  server on TCP and UDP 8080; on TCP 8081 it sends back what comes
                             ├── b (10.0.1.3)  the same
                             └── c (10.0.1.4)  client

What a connection is answered with is the name of the pod that answers.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from overlay.linux.libbpf import Link, Map, Object
from overlay.linux.namespaces import is_the_machines
from overlay.problem import Problem
from overlay.services.proxy.base import Applied, Mode
from overlay.services.proxy.ebpf import inside, layout, programs
from overlay.services.proxy.ebpf.mode import EbpfMode
from overlay.services.proxy.ebpf.probe import probe
from overlay.services.table import Backend, Entry, Frontend, Kind, Place, PortName, Table
from tests.support.cgroup import cgroup, run_in, words_in
from tests.support.namespaces import Namespace, namespace
from tests.support.programs import compiled

pytestmark = pytest.mark.root

VIP, NODE = "10.96.0.7", "10.0.1.1"
PLACE = Place("one", (IPv4Network("10.0.0.0/16"),), frozenset({NODE}))
PODS = {"a": "10.0.1.2", "b": "10.0.1.3", "c": "10.0.1.4"}

SERVER = """
import selectors, socket, sys
name, chosen = sys.argv[1].encode(), selectors.DefaultSelector()
tcp = socket.create_server(("", 8080), backlog=512)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("", 8080))
staying = socket.create_server(("", 8081))
for each in (tcp, udp, staying): chosen.register(each, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in chosen.select():
        if key.fileobj is tcp:
            with tcp.accept()[0] as peer: peer.sendall(name)
        elif key.fileobj is staying: chosen.register(staying.accept()[0], selectors.EVENT_READ)
        elif key.fileobj is not udp:
            data = key.fileobj.recv(99)
            if data: key.fileobj.sendall(data)
            else: chosen.unregister(key.fileobj); key.fileobj.close()
        else:
            _, source = udp.recvfrom(2048); udp.sendto(name, source)
"""

CLIENT = """
import json, socket, sys
def tcp(host, port, family=socket.AF_INET):
    with socket.socket(family) as s:
        s.settimeout(20)
        try: s.connect((host, port))
        except OSError as error: return [type(error).__name__, ""]
        return [s.recv(99).decode(), s.getpeername()[0]]
def udp(socket_, host, port):
    socket_.settimeout(20)
    socket_.sendto(b"?", (host, port))
    data, source = socket_.recvfrom(99)
    return [data.decode(), source[0]]
def new(family=socket.AF_INET): return socket.socket(family, socket.SOCK_DGRAM)
for line in sys.stdin:
    print(json.dumps(eval(line)), flush=True)
"""


class Node:
    """The topology above; ``python`` runs a line of the client's Python somewhere on it."""

    def __init__(self, place: Path, host: Namespace, pods: Mapping[str, Namespace]) -> None:
        self.cgroup, self.host, self.pods = place, host, pods

    def where(self, name: str) -> str:
        return self.host.name if name == "node" else self.pods[name].name

    def ask(self, where: str, *lines: str) -> list[list[str]]:
        words = (sys.executable, "-c", CLIENT)
        printed = run_in(self.cgroup, self.where(where), *words, text="\n".join(lines) + "\n")
        return [json.loads(line) for line in printed.splitlines()]

    @contextmanager
    def client(self, where: str) -> Iterator[Callable[[str], list[str]]]:
        """One that stays, and so keeps its sockets."""
        words = words_in(self.cgroup, self.where(where), sys.executable, "-c", CLIENT)
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def ask(line: str) -> list[str]:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(line + "\n")
                process.stdin.flush()
                answer: list[str] = json.loads(process.stdout.readline())
                return answer

            try:
                yield ask
            finally:
                process.kill()


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with ExitStack() as stack:
        place = stack.enter_context(cgroup("ebpf"))
        host = stack.enter_context(namespace("node"))
        host.batch(f"link add br0 type bridge\nlink set br0 up\naddress add {NODE}/24 dev br0")
        pods = {}
        for name, address in PODS.items():
            pod = pods[name] = stack.enter_context(namespace(f"pod-{name}"))
            host.batch(
                f"link add to-{name} type veth peer name eth0 netns {pod.name}\nlink set to-{name} master br0 up"
            )
            pod.batch(f"address add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {NODE}")
            if name != "c":
                words = words_in(place, pod.name, sys.executable, "-c", SERVER, name)
                server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
                stack.callback(server.wait)
                stack.callback(server.kill)
                assert server.stdout is not None
                assert server.stdout.readline() == "ready\n"
                stack.callback(server.stdout.close)
        yield Node(place, host, pods)


@dataclass
class Rules:
    """Stands beneath where no rules are asked for: every connection of these tests is some socket's."""

    name: str = "none"
    stands_on: tuple[str, ...] = ()

    async def probe(self) -> str:
        return ""

    async def apply(self, table: Table) -> Applied:
        return Applied(problems=tuple(Problem("conflict", each) for each in table.conflicts))

    async def check(self) -> bool:
        return True

    async def remove(self) -> list[str]:
        return []

    async def close(self) -> None:
        pass

    def remarks(self, entry: Entry) -> tuple[str, ...]:
        return (str(entry.name),)

    def facts(self) -> Mapping[str, object]:
        return {}


@pytest.fixture
async def mode(node: Node) -> AsyncIterator[Mode]:
    made = EbpfMode(Rules(), node.cgroup)
    yield made
    await made.remove()
    assert not programs.pin_directory(node.cgroup).exists()


def table(*names: str, place: Place = PLACE, **fields: object) -> Table:
    """A Service of these pods, on TCP and UDP: VIP port 80, node port 30080."""
    backends = tuple(Backend(PODS[name], 8080, True) for name in names)
    entries = {}
    for protocol in ("TCP", "UDP"):
        name = PortName("default", "web", "", protocol)
        frontends = (Frontend(Kind.CLUSTER_IP, VIP, 80), Frontend(Kind.NODE_PORT, "", 30080))
        entries[name] = replace(Entry(name, frontends, backends, backends), **fields)  # type: ignore[arg-type]
    return Table(place, entries)


MANY = 24
"""Connections: that all of them meet one of two pods by chance is one in eight million."""


@pytest.mark.parametrize("where", ["node", "c", "a"])
async def test_an_address_is_answered_by_every_pod_and_told_as_it_was_asked_for(
    node: Node, mode: Mode, where: str
) -> None:
    """From the host, from a pod, and from a pod that is one of its own backends."""
    await mode.apply(table("a", "b"))
    for host, port in ((VIP, 80), (NODE, 30080)):
        answers = node.ask(where, *[f"tcp('{host}', {port})"] * MANY)
        assert {name for name, _ in answers} == {"a", "b"}
        assert {peer for _, peer in answers} == {host}
        answers = node.ask(where, *[f"udp(new(), '{host}', {port})"] * MANY)
        assert {name for name, _ in answers} == {"a", "b"}
        assert {source for _, source in answers} == {host}


async def test_sockets_of_ipv6_reach_it_too(node: Node, mode: Mode) -> None:
    await mode.apply(table("a", "b"))
    mapped = f"::ffff:{VIP}"
    assert {peer for _, peer in node.ask("c", *[f"tcp('{mapped}', 80, socket.AF_INET6)"] * 4)} == {mapped}
    assert {source for _, source in node.ask("c", *[f"udp(new(socket.AF_INET6), '{mapped}', 80)"] * 4)} == {mapped}


async def test_a_udp_socket_keeps_its_backend_until_that_is_gone(node: Node, mode: Mode) -> None:
    await mode.apply(table("a", "b"))
    with node.client("c") as ask:
        ask("globals().update(s=new()) or []")
        first = {ask(f"udp(s, '{VIP}', 80)")[0] for _ in range(MANY)}
        assert len(first) == 1
        await mode.apply(table("a", "b", "c"))
        assert {ask(f"udp(s, '{VIP}', 80)")[0] for _ in range(MANY)} == first
        (other,) = {"a", "b"} - first
        await mode.apply(table(other))
        assert ask(f"udp(s, '{VIP}', 80)")[0] == other


async def test_who_has_a_draining_backend_keeps_it_and_nobody_else_gets_it(node: Node, mode: Mode) -> None:
    await mode.apply(table("a", affinity_seconds=60))
    with node.client("c") as ask:
        ask("globals().update(s=new(), d=new()) or []")
        ask(f"d.connect(('{VIP}', 80)) or d.settimeout(20) or []")
        assert [ask(f"udp(s, '{VIP}', 80)")[0], ask(f"tcp('{VIP}', 80)")[0]] == ["a", "a"]
        await mode.apply(table("b", draining=(Backend(PODS["a"], 8080, True),), affinity_seconds=60))
        assert ask(f"udp(s, '{VIP}', 80)")[0] == "a"
        assert ask(f"udp(new(), '{VIP}', 80)")[0] == "b"
        assert ask(f"tcp('{VIP}', 80)")[0] == "b"
        await asyncio.sleep(0.5)
        assert ask("d.send(b'?') and [d.recv(9).decode()]") == ["a"]


async def test_a_connected_udp_socket_of_a_dead_backend_is_ended(node: Node, mode: Mode) -> None:
    """In another network namespace than ours. One that has connected to the backend by itself is left alone."""
    await mode.apply(table("a"))
    with node.client("c") as ask:
        ask(f"globals().update(s=new()) or s.connect(('{VIP}', 80)) or s.settimeout(30) or []")
        ask(f"globals().update(d=new()) or d.connect(('{PODS['a']}', 8080)) or d.settimeout(30) or []")
        assert ask("s.send(b'?') and [s.recv(9).decode(), s.getpeername()[0]]") == ["a", VIP]
        await mode.apply(table("b"))
        await until(lambda: mode.facts()["sockets_ended"] == 1)
        assert ask("[str(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))]") == [str(errno.ECONNABORTED)]
        ask(f"s.connect(('{VIP}', 80)) or []")
        assert ask("s.send(b'?') and [s.recv(9).decode()]") == ["b"]
        assert ask("d.send(b'?') and [d.recv(9).decode()]") == ["a"]


async def test_a_connection_to_a_dead_backend_that_answers_no_more_is_ended(node: Node, mode: Mode) -> None:
    """One to a backend that is none any more, and serves still, goes on."""

    def staying(*names: str) -> Table:
        backends = tuple(Backend(PODS[name], 8081, True) for name in names)
        here = table(*names)
        return replace(here, entries={name: replace(each, cluster=backends, local=backends)
                                      for name, each in here.entries.items()})  # fmt: skip

    answers = "[str(s.send(b'?')), s.recv(9).decode()]"
    with node.client("c") as dead, node.client("node") as living:
        for ask, name in ((dead, "a"), (living, "b")):
            await mode.apply(staying(name))
            ask(f"globals().update(s=socket.create_connection(('{VIP}', 80), 60)) or []")
            assert ask(answers) == ["1", "?"]
        try:
            node.host.batch("link set to-a down")
            assert dead("[str(s.send(b'?'))]") == ["1"]
            await mode.apply(staying())
            await until(lambda: mode.facts()["sockets_ended"] == 1, 60.0)
        finally:
            node.host.batch("link set to-a up")
        assert dead("[str(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))]") == [str(errno.ECONNABORTED)]
        assert living(answers) == ["1", "?"]


async def test_a_client_keeps_its_backend_and_only_for_so_long(node: Node, mode: Mode) -> None:
    await mode.apply(table("a", "b", affinity_seconds=30))
    asked = [f"tcp('{VIP}', 80)", f"tcp('{NODE}', 30080)"] * (MANY // 2)
    first = {name for name, _ in node.ask("c", *asked)}
    assert len(first) == 1, "all addresses of a port share it"
    (other,) = {"a", "b"} - first

    await mode.apply(table("a", "b", affinity_seconds=1))
    for _ in range(MANY):
        await asyncio.sleep(1.1)
        if node.ask("c", f"tcp('{VIP}', 80)")[0][0] == other:
            return
    pytest.fail("the client has the same one for ever")


async def test_a_client_whose_backend_is_gone_gets_another(node: Node, mode: Mode) -> None:
    await mode.apply(table("a", "b", affinity_seconds=10800))
    ((first, _),) = node.ask("c", f"tcp('{VIP}', 80)")
    (other,) = {"a", "b"} - {first}
    await mode.apply(table(other, affinity_seconds=10800))
    assert {name for name, _ in node.ask("c", *[f"tcp('{VIP}', 80)"] * MANY)} == {other}
    await mode.apply(table("a", "b", affinity_seconds=10800))
    assert {name for name, _ in node.ask("c", *[f"tcp('{VIP}', 80)"] * MANY)} == {other}


async def test_no_connection_fails_while_backends_change(node: Node, mode: Mode) -> None:
    await mode.apply(table("a", "b"))
    with node.client("c") as ask, node.client("node") as too:
        for number in range(60):
            await mode.apply(table(*(("a",), ("b",), ("a", "b"), ("b", "a"))[number % 4]))
            assert ask(f"tcp('{VIP}', 80)")[0] in ("a", "b")
            assert too(f"udp(new(), '{VIP}', 80)")[0] in ("a", "b")


async def test_the_daemon_is_not_needed_and_its_successor_goes_on(node: Node, mode: Mode) -> None:
    """Affinity and UDP sockets' choices live on; an address that went meanwhile goes then."""
    wide = table("a", "b", affinity_seconds=10800)
    await mode.apply(wide)
    with node.client("c") as ask:
        ask("globals().update(s=new()) or []")
        before = [ask(f"udp(s, '{VIP}', 80)")[0], ask(f"tcp('{VIP}', 80)")[0]]
        await mode.close()
        assert {ask(f"tcp('{VIP}', 80)")[0] for _ in range(MANY)} == {before[1]}
        ids = link_ids(node)
        successor = EbpfMode(Rules(), node.cgroup)
        await successor.apply(wide)
        assert link_ids(node) == ids, "links are taken over, not made anew"
        assert {ask(f"udp(s, '{VIP}', 80)")[0] for _ in range(MANY)} == {before[0]}
        assert {ask(f"tcp('{VIP}', 80)")[0] for _ in range(MANY)} == {before[1]}
        await successor.close()
        third = EbpfMode(Rules(), node.cgroup)
        only_tcp = replace(wide, entries={name: each for name, each in wide.entries.items() if name.protocol == "TCP"})
        await third.apply(only_tcp)
        assert ask(f"tcp('{VIP}', 80)")[0] == before[1]
        assert third.facts()["addresses"] == 2
        await third.close()


async def test_who_is_not_inside_is_left_to_the_rules_until_it_is(node: Node, mode: Mode) -> None:
    """A container on a network of its own, then joined to the pods'."""
    await mode.apply(table("a"))
    pod = node.pods["c"]
    cookie = layout.pack_namespace(pod.call(inside.own_cookie))

    async def is_admitted(wanted: bool) -> None:
        await mode.apply(table("a"))  # as the keeper does when the machine's network has changed
        await until(lambda: (cookie in set(kept.scan())) is wanted)

    with closing(Map.pinned(programs.pin_directory(node.cgroup) / "inside")) as kept:
        try:
            pod.batch(f"address add 172.30.0.2/32 dev lo\n"
                      f"route replace 10.0.1.0/24 dev eth0 src 172.30.0.2\nroute add unreachable {VIP}/32")  # fmt: skip
            await is_admitted(False)
            assert node.ask("c", f"tcp('{VIP}', 80)") == [["OSError", ""]], "no rule knows it here"
        finally:
            pod.batch(f"route replace 10.0.1.0/24 dev eth0 src {PODS['c']}\naddress del 172.30.0.2/32 dev lo")
            pod.batch(f"route del unreachable {VIP}/32")
        await is_admitted(True)
        assert node.ask("c", f"tcp('{VIP}', 80)") == [["a", VIP]]


def link_ids(node: Node) -> dict[str, str]:
    found = {}
    for pin in sorted(programs.pin_directory(node.cgroup).glob("overlay_*")):
        link = Link.pinned(pin)
        text = Path(f"/proc/self/fdinfo/{link.fd}").read_text()
        found[pin.name] = next(line for line in text.splitlines() if line.startswith("link_id"))
        link.close()
    return found


async def test_what_others_removed_is_put_back(node: Node, mode: Mode) -> None:
    await mode.apply(table("a", "b"))
    assert await mode.check()
    pins = programs.pin_directory(node.cgroup)
    for pin in list(pins.iterdir()):
        pin.unlink()
        assert not await mode.check()
        assert (await mode.apply(table("a", "b"))).changes > 0
        assert await mode.check()
        assert node.ask("c", f"tcp('{VIP}', 80)")[0][1] == VIP
    assert (await mode.apply(table("a", "b"))).changes == 0


COUNTING = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }
seen SEC(".maps");
SEC("cgroup/connect4") int count(struct bpf_sock_addr *ctx)
{
    __u32 zero = 0; __u64 *number = bpf_map_lookup_elem(&seen, &zero);
    if (number) __sync_fetch_and_add(number, 1);
    return 1;
}
char LICENSE[] SEC("license") = "GPL";
"""


async def test_programs_of_others_stay_where_they_are(node: Node, mode: Mode, tmp_path: Path) -> None:
    with Object(compiled(COUNTING, tmp_path)) as opened:
        opened.load()
        seen, program = opened.map("seen"), opened.program("count")
    directory = os.open(node.cgroup, os.O_RDONLY)
    link = Link.to_cgroup(program, directory)
    try:
        await mode.apply(table("a", "b"))
        assert node.ask("c", f"tcp('{VIP}', 80)")[0][1] == VIP
        await mode.remove()
        node.ask("c", f"tcp('{PODS['a']}', 8080)")
        assert int.from_bytes(seen.get(bytes(4)) or b"", "little") == 2
    finally:
        link.close()
        os.close(directory)
        program.close()
        seen.close()


def test_the_probe_says_yes_and_leaves_nothing(node: Node) -> None:
    assert probe(None) == ""
    assert probe(node.cgroup) == ""
    assert not programs.pin_directory(node.cgroup).exists()


async def test_a_node_that_is_not_the_machine_does_not_take_all_its_sockets(node: Node) -> None:
    assert not node.host.call(is_the_machines)
    assert "--proxy-cgroup" in node.host.call(lambda: asyncio.run(EbpfMode(Rules()).probe()))
    assert node.host.call(lambda: asyncio.run(EbpfMode(Rules(), node.cgroup).probe())) == ""


def test_the_probe_says_why_not(tmp_path: Path) -> None:
    assert "attaching overlay_" in probe(tmp_path), "no cgroup"
    broken = tmp_path / "broken.bpf.o"
    broken.write_bytes(programs.OBJECT.read_bytes()[:2000])
    assert str(broken) in probe(None, broken)


async def test_what_is_pinned_for_a_cgroup_that_is_gone_is_removed(node: Node, mode: Mode) -> None:
    with cgroup("gone") as place:
        other = EbpfMode(Rules(), place)
        await other.apply(table("a"))
        await other.close()
        pins = programs.pin_directory(place)
        assert pins.exists()
    await until(lambda: programs.remove_dead() == 1)
    assert not pins.exists()


async def until(condition: Callable[[], bool], patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)
