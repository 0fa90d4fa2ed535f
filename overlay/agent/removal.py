"""All that an agent makes on its machine, and how it goes: each part by the module that makes it."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from overlay import backends
from overlay.agent import announce, past
from overlay.backends.base import Flags
from overlay.daemon import lock, status_socket
from overlay.errors import FileError
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
    """Our own files, each whatever becomes of the others, and directories that are empty then.

    Whatever else is in those is not ours; nor is a symbolic link, whose file goes, or what something is mounted on.
    """
    failures: list[OSError] = []
    for path in (subnet_file, *(folder / name for folder in directories for name in STATE_FILES)):
        with _told_later(failures):
            if path.is_file() or path.is_socket():
                path.resolve().unlink()
                yield f"{path} removed"
    for folder in (subnet_file.parent, *directories):
        with _told_later(failures):
            if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
                try:
                    folder.rmdir()
                except OSError as error:
                    if error.errno == errno.EBUSY:  # something is mounted on it
                        continue
                    raise
                yield f"{folder} removed"
    if failures:
        raise FileError("; ".join(map(str, failures)))


@contextmanager
def _told_later(failures: list[OSError]) -> Iterator[None]:
    """Keeps what goes wrong with one file from keeping the next."""
    try:
        yield
    except OSError as error:
        failures.append(error)
