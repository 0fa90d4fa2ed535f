"""Traffic that goes on whatever happens, and knows each packet: ``python -m tests.support.steady send | receive``.

``send ADDRESS PORT`` sends trains of datagrams as QUIC does, one every 10 ms, and prints each train's first number, how
many there were, and when it was sent. ``receive PORT`` prints ``ready``, then what came, by number. Both end at SIGINT.
Times are seconds of the monotonic clock, which all namespaces share.
"""

from __future__ import annotations

import json
import random
import select
import signal
import socket
import struct
import sys
import time

UDP_SEGMENT, SO_RCVBUFFORCE = 103, 33
PAUSE = 0.01
"""Seconds between two trains."""
LONGEST, SIZES = 8, (60, 300, 1200, 1400)
"""Datagrams of a train, and bytes of each."""
_NUMBER = struct.Struct("!Q")
NOISE = random.Random(0).randbytes(2048)


def content(number: int, size: int) -> bytes:
    """No two have the same, and each can be checked alone."""
    return _NUMBER.pack(number) + NOISE[number % 500 : number % 500 + size - _NUMBER.size]


def interrupted() -> list[int]:
    """Empty until SIGINT."""
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    return seen


def send(address: str, port: int) -> list[tuple[int, int, float]]:
    """Trains that the kernel took."""
    chance, sent, number, stopped = random.Random(port), [], 0, interrupted()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        while not stopped:
            now = time.monotonic()
            count, size = chance.randint(1, LONGEST), chance.choice(SIZES)
            train = b"".join(content(number + at, size) for at in range(count))
            segment = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))] if count > 1 else []
            try:
                udp.sendmsg([train], segment, 0, (address, port))
            except OSError:
                pass  # the sender is told: nothing is lost
            else:
                sent.append((number, count, now))
            number += count
            time.sleep(PAUSE)
    return sent


def receive(port: int) -> dict[str, object]:
    """Ranges of the numbers that came, how many came twice, and how many were not as they were sent."""
    stopped = interrupted()
    seen: set[int] = set()
    doubled = wrong = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        udp.bind(("0.0.0.0", port))
        print("ready", flush=True)
        while not stopped:
            if not select.select([udp], [], [], 0.1)[0]:
                continue
            data = udp.recv(1 << 16)
            number = _NUMBER.unpack_from(data)[0] if len(data) >= _NUMBER.size else -1
            if number < 0 or data != content(number, len(data)):
                wrong += 1
            elif number in seen:
                doubled += 1
            else:
                seen.add(number)
    return {"ranges": ranges(seen), "doubled": doubled, "wrong": wrong}


def ranges(numbers: set[int]) -> list[tuple[int, int]]:
    """As (first, last + 1)."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found


if __name__ == "__main__":
    if sys.argv[1] == "send":
        print(json.dumps(send(sys.argv[2], int(sys.argv[3]))))
    else:
        print(json.dumps(receive(int(sys.argv[2]))))
