"""One range of the store, mirrored: fed with whole snapshots and then with batches of events, it is at every moment
what the store held at ``revision``.

All who decide by the range decide from one mirror and keep no copies of their own, so they cannot disagree. An index is
a subclass: :meth:`Mirror._entered`, :meth:`Mirror._left` and :meth:`Mirror.kept` are its hooks.
"""

from __future__ import annotations

from collections.abc import Mapping

from overlay.store.contract import ABSENT, Compare, Events, KeyValue, Snapshot


class Mirror:
    """All keys of a range as of ``revision``.

    Attributes:
        revision: the store's, which this mirror has reached; 0 before the first snapshot.
        epoch: counts the times that the store went back in time (was restored); revisions of two epochs are not
            comparable.
        loaded_at: when the newest snapshot was asked for (the caller's clock); None before the first one.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.epoch = 0
        self.loaded_at: float | None = None
        self._raw: dict[str, KeyValue] = {}
        self._newest: KeyValue | None = None

    # --- what it is fed ---

    def load(self, snapshot: Snapshot, asked_at: float) -> set[str]:
        """Becomes ``snapshot``, compared whole; returns the keys that appeared, changed or went.

        The snapshot must have been asked for when this mirror was where it is now, so that an older revision can only
        mean that the store was restored.
        """
        if snapshot.revision < self.revision:
            self.epoch += 1
        self.revision = snapshot.revision
        self.loaded_at = asked_at
        present = {item.key for item in snapshot.items}
        changed = {key for key in self._raw if key not in present}
        for key in changed:
            self._remove(key)
        for item in snapshot.items:
            if self._raw.get(item.key) != self.kept(item):
                self._put(item)
                changed.add(item.key)
        return changed

    def apply(self, batch: Events) -> set[str]:
        """Goes on by one batch of a watch; returns the keys that changed. What it has already seen is passed over."""
        changed: set[str] = set()
        for event in batch.events:
            if event.kv.mod_revision <= self.revision:
                continue
            if event.deleted:
                self._remove(event.kv.key)
            else:
                self._put(event.kv)
            changed.add(event.kv.key)
        self.revision = max(self.revision, batch.revision)
        return changed

    def _put(self, kv: KeyValue) -> None:
        newest = self._newest
        self._remove(kv.key)
        kept = self._raw[kv.key] = self.kept(kv)
        if newest is not None and kv.mod_revision >= newest.mod_revision:
            self._newest = kept
        self._entered(kv)

    def _remove(self, key: str) -> None:
        if (kv := self._raw.pop(key, None)) is not None:
            if kv is self._newest:
                self._newest = None
            self._left(kv)

    def kept(self, kv: KeyValue) -> KeyValue:
        """What is kept of a key; whoever needs no values may keep something shorter that tells them apart."""
        return kv

    def _entered(self, kv: KeyValue) -> None:
        """A key is there now; whatever was there before has :meth:`_left`."""

    def _left(self, kv: KeyValue) -> None:
        """Undoes :meth:`_entered`; ``kv`` is what was kept."""

    # --- what it tells ---

    @property
    def loaded(self) -> bool:
        """Whether there has been a snapshot."""
        return self.loaded_at is not None

    @property
    def items(self) -> Mapping[str, KeyValue]:
        """Every key that is there; not to be changed."""
        return self._raw

    @property
    def newest(self) -> KeyValue | None:
        """The key, as it is kept, that was written last of those that are there; None where nothing is."""
        if self._newest is None:  # it was deleted
            self._newest = max(self._raw.values(), key=lambda kv: kv.mod_revision, default=None)
        return self._newest

    def mod_revision(self, key: str) -> int:
        """The modification revision of whatever is at ``key``; ABSENT where nothing is."""
        kv = self._raw.get(key)
        return ABSENT if kv is None else kv.mod_revision

    def as_compare(self, key: str) -> Compare:
        """The comparison that holds as long as ``key`` is, or is not there, as this mirror shows it."""
        kv = self._raw.get(key)
        return Compare(key, ABSENT) if kv is None else Compare(key, kv.mod_revision, kv.value)
