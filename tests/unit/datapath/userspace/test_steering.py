"""One flow, one worker: the arithmetic, and the same in the kernel's hands."""

from __future__ import annotations

import itertools
import re
import socket
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.datapath import kernel
from overlay.datapath.userspace.sockets import open_sockets
from overlay.datapath.userspace.steering import (
    FLOW_PORTS,
    MAX_TRIES,
    MAX_WORKERS,
    deafen,
    queue_for,
    source_ports,
    worker_for,
)
from overlay.errors import InterfaceError, PortInUseError
from overlay.linux.sockopt import IP_RECVERR
from tests.support.admission import ipv4

PORT = 8285


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_the_workers_of_one_node_reach_all_workers_of_another(workers: int, address: int) -> None:
    ports = [next(source_ports(PORT, worker)) for worker in range(1, workers + 1)]
    if address + PORT + workers + 1 < 2**32:
        assert len({worker_for(address, port, workers) for port in ports}) == workers


def test_no_worker_sends_from_a_port_of_flows() -> None:
    """Of any tunnel port: a kernel datapath at the other end would take the worker for another kernel."""
    for port in range(1, 0x10000):
        for worker in range(1, MAX_WORKERS + 1):
            candidate = next(source_ports(port, worker))
            if not 1024 <= candidate < FLOW_PORTS or candidate == port:
                pytest.fail(f"worker {worker} of port {port} sends from {candidate}")


def test_the_ports_next_to_the_tunnels_are_left_to_other_networks() -> None:
    for port in (1024, 8285, 8472, 30000, 65000):
        firsts = {next(source_ports(port, worker)) for worker in range(1, MAX_WORKERS + 1)}
        assert firsts.isdisjoint(range(port, port + 64))


@pytest.mark.parametrize("port", [1, 1023, 1024, 2111, 2112, 8285, 32768, 49088, 49151, 49152, 50000, 65472, 65535])
def test_source_ports(port: int) -> None:
    taken: set[int] = set()
    for worker in range(1, MAX_WORKERS + 1):
        candidates = list(source_ports(port, worker))
        assert len(set(candidates)) == MAX_TRIES
        assert min(candidates) >= 1024
        assert max(candidates) < FLOW_PORTS
        assert port not in candidates
        assert taken.isdisjoint(candidates), "each is tried by one worker only"
        taken.update(candidates)


def test_around_the_end_too_the_workers_reach_different_ones() -> None:
    for workers in range(2, 9):
        for port in (*range(1, 3000), *range(45000, 0x10000)):
            ports = [next(source_ports(port, worker)) for worker in range(1, workers + 1)]
            if len({worker_for(0, each, workers) for each in ports}) != workers:
                pytest.fail(f"{workers} workers of port {port} send from {ports}")


def test_the_ports_of_flows_are_the_kernel_datapaths() -> None:
    source = (Path(kernel.__file__).parent / "overlay.bpf.c").read_text()
    assert re.findall(r"^#define FLOW_PORTS\s+(0x[0-9a-f]+)", source, re.MULTILINE) == [f"{FLOW_PORTS:#x}"]


@given(
    st.sampled_from((1, 6, 17, 253)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from((0, 0x4000, 0x2000, 0x0001)),
    st.binary(max_size=8),
)
def test_both_directions_and_all_fragments_have_one_queue(
    protocol: int, source: int, destination: int, fragment: int, payload: bytes
) -> None:
    def queue(a: int, b: int, data: bytes, field: int) -> int:
        return queue_for(
            ipv4(str(IPv4Address(a)), str(IPv4Address(b)), protocol=protocol, payload=data, fragment=field)
        )

    ports = payload.ljust(4, b"\0")
    swapped = ports[2:4] + ports[:2]
    assert queue(source, destination, ports, fragment) == queue(destination, source, swapped, fragment)
    assert queue(source, destination, ports, 0x2000) == queue(source, destination, swapped + ports, 0x0001)


def test_flows_are_spread() -> None:
    for workers in (2, 3, 4, 8):
        counts = [0] * workers
        for port in range(40000, 40800, 2):
            packet = ipv4("10.0.1.2", "10.0.2.2", protocol=6, payload=port.to_bytes(2, "big") + b"\x14\x51")
            counts[queue_for(packet) % workers] += 1
        assert min(counts) > 400 / workers / 2


async def test_the_kernel_computes_the_same() -> None:
    address = IPv4Address("127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((str(address), 0))
        port = probe.getsockname()[1]
    pairs = await open_sockets(address, port, 4)
    try:
        assert len({port, *(pair.sending.getsockname()[1] for pair in pairs)}) == 5
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for pair in pairs:
                stranger.sendto(b"?", pair.sending.getsockname())
                with pytest.raises(BlockingIOError):
                    pair.sending.recv(10)
        for host, sender_port in itertools.product((2, 3, 77), (0, 0, 0, 0)):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((f"127.0.0.{host}", sender_port))
                source_port = sender.getsockname()[1]
                sender.sendto(b"?", (str(address), port))
            expected = worker_for(int(IPv4Address(f"127.0.0.{host}")), source_port, 4)
            pairs[expected].receiving.settimeout(20)
            assert pairs[expected].receiving.recvfrom(10)[1] == (f"127.0.0.{host}", source_port)
        with pytest.raises(PortInUseError, match=f"UDP port {port} on 127.0.0.1"):
            await open_sockets(address, port, 4)
    finally:
        for pair in pairs:
            pair.close()


async def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(InterfaceError, match="no interface has this address"):
        await open_sockets(IPv4Address("192.0.2.1"), PORT, 1)


def test_who_sends_to_a_port_to_send_from_keeps_no_error_out() -> None:
    """Nobody reads what comes there; it must not fill the buffer that errors need (path MTUs)."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed,
    ):
        sending.bind(("127.0.0.1", 0))
        sending.setsockopt(socket.SOL_IP, IP_RECVERR, 1)
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 13)
        deafen(sending)
        for _ in range(100):
            stranger.sendto(bytes(1400), sending.getsockname())
        closed.bind(("127.0.0.1", 0))
        nobody = closed.getsockname()
        closed.close()
        sending.sendto(b"to nobody", nobody)
        sending.settimeout(5)
        with pytest.raises(ConnectionRefusedError):
            sending.recv(1)
        assert sending.recvmsg(64, 256, socket.MSG_ERRQUEUE)[0] == b"to nobody"
