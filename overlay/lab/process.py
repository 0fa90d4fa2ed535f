"""Processes that outlive us: started apart, known by id and start time, found by their network namespace."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from overlay.errors import LabError
from overlay.lab.shell import clean_environment, inside

_PROC = Path("/proc")
_POLL_SECONDS = 0.01

_START_TIME_FIELD = 19
"""Of /proc/PID/stat behind the command's closing parenthesis, where the state is 0: proc(5) counts it as field 22."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that is not mistaken for a later one with the same id.

    Attributes:
        pid: its process id.
        start_time: clock ticks from boot to its start, from /proc/PID/stat.
    """

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this id now; None where there is none, or only a zombie."""
        fields = _stat(pid)
        return None if not fields or _has_ended(pid) else cls(pid, int(fields[_START_TIME_FIELD]))

    @classmethod
    def current(cls) -> Process | None:
        """This process."""
        return cls.of(os.getpid())

    @classmethod
    def spawn(
        cls, argv: Sequence[str], *, namespace: str | None, log: Path, env: Mapping[str, str] | None = None
    ) -> Process:
        """Starts a command in a session of its own, its output appended to ``log``.

        Raises:
            LabError: the program is not there.
        """
        command = inside(namespace, argv)
        program = shutil.which(command[0])
        if program is None or shutil.which(argv[0]) is None:
            raise LabError("is not installed", about=argv[0])
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        pid = os.posix_spawn(
            program,
            command,
            clean_environment(env),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), append & ~os.O_CLOEXEC, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
        )
        started = cls.of(pid)
        return started if started is not None else cls(pid, -1)

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    @property
    def stopped(self) -> bool:
        """Whether SIGSTOP holds it."""
        return self.alive and _stat(self.pid)[:1] == ["T"]

    def signal(self, number: int) -> None:
        """Sends a signal; does nothing once the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)
            try:
                if self.alive:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)

    def wait(self, timeout: float) -> int | None:
        """Waits for its end; the exit status (minus the signal's number where one killed it) if it was our child.

        Raises:
            LabError: it goes on after ``timeout`` seconds.
        """
        status: int | None = None

        def ended() -> bool:
            nonlocal status
            # In this order: our child, once it has ended, stays to be waited for.
            gone = not self.alive
            with contextlib.suppress(ChildProcessError):
                pid, raw = os.waitpid(self.pid, os.WNOHANG)
                if pid == self.pid:
                    status, gone = os.waitstatus_to_exitcode(raw), True
            return gone

        if not poll(ended, timeout):
            raise LabError(f"process {self.pid} did not end within {timeout:g} s")
        return status

    def stop(self, timeout: float = 10.0) -> int | None:
        """SIGTERM, and after ``timeout`` seconds SIGKILL; returns as :meth:`wait` does."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        try:
            return self.wait(timeout)
        except LabError:
            return self.kill()

    def kill(self) -> int | None:
        """SIGKILL; returns as :meth:`wait` does."""
        self.signal(signal.SIGKILL)
        return self.wait(10.0)


def poll(condition: Callable[[], bool], timeout: float) -> bool:
    """Asks until the answer is yes or ``timeout`` seconds are over; whether it was yes."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def processes_in(namespaces: Iterable[int]) -> list[Process]:
    """Every process, but this one, whose network namespace has one of these inode numbers."""
    wanted = frozenset(namespaces)
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        # A process may end while we look; one that we may not look at is not ours.
        with contextlib.suppress(OSError):
            if (entry / "ns/net").stat().st_ino in wanted and (process := Process.of(int(entry.name))) is not None:
                found.append(process)
    return found


def end_all(namespaces: Iterable[int], patience: float = 2.0) -> int:
    """Ends every process in these namespaces: SIGTERM, then SIGKILL after ``patience`` seconds; how many there were.

    Raises:
        LabError: one survives SIGKILL.
    """
    wanted = frozenset(namespaces)
    seen: set[Process] = set()

    def all_gone(number: int) -> bool:
        left = processes_in(wanted)
        for process in left:
            # Once each, though not only to those of the first look: what they start meanwhile has to go as well.
            if number == signal.SIGKILL or process not in seen:
                process.signal(number)
                process.signal(signal.SIGCONT)
            seen.add(process)
            _reap(process)
        return not left

    if poll(lambda: all_gone(signal.SIGTERM), patience) or poll(lambda: all_gone(signal.SIGKILL), 10.0):
        return len(seen)
    names = ", ".join(str(process.pid) for process in processes_in(wanted))
    raise LabError(f"processes {names} survive SIGKILL", about="teardown", remedy="see their state in /proc/PID/stack")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command's name; empty where there is no such process."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _has_ended(pid: int) -> bool:
    """Whether it has ended with all of its threads: stat's Z speaks of the first thread alone, a pidfd of all."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(0))
    finally:
        os.close(descriptor)


def _reap(process: Process) -> None:
    """Our own children stay as zombies, though without namespaces, until they are waited for."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
