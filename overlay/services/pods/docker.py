"""Docker's containers, followed through its API on its Unix socket: events, and what each container is.

Docker keeps 256 events only, so after every connection all containers are listed, once its events are being heard; and
now and then without any cause. An event says of a container only that something about it has changed: what it is now is
asked for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import aiohttp
import msgspec

from overlay.errors import OverlayError
from overlay.rates import Backoff
from overlay.services.pods.container import Container, ContainerFormatError, parse

_log = logging.getLogger(__name__)

DEFAULT_SOCKET = Path("/run/docker.sock")

MAX_CONTAINERS = 4096
"""Of one node, of which each has a key in etcd."""

LIST_SECONDS = 300.0
"""How long a change that no event told of can last."""

_ANSWER_SECONDS = 10.0
_ANSWER_LIMIT = 64 << 20
_EVENT_LIMIT = 4 << 20
"""Bytes: an event has all labels of its container in it."""

STOPPING_SECONDS = 120.0
"""How long a container that was told to end counts as ending: one that does not end by then has other ideas. Docker
itself kills it after ten seconds, or after what ``docker stop --time`` says."""

_BURY_SECONDS = 0.25
"""How often is looked which containers have ended while Docker is away."""

_WORKERS = 4
_AGAIN_SECONDS = 5.0
_FIRST_RETRY, _MAX_RETRY = 0.2, 5.0

_EVENTS = (
    "create", "start", "restart", "pause", "unpause", "health_status", "oom", "die", "stop", "rename", "update",
    "destroy", "connect", "disconnect", "kill",
)  # fmt: skip
"""That may change what a container is; a health check alone makes three of others at every turn."""


class DockerError(OverlayError):
    """Docker does not answer, or not as its API says; that is tried again."""


class Docker:
    """Follows all containers of one dockerd, whatever becomes of it.

    Attributes:
        containers: as last known, by id; while Docker is away they may well run on.
        listed: whether all of them have been listed, and asked for, once.
        error: why Docker is not followed now; None while it is.
        left_out: containers beyond MAX_CONTAINERS.

    Args:
        changed: called after every change to any of these.
    """

    def __init__(self, socket: Path, changed: Callable[[], None], rng: Random | None = None) -> None:
        self.containers: dict[str, Container] = {}
        self.listed = False
        self.error: DockerError | None = None
        self.left_out = 0
        self._undescribed: set[str] = set()
        self._processes: dict[str, Path] = {}
        self._socket = socket
        self._changed = changed
        self._backoff = Backoff(_FIRST_RETRY, _MAX_RETRY, rng or Random())

    def knows(self, ident: str) -> bool:
        """Whether Docker has said what the container of an id is, or that there is none."""
        return self.listed and ident not in self._undescribed

    async def run(self) -> NoReturn:
        """Follows until cancelled."""
        while True:
            try:
                await self._follow()
            except* (DockerError, aiohttp.ClientError, OSError, TimeoutError) as group:
                self._lost(group)
            again = time.monotonic() + self._backoff.next()
            while (rest := again - time.monotonic()) > 0:
                self._bury()
                await asyncio.sleep(min(rest, _BURY_SECONDS))

    def _bury(self) -> None:
        """While Docker is away: a container whose process is gone has ended. Docker stops them without a word when it
        is stopped itself, and where it has crashed they run on."""
        ended = [ident for ident, path in self._processes.items() if not path.exists()]
        for ident in ended:
            del self._processes[ident]
            container = self.containers[ident]
            self.containers[ident] = replace(container, state=replace(container.state, status="lost", pid=0))
        if ended:
            self._changed()

    def _lost(self, group: BaseExceptionGroup[BaseException]) -> None:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        cause = str(first) or type(first).__name__
        self.error = DockerError(
            f"does not answer: {cause}", about=f"Docker at {self._socket}", remedy="is it running?"
        )
        self._changed()

    async def _follow(self) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._socket))) as session:
            connection = _Connection(session)
            async with connection.events() as events, asyncio.TaskGroup() as group:
                inspector = _Inspector(connection, self._known)
                for worker in inspector.workers():
                    group.create_task(worker)
                group.create_task(self._hear(events, inspector))
                group.create_task(self._list_for_ever(connection, inspector))

    async def _hear(self, events: AsyncIterator[_Event], inspector: _Inspector) -> None:
        async for event in events:
            if event.signal is not None:
                self._told_to_end(event.container, event.signal)
            elif event.container in self.containers or len(self.containers) < MAX_CONTAINERS:
                inspector.ask(event.container)
        raise DockerError("its events have ended")

    def _told_to_end(self, ident: str, number: int) -> None:
        """Somebody sent a container a signal: the one by which it is stopped, or another that is none of ours."""
        container = self.containers.get(ident)
        if container is None or number != container.stop_signal or container.state.status != "running":
            return
        stopping = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        self.containers[ident] = replace(container, state=replace(container.state, stopping=stopping))
        asyncio.get_running_loop().call_later(STOPPING_SECONDS, self._goes_on, ident, container.state.started)
        self._changed()

    def _goes_on(self, ident: str, started: str) -> None:
        """It was told to end and runs still."""
        container = self.containers.get(ident)
        if container is not None and container.state.stopping and container.state.started == started:
            self.containers[ident] = replace(container, state=replace(container.state, stopping=""))
            self._changed()

    async def _list_for_ever(self, connection: _Connection, inspector: _Inspector) -> None:
        while True:
            before = set(self.containers)
            began = time.monotonic()
            listed = await connection.list()
            kept = listed[:MAX_CONTAINERS]
            self.left_out = len(listed) - len(kept)
            for ident in before.difference(kept):
                self._known(ident, None)
            self._undescribed = set(kept).difference(self.containers)
            for ident in kept:
                inspector.ask(ident)
            await inspector.idle()
            if not self.listed or self.error is not None:
                _log.info("Docker: %d containers, listed in %.1f s", len(kept), time.monotonic() - began)
            self.listed, self.error = True, None
            self._backoff.reset()
            self._changed()
            await asyncio.sleep(LIST_SECONDS)

    def _known(self, ident: str, container: Container | None) -> None:
        """What a container is now; None: it is gone."""
        self._undescribed.discard(ident)
        self._processes.pop(ident, None)
        if container is not None and (pid := container.state.pid) and (path := Path(f"/proc/{pid}")).exists():
            self._processes[ident] = path  # where it is not to be seen, this is another process tree than Docker's
        before = self.containers.get(ident)
        if container is not None and before is not None and before.state.started == container.state.started:
            container = replace(container, state=replace(container.state, stopping=before.state.stopping))
        if before == container and container is not None:
            return
        if container is None:
            self.containers.pop(ident, None)
        else:
            self.containers[ident] = container
        if self.listed:
            self._changed()


class _Inspector:
    """Asks what containers are, a few at a time and each one's questions in turn; asked twice it asks once."""

    def __init__(self, connection: _Connection, known: Callable[[str, Container | None], None]) -> None:
        self._connection = connection
        self._known = known
        self._queues = [asyncio.Queue[str]() for _ in range(_WORKERS)]
        self._waiting: set[str] = set()

    def ask(self, ident: str) -> None:
        if ident not in self._waiting:
            self._waiting.add(ident)
            self._queues[sum(ident[:8].encode()) % _WORKERS].put_nowait(ident)

    async def idle(self) -> None:
        """Until all that was asked is answered."""
        for queue in self._queues:
            await queue.join()

    def workers(self) -> list[Any]:
        return [self._work(queue) for queue in self._queues]

    async def _work(self, queue: asyncio.Queue[str]) -> NoReturn:
        while True:
            ident = await queue.get()
            self._waiting.discard(ident)  # before it is asked: what changes from here on is asked again
            try:
                self._known(ident, await self._connection.inspect(ident))
            except (DockerError, ContainerFormatError, TimeoutError) as error:
                # One that Docker itself cannot describe must not keep the others from being followed.
                _log.debug("container %s: %s", ident[:12], error or "no answer in time")
                asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self.ask, ident)
            finally:
                queue.task_done()


class _Connection:
    """What we ask of Docker's API."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[_Event]]:
        """What happens to containers, from now on."""
        filters = json.dumps({"type": ["container", "network"], "event": list(_EVENTS)})
        asking = self._session.get(
            "http://docker/events", params={"filters": filters}, timeout=aiohttp.ClientTimeout(total=None)
        )
        async with asyncio.timeout(_ANSWER_SECONDS):  # until they begin; they may be silent for as long as they like
            answer = await asking
        async with answer:
            if answer.status != 200:
                raise DockerError(f"refuses its events with {answer.status}")
            yield _events(answer)

    async def list(self) -> list[str]:
        """The ids of all containers, the youngest first."""
        answer = await self._get("/containers/json?all=1")
        if not isinstance(answer, list):
            raise DockerError("lists no containers")
        return [ident for each in answer if isinstance(each, dict) and isinstance(ident := each.get("Id"), str)]

    async def inspect(self, ident: str) -> Container | None:
        """What a container is; None where there is none."""
        answer = await self._get(f"/containers/{ident}/json")
        return None if answer is None else parse(answer)

    async def _get(self, path: str) -> Any:
        """A decoded answer; None where nothing is there. Raises DockerError."""
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        async with self._session.get(f"http://docker{path}", timeout=timeout) as answer:
            if answer.status == 404:
                return None
            body = bytearray()
            async for part in answer.content.iter_any():
                body += part
                if len(body) > _ANSWER_LIMIT:
                    raise DockerError(f"answers {path} without end")
            if answer.status != 200:
                raise DockerError(f"answers {path} with {answer.status}")
            return _decoded(bytes(body))


@dataclass(frozen=True, slots=True)
class _Event:
    """Something has changed about a container; or it was sent a signal."""

    container: str
    signal: int | None = None


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[_Event]:
    rest = bytearray()
    async for part in answer.content.iter_any():
        rest += part
        *lines, last = rest.split(b"\n")
        if len(last) > _EVENT_LIMIT:
            raise DockerError("sends an event without end")
        rest = bytearray(last)
        for line in lines:
            if line.strip() and (event := _event(_decoded(bytes(line)))) is not None:
                yield event


def _event(event: Any) -> _Event | None:
    """What an event says of a container; None where it is about none."""
    if not isinstance(event, dict) or not isinstance(actor := event.get("Actor"), dict):
        return None
    attributes = actor.get("Attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    ident = actor.get("ID") if event.get("Type") == "container" else attributes.get("container")
    if not isinstance(ident, str) or not ident:
        return None
    if event.get("Action") != "kill":
        return _Event(ident)
    number = str(attributes.get("signal", ""))
    return _Event(ident, int(number)) if number.isascii() and number.isdecimal() else None


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DockerError(f"sends what is no JSON: {error}") from None
