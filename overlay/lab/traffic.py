"""Packets through a lab: pings and TCP transfers, and what came of them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from overlay.errors import LabError
from overlay.lab.namespace import call_inside
from overlay.lab.process import poll
from overlay.lab.shell import inside, run

IPERF_PORT = 5201
_CHUNK = bytes(256 * 1024)
_CONNECT_SECONDS = 5.0
_LISTEN_SECONDS = 10.0

PATIENCE = 15.0
"""Seconds beyond its own that a measurement may take: iperf3 waits for the last packets, and for its peer's report."""

_TCP_TABLES = (Path("/proc/thread-self/net/tcp"), Path("/proc/thread-self/net/tcp6"))
_TCP_STATE = 3
_LISTEN = "0A"
"""TCP_LISTEN in hexadecimal, as proc(5)'s net/tcp shows it (<net/tcp_states.h>)."""

_COUNTS = re.compile(r"(\d+) packets transmitted, (\d+) received")
_TIMES = re.compile(r"= ([\d.]+)/([\d.]+)/([\d.]+)/")
_TTL = re.compile(r"ttl=(\d+)")


@dataclass(frozen=True, slots=True)
class Ping:
    """What ping(8) found.

    Attributes:
        sent: packets.
        received: answers.
        rtt_ms: the mean round trip in milliseconds; None where none came back.
        ttl: of the last answer as it arrived; None where none came back.
    """

    sent: int
    received: int
    rtt_ms: float | None
    ttl: int | None

    @property
    def complete(self) -> bool:
        """Whether every packet came back."""
        return 0 < self.sent == self.received

    @classmethod
    def parse(cls, output: str) -> Ping:
        """Reads iputils-ping's output. Raises LabError if it has no summary."""
        counts, times, ttls = _COUNTS.search(output), _TIMES.search(output), _TTL.findall(output)
        if counts is None:
            raise LabError(output.strip().splitlines()[-1] if output.strip() else "no output", about="ping")
        return cls(int(counts[1]), int(counts[2]), float(times[2]) if times else None, int(ttls[-1]) if ttls else None)


def ping(
    namespace: str,
    target: IPv4Address,
    *,
    count: int = 1,
    interval: float = 0.2,
    patience: float = 2.0,
    size: int = 56,
    fragment: bool = True,
) -> Ping:
    """Pings ``target`` from a namespace.

    Args:
        count: packets.
        interval: seconds between them.
        patience: seconds to wait for the answer to the last one.
        size: bytes of ICMP payload; the inner IP packet has 28 more.
        fragment: False sets "don't fragment", and takes no notice of a known path MTU.
    """
    argv = ["ping", "-n", "-c", str(count), "-i", str(interval), "-W", str(patience), "-s", str(size)]
    argv += [] if fragment else ["-M", "probe"]
    done = run([*argv, str(target)], namespace=namespace, check=False, timeout=count * interval + patience * 2 + 30)
    return Ping.parse(done.stdout + done.stderr)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One TCP transfer: bytes that arrived, and how long that took, in seconds."""

    received: int
    seconds: float
    retransmits: int = 0

    @property
    def gigabits(self) -> float:
        """The rate in Gbit/s."""
        return self.received * 8 / self.seconds / 1e9 if self.seconds else 0.0


@contextlib.contextmanager
def serving(namespace: str, port: int, *argv: str) -> Iterator[None]:
    """A server in a namespace for the length of a ``with`` statement, which begins once it listens on TCP ``port``.

    Raises:
        LabError: it ends, or does not listen in time.
    """
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(inside(namespace, argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            if not poll(lambda: process.poll() is not None or listens(namespace, port), _LISTEN_SECONDS):
                raise LabError(f"does not listen on port {port}", about=f"{argv[0]} in {namespace}")
            if process.poll() is not None:
                log.seek(0)
                words = log.read().strip().splitlines()
                raise LabError(words[-1] if words else "ended", about=f"{argv[0]} in {namespace}")
            yield
        finally:
            process.kill()
            process.wait()


def listens(namespace: str, port: int) -> bool:
    """Whether anything in a namespace listens on this TCP port, of IPv4 or of both."""
    tables = call_inside(namespace, lambda: [path.read_text() for path in _TCP_TABLES if path.exists()])
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return any(row[_TCP_STATE] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port for row in rows)


def iperf_server(namespace: str) -> contextlib.AbstractContextManager[None]:
    """``iperf3 -s``, for any number of transfers one after the other."""
    return serving(namespace, IPERF_PORT, "iperf3", "-s", "-p", str(IPERF_PORT))


def iperf(namespace: str, target: IPv4Address, *, seconds: float, flows: int = 1) -> Transfer:
    """TCP from a namespace to the iperf3 server at ``target``. Raises LabError if it cannot get there."""
    argv = ["iperf3", "-c", str(target), "-p", str(IPERF_PORT), "-t", f"{seconds:g}", "-P", str(flows), "-J"]
    document = iperf_document(run(argv, namespace=namespace, check=False, timeout=seconds + PATIENCE).stdout)
    received, sent = document["end"]["sum_received"], document["end"]["sum_sent"]
    return Transfer(int(received["bytes"]), received["seconds"], int(sent.get("retransmits", 0)))


def iperf_document(output: str) -> dict[str, dict[str, dict[str, float]]]:
    """iperf3's JSON. Raises LabError with iperf3's own complaint."""
    try:
        document: dict[str, dict[str, dict[str, float]]] = json.loads(output)
    except ValueError as error:
        raise LabError(f"said {output.strip()[:80]!r}", about="iperf3") from error
    if "error" in document:
        raise LabError(str(document["error"]), about="iperf3")
    return document


def transfer(source: str, target: str, address: IPv4Address, *, seconds: float) -> Transfer:
    """TCP from one namespace to ``address`` in another for a while: by iperf3 where it is installed, else our own.

    Raises:
        LabError: no connection.
    """
    if shutil.which("iperf3"):
        with iperf_server(target):
            return iperf(source, address, seconds=seconds)
    return _own_transfer(source, target, address, seconds)


def _own_transfer(source: str, target: str, address: IPv4Address, seconds: float) -> Transfer:
    """As iperf3 does it, in two threads; Python's sockets are fast enough with large buffers."""
    listener = call_inside(target, lambda: socket.create_server((str(address), 0)))
    port = listener.getsockname()[1]
    outcome: list[Transfer] = []

    def receive() -> None:
        listener.settimeout(_CONNECT_SECONDS)
        connection, _ = listener.accept()
        with connection:
            buffer, total, start = bytearray(len(_CHUNK)), 0, time.monotonic()
            while count := connection.recv_into(buffer):
                total += count
            outcome.append(Transfer(total, time.monotonic() - start))

    def send() -> None:
        with socket.create_connection((str(address), port), timeout=_CONNECT_SECONDS) as connection:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                connection.sendall(_CHUNK)

    with listener:
        receiver = threading.Thread(target=receive)
        receiver.start()
        try:
            call_inside(source, send)
        except OSError as error:
            raise LabError(error.strerror or str(error), about=f"TCP from {source} to {address}") from error
        finally:
            receiver.join()
    return outcome[0]
