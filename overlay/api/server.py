"""The HTTP server: aiohttp around what the other modules decide. Every error is a Status, every answer is JSON."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from overlay.api import discovery, openapi, openapi_v2, streams, verbs
from overlay.api.auth import READING, Tokens
from overlay.api.bodies import MAX_BODY
from overlay.api.paths import Query, Target, parse, parse_query
from overlay.api.tables import METADATA_ALONE, table
from overlay.api.verbs import Answer, Body
from overlay.api.watching import Hub
from overlay.errors import ConfigError, StoreError
from overlay.services.objects import status
from overlay.services.objects.document import Object
from overlay.services.objects.kinds import Kind
from overlay.services.objects.status import StatusError
from overlay.services.reading import Reading
from overlay.services.storage import Listing, Storage

log = logging.getLogger(__name__)

_of_aiohttp = logging.getLogger(f"{__name__}.http")
_of_aiohttp.setLevel(logging.CRITICAL)
"""It tells of whatever somebody without a token sent that is no HTTP, with a traceback each; our own errors are caught
before it sees them."""

MAX_REQUESTS = 64
"""Requests that are worked on at once, watches apart; more wait."""

MAX_WATCHES = 2000
"""Watches at once; more are told to come back."""

MAX_CONNECTIONS = 2500
"""Connections at once, those without a token among them; more are closed."""

IDLE_SECONDS = 75
"""In which a connection must have brought a whole head of a request, its first or another, or it is closed."""

BODY_SECONDS = 30.0
"""In which a client must have sent its body."""

WRITE_SECONDS = 60.0
"""In which a client of a watch must take what it is sent, or it is left."""

WATCH_SECONDS = (1800, 3600)
"""How long a watch lasts that does not say how long; at random, so that clients do not come back together."""

TLS_BUFFER = 32 * 1024
"""Bytes that each connection reads into: two records of TLS. asyncio's own choice is 256 KiB, which is 250 MB for a
thousand watches that send nothing."""

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a client wants its objects: as they are, their metadata alone, or as a Table; in which version."""

    kind: Kind
    as_table: bool
    include: str
    api_version: str
    as_metadata: bool = False

    def document(self, what: Object | Listing) -> Object:
        """One object or a list."""
        if isinstance(what, Listing):
            metadata: dict[str, Any] = {"resourceVersion": str(what.revision)}
            if what.token:
                metadata["continue"] = what.token
            if what.remaining:
                metadata["remainingItemCount"] = what.remaining
            if self.as_table:
                return self._table(what.items, metadata)
            name, version = self.kind.name, self.api_version or self.kind.api_version
            if self.as_metadata:
                name, version = METADATA_ALONE["kind"], METADATA_ALONE["apiVersion"]
            items = [self._versioned(each) for each in what.items]
            return {"kind": f"{name}List", "apiVersion": version, "metadata": metadata, "items": items}
        if self.as_table and what.get("kind") == self.kind.name:
            return self._table([what], {"resourceVersion": what["metadata"].get("resourceVersion", "")})
        return self._versioned(what)

    def event(self, obj: Object | None, first: bool) -> Object:
        """One event's object in a watch: columns are described once."""
        if not self.as_table:
            if obj is None:
                return dict(METADATA_ALONE) if self.as_metadata else {}
            return self._versioned(obj)
        shown = self._table([] if obj is None else [obj], {})
        return shown if first else {**shown, "columnDefinitions": None}

    def _table(self, objects: list[Object], metadata: dict[str, Any]) -> Object:
        shown = [self._versioned(each) for each in objects]
        return table(self.kind, shown, datetime.now(UTC), include=self.include, metadata=metadata)

    def _versioned(self, obj: Object) -> Object:
        if obj.get("kind") == "Status":
            return obj
        if self.as_metadata:
            return {**METADATA_ALONE, "metadata": obj["metadata"]}
        return {"kind": self.kind.name, **obj, "apiVersion": self.api_version or self.kind.api_version}


class Api:
    """The API on one storage.

    Args:
        tokens: that are taken.
        follow: whether to follow all that is stored from the start, so as to answer from memory; else from the first
            watch on.
    """

    def __init__(self, storage: Storage, tokens: Tokens, *, follow: bool = False) -> None:
        self._storage = storage
        self._hub = Hub(storage)
        self._reading = Reading(storage, self._hub)
        self._follow = follow
        self._tokens = tokens
        self._slots = asyncio.Semaphore(MAX_REQUESTS)
        self._watches = 0

    def application(self) -> web.Application:
        """What aiohttp serves."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_startup.append(self._start_up)
        app.on_shutdown.append(self._shut_down)
        return app

    async def _start_up(self, _: web.Application) -> None:
        if self._follow:
            self._hub.start()

    async def _shut_down(self, _: web.Application) -> None:
        self._hub.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            self._tokens.check(request.headers.get("Authorization", ""), request.method)
            return await self._answer(request)
        except StatusError as error:
            return _refusal(error)
        except StoreError as error:
            return _refusal(_of_store(error, request.method))
        except ConfigError as error:
            return _refusal(StatusError(500, "InternalError", f"the configuration of services is no use: {error}"))
        except RecursionError:  # within what parses, and too deep for what has to look at it
            return _refusal(status.bad_request("the document is nested too deeply"))
        except (web.HTTPException, asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            log.exception("%s %s", request.method, request.rel_url.path)
            return _refusal(StatusError(500, "InternalError", "an internal error; the API's log has it"))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        target = parse(request.rel_url.raw_path)
        if target is None:
            return await self._about_the_api(request)
        query = parse_query(request.query)
        wanted = request.headers.get("Accept", "").partition(",")[0].replace(" ", "")
        wants_table, wants_metadata = "as=Table" in wanted, "as=PartialObjectMetadata" in wanted
        rendering = Rendering(target.kind, wants_table, query.include, target.api_version, wants_metadata)
        if request.method == "GET" and (query.watch or target.watch):
            verbs.refuse_unless_allowed(target, "watch")
            return await self._watch(request, target, query, rendering)
        async with self._slots:
            answer = await self._verb(request, target, query)
        headers = [("Warning", f'299 - "{_quoted(each)}"') for each in answer.warnings]
        return _json(rendering.document(answer.document), answer.code, headers)

    async def _verb(self, request: web.Request, target: Target, query: Query) -> Answer:
        match request.method, bool(target.name):
            case "GET", True:
                return await verbs.get(self._reading, target)
            case "GET", False:
                return await verbs.list_(self._reading, target, query)
            case "POST", _:
                verb, work = "create", verbs.create
            case "PUT", True:
                verb, work = "update", verbs.update
            case "PATCH", True:
                verb, work = "patch", verbs.patch
            case "DELETE", one:
                verb, work = ("delete" if one else "deletecollection"), verbs.delete
            case method, _:
                raise status.method_not_allowed(f"{method[:16]} is not supported here")
        verbs.refuse_unless_allowed(target, verb)
        if verb != "create":
            await self._reading.refuse_computed(target.kind, target.namespace, target.name)
        return await work(self._storage, target, query, await _body(request))

    async def _watch(
        self, request: web.Request, target: Target, query: Query, rendering: Rendering
    ) -> web.StreamResponse:
        if self._watches >= MAX_WATCHES:
            raise StatusError(429, "TooManyRequests", f"there are {MAX_WATCHES} watches already", retry_after=5)
        self._watches += 1
        found = streams.lines(self._reading, self._hub, target, query, rendering.event)
        try:
            first = await anext(found)  # what is wrong with the request is told before the answer begins
            response = web.StreamResponse(headers={"Content-Type": _JSON})
            await response.prepare(request)
            seconds = query.timeout or random.randint(*WATCH_SECONDS)
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(seconds):
                    await _send(response, first)
                    await self._stream(response, found)
            with suppress(ConnectionError):
                await response.write_eof()
            return response
        finally:
            self._watches -= 1
            await found.aclose()

    async def _stream(self, response: web.StreamResponse, found: AsyncIterator[bytes]) -> None:
        try:
            async for piece in found:
                await _send(response, piece)
        except StatusError as error:
            await _send(response, streams.error_line(error))
        except StoreError as error:
            await _send(response, streams.error_line(_of_store(error, "GET")))

    # --- about the API itself ---

    async def _about_the_api(self, request: web.Request) -> web.Response:
        if request.method not in READING:
            raise status.method_not_allowed(f"{request.method[:16]} is not supported here")
        path = request.path.rstrip("/") or "/"
        accept = request.headers.get("Accept", "")
        aggregated = "as=APIGroupDiscoveryList" in accept and "v=v2;" in accept + ";"
        match path.strip("/").split("/"):
            case ["healthz" | "livez"]:
                return web.Response(text="ok")
            case ["readyz"]:
                await self._storage.revision()
                return web.Response(text="ok")
            case ["version"]:
                return _json(discovery.version())
            case ["api" | "apis" as root] if aggregated:
                return _json(discovery.aggregated(core=root == "api"), content_type=discovery.AGGREGATED)
            case ["api"]:
                return _json(discovery.core_versions())
            case ["apis"]:
                return _json(discovery.groups())
            case ["api", version]:
                return _json(_existing(discovery.resources("", version)))
            case ["apis", group]:
                return _json(_existing(discovery.group(group)))
            case ["apis", group, version]:
                return _json(_existing(discovery.resources(group, version)))
            case ["openapi", "v2"]:
                if "protobuf" in accept:
                    return web.Response(body=openapi_v2.document(), headers={"Content-Type": openapi_v2.CONTENT_TYPE})
                return _json(openapi.v2())
            case ["openapi", "v3"]:
                return _json(openapi.v3_index())
            case ["openapi", "v3", *rest]:
                document = openapi.v3("/".join(rest))
                if document is None:
                    raise status.no_such_path()
                return web.Response(body=document, content_type=_JSON)
            case _:
                raise status.no_such_path()


@asynccontextmanager
async def serving(api: Api, port: int, tls: ssl.SSLContext) -> AsyncIterator[int]:
    """Serves on 127.0.0.1 while the context lasts; gives the port, which is a free one for 0.

    Raises OSError where it cannot listen there.
    """
    SSLProtocol.max_size = TLS_BUFFER  # what makes the buffer takes no argument
    runner = web.AppRunner(
        api.application(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0,
        keepalive_timeout=IDLE_SECONDS, logger=_of_aiohttp,
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        server = await asyncio.get_running_loop().create_server(
            lambda: _connection(runner), "127.0.0.1", port, ssl=tls, backlog=1024
        )
        stack.callback(server.close)
        yield int(server.sockets[0].getsockname()[1])


def _connection(runner: web.AppRunner) -> asyncio.BaseProtocol:
    assert runner.server is not None
    return _Closing() if len(runner.server.connections) >= MAX_CONNECTIONS else runner.server()


class _Closing(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


async def _body(request: web.Request) -> Body:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            content = await request.read()
    except TimeoutError:
        raise StatusError(408, "Timeout", f"the body did not come within {BODY_SECONDS:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise status.too_large(MAX_BODY) from None
    except web.RequestPayloadError as error:  # no gzip, though it says so; cut off
        raise status.bad_request(f"the body cannot be read: {' '.join(str(error).split())}") from None
    return Body(request.headers.get("Content-Type", ""), content, request.headers.get("User-Agent", ""))


async def _send(response: web.StreamResponse, piece: bytes) -> None:
    if piece:
        async with asyncio.timeout(WRITE_SECONDS):
            await response.write(piece)


def _existing(document: dict[str, Any] | None) -> dict[str, Any]:
    if document is None:
        raise status.no_such_path()
    return document


def _json(
    document: Any, code: int = 200, headers: list[tuple[str, str]] | None = None, content_type: str = _JSON
) -> web.Response:
    response = web.Response(body=msgspec.json.encode(document), status=code)
    response.headers["Content-Type"] = content_type
    for name, value in headers or ():
        response.headers.add(name, value)
    return response


def _refusal(error: StatusError) -> web.Response:
    # client-go repeats whatever comes with this header until its own limit, and then tells of that limit instead of
    # what we said (staging/src/k8s.io/client-go/rest/with_retry.go). So it is for those who are only too early.
    early = error.code == HTTPStatus.TOO_MANY_REQUESTS
    headers = [("Retry-After", str(error.retry_after))] if early else []
    return _json(error.document(), error.code, headers)


def _of_store(error: StoreError, method: str) -> StatusError:
    """What etcd's absence means: reading may be tried again; of writing nobody knows whether it happened."""
    if method in ("GET", "HEAD"):
        return status.unavailable(str(error))
    return StatusError(504, "Timeout", f"{error}; the change may or may not have been made: look before you try again")


def _quoted(text: str) -> str:
    printable = "".join(each if each.isprintable() and each.isascii() else "?" for each in text[:300])
    return printable.replace("\\", "\\\\").replace('"', '\\"')
