"""Docker that answers, but not of every container: what a real one does under load, made certain here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from overlay.services.pods.docker import Docker
from tests.support.etcd import eventually

GOOD, BAD, GONE = "a" * 64, "b" * 64, "c" * 64
LIMIT = 30.0


class Answers:
    """What is said of containers; ``BAD`` is one that Docker cannot describe for now."""

    def __init__(self) -> None:
        self.broken = True

    async def events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    async def list(self, _: web.Request) -> web.Response:
        return web.json_response([{"Id": ident} for ident in (GOOD, BAD, GONE)])

    async def inspect(self, request: web.Request) -> web.Response:
        ident = request.match_info["ident"]
        if ident == GONE:
            return web.json_response({"message": "No such container"}, status=404)
        if ident == BAD and self.broken:
            return web.json_response({"message": "layer does not exist"}, status=500)
        return web.json_response({"Id": ident, "Name": "/x", "State": {"Status": "running"}})


@asynccontextmanager
async def docker(folder: Path, answers: Answers) -> AsyncIterator[Docker]:
    app = web.Application()
    app.router.add_get("/events", answers.events)
    app.router.add_get("/containers/json", answers.list)
    app.router.add_get("/containers/{ident}/json", answers.inspect)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "docker.sock")).start()
    followed = Docker(folder / "docker.sock", lambda: None)
    task = asyncio.create_task(followed.run())
    try:
        yield followed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await runner.cleanup()


async def test_a_container_that_is_listed_and_not_described_is_not_taken_for_gone(tmp_path: Path) -> None:
    answers = Answers()
    async with docker(tmp_path, answers) as followed:
        assert not any(map(followed.knows, (GOOD, BAD, GONE))), "nothing before it was listed"

        async def listed() -> bool:
            return followed.listed

        async def described() -> bool:
            return followed.knows(BAD)

        await eventually(listed, limit=LIMIT)
        assert set(followed.containers) == {GOOD}
        assert [followed.knows(ident) for ident in (GOOD, BAD, GONE)] == [True, False, True]
        answers.broken = False
        await eventually(described, limit=LIMIT)
        assert set(followed.containers) == {GOOD, BAD}
