"""Calls that block, in threads that nobody leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As ``asyncio.to_thread``, but a cancelled caller waits until the call has ended.

    Whoever closes descriptors that the call uses, or undoes what it does, may do so then.
    """
    call = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    finally:
        while not call.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((call,))
