"""Taking off this machine what the services daemon made on it, whatever modes it had."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from overlay.daemon import lock, status_socket
from overlay.services.dns import service as dns
from overlay.services.proxy import hairpin, passage
from overlay.services.proxy.base import Surroundings
from overlay.services.proxy.modes import MODES

STATE_FILES = (lock.file_name("services"), status_socket.file_name("services"))


def is_free(state_dir: Path) -> None:
    """Raises NodeError where a services daemon runs with this state directory."""
    if (state_dir / lock.file_name("services")).exists():
        os.close(lock.lock(state_dir, "services"))


def programmed(state_dir: Path) -> Iterator[str]:
    """Removes what makes Services' addresses and names answer; tells what there was. Raises OverlayError."""
    yield from dns.removals()
    for what in chain(hairpin.remove(state_dir), passage.remove()):
        yield f"{what} removed"
    for make in MODES.values():
        for what in asyncio.run(make(Surroundings(state_dir)).remove()):
            yield f"{what} removed"


def files(state_dir: Path) -> Iterator[str]:
    """Removes the daemon's own files."""
    for path in (state_dir / name for name in STATE_FILES):
        if path.is_file() or path.is_socket():
            path.unlink()
            yield f"{path} removed"
