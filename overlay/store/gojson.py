"""The members of a JSON object as Go's ``encoding/json`` finds them, for that is what a network's flannelds read.

* A name matches in any case; of several that match, each is decoded and the last one counts.
* ``null`` leaves a boolean, number or string as it was; it is no address, and unsets an optional one.
* A whole number is written as one: ``24.0`` is none.
* Unknown members are passed over, whatever they hold; bytes that are not UTF-8 become U+FFFD.

The bytes come from whoever may write to etcd, so their length and depth are bounded, and every complaint goes through
the caller's ``bad``, which knows what the bytes are and makes the error of them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import NoReturn, Self, TypeVar

from overlay.text import excerpt

MAX_BYTES = 64 * 1024
"""Longest object that is looked at. flannel's have under 1 KiB; etcd itself would take 1.5 MiB."""

MAX_DEPTH = 100
"""Deepest nesting that is looked at. flannel's have 2; Go would take 10,000 levels, and Python's stack not 1,000."""

T = TypeVar("T")
A = TypeVar("A", IPv4Address, IPv6Address)

Bad = Callable[[str, object, str], Exception]
"""Makes an error out of a member's name ("" for the whole object), its value, and the rule that it breaks."""

Pairs = tuple[tuple[str, object], ...]
"""A JSON object as it is decoded: its members in order, names that come twice too. A JSON array is a list."""


class Members:
    """The members of one JSON object, by name in any case."""

    def __init__(self, pairs: Pairs, bad: Bad) -> None:
        self._bad = bad
        self._values: dict[str, list[object]] = {}
        for name, value in pairs:
            self._values.setdefault(_fold(name), []).append(value)

    @classmethod
    def of(cls, data: bytes | str, bad: Bad) -> Self:
        """Decodes ``data``; raises ``bad`` unless it is a JSON object of reasonable size and depth."""
        if len(data) > MAX_BYTES:
            raise bad("", f"{len(data)} bytes", f"must not be longer than {MAX_BYTES} bytes")
        text = data if isinstance(data, str) else data.decode("utf-8", "replace")
        if _depth(text) > MAX_DEPTH:
            raise bad("", excerpt(text), f"must not be nested deeper than {MAX_DEPTH} levels")
        try:
            decoded: object = _DECODER.decode(text)
        except ValueError as error:
            raise bad("", excerpt(text), f"must be valid JSON ({error})") from None
        if not isinstance(decoded, tuple):
            raise bad("", excerpt(text), "must be a JSON object")
        return cls(decoded, bad)

    def get(self, name: str, kind: type[T], default: T) -> T:
        """The member ``name``, which must be of JSON type ``kind``; ``default`` where it is not there.

        Go takes no number for a boolean nor the reverse; Python's bool is an int, so the types are compared exactly.
        """
        found = default
        for value in self._all(name):
            if value is None:
                continue
            if type(value) is not kind:
                raise self._bad(name, _shown(value), f"must be {_JSON_NAME[kind]}")
            found = value
        return _without_surrogates(found) if isinstance(found, str) else found  # type: ignore[return-value]

    def count(self, name: str) -> int:
        """The member ``name`` as a whole number of 0 or more (Go: ``uint``); 0 where it is not there."""
        number = self.get(name, int, 0)
        if number < 0:
            raise self._bad(name, number, "must be a whole number, 0 or more")
        return number

    def address(self, name: str, kind: type[A], *, optional: bool = False) -> A | None:
        """The member ``name`` as an address in a string; None where it is not there, or ``optional`` and null."""
        return self.parsed(name, f"an {_FAMILY[kind]} address", lambda text: _address(text, kind), optional=optional)

    def parsed(self, name: str, what: str, parse: Callable[[str], T], *, optional: bool = False) -> T | None:
        """The member ``name``, a string that ``parse`` takes or raises ValueError for; None where it is not there."""
        found = None
        for value in self._all(name):
            if optional and value is None:
                found = None
                continue
            if not isinstance(value, str):
                raise self._bad(name, "null" if value is None else value, f"must be {what} in a string")
            try:
                found = parse(value)
            except ValueError:
                raise self._bad(name, value, f"must be {what}") from None
        return found

    def nested(self, name: str) -> Members | None:
        """The member ``name`` as an object of its own; None where it is not there. ``null`` is one without members."""
        values = self._all(name)
        if not values:
            return None
        last = () if values[-1] is None else values[-1]
        if not isinstance(last, tuple):
            raise self._bad(name, last, "must be an object")
        return Members(last, lambda member, value, rule: self._bad(f"{name}.{member}", value, rule))

    def any(self, name: str) -> object:
        """The member ``name``, whatever it is; None where it is not there."""
        values = self._all(name)
        return _plain(values[-1]) if values else None

    def items(self) -> Iterator[tuple[str, object]]:
        """Every member that is not null, by its lower-cased name."""
        for name, values in self._values.items():
            given = [value for value in values if value is not None]
            if given:
                yield name, _plain(given[-1])

    def _all(self, name: str) -> list[object]:
        return self._values.get(_fold(name), [])


# --- decoding -------------------------------------------------------------------------------------------------------


def _integer(text: str) -> int | float:
    """What is too long for Go's 64 bits is no whole number here either, and Python need not compute it."""
    return int(text) if len(text) <= 20 else _number(text)


def _number(text: str) -> float:
    """The nearest number that can be written as JSON again."""
    return min(max(float(text), -sys.float_info.max), sys.float_info.max)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=tuple, parse_int=_integer, parse_float=_number, parse_constant=_refuse)

_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[][{}]', re.DOTALL)


def _depth(text: str) -> int:
    """How deep arrays and objects are nested, or an upper bound where that is harmless; counted without recursion."""
    bound = text.count("[") + text.count("{")
    if bound <= MAX_DEPTH:
        return bound
    depth = deepest = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        token = match.group()
        if token in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in "]}":
            depth -= 1
    return deepest


def _fold(name: str) -> str:
    """Names that Go takes for one (``foldName`` in encoding/json): in any case, the long s too."""
    return name.lower().replace("\N{LATIN SMALL LETTER LONG S}", "s")


def _without_surrogates(text: str) -> str:
    """Half of a surrogate pair, escaped in JSON, is U+FFFD to Go; in Python it would be text that nobody can encode."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _plain(value: object) -> object:
    """A decoded value with its objects as dictionaries."""
    if isinstance(value, tuple):
        return {_without_surrogates(name): _plain(member) for name, member in value}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    return _without_surrogates(value) if isinstance(value, str) else value


def _address(text: str, kind: type[A]) -> A:
    """As Go's ``net.ParseIP``: an IPv4 address may be written as a mapped IPv6 one, and the reverse; no zones."""
    if "%" in text:
        raise ValueError("zone")
    if kind is IPv4Address and ":" in text:
        mapped = IPv6Address(text).ipv4_mapped
        if mapped is None:
            raise ValueError("not mapped")
        return mapped
    if kind is IPv6Address and ":" not in text:
        text = f"::ffff:{IPv4Address(text)}"
    return kind(text)


_FAMILY: Mapping[type, str] = {IPv4Address: "IPv4", IPv6Address: "IPv6"}


def _shown(value: object) -> str:
    """A value of the wrong type as it stands in the JSON: ``"24"`` is not ``24``."""
    if isinstance(value, tuple):
        return "an object"
    return "an array" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)


_JSON_NAME: Mapping[type, str] = {bool: "true or false", int: "a whole number", str: "a string"}
