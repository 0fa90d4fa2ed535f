"""Changes of what is computed: endpoints when Services or pods change, nodes when their leases do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from overlay.services.computed import COMPUTED, everything, of_service
from overlay.services.facts import ServiceName
from overlay.services.mirror import ServicesMirror
from overlay.services.objects.document import Object
from overlay.services.objects.kinds import ENDPOINT_SLICE, ENDPOINTS, NODE, Kind
from overlay.services.reading import as_stored
from overlay.store.contract import KeyValue


@dataclass(frozen=True, slots=True)
class Change:
    """One key went from ``old`` to ``new`` at ``revision``; None: there was, or is, nothing."""

    revision: int
    key: str
    old: KeyValue | None
    new: KeyValue | None

    @property
    def weight(self) -> int:
        """Bytes, about."""
        return sum(200 + len(each.value) for each in (self.old, self.new) if each is not None)


class Derived:
    """What is computed from one mirror, from the moment that somebody wants to hear of it.

    Attributes:
        items: the computed objects, and the stored ones of their kinds, as values by key.
    """

    def __init__(self, mirror: ServicesMirror) -> None:
        self.items: dict[str, KeyValue] = {}
        self._mirror = mirror
        self._begun: dict[str, int] = {}
        self._keys_of: dict[ServiceName, set[str]] = {}

    def begin(self, kind: Kind, revision: int) -> int:
        """Computes a kind from now on; the revision after which changes of it are told, 0 for what is stored."""
        if kind not in COMPUTED:
            return 0
        if kind.resource not in self._begun:
            for each in (NODE,) if kind is NODE else (ENDPOINTS, ENDPOINT_SLICE):
                self._begun[each.resource] = revision
                for key, obj in everything(self._mirror, each).items():
                    self.items[key] = as_stored(key, obj)
            if kind is not NODE:
                self._keys_of = {name: set(of_service(self._mirror, name)) for name in self._mirror.services}
        return self._begun[kind.resource]

    def follow(self, changes: Sequence[Change]) -> list[Change]:
        """What changes of the mirror mean: they themselves, but for kinds that are computed, and what follows."""
        keys = self._mirror.keys
        nodes, endpoints, slices = keys.node(), keys.objects("endpoints"), keys.objects("endpointslices")
        result = []
        names, services, stored = set[str](), set(self._mirror.touched), list[str]()
        for change in changes:
            if change.key.startswith((nodes, keys.alive())):
                names.add(change.key.removeprefix(nodes).removeprefix(keys.alive()))
            elif change.key.startswith(endpoints):
                _, _, rest = change.key.partition(endpoints)
                namespace, _, service = rest.partition("/")
                services.add((namespace, service))
            elif change.key.startswith(slices):
                stored.append(change.key)
            else:
                result.append(change)
        if NODE.resource in self._begun:
            result += self._update({keys.node(name): self._mirror.node(name) for name in names})
        if ENDPOINTS.resource in self._begun:
            result += self._update({key: self._mirror.document(key) for key in stored})
            for owner in sorted(services):
                result += self._update_service(owner)
        return result

    def _update_service(self, name: ServiceName) -> Iterable[Change]:
        now = of_service(self._mirror, name)
        gone = self._keys_of.pop(name, set()) - now.keys()
        if now:
            self._keys_of[name] = set(now)
        return self._update({**{key: self._mirror.document(key) for key in gone}, **now})

    def _update(self, objects: dict[str, Object | None]) -> list[Change]:
        """Takes objects over; None: gone. Those that are as before are no change."""
        changes = []
        revision = self._mirror.revision
        for key, obj in sorted(objects.items()):
            old = self.items.get(key)
            new = None if obj is None else as_stored(key, obj)
            if (old is None) is (new is None) and (old is None or new is None or old.value == new.value):
                continue
            if new is None:
                del self.items[key]
            else:
                self.items[key] = new
            changes.append(Change(revision, key, old, new))
        return changes
