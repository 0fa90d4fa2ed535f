"""Who owns which fields of an object: ``metadata.managedFields``, kept through every write.

Whoever applies owns what its document has; every other writer owns what it changed. An object that nobody has applied,
and that was made before owners were kept, stays without them until somebody applies it
(apimachinery: pkg/util/managedfields/internal).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from overlay.services.objects.document import Object, metadata_of
from overlay.services.objects.kinds import Kind
from overlay.services.objects.ownership import Difference, Fields, difference, from_v1, to_v1

APPLY, UPDATE = "Apply", "Update"

MAX_UPDATERS = 10
"""Managers of an object that do not apply; the fields of older ones are put together (Kubernetes: capmanagers.go)."""

ANCIENT = "ancient-changes"

MAX_NAME = 128
"""Characters of a manager's name (apimachinery: FieldManagerMaxLength)."""


@dataclass(frozen=True, slots=True, order=True)
class Manager:
    """Who writes, and how.

    Attributes:
        name: ``kubectl``, ``kubectl-edit`` …
        operation: APPLY or UPDATE.
        api_version: of the document that it wrote.
        subresource: ``status`` or empty.
    """

    name: str
    operation: str
    api_version: str
    subresource: str = ""


Managers: TypeAlias = dict[Manager, Fields]


def managers_of(obj: Object) -> Managers:
    """Who owns what of an object, as it says; nobody, where that is malformed."""
    try:
        return {_manager(entry): from_v1(entry.get("fieldsV1")) for entry in _entries(obj)}
    except ValueError:
        return {}


def without_managers(obj: Object) -> Object:
    """The same object, nobody named."""
    return {**obj, "metadata": {key: each for key, each in metadata_of(obj).items() if key != "managedFields"}}


def written(managers: Managers, times: dict[Manager, str]) -> list[Object]:
    """As ``managedFields``, whoever owns nothing left out."""
    present = [manager for manager, fields in managers.items() if fields]
    present.sort(key=lambda each: (each.operation, times.get(each, ""), each))
    return [
        {
            "manager": each.name,
            "operation": each.operation,
            "apiVersion": each.api_version,
            **({"time": times[each]} if times.get(each) else {}),
            "fieldsType": "FieldsV1",
            "fieldsV1": to_v1(managers[each]),
            **({"subresource": each.subresource} if each.subresource else {}),
        }
        for each in present
    ]


def record(kind: Kind, old: Object | None, given: Object, new: Object, *, writer: Manager, now: str) -> None:
    """Writes into ``new`` who owns its fields.

    Args:
        old: what was there; None: nothing.
        given: what the writer sent, made a whole document. Whoever applies has the owners in it already
            (:func:`~overlay.services.objects.apply.applied`); others may, and so set them by hand.
        now: as objects have times.
    """
    told = difference(kind, writer.subresource, old or {}, new)
    former = managers_of(old or {})
    named = given if not writer.subresource or writer.operation == APPLY else {}
    if writer.operation == APPLY:
        managers = managers_of(given)
        touched = bool(told.set or told.removed) or former.get(writer) != managers.get(writer)
    elif _entries(named) == [{}]:
        managers, touched = {}, False
    else:
        managers = managers_of(named) or former
        touched = bool(told.set) and (old is None or bool(managers))
        managers = _changed(managers, told, writer) if old is None or managers else managers
    times = {**_times(old or {}), **_times(named)}
    if touched:
        times[writer] = now
    _put(new, written(_capped(managers, times), times))


def _changed(managers: Managers, told: Difference, writer: Manager) -> Managers:
    """What a writer sets becomes its own, and nobody owns what is gone."""
    left = {each: fields - told.set - told.removed for each, fields in managers.items() if each != writer}
    return {**left, writer: (managers.get(writer, frozenset()) | told.set) - told.removed}


def _capped(managers: Managers, times: dict[Manager, str]) -> Managers:
    updaters = sorted(
        (each for each in managers if each.operation == UPDATE and not each.subresource and managers[each]),
        key=lambda each: (times.get(each, ""), each),
    )
    if len(updaters) <= MAX_UPDATERS:
        return managers
    oldest = updaters[: len(updaters) - MAX_UPDATERS + 1]
    ancient = Manager(ANCIENT, UPDATE, oldest[-1].api_version)
    times[ancient] = times.get(oldest[-1], "")
    together = frozenset[Any]().union(*(managers[each] for each in oldest))
    return {**{each: fields for each, fields in managers.items() if each not in oldest}, ancient: together}


def _put(obj: Object, entries: list[Object]) -> None:
    if entries:
        obj["metadata"]["managedFields"] = entries
    else:
        obj["metadata"].pop("managedFields", None)


def _entries(obj: Object) -> list[Any]:
    entries = metadata_of(obj).get("managedFields")
    return entries if isinstance(entries, list) else []


def _manager(entry: Any) -> Manager:
    if not isinstance(entry, dict) or entry.get("operation") not in (APPLY, UPDATE):
        raise ValueError("is no entry of managedFields")
    texts = [entry.get(field) or "" for field in ("manager", "operation", "apiVersion", "subresource")]
    if not all(isinstance(each, str) for each in texts):
        raise ValueError("is no entry of managedFields")
    return Manager(*texts)


def _times(obj: Object) -> dict[Manager, str]:
    try:
        found = {_manager(entry): str(entry.get("time") or "") for entry in _entries(obj)}
        return {manager: time for manager, time in found.items() if time}
    except ValueError:
        return {}
