"""The columns that ``kubectl get`` prints, kind by kind (pkg/printers/internalversion/printers.go). Pure.

A column of priority 1 is shown with ``-o wide`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from overlay.services.objects.document import Object, condition, labels_of, metadata_of, name_of, spec_of, status_of
from overlay.services.objects.kinds import Kind

NONE = "<none>"
_UNKNOWN = "<unknown>"

Cell = Callable[[Object, datetime], Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title, what is in it, and how wide a terminal it needs."""

    title: str
    cell: Cell
    priority: int = 0
    type: str = "string"

    def definition(self) -> dict[str, Any]:
        """As a Table describes it."""
        form = "name" if self.title == "Name" else ""
        return {
            "name": self.title, "type": self.type, "format": form, "description": "", "priority": self.priority,
        }  # fmt: skip


METADATA_ALONE = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
"""What an object is called of which nothing but its metadata is told."""


def table(
    kind: Kind, objects: Sequence[Object], now: datetime, *, include: str = "Metadata", metadata: dict[str, Any]
) -> Object:
    """Objects as a Table.

    Args:
        include: what of each object goes with its row: ``None``, ``Metadata`` or ``Object``.
        metadata: of the list.
    """
    columns = COLUMNS[kind.resource]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [column.definition() for column in columns],
        "rows": [_row(columns, obj, now, include) for obj in objects],
    }


def _row(columns: Sequence[Column], obj: Object, now: datetime, include: str) -> dict[str, Any]:
    row: dict[str, Any] = {"cells": [column.cell(obj, now) for column in columns]}
    if include == "Object":
        row["object"] = obj
    elif include != "None":
        row["object"] = {**METADATA_ALONE, "metadata": metadata_of(obj)}
    return row


# --- what several have ---


def duration(seconds: float) -> str:
    """How long something is, in at most two units (apimachinery: pkg/util/duration.HumanDuration)."""
    s = int(seconds)
    if s < -1:
        return "<invalid>"
    s = max(s, 0)
    minutes, hours, days, years = s // 60, s // 3600, s // 86400, s // 86400 // 365
    if s < 120:
        return f"{s}s"
    if minutes < 10:
        return f"{minutes}m" + (f"{s % 60}s" if s % 60 else "")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h" + (f"{minutes % 60}m" if minutes % 60 else "")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d" + (f"{hours % 24}h" if hours % 24 else "")
    if days < 365 * 2:
        return f"{days}d"
    if years < 8:
        return f"{years}y" + (f"{days % 365}d" if days % 365 else "")
    return f"{years}y"


def since(text: Any, now: datetime) -> str:
    """How long ago a timestamp was."""
    try:
        then = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return _UNKNOWN
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return duration((now - then).total_seconds())


def _age(obj: Object, now: datetime) -> str:
    return since(metadata_of(obj).get("creationTimestamp"), now)


def joined(texts: Iterable[str], limit: int = 0) -> str:
    """Texts with commas, ``<none>`` for none; beyond a limit their number."""
    listed = [text for text in texts if text]
    if not listed:
        return NONE
    if limit and len(listed) > limit:
        return f"{','.join(listed[:limit])} + {len(listed) - limit} more..."
    return ",".join(listed)


def _pairs(labels: dict[str, str]) -> str:
    return joined(f"{key}={value}" for key, value in sorted(labels.items()))


_NAME = Column("Name", lambda obj, _: name_of(obj))
_AGE = Column("Age", _age)


# --- Services ---


def _external(service: Object, _: datetime) -> str:
    spec = spec_of(service)
    fixed = [str(each) for each in spec.get("externalIPs") or ()]
    match spec.get("type"):
        case "ExternalName":
            return str(spec.get("externalName") or NONE)
        case "LoadBalancer":
            given = (status_of(service).get("loadBalancer") or {}).get("ingress") or ()
            found = [str(each.get("ip") or each.get("hostname") or "") for each in given]
            return joined(found + fixed) if found or fixed else "<pending>"
        case _:
            return joined(fixed)


def _ports(service: Object, _: datetime) -> str:
    return joined(
        f"{port.get('port')}{':' + str(port['nodePort']) if port.get('nodePort') else ''}/{port.get('protocol', 'TCP')}"
        for port in spec_of(service).get("ports") or ()
    )


_SERVICE = (
    _NAME,
    Column("Type", lambda obj, _: spec_of(obj).get("type", "")),
    Column("Cluster-IP", lambda obj, _: spec_of(obj).get("clusterIP") or NONE),
    Column("External-IP", _external),
    Column("Port(s)", _ports),
    _AGE,
    Column("Selector", lambda obj, _: _pairs(spec_of(obj).get("selector") or {}), 1),
)


# --- endpoints ---

_SHOWN = 3
"""Endpoints that are shown before it says how many more there are."""


def _endpoints(obj: Object, _: datetime) -> str:
    found = []
    for subset in obj.get("subsets") or ():
        ports = [port.get("port") for port in subset.get("ports") or ()] or [None]
        for port in ports:
            for address in subset.get("addresses") or ():
                ip = str(address.get("ip"))
                found.append(ip if port is None else f"{f'[{ip}]' if ':' in ip else ip}:{port}")
    return joined(found, _SHOWN)


def _slice_ports(obj: Object, _: datetime) -> str:
    ports = [str(port.get("port", "*")) for port in obj.get("ports") or ()]
    return joined(ports, _SHOWN) if ports else "<unset>"


def _slice_endpoints(obj: Object, _: datetime) -> str:
    found = [str(address) for each in obj.get("endpoints") or () for address in each.get("addresses") or ()]
    return joined(found, _SHOWN) if found else "<unset>"


# --- pods and nodes ---


def _containers(pod: Object) -> list[dict[str, Any]]:
    return list(status_of(pod).get("containerStatuses") or ())


def _ready(pod: Object, _: datetime) -> str:
    statuses = _containers(pod)
    total = len(spec_of(pod).get("containers") or statuses)
    return f"{sum(bool(each.get('ready')) for each in statuses)}/{total}"


def _pod_status(pod: Object, _: datetime) -> str:
    shown = str(status_of(pod).get("reason") or status_of(pod).get("phase") or _UNKNOWN)
    for each in reversed(_containers(pod)):
        state = each.get("state") or {}
        waiting, ended = state.get("waiting"), state.get("terminated")
        if waiting and waiting.get("reason"):
            shown = waiting["reason"]
        elif ended:
            signal, code = ended.get("signal"), ended.get("exitCode", 0)
            shown = ended.get("reason") or (f"Signal:{signal}" if signal else f"ExitCode:{code}")
    return "Terminating" if metadata_of(pod).get("deletionTimestamp") else shown


def _restarts(pod: Object, now: datetime) -> str:
    statuses = _containers(pod)
    count = sum(int(each.get("restartCount", 0)) for each in statuses)
    ends = [((each.get("lastState") or {}).get("terminated") or {}).get("finishedAt") for each in statuses]
    last = max((end for end in ends if end), default=None)
    return f"{count} ({since(last, now)} ago)" if count and last else str(count)


_POD = (
    _NAME,
    Column("Ready", _ready),
    Column("Status", _pod_status),
    Column("Restarts", _restarts),
    _AGE,
    Column("IP", lambda obj, _: status_of(obj).get("podIP") or NONE, 1),
    Column("Node", lambda obj, _: spec_of(obj).get("nodeName") or NONE, 1),
    Column("Nominated Node", lambda obj, _: status_of(obj).get("nominatedNodeName") or NONE, 1),
    Column("Readiness Gates", lambda obj, _: NONE, 1),
)

_ROLE = "node-role.kubernetes.io/"


def _node_status(node: Object, _: datetime) -> str:
    known = any(each.get("type") == "Ready" for each in status_of(node).get("conditions") or ())
    ready = "Ready" if condition(node, "Ready") else "NotReady" if known else "Unknown"
    return ready + (",SchedulingDisabled" if spec_of(node).get("unschedulable") else "")


def _node_address(kind: str) -> Cell:
    def cell(node: Object, _: datetime) -> str:
        found = status_of(node).get("addresses") or ()
        return next((str(each["address"]) for each in found if each.get("type") == kind), NONE)

    return cell


def _node_info(field: str) -> Cell:
    return lambda node, _: (status_of(node).get("nodeInfo") or {}).get(field) or _UNKNOWN


_NODE = (
    _NAME,
    Column("Status", _node_status),
    Column("Roles", lambda obj, _: joined(
        key.removeprefix(_ROLE) for key in sorted(labels_of(obj)) if key.startswith(_ROLE))),
    _AGE,
    Column("Version", lambda obj, _: (status_of(obj).get("nodeInfo") or {}).get("kubeletVersion", "")),
    Column("Internal-IP", _node_address("InternalIP"), 1),
    Column("External-IP", _node_address("ExternalIP"), 1),
    Column("OS-Image", _node_info("osImage"), 1),
    Column("Kernel-Version", _node_info("kernelVersion"), 1),
    Column("Container-Runtime", _node_info("containerRuntimeVersion"), 1),
)  # fmt: skip


# --- events, networking ---


def _involved(event: Object, _: datetime) -> str:
    involved = event.get("involvedObject") or {}
    kind = str(involved.get("kind", "")).lower()
    return f"{kind}/{involved['name']}" if involved.get("name") else kind


def _last_seen(event: Object, now: datetime) -> str:
    times = (event.get("lastTimestamp"), event.get("eventTime"), event.get("firstTimestamp"))
    return since(next((each for each in times if each), None), now)


def _expression(each: dict[str, Any]) -> str:
    values = ",".join(each.get("values") or ())
    match each.get("operator"):
        case "In":
            return f"{each.get('key')} in ({values})"
        case "NotIn":
            return f"{each.get('key')} notin ({values})"
        case "Exists":
            return str(each.get("key"))
        case _:
            return f"!{each.get('key')}"


def _label_selector(selector: dict[str, Any]) -> str:
    equal = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    return joined(equal + [_expression(each) for each in selector.get("matchExpressions") or ()])


def _hosts(ingress: Object, _: datetime) -> str:
    hosts = [str(rule["host"]) for rule in spec_of(ingress).get("rules") or () if rule.get("host")]
    return joined(hosts, _SHOWN) if hosts else "*"


def _ingress_addresses(ingress: Object, _: datetime) -> str:
    given = (status_of(ingress).get("loadBalancer") or {}).get("ingress") or ()
    return ",".join(str(each.get("ip") or each.get("hostname") or "") for each in given)


COLUMNS: dict[str, tuple[Column, ...]] = {
    "services": _SERVICE,
    "endpoints": (_NAME, Column("Endpoints", _endpoints), _AGE),
    "endpointslices": (
        _NAME,
        Column("AddressType", lambda obj, _: obj.get("addressType", "")),
        Column("Ports", _slice_ports),
        Column("Endpoints", _slice_endpoints),
        _AGE,
    ),
    "namespaces": (_NAME, Column("Status", lambda obj, _: status_of(obj).get("phase", "")), _AGE),
    "pods": _POD,
    "nodes": _NODE,
    "events": (
        Column("Last Seen", _last_seen),
        Column("Type", lambda obj, _: obj.get("type", "")),
        Column("Reason", lambda obj, _: obj.get("reason", "")),
        Column("Object", _involved),
        Column("Message", lambda obj, _: str(obj.get("message", "")).strip()),
        Column("Name", lambda obj, _: name_of(obj), 1),
    ),
    "ingresses": (
        _NAME,
        Column("Class", lambda obj, _: spec_of(obj).get("ingressClassName") or NONE),
        Column("Hosts", _hosts),
        Column("Address", _ingress_addresses),
        Column("Ports", lambda obj, _: "80, 443" if spec_of(obj).get("tls") else "80"),
        _AGE,
    ),
    "ingressclasses": (
        _NAME,
        Column("Controller", lambda obj, _: spec_of(obj).get("controller", "")),
        Column("Parameters", lambda obj, _: (spec_of(obj).get("parameters") or {}).get("name") or NONE),
        _AGE,
    ),
    "networkpolicies": (
        _NAME, Column("Pod-Selector", lambda obj, _: _label_selector(spec_of(obj).get("podSelector") or {})), _AGE,
    ),
}  # fmt: skip
