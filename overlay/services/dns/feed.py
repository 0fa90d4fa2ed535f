"""The daemon's end of the control socket to one worker: tells it what has changed, and asks how it is.

What the worker *has* is remembered by a digest, what it *should have* is computed when its turn comes, and only what
differs is told. So a worker that does not read costs no memory and holds up nobody, and catches up by itself; one that
was started anew is told everything.
"""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Protocol, TypeAlias, TypeVar

import msgspec

from overlay.daemon.confined.control import Control
from overlay.errors import ServicesError
from overlay.services.dns.messages import (
    BATCH_BYTES,
    MAX_MESSAGE,
    Ask,
    Changes,
    Complete,
    FromWorker,
    Ready,
    Settings,
    Status,
    ToWorker,
    decode_from_worker,
    encode,
)
from overlay.services.dns.zone import Entry, ServiceName

_log = logging.getLogger(__name__)


class Facts(Protocol):
    """What there is to tell, as it is now."""

    @property
    def revision(self) -> int:
        """Of all that follows."""

    def services(self) -> Iterable[ServiceName]:
        """All Services that have names."""

    def entry(self, name: ServiceName) -> Entry | None:
        """One of them; None where it has none."""

    def namespaces(self) -> set[str]:
        """Those that exist."""

    def pods(self) -> set[tuple[str, str]]:
        """Namespace and address of pods whose names are verified."""


Digest: TypeAlias = bytes
T = TypeVar("T")

STEP = 256
"""Namespaces, and pods, of one message: each has 63 bytes and an address at most."""


@dataclass(slots=True)
class _Told:
    """What the worker has."""

    services: dict[ServiceName, Digest] = field(default_factory=dict)
    namespaces: set[str] = field(default_factory=set)
    pods: set[tuple[str, str]] = field(default_factory=set)
    revision: int = -1


class Feed:
    """One worker's control socket on the running loop.

    Args:
        loaded: whether the facts are all that there is; before, the worker is told its settings alone.

    Attributes:
        control: the socket; it is ready when the worker answers questions.
    """

    def __init__(self, control: socket.socket, facts: Facts, settings: Settings, *, loaded: bool) -> None:
        self._facts = facts
        self._told = _Told()
        self._loaded = loaded
        self._dirty: dict[ServiceName, None] = dict.fromkeys(facts.services()) if loaded else {}
        self._looks_at_sets = loaded
        self.control: Control[ToWorker, FromWorker, Status] = Control(
            control, encode=encode, more=self._more, question=Ask, decode=decode_from_worker, take=self._take,
            complain=partial(_log.debug, "the DNS worker sent %s"),
            ended=lambda: ServicesError("the DNS worker has ended"), largest=MAX_MESSAGE,
        )  # fmt: skip
        self.control.say(settings)

    def settle(self, settings: Settings) -> None:
        """Makes ``settings`` what the worker works by; does not block."""
        self.control.say(settings)

    def changed(self, names: Iterable[ServiceName], *, sets: bool) -> None:
        """These Services may be otherwise, and with ``sets`` namespaces and pods, too; does not block."""
        if not self._loaded:
            self._loaded = True
            names = (*names, *self._facts.services())
            sets = True
        self._dirty.update(dict.fromkeys(names))
        self._looks_at_sets |= sets
        self.control.pump()

    # --- what goes out ---

    def _more(self) -> Changes | Complete | None:
        """The next message; what it tells counts as told."""
        if not self._loaded:
            return None
        if self._looks_at_sets:
            self._looks_at_sets = False
            if (told := self._sets()) is not None:
                return told
        while self._dirty:
            if (told := self._services()) is not None:
                return told
        if self._told.revision != self._facts.revision:
            self._told.revision = self._facts.revision
            return Complete(self._told.revision)
        return None

    def _sets(self) -> Changes | None:
        """Namespaces and pods, as many as one message holds; the rest comes with the next one."""
        told, namespaces, pods = self._told, self._facts.namespaces(), self._facts.pods()
        there, gone = _step(told.namespaces, namespaces)
        pods_there, pods_gone = _step(told.pods, pods)
        if not (there or gone or pods_there or pods_gone):
            return None
        self._looks_at_sets = told.namespaces != namespaces or told.pods != pods
        return Changes(namespaces=there, namespaces_gone=gone, pods=pods_there, pods_gone=pods_gone)

    def _services(self) -> Changes | None:
        """Services that differ, as many as one message holds; None if those that were looked at do not."""
        entries: list[Entry] = []
        gone: list[ServiceName] = []
        size = 0
        while self._dirty and size < BATCH_BYTES:
            name = next(iter(self._dirty))
            del self._dirty[name]
            entry = self._facts.entry(name)
            if entry is None:
                if self._told.services.pop(name, None) is not None:
                    gone.append(name)
                    size += sum(map(len, name))
                continue
            entry, data = _fitting(entry)
            digest = hashlib.blake2b(data, digest_size=16).digest()
            if self._told.services.get(name) == digest:
                continue
            if entries and size + len(data) > BATCH_BYTES:
                self._dirty[name] = None
                break
            self._told.services[name] = digest
            entries.append(entry)
            size += len(data)
        return Changes(services=tuple(entries), services_gone=tuple(gone)) if entries or gone else None

    # --- what comes in ---

    def _take(self, message: FromWorker) -> None:
        match message:
            case Ready():
                self.control.is_ready()
            case Status():
                self.control.answered(message.number, message)


def _fitting(entry: Entry) -> tuple[Entry, bytes]:
    """An entry that fits into a message, and how it is encoded: one with very many ports tells fewer endpoints."""
    while len(data := msgspec.msgpack.encode(entry)) > MAX_MESSAGE - BATCH_BYTES and entry.endpoints:
        entry = msgspec.structs.replace(entry, endpoints=entry.endpoints[: len(entry.endpoints) // 2])
    return entry, data


def _step(have: set[T], want: set[T]) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """Makes ``have`` more like ``want``; returns what entered it, and what left."""
    there, gone = (tuple(islice(each, STEP)) for each in (want - have, have - want))
    have.update(there)
    have.difference_update(gone)
    return there, gone
