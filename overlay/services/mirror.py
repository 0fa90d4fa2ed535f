"""One consistent view of all below the services' prefix: which Services, pods and nodes there are at one revision.

It is fed by a :class:`~overlay.store.following.Following` (:class:`ServicesFollower`), and answers for the whole node:
proxy, names and the API compute from it, so they cannot disagree. It keeps a document as the bytes that etcd has, and
beside it only what endpoints are computed from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from random import Random

from overlay.services import endpoints, facts_of
from overlay.services.facts import Pod, Service, ServiceName, WrittenEndpoint
from overlay.services.index import SelectorIndex
from overlay.services.keys import Keys
from overlay.services.objects.document import Object, ObjectFormatError, decode
from overlay.services.pods.node import with_readiness
from overlay.store.contract import Events, KeyRange, KeyValue, Snapshot
from overlay.store.mirror import Mirror
from overlay.store.mirror_follower import MirrorFollower


class ServicesMirror(Mirror):
    """All services' keys as of ``revision``.

    Args:
        node: where given, of the pods of other nodes only the facts are kept: documents are nine tenths of them, and
            only who shows them to people needs them.

    Attributes:
        malformed: what is wrong with each key or value that is none of ours; it is passed over.
        touched: the Services whose endpoints may have been changed by what came last.
    """

    def __init__(self, keys: Keys, node: str | None = None) -> None:
        super().__init__()
        self.keys = keys
        self._node = node
        self.malformed: dict[str, ObjectFormatError] = {}
        self.touched: set[ServiceName] = set()
        self._index = SelectorIndex()
        self._service_keys: dict[str, ServiceName] = {}
        self._pods_of: dict[str, set[str]] = {}
        self._changed_at: dict[ServiceName, int] = {}
        self._written: dict[ServiceName, dict[str, tuple[WrittenEndpoint, ...]]] = {}
        self._written_for: dict[str, ServiceName] = {}

    # --- what it is fed ---

    def load(self, snapshot: Snapshot, asked_at: float) -> set[str]:
        """See :meth:`Mirror.load`."""
        self.touched = set()
        changed = super().load(snapshot, asked_at)
        self._date()
        return changed

    def apply(self, batch: Events) -> set[str]:
        """See :meth:`Mirror.apply`."""
        self.touched = set()
        changed = super().apply(batch)
        self._date()
        return changed

    def _date(self) -> None:
        for name in self.touched:
            if name in self._index.services:
                self._changed_at[name] = self.revision
            else:
                self._changed_at.pop(name, None)

    def kept(self, kv: KeyValue) -> KeyValue:
        if (
            self._node is None
            or not kv.key.startswith(self.keys.pods())
            or kv.key.startswith(self.keys.pods(self._node))
        ):
            return kv
        return replace(kv, value=hashlib.blake2b(kv.value, digest_size=16).digest())

    def _entered(self, kv: KeyValue) -> None:
        try:
            if (pod_key := self.keys.parse_pod(kv.key)) is not None:
                pod = facts_of.pod(kv.key, kv.value)
                self._pods_of.setdefault(pod_key.node, set()).add(kv.key)
                self.touched |= self._index.add_pod(pod)
            elif kv.key.startswith(self.keys.objects("services")):
                self._enter_service(kv)
            elif kv.key.startswith((self.keys.objects("endpoints"), self.keys.objects("endpointslices"))):
                self._enter_written(kv)
            elif kv.key.startswith(self.keys.pods()) or not self.keys.is_ours(kv.key):
                self.malformed[kv.key] = ObjectFormatError("is none of our keys", about=kv.key)
        except ObjectFormatError as error:
            self.malformed[kv.key] = error

    def _enter_service(self, kv: KeyValue) -> None:
        service = facts_of.service(decode(kv.value, kv.mod_revision, kv.key))
        if (named := self.keys.object("services", *service.full_name)) != kv.key:
            raise ObjectFormatError(f"is the Service of the key {named}", about=kv.key)
        self._service_keys[kv.key] = service.full_name
        self.touched |= self._index.add_service(service)

    def _enter_written(self, kv: KeyValue) -> None:
        document = decode(kv.value, kv.mod_revision, kv.key)
        if (key := self.keys.parse_object(kv.key, namespaced=True)) is None:
            raise ObjectFormatError("is none of our keys", about=kv.key)
        if key.resource == "endpoints":
            owner, found = (key.namespace, key.name), facts_of.endpoints_written(document)
        elif (told := facts_of.slice_written(document)) is not None:
            owner, found = told
        else:
            return
        self._written.setdefault(owner, {})[kv.key] = found
        self._written_for[kv.key] = owner
        self.touched.add(owner)

    def _left(self, kv: KeyValue) -> None:
        self.malformed.pop(kv.key, None)
        if kv.key in self._index.pods:
            node = kv.key.rsplit("/", 2)[-2]
            self._pods_of[node].discard(kv.key)
            if not self._pods_of[node]:
                del self._pods_of[node]
            self.touched |= self._index.remove_pod(kv.key)
        elif (name := self._service_keys.pop(kv.key, None)) is not None:
            self.touched |= self._index.remove_service(name)
        elif (owner := self._written_for.pop(kv.key, None)) is not None:
            del self._written[owner][kv.key]
            if not self._written[owner]:
                del self._written[owner]
            self.touched.add(owner)

    # --- what it tells ---

    @property
    def services(self) -> Mapping[ServiceName, Service]:
        """Every Service by namespace and name."""
        return self._index.services

    @property
    def pods(self) -> Mapping[str, Pod]:
        """Every pod by its key."""
        return self._index.pods

    def pods_of(self, node: str) -> set[str]:
        """The keys of the pods that a node has registered."""
        return self._pods_of.get(node, set())

    def selected(self, name: ServiceName) -> list[Pod]:
        """The pods that a Service selects."""
        return self._index.selected(name)

    def written(self, name: ServiceName) -> list[WrittenEndpoint]:
        """The endpoints that people wrote for a Service, in the order of their keys; they count if it selects none."""
        return [each for _, found in sorted(self._written.get(name, {}).items()) for each in found]

    def selecting(self, pod: Pod) -> set[ServiceName]:
        """The Services that select a pod."""
        return set(self._index.selecting(pod))

    def document(self, key: str) -> Object | None:
        """What is at a key, decoded; None where nothing is, or no object, or no document is kept.

        Its ``resourceVersion`` is its key's modification revision.
        """
        kv = self.items.get(key)
        if kv is None or key in self.malformed or self.kept(kv) is not kv:
            return None
        return decode(kv.value, kv.mod_revision, key)

    def endpoints(self, name: ServiceName) -> Object | None:
        """The Endpoints of a Service; of one without selector those that were written. None where there are none.

        The ``resourceVersion`` of what is computed is the revision at which this mirror saw it change last.
        """
        service = self.services.get(name)
        if service is None or not service.selector:
            return self.document(self.keys.object("endpoints", *name))
        return self._dated(name, [endpoints.endpoints(service, self.selected(name))])[0]

    def slices(self, name: ServiceName) -> list[Object]:
        """The EndpointSlices that are computed for a Service; none for one without selector."""
        service = self.services.get(name)
        if service is None or not service.selector:
            return []
        return self._dated(name, endpoints.slices(service, self.selected(name)))

    def _dated(self, name: ServiceName, documents: list[Object]) -> list[Object]:
        for document in documents:
            document["metadata"]["resourceVersion"] = str(self._changed_at[name])
        return documents

    def nodes(self) -> list[Object]:
        """Every node's v1 Node, by name; Ready are those whose etcd lease lives."""
        prefix = self.keys.node()
        names = sorted(key.removeprefix(prefix) for key in self.items if key.startswith(prefix))
        return [node for name in names if (node := self.node(name)) is not None]

    def node(self, name: str) -> Object | None:
        """One node's v1 Node; None where there is none."""
        if (record := self.document(self.keys.node(name))) is None:
            return None
        alive = self.items.get(self.keys.alive(name))
        return with_readiness(record, None if alive is None else alive.mod_revision)


class ServicesFollower(MirrorFollower[ServicesMirror]):
    """Follows all services' keys.

    Args:
        node: see :class:`ServicesMirror`.
    """

    def __init__(self, keys: Keys, rng: Random, node: str | None = None) -> None:
        super().__init__(KeyRange(keys.root), ServicesMirror(keys, node), rng)
