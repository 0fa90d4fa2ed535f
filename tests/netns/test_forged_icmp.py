"""Nobody who did not see our packets makes a path's MTU smaller; a router that did is believed.

pod1 ── node1 ── switch ── node2 ── pod2      the stranger is a third host on the switch, 172.31.0.66
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import stranger
from tests.support.tunnels import (
    ROOT,
    Node,
    entering,
    gained,
    iperf_server,
    linux_version,
    lost,
    nodes,
    ping,
    run,
    running,
    start_all,
    until,
)

pytestmark = pytest.mark.root

KINDS = pytest.mark.parametrize("kind", ["kernel", "userspace", "userspace-4"])


@pytest.fixture
def pair(kind: str) -> Iterator[tuple[Node, ...]]:
    with running((kind, kind)) as made:
        run("ip address add 172.31.0.66/24 dev br0", made[0].switch)
        yield made


def test_the_stranger_says_what_it_quotes() -> None:
    """Its messages, which are made in haste, to those that are made with care."""
    ends = "172.31.0.1", "172.31.0.2"
    said = list(stranger.messages(*ends, 600, ("10.0.1.2", "10.0.2.2")))
    for port, message in list(zip(stranger.PORTS, said, strict=False))[::97]:
        assert message == stranger.too_big(600, stranger.quoted(*ends, port, b""))
    assert len(set(said)) == len(stranger.PORTS) + 8


def forges(first: Node, second: Node, mtu: int, sender: str = "172.31.0.66") -> None:
    """All that a stranger can guess of what ``first`` sends to ``second``: every port, and what may be inside."""
    words = [sys.executable, "-m", "tests.support.stranger", first.address, second.address, str(mtu), sender]
    command = [*entering(first.switch), *words, first.pod_address, second.pod_address]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)


@KINDS
@pytest.mark.parametrize("mtu", [1400, 552, 68])
def test_a_stranger_who_guesses_is_not_believed(pair: tuple[Node, ...], mtu: int) -> None:
    first, second = pair
    assert lost(ping(first, second, "-c 2 -i 0.1")) == 0
    before = first.counters()
    forges(first, second, mtu)
    forges(first, second, mtu)  # what was asked meanwhile is guessed at, too
    full = f"-c 5 -i 0.05 -M do -s {first.mtu - 28}"
    assert lost(ping(first, second, full)) == 0
    assert first.status()["path_mtus"] == {}
    with iperf_server(second):
        first.in_pod(f"iperf3 -n 20M -c {second.pod_address}")
    counts = gained(first, before, "drop_tx_too_big", "tx_fragmented", "icmp_sent")
    assert counts == [0, 0, 0]
    assert gained(first, before, "icmp_unproven")[0] > 0, "it is told"


@pytest.mark.parametrize("kind", ["kernel"])
def test_what_the_kernel_noted_by_another_socket_does_not_slow_the_tunnel(pair: tuple[Node, ...]) -> None:
    """Any UDP socket of the node makes the kernel note a path's MTU: here one of another service.

    Before Linux 5.12 a program cannot tell the note from the interface's MTU; the slow path carries everything then.
    """
    first, second = pair
    service = subprocess.Popen(
        [*entering(first.namespace), sys.executable, "-c",
         "import socket,time; s=socket.socket(2,2); s.bind(('0.0.0.0',53)); time.sleep(600)"]
    )  # fmt: skip
    try:
        until(lambda: ":53 " in first("ss -Hlun"), "the service listens")
        assert lost(ping(first, second, "-c 2 -i 0.1")) == 0
        forges(first, second, 552)
        assert "mtu 552" in first(f"ip route get {second.address}"), "the kernel believes it"
        before = first.counters()
        assert lost(ping(first, second, f"-c 5 -i 0.05 -M do -s {first.mtu - 28}")) == 0
        with iperf_server(second):
            first.in_pod(f"iperf3 -n 20M -c {second.pod_address}")
        slow = gained(first, before, "slow_tx_too_big", "slow_tx_packets")
        if linux_version() < (5, 12):
            assert all(slow), "what does not fit the note is left to who knows better"
        else:
            assert slow == [0, 0]
    finally:
        service.kill()
        service.wait()


def behind_a_router(first: Node, second: Node) -> None:
    """The switch is a router from the first to the second as well."""
    first(f"ip route add {second.address} via 172.31.0.254")
    run("ip address add 172.31.0.254/24 dev br0", first.switch)
    run("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0", first.switch)
    run("sysctl -qw net.ipv4.conf.br0.send_redirects=0", first.switch)


def carries(first: Node, second: Node, mtu: int) -> None:
    run(f"ip route replace {second.address} dev br0 mtu lock {mtu}", first.switch)


def told(first: Node, second: Node, inner: int, size: int = 1400) -> bool:
    first.in_pod("ip route flush cache")  # the pod itself remembers
    return f"Frag needed and DF set (mtu = {inner})" in first.in_pod(
        f"ping -c 1 -W 0.3 -M do -s {size} {second.pod_address}", check=False
    )


@KINDS
def test_a_router_on_the_way_is_believed_also_while_a_stranger_forges(kind: str) -> None:
    with running((kind, kind)) as (first, second):
        behind_a_router(first, second)
        carries(first, second, 1300)
        run("ip address add 172.31.0.66/24 dev br0", first.switch)
        forges(first, second, 600)
        until(lambda: told(first, second, 1272), "the pod learns of the path's MTU")
        assert first.status()["path_mtus"] == {second.address: 1272}
        forges(first, second, 600, sender="172.31.0.254")  # in the router's name, who has just been believed
        assert first.status()["path_mtus"] == {second.address: 1272}
        assert lost(ping(first, second, "-c 3 -i 0.05 -M do -s 1244")) == 0
        first.in_pod("ip route flush cache")
        assert lost(ping(first, second, "-c 3 -i 0.1 -M dont -s 1400")) == 0, "fragments of what may be fragmented"
        carries(first, second, 1000)
        until(lambda: told(first, second, 972, 1240), "and when it gets smaller still")


@KINDS
def test_an_mtu_of_the_nodes_own_route_counts(kind: str) -> None:
    with nodes(2) as (first, second):
        first(f"ip route add {second.address} dev eth0 mtu lock 1300")
        start_all((first, second), (kind, kind))
        until(lambda: first.status()["path_mtus"] == {second.address: 1272}, "the route's is known")
        until(lambda: told(first, second, 1272), "and told")
        assert lost(ping(first, second, "-c 3 -i 0.05 -M do -s 1244")) == 0
