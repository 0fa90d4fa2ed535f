"""A worker's system calls: the numbers are the kernel's, what is listed works, and nothing else does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from overlay.daemon.confined import seccomp
from tests.support.labs import need

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_numbers_are_those_of_the_kernels_headers(name: str) -> None:
    if not HEADERS[name].exists():
        need(str(HEADERS[name]))
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[name].read_text())
    column = seccomp.MACHINES[name].column
    ours = {call: numbers[column] for call, numbers in seccomp.CALLS.items() if numbers[column] is not None}
    assert {call: int(number) for call, number in defined if call in ours} == ours


def restricted(script: str) -> subprocess.CompletedProcess[str]:
    """Runs ``script`` after it has given up what a worker gives up; it may use what was imported before."""
    before = (
        "import ctypes, mmap, os, select, socket, subprocess, sys, time\n"
        "from overlay.daemon.confined import privileges\n"
        "udp, (one, other), poll = socket.socket(2, 2), socket.socketpair(), select.epoll()\n"
        "privileges.drop(os.getppid(), privileges.FIRST_USER)\n"
    )
    return subprocess.run([sys.executable, "-c", before + script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "call",
    [
        "open('/etc/passwd')",
        "os.listdir('/')",
        "os.stat('/')",
        "socket.socket(2, 2)",
        "socket.socket(16, 3)",
        "udp.bind(('127.0.0.1', 0))",
        "udp.connect(('127.0.0.1', 9))",
        "other.listen()",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 0)",
        "os.pipe()",
        "os.unlink('/nothing')",
        "os.setpriority(0, 0, -10)",
        "os.setresuid(0, 0, 0)",
        "os.memfd_create('x')",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    ],
)
def test_nothing_else_can_be_called(call: str) -> None:
    done = restricted(f"{call}\n")
    assert done.returncode == 1
    assert "PermissionError: [Errno 1]" in done.stderr, done.stderr


def test_calls_by_number_that_nobody_wraps_cannot_be_made() -> None:
    done = restricted(
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "tried = {at: (libc.syscall(at, -1, -1, -1, -1, -1, -1), ctypes.get_errno()) for at in range(400, 470)}\n"
        "assert set(tried.values()) == {(-1, 1)}, tried\n"
    )
    assert done.returncode == 0, done.stderr


def test_what_a_worker_does_still_works() -> None:
    done = restricted(
        "poll.register(one, select.EPOLLIN)\n"
        "other.send(b'x')\n"
        "assert poll.poll(1) and one.recv(10) == b'x'\n"
        "udp.setsockopt(socket.SOL_IP, socket.IP_TOS, 8)\n"
        "udp.sendto(b'x', ('127.0.0.1', 9))\n"
        "grown = [bytes(1 << 20) for _ in range(64)]\n"
        "time.sleep(0.001)\n"
        "os.write(2, b'words')\n"
    )
    assert (done.returncode, done.stderr) == (0, "words")
