"""The mode: what the table says is in the maps, the programs are where all sockets pass, the rules are beneath them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from overlay.errors import OverlayError
from overlay.linux import cgroups, namespaces
from overlay.linux.sock_diag import Connected
from overlay.problem import Problem
from overlay.services.proxy.base import Applied, Mode
from overlay.services.proxy.ebpf import inside, maps, programs, wanted
from overlay.services.proxy.ebpf.book import Book
from overlay.services.proxy.ebpf.layout import Address, Virtual
from overlay.services.proxy.ebpf.probe import probe
from overlay.services.proxy.ebpf.programs import OBJECT, Attachment, Loaded
from overlay.services.proxy.ebpf.stale import Swept, sweep
from overlay.services.table import Entry, Place, Table

_log = logging.getLogger(__name__)

_SWEEP_PAUSE = 1.0
"""Seconds from one look at the sockets of all network namespaces to the next at least."""

_DOUBT_PAUSE = 5.0
"""The same where some connections' backends are none any more, and answer still, or have nothing to answer."""

_LOOKING_SHARE = 20
"""At most one part in so many of the time is spent on looking at network namespaces, and at their sockets, each."""


class EbpfMode:
    """Services at the socket (:class:`~overlay.services.proxy.base.Mode`).

    Args:
        beneath: the mode for what passes no socket of this machine.
        cgroup: whose sockets; None: those of the root, so of all processes. Nodes that share a machine need one each.
    """

    name = "ebpf"

    def __init__(self, beneath: Mode, cgroup: Path | None = None, path: Path = OBJECT) -> None:
        self.stands_on = (beneath.name, *beneath.stands_on)
        self._beneath = beneath
        self._chosen, self._path = cgroup, path
        self._loaded: Loaded | None = None
        self._attachment: Attachment | None = None
        self._book: Book | None = None
        self._applied: Table | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._to_sweep = asyncio.Event()
        self._admitting: asyncio.Task[None] | None = None
        self._to_admit = asyncio.Event()
        self._inside = 0
        self._holding = threading.Lock()  # maps in use by another thread: their descriptors stay open meanwhile
        self._swept = Swept()
        self._ended = 0

    async def probe(self) -> str:
        """Why this machine cannot have it, or what is to be beneath it."""
        if self._chosen is None and not namespaces.is_the_machines():
            return "this is not the machine's own network namespace: name a --proxy-cgroup, for whose processes it is"
        return await asyncio.to_thread(probe, self._chosen, self._path) or await self._beneath.probe()

    async def apply(self, table: Table) -> Applied:
        """The rules beneath first: they know all that the programs may leave to them.

        Raises:
            OverlayError: a map is full, or somebody keeps the hook for himself.
        """
        beneath = await self._beneath.apply(table)
        before = self._applied
        self._applied = None
        changes = await asyncio.to_thread(self._write, table, before)
        self._applied = table
        if self._sweeping is None:
            self._sweeping = asyncio.create_task(self._sweep(), name="stale-sockets")
        if self._admitting is None:
            self._admitting = asyncio.create_task(self._admit(), name="inside")
        self._to_admit.set()
        if changes:
            self._to_sweep.set()
        return replace(beneath, changes=beneath.changes + changes, problems=(*beneath.problems, *self._problems()))

    async def check(self) -> bool:
        """Whether the programs are attached, and the rules beneath are there."""
        attached = await asyncio.to_thread(self._is_attached)
        if not attached:
            self._let_go()  # what is loaded anew is pinned anew
        return await self._beneath.check() and attached

    async def remove(self) -> list[str]:
        """Programs and maps of whatever process."""
        await self.close()
        if self._chosen is None and not namespaces.is_the_machines():
            return []
        return await asyncio.to_thread(programs.remove, self._chosen)

    async def close(self) -> None:
        """Lets go of descriptors; pins hold what they stand for."""
        for task in (self._sweeping, self._admitting):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._sweeping = self._admitting = None
        self._let_go()
        await self._beneath.close()

    def _let_go(self) -> None:
        with self._holding:
            for each in (self._attachment, self._loaded):
                if each is not None:
                    each.close()
            self._loaded = self._attachment = self._book = self._applied = None

    def remarks(self, entry: Entry) -> tuple[str, ...]:
        """Backends are chosen at random, whatever is wished."""
        if entry.scheduler in ("", "random"):
            return ()
        return (f"proxy mode ebpf chooses backends at random: it has no scheduler {entry.scheduler}",)

    def facts(self) -> Mapping[str, object]:
        """Addresses, what the programs have counted, and what is beneath."""
        counted = {} if self._loaded is None else maps.counters(self._loaded.maps)
        return {
            "cgroup": str(self._chosen) if self._chosen else "/",
            "addresses": 0 if self._book is None else len(self._book),
            "namespaces": self._inside,
            **counted,
            "sockets_ended": self._ended,
            "beneath": {"mode": self._beneath.name, **self._beneath.facts()},
        }

    # --- in threads ---------------------------------------------------------------------------------------------------

    def _write(self, table: Table, before: Table | None) -> int:
        """Maps, then programs: a program that is attached finds what it is to work from."""
        loaded, attachment = self._open()
        book, self._book = self._book, None  # none is better than a wrong one
        now = time.monotonic()
        if book is None or before is None:
            book = Book(maps.read(loaded.maps))
            writes = book.start(wanted.wanted_in(table), now)
        else:
            writes = book.change(wanted.changes_in(table, before), now)
        maps.carry_out(loaded.maps, writes)
        self._book = book
        if before is None:
            self._look_inside(table.place)
        done = attachment.ensure(loaded)
        if done:
            _log.info("attached to %s: %s", self._chosen or "the root of all cgroups", ", ".join(done))
        return len(writes) + len(done)

    def _open(self) -> tuple[Loaded, Attachment]:
        if self._loaded is None or self._attachment is None:
            cgroup = self._chosen or cgroups.root()
            pins = programs.pin_directory(cgroup)
            programs.remove_dead()
            self._loaded = programs.load(pins, self._path)
            self._attachment = Attachment(cgroup, pins)
        return self._loaded, self._attachment

    def _is_attached(self) -> bool:
        if self._loaded is None or self._attachment is None or self._book is None:
            return False
        return self._attachment.is_whole(self._loaded)

    def _look_inside(self, place: Place) -> None:
        found = inside.look(place)
        with self._holding:
            if self._loaded is not None:
                maps.admit(self._loaded.maps, found)
                self._inside = len(found)

    # --- who is inside ------------------------------------------------------------------------------------------------

    async def _admit(self) -> None:
        """After the machine's network may have changed, off the way of changes of Services."""
        while True:
            await self._to_admit.wait()
            self._to_admit.clear()
            begun = time.monotonic()
            try:
                if self._applied is not None:
                    await asyncio.to_thread(self._look_inside, self._applied.place)
            except OverlayError as error:
                _log.warning("network namespaces: %s", error)
            await asyncio.sleep(max(_SWEEP_PAUSE, _LOOKING_SHARE * (time.monotonic() - begun)))

    # --- stale sockets ------------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        """After changes, off their way, and not at each of many; and again while some are in doubt."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._to_sweep.wait(), _DOUBT_PAUSE if self._swept.doubtful else None)
            self._to_sweep.clear()
            begun = time.monotonic()
            try:
                self._swept = await asyncio.to_thread(sweep, self._is_stale)
                self._ended += self._swept.ended
                if self._swept.ended:
                    _log.info("%d sockets ended whose backend is gone", self._swept.ended)
            except OverlayError as error:
                _log.warning("stale sockets: %s", error)
            await asyncio.sleep(max(_SWEEP_PAUSE, _LOOKING_SHARE * (time.monotonic() - begun)))

    def _is_stale(self, found: Connected) -> bool:
        with self._holding:
            loaded, book = self._loaded, self._book
            if loaded is None or book is None:
                return False
            at = maps.meant_by(loaded.maps, found.cookie, found.peer, found.port)
        if at is None:
            return False
        pool = book.pool_of(Virtual(at, "UDP" if found.protocol == socket.IPPROTO_UDP else "TCP"))
        return pool is None or Address(found.peer, found.port) not in pool.members

    def _problems(self) -> tuple[Problem, ...]:
        if not self._swept.cannot:
            return ()
        sentence = f"connected UDP sockets stay at backends that are gone: {self._swept.cannot}"
        remedy = "restart clients of UDP Services whose pods were replaced, or use another kernel"
        return (Problem("stale-sockets", sentence, remedy),)
