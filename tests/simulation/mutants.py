"""Keepers and followers that are broken on purpose: each makes a mistake that the checker has to find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from overlay.control.allocator import Identity, Memory
from overlay.control.engine import ControlSettings, Engine
from overlay.control.follower import Follower
from overlay.control.keeper import Action, Commit, Held, Keeper
from overlay.control.schema import LeaseRecord
from overlay.control.session import Session
from overlay.control.store import Compare, Events, Snapshot
from overlay.control.view import LeaseView
from overlay.model import Lease
from tests.simulation.agent import parse_cached


class PutsWithoutComparing(Keeper):
    """flanneld's renewal: an unconditional put."""

    def next_action(self, now: float) -> Action | float:
        action = super().next_action(now)
        return replace(action, compares=()) if isinstance(action, Commit) else action


class AdoptsForeignLeases(Keeper):
    """Takes whatever is at its key for its own."""

    def _is_ours(self, record: LeaseRecord) -> bool:
        return True


class IgnoresExpiry(Keeper):
    """Goes on as if its lease lived for ever."""

    @property
    def held(self) -> Held | None:
        held = super().held
        return None if held is None else replace(held, valid_until=float("inf"))


class LeavesStrays(Keeper):
    """Does not clean up after writes of its own that came late."""

    def _is_stray(self, record: LeaseRecord) -> bool:
        return False


class DoesNotConfirm(Keeper):
    """Believes in a claim as soon as it is written, whatever it overlaps."""

    def _overlapping_others(self, lease: Lease, key: str) -> set[str]:
        return set()


class NeverRegains(Keeper):
    """Does nothing about a lease that is gone."""

    def observe(self) -> None:
        pass


class ComparesRevisionsAlone(LeaseView):
    """Trusts that a revision is never given out twice; a restored store does."""

    def as_compare(self, key: str) -> Compare:
        return Compare(key, super().as_compare(key).mod_revision)


class MissesDeletions(LeaseView):
    """Takes a snapshot for additions alone, as a list that is not compared whole."""

    def load(self, snapshot: Snapshot, asked_at: float) -> set[str]:
        gone = [kv for key, kv in self._raw.items() if key not in {item.key for item in snapshot.items}]
        return super().load(Snapshot(snapshot.revision, (*snapshot.items, *gone)), asked_at)


class ReadsFirstEventOnly(LeaseView):
    """flanneld v0.20.2: of a batch of events it looks at the first."""

    def apply(self, batch: Events) -> set[str]:
        return super().apply(Events(batch.revision, batch.events[:1]))


class GivesUpBackoff(Follower):
    """Stops following after the first compaction or cut connection."""

    def failed(self, error: Exception, now: float) -> None:
        super().failed(error, now)  # type: ignore[arg-type]
        self._due = float("inf")


class CountsFromTheAnswer(Session):
    """Counts the lease's life from a generous moment instead of the sending of the request."""

    def _live(self, since: float, ttl: int) -> None:
        super()._live(since + 30, ttl)


Mutate = Callable[[ControlSettings, Identity, Memory, Random], Engine]


def with_keeper(kind: type[Keeper]) -> Mutate:
    """An engine whose keeper is a mutant."""

    def make(settings: ControlSettings, identity: Identity, memory: Memory, rng: Random) -> Engine:
        engine = Engine(settings, identity, memory, rng, parse_cached)
        engine.keeper = kind(engine.view, identity, rng, memory=memory, ttl=settings.ttl, margin=settings.margin)
        return engine

    return make


def with_view(kind: type[LeaseView]) -> Mutate:
    """An engine whose view is a mutant."""

    def make(settings: ControlSettings, identity: Identity, memory: Memory, rng: Random) -> Engine:
        engine = Engine(settings, identity, memory, rng, parse_cached)
        engine.view.__class__ = kind
        return engine

    return make


def with_follower(kind: type[Follower]) -> Mutate:
    """An engine whose followers are mutants."""

    def make(settings: ControlSettings, identity: Identity, memory: Memory, rng: Random) -> Engine:
        engine = Engine(settings, identity, memory, rng, parse_cached)
        for follower in engine._followers.values():
            follower.__class__ = kind
        return engine

    return make


def with_session(kind: type[Session]) -> Mutate:
    """An engine whose etcd lease is kept by a mutant."""

    def make(settings: ControlSettings, identity: Identity, memory: Memory, rng: Random) -> Engine:
        engine = Engine(settings, identity, memory, rng, parse_cached)
        engine.keeper._session.__class__ = kind
        return engine

    return make


MUTANTS: dict[str, Mutate] = {
    "puts without comparing": with_keeper(PutsWithoutComparing),
    "adopts foreign leases": with_keeper(AdoptsForeignLeases),
    "ignores expiry": with_keeper(IgnoresExpiry),
    "leaves strays": with_keeper(LeavesStrays),
    "does not confirm": with_keeper(DoesNotConfirm),
    "never regains": with_keeper(NeverRegains),
    "compares revisions alone": with_view(ComparesRevisionsAlone),
    "misses deletions": with_view(MissesDeletions),
    "reads first event only": with_view(ReadsFirstEventOnly),
    "gives up following": with_follower(GivesUpBackoff),
    "counts from the answer": with_session(CountsFromTheAnswer),
}
