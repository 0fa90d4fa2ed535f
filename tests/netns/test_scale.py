"""5,000 leases: how soon an agent is ready, how soon a new peer is in its datapath, and what it costs.

    etcd 172.31.0.100 ──┐
    n1   172.31.0.1   ──┼── bridge     n1: the agent; n2: a plain socket that sees what arrives for new peers
    n2   172.31.0.2   ──┘

Figures are printed; what is asserted leaves a busy machine room, except for memory, which no load changes. With
OVERLAY_STRICT=1, for a machine that has nothing else to do, more peers come and the limits are those that are promised.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from overlay.lab.cluster import Lab
from overlay.lab.namespace import call_inside
from overlay.lab.topology import ETCD_CLIENT_PORT, LabSpec
from tests.netns.agents import PATIENCE, agent
from tests.support.limits import STRICT, limit

pytestmark = [pytest.mark.root, pytest.mark.etcd]

LEASES = 5000
NEW_PEERS = int(os.environ.get("OVERLAY_NEW_PEERS", "500" if STRICT else "100"))
READY_SECONDS, PEER_SECONDS = limit(3.0, 30.0), limit(0.1, 5.0)
MEGABYTES = 90 if sys.version_info < (3, 13) else 97
"""The agent and its worker, with each page that both map counted once: what the machine gets back when they end. Newer
interpreters take some more, by themselves."""

IDLE_SHARE = 0.01
"""Of a core that an agent without anything to do may use."""

IDLE_SECONDS = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")
PREFIX = "/coreos.com/network"
CONFIG = b'{"Network":"10.0.0.0/8","SubnetMin":"10.200.0.0","Backend":{"Type":"udp"}}'


@pytest.fixture
def lab(lab_name: str) -> Iterator[Lab]:
    with Lab.running(LabSpec(name=lab_name, nodes=2, pods=0, agents=False)) as running:
        running.start_etcd()
        yield running


def subnet(number: int) -> str:
    return f"10.{1 + number // 250}.{number % 250}"


def record(number: int, public_ip: str) -> tuple[str, bytes]:
    """Key and value of a lease."""
    return f"{PREFIX}/subnets/{subnet(number)}.0-24", f'{{"PublicIP":"{public_ip}","PublicIPv6":null}}'.encode()


class Etcd:
    """Puts into the lab's etcd over its JSON gateway.

    gRPC connects from threads of its own, which stay in the namespace where the process first used it; a plain
    connection stays where it was opened.
    """

    def __init__(self, lab: Lab) -> None:
        self._http = HTTPConnection(str(lab.spec.etcd_address.ip), ETCD_CLIENT_PORT, timeout=PATIENCE)
        call_inside(lab.etcd.namespace, self._http.connect)

    def put(self, *records: tuple[str, bytes]) -> None:
        """In one transaction, of at most 128 records. (etcd: --max-txn-ops)"""
        puts = [
            {"requestPut": {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value).decode()}}
            for key, value in records
        ]
        self._http.request("POST", "/v3/kv/txn", json.dumps({"success": puts}))
        with self._http.getresponse() as answer:
            said = answer.read()
        assert answer.status == 200, said

    def close(self) -> None:
        self._http.close()


def fill(etcd: Etcd) -> None:
    etcd.put((f"{PREFIX}/config", CONFIG))
    for start in range(0, LEASES, 100):
        etcd.put(*(record(number, f"172.30.{number // 250}.{number % 250}") for number in range(start, start + 100)))


def family(pid: int) -> list[str]:
    """The process and its descendants."""
    found = [str(pid)]
    for each in found:  # grows meanwhile
        for task in Path(f"/proc/{each}/task").iterdir():
            found += (task / "children").read_text().split()
    return found


def resident_megabytes(pid: int) -> tuple[float, float]:
    """Of the process and its descendants: with pages that several map counted once, and the plain sum of VmRSS.

    What is private is added up; what is mapped by others too (the interpreter, the C library) counts where there is
    most of it. Not PSS, which is less the more Python runs on the machine that is not ours.
    """
    private, shared = [], []
    for each in family(pid):
        fields = dict(re.findall(r"^(\w+): +(\d+) kB$", Path(f"/proc/{each}/smaps_rollup").read_text(), re.MULTILINE))
        private.append(int(fields["Private_Clean"]) + int(fields["Private_Dirty"]))
        shared.append(int(fields["Rss"]) - private[-1])
    return (sum(private) + max(shared)) / 1024, (sum(private) + sum(shared)) / 1024


def cpu_seconds(pid: int) -> float:
    fields = [Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in family(pid)]
    return sum(int(each[11]) + int(each[12]) for each in fields) / _TICKS


def idle_share(pid: int) -> float:
    """Of a core, over IDLE_SECONDS: time itself is what is waited for."""
    started, used = time.monotonic(), cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    return (cpu_seconds(pid) - used) / (time.monotonic() - started)


def seconds_until_reached(etcd: Etcd, number: int, near: socket.socket, far: socket.socket) -> float:
    """From the put of a lease to a packet that the agent's node sent there and ``far`` received."""
    target = f"{subnet(number)}.9"
    started = time.perf_counter()
    etcd.put(record(number, "172.31.0.2"))
    while time.perf_counter() - started < PATIENCE:
        with contextlib.suppress(OSError):
            near.sendto(b"x", (target, 9))
        time.sleep(0.001)
        with contextlib.suppress(BlockingIOError):
            while datagram := far.recv(2048):
                if datagram[16:20] == socket.inet_aton(target):
                    return time.perf_counter() - started
    return PATIENCE


@pytest.mark.parametrize("datapath", ["kernel", "userspace"])
def test_five_thousand_peers(lab: Lab, tmp_path: Path, datapath: str) -> None:
    """flannel 624, 386, 963: memory growth. flannel 563, 1247: a changed peer is missed."""
    one, two = lab.nodes

    def outgoing() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def arriving() -> socket.socket:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((str(two.address), 8285))
        udp.setblocking(False)
        return udp

    with closing(Etcd(lab)) as etcd:
        fill(etcd)
        started = time.monotonic()
        with agent(one, tmp_path, f"--datapath={datapath}") as running:
            running.says("ready:")
            ready = time.monotonic() - started
            with call_inside(one.namespace, outgoing) as near, call_inside(two.namespace, arriving) as far:
                took = sorted(seconds_until_reached(etcd, LEASES + n, near, far) for n in range(NEW_PEERS))
            memory, summed = resident_megabytes(running.process.pid)
            share = idle_share(running.process.pid) if STRICT else None
    p99 = took[int(len(took) * 0.99)]
    print(f"{datapath}: ready after {ready:.2f} s; new peers p50 {1000 * took[len(took) // 2]:.0f} ms, "
          f"p99 {1000 * p99:.0f} ms; {memory:.1f} MB resident, {summed:.1f} summed; "
          f"idle {'not measured' if share is None else f'{100 * share:.2f} % of a core'}")  # fmt: skip
    assert ready < READY_SECONDS
    assert p99 < PEER_SECONDS
    assert memory < MEGABYTES
    assert share is None or share < IDLE_SHARE
