"""Fragmentation of one IPv4 packet (RFC 791, section 3.2; Linux ``ip_do_fragment``)."""

from __future__ import annotations

from collections.abc import Iterator

from overlay.packet import Bytes, ip

COPIED = 0x80
"""The bit of an option's type that says that it goes into every fragment."""
END, NO_OPERATION = 0, 1


def fragment(packet: Bytes, limit: int) -> Iterator[bytes]:
    """Divides ``packet``, valid and without don't-fragment, into packets of at most ``limit`` bytes (at least 68).

    A packet that is a fragment itself is divided further; one that fits comes out as it is.
    """
    header = ip.decode(packet)
    if header.total_length <= limit:
        yield bytes(packet[: header.total_length])
        return
    first_options = bytes(packet[ip.HEADER_LEN : header.header_length])
    payload = bytes(packet[header.header_length : header.total_length])
    start, at = header.fragment & ip.OFFSET_MASK, 0
    options = first_options
    while at < len(payload):
        room = (limit - ip.HEADER_LEN - len(options)) & ~7
        piece = payload[at : at + room]
        more = ip.MORE_FRAGMENTS if at + len(piece) < len(payload) else header.fragment & ip.MORE_FRAGMENTS
        yield _packet(header, options, piece, more | start + at // 8)
        at += len(piece)
        options = _copied(first_options)


def _packet(header: ip.Header, options: bytes, piece: bytes, fragment_field: int) -> bytes:
    length = ip.HEADER_LEN + len(options)
    fixed = header._replace(
        version_ihl=0x40 | length // 4, total_length=length + len(piece), fragment=fragment_field, checksum=0
    )
    return bytes(ip.with_checksum(bytearray(ip.encode(fixed)) + options, length) + piece)


def _copied(options: bytes) -> bytes:
    """The options that later fragments have as well, padded to a multiple of four; none from a malformed one on."""
    kept, at = bytearray(), 0
    while at < len(options) and options[at] != END:
        if options[at] == NO_OPERATION:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):
            break
        if options[at] & COPIED:
            kept += options[at : at + length]
        at += length
    return bytes(kept + bytes(-len(kept) % 4))
