"""Can this kernel carry the tunnel? Found out by doing it, in a network namespace of its own.

Two TUN devices: one is ``flannel0``, the other stands for the underlay: who holds its descriptor is the wire. What is
sent into the first must come out of the second encapsulated, and its answer the other way round.

Silence is no answer: on a busy machine a packet is late, and a scratch namespace may lack what a node has. What says no
is the kernel, which refuses the programs, and the programs, which have counted why they could not.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from overlay.datapath.kernel import attach, fou
from overlay.datapath.kernel.attach import Attachment
from overlay.datapath.kernel.maps import Endpoint, read_counters, write_endpoint
from overlay.datapath.kernel.programs import OBJECT, Loaded, load
from overlay.errors import DatapathError, DeviceError, NodeError, OverlayError
from overlay.linux import libc, tun
from overlay.linux.libbpf import possible_cpus
from overlay.linux.netlink import Link, Netlink
from overlay.linux.routes import Route
from overlay.linux.shortage import is_shortage
from overlay.linux.tc import Hook, TrafficControl
from overlay.model import Peer, PeerTable
from overlay.packet.ip import with_checksum
from overlay.packet.mtu import UDP_ENCAPSULATION

_PATIENCE = 2.0
"""Seconds for one packet to go through; it takes microseconds."""
_LIMIT = 15.0
"""Seconds for everything."""

# Addresses that exist in the scratch namespace only; the outer ones are documentation's (RFC 5737).
_DEVICE, _UNDERLAY = "probe0", "probe1"
_NETWORK = IPv4Network("10.0.0.0/16")
_OWN, _FAR = IPv4Network("10.0.1.0/24"), IPv4Network("10.0.2.0/24")
_OWN_OUTER, _FAR_OUTER = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
_PORT = 8285
_MTU = 1472
_PAYLOAD = bytes(_MTU - UDP_ENCAPSULATION)
"""As large as fits: some kernels before 5.12 carry small packets only (``__bpf_skb_max_len``)."""

_NOT_OURS = {"slow_tx_not_ipv4", "slow_tx_no_peer", "slow_rx_options"}
"""Counters that also grow by what a new interface says of itself (IPv6's solicitations, IGMP), and by what is FOU's."""
_SOCKET_PORT = 8286
_UDP = struct.Struct("!HHHH")
_NO_OPERATIONS = b"\1\1\1\0"
"""IP options that say nothing (RFC 791): with them a packet is left to whoever has the port."""


@dataclass(frozen=True, slots=True)
class Way:
    """What is tried.

    Attributes:
        unwraps: puts in its place what is to unwrap packets from the underlay.
        options: IP options of the packet that is unwrapped.
    """

    unwraps: Callable[[Loaded, Link, TrafficControl], None]
    options: bytes = b""


class _UndecidedError(OverlayError):
    """The try came to no end, which is no fault of the kernel path."""


class Answer(Enum):
    """Whether the kernel path works here; ``UNKNOWN`` when this machine did not let us find out, this time."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """An answer and one line that says why."""

    answer: Answer
    reason: str


def probe(path: Path = OBJECT) -> ProbeResult:
    """Loads the programs, attaches them and sends a packet through, there and back. Blocks for about 50 ms.

    Nothing is left behind, and nothing of this namespace is touched.
    """
    return _in_scratch_namespace(path, Way(_unwraps_itself))


def probe_fou(path: Path = OBJECT) -> ProbeResult:
    """The same with the kernel's FOU on the way in, to which a packet is left."""
    return _in_scratch_namespace(path, Way(_unwraps_by_fou, _NO_OPERATIONS))


def _in_scratch_namespace(path: Path, way: Way) -> ProbeResult:
    result = [ProbeResult(Answer.UNKNOWN, f"no result within {_LIMIT:.0f} s")]

    def run() -> None:
        result[0] = _probe(path, way)

    # Only a thread's own network namespace changes; it ends with the thread, with all that was made in it.
    thread = threading.Thread(target=run, name="kernel-probe", daemon=True)
    thread.start()
    thread.join(_LIMIT)
    return result[0]


def _probe(path: Path, way: Way) -> ProbeResult:
    try:
        possible_cpus()  # or no counter could ever be read
        loaded = load(path, None)
    except (OverlayError, OSError) as error:
        return ProbeResult(Answer.UNKNOWN if is_shortage(error) else Answer.NO, str(error))
    try:
        try:
            libc.unshare(libc.CLONE_NEWNET)
        except OSError as error:
            cause = (
                f"programs load, but there is no namespace to try them in: {error.strerror} (CAP_SYS_ADMIN makes one)"
            )
            return ProbeResult(Answer.UNKNOWN, cause)
        _there_and_back(loaded, way)
    except DatapathError as error:
        return ProbeResult(Answer.UNKNOWN if is_shortage(error) else Answer.NO, str(error))
    except (OverlayError, OSError) as error:
        return ProbeResult(Answer.UNKNOWN, str(error))
    finally:
        loaded.close()
    return ProbeResult(Answer.YES, "a packet went through")


def _there_and_back(loaded: Loaded, way: Way) -> None:
    queues: list[int] = []
    try:
        for name in (_DEVICE, _UNDERLAY):
            queues.append(tun.open_queue(name, vnet_hdr=False))
        _attach(loaded, *_links(), way)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
            near.bind((str(_OWN.network_address), 0))
            far = (str(_FAR.network_address + 1), 9)
            near.sendto(_PAYLOAD, far)
            if (packet := _read_tunnelled(queues[1])) is None:
                raise _silence("a packet did not come out encapsulated", loaded)
            os.write(queues[1], _answer(packet, way.options))
            near.settimeout(_PATIENCE)
            try:
                received = near.recvfrom(1 << 16)
            except TimeoutError as error:
                raise _silence("a packet went out, but its answer did not come in", loaded) from error
            if received != (_PAYLOAD, far):
                raise DatapathError("a packet came in changed", about="eBPF")
    finally:
        for queue in queues:
            os.close(queue)


def _silence(what: str, loaded: Loaded) -> OverlayError:
    """What it means that a packet was waited for in vain."""
    counted = read_counters(loaded.counters)
    refused = [name for name, number in counted.items() if number and name.startswith(("drop_", "slow_"))]
    if reasons := [name.replace("_", " ") for name in refused if name not in _NOT_OURS]:
        return DatapathError(f"{what}: {', '.join(reasons)}", about="eBPF")
    return _UndecidedError(f"{what} within {_PATIENCE:.0f} s", about="eBPF")


def _links() -> tuple[Link, Link]:
    with Netlink() as netlink:
        found = [netlink.link(_DEVICE), netlink.link(_UNDERLAY)]
        device, underlay = found
        if device is None or underlay is None:
            raise DeviceError("vanished", about="TUN devices of the probe")
        netlink.set_link(device, mtu=_MTU, up=True)
        netlink.set_link(underlay, up=True)
        netlink.add_address(device, _OWN.network_address, 32)
        netlink.add_address(underlay, _OWN_OUTER, 32)
        netlink.add_route(Route(_NETWORK, device.index))
        netlink.add_route(Route(IPv4Network(_FAR_OUTER), underlay.index))
    # bpf_fib_lookup routes as if the packet had come from the device, which is forwarding.
    Path(f"/proc/sys/net/ipv4/conf/{_DEVICE}/forwarding").write_text("1")
    return device, underlay


def _attach(loaded: Loaded, device: Link, underlay: Link, way: Way) -> None:
    write_endpoint(loaded.endpoint, Endpoint(_OWN_OUTER, _PORT, _OWN, device.index, 0, socket=_SOCKET_PORT))
    loaded.peers.replace(PeerTable.of(_OWN, [Peer(_FAR, _FAR_OUTER)]))
    with TrafficControl() as tc:
        try:
            attach.ensure(tc, _DEVICE, Attachment(device, Hook.EGRESS, loaded.encap))
            way.unwraps(loaded, underlay, tc)
        except NodeError as error:
            raise DatapathError(str(error), about="eBPF") from error


def _unwraps_itself(loaded: Loaded, underlay: Link, tc: TrafficControl) -> None:
    attach.ensure(tc, _DEVICE, Attachment(underlay, Hook.INGRESS, loaded.decap_l3))


def _unwraps_by_fou(loaded: Loaded, underlay: Link, tc: TrafficControl) -> None:
    try:
        fou.set_up(fou.Stage(_DEVICE, _OWN_OUTER, _PORT), tc, loaded, [])
    except NodeError as error:
        raise DatapathError(str(error)) from error
    _unwraps_itself(loaded, underlay, tc)


def _read_tunnelled(underlay: int) -> bytes | None:
    """The first outer packet for the far end that the kernel sends to the underlay; None if there is none in time."""
    deadline = time.monotonic() + _PATIENCE
    # What is there counts, however late we come to look for it.
    while select.select([underlay], [], [], max(0.0, deadline - time.monotonic()))[0]:
        packet = os.read(underlay, 1 << 16)
        if packet[0] >> 4 == 4 and packet[16:20] == _FAR_OUTER.packed and packet[22:24] == struct.pack("!H", _PORT):
            return packet
    return None


def _answer(packet: bytes, options: bytes) -> bytes:
    """The same packet from the far end, with IP options: addresses and inner ports are swapped."""
    outer, inner, data = bytearray(packet[:20]), bytearray(packet[28:48]) + options, bytearray(packet[48:])
    length = len(inner) + len(data)
    inner[0] += len(options) // 4
    inner[2:4] = struct.pack("!H", length)
    outer[2:4] = struct.pack("!H", len(outer) + _UDP.size + length)
    for header in (outer, inner):
        header[12:16], header[16:20] = header[16:20], header[12:16]
    data[0:2], data[2:4] = data[2:4], data[0:2]
    udp = _UDP.pack(_PORT, _PORT, _UDP.size + length, 0)
    return b"".join((with_checksum(outer), udp, with_checksum(inner, len(inner)), data))
