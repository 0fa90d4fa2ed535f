"""The kernel datapath on underlays of many kinds, among other people's programs, and under attack."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from overlay.datapath.kernel.programs import pin_directory
from overlay.lab.namespace import call_inside
from overlay.linux.libbpf import Object
from tests.support.programs import GUARD, compiled
from tests.support.tunnels import (
    XDP_FLAGS_DRV_MODE,
    XDP_FLAGS_SKB_MODE,
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
    run,
    running,
    set_xdp,
    start_all,
    until,
)

pytestmark = pytest.mark.root

Pair = tuple[Node, ...]


def carried(first: Node, second: Node) -> None:
    """Packets of all sizes and TCP pass, and none of them by the slow path."""
    ping(first, second, "-c 1")
    before = first.counters(), second.counters()
    assert lost(ping(first, second, "-c 5 -i 0.02")) == 0
    assert lost(ping(first, second, f"-c 5 -i 0.02 -M do -s {first.mtu - 28}")) == 0
    for node, was in zip((first, second), before, strict=True):
        assert gained(node, was, "tx_packets", "rx_packets", "slow_rx_packets", "slow_tx_packets") == [10, 10, 0, 0]
    with iperf_server(second):
        report = json.loads(first.in_pod(f"iperf3 -J -n 20M -c {second.pod_address}"))
        assert report["end"]["sum_received"]["bits_per_second"] > 50e6
    assert gained(first, before[0], "slow_tx_other", "slow_tx_no_route", "drop_tx_send") == [0, 0, 0]
    assert gained(second, before[1], "slow_rx_other", "drop_malformed") == [0, 0]


def readdress(node: Node, device: str) -> None:
    node(f"ip address flush dev {node.underlay}")
    node(f"ip address add {node.address}/24 dev {device}")
    node.underlay = device


def vlan(node: Node) -> None:
    node("ip link add link eth0 name eth0.7 type vlan id 7")
    node("ip link set eth0.7 up")
    readdress(node, "eth0.7")


def bridge(node: Node) -> None:
    node("ip link add br0 type bridge")
    node("ip link set br0 up")
    node("ip link set eth0 master br0")
    readdress(node, "br0")


def macvlan(node: Node) -> None:
    # Else the interface below answers for the address too, and whose answer is the last gets the packets.
    node("sysctl -qw net.ipv4.conf.eth0.arp_ignore=1")
    node("ip link add link eth0 name mac0 type macvlan mode bridge")
    node("ip link set mac0 up")
    readdress(node, "mac0")


def bond(node: Node) -> None:
    node("ip link add bond0 type bond mode active-backup miimon 100")
    node("ip link set eth0 down")
    node("ip link set eth0 master bond0")
    node("ip link set bond0 up")
    readdress(node, "bond0")


def supported(kind: str) -> bool:
    """Whether this kernel has links of a kind; tried in a namespace that is gone with the process."""
    # Not above lo, which refuses vlans with the words of a kernel that has none.
    below = "link x1 " if kind != "bond" else ""
    options = "id 7" * (kind == "vlan")
    script = f"ip link add x1 type veth peer name x2; ip link add {below}name x0 type {kind} {options}"
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, check=False)
    return b"Unknown device type" not in done.stderr and b"not supported" not in done.stderr


@pytest.mark.parametrize("change", [vlan, bridge, macvlan, bond])
def test_kind_of_underlay(change: Callable[[Node], None]) -> None:
    kind = change.__name__
    if kind != "bridge" and not supported(kind):
        pytest.skip(f"this kernel has no {kind}")
    with nodes(2) as made:
        for node in made:
            change(node)
        start_all(made)
        carried(*made)


def test_packets_of_a_vlan_are_not_taken_for_the_interface_below() -> None:
    """What another VLAN's host sends to our address is not for eth0, where our programs run."""
    with running() as (first, second):
        here, there = (json.loads(node("ip -j link show eth0"))[0]["address"] for node in (first, second))
        for tag, enters in (("", 3), ("/ Dot1Q(vlan=7) ", 0)):
            before = first.counters()
            script = (
                "from scapy.all import *\n"
                f"frame = Ether(src='{there}', dst='{here}') {tag}"
                f"/ IP(src='{second.address}', dst='{first.address}') / UDP(sport=50000, dport=8285, chksum=0)"
                f"/ IP(src='{second.pod_address}', dst='{first.pod_address}') / UDP(sport=9, dport=9) / b'x'\n"
                "sendp(frame, iface='eth0', count=3, verbose=False)\n"
            )
            subprocess.run([*entering(second.namespace), sys.executable, "-c", script], check=True)
            counted = gained(first, before, "rx_packets", "drop_outer_source", "drop_malformed")
            assert counted == [enters, 0, 0], tag


def test_several_routes_to_a_peer() -> None:
    """The kernel's routing decides: here two links, both of which carry flows; and one of them fails."""
    with nodes(2) as made:
        first, second = made
        for node in made:
            node(f"ip link add eth1 type veth peer name m{node.number} netns {node.switch}")
            run(f"ip link set m{node.number} up", node.switch)
            node(f"ip address add 172.31.1.{node.number}/24 dev eth1")
            node("ip link set eth1 up")
            node("ip link add lo1 type bridge")  # the underlay address is on neither link
            node(f"ip address add 172.31.5.{node.number}/32 dev lo1")
            node("ip link set lo1 up")
            node("sysctl -qw net.ipv4.fib_multipath_hash_policy=1")
            node.address = f"172.31.5.{node.number}"
        run("ip link add br1 type bridge", first.switch)
        run("ip link set br1 up", first.switch)
        for node in made:
            run(f"ip link set m{node.number} master br1", node.switch)
        for node, other in ((first, second), (second, first)):
            node(
                f"ip route add {other.address} src {node.address} "
                f"nexthop via 172.31.0.{other.number} nexthop via 172.31.1.{other.number}"
            )
        start_all(made)
        until(lambda: lost(ping(first, second, "-c 1 -W 1")) == 0, "a packet passes")
        sent = sent_by(first, "eth0"), sent_by(first, "eth1")
        code = (
            "import socket\n"
            "for port in range(200):\n"
            "    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', "
            f"('{second.pod_address}', 7000 + port))\n"
        )
        subprocess.run([*entering(first.pod), sys.executable, "-c", code], check=True)
        shares = sent_by(first, "eth0") - sent[0], sent_by(first, "eth1") - sent[1]
        assert min(shares) > 30, shares
        for node in made:
            until(lambda node=node: "overlay_decap#" in filters(node, "eth1", "ingress"), "programs on both links")  # type: ignore[misc]
        assert lost(ping(first, second, "-c 5 -i 0.02")) == 0
        for node in made:
            node("ip link set eth1 down")
        assert lost(ping(first, second, "-c 20 -i 0.01")) == 0


def sent_by(node: Node, device: str) -> int:
    packets: int = json.loads(node(f"ip -s -j link show {device}"))[0]["stats64"]["tx"]["packets"]
    return packets


def test_a_router_with_a_smaller_mtu() -> None:
    """The path's MTU is learned from the router's message, and packets that do not fit take the slow path."""
    with nodes(2) as made:
        first, second = made
        second(f"ip link add eth1 mtu 1400 type veth peer name far mtu 1400 netns {second.switch}")
        second("ip address add 172.31.9.2/24 dev eth1")
        second("ip link set eth0 down")
        second("ip link set eth1 up")
        second("ip route add default via 172.31.9.254")
        for words in (
            "ip address add 172.31.9.254/24 dev far",
            "ip link set far up",
            "ip address add 172.31.0.254/24 dev br0",
            "sysctl -qw net.ipv4.ip_forward=1",
        ):
            run(words, first.switch)
        first("ip route add default via 172.31.0.254")
        second.underlay, second.address, second.mtu = "eth1", "172.31.9.2", 1372
        start_all(made)
        assert lost(ping(first, second)) == 0
        before = first.counters()
        ping(first, second, "-c 1 -W 1 -M do -s 1400")
        until(lambda: first.status()["path_mtus"] == {second.address: 1372}, "the path's MTU is known")
        assert gained(first, before, "icmp_too_big", "slow_tx_too_big") == [1, 0]

        def told() -> bool:
            said = first.in_pod(f"ping -c 1 -W 2 -M do -s 1400 {second.pod_address}", check=False)
            return "Frag needed and DF set (mtu = 1372)" in said

        until(told, "the programs know")
        assert gained(first, before, "slow_tx_too_big") == [1]
        assert lost(ping(first, second, "-c 1 -M dont -s 1400")) == 0, "the slow path makes fragments"
        sent = first.counters()
        assert lost(ping(first, second, "-c 3 -i 0.05 -M do -s 1344")) == 0
        assert gained(first, sent, "tx_packets", "slow_tx_too_big") == [3, 0]


def test_an_older_ingress_qdisc_stays() -> None:
    with nodes(2) as made:
        first, second = made
        first("tc qdisc add dev eth0 ingress")  # the older qdisc, which excludes clsact
        start_all(made)
        assert lost(ping(first, second)) == 0
        assert "ingress" in first("tc qdisc show dev eth0")


@pytest.mark.parametrize("mode", [XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE], ids=["generic", "native"])
def test_an_xdp_firewall_stays_in_front_of_us(mode: int, tmp_path: Path) -> None:
    with running(("kernel", "kernel", "kernel")) as (first, second, third):
        with Object(compiled(GUARD, tmp_path)) as opened:
            opened.load()
            guard = opened.program("guard")
            set_xdp(first, guard.fd, mode)
            guard.close()
        attached_guard = xdp_of(first)
        assert attached_guard
        assert lost(ping(second, first)) == 0
        before = first.counters()
        assert lost(ping(third, first, "-c 2 -i 0.05 -W 1")) == 2
        assert gained(first, before, "rx_packets") == [0]
        first.stop()
        first.cleanup()
        assert xdp_of(first) == attached_guard
        first.start(peers=peers_of(first, (first, second, third)))
        until(lambda: attached(first), "programs")
        set_xdp(first, -1, mode)
        assert lost(ping(third, first)) == 0
        assert attached(first)


def xdp_of(node: Node) -> str:
    """Which XDP program is attached to the node's underlay, as iproute2 says it."""
    return node(f"ip -o link show {node.underlay}").partition("prog/")[2]


FORGER = """
import sys
from scapy.all import IP, UDP, Raw, raw
import socket
target = sys.argv[1]
inner = IP(src="10.0.2.9", dst="10.0.1.2", ttl=63) / UDP(sport=1, dport=9999) / Raw(b"forged")
def variants():
    yield raw(inner)                                          # a peer's source, from a stranger's address
    for change in (dict(src="10.0.1.2"), dict(src="10.0.99.1"), dict(src="8.8.8.8"), dict(dst="10.0.2.2"),
                   dict(dst="172.31.0.1"), dict(dst="224.0.0.1"), dict(version=6), dict(ihl=3), dict(len=9999),
                   dict(len=7), dict(chksum=1)):
        packet = inner.copy()
        for name, value in change.items():
            setattr(packet, name, value)
        yield raw(packet)
    yield b""
    yield raw(inner)[:19]
    yield bytes(1400)
payloads = [p for p in variants()]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", int(sys.argv[2])))
number = int(sys.argv[3])
for n in range(number):
    s.sendto(payloads[n % len(payloads)], (target, 8285))
print(len(payloads))
"""


@pytest.mark.parametrize("port", [8285, 50000])
def test_forged_datagrams_do_not_enter(port: int) -> None:
    """From a host that is no peer, and from a peer that sends what is another's; while honest packets pass."""
    number = 15_000
    with nodes(3) as made:
        first, second, third = made
        first.start(peers=peers_of(first, (first, second)))  # the third is a stranger to it
        second.start(peers=peers_of(second, made))
        until(lambda: attached(first) and attached(second), "programs")
        assert lost(ping(second, first)) == 0
        sink = listener(first)
        before, received = first.counters(), datagrams(first)
        assert int(forge(third, first, port, number)) == 15
        assert gained(first, before, "drop_outer_source", "rx_packets") == [number, 0]
        assert lost(ping(second, first)) == 0

        third(f"ip address add {second.address}/32 dev lo")  # not as a sender: a reply would go astray
        before = first.counters()
        first.set_peers({second.subnet: second.address, "10.0.3.0/24": third.address})
        until(lambda: first.status()["detail"].startswith("2 subnets"), "the third is a peer now")
        forge(third, first, port, number)
        after = first.counters()
        dropped = sum(after[name] - before[name] for name in after if name.startswith("drop_") and "_tx_" not in name)
        assert dropped == number
        assert after["drop_outer_source"] == before["drop_outer_source"]
        assert after["drop_inner_source"] > before["drop_inner_source"]
        assert after["drop_checksum"] > before["drop_checksum"]
        assert after["drop_malformed"] > before["drop_malformed"]
        assert datagrams(first) == received, "nothing has reached the pod"
        sink.kill()
        sink.wait()


def forge(source: Node, target: Node, port: int, number: int) -> str:
    command = [sys.executable, "-c", FORGER, target.address, str(port), str(number)]
    done = subprocess.run(
        [*entering(source.namespace), *command], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def listener(node: Node) -> subprocess.Popen[bytes]:
    code = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 9999))\n"
        "while True: s.recv(100)\n"
    )
    return subprocess.Popen([*entering(node.pod), sys.executable, "-c", code])


def datagrams(node: Node) -> str:
    """The pod's count of UDP datagrams, delivered or not."""
    return node.in_pod("grep Udp: /proc/net/snmp")


def test_cleanup_leaves_nothing() -> None:
    with running() as (first, _second):
        pins = call_inside(first.namespace, lambda: pin_directory("flannel0"))
        assert sorted(path.name for path in pins.iterdir()) == ["causes", "endpoint", "senders", "subnets"]
        first.stop()
        assert attached(first), "closing leaves the programs to their work"
        removed = [first.cleanup() for _ in range(2)]
        assert removed == [6, 0]
        assert "clsact" not in first("tc qdisc show")
        assert "flannel0-g" not in first("ip -br link")
        assert not pins.exists()
