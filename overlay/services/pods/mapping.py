"""Containers as v1 Pod documents. Pure.

What ``kubectl get pods`` shows of a pod is in ``status``: the words are the kubelet's
(kubernetes ``pkg/kubelet/kubelet_pods.go``, ``pkg/printers/internalversion/printers.go``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import msgspec

from overlay.services.objects.document import Object
from overlay.services.pods.container import Address, Container
from overlay.services.pods.names import Port, dns_label, is_dns_label, is_label_value, parse_ports, sort_out
from overlay.text import excerpt

OWN = "overlay.io/"
"""What our labels and annotations begin with."""

NAMESPACE, PORTS, SUBDOMAIN = f"{OWN}namespace", f"{OWN}ports", f"{OWN}subdomain"
"""Labels that a container may have: its pod's namespace, its ports by name, its pod's subdomain."""

REMARKS, OTHER_LABELS, CONTAINER = f"{OWN}remarks", f"{OWN}labels", f"{OWN}container"
"""Annotations: what was not understood, labels whose keys are none, and the container's own name."""

DEFAULT_NAMESPACE = "default"

_COMPOSE = "com.docker.compose."
_NAME_LABEL, _INSTANCE_LABEL = "app.kubernetes.io/name", "app.kubernetes.io/instance"

ID_LENGTH = 5
"""Characters of the container's id in its pod's name: two hosts may both run ``web``."""

MAX_ANNOTATIONS = 32 * 1024
"""Bytes of Docker's labels that become annotations, a pod: etcd and every node keep them."""


@dataclass(frozen=True, slots=True)
class Here:
    """What a pod has from its node.

    Attributes:
        node: its name.
        address: at which the node is reached, which a container in the host's network has too; None: not known.
        subnets: what this node leases; None at first, while there is no lease.
    """

    node: str
    address: IPv4Address | None = None
    subnets: tuple[IPv4Network | IPv6Network, ...] = ()


def documents(containers: Iterable[Container], here: Here) -> dict[str, Object]:
    """All pods of this node by the id of the container that each is named after."""
    return Mapper().documents(containers, here)


@dataclass(frozen=True, slots=True)
class _Made:
    """A pod's document and what it was made of."""

    here: Here
    containers: tuple[Container, ...]
    document: Object


class Mapper:
    """:func:`documents`, again and again: a pod of which nothing has changed keeps its very document.

    A node may have a thousand containers, and events come one at a time.
    """

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}

    def documents(self, containers: Iterable[Container], here: Here) -> dict[str, Object]:
        """See :func:`documents`; nobody may change them."""
        by_id = {container.id: container for container in containers}
        members: dict[str, list[Container]] = {}
        for container in by_id.values():
            members.setdefault(_owner(container, by_id), []).append(container)
        made: dict[str, _Made] = {}
        for ident, group in sorted(members.items()):
            others = sorted((each for each in group if each.id != ident), key=lambda each: (each.created, each.id))
            pod = (by_id[ident], *others)
            before = self._made.get(ident)
            if before is None or before.here != here or before.containers != pod:
                before = _Made(here, pod, _pod(pod[0], pod[1:], here))
            made[ident] = before
        self._made = made
        return _kept_apart({ident: each.document for ident, each in made.items()})


def _owner(container: Container, by_id: Mapping[str, Container]) -> str:
    """The container whose network namespace this one is in, as far as it is there."""
    seen = {container.id}
    while container.joins in by_id and container.joins not in seen:
        container = by_id[container.joins]
        seen.add(container.id)
    return container.id


def _kept_apart(pods: dict[str, Object]) -> dict[str, Object]:
    """Two pods of one node that would have one name get more of their ids into it."""
    taken: set[tuple[str, str]] = set()
    for ident, pod in pods.items():
        metadata, length = pod["metadata"], ID_LENGTH
        while (metadata["namespace"], metadata["name"]) in taken:
            length += 1
            metadata = {**metadata, "name": _name(metadata["annotations"][CONTAINER], ident, length)}
            pods[ident] = {**pod, "metadata": metadata}
        taken.add((metadata["namespace"], metadata["name"]))
    return pods


def _name(container_name: str, ident: str, length: int = ID_LENGTH) -> str:
    stem = dns_label(container_name, 63 - length - 1) or "container"
    return f"{stem}-{ident[:length]}"


def _pod(owner: Container, others: Sequence[Container], here: Here) -> Object:
    remarks: list[str] = []
    containers = (owner, *others)
    addresses, unreachable = _addresses(owner, here)
    names = _container_names(containers)
    described = [_container(each, name, remarks) for each, name in zip(containers, names, strict=True)]
    specification: dict[str, Any] = {
        "nodeName": here.node,
        "containers": described,
        "restartPolicy": _RESTART_POLICIES.get(owner.restart_policy, "Never"),
    }
    if owner.host_network:
        specification["hostNetwork"] = True
    if owner.hostname != owner.id[:12] and is_dns_label(owner.hostname):
        specification["hostname"] = owner.hostname
    if subdomain := owner.labels.get(SUBDOMAIN):
        if is_dns_label(subdomain):
            specification["subdomain"] = subdomain
        else:
            remarks.append(f"label {SUBDOMAIN}: {excerpt(subdomain)!r} is no DNS label")
    metadata = _metadata(owner, remarks)
    status = _status(containers, names, addresses, unreachable, here)
    if remarks:
        metadata["annotations"][REMARKS] = "; ".join(remarks)
    if going := _going_since(owner):
        metadata["deletionTimestamp"] = going
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": specification, "status": status}


def _going_since(owner: Container) -> str:
    """Since when it is on its way out: it serves whom it has, and gets nobody new. Empty where it is not."""
    if owner.state.status == "removing":
        return owner.state.finished or owner.created
    return owner.state.stopping if owner.state.status in ("running", "paused") else ""


_RESTART_POLICIES = {"always": "Always", "unless-stopped": "Always", "on-failure": "OnFailure"}


# --- metadata -------------------------------------------------------------------------------------------------------


def _metadata(owner: Container, remarks: list[str]) -> dict[str, Any]:
    labels, unfit_values, unfit_keys = sort_out(owner.labels)
    namespace = owner.labels.get(NAMESPACE, DEFAULT_NAMESPACE)
    if not is_dns_label(namespace):
        remarks.append(f"label {NAMESPACE}: {excerpt(namespace)!r} is no DNS label, so it is in {DEFAULT_NAMESPACE}")
        namespace = DEFAULT_NAMESPACE
    for theirs, ours in (("service", _NAME_LABEL), ("project", _INSTANCE_LABEL)):
        if (value := owner.labels.get(_COMPOSE + theirs)) and is_label_value(value):
            labels.setdefault(ours, value)
    return {
        "name": _name(owner.name, owner.id),
        "namespace": namespace,
        "uid": uid(owner.id),
        "creationTimestamp": owner.created or None,
        "labels": labels,
        "annotations": {**_annotations(unfit_values, unfit_keys, remarks), CONTAINER: owner.name},
    }


def _annotations(unfit_values: dict[str, str], unfit_keys: dict[str, str], remarks: list[str]) -> dict[str, str]:
    """Labels that are none, the shortest first, as long as there is room."""
    room = MAX_ANNOTATIONS
    kept: dict[str, str] = {}
    others: dict[str, str] = {}
    left_out = 0
    both = [(key, value, kept) for key, value in unfit_values.items()]
    both += [(key, value, others) for key, value in unfit_keys.items()]
    for key, value, target in sorted(both, key=lambda each: (len(each[0]) + len(each[1]), each[0])):
        room -= len(key.encode()) + len(value.encode())
        if room < 0:
            left_out += 1
        else:
            target[key] = value
    if left_out:
        remarks.append(f"{left_out} labels are left out: they are longer than {MAX_ANNOTATIONS} bytes together")
    if others:
        kept[OTHER_LABELS] = msgspec.json.encode(others, order="deterministic").decode()
    return dict(sorted(kept.items()))


def uid(ident: str) -> str:
    """A container's id in the form of a UUID: its first 128 bits."""
    digits = (ident + "0" * 32)[:32]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


# --- where it is reached --------------------------------------------------------------------------------------------


def _addresses(owner: Container, here: Here) -> tuple[list[Address], str]:
    """The pod's addresses, IPv4 first; or none, and why."""
    if owner.host_network:
        return ([here.address], "") if here.address else ([], "this node's address is not known: it has no lease")
    if owner.joins:
        return [], f"the container whose network it joins, {owner.joins[:12]}, is not there"
    if owner.state.status not in ("running", "paused", "removing"):
        return [], ""  # Docker gives the address back when the container ends: nothing is wrong with that
    inside = [each for each in owner.addresses if any(_within(each, subnet) for subnet in here.subnets)]
    chosen = {each.version: each for each in reversed(inside)}
    if chosen:
        return [chosen[version] for version in sorted(chosen)], ""
    if not here.subnets:
        return [], "this node has no subnet: is `overlay agent` running?"
    has = ", ".join(map(str, owner.addresses)) or "none"
    subnets = " or ".join(map(str, here.subnets))
    return [], f"none of its addresses ({has}) is in this node's subnet {subnets}: run it on Docker's default network"


def _within(address: Address, subnet: IPv4Network | IPv6Network) -> bool:
    return address.version == subnet.version and address in subnet


# --- its containers -------------------------------------------------------------------------------------------------


def _container_names(containers: Sequence[Container]) -> list[str]:
    names: list[str] = []
    for container in containers:
        name = dns_label(container.name) or "container"
        names.append(name if name not in names else _name(container.name, container.id))
    return names


def _container(container: Container, name: str, remarks: list[str]) -> dict[str, Any]:
    ports, faults = parse_ports(container.labels.get(PORTS, ""))
    remarks.extend(f"label {PORTS} of {excerpt(container.name)}: {fault}" for fault in faults)
    named = {(port.number, port.protocol) for port in ports}
    ports += [Port(number, protocol) for number, protocol in container.exposed if (number, protocol) not in named]
    described: dict[str, Any] = {"name": name, "image": container.image}
    if ports:
        described["ports"] = [_port(port) for port in ports]
    return described


def _port(port: Port) -> dict[str, Any]:
    named = {"name": port.name} if port.name else {}
    return {**named, "containerPort": port.number, "protocol": port.protocol}


# --- how it is ------------------------------------------------------------------------------------------------------


def _status(
    containers: Sequence[Container], names: Sequence[str], addresses: Sequence[Address], unreachable: str, here: Here
) -> dict[str, Any]:
    owner = containers[0]
    unready = [name for each, name in zip(containers, names, strict=True) if not each.state.ready]
    one_off = owner.labels.get(f"{_COMPOSE}oneoff") == "True"
    reason, message = _why_not(containers, unready, unreachable, one_off)
    status: dict[str, Any] = {
        "phase": _phase(containers),
        "conditions": [
            _condition("PodScheduled"),
            _condition("Initialized"),
            _condition("ContainersReady", *(_why_not(containers, unready, "", False))),
            _condition("Ready", reason, message),
        ],
        "containerStatuses": [_container_status(each, name) for each, name in zip(containers, names, strict=True)],
    }
    if here.address:
        status["hostIP"] = str(here.address)
    if addresses:
        status["podIP"] = str(addresses[0])
        status["podIPs"] = [{"ip": str(each)} for each in addresses]
    if started := containers[0].state.started:
        status["startTime"] = started
    if any(each.state.status == "paused" for each in containers):
        status["reason"] = "Paused"
    if unreachable:
        status["message"] = unreachable
    return status


def _why_not(
    containers: Sequence[Container], unready: Sequence[str], unreachable: str, one_off: bool
) -> tuple[str, str]:
    """Reason and message for what is not so; both empty where it is."""
    if unready:
        unhealthy = [each.state.health for each in containers if each.state.health in ("starting", "unhealthy")]
        health = f", health check {unhealthy[0]}" if unhealthy else ""
        return "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]{health}"
    if unreachable:
        return "NoAddress", unreachable
    if one_off:
        return "OneOff", "a one-off command of Compose's (run) serves nobody"
    return "", ""


def _condition(kind: str, reason: str = "", message: str = "") -> dict[str, Any]:
    if not reason:
        return {"type": kind, "status": "True"}
    return {"type": kind, "status": "False", "reason": reason, "message": message}


def _phase(containers: Sequence[Container]) -> str:
    """As the kubelet's ``getPhase``: one that waits for its first start, or runs, or starts again, decides."""
    states = [each.state for each in containers]
    if any(state.status == "created" for state in states):
        return "Pending"
    if any(state.status in ("running", "paused", "restarting") for state in states):
        return "Running"
    good = all(state.exit_code == 0 and state.status != "lost" for state in states)
    return "Succeeded" if good else "Failed"


def _container_status(container: Container, name: str) -> dict[str, Any]:
    state = container.state
    status: dict[str, Any] = {
        "name": name,
        "image": container.image,
        "imageID": container.image_id,
        "containerID": f"docker://{container.id}",
        "ready": state.ready,
        "started": state.status in ("running", "paused"),
        "restartCount": container.restarts,
    }
    match state.status:
        case "running" | "paused":
            status["state"] = {"running": {"startedAt": state.started or None}}
        case "created":
            message = {"message": state.error} if state.error else {}
            status["state"] = {
                "waiting": {"reason": "RunContainerError" if message else "ContainerCreating", **message}
            }
        case "restarting":
            status["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "Docker will start it again"}}
            status["lastState"] = {"terminated": _terminated(container)}
        case _:
            status["state"] = {"terminated": _terminated(container)}
    return status


def _terminated(container: Container) -> dict[str, Any]:
    state = container.state
    ended = "OOMKilled" if state.out_of_memory else "Completed" if state.exit_code == 0 else "Error"
    message = {"message": state.error} if state.error else {}
    exit_code = state.exit_code
    if state.status == "lost":  # as the kubelet tells of a container that it cannot find
        exit_code, ended = 137, "ContainerStatusUnknown"
        message = {"message": "it has ended while Docker was away"}
    return {
        "containerID": f"docker://{container.id}",
        "exitCode": exit_code,
        "reason": ended,
        "startedAt": state.started or None,
        "finishedAt": state.finished or None,
        **message,
    }
