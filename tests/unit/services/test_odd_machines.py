"""What a machine may have in the place of what is expected: the daemon reads it, or passes it by, and never waits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import msgspec
import pytest

from overlay.services import lease, machine
from overlay.services.dns import upstreams
from overlay.services.pods.directory import Directory

PATIENCE = 30.0
"""Seconds after which a read that takes none is one that waits for ever."""


def ends(read: Callable[[], object]) -> object:
    """What it returned."""
    found: list[object] = []
    reading = Thread(target=lambda: found.append(read()), daemon=True)
    reading.start()
    reading.join(PATIENCE)
    assert not reading.is_alive(), "it waits for somebody who writes"
    return found[0]


@pytest.fixture(params=["pipe", "device", "directory", "socket"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Something that is no file."""
    path = tmp_path / "odd.json"
    match request.param:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "directory":
            path.mkdir()
        case _:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
    return path


def test_a_subnet_file_that_is_none(odd: Path) -> None:
    assert ends(lambda: lease.subnets_in(odd)) == ()


def test_resolvers_that_are_in_no_file(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "RESOLV_CONF", odd)
    monkeypatch.setattr(upstreams, "BEHIND_RESOLVED", odd)
    assert ends(lambda: upstreams.of_this_host("169.254.20.10")) == ()


def test_a_pod_that_is_no_file(odd: Path) -> None:
    directory = Directory(odd.parent, lambda: None)
    ends(lambda: directory.look(0.0))
    assert directory.pods == {}
    assert str(odd) in directory.faults[0]


NAMED = """
import msgspec
from overlay.services import machine
print(machine.default_node_name(), msgspec.json.decode(msgspec.json.encode(machine.this_machine("id")))["hostname"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("name", "told"),
    [(rb"web1", "web1 web1"), (rb"\377\376x", "x ··x"), (rb"\377", "node ·"), (rb"a b", "a-b a b")],
)
def test_a_host_name_of_any_bytes_is_fit_to_be_written(name: bytes, told: str) -> None:
    """sethostname(2) takes what it is given; etcd and its readers want UTF-8."""
    named = f"printf '{name.decode()}' >/proc/sys/kernel/hostname && exec \"$@\""
    command = ["unshare", "--uts", "sh", "-ec", named, "sh", sys.executable, "-c", NAMED]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE * 2, check=False)
    assert done.stdout.decode().strip() == told, done.stderr.decode()[-500:]


def test_the_name_of_this_machine_can_be_written() -> None:
    assert msgspec.json.encode(machine.this_machine("id"))
