"""Which Events are to be written: decided from what is to be told, what etcd has, and the time. Pure.

As Kubernetes does (client-go ``tools/record/events_cache.go``): what is told again is the same Event with a higher
``count`` and a later ``lastTimestamp``, and of one object there are so many Events at most, however often it changes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import NamedTuple
from uuid import UUID

from overlay.services.facts import Service, ServiceName
from overlay.services.mirror import ServicesMirror
from overlay.services.objects.document import Object, ObjectFormatError, encode
from overlay.services.objects.kinds import EVENT, SERVICE
from overlay.services.objects.lifecycle import for_create, timestamp
from overlay.services.objects.status import StatusError
from overlay.store.contract import ABSENT, Compare, KeyValue, Put
from overlay.text import excerpt

REASON = "UnsupportedByProxyMode"
COMPONENT = "overlay-services"

TTL = EVENT.ttl
"""Seconds that an Event outlives its last telling."""

AGAIN_SECONDS = 1200.0
"""What lasts is told again so often: three times before it would be gone."""

OF_ONE_SERVICE = 25
"""Events that a Service has at most (client-go: ``defaultSpamBurst``)."""

OF_ALL = 2000
"""Events that there are at most, whoever wrote them, before ours become more: 2 MB in etcd."""

BATCH = 40
"""Events a transaction, each with two comparisons: etcd takes 128 (``--max-txn-ops``)."""

_MESSAGE_LIMIT = 1024
"""Characters (kubernetes ``pkg/apis/core/validation/events.go``: ``NoteLengthLimit``)."""


class Remark(NamedTuple):
    """A sentence that a Service's owner is to read."""

    service: ServiceName
    sentence: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One transaction, and when to ask again.

    Attributes:
        compares: that nobody told it meanwhile, and that each Service is the one that is meant.
        events: keys and values to put, on a new etcd lease of :data:`TTL`.
        left_out: how many are not written: there are too many, or its Service's name is none.
        due: in how many seconds there is more to do though nothing changes.
    """

    compares: tuple[Compare, ...] = ()
    events: tuple[tuple[str, bytes], ...] = ()
    left_out: int = 0
    due: float = AGAIN_SECONDS

    def operations(self, lease_id: int) -> list[Put]:
        """What to do if all comparisons hold."""
        return [Put(key, value, lease_id) for key, value in self.events]


def plan(mirror: ServicesMirror, remarks: Iterable[Remark], node: str, now: datetime, rng: Random) -> Plan:
    """What is to be written of all that is to be told now; nothing of Services that are gone.

    Args:
        mirror: of all services' keys; read only.
        node: whose proxy says so, where nobody has said it before.
        now: with a time zone.
        rng: for uids.
    """
    compares: list[Compare] = []
    events: list[tuple[str, bytes]] = []
    room: _Room | None = None
    left_out, due = 0, AGAIN_SECONDS
    for remark in sorted(set(remarks)):
        service = mirror.services.get(remark.service)
        if service is None:
            continue
        key = mirror.keys.object(EVENT.resource, service.namespace, _name(service, remark.sentence))
        there = mirror.items.get(key)
        told = _document(mirror, key)
        if told is not None and (wait := _last_told(told) + AGAIN_SECONDS - now.timestamp()) > 0:
            due = min(due, wait)
            continue
        if len(events) == BATCH:
            due = 0.0
            break
        if there is None:
            room = room or _Room(mirror)
            if not room.take(key):
                left_out += 1
                continue
        try:
            event = _first(service, remark.sentence, node, now, rng) if told is None else _again(told, now)
        except StatusError:  # written past the API, under a name that nothing can have there
            left_out += 1
            continue
        of = mirror.items[mirror.keys.object(SERVICE.resource, *remark.service)]
        compares += [_as_is(key, there), Compare(of.key, of.mod_revision)]
        events.append((key, encode(event)))
    return Plan(tuple(compares), tuple(events), left_out, due)


class _Room:
    """For how many Events more there is room."""

    def __init__(self, mirror: ServicesMirror) -> None:
        folder = mirror.keys.objects(EVENT.resource)
        self._count = Counter(_owner(key) for key in mirror.items if key.startswith(folder))
        self._all = self._count.total()

    def take(self, key: str) -> bool:
        """Whether there is for this one, which counts from now on."""
        owner = _owner(key)
        if self._all >= OF_ALL or self._count[owner] >= OF_ONE_SERVICE:
            return False
        self._all += 1
        self._count[owner] += 1
        return True


def _name(service: Service, sentence: str) -> str:
    """``SERVICE.`` and 16 digits, as client-go names Events; the digits are what is told, and of which Service."""
    said = hashlib.blake2b(f"{service.uid} {REASON} {sentence}".encode(), digest_size=8).hexdigest()
    return f"{service.name}.{said}"


def _owner(key: str) -> str:
    """Whose Events are counted together; a Service's name has no dot."""
    return key.rpartition(".")[0]


def _as_is(key: str, there: KeyValue | None) -> Compare:
    return Compare(key, ABSENT) if there is None else Compare(key, there.mod_revision, there.value)


def _document(mirror: ServicesMirror, key: str) -> Object | None:
    """The Event that is there; None where there is none, or what is there is none."""
    try:
        return mirror.document(key)
    except ObjectFormatError:
        return None


def _last_told(event: Object) -> float:
    """When, in seconds since 1970; long ago where it does not say."""
    try:
        return datetime.fromisoformat(event["lastTimestamp"].replace("Z", "+00:00")).astimezone(UTC).timestamp()
    except (KeyError, AttributeError, ValueError, OverflowError):
        return 0.0


def _first(service: Service, sentence: str, node: str, now: datetime, rng: Random) -> Object:
    """Raises StatusError where the Service's name, or its namespace's, breaks a rule."""
    given: Object = {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.name,
        "metadata": {"name": _name(service, sentence)},
        "involvedObject": {
            "apiVersion": SERVICE.api_version,
            "kind": SERVICE.name,
            "namespace": service.namespace,
            "name": service.name,
            "uid": service.uid,
        },
        "reason": REASON,
        "message": excerpt(sentence, _MESSAGE_LIMIT - 1),
        "type": "Warning",
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
        "count": 1,
        "firstTimestamp": timestamp(now),
        "lastTimestamp": timestamp(now),
    }
    uid = UUID(int=rng.getrandbits(128), version=4)
    return for_create(EVENT, given, service.namespace, now, str(uid))


def _again(told: Object, now: datetime) -> Object:
    before = told.get("count")
    count = before + 1 if isinstance(before, int) else 2
    return {**told, "count": count, "lastTimestamp": timestamp(now)}
