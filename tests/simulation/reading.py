"""The checker's own reading of keys and values, shared with nothing that it checks."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from overlay.store.contract import Delete, KeyRange, KeyValue, Put
from tests.simulation.node import PREFIX

CONFIG = KeyRange(f"{PREFIX}/config", prefix=False)
SUBNETS = KeyRange(f"{PREFIX}/subnets/")


@dataclass(frozen=True)
class Owner:
    """Whom a key names; ``node`` None: nobody by id; ``address`` None: the value is garbage."""

    node: str | None
    address: IPv4Address | None


def owner_of(value: bytes) -> Owner:
    """Who a lease's value says has it."""
    try:
        members = json.loads(value)
        address = IPv4Address(str(members["PublicIP"]))
        return Owner(members.get("NodeID"), None if address.is_unspecified else address)
    except (ValueError, KeyError, AttributeError, TypeError):
        return Owner(None, None)


def asker_of(value: bytes) -> IPv4Address | None:
    """Who asks for the owner of a lease."""
    try:
        return IPv4Address(json.loads(value)["AskedBy"])
    except (ValueError, KeyError, TypeError):
        return None


def is_question(
    operation: Put | Delete, current: Mapping[str, KeyValue], asker: Collection[IPv4Address], applies: bool
) -> bool:
    """Whether a write leaves a lease as it is and only adds who asks for its owner, or would if it still applied."""
    if isinstance(operation, Delete):
        return False
    members = json.loads(operation.value)
    if asker_of(operation.value) not in asker:
        return False
    del members["AskedBy"]
    item = current.get(operation.key)
    if item is None or not applies:
        return True
    there = json.loads(item.value) if owner_of(item.value).address is not None else {}
    there.pop("AskedBy", None)
    return bool(there == members and item.lease_id == operation.lease_id) or item.value == operation.value


def subnet_of(key: str) -> IPv4Network | None:
    """The subnet that a key names, host bits or not."""
    try:
        base, _, length = key.rpartition("/")[2].partition("&")[0].partition("-")
        return IPv4Network((base, int(length)), strict=False)
    except ValueError:
        return None


@dataclass(frozen=True)
class PoolFacts:
    """What a config says of subnets: the first, the last, and how long their prefixes are."""

    first: IPv4Address
    last: IPv4Address
    length: int

    def has(self, subnet: IPv4Network) -> bool:
        """Whether ``subnet`` could be leased."""
        return subnet.prefixlen == self.length and self.first <= subnet.network_address <= self.last

    def subnets(self) -> list[IPv4Network]:
        """Every subnet that could be leased."""
        step = 1 << (32 - self.length)
        bases = range(int(self.first), int(self.last) + 1, step)
        return [IPv4Network((base, self.length)) for base in bases]

    @classmethod
    def read(cls, value: bytes) -> PoolFacts:
        """From a config that the simulation has written."""
        members = json.loads(value)
        return cls(IPv4Address(members["SubnetMin"]), IPv4Address(members["SubnetMax"]), members["SubnetLen"])
