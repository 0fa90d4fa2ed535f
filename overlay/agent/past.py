"""What an agent remembers of its past, in files: one in the state directory, one where a reboot does not reach.

Either may be missing or damaged: then it remembers less, and says so. The newer of the two counts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

from overlay.control.leases.allocator import MAX_REMEMBERED, Memory
from overlay.errors import FileError
from overlay.linux.files import read_object, write_atomically
from overlay.node.subnet_env import previous_subnet

N = TypeVar("N", IPv4Network, IPv6Network)

_log = logging.getLogger(__name__)

FILE_NAME = "lease.json"


def recall(directories: Iterable[Path], subnet_file: Path) -> Memory:
    """The memory in the first directory that has one, with the subnet of ``subnet_file`` (maybe flanneld's) first."""
    memory = Memory()
    for directory in directories:
        path = directory / FILE_NAME
        try:
            memory = _parse(read_object(path))
            break
        except FileNotFoundError:
            continue
        except FileError as error:
            _log.warning("%s; going on without it", error)
        except (ValueError, TypeError, KeyError) as error:
            _log.warning("%s: cannot be used (%r); going on without it", path, error)
    previous = previous_subnet(subnet_file)
    if previous is not None and previous not in memory.subnets:
        memory = Memory((previous, *memory.subnets), memory.ipv6_subnets, memory.etcd_lease_id)
    return memory


def remember(directories: Iterable[Path], memory: Memory) -> tuple[FileError, ...]:
    """Writes ``memory`` to every directory, each whatever becomes of the others; what could not be written, and why."""
    text = json.dumps(
        {
            "subnets": [str(subnet) for subnet in memory.subnets],
            "ipv6_subnets": [str(subnet) for subnet in memory.ipv6_subnets],
            "etcd_lease_id": f"{memory.etcd_lease_id:x}",
        }
    )
    failed = []
    for directory in directories:
        try:
            write_atomically(directory / FILE_NAME, f"{text}\n")
        except FileError as error:
            failed.append(error)
    return tuple(failed)


def _parse(members: dict[str, Any]) -> Memory:
    lease_id = int(members["etcd_lease_id"], 16)
    if not 0 <= lease_id < 1 << 63:
        raise ValueError(f"etcd_lease_id {lease_id:x}")
    return Memory(
        subnets=_networks(IPv4Network, members["subnets"]),
        ipv6_subnets=_networks(IPv6Network, members["ipv6_subnets"]),
        etcd_lease_id=lease_id,
    )


def _networks(kind: type[N], listed: object) -> tuple[N, ...]:
    """What a lease could have been of; a number is no network here, though Python would take it for one."""
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        raise ValueError("no list of subnets")
    networks = tuple(kind(text) for text in listed[:MAX_REMEMBERED])
    if any(network.prefixlen < 2 or network.is_multicast for network in networks):
        raise ValueError(f"no subnets: {', '.join(map(str, networks))}")
    return networks
