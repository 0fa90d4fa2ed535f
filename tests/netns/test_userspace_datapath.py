"""The userspace datapath between two nodes in namespaces: what it carries, answers, refuses and survives."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay.datapath.spec import ASIDE
from overlay.datapath.userspace.steering import queue_for
from tests.support.admission import PEERS, VECTORS, Outcome
from tests.support.limits import limit
from tests.support.packets import Packet, segment_plainly
from tests.support.problems import shown
from tests.support.transfer import python_in, transfer
from tests.support.tunnels import ROOT, Node, entering, nodes, run, until

pytestmark = pytest.mark.root

KINDS = ("userspace", "userspace-plain", "userspace-4")
Pair = tuple[Node, Node]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two nodes without datapaths."""
    with nodes(2) as (one, two):
        yield one, two


def start(one: Node, two: Node, kind: str = "userspace") -> None:
    one.start(kind, peers={two.subnet: two.address})
    two.start(kind, peers={one.subnet: one.address})
    until(lambda: "ttl=60" in one.in_pod(f"ping -c 1 -W 1 {two.pod_address}", check=False), "the first ping")


def workers_of(node: Node) -> list[int]:
    """Process ids of the node's workers."""
    assert node.process is not None
    found = subprocess.run(["pgrep", "-P", str(node.process.pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


@pytest.mark.parametrize("kind", KINDS)
def test_pods_reach_each_other(pair: Pair, kind: str, tmp_path: Path) -> None:
    start(*pair, kind)
    one, two = pair
    # ping waits for its last answer as long as between two: on a busy machine that has to be long.
    assert two.in_pod(f"ping -c 3 -i 0.5 {one.pod_address}").count("ttl=60") == 3
    assert " 0% packet loss" in one.in_pod(f"ping -c 3 -i 0.5 -M do -s 1444 {two.pod_address}"), "a full packet"
    assert " 0% packet loss" in one.in_pod(f"ping -c 3 -i 0.5 -s 20000 {two.pod_address}"), "fragments"
    transfer(one, two, tmp_path, 30_000_000)
    transfer(two, one, tmp_path, 1_000_001)
    counters = one.counters()
    assert counters["rx_packets"] > 700
    # By the queue TCP finds its rate.
    expected = {"drop_tx_not_ipv4", "drop_tun_queue"}
    assert not [name for name in counters if name.startswith("drop_") and name not in expected and counters[name]]
    detail = one.status()["detail"]
    assert detail.startswith("4 of 4" if kind == "userspace-4" else "1 of 1")
    assert ("UDP_GRO" in detail) == (kind != "userspace-plain")


@pytest.mark.parametrize("kinds", [("userspace", "userspace-plain"), ("userspace-4", "userspace")])
def test_different_neighbours(pair: Pair, kinds: tuple[str, str], tmp_path: Path) -> None:
    """One with offloads and one without, as flanneld is; one with four workers and one with one."""
    one, two = pair
    one.start(kinds[0], peers={two.subnet: two.address})
    two.start(kinds[1], peers={one.subnet: one.address})
    transfer(one, two, tmp_path, 10_000_000)
    transfer(two, one, tmp_path, 10_000_000)


SNIFF = """
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); s.bind(('n1', 3)); s.settimeout(3)
print('up', flush=True)
seen = set()
try:
    while True:
        frame = s.recv(65536)
        outer = frame[14:]
        if frame[12:14] == b'\\x08\\0' and outer[9] == 17 and outer[22:24] == struct.pack('!H', 8285):
            inner = outer[28:]
            if inner[9] == 6:
                seen.add((inner[12:24].hex(), int.from_bytes(outer[20:22], 'big')))
except TimeoutError:
    for each in seen: print(*each)
"""


def test_one_flow_stays_on_one_worker(pair: Pair, tmp_path: Path) -> None:
    """Seen on the wire: a flow in one direction has one outer source port, so one worker; several flows, several."""
    start(*pair, "userspace-4")
    one, two = pair
    with python_in(one.switch, SNIFF) as sniffer:
        assert sniffer.stdout is not None
        assert sniffer.stdout.readline() == "up\n"
        for _ in range(10):
            transfer(one, two, tmp_path, 300_000)
        seen = [line.split() for line in sniffer.stdout]
    assert len(seen) == 20, "ten connections, two directions, one port each"
    for flow, port in seen:
        packet = b"\x45" + bytes(8) + b"\6\0\0" + bytes.fromhex(flow)
        # Worker N sends from a port of its own, the Nth of those far from the one that all receive on.
        assert int(port) == 8285 + ASIDE + 1 + queue_for(packet) % 4, "the kernel computes what the model says"
    assert len({port for _, port in seen}) > 1


def worsen(one: Node, two: Node, percent: str) -> subprocess.Popen[str]:
    """Puts a bad wire in the switch's place."""
    for node in (one, two):
        run(f"ip link set n{node.number} nomaster", one.switch)
        node("ethtool -K eth0 tx off tso off gso off tx-udp-segmentation off")
    words = [sys.executable, "-m", "tests.support.bad_wire", "n1", "n2", *percent.split()]
    wire = subprocess.Popen([*entering(one.switch), *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert wire.stdout is not None
    assert wire.stdout.readline() == "up\n"
    return wire


def test_every_byte_arrives_over_a_bad_wire(pair: Pair, tmp_path: Path) -> None:
    """Loss, duplication and reordering, 1 % each; for OVERLAY_TRANSFER_SECONDS, by default no longer than it takes."""
    start(*pair)
    one, two = pair
    seconds = float(os.environ.get("OVERLAY_TRANSFER_SECONDS", "0"))
    size = 50_000_000 if seconds else 5_000_000
    with worsen(one, two, "1 1 1") as wire:
        try:
            transfer(one, two, tmp_path, size)
            settled, total, begun = kilobytes(one, two), size, time.monotonic()
            while time.monotonic() - begun < seconds:
                transfer(one, two, tmp_path, size)
                total += size
            grown = kilobytes(one, two) - settled
        finally:
            wire.kill()
    print(f"{total / 1e9:.2f} GB, every digest right; workers grew by {grown} kB from {settled} kB")
    assert grown < 2000


def kilobytes(*among: Node) -> int:
    """Resident memory of the nodes' workers."""
    texts = [Path(f"/proc/{pid}/status").read_text() for node in among for pid in workers_of(node)]
    return sum(int(text.partition("VmRSS:")[2].split()[0]) for text in texts)


def test_the_wire_format_is_flannels(pair: Pair) -> None:
    """Node 2 is a bare socket: the payload must be the inner packet, its TTL two less, and nothing else."""
    one, two = pair
    one.start("userspace", peers={two.subnet: two.address})
    receiver = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"s.bind(({two.address!r}, 8285)); s.settimeout(20); print('bound', flush=True)\n"
        "data, sender = s.recvfrom(65535); print(data.hex(), *sender)"
    )
    process = python_in(two.namespace, receiver)
    assert process.stdout is not None
    assert process.stdout.readline() == "bound\n"
    one.in_pod(f"ping -c 1 -W 1 -s 8 -t 64 {two.pod_address}", check=False)
    hexadecimal, address, port = process.communicate(timeout=30)[0].split()
    packet = bytes.fromhex(hexadecimal)
    assert (address, port) == (one.address, "8285")
    assert len(packet) == 20 + 8 + 8
    assert packet[0] == 0x45
    assert packet[8:10] == bytes((62, 1))
    assert packet[12:20] == bytes((10, 0, 1, 2, 10, 0, 2, 2))
    assert packet[20:22] == bytes((8, 0)), "an echo request"


def test_nothing_enters_that_a_peer_did_not_send(pair: Pair) -> None:
    one, two = pair
    one.start("userspace", peers={str(subnet): str(peer.public_ip) for subnet, peer in PEERS.peers.items()})
    for number in (3, 4, 5, 77):
        two(f"ip address add 172.31.0.{number}/24 dev eth0")
    script = ["import socket"]
    for vector in VECTORS:
        script += [
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
            f"s.bind(({str(vector.outer_source)!r}, 0))",
            f"s.sendto(bytes.fromhex({vector.datagram.hex()!r}), ({one.address!r}, 8285)); s.close()",
        ]
    assert python_in(two.namespace, "\n".join(script)).wait(60) == 0
    wanted = {outcome: sum(vector.outcome is outcome for vector in VECTORS) for outcome in Outcome}

    def seen() -> dict[Outcome, int]:
        counters = one.counters()
        drops = ("outer_source", "malformed", "checksum", "inner_source", "inner_destination")
        return {
            Outcome.ENTERS: counters["rx_packets"],
            Outcome.EXPIRES: counters["drop_rx_ttl"],
            Outcome.REFUSED: sum(counters[f"drop_{name}"] for name in drops),
        }

    until(lambda: sum(seen().values()) >= len(VECTORS), "all datagrams are accounted for")
    assert seen() == wanted


def test_answers(pair: Pair) -> None:
    start(*pair)
    one, two = pair
    assert "From 10.0.1.0 icmp_seq=1 Destination Net Unreachable" in one.in_pod("ping -c 1 10.0.99.1", check=False)
    assert "From 10.0.1.0 icmp_seq=1 Time to live exceeded" in one.in_pod(
        f"ping -c 1 -t 2 {two.pod_address}", check=False
    )
    assert "From 10.0.2.0 icmp_seq=1 Time to live exceeded" in one.in_pod(
        f"ping -c 1 -t 3 {two.pod_address}", check=False
    )
    assert one.counters()["drop_tx_no_peer"] == 1


def test_peers_come_and_go(pair: Pair) -> None:
    start(*pair)
    one, two = pair
    one.set_peers({})
    assert "Net Unreachable" in one.in_pod(f"ping -c 1 {two.pod_address}", check=False)
    one.set_peers({two.subnet: two.address})
    assert "ttl=60" in one.in_pod(f"ping -c 1 {two.pod_address}")
    one.set_peers({two.subnet: "172.31.0.99"})
    assert "100% packet loss" in one.in_pod(f"ping -c 1 -W 0.3 {two.pod_address}", check=False)


def test_a_smaller_path_is_discovered(pair: Pair, tmp_path: Path) -> None:
    """The switch is a router to node 2 whose far link carries 1300 bytes; so 1272 bytes of inner packet fit."""
    start(*pair)
    one, two = pair
    run(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.br0.send_redirects=0",
        one.switch,
    )
    run("ip address add 172.31.0.254/24 dev br0", one.switch)
    run(f"ip route add {two.address} dev br0 mtu lock 1300", one.switch)
    one(f"ip route add {two.address} via 172.31.0.254")

    def told() -> bool:
        return "Frag needed and DF set (mtu = 1272)" in one.in_pod(
            f"ping -c 1 -W 0.3 -M do -s 1400 {two.pod_address}", check=False
        )

    until(told, "the pod learns of the path's MTU")
    unaware = one.in_pod("ping -c 3 -i 0.05 -M dont -s 1444 10.0.2.1")  # the pod was told about its peer only
    assert " 0% packet loss" in unaware, "without don't-fragment it is fragmented"
    one.in_pod("ip route flush cache")
    transfer(one, two, tmp_path, 2_000_000)
    counters = one.counters()
    assert counters["drop_tx_too_big"] > 0
    assert counters["tx_fragmented"] > 0


def test_the_worker_has_no_privileges(pair: Pair) -> None:
    start(*pair)
    (worker,) = workers_of(pair[0])
    status = Path(f"/proc/{worker}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == fields["Gid"].split() == ["82850"] * 4, "nothing else runs as it"
    assert fields["Groups"].split() == []
    assert [int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [0] * 5
    assert fields["NoNewPrivs"].strip() == "1"
    assert fields["Seccomp"].strip() == "2", "a filter, see test_seccomp"
    assert fields["Threads"].strip() == "1"
    assert int(fields["VmRSS"].split()[0]) < 60_000, "kilobytes"


def test_a_dead_worker_is_replaced(pair: Pair) -> None:
    start(*pair)
    one, two = pair
    (worker,) = workers_of(one)
    before = one.counters()["tx_packets"]
    os.kill(worker, signal.SIGKILL)
    until(lambda: "ttl=60" in one.in_pod(f"ping -c 1 -W 1 {two.pod_address}", check=False), "traffic goes on")
    assert workers_of(one) != [worker]
    counters = one.counters()
    assert counters["worker_restarts"] == 1
    assert counters["tx_packets"] >= before


def test_packets_wait_for_the_next_worker(pair: Pair) -> None:
    start(*pair)
    one, two = pair
    pinging = subprocess.Popen(
        [*entering(one.pod), "ping", "-i", "0.01", "-c", "200", two.pod_address], stdout=subprocess.PIPE, text=True
    )
    until(lambda: one.counters()["tx_packets"] > 50, "some pings are under way")
    os.kill(workers_of(one)[0], signal.SIGKILL)
    report = pinging.communicate(timeout=60)[0]
    lost = re.search(r"(\d+) received", report)
    assert lost is not None
    assert int(lost.group(1)) >= 198, "at most what the worker had in hand is lost"


def test_a_hung_worker_is_reported_at_once(pair: Pair) -> None:
    start(*pair)
    one, _ = pair
    (worker,) = workers_of(one)
    os.kill(worker, signal.SIGSTOP)
    try:
        before = time.monotonic()
        status = one.status()
        assert time.monotonic() - before < limit(1.0, 5.0)
        assert status["running"] is False
        assert shown(status, "worker", "1 of 1 workers move no packets")
        for number in range(50):
            one.set_peers({f"10.{number}.{each}.0/24": "172.31.0.2" for each in range(100)})
        until(lambda: workers_of(one) not in ([], [worker]) and one.status()["running"], "it is replaced")
    finally:
        if worker in workers_of(one):
            os.kill(worker, signal.SIGCONT)


def test_the_worker_dies_with_the_agent_and_the_tun_stays(pair: Pair) -> None:
    start(*pair)
    one, two = pair
    (worker,) = workers_of(one)
    index = one("cat /sys/class/net/flannel0/ifindex", check=False) or one("ip -o link show flannel0").split(":")[0]
    one.kill()
    until(lambda: not Path(f"/proc/{worker}").exists(), "the worker is gone")
    assert "flannel0" in one("ip -o link show flannel0")
    one.start("userspace", peers={two.subnet: two.address})
    assert (
        one("cat /sys/class/net/flannel0/ifindex", check=False) or one("ip -o link show flannel0").split(":")[0]
    ) == index
    assert "ttl=60" in one.in_pod(f"ping -c 1 {two.pod_address}")


GONE = {
    "removed": "ip link delete flannel0",
    "renamed": "ip link set flannel0 name elsewhere",
    "moved": "ip link set flannel0 netns {pod}",
}


@pytest.mark.parametrize(
    ("kind", "gone"),
    [("userspace", "removed"), ("userspace", "moved"), ("userspace-4", "removed"), ("userspace-4", "renamed")],
)
def test_a_device_that_is_gone_comes_back(pair: Pair, kind: str, gone: str) -> None:
    start(*pair, kind)
    one, two = pair
    one(GONE[gone].format(pod=one.pod))
    until(lambda: "flannel0" in one("ip -o link show"), "the device is there again")
    until(lambda: one.status()["running"], "the workers run again")
    one.configure()
    until(lambda: "ttl=60" in one.in_pod(f"ping -c 1 -W 1 {two.pod_address}", check=False), "traffic goes on")
    until(lambda: "elsewhere" not in one("ip -o link show"), "nothing is left of the other")
    assert "flannel0" not in one.in_pod("ip -o link show")


def test_a_device_that_others_have_closed_to_packets_is_opened_again(pair: Pair) -> None:
    start(*pair)
    one, two = pair

    def is_open() -> bool:
        shown = one("ip -o link show flannel0")
        return "qlen" in shown and "NO-CARRIER" not in shown

    for change in ("txqueuelen 0", "carrier off"):
        one(f"ip link set flannel0 {change}")
        until(is_open, "it is opened again")
        until(lambda: "ttl=60" in one.in_pod(f"ping -c 1 -W 1 {two.pod_address}", check=False), "packets pass")


def test_a_device_of_others_in_the_place_of_ours_is_told(pair: Pair) -> None:
    start(*pair)
    one, _ = pair
    one("ip link set flannel0 name elsewhere")
    one("ip tuntap add dev flannel0 mode tap")
    told = "1 of 1 workers move no packets: device flannel0: it exists, and is no multi-queue TUN device; remove it"
    until(lambda: [problem for problem in one.status()["problems"] if told in problem], "that is a problem")
    one("ip link delete flannel0")
    until(lambda: one.status()["running"] and not one.status()["problems"], "and is over")


def test_forged_icmp_does_little(pair: Pair) -> None:
    """Fragmentation needed, with an absurd MTU or about a host that is no peer, from somebody on the underlay."""
    start(*pair)
    one, two = pair
    script = (
        "from scapy.all import IP, ICMP, UDP, send\n"
        "for mtu in (1, 68, 500):\n"
        f"    quoted = IP(src={one.address!r}, dst={two.address!r}) / UDP(sport=8285, dport=8285)\n"
        f"    send(IP(dst={one.address!r}) / ICMP(type=3, code=4, nexthopmtu=mtu) / quoted, verbose=0)\n"
        "for number in range(100):\n"
        f"    quoted = IP(src={one.address!r}, dst=f'172.31.0.{{100 + number}}') / UDP(sport=8285, dport=8285)\n"
        f"    send(IP(dst={one.address!r}) / ICMP(type=3, code=4, nexthopmtu=600) / quoted, verbose=0)"
    )
    assert python_in(two.namespace, script).wait(60) == 0
    assert "ttl=60" in one.in_pod(f"ping -c 1 {two.pod_address}")
    assert one.status()["path_mtus"] == {}


@pytest.mark.parametrize("kind", ["userspace", "userspace-4"])
def test_another_port_while_running(pair: Pair, kind: str) -> None:
    start(*pair, kind)
    one, two = pair
    for node in pair:
        node.configure(port=9999)
    assert "ttl=60" in one.in_pod(f"ping -c 1 {two.pod_address}")
    assert ":8285" not in one("ss -lun")
    assert len(workers_of(one)) == (4 if kind == "userspace-4" else 1)


def test_a_port_in_use_is_named(pair: Pair) -> None:
    one, _ = pair
    script = (
        "import signal, socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        f"s.bind(({one.address!r}, 8285)); signal.pause()"
    )
    holder = python_in(one.namespace, script)
    try:
        until(lambda: ":8285" in one("ss -lun"), "the port is held")
        with pytest.raises(AssertionError, match=r"UDP port 8285 on 172\.31\.0\.1: address already in use; stop"):
            one.start("userspace")
    finally:
        holder.kill()
        holder.wait()
    one.configure()


def test_small_datagrams_keep_their_boundaries(pair: Pair) -> None:
    """Coalesced on the way in (USO), cut again by the kernel: the same datagrams in the same order."""
    start(*pair)
    one, two = pair
    receive = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 7)); s.settimeout(20)\n"
        "s.setsockopt(1, 33, 1 << 22); print('bound', flush=True)\n"
        "print(*(int.from_bytes(s.recv(2000), 'big') for _ in range(900)))"
    )
    send = (
        "import socket, time\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for burst in range(30):\n"
        "    for number in range(30):\n"
        f"        s.sendto((burst * 30 + number).to_bytes(8, 'big'), ({two.pod_address!r}, 7))\n"
        "    time.sleep(0.005)"
    )
    receiver = python_in(two.pod, receive)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "bound\n"
    assert python_in(one.pod, send).wait(60) == 0
    assert [int(word) for word in receiver.communicate(timeout=30)[0].split()] == list(range(900))


COUNT_PAYLOAD = """
import socket, sys
wanted = int(sys.argv[1])
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)); s.settimeout(10)
print('up', flush=True)
total = 0
try:
    while total < wanted:
        packet = s.recv(1 << 17)
        if packet[9] == 6 and packet[12:16] == bytes((10, 0, 1, 9)):
            total += len(packet) - 4 * (packet[0] & 15) - 4 * (packet[32] >> 4)
except TimeoutError:
    pass
print(total)
"""
SEND_TRAINS = """
import socket, struct, sys
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for line in sys.stdin:
    size, train = line.split()
    udp.sendmsg([bytes.fromhex(train)], [(17, 103, struct.pack('=H', int(size)))], 0, (sys.argv[1], 8285))
"""


@pytest.mark.parametrize(("mtu", "more"), [(1500, 1), (1500, 0), (9000, 1), (33_000, 0), (33_000, 1), (65_535, 1)])
def test_no_packet_of_a_cut_run_is_lost(mtu: int, more: int) -> None:
    """46 of 47 arrived: the kernel does not cut a joined packet of one segment that has TCP options."""
    with nodes(2, underlay_mtu=mtu) as (one, two):
        two.start("userspace", peers={one.subnet: one.address})
        two.in_pod("ethtool -K eth0 tso off gso off gro off", check=False)
        two("ethtool -K pod tso off gso off", check=False)
        size = mtu - 28
        payload = size - 52
        count = max(2, (65_535 - 52) // payload) + more
        flow = Packet(
            source=bytes((10, 0, 1, 9)),
            destination=bytes((10, 0, 2, 2)),
            tcp_options=b"\x01\x01\x08\x0a" + bytes(range(8)),
            payload=bytes(payload * count),
        )
        segments = segment_plainly(flow, payload)
        together = min(64, 65_507 // size)
        trains = [b"".join(segments[at : at + together]) for at in range(0, count, together)]
        (worker,) = workers_of(two)
        with python_in(two.pod, COUNT_PAYLOAD, payload * count) as sniffer:
            assert sniffer.stdout is not None
            assert sniffer.stdout.readline() == "up\n"
            os.kill(worker, signal.SIGSTOP)  # so that it finds all of them at once
            try:
                words = [*entering(one.namespace), sys.executable, "-c", SEND_TRAINS, two.address]
                lines = "".join(f"{size} {train.hex()}\n" for train in trains)
                subprocess.run(words, input=lines, text=True, check=True)
            finally:
                os.kill(worker, signal.SIGCONT)
            assert int(sniffer.stdout.readline()) == payload * count
