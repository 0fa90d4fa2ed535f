"""What nft prints of our table (libnftables-json(5)), as facts. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from overlay.services.proxy.nftables.ledger import Found, Key
from overlay.services.proxy.nftables.rendering import MAPS, TABLE

Json = dict[str, Any]


def chains(text: str) -> frozenset[str]:
    """Names of our table's chains, of what ``nft -j list chains ip`` printed."""
    return frozenset(each["name"] for each in _ours(text, "chain"))


def found(chain_list: str, set_list: str, map_lists: Iterable[str]) -> Found:
    """What is there.

    Args:
        chain_list, set_list: what ``nft -j list chains ip`` and ``list sets ip`` printed.
        map_lists: what each of :data:`MAPS` was listed as.
    """
    sets = frozenset(each["name"] for each in _ours(set_list, "set") if each["name"] not in MAPS)
    elements = {key: value for text in map_lists for key, value in _elements(text)}
    return Found(chains(chain_list), sets, elements)


def _ours(text: str, *kinds: str) -> Iterator[Json]:
    for item in json.loads(text)["nftables"]:
        for kind in kinds:
            if (each := item.get(kind)) is not None and each["table"] == TABLE:
                yield each


def _elements(text: str) -> Iterator[tuple[Key, str]]:
    for each in _ours(text, "set", "map"):
        for element in each.get("elem", []):
            key, value = element if isinstance(element, list) else (element, None)
            yield (each["name"], _words(key)), "" if value is None else _value(value)


def _words(value: Any) -> str:
    parts = value["concat"] if isinstance(value, dict) and "concat" in value else [value]
    return " . ".join(map(str, parts))


def _value(value: Json) -> str:
    """A verdict or a backend."""
    if "goto" in value:
        return f"goto {value['goto']['target']}"
    return _words(value) if "concat" in value else next(iter(value))
