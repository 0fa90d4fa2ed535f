"""Starts one worker process, watches over it, and starts another in its place when it dies or hangs.

The TUN queue and the UDP sockets stay open in the agent, so packets wait in them while there is no worker.

Whatever a worker sends, it cannot end its own supervision, nor write to the log what it likes as much as it likes: its
standard error is a pipe, of which the end is logged once the worker has ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

from overlay.datapath.spec import TunnelSpec
from overlay.datapath.userspace import counters
from overlay.datapath.userspace.link import Notices, Subnets, WorkerLink
from overlay.datapath.userspace.messages import Status, harmless
from overlay.datapath.userspace.sockets import SocketPair
from overlay.errors import DatapathError, OverlayError
from overlay.linux.tun import is_attached

logger = logging.getLogger(__name__)

START_PATIENCE = 10.0
"""Seconds that a worker may take from its start until it moves packets; a tenth of a second is usual."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between a death and the next start: doubled each time, back to the first after STABLE seconds of life."""
STABLE = 30.0
MAX_DEATHS = 10
"""Deaths in a row, none of which came after STABLE seconds, that are beyond mending."""
HEARTBEAT = 2.0
"""Seconds between two questions to the worker."""
HANG = 10.0
"""Seconds without an answer after which a worker is taken to hang, and killed."""
LAST_WORDS = 2048
"""Bytes of a worker's standard error that are logged when it has ended: the end of a traceback."""
PIPE_CAPACITY = 1 << 20
"""Bytes that a pipe of an unprivileged process can hold (/proc/sys/fs/pipe-max-size)."""

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "OPENBLAS_NUM_THREADS": "1",  # numpy's library would start a thread a core, each with its buffers
        "MALLOC_ARENA_MAX": "1",
        "LANG": "C.UTF-8",
    }
)


class Supervisor:
    """One worker over one TUN queue and its sockets, which this owns and closes.

    Attributes:
        failed: done, with DatapathError, when the worker could not be kept alive, or nobody looks after it any more.
        restarts: deaths so far.
        mode: the worker's MODE argument, see :mod:`overlay.datapath.userspace.worker`.

    ``reopen`` opens another queue, should the device have been removed; it raises as ``open_queue`` does.
    """

    def __init__(self, tun: int, sockets: SocketPair, mode: str, reopen: Callable[[], int]) -> None:
        self.tun = tun
        self._reopen = reopen
        self.sockets = sockets
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.restarts = 0
        self.mode = mode
        self._spec: TunnelSpec | None = None
        self._peers: Subnets = {}
        self._link: WorkerLink | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr = -1
        self._notices = Notices()
        self._task: asyncio.Task[None] | None = None
        self._last: Status | None = None
        self._former: dict[str, int] = {}

    @property
    def pid(self) -> int | None:
        """Process id of the worker that runs now."""
        return self._process.pid if self._process else None

    async def start(self, spec: TunnelSpec, peers: Subnets) -> None:
        """Returns once the worker moves packets.

        Raises:
            DatapathError: it did not come up.
        """
        self._spec, self._peers = spec, peers
        try:
            await self._start_worker()
        except BaseException:
            self._end_worker()
            raise
        self._task = asyncio.create_task(self._supervise(), name="userspace-worker")

    def configure(self, spec: TunnelSpec) -> None:
        """Changes over to ``spec``, whose device, address and port are the ones that are open."""
        self._spec = spec
        if self._link:
            self._link.configure(spec)

    def set_peers(self, peers: Subnets) -> None:
        """Makes ``peers`` the worker's table; the dictionary must not change afterwards."""
        self._peers = peers
        if self._link:
            self._link.set_peers(peers)

    async def ask(self, patience: float) -> Status | None:
        """What the worker says of itself; None if it does not within ``patience`` seconds."""
        if self._link is None:
            return None
        try:
            async with asyncio.timeout(patience):
                self._last = await self._link.ask()
        except (TimeoutError, DatapathError):
            return None
        return self._last

    def totals(self) -> dict[str, int]:
        """Counters as last heard, of this worker and of those before it."""
        total = dict(self._former)
        if self._last is not None:
            counters.add(total, self._last.counters)
        return total

    async def stop(self) -> None:
        """Ends the worker; the queue and the sockets stay open until :meth:`release`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._end_worker()

    def release(self) -> None:
        """Closes the queue and the sockets."""
        os.close(self.tun)
        self.sockets.close()

    async def _start_worker(self) -> None:
        assert self._spec is not None
        if not is_attached(self.tun):
            another = self._reopen()
            os.close(self.tun)
            self.tun = another
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = self._launch(theirs)
            except OSError as failure:
                ours.close()
                raise DatapathError(f"cannot start it: {failure.strerror}", about="userspace worker") from failure
        self._link = WorkerLink(ours, self._spec, self._peers, self._notices)
        try:
            async with asyncio.timeout(START_PATIENCE):
                detail = await asyncio.shield(self._link.ready)
        except (TimeoutError, DatapathError) as failure:
            raise DatapathError(
                "ended before it moved packets" if self._link.closed.is_set() else "does not come up",
                about=f"userspace worker {self._process.pid}",
                remedy="its own message is above",
            ) from failure
        logger.info("userspace worker %d runs: %s", self._process.pid, detail)

    def _launch(self, control: socket.socket) -> subprocess.Popen[bytes]:
        handed_over = (self.tun, self.sockets.receiving.fileno(), self.sockets.sending.fileno(), control.fileno())
        arguments = [*map(str, handed_over), str(os.getpid()), self.mode]
        self._stderr, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # full, it takes no more and holds up nobody
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-m", "overlay.datapath.userspace.worker", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=writing,
                pass_fds=handed_over,
                cwd="/",
                env=dict(ENVIRONMENT),
            )
        except OSError:
            os.close(self._stderr)
            self._stderr = -1
            raise
        finally:
            os.close(writing)

    def _end_worker(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._process is not None:
            self._process.kill()  # the end of the control socket ends a worker that works; a hung one it does not
            self._process.wait()
            self._log_last_words(self._process.pid)
            self._process = None
        if self._last is not None:
            counters.add(self._former, self._last.counters)
            self._last = None

    def _log_last_words(self, pid: int) -> None:
        """What the worker that has ended wrote to its standard error, as one line."""
        try:
            said = os.read(self._stderr, PIPE_CAPACITY)
        except BlockingIOError:  # nothing, and a copy of the other end is still open somewhere
            said = b""
        os.close(self._stderr)
        self._stderr = -1
        if lines := said[-LAST_WORDS:].splitlines():
            logger.warning("userspace worker %d said: %s", pid, " | ".join(harmless(line) for line in lines))

    async def _supervise(self) -> None:
        """Keeps a worker running until cancelled; whatever else ends this is in :attr:`failed`."""
        try:
            await self._keep_alive()
        except DatapathError as failure:
            self.failed.set_exception(failure)
        except Exception as failure:
            logger.exception("userspace worker: its supervision broke off")
            error = DatapathError(f"its supervision broke off: {failure!r}", about="userspace worker")
            error.__cause__ = failure
            self.failed.set_exception(error)

    async def _keep_alive(self) -> None:
        """Starts a worker whenever there is none.

        Raises:
            DatapathError: there is no use in it.
        """
        loop = asyncio.get_running_loop()
        pause, deaths, since = FIRST_PAUSE, 0, loop.time()
        while True:
            cause = await self._outlive()
            if loop.time() - since >= STABLE:
                pause, deaths = FIRST_PAUSE, 0
            while True:
                self._end_worker()
                self.restarts += 1
                deaths += 1
                if deaths > MAX_DEATHS:
                    raise DatapathError(f"{cause}, {deaths} times", about="userspace worker")
                logger.warning("userspace worker %s; starting another in %.1f s", cause, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                since = loop.time()
                try:
                    await self._start_worker()
                    break
                except OverlayError as failure:
                    cause = failure.cause

    async def _outlive(self) -> str:
        """Returns what became of the worker: when it died, or does not answer any more."""
        assert self._link is not None
        assert self._process is not None
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while loop.time() - heard < HANG:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._link.closed.wait()
            except TimeoutError:
                if await self.ask(HEARTBEAT) is not None:
                    heard = loop.time()
                continue
            return f"{self._process.pid} died"
        return f"{self._process.pid} hangs"
