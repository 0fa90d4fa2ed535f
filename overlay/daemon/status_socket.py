"""A running daemon's report of itself: one JSON object for whoever connects to a socket in the state directory.

The socket is root's alone: counters and peers are nobody else's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from overlay.daemon.reconcile import Look
from overlay.errors import FileError, OverlayError

_ANSWER_SECONDS = 5.0
_ANSWER_LIMIT = 64 << 20
"""Bytes that a report may have: some 200 a peer, and a hundred thousand peers are more than etcd can list."""


class StatusSocket:
    """The socket as it should be: there, and ours.

    Args:
        report: makes what every connection gets, in JSON.
        name: the daemon's, and so the socket's.
    """

    def __init__(self, directory: Path, report: Callable[[], Awaitable[bytes]], name: str) -> None:
        self._directory, self._report, self._name = directory, report, name
        self._server: asyncio.Server | None = None
        self._made: os.stat_result | None = None

    async def look(self) -> Look:
        """Listens where that is not done yet, or others have removed what it was done on.

        Raises:
            FileError: the directory cannot be used.
        """
        path = _path(self._directory, self._name)
        if self._made is not None and _is(path, self._made):
            return Look()
        try:
            await self.close()
            await self._listen()
            self._made = path.stat()
        except OSError as error:
            raise FileError(
                f"cannot listen there ({error.strerror}): there is no overlay status",
                about=str(path),
                remedy="see that the directory is there and has room",
            ) from error
        return Look()

    async def _listen(self) -> None:
        with _short(self._directory, self._name) as path:
            # The lock on the directory is ours, so a socket that is there was left behind.
            path.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                self._server = await asyncio.start_unix_server(self._answer, path)
            finally:
                os.umask(before)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                writer.write(await self._report())
                await writer.drain()
        writer.close()

    async def close(self) -> None:
        """Ends it, and removes the socket if it is still ours."""
        path, made = _path(self._directory, self._name), self._made
        self._made = None
        if self._server is not None:
            self._server.close()
            self._server = None
        if made is not None and _is(path, made):
            with contextlib.suppress(OSError):
                path.unlink()


def _is(path: Path, made: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), made)
    except OSError:
        return False


@contextlib.contextmanager
def _short(directory: Path, name: str) -> Iterator[Path]:
    """The socket's path by way of an open directory: the kernel takes 107 bytes only (unix(7), sun_path)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield _path(Path(f"/proc/self/fd/{descriptor}"), name)
    finally:
        os.close(descriptor)


def file_name(name: str) -> str:
    """Of the socket of the daemon ``name``, in its state directory."""
    return f"{name}.sock"


def _path(directory: Path, name: str) -> Path:
    return directory / file_name(name)


def ask(directory: Path, name: str = "agent") -> dict[str, Any]:
    """The report of the daemon ``name`` whose state directory this is.

    Raises:
        OverlayError: none runs there, it does not answer, or it may not be asked.
    """
    path = _path(directory, name)
    received = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_SECONDS + 1)
            with _short(directory, name) as short:
                connection.connect(str(short))
            while part := connection.recv(1 << 16):
                received += part
                if len(received) > _ANSWER_LIMIT:
                    raise OverlayError("answers without end", about=str(path))
        report: dict[str, Any] = json.loads(received)
    except PermissionError as error:
        raise OverlayError("not permitted", about=str(path), remedy="run it as root") from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise OverlayError(
            f"no {name} runs with this state directory",
            about=str(directory),
            remedy="start it, or name its directory with --state-dir",
        ) from error
    except (OSError, ValueError) as error:
        raise OverlayError(
            f"the {name} does not answer ({error or 'no report'})", about=str(path), remedy="look at its log"
        ) from error
    return report
