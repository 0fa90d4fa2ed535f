"""What a ``dockerd`` program does by itself and what it can be told, found out by asking it.

By its options rather than its version where that is possible: a distribution may have brought one back.

==============  ==========================================================================================
before 28.0     drops nothing that comes to a container's own address
28.0 and 28.1   drops it in iptables' raw PREROUTING unless it comes by the container's bridge; an
                environment variable, ``DOCKER_INSECURE_NO_IPTABLES_RAW=1``, is all that prevents it
28.2 and newer  the same, but for ``--allow-direct-routing`` (moby, daemon/config, libnetwork/drivers/bridge)
29 and newer    has a backend of nftables' beside it (``--firewall-backend``), which drops the same in a chain
                of its own, but for ``--allow-direct-routing``; and then accepts what carries the mark of
                ``--bridge-accept-fwmark``, and no accept of others (moby, bridge/internal/nftabler)
==============  ==========================================================================================
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where systemd looks for a program that a unit names without a path (systemd.exec(5))."""

_LIMIT_SECONDS = 20
"""A program of a hundred megabytes may have to come from a slow disk first."""

_FILTERS_RAW = (28, 0)

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a Docker does and knows.

    Attributes:
        version: its first two numbers.
        direct_routing: it knows ``--allow-direct-routing``.
        accept_mark: it knows ``--bridge-accept-fwmark``.
    """

    version: Version
    direct_routing: bool = False
    accept_mark: bool = False

    @property
    def filters_raw(self) -> bool:
        """Whether it drops what comes to a container's address from elsewhere, before any rule of ours."""
        return self.version >= _FILTERS_RAW


def find(program: str) -> str | None:
    """The path of a program as systemd finds it; None where there is none."""
    return shutil.which(program, path=_SEARCH_PATH)


def ask(path: str) -> Abilities | None:
    """What the program at ``path`` is able to; None where it does not say."""
    version = parse_version(_output(path, "--version"))
    if version is None:
        return None
    usage = _output(path, "--help") if version >= _FILTERS_RAW else ""
    return Abilities(version, "--allow-direct-routing" in usage, "--bridge-accept-fwmark" in usage)


def parse_version(text: str) -> Version | None:
    """The first two numbers of ``Docker version 28.5.2+dfsg4, build …``, or of the version alone."""
    found = re.search(r"\b(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_SECONDS,
            env={"PATH": _SEARCH_PATH, "LC_ALL": "C", "HOME": os.environ.get("HOME", "/")},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
