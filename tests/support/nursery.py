"""Starts tests' datapaths (:mod:`tests.support.tunnel_agent`) by fork from a process that has imported what they need.

Imports take a datapath longer than all else that a short test has it do, and minutes where the processor is emulated::

    test ── socket: arguments, stdin, stdout ──▶ nursery ── fork ──▶ datapath
      ▲                                             │
      └──────────── its number, its pidfd ◀─────────┘
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

from overlay.datapath.kernel.programs import OBJECT
from overlay.linux import libc
from tests.support import tunnel_agent

_ROOT = Path(__file__).parents[2]
_MESSAGE = 4096


class Child:
    """A datapath's process, with that part of :class:`subprocess.Popen` which tests use. The nursery reaps it."""

    def __init__(self, pid: int, descriptor: int, stdin: IO[str], stdout: IO[str]) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self._descriptor = descriptor

    def send_signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._descriptor, number)

    def wait(self, timeout: float) -> None:
        """Until it has ended. Raises subprocess.TimeoutExpired."""
        ended = select.poll()
        ended.register(self._descriptor, select.POLLIN)
        if not ended.poll(1000 * timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        os.close(self._descriptor)


def start(namespace: Path, kind: str, path: Path | None) -> Child:
    """Starts the datapath ``kind`` in a network namespace, with other programs than ours if ``path`` names some."""
    nursery = _nursery()
    read, for_us = os.pipe()
    for_it, write = os.pipe()
    words = [str(namespace), kind, *([str(path)] if path else [])]
    socket.send_fds(nursery, [json.dumps(words).encode()], [read, write])
    os.close(read)
    os.close(write)
    answer, (descriptor,), _, _ = socket.recv_fds(nursery, _MESSAGE, 1)
    return Child(int(answer), descriptor, os.fdopen(for_us, "w"), os.fdopen(for_it))


@cache
def _nursery() -> socket.socket:
    """The one of this process; it ends with it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        words = [sys.executable, "-m", __name__, str(its.fileno())]
        process = subprocess.Popen(words, cwd=_ROOT, pass_fds=[its.fileno()])

    def end() -> None:
        ours.close()
        process.wait(60)

    atexit.register(end)
    return ours


def _serve(requests: socket.socket) -> None:
    """Until the other end is closed."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, _MESSAGE, 2)
        if not message:
            return
        while _reap():
            pass
        pid = os.fork()
        if pid == 0:
            requests.close()
            _become(json.loads(message), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        opened = os.pidfd_open(pid)
        socket.send_fds(requests, [str(pid).encode()], [opened])
        os.close(opened)


def _reap() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _become(words: list[str], stdin: int, stdout: int) -> NoReturn:
    status = 1
    try:
        namespace, kind, *path = words
        for number, descriptor in enumerate((stdin, stdout)):
            os.dup2(descriptor, number)
            os.close(descriptor)
        descriptor = os.open(namespace, os.O_RDONLY)
        libc.enter(descriptor, libc.CLONE_NEWNET)
        os.close(descriptor)
        asyncio.run(tunnel_agent.main(kind, Path(*path) if path else OBJECT))
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it is, this is the end of a process
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as socket_of_tests:
        _serve(socket_of_tests)
