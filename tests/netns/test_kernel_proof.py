"""Who gets unfinished packets: a peer that has just proven to have the use of them, whatever happens on the way."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network

import pytest

from overlay.datapath.kernel import proof
from overlay.datapath.kernel.maps import Endpoint, write_endpoint
from overlay.datapath.kernel.programs import OBJECT, Loaded, load
from overlay.linux.libbpf import dry_run
from overlay.model import Peer, PeerTable
from overlay.packet import virtio
from tests.netns.test_kernel_admission import DROP, OUR_ADDRESS, PORT, REDIRECT, TUN, Outer
from tests.support.admission import OWN, PEERS
from tests.support.tunnels import (
    Node,
    entering,
    iperf_server,
    peers_of,
    proves,
    run,
    running,
    takes_detour,
    until,
)

pytestmark = pytest.mark.root

SECRET = 0x0123456789ABCDEF
PEER, PEERS_ADDRESS = IPv4Network("10.0.2.0/24"), IPv4Address("172.31.0.2")


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    programs = load(OBJECT, None)
    write_endpoint(programs.endpoint, Endpoint(OUR_ADDRESS, PORT, OWN, TUN, second=250, secret=SECRET))
    programs.peers.replace(PEERS)
    yield programs
    programs.close()


def answer(
    *, secret: int = SECRET, asked: float = 0.0, source: IPv4Address = PEER[0], target: IPv4Address = OWN[0]
) -> bytes:
    """What a peer makes of a question that was asked ``asked`` seconds ago."""
    packet = bytearray(proof.question(source, target, secret)[virtio.LENGTH :])
    packet[20] = 0
    packet[48:56] = struct.pack("=Q", time.monotonic_ns() - round(asked * 1e9) & (1 << 64) - 1)
    return bytes(packet)


def proven_by(loaded: Loaded, packet: bytes, outer_source: IPv4Address = PEERS_ADDRESS) -> bool:
    dry_run(loaded.decap, Outer(outer_source).around(packet))
    return loaded.peers.proven(PEER)


def test_an_answer_in_time_is_a_proof(loaded: Loaded) -> None:
    assert proven_by(loaded, answer())
    assert dry_run(loaded.decap, Outer(PEERS_ADDRESS).around(answer())).verdict == DROP, "it is not for the node"


WRONG: dict[str, Callable[[], bytes]] = {
    "guessed": lambda: answer(secret=SECRET ^ 1),
    "late": lambda: answer(asked=1.1),
    "recorded": lambda: answer(asked=3600),
    "from the future": lambda: answer(asked=-60),
    "of another": lambda: answer(source=IPv4Address("10.0.3.0")),
    "to a pod": lambda: answer(target=OWN[2]),
    "a question": lambda: proof.question(PEER[0], OWN[2], SECRET)[virtio.LENGTH :],
    "short": lambda: answer()[:-1],
    "long": lambda: answer() + b"\0",
    "a farewell": lambda: proof.farewell(PEER[0], OWN[0]),
}


@pytest.mark.parametrize("way", WRONG)
def test_nothing_else_is_a_proof(loaded: Loaded, way: str) -> None:
    assert not proven_by(loaded, WRONG[way]())


def test_a_stranger_proves_nothing(loaded: Loaded) -> None:
    assert not proven_by(loaded, answer(), IPv4Address("172.31.0.99"))


def test_neither_ports_nor_ordinary_packets_prove_anything(loaded: Loaded) -> None:
    for packet in (answer(secret=0), answer(target=OWN[7])):
        for port in (8285, 49152, 50000, 65535):
            frame = bytearray(Outer(PEERS_ADDRESS).around(packet))
            frame[34:36] = struct.pack("!H", port)
            dry_run(loaded.decap, bytes(frame))
            assert not loaded.peers.proven(PEER)


def test_a_farewell_ends_a_proof_at_once_and_only_its_own(loaded: Loaded) -> None:
    other = IPv4Network("10.0.3.0/24")
    table = PeerTable.of(OWN, [Peer(PEER, PEERS_ADDRESS), Peer(other, IPv4Address("172.31.0.3"))])
    loaded.peers.replace(table)
    assert proven_by(loaded, answer())
    assert proven_by(loaded, proof.farewell(other[0], OWN[0]), IPv4Address("172.31.0.3"))
    assert proven_by(loaded, proof.farewell(PEER[0], OWN[0]), IPv4Address("172.31.0.3")), "only its own"
    assert not proven_by(loaded, proof.farewell(PEER[0], OWN[0]))


def test_a_change_elsewhere_does_not_forget_a_proof(loaded: Loaded) -> None:
    assert proven_by(loaded, answer())
    another = Peer(IPv4Network("10.9.9.0/24"), IPv4Address("172.31.0.9"))
    assert loaded.peers.replace(PeerTable.of(OWN, [*PEERS.peers.values(), another])) == 1
    assert loaded.peers.proven(PEER)
    moved = PeerTable.of(OWN, [Peer(PEER, IPv4Address("172.31.0.9")), another])
    loaded.peers.replace(moved)
    assert not loaded.peers.proven(PEER), "another node has its own proof to give"


def test_a_ping_of_the_same_size_is_a_ping(loaded: Loaded) -> None:
    packet = bytearray(answer())
    packet[32:40] = bytes(8)
    assert dry_run(loaded.decap, Outer(PEERS_ADDRESS).around(bytes(packet))).verdict == REDIRECT


def test_who_never_answers_is_asked_seldom() -> None:
    patience = proof.Patience()
    asked = [now for now in range(3600) if patience.asks(PEER, now, proven=False)]
    assert asked[:3] == [0, 1, 2]
    assert 60 < len(asked) < 80
    assert patience.asks(PEER, 3600.5, proven=True), "who has answered is asked again"
    patience.keep(PeerTable.of(OWN, []))
    assert patience._unanswered == {}


# ---- over a wire that finishes nothing ----


@contextmanager
def rule(node: Node, words: str, hook: str) -> Iterator[None]:
    node("nft add table ip proof")
    try:
        node(f"nft add chain ip proof c {{ {hook} ; }}")
        node(f"nft add rule ip proof c {words}")
        yield
    finally:
        node("nft delete table ip proof")


def tcp_passes(source: Node, target: Node) -> None:
    with iperf_server(target):
        report = json.loads(source.in_pod(f"iperf3 -J -t 1 -c {target.pod_address}"))
    assert report["end"]["sum_received"]["bits_per_second"] > 10e6


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[Node, ...]]:
    with running(("kernel", "kernel", "userspace")) as made:
        yield made


def test_a_kernel_peer_proves_itself_behind_a_firewall_and_without_its_agent(site: tuple[Node, ...]) -> None:
    first, second, _ = site
    with rule(second, "meta l4proto icmp drop", "type filter hook input priority 0"):
        second.kill()
        try:
            proves(first, second)
            time.sleep(3.5)  # on purpose: longer than a proof holds
            proves(first, second)
        finally:
            second.start(peers=peers_of(second, site))


@pytest.mark.parametrize("port", [8285, 50000])
def test_a_nat_that_rewrites_ports_makes_no_difference(site: tuple[Node, ...], port: int) -> None:
    """Neither does a socket become a kernel by a flow's port, nor a kernel a socket by the tunnel's."""
    first, second, third = site
    rewrite = f"ip protocol udp udp dport 8285 udp sport set {port}"
    with rewriting(third, rewrite), rewriting(second, rewrite):
        for _ in range(20):
            assert takes_detour(first, third)
            time.sleep(0.05)
        tcp_passes(first, third)
        tcp_passes(third, first)
        proves(first, second)
        tcp_passes(first, second)


@contextmanager
def rewriting(node: Node, words: str) -> Iterator[None]:
    """On the switch's port of a node, by which its packets come."""
    run(f"nft add table netdev proof{node.number}", node.switch)
    try:
        hook = f"type filter hook ingress device n{node.number} priority 0"
        run(f"nft add chain netdev proof{node.number} c {{ {hook} ; }}", node.switch)
        run(f"nft add rule netdev proof{node.number} c {words}", node.switch)
        yield
    finally:
        run(f"nft delete table netdev proof{node.number}", node.switch)


STREAM = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
number = 0
while True:
    s.sendto(b'%d' % number, (sys.argv[1], 7777))
    number += 1
    time.sleep(0.002)
"""
SINK = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('0.0.0.0', 7777))
print('ready', flush=True)
while True:
    print(s.recv(100).decode(), flush=True)
"""


@contextmanager
def one_way(source: Node, target: Node) -> Iterator[list[int]]:
    """A stream of datagrams to a pod that never says anything; the value grows by the numbers of those that arrive."""
    words = [*entering(target.pod), sys.executable, "-c", SINK]
    sink = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert sink.stdout is not None
    assert sink.stdout.readline() == "ready\n"
    arrived: list[int] = []
    reader = threading.Thread(target=lambda: arrived.extend(int(line) for line in sink.stdout or ()))
    reader.start()
    stream = subprocess.Popen([*entering(source.pod), sys.executable, "-c", STREAM, target.pod_address])
    try:
        until(lambda: arrived, "the first one")
        yield arrived
    finally:
        for process in (stream, sink):
            process.kill()
            process.wait()
        reader.join()
        sink.stdout.close()


def none_is_lost_from_now_on(arrived: list[int]) -> None:
    at = len(arrived) + 1
    until(lambda: len(arrived) > at + 300, "datagrams arrive again")
    numbers = arrived[at : at + 300]
    assert numbers == list(range(numbers[0], numbers[0] + 300))


def test_one_way_datagrams_reach_a_peer_that_goes_to_userspace_at_once() -> None:
    with running() as (first, second):
        proves(first, second)
        with one_way(first, second) as arrived:
            second.stop()
            assert not takes_detour(first, second), "its programs go on"
            second.cleanup()
            assert takes_detour(first, second), "it has said farewell"
            second.start("userspace", peers=peers_of(second, (first, second)))
            none_is_lost_from_now_on(arrived)
            assert takes_detour(first, second)


def test_one_that_says_no_farewell_is_found_out_in_seconds() -> None:
    """As when flanneld takes the place of a killed agent, and its programs are taken away by hand."""
    with running() as (first, second):
        proves(first, second)
        with one_way(first, second) as arrived:
            second.kill()
            for device in ("eth0", "flannel0"):
                second(f"tc qdisc del dev {device} clsact")
            second.start("userspace", peers=peers_of(second, (first, second)))
            until(lambda: takes_detour(first, second), "the proof has lapsed")
            none_is_lost_from_now_on(arrived)


def test_without_an_agent_proofs_lapse_and_packets_are_finished(site: tuple[Node, ...]) -> None:
    first, second, _ = site
    proves(first, second)
    first.kill()
    time.sleep(3.5)  # on purpose: nobody asks any more
    first.start(peers=peers_of(first, site))
    tcp_passes(first, second)
