"""Bytes to questions, and answers to bytes: the only user of dnspython in this package.

What is no question is told from what is one of a kind that is not answered: the first is dropped, or called malformed
(FORMERR), the second is refused by its code.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from overlay.services.dns.records import Answer, Question, Record

HEADER = struct.Struct("!HHHHHH")

UDP_PAYLOAD = 1232
"""Bytes of an answer by UDP at most, and what we say that we take: no path fragments it (DNS flag day 2020)."""
PLAIN_PAYLOAD = 512
"""Where the asker says nothing (RFC 1035 section 4.2.1)."""
TCP_PAYLOAD = 65535

_QR, _RD = 0x8000, 0x0100
_TC = 0x02  # in the third byte
_BADVERS = 16


@dataclass(frozen=True, slots=True)
class Query:
    """One question as it came.

    Attributes:
        name: in the asker's letters.
        limit: bytes that the answer may have.
        once: whether the same bytes are not to be expected again: it has EDNS options, such as a cookie.
        edns: whether it has an OPT record, so that the answer must have one.
        dnssec: the DO bit. checking_disabled: CD. authentic: AD: it would know whether the answer is validated.
    """

    id: int
    name: dns.name.Name
    type: dns.rdatatype.RdataType
    recursion: bool
    checking_disabled: bool
    authentic: bool
    edns: bool
    dnssec: bool
    limit: int
    once: bool

    @property
    def question(self) -> Question:
        """As the pure half takes it."""
        labels = tuple(label.decode("latin-1") for label in self.name.labels[:-1])
        return Question(labels, dns.rdatatype.to_text(self.type))

    @property
    def flags(self) -> int:
        """Those that an answer gives back."""
        return (dns.flags.RD if self.recursion else 0) | (dns.flags.CD if self.checking_disabled else 0)


@dataclass(slots=True)
class Reply:
    """An answer with dnspython's records.

    Attributes:
        code: dnspython's ``Rcode``, as a number.
    """

    code: int = 0
    authoritative: bool = False
    authentic: bool = False
    answer: list[dns.rrset.RRset] = field(default_factory=list)
    authority: list[dns.rrset.RRset] = field(default_factory=list)
    additional: list[dns.rrset.RRset] = field(default_factory=list)

    @property
    def several(self) -> bool:
        """Whether some name has several records."""
        return any(len(each) > 1 for each in self.answer)


def prepare() -> None:
    """Loads all that dnspython would load when it first meets a type: later no file can be opened."""
    dns.rdata.load_all_types()  # type: ignore[no-untyped-call]


def parse(data: bytes, *, tcp: bool = False) -> Query | bytes | None:
    """A question; or the bytes that answer what is none that we answer; or None for what deserves no answer."""
    if len(data) < HEADER.size:
        return None
    ident, flags, questions, *_ = HEADER.unpack_from(data)
    if flags & _QR:
        return None
    if dns.opcode.from_flags(flags) != dns.opcode.QUERY:
        return _bare(ident, flags, dns.rcode.NOTIMP)
    if questions != 1:
        return _bare(ident, flags, dns.rcode.FORMERR)
    try:
        message = dns.message.from_wire(data)
        (asked,) = message.question
    except (dns.exception.DNSException, ValueError, struct.error, IndexError):
        return _bare(ident, flags, dns.rcode.FORMERR)
    if message.answer or message.authority:
        return _bare(ident, flags, dns.rcode.FORMERR)
    payload = max(PLAIN_PAYLOAD, min(message.payload, UDP_PAYLOAD)) if message.edns >= 0 else PLAIN_PAYLOAD
    query = Query(
        ident,
        asked.name,
        asked.rdtype,
        recursion=bool(flags & _RD),
        checking_disabled=bool(flags & dns.flags.CD),
        authentic=bool(flags & dns.flags.AD),
        edns=message.edns >= 0,
        dnssec=bool(message.ednsflags & dns.flags.DO),
        limit=TCP_PAYLOAD if tcp else payload,
        once=tcp or bool(message.options),
    )
    if message.edns > 0:
        return encode(query, Reply(_BADVERS))
    if asked.rdclass != dns.rdataclass.IN or _is_refused(asked.rdtype):
        return encode(query, Reply(dns.rcode.REFUSED))
    return query


def _is_refused(kind: dns.rdatatype.RdataType) -> bool:
    """Whole zones, and what is no type of records."""
    return dns.rdatatype.is_metatype(kind) and kind != dns.rdatatype.ANY


def _bare(ident: int, flags: int, code: int) -> bytes:
    """A header alone."""
    return HEADER.pack(ident, _QR | flags & (0x7800 | _RD) | code, 0, 0, 0, 0)


def encode(query: Query, reply: Reply, rng: random.Random | None = None) -> bytes:
    """An answer's bytes; cut off with the bit TC where there is more than the asker takes.

    Args:
        rng: where given, records of one name and type are in an order of its choice.
    """
    message = dns.message.QueryMessage(id=query.id)
    message.flags = dns.flags.QR | dns.flags.RA | query.flags
    if reply.authoritative:
        message.flags |= dns.flags.AA
    if reply.authentic and (query.authentic or query.dnssec):
        message.flags |= dns.flags.AD
    message.question = [dns.rrset.RRset(query.name, dns.rdataclass.IN, query.type)]
    message.answer = [_shuffled(each, rng) for each in reply.answer] if rng is not None else reply.answer
    message.authority, message.additional = reply.authority, reply.additional
    if query.edns:
        message.use_edns(0, dns.flags.DO if query.dnssec else 0, UDP_PAYLOAD)
    message.set_rcode(dns.rcode.Rcode(reply.code if query.edns or reply.code < 16 else dns.rcode.SERVFAIL))
    encoded = message.to_wire(max_size=query.limit, prefer_truncation=True)
    return _cut(message, query.limit) if encoded[2] & _TC else encoded


def _cut(message: dns.message.QueryMessage, limit: int) -> bytes:
    """As many of the answer's records as there is room for: some resolvers never ask by TCP (musl before 1.2.4).

    dnspython leaves out all records of a name and type where one of them does not fit.
    """
    records = [dns.rrset.from_rdata(each.name, each.ttl, item) for each in message.answer for item in each]
    message.flags |= dns.flags.TC
    message.authority = message.additional = []
    fitting, too_many = 0, len(records) + 1
    while too_many - fitting > 1:
        message.answer = records[: (count := (fitting + too_many) // 2)]
        try:
            message.to_wire(max_size=limit)
        except dns.exception.TooBig:
            too_many = count
        else:
            fitting = count
    message.answer = records[:fitting]
    return message.to_wire(max_size=limit)


def _shuffled(records: dns.rrset.RRset, rng: random.Random) -> dns.rrset.RRset:
    if len(records) < 2:
        return records
    items = list(records)
    rng.shuffle(items)
    return dns.rrset.from_rdata_list(records.name, records.ttl, items)


def local(answer: Answer) -> Reply:
    """What is answered from here, as dnspython's records. Raises DNSException for names that are none."""
    return Reply(
        answer.code.value,
        authoritative=True,
        answer=_sets(answer.answer),
        authority=_sets(answer.authority),
        additional=_sets(answer.additional),
    )


def _sets(records: Sequence[Record]) -> list[dns.rrset.RRset]:
    grouped: dict[tuple[str, str, int], list[str]] = {}
    for each in records:
        grouped.setdefault((each.owner, each.type, each.ttl), []).append(each.data)
    return [
        dns.rrset.from_text_list(owner, ttl, "IN", kind, data) for (owner, kind, ttl), data in grouped.items()
    ]  # fmt: skip
