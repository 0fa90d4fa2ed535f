"""Bytes to questions, and answers to bytes."""

from __future__ import annotations

import random
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.services.dns import answers
from overlay.services.dns.records import Answer, Record
from overlay.services.dns.worker import wire
from overlay.services.dns.worker.wire import Query, Reply
from tests.unit.services.dns import cases

NAME = "redis.default.svc.cluster.local."


def asked(name: str = NAME, kind: str = "A", *, tcp: bool = False, **more: Any) -> Query:
    query = wire.parse(dns.message.make_query(name, kind, **more).to_wire(), tcp=tcp)
    assert isinstance(query, Query)
    return query


def told(query: Query, reply: Reply) -> dns.message.Message:
    return dns.message.from_wire(wire.encode(query, reply))


def test_a_question_is_what_was_asked() -> None:
    query = asked("ReDis.Default.svc.cluster.local.", "SRV", want_dnssec=True, payload=4096)
    assert query.question.labels == ("ReDis", "Default", "svc", "cluster", "local")
    assert query.question.type == "SRV"
    assert query.dnssec
    assert query.limit == wire.UDP_PAYLOAD
    assert asked().limit == wire.PLAIN_PAYLOAD
    assert asked(tcp=True).limit == wire.TCP_PAYLOAD
    assert asked(payload=100, use_edns=0).limit == wire.PLAIN_PAYLOAD
    assert not asked(use_edns=0).once
    assert asked(use_edns=0, options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"a cookie")]).once


@pytest.mark.parametrize("cut", range(12))
def test_what_is_shorter_than_a_header_gets_no_answer(cut: int) -> None:
    assert wire.parse(dns.message.make_query(NAME, "A").to_wire()[:cut]) is None


def test_an_answer_gets_no_answer() -> None:
    """Else two servers could be made to talk to each other for ever."""
    query = dns.message.make_query(NAME, "A")
    assert wire.parse(dns.message.make_response(query).to_wire()) is None


def _two_questions() -> bytes:
    data = bytearray(dns.message.make_query(NAME, "A").to_wire())
    data[5] = 2
    return bytes(data) + data[12:]


def _with_version(version: int) -> bytes:
    return dns.message.make_query(NAME, "A", use_edns=version).to_wire()


def _of_opcode(opcode: dns.opcode.Opcode) -> bytes:
    message = dns.message.make_query(NAME, "A")
    message.set_opcode(opcode)
    return message.to_wire()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (_two_questions(), dns.rcode.FORMERR),
        (dns.message.make_query(NAME, "A").to_wire()[:-1], dns.rcode.FORMERR),
        (dns.message.make_query(NAME, "A").to_wire() + b"x", dns.rcode.FORMERR),
        (dns.message.make_query(NAME, "A", rdclass="CH").to_wire(), dns.rcode.REFUSED),
        (dns.message.make_query(NAME, "A", rdclass="ANY").to_wire(), dns.rcode.REFUSED),
        (dns.message.make_query(NAME, "AXFR").to_wire(), dns.rcode.REFUSED),
        (dns.message.make_query(NAME, "OPT").to_wire(), dns.rcode.REFUSED),
        (_of_opcode(dns.opcode.NOTIFY), dns.rcode.NOTIMP),
        (_of_opcode(dns.opcode.UPDATE), dns.rcode.NOTIMP),
        (_of_opcode(dns.opcode.STATUS), dns.rcode.NOTIMP),
        (_with_version(1), dns.rcode.BADVERS),
    ],
)
def test_what_is_no_question_of_ours_is_refused(data: bytes, code: dns.rcode.Rcode) -> None:
    answer = wire.parse(data)
    assert isinstance(answer, bytes)
    assert answer[:2] == data[:2]
    assert len(answer) <= len(data) + 11  # an OPT record at most: nothing to amplify
    assert dns.message.from_wire(answer).rcode() == code


@given(st.binary(max_size=300))
def test_whatever_comes_is_a_question_or_answered_or_passed_over(data: bytes) -> None:
    answer = wire.parse(data)
    if isinstance(answer, bytes):
        assert answer[:2] == data[:2]
        assert answer[2] & 0x80
        assert len(answer) <= len(data) + 11


@pytest.mark.parametrize("zone_case", list(cases.cases(cases.SERVICES)), ids=str)
def test_answers_go_over_the_wire_as_they_are(zone_case: cases.Case) -> None:
    zone = cases.zone()
    query = asked(zone_case.name, zone_case.type, use_edns=0)
    found = answers.answer(zone, query.question)
    assert found is not None
    message = told(query, wire.local(found))
    assert message.flags & dns.flags.AA
    assert message.flags & dns.flags.RA
    assert message.flags & dns.flags.RD
    assert message.rcode() == found.code.value
    sent = {(each.name.to_text(), each.rdtype, item.to_text()) for each in message.answer for item in each}
    assert {(name.lower(), kind.name, data) for name, kind, data in sent} == {
        (each.owner.lower(), each.type, each.data) for each in found.answer
    }


def many(count: int) -> Reply:
    return wire.local(Answer(answer=tuple(Record(NAME, 5, "A", f"10.0.{n >> 8}.{n & 255}") for n in range(count))))


@given(st.integers(1, 300), st.sampled_from([None, 512, 800, 1232, 4096]))
def test_nobody_gets_more_than_they_take(count: int, payload: int | None) -> None:
    more: dict[str, Any] = {} if payload is None else {"use_edns": 0, "payload": payload}
    query = asked(**more)
    encoded = wire.encode(query, many(count))
    assert len(encoded) <= min(payload or 512, 1232)
    message = dns.message.from_wire(encoded)
    found = sum(len(each) for each in message.answer)
    assert (found == count) != bool(message.flags & dns.flags.TC)
    assert found == count or len(encoded) + 16 > min(payload or 512, 1232)  # room for no more: not all ask by TCP
    assert len(dns.message.from_wire(wire.encode(asked(tcp=True), many(count))).answer[0]) == count


def test_what_is_cut_off_is_a_chain_in_its_order_and_what_fits_of_its_end() -> None:
    addresses = [Record("end.example.", 5, "A", f"10.0.0.{n}") for n in range(99)]
    chain = [Record(NAME, 5, "CNAME", "end.example."), *addresses]
    nothing = Record("example.", 5, "SOA", "ns.example. admin.example. 1 2 3 4 5")
    message = told(asked(), wire.local(Answer(answer=tuple(chain), authority=(nothing,))))
    assert message.flags & dns.flags.TC
    assert [each.rdtype.name for each in message.answer] == ["CNAME", "A"]
    assert len(message.answer[1]) > 20
    assert not message.authority


def test_several_records_come_in_another_order() -> None:
    orders = {wire.encode(asked(id=7), many(5), random.Random(seed)) for seed in range(50)}
    assert len(orders) > 10


def test_authentic_is_told_to_who_would_know() -> None:
    reply = Reply(authentic=True)
    assert not told(asked(), reply).flags & dns.flags.AD
    assert told(asked(want_dnssec=True), reply).flags & dns.flags.AD
    assert told(asked(flags=dns.flags.RD | dns.flags.AD), reply).flags & dns.flags.AD


def test_all_types_are_loaded_before_files_are_out_of_reach() -> None:
    wire.prepare()
    assert dns.rdatatype.from_text("SVCB") == 64
