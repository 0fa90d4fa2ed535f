"""What is lost or carried slowly is told: each test makes one thing go wrong, and ``status`` names it.

The window of a minute is a second here (``tunnel_agent.WINDOW``).
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from overlay.datapath.kernel.proof import PACKET_VNET_HDR, SOL_PACKET
from overlay.lab.namespace import call_inside
from overlay.linux.libbpf import Object
from overlay.linux.tc import Filter, Hook, TrafficControl
from overlay.packet import virtio
from tests.support.admission import ipv4, plain_checksum
from tests.support.problems import shown
from tests.support.programs import GUARD, TAG, compiled
from tests.support.tunnels import (
    UNPROVEN,
    XDP_FLAGS_DRV_MODE,
    Node,
    entering,
    filters,
    gained,
    linux_version,
    lost,
    nodes,
    ping,
    run,
    running,
    set_xdp,
    start_all,
    until,
)

pytestmark = pytest.mark.root

Pair = tuple[Node, ...]


@pytest.fixture(scope="module")
def kernel_pair() -> Iterator[Pair]:
    """For tests that put back what they change, and count from what they find."""
    with running() as made:
        yield made


@pytest.fixture(scope="module")
def plain_pair() -> Iterator[Pair]:
    """Without offloads, where each packet is one for the kernel's counters as well."""
    with running(("userspace-plain", "userspace-plain")) as made:
        yield made


SENDER = """
import socket, sys, time
target, number, size, segment = sys.argv[1], *map(int, sys.argv[2:5])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if segment:
    udp.setsockopt(socket.SOL_UDP, 103, segment)
if len(sys.argv) > 5:
    udp.setsockopt(socket.SOL_IP, socket.IP_OPTIONS, bytes.fromhex(sys.argv[5]))
for _ in range(number):
    udp.sendto(bytes(size), (target, 9))
"""

CALLER = """
import socket, sys
for _ in range(50):
    tcp = socket.socket()
    tcp.setblocking(False)
    tcp.connect_ex((sys.argv[1], 9))
"""


def send(source: Node, target: Node, number: int, size: int = 100, segment: int = 0, options: str = "") -> None:
    """Datagrams from pod to pod, to the discard port, cut by UDP_SEGMENT if it says so."""
    words = [sys.executable, "-c", SENDER, target.pod_address, str(number), str(size), str(segment)]
    subprocess.run([*entering(source.pod), *words, *filter(None, [options])], check=True)


def told(node: Node, code: str, *words: str, meanwhile: Callable[[], None]) -> str:
    """Repeats what goes wrong until ``status`` has the problem of that code; it must have all of ``words``."""
    found: list[str] = []

    def look() -> bool:
        meanwhile()
        found[:] = [problem for problem in node.status()["problems"] if problem.startswith(f"{code}: ")]
        return bool(found)

    until(look, f"a problem {code}")
    assert all(word in found[0] for word in words), found
    return found[0]


def over(node: Node) -> None:
    until(lambda: node.status()["problems"] == [], "all is well again")


def second_link(made: tuple[Node, ...], *, addressed: bool) -> None:
    """An interface eth1 on each node, by which the first is sent to and does not send."""
    first, second = made
    run("ip link add br1 type bridge", first.switch)
    run("ip link set br1 up", first.switch)
    for node in made:
        node(f"ip link add eth1 type veth peer name m{node.number} netns {node.switch}")
        run(f"ip link set m{node.number} master br1 up", node.switch)
        node("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth1.rp_filter=0")
        if addressed or node is second:
            node(f"ip address add 172.31.1.{node.number}/24 dev eth1")
        node("ip link set eth1 up")
    link = first("ip -br link show eth1").split()[2]
    second(f"ip neighbour replace 172.31.1.1 lladdr {link} dev eth1 nud permanent")
    second(f"ip route add {first.address}/32 via 172.31.1.1 dev eth1 onlink src {second.address}")


def test_packets_that_come_by_another_interface_than_they_leave_by_are_carried_fast() -> None:
    with nodes(2) as made:
        first, second = made
        second_link(made, addressed=True)
        start_all(made)
        assert "overlay_decap#" in filters(first, "eth1", "ingress"), "though no route to a peer leaves by it"
        assert lost(ping(first, second)) == 0
        before = first.counters()
        assert lost(ping(first, second, "-c 20 -i 0.01")) == 0
        assert gained(first, before, "rx_packets", "slow_rx_packets", "slow_rx_unseen") == [20, 0, 0]
        first("ip address flush dev eth1")
        until(lambda: "overlay_decap#" not in filters(first, "eth1", "ingress"), "nothing of ours where none belongs")


def test_packets_that_come_by_an_interface_without_a_program_are_told() -> None:
    with nodes(2) as made:
        first, second = made
        second_link(made, addressed=False)
        start_all(made)
        told(first, "slow-path", "eth1", "--iface", meanwhile=lambda: send(second, first, 50))
        assert "eth1" in first.status()["slow_path"]
        over(first)


def test_a_program_of_others_that_takes_packets_before_ours_is_told(kernel_pair: Pair, tmp_path: Path) -> None:
    first, second = kernel_pair
    for device, hook, source, target in (
        ("eth0", Hook.INGRESS, second, first),
        ("flannel0", Hook.EGRESS, first, second),
    ):
        put_before_ours(first, device, hook, tmp_path)
        first.ask("repair")
        words = f"bpf filter another (priority 7) on {hook.name.lower()} of {device}", "TC_ACT_UNSPEC"
        told(first, "slow-path", *words, meanwhile=partial(send, source, target, 50))
        first(f"tc filter del dev {device} {hook.name.lower()} prio 7")
        over(first)


def put_before_ours(node: Node, device: str, hook: Hook, directory: Path) -> None:
    """A program that lets everything through, so that no other on the hook is asked."""
    source = "#include <linux/bpf.h>\n"
    source += '__attribute__((section("tc"), used)) int another(struct __sk_buff *skb) { return 0; }\n'
    put_program(node, device, hook, directory, source, "another")


def put_program(node: Node, device: str, hook: Hook, directory: Path, source: str, name: str) -> None:
    """The program ``name`` of ``source``, before those of ours."""

    def put() -> None:
        with Object(compiled(source, directory)) as opened, TrafficControl() as tc:
            opened.load()
            link, program = tc.link(device), opened.program(name)
            assert link is not None
            tc.set_filter(link, hook, Filter(7, 1, name), program.fd)
            program.close()

    call_inside(node.namespace, put)


def test_frames_that_a_switch_tags_with_a_priority_are_carried_and_told(kernel_pair: Pair, tmp_path: Path) -> None:
    """VID 0 is no VLAN: the stack takes the tag away behind our program, and the worker carries what was in it."""
    first, second = kernel_pair
    put_program(second, "eth0", Hook.EGRESS, tmp_path, TAG, "tag")
    assert lost(ping(first, second)) == 0
    told(first, "slow-path", "without meeting our program", "VID 0", "tcpdump -e vlan 0",
         meanwhile=lambda: send(second, first, 50))  # fmt: skip
    second("tc filter del dev eth0 egress prio 7")
    over(first)


@pytest.mark.parametrize(
    ("tag", "arrives"),
    [("8100a000", True), ("88a8a000", True), ("81000005", False)],
    ids=["a priority", "a priority of a provider's", "a VLAN"],
)
def test_a_tag_of_a_vlan_is_the_vlans_and_a_priority_nobodys(kernel_pair: Pair, tag: str, arrives: bool) -> None:
    """Frames as a wire has them, with the tag in them, from a raw socket; this machine needs no VLANs for that.

    tc asks filters by the tag's protocol (``tcf_classify``), and ours are for IPv4: what has one takes the slow path.
    """
    first, second = kernel_pair
    link = bytes.fromhex(json.loads(first("ip -j link show eth0"))[0]["address"].replace(":", ""))
    inner = ipv4(second.pod_address, first.pod_address)
    datagram = struct.pack("!HHHH", 50000, 8285, 8 + len(inner), 0) + inner
    packet = ipv4(second.address, first.address, protocol=17, payload=datagram)
    frame = link + bytes.fromhex(f"020000000001{tag}0800") + packet

    def inject() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
            wire.bind((f"n{first.number}", 0))
            for each in (frame, link + bytes.fromhex("0200000000010800") + packet):
                for _ in range(20):
                    wire.send(each)

    before = first.counters()
    call_inside(first.switch, inject)
    until(lambda: gained(first, before, "rx_packets")[0] >= 20 + 20 * arrives, "what is no VLAN's, tagged and not")
    assert gained(first, before, "rx_packets", "slow_rx_packets") == [20 + 20 * arrives, 20 * arrives]


def joining(first: Node, second: Node) -> None:
    """The first node's interface joins the tunnel's datagrams before any program sees them: one skb, many datagrams.

    Only those with a checksum are joined (``udp_gro_receive``), which a socket's have; rx-udp-gro-forwarding is the
    same but where some socket of this machine has UDP_GRO. Before Linux 5.13 a veth has no GRO without an XDP program.
    """
    if linux_version() < (5, 13):
        with TemporaryDirectory() as directory, Object(compiled(GUARD, Path(directory))) as opened:
            opened.load()
            guard = opened.program("guard")
            set_xdp(first, guard.fd, XDP_FLAGS_DRV_MODE)
            guard.close()
    first("ethtool -K eth0 gro on rx-gro-list on")
    run("ethtool -K n1 tso off gso off", first.switch)  # or veth takes no detour by way of GRO
    second("ethtool -K eth0 tx-udp-segmentation off")  # single datagrams, many at a time
    first.ask("repair")
    assert lost(ping(first, second)) == 0


def test_datagrams_that_the_interface_joins_before_our_program_are_cut_again() -> None:
    with running(("kernel", "userspace")) as (first, second):
        joining(first, second)
        before, before_sent = first.counters(), second.counters()
        send(second, first, 500, 1200, 100)

        def all_came() -> bool:
            """With one processor the sender's worker has no turn meanwhile, and its queue no room for all."""
            sent, dropped = gained(second, before_sent, "tx_packets", "drop_tun_queue")
            return sent + dropped >= 6000 and gained(first, before, "rx_packets")[0] >= sent > 1000

        until(all_came, "all of them")
        assert gained(first, before, "slow_rx_packets", "slow_rx_train") == [0, 0]
        assert gained(first, before, "rx_cut")[0] > 0


def test_datagrams_that_the_interface_joins_are_told_where_nothing_can_cut_them() -> None:
    with nodes(2) as made:
        first, second = made
        first("ip link add flannel0-grx type bridge")  # the pair's name is taken
        start_all(made, ("kernel", "userspace"))
        joining(first, second)
        told(first, "slow-path", "eth0 had joined", "ethtool -K eth0 rx-udp-gro-forwarding off",
             meanwhile=lambda: send(second, first, 500, 1200, 100))  # fmt: skip


def test_status_says_which_way_trains_take() -> None:
    """Through the GRO pair, whose device cuts them; where something else has its name, through the worker."""
    with nodes(2) as made:
        first, second = made
        first("ip link add flannel0-gtx type bridge")
        start_all(made)
        for node in made:
            ping(node, made[2 - node.number], "-c 3 -i 0.1")
        assert "trains of UDP take the slow path" in first.status()["detail"]
        assert "flannel0-gtx" in first.status()["detail"].partition("no GRO stage")[2]
        assert "trains of UDP are cut by flannel0-gtx" in second.status()["detail"]
        for node, other, slowly in ((first, second, True), (second, first, False)):
            before, received = node.counters(), arrived(other)
            send(node, other, 50, 1000, 100)
            until(lambda other=other, received=received: arrived(other) == received + 500, "all have come")  # type: ignore[misc]
            (through_worker,) = gained(node, before, "slow_tx_packets")
            assert through_worker == 500 if slowly else through_worker < 50


def arrived(node: Node) -> int:
    """Datagrams that came to its pod, where nobody listens."""
    lines = [line.split() for line in run("cat /proc/net/snmp", node.pod).splitlines() if line.startswith("Udp:")]
    return int(lines[1][lines[0].index("NoPorts")])


def test_ip_options_are_told_as_what_the_slow_path_is_for(kernel_pair: Pair) -> None:
    first, second = kernel_pair
    send(second, first, 50, options="94040000")
    until(lambda: first.counters()["slow_rx_options"] == 50, "all have come")
    until(lambda: "50 IP options" in first.status()["slow_path"], "told")
    time.sleep(1.2)
    assert [each for each in first.status()["problems"] if "IP options" in each] == [], "it is what it is for"


def test_a_device_that_does_not_forward_is_told() -> None:
    """The programs ask the kernel for a route as what comes in by the device has it, and it gives none there."""
    with running(("kernel", "kernel")) as (first, _):
        first("sysctl -qw net.ipv4.conf.flannel0.forwarding=0")
        first.ask("repair")
        assert shown(first.status(), "kernel-path", "IP forwarding is off")
        first("sysctl -qw net.ipv4.conf.flannel0.forwarding=1")
        first.ask("repair")
        assert not shown(first.status(), "kernel-path")


def test_ipsec_between_nodes_that_is_passed_by_is_told() -> None:
    """With no key to encrypt by, a packet that meets the policy is not sent at all; on the kernel path it arrives."""
    for kind, arrives in (("kernel", True), ("userspace", False)):
        with running((kind, kind)) as (first, second):
            ends = f"src {first.address}/32 dst {second.address}/32"
            template = f"tmpl src {first.address} dst {second.address} proto esp mode transport"
            first(f"ip xfrm policy add {ends} proto udp dport 8285 dir out {template}")
            first(f"ip xfrm policy add {ends} proto tcp dir out {template}")
            first.ask("repair")
            assert (lost(ping(first, second, "-c 2 -i 0.1 -W 1")) == 0) == arrives
            assert shown(first.status(), "ipsec", second.address, "--datapath userspace") is arrives


def test_a_firewall_that_is_not_asked_is_told_and_the_userspace_datapath_asks_it() -> None:
    for kind, arrives in (("kernel", True), ("userspace", False)):
        with running((kind, kind)) as (first, second):
            first("iptables -A INPUT -p udp --dport 8285 -j DROP")
            assert (lost(ping(first, second, "-c 2 -i 0.1 -W 1")) == 0) == arrives
            assert any("INPUT" in note for note in first.status()["notes"]) == arrives


def test_forwarding_that_is_off_is_told(kernel_pair: Pair) -> None:
    first, _second = kernel_pair
    first("sysctl -qw net.ipv4.ip_forward=0")
    first.ask("repair")
    (problem,) = first.status()["problems"]
    assert problem.startswith("kernel-path: IP forwarding is off")
    assert "set net.ipv4.ip_forward=1" in problem
    first("sysctl -qw net.ipv4.ip_forward=1")
    first.ask("repair")
    over(first)


@pytest.mark.parametrize("kind", ["kernel", "userspace"])
def test_packets_for_which_the_tun_devices_queue_has_no_room_are_told(kind: str) -> None:
    """The reader is stopped: on the kernel path it is the slow path's, and gets what has no peer."""
    with running((kind, kind)) as (first, second):
        assert first.process is not None
        (worker,) = first("pgrep -f overlay.datapath.userspace.worker.*" + str(first.process.pid)).split()

        def flood() -> None:
            first(f"kill -STOP {worker}")
            try:
                send(first, second if kind == "userspace" else stranger(first), 12_000)
            finally:
                first(f"kill -CONT {worker}")

        told(first, "drops", "the TUN device's queue had no room", "processor time", meanwhile=flood)


def worker_of(node: Node) -> int:
    assert node.process is not None
    return int(node("pgrep -f overlay.datapath.userspace.worker.*" + str(node.process.pid)))


def test_datagrams_that_come_while_the_socket_is_full_are_told() -> None:
    """The worker that they are for is stopped, so it can tell nothing itself."""
    with running(("userspace", "userspace")) as (first, second):
        worker = worker_of(second)

        def flood() -> None:
            second(f"kill -STOP {worker}")
            try:
                send(first, second, 12_000, 1400)
            finally:
                second(f"kill -CONT {worker}")

        told(second, "drops", "the UDP socket's buffer was full", "processor time", meanwhile=flood)


@pytest.mark.parametrize("stopped", [None, 0, 1], ids=["a flood", "the sender's worker stopped", "the receiver's"])
def test_each_packet_that_a_slow_worker_loses_is_in_a_counter(plain_pair: Pair, stopped: int | None) -> None:
    """Without offloads, where each packet is one for the kernel's counters as well."""
    number, lost_out, came_in = 20_000, ("drop_tun_queue", "drop_tx_send"), ("drop_rx_socket", "rx_packets")
    first, second = made = plain_pair
    links = [(first, None), (second, None), (first, first.switch)]
    before, dropped_before = [node.counters() for node in made], dropped_by(links)
    workers = [worker_of(node) for node in made]
    if stopped is not None:
        made[stopped](f"kill -STOP {workers[stopped]}")
    try:
        send(first, second, number, 1400)
    finally:
        if stopped is not None:
            made[stopped](f"kill -CONT {workers[stopped]}")
    accounts: list[dict[str, int]] = []

    def all_accounted() -> bool:
        account = dict(zip(lost_out, gained(first, before[0], *lost_out), strict=True))
        account |= dict(zip(came_in, gained(second, before[1], *came_in), strict=True))
        account["links"] = dropped_by(links) - dropped_before
        accounts[:] = [account]
        return sum(account.values()) == number

    try:
        until(all_accounted, f"{number} packets accounted for")
    except AssertionError as failure:
        raise AssertionError(accounts) from failure
    if stopped is not None:
        assert accounts[0]["drop_rx_socket" if stopped else "drop_tun_queue"] > 1000


def dropped_by(places: list[tuple[Node, str | None]]) -> int:
    """Packets that the links of the underlay dropped: they are not the datapath's to tell."""
    total = 0
    for node, namespace in places:
        for line in run("cat /proc/net/dev", namespace or node.namespace).splitlines()[2:]:
            name, _, numbers = line.partition(":")
            if name.strip() == "eth0" or namespace:
                total += int(numbers.split()[3]) + int(numbers.split()[11])
    return total


def stranger(node: Node) -> Node:
    """Somebody in a subnet that no peer has."""
    return Node(77, "", "", node.switch)


def test_packets_refused_on_their_way_to_the_pods_are_told() -> None:
    """By the interface that has the route to our subnet; in place of a bridge that cannot cut a train, one that nobody
    reads from."""
    with running() as (first, second):
        first("ip address flush dev cni0")
        first("ip tuntap add pods mode tun")
        first("ip link set pods up")
        first(f"ip route add {first.subnet} dev pods")
        told(first, "drops", "the interface that has our subnet", meanwhile=lambda: send(second, first, 50))


def test_packets_for_which_the_gro_pair_has_no_room_are_told() -> None:
    """Its far end is down in place of full, behind the back of an agent that would set it up at once."""
    with running() as (first, second):
        assert first.process is not None

        def refuse() -> None:
            assert first.process is not None
            first.process.send_signal(signal.SIGSTOP)
            first("ip link set flannel0-grx down")
            subprocess.run([*entering(second.pod), sys.executable, "-c", CALLER, first.pod_address], check=True)
            first("ip link set flannel0-grx up")
            first.process.send_signal(signal.SIGCONT)

        told(first, "drops", "the GRO pair", meanwhile=refuse)


def test_what_the_gro_pair_loses_is_counted_once() -> None:
    """A train of more segments than a backlog holds (netdev_max_backlog), on its way to be finished: the end
    that sends counts what is lost, and so does the end that does not get it."""
    segments, size = 3750, 8
    with running((UNPROVEN, "userspace")) as (first, second):
        assert lost(ping(first, second)) == 0
        frame = train(first, second, segments * size, size)

        def inject() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
                wire.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
                wire.bind(("eth0", 0))
                wire.send(frame)

        before, received = first.counters(), second.counters()
        call_inside(first.pod, inject)
        accounts: list[tuple[int, int]] = []

        def all_accounted() -> bool:
            (dropped,), (came,) = gained(first, before, "drop_gro_pair"), gained(second, received, "rx_packets")
            accounts[:] = [(dropped, came)]
            return dropped + came == segments

        try:
            until(all_accounted, f"{segments} packets accounted for")
        except AssertionError as failure:
            raise AssertionError(accounts) from failure
        assert accounts[0][0] > 1000


def train(source: Node, target: Node, length: int, size: int) -> bytes:
    """A frame from pod to pod behind a virtio header: TCP that the kernel is to cut into segments of ``size`` bytes."""
    links = [json.loads(run(f"ip -j link show {name}", of))[0]["address"] for name, of in
             (("cni0", source.namespace), ("eth0", source.pod))]  # fmt: skip
    ends = socket.inet_aton(source.pod_address) + socket.inet_aton(target.pod_address)
    partial_sum = 0xFFFF - plain_checksum(ends + struct.pack("!HH", socket.IPPROTO_TCP, 20 + length))
    tcp = struct.pack("!HHIIBBHHH", 4000, 4001, 1, 1, 0x50, 0x10, 100, partial_sum, 0) + bytes(length)
    packet = ipv4(source.pod_address, target.pod_address, protocol=socket.IPPROTO_TCP, ttl=64, payload=tcp)
    unfinished = virtio.CODEC.pack(virtio.NEEDS_CSUM, virtio.GSO_TCPV4, 14 + 40, size, 14 + 20, 16)
    return unfinished + bytes.fromhex("".join(links).replace(":", "")) + b"\x08\x00" + packet


def test_packets_for_which_the_device_behind_fou_has_no_room_are_told() -> None:
    """In its place a device that nobody reads from: what counts is the name, and whatever the kernel drops there."""
    with running() as (first, second):
        first("ip tuntap add flannel0-fou mode tun")
        first("ip link set flannel0-fou up")
        first("ip route add 192.0.2.9 dev flannel0-fou")
        words = "import socket; s = socket.socket(2, 2); [s.sendto(b'x', ('192.0.2.9', 9)) for _ in range(200)]"

        def lose() -> None:
            subprocess.run([*entering(first.namespace), sys.executable, "-c", words], check=True)

        told(first, "drops", "the device behind FOU", meanwhile=lose)
        assert second.status()["running"]


def test_a_learnt_path_mtu_is_told() -> None:
    """Beside test_a_router_with_a_smaller_mtu: what the kernel keeps in its routes, and what a worker keeps."""
    for kind in ("kernel", "userspace"):
        with running((kind, kind)) as (first, second):
            first(f"ip route add {second.address} via 172.31.0.254")
            run("ip address add 172.31.0.254/24 dev br0", first.switch)
            run("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0", first.switch)
            run(f"ip route add {second.address} dev br0 mtu lock 1300", first.switch)
            ping(first, second, "-c 1 -W 1 -M do -s 1400")
            until(lambda: first.status()["path_mtus"] == {second.address: 1272}, f"{kind}: told")
