"""The kernel path with FOU: what the underlay has joined is unwrapped by the kernel's own socket.

pod1 ── node1 ── switch ── node2 ── pod2      GRO on where the switch leads to the nodes, packets cross at MTU size
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay.datapath.kernel.probe import Answer, probe_fou
from overlay.linux.libbpf import Object
from tests.support.programs import GUARD, compiled
from tests.support.tunnels import (
    CARDS,
    ROOT,
    XDP_FLAGS_DRV_MODE,
    Node,
    attached,
    entering,
    filters,
    gained,
    linux_version,
    lost,
    nodes,
    peers_of,
    ping,
    proves,
    run,
    set_xdp,
    start_all,
    until,
)

pytestmark = pytest.mark.root


def has_modules() -> bool:
    """Whether this kernel can have FOU and ipip; it is tried where nothing is left of it."""
    script = "modprobe -q fou; ip link add x1 type ipip external && ip fou add port 8285 ipproto 4"
    return subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module", autouse=True)
def modules() -> None:
    if not has_modules():
        pytest.skip("this kernel has no fou, or no ipip")


Pair = tuple[Node, ...]
KINDS = ("kernel-fou", "kernel-fou")
DEVICE = "flannel0-fou"
MTU = 1472
"""Of flannel0."""
DROP = "iptables -w -A INPUT -p udp --dport 8285 -j DROP"


def like_a_wire(made: Pair) -> None:
    """Packets of MTU size between the nodes, and GRO where they arrive, as cards have it."""
    for node in made:
        node("ethtool -K eth0 tso off gso off gro on")
        if not CARDS:
            run(f"ethtool -K n{node.number} tso off gso off", node.switch)
            if linux_version() < (5, 13):
                give_gro(node)


def give_gro(node: Node) -> None:
    """Before Linux 5.13 an end of a veth pair has GRO only below an XDP program."""
    with tempfile.TemporaryDirectory() as folder, Object(compiled(GUARD, Path(folder))) as opened:
        opened.load()
        guard = opened.program("guard")
        set_xdp(node, guard.fd, XDP_FLAGS_DRV_MODE)
        guard.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Pair]:
    with nodes(2) as made:
        like_a_wire(made)
        start_all(made, KINDS)
        yield made


@pytest.fixture
def pair(site: Pair) -> Pair:
    """Both with FOU in use, whatever the test before did to them."""
    for node in site:
        node("iptables -w -F INPUT")
        node("ip link set tunl0 down", check=False)
        if node.process is None or not port_is_fous(node):
            node.stop()
            node.start("kernel-fou", peers=peers_of(node, site))
            until(lambda node=node: attached(node) and has_fou(node), "programs, and FOU")  # type: ignore[misc]
    return site


def transfer(source: Node, target: Node, megabytes: int = 4) -> None:
    """TCP from pod to pod, all of it."""
    receive = "import socket; s=socket.create_server(('',5300)); print('on', flush=True); c=s.accept()[0]; n=0\n"
    receive += "while d:=c.recv(1<<20): n+=len(d)\nprint(n)"
    send = f"import socket; c=socket.create_connection(('{target.pod_address}',5300), 20); c.settimeout(60)\n"
    send += f"for _ in range({megabytes}): c.sendall(bytes(1<<20))\n"
    command = [*entering(target.pod), sys.executable, "-c", receive]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        try:
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == "on\n"
            subprocess.run([*entering(source.pod), sys.executable, "-c", send], check=True, timeout=120)
            assert receiver.stdout.readline() == f"{megabytes << 20}\n"
        finally:
            receiver.kill()


def mean_packet(source: Node, target: Node, megabytes: int = 4) -> float:
    """Bytes of a packet that the target's pod gets, of a transfer to it."""

    def received() -> tuple[int, int]:
        (link,) = json.loads(run("ip -j -s link show eth0", target.pod))
        return link["stats64"]["rx"]["bytes"], link["stats64"]["rx"]["packets"]

    before = received()
    transfer(source, target, megabytes)
    octets, packets = (after - earlier for after, earlier in zip(received(), before, strict=True))
    return octets / packets


def send_damaged(source: Node, target: Node, count: int) -> None:
    """Segments of TCP in datagrams of a node's own, whose inner IP headers' checksums are wrong."""
    send = (
        "import socket, sys\nfrom tests.support.admission import ipv4\n"
        "s = socket.socket(type=socket.SOCK_DGRAM); packet = ipv4(*sys.argv[2:4], protocol=6, checksum=1)\n"
        "for _ in range(int(sys.argv[4])): s.sendto(packet, (sys.argv[1], 8285))\n"
    )
    words = [sys.executable, "-c", send, target.address, source.pod_address, target.pod_address, str(count)]
    subprocess.run([*entering(source.namespace), *words], cwd=ROOT, check=True, timeout=60)


def port_is_fous(node: Node) -> bool:
    return "port 8285 ipproto 4" in node("ip fou show")


def has_fou(node: Node) -> bool:
    """All of it, or nothing of it: port, device, what the status says, and the slow path's port; waits for either."""

    def look() -> set[bool]:
        return {
            port_is_fous(node),
            bool(node(f"ip link show {DEVICE}", check=False)),
            f"unwrapped by FOU ({DEVICE})" in node.status()["detail"],
            f"{node.address}:8285 " not in node("ss -Hlun"),
        }

    found: set[bool] = set()

    def agree() -> bool:
        found.clear()
        found.update(look())
        return len(found) == 1

    until(agree, "all or nothing of FOU")
    return found == {True}  # not another look: meanwhile some of it may have gone


@contextmanager
def pinging(source: Node, target: Node) -> Iterator[Callable[[], int]]:
    """Pings meanwhile; gives what says, at the end, how many of them were lost."""
    words = [*entering(source.pod), "ping", "-q", "-i", "0.05", target.pod_address]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        printed = ""

        def ended() -> int:
            nonlocal printed
            time.sleep(0.5)  # the last answer
            process.send_signal(2)
            printed = printed or process.communicate(timeout=30)[0]
            return lost(printed)

        try:
            yield ended
        finally:
            process.kill()


def test_probe_says_yes() -> None:
    """Also where the module is not loaded: it has no alias by which the kernel would do that itself."""
    subprocess.run(["modprobe", "-r", "fou"], check=False, capture_output=True)
    result = probe_fou()
    assert (result.answer, result.reason) == (Answer.YES, "a packet went through")


def test_trains_go_by_fou_and_single_packets_do_not(pair: Pair) -> None:
    first, second = pair
    assert all(map(has_fou, pair))
    proves(first, second)
    before = second.counters()
    transfer(first, second)
    names = ("rx_packets", "rx_fou_left", "rx_fou", "rx_fou_refused", "drop_malformed", "drop_inner_source")
    packets, left, came, *nothing = gained(second, before, *names)
    assert came == left > 0.8 * packets, (packets, left, came)
    assert nothing == [0, 0, 0]
    before = second.counters()
    assert lost(ping(first, second, "-c 20 -i 0.01")) == 0
    assert gained(second, before, "rx_packets", "rx_fou") == [20, 0]


def test_a_pod_gets_tcp_joined_whoever_joins_it(pair: Pair) -> None:
    """Of what comes by veth from another node the GRO pair joins nothing before Linux 6.1, and what it joins there the
    kernel cuts again. What is counted decides whether FOU's device joins it, or takes it joined: by IP in IP, which a
    firewall may take though it lets the tunnel's port through."""
    first, second = pair
    second("ethtool -K eth0 gro off")
    try:
        before = second.counters()

        def unwrapped(what: str) -> bool:
            return f"{what} unwrapped by FOU ({DEVICE})" in second.status()["detail"]

        def in_ip() -> bool:
            said = ("all TCP, as IP in IP, is", "trains of TCP, also those that the GRO stage has joined, are")
            return any(map(unwrapped, said))

        def joined() -> bool:
            """At the pod, and long enough for it to be known what the pair is good for."""
            large = mean_packet(first, second, 64) > 4 * MTU
            sampled, marked = gained(second, before, "rx_sampled", "rx_sampled_marked")
            return large and (in_ip() or sampled > marked)

        for _ in range(20):
            if joined():
                break
        else:
            raise AssertionError(f"packets of {mean_packet(first, second)} bytes: {second.status()}")
        before = second.counters()
        send_damaged(first, second, 3)
        until(lambda: gained(second, before, "drop_checksum") == [3], "they are counted, wherever they come out")
        assert gained(second, before, "rx_packets") == [0]
        if in_ip():
            before = second.counters()
            transfer(first, second)
            packets, left, came, refused, by_pair = gained(
                second, before, "rx_packets", "rx_fou_left", "rx_fou", "rx_fou_refused", "rx_joined"
            )
            assert came == left > 0 == refused, (left, came, refused)
            assert by_pair < packets / 10, "by FOU, not cut again"
            assert packets < (4 << 20) / (MTU - 100) * 1.2, "each is counted once"
            second("iptables -w -A INPUT -p ipencap -j DROP")

            def given_all() -> bool:
                transfer(first, second, 16)
                return unwrapped("all TCP is")

            until(given_all, "all TCP goes by FOU's socket instead")
            assert mean_packet(first, second, 16) > 4 * MTU, "at once"
            before = second.counters()
            transfer(first, second)
            packets, left, came = gained(second, before, "rx_packets", "rx_fou_left", "rx_fou")
            assert came == left > 0.9 * packets, (packets, left, came)
            # And back, where the underlay joins it by now.
            second("ethtool -K eth0 gro on")
            for _ in range(3):
                transfer(first, second, 64)
            assert (gained(second, before, "rx_fou_trains") == [0]) == unwrapped("all TCP is")
    finally:
        second("iptables -w -F INPUT")
        second("ethtool -K eth0 gro on")
        second.stop()


def test_what_the_slow_path_would_get_goes_by_fou(pair: Pair) -> None:
    """IP options, outer fragments, TTLs that end; each is judged, and the IP stack behind flannel0 answers."""
    first, second = pair
    before = second.counters()
    printed = first.in_pod(f"ping -c 1 -R -t 64 {second.pod_address}")
    assert "ttl=60" in printed, "two hops fewer each way, as without FOU"
    assert gained(second, before, "rx_fou", "slow_rx_packets") == [1, 0]
    printed = first.in_pod(f"ping -c 1 -W 2 -t 3 {second.pod_address}", check=False)
    assert f"From 10.0.{second.number}.0" in printed
    assert "Time to live exceeded" in printed


def test_nothing_enters_as_ip_in_ip(pair: Pair) -> None:
    """It comes out of the same device, and is dropped and counted: not even a peer sends IP in IP."""
    first, second = pair
    send = (
        "import socket, sys\nfrom tests.support.admission import ipv4\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IPIP); s.bind((sys.argv[1], 0))\n"
        "for _ in range(3): s.sendto(ipv4(*sys.argv[2:4]), (sys.argv[4], 0))\n"
    )
    run("ip address replace 172.31.0.66/24 dev br0", first.switch)
    for namespace, outer, inner in (
        (first.switch, "172.31.0.66", first.pod_address),
        (first.namespace, first.address, "10.0.9.9"),
        (first.namespace, first.address, second.pod_address),
        (first.namespace, first.address, first.pod_address),
    ):
        before = second.counters()
        words = [sys.executable, "-c", send, outer, inner, second.pod_address, second.address]
        subprocess.run([*entering(namespace), *words], cwd=ROOT, check=True, timeout=60)
        until(lambda: gained(second, before, "drop_outer_source") == [3], f"{outer}, {inner}")  # noqa: B023
        assert gained(second, before, "rx_packets") == [0]


@pytest.mark.parametrize(
    ("sender", "hook", "action"),
    [(False, "ingress", "action ok"), (True, "egress", "action vlan push id 0 priority 3")],
    ids=["a filter is before ours", "a priority tag"],
)
def test_what_passes_by_our_program_comes_by_the_socket_soon(pair: Pair, sender: bool, hook: str, action: str) -> None:
    """FOU would unwrap it, and lets nothing in that was not judged."""
    first, second = pair
    node = first if sender else second
    node(f"tc filter add dev eth0 {hook} pref 1 matchall {action}")
    try:
        before = second.counters()
        until(lambda: lost(ping(first, second, "-c 1 -W 1")) == 0, "packets come again")
        assert gained(second, before, "rx_fou_unseen") > [0]
        why = "no FOU (packets from peers came to it without having met our program"
        until(lambda: why in second.status()["detail"], "and it is said")
        transfer(first, second)
    finally:
        node(f"tc filter del dev eth0 {hook} pref 1")


def test_a_process_here_sends_nothing_into_a_pod(pair: Pair) -> None:
    """A connected socket gives its packets a hash, as a pass is one. What that costs is FOU."""
    first, second = pair
    send = (
        "import socket, sys, time\nfrom tests.support.admission import ipv4\n"
        "for _ in range(8):\n"
        "    s = socket.socket(type=socket.SOCK_DGRAM); s.connect((sys.argv[1], 8285)); s.send(ipv4(*sys.argv[2:]))\n"
        "    time.sleep(0.1)\n"
    )
    before = second.counters()
    words = [sys.executable, "-c", send, second.address, first.pod_address, second.pod_address]
    subprocess.run([*entering(second.pod), *words], cwd=ROOT, check=True, timeout=60)
    until(lambda: "no FOU (packets from peers" in second.status()["detail"], "FOU is taken away")
    unseen, dropped, entered = gained(second, before, "rx_fou_unseen", "drop_outer_source", "rx_packets")
    assert dropped >= unseen > 1, (dropped, unseen)
    assert entered == 0


def test_fragments_are_put_together_and_judged(pair: Pair) -> None:
    """By FOU's side of the stack nobody knows who sent them; the program on the underlay has seen the first."""
    first, second = pair
    receive = "import socket; s=socket.socket(type=socket.SOCK_DGRAM); s.bind(('',7777)); s.settimeout(20)\n"
    receive += "print('on', flush=True); print(len(s.recv(1<<16)))"
    send = (
        "import socket, sys\nfrom tests.support.admission import ipv4\n"
        "s = socket.socket(type=socket.SOCK_DGRAM); s.setsockopt(0, 10, 0)\n"  # IP_MTU_DISCOVER: no
        "data = bytes.fromhex('1e611e6105800000') + bytes(1400)\n"
        "s.sendto(ipv4(*sys.argv[1:3], payload=data, protocol=17), (sys.argv[3], 8285))\n"
    )

    def sent(source: str) -> None:
        words = [sys.executable, "-c", send, source, second.pod_address, second.address]
        subprocess.run([*entering(first.namespace), *words], cwd=ROOT, check=True, timeout=60)

    first(f"ip route add {second.address}/32 dev eth0 mtu 1000")
    before = second.counters()
    with subprocess.Popen(
        [*entering(second.pod), sys.executable, "-c", receive], stdout=subprocess.PIPE, text=True
    ) as receiver:
        try:
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == "on\n"
            sent("10.0.9.9")
            sent(first.pod_address)
            assert receiver.stdout.readline() == "1400\n"
        finally:
            receiver.kill()
            first(f"ip route del {second.address}/32")
    names = ("drop_inner_source", "drop_outer_source", "rx_fou")
    assert gained(second, before, *names) == [1, 0, 1]


def test_an_earlier_versions_device_is_replaced(pair: Pair) -> None:
    first, second = pair
    second.kill()
    second(f"ip link del {DEVICE}")
    second(f"ip link add {DEVICE} type ipip external")
    second(f"ip link set {DEVICE} up")
    second.start("kernel-fou", peers=peers_of(second, pair))
    until(lambda: attached(second), "programs")
    assert has_fou(second)
    assert "external" not in second(f"ip -d link show {DEVICE}")
    proves(first, second)
    before = second.counters()
    transfer(first, second, 1)
    left, came = gained(second, before, "rx_fou_left", "rx_fou")
    assert came == left > 0


def test_without_the_program_nothing_comes_out_of_the_device(pair: Pair) -> None:
    """Nor is anything forwarded from it: no route leads back there, and it has rp_filter."""
    first, second = pair
    assert second(f"sysctl -n net.ipv4.conf.{DEVICE}.rp_filter").strip() == "1"
    assert "overlay_fou#" in filters(second, DEVICE, "ingress")
    second(f"tc qdisc del dev {DEVICE} clsact")
    until(lambda: "overlay_fou#" in filters(second, DEVICE, "ingress"), "it is put back")
    transfer(first, second, 1)


def test_connection_tracking_is_no_obstacle(pair: Pair) -> None:
    first, second = pair
    second("iptables -w -A INPUT -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT")
    proves(first, second)
    before = second.counters()
    transfer(first, second)
    left, came = gained(second, before, "rx_fou_left", "rx_fou")
    assert came == left > 0


def test_fou_is_taken_away_where_the_firewall_takes_what_is_left_to_it(pair: Pair) -> None:
    first, second = pair
    proves(first, second)
    transfer(first, second, 1)
    assert has_fou(second)
    second(DROP)
    with pinging(first, second) as ended:
        # The programs find another way for the peer at once; that it was no chance, the next trains say.
        def taken_away() -> bool:
            transfer(first, second, 1)
            return not has_fou(second)

        until(taken_away, "FOU is taken away")
        assert ended() == 0
    assert "no FOU (what was left to it did not come out" in second.status()["detail"]
    assert has_fou(first)
    before = second.counters()
    transfer(first, second, 1)
    assert gained(second, before, "rx_fou_left", "rx_fou_refused") == [0, 0]


def test_without_an_agent_trains_find_the_other_way(pair: Pair) -> None:
    """FOU outlives the agent, and so do the programs, which notice by themselves that nothing comes out of it."""
    first, second = pair
    proves(first, second)
    transfer(first, second, 1)
    second.kill()
    with pinging(first, second) as ended:
        transfer(first, second, 1)
        second(DROP)
        transfer(first, second, 1)
        assert ended() == 0
    assert port_is_fous(second)
    second("iptables -w -F INPUT")
    second.start("kernel-fou", peers=peers_of(second, pair))
    until(lambda: attached(second), "the next agent's programs")
    assert has_fou(second), "adopted"


def test_to_an_earlier_version_and_back_under_traffic(pair: Pair) -> None:
    """One that is ended leaves neither port nor device, or the earlier version could not open its socket."""
    first, second = pair
    with pinging(first, second) as ended:
        transfer(first, second, 1)
        for kind in ("kernel", "kernel-fou", "kernel"):
            second.stop()
            assert not port_is_fous(second)
            assert not second(f"ip link show {DEVICE}", check=False)
            second.start(kind, peers=peers_of(second, pair))
            transfer(first, second, 1)
            assert has_fou(second) == (kind == "kernel-fou")
        assert ended() == 0


def test_killed_and_forbidden_by_the_next(pair: Pair) -> None:
    _, second = pair
    second.kill()
    second.start("kernel", peers=peers_of(second, pair))
    assert not has_fou(second)
    assert "no FOU (not asked for)" in second.status()["detail"]


@pytest.mark.parametrize(
    ("commands", "name"),
    [
        (("ip link set tunl0 up",), "tunl0 is up"),
        (("ip link add theirs type ipip external",), "theirs is external"),
        (("ip link add theirs type ipip local 172.31.0.1", "ip link set theirs up"), "theirs is up"),
        (("ip link add theirs type ipip local 172.31.0.1",), "theirs is for 172.31.0.1"),
    ],
)
def test_other_users_of_ip_in_ip_are_respected(commands: tuple[str, ...], name: str) -> None:
    with nodes(1) as (node,):
        subprocess.run(["modprobe", "-q", "ipip"], check=True)
        for command in commands:
            node(command)
        before = node("ip -d -o link show type ipip")
        node.start("kernel-fou", peers={"10.0.9.0/24": "172.31.0.9"})
        assert not has_fou(node)
        said = f"no FOU (FOU: somebody else unwraps IP in IP here: {name}"
        until(lambda: said in node.status()["detail"], said)
        assert node("ip -d -o link show type ipip") == before


def test_fou_gives_way_to_who_comes_later(pair: Pair) -> None:
    first, second = pair
    assert has_fou(second)
    second("ip link set tunl0 up")
    until(lambda: not has_fou(second), "FOU is taken away")
    transfer(first, second, 1)


def test_others_ipip_devices_work_beside_it(pair: Pair) -> None:
    first, second = pair
    for node, other in ((first, second), (second, first)):
        node(f"ip link add tunnel type ipip local {node.address} remote {other.address}")
        node(f"ip address add 10.77.0.{node.number}/24 dev tunnel")
        node("ip link set tunnel up")
    try:
        assert lost(first("ping -c 3 -i 0.05 -W 2 -q 10.77.0.2")) == 0
        assert has_fou(second)
    finally:
        for node in pair:
            node("ip link del tunnel")


def test_cleanup_leaves_neither_port_nor_device(pair: Pair) -> None:
    for node in pair:
        node.kill()
        assert node.cleanup() > 0
        assert not port_is_fous(node)
        assert DEVICE not in node("ip -o link show type ipip")
        assert node.cleanup() == 0


def test_another_port_in_the_config(pair: Pair) -> None:
    first, second = pair
    for node in pair:
        node.configure(port=8300)
    transfer(first, second, 1)
    shown = second("ip fou show")
    assert "port 8300" in shown
    assert "port 8285" not in shown
    for node in pair:
        node.configure()
    transfer(first, second, 1)
    assert has_fou(second)
