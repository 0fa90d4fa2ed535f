"""Bytes only: headers (``ip``, ``transport``, ``virtio``), ``checksum``, ``icmp`` answers, ``segment`` and
``coalesce``, ``fragment``; ``arrays`` headers of many packets at once; ``mtu`` every MTU and its arithmetic.

Everything here is a function over buffers, without descriptors, clocks or configuration; ``datapath`` owns those.
Addresses are integers, never ``ipaddress`` objects: these functions run per packet.
"""

from typing import TypeAlias

Bytes: TypeAlias = bytes | bytearray | memoryview
"""Any buffer that can be read."""

MutableBytes: TypeAlias = bytearray | memoryview
"""Any buffer that can be written in place; a ``memoryview`` must be of one."""
