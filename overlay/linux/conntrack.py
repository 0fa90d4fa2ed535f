"""The kernel's table of flows (nf_conntrack), by netlink: listed, and entries deleted. IPv4's UDP alone."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from overlay.linux.pyroute import NetlinkError, NFCTAttrTuple, NFCTSocket
from overlay.linux.routes import refusal


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow of UDP as its first packet was sent, and from where it is answered."""

    source: str
    source_port: int
    destination: str
    port: int
    answered_from: str
    answered_port: int


def udp_flows() -> list[Flow]:
    """All that this network namespace follows. Raises NodeError, PrivilegeError."""
    with NFCTSocket() as conntrack:
        try:
            wanted = NFCTAttrTuple(proto=socket.IPPROTO_UDP)
            return [flow for message in conntrack.dump(tuple_orig=wanted) if (flow := _flow(message)) is not None]
        except NetlinkError as error:
            raise refusal(error.code, str(error.args[-1]), "the table of flows") from error


def delete(flows: Iterable[Flow]) -> int:
    """Deletes flows, so that their next packets are looked at anew; how many there still were. Raises as above."""
    deleted = 0
    with NFCTSocket() as conntrack:
        for flow in flows:
            original = NFCTAttrTuple(
                saddr=flow.source, daddr=flow.destination, proto=socket.IPPROTO_UDP,
                sport=flow.source_port, dport=flow.port,
            )  # fmt: skip
            try:
                conntrack.entry("del", tuple_orig=original)
                deleted += 1
            except NetlinkError as error:
                if error.code != errno.ENOENT:
                    raise refusal(error.code, str(error.args[-1]), "the table of flows") from error
    return deleted


def _flow(message: Any) -> Flow | None:
    original, reply = message.get_attr("CTA_TUPLE_ORIG"), message.get_attr("CTA_TUPLE_REPLY")
    if original is None or reply is None:
        return None
    (source, destination), (answering, _) = _addresses(original), _addresses(reply)
    (protocol, source_port, port), (_, answered_port, _) = _ports(original), _ports(reply)
    if protocol != socket.IPPROTO_UDP or None in (source, destination, answering, source_port, port, answered_port):
        return None
    return Flow(source, source_port, destination, port, answering, answered_port)


def _addresses(side: Any) -> tuple[Any, Any]:
    found = side.get_attr("CTA_TUPLE_IP")
    return (None, None) if found is None else (found.get_attr("CTA_IP_V4_SRC"), found.get_attr("CTA_IP_V4_DST"))


def _ports(side: Any) -> tuple[Any, Any, Any]:
    found = side.get_attr("CTA_TUPLE_PROTO")
    if found is None:
        return None, None, None
    names = ("CTA_PROTO_NUM", "CTA_PROTO_SRC_PORT", "CTA_PROTO_DST_PORT")
    number, source_port, port = map(found.get_attr, names)
    return number, source_port, port
