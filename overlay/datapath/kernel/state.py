"""What a look at the machine found."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address

from overlay.datapath.kernel.underlays import Surroundings
from overlay.problem import Problem

OBSTACLE = "kernel-path"
"""The code of what keeps packets from the programs."""

NOT_CONFIGURED = Problem(OBSTACLE, "not configured")

WAITING = Problem(OBSTACLE, "waiting for the peers")
"""The problem of an agent without a predecessor until it knows its peers: it solves itself."""


@dataclass(frozen=True, slots=True)
class State:
    """What a look at the machine found.

    Attributes:
        detail: one line for people.
        problem: why packets do not take the kernel path; None if they do.
        surroundings: what may take packets from the programs.
        unprotected: peers' addresses to which IPsec policies of this node are passed by.
        mended: what had to be changed this time.
    """

    detail: str = ""
    problem: Problem | None = NOT_CONFIGURED
    mended: tuple[str, ...] = ()
    surroundings: Surroundings = field(default_factory=Surroundings)
    unprotected: tuple[IPv4Address, ...] = ()
