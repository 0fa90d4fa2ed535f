"""A Docker that was told of this node's subnet and has another one: asked to start again once nobody would notice.

With live-restore Docker takes no new subnet as long as a container runs (moby, daemon/daemon_unix.go,
``initNetworkController``): the restart that told it was in vain, and nothing else would come. The agent may restart
nothing; it leaves a file, and ``overlay-docker.path`` sees it.
"""

from __future__ import annotations

from ipaddress import IPv4Interface
from pathlib import Path

from overlay.linux.files import write_atomically
from overlay.node.docker.daemon import Daemon
from overlay.node.docker.judgement import Place, is_elsewhere

FILE_NAME = "docker-stale"
"""In the state directory; ``overlay-docker.service`` removes it."""

_FIRST_RETRY = 60.0
"""Seconds before it is asked for again; doubles each time."""

_MAX_RETRY = 3600.0


def would_help(docker: Daemon, place: Place) -> bool:
    """Whether a restart gives Docker the subnet that it was told of, and no container ends by it. Pure."""
    try:
        told = IPv4Interface(docker.told.value("bip") or "").network
    except ValueError:
        return False
    return told == place.subnet and docker.containers == 0 and is_elsewhere(docker, place)


class Restart:
    """Asks for a restart for as long as one would help: at once, then ever more seldom, since it may not.

    Args:
        directory: the state directory.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._again_at: float | None = None
        self._wait = _FIRST_RETRY

    def consider(self, helps: bool, now: float) -> bool:
        """To be called at every look; whether it was asked for now.

        Args:
            helps: whether it :func:`would_help`.
            now: seconds of a steady clock.

        Raises:
            FileError: the file cannot be written.
        """
        if not helps:
            self._again_at, self._wait = None, _FIRST_RETRY
            return False
        if self._again_at is not None and now < self._again_at:
            return False
        self._wait = _FIRST_RETRY if self._again_at is None else min(2 * self._wait, _MAX_RETRY)
        self._again_at = now + self._wait
        write_atomically(self._path, f"{now:.0f}\n")
        return True
