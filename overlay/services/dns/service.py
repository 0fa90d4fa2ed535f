"""Names on this node: keeps the address, the rules, the worker and what it knows as they should be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from overlay.daemon.lifetime import Daemon
from overlay.daemon.occasions import Occasion, changes_of_this_machine
from overlay.daemon.reconcile import Look
from overlay.daemon.threads import in_thread
from overlay.errors import ConfigError, NodeError, PrivilegeError, ServicesError
from overlay.problem import Problem
from overlay.services import configuration
from overlay.services.configuration import Configuration
from overlay.services.dns import entries, place, upstreams
from overlay.services.dns.helper import DnsHelper
from overlay.services.dns.messages import Settings
from overlay.services.dns.rules import Rules
from overlay.services.dns.zone import Entry, Pods, ServiceName
from overlay.services.mirror import ServicesMirror

_SETS_SECONDS = 1.0
"""How late a namespace, or a verified pod, may have its name: all pods are looked through for them."""

_ASK_SECONDS = 2.0
"""How long the worker may take to say how it is."""


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """What names were started with.

    Attributes:
        address: where they are answered, on every node the same.
        upstreams: whom to ask for everything else; empty: the host's own.
        client_rate: questions a second that one client may ask; 0: as many as it likes.
        port, upstream_port: 53, but in tests.
    """

    address: IPv4Address
    upstreams: tuple[str, ...] = ()
    pods: Pods = Pods.INSECURE
    client_rate: int = 0
    port: int = place.PORT
    upstream_port: int = place.PORT


class Known:
    """What the mirror has to tell the worker: its :class:`~overlay.services.dns.feed.Facts`."""

    def __init__(self, mirror: ServicesMirror, pods: Pods) -> None:
        self._mirror = mirror
        self._pods = pods

    @property
    def revision(self) -> int:
        return self._mirror.revision

    def services(self) -> Iterable[ServiceName]:
        return self._mirror.services.keys()

    def entry(self, name: ServiceName) -> Entry | None:
        return entries.entry(self._mirror, name)

    def namespaces(self) -> set[str]:
        return entries.namespaces(self._mirror)

    def pods(self) -> set[tuple[str, str]]:
        return entries.pods(self._mirror) if self._pods is Pods.VERIFIED else set()


class Names:
    """The DNS server of this node.

    Args:
        subnets: of this node's containers, as they are now.
    """

    def __init__(
        self, settings: DnsSettings, mirror: ServicesMirror, subnets: Callable[[], Iterable[IPv4Network]]
    ) -> None:
        self._settings = settings
        self._mirror = mirror
        self._subnets = subnets
        self._known = Known(mirror, settings.pods)
        self._rules = Rules()
        self._helper: DnsHelper | None = None
        self._configuration = Configuration()
        self._place, self._sets = Occasion(), Occasion()
        self._config_seen: int | None = None
        self._upstreams: tuple[str, ...] = ()

    def start(self, daemon: Daemon) -> None:
        """Starts the loops of a daemon that runs."""
        daemon.at_end(self._end)
        daemon.keep("dns", self._look, occasion=self._place)
        daemon.keep("dns-namespaces", self._look_at_sets, every=3600.0, occasion=self._sets)
        daemon.start("dns-machine", changes_of_this_machine(self._place))

    def changed(self) -> None:
        """The mirror has gone on."""
        if not self._mirror.loaded:
            return
        if self._mirror.mod_revision(self._mirror.keys.config) != self._config_seen:
            self._place.tell()
        if self._helper is not None:
            self._helper.changed(self._mirror.touched, sets=False)
        self._sets.tell()

    async def report(self) -> dict[str, Any]:
        """What ``overlay services --status`` says of it."""
        helper = self._helper
        said = None if helper is None else await helper.ask(_ASK_SECONDS)
        return {
            "address": str(self._settings.address),
            "domain": self._configuration.domain,
            "answers": said is not None,
            "upstreams": list(self._upstreams),
            "upstreams_down": [] if said is None else list(said.upstreams_down),
            "upstreams_looping": [] if said is None else list(said.upstreams_looping),
            "worker_restarts": 0 if helper is None else helper.restarts,
            "counters": {} if said is None else said.counters,
        }

    # --- the loops ---

    async def _look(self) -> Look:
        problems: list[Problem] = []
        self._read_configuration(problems)
        try:
            await in_thread(place.apply, self._settings.address)
        except PrivilegeError as error:  # not the end of the daemon: pods need none of it
            return Look((Problem.of(error, "dns", before="no names are answered"),))
        try:
            await in_thread(self._rules.apply, self._settings.address)
        except NodeError as error:
            problems.append(Problem.of(error, "dns-rules", before="questions are tracked, and may be lost in a race"))
        settings = await in_thread(self._gathered)
        await self._keep_helper(settings)
        self._upstreams = settings.upstreams
        problems += await self._upstream_problems()
        return Look(tuple(problems))

    async def _look_at_sets(self) -> Look:
        if self._helper is not None and self._mirror.loaded:
            self._helper.changed((), sets=True)
        await asyncio.sleep(_SETS_SECONDS)
        return Look()

    def _read_configuration(self, problems: list[Problem]) -> None:
        key = self._mirror.keys.config
        written = self._mirror.items.get(key)
        self._config_seen = self._mirror.mod_revision(key)
        try:
            self._configuration = Configuration() if written is None else configuration.parse(written.value, key)
        except ConfigError as error:
            problems.append(Problem.of(error, "config", after="names are as the last good one has them"))

    def _gathered(self) -> Settings:
        """Blocks."""
        settings, config = self._settings, self._configuration
        address = str(settings.address)
        return Settings(
            domain=config.domain,
            server=address,
            reverse=(str(config.service_cidr),),
            pods=settings.pods,
            clients=place.clients(self._subnets()),
            upstreams=settings.upstreams or upstreams.of_this_host(address),
            client_rate=settings.client_rate,
        )

    async def _keep_helper(self, settings: Settings) -> None:
        if self._helper is not None and self._helper.failed.done():
            error = self._helper.failed.exception()
            await self._helper.stop()
            self._helper = None
            raise error if isinstance(error, ServicesError) else ServicesError(str(error), about=DnsHelper.name)
        if self._helper is not None:
            self._helper.settle(settings)
            return
        sockets = place.open_sockets(self._settings.address, self._settings.port)
        helper = DnsHelper(sockets, self._known, settings, lambda: self._mirror.loaded, self._settings.upstream_port)
        try:
            await helper.start()
        except BaseException:
            await helper.stop()
            raise
        self._helper = helper
        if self._mirror.loaded:  # maybe since it was begun
            helper.changed(self._known.services(), sets=True)

    async def _upstream_problems(self) -> list[Problem]:
        if not self._upstreams:
            sentence = "no server is known that could tell names outside the cluster"
            return [Problem("dns-upstreams", sentence, "name some in /etc/resolv.conf, or with --dns-upstreams")]
        said = None if self._helper is None else await self._helper.ask(_ASK_SECONDS)
        problems = [self._loop(each) for each in (() if said is None else said.upstreams_looping)]
        down = () if said is None else said.upstreams_down
        if not down:
            return problems
        sentence = f"{', '.join(down)}: no answer to questions about names outside the cluster"
        rest = [each for each in self._upstreams if each not in down]
        remedy = f"{rest[0]} is asked" if rest else "see that they run, and are reached"
        return [*problems, Problem("dns-upstreams", sentence, remedy)]

    def _loop(self, upstream: str) -> Problem:
        sentence = f"{upstream}: asks this node what this node asks it, so no name outside the cluster has an answer"
        remedy = f"take {self._settings.address} from the servers that it asks, or name others with --dns-upstreams"
        return Problem("dns-loop", sentence, remedy, about=upstream)

    async def _end(self) -> None:
        if self._helper is not None:
            await self._helper.stop()
        with suppress(NodeError):
            await in_thread(lambda: list(self._rules.remove()))


def removals() -> Iterable[str]:
    """Takes off this machine what names are made of there; tells what there was. Blocks. Raises NodeError."""
    yield from Rules().remove()
    yield from place.remove()
