"""What nft prints of our table (libnftables-json(5)), as facts. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from overlay.services.proxy.nftables.ledger import Found, Key
from overlay.services.proxy.nftables.rendering import MAPS, TABLE

Json = dict[str, Any]


def chains(text: str) -> frozenset[str]:
    """Names of our table's chains, of what ``nft -j list`` printed, the table or all chains."""
    return frozenset(each["name"] for _, each in _ours(text, "chain"))


def found(text: str) -> Found:
    """What is there, of what ``nft -j list table`` printed."""
    chain_names, set_names, elements = set[str](), set[str](), dict[Key, str]()
    for kind, each in _ours(text, "chain", "set", "map"):
        name = each["name"]
        if kind == "chain":
            chain_names.add(name)
        elif name not in MAPS:  # clients that are remembered
            set_names.add(name)
        else:
            elements.update(_elements(name, each.get("elem", [])))
    return Found(frozenset(chain_names), frozenset(set_names), elements)


def _ours(text: str, *kinds: str) -> Iterator[tuple[str, Json]]:
    for item in msgspec.json.decode(text)["nftables"]:
        for kind in kinds:
            if (each := item.get(kind)) is not None and each["table"] == TABLE:
                yield kind, each


def _elements(name: str, listed: list[Any]) -> Iterator[tuple[Key, str]]:
    for element in listed:
        key, value = element if isinstance(element, list) else (element, None)
        yield (name, _words(key)), "" if value is None else _value(value)


def _words(value: Any) -> str:
    parts = value["concat"] if isinstance(value, dict) and "concat" in value else [value]
    return " . ".join(map(str, parts))


def _value(value: Json) -> str:
    """A verdict or a backend."""
    if "goto" in value:
        return f"goto {value['goto']['target']}"
    return _words(value) if "concat" in value else next(iter(value))
