"""Carries out what :class:`~overlay.services.skydns.publication.Publication` decides, on a node of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

from overlay.daemon.clock import boottime
from overlay.daemon.lifetime import Daemon
from overlay.daemon.occasions import Occasion
from overlay.daemon.reconcile import Look
from overlay.errors import ConfigError, LeaseNotFoundError, StoreError
from overlay.problem import Problem
from overlay.services import configuration
from overlay.services.configuration import Configuration
from overlay.services.dns import entries
from overlay.services.dns.zone import ServiceName
from overlay.services.mirror import ServicesMirror
from overlay.services.skydns import records
from overlay.services.skydns.publication import Action, Publication, Read, Write, writer_of
from overlay.store.contract import Committed, Compare, Delete, Snapshot, Store
from overlay.store.session import Grant, Refresh

_SECONDS = 1.0
"""From one look to the next at least: so often at most one record is written."""

_SLICE = 100
"""Services, or pods, that are looked at in one go, some ten milliseconds."""

_OWN, _SERVICE, _BEHIND, _POD, _CLUSTER = range(5)
"""Kinds of sources. Of those that want one key the first has it: a ClusterIP's reverse name before an endpoint's."""


class Publisher:
    """Keeps the cluster's names in etcd as SkyDNS records while this node is the one that writes them.

    Args:
        holds_name: whether this node's name is its own: of two machines of one name one alone writes.
        prefix: of the records' keys, without a slash at its end.
        pods: whether pods have names.
    """

    def __init__(
        self, store: Store, mirror: ServicesMirror, rng: Random, holds_name: Callable[[], bool],
        *, node: str, prefix: str, pods: bool,
    ) -> None:  # fmt: skip
        self._store = store
        self._mirror = mirror
        self._holds_name = holds_name
        self._prefix = prefix
        self._pods = pods
        self._publication = Publication(mirror, rng, node=node, prefix=prefix, pods=pods)
        self._occasion = Occasion()
        self._touched = set[ServiceName]()
        self._all = True
        self._gathered_pods = set[tuple[str, str]]()
        self._domain = ""

    def start(self, daemon: Daemon) -> None:
        """Starts the loop of a daemon that runs."""
        daemon.keep("skydns", self.look, occasion=self._occasion)

    def changed(self) -> None:
        """The mirror has gone on."""
        self._touched |= self._mirror.touched
        self._occasion.tell()

    def facts(self) -> dict[str, Any]:
        """What ``overlay services --status`` says of it."""
        of = self._publication
        return {
            "prefix": self._prefix,
            "writer": of.writer,
            "records": len(of.wanted) if of.writes else None,
            "to_write": of.missing if of.writes else None,
        }

    async def look(self) -> Look:
        """Does what there is to do. Raises StoreError where the store does not let it."""
        problems: tuple[Problem, ...] = ()
        gathered = False
        while self._holds_name():
            if not gathered or (self._all and self._publication.writes):
                problems, gathered = await self._gather(), True
            now = boottime()
            action = self._publication.next(now)
            if isinstance(action, float):
                await asyncio.sleep(_SECONDS)
                return Look((*problems, *self._wrong()), due=max(0.0, action - boottime()))
            try:
                result = await self._carry_out(action)
            except StoreError as error:
                self._publication.failed(error, boottime())
                if not isinstance(error, LeaseNotFoundError):
                    raise
            else:
                self._publication.completed(result, boottime())
        return Look(due=_SECONDS)

    async def _carry_out(self, action: Action) -> Snapshot | Committed | int | None:
        match action:
            case Grant(lease_id, ttl):
                await self._store.grant(lease_id, ttl)
                return None
            case Refresh(lease_id):
                return await self._store.refresh(lease_id)
            case Read(span):
                return await self._store.read(span)
            case Write(compares, operations):
                return await self._store.commit(compares, operations)

    # --- what is wanted ---

    async def _gather(self) -> tuple[Problem, ...]:
        """What has changed since is wanted otherwise; nothing is where another node writes.

        Raises ConfigError where nothing good was ever read: what was published stays.
        """
        wanted = self._publication.wanted
        if not self._publication.writes:
            wanted.clear()
            self._touched, self._all, self._gathered_pods = set(), True, set()
            return ()
        problems = self._read_configuration()
        touched = self._touched | (self._mirror.services.keys() if self._all else set())
        self._touched, self._all = set(), False
        for number, name in enumerate(touched, 1):
            self._gather_service(name)
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        wanted.put((_CLUSTER, "", ""), records.of_cluster(self._domain, self._prefix))
        pods = entries.pods(self._mirror) if self._pods else set()
        for gone in self._gathered_pods - pods:
            wanted.put((_POD, *gone), {})
        for number, each in enumerate(pods - self._gathered_pods, 1):
            wanted.put((_POD, *each), records.of_pod(*each, self._domain, self._prefix))
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        self._gathered_pods = pods
        return problems

    def _gather_service(self, name: ServiceName) -> None:
        wanted, entry = self._publication.wanted, entries.entry(self._mirror, name)
        own, behind = ({}, {}) if entry is None else records.reverse_of(entry, self._domain, self._prefix)
        wanted.put((_OWN, *name), own)
        wanted.put((_BEHIND, *name), behind)
        wanted.put((_SERVICE, *name), {} if entry is None else records.of_service(entry, self._domain, self._prefix))

    def _read_configuration(self) -> tuple[Problem, ...]:
        key = self._mirror.keys.config
        written = self._mirror.items.get(key)
        try:
            domain = (Configuration() if written is None else configuration.parse(written.value, key)).domain
        except ConfigError as error:
            if not self._domain:
                raise
            return (Problem.of(error, "skydns", after="records are as the last good one has them"),)
        if domain != self._domain:
            self._domain, self._all = domain, True
            for each in self._gathered_pods:
                self._publication.wanted.put((_POD, *each), {})
            self._gathered_pods = set()
        return ()

    def _wrong(self) -> tuple[Problem, ...]:
        problems: list[Problem] = []
        if different := self._publication.difference:
            remedy = "give all nodes that publish the same --skydns-prefix and --dns-pods"
            problems.append(Problem("skydns-differs", f"{different}, and will when it takes its place", remedy))
        if not (refused := self._publication.refused):
            return tuple(problems)
        sentence = f"{refused[0]} is somebody else's in etcd ({len(refused)} such keys): its record is not published"
        return (*problems, Problem("skydns-refused", sentence, "delete it there, or name another --skydns-prefix"))


async def resign(store: Store, mirror: ServicesMirror, node: str) -> None:
    """This node publishes no more: another one may at once, and if none does, the records go. Raises StoreError."""
    key = mirror.keys.publisher("skydns")
    held = mirror.items.get(key)
    if held is not None and writer_of(held) == node:
        await store.commit([Compare(key, held.mod_revision, held.value)], [Delete(key)])
