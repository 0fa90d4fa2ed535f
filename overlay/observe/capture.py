"""The tunnel's packets on the underlay, outer and inner, as text; live or from a capture file.

flannel's udp format, on which all of this rests: the payload of the outer UDP datagram is the inner IP packet::

    | outer IP, 20 bytes | UDP, 8 bytes | inner IP packet … |

Sockets here are "cooked" (packet(7), SOCK_DGRAM): they begin with the IP header whatever the link is, Ethernet or not.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from overlay.errors import FileError, InterfaceError, PrivilegeError
from overlay.model import UDP_PORT


@contextmanager
def _no_home() -> Iterator[None]:
    """While it is imported, scapy makes directories in the user's home and reads and writes a cache there
    (scapy.main, scapy.data: by the variables of the XDG base directory specification): there is to be none."""
    places = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    before = {name: os.environ.get(name) for name in places}
    os.environ.update(dict.fromkeys(places, "/dev/null/none"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


with _no_home():
    from scapy.error import Scapy_Exception
    from scapy.layers.inet import ICMP, IP, TCP, UDP, UDPerror
    from scapy.packet import Packet
    from scapy.utils import PcapReader, RawPcapWriter

_LINKTYPE_RAW = 101
"""pcap's link type of packets that begin with their IP header (tcpdump.org/linktypes.html)."""

_ETH_P_ALL = 3
_SO_ATTACH_FILTER = 26
_SNAPSHOT_BYTES = 65535 + 64

_PACKET_OUTGOING = 4
"""<linux/if_packet.h>: the kind of packet that recvfrom names in the sender's address."""

_ICMP_ERRORS = frozenset({3, 5, 11, 12})
"""Destination unreachable, redirect, time exceeded, parameter problem (RFC 792): each quotes a packet."""
_PROTOCOLS = {4: "IPIP", 47: "GRE", 50: "ESP", 51: "AH", 132: "SCTP"}
"""Some of those that scapy's layers above would hide (IANA's protocol numbers)."""

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
        udp = IP(self.outer).payload
        return tuple(_split(bytes(udp.payload))) if isinstance(udp, UDP) else ()


class Listener:
    """A live capture of the datagrams that go to ``port`` by one interface, and of ICMP errors about such; a context
    manager."""

    def __init__(self, interface: str, port: int = UDP_PORT) -> None:
        """Begins to capture.

        Raises:
            PrivilegeError: no CAP_NET_RAW. InterfaceError: no such interface.
        """
        self._port, self._interface = port, interface
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        except PermissionError as error:
            raise PrivilegeError("needs CAP_NET_RAW", about="capture", remedy="run it as root") from error
        try:
            _attach(self._socket, port)
            self._socket.bind((interface, _ETH_P_ALL))
        except (OSError, UnicodeEncodeError) as error:
            self._socket.close()
            cause = "does not exist"
            if isinstance(error, OSError) and error.errno != errno.ENODEV:
                cause = str(error.strerror)
            raise InterfaceError(
                cause, about=f"interface {interface}", remedy="name the underlay's interface"
            ) from error

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def packets(self, timeout: float | None = None) -> Iterator[Captured]:
        """Packets as they come, until none came for ``timeout`` seconds. Raises InterfaceError: it went down."""
        self._socket.settimeout(timeout)
        while True:
            try:
                data, sender = self._socket.recvfrom(_SNAPSHOT_BYTES)
            except TimeoutError:
                return
            except OSError as error:  # it was set down, or removed
                raise InterfaceError(
                    error.strerror or str(error),
                    about=f"interface {self._interface}",
                    remedy="start again once it is up",
                ) from error
            if _is_about(IP(data), self._port):
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
                if ip is not None and _is_about(ip, port):
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
    if isinstance(outer.payload, ICMP):
        inside = " ".join(_transport(outer))
    else:
        inside = _brief(IP(packets[0])) if packets else f"no inner packet ({len(captured.outer)} bytes)"
    more = f", and {len(packets) - 1} more (segmentation offload)" if len(packets) > 1 else ""
    return f"{when} {captured.direction.value:3} {outer.src} > {outer.dst} | {inside}{more}"


def decode(captured: Captured) -> list[str]:
    """Several lines: the fields of the outer and of the first inner packet that matter, layer by layer."""
    outer = IP(captured.outer)
    rows = [("outer", "IP", _ip_fields(outer))]
    if isinstance(udp := outer.payload, UDP):
        checksum = f"checksum {udp.chksum:#06x}" if udp.chksum else "no checksum (RFC 768)"
        rows.append(("", "UDP", f"{udp.sport} → {udp.dport}  length {udp.len}  {checksum}"))
    else:
        rows.append(("", *_transport(outer)))
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


def _is_about(ip: Packet, port: int) -> bool:
    """Whether it is a datagram to ``port``, or an ICMP error that quotes one: by the direct payload alone."""
    if ip.frag:
        return False
    match ip.payload:
        case UDP():
            return bool(ip.payload.dport == port)
        case ICMP() if ip.payload.type in _ICMP_ERRORS:
            return (quoted := _quoted(ip.payload)) is not None and quoted.payload.dport == port
    return False


def _quoted(icmp: Packet) -> Packet | None:
    """The datagram that an ICMP error is about (RFC 792: its IP header, eight bytes more); None if it quotes none."""
    quoted = IP(bytes(icmp.payload)) if len(icmp.payload) >= 28 else None
    return quoted if quoted is not None and isinstance(quoted.payload, UDP | UDPerror) else None


def _ip_fields(ip: Packet) -> str:
    flags = "  don't fragment" if "DF" in str(ip.flags) else ""
    return f"{ip.src} → {ip.dst}  ttl {ip.ttl}  length {ip.len}{flags}"


def _transport(ip: Packet) -> tuple[str, str]:
    """Name and fields of what ``ip`` carries itself, not of what that may carry in turn."""
    layer, fields = _direct(ip)
    if "MF" in str(ip.flags) and not ip.frag:
        return layer, f"{fields}  the first fragment, {len(ip.payload)} bytes of more"
    return layer, fields


def _direct(ip: Packet) -> tuple[str, str]:
    if ip.frag:
        return f"#{ip.proto}", f"a later fragment, from byte {ip.frag * 8}"
    match carried := ip.payload:
        case ICMP():
            return "ICMP", _icmp_fields(carried)
        case TCP() | UDP():
            header = (carried.dataofs or 0) * 4 if isinstance(carried, TCP) else 8
            size = max(0, ip.len - ip.ihl * 4 - header)
            flags = f"  flags {carried.flags}  seq {carried.seq}" if isinstance(carried, TCP) else ""
            return type(carried).__name__, f"{carried.sport} → {carried.dport}{flags}  {size} bytes"
    return _PROTOCOLS.get(ip.proto, f"#{ip.proto}"), f"{len(carried)} bytes"


def _icmp_fields(icmp: Packet) -> str:
    kind = str(icmp.sprintf("%ICMP.type%")).replace("-", " ")
    if icmp.type in (0, 8):
        return f"{kind}  id {icmp.id}  sequence {icmp.seq}"
    fields = f"{kind} {icmp.code}"
    if (icmp.type, icmp.code) == (3, 4):
        fields += f"  MTU {icmp.nexthopmtu}"
    if icmp.type in _ICMP_ERRORS and (quoted := _quoted(icmp)) is not None:
        fields += f"  about {quoted.src} → {quoted.dst} port {quoted.payload.dport}"
    return fields


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
    """IPv4, no later fragment, UDP to ``port`` or any ICMP; offsets from the IP header (networking/filter.rst)."""
    accept, reject = 10, 11
    jump_equal, jump_set = 0x15, 0x45
    instructions = (
        (0x28, 0, 0, _SKF_AD_PROTOCOL),  # 0: ldh protocol
        (jump_equal, 0, reject - 2, 0x0800),
        (0x28, 0, 0, 6),  # 2: ldh [6], flags and fragment offset
        (jump_set, reject - 4, 0, 0x1FFF),
        (0x30, 0, 0, 9),  # 4: ldb [9], the IP protocol
        (jump_equal, accept - 6, 0, socket.IPPROTO_ICMP),
        (jump_equal, 0, reject - 7, socket.IPPROTO_UDP),
        (0xB1, 0, 0, 0),  # 7: ldxb 4 * ([0] & 0xf), the header's length
        (0x48, 0, 0, 2),  # 8: ldh [x + 2], the destination port
        (jump_equal, accept - 10, reject - 10, port),
        (0x06, 0, 0, 0x40000),  # 10: ret, the whole packet
        (0x06, 0, 0, 0),  # 11: ret, nothing
    )
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
