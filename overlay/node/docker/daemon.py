"""The Docker that runs here, whoever started it: what it was told, and which networks it has.

Its process and its command line are everybody's to read; for the rest its socket is asked (``GET /version``, ``/info``
and ``/networks`` of Docker's Engine API, which all versions since 1.24 have in this form).
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from itertools import pairwise
from pathlib import Path
from typing import Any

from overlay.linux import namespaces
from overlay.linux.files import read_regular
from overlay.node.docker.program import Version, parse_version

PID_FILES = (Path("/run/docker.pid"), Path("/var/run/docker.pid"))
CONFIG_FILE = Path("/etc/docker/daemon.json")
SOCKET = Path("/run/docker.sock")

_ANSWER_SECONDS = 3.0
_MAX_CONFIG_BYTES = 1 << 20

_ANSWER_LIMIT = 16 << 20
"""Bytes; a network's description has some hundreds."""


@dataclass(frozen=True, slots=True)
class BridgeNetwork:
    """One of Docker's networks on a bridge of this machine.

    Attributes:
        interface: the bridge's name.
        subnets: IPv4 only.
        options: as Docker names them (``com.docker.network.…``).
    """

    name: str
    interface: str
    subnets: tuple[IPv4Network, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def trusted_interfaces(self) -> frozenset[str]:
        """From which containers may be reached by their own addresses (since Docker 28.2)."""
        listed = self.options.get("com.docker.network.bridge.trusted_host_interfaces", "")
        return frozenset(name for name in listed.split(":") if name)

    @property
    def has_address(self) -> bool:
        """Whether Docker gives the bridge an address of its subnet, by which its containers' packets leave."""
        if self.options.get("com.docker.network.bridge.gateway_mode_ipv4") == "isolated":
            return False
        return self.options.get("com.docker.network.bridge.inhibit_ipv4") != "true"

    @property
    def is_routed(self) -> bool:
        """Whether its containers may be reached by their own addresses from everywhere."""
        return self.options.get("com.docker.network.bridge.gateway_mode_ipv4") in ("routed", "nat-unprotected")


@dataclass(frozen=True, slots=True)
class Told:
    """Docker's options, from its command line and its file."""

    arguments: tuple[str, ...] = ()
    file: Mapping[str, Any] = field(default_factory=dict)

    def value(self, name: str) -> str | None:
        """An option's value as text, "true" for a bare one; None where it was not given. The command line's last one
        counts; Docker refuses to start with one that is in both."""
        given = None
        for index, word in enumerate(self.arguments):
            option, equals, value = word.partition("=")
            if option == f"--{name}":
                following = self.arguments[index + 1 : index + 2]
                given = value if equals else "true" if not following or following[0].startswith("-") else following[0]
        if given is None and name in self.file:
            said = self.file[name]
            given = str(said).lower() if isinstance(said, bool) else str(said)
        return given

    def is_on(self, name: str) -> bool:
        return self.value(name) in ("true", "1", "t", "T", "TRUE", "True")

    def is_off(self, name: str) -> bool:
        return self.value(name) in ("false", "0", "f", "F", "FALSE", "False")


@dataclass(frozen=True, slots=True)
class Daemon:
    """A Docker that runs.

    Attributes:
        version: its first two numbers.
        networks: on bridges.
        nftables: whether it writes to nftables rather than iptables.
        live_restore: whether containers outlive it, with the addresses that they have.
        containers: how many run.
    """

    version: Version
    told: Told
    networks: tuple[BridgeNetwork, ...]
    nftables: bool = False
    live_restore: bool = False
    containers: int = 0


def read_config(arguments: tuple[str, ...]) -> Mapping[str, Any]:
    """What daemon.json says, or the file that ``--config-file`` names; {} where there is none that can be read."""
    path = Path(Told(arguments).value("config-file") or CONFIG_FILE)
    try:
        said = json.loads(read_regular(path, _MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def look() -> Daemon | None:
    """The Docker that runs in this network namespace; None where none does, or it does not answer: it may just be
    starting."""
    found = process()
    if found is None or not namespaces.has_ours(found.pid):
        return None
    told = Told(found.arguments, read_config(found.arguments))
    try:
        version, info, networks = (_get(_socket(told), path) for path in ("/version", "/info", "/networks"))
        numbers = parse_version(str(version["Version"]))
        on_bridges = tuple(bridges(networks))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, http.client.HTTPException):
        return None
    if numbers is None:
        return None
    backend = info.get("FirewallBackend") or {}
    return Daemon(
        numbers,
        told,
        on_bridges,
        nftables="nftables" in str(backend.get("Driver", "")),
        live_restore=bool(info.get("LiveRestoreEnabled")),
        containers=int(info.get("ContainersRunning") or 0),
    )


@dataclass(frozen=True, slots=True)
class Process:
    """Docker's, with its command line."""

    pid: int
    arguments: tuple[str, ...]


def process() -> Process | None:
    """That of the Docker that runs, by the number that it leaves; None where none does."""
    for path in PID_FILES:
        try:
            pid = int(path.read_text())
            words = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        # A number that was left behind may be another program's by now.
        if b"docker" in words[0]:
            return Process(pid, tuple(word.decode(errors="replace") for word in words if word))
    return None


def _socket(told: Told) -> Path:
    """Of several that it listens on, the first in the file system; systemd hands over the usual one."""
    words = told.arguments
    named = [after for word, after in pairwise(words) if word in ("-H", "--host")]
    named += [word.partition("=")[2] for word in words if word.startswith(("--host=", "-H="))]
    hosts = told.file.get("hosts")
    named += [str(host) for host in hosts] if isinstance(hosts, list) else []
    return next((Path(host.removeprefix("unix://")) for host in named if host.startswith("unix://")), SOCKET)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWER_SECONDS)
        self.sock.connect(str(self._path))


def _get(path: Path, resource: str) -> Any:
    connection = _Connection(path)
    try:
        connection.request("GET", resource)
        answer = connection.getresponse()
        text = answer.read(_ANSWER_LIMIT)
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"{resource}: {answer.status}")
        return json.loads(text)
    finally:
        connection.close()


def bridges(networks: Any) -> Iterator[BridgeNetwork]:
    """Of what ``GET /networks`` answers, those on bridges. Raises KeyError, TypeError, AttributeError, ValueError."""
    for network in networks:
        if network["Driver"] == "bridge":
            pools = (network.get("IPAM") or {}).get("Config") or ()
            subnets = (str(pool.get("Subnet", "")) for pool in pools)
            options = {str(name): str(value) for name, value in (network.get("Options") or {}).items()}
            yield BridgeNetwork(
                str(network["Name"]),
                options.get("com.docker.network.bridge.name") or f"br-{network['Id'][:12]}",
                # As older Docker keeps what it was given, an address in the subnet may stand for it.
                tuple(IPv4Network(subnet, strict=False) for subnet in subnets if subnet and ":" not in subnet),
                options,
            )
