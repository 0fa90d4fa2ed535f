"""What the tunnel's own datagrams look like, and where they may never go: into the tunnel."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from overlay.lab.namespace import call_inside
from tests.support.tunnels import Node, attached, gained, lost, nodes, peers_of, ping, running, until

pytestmark = pytest.mark.root

KINDS = pytest.mark.parametrize("kind", ["kernel", "userspace", "userspace-plain"])
EXPEDITED = 0xB8
"""RFC 3246's class of service (46), as the type-of-service byte."""
ETH_P_ALL = 3
PING_LENGTH = 20 + 8 + 84
"""Bytes of a ping's datagram, outer headers and all. The agents' own questions to their peers are shorter."""
CONGESTION = 0x01
"""An ECN bit of the same byte."""


@contextmanager
def outer_headers(node: Node) -> Iterator[list[bytes]]:
    """IP headers of the pings' datagrams that come to ``node`` meanwhile; the list is filled at the end."""
    seen: list[bytes] = []
    with call_inside(node.namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)) as tap:
        tap.bind((node.underlay, ETH_P_ALL))
        tap.setblocking(False)
        yield seen
        with suppress(BlockingIOError):
            while packet := tap.recv(1 << 16):
                ours = packet[9] == socket.IPPROTO_UDP and packet[16:20] == socket.inet_aton(node.address)
                if ours and int.from_bytes(packet[2:4]) == PING_LENGTH:
                    seen.append(packet[:20])


@KINDS
def test_class_of_service_is_copied_if_asked_for(kind: str) -> None:
    """DSCP alone: of congestion marks the far end would lose what a router says (RFC 6040, 4.3)."""
    with running((kind, "kernel")) as (first, second):
        assert lost(ping(first, second)) == 0
        for asked, expected in ((False, 0), (True, EXPEDITED), (False, 0)):
            first.configure(copy_dscp=asked)
            with outer_headers(second) as seen:
                for tos in (EXPEDITED | CONGESTION, 0, EXPEDITED | CONGESTION):
                    assert lost(ping(first, second, f"-c 1 -Q {tos}")) == 0
            assert [header[1] for header in seen] == [expected, 0, expected]


@KINDS
def test_a_peer_whose_address_lies_inside_the_overlay_does_not_nest_packets(kind: str) -> None:
    """Each datagram to it would be routed into the tunnel again, until it is too big."""
    with nodes(2) as (first, second):
        second.start(kind, peers=peers_of(second, (first, second)))
        first.start(kind, peers=peers_of(first, (first, second)))
        for node in (first, second):
            until(lambda node=node: kind != "kernel" or attached(node), "programs")  # type: ignore[misc]
        assert lost(ping(first, second)) == 0
        # Inside the very subnet that it holds, inside another peer's, and inside nobody's.
        for public_ip in ("10.0.9.9", second.pod_address, "10.0.77.1"):
            first.set_peers({"10.0.9.0/24": public_ip, second.subnet: second.address})
            until(lambda: "2 subnets" in first.status()["detail"] or kind != "kernel", "both peers")
            before = first.counters()
            with outer_headers(second) as seen:
                assert lost(first.in_pod("ping -q -c 3 -i 0.1 -W 1 10.0.9.2", check=False)) == 3
                assert lost(ping(first, second, "-c 1")) == 0
            sent, nested = gained(first, before, "tx_packets", "drop_tx_nested")
            assert len(seen) == 1, "the honest one"
            assert 3 <= nested <= 6, "the pings, and what the agent itself asks of a peer"
            assert sent <= nested + 1, "what the worker takes for sent comes back once, and no more"
