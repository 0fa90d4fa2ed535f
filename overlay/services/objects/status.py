"""What Kubernetes' API answers where it refuses: a Status with a code, a reason, and the path of each wrong field.

The words are those of Kubernetes (apimachinery: pkg/api/errors/errors.go, pkg/util/validation/field/errors.go), because
people search the web for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from overlay.errors import OverlayError
from overlay.services.objects.kinds import Kind


@dataclass(frozen=True, slots=True)
class Fault:
    """One field that is wrong.

    Attributes:
        field: its path (``spec.ports[0].port``).
        reason: ``FieldValueInvalid`` and its like.
        message: what is wrong with it (``Invalid value: 0: must be between 1 and 65535, inclusive``).
    """

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def _shown(value: Any) -> str:
    if isinstance(value, str) and len(value) > 256:
        value = value[:256] + "…"
    return msgspec.json.encode(value, order="deterministic").decode()


def required(field: str, detail: str = "") -> Fault:
    """A field is missing that there must be."""
    return Fault(field, "FieldValueRequired", f"Required value: {detail}" if detail else "Required value")


def invalid(field: str, value: Any, detail: str) -> Fault:
    """A value breaks a rule."""
    return Fault(field, "FieldValueInvalid", f"Invalid value: {_shown(value)}: {detail}")


def not_supported(field: str, value: Any, supported: Iterable[str]) -> Fault:
    """A value is none of those that there are."""
    known = ", ".join(_shown(each) for each in sorted(supported))
    return Fault(field, "FieldValueNotSupported", f"Unsupported value: {_shown(value)}: supported values: {known}")


def duplicate(field: str, value: Any) -> Fault:
    """A value is there twice that must be unique."""
    return Fault(field, "FieldValueDuplicate", f"Duplicate value: {_shown(value)}")


def forbidden(field: str, detail: str) -> Fault:
    """A field must not be set here."""
    return Fault(field, "FieldValueForbidden", f"Forbidden: {detail}")


def too_long(field: str, limit: int) -> Fault:
    """A text is longer than it may be."""
    return Fault(field, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes")


_LONGEST = 8192
"""Characters of a sentence."""


class StatusError(OverlayError):
    """The API refuses a request.

    Args:
        code: of HTTP.
        reason: Kubernetes' word for it (``NotFound``).
        message: the sentence that kubectl prints.
        details: of the Status; ``name``, ``group``, ``kind``, ``causes`` …
        retry_after: seconds after which trying again makes sense; 0: none.
    """

    def __init__(
        self, code: int, reason: str, message: str, details: dict[str, Any] | None = None, retry_after: int = 0
    ) -> None:
        if len(message) > _LONGEST:  # it quotes what was sent
            message = f"{message[: _LONGEST // 2]} … {message[-_LONGEST // 2 :]}"
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = dict(details or {})
        self.retry_after = retry_after
        if retry_after:
            self.details["retryAfterSeconds"] = retry_after

    def document(self) -> dict[str, Any]:
        """As it is sent."""
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            status["details"] = self.details
        return {**status, "code": self.code}


def _details(kind: Kind, name: str) -> dict[str, Any]:
    return {"name": name, **({"group": kind.group} if kind.group else {}), "kind": kind.resource}


def not_found(kind: Kind, name: str) -> StatusError:
    """There is no such object."""
    return StatusError(404, "NotFound", f'{kind.qualified_resource} "{name}" not found', _details(kind, name))


def no_such_path() -> StatusError:
    """There is nothing at this URL."""
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def already_exists(kind: Kind, name: str) -> StatusError:
    """Somebody made it before."""
    message = f'{kind.qualified_resource} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, _details(kind, name))


_MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(kind: Kind, name: str, why: str = _MODIFIED) -> StatusError:
    """It is not any more what the caller thinks that it is."""
    message = f'Operation cannot be fulfilled on {kind.qualified_resource} "{name}": {why}'
    return StatusError(409, "Conflict", message, _details(kind, name))


def apply_conflict(message: str, causes: Sequence[tuple[str, str]]) -> StatusError:
    """Others own what somebody applies; ``causes`` are what is told of each field, and its path."""
    told = [{"reason": "FieldManagerConflict", "message": each, "field": path} for each, path in causes]
    return StatusError(409, "Conflict", message, {"causes": told})


def wrong_option(fault: Fault, options: str = "PatchOptions") -> StatusError:
    """A parameter of a patch, or of whatever else ``options`` names, is wrong."""
    causes = [{"reason": fault.reason, "message": fault.message, "field": fault.field}]
    details = {"group": "meta.k8s.io", "kind": options, "causes": causes}
    return StatusError(422, "Invalid", f'{options}.meta.k8s.io "" is invalid: {fault}', details)


def unprocessable(kind: Kind, name: str, faults: Sequence[Fault]) -> StatusError:
    """Fields are wrong."""
    told = ", ".join(map(str, faults))
    causes = [{"reason": each.reason, "message": each.message, "field": each.field} for each in faults]
    details = {
        "name": name, **({"group": kind.group} if kind.group else {}), "kind": kind.name, "causes": causes,
    }  # fmt: skip
    message = f'{kind.name}{"." + kind.group if kind.group else ""} "{name}" is invalid: '
    return StatusError(422, "Invalid", message + (f"[{told}]" if len(faults) > 1 else told), details)


def bad_request(message: str) -> StatusError:
    """The request makes no sense."""
    return StatusError(400, "BadRequest", message)


def denied(kind: Kind, name: str, why: str) -> StatusError:
    """It may not be done."""
    message = f'{kind.qualified_resource} "{name}" is forbidden: {why}'
    return StatusError(403, "Forbidden", message, _details(kind, name))


def method_not_allowed(message: str) -> StatusError:
    """Nobody may do this to this kind."""
    return StatusError(405, "MethodNotAllowed", message)


def expired(message: str) -> StatusError:
    """The revision asked for is gone: list again."""
    return StatusError(410, "Expired", message)


def unsupported_media_type(given: str, supported: Sequence[str]) -> StatusError:
    """The body is in a format that is not read here."""
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(supported)}"
    return StatusError(415, "UnsupportedMediaType", f"{message} (it was {given})" if given else message)


def too_large(limit: int) -> StatusError:
    """The body, or the object, is larger than etcd takes."""
    return StatusError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")


def unavailable(message: str) -> StatusError:
    """etcd does not answer; trying again is right."""
    return StatusError(503, "ServiceUnavailable", message, retry_after=1)
