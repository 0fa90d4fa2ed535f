"""One helper process, from its start to its last words.

It is this interpreter with another module; it gets a control socket and whatever descriptors it needs, and nothing
else: no environment, no directory, no output but a pipe of which the end is logged once it has ended. So it cannot
write to the log what it likes as much as it likes.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from overlay.text import harmless

_log = logging.getLogger(__name__)

LAST_WORDS = 2048
"""Bytes of a helper's standard error that are logged when it has ended: the end of a traceback."""
PIPE_CAPACITY = 1 << 20
"""Bytes that a pipe of an unprivileged process can hold (/proc/sys/fs/pipe-max-size)."""

_ENVIRONMENT = MappingProxyType({"MALLOC_ARENA_MAX": "1", "LANG": "C.UTF-8"})


@dataclass(frozen=True, slots=True)
class Command:
    """What a helper runs; :func:`overlay.daemon.confined.inside.given` is its other side.

    Attributes:
        name: for people ("userspace worker").
        module: for ``python -m``.
        descriptors: that it inherits under the same numbers; ours stay open.
        arguments: words besides.
        environment: what its libraries need to know.
    """

    name: str
    module: str
    descriptors: tuple[int, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class Process:
    """A helper that runs, until :meth:`end`.

    Attributes:
        control: our end of its control socket (SOCK_SEQPACKET: a message a packet). Its own end is closed when it dies.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: Command) -> None:
        self._name = command.name
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stderr, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # full, it takes no more and holds up nobody
        handed_over = (theirs.fileno(), *command.descriptors)
        words = (*map(str, (theirs.fileno(), os.getpid(), *command.descriptors)), *command.arguments)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", command.module, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=writing,
                pass_fds=handed_over,
                cwd="/",
                env={**_ENVIRONMENT, **command.environment},
            )
        except OSError:
            self.control.close()
            os.close(self._stderr)
            raise
        finally:
            theirs.close()
            os.close(writing)

    @property
    def pid(self) -> int:
        """Its process id; nobody else's before :meth:`end`."""
        return self._process.pid

    def __str__(self) -> str:
        return f"{self._name} {self.pid}"

    def end(self) -> None:
        """Ends it, however it is, and logs what it said last. The control socket is the owner's to close."""
        self._process.kill()  # the end of the control socket ends a helper that works; a hung one it does not
        self._process.wait()
        try:
            said = os.read(self._stderr, PIPE_CAPACITY)
        except BlockingIOError:  # nothing, and a copy of the other end is still open somewhere
            said = b""
        os.close(self._stderr)
        if lines := said[-LAST_WORDS:].splitlines():
            _log.warning("%s said: %s", self, " | ".join(harmless(line) for line in lines))
