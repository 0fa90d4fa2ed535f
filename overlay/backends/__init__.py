"""One module a flannel backend type, behind one seam, and the one table of them.

config ──▶ ``check`` ──▶ ``prepare(underlay)`` ──▶ Advertisement ──▶ lease ──▶ ``apply`` ──▶ ``removals``

``base``
    The seam: what the agent and the commands ask of a backend, in which order, and what they give it.
``options``
    How options in the config's ``Backend`` are read; which there are is each backend's own.
``succession``
    One backend after another, as the config says.
``udp/``
    A TUN device, and packets in UDP, carried by a datapath of its own choice.
``host_gw``
    A route by each peer's own address.

A new backend is a new module and a line in the table below: nothing outside asks which types there are.
"""

from __future__ import annotations

from collections.abc import Mapping

from overlay.backends.base import Backend, Flags
from overlay.backends.host_gw import HostGwBackend
from overlay.backends.udp.backend import UdpBackend
from overlay.errors import ConfigError
from overlay.model import BackendConfig, NetworkConfig
from overlay.text import excerpt

_TABLE: Mapping[str, type[UdpBackend | HostGwBackend]] = {
    backend.type: backend for backend in (UdpBackend, HostGwBackend)
}


def make(kind: str, flags: Flags) -> Backend:
    """A backend of this type, inert as yet. Raises ConfigError: there is none."""
    if kind not in _TABLE:
        raise ConfigError(
            f"is not one of {', '.join(sorted(_TABLE))}",
            about=f"Backend.Type '{excerpt(kind)}'",
            remedy='take one of those, as flannel\'s udp format: {"Backend":{"Type":"udp"}}',
        )
    return _TABLE[kind](flags)


def every(flags: Flags) -> tuple[Backend, ...]:
    """One of each type: what any agent with these flags may have made on this machine, whatever the config was then."""
    return tuple(make(kind, flags) for kind in _TABLE)


def devices(flags: Flags) -> frozenset[str]:
    """Names of all links that an agent with these flags may make."""
    return frozenset().union(*(backend.devices for backend in every(flags)))


def check(config: NetworkConfig) -> None:
    """Raises ConfigError for a valid config that no backend here can run."""
    make(config.backend.type, Flags()).check(config)


def options(backend: BackendConfig) -> Mapping[str, object]:
    """The config's options with their defaults filled in; as they stand there for a type that there is none of here.

    Raises:
        ConfigError: one has a value that nobody can run.
    """
    return make(backend.type, Flags()).options(backend) if backend.type in _TABLE else backend.options
