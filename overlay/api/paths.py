"""What a URL of Kubernetes' API means: a kind, maybe a namespace and a name, and what its query asks for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from overlay.services.objects import status
from overlay.services.objects.kinds import BY_RESOURCE, ENDPOINT_SLICE, Kind
from overlay.services.objects.managers import MAX_NAME

SUBRESOURCES = ("status",)

DRY_RUN = "All"
"""The one kind of dry run that there is: of all stages."""


@dataclass(frozen=True, slots=True)
class Target:
    """Objects that a URL names.

    Attributes:
        namespace: empty for kinds without, and for all of them.
        name: empty for a collection.
        subresource: ``status`` or empty.
        api_version: in which the answer is written, where it is not the kind's own.
        watch: whether it is of the old form that means a watch (``/api/v1/watch/…``).
    """

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    api_version: str = ""
    watch: bool = False


_ALIASES = {("discovery.k8s.io", "v1beta1"): ENDPOINT_SLICE}
"""Old versions that kubectl 1.20 asks for without looking whether they are there; not named in discovery."""


def parse(path: str) -> Target | None:
    """The objects that a URL's path (still quoted) names; None where it is about something else.

    Raises:
        StatusError: (404) it is about objects that there are none of here.
    """
    parts = [unquote(part) for part in path.strip("/").split("/")]
    match parts:
        case ["api", version, *rest] if rest:
            group = ""
        case ["apis", group, version, *rest] if rest:
            pass
        case _:
            return None
    watch = rest[0] == "watch"
    rest = rest[1:] if watch else rest
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces" and rest[2] not in SUBRESOURCES:
        namespace, rest = rest[1], rest[2:]
        if not namespace:
            raise status.no_such_path()
    if not 1 <= len(rest) <= 3 or not all(rest) or any("/" in part for part in parts):
        raise status.no_such_path()
    resource, name, subresource = (*rest, "", "")[:3]
    kind = BY_RESOURCE.get(resource)
    alias = _ALIASES.get((group, version)) if kind is not None and kind.version != version else None
    if (
        kind is None
        or not kind.advertised
        or kind.group != group
        or (kind.version != version and kind is not alias)
        or (subresource and not (subresource in SUBRESOURCES and kind.status))
        or (namespace and not kind.namespaced)
        or (name and kind.namespaced and not namespace)
    ):
        raise status.no_such_path()
    return Target(kind, namespace, name, subresource, f"{group}/{version}" if alias else "", watch)


@dataclass(frozen=True, slots=True)
class Query:
    """What a query asks for. Unknown parameters are passed over, as Kubernetes does."""

    labels: str = ""
    fields: str = ""
    limit: int = 0
    token: str = ""
    watch: bool = False
    version: str = ""
    match: str = ""
    timeout: int = 0
    bookmarks: bool = False
    initial_events: bool | None = None
    dry_run: bool = False
    validation: str = "Warn"
    include: str = "Metadata"
    manager: str = ""
    force: bool | None = None
    uid: str = ""


_VALIDATIONS = ("Ignore", "Warn", "Strict")


def parse_query(query: Mapping[str, str]) -> Query:
    """Reads a query. Raises StatusError (400) for a value that means nothing."""
    dry_run = query.get("dryRun")
    if dry_run not in (None, DRY_RUN):  # an empty one too: whoever asks for a dry run wants no other
        raise status.bad_request(f'Invalid value: "{dry_run[:64]}": dryRun: supported values: "{DRY_RUN}"')
    validation = query.get("fieldValidation") or "Warn"
    if validation not in _VALIDATIONS:
        raise status.bad_request(f"fieldValidation: supported values: {', '.join(_VALIDATIONS)}")
    version = query.get("resourceVersion", "")
    if version and not (version.isascii() and version.isdigit() and len(version) < 20):
        raise status.bad_request(f'Invalid value: "{version[:64]}": resourceVersion is no version that was given here')
    return Query(
        labels=query.get("labelSelector", ""),
        fields=query.get("fieldSelector", ""),
        limit=_number(query, "limit"),
        token=query.get("continue", ""),
        watch=_flag(query, "watch"),
        version=version,
        match=_match(query),
        timeout=_number(query, "timeoutSeconds"),
        bookmarks=_flag(query, "allowWatchBookmarks"),
        initial_events=_flag(query, "sendInitialEvents") if "sendInitialEvents" in query else None,
        dry_run=dry_run is not None,
        validation=validation,
        include=query.get("includeObject") or "Metadata",
        manager=_manager(query.get("fieldManager", "")),
        force=_flag(query, "force") if "force" in query else None,
    )


_MATCHES = ("", "Exact", "NotOlderThan")


def _match(query: Mapping[str, str]) -> str:
    match, version = query.get("resourceVersionMatch", ""), query.get("resourceVersion", "")
    if match not in _MATCHES:
        raise status.bad_request(f"resourceVersionMatch: supported values: {', '.join(_MATCHES[1:])}")
    if match == "Exact" and version in ("", "0"):
        raise status.bad_request("resourceVersionMatch: Exact needs a resourceVersion that is not 0")
    return match


def _manager(name: str) -> str:
    if len(name) > MAX_NAME:
        raise status.wrong_option(status.too_long("fieldManager", MAX_NAME))
    if not name.isprintable():
        raise status.wrong_option(status.invalid("fieldManager", name, "should only contain printable characters"))
    return name


def _flag(query: Mapping[str, str], name: str) -> bool:
    """Whatever is given means yes, ``?watch`` as well, but for two words (apimachinery: pkg/runtime/conversion.go)."""
    return query.get(name, "false").lower() not in ("0", "false")


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise status.bad_request(f'{name}: "{text[:32]}" is no number')
    return int(text or 0)
