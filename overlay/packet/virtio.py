"""The header before each packet of a TUN queue with IFF_VNET_HDR (linux/virtio_net.h, ``struct virtio_net_hdr``).

::

    flags 1 | gso_type 1 | hdr_len 2 | gso_size 2 | csum_start 2 | csum_offset 2     10 bytes, the machine's order

It says what is unfinished about the packet: a checksum of which only the pseudo-header is summed (NEEDS_CSUM; its
field is at ``csum_start + csum_offset``, and everything from ``csum_start`` on is to be summed), and a payload that
is still to be cut into segments of ``gso_size`` bytes.
"""

from __future__ import annotations

import struct

LENGTH = 10
CODEC = struct.Struct("=BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""

NEEDS_CSUM = 1
DATA_VALID = 2

GSO_NONE = 0
GSO_TCPV4 = 1
GSO_UDP_L4 = 5
GSO_ECN = 0x80
"""Added to a TCP type: the first segment alone carries CWR."""

FINISHED = bytes(LENGTH)
"""The header of a packet with nothing left to do."""
