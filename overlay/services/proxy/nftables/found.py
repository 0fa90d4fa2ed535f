"""What is in our table, as the kernel has it, in the words of :mod:`~overlay.services.proxy.nftables.rendering`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from types import MappingProxyType

from overlay.linux import nf_tables
from overlay.linux.nf_tables import Value, Verdict
from overlay.services.proxy.nftables.ledger import Found, Key
from overlay.services.proxy.nftables.rendering import (
    BACKENDS,
    CLUSTER_IPS,
    FIREWALLED,
    HAIRPINS,
    MAPS,
    NODE_PORTS,
    REFUSED,
    REFUSED_NODE_PORTS,
    SERVICES,
    TABLE,
)

_ANONYMOUS = "__"
"""How the kernel's names for a rule's own ``{ … }`` begin."""

_PROTOCOLS = MappingProxyType({socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_SCTP: "sctp"})


def found() -> Found:
    """What is there. Raises NodeError."""
    chains = nf_tables.chains(TABLE)
    sets = frozenset(name for name in nf_tables.sets(TABLE) if not name.startswith(_ANONYMOUS))
    elements = {
        key: value for name in MAPS.keys() & sets for key, value in decoded(name, nf_tables.elements(TABLE, name))
    }
    return Found(chains, sets - MAPS.keys(), elements)


def chains() -> frozenset[str]:
    """Names of the table's chains. Raises NodeError."""
    return nf_tables.chains(TABLE)


def decoded(name: str, elements: Iterable[tuple[bytes, Value]]) -> Iterator[tuple[Key, str]]:
    """Elements of one of :data:`MAPS`. Pure; some 2 µs each, for there may be 60,000."""
    words = _KEYS[name]
    for key, value in elements:
        if isinstance(value, Verdict):
            said = f"goto {value.chain}" if value.code == nf_tables.GOTO else "drop"
        else:
            said = "" if value is None else _backend(value)
        yield (name, words(key)), said


def _address(key: bytes) -> str:
    return socket.inet_ntoa(key[:4])


def _pair(key: bytes) -> str:
    return f"{socket.inet_ntoa(key[:4])} . {socket.inet_ntoa(key[4:8])}"


def _port(key: bytes) -> str:
    return f"{_PROTOCOLS.get(key[0], key[0])} . {key[4] << 8 | key[5]}"


def _at(key: bytes) -> str:
    return f"{socket.inet_ntoa(key[:4])} . {_port(key[4:])}"


def _backend(value: bytes) -> str:
    return f"{socket.inet_ntoa(value[:4])} . {value[4] << 8 | value[5]}"


def _numbered(key: bytes) -> str:
    return f"{_backend(key)} . {int.from_bytes(key[8:12], 'little')}"


_KEYS: MappingProxyType[str, Callable[[bytes], str]] = MappingProxyType(
    {
        **dict.fromkeys((SERVICES, REFUSED, FIREWALLED), _at),
        **dict.fromkeys((NODE_PORTS, REFUSED_NODE_PORTS), _port),
        CLUSTER_IPS: _address,
        HAIRPINS: _pair,
        **dict.fromkeys(BACKENDS.values(), _numbered),
    }
)
"""A key of each in words: its parts stand one behind the other, each padded to four bytes."""
