"""The kernel datapath between nodes in namespaces (see tests/support/tunnels.py): carrying, taking over, mending."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from overlay.datapath.kernel.probe import Answer, probe, probe_fou
from overlay.lab.namespace import call_inside
from tests.support.admission import plain_checksum
from tests.support.limits import limit
from tests.support.programs import OTHER_MAPS, OTHER_PROGRAMS, SOURCE, compiled, variant
from tests.support.tunnels import (
    PATIENCE,
    Node,
    attached,
    entering,
    filters,
    gained,
    iperf_server,
    lost,
    nodes,
    peers_of,
    ping,
    running,
    until,
)

pytestmark = pytest.mark.root

Pair = tuple[Node, ...]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with running() as made:
        yield made


def test_probe_says_yes() -> None:
    result = probe()
    assert (result.answer, result.reason) == (Answer.YES, "a packet went through")


def test_a_kernel_without_fou_says_so() -> None:
    result = probe_fou()
    if result.answer is not Answer.YES:
        assert (result.answer, result.reason) == (
            Answer.NO,
            "module fou: not loaded, or this kernel has none; modprobe fou",
        )


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("return TC_ACT_SHOT;", Answer.UNKNOWN),  # for the probe the same as a packet that is late
        ("return drop(DROP_TX_SEND);", Answer.NO),
    ],
)
def test_silence_is_no_answer(tmp_path: Path, body: str, answer: Answer) -> None:
    """What says no is a program that could not, and has counted why."""
    head = "int overlay_encap(struct __sk_buff *skb)\n{\n"
    source = SOURCE.read_text()
    assert head in source
    result = probe(
        compiled(source.replace(head, f"{head}\tif (skb->protocol == bpf_htons(ETH_P_IP)) {body}\n"), tmp_path)
    )
    assert result.answer is answer, result.reason


def test_a_machine_that_is_short_of_something_is_no_answer() -> None:
    """Here of descriptors: at each place of the probe where they can run out."""
    script = (
        "import os, resource\n"
        "from overlay.datapath.kernel.probe import probe\n"
        "probe()\n"  # what is opened once, is open
        "used = len(os.listdir('/proc/self/fd'))\n"
        "for free in range(1, 40, 2):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (used + free, 4096))\n"
        "    result = probe()\n"
        "    print(result.answer.value, free, result.reason)\n"
        "print(len(os.listdir('/proc/self/fd')) - used)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *told, left = ran.stdout.splitlines()
    assert left == "0", "descriptors are given back"
    assert told[0].startswith("unknown")
    assert [line for line in told if line.startswith("no")] == []
    assert told[-1].startswith("yes")


def test_a_machine_without_sysfs_has_no_kernel_datapath() -> None:
    """As some containers are: the programs load, and nobody can tell how many values a counter has."""
    script = (
        "from overlay.datapath.kernel.probe import probe; result = probe(); print(result.answer.value, result.reason)"
    )
    hide = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /sys && exec "$@"', "sh")
    ran = subprocess.run([*hide, sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("no /sys/devices/system/cpu/possible: ")


@pytest.mark.parametrize("wish", ["auto", "kernel"])
def test_what_works_is_kept_while_the_probe_cannot_tell(pair: Pair, wish: str) -> None:
    """Here because there is no namespace to try in; and what is chosen where nothing is in use."""
    first, second = pair
    ping(first, second)
    assert attached(first)
    script = (
        "import asyncio, sys\n"
        "from overlay.backends.base import Flags\n"
        "from overlay.backends.udp.choice import choose\n"
        "from overlay.errors import DatapathError\n"
        "for device in sys.argv[1:]:\n"
        "    try:\n"
        f"        choice = asyncio.run(choose(Flags(device=device, datapath={wish!r}, workers=1)))\n"
        "        print(choice.name, choice.reason)\n"
        "    except DatapathError as error:\n"
        "        print('refused', error)\n"
    )
    unable = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    words = [*entering(first.namespace), *unable, sys.executable, "-c", script, "flannel0", "flannel9"]
    kept, other = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert kept.startswith("kernel it is in use here"), kept
    assert "CAP_SYS_ADMIN" in kept
    assert other.startswith("userspace" if wish == "auto" else "refused"), other
    assert attached(first)
    assert lost(ping(first, second)) == 0


def test_packets_stay_in_the_kernel(pair: Pair) -> None:
    first, second = pair
    before = first.counters()
    assert "ttl=60" in first.in_pod(f"ping -c 1 {second.pod_address}")
    assert lost(ping(first, second, "-c 50 -i 0.01")) == 0
    assert gained(first, before, "tx_packets", "rx_packets", "slow_tx_no_peer", "slow_rx_other") == [51, 51, 0, 0]


def test_every_size_passes(pair: Pair) -> None:
    first, second = pair
    for size in (0, 1, 17, 18, 19, 255, 1400, 1443, 1444):
        assert lost(ping(first, second, f"-c 1 -M do -s {size}")) == 0, size


def test_the_wire_is_flannels(pair: Pair) -> None:
    """As in captures of flanneld, but for the source port: don't fragment, TTL 64, type of service 0."""
    first, second = pair
    with wire(second) as frames:
        first.in_pod(f"ping -c 1 -s 100 -t 33 {second.pod_address}")
        frame = next(frames)
    outer, udp, inner = frame[IP], frame[UDP], IP(bytes(frame[UDP].payload))
    assert (outer.src, outer.dst, outer.ttl, outer.tos, str(outer.flags)) == (
        first.address,
        second.address,
        64,
        0,
        "DF",
    )
    assert (outer.len, udp.len, inner.len) == (20 + 8 + 128, 8 + 128, 128)
    assert udp.chksum == 0
    assert (inner.src, inner.dst, inner.ttl) == (first.pod_address, second.pod_address, 31)
    for header in (outer, inner):
        assert plain_checksum(bytes(header)[:20]) == 0


def test_node_to_pod(pair: Pair) -> None:
    first, second = pair
    assert lost(first(f"ping -q -c 2 -i 0.05 {second.pod_address}")) == 0


def test_tcp_both_ways_and_the_gro_stage(pair: Pair) -> None:
    first, second = pair
    for node in pair:
        node("ethtool -K eth0 tso off gso off")
    before = second.counters()
    with iperf_server(second):
        for way in ("", "-R"):
            report = json.loads(first.in_pod(f"iperf3 -J -n 50M -c {second.pod_address} {way}"))
            assert report["end"]["sum_received"]["bits_per_second"] > 100e6
    assert gained(second, before, "slow_rx_other", "drop_malformed", "drop_checksum") == [0, 0, 0]
    links = json.loads(second("ip -s -j link show flannel0-grx"))
    assert links[0]["stats64"]["rx"]["packets"] > 1000


def test_flows_have_ports_of_their_own(pair: Pair) -> None:
    first, second = pair
    capture = subprocess.Popen(
        [*entering(second.namespace), "tcpdump", "-lnni", "eth0", "-c", "40", "udp dst port 8285"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert capture.stderr is not None
    until(lambda: "listening" in str(capture.stderr.readline()), "tcpdump listens")  # type: ignore[union-attr]
    code = (
        "import socket\n"
        "for port in range(20):\n"
        "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"    there = ('{second.pod_address}', 7000 + port)\n"
        "    s.sendto(b'x', there), s.sendto(b'x', there)\n"
    )
    subprocess.run([*entering(first.pod), "python3", "-c", code], check=True)
    printed, _ = capture.communicate(timeout=20)
    ports = [line.split(" > ")[0].rsplit(".", 1)[1] for line in printed.splitlines() if "172.31.0.1." in line]
    assert len(ports) == 40
    assert 10 < len(set(ports)) <= 20  # one a flow, and two flows rarely the same
    assert all(int(port) >= 49152 for port in ports)


def test_what_the_programs_leave_alone_is_answered_by_the_slow_path(pair: Pair) -> None:
    first, second = pair
    before = first.counters()
    assert "Destination Net Unreachable" in first.in_pod("ping -c 1 -W 2 10.0.99.1", check=False)
    # The node's own hop brings 2 down to 1, so the tunnel is where it ends.
    expired = first.in_pod(f"ping -c 1 -W 2 -t 2 {second.pod_address}", check=False)
    assert "Time to live exceeded" in expired
    assert "From 10.0.1.0 " in expired
    assert gained(first, before, "slow_tx_no_peer", "slow_tx_ttl", "tx_packets") == [1, 1, 0]


def test_fragmented_outer_datagrams_arrive(pair: Pair) -> None:
    """A peer without path MTU discovery, or a router, may fragment: the stack reassembles for the slow path."""
    first, second = pair
    before = second.counters()
    first("ip route add 172.31.0.2 dev eth0 mtu lock 1000")
    try:
        assert lost(ping(first, second, "-c 2 -i 0.2 -M dont -s 1300")) == 0
    finally:
        first("ip route del 172.31.0.2")
    assert gained(second, before, "drop_malformed") == [0]


def test_mixed_with_the_userspace_datapath() -> None:
    with running(("kernel", "userspace", "kernel")) as made:
        kernel, userspace, other = made
        for source, target in ((kernel, userspace), (userspace, kernel), (kernel, other), (other, userspace)):
            assert lost(ping(source, target, "-c 5 -i 0.05 -s 1400")) == 0
        with iperf_server(userspace):
            report = json.loads(kernel.in_pod(f"iperf3 -J -t 1 -c {userspace.pod_address}"))
            assert report["end"]["sum_received"]["bits_per_second"] > 10e6


def test_jumbo_underlay() -> None:
    with running(underlay_mtu=9000) as (first, second):
        before = first.counters()
        assert lost(ping(first, second, f"-c 2 -i 0.05 -M do -s {8972 - 28}")) == 0
        assert gained(first, before, "tx_packets", "slow_tx_too_big") == [2, 0]


# ---- taking over ----


def test_nothing_is_lost_when_agents_are_killed_restarted_and_upgraded(tmp_path: Path) -> None:
    """Killed and started again; then with other programs on the same maps; then with maps of another layout."""
    other_programs = variant(tmp_path / "programs", *OTHER_PROGRAMS)
    other_maps = variant(tmp_path / "maps", *OTHER_MAPS)
    with running() as made:
        first, second = made
        ping(first, second, "-c 1")
        ttls = []
        with stalls() as longest_stall:
            with tcp_stream(first, second) as longest_pause, pinging(first, second, 10_000) as finish:
                for path in (None, other_programs, other_maps):
                    for node in made:
                        node.kill()
                    time.sleep(0.5)  # without any agent, on purpose
                    for node in made:
                        node.start(path=path, peers=peers_of(node, made))
                        until(lambda node=node: attached(node), "programs")  # type: ignore[misc]
                    ttls.append(outer_ttl(second))
                printed = finish()
                pause = longest_pause()
            assert pause < 0.25 + longest_stall(), "beyond what this machine withheld from everybody"
        assert ttls == [64, 63, 62], "the programs were replaced"
        assert lost(printed) == 0, printed
        assert "10000 packets transmitted" in printed


def outer_ttl(node: Node) -> int:
    """Of a tunnelled packet that arrives while others are on their way."""
    with wire(node) as frames:
        return int(next(frame[IP].ttl for frame in frames if frame[IP].dst == node.address))


@contextmanager
def wire(node: Node) -> Iterator[Iterator[Ether]]:
    """The tunnel's frames that a node sends and receives meanwhile."""

    def frames(tap: socket.socket) -> Iterator[Ether]:
        while True:
            frame = Ether(tap.recv(1 << 16))
            if UDP in frame and frame[UDP].dport == 8285:
                yield frame

    # All protocols: those taps see packets before the programs do.
    with call_inside(node.namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))) as tap:
        tap.bind(("eth0", 3))
        tap.settimeout(PATIENCE)
        yield frames(tap)


@contextmanager
def stalls() -> Iterator[Callable[[], float]]:
    """The longest time, in seconds, by which this machine let a sleeping thread oversleep; the value tells it."""
    over, longest = threading.Event(), [0.0]

    def watch() -> None:
        before = time.monotonic()
        while not over.wait(0.005):
            now = time.monotonic()
            longest[0] = max(longest[0], now - before - 0.005)
            before = now

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: longest[0]
    finally:
        over.set()
        watcher.join()


@contextmanager
def pinging(source: Node, target: Node, count: int) -> Iterator[Callable[[], str]]:
    """``count`` pings, one a millisecond, while the test does something; the value waits for their end."""
    words = f"ping -q -i 0.001 -W 2 -c {count} {target.pod_address}".split()
    process = subprocess.Popen([*entering(source.pod), *words], stdout=subprocess.PIPE, text=True)
    try:
        yield lambda: process.communicate(timeout=600)[0]
    finally:
        process.kill()
        process.wait()


@contextmanager
def tcp_stream(source: Node, target: Node) -> Iterator[Callable[[], float]]:
    """A TCP transfer at a modest rate; the value tells its receiver's longest wait for data so far, in seconds."""
    receive = (
        "import socket, sys, time\n"
        "listener = socket.create_server(('0.0.0.0', 7777)); print('ready', flush=True)\n"
        "connection, _ = listener.accept(); last = time.monotonic()\n"
        "while connection.recv(65536):\n"
        "    now = time.monotonic(); print(now - last, flush=True); last = now\n"
    )
    send = (
        "import socket, time\n"
        f"connection = socket.create_connection(('{target.pod_address}', 7777))\n"
        "while True:\n"
        "    connection.sendall(bytes(20000)); time.sleep(0.01)\n"
    )
    receiver = subprocess.Popen(
        [*entering(target.pod), "python3", "-c", receive], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    pauses = [0.0]
    reader = threading.Thread(target=lambda: pauses.extend(float(line) for line in receiver.stdout or ()))
    reader.start()
    sender = subprocess.Popen([*entering(source.pod), "python3", "-c", send])
    try:
        yield lambda: max(pauses)
        assert len(pauses) > 100
    finally:
        sender.kill()
        receiver.kill()
        sender.wait()
        receiver.wait()
        reader.join()
        receiver.stdout.close()


def test_peers_that_left_while_no_agent_ran_are_forgotten() -> None:
    with running(("kernel", "kernel", "kernel")) as made:
        first, second, third = made
        assert lost(ping(first, third)) == 0
        first.kill()
        assert lost(ping(first, third)) == 0, "nobody is there to know better"
        first.start(peers={second.subnet: second.address})
        until(lambda: lost(ping(first, third, "-c 1 -W 1")) == 1, "the peer is gone")
        assert lost(ping(first, second)) == 0
        until(lambda: first.status()["detail"].startswith("1 subnets"), "one peer is left")


def test_ten_thousand_peers_in_a_second() -> None:
    with running() as made:
        first, second = made
        many = {f"10.{1 + number // 256}.{number % 256}.0/24": f"172.16.{number // 256}.{number % 256}"
                for number in range(10_000)}  # fmt: skip
        begun = time.monotonic()
        first.set_peers(peers_of(first, made) | many)
        until(lambda: first.status()["detail"].startswith("10001 subnets"), "all peers are in the map")
        took = time.monotonic() - begun
        print(f"10,000 peers in {took:.2f} s")
        assert took < limit(1.0, 15.0)
        assert lost(ping(first, second)) == 0
        first.set_peers(peers_of(first, made))
        until(lambda: first.status()["detail"].startswith("1 subnets"), "they are gone again")
        assert lost(ping(first, second)) == 0


def test_a_new_port_and_a_new_subnet() -> None:
    with running() as made:
        first, second = made
        for node in made:
            node.configure(port=9000)
        assert lost(ping(first, second)) == 0
        before = second.counters()
        first.in_pod(f"ping -c 1 {second.pod_address}")
        assert gained(second, before, "rx_packets", "slow_rx_other") == [1, 0]
        second.configure(port=9000, subnet="10.0.7.0/24")
        assert lost(ping(first, second, "-c 1 -W 1")) == 1, "no longer its subnet"
        assert gained(second, before, "drop_inner_destination") >= [1]


# ---- mending ----


@pytest.mark.parametrize(
    "breakage",
    [
        "tc qdisc del dev eth0 clsact",
        "tc qdisc del dev flannel0 clsact",
        "tc filter del dev flannel0 egress",
        "tc filter del dev flannel0-grx ingress",
        "ip link del flannel0-gtx",
        "ip link set flannel0-grx down",
        "ip link set flannel0-gtx mtu 1000 master br-others",
    ],
)
def test_what_others_break_is_mended(breakage: str) -> None:
    with running() as (first, second):
        first("ip link add br-others type bridge")
        first(breakage)
        until(lambda: attached(first), "filters are back")
        until(lambda: "overlay_gro#" in filters(first, "flannel0-grx", "ingress"), "the GRO stage is back")
        until(lambda: "UP" in first("ip -br link show flannel0-grx"), "the GRO stage is up")
        for end in ("gtx", "grx"):
            until(lambda end=end: "mtu 65535" in first(f"ip link show flannel0-{end}"), "its MTU is right")  # type: ignore[misc]
            until(lambda end=end: "br-others" not in first(f"ip link show flannel0-{end}"), "it is free")  # type: ignore[misc]
        with iperf_server(first):
            report = json.loads(second.in_pod(f"iperf3 -J -t 1 -c {first.pod_address}"))
        assert report["end"]["sum_received"]["bits_per_second"] > 10e6
        assert first.ask("repair")["mended"] == [], "the second time there is nothing to do"
        assert first.counters()["repairs"] > 0


def test_a_recreated_underlay_is_found_again() -> None:
    with running() as (first, second):
        first("ip link set eth0 name old")
        until(lambda: "eth0: there is no such interface" in first.status()["detail"], "its loss is told")
        first("ip link set old name eth0")
        first("ip link set eth0 up")
        until(lambda: "GRO" in first.status()["detail"], "it is found again")
        assert attached(first)
        assert lost(ping(first, second)) == 0


def test_a_filter_of_another_kind_in_our_place_keeps_it() -> None:
    with nodes(2) as made:
        for node, protocol in zip(made, ("all", "ip"), strict=True):
            node("tc qdisc add dev eth0 clsact")
            node(f"tc filter add dev eth0 ingress prio 8285 protocol {protocol} u32 match u32 0 0 classid 1:1")
            node.start(peers=peers_of(node, made))
            until(lambda node=node: attached(node), "programs")  # type: ignore[misc]
            shown = node("tc filter show dev eth0 ingress")
            assert "pref 8285 u32" in shown
            assert "pref 8286 bpf" in shown
        assert lost(ping(made[0], made[1])) == 0


def test_other_filters_are_left_alone_and_in_order() -> None:
    with nodes(2) as made:
        first, second = made
        first("tc qdisc add dev eth0 clsact")
        for number in (10, 9000):
            run_filter(first, number)
        for node in made:
            node.start(peers=peers_of(node, made))
            until(lambda node=node: attached(node), "programs")  # type: ignore[misc]
        assert lost(ping(first, second)) == 0
        # Not ours: the filter behind us still gets it.
        second(f"ping -q -c 3 -i 0.05 {first.address}")
        behind = filters_in_order(first)
        assert [pref for pref, _ in behind] == [10, 8285, 9000]
        first(
            "tc filter replace dev eth0 ingress pref 8285 protocol ip handle 2 bpf da object-pinned /nothing",
            check=False,
        )
        first.stop()
        first.cleanup()
        assert [pref for pref, _ in filters_in_order(first)] == [10, 9000]
        assert "flannel0-gtx" not in first("ip -br link")


def filters_in_order(node: Node) -> list[tuple[int, str]]:
    listed = json.loads(node("tc -j filter show dev eth0 ingress"))
    found: list[tuple[int, str]] = []
    for each in listed:
        if not found or found[-1][0] != each["pref"]:
            found.append((each["pref"], each["kind"]))
    return found


def run_filter(node: Node, priority: int) -> None:
    """Somebody's own filter: classic BPF that looks at nothing and says "no match"."""
    words = f"tc filter add dev eth0 ingress pref {priority} protocol ip bpf bytecode".split()
    subprocess.run([*entering(node.namespace), *words, "1,6 0 0 0,"], check=True)
