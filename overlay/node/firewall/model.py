"""What the firewall rules mean, apart from any tool's language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network

from overlay.model import FLANNELS_DEVICE, MASQUERADED_MARK

ACCEPTED_MARK = 0x100000
"""The mark on what comes out of the tunnel where Docker's rules are nftables' own: it accepts what carries the mark
that ``--bridge-accept-fwmark`` names, and no accept of others. One bit, which neither kube-proxy, Cilium (0x0f00),
Tailscale (0x40000, 0x80000) nor flannel use."""

MULTICAST = IPv4Network("224.0.0.0/4")
"""RFC 5771: an address of a group never answers, so masquerading a packet to one serves nobody."""


class Hook(Enum):
    """Where in the kernel's path of a packet a chain of ours is run."""

    FORWARD = "forward"
    POSTROUTING = "postrouting"


@dataclass(frozen=True, slots=True)
class Names:
    """What one agent's rules are called, so that several agents on one machine leave each other's alone.

    Attributes:
        chains: iptables' chain a hook, of at most 28 characters (linux/netfilter/x_tables.h, XT_EXTENSION_MAXNAMELEN).
        comments: on every rule, by hook.
        table: nftables' table.
        marking_table: nftables' table that marks for a Docker whose rules are nftables' own.
        interface: by which peers' inner packets come in.
    """

    chains: Mapping[Hook, str]
    comments: Mapping[Hook, str]
    table: str
    marking_table: str
    interface: str

    @classmethod
    def of(cls, owner: str = FLANNELS_DEVICE, interface: str | None = None) -> Names:
        """flannel's names (pkg/trafficmngr) for its own device; for another one names that tell it.

        Args:
            owner: the device of the agent, or what it would be called: an interface's name, of at most 15 bytes.
            interface: the owner's device where it is None.
        """
        chains = {Hook.FORWARD: "FLANNEL-FWD", Hook.POSTROUTING: "FLANNEL-POSTRTG"}
        comments = {Hook.FORWARD: "flanneld forward", Hook.POSTROUTING: "flanneld masq"}
        table, marking_table = "flannel-ipv4", "flannel-docker"
        if owner == FLANNELS_DEVICE:
            return cls(chains, comments, table, marking_table, interface or owner)
        # Interfaces may have characters in their names that mean something to iptables-restore or nft.
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", owner)
        return cls(
            # FLANNEL-POSTRTG leaves too little of 28 characters.
            {Hook.FORWARD: f"FLANNEL-FWD-{name}", Hook.POSTROUTING: f"FLANNEL-MASQ-{name}"},
            {hook: f"{comment} {name}" for hook, comment in comments.items()},
            f"{table}-{name}",
            f"{marking_table}-{name}",
            interface or owner,
        )


class Verdict(Enum):
    """What becomes of a packet that a rule matches.

    MASQUERADE picks its source port fully at random, MASQUERADE_PLAIN as the kernel likes.
    """

    ACCEPT = "accept"
    RETURN = "return"
    MASQUERADE = "masquerade"
    MASQUERADE_PLAIN = "masquerade, ports kept where they can be"


@dataclass(frozen=True, slots=True)
class Match:
    """An address inside ``network``, or outside of it."""

    network: IPv4Network
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """All that is given must hold. ``mark`` means that these bits of the packet's mark are set."""

    verdict: Verdict
    source: Match | None = None
    destination: Match | None = None
    mark: int | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """Rules in the order in which they are tried; a packet that none of them ends goes on where it came from."""

    hook: Hook
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Everything of ours that should be in the firewall, and nothing else of ours should."""

    chains: tuple[Chain, ...] = ()

    def chain(self, hook: Hook) -> Chain | None:
        """The chain run at ``hook``; None where there should be none."""
        return next((chain for chain in self.chains if chain.hook is hook), None)

    def only(self, *hooks: Hook) -> Ruleset:
        """The part of this ruleset that is run at ``hooks``."""
        return Ruleset(tuple(chain for chain in self.chains if chain.hook in hooks))


EMPTY = Ruleset()


def desired_rules(
    network: IPv4Network, subnet: IPv4Network, *, ip_masq: bool, forward_rules: bool = True, random_fully: bool = True
) -> Ruleset:
    """What flanneld keeps in the firewall (pkg/trafficmngr/iptables/iptables.go, ``masqRules``, ``forwardRules``).

    Args:
        network: the whole overlay.
        subnet: this node's own.
        ip_masq: ``--ip-masq``: masquerade what leaves the overlay, and what enters it from outside.
        random_fully: unless ``--ip-masq-fully-random-disable``.
        forward_rules: ``--iptables-forward-rules``: accept what is forwarded from and to the overlay.
    """
    chains = []
    if forward_rules:
        chains.append(
            Chain(
                Hook.FORWARD,
                (
                    Rule(Verdict.ACCEPT, source=Match(network)),
                    Rule(Verdict.ACCEPT, destination=Match(network)),
                ),
            )
        )
    if ip_masq:
        masquerade = Verdict.MASQUERADE if random_fully else Verdict.MASQUERADE_PLAIN
        own, overlay, elsewhere = Match(subnet), Match(network), Match(network, outside=True)
        chains.append(
            Chain(
                Hook.POSTROUTING,
                (
                    Rule(Verdict.RETURN, mark=MASQUERADED_MARK),
                    # Containers see each other's own addresses.
                    Rule(Verdict.RETURN, source=own, destination=overlay),
                    Rule(Verdict.RETURN, source=overlay, destination=own),
                    # What comes to our containers from outside was routed here on purpose: its source stays.
                    Rule(Verdict.RETURN, source=elsewhere, destination=own),
                    Rule(masquerade, source=overlay, destination=Match(MULTICAST, outside=True)),
                    # The host itself, with an underlay address, needs one that the peers send answers back to.
                    Rule(masquerade, source=elsewhere, destination=overlay),
                ),
            )
        )
    return Ruleset(tuple(chains))
