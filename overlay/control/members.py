"""The members of a JSON object as Go's ``encoding/json`` finds them: any case, unknown ones ignored, ``null`` absent.

The bytes come from whoever may write to etcd, so their length and depth are bounded, and every complaint goes through
the caller's ``bad``, which knows what the bytes are and makes the error of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import TypeVar

import msgspec

MAX_BYTES = 64 * 1024
"""Longest object that is looked at. flannel's have under 1 KiB; etcd itself would take 1.5 MiB."""

T = TypeVar("T")
A = TypeVar("A", IPv4Address, IPv6Address)

Bad = Callable[[str, object, str], Exception]
"""Makes an error out of a member's name ("" for the whole object), its value, and the rule that it breaks."""


class Members:
    """The members of one JSON object, by lower-cased name."""

    def __init__(self, data: bytes | str, bad: Bad) -> None:
        """Decodes ``data``; raises ``bad`` unless it is a JSON object of reasonable size and depth."""
        if len(data) > MAX_BYTES:
            raise bad("", f"{len(data)} bytes", f"must not be longer than {MAX_BYTES} bytes")
        try:
            decoded = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise bad("", excerpt(data), f"must be valid JSON ({error})") from None
        if not isinstance(decoded, dict):
            raise bad("", excerpt(data), "must be a JSON object")
        self._bad = bad
        self._values = {name.lower(): value for name, value in decoded.items() if value is not None}

    def get(self, name: str, kind: type[T], default: T) -> T:
        """The member ``name``, which must be of JSON type ``kind``; ``default`` where it is not there.

        Go takes no number for a boolean nor the reverse; Python's bool is an int, so the types are compared exactly.
        """
        value = self._values.get(name.lower())
        if value is None:
            return default
        if type(value) is not kind:
            raise self._bad(name, value, f"must be {_JSON_NAME[kind]}")
        return value

    def address(self, name: str, kind: type[A]) -> A | None:
        """The member ``name`` as an address in a string; None where it is not there, or empty."""
        text = self.get(name, str, "")
        if not text:
            return None
        try:
            return kind(text)
        except ValueError:
            raise self._bad(name, text, f"must be an {'IPv4' if kind is IPv4Address else 'IPv6'} address") from None

    def object(self, name: str) -> Mapping[str, object] | None:
        """The member ``name`` as an object, its own names untouched; None where it is not there."""
        value: dict[str, object] | None = self._values.get(name.lower())
        if value is None:
            return None
        return MappingProxyType(self.get(name, dict, value))


_JSON_NAME: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    str: "a string",
    dict: "an object",
}


def excerpt(value: object, limit: int = 60) -> str:
    """``value`` for people: on one line, printable, and no longer than ``limit`` characters."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    shown = "".join(char if char.isprintable() else "·" for char in text[: limit + 1])
    return shown if len(text) <= limit else f"{shown[:limit]}…"
