"""What the API does with objects: one function a verb, from a request that was understood to a document and a code.

Watches are in :mod:`~overlay.api.streams`. Everything that is refused is a StatusError.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec

from overlay.api.bodies import parse_object, parse_patch, repeated_fields
from overlay.api.discovery import SUBRESOURCE_VERBS
from overlay.api.paths import DRY_RUN, Query, Target
from overlay.services.computed import service_named
from overlay.services.objects import patches, status
from overlay.services.objects.apply import applied
from overlay.services.objects.decoding import Decoded, decode_as
from overlay.services.objects.document import Object, metadata_of, name_of, namespace_of
from overlay.services.objects.kinds import POD, SERVICE, Kind
from overlay.services.objects.managers import APPLY, MAX_NAME, UPDATE, Manager
from overlay.services.objects.selectors import selector
from overlay.services.reading import Reading
from overlay.services.storage import Listing, Storage, make_token

MAX_LIMIT = 10_000
"""Objects in one part of a list."""

APPLIES = 3
"""Times that applying is begun anew where an object came or went meanwhile."""


@dataclass(frozen=True, slots=True)
class Body:
    """What a client sent, and what it calls itself (``kubectl/v1.32.4 (linux/amd64) …``)."""

    content_type: str = ""
    content: bytes = b""
    user_agent: str = ""


@dataclass(slots=True)
class Answer:
    """What is sent back: an object, a list, or a Status.

    Attributes:
        warnings: sentences that kubectl prints.
    """

    document: Object | Listing
    code: int = 200
    warnings: list[str] = field(default_factory=list)


_READ_ONLY = {
    "pods": "pods are a view of this cluster's containers: start and stop them with Docker on their node",
    "nodes": "nodes are a view of this cluster's agents: start and stop those on their machines",
}


def refuse_unless_allowed(target: Target, verb: str) -> None:
    """Raises StatusError (405) for a verb that a kind does not have, or that is not for what the URL names."""
    kind = target.kind
    if verb not in kind.verbs:
        why = _READ_ONLY.get(kind.resource, f"{kind.resource} cannot be changed here")
        raise status.method_not_allowed(f"{verb} is not supported on resources of kind {kind.resource!r}: {why}")
    if verb == "deletecollection" and kind.namespaced and not target.namespace:
        raise status.method_not_allowed(f"deletecollection of {kind.resource} is for one namespace at a time")
    if target.subresource and verb not in SUBRESOURCE_VERBS:
        raise status.method_not_allowed(f"{verb} is not supported on {kind.resource}/{target.subresource}")


async def get(reading: Reading, target: Target) -> Answer:
    """One object."""
    return Answer(await reading.get(target.kind, target.namespace, target.name))


async def list_(reading: Reading, target: Target, query: Query) -> Answer:
    """The objects of a kind, or a part of them."""
    takes = selector(target.kind, query.labels, query.fields) if query.labels or query.fields else None
    limit = min(query.limit, MAX_LIMIT)
    service = service_named(target.kind, query.labels, query.fields)
    token = query.token
    if query.match == "Exact" and not token:  # as the part after the first of a list of that revision
        token = make_token(int(query.version), reading.span(target.kind, target.namespace).key)
    return Answer(
        await reading.list(target.kind, target.namespace, limit=limit, token=token, takes=takes, service=service)
    )


async def create(storage: Storage, target: Target, query: Query, body: Body) -> Answer:
    """Makes an object."""
    if target.name:
        raise status.method_not_allowed("POST is for collections; an object is replaced by PUT")
    if target.kind.namespaced and not target.namespace:
        raise status.no_such_path()
    decoded = decode_as(target.kind, parse_object(body.content_type, body.content))
    warnings = _judge(decoded, query, body)
    made = await storage.create(
        target.kind, target.namespace, decoded.document, writer=_writer(target, query, body), dry_run=query.dry_run
    )
    return Answer(made, 201, warnings + _advice(target.kind, made))


async def update(storage: Storage, target: Target, query: Query, body: Body) -> Answer:
    """Replaces an object."""
    decoded = decode_as(target.kind, parse_object(body.content_type, body.content))
    _check_names(target, decoded.document)
    warnings = _judge(decoded, query, body)
    new = await storage.update(
        target.kind, target.namespace, target.name, lambda _: decoded.document,
        of_status=target.subresource == "status", writer=_writer(target, query, body), dry_run=query.dry_run,
    )  # fmt: skip
    return Answer(new, 200, warnings + _advice(target.kind, new))


async def patch(storage: Storage, target: Target, query: Query, body: Body) -> Answer:
    """Changes parts of an object."""
    content_type, document = parse_patch(body.content_type, body.content)
    if content_type == patches.APPLY:
        return await _apply(storage, target, query, body, document)
    if query.force is not None:
        raise status.wrong_option(status.forbidden("force", "may not be specified for non-apply patch"))
    warnings: list[str] = []

    def change(old: Object) -> Object:
        decoded = decode_as(target.kind, patches.apply(content_type, target.kind.schema, old, document))
        _check_names(target, decoded.document)
        warnings[:] = _judge(decoded, query, body)
        return decoded.document

    new = await storage.update(
        target.kind, target.namespace, target.name, change,
        of_status=target.subresource == "status", writer=_writer(target, query, body), dry_run=query.dry_run,
    )  # fmt: skip
    return Answer(new, 200, warnings + _advice(target.kind, new))


async def _apply(storage: Storage, target: Target, query: Query, body: Body, document: Any) -> Answer:
    """Server-side apply: makes the object, or makes it what the document says."""
    if not query.manager:
        raise status.wrong_option(status.required("fieldManager", "is required for apply patch"))
    decoded = decode_as(target.kind, document)
    config, kind, namespace = decoded.document, target.kind, target.namespace
    if metadata_of(config).get("managedFields"):
        raise status.bad_request("metadata.managedFields must be nil")
    _check_names(target, config)
    config["metadata"]["name"] = target.name
    warnings = _judge(decoded, query, body)
    writer = Manager(query.manager, APPLY, kind.api_version, target.subresource)

    def change(live: Object | None) -> Object:
        return applied(kind, live, config, writer, force=bool(query.force))

    for attempt in range(APPLIES):
        try:
            new = await storage.update(
                kind, namespace, target.name, change,
                of_status=bool(target.subresource), writer=writer, dry_run=query.dry_run,
            )  # fmt: skip
            return Answer(new, 200, warnings + _advice(kind, new))
        except status.StatusError as error:
            if error.code != HTTPStatus.NOT_FOUND or target.subresource:
                raise
        try:
            new = await storage.create(kind, namespace, change(None), writer=writer, dry_run=query.dry_run)
            return Answer(new, 201, warnings + _advice(kind, new))
        except status.StatusError as error:
            if error.reason != "AlreadyExists" or attempt == APPLIES - 1:
                raise
    raise AssertionError  # the last attempt has returned or raised


def _writer(target: Target, query: Query, body: Body) -> Manager:
    """Who writes, other than by apply (apiserver: pkg/endpoints/handlers/create.go, managerOrUserAgent)."""
    agent = "".join(filter(str.isprintable, body.user_agent.partition("/")[0]))[:MAX_NAME]
    return Manager(query.manager or agent or "unknown", UPDATE, target.kind.api_version, target.subresource)


async def delete(storage: Storage, target: Target, query: Query, body: Body) -> Answer:
    """Deletes an object, or all of a collection that a selector takes."""
    options = _delete_options(body)
    dry_run = query.dry_run or bool(options.dry_run)
    kind = target.kind
    if not target.name:
        return await _delete_all(storage, target, query, dry_run=dry_run)
    wanted = options.preconditions or _Preconditions()
    old = await storage.delete(
        kind, target.namespace, target.name, uid=wanted.uid or "", version=wanted.resource_version or "",
        dry_run=dry_run,
    )  # fmt: skip
    if kind in (SERVICE, POD):  # as in Kubernetes; clients parse what they get
        return Answer(old)
    details = {"name": name_of(old), **({"group": kind.group} if kind.group else {}), "kind": kind.resource}
    details["uid"] = metadata_of(old).get("uid", "")
    return Answer(
        {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
    )  # fmt: skip


async def _delete_all(storage: Storage, target: Target, query: Query, *, dry_run: bool) -> Answer:
    takes = selector(target.kind, query.labels, query.fields)
    listing = await storage.list(target.kind, target.namespace, takes=takes)
    for obj in listing.items:
        try:
            await storage.delete(
                target.kind, namespace_of(obj), name_of(obj), uid=metadata_of(obj).get("uid", ""), dry_run=dry_run
            )
        except status.StatusError as error:
            if error.code not in (403, 404, 409):  # it is gone, another one by now, or stays for good
                raise
    return Answer(listing)


class _Preconditions(msgspec.Struct, rename="camel"):
    uid: str | None = None
    resource_version: str | None = None


class _DeleteOptions(msgspec.Struct, rename="camel"):
    """As far as anything here follows from them (apimachinery: meta/v1 types.go)."""

    dry_run: list[str] | None = None
    preconditions: _Preconditions | None = None


def _delete_options(body: Body) -> _DeleteOptions:
    """What the body of a DELETE says. A dry run that is not understood is refused, for else it would be none."""
    if not body.content:
        return _DeleteOptions()
    try:
        options = msgspec.convert(parse_object(body.content_type, body.content), _DeleteOptions)
    except msgspec.ValidationError as error:
        raise status.bad_request(f"the body of a DELETE is no DeleteOptions: {error}") from None
    if wrong := [each for each in options.dry_run or () if each != DRY_RUN]:
        raise status.wrong_option(status.not_supported("dryRun", wrong[0], [DRY_RUN]), "DeleteOptions")
    return options


def _check_names(target: Target, document: Object) -> None:
    """The name in the document, if any, is that of the URL."""
    for what, given, wanted in (
        ("name", name_of(document), target.name),
        ("namespace", namespace_of(document), target.namespace),
    ):
        if given and given != wanted and (what == "name" or target.kind.namespaced):
            raise status.bad_request(
                f"the {what} of the object ({given}) does not match the {what} on the URL ({wanted})"
            )


def _judge(decoded: Decoded, query: Query, body: Body) -> list[str]:
    """What becomes of unknown and of repeated fields: warnings; or, if that is asked for, an error or nothing."""
    if query.validation == "Ignore":
        return []
    told = [f'duplicate field "{path}"' for path in repeated_fields(body.content_type, body.content)]
    told += [f'unknown field "{path}"' for path in decoded.unknown]
    if told and query.validation == "Strict":
        kind = decoded.document.get("kind", "")
        message = f'{kind} in version "v1" cannot be handled as a {kind}: strict decoding error: {", ".join(told)}'
        raise status.bad_request(message)
    return told


def _advice(kind: Kind, obj: Object) -> list[str]:
    """What somebody who wrote an object should know."""
    if kind is not SERVICE:
        return []
    spec = obj.get("spec") or {}
    warnings = []
    if any(port.get("protocol") == "SCTP" for port in spec.get("ports") or ()):
        warnings.append("spec.ports: SCTP is stored, and no traffic of it is carried")
    return warnings
