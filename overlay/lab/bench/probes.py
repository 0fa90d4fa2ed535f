"""The measurements: small functions from two endpoints and a time in seconds to numbers by measure."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from overlay.errors import LabError
from overlay.lab.bench.scenarios import Measure
from overlay.lab.bench.stage import Endpoints
from overlay.lab.shell import run
from overlay.lab.traffic import IPERF_PORT, PATIENCE, iperf, iperf_document, iperf_server, serving

Figures = Mapping[Measure, float]

SOCKPERF_PORT = 11111
"""sockperf's default."""

UDP_PAYLOAD = 64
"""Bytes: small enough that the cost of a packet is all that counts."""

_IDLE_FIELDS = (3, 4)
"""Of /proc/stat's cpu line: idle and iowait (proc(5))."""

_MEDIAN = re.compile(r"percentile 50\.000 =\s*([\d.]+)")


@dataclass(frozen=True, slots=True)
class Probe:
    """One measurement and what it yields."""

    run: Callable[[Endpoints, float], Figures]
    measures: tuple[Measure, ...]


def tcp_one(ends: Endpoints, seconds: float) -> Figures:
    """One TCP flow: its rate, and what all cores of the machine together spent on a gigabit of it."""
    with iperf_server(ends.target):
        before = busy_seconds()
        moved = iperf(ends.source, ends.address, seconds=seconds)
        busy = busy_seconds() - before
    if not moved.received:
        raise LabError("nothing arrived", about="iperf3")
    return {Measure.TCP_ONE: moved.gigabits, Measure.CPU: busy * 1000 / (moved.received * 8 / 1e9)}


def tcp_four(ends: Endpoints, seconds: float) -> Figures:
    """Four TCP flows at once: the sum of their rates."""
    with iperf_server(ends.target):
        return {Measure.TCP_FOUR: iperf(ends.source, ends.address, seconds=seconds, flows=4).gigabits}


def udp_rate(ends: Endpoints, seconds: float) -> Figures:
    """Small UDP packets as fast as one socket sends them; counted are those that arrive."""
    argv = ["iperf3", "-c", str(ends.address), "-p", str(IPERF_PORT), "-u", "-b", "0", "-l", str(UDP_PAYLOAD)]
    argv += ["-t", f"{seconds:g}", "-J"]
    with iperf_server(ends.target):
        done = run(argv, namespace=ends.source, check=False, timeout=seconds + PATIENCE)
    total = iperf_document(done.stdout)["end"]["sum"]
    return {Measure.UDP_RATE: (total["packets"] - total["lost_packets"]) / total["seconds"] / 1000}


def latency(ends: Endpoints, seconds: float) -> Figures:
    """A small message to and fro over one TCP connection: the median round trip."""
    argv = ["sockperf", "ping-pong", "--tcp", "--full-rtt", "-i", str(ends.address), "-p", str(SOCKPERF_PORT)]
    # It warms up for 0.4 s, and wants whole seconds.
    argv += ["-t", str(max(1, round(seconds)))]
    with serving(ends.target, SOCKPERF_PORT, "sockperf", "server", "--tcp", "-p", str(SOCKPERF_PORT)):
        done = run(argv, namespace=ends.source, check=False, timeout=seconds + PATIENCE)
    return {Measure.LATENCY: sockperf_median(done.stdout + done.stderr)}


PROBES = (
    Probe(tcp_one, (Measure.TCP_ONE, Measure.CPU)),
    Probe(tcp_four, (Measure.TCP_FOUR,)),
    Probe(udp_rate, (Measure.UDP_RATE,)),
    Probe(latency, (Measure.LATENCY,)),
)


def sockperf_median(output: str) -> float:
    """The median in µs from what sockperf prints. Raises LabError if it has none."""
    found = _MEDIAN.search(output)
    if found is None:
        lines = [line for line in output.splitlines() if "ERROR" in line] or output.strip().splitlines()[-1:]
        raise LabError(lines[0] if lines else "said nothing", about="sockperf")
    return float(found[1])


def busy_seconds(stat: Path = Path("/proc/stat")) -> float:
    """CPU time that this machine has spent on anything since boot, all cores added up, in seconds."""
    fields = [int(field) for field in stat.read_text().splitlines()[0].split()[1:9]]
    busy = sum(fields) - sum(fields[index] for index in _IDLE_FIELDS)
    return busy / os.sysconf("SC_CLK_TCK")
