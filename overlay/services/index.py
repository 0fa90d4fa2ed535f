"""Which pods each Service selects, kept up to date: what changes touches only the Services that it concerns. Pure.

Each Service is filed under one pair of its selector, each pod under all of its labels; so a pod's change looks at the
Services filed under its labels, and a Service's at the pods that have its pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from overlay.services.facts import Pod, Service, ServiceName

_Pair: TypeAlias = tuple[str, str, str]
"""Namespace, a label's key and its value."""


class SelectorIndex:
    """Services, pods, and who selects whom.

    Attributes:
        services, pods: by name, and by key; to be read.
    """

    def __init__(self) -> None:
        self.services: dict[ServiceName, Service] = {}
        self.pods: dict[str, Pod] = {}
        self._filed: dict[_Pair, set[ServiceName]] = {}
        self._filed_under: dict[ServiceName, _Pair] = {}
        self._labelled: dict[_Pair, set[str]] = {}
        self._members: dict[ServiceName, set[str]] = {}

    def selected(self, name: ServiceName) -> list[Pod]:
        """The pods that a Service selects, in the order of their keys; none where there is no such Service."""
        return [self.pods[key] for key in sorted(self._members.get(name, ()))]

    def selecting(self, pod: Pod) -> Iterator[ServiceName]:
        """The Services that select a pod."""
        for pair in _pairs(pod):
            for name in self._filed.get(pair, ()):
                if self.services[name].selects(pod.labels):
                    yield name

    def add_service(self, service: Service) -> set[ServiceName]:
        """A Service is there; it must not have been. Returns what Services this concerns."""
        name = service.full_name
        self.services[name] = service
        if service.selector:
            pairs = [(service.namespace, key, value) for key, value in sorted(service.selector.items())]
            pair = min(pairs, key=lambda each: len(self._filed.get(each, ())))
            self._filed.setdefault(pair, set()).add(name)
            self._filed_under[name] = pair
            rarest = min(pairs, key=lambda each: len(self._labelled.get(each, ())))
            members = {key for key in self._labelled.get(rarest, ()) if service.selects(self.pods[key].labels)}
            self._members[name] = members
        return {name}

    def remove_service(self, name: ServiceName) -> set[ServiceName]:
        """Undoes :meth:`add_service`."""
        del self.services[name]
        self._members.pop(name, None)
        if (pair := self._filed_under.pop(name, None)) is not None:
            _discard(self._filed, pair, name)
        return {name}

    def add_pod(self, pod: Pod) -> set[ServiceName]:
        """A pod is there; it must not have been. Returns what Services this concerns."""
        self.pods[pod.key] = pod
        for pair in _pairs(pod):
            self._labelled.setdefault(pair, set()).add(pod.key)
        concerned = set(self.selecting(pod))
        for name in concerned:
            self._members[name].add(pod.key)
        return concerned

    def remove_pod(self, key: str) -> set[ServiceName]:
        """Undoes :meth:`add_pod`."""
        pod = self.pods.pop(key)
        for pair in _pairs(pod):
            _discard(self._labelled, pair, key)
        concerned = set(self.selecting(pod))
        for name in concerned:
            self._members[name].discard(key)
        return concerned


def _pairs(pod: Pod) -> list[_Pair]:
    return [(pod.namespace, key, value) for key, value in pod.labels.items()]


def _discard(index: dict, pair: _Pair, member: object) -> None:  # type: ignore[type-arg]
    index[pair].discard(member)
    if not index[pair]:
        del index[pair]
