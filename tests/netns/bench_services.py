"""What a ClusterIP costs, beside the address behind it, in one run: ``python -m tests.netns.bench_services``.

For each proxy mode, with one Service and with ``--services`` of them: connections a second (one client, one connection
after the other, by a small program in C) and throughput (iperf3, one stream), from a pod to another of the same node.
The direct address and the ClusterIP take turns, a second each, so that whatever else the machine does meets both;
printed are the medians and their ratio. Needs root, clang and iperf3; ``iso -n`` or a namespace of one's own is kind to
others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from overlay.services.proxy.base import Mode, Surroundings
from overlay.services.proxy.ebpf.mode import EbpfMode
from overlay.services.proxy.iptables.mode import IptablesMode
from overlay.services.proxy.nftables.mode import Nftables
from overlay.services.proxy.userspace.mode import UserspaceMode
from overlay.services.table import Backend, Entry, Frontend, Kind, Place, PortName, Table
from tests.support.cgroup import cgroup, run_in, words_in
from tests.support.inside_loop import loop_inside
from tests.support.namespaces import Namespace, namespace

NODE, CLIENT, SERVER, VIP = "10.0.1.1", "10.0.1.2", "10.0.1.3", "10.96.0.7"
PORTS = {"rate": 8080, "throughput": 5201}
STATE = Path("/nonexistent")

SOURCE = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* serve PORT: accepts and closes. rate ADDRESS PORT SECONDS: connects, and waits for the end. */
int main(int count, char **words)
{
	struct sockaddr_in at = {.sin_family = AF_INET};
	struct linger hard = {1, 0}; /* no TIME_WAIT: ports would run out */
	char byte;
	int one = 1;
	if (!strcmp(words[1], "serve")) {
		int waiting = socket(AF_INET, SOCK_STREAM, 0);
		at.sin_port = htons(atoi(words[2]));
		setsockopt(waiting, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
		if (bind(waiting, (void *)&at, sizeof at) || listen(waiting, 1024)) return 1;
		puts("ready"); fflush(stdout);
		for (;;) {
			int peer = accept(waiting, 0, 0);
			(void)!write(peer, "x", 1);
			(void)!read(peer, &byte, 1);
			close(peer);
		}
	}
	at.sin_addr.s_addr = inet_addr(words[2]);
	at.sin_port = htons(atoi(words[3]));
	struct timespec start, now;
	clock_gettime(CLOCK_MONOTONIC, &start);
	long made = 0; double seconds;
	do {
		int socket_ = socket(AF_INET, SOCK_STREAM, 0);
		setsockopt(socket_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
		if (connect(socket_, (void *)&at, sizeof at) || read(socket_, &byte, 1) != 1) { perror("connect"); return 1; }
		close(socket_);
		made++;
		clock_gettime(CLOCK_MONOTONIC, &now);
		seconds = now.tv_sec - start.tv_sec + (now.tv_nsec - start.tv_nsec) / 1e9;
	} while (seconds < atof(words[4]));
	printf("%f\n", made / seconds);
	return 0;
}
"""


def table(services: int) -> Table:
    """So many Services of ten endpoints; the one that is measured has one."""
    entries = {}
    for number in range(services - 1):
        name = PortName("default", f"other-{number}", "", "TCP")
        backends = tuple(Backend(f"10.0.{2 + number % 200}.{each}", 8080, False) for each in range(2, 12))
        address = str(IPv4Address("10.97.0.0") + number)
        entries[name] = Entry(name, (Frontend(Kind.CLUSTER_IP, address, 80),), backends)
    for what, port in PORTS.items():
        name = PortName("default", "measured", what, "TCP")
        backend = (Backend(SERVER, port, True),)
        entries[name] = Entry(name, (Frontend(Kind.CLUSTER_IP, VIP, port),), backend, backend)
    return Table(Place("one", (IPv4Network("10.0.0.0/16"),), frozenset({NODE})), entries)


def modes(place: Path) -> dict[str, Callable[[], Mode]]:
    return {
        "ebpf": lambda: EbpfMode(Nftables(Surroundings(STATE)), place),
        "nftables": lambda: Nftables(Surroundings(STATE)),
        "iptables": lambda: IptablesMode(Surroundings(STATE)),
        "userspace": lambda: UserspaceMode(Nftables(Surroundings(STATE))),
    }


@dataclass(frozen=True)
class Bench:
    """Where it is measured, and by which program."""

    place: Path
    host: Namespace
    client: Namespace
    program: str

    def measure(self, what: str, address: str, seconds: float) -> float:
        """Connections a second, or Gbit/s."""
        if what == "rate":
            words = (self.program, "rate", address, str(PORTS[what]), str(seconds))
            return float(run_in(self.place, self.client.name, *words))
        seconds = max(1, round(seconds))
        report = json.loads(run_in(self.place, self.client.name, "iperf3", "-J", "-c", address, "-t", str(seconds)))
        return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9


@contextmanager
def topology() -> Iterator[Bench]:
    """A node with a client's pod and a server's, joined by a route, as nodes of a cluster are."""
    with ExitStack() as stack:
        place = stack.enter_context(cgroup("bench"))
        host = stack.enter_context(namespace("node"))
        pods = []
        for name, address, near in (("c", CLIENT, NODE), ("s", SERVER, "10.0.1.4")):
            pod = stack.enter_context(namespace(f"pod-{name}"))
            host.batch(f"link add to-{name} type veth peer name eth0 netns {pod.name}\nlink set to-{name} up")
            host.batch(f"address add {near}/32 dev to-{name}\nroute add {address}/32 dev to-{name}")
            pod.batch(f"address add {address}/32 dev eth0\nlink set eth0 up\nroute add {near}/32 dev eth0")
            pod.batch(f"route add default via {near}")
            pods.append(pod)
        host.batch("link add uplink type veth peer name far\nlink set far up\nlink set uplink up")
        host.batch("route add default dev uplink")
        host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        client, server = pods
        program = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "connections"
        compile_ = ["clang", "-O2", "-x", "c", "-", "-o", str(program)]
        subprocess.run(compile_, input=SOURCE, text=True, check=True)
        for words in ((str(program), "serve", str(PORTS["rate"])), ("iperf3", "-s", "--forceflush")):
            process = subprocess.Popen(words_in(place, server.name, *words), stdout=subprocess.PIPE, text=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            while "ready" not in (line := process.stdout.readline()) and "listening" not in line:
                pass
        yield Bench(place, host, client, str(program))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--modes", default="ebpf,nftables")
    parser.add_argument("--services", type=int, nargs="+", default=[1, 5000])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    print(f"{'mode':10} {'services':>8} {'':12} {'direct':>10} {'ClusterIP':>10} {'ratio':>6}")
    with topology() as bench, loop_inside(bench.host) as inside:
        for name in given.modes.split(","):
            for services in given.services:
                mode = modes(bench.place)[name]()
                inside.run(asyncio.wait_for(mode.apply(table(services)), 300))
                for what, unit in (("rate", "conn/s"), ("throughput", "Gbit/s")):
                    found: dict[str, list[float]] = {SERVER: [], VIP: []}
                    for number in range(given.rounds):
                        for address in (SERVER, VIP) if number % 2 else (VIP, SERVER):
                            found[address].append(bench.measure(what, address, given.seconds))
                    direct, virtual = map(statistics.median, found.values())
                    ratio = virtual / direct
                    print(f"{name:10} {services:8} {unit:12} {direct:10.1f} {virtual:10.1f} {ratio:6.3f}", flush=True)
                inside.run(mode.remove())
                inside.run(Nftables(Surroundings(STATE)).remove())
    return 0


if __name__ == "__main__":
    sys.exit(main())
