"""``--ip-blackhole-route``: packets to our subnet end here while no bridge has it, whatever the backend."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network

from overlay.errors import NodeError
from overlay.linux.routes import RouteTable
from overlay.node import routes
from overlay.node.routes import Outcome


def reconcile(subnet: IPv4Network | None, device: str) -> Outcome:
    """Makes the agent's one blackhole that of ``subnet``, or removes it where that is None.

    Args:
        device: of the agent.

    Raises:
        PrivilegeError, NodeError: the kernel, or another's route, does not let it.
    """
    wanted = () if subnet is None else (routes.blackhole_route(subnet, device),)
    with RouteTable() as table:
        outcome = routes.reconcile(wanted, table, lambda route: routes.is_blackhole(route, device), _nowhere)
    for route, error in outcome.refused.items():
        raise NodeError(f"{routes.text(route, _nowhere)} added: {error}")
    return outcome


def remove(device: str) -> Iterator[str]:
    """Removes it; tells what there was. Raises NodeError."""
    with RouteTable() as table:
        yield from routes.remove(table, lambda route: routes.is_blackhole(route, device), _nowhere)


def _nowhere(index: int | None) -> str:
    return ""
