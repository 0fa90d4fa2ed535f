"""A node's v1 Node document: made by the node itself, and made Ready or not by whoever reads it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

from overlay.services.objects.document import Object, copy, metadata_of, status_of


@dataclass(frozen=True, slots=True)
class Machine:
    """What a node says of its machine.

    Attributes:
        identity: by which the machine is told from others (``status.nodeInfo.machineID``).
        architecture: Go's word: amd64, arm64.
        runtime: such as ``docker://28.2.2``; empty where none is known.
        version: of this package.
    """

    identity: str
    hostname: str
    architecture: str
    kernel: str
    os_image: str
    boot_id: str
    version: str
    runtime: str = ""


def document(
    name: str,
    machine: Machine,
    address: IPv4Address | None,
    subnets: Sequence[IPv4Network | IPv6Network],
    created: str | None = None,
) -> Object:
    """The record of a node, without what changes by itself.

    Args:
        address: at which it is reached; None: not known.
        subnets: what it leases.
        created: RFC 3339.
    """
    addresses = [{"type": "InternalIP", "address": str(address)}] if address else []
    spec: dict[str, Any] = {}
    if subnets:
        spec = {"podCIDR": str(subnets[0]), "podCIDRs": [str(subnet) for subnet in subnets]}
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": machine.architecture,
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": uid(machine.identity),
            "labels": labels,
            "annotations": {},
            **({"creationTimestamp": created} if created else {}),
        },
        "spec": spec,
        "status": {
            "addresses": [*addresses, {"type": "Hostname", "address": machine.hostname}],
            "nodeInfo": {
                "machineID": machine.identity,
                "systemUUID": "",
                "bootID": machine.boot_id,
                "kernelVersion": machine.kernel,
                "osImage": machine.os_image,
                "containerRuntimeVersion": machine.runtime,
                "kubeletVersion": f"overlay-{machine.version}",
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": machine.architecture,
            },
        },
    }


@dataclass(frozen=True, slots=True)
class Before:
    """What etcd had of this node when a process began.

    Attributes:
        created: when it was first registered, RFC 3339.
        boot_id: of the boot that its pods ran in; empty where it had none.
    """

    created: str
    boot_id: str = ""


def before(record: Object | None, now: datetime) -> Before:
    """What a node's record says; None: it is registered now."""
    known = {} if record is None else record
    created, info = metadata_of(known).get("creationTimestamp"), status_of(known).get("nodeInfo")
    boot_id = info.get("bootID") if isinstance(info, dict) else ""
    return Before(
        created if isinstance(created, str) else f"{now:%Y-%m-%dT%H:%M:%SZ}",
        boot_id if isinstance(boot_id, str) else "",
    )


def uid(identity: str) -> str:
    """A UUID out of a node's id."""
    digits = "".join(each for each in identity.lower() if each in "0123456789abcdef").ljust(32, "0")[:32]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def with_readiness(record: Object, alive: int | None) -> Object:
    """A node as it is now: Ready while its etcd lease lives.

    Args:
        alive: the revision at which it came to life; None where its lease has ended.
    """
    node = copy(record)
    status = node.setdefault("status", {})
    ready = {"type": "Ready", "status": "True", "reason": "LeaseHeld", "message": "its etcd lease lives"}
    if alive is None:
        ready |= {"status": "Unknown", "reason": "LeaseLost", "message": "its etcd lease has ended"}
    else:
        metadata = node["metadata"]
        metadata["resourceVersion"] = str(max(int(metadata.get("resourceVersion") or 0), alive))
    status["conditions"] = [ready]
    return node
