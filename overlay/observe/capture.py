"""The tunnel's packets on the underlay, outer and inner, as text; live or from a capture file.

flannel's udp format, on which all of this rests: the payload of the outer UDP datagram is the inner IP packet::

    | outer IP, 20 bytes | UDP, 8 bytes | inner IP packet … |

Sockets here are "cooked" (packet(7), SOCK_DGRAM): they begin with the IP header whatever the link is, Ethernet or not.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from scapy.error import Scapy_Exception
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Packet
from scapy.utils import PcapReader, RawPcapWriter

from overlay.errors import FileError, InterfaceError, PrivilegeError
from overlay.model import UDP_PORT

_LINKTYPE_RAW = 101
"""pcap's link type of packets that begin with their IP header (tcpdump.org/linktypes.html)."""

_ETH_P_ALL = 3
_SO_ATTACH_FILTER = 26
_SNAPSHOT_BYTES = 65535 + 64

_PACKET_OUTGOING = 4
"""<linux/if_packet.h>: the kind of packet that recvfrom names in the sender's address."""

_SKF_AD_PROTOCOL = 0xFFFFF000
"""<linux/filter.h>: SKF_AD_OFF + SKF_AD_PROTOCOL, the packet's EtherType wherever its link keeps that."""


class Direction(Enum):
    """Which way a packet went, seen from the interface; a file does not tell."""

    IN = "in"
    OUT = "out"
    UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Captured:
    """One outer packet.

    Attributes:
        seconds: since the epoch.
        outer: from its IP header on. With segmentation offload the kernel shows us one for many datagrams.
        direction: which way it went.
    """

    seconds: float
    outer: bytes
    direction: Direction = Direction.UNKNOWN

    @property
    def inner(self) -> tuple[bytes, ...]:
        """The inner packets: one, or several where offload had them cross this point as one."""
        udp = IP(self.outer).getlayer(UDP)
        return tuple(_split(bytes(udp.payload))) if udp is not None else ()


class Listener:
    """A live capture of the datagrams that go to ``port`` by one interface; a context manager."""

    def __init__(self, interface: str, port: int = UDP_PORT) -> None:
        """Begins to capture.

        Raises:
            PrivilegeError: no CAP_NET_RAW. InterfaceError: no such interface.
        """
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        except PermissionError as error:
            raise PrivilegeError("needs CAP_NET_RAW", about="capture", remedy="run it as root") from error
        try:
            _attach(self._socket, port)
            self._socket.bind((interface, _ETH_P_ALL))
        except OSError as error:
            self._socket.close()
            cause = "does not exist" if error.errno == errno.ENODEV else str(error.strerror)
            raise InterfaceError(
                cause, about=f"interface {interface}", remedy="name the underlay's interface"
            ) from error

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def packets(self, timeout: float | None = None) -> Iterator[Captured]:
        """Packets as they come, until none came for ``timeout`` seconds."""
        self._socket.settimeout(timeout)
        while True:
            try:
                data, sender = self._socket.recvfrom(_SNAPSHOT_BYTES)
            except TimeoutError:
                return
            yield Captured(time.time(), data, Direction.OUT if sender[2] == _PACKET_OUTGOING else Direction.IN)


def read(path: Path, port: int = UDP_PORT) -> Iterator[Captured]:
    """The tunnel's packets in a pcap or pcapng file of any link type; others are passed over.

    Raises:
        FileError: it is missing or no capture.
    """
    try:
        with PcapReader(str(path)) as reader:
            for packet in reader:
                ip = packet.getlayer(IP)
                if ip is not None and ip.frag == 0 and UDP in ip and ip[UDP].dport == port:
                    yield Captured(float(packet.time), bytes(ip))
    except (OSError, Scapy_Exception) as error:
        raise FileError(str(error), about=f"capture file {path}", remedy="give a pcap or pcapng file") from error


class Writer:
    """A pcap file to which captured packets are added; a context manager."""

    def __init__(self, path: Path) -> None:
        """Begins the file anew. Raises FileError where that cannot be."""
        try:
            self._writer = RawPcapWriter(str(path), linktype=_LINKTYPE_RAW, sync=True)
            self._writer.write_header(None)
        except OSError as error:
            raise FileError(error.strerror or str(error), about=f"cannot write {path}") from error

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, captured: Captured) -> None:
        seconds = int(captured.seconds)
        self._writer.write_packet(captured.outer, sec=seconds, usec=int((captured.seconds - seconds) * 1e6))


def summary(captured: Captured) -> str:
    """One line: when, which way, between which nodes, and what is inside."""
    outer = IP(captured.outer)
    when = time.strftime("%H:%M:%S", time.localtime(captured.seconds)) + f"{captured.seconds % 1:.6f}"[1:]
    packets = captured.inner
    inside = _brief(IP(packets[0])) if packets else f"no inner packet ({len(captured.outer)} bytes)"
    more = f", and {len(packets) - 1} more (segmentation offload)" if len(packets) > 1 else ""
    return f"{when} {captured.direction.value:3} {outer.src} > {outer.dst} | {inside}{more}"


def decode(captured: Captured) -> list[str]:
    """Several lines: the fields of the outer and of the first inner packet that matter, layer by layer."""
    outer = IP(captured.outer)
    rows = [("outer", "IP", _ip_fields(outer))]
    if UDP in outer:
        checksum = f"checksum {outer[UDP].chksum:#06x}" if outer[UDP].chksum else "no checksum (RFC 768)"
        rows.append(("", "UDP", f"{outer[UDP].sport} → {outer[UDP].dport}  length {outer[UDP].len}  {checksum}"))
    for number, packet in enumerate(captured.inner):
        if number == 1:
            rows.append(("", "", f"and {len(captured.inner) - 1} more packets like it: segmentation offload"))
            break
        inner = IP(packet)
        rows += [("inner", "IP", _ip_fields(inner)), ("", *_transport(inner))]
    return [f"{where:6} {layer:4}  {fields}".rstrip() for where, layer, fields in rows]


def _split(payload: bytes) -> Iterator[bytes]:
    """Inner packets by their own total lengths; what does not look like one ends it.

    The last may be shorter than it says: capture files often hold only the beginning of each packet.
    """
    while len(payload) >= 20 and payload[0] >> 4 == 4:
        length = int.from_bytes(payload[2:4], "big")
        if length < 20:
            return
        yield payload[:length]
        payload = payload[length:]


def _ip_fields(ip: Packet) -> str:
    flags = "  don't fragment" if "DF" in str(ip.flags) else ""
    return f"{ip.src} → {ip.dst}  ttl {ip.ttl}  length {ip.len}{flags}"


def _transport(ip: Packet) -> tuple[str, str]:
    if ip.frag:
        return f"#{ip.proto}", f"a later fragment, from byte {ip.frag * 8}"
    if ICMP in ip:
        icmp = ip[ICMP]
        kind = str(icmp.sprintf("%ICMP.type%")).replace("-", " ")
        return "ICMP", f"{kind}  id {icmp.id}  sequence {icmp.seq}" if icmp.type in (0, 8) else f"{kind} {icmp.code}"
    for layer in (TCP, UDP):
        if layer in ip:
            ports = f"{ip[layer].sport} → {ip[layer].dport}"
            header = ip[layer].dataofs * 4 if layer is TCP else 8
            size = ip.len - ip.ihl * 4 - header
            flags = f"  flags {ip[layer].flags}  seq {ip[layer].seq}" if layer is TCP else ""
            return layer.__name__, f"{ports}{flags}  {size} bytes"
    return f"#{ip.proto}", f"{len(ip.payload)} bytes"


def _brief(ip: Packet) -> str:
    layer, fields = _transport(ip)
    return f"{ip.src} > {ip.dst} ttl {ip.ttl} {layer} {fields}"


def _attach(listener: socket.socket, port: int) -> None:
    """A classic BPF program in the kernel, so that only the tunnel's packets wake us."""
    program = _filter(port)
    code = ctypes.create_string_buffer(program, len(program))
    listener.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program) // 8, ctypes.addressof(code))
    )


def _filter(port: int) -> bytes:
    """IPv4, UDP, no later fragment, to ``port``; offsets from the IP header (networking/filter.rst in the kernel)."""
    accept, reject = 9, 10
    jump_equal, jump_set = 0x15, 0x45
    instructions = (
        (0x28, 0, 0, _SKF_AD_PROTOCOL),  # 0: ldh protocol
        (jump_equal, 0, reject - 2, 0x0800),
        (0x30, 0, 0, 9),  # 2: ldb [9], the IP protocol
        (jump_equal, 0, reject - 4, socket.IPPROTO_UDP),
        (0x28, 0, 0, 6),  # 4: ldh [6], flags and fragment offset
        (jump_set, reject - 6, 0, 0x1FFF),
        (0xB1, 0, 0, 0),  # 6: ldxb 4 * ([0] & 0xf), the header's length
        (0x48, 0, 0, 2),  # 7: ldh [x + 2], the destination port
        (jump_equal, accept - 9, reject - 9, port),
        (0x06, 0, 0, 0x40000),  # 9: ret, the whole packet
        (0x06, 0, 0, 0),  # 10: ret, nothing
    )
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
