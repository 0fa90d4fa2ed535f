"""What keeps the agent's processes small, each in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ALIVE_AT_ONCE = 8


def printed(program: str) -> str:
    """By a fresh interpreter that runs ``program``."""
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("foreign", ["numpy", "scapy", "rich", "pyroute2.ndb", "pyroute2.ipdb", "pyroute2.plan9"])
def test_agent_does_not_load(foreign: str) -> None:
    assert printed(f"import sys, overlay.cli.agent; print({foreign!r} in sys.modules)") == "False"


AGENT = """
import sys, click
from overlay.cli.main import cli
cli.get_command(click.Context(cli), "agent")
"""
"""As the command line loads it."""


def test_agent_has_no_openssl_before_it_is_used() -> None:
    """Of Python's own; gRPC brings one. It is 6 MB."""
    loaded = "loaded = [name for name in ('_ssl', '_hashlib') if name in sys.modules]"
    mapped = "mapped = 'libcrypto' in open('/proc/self/maps').read()"
    used = "import ssl, hashlib; context, digest = ssl.create_default_context(), hashlib.sha256(b'').hexdigest()[:4]"
    said = printed("\n".join((AGENT, loaded, mapped, used, "print(loaded, mapped, type(context).__name__, digest)")))
    assert said == "[] False SSLContext e3b0"


def test_pyroute2_is_whole_for_others() -> None:
    """Whoever imports it after us gets all of it, with the same classes."""
    program = "import overlay.linux.pyroute as ours, pyroute2; print(pyroute2.NDB and pyroute2.IPRoute is ours.IPRoute)"
    assert printed(program) == "True"


def test_pyroute2_of_others_is_used() -> None:
    program = "import sys, pyroute2, overlay.linux.pyroute; print(sys.modules['pyroute2'] is pyroute2)"
    assert printed(program) == "True"


def test_untouched_places_of_arrivals_cost_nothing() -> None:
    """They are 8 MB, of which datagrams that are longer than expected use a part."""
    program = """
from overlay.datapath.userspace.worker.arrivals import Arrivals
def anonymous():
    with open("/proc/self/status") as status:
        return int(status.read().partition("RssAnon:")[2].split()[0])
before = anonymous()
arrivals = Arrivals()
print(len(arrivals.view) // 1024, anonymous() - before)
"""
    size, taken = map(int, printed(program).split())
    assert size > 8000
    assert taken < 1000


HEAPS = f"""
import ctypes, threading
from overlay.daemon import heap
LIMIT
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
together = threading.Barrier({ALIVE_AT_ONCE})
def allocate():
    together.wait()
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range({ALIVE_AT_ONCE})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""
"""Prints glibc's account of its heaps after threads that were there at the same time have used them."""


def test_threads_share_one_heap() -> None:
    assert printed(HEAPS.replace("LIMIT", "")).count("<heap nr=") > 1, "or this shows nothing"
    assert printed(HEAPS.replace("LIMIT", "heap.keep_small()")).count("<heap nr=") == 1


CAPTURE = """
import os, pathlib, overlay.observe.capture
print(sorted(name for name in os.environ if name.startswith("XDG_")), *pathlib.Path.home().rglob("*"))
"""


def test_packets_are_decoded_without_a_trace_in_the_users_home(tmp_path: Path) -> None:
    """scapy would make directories there, with a cache; and read what it finds in that."""
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": "/kept"}
    done = subprocess.run([sys.executable, "-c", CAPTURE], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['XDG_DATA_HOME']"
