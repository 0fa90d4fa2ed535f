"""All records that there are to be, by whom each is wanted, and which of them have changed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

Source = tuple[int, str, str]
"""Who wants a record. Of several that want one key the least counts: so all nodes choose the same one."""


class Wanted:
    """Keys and what they are to have.

    Attributes:
        changed: keys of which somebody has to see whether etcd has them so; whoever has seen takes them out.
    """

    def __init__(self) -> None:
        self.changed: dict[str, None] = {}
        self._of: dict[Source, Mapping[str, bytes]] = {}
        self._by: dict[str, set[Source]] = {}

    def __len__(self) -> int:
        return len(self._by)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by)

    def put(self, source: Source, records: Mapping[str, bytes]) -> None:
        """From now on ``source`` wants these, and no others."""
        before = self._of.get(source, {})
        for key in before.keys() - records.keys():
            self._by[key].discard(source)
            if not self._by[key]:
                del self._by[key]
            self.changed[key] = None
        for key, value in records.items():
            self._by.setdefault(key, set()).add(source)
            if before.get(key) != value:
                self.changed[key] = None
        if records:
            self._of[source] = records
        else:
            self._of.pop(source, None)

    def clear(self) -> None:
        """Nothing is wanted, and nothing has to be looked at: somebody else does that."""
        self.changed.clear()
        self._of.clear()
        self._by.clear()

    def value(self, key: str) -> bytes | None:
        """What a key is to have; None where it is not to be."""
        sources = self._by.get(key)
        return None if not sources else self._of[min(sources)][key]
