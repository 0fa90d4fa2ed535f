"""IPsec policies of the kernel, read by netlink (linux/xfrm.h): which datagrams it was told to protect."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

_NETLINK_XFRM = 6
_XFRM_MSG_GETPOLICY, _XFRM_MSG_NEWPOLICY = 21, 19
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_POLICY_ID_SIZE = 64
_SELECTOR = struct.Struct("!16s16sHHHHHBBB")
"""``struct xfrm_selector`` up to its protocol: addresses, ports with masks, family, prefix lengths, protocol."""
_POLICY_SIZE = 168
"""``struct xfrm_userpolicy_info``; its last bytes are direction, action, flags and share, padded to eight."""
_DIRECTION, _ACTION = 160, 161
_OUT, _ALLOW = 1, 0
_XFRMA_TMPL = 5
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class Policy:
    """What leaves this machine protected: IPv4 datagrams between two networks.

    Attributes:
        protocol: IP's number; 0 for all.
        port: UDP destination port; 0 for all.
    """

    source: IPv4Network
    destination: IPv4Network
    protocol: int
    port: int

    def covers(self, source: IPv4Address, destination: IPv4Address, port: int) -> bool:
        """Whether a UDP datagram from ``source`` to ``port`` of ``destination`` is to be protected."""
        return (
            source in self.source
            and destination in self.destination
            and self.protocol in (0, socket.IPPROTO_UDP)
            and self.port in (0, port)
        )


def policies() -> list[Policy]:
    """Those that transform outgoing IPv4; empty where the kernel has no IPsec, or does not let us look."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_XFRM) as netlink:
            length = _HEADER.size + _POLICY_ID_SIZE
            header = _HEADER.pack(length, _XFRM_MSG_GETPOLICY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
            netlink.send(header + bytes(_POLICY_ID_SIZE))
            return list(_answers(netlink))
    except OSError:
        return []


def _answers(netlink: socket.socket) -> Iterator[Policy]:
    while True:
        data = netlink.recv(1 << 16)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, _, _, _ = _HEADER.unpack_from(data, at)
            if kind in (_NLMSG_DONE, _NLMSG_ERROR) or length < _HEADER.size:
                return
            if kind == _XFRM_MSG_NEWPOLICY and (found := _policy(data[at + _HEADER.size : at + length])) is not None:
                yield found
            at += -(-length // 4) * 4


def _policy(body: bytes) -> Policy | None:
    destination, source, port, port_mask, _, _, _, destination_bits, source_bits, protocol = _SELECTOR.unpack_from(body)
    (family,) = struct.unpack_from("=H", body, 40)
    if family not in (0, socket.AF_INET) or (body[_DIRECTION], body[_ACTION]) != (_OUT, _ALLOW):
        return None
    if not _has_template(body):
        return None  # lets through as it is
    return Policy(
        IPv4Network((source[:4], source_bits), strict=False),
        IPv4Network((destination[:4], destination_bits), strict=False),
        protocol,
        port if port_mask else 0,
    )


def _has_template(body: bytes) -> bool:
    at = _POLICY_SIZE
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if kind == _XFRMA_TMPL:
            return True
        if length < _ATTRIBUTE.size:
            return False
        at += -(-length // 4) * 4
    return False
