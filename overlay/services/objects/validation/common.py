"""Rules that several kinds share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from overlay.services.objects import names
from overlay.services.objects.status import Fault, invalid, not_supported, required

PROTOCOLS = ("SCTP", "TCP", "UDP")


def by(rule: Callable[[Any], list[str]], path: str, value: Any) -> Iterator[Fault]:
    """What a rule of :mod:`~overlay.services.objects.names` says of one value."""
    for told in rule(value):
        yield invalid(path, value, told)


def one_of(path: str, value: str, supported: Iterable[str]) -> Iterator[Fault]:
    """A value must be one of some."""
    supported = tuple(supported)
    if not value:
        yield required(path)
    elif value not in supported:
        yield not_supported(path, value, supported)


def labels(path: str, given: Mapping[str, str]) -> Iterator[Fault]:
    """Keys and values of labels, or of a selector that is a map."""
    for key, value in given.items():
        yield from by(names.qualified_name, path, key)
        yield from by(names.label_value, path, value)


def port_number_or_name(path: str, value: int | str) -> Iterator[Fault]:
    """A port as IntOrString."""
    yield from by(names.port_number if isinstance(value, int) else names.port_name, path, value)


_SET_OPERATORS = ("In", "NotIn")
_OPERATORS = ("DoesNotExist", "Exists", "In", "NotIn")


def label_selector(path: str, selector: Mapping[str, Any]) -> Iterator[Fault]:
    """A LabelSelector (apimachinery: pkg/apis/meta/v1/validation)."""
    yield from labels(f"{path}.matchLabels", selector.get("matchLabels") or {})
    for index, each in enumerate(selector.get("matchExpressions") or ()):
        below = f"{path}.matchExpressions[{index}]"
        values = each.get("values") or []
        if each["operator"] in _SET_OPERATORS and not values:
            yield required(f"{below}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif each["operator"] not in _OPERATORS:
            yield invalid(f"{below}.operator", each["operator"], "not a valid selector operator")
        elif each["operator"] not in _SET_OPERATORS and values:
            yield Fault(f"{below}.values", "FieldValueForbidden",
                        "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'")  # fmt: skip
        yield from by(names.qualified_name, f"{below}.key", each["key"])
        for value in values:
            yield from by(names.label_value, f"{below}.values", value)
