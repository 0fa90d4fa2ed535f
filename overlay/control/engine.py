"""The control plane without its tasks: followers, view, config, keeper and membership, joined and sans I/O.

plane.py drives it against a store; the simulation drives many of them against a faulty one. Whoever drives calls
``settle`` after every input, asks ``next_step`` of each follower and ``next_action`` of the keeper, and reports back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from random import Random

from overlay.control.configuration import Check, Configuration
from overlay.control.leases.allocator import Identity, Memory
from overlay.control.leases.keeper import KEEPER_PROBLEM, Keeper
from overlay.control.leases.state import Action, Held, Phase, ReadAgain
from overlay.control.leases.view import LeaseView
from overlay.control.peers.membership import Membership
from overlay.control.schema.keys import config_key, subnets_prefix
from overlay.control.schema.lease import LeaseRecord, parse_lease
from overlay.errors import CompactedError, StoreError, StoreRestoredError
from overlay.model import EMPTY_PEERS, Advertisement, Lease, NetworkConfig, PeerTable
from overlay.problem import Problem
from overlay.store.contract import Committed, Events, KeyRange, KeyValue, Snapshot
from overlay.store.follower import Follower, Read, Watch
from overlay.store.following import Follows
from overlay.store.recall import Recall
from overlay.store.session import DEFAULT_MARGIN, DEFAULT_TTL

log = logging.getLogger(__name__)


RESTORED_ONCE = 60.0
"""Seconds within which the store was restored once, whoever notices: each follower does, in its own time."""


def accept_any(config: NetworkConfig) -> None:
    """The check of an agent that can run every valid config."""


def only_the_type(config: NetworkConfig) -> Advertisement:
    """What a backend advertises that needs nothing of its peers but their addresses."""
    return Advertisement(config.backend.type)


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """What does not change while the agent runs.

    Attributes:
        prefix: of all keys, ``/coreos.com/network``.
        ttl: of our etcd lease, seconds.
        margin: seconds before its end by which it must have been refreshed.
        check_config: refuses, by raising ConfigError, a valid config that this agent cannot run.
        advertise: what the config's backend has the lease say; None while it is not prepared for that config, which is
            then not run on yet. Call ``check_again`` when it is.
    """

    prefix: str = "/coreos.com/network"
    ttl: int = DEFAULT_TTL
    margin: float = DEFAULT_MARGIN
    check_config: Check = accept_any
    advertise: Callable[[NetworkConfig], Advertisement | None] = only_the_type


@dataclass(frozen=True, slots=True)
class ControlState:
    """What the control plane knows at one moment.

    Attributes:
        version: grows with every change.
        phase: the keeper's.
        wanted: the newest good config, for which the backend has to be prepared; None before the first one.
        config: to run on: the newest for which it was; None before the first one.
        held: our lease; None before the first one and between losing one to another node and having the next.
        memory: to be kept beyond the life of this process, and of this boot.
        peers: everyone else. As they were last known while the store is away.
        problems: what is wrong; empty when all is well.
        skipped: keys among the leases that are malformed or unusable.
        store_connected: whether every change in the store is being heard of.
        last_contact: when the store last answered, by the plane's clock; None: never.
    """

    version: int = 0
    phase: Phase = Phase.WAITING
    wanted: NetworkConfig | None = None
    config: NetworkConfig | None = None
    held: Held | None = None
    memory: Memory = field(default_factory=Memory)
    peers: PeerTable = EMPTY_PEERS
    problems: tuple[Problem, ...] = ()
    skipped: int = 0
    store_connected: bool = False
    last_contact: float | None = None


class Span(Enum):
    """The two ranges that are followed."""

    CONFIG = "config"
    LEASES = "leases"


class Engine:
    """One node's control plane, to be driven.

    Attributes:
        keys: what each range is in the store.
        state: the newest, as of the last :meth:`settle`.
    """

    def __init__(
        self,
        settings: ControlSettings,
        identity: Identity,
        memory: Memory | None,
        rng: Random,
        parse: Callable[[KeyValue], LeaseRecord] = parse_lease,
    ) -> None:
        config = config_key(settings.prefix)
        self.view = LeaseView(subnets_prefix(settings.prefix), parse)
        self.keeper = Keeper(self.view, identity, rng, memory=memory, ttl=settings.ttl, margin=settings.margin)
        self.keys = {Span.CONFIG: KeyRange(config, prefix=False), Span.LEASES: KeyRange(self.view.directory)}
        self.state = ControlState(memory=self.keeper.memory)
        self._followers = {span: Follower(rng) for span in Span}
        self._configuration = Configuration(config, settings.check_config)
        self._advertise = settings.advertise
        self._config_items: tuple[KeyValue, ...] = ()
        self._membership = Membership(self.view)
        self._had_lease = False
        self._store_error: StoreError | None = None
        self._recovered_at = -math.inf
        self._restored_at = -math.inf

    # --- following ---

    def follows(self, span: Span) -> Follows:
        """The range as its driver sees it."""
        return _Followed(self, span)

    def next_step(self, span: Span, now: float) -> Read | Watch | float:
        """What the follower of ``span`` wants: see :meth:`Follower.next`."""
        return self._followers[span].next(now)

    def loaded(self, span: Span, snapshot: Snapshot, now: float) -> None:
        """The follower's read was answered."""
        follower = self._followers[span]
        follower.loaded(snapshot, now)
        self._answered(span, now)
        if span is Span.CONFIG:
            self._config_items = snapshot.items
            self._configuration.see(snapshot.items[0].value if snapshot.items else None, self._held_lease())
        else:
            epoch = self.view.epoch
            self._membership.update(self.view.load(snapshot, follower.asked_at))
            if self.view.epoch != epoch:
                self._note_restored(now)
            self.keeper.observe()

    def recall(self, span: Span) -> Recall | None:
        """What the store must remember too before a watch of ``span`` counts; None once it has proved that."""
        known = self.view.items.values() if span is Span.LEASES else self._config_items
        return self._followers[span].recall(known)

    def proved(self, span: Span, now: float) -> None:
        """The store remembers that."""
        follower = self._followers[span]
        was_connected = follower.connected  # after a read, which was told of as an answer before
        follower.proved(now)
        if not was_connected:
            self._answered(span, now)

    def _answered(self, span: Span, now: float) -> None:
        if span is Span.LEASES:
            self.keeper.reconnected()
        if self._store_error is not None and all(each.error is None for each in self._followers.values()):
            self._store_error = None
            self._recovered_at = now

    def check_again(self) -> None:
        """What ``check_config`` judges by, or ``advertise`` tells, has changed."""
        self._configuration.see_again(self._held_lease())

    def heard(self, span: Span, batch: Events, now: float) -> bool:
        """The follower's watch brought a batch. False: end the watch and ask :meth:`next_step`."""
        if not self._followers[span].heard(batch, now):
            return False
        if span is Span.LEASES:
            self._membership.update(self.view.apply(batch))
            self.keeper.observe()
        elif batch.events:
            newest = batch.events[-1]
            self._config_items = () if newest.deleted else (newest.kv,)
            self._configuration.see(None if newest.deleted else newest.kv.value, self._held_lease())
        return True

    def lost(self, span: Span, error: StoreError, now: float) -> None:
        """The follower's read failed or its watch ended."""
        self._followers[span].failed(error, now)
        if isinstance(error, StoreRestoredError):
            self._note_restored(now)
        elif not isinstance(error, CompactedError):
            self._store_error = error  # the newest: at a recovery, no older one of the other follower takes its place

    def _note_restored(self, now: float) -> None:
        if now - self._restored_at > RESTORED_ONCE:
            log.warning("etcd was restored from a backup or replaced: everything is compared anew")
        self._restored_at = now

    def last_contact(self) -> float | None:
        """When the store last answered a follower."""
        contacts = [f.last_contact for f in self._followers.values() if f.last_contact is not None]
        return max(contacts, default=None)

    # --- keeping ---

    def next_action(self, now: float) -> Action | float:
        """What the keeper wants: see :meth:`Keeper.next_action`. At a ReadAgain, end the watch of the leases."""
        action = self.keeper.next_action(now)
        if isinstance(action, ReadAgain):
            self._followers[Span.LEASES].read_again(now)
        return action

    def completed(self, result: Committed | int | None, now: float) -> None:
        """The keeper's action was carried out."""
        self.keeper.completed(result, now)

    def failed(self, error: StoreError, now: float) -> None:
        """The keeper's action failed, or nobody knows whether it did."""
        self.keeper.failed(error, now)

    # --- agreeing ---

    def settle(self) -> bool:
        """Brings the parts into agreement after any input, and ``state`` up to date.

        Returns:
            Whether the keeper got another config, and so may have something to do.
        """
        for level, text in self.keeper.take_notes():
            log.log(level, "%s", text)
        held = self.keeper.held
        self._had_lease = self._had_lease or held is not None
        self._configuration.reconsider(self._held_lease())
        reconfigured = self._reconfigure()
        self._membership.reconsider(self.keeper.config, self.keeper.identity, None if held is None else held.subnet)
        self._update(held)
        return reconfigured

    def _reconfigure(self) -> bool:
        """Goes over to the wanted config once its backend is prepared; whether there was something to do."""
        wanted = self._configuration.current
        advertisement = None if wanted is None else self._advertise(wanted)
        if wanted is None or advertisement is None:
            return False
        if (wanted, advertisement) == (self.keeper.config, self.keeper.advertisement):
            return False
        self.keeper.configure(wanted, advertisement)
        return True

    def _held_lease(self) -> Lease | None:
        held = self.keeper.held
        return None if held is None else held.lease

    def _update(self, held: Held | None) -> None:
        old = self.state
        new = replace(
            old,
            phase=self.keeper.phase,
            wanted=self._configuration.current,
            config=self.keeper.config,
            held=held,
            memory=self.keeper.memory,
            problems=tuple(self._problems()),
            skipped=self._membership.skipped,
            store_connected=all(follower.connected for follower in self._followers.values()),
        )
        table = self._membership.table  # the same object as long as nothing changed, so no need to compare 5,000 peers
        if new != old or table is not old.peers:
            self.state = replace(new, peers=table, version=old.version + 1)

    def _problems(self) -> list[Problem]:
        found: list[Problem] = []
        error = self._store_error
        if error is not None:
            rest = "trying again, traffic goes on as it is" if self._had_lease else "waiting for it"
            found.append(Problem.of(error, "store", about="etcd", after=rest))
        if (problem := self._configuration.problem()) is not None:
            found.append(problem)
        # What failed while the store was away is told as that, and is being done again since.
        stale = error is not None or self.keeper.failed_at <= self._recovered_at
        found.extend(p for p in self.keeper.problems() if not stale or p.code != KEEPER_PROBLEM)
        found.extend(self._membership.problems())
        return found


class _Followed:
    """One range of an engine's, for :class:`~overlay.store.following.Following`."""

    def __init__(self, engine: Engine, span: Span) -> None:
        self.span = engine.keys[span]
        self.next_step = partial(engine.next_step, span)
        self.loaded = partial(engine.loaded, span)
        self.recall = partial(engine.recall, span)
        self.proved = partial(engine.proved, span)
        self.heard = partial(engine.heard, span)
        self.lost = partial(engine.lost, span)
