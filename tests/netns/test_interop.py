"""One network with a flanneld (udp backend): its leases, its bytes, both ways.

etcd 172.31.0.100 ──┐
n1   172.31.0.1   ──┼── bridge     n1: a flanneld, played by its recorded datagrams and by a plain socket
n2   172.31.0.2   ──┘              n2: our agent, with a pod at 10.0.39.2
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw

from overlay.lab.cluster import Lab
from overlay.lab.namespace import call_inside
from overlay.lab.process import poll
from overlay.lab.topology import LabSpec
from tests.netns.agents import OVERLAY

pytestmark = [pytest.mark.root, pytest.mark.etcd]

PORT = 8285
PATIENCE = 30.0

# The first ping of a capture between two flannelds (v0.20.2, udp backend): UDP payloads, as they crossed.
REQUEST = bytes.fromhex(
    "45000054e03f40003e01e7650a003a020a0027020800bc051ed100016bf1006b00000000e6f80b000000000010111213"
    "1415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637"
)
REPLY = bytes.fromhex(
    "450000541c6300003e01eb420a0027020a003a020000c4051ed100016bf1006b00000000e6f80b000000000010111213"
    "1415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637"
)

FLANNELDS_LEASE = '{"PublicIP":"172.31.0.1","PublicIPv6":null}'
OUR_SUBNET = "10.0.39.0/24"


@pytest.fixture(params=["userspace", "kernel"])
def site(lab_name: str, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Our agent on n2 with flannel's recorded subnet, and a flanneld's lease for n1."""
    with Lab.running(LabSpec(name=lab_name, nodes=2, pods=1, agents=False)) as lab:
        lab.start_etcd()
        lab.put_config()
        lab.etcd.run("etcdctl", "put", "/coreos.com/network/subnets/10.0.58.0-24", text=FLANNELDS_LEASE)
        ours = lab.nodes[1]
        ours.overlay("reserve", OUR_SUBNET, "--public-ip", str(ours.address))
        ours.start_agent(f"--datapath={request.param}")
        yield lab


@pytest.fixture
def flanneld(site: Lab) -> Iterator[socket.socket]:
    """flanneld's socket on n1: bound to the interface's address and the config's port."""

    def bound() -> socket.socket:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((str(site.nodes[0].address), PORT))
        udp.settimeout(PATIENCE)
        return udp

    with closing(call_inside(site.nodes[0].namespace, bound)) as udp:
        yield udp


def test_recorded_datagrams_are_answered_as_flanneld_answered(site: Lab, flanneld: socket.socket) -> None:
    ours = site.nodes[1]
    assert str(ours.pods[0].address) == "10.0.39.2"
    flanneld.sendto(REQUEST, (str(ours.address), PORT))
    payload, (sender, _) = flanneld.recvfrom(2048)
    assert sender == str(ours.address)
    got, expected = IP(payload), IP(REPLY)
    # The identification is the answering pod's own counter, and the header's checksum covers it.
    got.id, got.chksum = expected.id, expected.chksum
    assert bytes(got) == REPLY
    recomputed = IP(payload)
    del recomputed.chksum
    assert IP(bytes(recomputed)).chksum == IP(payload).chksum


def test_what_a_pod_sends_is_one_bare_inner_packet(site: Lab, flanneld: socket.socket) -> None:
    ours = site.nodes[1]
    with ours.pods[0].popen("ping", "-c1", "-W10", "-s100", "10.0.58.7") as ping:
        payload, (sender, _) = flanneld.recvfrom(2048)
        inner = IP(payload)
        assert sender == str(ours.address)
        assert (inner.src, inner.dst, inner.ttl, inner.len) == ("10.0.39.2", "10.0.58.7", 62, len(payload))
        recomputed = inner.copy()
        del recomputed.chksum
        assert IP(bytes(recomputed)).chksum == inner.chksum
        answer = IP(src="10.0.58.7", dst="10.0.39.2", ttl=62) / ICMP(
            type="echo-reply", id=inner[ICMP].id, seq=inner[ICMP].seq
        ) / Raw(bytes(inner[ICMP].payload))  # fmt: skip
        flanneld.sendto(bytes(answer), (str(ours.address), PORT))
        out, _ = ping.communicate(timeout=PATIENCE)
    assert b"1 received" in out
    assert b"ttl=60" in out


def test_a_large_datagram_comes_through_whole(site: Lab, flanneld: socket.socket) -> None:
    ours = site.nodes[1]
    request = IP(src="10.0.58.2", dst="10.0.39.2", ttl=62, flags="DF") / ICMP(id=7, seq=9) / Raw(bytes(1444))
    assert len(bytes(request)) == 1472
    flanneld.sendto(bytes(request), (str(ours.address), PORT))
    answer = IP(flanneld.recvfrom(2048)[0])
    assert answer[ICMP].id == 7
    assert bytes(answer[ICMP].payload) == bytes(1444)


def test_nothing_enters_that_the_flanneld_did_not_send(site: Lab, flanneld: socket.socket) -> None:
    """flannel 961, 394, 398: any host that reaches the port injects packets."""
    ours = site.nodes[1]
    forged = [
        IP(src="10.0.77.2", dst="10.0.39.2", ttl=62) / ICMP(id=1),  # a source that is not its subnet
        IP(src="10.0.39.9", dst="10.0.39.2", ttl=62) / ICMP(id=2),  # a source in our own
        IP(src="10.0.58.2", dst="172.31.0.2", ttl=62) / ICMP(id=3),  # a destination that is not ours
        IP(src="10.0.58.2", dst="10.0.40.2", ttl=62) / ICMP(id=4),
        IP(src="10.0.58.2", dst="10.0.39.2", ttl=62, chksum=1) / ICMP(id=5),
        IP(src="10.0.58.2", dst="10.0.39.2", ttl=62, len=900) / UDP(sport=1, dport=2),
        Raw(b"no packet at all"),
        Raw(b""),
    ]
    for packet in forged:
        flanneld.sendto(bytes(packet), (str(ours.address), PORT))

    def from_the_etcd_host() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(REQUEST, (str(ours.address), PORT))

    call_inside(site.etcd.namespace, from_the_etcd_host)
    flanneld.sendto(REQUEST, (str(ours.address), PORT))
    answer = IP(flanneld.recvfrom(2048)[0])
    assert answer[ICMP].id == IP(REQUEST)[ICMP].id, "only the honest one may be answered, and it comes last"

    def dropped() -> int:
        shown = ours.run(OVERLAY, "status", "--json", f"--state-dir={ours.files.directory}",
                         check=False).stdout  # fmt: skip
        counters = json.loads(shown)["datapath"]["counters"]
        return sum(value for name, value in counters.items() if name.startswith("drop_") and "_tx_" not in name)

    assert poll(lambda: dropped() >= len(forged), PATIENCE)


def test_a_flanneld_can_read_our_lease(site: Lab) -> None:
    listed = site.etcd.run("etcdctl", "get", "--prefix", "/coreos.com/network/subnets").stdout.splitlines()
    values = dict(zip(listed[::2], listed[1::2], strict=True))
    ours = values["/coreos.com/network/subnets/10.0.39.0-24"]
    assert ours.startswith('{"PublicIP":"172.31.0.2","PublicIPv6":null')
    members = json.loads(ours)
    assert set(members) == {"PublicIP", "PublicIPv6", "NodeID"}, "no BackendType: a udp lease has none"
    assert values["/coreos.com/network/subnets/10.0.58.0-24"] == FLANNELDS_LEASE, "another's lease is never touched"
