"""All that an agent makes on its machine, and how it goes: each part by the module that makes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from overlay import backends
from overlay.agent import announce, past
from overlay.backends.base import Flags
from overlay.daemon import lock, status_socket
from overlay.node import blackhole
from overlay.node.docker import restart
from overlay.node.firewall import Firewall
from overlay.node.removal import Removal

STATE_FILES = (
    lock.file_name("agent"),
    status_socket.file_name("agent"),
    past.FILE_NAME,
    announce.FILE_NAME,
    restart.FILE_NAME,
)


def removals(device: str, subnet_file: Path, directories: Sequence[Path]) -> tuple[Removal, ...]:
    """What to remove, in order, of an agent that does not run, whatever backends it had.

    Args:
        device: the agent's ``--device``, by which its things are told from those of another agent.
        directories: of its state.
    """
    return (
        *(removal for backend in backends.every(Flags(device=device)) for removal in backend.removals()),
        Removal("blackhole", lambda: blackhole.remove(device)),
        Removal("firewall", lambda: Firewall(owner=device).remove()),
        Removal("files", lambda: _files(subnet_file, directories)),
    )


def _files(subnet_file: Path, directories: Sequence[Path]) -> Iterator[str]:
    """Our own files, and directories that are empty then; whatever else is in them is not ours."""
    for path in (subnet_file, *(folder / name for folder in directories for name in STATE_FILES)):
        if path.is_file() or path.is_socket():
            path.unlink()
            yield f"{path} removed"
    for folder in (subnet_file.parent, *directories):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            yield f"{folder} removed"
