"""Whether the Docker that runs lets the overlay reach its containers. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from overlay.node.docker.daemon import BridgeNetwork, Daemon
from overlay.node.docker.needs import ACCEPT_FWMARK, ACCEPT_MARK, DIRECT_ROUTING, NO_RAW
from overlay.node.firewall.model import ACCEPTED_MARK
from overlay.node.firewall.saved import Tokens, option, target
from overlay.problem import Problem

_DIRECT_ROUTING_SINCE = (28, 2)

_RESTART = "systemctl restart docker"


@dataclass(frozen=True, slots=True)
class Place:
    """Where it runs.

    Attributes:
        subnet: this node's.
        device: of the tunnel.
        prerouting: the rules of iptables' raw PREROUTING.
        addresses: what each interface has; None where that is not known.
    """

    subnet: IPv4Network
    device: str
    prerouting: tuple[Tokens, ...] = ()
    addresses: Mapping[str, Collection[IPv4Address]] | None = None


def judge(docker: Daemon, place: Place) -> Iterator[Problem]:
    """What keeps packets from its containers, each with what to do."""
    here = _networks_here(docker, place)
    if is_elsewhere(docker, place):
        yield _elsewhere(docker, place)
    yield from _without_address(here, place)
    yield from _filtering(docker, here, place)
    if docker.nftables and not docker.told.is_off("iptables") and not _accepts_mark(docker):
        yield Problem(
            "docker-mark",
            "Docker's rules are nftables' own and accept nothing that comes out of the tunnel",
            f"start it with --{ACCEPT_FWMARK}={ACCEPT_MARK}, as its drop-in does: {_RESTART}",
        )


def is_elsewhere(docker: Daemon, place: Place) -> bool:
    """Whether Docker has a default bridge (with ``--bridge=none`` containers get another network), and no network of
    its is in our subnet."""
    return _default_bridge(docker) is not None and not _networks_here(docker, place)


def _default_bridge(docker: Daemon) -> BridgeNetwork | None:
    return next((network for network in docker.networks if network.name == "bridge"), None)


def _networks_here(docker: Daemon, place: Place) -> list[BridgeNetwork]:
    return [network for network in docker.networks if any(map(place.subnet.overlaps, network.subnets))]


def _elsewhere(docker: Daemon, place: Place) -> Problem:
    default = _default_bridge(docker)
    assert default is not None
    if docker.live_restore and docker.containers:
        remedy = (
            "with live-restore it keeps its subnet while containers run: stop all of them, then "
            f"{_RESTART} (overlay-docker.path, where it is enabled, does that within a minute)"
        )
    elif "bip" in docker.told.file:
        remedy = f"take bip out of Docker's daemon.json, and {_RESTART}"
    elif docker.told.value("bip") is None:
        remedy = f"it was started without --bip: {_RESTART}, by a unit that has $DOCKER_NETWORK_OPTIONS"
    else:
        remedy = f"{_RESTART}, and see that nothing else gives it --bip"
    subnets = ", ".join(map(str, default.subnets)) or "no IPv4 subnet"
    return Problem(
        "docker-subnet",
        f"no network of Docker's is in this node's subnet {place.subnet}, its default bridge has {subnets}: "
        "other nodes do not reach its containers",
        remedy,
    )


def _without_address(here: list[BridgeNetwork], place: Place) -> Iterator[Problem]:
    """Bridges that have not, or not any more, the address that their containers send to: Docker does not look again."""
    for network in here:
        if place.addresses is None or not network.has_address:
            continue
        has = place.addresses.get(network.interface, ())
        if not any(address in subnet for address in has for subnet in network.subnets):
            yield Problem(
                "bridge-address",
                f"{network.interface}, the bridge of Docker's network {network.name}, has no address of "
                f"{', '.join(map(str, network.subnets))}: nothing reaches its containers",
                f"{_RESTART}, which gives it back",
                about=network.interface,
            )


def _filtering(docker: Daemon, here: list[BridgeNetwork], place: Place) -> Iterator[Problem]:
    """Docker 28's own filter before all filters: before any mark of ours too, where it is nftables'."""
    shut = [
        network.name
        for network in here
        if docker.version >= _DIRECT_ROUTING_SINCE
        and not docker.told.is_on(DIRECT_ROUTING)
        and not docker.told.is_off("iptables")  # nftables as well
        and not network.is_routed
        and place.device not in network.trusted_interfaces
    ]
    dropped = _first_dropped(place)
    if not shut and dropped is None:
        return
    what = f"network {', '.join(shut)}" if shut else f"container {dropped}"
    if docker.version >= _DIRECT_ROUTING_SINCE:
        remedy = f"start it with --{DIRECT_ROUTING}, as its drop-in does: {_RESTART}"
    else:
        remedy = f"start it with {NO_RAW}=1 in its environment, as its drop-in does: {_RESTART}"
    yield Problem("docker-filter", f"Docker drops what comes to its {what} from other nodes", remedy)


def _first_dropped(place: Place) -> str | None:
    """What of our subnet raw PREROUTING lets nothing come to out of the tunnel: a container's address, or, as newer
    versions have it, a network; None where there is none.

    Rules with conditions but destination and interface are passed by: they do not say it of every packet.
    """
    accepted: set[str] = set()
    for rule in place.prerouting:
        if not _only_about_destination_and_interface(rule) or not _matches_device(rule, place.device):
            continue
        address = rule[1]
        if not IPv4Network(address).overlaps(place.subnet):
            continue
        if target(rule) == "DROP" and address not in accepted:
            return address.removesuffix("/32")
        accepted.add(address)
    return None


def _only_about_destination_and_interface(rule: Tokens) -> bool:
    options = [word for word in rule if word.startswith("-")]
    return set(options) <= {"-d", "-i", "-j"} and rule[:1] == ("-d",)


def _matches_device(rule: Tokens, device: str) -> bool:
    interface = option(rule, "-i")
    if interface is None:
        return True
    return (interface == device) is not (rule[rule.index("-i") - 1] == "!")


def _accepts_mark(docker: Daemon) -> bool:
    """Whether the bit that ours have is all that it asks for (``MARK/MASK``, both in any base)."""
    mark, _, mask = (docker.told.value(ACCEPT_FWMARK) or "").partition("/")
    try:
        wanted, looked_at = int(mark, 0), int(mask, 0) if mask else 0xFFFFFFFF
    except ValueError:
        return False
    return ACCEPTED_MARK & looked_at == wanted
