"""What is compared and what is measured, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Mode(Enum):
    """How the underlay behaves."""

    WIRE = "wire"
    """Packets cross at MTU size, as on a network: segmentation offloads off at both ends; GRO off, as veths come."""

    WIRE_GRO = "wire-gro"
    """The same with GRO on at the nodes' interfaces, as most network cards have it. vxlan gains most: cards and kernel
    know its format and join packets before they decapsulate."""

    WIRE_TRAINS = "wire-trains"
    """TSO and GSO off and no more (``ethtool -K … tso off gso off``), which is easily taken for a wire: TCP crosses at
    MTU size, but trains of datagrams cross whole. It flatters the userspace datapath, which sends such trains."""

    VETH = "veth"
    """As veth pairs come: a packet of 64 KB crosses as one, which flatters whatever lets it."""


OF_CARDS = (Mode.WIRE, Mode.WIRE_GRO)
"""What an underlay of network cards can be: packets cross at MTU size in any case."""


class Measure(Enum):
    """A number that a measurement yields. Its value is the name in JSON."""

    TCP_ONE = "tcp_1_flow"
    TCP_FOUR = "tcp_4_flows"
    UDP_RATE = "udp_64_byte"
    LATENCY = "tcp_round_trip"
    CPU = "cpu_per_gigabit"

    @property
    def title(self) -> str:
        return _MEASURES[self].title

    @property
    def unit(self) -> str:
        return _MEASURES[self].unit

    @property
    def less_is_better(self) -> bool:
        return _MEASURES[self].less_is_better


@dataclass(frozen=True, slots=True)
class _About:
    title: str
    unit: str
    less_is_better: bool = False


_MEASURES = {
    Measure.TCP_ONE: _About("TCP, 1 flow", "Gbit/s"),
    Measure.TCP_FOUR: _About("TCP, 4 flows", "Gbit/s"),
    Measure.UDP_RATE: _About("UDP, 64 bytes", "kpackets/s"),
    Measure.LATENCY: _About("TCP round trip", "µs", less_is_better=True),
    Measure.CPU: _About("CPU per gigabit", "core ms", less_is_better=True),
}


class Ends(Enum):
    """Between what a way is measured."""

    NODES = "nodes"
    PODS = "pods"


class Load(Enum):
    """Datagrams that arrive meanwhile, from hosts that take no part."""

    FORGED = "forged"
    """For the tunnel, and wrong in one field each."""

    STRAY = "stray"
    """As many, as long and from the same hosts, for an ordinary socket: what their bytes alone cost."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way from one end to the other.

    Attributes:
        name: for the command line and JSON.
        title: for people.
        ends: nodes or pods.
        vxlan: the bench joins the nodes by a kernel vxlan device of its own.
        agent: arguments of our agent; None: no agent.
        load: what else arrives at the far end.
    """

    name: str
    title: str
    ends: Ends = Ends.PODS
    vxlan: bool = False
    agent: tuple[str, ...] | None = None
    load: Load | None = None


PLAIN = Way("plain", "node to node, no overlay", ends=Ends.NODES)
VXLAN = Way("vxlan", "kernel vxlan", vxlan=True)

WAYS = (
    PLAIN,
    VXLAN,
    Way("userspace", "overlay, userspace", agent=("--datapath", "userspace")),
    Way("userspace-plain", "overlay, userspace, offloads off", agent=("--datapath", "userspace", "--offloads=false")),
    Way("kernel", "overlay, kernel (eBPF)", agent=("--datapath", "kernel")),
)
"""In the order of the table, and of every round."""

ON_REQUEST = (
    Way("kernel-no-fou", "overlay, kernel (eBPF), FOU forbidden", agent=("--datapath", "kernel", "--fou=false")),
    *(
        Way(f"{datapath}-{load.value}", f"overlay, {datapath}, {words}", agent=("--datapath", datapath), load=load)
        for datapath in ("userspace", "kernel")
        for load, words in ((Load.STRAY, "stray datagrams"), (Load.FORGED, "forged datagrams"))
    ),
)
"""Measured when asked for: what FOU gives, and what forgeries cost beyond their bytes."""
