"""Keeps one subnet leased: what to do next, given what the store shows and what came of the last action.

Sans I/O. It decides from the :class:`LeaseView` that the follower keeps, takes ``now`` (seconds of a clock that also
counts suspended time), has at most one action under way (``pending``), and says until when there is nothing to do.

Why a subnet has one owner:

* What is written (``writes``) changes a key only as it was judged.
* After a write whose outcome is unknown, nothing is decided before a snapshot that was asked for later. The write may
  still happen after that: its comparison fails then, or it makes a second lease of ours, which is swept.
* Leases of different lengths have different keys, so the comparison alone cannot keep them apart. A new lease counts
  only once the view has reached the revision that wrote it and shows nothing that overlaps. Of two that overlap, at
  least the later one sees the other there.
* ``valid_until`` counts from when a request was sent.

Why one node takes one subnet only: nothing is written that readers would refuse, and a claim that shows up malformed
all the same (somebody between us and the store, or beside us, changes what is written) is put again where it is, ever
more seldom, never elsewhere. Garbage names no owner, so the next claim would not know the last.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from random import Random

from overlay.control.leases import writes
from overlay.control.leases.allocator import (
    Claim,
    Claimant,
    Identity,
    Memory,
    Source,
    allocate,
    fits,
    is_contested,
    lease_of,
    own_leases,
)
from overlay.control.leases.conflicts import conflicts
from overlay.control.leases.ownership import Ownership
from overlay.control.leases.pending import FIRST_RETRY, MAX_RETRY, NEVER, Pending
from overlay.control.leases.question import ANSWER_TIME, Question, Reply
from overlay.control.leases.rivals import Rivals
from overlay.control.leases.state import TRANSITIONS, Action, Commit, Held, Phase, Purpose, Revoke
from overlay.control.leases.view import LeaseView
from overlay.control.schema.lease import DEFAULT_BACKEND, LeaseRecord
from overlay.errors import LeaseFormatError, LeaseNotFoundError, OutOfSubnetsError, StoreError
from overlay.model import Advertisement, Lease, NetworkConfig
from overlay.problem import Problem, Severity
from overlay.rates import Backoff
from overlay.store.contract import ABSENT, NO_LEASE, Committed
from overlay.store.session import DEFAULT_MARGIN, DEFAULT_TTL, Grant, Refresh, Session
from overlay.text import excerpt

KEEPER_PROBLEM = "keeper"
"""Code of the problem that an action of the keeper fails; the store's own trouble makes it superfluous."""

OWN = "our lease"
"""What the keeper's problems are about."""


class Keeper:
    """The lease state machine of one node.

    Attributes:
        phase: see Phase; TRANSITIONS says what may follow what.
        memory: what is worth remembering beyond this process's life.
    """

    def __init__(
        self,
        view: LeaseView,
        identity: Identity,
        rng: Random,
        *,
        memory: Memory | None = None,
        ttl: int = DEFAULT_TTL,
        margin: float = DEFAULT_MARGIN,
    ) -> None:
        self.phase = Phase.WAITING
        self.memory = memory or Memory()
        self._view = view
        self._rng = rng
        self.config: NetworkConfig | None = None
        self.advertisement = Advertisement(DEFAULT_BACKEND)
        self._session = Session(ttl, margin, rng, self.memory.etcd_lease_id)
        self._pending = Pending(view, rng)
        self._ownership = Ownership(view, identity)
        self._held: Held | None = None
        self._held_epoch = 0
        self._claim: Claim | None = None
        self._mangled: LeaseFormatError | None = None
        self._mangling = Backoff(FIRST_RETRY, MAX_RETRY, rng)
        self._unwritable: LeaseFormatError | None = None
        self._question: Question | None = None
        self._rivals = Rivals(rng)
        self._right: Lease | None = None
        self._right_epoch = 0
        self._exhausted: tuple[OutOfSubnetsError, int, int, NetworkConfig] | None = None
        self._release_wanted = False
        self._notes: list[tuple[int, str]] = []

    # --- what it tells ---

    @property
    def identity(self) -> Identity:
        """What this node goes by."""
        return self._ownership.identity

    @property
    def held(self) -> Held | None:
        """Our lease; None before the first one, and from when the subnet went to another until there is a new one."""
        held = self._held
        if held is None:
            return None
        if self.phase is not Phase.HELD or held.etcd_lease_id not in (NO_LEASE, self._session.lease_id):
            valid_until = 0.0
        else:
            valid_until = math.inf if held.reserved else self._session.valid_until
        if valid_until != held.valid_until:
            held = self._held = replace(held, valid_until=valid_until)
        return held

    @property
    def failed_at(self) -> float:
        """When an action failed last (the caller's clock)."""
        return self._pending.failed_at

    def take_notes(self) -> list[tuple[int, str]]:
        """What happened since the last call, as (logging level, line)."""
        notes, self._notes = self._notes, []
        return notes

    def problems(self) -> list[Problem]:
        """What people should know is wrong with our lease."""
        found: list[Problem] = []
        if (failure := self._pending.error) is not None:
            before = "the lease cannot be kept up"
            found.append(Problem.of(failure, KEEPER_PROBLEM, about=OWN, before=before, after="trying again"))
        if self._unwritable is not None:
            found.append(Problem.of(self._unwritable, "unwritable", about=OWN, before="no lease is written"))
        if self._mangled is not None:
            found.append(
                Problem.of(self._mangled, "mangled", about=OWN, before="our lease does not read as it was written")
            )
        if (rival := self._rivals.problem(excerpt(self.identity.node_id), str(self.identity.public_ip))) is not None:
            found.append(rival)
        if self.phase is Phase.EXHAUSTED and self._exhausted is not None:
            error, down = self._exhausted[0], Severity.DOWN
            found.append(Problem.of(error, "exhausted", about=OWN, before="out of subnets", severity=down))
        if self._view.loaded and self.config is not None:
            own_key = self._held.key if self._held else self._question.key if self._question else None
            found.extend(conflicts(self._view, self.config, self.identity, self.memory, own_key))
        return found

    # --- what it is told ---

    def configure(self, config: NetworkConfig, advertisement: Advertisement | None = None) -> None:
        """The config to lease under, which a held subnet fits: the caller has made sure of that.

        Args:
            advertisement: what its backend has the lease say; None for nothing but its type.
        """
        self.config = config
        self.advertisement = advertisement or Advertisement(config.backend.type)

    def identify(self, identity: Identity) -> None:
        """This node is reachable under another address."""
        self._ownership.identify(identity)
        self._pending.retry_at = 0.0

    def observe(self) -> None:
        """The view has changed. Also while an action is under way, a lease that it shows lost is held no longer."""
        if self.phase is Phase.HELD:
            self._judge()

    def reconnected(self) -> None:
        """The follower has a new snapshot, so the store answers again: no reason to wait."""
        self._pending.retry_at = 0.0

    def release(self) -> None:
        """Give the subnet back and end; a reservation stays. ``phase`` becomes RELEASED."""
        self._release_wanted = True
        self._pending.retry_at = 0.0
        self._pending.works()

    def next_action(self, now: float) -> Action | float:
        """What to do now, to be answered by :meth:`completed` or :meth:`failed`; or the time before which nothing is.

        An input may make something to do earlier, so ask again after each.
        """
        if (until := self._pending.until(now)) > now:
            return until
        decided = self._decide(now)
        self._pending.decided(decided)
        return decided

    def completed(self, result: Committed | int | None, now: float) -> None:
        """The action was carried out: a Committed, a refresh's TTL in seconds, or nothing for grant and revoke."""
        action = self._pending.completed()
        if isinstance(action, Commit):
            assert isinstance(result, Committed)
            self._committed(action, result, now)
        elif isinstance(action, Grant):
            if action.lease_id == self._session.lease_id:
                self._session.granted()
        elif isinstance(action, Refresh):
            assert isinstance(result, int)
            stale = action.lease_id != self._session.lease_id
            if not stale and not self._session.refreshed(result) and self.phase is Phase.HELD:
                self._reclaim("our etcd lease has expired")
        elif isinstance(action, Revoke):
            self._enter(Phase.RELEASED)
        if not isinstance(action, Grant):  # a grant that works says nothing of the put that failed before it
            self._pending.works()

    def failed(self, error: StoreError, now: float) -> None:
        """The action failed, or nobody knows whether it did."""
        self._pending.failed(error, now)
        if self.phase is Phase.CLAIMING:
            self._enter(Phase.SEEKING if self._held is None else Phase.RECLAIMING)
        if isinstance(error, LeaseNotFoundError):
            self._session.replace()
            if self.phase is Phase.HELD:
                self._reclaim("our etcd lease is gone")

    # --- deciding ---

    def _decide(self, now: float) -> Action | float:
        quiet_at = self._rivals.settle(now)
        if self._release_wanted:
            return self._give_back()
        if self.config is None or not self._view.loaded:
            return NEVER
        if (step := self._pending.unseen(now)) is not None:
            return step
        if self.phase is Phase.WAITING:
            self._enter(Phase.SEEKING)
        if self.phase is Phase.CONFIRMING:
            self._confirm(now)
            if (until := self._pending.until(now)) > now:
                return until
        try:
            action = self._hold(self.config, now) if self.phase is Phase.HELD else self._acquire(self.config, now)
        except LeaseFormatError as error:
            self._unwritable = error
            return self._session.refresh_due if self.phase is Phase.HELD else NEVER
        self._unwritable = None
        return min(action, quiet_at) if isinstance(action, float) else action

    def _acquire(self, config: NetworkConfig, now: float) -> Action | float:
        """The next step towards a subnet. Raises LeaseFormatError: what we would publish is no lease."""
        claim = self._reclaim_claim(config) if self.phase is Phase.RECLAIMING else self._once_more(config)
        if claim is None:
            claim = self._seek(config)
        if claim is None:
            return self._sweep_contested(config, now)
        if claim.record is not None and self._ownership.is_in_question(claim.record):
            return self._ask(claim, claim.record, now)
        return self._take(claim, now)

    def _ask(self, claim: Claim, record: LeaseRecord, now: float) -> Action | float:
        """The next step towards a lease with our node id and an address that this process never had."""
        question = self._question
        reply = Reply.NOT_ASKED if question is None else question.reply(record, self._view.epoch, now)
        if question is not None and reply is Reply.WAITING:
            return question.until
        if reply is Reply.SILENCE:
            self._note(logging.INFO, f"nobody answers for {record.lease.subnet}, so it is this node's, from before")
            return self._take(claim, now)
        whose = f"{record.lease.subnet} of {record.lease.public_ip}, which has this node's id"
        if reply is Reply.ALIVE:
            self._note(logging.WARNING, f"another node lives with the lease of {whose}; leasing another subnet")
            self._forgo(record)
            return now
        self._note(logging.INFO, f"asking whether a node lives with the lease of {whose}, or it is ours from before")
        return writes.ask(self._view, record, self.identity.public_ip)

    def _forgo(self, record: LeaseRecord) -> None:
        """Forgets a subnet that is another's, and the etcd lease that a clone may share."""
        self._question = None
        self.memory = self.memory.without(record.lease)
        if record.lease.node_id == self.identity.node_id:
            self._session.replace()
        self.memory = replace(self.memory, etcd_lease_id=self._session.lease_id)

    def _once_more(self, config: NetworkConfig) -> Claim | None:
        """The claim that shows up malformed, on what is at its key now; None where there is no such claim."""
        claim = self._claim
        if self._mangled is None or claim is None or claim.key not in self._view.malformed:
            return None
        if not fits(claim.lease, config) or self._ownership.overlapping_others(claim.lease, claim.key):
            return None
        return replace(claim, lease=self._wanted(config, claim.lease), record=None, stale=())

    def _seek(self, config: NetworkConfig) -> Claim | None:
        """A subnet to claim, None if there is none; looked for again only once something has changed."""
        seen = (self._view.epoch, self._view.revision, config)
        if self.phase is Phase.EXHAUSTED:
            if self._exhausted is not None and self._exhausted[1:] == seen:
                return None
            self._enter(Phase.SEEKING)
        try:
            return allocate(self._view, config, self.identity, self.memory, self._rng, advertisement=self.advertisement)
        except OutOfSubnetsError as error:
            self._exhausted = (error, *seen)
            self._enter(Phase.EXHAUSTED)
            return None

    def _reclaim_claim(self, config: NetworkConfig) -> Claim | None:
        """The claim that takes our subnet again; None, and the subnet is given up, if it is another's by now.

        A reservation that the store lost when it was restored or replaced is put back as one; one that was deleted was
        meant to be.
        """
        held = self._held
        assert held is not None
        record = self._view.record(held.key)
        if record is not None and not self._ownership.is_ours(record) and not self._may_be_of_our_past(record):
            self._lose(record)
            return None
        others = self._ownership.overlapping_others(held.lease, held.key)
        if others:
            self._lose(self._view.record(min(others)))
            return None
        return Claim(
            key=held.key,
            lease=self._wanted(config, held.lease),
            source=Source.OWN,
            reserved=record.reserved if record is not None else held.reserved and self._view.epoch != self._held_epoch,
            record=record,
        )

    def _take(self, claim: Claim, now: float) -> Action | float:
        """Turns a claim into the next action: an etcd lease first, then the transaction, unless nothing is to write."""
        self._leave_shared_etcd_lease(claim.key)
        if not claim.reserved and (action := self._session.action(now)) is not None:
            return action
        lease_id = NO_LEASE if claim.reserved else self._session.lease_id
        record = claim.record
        if record is not None and record.lease == claim.lease and record.lease_id == lease_id and not claim.stale:
            self._hold_from(record, claim.source)
            return now
        write = writes.claim(self._view, claim, lease_id)
        if record is not None and self._ownership.is_stray(record):
            self._rivals.took(record, now)
        self._claim, self._right, self._right_epoch = claim, claim.lease, self._view.epoch
        self._enter(Phase.CLAIMING)
        return write

    def _leave_shared_etcd_lease(self, own_key: str) -> None:
        """Goes over to another etcd lease where ours has a lease on it that we leave to whoever has it: a clone."""
        if any(
            record.lease_id == self._session.lease_id
            and record.key != own_key
            and self._ownership.is_in_question(record)
            for record in self._view.of_node(self.identity.node_id)
        ):
            self._session.replace()
            self._right = None  # that our key is to go over too is our own wish, and no rival's doing

    def _confirm(self, now: float) -> None:
        """The view has reached our claim's revision: the subnet is ours, unless something overlaps it, or it does not
        fit a config that has come since. Nobody uses it yet, so the node goes over, and the next claim deletes it."""
        claim, config = self._claim, self.config
        assert claim is not None
        assert config is not None
        record = self._view.record(claim.key)
        if (mangled := self._view.malformed.get(claim.key)) is not None:
            self._mangled = mangled
            self._pending.retry_at = now + self._mangling.next()
            self._enter(Phase.SEEKING if self._held is None else Phase.RECLAIMING)
            return
        if (
            record is None
            or not self._ownership.is_ours(record)
            or self._ownership.overlapping_others(claim.lease, claim.key)
        ):
            self._note(logging.WARNING, f"{claim.lease.subnet} is contested; choosing again")
            self._enter(Phase.SEEKING if self._held is None else Phase.RECLAIMING)
            return
        if self._held is None and not fits(record.lease, config):
            self._note(logging.INFO, f"{claim.lease.subnet} does not fit the newest config; choosing again")
            self._enter(Phase.SEEKING)
            return
        self._hold_from(record, claim.source)

    def _hold_from(self, record: LeaseRecord, source: Source) -> None:
        self._mangled = None
        self._mangling.reset()
        self._hold_as(record)
        self._enter(Phase.HELD)
        kind = "reservation" if record.reserved else "lease"
        self._note(logging.INFO, f"{kind} of {record.lease.subnet} is ours ({source.value})")

    def _hold_as(self, record: LeaseRecord) -> None:
        """Takes what the store shows for what we hold; what is wrong with it is put right later."""
        self._question = None
        self._held = Held(record.lease, record.key, record.mod_revision, record.lease_id, valid_until=0.0)
        self._held_epoch = self._view.epoch
        self.memory = self.memory.with_lease(record.lease, self._session.lease_id)

    # --- holding ---

    def _judge(self) -> None:
        """Compares our key in the view with what we think it is. The view may lag behind, but never behind what made us
        think so: a lease is held, or put right, only once the view shows it."""
        held = self._held
        assert held is not None
        record = self._view.record(held.key)
        if record is not None and record.mod_revision == held.mod_revision and record.lease == held.lease:
            self._held_epoch = self._view.epoch
            return
        if record is None and self._view.mod_revision(held.key) == ABSENT:
            self._reclaim(f"lease of {held.subnet} was deleted or has expired")
        elif record is None:  # garbage names no owner, so the subnet is still ours
            self._reclaim(f"lease of {held.subnet} was overwritten with a malformed value")
        elif self._may_be_of_our_past(record):
            self._reclaim(f"a backup shows {held.subnet} with {record.lease.public_ip}, from before this process")
        elif not self._ownership.is_ours(record):
            self._lose(record)
        elif record.lease.node_id is None:
            # Ours by its address alone, which another node may have too: it counts once our id is in it.
            self._reclaim(f"lease of {held.subnet} was replaced by a {'reservation' if record.reserved else 'lease'}")
        else:
            self._hold_as(record)

    def _hold(self, config: NetworkConfig, now: float) -> Action | float:
        """Keeps what is held: refresh, put right, sweep; else when to look again."""
        held = self._held
        assert held is not None
        if not held.reserved:
            self._leave_shared_etcd_lease(held.key)
            if (action := self._session.action(now)) is not None:
                return action
        wanted = self._wanted(config, held.lease)
        attached = held.etcd_lease_id in (NO_LEASE, self._session.lease_id)
        if held.lease == wanted and attached:
            self._right = wanted
        else:
            asked = attached and replace(held.lease, asked_by=None) == wanted
            own_wish = wanted != self._right
            record = self._view.record(held.key)
            if record is not None and not (own_wish or asked) and self._view.epoch == self._right_epoch:
                self._rivals.notice(record, now)  # it was right, and what we want is the same: somebody else wrote
            if now >= self._rivals.due or own_wish or asked:
                self._right = wanted
                lease_id = NO_LEASE if held.reserved else self._session.lease_id
                return writes.repair(self._view, held, wanted, lease_id)
        self._right_epoch = self._view.epoch
        if (sweep := self._sweep_stray(held.key, now)) is not None:
            return sweep
        again = self._rivals.due if now < self._rivals.due else NEVER
        return again if held.reserved else min(again, self._session.refresh_due)

    def _sweep_stray(self, own_key: str, now: float) -> Commit | None:
        """Deletes another lease of ours: a late write of this process at once, a rival's at the pace for rivals."""
        for record in self._view.of_node(self.identity.node_id):
            if record.key == own_key or record.reserved or not self._ownership.is_stray(record):
                continue
            if record.lease_id != self._session.lease_id:
                self._rivals.notice(record, now, elsewhere=True)
                if now < self._rivals.due:
                    continue
            return writes.sweep(self._view, record)
        return None

    def _sweep_contested(self, config: NetworkConfig, now: float) -> Commit | float:
        """Out of subnets: a lease of ours that another's overlaps helps nobody, and may be what the other waits for."""
        own = own_leases(self._view, self.identity, self.memory)
        for mine in own:
            record = mine.record
            sure = mine.whose is Claimant.OURS and record.lease.node_id is not None and not record.reserved
            if sure and fits(record.lease, config) and is_contested(self._view, record, own):
                if record.lease_id != self._session.lease_id:
                    self._rivals.notice(record, now)
                return writes.sweep(self._view, record) if now >= self._rivals.due else self._rivals.due
        return NEVER

    def _give_back(self) -> Action | float:
        if self.phase in (Phase.RELEASING, Phase.RELEASED):
            return NEVER if self.phase is Phase.RELEASED else Revoke(self._session.lease_id)
        self.memory = replace(self.memory, etcd_lease_id=NO_LEASE)  # a revocation may come late, in our next life
        self._enter(Phase.RELEASING)
        record = None if self._held is None else self._view.record(self._held.key)
        if record is None or record.reserved or not self._ownership.is_stray(record):
            return Revoke(self._session.lease_id)
        return writes.release(self._view, record)

    def _committed(self, action: Commit, result: Committed, now: float) -> None:
        if self.phase is Phase.RELEASING:
            return
        self._pending.answered(action, result, now)
        if not result.succeeded:
            if action.purpose is Purpose.CLAIM:
                self._enter(Phase.SEEKING if self._held is None else Phase.RECLAIMING)
        elif action.purpose is Purpose.CLAIM:
            self._enter(Phase.CONFIRMING)
        elif action.purpose is Purpose.ASK:
            key = action.operations[0].key
            self._question = Question(key, result.revision, self._view.epoch, now + ANSWER_TIME)
        elif action.purpose is Purpose.REPAIR:
            self._note(logging.INFO, f"put our lease right, {action.operations[0].key}")
        elif action.purpose is Purpose.SWEEP:
            self._note(logging.INFO, f"deleted a stray lease of ours, {action.operations[0].key}")

    # --- judging ---

    def _may_be_of_our_past(self, record: LeaseRecord) -> bool:
        """Whether a restored backup shows our lease as it was, with an address that this process never had: that of an
        earlier process of ours, or of the node whose clone we are. Its owner is asked, as at a start."""
        ours = self._ownership.is_in_question(record) and record.lease_id == self._session.lease_id
        return ours and record.lease.node_id == self.identity.node_id and self._view.epoch != self._held_epoch

    def _wanted(self, config: NetworkConfig, lease: Lease) -> Lease:
        return lease_of(self.identity, self.advertisement, lease.subnet, lease.ipv6_subnet)

    # --- changing ---

    def _reclaim(self, why: str) -> None:
        self._note(logging.WARNING, f"{why}; taking the same subnet again")
        self._enter(Phase.RECLAIMING)

    def _lose(self, record: LeaseRecord | None) -> None:
        """Our subnet is another's now. It is not asked for again, nor is the etcd lease used that a clone may share."""
        held = self._held
        assert held is not None
        whose = "another node" if record is None else excerpt(record.lease.node_id or record.lease.public_ip)
        self._note(logging.ERROR, f"{held.subnet} belongs to {whose} now; leasing another subnet")
        self.memory = self.memory.without(held.lease)
        self._held = None
        if record is not None and record.lease.node_id == self.identity.node_id:
            self._session.replace()
        self.memory = replace(self.memory, etcd_lease_id=self._session.lease_id)
        self._enter(Phase.SEEKING)

    def _note(self, level: int, text: str) -> None:
        self._notes = [*self._notes[-63:], (level, text)]

    def _enter(self, phase: Phase) -> None:
        assert phase in TRANSITIONS[self.phase], (self.phase, phase)
        self.phase = phase
