"""Names of linux/udp.h, linux/in.h and asm-generic/socket.h that Python's socket module lacks."""

from __future__ import annotations

UDP_SEGMENT = 103
UDP_GRO = 104

IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
IP_RECVERR = 11

SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SO_ATTACH_REUSEPORT_CBPF = 51
