"""The one catalogue of what datapaths count: each counter's name, unit, and what it says, whoever counts it.

Counted by the programs (``enum counter`` of kernel/overlay.bpf.c, read in its order by ``kernel/maps.py``), by the
workers (``userspace/counters.py``, sent in the order of its fields) and by the agent about both (:data:`AGENT`). What
has the same name means the same, and is added up. A test holds all of them, and the C source, against this.

``tx`` is from the TUN device to peers, ``rx`` from peers to it; packets and bytes are of inner packets as they are on
the wire. Every packet that a datapath gets and does not forward is in exactly one ``drop_`` counter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType


class Unit(Enum):
    """What one is."""

    PACKETS = "packets"
    BYTES = "bytes"
    DATAGRAMS = "datagrams"
    TIMES = "times"


class Meaning(Enum):
    """What it means that it grows."""

    USUAL = "usual"
    """Nothing by itself: it is traffic, or whoever can reach the port can make it grow."""
    LOSS = "loss"
    """Packets that were to be carried are lost."""
    SLOW = "slow"
    """Packets take the slow path that should take the fast one."""


@dataclass(frozen=True, slots=True)
class Counter:
    """One counter.

    Attributes:
        phrase: what was counted; it follows a number and the unit.
        remedy: what to do where that is a problem.
    """

    name: str
    unit: Unit
    phrase: str
    remedy: str = ""
    meaning: Meaning = Meaning.USUAL

    @property
    def sentence(self) -> str:
        """``Packets sent to peers.``"""
        return f"{self.unit.value.capitalize()} {self.phrase}."


def _loss(name: str, unit: Unit, phrase: str, remedy: str) -> Counter:
    return Counter(name, unit, phrase, remedy, Meaning.LOSS)


def _slow(name: str, phrase: str, remedy: str) -> Counter:
    return Counter(name, Unit.PACKETS, phrase, remedy, Meaning.SLOW)


_BUSY = "give the node more processor time, or a faster datapath (overlay status says why it is not the kernel's)"

_TRAFFIC = (
    Counter("tx_packets", Unit.PACKETS, "sent to peers"),
    Counter("tx_bytes", Unit.BYTES, "sent to peers"),
    Counter("rx_packets", Unit.PACKETS, "that came from peers"),
    Counter("rx_bytes", Unit.BYTES, "that came from peers"),
    Counter("tx_fragmented", Unit.PACKETS, "fragmented, as the path to the peer carries less; their parts are sent"),
    Counter("tx_finished", Unit.PACKETS, "whose checksums and segments were finished before they were sent"),
    Counter("rx_cut", Unit.TIMES, "that a train was cut before it was unwrapped"),
    Counter("rx_fou_left", Unit.PACKETS, "left to the kernel's FOU to unwrap"),
    Counter("rx_fou_trains", Unit.PACKETS, "of rx_fou_left that the underlay had joined"),
    Counter("rx_fou", Unit.PACKETS, "that FOU unwrapped, of rx_packets but for damaged ones"),
    Counter("rx_fou_unseen", Unit.PACKETS, "of drop_outer_source that came to FOU without having met our program"),
    Counter("rx_joined", Unit.PACKETS, "of rx_packets that the GRO pair joined"),
    Counter("rx_unjoined", Unit.PACKETS, "of rx_packets that it could not join, though large"),
    Counter("rx_sampled", Unit.TIMES, "that a train of the GRO pair was looked at for the mark of a tunnel"),
    Counter("rx_sampled_marked", Unit.TIMES, "that it had that, so that the kernel cuts it again"),
)

_REFUSED = (
    Counter("drop_tx_not_ipv4", Unit.PACKETS, "from here that are IPv6, or have no valid IPv4 header"),
    Counter("drop_tx_no_peer", Unit.PACKETS, "for an address that no peer's subnet holds"),
    Counter("drop_tx_ttl", Unit.PACKETS, "whose TTL ended on their way out"),
    Counter("drop_tx_too_big", Unit.PACKETS, "larger than the path to the peer carries, and not to be fragmented"),
    Counter("drop_outer_source", Unit.DATAGRAMS, "from an address that is no peer's"),
    Counter("drop_malformed", Unit.DATAGRAMS, "whose version, header length, total length and length do not agree"),
    Counter("drop_checksum", Unit.DATAGRAMS, "whose inner header's checksum is wrong"),
    Counter("drop_inner_source", Unit.DATAGRAMS, "from an inner address of another peer, of nobody, or of ours"),
    Counter("drop_inner_destination", Unit.DATAGRAMS, "for an inner address that is not of our subnet"),
    Counter("drop_rx_ttl", Unit.DATAGRAMS, "whose inner TTL ended on their way in"),
)

_LOST = (
    _loss(
        "drop_tun_queue", Unit.PACKETS, "for which the TUN device's queue had no room: its reader is too slow", _BUSY
    ),
    _loss(
        "drop_rx_socket",
        Unit.DATAGRAMS,
        "that came while the UDP socket's buffer was full: the worker behind it is too slow",
        _BUSY,
    ),
    _loss(
        "drop_gro_pair",
        Unit.PACKETS,
        "for which the GRO pair's ring had no room: more came than one processor merges",
        _BUSY,
    ),
    _loss(
        "drop_fou_device",
        Unit.PACKETS,
        "for which the device behind FOU had no room: more trains came than one processor joins",
        _BUSY,
    ),
    _loss(
        "drop_bridge_tx",
        Unit.PACKETS,
        "refused on their way to containers, by the interface that has our subnet",
        "look at its MTU and its ports: ip -s -d link show",
    ),
    _loss(
        "drop_tx_send",
        Unit.PACKETS,
        "that the underlay did not take: no route to the peer, no buffer, or a rule of the firewall",
        "check the routes to the peers (ip route get) and the OUTPUT chain",
    ),
    _loss(
        "drop_tx_nested",
        Unit.PACKETS,
        "for a peer that is reached through the overlay itself",
        "start that node's agent with --iface or --public-ip of the network below the overlay",
    ),
    _loss("drop_rx_memory", Unit.PACKETS, "for which the kernel had no memory", "free some: free -m"),
    _loss("drop_tun_write", Unit.PACKETS, "that the TUN device refused", "is it up? ip link show"),
)

_SLOW = (
    _slow(
        "slow_rx_unseen",
        "that came in without meeting our program",
        "look for other programs on the underlay: bpftool net show, tc filter show dev DEVICE ingress; or for frames "
        "that a switch tags with a priority (VID 0): tcpdump -e vlan 0",
    ),
    _slow(
        "slow_tx_unseen",
        "that went out without meeting our program",
        "look for other programs on the TUN device: tc filter show dev DEVICE egress",
    ),
    _slow(
        "slow_rx_train",
        "that came as trains: the interface had joined them, or a virtual link had never cut them",
        "turn that off: ethtool -K DEVICE rx-udp-gro-forwarding off rx-gro-list off, or tx-udp-segmentation off at "
        "the sender",
    ),
    _slow(
        "slow_tx_no_route",
        "for which the kernel path had no route",
        "check the routes to the peers, and that IP forwarding is on: sysctl net.ipv4.ip_forward",
    ),
    _slow("slow_tx_other", "that the kernel path could not wrap", "look for what else changes packets: tc, tunnels"),
    _slow("slow_rx_other", "that the kernel path could not unwrap", "look at the sender: overlay capture"),
)

_LEFT_TO_THE_SLOW_PATH = (
    Counter("slow_tx_packets", Unit.PACKETS, "of tx_packets that the slow path sent"),
    Counter("slow_rx_packets", Unit.PACKETS, "of rx_packets that the slow path unwrapped"),
    Counter("slow_tx_not_ipv4", Unit.PACKETS, "left to the slow path that are not IPv4"),
    Counter("slow_tx_no_peer", Unit.PACKETS, "left to the slow path for an address that no peer has"),
    Counter("slow_tx_ttl", Unit.PACKETS, "left to the slow path whose TTL ends on their way out"),
    Counter("slow_tx_too_big", Unit.PACKETS, "left to the slow path that are too big for the path"),
    Counter("slow_rx_fragment", Unit.PACKETS, "left to the slow path that came in outer fragments"),
    Counter("slow_rx_options", Unit.PACKETS, "left to the slow path that have IP options"),
    Counter("slow_rx_ttl", Unit.PACKETS, "left to the slow path whose TTL ends on their way in"),
)

_EVENTS = (
    Counter("icmp_sent", Unit.TIMES, "that an ICMP error was sent to a container, or to a peer's"),
    Counter("icmp_limited", Unit.TIMES, "that one was due, and not sent because of the rate limit"),
    Counter("icmp_too_big", Unit.TIMES, "that somebody said of a datagram of ours that it is too big"),
    Counter("icmp_unproven", Unit.TIMES, "that this quotes nothing we asked: a router's first word, or forged"),
    Counter("offloads_refused", Unit.TIMES, "that the kernel did not do what it had offered; it is off from then on"),
    Counter("control_malformed", Unit.TIMES, "that a worker was told what does not decode"),
    Counter("worker_restarts", Unit.TIMES, "that a worker died or hung, and another was started"),
    Counter("rx_fou_refused", Unit.TIMES, "that a train was kept from FOU, where those before it had got lost"),
    Counter("repairs", Unit.TIMES, "that others changed what the kernel path needs, and it was mended"),
)

CATALOGUE: Mapping[str, Counter] = MappingProxyType(
    {counter.name: counter for counter in (*_TRAFFIC, *_REFUSED, *_LOST, *_SLOW, *_LEFT_TO_THE_SLOW_PATH, *_EVENTS)}
)
"""Every counter, by name."""

AGENT = frozenset(
    {
        "drop_tun_queue",
        "drop_rx_socket",
        "drop_gro_pair",
        "drop_fou_device",
        "drop_bridge_tx",
        "slow_tx_packets",
        "slow_rx_packets",
        "slow_tx_unseen",
        "slow_rx_unseen",
        "worker_restarts",
        "repairs",
    }
)
"""Counted by neither programs nor workers: the kernel's own counts of devices and sockets, and differences."""


def of_meaning(meaning: Meaning) -> Iterable[Counter]:
    """Those whose growth means that."""
    return (counter for counter in CATALOGUE.values() if counter.meaning is meaning)
