"""The mutants that unit tests of the control plane have to catch: what a cluster shows seldom, or covers up in time."""

from __future__ import annotations

from tests.mutation.patch import Mutant


def _of(file: str, tests: str, *replaced: tuple[str, str]) -> tuple[Mutant, ...]:
    return tuple(Mutant(file, old, new, (f"tests/unit/{tests}.py",)) for old, new in replaced)


UNIT_MUTANTS: tuple[Mutant, ...] = (
    *_of(
        "control/leases/allocator",
        "control/leases/test_allocator",
        (
            "        return Claimant.OURS if lease.public_ip == identity.public_ip else Claimant.OTHER\n",
            "        return Claimant.OTHER\n",
        ),
        ("and not is_contested(view, mine.record, own)]", "]"),
        ("        and not mine.record.reserved\n", ""),
        ("return record.reserved, sure, recent,", "return False, sure, recent,"),
        ("if pool.contains(subnet) and free(", "if free("),
    ),
    *_of(
        "control/configuration",
        "control/test_plane",
        ("        self._proposed = None\n        self.error = None\n", "        self.error = None\n"),
        ("    if proposed.ipv4.subnet_len != running.ipv4.subnet_len:", "    if False:"),
    ),
    *_of(
        "control/engine",
        "control/test_plane",
        ("            newest = batch.events[-1]", "            newest = batch.events[0]"),
        ("        return reconfigured\n", "        return False\n"),
        ("        if wanted is None or advertisement is None:", "        if wanted is None:"),
        ("        self._configuration.reconsider(self._held_lease())\n", ""),
        ("            self.keeper.reconnected()\n", "            pass\n"),
        ("        if not was_connected:", "        if True:"),
        ("        if now - self._restored_at > RESTORED_ONCE:", "        if True:"),
    ),
    *_of(
        "store/follower",
        "store/test_follower",
        ("        if batch.revision < self.revision:", "        if False:"),
        ("        self.revision = batch.revision\n", ""),
        (" + self._size * SPREAD * self._rng.random()", ""),
    ),
    *_of(
        "store/mirror_follower",
        "services/test_mirror",
        ("self.mirror.items.values(), self.mirror.kept)", "self.mirror.items.values())"),
    ),
    *_of(
        "store/mirror_follower",
        "store/test_mirror_follower",
        ("        if not self._follower.heard(batch, now):\n            return False\n", ""),
        ("        self._mirrored(self.mirror.apply(batch), batch)\n", ""),
    ),
    *_of("store/recall", "store/test_follower", ("heapq.nlargest(", "heapq.nsmallest(")),
    *_of(
        "store/session",
        "store/test_session",
        ("        self._live(self._granting_since, self.ttl)", "        self._live(self._sent_at, self.ttl)"),
        ("now >= self._granting_since + self.ttl / 2:", "now >= self._granting_since + self.ttl:"),
        ("        self.valid_until = 0.0\n        self._granting_since = None\n", "        self.valid_until = 0.0\n"),
        ("self.phase is SessionPhase.FOUND and ttl != self.ttl)", "False)"),
    ),
    *_of(
        "store/following",
        "store/test_following",
        ("lost(error, self._clock())\n            self._told()", "lost(error, self._clock())"),
        ("proved(self._clock())\n                    self._told()", "proved(self._clock())"),
        ("                    past = await", "                    self._told()\n                    past = await"),
    ),
    *_of(
        "control/leases/keeper",
        "control/leases/test_keeper",
        ("            or self._ownership.overlapping_others(claim.lease, claim.key)\n", ""),
        ("        if others:\n            self._lose", "        if False:\n            self._lose"),
        (
            "            return Revoke(self._session.lease_id)\n        return writes.release",
            "            return NEVER\n        return writes.release",
        ),
        ("        self._held = None\n        if record", "        if record"),
        (" and self._view.epoch != self._held_epoch,", ","),
    ),
    *_of(
        "control/leases/keeper",
        "control/test_plane",
        ("        self._pending.retry_at = 0.0\n\n    def release", "        pass\n\n    def release"),
    ),
    *_of(
        "control/leases/pending",
        "control/leases/test_keeper",
        ("            self._awaited = Awaited(self._view.epoch, since=now, read_at=now)\n", "            pass\n"),
    ),
    *_of(
        "control/leases/pending",
        "control/leases/test_pending",
        ("            if not wait.failed:", "            if False:"),
    ),
    *_of(
        "control/leases/writes",
        "control/leases/test_pending",
        ("for key in (wanted.key, *stale)),", "for key in (wanted.key,)),"),
    ),
    *_of("control/leases/writes", "control/leases/test_keeper", (" (Delete(record.key),))", " ())")),
    *_of(
        "control/leases/keeper",
        "control/leases/test_clones",
        (" and self._view.epoch == self._right_epoch:", ":"),
        (" and self._view.epoch != self._held_epoch\n", "\n"),
        (
            " and not self._may_be_of_our_past(record):\n            self._lose(record)",
            ":\n            self._lose(record)",
        ),
        (
            "        elif self._may_be_of_our_past(record):\n            self._reclaim(",
            "        elif True:\n            str(",
        ),
    ),
    *_of(
        "control/leases/state",
        "control/leases/test_keeper",
        ("(view.loaded_at is not None and view.loaded_at > self.since):", "view.loaded_at is not None:"),
    ),
    *_of(
        "control/leases/ownership",
        "control/leases/test_clones",
        (
            "return record.lease.node_id == self.identity.node_id and record.lease.public_ip in self._addresses",
            "return record.lease.node_id == self.identity.node_id",
        ),
    ),
    *_of(
        "control/leases/question",
        "control/leases/test_clones",
        ("        if record.key != self.key or epoch != self.epoch:", "        if record.key != self.key:"),
    ),
    *_of(
        "control/peers/membership", "control/peers/test_membership", ("            self._problems.pop(key, None)\n", "")
    ),
    *_of(
        "control/plane",
        "control/test_plane",
        ("        self._wake.set()\n        self._settle()", "        self._settle()"),
        ("        if self._engine.settle():\n            self._wake.set()\n", "        self._engine.settle()\n"),
    ),
    *_of(
        "control/leases/view",
        "control/leases/test_view",
        ("                self._occupy(kv.key, *named)\n", ""),
    ),
    *_of(
        "store/mirror",
        "store/test_mirror",
        ("        self.revision = max(self.revision, batch.revision)\n", ""),
        ("            self.epoch += 1\n", "            pass\n"),
        ("            if event.kv.mod_revision <= self.revision:\n                continue\n", ""),
        ("            self._left(kv)\n", "            pass\n"),
    ),
    *_of(
        "store/gojson",
        "control/schema/test_config",
        ("        if type(value) is not kind:", "        if not isinstance(value, kind):"),
        ("        if len(data) > MAX_BYTES:", "        if False:"),
    ),
    *_of(
        "control/schema/keys",
        "control/schema/test_lease",
        ('return joined[1:] if joined.startswith("//") else joined', "return joined"),
        ("    if int(length) > _MAX_LEN_V4:", "    if False:"),
    ),
    *_of(
        "control/schema/config",
        "control/schema/test_config",
        ("    if low > high:", "    if False:"),
        ("        if base % step:", "        if False:"),
    ),
)
