"""Nothing enters that a peer did not send: the compiled program, run by the kernel on the shared vectors."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from overlay.datapath.kernel.maps import Endpoint, ToFou, read_counters, write_endpoint
from overlay.datapath.kernel.programs import OBJECT, Loaded, load
from overlay.datapath.kernel.proof import ticks_per_second
from overlay.datapath.userspace.worker.admission import Verdict, admit
from overlay.datapath.userspace.worker.routes import Routes
from overlay.linux.libbpf import dry_run
from overlay.model import Peer, PeerTable
from tests.support.admission import (
    OWN,
    PEERS,
    VECTORS,
    Outcome,
    Vector,
    ipv4,
    mended,
    mutations,
    oracle,
    plain_checksum,
)
from tests.support.tunnels import until

pytestmark = pytest.mark.root

OUR_ADDRESS = IPv4Address("172.31.0.1")
PORT = 8285
TUN, GRO = 71, 72
ETHERNET = bytes(12) + b"\x08\x00"

NEXT_FILTER, DROP, REDIRECT = -1, 2, 7
"""TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT of linux/pkt_cls.h."""


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    programs = load(OBJECT, None)
    write_endpoint(programs.endpoint, Endpoint(OUR_ADDRESS, PORT, OWN, TUN, GRO))
    programs.peers.replace(PEERS)
    yield programs
    programs.close()


@dataclass(frozen=True)
class Outer:
    """The outer headers around a datagram; what is not given is right."""

    source: IPv4Address
    destination: IPv4Address = OUR_ADDRESS
    port: int = PORT
    protocol: int = 17
    fragment: int = 0x4000
    options: bytes = b""
    udp_length: int | None = None
    checksum: int | None = None

    def around(self, datagram: bytes) -> bytes:
        udp_length = 8 + len(datagram) if self.udp_length is None else self.udp_length
        udp = struct.pack("!HHHH", 50123, self.port, udp_length, 0)
        header = ipv4(
            str(self.source),
            str(self.destination),
            payload=udp + datagram,
            protocol=self.protocol,
            fragment=self.fragment,
            options=self.options,
            checksum=self.checksum,
        )
        return ETHERNET + header


def unusual(datagram: bytes) -> bool:
    """Right or wrong, the slow path decides: IP options, bytes behind the packet."""
    return datagram[0] & 15 > 5 or struct.unpack("!H", datagram[2:4])[0] != len(datagram)


def check(loaded: Loaded, outer_source: IPv4Address, datagram: bytes, outcome: Outcome) -> None:
    frame = Outer(outer_source).around(datagram)
    ran = dry_run(loaded.decap, frame)
    if outcome is Outcome.ENTERS and not unusual(datagram):
        assert ran.verdict == REDIRECT
        assert ran.packet == ETHERNET + one_hop_less(datagram)
    elif outcome is Outcome.REFUSED and ran.verdict != NEXT_FILTER:
        assert ran.verdict == DROP
    else:
        assert ran.verdict == NEXT_FILTER
        assert ran.packet == frame, "the slow path must see what came"
        if outcome is Outcome.REFUSED:  # it will be: by the slow path, but only a peer may make it work
            assert datagram[0] & 15 > 5
            assert outer_source in {peer.public_ip for peer in PEERS.peers.values()}


def one_hop_less(datagram: bytes) -> bytes:
    """The slow twin of the program's incremental checksum."""
    header = bytearray(datagram[:20])
    header[8] -= 1
    header[10:12] = b"\0\0"
    header[10:12] = plain_checksum(bytes(header)).to_bytes(2, "big")
    return bytes(header) + datagram[20:]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_vector(loaded: Loaded, vector: Vector) -> None:
    check(loaded, vector.outer_source, vector.datagram, vector.outcome)


def test_mutations_of_vectors(loaded: Loaded) -> None:
    for source, datagram in mutations(seed=5, count=20_000):
        check(loaded, source, datagram, oracle(source, datagram, OWN, PEERS))


def test_refusals_are_counted_under_the_userspace_datapaths_names(loaded: Loaded) -> None:
    routes = Routes()
    routes.own(int(OWN.network_address), OWN.prefixlen)
    for subnet, peer in PEERS.peers.items():
        routes.add(int(subnet.network_address), subnet.prefixlen, int(peer.public_ip))
    for source, datagram in mutations(seed=6, count=3000):
        before = read_counters(loaded.counters)
        ran = dry_run(loaded.decap, Outer(source).around(datagram))
        after = read_counters(loaded.counters)
        changed = {name for name in after if after[name] != before[name]}
        if ran.verdict == DROP:
            verdict = admit(datagram, len(datagram), str(source), routes)
            assert verdict is not Verdict.ADMIT
            # With options the addresses are judged before the checksum, which only the slow path sums up.
            assert changed == {verdict.value} or datagram[0] & 15 > 5


@pytest.mark.parametrize(
    "outer",
    [
        Outer(IPv4Address("172.31.0.2"), destination=IPv4Address("172.31.0.9")),
        Outer(IPv4Address("172.31.0.2"), port=8286),
        Outer(IPv4Address("172.31.0.2"), protocol=6),
        Outer(IPv4Address("172.31.0.2"), fragment=0x2000),
        Outer(IPv4Address("172.31.0.2"), fragment=0x0001),
        Outer(IPv4Address("172.31.0.2"), options=b"\x01\x01\x01\x00"),
        Outer(IPv4Address("172.31.0.2"), checksum=0x1234),
    ],
    ids=["another address", "another port", "TCP", "a first fragment", "a later fragment", "outer options", "damaged"],
)
def test_not_for_the_tunnel_is_left_alone(loaded: Loaded, outer: Outer) -> None:
    frame = outer.around(ipv4())
    ran = dry_run(loaded.decap, frame)
    assert (ran.verdict, ran.packet) == (NEXT_FILTER, frame)


@pytest.mark.parametrize("length", range(0, 41, 4))
@pytest.mark.parametrize("fragment", [0x4000, 0x2000, 0x0001], ids=["whole", "first", "later"])
def test_a_stranger_wakes_no_process_with_what_is_unusual(loaded: Loaded, length: int, fragment: int) -> None:
    """IP options and fragments are left to the stack, and so to the socket, only where a peer sent them."""
    verdicts = {"peer": NEXT_FILTER, "stranger": DROP}
    if fragment == 0x0001:
        verdicts["stranger"] = NEXT_FILTER  # it does not say for which port
    elif not length and fragment == 0x4000:
        verdicts["peer"] = REDIRECT
    for sender, address in (("peer", "172.31.0.2"), ("stranger", "172.31.0.99")):
        outer = Outer(IPv4Address(address), fragment=fragment, options=bytes([1]) * length)
        assert dry_run(loaded.decap, outer.around(ipv4())).verdict == verdicts[sender]
        elsewhere = Outer(IPv4Address(address), fragment=fragment, options=bytes([1]) * length, port=53)
        assert dry_run(loaded.decap, elsewhere.around(ipv4())).verdict == NEXT_FILTER, "not for the tunnel"


@pytest.mark.parametrize("udp_length", [0, 7, 8, 9, 27])
def test_a_length_of_udp_that_leaves_no_room_for_a_header(loaded: Loaded, udp_length: int) -> None:
    frame = Outer(IPv4Address("172.31.0.2"), udp_length=udp_length).around(ipv4())
    assert dry_run(loaded.decap, frame).verdict == DROP


@pytest.mark.parametrize("udp_length", [28, 43, 45, 1000, 65535])
def test_a_length_of_udp_that_does_not_fit_is_not_carried(loaded: Loaded, udp_length: int) -> None:
    frame = Outer(IPv4Address("172.31.0.2"), udp_length=udp_length).around(ipv4())
    assert dry_run(loaded.decap, frame).verdict in (DROP, NEXT_FILTER)


def test_a_frame_of_any_length_is_safe(loaded: Loaded) -> None:
    whole = Outer(IPv4Address("172.31.0.2")).around(ipv4())
    for length in range(len(ETHERNET) + 20, len(whole)):  # the kernel refuses test runs of less
        assert dry_run(loaded.decap, whole[:length]).verdict in (DROP, NEXT_FILTER)


def too_big(port: int, peer: str = "172.31.0.2") -> tuple[bytes, bytes]:
    """A frame with a router's word about a datagram to a peer, and what of it is ICMP."""
    quoted = ipv4(str(OUR_ADDRESS), peer, payload=struct.pack("!HHHH", port, PORT, 1480, 0))
    message = struct.pack("!BBHHH", 3, 4, 0, 0, 1400) + quoted
    message = message[:2] + struct.pack("!H", plain_checksum(message)) + message[4:]
    return ETHERNET + ipv4("172.31.0.254", str(OUR_ADDRESS), payload=message, protocol=1), message


def test_claims_about_what_no_flow_sent_stay_as_they_are(loaded: Loaded) -> None:
    """A worker's own port tells which worker; a stranger's address nobody."""
    for port, peer in ((PORT, "172.31.0.2"), (PORT + 1, "172.31.0.2"), (49151, "172.31.0.2"), (50123, "172.31.0.99")):
        frame, _ = too_big(port, peer)
        ran = dry_run(loaded.decap, frame)
        assert (ran.verdict, ran.packet) == (NEXT_FILTER, frame)


def test_of_a_flood_of_claims_one_a_second_is_handed_on_for_each_peer() -> None:
    programs = load(OBJECT, None)
    write_endpoint(programs.endpoint, Endpoint(OUR_ADDRESS, PORT, OWN, TUN, GRO, second=(1 << 16) - 1))
    programs.peers.replace(PEERS)
    for peer in ("172.31.0.2", "172.31.0.3"):
        changed = []
        for port in range(49152, 49252):
            frame, _ = too_big(port, peer)
            changed.append(dry_run(programs.decap, frame).packet != frame)
        assert changed == [True] + [False] * 99
    assert read_counters(programs.counters)["icmp_too_big"] == 2
    programs.close()


def test_path_mtu_message_gets_the_sockets_port(loaded: Loaded) -> None:
    frame, message = too_big(50123)
    ran = dry_run(loaded.decap, frame)
    assert ran.verdict == NEXT_FILTER
    changed = ran.packet[len(ETHERNET) + 20 :]
    assert changed[28:30] == struct.pack("!H", PORT)
    assert plain_checksum(changed) == 0
    assert changed[4:28] + changed[30:] == message[4:28] + message[30:]


def test_with_fou_the_slow_path_has_another_port(with_fou: Loaded) -> None:
    """What routers say is for it, and nobody else has business there."""
    write_endpoint(with_fou.endpoint, Endpoint(OUR_ADDRESS, PORT, OWN, TUN, GRO, socket=8286, to_fou=ToFou.TRAINS))
    frame, _ = too_big(50124)
    changed = dry_run(with_fou.decap, frame).packet[len(ETHERNET) + 20 :]
    assert changed[28:30] == struct.pack("!H", 8286)
    assert plain_checksum(changed) == 0
    assert dry_run(with_fou.decap, Outer(IPv4Address("172.31.0.2"), port=8286).around(ipv4())).verdict == DROP


@pytest.fixture
def with_fou() -> Iterator[Loaded]:
    programs = load(OBJECT, None)
    programs.peers.replace(PEERS)
    yield programs
    programs.close()


TCP_SEGMENT = Outer(IPv4Address("172.31.0.2")).around(ipv4(payload=bytes(1200), protocol=6))
UDP_DATAGRAM = Outer(IPv4Address("172.31.0.2")).around(ipv4(payload=bytes(1200), protocol=17))
FORGED_SEGMENT = Outer(IPv4Address("172.31.0.3")).around(ipv4(payload=bytes(1200), protocol=6))


@pytest.mark.parametrize(
    ("to_fou", "frame", "verdict"),
    [
        (ToFou.ALL_TCP, TCP_SEGMENT, NEXT_FILTER),
        (ToFou.ALL_TCP, UDP_DATAGRAM, REDIRECT),
        (ToFou.ALL_TCP, FORGED_SEGMENT, DROP),
        (ToFou.ALL_IN_IP, TCP_SEGMENT, NEXT_FILTER),
        (ToFou.ALL_IN_IP, UDP_DATAGRAM, REDIRECT),
        (ToFou.ALL_IN_IP, FORGED_SEGMENT, DROP),
        (ToFou.JOINED, TCP_SEGMENT, REDIRECT),
        (ToFou.TRAINS, TCP_SEGMENT, REDIRECT),
    ],
)
def test_what_is_left_to_fou(with_fou: Loaded, to_fou: ToFou, frame: bytes, verdict: int) -> None:
    """As it came or as IP in IP, and only what may come in; of trains, which no dry run has, test_fou.py tells."""
    write_endpoint(with_fou.endpoint, Endpoint(OUR_ADDRESS, PORT, OWN, TUN, GRO, second=1000, to_fou=to_fou))
    ran = dry_run(with_fou.decap, frame)
    assert ran.verdict == verdict
    left = verdict == NEXT_FILTER
    if to_fou is ToFou.ALL_IN_IP and left:
        assert (ran.packet[:14], ran.packet[42:]) == (frame[:14], frame[42:])
        outer, option = ran.packet[14:34], ran.packet[34:42]
        assert (outer[0], outer[9], plain_checksum(outer + option)) == (0x47, 4, 0)
        assert (outer[1:9], outer[12:]) == (frame[15:23], frame[26:34])
        assert option == bytes([30, 8, 0, 0, 0, 0, 0, 0])
    else:
        assert not left or ran.packet == frame
    assert read_counters(with_fou.counters)["rx_fou_left"] == left
    assert read_counters(with_fou.counters)["rx_packets"] == (verdict == REDIRECT)


@pytest.mark.parametrize("to_fou", [ToFou.ALL_TCP, ToFou.ALL_IN_IP])
def test_fou_gets_what_may_enter_and_nothing_else(loaded: Loaded, with_fou: Loaded, to_fou: ToFou) -> None:
    """All else is as without FOU. A damaged header may go there, and is found behind it."""
    write_endpoint(with_fou.endpoint, Endpoint(OUR_ADDRESS, PORT, OWN, TUN, GRO, second=1000, to_fou=to_fou))
    left = 0
    for source, mutated in mutations(seed=7, count=6000):
        datagram = mutated[:9] + b"\x06" + mutated[10:]  # which damages the header, but for each second one
        if len(datagram) >= 20 and len(datagram) % 2 == 0:
            datagram = mended(datagram)
        frame = Outer(source).around(datagram)
        ran, without = dry_run(with_fou.decap, frame), dry_run(loaded.decap, frame)
        if read_counters(with_fou.counters)["rx_fou_left"] == left:
            assert ran == replace(without, nanoseconds=ran.nanoseconds)
            assert ran.verdict != REDIRECT
        else:
            left += 1
            assert ran.verdict == NEXT_FILTER
            assert oracle(source, mended(datagram), OWN, PEERS) is Outcome.ENTERS
            assert not unusual(datagram)
    assert left > 300


def test_fou_gets_nothing_from_a_peer_that_has_gone(with_fou: Loaded) -> None:
    write_endpoint(with_fou.endpoint, Endpoint(OUR_ADDRESS, PORT, OWN, TUN, GRO, second=1000, to_fou=ToFou.ALL_TCP))
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})  # each processor remembers for itself
    try:
        assert dry_run(with_fou.decap, TCP_SEGMENT).verdict == NEXT_FILTER
        with_fou.peers.replace(PeerTable.of(OWN, []))
        until(lambda: dry_run(with_fou.decap, TCP_SEGMENT).verdict == DROP, "the next tick of the clock")
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("checksum", [None, 1], ids=["intact", "damaged"])
def test_what_was_damaged_on_the_way_is_not_missed_behind_fou(with_fou: Loaded, checksum: int | None) -> None:
    second = ticks_per_second()
    write_endpoint(with_fou.endpoint, Endpoint(OUR_ADDRESS, PORT, OWN, TUN, GRO, second=second, to_fou=ToFou.ALL_TCP))
    datagram = ipv4(payload=bytes(1200), protocol=6)
    frame = Outer(IPv4Address("172.31.0.2"), checksum=checksum).around(datagram)
    assert dry_run(with_fou.decap, frame).verdict == NEXT_FILTER
    time.sleep(0.7)  # they miss it after half a second, and for eight
    assert dry_run(with_fou.decap, TCP_SEGMENT).verdict == (NEXT_FILTER if checksum else REDIRECT)


def test_what_fou_swallows_is_carried_soon_and_tried_again_later(with_fou: Loaded) -> None:
    endpoint = Endpoint(OUR_ADDRESS, PORT, OWN, TUN, GRO, second=40, to_fou=ToFou.ALL_TCP)
    write_endpoint(with_fou.endpoint, endpoint)
    until(lambda: dry_run(with_fou.decap, TCP_SEGMENT).verdict == REDIRECT, "the programs' patience ends")
    counted = read_counters(with_fou.counters)
    assert counted["rx_fou_left"] > 0
    assert counted["rx_fou_refused"] == counted["rx_packets"] == 1
    until(lambda: dry_run(with_fou.decap, TCP_SEGMENT).verdict == NEXT_FILTER, "it is forgotten")
    write_endpoint(with_fou.endpoint, replace(endpoint, to_fou=ToFou.NOTHING))
    assert dry_run(with_fou.decap, TCP_SEGMENT).verdict == REDIRECT


@pytest.mark.parametrize("packet", [ipv4(payload=bytes(1200), protocol=6), ipv4(), bytes(20)])
def test_behind_fou_only_what_was_judged_is_believed(with_fou: Loaded, packet: bytes) -> None:
    """Nobody else has passes; with one: tests/netns/test_fou.py."""
    write_endpoint(with_fou.endpoint, Endpoint(OUR_ADDRESS, PORT, OWN, TUN, GRO, to_fou=ToFou.TRAINS))
    assert dry_run(with_fou.fou, ETHERNET + packet).verdict == DROP


@pytest.mark.parametrize(
    ("outer", "inner", "cause"),
    [
        ("172.31.0.2", ipv4(payload=bytes(1200)), None),
        ("172.31.0.3", ipv4(payload=bytes(1200)), "drop_inner_source"),
        ("172.31.0.66", ipv4(payload=bytes(1200)), "drop_outer_source"),
        ("172.31.0.2", bytes(19), "drop_malformed"),
        ("172.31.0.2", bytes(1200), "drop_malformed"),
    ],
)
def test_with_fou_the_first_fragment_is_judged(with_fou: Loaded, outer: str, inner: bytes, cause: str | None) -> None:
    """For who sent it nobody knows where it comes out."""
    write_endpoint(with_fou.endpoint, Endpoint(OUR_ADDRESS, PORT, OWN, TUN, GRO, socket=8286, to_fou=ToFou.TRAINS))
    frame = Outer(IPv4Address(outer), fragment=0x2000).around(inner)
    assert dry_run(with_fou.decap, frame).verdict == (DROP if cause else NEXT_FILTER)
    counted = read_counters(with_fou.counters)
    assert counted[cause or "slow_rx_fragment"] == 1


FLANNELD = {
    "ping": (
        "450000709bb7400040114684ac1f0001ac1f0002205d205d005c58af45000054e03f40003e01e7650a003a020a002702"
        "0800bc051ed100016bf1006b00000000e6f80b0000000000101112131415161718191a1b1c1d1e1f2021222324252627"
        "28292a2b2c2d2e2f3031323334353637"
    ),
    "TCP": (
        "450000589c6f4000401145e4ac1f0001ac1f0002205d205d004458974500003ce2fa40003e06e4bd0a003a020a002702"
        "a89c1451bb10794b00000000a002fbb8b8480000020405980402080aa96c845d000000000103030a"
    ),
}
"""From the underlay between two nodes with flanneld 0.20.2, backend udp; 10.0.39.0/24 is the receiver's."""


@pytest.mark.parametrize("kind", FLANNELD)
def test_flannelds_own_datagrams_enter(kind: str) -> None:
    packet = bytes.fromhex(FLANNELD[kind])
    programs = load(OBJECT, None)
    subnet = IPv4Network("10.0.39.0/24")
    write_endpoint(programs.endpoint, Endpoint(IPv4Address("172.31.0.2"), PORT, subnet, TUN, GRO))
    programs.peers.replace(PeerTable.of(subnet, [Peer(IPv4Network("10.0.58.0/24"), IPv4Address("172.31.0.1"))]))
    ran = dry_run(programs.decap, ETHERNET + packet)
    assert ran.verdict == REDIRECT
    assert ran.packet == ETHERNET + one_hop_less(packet[28:])
    assert not programs.peers.proven(IPv4Network("10.0.58.0/24")), "flanneld's packets come from a socket"
    programs.close()
