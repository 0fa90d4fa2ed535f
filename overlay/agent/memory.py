"""What an agent remembers of its past, in files: one in the state directory, one where a reboot does not reach.

Either may be missing or damaged: then it remembers less, and says so. The newer of the two counts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from overlay.control.allocator import Memory
from overlay.errors import FileError
from overlay.node.files import write_atomically
from overlay.node.subnet_env import previous_subnet

_log = logging.getLogger(__name__)

_NAME = "lease.json"


def recall(directories: Iterable[Path], subnet_file: Path) -> Memory:
    """The memory in the first directory that has one, with the subnet of ``subnet_file`` (maybe flanneld's) first."""
    memory = Memory()
    for directory in directories:
        path = directory / _NAME
        try:
            memory = _parse(path.read_text())
            break
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("%s: cannot be used (%s); going on without it", path, error)
    previous = previous_subnet(subnet_file)
    if previous is not None and previous not in memory.subnets:
        memory = Memory((previous, *memory.subnets), memory.ipv6_subnets, memory.etcd_lease_id)
    return memory


def remember(directories: Iterable[Path], memory: Memory) -> None:
    """Writes ``memory`` to every directory; one that cannot be written is logged, and the others still are."""
    text = json.dumps(
        {
            "subnets": [str(subnet) for subnet in memory.subnets],
            "ipv6_subnets": [str(subnet) for subnet in memory.ipv6_subnets],
            "etcd_lease_id": f"{memory.etcd_lease_id:x}",
        }
    )
    for directory in directories:
        try:
            write_atomically(directory / _NAME, f"{text}\n")
        except FileError as error:
            _log.warning("%s; after a reboot the node may get another subnet", error)


def _parse(text: str) -> Memory:
    members = json.loads(text)
    return Memory(
        subnets=tuple(IPv4Network(subnet) for subnet in members["subnets"]),
        ipv6_subnets=tuple(IPv6Network(subnet) for subnet in members["ipv6_subnets"]),
        etcd_lease_id=int(members["etcd_lease_id"], 16),
    )
