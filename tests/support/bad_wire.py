"""A bad wire between two interfaces of one namespace: ``python -m tests.support.bad_wire A B LOSS DUPLICATES SWAPS``.

The last three are percentages of frames: lost, sent twice, and held back until the next two have passed. Frames cross
at the size they have, so the senders must not leave segmentation or checksums to the interface.
"""

from __future__ import annotations

import random
import select
import socket
import sys

ETH_P_ALL = 0x0003
OUTGOING = 4
"""PACKET_OUTGOING: what this process sent itself."""
FLUSH_AFTER = 0.01
"""Seconds after which held frames go on though none followed."""


def forward(data: bytes, port: socket.socket, held: list[tuple[int, bytes]], percent: tuple[float, ...]) -> None:
    """Sends one frame on, or not, or twice, or later."""
    loss, duplicates, swaps = percent
    chance = random.random() * 100
    if chance >= loss:
        if chance < loss + swaps:
            held.append((2, data))
            return
        port.send(data)
        if chance < loss + swaps + duplicates:
            port.send(data)
    for number, (left, frame) in enumerate(list(held)):
        held[number] = (left - 1, frame)
    while held and held[0][0] <= 0:
        port.send(held.pop(0)[1])


def main(names: list[str], percent: tuple[float, ...]) -> None:
    """Forwards until killed."""
    ports = []
    for name in names:
        port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        port.bind((name, ETH_P_ALL))
        port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        ports.append(port)
    other = {ports[0]: ports[1], ports[1]: ports[0]}
    held: dict[socket.socket, list[tuple[int, bytes]]] = {port: [] for port in ports}
    print("up", flush=True)
    while True:
        ready, _, _ = select.select(ports, [], [], FLUSH_AFTER)
        for port in ready:
            data, address = port.recvfrom(65536)
            if address[2] != OUTGOING:
                forward(data, other[port], held[port], percent)
        if not ready:
            for port in ports:
                while held[port]:
                    other[port].send(held[port].pop(0)[1])


if __name__ == "__main__":
    main(sys.argv[1:3], tuple(float(word) for word in sys.argv[3:6]))
