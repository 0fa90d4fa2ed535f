"""What else on this machine decides whether packets pass: Docker, and others' firewalls and rules of routing. It is
looked at, and said.

Nothing tells when they change, so they are looked at now and then. Nothing of theirs is changed; that Docker should
start again is left in a file, for a unit of systemd's (``overlay.node.docker.restart``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path

from overlay.backends.base import Desired
from overlay.daemon.reconcile import Look
from overlay.errors import FileError, NodeError
from overlay.linux.netfilter import Tools
from overlay.linux.netlink import Netlink
from overlay.node import ways
from overlay.node.docker import daemon, judgement
from overlay.node.docker.restart import Restart, would_help
from overlay.node.firewall import others, refusals
from overlay.node.firewall.refusals import Tunnel
from overlay.node.firewall.saved import Tokens
from overlay.node.firewall.standstill import Standstill
from overlay.problem import Problem

_log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""How long it takes at most until a Docker that was restarted is judged anew."""


class Neighbours:
    """Looks around, and asks for Docker's restart where that would help."""

    def __init__(self, state_dir: Path, *, watch_docker: bool) -> None:
        """
        Args:
            state_dir: where it is left that Docker should be restarted.
            watch_docker: whether this machine's Docker is meant to have the overlay.
        """
        self._restart = Restart(state_dir) if watch_docker else None
        self._tools = Tools.locate()
        self._prerouting: Standstill[tuple[Tokens, ...]] = Standstill()
        self._refusals: Standstill[tuple[Problem, ...]] = Standstill()

    async def look(self, desired: Desired | None, interface: str, port: int | None) -> Look:
        """
        Args:
            desired: what this node is set up for; None while it is not.
            interface: by which peers' packets come in.
            port: of the tunnel's datagrams, where the host's firewall is asked about them.
        """
        return Look(() if desired is None else await asyncio.to_thread(self._look, desired, interface, port))

    def _look(self, desired: Desired, interface: str, port: int | None) -> tuple[Problem, ...]:
        pool = desired.config.ipv4
        assert pool is not None
        self._tools = self._tools.again()
        found: list[Problem] = []
        if self._restart is not None:
            found += self._docker(desired, interface, self._restart)
        with contextlib.suppress(NodeError), Netlink() as netlink:
            found += ways.look(netlink, pool.network, desired.subnet, interface)
        # One that cannot be read is the firewall's own problem already: its rules are checked every few seconds.
        with contextlib.suppress(NodeError):
            tunnel = None if port is None else Tunnel(port, desired.underlay.interface)
            kinds = refusals.kinds(pool.network, desired.subnet, interface, tunnel)
            found += self._refusals.known(
                (self._tools, pool.network, interface, kinds),
                lambda: (*others.look(self._tools, pool.network, interface), *refusals.look(self._tools, kinds)),
            )
        return tuple(found)

    def _docker(self, desired: Desired, interface: str, restart: Restart) -> Iterator[Problem]:
        docker = daemon.look()
        if docker is None:
            return
        rules: tuple[Tokens, ...] = ()
        with contextlib.suppress(NodeError):
            rules = self._prerouting.known(self._tools, lambda: others.prerouting(self._tools))
        place = judgement.Place(desired.subnet, interface, rules, _addresses())
        # What cannot be written is said by what stays wrong: the remedy is in the status all the while.
        with contextlib.suppress(FileError):
            if restart.consider(would_help(docker, place), time.monotonic()):
                _log.info("Docker has no container that keeps its old subnet any more: asking for its restart")
        yield from judgement.judge(docker, place)


def _addresses() -> Mapping[str, list[IPv4Address]]:
    """IPv4 addresses of this network namespace, by interface."""
    found: defaultdict[str, list[IPv4Address]] = defaultdict(list)
    with Netlink() as netlink:
        names = {link.index: link.name for link in netlink.links()}
        for address in netlink.addresses():
            found[names.get(address.index, "")].append(address.address)
    return found
