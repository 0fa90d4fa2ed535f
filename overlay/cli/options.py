"""Flags that several commands share: how to reach etcd, and what an agent calls its own on this node."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import wraps
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from overlay.cli.goflags import flag
from overlay.control.schema.lease import unfit_address, unfit_node_id
from overlay.errors import UsageError
from overlay.node.identity import default_node_id
from overlay.store.contract import Store
from overlay.store.etcd.settings import DEFAULT_ENDPOINTS, EtcdSettings
from overlay.text import excerpt

T = TypeVar("T")
A = TypeVar("A", IPv4Address, IPv6Address)
Command: TypeAlias = Callable[..., Any]
Flag: TypeAlias = Callable[[Command], Command]

_ETCD = (
    flag("etcd-endpoints", default=",".join(DEFAULT_ENDPOINTS), metavar="URL,…", help="etcd servers, comma separated."),
    flag("etcd-prefix", default="/coreos.com/network", metavar="KEY", help="Where the network's keys are."),
    flag("etcd-keyfile", default="", metavar="FILE", help="Our TLS private key."),
    flag("etcd-certfile", default="", metavar="FILE", help="Our TLS certificate."),
    flag("etcd-cafile", default="", metavar="FILE", help="The CA that signed etcd's certificate."),
    flag("etcd-username", default="", metavar="NAME", help="User of etcd's authentication."),
    flag("etcd-password", default="", metavar="WORD", help="Its password (better in the environment)."),
)


@dataclass(frozen=True, slots=True)
class Etcd:
    """Where the network's keys are, and how to get there."""

    settings: EtcdSettings
    prefix: str

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> Etcd:
        """Takes its flags out of ``flags``. Raises UsageError for values that cannot work."""
        for name in ("etcd_endpoints", "etcd_prefix", "etcd_username", "etcd_password"):
            _check_utf8(f"--{name.replace('_', '-')}", flags[name])
        return cls(
            EtcdSettings(
                endpoints=tuple(url for part in flags.pop("etcd_endpoints").split(",") if (url := part.strip())),
                keyfile=flags.pop("etcd_keyfile"),
                certfile=flags.pop("etcd_certfile"),
                cafile=flags.pop("etcd_cafile"),
                username=flags.pop("etcd_username"),
                password=flags.pop("etcd_password"),
            ),
            prefix=flags.pop("etcd_prefix"),
        )

    def run(self, work: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        """Opens the store, runs ``work`` with it to its end, and closes it."""
        from overlay.store.etcd.client import EtcdStore  # noqa: PLC0415  (gRPC is large: only when flags are right)

        async def main() -> T:
            store = EtcdStore(self.settings)
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(main())


def _check_utf8(flag_name: str, text: str) -> None:
    """Raises UsageError for bytes that Python could not decode, and etcd, whose keys and names are text, would not."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        shown = text.encode(errors="surrogateescape").decode(errors="replace")
        about = flag_name if flag_name == "--etcd-password" else f"{flag_name} {shown}"
        raise UsageError("is not UTF-8", about=about, remedy="write it in UTF-8")


def node_id(given: str | None) -> str:
    """The node's id: what ``--node-id`` gave, else this machine's. Raises UsageError for one that no lease may have."""
    if not given:
        return default_node_id()
    _check_utf8("--node-id", given)
    if fault := unfit_node_id(given):
        raise UsageError(fault, about=f"--node-id {excerpt(given)}", remedy="give a short name, or none")
    return given


def node_address(flag_name: str, text: str, kind: type[A]) -> A:
    """The address of ``kind`` that a node publishes. Raises UsageError for one at which no node can be reached."""
    published = address(flag_name, text, kind)
    if fault := unfit_address(published):
        raise UsageError(fault, about=f"{flag_name} {text}", remedy="give the address that other nodes send to")
    return published


def address(flag_name: str, text: str, kind: type[A]) -> A:
    """An address of ``kind``. Raises UsageError."""
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError(
            f"is no {kind.__name__.removesuffix('Address')} address", about=f"{flag_name} {text}"
        ) from error


def etcd_flags(command: Command) -> Command:
    """Adds etcd's flags to a command, which gets one ``etcd: Etcd`` instead of them."""
    return _gathering(command, "etcd", Etcd.from_flags, _ETCD)


services_prefix_flag = flag(
    "services-prefix",
    envvar="OVERLAY_SERVICES_PREFIX",
    default="/overlay",
    metavar="KEY",
    help="Where Services, pods and the like are in etcd.",
)

_STATE_DIR = "/run/overlay"
_DATA_DIR = "/var/lib/overlay"

_INTERFACE_NAME = re.compile(r"(?!\.{1,2}$)[^\s/:%]{1,15}")
"""What the kernel takes (dev_valid_name in net/core/dev.c), but for ``%``: it would count up to the next free name."""

state_dir_flag = flag(
    "state-dir",
    default=_STATE_DIR,
    metavar="DIR",
    help="Where a daemon's lock and socket are, and its state until a reboot.",
)

_PLACES = (
    flag("device", default="flannel0", metavar="NAME", help="Name of the TUN device."),
    flag("subnet-file", default="/run/flannel/subnet.env", metavar="FILE", help="Where Docker's subnet is written."),
    state_dir_flag,
    flag("data-dir", default="", metavar="DIR",
         help=f"What a reboot must not lose; default {_DATA_DIR}, or the --state-dir if one is given."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Places:
    """What one agent calls its own on this node: its device, and where its files are."""

    device: str
    subnet_file: Path
    state_dir: Path
    data_dir: Path

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> Places:
        """Takes its flags out of ``flags``. Raises UsageError for a name that no device, or no file, can have."""
        for name in ("subnet_file", "state_dir"):
            if not flags[name]:
                raise UsageError("is empty", about=f"--{name.replace('_', '-')}", remedy="give a path, or leave it out")
        device, state_dir = flags.pop("device"), flags.pop("state_dir")
        if not _INTERFACE_NAME.fullmatch(device) or len(device.encode()) > 15:
            cause = "is no interface name (1 to 15 bytes, no spaces, none of / : %, and neither . nor ..)"
            raise UsageError(cause, about=f"--device {device!r}")
        data_dir = flags.pop("data_dir") or (state_dir if state_dir != _STATE_DIR else _DATA_DIR)
        return cls(device, Path(flags.pop("subnet_file")), Path(state_dir), Path(data_dir))


def place_flags(command: Command) -> Command:
    """Adds the flags of :class:`Places` to a command, which gets one ``places: Places`` instead of them."""
    return _gathering(command, "places", Places.from_flags, _PLACES)


def _gathering(
    command: Command, name: str, gather: Callable[[dict[str, Any]], object], flags: Sequence[Flag]
) -> Command:
    """Adds ``flags`` to a command, which gets what ``gather`` makes of them as its argument ``name``."""

    @wraps(command)
    def gathered(**values: Any) -> Any:
        values[name] = gather(values)
        return command(**values)

    flagged: Command = gathered
    for add in reversed(flags):
        flagged = add(flagged)
    return flagged
