"""How long nftables takes for many Services, and for one changed endpoint: ``python -m tests.netns.services_scale``.

In a network namespace of its own. Prints what all took, what a change took (median, 99th percentile), how long a
connection takes with one Service and with all, what a restarted daemon takes, and the memory.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import time
from ipaddress import IPv4Network
from pathlib import Path

from overlay.services.proxy.base import Surroundings
from overlay.services.proxy.nftables import Nftables
from overlay.services.table import Backend, Entry, Frontend, Kind, Place, PortName, Table
from tests.support.namespaces import namespace

PLACE = Place("n1", (IPv4Network("10.0.0.0/16"),), frozenset({"172.31.0.1"}))


def entry(number: int, backends: int, changed: int = 0) -> Entry:
    """A Service like others; ``changed`` gives it another last endpoint."""
    addresses = [f"10.0.{number % 250}.{each + 1}" for each in range(backends - 1)] + [f"10.0.250.{changed % 250 + 1}"]
    chosen = tuple(Backend(each, 8080, False) for each in addresses)
    frontend = Frontend(Kind.CLUSTER_IP, f"10.96.{number // 250}.{number % 250 + 1}", 80)
    return Entry(PortName("default", f"s{number}", "http", "TCP"), (frontend,), chosen)


async def measure(services: int, backends: int, changes: int) -> None:
    mode = Nftables(Surroundings(Path("/nonexistent")))
    entries = {each.name: each for each in (entry(number, backends) for number in range(services))}
    took = await timed(mode, Table(PLACE, entries))
    print(f"{services} Services of {backends} endpoints programmed in {took:.1f} s")
    each_took = []
    for number in range(1, changes + 1):
        changed = entry(number * 37 % services, backends, number)
        entries = entries | {changed.name: changed}
        each_took.append(await timed(mode, Table(PLACE, entries)))
    each_took.sort()
    p99 = each_took[-1 - changes // 100]
    print(f"one changed endpoint: median {statistics.median(each_took) * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms")
    again = await timed(Nftables(Surroundings(Path("/nonexistent"))), Table(PLACE, entries))
    print(f"taken over by a new daemon in {again:.1f} s")
    for who, whose in (("the daemon", resource.RUSAGE_SELF), ("nft", resource.RUSAGE_CHILDREN)):
        print(f"memory of {who}: {resource.getrusage(whose).ru_maxrss // 1024} MB at most")


async def timed(mode: Nftables, table: Table) -> float:
    start = time.monotonic()
    await mode.apply(table)
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("services", 5000), ("backends", 10), ("changes", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    wanted = parser.parse_args()
    with namespace("scale") as own:
        own.call(lambda: asyncio.run(measure(wanted.services, wanted.backends, wanted.changes)))


if __name__ == "__main__":
    main()
