"""A daemon from its start to its end: lock, signals, tasks, what is done in which order when it stops.

Whatever ends it, all that it holds is given back in the reverse order of :meth:`Daemon.at_end`, and the lock last.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

from overlay.daemon import heap, http, lock, status_socket
from overlay.daemon.http import Health
from overlay.daemon.occasions import Occasion
from overlay.daemon.reconcile import EVERY_SECONDS, RETRY_SECONDS, Look, Loop, Work
from overlay.daemon.sd_notify import Notifier
from overlay.daemon.troubles import Troubles
from overlay.errors import first_of
from overlay.problem import Severity

_HEARTBEAT_SECONDS = 5.0
"""How old the status line that systemd shows may be; the watchdog may ask for less."""

_PLACE_SECONDS = 10.0
"""How long it can go unnoticed that somebody has emptied the state directory."""

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP: the terminal that it was started in was closed."""


class Daemon:
    """The parts that every daemon has, and the tasks that make it one. Used from one event loop only.

    Args:
        name: of its lock and socket in ``directory``: ``agent`` has ``agent.lock`` and ``agent.sock``.
        directory: its state directory, which no other daemon of that name shares.

    Attributes:
        troubles: what is wrong now.
        notifier: systemd's ear.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.troubles = Troubles()
        self.notifier = Notifier()
        self._started = time.monotonic()
        self._tasks: asyncio.TaskGroup | None = None
        self._before_stop: list[Callable[[], Awaitable[None]]] = []
        self._ends = contextlib.AsyncExitStack()
        self._held = -1

    @property
    def uptime(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._started

    async def run(self, bring_up: Callable[[], Awaitable[object]]) -> None:
        """Calls ``bring_up``, which starts the tasks, and lives until SIGTERM, SIGINT or SIGHUP, or until one fails.

        Told to stop, it returns: the exit status is 0. Else the first error of a task ends it, as it was raised; the
        command line makes a line and :attr:`OverlayError.exit_status` of it.

        Raises:
            NodeError: another daemon of this name has the directory.
            FileError: the directory cannot be used.
        """
        heap.keep_small()
        self._held = lock.lock(self.directory, self.name)
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        # What it was started to ignore (nohup) it goes on ignoring; but whoever sends SIGTERM or SIGINT means it.
        hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        ending = [number for number in _ENDING if number != signal.SIGHUP or hangs_up]
        for number in ending:
            loop.add_signal_handler(number, stop.set)
        try:
            async with self._ends:
                await self._until(stop, self._live(bring_up))
        finally:
            for number in ending:
                loop.remove_signal_handler(number)
            os.close(self._held)

    # --- for bring_up, and whatever it starts ---

    def start(self, name: str, work: Coroutine[Any, Any, object]) -> None:
        """Runs ``work`` for as long as the daemon runs; what it raises ends the daemon."""
        assert self._tasks is not None, "only what runs has tasks"
        self._tasks.create_task(work, name=name)

    def keep(
        self,
        topic: str,
        work: Work,
        *,
        every: float = EVERY_SECONDS,
        retry: float = RETRY_SECONDS,
        severity: Severity = Severity.DEGRADED,
        occasion: Occasion | None = None,
    ) -> Loop:
        """Starts a :class:`~overlay.daemon.reconcile.Loop`; its ``occasion`` is what others tell."""
        loop = Loop(topic, work, self.troubles, every=every, retry=retry, severity=severity, occasion=occasion)
        self.start(topic, loop.run())
        return loop

    def answer(self, report: Callable[[], Awaitable[bytes]]) -> None:
        """Gives ``report``, in JSON, to whoever asks at the socket in the state directory."""
        socket = status_socket.StatusSocket(self.directory, report, self.name)
        self.at_end(socket.close)
        self.keep("report", socket.look, every=_PLACE_SECONDS)

    def answer_probes(self, address: tuple[str, int], ask: Callable[[], Awaitable[Health]]) -> None:
        """Answers ``/healthz`` and ``/readyz``, once the port is free and its address there."""

        async def serve() -> Look:
            await http.serve(address, ask, lambda: self.troubles.over("health"))
            return Look()

        self.keep("health", serve)

    def beat(self, alive: Callable[[], Awaitable[bool]], line: Callable[[], str]) -> None:
        """Tells systemd now and then how the daemon is, and that it is, as long as ``alive`` says so.

        Args:
            line: for ``systemctl status``.
        """
        self.start("heartbeat", self._beat(alive, line))

    def before_stop(self, work: Callable[[], Awaitable[None]]) -> None:
        """Once the daemon is told to stop, ``work`` is done while everything still runs."""
        self._before_stop.append(work)

    def at_end(self, close: Callable[[], Awaitable[None]]) -> None:
        """However the daemon ends, ``close`` is called once no task runs any more; the last told is the first."""
        self._ends.push_async_callback(close)

    # --- inside ---

    async def _live(self, bring_up: Callable[[], Awaitable[object]]) -> NoReturn:
        async with asyncio.TaskGroup() as self._tasks:
            self.keep("lock", self._hold, every=_PLACE_SECONDS)
            await bring_up()
            await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody ends what waits for ever")

    async def _hold(self) -> Look:
        """Keeps the directory locked, also where somebody has emptied it. Raises NodeError: another was faster."""
        if lock.is_lost(self._held, self.directory, self.name):
            held = lock.lock(self.directory, self.name)
            os.close(self._held)
            self._held = held
        return Look()

    async def _until(self, stop: asyncio.Event, life: Coroutine[Any, Any, NoReturn]) -> None:
        """Runs ``life`` until it fails or ``stop`` is set; a group's first error, however deep, is raised as it is."""
        running = asyncio.create_task(life)
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            self.notifier.stopping()
            for work in self._before_stop:
                await work()
        except BaseExceptionGroup as group:  # and not "except*", which would put what is raised here into a group again
            raise first_of(group) from None
        finally:
            for task in (running, stopped):
                task.cancel()
            await asyncio.gather(running, stopped, return_exceptions=True)

    async def _beat(self, alive: Callable[[], Awaitable[bool]], line: Callable[[], str]) -> NoReturn:
        watchdog = self.notifier.watchdog_seconds
        interval = min(_HEARTBEAT_SECONDS, watchdog / 3) if watchdog else _HEARTBEAT_SECONDS
        while True:
            if await alive():
                self.notifier.alive()
            self.notifier.status(line())
            await asyncio.sleep(interval)
