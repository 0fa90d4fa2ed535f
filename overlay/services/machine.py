"""What this machine is, for its Node document."""

from __future__ import annotations

import platform
import socket
from pathlib import Path

from overlay import __version__
from overlay.services.pods.names import dns_label
from overlay.services.pods.node import Machine
from overlay.text import printable

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
"""Go's words for the kernel's, where they differ."""


def default_node_name() -> str:
    """The host's name as a DNS name, as the kubelet takes it."""
    return ".".join(filter(None, map(dns_label, socket.gethostname().split("."))))[:253] or "node"


def this_machine(identity: str) -> Machine:
    """The machine that this process runs on."""
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        system = "Linux"
    return Machine(
        identity=identity,
        hostname=printable(socket.gethostname()),
        architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
        kernel=platform.release(),
        os_image=system,
        boot_id=_read(Path("/proc/sys/kernel/random/boot_id")),
        version=__version__,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
