"""Who carries traffic, the programs or the slow path, and what a look at the machine says about why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from overlay.datapath.causes import Cause
from overlay.datapath.kernel.state import WAITING, State
from overlay.datapath.kernel.underlays import Surroundings
from overlay.problem import Problem

_MAX_FRAGMENTS = 128
"""Of one packet: 65,535 bytes over the least path MTU, 552."""
FIREWALL = (
    "the host's firewall (INPUT, OUTPUT) and IPsec are not asked about the tunnel's datagrams on the kernel path; "
    "--datapath userspace asks them"
)
"""What whoever has rules for the tunnel's port must know."""
FIREWALL_WITH_FOU = (
    "the host's firewall (INPUT) is asked about those of the tunnel's datagrams that the underlay has joined (all TCP, "
    "or IP in IP, where that is said), and must accept them; it and IPsec are not asked about others on the kernel "
    "path; --fou=false asks about none, --datapath userspace about all"
)
"""The same where FOU takes trains."""
UNSEEN_BY_US = (
    "packets from peers came to it without having met our program, and would be lost: by an interface where none of "
    "ours is, with a priority tag (VID 0), past a filter that is before ours, or sent by a process here"
)
LOST_IN_FOU = (
    "what was left to it did not come out; does the host's firewall (INPUT) accept the tunnel's UDP port? Start the "
    "agent again once it does"
)

_ASIDE_TX = ("drop_tx_no_peer", "drop_tx_ttl")
_ASIDE_RX = (
    "drop_outer_source",
    "drop_malformed",
    "drop_checksum",
    "drop_inner_source",
    "drop_inner_destination",
    "drop_rx_ttl",
    "drop_tun_write",
)


def slow_path_counters(slow: Mapping[str, int], left: Mapping[str, int]) -> dict[str, int]:
    """What the slow path has carried, and how much of it never met a program: packets, each at least so many.

    Args:
        slow: the slow path's own counters.
        left: the programs', since that slow path began; what they left to it is in ``slow_…``.
    """
    met = {way: sum(value for name, value in left.items() if name.startswith(f"slow_{way}_")) for way in ("tx", "rx")}
    seen_tx = slow.get("tx_packets", 0) + sum(slow.get(name, 0) for name in _ASIDE_TX)
    # What it sent was not always read: answers, and all but one fragment of each packet.
    seen_tx -= slow.get("icmp_sent", 0) + _MAX_FRAGMENTS * slow.get("tx_fragmented", 0)
    seen_rx = slow.get("rx_packets", 0) + sum(slow.get(name, 0) for name in _ASIDE_RX)
    return {
        "slow_tx_packets": slow.get("tx_packets", 0),
        "slow_rx_packets": slow.get("rx_packets", 0),
        "slow_tx_unseen": max(0, seen_tx - met["tx"]),
        "slow_rx_unseen": max(0, seen_rx - met["rx"]),
    }


def causes_of(around: Surroundings) -> dict[str, Cause]:
    """What is known here about packets that the programs do not get, or not as they came."""
    found = {}
    for counter, hook, way in (("slow_rx_unseen", "ingress", "in"), ("slow_tx_unseen", "egress", "out")):
        if others := [other for other in around.ahead if f" on {hook} of " in other]:
            found[counter] = Cause(
                f"that went {way} without meeting our program: before it there is {', '.join(others)}",
                "give that filter a higher priority number than ours has (8285), or have it end with TC_ACT_UNSPEC",
            )
    if around.bare and "slow_rx_unseen" not in found:
        found["slow_rx_unseen"] = Cause(
            "that came in without meeting our program, perhaps by an interface where none of ours belongs: "
            + ", ".join(around.bare),
            "give that interface an address, or name it with --iface; or do frames have a priority (VID 0): "
            "tcpdump -e vlan 0",
        )
    if around.joining:
        names = ", ".join(around.joining)
        found["slow_rx_train"] = Cause(
            f"that {names} had joined into trains before our program",
            "turn that off: "
            + "; ".join(f"ethtool -K {name} rx-udp-gro-forwarding off rx-gro-list off" for name in around.joining),
        )
    return found


def problems_of(state: State) -> tuple[Problem, ...]:
    """What keeps all packets from the programs, and what the programs pass by that must not be."""
    found = []
    if state.problem is not None and state.problem != WAITING:
        found.append(replace(state.problem, remedy=state.problem.remedy or "it is tried again every second"))
    if state.unprotected:
        first, others = state.unprotected[0], len(state.unprotected) - 1
        peers = f"{first} and {others} more" if others else str(first)
        sentence = f"this node's IPsec policies cover datagrams to {peers}, and the kernel path sends them unprotected"
        found.append(Problem("ipsec", sentence, "use --datapath userspace, whose datagrams meet the policies"))
    return tuple(found)
