"""An asyncio event loop on the simulation's clock: one a process, so that a process can be stopped, or killed, alone.

It offers what coroutines, tasks, futures and timeouts need, and nothing of the outside: whatever the code under test
waits for comes from the simulation. Who asks for sockets, threads or signals gets NotImplementedError.
"""

from __future__ import annotations

import asyncio
from asyncio.events import _set_running_loop
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from tests.simulation.clock import Clock

SPIN = 20_000
"""Callbacks in a row, without time passing, after which a process is taken to spin."""

ROUNDING = 1e-6
"""Seconds that a timer comes late, so that sums of floating point numbers do not make it early."""


class SpinningError(AssertionError):
    """A process goes on for ever without waiting for anything."""


class ProcessLoop(asyncio.AbstractEventLoop):
    """One process's event loop.

    Attributes:
        stood_still: seconds by which this loop's clock is behind the world's: those that the machine was suspended.
        error: what went wrong in a callback, or in a task that nobody awaits; None: nothing.
    """

    def __init__(self, clock: Clock) -> None:
        self.stood_still = 0.0
        self.error: BaseException | None = None
        self._clock = clock
        self._ready: deque[asyncio.Handle] = deque()
        self._due = False
        self._stopped = False
        self._dead = False

    # --- its life ---

    def stop_process(self) -> None:
        """As SIGSTOP: nothing runs; what becomes due waits."""
        self._stopped = True

    def continue_process(self) -> None:
        """As SIGCONT."""
        self._stopped = False
        self._wake()

    def kill(self) -> None:
        """Ends every task. The caller has cut it off from the world: as SIGKILL, no farewell may get out."""
        self._dead = True
        for task in asyncio.all_tasks(self):
            task.cancel()
        self._run()

    def _wake(self) -> None:
        if self._ready and not (self._due or self._stopped or self._dead):
            self._due = True
            self._clock.at(self._clock.now, self._run)

    def _run(self) -> None:
        self._due = False
        if self._stopped and not self._dead:
            return
        _set_running_loop(self)
        try:
            for _ in range(SPIN):
                if not self._ready:
                    break
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
            else:
                raise SpinningError(f"{SPIN} callbacks at {self._clock.now:.3f}, and no end")
        finally:
            _set_running_loop(None)
        if self.error is not None and not self._dead:
            raise self.error

    # --- what asyncio needs ---

    def time(self) -> float:
        """The process's monotonic clock."""
        return self._clock.now - self.stood_still

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        self._wake()
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._await(handle)
        return handle

    def _await(self, handle: asyncio.TimerHandle) -> None:
        def due() -> None:
            if handle.cancelled() or self._dead:
                return
            if handle.when() > self.time():  # this clock has stood still meanwhile
                self._await(handle)
                return
            self._ready.append(handle)
            self._wake()

        self._clock.at(handle.when() + self.stood_still + ROUNDING, due)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Told by a timer; it is passed over when it comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._dead

    def is_closed(self) -> bool:
        return self._dead

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.error = self.error or context.get("exception") or AssertionError(context["message"])
