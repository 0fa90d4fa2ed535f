"""What is answered before all is known, and after."""

from __future__ import annotations

import random

import dns.message
import dns.rcode
import pytest

from overlay.services.dns.worker import wire
from overlay.services.dns.worker.counts import Counts
from overlay.services.dns.worker.kept import Kept
from overlay.services.dns.worker.resolving import Resolver
from overlay.services.dns.worker.responder import Responder
from overlay.services.dns.worker.wire import Query
from tests.unit.services.dns import cases


def code_of(responder: Responder, name: str, kind: str) -> str:
    """Empty where others are asked."""
    raw = dns.message.make_query(name, kind).to_wire()
    query = wire.parse(raw)
    assert isinstance(query, Query)
    found = responder.at_once(query, raw)
    return "" if found is None else dns.message.from_wire(found).rcode().name


@pytest.mark.parametrize(
    ("name", "kind", "before", "after"),
    [
        ("svc1.testns.svc.cluster.local", "A", "SERVFAIL", "NOERROR"),
        ("gone.testns.svc.cluster.local", "A", "SERVFAIL", "NXDOMAIN"),
        ("100.1.168.192.in-addr.arpa", "PTR", "NOERROR", "NOERROR"),
        ("99.1.168.192.in-addr.arpa", "PTR", "SERVFAIL", "NXDOMAIN"),
        ("1.168.192.in-addr.arpa", "PTR", "SERVFAIL", "NOERROR"),
        ("www.example.com", "A", "", ""),
    ],
)
def test_nothing_is_said_not_to_exist_before_all_is_known(name: str, kind: str, before: str, after: str) -> None:
    zone, kept, counts = cases.zone(cases.REVERSE), Kept(), Counts()
    zone.reverse = cases.REVERSE_NETWORKS
    responder = Responder(zone, kept, Resolver(counts), counts, random.Random(1))
    assert code_of(responder, name, kind) == before
    responder.complete = True
    assert code_of(responder, name, kind) == after
