"""What Docker says of a container (``GET /containers/ID/json``), as facts. Pure.

Fields are those of Docker's Engine API 1.24 and later; what is missing or of another form counts as not said.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from overlay.errors import OverlayError

Address = IPv4Address | IPv6Address

_NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time: what Docker says of a moment that has not come."""

_JOINS = "container:"


_ID = re.compile("[0-9a-f]{64}")


def is_container_id(ident: str) -> bool:
    """Whether Docker may have given this id to a container."""
    return _ID.fullmatch(ident) is not None


class ContainerFormatError(OverlayError):
    """Docker's answer is no container's description."""


@dataclass(frozen=True, slots=True)
class State:
    """How a container is.

    Attributes:
        status: Docker's word: created, running, paused, restarting, removing, exited or dead; or ours, ``lost``: it has
            ended while Docker was away, and nobody knows how.
        pid: of its first process; 0 while it does not run.
        exit_code: of its last end; 0 while it runs.
        error: why Docker could not start it.
        started, finished: RFC 3339, empty where it never did.
        health: starting, healthy or unhealthy; empty where it has no health check.
    """

    status: str = "created"
    exit_code: int = 0
    out_of_memory: bool = False
    error: str = ""
    started: str = ""
    finished: str = ""
    health: str = ""
    pid: int = 0
    stopping: str = ""

    @property
    def ready(self) -> bool:
        """Running, not paused, and healthy where anybody asks."""
        return self.status == "running" and self.health in ("", "healthy")


@dataclass(frozen=True, slots=True)
class Container:
    """One container.

    Attributes:
        name: without Docker's slash.
        joins: the id of the container whose network namespace it is in; empty where it has its own.
        host_network: it is in the host's.
        exposed: ports that its image or its command line names, with their protocols in upper case.
        addresses: one a network that it is connected to; none unless it runs.
        restart_policy: Docker's: no, always, unless-stopped or on-failure.
        stop_signal: by which Docker tells it to end.
    """

    id: str
    name: str
    image: str = ""
    image_id: str = ""
    hostname: str = ""
    created: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    state: State = State()
    restarts: int = 0
    restart_policy: str = "no"
    stop_signal: int = signal.SIGTERM
    joins: str = ""
    host_network: bool = False
    exposed: tuple[tuple[int, str], ...] = ()
    addresses: tuple[Address, ...] = ()


def parse(answer: Any) -> Container:
    """The container that a decoded answer describes.

    Raises:
        ContainerFormatError: it has no id.
    """
    if not isinstance(answer, dict) or not isinstance(ident := answer.get("Id"), str) or not ident:
        raise ContainerFormatError("Docker's description of a container has no Id")
    config, host, network = (_mapping(answer, name) for name in ("Config", "HostConfig", "NetworkSettings"))
    mode = _text(host, "NetworkMode")
    labels = _mapping(config, "Labels")
    return Container(
        id=ident,
        name=_text(answer, "Name").lstrip("/"),
        image=_text(config, "Image"),
        image_id=_text(answer, "Image"),
        hostname=_text(config, "Hostname"),
        created=_moment(_text(answer, "Created")),
        labels={key: value for key, value in labels.items() if isinstance(key, str) and isinstance(value, str)},
        state=_state(_mapping(answer, "State")),
        restarts=_number(answer, "RestartCount"),
        restart_policy=_text(_mapping(host, "RestartPolicy"), "Name") or "no",
        stop_signal=_signal(_text(config, "StopSignal")),
        joins=mode.removeprefix(_JOINS) if mode.startswith(_JOINS) else "",
        host_network=mode == "host",
        exposed=tuple(sorted(_ports(config))),
        addresses=tuple(_addresses(network)),
    )


def _state(state: Mapping[str, Any]) -> State:
    return State(
        status=_text(state, "Status") or "created",
        exit_code=_number(state, "ExitCode"),
        out_of_memory=state.get("OOMKilled") is True,
        error=_text(state, "Error"),
        started=_moment(_text(state, "StartedAt")),
        finished=_moment(_text(state, "FinishedAt")),
        pid=_number(state, "Pid"),
        health={"none": ""}.get(health := _text(_mapping(state, "Health"), "Status"), health),
    )


def _ports(config: Mapping[str, Any]) -> list[tuple[int, str]]:
    found = []
    for written in _mapping(config, "ExposedPorts"):
        number, _, protocol = str(written).partition("/")
        if number.isdecimal() and 0 < int(number) < 65536:
            found.append((int(number), (protocol or "tcp").upper()))
    return found


def _addresses(network: Mapping[str, Any]) -> list[Address]:
    """In the order of the networks' names, each family once a network."""
    networks = _mapping(network, "Networks")
    found: list[Address] = []
    for name in sorted(networks):
        for member in ("IPAddress", "GlobalIPv6Address"):
            if isinstance(settings := networks[name], dict) and (text := _text(settings, member)):
                try:
                    found.append(ip_address(text))
                except ValueError:
                    continue
    return found


def _signal(text: str) -> int:
    """``SIGTERM``, ``TERM`` or ``15``; a real-time signal, or what is none, counts as SIGTERM."""
    if text.isascii() and text.isdecimal() and len(text) < 4:
        return int(text)
    name = f"SIG{text.upper().removeprefix('SIG')}"
    return signal.Signals[name].value if name in signal.Signals.__members__ else signal.SIGTERM.value


def _moment(text: str) -> str:
    """Whole seconds in UTC, as Kubernetes writes them; empty for what has not come."""
    if not text or text.startswith(_NEVER[:10]):
        return ""
    return f"{text[:19]}Z"


def _mapping(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _text(parent: Mapping[str, Any], name: str) -> str:
    value = parent.get(name)
    return value if isinstance(value, str) else ""


def _number(parent: Mapping[str, Any], name: str) -> int:
    value = parent.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
