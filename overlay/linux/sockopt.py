"""Names of linux/udp.h, linux/in.h and asm-generic/socket.h that Python's socket module lacks."""

from __future__ import annotations

UDP_SEGMENT = 103
UDP_GRO = 104

IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
IP_RECVERR = 11

SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SO_ATTACH_FILTER = 26
SO_ATTACH_REUSEPORT_CBPF = 51

SO_MEMINFO = 55
SK_MEMINFO_DROPS = 8
"""Which 32-bit number of SO_MEMINFO counts what came and was not queued (linux/sock_diag.h)."""
