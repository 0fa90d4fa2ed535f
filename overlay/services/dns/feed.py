"""The daemon's end of the control socket to one worker: tells it what has changed, and asks how it is.

What the worker *has* is remembered by a digest, what it *should have* is computed when its turn comes, and only what
differs is told. So a worker that does not read costs no memory and holds up nobody, and catches up by itself; one that
was started anew is told everything.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeAlias, TypeVar

import msgspec

from overlay.errors import ServicesError
from overlay.services.dns.messages import (
    BATCH_BYTES,
    MAX_MESSAGE,
    Ask,
    Changes,
    Complete,
    FromWorker,
    MalformedMessageError,
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
        ready: done when the worker answers questions; with ServicesError if it ended before.
        closed: set when the worker closed its end, so when it died.
    """

    def __init__(self, control: socket.socket, facts: Facts, settings: Settings, *, loaded: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._control.setblocking(False)
        self._facts = facts
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.closed = asyncio.Event()
        self._told = _Told()
        self._outgoing: list[ToWorker] = [settings]  # at most one of each kind
        self._unsent: bytes | None = None
        self._loaded = loaded
        self._dirty: dict[ServiceName, None] = dict.fromkeys(facts.services()) if loaded else {}
        self._looks_at_sets = loaded
        self._writing = False
        self._question = 0
        self._answer: asyncio.Future[Status] | None = None
        self._loop.add_reader(control, self._receive)
        self._pump()

    def settle(self, settings: Settings) -> None:
        """Makes ``settings`` what the worker works by; does not block."""
        self._replace(settings)

    def changed(self, names: Iterable[ServiceName], *, sets: bool) -> None:
        """These Services may be otherwise, and with ``sets`` namespaces and pods, too; does not block."""
        if not self._loaded:
            self._loaded = True
            names = (*names, *self._facts.services())
            sets = True
        self._dirty.update(dict.fromkeys(names))
        self._looks_at_sets |= sets
        self._pump()

    async def ask(self) -> Status:
        """How the worker is; waits for as long as it takes. Several callers share one answer.

        Raises:
            ServicesError: the worker ended meanwhile.
        """
        if self.closed.is_set():
            raise ServicesError("the DNS worker has ended")
        if self._answer is None or self._answer.done():
            self._question += 1
            self._answer = self._loop.create_future()
            self._replace(Ask(self._question))
        return await asyncio.shield(self._answer)

    def close(self) -> None:
        """Closes our end, which ends the worker."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control)
            self._loop.remove_writer(self._control)
            self._control.close()
        failure = ServicesError("the DNS worker has ended")
        for future in (self.ready, self._answer):
            if future is not None and not future.done():
                future.set_exception(failure)
                future.exception()  # nobody has to be waiting for it
        self.closed.set()

    # --- what goes out ---

    def _replace(self, message: ToWorker) -> None:
        self._outgoing = [waiting for waiting in self._outgoing if type(waiting) is not type(message)]
        self._outgoing.append(message)
        self._pump()

    def _pump(self) -> None:
        """Sends until all is said or the socket is full; then goes on when it is not."""
        if self.closed.is_set():
            return
        while (data := self._unsent or self._next()) is not None:
            self._unsent = data
            try:
                self._control.send(data)
            except BlockingIOError:
                if not self._writing:
                    self._loop.add_writer(self._control, self._pump)
                    self._writing = True
                return
            except OSError:
                self.close()
                return
            self._unsent = None
        if self._writing:
            self._loop.remove_writer(self._control)
            self._writing = False

    def _next(self) -> bytes | None:
        """The next message; what it tells counts as told."""
        if self._outgoing:
            return encode(self._outgoing.pop(0))
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
            return encode(Complete(self._told.revision))
        return None

    def _sets(self) -> bytes | None:
        """Namespaces and pods, as many as one message holds; the rest comes with the next one."""
        told, namespaces, pods = self._told, self._facts.namespaces(), self._facts.pods()
        there, gone = _step(told.namespaces, namespaces)
        pods_there, pods_gone = _step(told.pods, pods)
        if not (there or gone or pods_there or pods_gone):
            return None
        self._looks_at_sets = told.namespaces != namespaces or told.pods != pods
        return encode(Changes(namespaces=there, namespaces_gone=gone, pods=pods_there, pods_gone=pods_gone))

    def _services(self) -> bytes | None:
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
        return encode(Changes(services=tuple(entries), services_gone=tuple(gone))) if entries or gone else None

    # --- what comes in ---

    def _receive(self) -> None:
        try:
            data = self._control.recv(MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            self._take(decode_from_worker(data))
        except MalformedMessageError as failure:
            _log.debug("the DNS worker sent a message that does not decode: %s", failure)

    def _take(self, message: FromWorker) -> None:
        match message:
            case Ready():
                if not self.ready.done():
                    self.ready.set_result(None)
            case Status():
                if self._answer is not None and message.number == self._question and not self._answer.done():
                    self._answer.set_result(message)


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
