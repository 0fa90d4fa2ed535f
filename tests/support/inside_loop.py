"""An event loop in a network namespace: for code that opens sockets there for longer than one call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.support.namespaces import Namespace

T = TypeVar("T")
_PATIENCE = 60.0


class Inside:
    """One that runs, in a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it there, and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)


@contextmanager
def loop_inside(namespace: Namespace) -> Iterator[Inside]:
    """Until the end, which waits for nothing that was left running."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=namespace.call, args=(loop.run_forever,), daemon=True)
    thread.start()
    try:
        yield Inside(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_PATIENCE)
        loop.close()
