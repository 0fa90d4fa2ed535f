"""Server-side apply: a document of somebody's intent is merged into an object, and what it no longer has goes.

An applier owns what its document has. What it owned, has no more, and nobody else owns, is removed. What it would
change of others' is a conflict, unless it forces it (sigs.k8s.io/structured-merge-diff: merge/update.go).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from overlay.services.objects import status
from overlay.services.objects.document import Object, annotations_of, metadata_of
from overlay.services.objects.kinds import Kind
from overlay.services.objects.managers import UPDATE, Manager, managers_of, without_managers, written
from overlay.services.objects.ownership import (
    MEMBER,
    Fields,
    Path,
    children,
    difference,
    fields_of,
    is_leaf,
    owned,
    shown,
    tree_of,
)
from overlay.services.objects.schema import Schema

KUBECTL = "kubectl"
CLIENT_SIDE = "kubectl-client-side-apply"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
BEFORE = "before-first-apply"
"""The owner of an object of which nobody was known to own anything."""

MAX_CAUSES = 1000
"""Fields of a conflict that are told one by one."""


def applied(kind: Kind, live: Object | None, config: Object, writer: Manager, *, force: bool) -> Object:
    """What becomes of ``live`` (None: it is not there) where ``writer`` applies ``config``, both decoded.

    Its ``managedFields`` say who owns what then, without the times of who did not before.

    Raises:
        StatusError: (409) others own what would change; (400) elements of a list are not to be told apart.
    """
    before = {} if live is None else without_managers(live)
    managers = managers_of(live or {})
    if live is not None and not managers:
        managers = {Manager(BEFORE, UPDATE, kind.api_version): difference(kind, "", {}, live).set}
    former = managers.get(writer, frozenset())
    managers[writer] = owned(kind, writer.subresource, fields_of(kind.schema, config))
    document = merged(kind.schema, before, config) if before else config
    document = pruned(kind.schema, document, former, frozenset[Path]().union(*managers.values()))
    told = difference(kind, writer.subresource, before, document)
    others = {each: fields & told.set for each, fields in managers.items() if each != writer}
    contested = {each: fields for each, fields in others.items() if fields and not _yields(each, writer, before)}
    if contested and not force:
        raise _conflict(contested)
    for each, taken in others.items():
        managers[each] = managers[each] - taken - told.removed
    metadata = {**metadata_of(document), "managedFields": written(managers, {})}
    if writer.name == KUBECTL and LAST_APPLIED in annotations_of(document):
        metadata["annotations"] = {**annotations_of(document), LAST_APPLIED: _last_applied(config)}
    return {**document, "metadata": metadata}


def _last_applied(config: Object) -> str:
    """What a later client-side apply compares with, should people go back (Kubernetes: lastappliedupdater.go)."""
    metadata = {key: each for key, each in metadata_of(config).items() if key != "annotations"}
    metadata["annotations"] = {key: each for key, each in annotations_of(config).items() if key != LAST_APPLIED}
    return msgspec.json.encode({**config, "metadata": metadata}, order="deterministic").decode() + "\n"


def _yields(owner: Manager, writer: Manager, live: Object) -> bool:
    """Whether ``owner`` is the same kubectl, from before it applied server-side."""
    return (owner.name, writer.name) == (CLIENT_SIDE, KUBECTL) and LAST_APPLIED in annotations_of(live)


def _conflict(contested: Mapping[Manager, Fields]) -> status.StatusError:
    """In the words of Kubernetes (apimachinery: pkg/util/managedfields/internal/conflict.go)."""
    causes, lines = list[tuple[str, str]](), list[str]()
    for manager, fields in sorted(contested.items()):
        who = f'"{manager.name}"'
        if manager.subresource:
            who += f' with subresource "{manager.subresource}"'
        if manager.operation == UPDATE:
            who += f" using {manager.api_version}"
        paths = sorted(map(shown, fields))[: MAX_CAUSES - len(causes)]
        causes += [(f"conflict with {who}", path) for path in paths]
        lines += [f"conflicts with {who}:", *(f"- {path}" for path in paths)]
    if len(causes) == 1:
        message = f"Apply failed with 1 conflict: {causes[0][0]}: {causes[0][1]}"
    else:
        message = f"Apply failed with {len(causes)} conflicts: " + "\n".join(lines)
    return status.apply_conflict(message, causes)


def merged(schema: Schema | None, live: Any, config: Any) -> Any:
    """``live`` with all that ``config`` has. A list keeps ``config``'s order, others' elements their places in it."""
    if is_leaf(schema) or schema is None or live is None:
        return config
    if schema.type != "array":
        return {**live, **{key: merged(schema.field(key), live.get(key), each) for key, each in config.items()}}
    there, wanted = children(schema, live), children(schema, config)
    result: dict[str, Any] = {}
    waiting = list(wanted.items())[::-1]
    for word, (_, element) in there.items():
        if word not in wanted:
            result[word] = element
        while word in wanted and word not in result:
            name, (inner, given) = waiting.pop()
            result[name] = merged(inner, there.get(name, (None, None))[1], given)
    result |= {word: element for word, (_, element) in reversed(waiting)}
    return list(result.values())


def pruned(schema: Schema, document: Object, former: Fields, kept: Fields) -> Object:
    """``document`` without the fields of ``former`` that are not in ``kept``.

    An element of a list goes with all that it has, others only if nothing of ``kept`` is below them. What is empty
    then goes as well.
    """
    above = {path[:length] for path in kept for length in range(1, len(path) + 1)}
    return dict(_without(schema, document, tree_of(former - kept), (), above))


def _without(schema: Schema | None, value: Any, doomed: Mapping[str, Any], here: Path, above: set[Path]) -> Any:
    """``value``, at ``here``, without ``doomed``; None: nothing is left."""
    inner = children(schema, value)
    if not inner or schema is None:
        return value
    left = {}
    for word, (below, element) in inner.items():
        tree = doomed.get(word)
        if tree is None or (here and here[-1].startswith("k:") and _is_key(here[-1], word)):
            left[word] = element  # the key of an element goes with it alone
        elif MEMBER not in tree or (word.startswith("f:") and (*here, word) in above):
            rest = _without(below, element, tree, (*here, word), above)
            if rest is not None:
                left[word] = rest
    result: Any = list(left.values()) if schema.type == "array" else {word[2:]: each for word, each in left.items()}
    return result if result or len(here) < 2 or here in above else None


def _is_key(element: str, word: str) -> bool:
    return f'"{word[2:]}":' in element
