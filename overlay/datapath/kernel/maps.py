"""The maps that the programs and the agent share, as the agent sees them: config, peers, counters.

Layouts are those of overlay.bpf.c. The maps are pinned, so that a new agent finds what its predecessor knew; whoever
changes the meaning of one gives it another name, so that no program ever reads a layout that it does not know.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from overlay.datapath.kernel.libbpf import Map, possible_cpus
from overlay.model import PeerTable

_ONLY = struct.pack("=I", 0)
"""The key of a map with one entry."""
_UNKNOWN = struct.pack("=I", 0)
"""``unwrapped`` of ``struct peer`` until the program learns better."""
_COPY_DSCP = 1
_COUNTER_PLACES = 64
"""Of ``struct counters``: more than there are counters, so that more can come."""

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
)
"""Names in the order of ``enum counter``; drops have the userspace datapath's names for the same causes."""


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
    """

    address: IPv4Address
    port: int
    subnet: IPv4Network
    tun: int
    gro: int = 0
    finish: int = 0
    copy_dscp: bool = False

    def pack(self) -> bytes:
        return b"".join(
            (
                self.address.packed,
                self.subnet.network_address.packed,
                self.subnet.netmask.packed,
                struct.pack("!H", self.port),
                struct.pack("=HIII", _COPY_DSCP * self.copy_dscp, self.tun, self.gro, self.finish),
            )
        )


def write_endpoint(config: Map, endpoint: Endpoint) -> bool:
    """Tells the programs; whether anything was new to them."""
    wanted = endpoint.pack()
    if config.get(_ONLY) == wanted:
        return False
    config.put(_ONLY, wanted)
    return True


class Peers:
    """The peer table in the kernel: changed only where it differs, found as a predecessor left it.

    Two maps: subnets to addresses for longest-prefix lookup, and the set of addresses.
    """

    def __init__(self, subnets: Map, senders: Map) -> None:
        self._subnets, self._senders = subnets, senders
        self._known = {key: value[:4] for key in subnets.scan() if (value := subnets.get(key)) is not None}
        self._known_senders = set(senders.scan())

    def __len__(self) -> int:
        return len(self._known)

    def close(self) -> None:
        """Gives the descriptors back."""
        self._subnets.close()
        self._senders.close()

    def unwraps(self, subnet: IPv4Network) -> bool:
        """Whether the programs have learned, by the last packet, that ``subnet``'s node unwraps in its kernel."""
        value = self._subnets.get(_key(subnet))
        return value is not None and value[4:] != _UNKNOWN

    def replace(self, table: PeerTable) -> int:
        """Makes ``table`` the truth; returns how many entries that changed.

        New entries come before old ones go, so that no packet meets less than both tables have in common.

        Raises:
            DatapathError: full, or no memory; some entries may be in, and calling again does the rest.
        """
        wanted = {_key(subnet): peer.public_ip.packed for subnet, peer in table.peers.items()}
        senders = set(wanted.values())
        changed = {key: value for key, value in wanted.items() if self._known.get(key) != value}
        gone = [key for key in self._known if key not in wanted]

        self._senders.put_many((sender, _ONLY) for sender in senders - self._known_senders)
        self._subnets.put_many((key, address + _UNKNOWN) for key, address in changed.items())
        for key in gone:
            self._subnets.remove(key)
        for sender in self._known_senders - senders:
            self._senders.remove(sender)
        self._known, self._known_senders = wanted, senders
        return len(changed) + len(gone)


def _key(subnet: IPv4Network) -> bytes:
    """``struct subnet_key``: bits that count, in the machine's order; then the address."""
    return struct.pack("=I", subnet.prefixlen) + subnet.network_address.packed


def read_counters(causes: Map) -> Mapping[str, int]:
    """The sums over all CPUs, by name."""
    cpus = possible_cpus()
    raw = causes.get(_ONLY, copies=cpus) or bytes(cpus * _COUNTER_PLACES * 8)
    values = struct.unpack(f"={cpus * _COUNTER_PLACES}Q", raw)
    return {name: sum(values[at::_COUNTER_PLACES]) for at, name in enumerate(COUNTERS)}
