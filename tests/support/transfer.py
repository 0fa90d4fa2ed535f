"""A file over TCP from one node's pod to another's, compared by its digest."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tests.support.tunnels import Node, entering

_RECEIVE = """
import socket, sys
listener = socket.create_server(('', 9000)); print('listening', flush=True)
stream = listener.accept()[0]; stream.settimeout(100)
with open(sys.argv[1], 'wb') as file:
    while data := stream.recv(1 << 20): file.write(data)
"""
_SEND = """
import socket, sys
with socket.create_connection((sys.argv[2], 9000), 20) as stream, open(sys.argv[1], 'rb') as file:
    stream.settimeout(100); stream.sendfile(file)
"""


def python_in(namespace: str, script: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts a script in a namespace; its output is a pipe."""
    return subprocess.Popen(
        [*entering(namespace), sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def transfer(one: Node, two: Node, path: Path, size: int) -> None:
    """Sends ``size`` random bytes over TCP from pod to pod, and compares what arrives."""
    sent, received = path / "sent", path / "received"
    sent.write_bytes(os.urandom(size))
    with python_in(two.pod, _RECEIVE, received) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "listening\n"
            with python_in(one.pod, _SEND, sent, two.pod_address) as client:
                assert client.wait(120) == 0
            assert server.wait(60) == 0
        finally:
            server.kill()
    digests = [hashlib.sha256(each.read_bytes()).hexdigest() for each in (sent, received)]
    assert digests[0] == digests[1]
