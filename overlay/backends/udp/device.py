"""The TUN device as it should be, and the steps that make it so.

:func:`plan` is pure: desired state and actual state in, steps out; nothing to do gives no step. :func:`reconcile`
reads the actual state, carries the steps out, then does the same for the route, and says what it changed.

What is ours: the device with its addresses, and routes of ours that lead to it (:mod:`overlay.node.routes`). Nothing
else is ever removed: an operator's route by our device stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from overlay.datapath.spec import TunnelSpec
from overlay.errors import DeviceError, NodeError, PrivilegeError
from overlay.linux.netlink import Address, Link, Netlink
from overlay.linux.routes import RouteTable
from overlay.node import routes
from overlay.node.routes import Outcome


@dataclass(frozen=True, slots=True)
class Step:
    """One change: what it does, in words, and the call that does it.

    Attributes:
        needed: whether packets need it; else it tidies up, and may fail.
    """

    text: str
    run: Callable[[Netlink], None]
    needed: bool = True


def plan(spec: TunnelSpec, link: Link, addresses: list[Address], *, broadcast: bool = False) -> Iterator[Step]:
    """Steps from the device's actual state to what ``spec`` wants.

    Args:
        addresses: those of ``link``.
        broadcast: whether the device's address is a broadcast to this machine.
    """
    name = link.name
    if link.ipv6_link_local:
        # Its router solicitations would go into the tunnel, which carries IPv4, and count as drops. Before the MTU: one
        # below 1280 takes IPv6 away, and with it this setting.
        yield Step(f"{name}: no IPv6 address of its own", lambda netlink: netlink.no_ipv6(link))
    if link.mtu != spec.mtu:
        yield Step(f"{name}: MTU {link.mtu} → {spec.mtu}", lambda netlink: netlink.set_link(link, mtu=spec.mtu))
    if not any(address.address == spec.address and address.prefixlen == 32 for address in addresses):
        yield Step(
            f"{name}: address {spec.address}/32 added", lambda netlink: netlink.add_address(link, spec.address, 32)
        )
    if broadcast:
        # Before Linux 5.14 a subnet's first address is one, and the bridge that has ours was there before the device.
        yield Step(
            f"{name}: address {spec.address} is no broadcast",
            lambda netlink: netlink.claim_address(link, spec.address, routes.PROTOCOL),
        )
    for stale in addresses:
        if stale.address != spec.address or stale.prefixlen != 32:
            yield Step(
                f"{name}: address {stale.address}/{stale.prefixlen} removed",
                lambda netlink, stale=stale: netlink.delete_address(link, stale),  # type: ignore[misc]
                needed=False,
            )
    if not link.accept_local:
        # The datapath's ICMP errors have the device's own address as their source: martians to Linux otherwise.
        yield Step(f"{name}: packets from our own addresses accepted", lambda netlink: netlink.accept_local(link))
    if not link.up:
        yield Step(f"{name}: set up", lambda netlink: netlink.set_link(link, up=True))


def reconcile(spec: TunnelSpec, netlink: Netlink) -> Outcome:
    """Makes device and route match ``spec``. A step that fails keeps no other from being tried.

    Raises:
        DeviceError: there is no such device (the datapath makes it).
        PrivilegeError, NodeError: the kernel refused what packets need.
    """
    link = netlink.link(spec.device)
    if link is None:
        raise DeviceError("does not exist", about=f"device {spec.device}")
    done: list[str] = []
    failed: dict[Step, NodeError] = {}
    broadcast = netlink.is_broadcast(spec.address)
    for step in plan(spec, link, netlink.addresses(link.index), broadcast=broadcast):
        try:
            step.run(netlink)
        except PrivilegeError:
            raise
        except NodeError as error:
            failed[step] = error
        else:
            done.append(step.text)
    routed = _route(spec, link)
    needed = [f"{step.text}: {error}" for step, error in failed.items() if step.needed]
    needed += [f"{routes.text(route, lambda _: link.name)} added: {error}" for route, error in routed.refused.items()]
    left = [f"{step.text}: {error}" for step, error in failed.items() if not step.needed]
    if needed:
        raise NodeError("; ".join((*needed, *left, *routed.failures)))
    return Outcome((*done, *routed.changes), (*left, *routed.failures))


def _route(spec: TunnelSpec, link: Link) -> Outcome:
    wanted = [routes.network_route(spec.network, link.index)]
    with RouteTable() as table:
        present = table.routes()
        difference = routes.compare(wanted, present, lambda route: routes.is_by_device(route, link.index))
        return routes.carry_out(difference, table, lambda _: link.name)


def exists(name: str) -> bool:
    """Whether there is a TUN device of this name, an earlier agent's as a rule; False where nobody can tell."""
    try:
        with Netlink() as netlink:
            link = netlink.link(name)
    except NodeError:
        return False
    return link is not None and link.kind == "tun"


def remove(name: str) -> Iterator[str]:
    """Removes the device, and its routes with it. Raises NodeError: it is not ours, or cannot be removed."""
    with Netlink() as netlink:
        link = netlink.link(name)
        if link is None:
            return
        if link.kind != "tun":
            raise NodeError(f"is a {link.kind or 'hardware'} interface, not ours", about=f"device {name}")
        netlink.delete_link(link)
    yield f"device {name} removed, and its routes with it"
