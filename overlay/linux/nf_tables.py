"""Of nftables what is asked of the kernel itself (``linux/netfilter/nf_tables.h``): names and elements of a table, and
whether anything has changed.

nft reads the same, and takes seconds for tens of thousands of elements, which it types and prints, and some
milliseconds for nothing at all. Everything else about nftables is nft's (:mod:`overlay.linux.netfilter`).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from overlay.errors import NodeError

_NETFILTER, _NFTABLES, _IPV4 = 12, 10 << 8, 2
_GET_CHAIN, _GET_SET, _GET_ELEMENTS, _GET_GENERATION = 4, 10, 13, 16
_REQUEST, _ACKNOWLEDGE, _DUMP, _INTERRUPTED = 0x1, 0x4, 0x300, 0x10
_ERROR, _DONE = 2, 3

_TABLE, _CHAIN_NAME, _SET_NAME, _ELEMENTS = 1, 3, 2, 3
"""``NFTA_CHAIN_TABLE`` (and ``_SET_``, ``_SET_ELEM_LIST_``), ``NFTA_CHAIN_NAME``, ``NFTA_SET_NAME`` (also of a list of
elements), ``NFTA_SET_ELEM_LIST_ELEMENTS``."""
_GENERATION = 1
"""``NFTA_GEN_ID``."""
_KEY, _DATA, _VERDICT, _CODE, _CHAIN = 1, 2, 2, 1, 2
"""``NFTA_SET_ELEM_KEY`` and ``_DATA``, ``NFTA_DATA_VERDICT``, ``NFTA_VERDICT_CODE`` and ``_CHAIN``."""

_HEADER = struct.Struct("=IHHII")
_GENERAL = struct.Struct(">BBH")
"""``struct nfgenmsg``: family, version, id."""
_ATTRIBUTE = struct.Struct("=HH")
_TYPE = 0x3FFF
"""``NLA_TYPE_MASK``."""

_ATTEMPTS = 20
"""Somebody may change a table while it is read; the kernel says so, and what was read counts for nothing."""

GOTO, DROP = -4, 0
"""``NFT_GOTO``, ``NF_DROP``."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a map of verdicts says: a code, and the chain that it names; empty for none."""

    code: int
    chain: str = ""


Value: TypeAlias = bytes | Verdict | None
"""What an element leads to; None in a set."""


def generation() -> int:
    """Another number after each change of any rule in nftables, iptables' there too, in this network namespace.

    Packets, which count in rules and put themselves into sets, change none. Raises NodeError.
    """
    try:
        (_, answer), *_ = _ask(_GET_GENERATION, b"", _ACKNOWLEDGE)
        return int.from_bytes(dict(_attributes(answer))[_GENERATION], "big")
    except (OSError, ValueError, KeyError) as error:
        raise NodeError(f"does not tell whether it has changed: {error}", about="nftables") from error


def chains(table: str) -> frozenset[str]:
    """Names of the chains of a table ``ip TABLE``; none where there is no such table. Raises NodeError."""
    return frozenset(_names(_GET_CHAIN, table, _CHAIN_NAME))


def sets(table: str) -> frozenset[str]:
    """Names of its sets and maps, also those that a rule's own ``{ … }`` makes. Raises NodeError."""
    return frozenset(_names(_GET_SET, table, _SET_NAME))


def elements(table: str, name: str) -> Iterator[tuple[bytes, Value]]:
    """The elements of one set or map: keys as the kernel has them, each part padded to four bytes. Raises NodeError."""
    verdicts: dict[bytes, Verdict] = {}
    for message in _dump(_GET_ELEMENTS, _string(_TABLE, table) + _string(_SET_NAME, name)):
        for kind, listed in _attributes(message):
            if kind == _ELEMENTS:
                yield from _elements(bytes(listed), verdicts)


def _names(message: int, table: str, attribute: int) -> Iterator[str]:
    for body in _dump(message, _string(_TABLE, table)):
        found = dict(_attributes(body))
        if _text(found[_TABLE]) == table:  # older kernels do not choose
            yield _text(found[attribute])


def _elements(listed: bytes, verdicts: dict[bytes, Verdict]) -> Iterator[tuple[bytes, Value]]:
    """Of a list; by offsets, for there are tens of thousands, and with one verdict for all that say the same."""
    at, attribute, head = 0, _ATTRIBUTE.unpack_from, _ATTRIBUTE.size
    while at < len(listed):
        end = at + attribute(listed, at)[0]
        key: bytes = b""
        value: Value = None
        inner = at + head
        while inner < end:
            length, kind = attribute(listed, inner)
            if kind & _TYPE == _KEY:  # with NFTA_DATA_VALUE, and nothing else, in it
                key = listed[inner + 2 * head : inner + length]
            elif kind & _TYPE == _DATA:
                size, which = attribute(listed, inner + head)
                said = listed[inner + 2 * head : inner + head + size]
                value = said
                if which & _TYPE == _VERDICT:
                    value = verdicts.get(said) or verdicts.setdefault(said, _verdict(said))
            inner += (length + 3) & ~3
        yield key, value
        at = (end + 3) & ~3


def _verdict(said: bytes) -> Verdict:
    found = dict(_attributes(memoryview(said)))
    code = int.from_bytes(found[_CODE], "big", signed=True)
    return Verdict(code, _text(found[_CHAIN]) if _CHAIN in found else "")


def _dump(message: int, asked: bytes) -> list[memoryview]:
    """Attributes of every message of one consistent answer; none where there is nothing of that name."""
    for _ in range(_ATTEMPTS):
        try:
            answers = list(_ask(message, asked, _DUMP))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return []
            raise NodeError(f"cannot be read: {os.strerror(error.errno or 0)}", about="nftables") from error
        if not any(interrupted for interrupted, _ in answers):
            return [body for _, body in answers]
    raise NodeError("changes all the time", about="nftables", remedy="it is tried again")


def _ask(message: int, asked: bytes, how: int) -> Iterator[tuple[bool, memoryview]]:
    body = _GENERAL.pack(_IPV4, 0, 0) + asked
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as netlink:
        netlink.send(_HEADER.pack(_HEADER.size + len(body), _NFTABLES | message, _REQUEST | how, 1, 0) + body)
        while True:
            data = memoryview(netlink.recv(1 << 18))
            while data:
                length, answered, flags, _, _ = _HEADER.unpack_from(data)
                payload, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
                if answered in (_ERROR, _DONE):
                    (code,) = struct.unpack_from("=i", payload) if len(payload) >= 4 else (0,)
                    if code < 0:
                        raise OSError(-code, os.strerror(-code))
                    if flags & _INTERRUPTED:
                        yield True, payload[:0]
                    return
                yield bool(flags & _INTERRUPTED), payload[_GENERAL.size :]


def _attributes(body: memoryview) -> Iterator[tuple[int, memoryview]]:
    while len(body) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(body)
        yield kind & _TYPE, body[_ATTRIBUTE.size : length]
        body = body[(length + 3) & ~3 :]


def _string(kind: int, text: str) -> bytes:
    data = text.encode() + b"\0"
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def _text(data: memoryview) -> str:
    return bytes(data).rstrip(b"\0").decode()
