"""Whether a mirror may answer for the store: proved for each question, so that nothing stale is told as fresh.

The store's revision, read linearizably after the question came, is what the mirror must have reached. It is read with
the key that the mirror saw written last, since an etcd that lost its data counts its revisions anew, and may have
come to the same one. A watch hears of its own range alone, so while others write elsewhere in the same etcd the
mirror may be complete and stay behind; then the store is asked whether the range is as the mirror has it, which costs
it some time but sends nothing. What cannot be proved is read from the store.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from overlay.store.contract import KeyRange, PagedStore
from overlay.store.mirror import Mirror

CATCH_UP_SECONDS = 0.05
"""How long a mirror may take to hear of what has happened before the store is asked about its range."""


class Followed(Protocol):
    """A mirror that is kept up to date."""

    @property
    def mirror(self) -> Mirror:
        """What is known."""

    @property
    def span(self) -> KeyRange:
        """Of what."""

    @property
    def connected(self) -> bool:
        """Whether changes are being heard of, as far as one can know."""

    async def moved(self) -> None:
        """Until the mirror has changed, or the way that it is followed."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The store's revision, and whether the key that the mirror saw written last is as it was.

    Where it is not, the mirror has to hear of that: that nothing else was written proves nothing then.
    """

    revision: int
    is_same: bool


class Freshness:
    """Proves it for one mirror.

    Args:
        probe: a key that is read for the store's revision.
    """

    def __init__(self, store: PagedStore, followed: Followed, probe: str) -> None:
        self._store = store
        self._followed = followed
        self._probe = KeyRange(probe, prefix=False)
        self._proof = (0, 0, 0)  # in this epoch, the mirror as of this revision was the store's range until that one
        self._asking = asyncio.Lock()

    async def proved(self) -> bool:
        """Whether the mirror has all that the store had when this was called, until something else is awaited."""
        mirror = self._followed.mirror
        if not (mirror.loaded and self._followed.connected):
            return False
        epoch = mirror.epoch
        now = await self._look(mirror)
        if now is not None and not self._reached(now):
            await self._wait_for(now)
            now = now if now.is_same else await self._look(mirror)  # what it has heard of may be of a past that is gone
        if now is not None and now.is_same and not self._reached(now):
            await self._ask(now)
        return now is not None and self._reached(now) and self._followed.connected and mirror.epoch == epoch

    async def _look(self, mirror: Mirror) -> _Seen | None:
        """What the store is like; None where its history is not the mirror's, which that does not know yet."""
        before, newest = mirror.revision, mirror.newest
        page = await self._store.page(self._probe if newest is None else KeyRange(newest.key, prefix=False))
        found = mirror.kept(page.items[0]) if page.items else None
        is_as_known = found == newest
        has_changed = page.revision > before and (found is None or found.mod_revision > before)
        is_ours = page.revision >= before and (is_as_known or has_changed)
        return _Seen(page.revision, is_as_known) if is_ours else None

    def _reached(self, now: _Seen) -> bool:
        mirror = self._followed.mirror
        epoch, known, until = self._proof
        is_proved = now.is_same and epoch == mirror.epoch and known <= mirror.revision and now.revision <= until
        return mirror.revision >= now.revision or is_proved

    async def _wait_for(self, now: _Seen) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_SECONDS):
                while not self._reached(now):
                    await self._followed.moved()

    async def _ask(self, now: _Seen) -> None:
        """One asks at a time: what it is told may do for those who wait."""
        async with self._asking:
            mirror = self._followed.mirror
            if self._reached(now):
                return
            epoch, known, count = mirror.epoch, mirror.revision, len(mirror.items)
            again = await self._look(mirror)
            if again is None or not again.is_same:
                return
            if await self._store.unchanged(self._followed.span, known, count):
                self._proof = (epoch, known, max(now.revision, again.revision))
