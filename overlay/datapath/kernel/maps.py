"""The maps that the programs and the agent share, as the agent sees them: endpoint, peers, counters.

Layouts are those of overlay.bpf.c. The maps are pinned, so that a new agent finds what its predecessor knew; whoever
changes the meaning of one gives it another name, so that no program ever reads a layout that it does not know.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network

from overlay.errors import OverlayError
from overlay.linux.libbpf import Map, possible_cpus
from overlay.model import Peer, PeerTable

_ONLY = struct.pack("=I", 0)
"""The key of a map with one entry."""
_COPY_DSCP = 1
_COUNTER_PLACES = 64
"""Of ``struct counters``: more than there are counters, so that more can come."""
_REST = struct.Struct("=HIIIH2sQ")
"""Of ``struct config``, behind the port: flags, three interfaces, a second in ticks, the socket's port, the secret."""
_PROOF = struct.Struct("=4xQQ")
"""Of ``struct peer``, behind the address: ``proven`` and ``wanted``, both in ticks."""
_NONE = bytes(_PROOF.size)


class ToFou(IntEnum):
    """What the programs leave to FOU; the values are flags of ``struct config``."""

    NOTHING = 0
    TRAINS = 2
    """Trains of TCP that the underlay has joined."""
    ALL_TCP = 2 | 4
    """To its socket."""
    ALL_IN_IP = 2 | 4 | 16
    """All TCP, but for trains as IP in IP to the device behind the socket."""
    JOINED = 2 | 8
    """Trains that the underlay has joined, and those that the GRO stage has, these as IP in IP."""

    @classmethod
    def of(cls, flags: int) -> ToFou:
        """What ``flags`` of ``struct config`` say; of what another version writes, as much as is known here."""
        known = flags & (cls.ALL_TCP | cls.ALL_IN_IP | cls.JOINED)
        return max((each for each in cls if each & known == each), default=cls.NOTHING)


COUNTERS = (
    "tx_packets",
    "tx_bytes",
    "rx_packets",
    "rx_bytes",
    "drop_outer_source",
    "drop_malformed",
    "drop_checksum",
    "drop_inner_source",
    "drop_inner_destination",
    "drop_tx_send",
    "drop_rx_memory",
    "slow_tx_not_ipv4",
    "slow_tx_no_peer",
    "slow_tx_ttl",
    "slow_tx_too_big",
    "slow_tx_no_route",
    "slow_tx_other",
    "slow_rx_fragment",
    "slow_rx_ttl",
    "slow_rx_other",
    "icmp_too_big",
    "drop_tx_nested",
    "slow_rx_options",
    "slow_rx_train",
    "tx_finished",
    "rx_cut",
    "rx_fou_left",
    "rx_fou",
    "rx_fou_refused",
    "rx_joined",
    "rx_unjoined",
    "rx_fou_trains",
    "rx_sampled",
    "rx_sampled_marked",
    "rx_fou_unseen",
)
"""Names in the order of ``enum counter``; what each says is in :mod:`overlay.datapath.counters`."""
_PLACE_OF = {name: at for at, name in enumerate(COUNTERS)}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """This node's end of the tunnel: ``struct config``.

    Attributes:
        address: our outer address.
        port: every node's UDP port.
        subnet: our own subnet.
        tun: interface index of the TUN device.
        gro: interface index of the veth end that leads to the GRO stage; 0 if there is none.
        finish: interface index of the end where checksums and segments are finished; 0 if there is none.
        copy_dscp: whether outer headers have the inner packets' class of service (RFC 2983, uniform model).
        second: ticks of the kernel in one.
        secret: 64 random bits, for what nobody else may know.
        socket: the slow path's UDP port, where FOU has the tunnel's; 0 if it is the tunnel's.
        to_fou: what is left to FOU.
    """

    address: IPv4Address
    port: int
    subnet: IPv4Network
    tun: int
    gro: int = 0
    finish: int = 0
    copy_dscp: bool = False
    second: int = 0
    secret: int = 0
    socket: int = 0
    to_fou: ToFou = ToFou.NOTHING

    def pack(self) -> bytes:
        flags = _COPY_DSCP * self.copy_dscp | self.to_fou
        socket = self.socket.to_bytes(2, "big")
        return b"".join(
            (
                self.address.packed,
                self.subnet.network_address.packed,
                self.subnet.netmask.packed,
                struct.pack("!H", self.port),
                _REST.pack(flags, self.tun, self.gro, self.finish, self.second, socket, self.secret),
            )
        )

    @classmethod
    def unpack(cls, data: bytes) -> Endpoint:
        """The inverse of :meth:`pack`; of an older version's shorter one, what both have in common."""
        address, base, mask = (IPv4Address(data[at : at + 4]) for at in (0, 4, 8))
        (port,) = struct.unpack_from("!H", data, 12)
        flags, tun, gro, finish, second, socket, secret = _REST.unpack(data[14:].ljust(_REST.size, b"\0"))
        return cls(
            address,
            port,
            IPv4Network(f"{base}/{mask}"),
            tun,
            gro,
            finish,
            copy_dscp=bool(flags & _COPY_DSCP),
            second=second,
            secret=secret,
            socket=int.from_bytes(socket, "big"),
            to_fou=ToFou.of(flags),
        )


def write_endpoint(endpoints: Map, endpoint: Endpoint) -> bool:
    """Tells the programs; whether anything was new to them."""
    wanted = endpoint.pack()
    if endpoints.get(_ONLY) == wanted:
        return False
    endpoints.put(_ONLY, wanted)
    return True


def read_endpoint(endpoints: Map) -> Endpoint | None:
    """What the programs were told; None before."""
    data = endpoints.get(_ONLY)
    return Endpoint.unpack(data) if data is not None and any(data) else None


class Peers:
    """The peer table in the kernel: changed only where it differs, found as a predecessor left it.

    Three maps: subnets to addresses for longest-prefix lookup, addresses with what is known of the paths to them, and
    what the programs wish to have proven.
    """

    def __init__(self, subnets: Map, senders: Map, wishes: Map) -> None:
        self._subnets, self._senders, self._wishes = subnets, senders, wishes
        self._paths: dict[bytes, int] = {}
        self._read()

    def __len__(self) -> int:
        return len(self._known)

    def close(self) -> None:
        """Gives the descriptors back."""
        self._subnets.close()
        self._senders.close()
        self._wishes.close()

    def proven(self, subnet: IPv4Network) -> bool:
        """Whether the programs had a proof for ``subnet``, fresh or not, when they last looked; see proof.py."""
        value = self._subnets.get(_key(subnet))
        return value is not None and _PROOF.unpack_from(value, 4)[0] != 0

    def wishes(self) -> Iterator[IPv4Address]:
        """Inner addresses to which something was sent since the last call; some more than once, some not at all."""
        return (IPv4Address(value) for value in self._wishes.take())

    def limit(self, path_mtus: Mapping[IPv4Address, int]) -> None:
        """Tells the programs all path MTUs that somebody has made sure of: bytes of outer packets, by peer.

        Raises:
            DatapathError: no memory; calling again does the rest.
        """
        wanted = {address.packed: mtu for address, mtu in path_mtus.items() if address.packed in self._known_senders}
        for sender in self._paths.keys() | wanted.keys():
            mtu = wanted.get(sender, 0)
            if self._paths.get(sender, 0) != mtu and sender in self._known_senders:
                self._senders.put(sender, struct.pack("=I", mtu))
        self._paths = wanted

    def replace(self, table: PeerTable) -> int:
        """Makes ``table`` the truth; returns how many entries that changed.

        New entries come before old ones go, so that no packet meets less than both tables have in common.

        Raises:
            DatapathError: full, or no memory. Some entries may be missing then, but none is there that should not be;
                calling again does the rest.
        """
        wanted = {_key(subnet): peer.public_ip.packed for subnet, peer in table.peers.items()}
        senders = set(wanted.values())
        changed = {key: value for key, value in wanted.items() if self._known.get(key) != value}
        gone = self._known.keys() - wanted.keys()
        try:
            self._senders.put_many((sender, _ONLY) for sender in senders - self._known_senders)
            self._subnets.put_many((key, address + _NONE) for key, address in changed.items())
            self._known |= changed
            self._known_senders |= senders
        except OverlayError:
            self._read()  # how far that got
            raise
        finally:  # there was room for the new ones or not: who left may not send any more
            for key in [key for key, address in self._known.items() if wanted.get(key) != address]:
                self._subnets.remove(key)
                del self._known[key]
            for sender in self._known_senders - senders:
                self._senders.remove(sender)
                self._known_senders.remove(sender)
                self._paths.pop(sender, None)
        return len(changed) + len(gone)

    def _read(self) -> None:
        subnets, senders = self._subnets, self._senders
        self._known = {key: value[:4] for key in subnets.scan() if (value := subnets.get(key)) is not None}
        self._known_senders = set(senders.scan())
        paths = ((sender, senders.get(sender)) for sender in self._known_senders)
        self._paths = {sender: struct.unpack("=I", value)[0] for sender, value in paths if value and any(value)}


def _key(subnet: IPv4Network) -> bytes:
    """``struct subnet_key``: bits that count, in the machine's order; then the address."""
    return struct.pack("=I", subnet.prefixlen) + subnet.network_address.packed


def read_counters(causes: Map, names: Iterable[str] = COUNTERS) -> Mapping[str, int]:
    """The sums over all CPUs, by name: of all, or of those that are wanted."""
    cpus = possible_cpus()
    values = memoryview(causes.get(_ONLY, copies=cpus) or bytes(cpus * _COUNTER_PLACES * 8)).cast("Q")
    return {name: sum(values[_PLACE_OF[name] :: _COUNTER_PLACES]) for name in names}


def read_table(subnets: Map) -> PeerTable:
    """The peers as the programs have them."""
    entries = ((key, value) for key in subnets.scan() if (value := subnets.get(key)) is not None)
    return PeerTable.of(None, [_peer(key, value) for key, value in entries])


def _peer(key: bytes, value: bytes) -> Peer:
    (prefixlen,) = struct.unpack_from("=I", key)
    return Peer(IPv4Network((key[4:8], prefixlen)), IPv4Address(value[:4]))
