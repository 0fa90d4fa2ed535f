"""What a Docker must be told so that the overlay reaches its containers, besides what flannel's script tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from overlay.node.docker.daemon import Told
from overlay.node.docker.program import Abilities
from overlay.node.firewall.model import ACCEPTED_MARK

ACCEPT_MARK = f"{ACCEPTED_MARK:#x}/{ACCEPTED_MARK:#x}"
"""As ``--bridge-accept-fwmark`` takes it."""

DIRECT_ROUTING = "allow-direct-routing"
ACCEPT_FWMARK = "bridge-accept-fwmark"
NO_RAW = "DOCKER_INSECURE_NO_IPTABLES_RAW"


_TOLD_BY = {"bip": "FLANNEL_SUBNET", "mtu": "FLANNEL_MTU", "ip-masq": "FLANNEL_IPMASQ"}
"""Options that flannel's script makes, by the variable of subnet.env."""


_IPTABLES_BY_DEFAULT = (29, 999)
"""The last versions of which that is known."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Options by the names that flannel's script gives such (``DOCKER_OPT_…``), and environment variables.

    Attributes:
        left_out: what of subnet.env it must not be told, by the variable there, and why: it would not start.
    """

    options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def needs(docker: Abilities, told: Told) -> Needs:
    """For a Docker that is going to be started.

    Args:
        told: what it is told anyway. What its file says is not said again: Docker refuses an option that it is given
            twice.
    """
    options: dict[str, str] = {}
    environment: dict[str, str] = {}
    if docker.filters_raw:
        if not docker.direct_routing:
            environment[NO_RAW] = "1"
        elif DIRECT_ROUTING not in told.file:
            options["DOCKER_OPT_DIRECT_ROUTING"] = f"--{DIRECT_ROUTING}"
    if docker.accept_mark and _may_write_nftables(docker, told) and ACCEPT_FWMARK not in told.file:
        options["DOCKER_OPT_ACCEPT_MARK"] = f"--{ACCEPT_FWMARK}={ACCEPT_MARK}"
    left_out = {
        variable: f"{option} is in Docker's file, and counts: it takes no option twice"
        for option, variable in _TOLD_BY.items()
        if option in told.file
    }
    if told.value("bridge"):  # with "none" its containers have networks that their operator makes
        left_out["FLANNEL_SUBNET"] = "Docker has a bridge of its operator's: it takes no subnet for one of its own"
    return Needs(options, environment, left_out)


def _may_write_nftables(docker: Abilities, told: Told) -> bool:
    """Whether its rules are nftables', or may be: what a later version takes where it is told nothing is not known
    (Docker has announced that it will be nftables)."""
    backend = told.value("firewall-backend")
    return backend == "nftables" or (not backend and docker.version > _IPTABLES_BY_DEFAULT)
